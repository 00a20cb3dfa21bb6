package dirent

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"syscall"

	"ext4box/ext4/internal/buffer"
	"ext4box/ext4/internal/disk"
)

// ErrNoRoom says that an entry does not fit into an inline directory, which then
// has to move into a block; see [Inline.Convert]. It unwraps to ENOSPC.
var ErrNoRoom = fmt.Errorf("no room inside the inode: %w", syscall.ENOSPC)

// InitInline makes b, the whole block area of an inode, an empty inline
// directory.
func InitInline(b []byte, parent uint32) {
	clear(b)
	binary.LittleEndian.PutUint32(b, parent)
	disk.SetDirRecLen(b[inlineParent:], 0, len(b)-inlineParent)
}

// Add is [Dir.Add] for an inline directory. room is the length that the value of
// the attribute could have at most: when the block area is full, the value takes
// it all, as in the kernel. ErrNoRoom says that this would not help.
//
// Like all that changes an inline directory, Add does not write to Head and Tail,
// which may be part of a cached block, but puts changed copies there. The caller
// stores them; the size of the inode is the sum of their lengths.
func (d *Inline) Add(name string, ino uint32, ftype uint8, room int) error {
	if err := d.checkNew(d.what(), name, ino, d.Casefold, d.RawNames); err != nil {
		return err
	}
	if err := d.check(); err != nil {
		return err
	}
	n := disk.DirEntry{Inode: ino, FileType: ftype, Name: []byte(name)}
	need := disk.DirEntrySize(len(name))
	for i := range inlineAreas {
		s, ok, err := d.room(d.what(), d.area(i), need)
		if err != nil {
			return err
		}
		if ok {
			d.fill(d.modify(i), s, n)
			return nil
		}
	}
	tail := d.extendedTail(room)
	s, ok, err := d.room(d.what(), tail, need)
	if err != nil {
		return err
	}
	if !ok {
		return ErrNoRoom
	}
	d.fill(tail, s, n)
	d.Tail = tail
	return nil
}

// Remove is [Dir.Remove] for an inline directory; see Add for what becomes of
// Head and Tail.
func (d *Inline) Remove(name string) (ino uint32, err error) {
	if name == "." || name == ".." {
		return 0, syscall.EINVAL
	}
	i, off, prev, ino, err := d.locate(name)
	if err != nil {
		return 0, err
	}
	return ino, d.erase(d.what(), d.modify(i), off, prev)
}

// Replace is [Dir.Replace] for an inline directory; see Add for what becomes of
// Head and Tail.
func (d *Inline) Replace(name string, ino uint32, ftype uint8) (old uint32, err error) {
	if name == "." || ino == 0 || ino > d.InodesMax {
		return 0, syscall.EINVAL
	}
	if err := d.check(); err != nil {
		return 0, err
	}
	if name == ".." {
		old = binary.LittleEndian.Uint32(d.Head)
		d.Head = slices.Clone(d.Head)
		binary.LittleEndian.PutUint32(d.Head, ino)
		return old, nil
	}
	i, off, _, old, err := d.locate(name)
	if err != nil {
		return 0, err
	}
	disk.SetDirInode(d.modify(i), off, ino, ftype, d.Filetype)
	return old, nil
}

// Empty is [Dir.Empty] for an inline directory.
func (d *Inline) Empty() (bool, error) { return empty(d.what().String(), d.Read) }

// Convert makes the first block of to, which has none yet, with the content of
// the inline directory. Its credits are those of [Dir.Init]. Positions of
// ReadByHash stay what they are.
func (d *Inline) Convert(tx buffer.Tx, to *Dir, grow Grow) error {
	if err := d.check(); err != nil {
		return err
	}
	records := slices.Concat(d.area(0), d.area(1))
	if len(records)+dotsSize+disk.DirTailSize > int(to.blockSize()) {
		return disk.Corruptf(d.what().String(), "%d bytes are more than a block holds", len(records))
	}
	e := edit{d: to, tx: tx, grow: grow}
	defer e.seal()
	_, b, err := e.append(buffer.DirLeaf)
	if err != nil {
		return err
	}
	area, err := to.entries(b)
	if err != nil {
		return err
	}
	to.putDots(area[:dotsSize], d.Ino, binary.LittleEndian.Uint32(d.Head))
	copy(area[dotsSize:], records)
	d.extend(area[dotsSize:], len(records))
	return nil
}

// ReadByHash is [Dir.ReadByHash] for an inline directory. The order is that of
// hashes if the directory will have an index when it grows, otherwise that of
// the block into which Convert would put it.
func (d *Inline) ReadByHash(pos int64, fn func(Entry) bool) error {
	r := newHashRead(d.Format, pos, fn)
	r.h = d.hasher(d.HashVersion, d.Casefold, d.RawNames)
	if !d.Index || r.h.usable() != nil {
		return d.readAsBlock(pos, fn)
	}
	if err := d.check(); err != nil {
		return err
	}
	r.list = append(r.list,
		keyed{dotPosition, Entry{Ino: d.Ino, Type: disk.FTDir, Name: []byte(".")}},
		keyed{dotdotPosition, Entry{Ino: binary.LittleEndian.Uint32(d.Head), Type: disk.FTDir, Name: []byte("..")}})
	for i := range inlineAreas {
		if err := r.collect(d.area(i), 0, math.MaxUint32); err != nil {
			return err
		}
	}
	r.emit()
	return nil
}

// readAsBlock is Read with the positions of a block.
func (d *Inline) readAsBlock(pos int64, fn func(Entry) bool) error {
	const shift = dotsSize - inlineParent
	from := int64(0)
	switch {
	case pos > dotsSize/2:
		from = max(pos-shift, inlineParent)
	case pos > 0:
		from = 1 // ".."
	}
	return d.Read(from, func(e Entry) bool {
		if e.Next == 1 {
			e.Next = dotsSize / 2
		} else {
			e.Next += shift
		}
		return fn(e)
	})
}

const inlineAreas = 2

// area returns the records in Head, for 0, or in Tail, for 1.
func (d *Inline) area(i int) []byte {
	if i == 0 {
		return d.Head[inlineParent:]
	}
	return d.Tail
}

// modify is area for changing it.
func (d *Inline) modify(i int) []byte {
	if i == 0 {
		d.Head = slices.Clone(d.Head)
	} else {
		d.Tail = slices.Clone(d.Tail)
	}
	return d.area(i)
}

// check verifies the whole directory.
func (d *Inline) check() error { return d.Read(0, func(Entry) bool { return true }) }

func (d *Inline) what() where { return where{ino: d.Ino, inline: true} }

// locate finds the entry of a name, which is not "." or "..", in a directory
// that it checks: the area, the offset there and that of the record before it.
func (d *Inline) locate(name string) (i, off, prev int, ino uint32, err error) {
	if err := d.check(); err != nil {
		return 0, 0, 0, 0, err
	}
	m := d.matcher(name)
	for i := range inlineAreas {
		prev = -1
		err = d.walk(d.what(), d.area(i), func(at int, e *disk.DirEntry) bool {
			if e.Inode != 0 && m.matches(e.Name) {
				off, ino = at, e.Inode
				return false
			}
			prev = at
			return true
		})
		if err != nil || ino != 0 {
			return i, off, prev, ino, err
		}
	}
	return 0, 0, 0, 0, NotFound
}

// extendedTail is a copy of Tail that is n bytes long, or Tail if that is not
// less.
func (d *Inline) extendedTail(n int) []byte {
	n &^= 3
	if n-len(d.Tail) < disk.DirEntrySize(1) {
		return d.Tail
	}
	tail := make([]byte, n)
	copy(tail, d.Tail)
	d.extend(tail, len(d.Tail))
	return tail
}

// extend makes the last of the records that take the first bytes of an area
// reach to its end.
func (f *Format) extend(area []byte, used int) {
	last := 0
	for off := 0; off < used; {
		e, problem := disk.DecodeDirEntry(area[:used], off, f.Filetype)
		if problem != "" {
			break // cannot be: the area is checked
		}
		last = off
		off += e.RecLen
	}
	disk.SetDirRecLen(area, last, len(area)-last)
}
