package check

import (
	"ext4box/ext4/internal/disk"
)

// tableRead is how much of an inode table is read at once, in bytes.
const tableRead = 256 << 10

// pass1 examines every inode, and notes what it is and which blocks it claims.
func (c *checker) pass1() error {
	if err := c.serial(c.claimMetadata); err != nil {
		return err
	}
	c.xattrs.init(c.opt.Memory / 32)
	c.quota.init(c, c.opt.Memory/64)
	err := c.parallel(uint64(c.geo.Groups), "groups", func(unit uint64, b *batch) error {
		used := uint64(0)
		err := c.eachInode(uint32(unit), func(in *inode) error {
			x := examination{c: c, b: b, in: in}
			err := x.inode()
			if x.fact.used() {
				used++
				x.charge()
				c.inodes.set(in.ino, x.fact, in.Links)
			}
			return err
		})
		b.later(func() { c.rep.InodesUsed += used })
		if c.inodes.memory.Load() > c.opt.Memory/2 {
			return errMemory
		}
		return err
	})
	if err != nil {
		return err
	}
	if err := c.serial(c.checkXattrRefs); err != nil {
		return err
	}
	if !c.meta.whole() {
		c.warn("the filesystem's own blocks do not fit the memory allowed: of what claims those of the highest groups it is only told that they are claimed twice")
	}
	return c.pass1b()
}

// eachInode calls fn for the inodes of a group whose table is in use. What fn is
// given holds only until it returns.
func (c *checker) eachInode(group uint32, fn func(*inode) error) error {
	d, _, ok, err := c.desc(group)
	if err != nil || !ok {
		return err
	}
	g := &c.geo
	n := g.InodesPerGroup
	if c.trustsUninit(group) {
		if d.Flags&disk.GroupInodeUninit != 0 {
			return nil
		}
		n -= min(d.ItableUnused, n)
	}
	if d.InodeTable >= g.BlocksCount {
		return nil
	}
	per := uint32(max(tableRead/g.InodeSize, 1))
	buf := make([]byte, min(n, per)*g.InodeSize)
	for i := uint32(0); i < n; i += per {
		if err := c.ctx.Err(); err != nil {
			return err
		}
		part := buf[:min(n-i, per)*g.InodeSize]
		err := c.read(part, d.InodeTable<<g.BlockBits+uint64(i)*uint64(g.InodeSize))
		if err == errBeyond {
			return nil
		}
		if err != nil {
			return err
		}
		for off := uint32(0); off < uint32(len(part)); off += g.InodeSize {
			raw := part[off : off+g.InodeSize]
			ino := group*g.InodesPerGroup + i + off/g.InodeSize + 1
			if ino >= g.FirstIno && isZero(raw) {
				continue
			}
			if err := fn(c.decode(ino, raw)); err != nil {
				return err
			}
		}
	}
	return nil
}

// trustsUninit tells whether what a group's descriptor says is not in use needs not
// be looked at.
func (c *checker) trustsUninit(group uint32) bool {
	return (c.sums.Metadata || c.sums.GDT) && !c.badDescs.has(group)
}

func isZero(b []byte) bool {
	for _, v := range b {
		if v != 0 {
			return false
		}
	}
	return true
}

// claimMetadata claims what belongs to the filesystem itself.
func (c *checker) claimMetadata(b *batch) error {
	g := &c.geo
	size := uint64(c.dev.Size()) >> g.BlockBits
	onDevice := uint64(0) // blocks of bitmaps and tables that can be read
	for group := range g.Groups {
		if group%1024 == 0 {
			if err := c.ctx.Err(); err != nil {
				return err
			}
		}
		d, _, ok, err := c.desc(group)
		if err != nil {
			return err
		}
		if n := g.BaseMeta(group); n > 0 {
			c.claimMeta(g.GroupFirstBlock(group), uint64(n), nil)
		}
		if !ok {
			continue
		}
		for _, part := range []struct {
			what     string
			start, n uint64
		}{{"block bitmap", d.BlockBitmap, 1}, {"inode bitmap", d.InodeBitmap, 1}, {"inode table", d.InodeTable, uint64(g.InodeTableBlocks)}} {
			if part.start >= g.BlocksCount || part.n > g.BlocksCount-part.start {
				continue
			}
			// Without this bound there could be far more to read than the device has.
			if part.start < size {
				onDevice += min(part.n, size-part.start)
			}
			if onDevice > size {
				b.group(GroupTableConflict, group, "the bitmaps and inode tables of groups 0 to %d have more blocks than the device: nothing of this can be right", group)
				return errStop
			}
			conflict := false
			c.claimMeta(part.start, part.n, func(_, _ uint64) { conflict = true })
			if conflict && g.ClusterBits == 0 {
				b.group(GroupTableConflict, group, "group %d's %s at block %d conflicts with some other block of the filesystem", group, part.what, part.start)
			}
		}
	}
	if c.sb.Incompat&disk.IncompatMMP != 0 && g.BlocksInRange(c.sb.MMPBlock, 1) {
		c.claimMeta(c.sb.MMPBlock, 1, nil)
	}
	return nil
}

func (c *checker) claimMeta(start, n uint64, again func(start, n uint64)) {
	bits := c.geo.ClusterBits
	first, last := start>>bits, (start+n-1)>>bits
	c.meta.add(first, last-first+1, again)
	c.claims.add(first, last-first+1, nil)
}

// resetNodes begins to count how often nodes are followed anew.
func (c *checker) resetNodes() {
	c.nodes.reset(0, uint64(c.geo.Groups))
	c.sharedNodes.Store(0)
	c.looseNodes.Store(0)
}

// pass1b finds out which inodes claim what is claimed more than once.
func (c *checker) pass1b() error {
	if c.claimedTwice.memory.Load() == 0 {
		return nil
	}
	if !c.claimedTwice.whole() {
		c.warn("so many blocks are claimed by several inodes that only those of the lowest groups are told of")
	}
	c.resetNodes()
	return c.parallel(uint64(c.geo.Groups), "groups", func(unit uint64, b *batch) error {
		return c.eachInode(uint32(unit), func(in *inode) error {
			if !c.inodes.fact(in.ino).used() {
				return nil
			}
			first, n := uint64(0), uint64(0)
			err := c.eachClaim(in, nil, func(start, count uint64) {
				c.claimedTwice.each(start, count, func(start, count uint64) bool {
					if n == 0 {
						first = start << c.geo.ClusterBits
					}
					n += count
					return true
				})
			})
			if n > 0 {
				b.block(MultiplyClaimed, in.ino, first, "inode %d has %d multiply-claimed blocks, the first is %d", in.ino, n, first)
			}
			return err
		})
	})
}
