package check

import "ext4box/ext4/internal/disk"

// pass1 examines every inode, and notes what it is and which blocks it claims.
func (c *checker) pass1() error {
	return c.parallel(uint64(c.geo.Groups), "groups", func(unit uint64, b *batch) error {
		group := uint32(unit)
		d, _, ok, err := c.desc(group)
		if err != nil {
			return err
		}
		if !ok {
			b.group(GroupDescUnreadable, group, "the descriptor of group %d lies beyond the device", group)
			return nil
		}
		n := c.geo.InodesPerGroup
		if c.sums.Metadata || c.sums.GDT {
			if d.Flags&disk.GroupInodeUninit != 0 {
				return nil
			}
			n -= min(d.ItableUnused, n)
		}
		for i := range n {
			in, ok, err := c.inode(group*c.geo.InodesPerGroup + i + 1)
			if err != nil {
				return err
			}
			if !ok || in.Links == 0 {
				continue
			}
			b.later(func() { c.rep.InodesUsed++ })
			if err := c.examine(in, b); err != nil {
				return err
			}
		}
		return nil
	})
}

// examine looks at one inode that is in use.
func (c *checker) examine(in *inode, b *batch) error {
	f := factUsed | fact(fileType(in))
	defer func() { c.inodes.set(in.ino, f, in.Links) }()
	if in.ino == disk.InoRoot && !in.IsDir() {
		b.inode(RootNotDir, in.ino, "the root inode is not a directory")
	}
	if !in.mapped() {
		return nil
	}
	problem := func(class Class, blk uint64, format string, args ...any) {
		f |= factNoBlocks
		b.block(class, in.ino, blk, "inode %d "+format, append([]any{in.ino}, args...)...)
	}
	return c.walkMap(in, problem, func(m mapping) bool {
		c.claims.add(m.start>>c.geo.ClusterBits, m.n, nil)
		return true
	})
}

// fileType is the type of an inode as directory entries have it.
func fileType(in *inode) uint8 {
	switch in.Type() {
	case disk.ModeReg:
		return disk.FTReg
	case disk.ModeDir:
		return disk.FTDir
	case disk.ModeChar:
		return disk.FTChar
	case disk.ModeBlock:
		return disk.FTBlock
	case disk.ModeFifo:
		return disk.FTFifo
	case disk.ModeSocket:
		return disk.FTSocket
	case disk.ModeLink:
		return disk.FTSymlink
	}
	return disk.FTUnknown
}
