package check

import "ext4box/ext4/internal/disk"

// mmp examines the block by which hosts that share a device tell each other.
func (c *checker) mmp(b *batch) error {
	if c.sb.Incompat&disk.IncompatMMP == 0 {
		return nil
	}
	blk := c.sb.MMPBlock
	if blk <= uint64(c.geo.FirstDataBlock) || blk >= c.geo.BlocksCount {
		b.fs(MMPInvalid, "the superblock has an invalid MMP block, %d", blk)
		return nil
	}
	raw := make([]byte, c.geo.BlockSize)
	if err := c.readBlock(raw, blk); err != nil {
		if err == errBeyond {
			b.fs(MMPInvalid, "the MMP block, %d, lies beyond the device", blk)
			return nil
		}
		return err
	}
	switch m, err := disk.DecodeMMP(&c.sums, raw); {
	case err != nil:
		b.block(MMPInvalid, 0, blk, "the MMP block, %d, is invalid: %v", blk, err)
	case m.Seq == disk.MMPSeqFsck:
		b.block(MMPInvalid, 0, blk, "the MMP block, %d, says that e2fsck is at work: if it is not, clear it with tune2fs -E clear_mmp", blk)
		return errStop
	}
	return nil
}
