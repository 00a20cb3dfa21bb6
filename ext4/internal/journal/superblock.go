package journal

import (
	"strconv"

	"ext4box/ext4/internal/disk"
)

// Feature bits of the journal's superblock.
const (
	CompatChecksum = 1 << 0 // v1 checksums

	IncompatRevoke      = 1 << 0
	Incompat64Bit       = 1 << 1
	IncompatAsyncCommit = 1 << 2 // the commit block is not ordered behind the rest
	IncompatChecksumV2  = 1 << 3
	IncompatChecksumV3  = 1 << 4
	IncompatFastCommit  = 1 << 5

	knownIncompat = IncompatRevoke | Incompat64Bit | IncompatAsyncCommit |
		IncompatChecksumV2 | IncompatChecksumV3 | IncompatFastCommit
)

// checksumCRC32C is the checksum type of v2 and v3.
const checksumCRC32C = 4

const (
	// defaultFastCommitBlocks is the length of the fast commit area where the
	// superblock gives none.
	defaultFastCommitBlocks = 256

	// minLogBlocks is the least that the kernel leaves to the log itself
	// beside a fast commit area.
	minLogBlocks = 1024
)

// MaxUsers is how many filesystems can share an external journal on paper.
const MaxUsers = 48

const superblockChecksumOff = 0xFC

// Superblock is the journal's superblock, as stored. Version 1 ends with Errno.
type Superblock struct {
	Header
	BlockSize       uint32                   // 0x0C: bytes
	MaxLen          uint32                   // 0x10: blocks in the journal
	First           uint32                   // 0x14: first block of the log
	Sequence        uint32                   // 0x18: first tid expected in the log
	Start           uint32                   // 0x1C: block of the start of the log; 0: the log is empty
	Errno           int32                    // 0x20: the error that aborted the journal
	Compat          uint32                   // 0x24
	Incompat        uint32                   // 0x28
	ROCompat        uint32                   // 0x2C
	UUID            [16]byte                 // 0x30
	Users           uint32                   // 0x40: filesystems that share the journal
	DynSuper        uint32                   // 0x44
	MaxTransaction  uint32                   // 0x48: blocks
	MaxTransData    uint32                   // 0x4C: blocks
	ChecksumType    uint8                    // 0x50
	FastCommitBlock uint32                   // 0x54: blocks of the fast commit area; 0: the default
	Head            uint32                   // 0x58: block of the head of the log, valid where the log is empty
	Checksum        uint32                   // 0xFC
	UserUUIDs       [MaxUsers][uuidSize]byte // 0x100
}

// Decode reads a journal superblock. ok is false where b is shorter than
// [SuperblockSize] or does not begin with the journal's magic number.
func (s *Superblock) Decode(b []byte) (ok bool) {
	*s = Superblock{}
	if len(b) < SuperblockSize || !s.Header.Decode(b) {
		return false
	}
	s.BlockSize = be.Uint32(b[0x0C:])
	s.MaxLen = be.Uint32(b[0x10:])
	s.First = be.Uint32(b[0x14:])
	s.Sequence = be.Uint32(b[0x18:])
	s.Start = be.Uint32(b[0x1C:])
	s.Errno = int32(be.Uint32(b[0x20:]))
	if s.Type != SuperblockV2 {
		return true
	}
	s.Compat = be.Uint32(b[0x24:])
	s.Incompat = be.Uint32(b[0x28:])
	s.ROCompat = be.Uint32(b[0x2C:])
	copy(s.UUID[:], b[0x30:])
	s.Users = be.Uint32(b[0x40:])
	s.DynSuper = be.Uint32(b[0x44:])
	s.MaxTransaction = be.Uint32(b[0x48:])
	s.MaxTransData = be.Uint32(b[0x4C:])
	s.ChecksumType = b[0x50]
	s.FastCommitBlock = be.Uint32(b[0x54:])
	s.Head = be.Uint32(b[0x58:])
	s.Checksum = be.Uint32(b[superblockChecksumOff:])
	for i := range s.UserUUIDs {
		copy(s.UserUUIDs[i][:], b[0x100+i*uuidSize:])
	}
	return true
}

// ChecksumVersion is the way the journal is checksummed.
func (s *Superblock) ChecksumVersion() Checksum {
	switch {
	case s.Incompat&IncompatChecksumV3 != 0:
		return ChecksumV3
	case s.Incompat&IncompatChecksumV2 != 0:
		return ChecksumV2
	case s.Compat&CompatChecksum != 0:
		return ChecksumV1
	}
	return ChecksumNone
}

// unknownFeatures names the features that forbid to touch the log.
func (s *Superblock) unknownFeatures() (names []string) {
	for bit := range 32 {
		if s.Incompat&^knownIncompat&(1<<bit) != 0 {
			names = append(names, "journal FEATURE_I"+strconv.Itoa(bit))
		}
	}
	for bit := range 32 {
		if s.ROCompat&(1<<bit) != 0 {
			names = append(names, "journal FEATURE_R"+strconv.Itoa(bit))
		}
	}
	return names
}

// check applies to a decoded superblock, whose raw form is b, all that holds
// for every journal, be it dirty or not.
func (s *Superblock) check(b []byte, o *Options) error {
	if s.Type != SuperblockV1 && s.Type != SuperblockV2 {
		return corruptf("block type %d is not that of a superblock", s.Type)
	}
	if names := s.unknownFeatures(); len(names) > 0 {
		return &disk.FeatureError{Names: names}
	}
	if err := s.checkChecksum(b); err != nil {
		return err
	}
	switch {
	case int64(s.BlockSize) != int64(o.BlockSize):
		return corruptf("block size %d differs from the filesystem's, %d", s.BlockSize, o.BlockSize)
	case uint64(s.MaxLen) > o.LogBlocks:
		return corruptf("length of %d blocks exceeds the %d that the journal has", s.MaxLen, o.LogBlocks)
	case s.First <= o.Superblock || s.First >= s.MaxLen:
		return corruptf("first block %d of the log is not within 1 to %d", s.First, int64(s.MaxLen)-1)
	case o.Superblock != 0 && s.Users > 1:
		return corruptf("the external journal is shared by %d filesystems, which is not supported", s.Users)
	}
	if s.Incompat&IncompatFastCommit != 0 && uint64(s.MaxLen) < uint64(s.fastCommitBlocks())+minLogBlocks {
		return corruptf("%d of %d blocks are for fast commits, which leaves too little to the log",
			s.fastCommitBlocks(), s.MaxLen)
	}
	if last := s.last(); s.First >= last || s.Start != 0 && (s.Start < s.First || s.Start >= last) {
		return corruptf("start %d of the log is not within %d to %d", s.Start, s.First, int64(last)-1)
	}
	return nil
}

func (s *Superblock) checkChecksum(b []byte) error {
	v2, v3 := s.Incompat&IncompatChecksumV2 != 0, s.Incompat&IncompatChecksumV3 != 0
	if v2 && v3 || (v2 || v3) && s.Compat&CompatChecksum != 0 {
		return corruptf("its features %#x have more than one version of checksums", uint32(s.Incompat))
	}
	if !v2 && !v3 {
		return nil
	}
	if s.ChecksumType != checksumCRC32C {
		return corruptf("checksum type %d is unknown", s.ChecksumType)
	}
	if sum := sumWithout(^uint32(0), b[:SuperblockSize], superblockChecksumOff); sum != s.Checksum {
		return corruptf("checksum is %#x instead of %#x", s.Checksum, sum)
	}
	return nil
}

func (s *Superblock) fastCommitBlocks() uint32 {
	if s.Incompat&IncompatFastCommit == 0 {
		return 0
	}
	if s.FastCommitBlock == 0 {
		return defaultFastCommitBlocks
	}
	return s.FastCommitBlock
}

// last is the block behind the last one of the log.
func (s *Superblock) last() uint32 { return s.MaxLen - s.fastCommitBlocks() }

func corruptf(format string, args ...any) error {
	return disk.Corruptf("journal superblock", format, args...)
}
