package dirent

import (
	"encoding/binary"

	"ext4box/ext4/internal/disk"
)

// inlineParent is the length of what precedes the entries of an inline
// directory: the inode number of its parent.
const inlineParent = 4

// Inline is a directory inside its inode: entries in the inode's block area
// and, if those do not suffice, in an attribute. "." is not stored, ".." only
// as a number.
type Inline struct {
	*Format
	Ino      uint32
	Head     []byte // the block area, as far as the size of the inode goes
	Tail     []byte // the attribute's value, or nil
	Casefold bool
	RawNames bool
}

// Read is [Dir.Read] for an inline directory. Position 0 is ".", 1 is "..",
// others are offsets in the joined areas.
func (d *Inline) Read(pos int64, fn func(Entry) bool) error {
	what := d.what()
	if len(d.Head) < inlineParent {
		return disk.Corruptf(what.String(), "%d bytes are too few", len(d.Head))
	}
	parent := binary.LittleEndian.Uint32(d.Head)
	if parent == 0 || parent > d.InodesMax {
		return disk.Corruptf(what.String(), "parent %d does not exist", parent)
	}
	if pos <= 0 && !fn(Entry{Ino: d.Ino, Type: disk.FTDir, Name: []byte("."), Next: 1}) {
		return nil
	}
	if pos <= 1 && !fn(Entry{Ino: parent, Type: disk.FTDir, Name: []byte(".."), Next: inlineParent}) {
		return nil
	}
	areas := [...]struct {
		b    []byte
		base int64
	}{
		{d.Head[inlineParent:], inlineParent},
		{d.Tail, int64(len(d.Head))},
	}
	for _, a := range areas {
		for off := 0; off < len(a.b); {
			e, problem := disk.DecodeDirEntry(a.b, off, d.Filetype)
			if problem == "" && e.Inode != 0 {
				problem = d.implausible(&e, d.RawNames)
			}
			if problem != "" {
				return disk.Corruptf(what.String(), "offset %d: %s", a.base+int64(off), problem)
			}
			next := a.base + int64(off+e.RecLen)
			if e.Inode != 0 && a.base+int64(off) >= pos &&
				!fn(Entry{Ino: e.Inode, Type: e.FileType, Name: e.Name, Next: next}) {
				return nil
			}
			off += e.RecLen
		}
	}
	return nil
}

// Lookup is [Dir.Lookup] for an inline directory.
func (d *Inline) Lookup(name string) (uint32, error) {
	m := d.matcher(name)
	found := uint32(0)
	err := d.Read(0, func(e Entry) bool {
		if m.matches(e.Name) {
			found = e.Ino
		}
		return found == 0
	})
	if err == nil && found == 0 {
		err = NotFound
	}
	return found, err
}

func (d *Inline) matcher(name string) matcher { return d.Format.matcher(name, d.Casefold, d.RawNames) }
