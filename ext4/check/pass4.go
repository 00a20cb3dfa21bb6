package check

import "ext4box/ext4/internal/disk"

// linkMax is the largest link count there is; beyond it that of a directory is 1.
const linkMax = 65000

// pass4 compares the link counts of inodes with the entries that were found.
func (c *checker) pass4() error {
	return c.parallel(uint64(c.geo.Groups), "groups", func(unit uint64, b *batch) error {
		var err error
		c.inodes.each(uint32(unit), func(ino uint32, f fact) bool {
			err = c.links(b, ino, f)
			return err == nil
		})
		return err
	})
}

// links examines the link count of one inode that is in use.
func (c *checker) links(b *batch, ino uint32, f fact) error {
	switch {
	case ino < c.geo.FirstIno && ino != disk.InoRoot,
		ino == c.sb.OrphanFileIno && c.sb.Compat&disk.CompatOrphanFile != 0,
		ino == c.sb.ProjectQuotaIno && c.sb.ROCompat&disk.ROCompatQuota != 0:
		return nil
	}
	if f&factEA != 0 && (c.xattrs.cut || c.xattrs.values[ino] > 0) {
		if c.xattrs.cut {
			return nil
		}
		return c.valueRefs(b, ino)
	}
	stored, counted := c.inodes.stored(ino), c.inodes.counted(ino)
	if counted == 0 {
		in, ok, err := c.inode(ino)
		if err != nil || !ok {
			return err
		}
		if in.Blocks == 0 && (in.IsReg() || in.IsDir()) && !in.is(disk.FlagInlineData) {
			b.inode(InodeUnattachedEmpty, ino, "inode %d, of length zero, has no name", ino)
		} else {
			b.inode(InodeUnattached, ino, "inode %d has no name", ino)
		}
		// The rest of e2fsck compares with the name that it would give.
		if stored != 1 {
			b.inode(LinkCount, ino, "inode %d has the link count %d instead of 1", ino, stored)
		}
		return nil
	}
	if f.isDir() && counted > linkMax {
		if c.sb.ROCompat&disk.ROCompatDirNlink == 0 {
			b.inode(LinkCountFeature, ino, "directory inode %d has %d links, more than there may be without dir_nlink", ino, counted)
		}
		counted = 1
	}
	if stored != counted {
		b.inode(LinkCount, ino, "inode %d has the link count %d instead of %d", ino, stored, counted)
	}
	return nil
}

// valueRefs examines the count of references to the value of an attribute.
func (c *checker) valueRefs(b *batch, ino uint32) error {
	in, ok, err := c.inode(ino)
	if err != nil || !ok {
		return err
	}
	// The count is where others have version and time of change.
	stored := in.Version&0xFFFFFFFF | uint64(le32(in.raw[0x0C:]))<<32
	if counted := uint64(c.xattrs.values[ino]); stored != counted {
		b.inode(XattrInodeRefs, ino, "attribute value inode %d has reference count %d, should be %d", ino, stored, counted)
	}
	return nil
}
