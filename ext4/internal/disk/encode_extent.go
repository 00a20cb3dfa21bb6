package disk

import "encoding/binary"

// ExtentMaxUnwritten is the longest unwritten extent, in blocks: the length
// that would follow stands for a written extent of ExtentMaxLen.
const ExtentMaxUnwritten = ExtentMaxLen - 1

// ExtentNodeCapacity is the number of entries for which a node of size bytes
// has room. A block of any size leaves at least 4 bytes for the checksum.
func ExtentNodeCapacity(size int) int { return (size - ExtentHeaderSize) / ExtentEntrySize }

// EncodeExtentHeader stores h in the first ExtentHeaderSize bytes of b.
func EncodeExtentHeader(b []byte, h *ExtentHeader) {
	_ = b[ExtentHeaderSize-1]
	le := binary.LittleEndian
	le.PutUint16(b[0:], h.Magic)
	le.PutUint16(b[2:], h.Entries)
	le.PutUint16(b[4:], h.Max)
	le.PutUint16(b[6:], h.Depth)
	le.PutUint32(b[8:], h.Generation)
}

// EncodeExtent stores e in the first ExtentEntrySize bytes of b. Its length must
// be at most ExtentMaxLen, or ExtentMaxUnwritten, and at least 1.
func EncodeExtent(b []byte, e *Extent) {
	_ = b[ExtentEntrySize-1]
	le := binary.LittleEndian
	n := e.Len
	if e.Unwritten {
		n += ExtentMaxLen
	}
	le.PutUint32(b[0:], e.Block)
	le.PutUint16(b[4:], uint16(n))
	le.PutUint16(b[6:], uint16(e.Start>>32))
	le.PutUint32(b[8:], uint32(e.Start))
}

// EncodeExtentIndex stores x in the first ExtentEntrySize bytes of b.
func EncodeExtentIndex(b []byte, x *ExtentIndex) {
	_ = b[ExtentEntrySize-1]
	le := binary.LittleEndian
	le.PutUint32(b[0:], x.Block)
	le.PutUint32(b[4:], uint32(x.Leaf))
	le.PutUint16(b[8:], uint16(x.Leaf>>32))
	le.PutUint16(b[10:], 0)
}

// SealExtentNode stores the checksum in b, a node that is a whole block, where
// the filesystem has them. seed is the inode's. A node whose header leaves no
// room for a checksum stays as it is.
func (c *Checksums) SealExtentNode(seed uint32, b []byte) {
	if !c.Metadata {
		return
	}
	if _, computed, ok := ExtentBlockChecksum(seed, b); ok {
		tail := ExtentHeaderSize + ExtentEntrySize*int(DecodeExtentHeader(b).Max)
		binary.LittleEndian.PutUint32(b[tail:], computed)
	}
}
