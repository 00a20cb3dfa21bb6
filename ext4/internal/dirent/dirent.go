package dirent

import (
	"bytes"
	"errors"
	"strconv"
	"sync/atomic"
	"syscall"

	"ext4box/ext4/internal/buffer"
	"ext4box/ext4/internal/disk"
	"ext4box/ext4/internal/extent"
)

// Format is what all directories of a filesystem have in common.
type Format struct {
	Filetype    bool             // entries carry the file type
	Index       bool             // directories of more than a block get an index (dir_index)
	LargeDir    bool             // the index may have three levels
	HashVersion disk.HashVersion // of new indexes, as the superblock stores it
	HashSeed    [4]uint32
	Unsigned    bool // the hash takes names as unsigned chars
	InodesMax   uint32
	// Strict refuses new names that Fold fails for.
	Strict bool
	// Fold maps a name to the form under which casefolded directories compare
	// and hash it, or fails for names that are not valid in the encoding.
	Fold func(dst, name []byte) ([]byte, error)
}

// Dir is a directory with blocks. It is made for each operation, by the holder
// of the inode's lock: shared for reading, exclusive for what takes a
// [buffer.Tx].
type Dir struct {
	*Format
	Map      extent.Map
	Size     uint64 // bytes; changed by what adds blocks
	Indexed  bool   // has a hash index; changed by Add
	Casefold bool   // names are compared by Format.Fold
	RawNames bool   // names are ciphertext, any byte may occur

	// Distinct, unless nil, remembers from one operation to the next that no
	// two blocks of the directory are the same block of the device. It is found
	// out before the directory is read from end to end: otherwise a few blocks
	// of a hostile image make a directory that has no end.
	Distinct *atomic.Bool

	// Scanned counts the blocks that were read one after the other.
	Scanned uint64
}

// Entry is one name in a directory.
type Entry struct {
	Ino  uint32
	Type uint8  // a disk.FT constant
	Name []byte // aliases the block
	Next int64  // position behind the entry
}

// NotFound is what lookups return for a name that is not there.
const NotFound = syscall.ENOENT

func (d *Dir) blockSize() uint64 { return uint64(d.Map.Geo.BlockSize) }

// blocks is the number of blocks, after checking that so many can exist.
func (d *Dir) blocks() (uint64, error) {
	n := d.Size / d.blockSize()
	if d.Size%d.blockSize() != 0 {
		n++
	}
	if n > d.Map.Geo.BlocksCount || n > extent.MaxBlocks {
		return 0, disk.Corruptf(disk.InodeName(d.Map.Ino), "directory of %d bytes is larger than the filesystem", d.Size)
	}
	return n, nil
}

// Read calls fn for each entry from position pos on, "." and ".." included,
// until fn returns false. Entry.Next of the last one taken continues.
func (d *Dir) Read(pos int64, fn func(Entry) bool) error {
	blocks, err := d.blocks()
	if err != nil || pos < 0 {
		return err
	}
	bs := d.blockSize()
	return d.scan(uint64(pos)/bs, blocks, func(blk uint64, b *buffer.Buffer) (bool, error) {
		base := int64(blk * bs)
		return d.each(b.Data, func(off int, e *disk.DirEntry) bool {
			if e.Inode == 0 || base+int64(off) < pos {
				return true
			}
			return fn(Entry{Ino: e.Inode, Type: e.FileType, Name: e.Name, Next: base + int64(off+e.RecLen)})
		}), nil
	})
}

// scan calls fn for the blocks [blk, blocks) until it returns false or fails.
func (d *Dir) scan(blk, blocks uint64, fn func(blk uint64, b *buffer.Buffer) (bool, error)) error {
	if err := d.checkDistinct(blocks); err != nil {
		return err
	}
	for blk < blocks {
		run, err := d.Map.Lookup(blk)
		if err != nil {
			return err
		}
		if run.State == extent.Hole {
			blk = run.End() // as the kernel does: nothing there
			continue
		}
		for ; blk < min(run.End(), blocks); blk++ {
			b, err := d.block(blk, run.Start+blk-run.Block, d.kindByShape)
			if err != nil {
				return err
			}
			d.Scanned++
			if more, err := fn(blk, b); err != nil || !more {
				return err
			}
		}
	}
	return nil
}

// checkDistinct verifies that the blocks of the directory are as many blocks of
// the device, unless that is known.
func (d *Dir) checkDistinct(blocks uint64) error {
	if d.Distinct == nil || blocks <= 1 || d.Distinct.Load() {
		return nil
	}
	if _, err := d.Map.CheckDistinct(d.name(), blocks); err != nil {
		return err
	}
	d.Distinct.Store(true)
	return nil
}

// Lookup finds the inode number of a name.
func (d *Dir) Lookup(name string) (uint32, error) {
	p, err := d.locate(name)
	return p.ino, err
}

// place is where an entry is.
type place struct {
	ino  uint32 // that the entry refers to
	b    *buffer.Buffer
	blk  uint64 // of the directory
	off  int    // in the block
	prev int    // offset of the record before it, or -1
}

// locate finds the entry of a name. NotFound: there is none.
func (d *Dir) locate(name string) (place, error) {
	blocks, err := d.blocks()
	if err != nil {
		return place{}, err
	}
	if blocks == 0 {
		return place{}, NotFound
	}
	m := d.matcher(name)
	return d.locateBy(&m, blocks)
}

// Find finds a name of which only the hash is known and what match says. It
// returns the inode number and the name.
func (d *Dir) Find(hash uint32, match func(name []byte) bool) (ino uint32, name string, err error) {
	blocks, err := d.blocks()
	if err != nil {
		return 0, "", err
	}
	p, err := d.locateBy(&matcher{by: match, hash: hash &^ 1}, blocks)
	if err != nil {
		return 0, "", err
	}
	e, _ := disk.DecodeDirEntry(p.b.Data, p.off, d.Filetype)
	return p.ino, string(e.Name), nil
}

// locateBy is locate in a directory of so many blocks.
func (d *Dir) locateBy(m *matcher, blocks uint64) (place, error) {
	if name := m.name; d.Indexed && name != "." && name != ".." {
		var u unusable
		if p, err := d.locateIndexed(m, blocks); !errors.As(err, &u) {
			return p, err
		}
		// Read everything, as the kernel does.
	}
	found := place{}
	err := d.scan(0, blocks, func(blk uint64, b *buffer.Buffer) (bool, error) {
		found = d.search(b, m)
		found.blk = blk
		return found.ino == 0, nil
	})
	if err != nil {
		return place{}, err
	}
	if found.ino == 0 {
		return place{}, NotFound
	}
	return found, nil
}

// search looks for a name in a block of entries. Without it ino is 0.
func (d *Dir) search(b *buffer.Buffer, m *matcher) (p place) {
	prev := -1
	if m.exact() {
		p.b = b
		p.ino, p.off, p.prev = disk.FindDirEntry(b.Data, m.name)
		return p
	}
	d.each(b.Data, func(off int, e *disk.DirEntry) bool {
		if e.Inode != 0 && m.matches(e.Name) {
			p = place{ino: e.Inode, b: b, off: off, prev: prev}
		}
		prev = off
		return p.ino == 0
	})
	return p
}

// matcher compares names with the one that is looked for.
type matcher struct {
	name   string
	by     func(name []byte) bool // nil: compare with name
	hash   uint32                 // of the name, if by is not nil
	folded []byte                 // nil: compare bytes
	fold   func(dst, name []byte) ([]byte, error)
	buf    []byte
}

func (d *Dir) matcher(name string) matcher { return d.Format.matcher(name, d.Casefold, d.RawNames) }

func (f *Format) matcher(name string, casefold, rawNames bool) matcher {
	m := matcher{name: name}
	if casefold && !rawNames && f.Fold != nil {
		if folded, err := f.Fold(nil, []byte(name)); err == nil {
			m.folded, m.fold = folded, f.Fold
		}
	}
	return m
}

// exact tells whether the name is the only one that matches.
func (m *matcher) exact() bool { return m.by == nil && m.fold == nil }

func (m *matcher) matches(name []byte) bool {
	switch {
	case m.by != nil:
		return m.by(name)
	case m.exact():
		return string(name) == m.name
	}
	f, err := m.fold(m.buf[:0], name)
	m.buf = f
	return err == nil && bytes.Equal(f, m.folded)
}

// hashed is the form of the name that goes into the hash.
func (m *matcher) hashed() []byte {
	if m.fold != nil {
		return m.folded
	}
	return []byte(m.name)
}

// each walks the entries of a checked block until fn returns false, and tells
// whether it came to the end.
func (d *Dir) each(b []byte, fn func(off int, e *disk.DirEntry) bool) bool {
	var e disk.DirEntry // one for all entries, since it escapes
	for off := 0; off < len(b); off += e.RecLen {
		var problem string
		if e, problem = disk.DecodeDirEntry(b, off, d.Filetype); problem != "" {
			return true // cannot be: the block is checked
		}
		if !fn(off, &e) {
			return false
		}
	}
	return true
}

// kindByShape tells what a block is when it is reached by reading on: the root
// and the nodes of an index are told from leaves by their shape.
func (d *Dir) kindByShape(blk uint64, b []byte) buffer.Kind {
	switch {
	case !d.Indexed:
		return buffer.DirLeaf
	case blk == 0:
		return buffer.DxRoot
	case disk.IsDxNode(b):
		return buffer.DxNode
	}
	return buffer.DirLeaf
}

// block returns block blk of the directory, which is at device block phys,
// checked as the kind that the given function makes of it.
func (d *Dir) block(blk, phys uint64, kind func(uint64, []byte) buffer.Kind) (*buffer.Buffer, error) {
	// One tag for leaves and index blocks: whatever kind is chosen, the entries
	// are checked, and the index functions check what they use of a node.
	return d.Map.Cache.Read(phys, d.tag(), func(b []byte) error {
		return d.check(blk, phys, b, kind(blk, b))
	})
}

func (d *Dir) tag() buffer.Tag { return buffer.Tag{Kind: buffer.DirLeaf, Owner: d.Map.Ino} }

func (d *Dir) what(phys uint64) where { return where{ino: d.Map.Ino, blk: phys} }

// where is what an error is about: a block of a directory, or without one the
// directory, inline or not.
type where struct {
	ino    uint32
	blk    uint64
	inline bool
}

func (w where) String() string {
	what := "directory " + disk.InodeName(w.ino)
	if w.inline {
		what = "inline " + what
	}
	if w.blk != 0 {
		what += " at block " + strconv.FormatUint(w.blk, 10)
	}
	return what
}

// check verifies structure and checksum of a directory block.
func (d *Dir) check(blk, phys uint64, b []byte, kind buffer.Kind) error {
	what := d.what(phys)
	if kind != buffer.DirLeaf {
		if !d.Map.Sums.Metadata {
			return d.checkEntries(what, b)
		}
		stored, computed, ok := disk.DxChecksum(d.Map.Seed, b, kind == buffer.DxRoot)
		if !ok || stored != computed {
			return disk.Corruptf(what.String(), "index checksum is %#x instead of %#x", stored, computed)
		}
		return d.checkEntries(what, b)
	}
	if d.Map.Sums.Metadata {
		stored, ok := disk.DirTail(b)
		if !ok {
			return disk.Corruptf(what.String(), "block has no room for its checksum")
		}
		if computed := disk.DirLeafChecksum(d.Map.Seed, b); stored != computed {
			return disk.Corruptf(what.String(), "checksum is %#x instead of %#x", stored, computed)
		}
	}
	return d.checkEntries(what, b)
}

// checkEntries verifies that entries tile the block and are plausible.
func (d *Dir) checkEntries(what where, b []byte) error {
	for off := 0; off < len(b); {
		e, problem := disk.DecodeDirEntry(b, off, d.Filetype)
		if problem == "" && e.Inode != 0 {
			problem = d.implausible(&e, d.RawNames)
		}
		if problem != "" {
			return disk.Corruptf(what.String(), "offset %d: %s", off, problem)
		}
		off += e.RecLen
	}
	return nil
}

// implausible says what is wrong with an entry that is in use, or nothing.
// rawNames allows any byte in its name.
func (f *Format) implausible(e *disk.DirEntry, rawNames bool) string {
	switch {
	case len(e.Name) == 0:
		return "name is empty"
	case e.Inode > f.InodesMax:
		return "inode number " + strconv.FormatUint(uint64(e.Inode), 10) + " does not exist"
	case !rawNames && (bytes.IndexByte(e.Name, '/') >= 0 || bytes.IndexByte(e.Name, 0) >= 0):
		return "name contains a slash or a zero byte"
	}
	return ""
}
