package disk

import "encoding/binary"

// EncodeSuperblock stores sb in the raw superblock b, the inverse of
// [DecodeSuperblock]. Bytes that no field stands for are left as they are, and
// so are those that the revision or the features leave undefined. It does not
// compute the checksum; see [SealSuperblock].
func EncodeSuperblock(b []byte, sb *Superblock) {
	_ = b[SuperblockSize-1]
	le := binary.LittleEndian
	u16 := func(off int, v uint16) { le.PutUint16(b[off:], v) }
	u32 := func(off int, v uint32) { le.PutUint32(b[off:], v) }
	u64 := func(off int, v uint64) { le.PutUint64(b[off:], v) }
	secs := func(lo, hi int, v int64) { u32(lo, uint32(v)); b[hi] = byte(v >> 32) }

	u32(0x00, sb.InodesCount)
	u32(0x04, uint32(sb.BlocksCount))
	u32(0x08, uint32(sb.ReservedBlocks))
	u32(0x0C, uint32(sb.FreeBlocks))
	u32(0x10, sb.FreeInodes)
	u32(0x14, sb.FirstDataBlock)
	u32(0x18, sb.LogBlockSize)
	u32(0x1C, sb.LogClusterSize)
	u32(0x20, sb.BlocksPerGroup)
	u32(0x24, sb.ClustersPerGroup)
	u32(0x28, sb.InodesPerGroup)
	secs(0x2C, 0x275, sb.MountTime)
	secs(0x30, 0x274, sb.WriteTime)
	u16(0x34, sb.MountCount)
	u16(0x36, uint16(sb.MaxMountCount))
	u16(0x38, sb.Magic)
	u16(0x3A, sb.State)
	u16(0x3C, sb.Errors)
	u16(0x3E, sb.MinorRevLevel)
	secs(0x40, 0x277, sb.LastCheck)
	u32(0x44, sb.CheckInterval)
	u32(0x48, sb.CreatorOS)
	u32(0x4C, sb.RevLevel)
	u16(0x50, uint16(sb.DefResUID))
	u16(0x52, uint16(sb.DefResGID))
	if sb.RevLevel != RevGood {
		u32(0x54, sb.FirstIno)
		u16(0x58, sb.InodeSize)
	}
	u16(0x5A, sb.BlockGroupNr)
	u32(0x5C, uint32(sb.Compat))
	u32(0x60, uint32(sb.Incompat))
	u32(0x64, uint32(sb.ROCompat))
	copy(b[0x68:], sb.UUID[:])
	copy(b[0x78:], sb.VolumeName[:])
	copy(b[0x88:], sb.LastMounted[:])
	u16(0xCE, sb.ReservedGDT)
	copy(b[0xD0:], sb.JournalUUID[:])
	u32(0xE0, sb.JournalIno)
	u32(0xE4, sb.JournalDev)
	u32(0xE8, sb.LastOrphan)
	for i, v := range sb.HashSeed {
		u32(0xEC+4*i, v)
	}
	b[0xFC] = sb.DefHashVersion
	b[0xFD] = sb.JournalBackup
	u16(0xFE, sb.DescSize)
	u32(0x100, sb.DefaultMountOpts)
	u32(0x104, sb.FirstMetaBG)
	secs(0x108, 0x276, sb.MkfsTime)
	for i, v := range sb.JournalBlocks {
		u32(0x10C+4*i, v)
	}
	if sb.Incompat&Incompat64Bit != 0 {
		u32(0x150, uint32(sb.BlocksCount>>32))
		u32(0x154, uint32(sb.ReservedBlocks>>32))
		u32(0x158, uint32(sb.FreeBlocks>>32))
	}
	u16(0x15C, sb.MinExtraIsize)
	u16(0x15E, sb.WantExtraIsize)
	u32(0x160, sb.Flags)
	u16(0x164, sb.RAIDStride)
	u16(0x166, sb.MMPInterval)
	u64(0x168, sb.MMPBlock)
	u32(0x170, sb.RAIDStripeWidth)
	b[0x174] = sb.LogGroupsPerFlex
	b[0x175] = sb.ChecksumType
	u64(0x178, sb.KBytesWritten)
	u32(0x194, sb.ErrorCount)
	secs(0x198, 0x278, sb.FirstErrorTime)
	u32(0x19C, sb.FirstErrorIno)
	u64(0x1A0, sb.FirstErrorBlock)
	copy(b[0x1A8:], sb.FirstErrorFunc[:])
	u32(0x1C8, sb.FirstErrorLine)
	secs(0x1CC, 0x279, sb.LastErrorTime)
	u32(0x1D0, sb.LastErrorIno)
	u32(0x1D4, sb.LastErrorLine)
	u64(0x1D8, sb.LastErrorBlock)
	copy(b[0x1E0:], sb.LastErrorFunc[:])
	copy(b[0x200:], sb.MountOpts[:])
	u32(0x240, sb.UserQuotaIno)
	u32(0x244, sb.GroupQuotaIno)
	u32(0x248, sb.OverheadClusters)
	u32(0x24C, sb.BackupBGs[0])
	u32(0x250, sb.BackupBGs[1])
	u32(0x268, sb.LostFoundIno)
	u32(0x26C, sb.ProjectQuotaIno)
	u32(0x270, sb.ChecksumSeed)
	b[0x27A] = sb.FirstErrorCode
	b[0x27B] = sb.LastErrorCode
	u16(0x27C, sb.Encoding)
	u16(0x27E, sb.EncodingFlags)
	u32(0x280, sb.OrphanFileIno)
	u32(0x3FC, sb.Checksum)
}

// SealSuperblock stores the checksum in the raw superblock b, where the
// filesystem has them.
func (c *Checksums) SealSuperblock(b []byte) {
	if c.Metadata {
		binary.LittleEndian.PutUint32(b[0x3FC:], SuperblockChecksum(b))
	}
}
