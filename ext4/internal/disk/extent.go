package disk

import "encoding/binary"

const (
	// ExtentMagic is the value of ExtentHeader.Magic.
	ExtentMagic = 0xF30A
	// ExtentHeaderSize is the length of the header of an extent tree node.
	ExtentHeaderSize = 12
	// ExtentEntrySize is the length of a leaf or index entry.
	ExtentEntrySize = 12
	// ExtentMaxDepth is the deepest tree that the format allows.
	ExtentMaxDepth = 5
	// ExtentMaxLen is the longest written extent, in blocks; longer lengths
	// mark unwritten extents.
	ExtentMaxLen = 1 << 15
)

// ExtentHeader starts every node of an extent tree.
type ExtentHeader struct {
	Magic      uint16 // 0x0
	Entries    uint16 // 0x2
	Max        uint16 // 0x4; capacity of the node
	Depth      uint16 // 0x6; 0 is a leaf
	Generation uint32 // 0x8
}

// DecodeExtentHeader reads a header from the first ExtentHeaderSize bytes of b.
func DecodeExtentHeader(b []byte) ExtentHeader {
	_ = b[ExtentHeaderSize-1]
	le := binary.LittleEndian
	return ExtentHeader{
		Magic:      le.Uint16(b[0:]),
		Entries:    le.Uint16(b[2:]),
		Max:        le.Uint16(b[4:]),
		Depth:      le.Uint16(b[6:]),
		Generation: le.Uint32(b[8:]),
	}
}

// Extent is a leaf entry: a run of file blocks on the device.
type Extent struct {
	Block     uint32 // 0x0; first file block
	Len       uint32 // 0x4; blocks; stored + 32768 when unwritten
	Unwritten bool
	Start     uint64 // 0x8, 0x6; first device block
}

// End is the file block after the extent, which may be 2^32.
func (e *Extent) End() uint64 { return uint64(e.Block) + uint64(e.Len) }

// DecodeExtent reads a leaf entry from the first ExtentEntrySize bytes of b.
func DecodeExtent(b []byte) (e Extent) {
	_ = b[ExtentEntrySize-1]
	le := binary.LittleEndian
	e.Block = le.Uint32(b[0:])
	e.Len = uint32(le.Uint16(b[4:]))
	if e.Len > ExtentMaxLen {
		e.Len -= ExtentMaxLen
		e.Unwritten = true
	}
	e.Start = uint64(le.Uint32(b[8:])) | uint64(le.Uint16(b[6:]))<<32
	return e
}

// ExtentIndex is an inner entry: the node for file blocks from Block on.
type ExtentIndex struct {
	Block uint32 // 0x0
	Leaf  uint64 // 0x4, 0x8; device block of the node below
}

// DecodeExtentIndex reads an inner entry from the first ExtentEntrySize bytes
// of b.
func DecodeExtentIndex(b []byte) ExtentIndex {
	_ = b[ExtentEntrySize-1]
	le := binary.LittleEndian
	return ExtentIndex{
		Block: le.Uint32(b[0:]),
		Leaf:  uint64(le.Uint32(b[4:])) | uint64(le.Uint16(b[8:]))<<32,
	}
}

// CheckExtentNode verifies the structure of a whole node: header, capacity,
// depth, order and, for a leaf, that extents neither overlap nor leave the
// device. node is the 60 bytes in an inode or a whole block. ok tells whether a
// run of device blocks may belong to a file.
func CheckExtentNode(what string, node []byte, depth int, ok func(start, n uint64) bool) error {
	h := DecodeExtentHeader(node)
	capacity := (len(node) - ExtentHeaderSize) / ExtentEntrySize
	switch {
	case h.Magic != ExtentMagic:
		return Corruptf(what, "extent header magic is %#x", h.Magic)
	case int(h.Depth) != depth:
		return Corruptf(what, "extent node of depth %d where %d belongs", h.Depth, depth)
	case h.Max == 0 || int(h.Max) > capacity:
		return Corruptf(what, "extent node claims room for %d entries, it has %d", h.Max, capacity)
	case h.Entries > h.Max:
		return Corruptf(what, "extent node claims %d entries of %d", h.Entries, h.Max)
	case h.Entries == 0 && depth > 0:
		return Corruptf(what, "inner extent node is empty")
	}
	next := uint64(0) // lowest file block that the coming entry may start at
	for i := range int(h.Entries) {
		b := node[ExtentHeaderSize+i*ExtentEntrySize:]
		if depth > 0 {
			x := DecodeExtentIndex(b)
			if uint64(x.Block) < next {
				return Corruptf(what, "extent index %d is out of order", i)
			}
			if !ok(x.Leaf, 1) {
				return Corruptf(what, "extent index %d points to block %d, which cannot be a node", i, x.Leaf)
			}
			next = uint64(x.Block) + 1
			continue
		}
		e := DecodeExtent(b)
		switch {
		case e.Len == 0:
			return Corruptf(what, "extent %d is empty", i)
		case uint64(e.Block) < next:
			return Corruptf(what, "extent %d overlaps the one before it", i)
		case e.End() > 1<<32:
			return Corruptf(what, "extent %d ends beyond the largest file", i)
		case !ok(e.Start, uint64(e.Len)):
			return Corruptf(what, "extent %d covers blocks %d+%d, which are not for data", i, e.Start, e.Len)
		}
		next = e.End()
	}
	return nil
}

// ExtentBlockChecksum returns the stored and the computed checksum of a node
// block; ok is false when the header leaves no room for one. seed is the
// inode's.
func ExtentBlockChecksum(seed uint32, b []byte) (stored, computed uint32, ok bool) {
	tail := ExtentHeaderSize + ExtentEntrySize*int(DecodeExtentHeader(b).Max)
	if tail+4 > len(b) {
		return 0, 0, false
	}
	return binary.LittleEndian.Uint32(b[tail:]), CRC32C(seed, b[:tail]), true
}
