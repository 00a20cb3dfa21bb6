package xattr

import (
	"bytes"
	"encoding/binary"

	"ext4box/ext4/internal/disk"
)

// MaxValue is the longest attribute value that the format allows, in bytes.
const MaxValue = 1 << 24

// Area is a checked list of attributes. The zero Area is empty.
type Area struct {
	b     []byte
	first int // offset of the first entry
	base  int // what value offsets count from
}

// Attr is one attribute. Its slices alias the area.
type Attr struct {
	Index uint8  // the prefix, one of disk.XattrUser and following
	Name  []byte // without the prefix
	Value []byte // nil when Ino is set
	Ino   uint32 // the inode that holds the value, or 0
	Size  uint32 // length of the value
	Hash  uint32 // as stored; it must be right where Ino is set, see ValueHash
}

// Inode returns the attributes behind the fields of the raw inode. An inode
// without any gives an empty area.
func Inode(what string, raw []byte, extraIsize uint16) (Area, error) {
	if !InInode(raw, extraIsize) {
		return Area{}, nil
	}
	first := disk.InodeSizeOld + int(extraIsize) + disk.XattrIbodyHeaderSize
	return newArea(what, raw, first, first)
}

// InInode tells whether the raw inode has room for attributes and a list of them, which
// may be empty.
func InInode(raw []byte, extraIsize uint16) bool {
	start := disk.InodeSizeOld + int(extraIsize)
	return len(raw) > disk.InodeSizeOld && start+disk.XattrIbodyHeaderSize <= len(raw) &&
		binary.LittleEndian.Uint32(raw[start:]) == disk.XattrMagic
}

// Block returns the attributes in an attribute block, after checking its
// header. The checksum is the caller's to verify.
func Block(what string, b []byte) (Area, error) {
	h := disk.DecodeXattrHeader(b)
	switch {
	case h.Magic != disk.XattrMagic:
		return Area{}, disk.Corruptf(what, "attribute block magic is %#x", h.Magic)
	case h.Blocks != 1:
		return Area{}, disk.Corruptf(what, "attribute block claims to span %d blocks", h.Blocks)
	}
	return newArea(what, b, disk.XattrHeaderSize, 0)
}

// Trusted is Block for a block that has passed it before.
func Trusted(b []byte) Area { return Area{b: b, first: disk.XattrHeaderSize} }

func newArea(what string, b []byte, first, base int) (Area, error) {
	a := Area{b: b, first: first, base: base}
	end := first // of the entry list
	for off := first; ; {
		e, next, last, problem := disk.NextXattr(b, off)
		if problem == "" && bytes.IndexByte(e.Name, 0) >= 0 {
			problem = "attribute name contains a zero byte"
		}
		if problem != "" {
			return Area{}, disk.Corruptf(what, "%s", problem)
		}
		if last {
			end = off + 4
			break
		}
		off = next
	}
	// Values that overlap would be more, once they are copied, than what they are in.
	room := len(b) - end
	for off := first; ; {
		e, next, last, problem := disk.NextXattr(b, off)
		if last || problem != "" {
			return a, nil
		}
		if e.ValueSize > MaxValue {
			return Area{}, disk.Corruptf(what, "attribute value of %d bytes is too long", e.ValueSize)
		}
		if e.ValueIno == 0 && e.ValueSize > 0 {
			start := base + int(e.ValueOffs)
			if start < end || start > len(b) || int(e.ValueSize) > len(b)-start {
				return Area{}, disk.Corruptf(what, "attribute value at %d+%d leaves its area", e.ValueOffs, e.ValueSize)
			}
			if room -= int(e.ValueSize); room < 0 {
				return Area{}, disk.Corruptf(what, "attribute values overlap")
			}
		}
		off = next
	}
}

// Each calls fn for every attribute until fn returns false. A hostile image can
// give the area to something else as well, which may change it at any time: the
// attributes are then wrong, but nothing worse happens.
func (a Area) Each(fn func(Attr) bool) {
	if a.b == nil {
		return
	}
	for off := a.first; ; {
		e, next, last, problem := disk.NextXattr(a.b, off)
		if last || problem != "" {
			return
		}
		at := Attr{Index: e.NameIndex, Name: e.Name, Ino: e.ValueIno, Size: e.ValueSize, Hash: e.Hash}
		if e.ValueIno == 0 && e.ValueSize > 0 {
			start := a.base + int(e.ValueOffs)
			if start > len(a.b) || int(e.ValueSize) > len(a.b)-start {
				return
			}
			at.Value = a.b[start : start+int(e.ValueSize)]
		}
		if !fn(at) {
			return
		}
		off = next
	}
}

// All returns all attributes.
func (a Area) All() (all []Attr) {
	a.Each(func(at Attr) bool {
		all = append(all, at)
		return true
	})
	return all
}

// Find returns the attribute of that name.
func (a Area) Find(index uint8, name string) (found Attr, ok bool) {
	a.Each(func(at Attr) bool {
		if at.Index == index && string(at.Name) == name {
			found, ok = at, true
		}
		return !ok
	})
	return found, ok
}
