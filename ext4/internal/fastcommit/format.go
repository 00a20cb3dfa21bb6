package fastcommit

import (
	"encoding/binary"

	"ext4box/ext4/internal/disk"
)

var le = binary.LittleEndian

// TagType is the type of a tag.
type TagType uint16

// The tag types, with the kernel's numbers.
const (
	TagAddRange TagType = 1
	TagDelRange TagType = 2
	TagCreat    TagType = 3
	TagLink     TagType = 4
	TagUnlink   TagType = 5
	TagInode    TagType = 6
	TagPad      TagType = 7
	TagTail     TagType = 8
	TagHead     TagType = 9
)

// Sizes on disk, in bytes.
const (
	tagHeaderSize  = 4
	addRangeSize   = 16
	delRangeSize   = 12
	dentryHeader   = 8
	inodeHeader    = 4
	tailSize       = 8
	headSize       = 8
	maxNameLen     = 255
	minInodeSize   = 128
	tailSummedSize = 4 // what the checksum covers of a tail's value
)

// maxWritten is the length of the longest written extent; greater lengths mean
// that an extent is unwritten.
const maxWritten = 1 << 15

// tag is a tag of the area.
type tag struct {
	typ   TagType
	value []byte
	raw   []byte // header and value
}

// decodeTag reads the tag at the start of b, the rest of a block. ok is false
// where there is no well-formed tag.
func decodeTag(b []byte, inodeSize int) (t tag, ok bool) {
	if len(b) < tagHeaderSize {
		return tag{}, false
	}
	t.typ = TagType(le.Uint16(b[0:]))
	end := tagHeaderSize + int(le.Uint16(b[2:]))
	if end > len(b) {
		return tag{}, false
	}
	t.value, t.raw = b[tagHeaderSize:end], b[:end]
	return t, t.validLength(inodeSize)
}

func (t *tag) validLength(inodeSize int) bool {
	n := len(t.value)
	switch t.typ {
	case TagAddRange:
		return n == addRangeSize
	case TagDelRange:
		return n == delRangeSize
	case TagCreat, TagLink, TagUnlink:
		return n > dentryHeader && n <= dentryHeader+maxNameLen
	case TagInode:
		return n >= inodeHeader+minInodeSize && n <= inodeHeader+inodeSize
	case TagPad:
		return true
	case TagTail:
		return n >= tailSize // it extends to the end of the block
	case TagHead:
		return n == headSize
	}
	return false
}

// dentry is the value of CREAT, LINK and UNLINK.
type dentry struct {
	parent uint32 // 0x00
	ino    uint32 // 0x04
	name   []byte // 0x08
}

func decodeDentry(v []byte) dentry {
	return dentry{parent: le.Uint32(v[0x0:]), ino: le.Uint32(v[0x4:]), name: v[dentryHeader:]}
}

// decodeAddRange reads the value of ADD_RANGE: an inode number (0x00) and an
// extent as in an extent tree (0x04).
func decodeAddRange(v []byte) (ino uint32, r Range) {
	n := uint32(le.Uint16(v[0x8:]))
	r = Range{
		Start: le.Uint32(v[0x4:]),
		Len:   n,
		Block: uint64(le.Uint32(v[0xC:])) | uint64(le.Uint16(v[0xA:]))<<32,
		State: Written,
	}
	if n > maxWritten {
		r.Len, r.State = n-maxWritten, Unwritten
	}
	return le.Uint32(v[0x0:]), r
}

// decodeDelRange reads the value of DEL_RANGE.
func decodeDelRange(v []byte) (ino uint32, r Range) {
	return le.Uint32(v[0x0:]), Range{Start: le.Uint32(v[0x4:]), Len: le.Uint32(v[0x8:]), State: Removed}
}

// scan is the search for the last whole fast commit.
type scan struct {
	tid       uint32
	inodeSize int

	sum   uint32
	tags  int   // seen
	valid int   // up to and with the last good tail
	bytes int64 // of the tags seen
}

// block looks at a block of the area. more is false where the area ends, as far
// as it can be believed.
func (s *scan) block(b []byte) (more bool, err error) {
	for len(b) >= tagHeaderSize {
		t, ok := decodeTag(b, s.inodeSize)
		if !ok || s.tags == 0 && t.typ != TagHead {
			return false, nil
		}
		b = b[len(t.raw):]
		s.tags++
		s.bytes += int64(len(t.raw))
		switch t.typ {
		case TagHead:
			if le.Uint32(t.value[4:]) != s.tid {
				return false, nil
			}
			if features := le.Uint32(t.value[0:]); features != 0 {
				return false, unknownFeatures(features)
			}
		case TagTail:
			sum := disk.CRC32C(s.sum, t.raw[:tagHeaderSize+tailSummedSize])
			if le.Uint32(t.value[0:]) != s.tid || le.Uint32(t.value[4:]) != sum {
				return false, nil
			}
			s.valid, s.sum = s.tags, 0
			continue
		}
		s.sum = disk.CRC32C(s.sum, t.raw)
	}
	return true, nil
}
