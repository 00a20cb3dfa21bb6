package disk

import "encoding/binary"

const (
	// OrphanMagic ends every block of the orphan file.
	OrphanMagic = 0x0B10CA04
	// orphanTailSize is the length of that tail: magic and checksum.
	orphanTailSize = 8
	// OrphanFileMaxBlocks is the largest orphan file that the kernel accepts.
	OrphanFileMaxBlocks = 512
)

// OrphanSlots is the number of inode numbers in a block of the orphan file.
func OrphanSlots(blockSize int) int { return (blockSize - orphanTailSize) / 4 }

// OrphanSlot is the inode number in slot i of a block, 0 for a free slot.
func OrphanSlot(b []byte, i int) uint32 { return binary.LittleEndian.Uint32(b[4*i:]) }

// SetOrphanSlot stores an inode number, or 0, in slot i of a block.
func SetOrphanSlot(b []byte, i int, ino uint32) { binary.LittleEndian.PutUint32(b[4*i:], ino) }

// FreeOrphanSlot is the first free slot of a block, or -1.
func FreeOrphanSlot(b []byte) int {
	for i := range OrphanSlots(len(b)) {
		if OrphanSlot(b, i) == 0 {
			return i
		}
	}
	return -1
}

// SealOrphanBlock stores magic and, with c.Metadata, checksum of the block of
// the orphan file at device block blk; see [CheckOrphanBlock].
func SealOrphanBlock(c *Checksums, seed uint32, blk uint64, b []byte) {
	tail := b[len(b)-orphanTailSize:]
	binary.LittleEndian.PutUint32(tail, OrphanMagic)
	if c.Metadata {
		binary.LittleEndian.PutUint32(tail[4:], orphanChecksum(seed, blk, b))
	}
}

func orphanChecksum(seed uint32, blk uint64, b []byte) uint32 {
	return CRC32C(CRC32CUint64(seed, blk), b[:4*OrphanSlots(len(b))])
}

// CheckOrphanBlock verifies magic and, with c.Metadata, checksum of the block
// of the orphan file at device block blk. seed is that of the orphan file's
// inode.
func CheckOrphanBlock(c *Checksums, seed uint32, blk uint64, b []byte) error {
	tail := b[len(b)-orphanTailSize:]
	if magic := binary.LittleEndian.Uint32(tail); magic != OrphanMagic {
		return Corruptf("orphan file "+BlockName(blk), "magic number is %#x", magic)
	}
	if !c.Metadata {
		return nil
	}
	sum := orphanChecksum(seed, blk, b)
	if stored := binary.LittleEndian.Uint32(tail[4:]); stored != sum {
		return Corruptf("orphan file "+BlockName(blk), "checksum is %#x instead of %#x", stored, sum)
	}
	return nil
}
