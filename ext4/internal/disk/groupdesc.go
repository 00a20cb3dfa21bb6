package disk

import "encoding/binary"

const (
	// GroupDescSizeMin is the size of a descriptor without the 64bit feature.
	GroupDescSizeMin = 32
	// GroupDescSize64 is the size from which the high halves exist.
	GroupDescSize64 = 64
)

// Bits of GroupDesc.Flags.
const (
	GroupInodeUninit = 0x1 // inode table and bitmap are not initialised
	GroupBlockUninit = 0x2 // block bitmap is not initialised
	GroupZeroed      = 0x4 // inode table is zeroed
)

// GroupDesc describes one block group.
type GroupDesc struct {
	BlockBitmap     uint64 // 0x00, 0x20
	InodeBitmap     uint64 // 0x04, 0x24
	InodeTable      uint64 // 0x08, 0x28
	FreeBlocks      uint32 // 0x0C, 0x2C; in clusters with bigalloc
	FreeInodes      uint32 // 0x0E, 0x2E
	UsedDirs        uint32 // 0x10, 0x30
	Flags           uint16 // 0x12
	BlockBitmapCsum uint32 // 0x18, 0x38
	InodeBitmapCsum uint32 // 0x1A, 0x3A
	ItableUnused    uint32 // 0x1C, 0x32
	Checksum        uint16 // 0x1E
}

// DecodeGroupDesc reads a descriptor from b, whose length is the filesystem's
// descriptor size: 32, or at least 64.
func DecodeGroupDesc(b []byte) (d GroupDesc) {
	_ = b[GroupDescSizeMin-1]
	le := binary.LittleEndian
	lo16 := func(off int) uint32 { return uint32(le.Uint16(b[off:])) }
	d.BlockBitmap = uint64(le.Uint32(b[0x00:]))
	d.InodeBitmap = uint64(le.Uint32(b[0x04:]))
	d.InodeTable = uint64(le.Uint32(b[0x08:]))
	d.FreeBlocks = lo16(0x0C)
	d.FreeInodes = lo16(0x0E)
	d.UsedDirs = lo16(0x10)
	d.Flags = le.Uint16(b[0x12:])
	d.BlockBitmapCsum = lo16(0x18)
	d.InodeBitmapCsum = lo16(0x1A)
	d.ItableUnused = lo16(0x1C)
	d.Checksum = le.Uint16(b[0x1E:])
	if len(b) >= GroupDescSize64 {
		d.BlockBitmap |= uint64(le.Uint32(b[0x20:])) << 32
		d.InodeBitmap |= uint64(le.Uint32(b[0x24:])) << 32
		d.InodeTable |= uint64(le.Uint32(b[0x28:])) << 32
		d.FreeBlocks |= lo16(0x2C) << 16
		d.FreeInodes |= lo16(0x2E) << 16
		d.UsedDirs |= lo16(0x30) << 16
		d.ItableUnused |= lo16(0x32) << 16
		d.BlockBitmapCsum |= lo16(0x38) << 16
		d.InodeBitmapCsum |= lo16(0x3A) << 16
	}
	return d
}

// Check verifies that the three structures of a group lie inside the
// filesystem, and, unless flexBG lets them wander, inside the group.
func (d *GroupDesc) Check(g *Geometry, group uint32, flexBG bool) error {
	lo, hi := g.GroupFirstBlock(group), g.BlocksCount
	if flexBG {
		lo = uint64(g.FirstDataBlock)
	} else {
		hi = lo + uint64(g.GroupBlocks(group))
	}
	super := uint64(g.FirstDataBlock) // holds the superblock; rules out descriptors of zeros
	in := func(start, n uint64) bool { return start >= lo && start != super && start < hi && n <= hi-start }
	switch {
	case !in(d.BlockBitmap, 1):
		return groupCorruptf(group, "block bitmap at block %d lies outside", d.BlockBitmap)
	case !in(d.InodeBitmap, 1):
		return groupCorruptf(group, "inode bitmap at block %d lies outside", d.InodeBitmap)
	case !in(d.InodeTable, uint64(g.InodeTableBlocks)):
		return groupCorruptf(group, "inode table at block %d lies outside", d.InodeTable)
	case d.ItableUnused > g.InodesPerGroup:
		return groupCorruptf(group, "%d unused inodes are more than a group has", d.ItableUnused)
	}
	return nil
}
