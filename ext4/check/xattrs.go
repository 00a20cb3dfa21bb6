package check

import (
	"cmp"
	"slices"
	"sync"

	"ext4box/ext4/internal/disk"
	"ext4box/ext4/internal/xattr"
)

// xattrTable is what pass 1 remembers of attribute blocks that several inodes
// share.
type xattrTable struct {
	mu     sync.Mutex
	room   int
	blocks map[uint64]*xattrRefs
	values map[uint32]uint32 // references to inodes that hold values
}

type xattrRefs struct {
	stored, counted uint32
	values          uint64 // what those in inodes of their own occupy, in blocks
}

func (t *xattrTable) init(budget int64) {
	t.room = int(budget / 64)
	t.blocks, t.values = map[uint64]*xattrRefs{}, map[uint32]uint32{}
}

// xattrs examines the attributes of an inode.
func (x *examination) xattrs() error {
	c, in := x.c, x.in
	if in.ExtraIsize != 0 && len(in.raw) > disk.InodeSizeOld {
		a, err := xattr.Inode("", in.raw, in.ExtraIsize)
		if err != nil {
			x.found(InodeXattrCorrupt, "inode %d has corrupt attributes: %v", in.ino, err)
		} else {
			x.blocks += c.valueBlocks(a)
			if err := x.values(a); err != nil {
				return err
			}
		}
	}
	if in.FileACL == 0 || !c.xattrPlace(in) {
		return nil
	}
	blk := in.FileACL
	t := &c.xattrs
	t.mu.Lock()
	seen := t.blocks[blk]
	if seen != nil {
		seen.counted++
	}
	t.mu.Unlock()
	if seen != nil {
		x.hasXattrs = true
		x.blocks += seen.values
		return nil
	}
	b := make([]byte, c.geo.BlockSize)
	if err := c.readBlock(b, blk); err != nil && err != errBeyond {
		return err
	}
	h := disk.DecodeXattrHeader(b)
	if h.Magic != disk.XattrMagic {
		x.b.block(XattrBlockIllegal, in.ino, blk, "inode %d has a bad attribute block %d", in.ino, blk)
		return nil
	}
	x.hasXattrs = true
	a, corrupt := xattr.Block("", b)
	values := c.valueBlocks(a)
	t.mu.Lock()
	seen = t.blocks[blk]
	if seen != nil {
		seen.counted++
		x.blocks += seen.values
		t.mu.Unlock()
		return nil
	}
	if len(t.blocks) < t.room {
		t.blocks[blk] = &xattrRefs{stored: h.RefCount, counted: 1, values: values}
	}
	t.mu.Unlock()
	c.claims.add(blk>>c.geo.ClusterBits, 1, func(start, n uint64) { c.claimedTwice.add(start, n, nil) })
	if h.Blocks != 1 {
		x.b.block(XattrBlockMultiple, in.ino, blk, "attribute block %d has h_blocks > 1", blk)
		return nil
	}
	x.blocks += values
	if corrupt != nil {
		x.b.block(XattrBlockCorrupt, in.ino, blk, "attribute block %d is corrupt: %v", blk, corrupt)
		return nil
	}
	if c.sums.Metadata && c.sums.XattrBlock(blk, b) != h.Checksum {
		x.b.block(XattrBlockChecksum, in.ino, blk, "attribute block %d of inode %d passes checks, but its checksum does not match", blk, in.ino)
	}
	return x.values(a)
}

// valueBlocks is how many blocks an inode is charged for values that are in inodes
// of their own.
func (c *checker) valueBlocks(a xattr.Area) (n uint64) {
	size := uint64(c.geo.BlockSize) << c.geo.ClusterBits
	a.Each(func(at xattr.Attr) bool {
		if at.Ino != 0 {
			n += (uint64(at.Size) + size - 1) / size << c.geo.ClusterBits
		}
		return true
	})
	return n
}

// values examines values that are in inodes of their own.
func (x *examination) values(a xattr.Area) (err error) {
	c, in := x.c, x.in
	a.Each(func(at xattr.Attr) bool {
		if at.Ino == 0 {
			if at.Hash != 0 && !xattr.HashFits(&at) {
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
		if _, ok := t.values[at.Ino]; ok || len(t.values) < t.room {
			t.values[at.Ino]++
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
