package fuse

import "unsafe"

// DirBuffer encodes the entries of a READDIR or READDIRPLUS reply.
//
// next is the position of the following entry: the kernel passes it back as ReadIn.Offset to continue
// after this one, possibly much later. It must not be 0. An empty name, or one with a '/', makes the
// kernel fail the whole reply.
type DirBuffer struct {
	buf []byte
	n   int
}

// Append adds an entry and reports whether it fitted. typ is one of DT_*. Use it in Readdir.
func (d *DirBuffer) Append(ino, next uint64, typ uint32, name []byte) bool {
	p := d.room(direntSize, len(name))
	if p == nil {
		return false
	}
	putDirent(p, ino, next, typ, name)
	return true
}

// AppendPlus adds an entry with attributes and returns where they go, or nil when the buffer is full.
// The EntryOut comes zeroed; left so it means that no attributes are known, which is always allowed.
// It must be filled in, and its lookup counted, before Readdirplus returns. Use it in Readdirplus.
func (d *DirBuffer) AppendPlus(ino, next uint64, typ uint32, name []byte) *EntryOut {
	p := d.room(direntPlusSize, len(name))
	if p == nil {
		return nil
	}
	clear(p[:entryOutSize])
	putDirent(p[entryOutSize:], ino, next, typ, name)
	return (*EntryOut)(unsafe.Pointer(unsafe.SliceData(p)))
}

// Len returns the number of bytes used.
func (d *DirBuffer) Len() int { return d.n }

// room takes the next head+namelen bytes, rounded up to 8, or returns nil.
func (d *DirBuffer) room(head, namelen int) []byte {
	size := (head + namelen + 7) &^ 7
	if size > len(d.buf)-d.n {
		return nil
	}
	p := d.buf[d.n : d.n+size : d.n+size]
	d.n += size
	return p
}

func putDirent(p []byte, ino, next uint64, typ uint32, name []byte) {
	store(p, &direntHeader{Ino: ino, Off: next, Namelen: uint32(len(name)), Type: typ})
	n := direntSize + copy(p[direntSize:], name)
	clear(p[n:])
}
