package journal

import (
	"encoding/binary"

	"ext4box/ext4/internal/disk"
)

var be = binary.BigEndian

// magicNumber begins each of the journal's own blocks.
const magicNumber = 0xC03B3998

// BlockType tells the journal's own blocks apart.
type BlockType uint32

// The block types.
const (
	DescriptorBlock BlockType = 1
	CommitBlock     BlockType = 2
	SuperblockV1    BlockType = 3
	SuperblockV2    BlockType = 4
	RevokeBlock     BlockType = 5
)

// Sizes of the records on disk, in bytes.
const (
	HeaderSize     = 12
	SuperblockSize = 1024
	CommitSize     = 60 // what is in use; the rest of the block is zero
	RevokeHeader   = 16
	BlockTailSize  = 4 // the checksum at the end of descriptor and revoke blocks
	uuidSize       = 16
)

// Flags of a descriptor block's tag.
const (
	TagEscape   = 1 << 0 // the logged block begins with the magic number
	TagSameUUID = 1 << 1 // no UUID follows the tag
	TagDeleted  = 1 << 2 // never written by any kernel
	TagLast     = 1 << 3 // the last tag of its block
)

// Header begins each of the journal's own blocks.
type Header struct {
	Magic    uint32    // 0x00
	Type     BlockType // 0x04
	Sequence uint32    // 0x08: the transaction's number
}

// Decode reads a header from the first [HeaderSize] bytes of b. ok is false
// where b is shorter or does not begin with the journal's magic number.
func (h *Header) Decode(b []byte) (ok bool) {
	if len(b) < HeaderSize {
		return false
	}
	h.Magic = be.Uint32(b[0x00:])
	h.Type = BlockType(be.Uint32(b[0x04:]))
	h.Sequence = be.Uint32(b[0x08:])
	return h.Magic == magicNumber
}

// Commit is the body of a commit block.
type Commit struct {
	ChecksumType uint8  // 0x0C: v1 only
	ChecksumSize uint8  // 0x0D: v1 only
	Checksum     uint32 // 0x10: h_chksum[0]
	Sec          uint64 // 0x30
	Nsec         uint32 // 0x38
}

// The checksum type and size of a commit block that has a v1 checksum.
const (
	commitCRC32     = 1
	commitCRC32Size = 4
)

const commitChecksumOff = 0x10

// Decode reads the body of the commit block b. ok is false where b is too short.
func (c *Commit) Decode(b []byte) (ok bool) {
	if len(b) < CommitSize {
		return false
	}
	c.ChecksumType = b[0x0C]
	c.ChecksumSize = b[0x0D]
	c.Checksum = be.Uint32(b[commitChecksumOff:])
	c.Sec = be.Uint64(b[0x30:])
	c.Nsec = be.Uint32(b[0x38:])
	return true
}

// Checksum is the way a journal is checksummed.
type Checksum uint8

// The checksum versions. V1 sums up whole transactions in their commit block;
// V2 and V3 checksum each of the journal's own blocks and, in its tag, each
// logged block; V2 keeps only half of the latter.
const (
	ChecksumNone Checksum = iota
	ChecksumV1
	ChecksumV2
	ChecksumV3
)

// layout is what the journal's features make of its blocks.
type layout struct {
	blockSize int
	wide      bool // 64-bit block numbers
	checksum  Checksum
	seed      uint32 // of V2 and V3: the CRC-32C of the journal's UUID
}

// perBlock says whether each of the journal's own blocks is checksummed.
func (l *layout) perBlock() bool { return l.checksum >= ChecksumV2 }

// tagSize is the distance of two tags that have no UUID between them.
func (l *layout) tagSize() int {
	size := 8
	if l.checksum == ChecksumV3 {
		return 16
	}
	if l.wide {
		size += 4
	}
	if l.checksum == ChecksumV2 {
		// The kernel's structure has room for the checksum without this, but
		// the first version of the format reserved it twice.
		size += 2
	}
	return size
}

// body is the part of a descriptor or revoke block in front of its checksum.
func (l *layout) body(b []byte) []byte {
	if l.perBlock() {
		return b[:len(b)-BlockTailSize]
	}
	return b
}

// Tag describes one logged block.
type Tag struct {
	Block    uint64 // block number on the filesystem's device
	Flags    uint16
	Checksum uint32 // V2: only the lower half
}

// tagReader walks over the tags of a descriptor block.
type tagReader struct {
	l    *layout
	body []byte
	off  int
	done bool
}

// tags starts at the first tag of the descriptor block b.
func (l *layout) tags(b []byte) tagReader {
	return tagReader{l: l, body: l.body(b), off: HeaderSize}
}

// next decodes one tag. It ends with the tag that says to be the last one, or
// with the block.
func (r *tagReader) next(t *Tag) bool {
	size := r.l.tagSize()
	if r.done || r.off+size > len(r.body) {
		return false
	}
	b := r.body[r.off:]
	t.Block = uint64(be.Uint32(b[0x0:]))
	t.Flags = be.Uint16(b[0x6:]) // V3 has 32 bits of flags at 0x4, with none in the upper half
	switch r.l.checksum {
	case ChecksumV3:
		t.Checksum = be.Uint32(b[0xC:])
	case ChecksumV2:
		t.Checksum = uint32(be.Uint16(b[0x4:]))
	default:
		t.Checksum = 0
	}
	if r.l.wide {
		t.Block |= uint64(be.Uint32(b[0x8:])) << 32
	}
	r.off += size
	if t.Flags&TagSameUUID == 0 {
		r.off += uuidSize
	}
	r.done = t.Flags&TagLast != 0
	return true
}

// countTags is the number of logged blocks behind the descriptor block b.
func (l *layout) countTags(b []byte) (n uint32) {
	var t Tag
	for r := l.tags(b); r.next(&t); {
		n++
	}
	return n
}

// revoked calls fn for each block number in the revoke block b.
func (l *layout) revoked(b []byte, fn func(block uint64)) error {
	body := l.body(b)
	used := int64(be.Uint32(b[HeaderSize:])) // r_count, in bytes, with the header
	if used > int64(len(body)) {
		return disk.Corruptf("journal", "a revoke block says that %d bytes of %d are in use", used, len(body))
	}
	if used < RevokeHeader {
		return nil
	}
	list := body[RevokeHeader:used]
	if l.wide {
		for ; len(list) >= 8; list = list[8:] {
			fn(be.Uint64(list))
		}
		return nil
	}
	for ; len(list) >= 4; list = list[4:] {
		fn(uint64(be.Uint32(list)))
	}
	return nil
}
