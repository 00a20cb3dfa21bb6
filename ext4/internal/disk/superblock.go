package disk

import (
	"encoding/binary"
	"time"
)

const (
	// SuperblockOffset is where the primary superblock starts on the device.
	SuperblockOffset = 1024
	// SuperblockSize is the length of a superblock.
	SuperblockSize = 1024
	// SuperMagic is the value of Superblock.Magic.
	SuperMagic = 0xEF53
)

// Values of Superblock.State.
const (
	StateValid  = 0x1 // unmounted cleanly
	StateErrors = 0x2 // errors were detected
	StateOrphan = 0x4 // orphans are being recovered
	StateFC     = 0x20
)

// Values of Superblock.RevLevel.
const (
	RevGood    = 0 // fixed 128-byte inodes, no feature masks
	RevDynamic = 1
)

// Bits of Superblock.Flags.
const (
	FlagSignedHash   = 0x1 // directory hashes take names as signed chars
	FlagUnsignedHash = 0x2
	FlagTestFS       = 0x4
)

// Bits of Superblock.DefaultMountOpts.
const (
	DefMountDebug      = 0x1
	DefMountBSDGroups  = 0x2
	DefMountXattrUser  = 0x4
	DefMountACL        = 0x8
	DefMountUID16      = 0x10
	DefMountJMode      = 0x60
	DefMountNoBarrier  = 0x100
	DefMountBlockValid = 0x200
	DefMountDiscard    = 0x400
	DefMountNoDelalloc = 0x800
)

// CreatorHurd is the CreatorOS of images made by the Hurd, whose inodes use
// the OS-dependent fields differently.
const CreatorHurd = 1

// Bits of Superblock.EncodingFlags.
const EncodingStrict = 0x1

// Superblock describes the whole filesystem. Fields are as stored.
type Superblock struct {
	InodesCount      uint32     // 0x00
	BlocksCount      uint64     // 0x04, 0x150
	ReservedBlocks   uint64     // 0x08, 0x154
	FreeBlocks       uint64     // 0x0C, 0x158; in blocks also with bigalloc
	FreeInodes       uint32     // 0x10
	FirstDataBlock   uint32     // 0x14
	LogBlockSize     uint32     // 0x18; block size is 1024 << this
	LogClusterSize   uint32     // 0x1C
	BlocksPerGroup   uint32     // 0x20
	ClustersPerGroup uint32     // 0x24
	InodesPerGroup   uint32     // 0x28
	MountTime        int64      // 0x2C, 0x275; seconds
	WriteTime        int64      // 0x30, 0x274
	MountCount       uint16     // 0x34
	MaxMountCount    int16      // 0x36
	Magic            uint16     // 0x38
	State            uint16     // 0x3A
	Errors           uint16     // 0x3C; what to do on errors
	MinorRevLevel    uint16     // 0x3E
	LastCheck        int64      // 0x40, 0x277
	CheckInterval    uint32     // 0x44; seconds
	CreatorOS        uint32     // 0x48
	RevLevel         uint32     // 0x4C
	DefResUID        uint32     // 0x50
	DefResGID        uint32     // 0x52
	FirstIno         uint32     // 0x54
	InodeSize        uint16     // 0x58
	BlockGroupNr     uint16     // 0x5A
	Compat           Compat     // 0x5C
	Incompat         Incompat   // 0x60
	ROCompat         ROCompat   // 0x64
	UUID             [16]byte   // 0x68
	VolumeName       [16]byte   // 0x78
	LastMounted      [64]byte   // 0x88
	ReservedGDT      uint16     // 0xCE; blocks kept for growing the descriptor table
	JournalUUID      [16]byte   // 0xD0
	JournalIno       uint32     // 0xE0
	JournalDev       uint32     // 0xE4
	LastOrphan       uint32     // 0xE8
	HashSeed         [4]uint32  // 0xEC
	DefHashVersion   uint8      // 0xFC
	JournalBackup    uint8      // 0xFD
	DescSize         uint16     // 0xFE
	DefaultMountOpts uint32     // 0x100
	FirstMetaBG      uint32     // 0x104
	MkfsTime         int64      // 0x108, 0x276
	JournalBlocks    [17]uint32 // 0x10C; copy of the journal inode's map and size
	MinExtraIsize    uint16     // 0x15C
	WantExtraIsize   uint16     // 0x15E
	Flags            uint32     // 0x160
	RAIDStride       uint16     // 0x164
	MMPInterval      uint16     // 0x166; seconds
	MMPBlock         uint64     // 0x168
	RAIDStripeWidth  uint32     // 0x170
	LogGroupsPerFlex uint8      // 0x174
	ChecksumType     uint8      // 0x175; 1 is CRC-32C
	KBytesWritten    uint64     // 0x178
	ErrorCount       uint32     // 0x194
	FirstErrorTime   int64      // 0x198, 0x278
	FirstErrorIno    uint32     // 0x19C
	FirstErrorBlock  uint64     // 0x1A0
	FirstErrorFunc   [32]byte   // 0x1A8
	FirstErrorLine   uint32     // 0x1C8
	LastErrorTime    int64      // 0x1CC, 0x279
	LastErrorIno     uint32     // 0x1D0
	LastErrorLine    uint32     // 0x1D4
	LastErrorBlock   uint64     // 0x1D8
	LastErrorFunc    [32]byte   // 0x1E0
	MountOpts        [64]byte   // 0x200; may lack its NUL
	UserQuotaIno     uint32     // 0x240
	GroupQuotaIno    uint32     // 0x244
	OverheadClusters uint32     // 0x248; 0 when not recorded
	BackupBGs        [2]uint32  // 0x24C; sparse_super2
	LostFoundIno     uint32     // 0x268
	ProjectQuotaIno  uint32     // 0x26C
	ChecksumSeed     uint32     // 0x270
	FirstErrorCode   uint8      // 0x27A
	LastErrorCode    uint8      // 0x27B
	Encoding         uint16     // 0x27C; 1 is UTF-8 12.1
	EncodingFlags    uint16     // 0x27E
	OrphanFileIno    uint32     // 0x280
	Checksum         uint32     // 0x3FC
}

// DecodeSuperblock reads a superblock from b, which must hold SuperblockSize
// bytes. It checks nothing.
func DecodeSuperblock(b []byte) (sb Superblock) {
	_ = b[SuperblockSize-1]
	le := binary.LittleEndian
	u16 := func(off int) uint16 { return le.Uint16(b[off:]) }
	u32 := func(off int) uint32 { return le.Uint32(b[off:]) }
	u64 := func(off int) uint64 { return le.Uint64(b[off:]) }
	split := func(lo, hi int) uint64 { return uint64(u32(lo)) | uint64(u32(hi))<<32 }
	secs := func(lo, hi int) int64 { return int64(u32(lo)) | int64(b[hi])<<32 }

	sb.InodesCount = u32(0x00)
	sb.BlocksCount = uint64(u32(0x04))
	sb.ReservedBlocks = uint64(u32(0x08))
	sb.FreeBlocks = uint64(u32(0x0C))
	sb.FreeInodes = u32(0x10)
	sb.FirstDataBlock = u32(0x14)
	sb.LogBlockSize = u32(0x18)
	sb.LogClusterSize = u32(0x1C)
	sb.BlocksPerGroup = u32(0x20)
	sb.ClustersPerGroup = u32(0x24)
	sb.InodesPerGroup = u32(0x28)
	sb.MountTime = secs(0x2C, 0x275)
	sb.WriteTime = secs(0x30, 0x274)
	sb.MountCount = u16(0x34)
	sb.MaxMountCount = int16(u16(0x36))
	sb.Magic = u16(0x38)
	sb.State = u16(0x3A)
	sb.Errors = u16(0x3C)
	sb.MinorRevLevel = u16(0x3E)
	sb.LastCheck = secs(0x40, 0x277)
	sb.CheckInterval = u32(0x44)
	sb.CreatorOS = u32(0x48)
	sb.RevLevel = u32(0x4C)
	sb.DefResUID = uint32(u16(0x50))
	sb.DefResGID = uint32(u16(0x52))

	sb.FirstIno = u32(0x54)
	sb.InodeSize = u16(0x58)
	if sb.RevLevel == RevGood {
		// Fixed by the revision. The fields below came with revision 1 as well,
		// but mke2fs sets them in both, and the kernel uses them in both.
		sb.FirstIno, sb.InodeSize = 11, InodeSizeOld
	}
	sb.BlockGroupNr = u16(0x5A)
	sb.Compat = Compat(u32(0x5C))
	sb.Incompat = Incompat(u32(0x60))
	sb.ROCompat = ROCompat(u32(0x64))
	copy(sb.UUID[:], b[0x68:])
	copy(sb.VolumeName[:], b[0x78:])
	copy(sb.LastMounted[:], b[0x88:])
	sb.ReservedGDT = u16(0xCE)
	copy(sb.JournalUUID[:], b[0xD0:])
	sb.JournalIno = u32(0xE0)
	sb.JournalDev = u32(0xE4)
	sb.LastOrphan = u32(0xE8)
	for i := range sb.HashSeed {
		sb.HashSeed[i] = u32(0xEC + 4*i)
	}
	sb.DefHashVersion = b[0xFC]
	sb.JournalBackup = b[0xFD]
	sb.DescSize = u16(0xFE)
	sb.DefaultMountOpts = u32(0x100)
	sb.FirstMetaBG = u32(0x104)
	sb.MkfsTime = secs(0x108, 0x276)
	for i := range sb.JournalBlocks {
		sb.JournalBlocks[i] = u32(0x10C + 4*i)
	}
	// The high halves are undefined unless the feature says so.
	if sb.Incompat&Incompat64Bit != 0 {
		sb.BlocksCount = split(0x04, 0x150)
		sb.ReservedBlocks = split(0x08, 0x154)
		sb.FreeBlocks = split(0x0C, 0x158)
	}
	sb.MinExtraIsize = u16(0x15C)
	sb.WantExtraIsize = u16(0x15E)
	sb.Flags = u32(0x160)
	sb.RAIDStride = u16(0x164)
	sb.MMPInterval = u16(0x166)
	sb.MMPBlock = u64(0x168)
	sb.RAIDStripeWidth = u32(0x170)
	sb.LogGroupsPerFlex = b[0x174]
	sb.ChecksumType = b[0x175]
	sb.KBytesWritten = u64(0x178)
	sb.ErrorCount = u32(0x194)
	sb.FirstErrorTime = secs(0x198, 0x278)
	sb.FirstErrorIno = u32(0x19C)
	sb.FirstErrorBlock = u64(0x1A0)
	copy(sb.FirstErrorFunc[:], b[0x1A8:])
	sb.FirstErrorLine = u32(0x1C8)
	sb.LastErrorTime = secs(0x1CC, 0x279)
	sb.LastErrorIno = u32(0x1D0)
	sb.LastErrorLine = u32(0x1D4)
	sb.LastErrorBlock = u64(0x1D8)
	copy(sb.LastErrorFunc[:], b[0x1E0:])
	copy(sb.MountOpts[:], b[0x200:])
	sb.UserQuotaIno = u32(0x240)
	sb.GroupQuotaIno = u32(0x244)
	sb.OverheadClusters = u32(0x248)
	sb.BackupBGs = [2]uint32{u32(0x24C), u32(0x250)}
	sb.LostFoundIno = u32(0x268)
	sb.ProjectQuotaIno = u32(0x26C)
	sb.ChecksumSeed = u32(0x270)
	sb.FirstErrorCode = b[0x27A]
	sb.LastErrorCode = b[0x27B]
	sb.Encoding = u16(0x27C)
	sb.EncodingFlags = u16(0x27E)
	sb.OrphanFileIno = u32(0x280)
	sb.Checksum = u32(0x3FC)
	return sb
}

// SuperblockChecksum computes what the Checksum field of the raw superblock b
// should hold.
func SuperblockChecksum(b []byte) uint32 { return CRC32C(^uint32(0), b[:0x3FC]) }

// Checksums derives how metadata is checksummed.
func (sb *Superblock) Checksums() Checksums {
	c := Checksums{
		Metadata: sb.ROCompat&ROCompatMetadataCsum != 0,
		GDT:      sb.ROCompat&ROCompatGDTCsum != 0,
		uuid:     sb.UUID,
	}
	if sb.Incompat&IncompatCsumSeed != 0 {
		c.Seed = sb.ChecksumSeed
	} else {
		c.Seed = CRC32C(^uint32(0), sb.UUID[:])
	}
	return c
}

// GroupsPerFlex is the number of groups in a flexible group, a power of two.
func (sb *Superblock) GroupsPerFlex() uint32 {
	if l := sb.LogGroupsPerFlex; sb.Incompat&IncompatFlexBG != 0 && l < 32 {
		return 1 << l
	}
	return 1
}

// UnsignedHash tells whether the directory hashes of this filesystem take the
// bytes of names as unsigned. It is recorded once, by the first machine that
// wrote the image, since the original hash depended on its char type.
func (sb *Superblock) UnsignedHash() bool { return sb.Flags&FlagUnsignedHash != 0 }

// CString is the text before the first NUL of a fixed-size field, or all of it.
func CString(field []byte) string {
	for i, c := range field {
		if c == 0 {
			return string(field[:i])
		}
	}
	return string(field)
}

// Time converts seconds of a superblock field; the zero time is "never".
func Time(secs int64) time.Time {
	if secs == 0 {
		return time.Time{}
	}
	return time.Unix(secs, 0)
}
