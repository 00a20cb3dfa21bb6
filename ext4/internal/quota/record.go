package quota

import (
	"encoding/binary"
	"math"
)

const (
	recordSize = 72
	// limitUnit is the unit, in bytes, in which limits of space are stored.
	limitUnit = 1024
)

// Record is what is kept about an id. A limit of 0 is none. Exceeding a soft
// limit is allowed until a time, in seconds since 1970; 0 means that it is not
// exceeded.
type Record struct {
	ID        uint32 // 0x00
	InodeHard uint64 // 0x08
	InodeSoft uint64 // 0x10
	Inodes    uint64 // 0x18
	SpaceHard uint64 // 0x20; bytes, stored in KiB
	SpaceSoft uint64 // 0x28; bytes, stored in KiB
	Space     uint64 // 0x30; bytes
	SpaceTime uint64 // 0x38
	InodeTime uint64 // 0x40
}

// Limited tells whether there is any limit.
func (r *Record) Limited() bool {
	return r.InodeHard|r.InodeSoft|r.SpaceHard|r.SpaceSoft != 0
}

// decode reads a record.
func decode(b []byte) (r Record) {
	_ = b[recordSize-1]
	u64 := func(off int) uint64 { return binary.LittleEndian.Uint64(b[off:]) }
	r.ID = binary.LittleEndian.Uint32(b)
	r.InodeHard, r.InodeSoft, r.Inodes = u64(0x08), u64(0x10), u64(0x18)
	r.SpaceHard, r.SpaceSoft = toBytes(u64(0x20)), toBytes(u64(0x28))
	r.Space, r.SpaceTime, r.InodeTime = u64(0x30), u64(0x38), u64(0x40)
	if isEmpty(&r) {
		r.InodeTime = 0
	}
	return r
}

// isEmpty tells whether the record is that of id 0 without anything in it, which
// is stored with an inode time of 1, since all zeros mean a free place.
func isEmpty(r *Record) bool {
	e := *r
	e.InodeTime &^= 1
	return e == Record{}
}

// toBytes is a limit in bytes; one that is too large for that is as good as none
// that can be reached.
func toBytes(units uint64) uint64 {
	if units > math.MaxUint64/limitUnit {
		return math.MaxUint64 &^ (limitUnit - 1)
	}
	return units * limitUnit
}

// encode stores a record. Limits of space are rounded up to KiB.
func encode(b []byte, r *Record) {
	clear(b[:recordSize])
	p64 := func(off int, v uint64) { binary.LittleEndian.PutUint64(b[off:], v) }
	binary.LittleEndian.PutUint32(b, r.ID)
	p64(0x08, r.InodeHard)
	p64(0x10, r.InodeSoft)
	p64(0x18, r.Inodes)
	p64(0x20, toUnits(r.SpaceHard))
	p64(0x28, toUnits(r.SpaceSoft))
	p64(0x30, r.Space)
	p64(0x38, r.SpaceTime)
	p64(0x40, r.InodeTime)
	if isEmpty(r) {
		p64(0x40, 1)
	}
}

func toUnits(n uint64) uint64 {
	units := n / limitUnit
	if n%limitUnit != 0 {
		units++
	}
	return units
}

// used tells whether the place of a record is taken.
func used(b []byte) bool {
	for _, v := range b[:recordSize] {
		if v != 0 {
			return true
		}
	}
	return false
}
