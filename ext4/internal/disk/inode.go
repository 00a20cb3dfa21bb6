package disk

import "encoding/binary"

const (
	// InodeSizeOld is the size of an inode without extra fields.
	InodeSizeOld = 128
	// InodeBlockSize is the length of Inode.Block.
	InodeBlockSize = 60
	// inodeExtraMax is the end of the last extra field known.
	inodeExtraMax = 0xA0
)

// Inode numbers with a fixed meaning.
const (
	InoBadBlocks = 1
	InoRoot      = 2
	InoUserQuota = 3
	InoGrpQuota  = 4
	InoBoot      = 5
	InoUndelete  = 6
	InoResize    = 7
	InoJournal   = 8
	InoExclude   = 9
	InoReplica   = 10
)

// File type bits of Inode.Mode.
const (
	ModeFmt    = 0xF000
	ModeSocket = 0xC000
	ModeLink   = 0xA000
	ModeReg    = 0x8000
	ModeBlock  = 0x6000
	ModeDir    = 0x4000
	ModeChar   = 0x2000
	ModeFifo   = 0x1000
)

// InodeFlags is the mask in Inode.Flags.
type InodeFlags uint32

// Inode flags, as chattr(1) and the kernel know them.
const (
	FlagSecrm        InodeFlags = 0x1
	FlagUnrm         InodeFlags = 0x2
	FlagCompr        InodeFlags = 0x4
	FlagSync         InodeFlags = 0x8
	FlagImmutable    InodeFlags = 0x10
	FlagAppend       InodeFlags = 0x20
	FlagNodump       InodeFlags = 0x40
	FlagNoatime      InodeFlags = 0x80
	FlagEncrypt      InodeFlags = 0x800
	FlagIndex        InodeFlags = 0x1000
	FlagImagic       InodeFlags = 0x2000
	FlagJournalData  InodeFlags = 0x4000
	FlagNotail       InodeFlags = 0x8000
	FlagDirsync      InodeFlags = 0x10000
	FlagTopdir       InodeFlags = 0x20000
	FlagHugeFile     InodeFlags = 0x40000 // Blocks counts filesystem blocks
	FlagExtents      InodeFlags = 0x80000
	FlagVerity       InodeFlags = 0x100000
	FlagEAInode      InodeFlags = 0x200000 // holds an extended attribute value
	FlagEOFBlocks    InodeFlags = 0x400000
	FlagDAX          InodeFlags = 0x2000000
	FlagInlineData   InodeFlags = 0x10000000
	FlagProjInherit  InodeFlags = 0x20000000
	FlagCasefold     InodeFlags = 0x40000000
	FlagsUserVisible InodeFlags = 0x725BDFFF
)

// Inode is a decoded inode. Extra fields that the stored inode does not have
// are zero.
type Inode struct {
	Mode       uint16     // 0x00
	UID        uint32     // 0x02, 0x78
	GID        uint32     // 0x18, 0x7A
	Size       uint64     // 0x04, 0x6C
	Atime      Timestamp  // 0x08, 0x8C
	Ctime      Timestamp  // 0x0C, 0x84
	Mtime      Timestamp  // 0x10, 0x88
	Crtime     Timestamp  // 0x90, 0x94; valid where HasCrtime
	Dtime      uint32     // 0x14; also the next entry of the orphan list
	Links      uint16     // 0x1A
	Blocks     uint64     // 0x1C, 0x74; unit depends on FlagHugeFile
	Flags      InodeFlags // 0x20
	Version    uint64     // 0x24, 0x98
	Block      [InodeBlockSize]byte
	Generation uint32 // 0x64
	FileACL    uint64 // 0x68, 0x76; the extended attribute block
	Checksum   uint32 // 0x7C, 0x82
	ExtraIsize uint16 // 0x80
	ProjectID  uint32 // 0x9C
	HasCrtime  bool
	HasHiCsum  bool // Checksum has its high half
}

// Timestamp is a point in time as an inode can hold it.
type Timestamp struct {
	Sec  int64 // since 1970, -2^31 .. 2^34-2^31-1
	Nsec uint32
}

// Before tells whether t is earlier than u.
func (t Timestamp) Before(u Timestamp) bool {
	return t.Sec < u.Sec || t.Sec == u.Sec && t.Nsec < u.Nsec
}

// DecodeInode reads an inode from b, whose length is the inode size of the
// filesystem: 128, or a larger power of two. hurd says that the Hurd made the
// filesystem, in which case the OS-dependent fields are left out.
func DecodeInode(b []byte, hurd bool) (in Inode) {
	_ = b[InodeSizeOld-1]
	le := binary.LittleEndian
	u16 := func(off int) uint16 { return le.Uint16(b[off:]) }
	u32 := func(off int) uint32 { return le.Uint32(b[off:]) }

	in.Mode = u16(0x00)
	in.UID = uint32(u16(0x02))
	in.Size = uint64(u32(0x04)) | uint64(u32(0x6C))<<32
	in.Dtime = u32(0x14)
	in.GID = uint32(u16(0x18))
	in.Links = u16(0x1A)
	in.Blocks = uint64(u32(0x1C))
	in.Flags = InodeFlags(u32(0x20))
	in.Version = uint64(u32(0x24))
	copy(in.Block[:], b[0x28:])
	in.Generation = u32(0x64)
	in.FileACL = uint64(u32(0x68))
	in.Checksum = uint32(u16(0x7C))
	if !hurd {
		in.Blocks |= uint64(u16(0x74)) << 32
		in.FileACL |= uint64(u16(0x76)) << 32
		in.UID |= uint32(u16(0x78)) << 16
		in.GID |= uint32(u16(0x7A)) << 16
	}

	// end is where the extra fields that this inode really has stop.
	end := InodeSizeOld
	if len(b) > InodeSizeOld {
		in.ExtraIsize = u16(0x80)
		end = min(InodeSizeOld+int(in.ExtraIsize), len(b), inodeExtraMax)
	}
	extra := func(off int) uint32 {
		if off+4 > end {
			return 0
		}
		return u32(off)
	}
	in.Ctime = DecodeTime(u32(0x0C), extra(0x84))
	in.Mtime = DecodeTime(u32(0x10), extra(0x88))
	in.Atime = DecodeTime(u32(0x08), extra(0x8C))
	if in.HasCrtime = end >= 0x94; in.HasCrtime {
		in.Crtime = DecodeTime(extra(0x90), extra(0x94))
	}
	if in.HasHiCsum = end >= 0x84; in.HasHiCsum {
		in.Checksum |= uint32(u16(0x82)) << 16
	}
	in.Version |= uint64(extra(0x98)) << 32
	in.ProjectID = extra(0x9C)
	return in
}

// DecodeTime joins the base seconds and the extra word of a timestamp, whose low
// two bits extend the seconds and whose other bits are nanoseconds.
func DecodeTime(secs, extra uint32) Timestamp {
	return Timestamp{
		Sec:  int64(int32(secs)) + int64(extra&3)<<32,
		Nsec: extra >> 2,
	}
}

// Type is the file type bits of the mode.
func (in *Inode) Type() uint16 { return in.Mode & ModeFmt }

// IsDir tells whether the inode is a directory.
func (in *Inode) IsDir() bool { return in.Type() == ModeDir }

// IsReg tells whether the inode is a regular file.
func (in *Inode) IsReg() bool { return in.Type() == ModeReg }

// IsSymlink tells whether the inode is a symbolic link.
func (in *Inode) IsSymlink() bool { return in.Type() == ModeLink }

// Sectors is the space the inode occupies, in units of 512 bytes. hugeFile says
// whether the filesystem has the huge_file feature.
func (in *Inode) Sectors(hugeFile bool, blockBits uint) uint64 {
	switch {
	case !hugeFile:
		return in.Blocks & 0xFFFFFFFF
	case in.Flags&FlagHugeFile != 0:
		return in.Blocks << (blockBits - 9)
	}
	return in.Blocks
}

// Rdev decodes the device number of a character or block device inode.
func (in *Inode) Rdev() (major, minor uint32) {
	if old := binary.LittleEndian.Uint32(in.Block[0:]); old != 0 {
		return old >> 8 & 0xFF, old & 0xFF
	}
	v := binary.LittleEndian.Uint32(in.Block[4:])
	return v >> 8 & 0xFFF, v&0xFF | v>>12&0xFFF00
}

// InodeChecksum computes what the Checksum field of the raw inode b should
// hold, of which only the low half is stored where hi is false. seed is the
// inode's own (see [Checksums.InodeSeed]).
func InodeChecksum(seed uint32, b []byte, hi bool) uint32 {
	sum := CRC32C(seed, b[:0x7C])
	sum = CRC32CUint16(sum, 0)
	sum = CRC32C(sum, b[0x7E:InodeSizeOld])
	if len(b) > InodeSizeOld {
		sum = CRC32C(sum, b[InodeSizeOld:0x82])
		if hi {
			sum = CRC32CUint16(sum, 0)
		} else {
			sum = CRC32C(sum, b[0x82:0x84])
		}
		sum = CRC32C(sum, b[0x84:])
	}
	if !hi {
		sum &= 0xFFFF
	}
	return sum
}
