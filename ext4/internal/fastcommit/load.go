package fastcommit

import (
	"errors"
	"fmt"
	"io"

	"ext4box/ext4/internal/disk"
)

// Options describe the filesystem. All of them come from checked geometry, as
// it is after the log was replayed.
type Options struct {
	BlockSize int    // bytes
	InodeSize int    // bytes
	Blocks    uint64 // size of the filesystem in blocks
	TID       uint32 // of the transaction that is next in the log; fast commits of others are void
}

// Base answers questions about the filesystem under the fast commits, with the
// log replayed.
type Base interface {
	// Links is the link count of an inode, and 0 of one that is not in use or
	// cannot be, for any number may be asked about.
	Links(ino uint32) uint16

	// Lookup finds a name in a directory, as names are compared there, and
	// returns its inode number, or 0 where it is not there. It is called only
	// for numbers that have links, not all of which must be directories.
	Lookup(dir uint32, name []byte) (ino uint32, err error)

	// Key is what two names in a directory have in common exactly if they are
	// the same name there: the name itself, or its folded form in a
	// case-insensitive directory. The result is used before the next call.
	Key(dir uint32, name []byte) []byte
}

// Load reads the fast commits in area and folds them into a State, which is
// empty where there is none that counts. It must be called only after the
// recovery of a journal that was dirty. Errors are those of reading area, those
// of base, a [disk.FeatureError] for fast commits of an unknown kind, and
// [disk.CorruptError].
func Load(area *io.SectionReader, o Options, base Base) (*State, error) {
	s := scan{tid: o.TID, inodeSize: o.InodeSize}
	if err := eachBlock(area, o.BlockSize, s.block); err != nil {
		return nil, err
	}
	if s.bytes > maxBytes {
		return nil, corruptf("%d bytes of them are more than there is memory for; recover the journal with e2fsck", s.bytes)
	}
	st := &State{inodes: map[uint32]*Inode{}, dirs: map[uint32]*Dir{}, tags: s.valid}
	f := folder{st: st, base: base, o: o, left: s.valid}
	if err := eachBlock(area, o.BlockSize, f.block); err != nil {
		return nil, err
	}
	for _, i := range st.inodes {
		i.ranges = fold(i.history)
		i.history = nil
	}
	return st, nil
}

// maxBytes bounds the tags that are folded, 16 times what the area has by default with
// blocks of 4 KiB. In memory they can become ten times as long.
const maxBytes = 16 << 20

// eachBlock calls fn for the blocks of the area, until it returns false.
func eachBlock(area *io.SectionReader, blockSize int, fn func(b []byte) (more bool, err error)) error {
	b := make([]byte, blockSize)
	for off := int64(0); off+int64(blockSize) <= area.Size(); off += int64(blockSize) {
		if n, err := area.ReadAt(b, off); n < len(b) {
			if errors.Is(err, io.EOF) {
				return corruptf("the area ends at byte %d of %d", off+int64(n), area.Size())
			}
			return fmt.Errorf("reading the fast commits: %w", err)
		}
		if more, err := fn(b); err != nil || !more {
			return err
		}
	}
	return nil
}

// folder takes the tags of whole fast commits, one by one.
type folder struct {
	st   *State
	base Base
	o    Options
	left int // tags
}

func (f *folder) block(b []byte) (more bool, err error) {
	for len(b) >= tagHeaderSize {
		if f.left == 0 {
			return false, nil
		}
		f.left--
		t, ok := decodeTag(b, f.o.InodeSize)
		if !ok {
			return false, corruptf("the area changes while it is being read")
		}
		b = b[len(t.raw):]
		if err := f.apply(&t); err != nil {
			return false, err
		}
	}
	return true, nil
}

func (f *folder) apply(t *tag) error {
	switch t.typ {
	case TagInode:
		f.inode(le.Uint32(t.value), t.value[inodeHeader:])
	case TagAddRange:
		ino, r := decodeAddRange(t.value)
		if r.Block >= f.o.Blocks || uint64(r.Len) > f.o.Blocks-r.Block {
			return corruptf("inode %d gets blocks from %d to %d, but the filesystem ends at %d",
				ino, r.Block, r.Block+uint64(r.Len), f.o.Blocks)
		}
		f.mapping(ino, r)
	case TagDelRange:
		f.mapping(decodeDelRange(t.value))
	case TagCreat:
		return f.create(decodeDentry(t.value))
	case TagLink:
		return f.link(decodeDentry(t.value))
	case TagUnlink:
		return f.unlink(decodeDentry(t.value))
	}
	return nil
}

// touch returns the state of an inode, beginning with what is on disk.
func (f *folder) touch(ino uint32) *Inode {
	i := f.st.inodes[ino]
	if i == nil {
		i = &Inode{Links: f.base.Links(ino)}
		f.st.inodes[ino] = i
	}
	return i
}

// exists tells whether an inode is in use at this point of the replay.
func (f *folder) exists(ino uint32) bool {
	if i := f.st.inodes[ino]; i != nil {
		return i.Links > 0
	}
	return f.base.Links(ino) > 0
}

func (f *folder) inode(ino uint32, image []byte) {
	i := f.touch(ino)
	i.Image = append(i.Image[:0], image...)
	i.Links = le.Uint16(image[inodeLinks:])
	i.Freed = false
}

func (f *folder) mapping(ino uint32, r Range) {
	if r = r.clamp(); r.Len == 0 || !f.exists(ino) {
		return
	}
	i := f.touch(ino)
	i.history = append(i.history, r)
}

// lookup finds where a name leads to at this point of the replay.
func (f *folder) lookup(e dentry) (ino uint32, key string, err error) {
	key = string(f.base.Key(e.parent, e.name))
	if d := f.st.dirs[e.parent]; d != nil {
		if i, found := d.byKey[key]; found {
			return d.entries[i].Ino, key, nil
		}
		if d.Made {
			return 0, key, nil
		}
	}
	ino, err = f.base.Lookup(e.parent, e.name)
	return ino, key, err
}

// set makes a name lead to an inode, or, with 0, nowhere.
func (f *folder) set(e dentry, key string, ino uint32) {
	d := f.st.dirs[e.parent]
	if d == nil {
		d = &Dir{}
		f.st.dirs[e.parent] = d
	}
	d.set(key, Entry{Name: append([]byte(nil), e.name...), Ino: ino})
}

// add makes a name, if it can be made.
func (f *folder) add(e dentry) (added bool, err error) {
	if !f.exists(e.parent) {
		return false, nil
	}
	there, key, err := f.lookup(e)
	if err != nil || there != 0 {
		return false, err
	}
	f.set(e, key, e.ino)
	return true, nil
}

func (f *folder) create(e dentry) error {
	if !f.exists(e.ino) {
		return corruptf("inode %d gets a name before it is made", e.ino)
	}
	i := f.touch(e.ino)
	if i.Image != nil && le.Uint16(i.Image[inodeMode:])&typeMask == typeDirectory {
		if !f.exists(e.parent) {
			return nil
		}
		f.st.dirs[e.ino] = &Dir{Made: true, Parent: e.parent}
	}
	if _, err := f.add(e); err != nil {
		return err
	}
	i.Links = 1
	return nil
}

func (f *folder) link(e dentry) error {
	if !f.exists(e.ino) {
		return nil
	}
	added, err := f.add(e)
	if i := f.touch(e.ino); added && i.Links < 1<<16-1 {
		i.Links++
	}
	return err
}

func (f *folder) unlink(e dentry) error {
	if !f.exists(e.ino) || !f.exists(e.parent) {
		return nil
	}
	there, key, err := f.lookup(e)
	if err != nil || there == 0 {
		return err
	}
	if there == e.ino {
		f.set(e, key, 0)
	}
	i := f.touch(e.ino)
	if i.Links--; i.Links == 0 {
		*i = Inode{Freed: true, Reset: true}
		delete(f.st.dirs, e.ino)
	}
	return nil
}

func unknownFeatures(features uint32) error {
	return &disk.FeatureError{Names: []string{fmt.Sprintf("fast commits of kind %#x", features)}}
}

func corruptf(format string, args ...any) error {
	return disk.Corruptf("fast commits", format, args...)
}
