package dirent

import (
	"ext4box/ext4/internal/buffer"
	"ext4box/ext4/internal/disk"
)

// What is here works on areas: bytes that records tile, such as a leaf without
// its checksum. Although blocks are checked when they enter the cache, each
// record is checked again before something is written because of it: a hostile
// image can have a block that is also part of something else, which changed.

// slot is a record with room for another entry behind what its own one needs.
type slot struct {
	off, size int
	used      int // by the record's own entry, 0 if it has none
}

// record is an entry where it is.
type record struct {
	hash      uint32
	off, size int // size is what the entry needs
}

// entries is the part of a leaf that records tile.
func (d *Dir) entries(b *buffer.Buffer) ([]byte, error) {
	if !d.Map.Sums.Metadata {
		return b.Data, nil
	}
	if _, ok := disk.DirTail(b.Data); !ok {
		return nil, disk.Corruptf(d.what(b.Block).String(), "is used as a leaf and has no place for the checksum of one")
	}
	return b.Data[:len(b.Data)-disk.DirTailSize], nil
}

// walk calls fn for all records of an area, until it returns false.
func (f *Format) walk(what where, area []byte, fn func(off int, e *disk.DirEntry) bool) error {
	var e disk.DirEntry // one for all entries, since it escapes
	for off := 0; off < len(area); off += e.RecLen {
		var problem string
		if e, problem = disk.DecodeDirEntry(area, off, f.Filetype); problem != "" {
			return disk.Corruptf(what.String(), "offset %d: %s", off, problem)
		}
		if !fn(off, &e) {
			return nil
		}
	}
	return nil
}

// room finds the first record with room for need bytes.
func (f *Format) room(what where, area []byte, need int) (s slot, ok bool, err error) {
	off, size, used, ok := disk.DirRoom(area, need)
	if !ok {
		return s, false, f.walk(what, area, func(int, *disk.DirEntry) bool { return true })
	}
	return slot{off, size, used}, size > 0, nil
}

// fill puts an entry into a slot that has room for it.
func (f *Format) fill(area []byte, s slot, e disk.DirEntry) {
	if s.used > 0 {
		disk.SetDirRecLen(area, s.off, s.used)
	}
	e.RecLen = s.size - s.used
	disk.EncodeDirEntry(area, s.off+s.used, &e, f.Filetype)
}

// erase removes the record at off, which follows the one at prev unless that is
// negative. What it held is wiped, as the kernel does.
func (f *Format) erase(what where, area []byte, off, prev int) error {
	e, problem := disk.DecodeDirEntry(area, off, f.Filetype)
	if problem != "" {
		return disk.Corruptf(what.String(), "offset %d: %s", off, problem)
	}
	clear(area[off : off+e.RecLen])
	if prev >= 0 {
		disk.SetDirRecLen(area, prev, off+e.RecLen-prev)
	} else {
		disk.SetDirRecLen(area, off, e.RecLen)
	}
	return nil
}

// pack fills an area with records of another one, in their order. The last one
// takes what is left.
func pack(area, from []byte, records []record) {
	clear(area)
	if len(records) == 0 {
		disk.SetDirRecLen(area, 0, len(area))
		return
	}
	off := 0
	for i, r := range records {
		copy(area[off:], from[r.off:r.off+r.size])
		n := r.size
		if i == len(records)-1 {
			n = len(area) - off
		}
		disk.SetDirRecLen(area, off, n)
		off += n
	}
}

// total is the sum of the sizes of records.
func total(records []record) (n int) {
	for _, r := range records {
		n += r.size
	}
	return n
}
