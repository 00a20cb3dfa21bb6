package check

import "ext4box/ext4/internal/disk"

// pass0 examines the superblock and the descriptors, and sets up everything that
// depends on them.
func (c *checker) pass0() error {
	return c.serial(func(b *batch) error {
		c.sbRaw = make([]byte, disk.SuperblockSize)
		switch err := c.read(c.sbRaw, disk.SuperblockOffset); {
		case err == errBeyond:
			b.fs(SuperblockCorrupt, "the superblock lies beyond the end of the device")
			return errStop
		case err != nil:
			return err
		}
		c.sb = disk.DecodeSuperblock(c.sbRaw)
		geo, err := c.sb.Geometry()
		if err != nil {
			b.fs(SuperblockCorrupt, "%v", err)
			return errStop
		}
		c.geo, c.sums, c.hurd = geo, c.sb.Checksums(), c.sb.CreatorOS == disk.CreatorHurd
		c.sbBlock = disk.SuperblockOffset >> geo.BlockBits
		c.inodes.init(&c.geo)
		c.claims = newBlockSet(&c.geo, c.opt.Memory/2)
		if c.sb.Incompat&disk.IncompatRecover != 0 {
			c.warn("the journal has not been replayed: what it holds is not taken into account")
		}
		return nil
	})
}
