package dirent

import (
	"fmt"
	"math"
	"strings"
	"syscall"

	"ext4box/ext4/internal/buffer"
	"ext4box/ext4/internal/disk"
	"ext4box/ext4/internal/extent"
)

// Grow appends one block to the directory: it allocates and maps the block,
// extends the size of the inode, and returns the number of the block in the
// directory and on the device. [Dir.Map] must know the block afterwards.
type Grow func() (blk, phys uint64, err error)

// Add puts a new name into the directory. That there is no such name yet is the
// caller's to find out with Lookup. A ftype is a disk.FT constant.
//
// Where the directory has an index, the cost grows with its depth; without one
// every block is searched for room, so that making n names costs n².
//
// Add may call grow more than once, and makes d.Indexed true when the directory
// gets an index: also when it fails with ENOSPC, which leaves the directory
// without the name, but whole. Errors: ENOSPC (also when the index is full),
// EINVAL, ENAMETOOLONG, ENOKEY for an encrypted directory, EUCLEAN, and those
// of grow.
func (d *Dir) Add(tx buffer.Tx, grow Grow, name string, ino uint32, ftype uint8) error {
	if err := d.checkNew(d.what(0), name, ino, d.Casefold, d.RawNames); err != nil {
		return err
	}
	if d.Indexed && !d.Index {
		// To write linearly into an indexed directory ends its index. In the
		// kernel's view checksums make such a directory corrupt: its index
		// blocks have no place for the checksum of a leaf.
		if d.Map.Sums.Metadata {
			return disk.Corruptf(d.name(), "has an index, the filesystem has not the feature")
		}
		d.Indexed = false
	}
	e := edit{d: d, tx: tx, grow: grow}
	defer e.seal()
	return e.add(name, disk.DirEntry{Inode: ino, FileType: ftype, Name: []byte(name)})
}

// Remove takes a name out of the directory and returns the inode number that it
// had. No other entry moves, no block is freed, an index stays. Errors: ENOENT,
// EINVAL for "." and "..", EUCLEAN.
func (d *Dir) Remove(tx buffer.Tx, name string) (ino uint32, err error) {
	if name == "." || name == ".." {
		return 0, syscall.EINVAL
	}
	p, err := d.locate(name)
	if err != nil {
		return 0, err
	}
	if d.Indexed && p.blk == 0 {
		return 0, disk.Corruptf(d.what(p.b.Block).String(), "%q is in the root of the index", name)
	}
	area, err := d.entries(p.b)
	if err != nil {
		return 0, err
	}
	e := edit{d: d, tx: tx}
	defer e.seal()
	if err := e.modify(p.b, buffer.DirLeaf); err != nil {
		return 0, err
	}
	return p.ino, d.erase(d.what(p.b.Block), area, p.off, p.prev)
}

// Replace makes a name, which may be "..", refer to another inode and returns
// the one that it had. Errors: ENOENT, EINVAL, EUCLEAN.
func (d *Dir) Replace(tx buffer.Tx, name string, ino uint32, ftype uint8) (old uint32, err error) {
	if name == "." || ino == 0 || ino > d.InodesMax {
		return 0, syscall.EINVAL
	}
	p, err := d.locate(name)
	if err != nil {
		return 0, err
	}
	kind := buffer.DirLeaf
	if d.Indexed && p.blk == 0 {
		kind = buffer.DxRoot
	}
	e := edit{d: d, tx: tx}
	defer e.seal()
	if err := e.modify(p.b, kind); err != nil {
		return 0, err
	}
	disk.SetDirInode(p.b.Data, p.off, ino, ftype, d.Filetype)
	return p.ino, nil
}

// Empty tells whether the directory has no entries but "." and "..". A
// directory that lacks these is corrupt.
func (d *Dir) Empty() (bool, error) { return empty(d.name(), d.Read) }

func empty(what string, read func(int64, func(Entry) bool) error) (bool, error) {
	dots, others := 0, false
	err := read(0, func(e Entry) bool {
		if n := string(e.Name); n == "." || n == ".." {
			dots++
		} else {
			others = true
		}
		return !others
	})
	if err == nil && !others && dots != 2 {
		err = disk.Corruptf(what, "has %d entries . and ..", dots)
	}
	return !others, err
}

// Init grows a new directory, which has no block, by its first one, with the
// entries "." and "..".
func (d *Dir) Init(tx buffer.Tx, grow Grow, parent uint32) error {
	e := edit{d: d, tx: tx, grow: grow}
	defer e.seal()
	_, b, err := e.append(buffer.DirLeaf)
	if err != nil {
		return err
	}
	area, err := d.entries(b)
	if err == nil {
		d.putDots(area, d.Map.Ino, parent)
	}
	return err
}

// dotsSize is the length of the entries "." and "..".
const dotsSize = 24

// putDots writes "." and "..", which take the whole area.
func (f *Format) putDots(area []byte, self, parent uint32) {
	dot := disk.DirEntry{Inode: self, RecLen: dotsSize / 2, FileType: disk.FTDir, Name: []byte(".")}
	dotdot := disk.DirEntry{Inode: parent, RecLen: len(area) - dotsSize/2, FileType: disk.FTDir, Name: []byte("..")}
	disk.EncodeDirEntry(area, 0, &dot, f.Filetype)
	disk.EncodeDirEntry(area, dotsSize/2, &dotdot, f.Filetype)
}

// AddCredits is the number of the directory's blocks that an Add or Init changes
// at most, and of its calls of grow, the needs of which come on top.
func (d *Dir) AddCredits() (blocks, grows int) {
	switch {
	case d.Indexed && d.Index:
		// All nodes below the root and the leaf are split: two blocks for one.
		// Or the root is full: then its content moves down first, and there is
		// a level that was not there before.
		levels := d.indexLevels()
		return 1 + 2*levels + 2, levels + 2
	case d.Index && d.Size <= d.blockSize():
		return 3, 2 // a root and two leaves
	}
	return 1, 1
}

// ChangeCredits is the number of blocks that a Remove or Replace changes.
func (d *Dir) ChangeCredits() int { return 1 }

// checkNew verifies that a name can be added.
func (f *Format) checkNew(what where, name string, ino uint32, casefold, rawNames bool) error {
	var errno error
	switch {
	case rawNames:
		errno = syscall.ENOKEY
	case len(name) > disk.NameMax:
		errno = syscall.ENAMETOOLONG
	case name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00"):
		errno = syscall.EINVAL
	case ino == 0 || ino > f.InodesMax:
		errno = syscall.EINVAL
	case f.Strict && casefold && f.Fold != nil:
		if _, err := f.Fold(nil, []byte(name)); err != nil {
			errno = syscall.EINVAL
		}
	}
	if errno != nil {
		return fmt.Errorf("%s: adding %q: %w", what, name, errno)
	}
	return nil
}

// edit is a change of a directory under way.
type edit struct {
	d       *Dir
	tx      buffer.Tx
	grow    Grow
	touched [maxTouched]touched
	n       int
}

// maxTouched is the most blocks that one change touches; see AddCredits.
const maxTouched = 1 + 2*maxIndexLevels + 2

// touched is a block in the transaction, and what it is checksummed as.
type touched struct {
	b    *buffer.Buffer
	kind buffer.Kind
}

// modify makes b part of the transaction.
func (e *edit) modify(b *buffer.Buffer, kind buffer.Kind) error {
	if err := e.tx.Modify(b); err != nil {
		return err
	}
	return e.touch(b, kind)
}

func (e *edit) touch(b *buffer.Buffer, kind buffer.Kind) error {
	b.Unnote()
	for i := range e.n {
		if e.touched[i].b == b {
			e.touched[i].kind = kind
			return nil
		}
	}
	if e.n == maxTouched {
		return disk.Corruptf(e.d.name(), "a change touches more than %d blocks", maxTouched)
	}
	e.touched[e.n] = touched{b, kind}
	e.n++
	return nil
}

// seal stores the checksums of what was touched.
func (e *edit) seal() {
	if !e.d.Map.Sums.Metadata {
		return
	}
	for _, t := range e.touched[:e.n] {
		if t.kind == buffer.DirLeaf {
			disk.SealDirLeaf(e.d.Map.Seed, t.b.Data)
		} else {
			disk.SealDx(e.d.Map.Seed, t.b.Data, t.kind == buffer.DxRoot)
		}
	}
}

// append grows the directory by a block and returns it as an empty leaf. Its
// kind is what the caller makes of it.
func (e *edit) append(kind buffer.Kind) (blk uint64, b *buffer.Buffer, err error) {
	d := e.d
	blocks, err := d.blocks()
	if err != nil {
		return 0, nil, err
	}
	most := uint64(extent.MaxBlocks)
	if !d.LargeDir {
		most = math.MaxUint32 / d.blockSize() // the size has 32 bits
	}
	if d.Index {
		most = min(most, disk.DxMaxBlocks)
	}
	if blocks >= most {
		return 0, nil, fmt.Errorf("%s: has %d blocks and cannot grow: %w", d.name(), blocks, syscall.ENOSPC)
	}
	blk, phys, err := e.grow()
	if err != nil {
		return 0, nil, err
	}
	if blk < blocks || blk >= most {
		return 0, nil, disk.Corruptf(d.name(), "grows by block %d behind %d", blk, blocks)
	}
	d.Size = (blk + 1) * d.blockSize()
	if b, err = e.tx.New(phys, d.tag()); err != nil {
		return 0, nil, err
	}
	disk.InitDirLeaf(b.Data, d.Map.Sums.Metadata)
	return blk, b, e.touch(b, kind)
}
