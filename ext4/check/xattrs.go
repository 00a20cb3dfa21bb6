package check

import (
	"cmp"
	"slices"
	"strings"
	"sync"

	"ext4box/ext4/internal/disk"
	"ext4box/ext4/internal/xattr"
)

// xattrTable is what pass 1 remembers of attribute blocks that several inodes
// share.
type xattrTable struct {
	mu     sync.Mutex
	room   int
	cut    bool // there was no room for all
	blocks map[uint64]*xattrRefs
	told   map[uint64]uint32 // blocks that are not sound, and the first inode that has each
	values map[uint32]uint32 // references to inodes that hold values
}

type xattrRefs struct {
	stored, counted uint32
	values          uint64 // what those in inodes of their own occupy, in blocks
	inodes          uint64 // how many those are
	unit            uint32 // group of an inode that has it
	sound           bool
}

func (t *xattrTable) init(budget int64) {
	t.room = int(budget / 256) // what the entries of all maps need
	t.blocks, t.values, t.told = map[uint64]*xattrRefs{}, map[uint32]uint32{}, map[uint64]uint32{}
}

// xattrs examines the attributes inside an inode.
func (x *examination) xattrs() error {
	c, in := x.c, x.in
	if in.ExtraIsize != 0 && len(in.raw) > disk.InodeSizeOld {
		a, err := xattr.Inode("attributes", in.raw, in.ExtraIsize)
		if err != nil {
			x.found(InodeXattrCorrupt, "inode %d has corrupt attributes: %v", in.ino, err)
		} else {
			n, inodes := c.valueBlocks(a)
			x.blocks, x.valueInodes = x.blocks+n, x.valueInodes+inodes
			if err := x.values(a, false, true); err != nil {
				return err
			}
		}
	}
	return nil
}

// xattrBlock examines the attributes of an inode that are in a block.
func (x *examination) xattrBlock() error {
	c, in := x.c, x.in
	if in.FileACL == 0 || !c.xattrPlace(in) {
		return nil
	}
	blk := in.FileACL
	unit, _ := c.geo.InodeGroup(in.ino)
	t := &c.xattrs
	b := make([]byte, c.geo.BlockSize)
	seen, done := t.again(blk, unit)
	if !done {
		if err := c.readBlock(b, blk); err != nil && err != errBeyond {
			return err
		}
		if disk.DecodeXattrHeader(b).Magic != disk.XattrMagic {
			x.b.block(XattrBlockIllegal, in.ino, blk, "inode %d has a bad attribute block %d", in.ino, blk)
			return nil
		}
	}
	x.hasXattrs = true
	if done {
		x.blocks, x.valueInodes = x.blocks+seen.values, x.valueInodes+seen.inodes
		return nil
	}
	h := disk.DecodeXattrHeader(b)
	a, corrupt := xattr.Block("attributes", b)
	values, inodes := uint64(0), uint64(0)
	if h.Blocks == 1 {
		values, inodes = c.valueBlocks(a)
	}
	x.blocks, x.valueInodes = x.blocks+values, x.valueInodes+inodes
	first := seen == nil && t.enter(blk, &xattrRefs{stored: h.RefCount, counted: 1, values: values, inodes: inodes, unit: unit})
	if first {
		c.claims.add(blk>>c.geo.ClusterBits, 1, func(start, n uint64) { c.claimedTwice.add(start, n, nil) })
	}
	// What is wrong is told once, of the first inode that has the block: each group
	// tells it, and the merge leaves that of the lowest one.
	x.b.once = blk
	defer func() { x.b.once = 0 }()
	before := x.b.total
	switch {
	case h.Blocks != 1:
		x.b.block(XattrBlockMultiple, in.ino, blk, "attribute block %d has h_blocks > 1", blk)
		return nil
	case corrupt != nil:
		class := XattrBlockCorrupt
		if strings.Contains(corrupt.Error(), "zero byte") {
			class = InodeXattrCorrupt // a name: e2fsck sees that its hash is wrong
		}
		x.b.block(class, in.ino, blk, "attribute block %d is corrupt: %v", blk, corrupt)
		return nil
	case unnamed(a):
		x.b.block(XattrBlockCorrupt, in.ino, blk, "attribute block %d is corrupt: it has an attribute without a prefix", blk)
		return nil
	case c.sums.Metadata && c.sums.XattrBlock(blk, b) != h.Checksum:
		x.b.block(XattrBlockChecksum, in.ino, blk, "attribute block %d of inode %d passes checks, but its checksum does not match", blk, in.ino)
	}
	err := x.values(a, true, first)
	if x.b.total == before {
		t.mu.Lock()
		if r := t.blocks[blk]; r != nil {
			r.sound = true
		}
		t.mu.Unlock()
	}
	return err
}

// unnamed tells whether an attribute has no prefix, which only those in inodes may have.
func unnamed(a xattr.Area) (any bool) {
	a.Each(func(at xattr.Attr) bool {
		any = any || at.Index == 0
		return true
	})
	return any
}

// again counts a reference to an attribute block that was seen before, and tells
// whether there is no more to do: it was sound, or the unit has examined it.
func (t *xattrTable) again(blk uint64, unit uint32) (seen *xattrRefs, done bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if seen = t.blocks[blk]; seen == nil {
		return nil, false
	}
	seen.counted++
	done = seen.sound || seen.unit == unit
	seen.unit = min(seen.unit, unit)
	return seen, done
}

// first tells whether an inode is the first one of which something about an attribute
// block is told. It is for the merge, which has one goroutine.
func (t *xattrTable) first(blk uint64, ino uint32) bool {
	owner, ok := t.told[blk]
	if !ok && len(t.told) < t.room {
		t.told[blk] = ino
	}
	return !ok || owner == ino
}

// enter notes an attribute block, and tells whether nobody else did.
func (t *xattrTable) enter(blk uint64, r *xattrRefs) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if seen := t.blocks[blk]; seen != nil {
		seen.counted++
		return false
	}
	if len(t.blocks) >= t.room {
		t.cut = true
		return true
	}
	t.blocks[blk] = r
	return true
}

// valueBlocks is how many blocks and inodes an inode is charged for values that are
// in inodes of their own.
func (c *checker) valueBlocks(a xattr.Area) (n, inodes uint64) {
	size := uint64(c.geo.BlockSize) << c.geo.ClusterBits
	a.Each(func(at xattr.Attr) bool {
		if at.Ino != 0 {
			inodes++
			n += (uint64(at.Size) + size - 1) / size << c.geo.ClusterBits
		}
		return true
	})
	return n, inodes
}

// values examines the hashes of values, and those that are in inodes of their own.
// block says that they are of an attribute block, count that they are to be counted.
func (x *examination) values(a xattr.Area, block, count bool) (err error) {
	c, in := x.c, x.in
	a.Each(func(at xattr.Attr) bool {
		if at.Ino == 0 {
			if (block || at.Hash != 0) && !xattr.HashFits(&at) {
				x.found(InodeXattrCorrupt, "an attribute in inode %d has a hash (%d) which is invalid", in.ino, at.Hash)
			}
			return true
		}
		if at.Ino < c.geo.FirstIno || at.Ino > c.geo.InodesCount || c.sb.Incompat&disk.IncompatEAInode == 0 {
			x.found(XattrInode, "inode %d has an illegal attribute value inode %d", in.ino, at.Ino)
			return true
		}
		t := &c.xattrs
		t.mu.Lock()
		if _, ok := t.values[at.Ino]; !count {
		} else if ok || len(t.values) < t.room {
			t.values[at.Ino]++
		} else {
			t.cut = true
		}
		t.mu.Unlock()
		v, ok, e := c.inode(at.Ino)
		if err = e; err != nil {
			return false
		}
		switch {
		case !ok || v.Links == 0:
			x.found(XattrInode, "inode %d has an illegal attribute value inode %d", in.ino, at.Ino)
		case !v.is(disk.FlagEAInode):
			x.found(XattrInodeFlag, "the attribute value inode %d of inode %d is not marked as one", at.Ino, in.ino)
		}
		return true
	})
	return err
}

// checkXattrRefs compares the reference counts of attribute blocks.
func (c *checker) checkXattrRefs(b *batch) error {
	if c.xattrs.cut {
		// What is counted is not all.
		c.warn("there are too many attribute blocks and values for the memory allowed: their references were not counted")
		c.xattrs.blocks, c.xattrs.values = nil, nil
		return nil
	}
	var wrong []uint64
	for blk, r := range c.xattrs.blocks {
		if r.stored != r.counted {
			wrong = append(wrong, blk)
		}
	}
	slices.SortFunc(wrong, cmp.Compare[uint64])
	for _, blk := range wrong {
		r := c.xattrs.blocks[blk]
		b.add(Finding{Class: XattrBlockRefs, Block: blk,
			Text: sprintf("attribute block %d has reference count %d, should be %d", blk, r.stored, r.counted)})
	}
	c.xattrs.blocks = nil
	return nil
}
