package dirent_test

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"syscall"
	"testing"

	"ext4box/blockdev/blocktest"
	"ext4box/ext4/internal/buffer"
	"ext4box/ext4/internal/buffer/buffertest"
	"ext4box/ext4/internal/dirent"
	"ext4box/ext4/internal/disk"
	"ext4box/ext4/internal/disktest"
	"ext4box/ext4/internal/extent"
)

const (
	rigParent = 2
	rigStart  = 100 // device block of the first block
)

// rigShape says what kind of directory a rig has.
type rigShape struct {
	blockSize int
	csum      bool
	casefold  bool
	most      uint64 // blocks that can be allocated
	cacheSize int64  // 0: large
	format    dirent.Format
}

// rig is a directory in memory that is changed, as the engine would do it: the
// size, the map and the flag of the inode are kept here, and a [dirent.Dir] is
// made for each operation.
type rig struct {
	rigShape
	tb      rapidTB
	dev     *blocktest.Mem
	cache   *buffer.Cache
	geo     *disk.Geometry
	sums    *disk.Checksums
	tx      *buffertest.Tx
	blocks  uint64
	size    uint64
	indexed bool

	grows    int
	growErr  error // of the next grow, then none
	growWhen int   // grows before that
	touched  int   // blocks of the last change
}

// rapidTB is what a test and a property test have in common.
type rapidTB interface {
	Helper()
	Fatalf(format string, args ...any)
	Errorf(format string, args ...any)
}

func newRig(tb testing.TB, shape rigShape) *rig {
	if shape.most == 0 {
		shape.most = 30000
	}
	shape.format.InodesMax = 1 << 24
	size := int64(shape.most+rigStart+10) * int64(shape.blockSize)
	r := &rig{
		rigShape: shape, tb: tb,
		dev:  blocktest.NewMem(size),
		geo:  disktest.Geometry(tb, shape.blockSize, shape.most+rigStart+10),
		sums: &disk.Checksums{Metadata: shape.csum},
	}
	r.forget()
	return r
}

// forget begins with an empty cache.
func (r *rig) forget() {
	r.cache = buffer.New(r.dev, r.blockSize, cmp.Or(r.cacheSize, 256<<20))
	r.tx = buffertest.New(r.cache)
}

func (r *rig) open() *dirent.Dir {
	return &dirent.Dir{
		Format: &r.format, Size: r.size, Indexed: r.indexed, Casefold: r.casefold,
		Map: extent.Map{Cache: r.cache, Geo: r.geo, Sums: r.sums, Ino: ino, Seed: seed, Tree: true, Root: r.extents()},
	}
}

func (r *rig) extents() []byte {
	if r.blocks == 0 {
		return disktest.ExtentNode(disktest.RootSize, 0)
	}
	return disktest.ExtentNode(disktest.RootSize, 0, disktest.Written(0, uint32(r.blocks), rigStart))
}

// change opens the directory, changes it and stores what the engine would.
func (r *rig) change(fn func(d *dirent.Dir, tx buffer.Tx, grow dirent.Grow) error) error {
	d := r.open()
	blocks, grows := d.AddCredits()
	r.grows = 0
	err := fn(d, r.tx, func() (uint64, uint64, error) {
		if r.growErr != nil && r.grows == r.growWhen {
			return 0, 0, r.growErr
		}
		if r.blocks == r.most {
			return 0, 0, syscall.ENOSPC
		}
		r.grows++
		r.blocks++
		copy(d.Map.Root, r.extents())
		return r.blocks - 1, rigStart + r.blocks - 1, nil
	})
	if d.Size != r.blocks*uint64(r.blockSize) {
		r.tb.Fatalf("%d blocks, size %d", r.blocks, d.Size)
	}
	r.size, r.indexed = d.Size, d.Indexed
	r.touched = len(r.tx.Modified())
	if r.touched > blocks || r.grows > grows {
		r.tb.Fatalf("touches %d blocks and grows by %d with credits for %d and %d", r.touched, r.grows, blocks, grows)
	}
	if e := r.tx.Commit(r.dev); e != nil {
		r.tb.Fatalf("commit: %v", e)
	}
	return err
}

func (r *rig) init() {
	r.tb.Helper()
	if err := r.change(func(d *dirent.Dir, tx buffer.Tx, grow dirent.Grow) error { return d.Init(tx, grow, rigParent) }); err != nil {
		r.tb.Fatalf("init: %v", err)
	}
}

func (r *rig) add(name string, n uint32) error {
	return r.change(func(d *dirent.Dir, tx buffer.Tx, grow dirent.Grow) error {
		return d.Add(tx, grow, name, n, disk.FTReg)
	})
}

func (r *rig) mustAdd(name string, n uint32) {
	r.tb.Helper()
	if err := r.add(name, n); err != nil {
		r.tb.Fatalf("add %q: %v", name, err)
	}
}

func (r *rig) remove(name string) (n uint32, err error) {
	err = r.change(func(d *dirent.Dir, tx buffer.Tx, _ dirent.Grow) error {
		n, err = d.Remove(tx, name)
		return err
	})
	return n, err
}

func (r *rig) replace(name string, n uint32, ft uint8) (old uint32, err error) {
	err = r.change(func(d *dirent.Dir, tx buffer.Tx, _ dirent.Grow) error {
		old, err = d.Replace(tx, name, n, ft)
		return err
	})
	return old, err
}

// fsck checks everything that e2fsck checks about the blocks of the directory,
// as they are on the device, and returns its names. It shares the decoders of
// records with the code under test, and nothing else.
func (r *rig) fsck() (map[string]uint32, error) {
	c := fsck{r: r, names: map[string]uint32{}, seen: make([]bool, r.blocks)}
	for blk := range r.blocks {
		b := make([]byte, r.blockSize)
		if _, err := r.dev.ReadAt(b, int64(rigStart+blk)*int64(r.blockSize)); err != nil && err != io.EOF {
			return nil, err
		}
		c.blocks = append(c.blocks, b)
	}
	if !r.indexed {
		for i, b := range c.blocks {
			c.leaf(uint32(i), b, 0, 1<<32-1)
		}
	} else {
		c.root()
	}
	if c.names["."] != ino || c.names[".."] == 0 {
		c.fail("dots are %d and %d", c.names["."], c.names[".."])
	}
	return c.names, errors.Join(c.errs...)
}

type fsck struct {
	r       *rig
	blocks  [][]byte
	seen    []bool
	names   map[string]uint32
	levels  int
	version disk.HashVersion
	errs    []error
}

func (c *fsck) fail(format string, args ...any) {
	if len(c.errs) < 10 {
		c.errs = append(c.errs, fmt.Errorf(format, args...))
	}
}

// block takes a block that is referred to, once.
func (c *fsck) block(i uint32) []byte {
	if int(i) >= len(c.blocks) || c.seen[i] {
		c.fail("block %d of %d is referred to; before: %v", i, len(c.blocks), int(i) < len(c.blocks))
		return nil
	}
	c.seen[i] = true
	return c.blocks[i]
}

func (c *fsck) root() {
	b := c.block(0)
	root, node, err := disk.DecodeDxRoot("root", b, 2, c.r.csum)
	if err != nil {
		c.fail("%w", err)
		return
	}
	if root.Levels > 1 && !c.r.format.LargeDir {
		c.fail("%d levels", root.Levels)
	}
	if root.HashVersion != c.r.format.HashVersion {
		c.fail("hash version %v", root.HashVersion)
	}
	c.levels, c.version = int(root.Levels), root.HashVersion
	if c.r.format.Unsigned {
		c.version = c.version.Unsigned()
	}
	c.sum(b, true)
	c.entries(b, b[:24+4], 0, 0, 0) // "." and ".." only
	c.node(&node, int(root.Levels), 0, 1<<32-1)
	for i, seen := range c.seen {
		if !seen {
			c.fail("block %d is not in the index", i)
		}
	}
}

func (c *fsck) sum(b []byte, root bool) {
	if !c.r.csum {
		return
	}
	if stored, sum, ok := disk.DxChecksum(seed, b, root); !ok || stored != sum {
		c.fail("index checksum")
	}
}

// node checks the blocks that an index node refers to, which have hashes from lo
// to hi.
func (c *fsck) node(n *disk.DxNode, levels int, lo, hi uint32) {
	for i := range n.Count {
		from, to := lo, hi
		if i > 0 {
			from = n.Hash(i)
		}
		if i+1 < n.Count {
			to = n.Hash(i+1) - 1 // the hash itself, if that continues
		}
		if from < lo || to > hi {
			c.fail("index entry for %x to %x below %x to %x", from, to, lo, hi)
		}
		b := c.block(n.Block(i))
		if b == nil {
			return
		}
		if levels == 0 {
			c.leaf(n.Block(i), b, from&^1, to)
			continue
		}
		child, err := disk.DecodeDxNode("node", b, c.r.csum)
		if err != nil {
			c.fail("%w", err)
			return
		}
		c.sum(b, false)
		c.node(&child, levels-1, from, to)
	}
}

func (c *fsck) leaf(i uint32, b []byte, lo, hi uint32) {
	area := b
	if c.r.csum {
		stored, ok := disk.DirTail(b)
		if !ok || stored != disk.DirLeafChecksum(seed, b) {
			c.fail("checksum of block %d", i)
		}
		area = b[:len(b)-disk.DirTailSize]
	}
	c.entries(area, area, i, lo, hi)
}

func (c *fsck) entries(b, area []byte, blk, lo, hi uint32) {
	for off := 0; off < len(area); {
		e, problem := disk.DecodeDirEntry(b, off, c.r.format.Filetype)
		if problem != "" {
			c.fail("block %d, offset %d: %s", blk, off, problem)
			return
		}
		if e.Inode != 0 {
			name := string(e.Name)
			if _, twice := c.names[name]; twice || name == "" {
				c.fail("name %q is there again", name)
			}
			if dot := name == "." || name == ".."; dot != (blk == 0 && (off == 0 || off == 12)) {
				c.fail("name %q at %d of block %d", name, off, blk)
			} else if c.r.indexed && !dot {
				if hash := c.hash(e.Name); hash < lo || hash > hi {
					c.fail("hash %x of %q is not from %x to %x", hash, name, lo, hi)
				}
			}
			c.names[name] = e.Inode
		}
		off += e.RecLen
	}
}

func (c *fsck) hash(name []byte) uint32 {
	if c.r.casefold {
		if f, err := c.r.format.Fold(nil, name); err == nil {
			name = f
		}
	}
	hash, _, err := disk.DirHash(c.version, c.r.format.HashSeed, name)
	if err != nil {
		c.fail("%w", err)
	}
	return hash
}

// holds checks the blocks, and that names, the dots aside, are what is there: on
// the device, by lookups, and by listings in both orders.
func (r *rig) holds(want map[string]uint32) {
	r.tb.Helper()
	got, err := r.fsck()
	if err != nil {
		r.tb.Fatalf("fsck: %v", err)
	}
	if len(got) != len(want)+2 {
		r.tb.Fatalf("%d names instead of %d", len(got), len(want)+2)
	}
	d := r.open()
	for name, n := range want {
		if got[name] != n {
			r.tb.Fatalf("%q has inode %d instead of %d", name, got[name], n)
		}
		if found, err := d.Lookup(name); err != nil || found != n {
			r.tb.Fatalf("lookup of %q: %d, %v; want %d", name, found, err, n)
		}
	}
	for _, read := range []func(int64, func(dirent.Entry) bool) error{d.Read, d.ReadByHash} {
		last, seen := int64(0), 0
		if err := read(0, func(e dirent.Entry) bool {
			if e.Next <= last {
				r.tb.Fatalf("position %d of %q behind %d", e.Next, e.Name, last)
			}
			if got[string(e.Name)] != e.Ino {
				r.tb.Fatalf("lists %q with inode %d", e.Name, e.Ino)
			}
			last = e.Next
			seen++
			return true
		}); err != nil || seen != len(got) {
			r.tb.Fatalf("lists %d names of %d: %v", seen, len(got), err)
		}
	}
}
