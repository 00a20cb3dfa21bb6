package check

import (
	"fmt"

	"ext4box/ext4/internal/disk"
)

// loadSuper finds a superblock that can be used and takes over what it says.
func (c *checker) loadSuper(b *batch) error {
	problem, class, err := c.trySuper(0, disk.SuperblockOffset)
	if err != nil || problem == "" {
		return err
	}
	b.fs(class, "%s", problem)
	if class == FeaturesUnsupported {
		return errStop
	}
	// Where the copies are depends on what cannot be known; mke2fs fills groups.
	for bits := uint(10); bits <= 16; bits++ {
		group1 := uint64(8) << bits
		if bits == 10 {
			group1++
		}
		problem, _, err := c.trySuper(group1, group1<<bits)
		if err != nil {
			return err
		}
		if problem == "" && c.geo.BlockBits == bits {
			b.fs(SuperblockBackup, "the copy of the superblock in block %d is used instead", group1)
			return nil
		}
	}
	return errStop
}

// trySuper takes over the superblock at byte off, which is in block blk unless it
// is the primary one. It returns what is wrong with it.
func (c *checker) trySuper(blk, off uint64) (problem string, class Class, err error) {
	raw := make([]byte, disk.SuperblockSize)
	switch err := c.read(raw, off); {
	case err == errBeyond:
		return "the superblock lies beyond the end of the device", SuperblockCorrupt, nil
	case err != nil:
		return "", "", err
	}
	sb := disk.DecodeSuperblock(raw)
	if sb.Magic != disk.SuperMagic {
		return fmt.Sprintf("the superblock has magic number %#x", sb.Magic), SuperblockCorrupt, nil
	}
	if sb.ROCompat&disk.ROCompatMetadataCsum != 0 {
		if sb.ChecksumType != 1 {
			return fmt.Sprintf("the superblock names an unknown checksum algorithm, %d", sb.ChecksumType), SuperblockCorrupt, nil
		}
		if disk.SuperblockChecksum(raw) != sb.Checksum {
			return "the checksum of the superblock does not match", SuperblockChecksum, nil
		}
	}
	if sb.RevLevel > disk.RevDynamic {
		return fmt.Sprintf("the revision %d is too high", sb.RevLevel), SuperblockCorrupt, nil
	}
	geo, err := sb.Geometry()
	if err != nil {
		return err.Error(), SuperblockCorrupt, nil
	}
	if want := sb.LogBlockSize; sb.ROCompat&disk.ROCompatBigalloc == 0 && sb.LogClusterSize != want {
		return fmt.Sprintf("the superblock has clusters of 2^%d bytes without bigalloc", uint64(sb.LogClusterSize)+10), SuperblockCorrupt, nil
	}
	if sb.ROCompat&disk.ROCompatBigalloc == 0 && sb.ClustersPerGroup != sb.BlocksPerGroup {
		return fmt.Sprintf("the superblock has %d clusters per group", sb.ClustersPerGroup), SuperblockCorrupt, nil
	}
	if sb.LogGroupsPerFlex > 31 {
		return fmt.Sprintf("the superblock has flexible groups of 2^%d groups", sb.LogGroupsPerFlex), SuperblockCorrupt, nil
	}
	if names := unsupported(&sb); len(names) > 0 {
		return fmt.Sprintf("the filesystem has features that the check does not know: %q", names), FeaturesUnsupported, nil
	}
	c.sb, c.sbRaw, c.geo = sb, raw, geo
	c.sums, c.hurd = sb.Checksums(), sb.CreatorOS == disk.CreatorHurd
	c.sbBlock = blk
	if blk == 0 {
		c.sbBlock = disk.SuperblockOffset >> geo.BlockBits
	}
	return "", "", nil
}

// Features that are known here. The others could change what everything means.
const (
	compatKnown = disk.CompatDirPrealloc | disk.CompatImagicInodes | disk.CompatHasJournal | disk.CompatExtAttr |
		disk.CompatResizeInode | disk.CompatDirIndex | disk.CompatSparseSuper2 | disk.CompatFastCommit |
		disk.CompatStableInodes | disk.CompatOrphanFile
	roCompatKnown = disk.ROCompatWritable | disk.ROCompatReadonly | disk.ROCompatSharedBlocks
)

func unsupported(sb *disk.Superblock) []string {
	if sb.RevLevel == disk.RevGood {
		return nil
	}
	names := (sb.Incompat &^ disk.IncompatReadable).Names()
	names = append(names, (sb.ROCompat &^ roCompatKnown).Names()...)
	return append(names, (sb.Compat &^ compatKnown).Names()...)
}

// superFields examines values of the superblock that are no matter of geometry.
func (c *checker) superFields(b *batch) error {
	sb, g := &c.sb, &c.geo
	impossible := func(name string, v uint64) error {
		b.fs(SuperblockField, "corruption found in superblock (%s = %d)", name, v)
		return errStop
	}
	switch {
	case sb.ReservedBlocks > g.BlocksCount/2:
		return impossible("r_blocks_count", sb.ReservedBlocks)
	case uint32(sb.ReservedGDT) > g.BlockSize/4:
		return impossible("reserved_gdt_blocks", uint64(sb.ReservedGDT))
	case sb.FirstIno > g.InodesCount:
		return impossible("first_ino", uint64(sb.FirstIno))
	case sb.DescSize > 1024 || sb.DescSize&(sb.DescSize-1) != 0:
		return impossible("desc_size", uint64(sb.DescSize))
	}
	if size := uint64(c.dev.Size()) >> g.BlockBits; g.BlocksCount > size {
		b.fs(FSSizeWrong, "the filesystem has %d blocks according to the superblock, the device %d", g.BlocksCount, size)
	}
	if sb.Compat&disk.CompatResizeInode == 0 && sb.ReservedGDT != 0 {
		b.minor(ReservedGDT, "the filesystem has no resize_inode, but s_reserved_gdt_blocks is %d", sb.ReservedGDT)
	}
	if sb.Compat&disk.CompatResizeInode != 0 && sb.Incompat&disk.IncompatMetaBG != 0 {
		b.fs(FeaturesConflict, "resize_inode and meta_bg are not compatible")
	}
	if sb.Incompat&disk.IncompatCsumSeed != 0 && sb.ROCompat&disk.ROCompatMetadataCsum == 0 {
		b.minor(FeaturesConflict, "metadata_csum_seed is not necessary without metadata_csum")
	}
	if sb.ROCompat&disk.ROCompatMetadataCsum != 0 && sb.ROCompat&disk.ROCompatGDTCsum != 0 {
		b.minor(FeaturesConflict, "metadata_csum supersedes uninit_bg")
	}
	if sb.Incompat&disk.Incompat64Bit != 0 && g.BlocksCount > 1<<32 && sb.Incompat&disk.IncompatExtents == 0 {
		b.minor(FeaturesConflict, "a filesystem of this size needs extents")
	}
	if sb.RevLevel == disk.RevGood && (sb.Compat != 0 || sb.Incompat != 0 || sb.ROCompat != 0) {
		b.minor(FeaturesConflict, "the filesystem has features, but is of revision 0")
	}
	return nil
}
