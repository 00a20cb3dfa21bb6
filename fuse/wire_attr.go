package fuse

import (
	"math"
	"time"
)

// Forever is a cache lifetime that never ends, for SetEntryValid and SetAttrValid.
const Forever time.Duration = math.MaxInt64

// Attr is struct fuse_attr (88 bytes), the attributes of an inode.
type Attr struct {
	Ino       uint64    // 0x00: st_ino as shown to programs
	Size      uint64    // 0x08: bytes
	Blocks    uint64    // 0x10: units of 512 bytes
	Atime     uint64    // 0x18: seconds; a signed value, before 1970 negative
	Mtime     uint64    // 0x20
	Ctime     uint64    // 0x28
	AtimeNsec uint32    // 0x30
	MtimeNsec uint32    // 0x34
	CtimeNsec uint32    // 0x38
	Mode      uint32    // 0x3C: st_mode, with the file type
	Nlink     uint32    // 0x40
	UID       uint32    // 0x44
	GID       uint32    // 0x48
	Rdev      uint32    // 0x4C: see EncodeDev
	Blksize   uint32    // 0x50: preferred I/O size (st_blksize)
	Flags     AttrFlags // 0x54
}

// SetTimes stores the three classic timestamps.
func (a *Attr) SetTimes(atime, mtime, ctime time.Time) {
	a.Atime, a.AtimeNsec = uint64(atime.Unix()), uint32(atime.Nanosecond())
	a.Mtime, a.MtimeNsec = uint64(mtime.Unix()), uint32(mtime.Nanosecond())
	a.Ctime, a.CtimeNsec = uint64(ctime.Unix()), uint32(ctime.Nanosecond())
}

// EncodeDev gives the 32-bit form of a device number that Attr.Rdev and MknodIn.Rdev use: 12 bits
// of major and 20 of minor number.
func EncodeDev(major, minor uint32) uint32 {
	return minor&0xFF | (major&0xFFF)<<8 | (minor&^0xFF)<<12
}

// DecodeDev is the inverse of EncodeDev.
func DecodeDev(dev uint32) (major, minor uint32) {
	return dev >> 8 & 0xFFF, dev&0xFF | dev>>12&0xFFF00
}

// EntryOut is struct fuse_entry_out (128 bytes): a name resolved. A NodeID of 0 in reply to LOOKUP
// is a negative entry that the kernel caches for the entry's lifetime; anywhere else it is an error.
// Each reply with a NodeID counts as one lookup, to be taken back by FORGET.
type EntryOut struct {
	NodeID         uint64 // 0x00
	Generation     uint64 // 0x08: NodeID and Generation together are never reused
	EntryValid     uint64 // 0x10: seconds that the name may be cached
	AttrValid      uint64 // 0x18: seconds that the attributes may be cached
	EntryValidNsec uint32 // 0x20
	AttrValidNsec  uint32 // 0x24
	Attr           Attr   // 0x28
}

// SetEntryValid sets how long the kernel may cache the name.
func (e *EntryOut) SetEntryValid(d time.Duration) { e.EntryValid, e.EntryValidNsec = splitDuration(d) }

// SetAttrValid sets how long the kernel may cache the attributes.
func (e *EntryOut) SetAttrValid(d time.Duration) { e.AttrValid, e.AttrValidNsec = splitDuration(d) }

// GetattrIn is struct fuse_getattr_in (16 bytes).
type GetattrIn struct {
	Flags GetattrFlags // 0x00
	_     uint32       // 0x04
	Fh    uint64       // 0x08: valid with GetattrFh
}

// AttrOut is struct fuse_attr_out (104 bytes), the reply to GETATTR and SETATTR.
type AttrOut struct {
	AttrValid     uint64 // 0x00: seconds
	AttrValidNsec uint32 // 0x08
	_             uint32 // 0x0C
	Attr          Attr   // 0x10
}

// SetAttrValid sets how long the kernel may cache the attributes.
func (o *AttrOut) SetAttrValid(d time.Duration) { o.AttrValid, o.AttrValidNsec = splitDuration(d) }

// SetattrIn is struct fuse_setattr_in (88 bytes). Valid says which fields count.
type SetattrIn struct {
	Valid     SetattrValid // 0x00
	_         uint32       // 0x04
	Fh        uint64       // 0x08
	Size      uint64       // 0x10
	LockOwner uint64       // 0x18
	Atime     uint64       // 0x20: seconds; a signed value
	Mtime     uint64       // 0x28
	Ctime     uint64       // 0x30
	AtimeNsec uint32       // 0x38
	MtimeNsec uint32       // 0x3C
	CtimeNsec uint32       // 0x40
	Mode      uint32       // 0x44
	_         uint32       // 0x48
	UID       uint32       // 0x4C
	GID       uint32       // 0x50
	_         uint32       // 0x54
}

// AtimeTime returns the access time to be set.
func (in *SetattrIn) AtimeTime() time.Time { return time.Unix(int64(in.Atime), int64(in.AtimeNsec)) }

// MtimeTime returns the modification time to be set.
func (in *SetattrIn) MtimeTime() time.Time { return time.Unix(int64(in.Mtime), int64(in.MtimeNsec)) }

// CtimeTime returns the change time to be set.
func (in *SetattrIn) CtimeTime() time.Time { return time.Unix(int64(in.Ctime), int64(in.CtimeNsec)) }

// SxTime is struct fuse_sx_time (16 bytes).
type SxTime struct {
	Sec  int64  // 0x00
	Nsec uint32 // 0x08
	_    int32  // 0x0C
}

// Set stores t.
func (s *SxTime) Set(t time.Time) { s.Sec, s.Nsec = t.Unix(), uint32(t.Nanosecond()) }

// StatxIn is struct fuse_statx_in (24 bytes).
type StatxIn struct {
	Flags   GetattrFlags // 0x00
	_       uint32       // 0x04
	Fh      uint64       // 0x08: valid with GetattrFh
	SxFlags uint32       // 0x10: AT_STATX_*
	SxMask  uint32       // 0x14: STATX_* that the caller asks for
}

// Statx is struct fuse_statx (256 bytes).
type Statx struct {
	Mask           uint32 // 0x00: STATX_* that are filled in
	Blksize        uint32 // 0x04
	Attributes     uint64 // 0x08: STATX_ATTR_*
	Nlink          uint32 // 0x10
	UID            uint32 // 0x14
	GID            uint32 // 0x18
	Mode           uint16 // 0x1C
	_              uint16 // 0x1E
	Ino            uint64 // 0x20
	Size           uint64 // 0x28
	Blocks         uint64 // 0x30
	AttributesMask uint64 // 0x38: STATX_ATTR_* that this filesystem knows
	Atime          SxTime // 0x40
	Btime          SxTime // 0x50
	Ctime          SxTime // 0x60
	Mtime          SxTime // 0x70
	RdevMajor      uint32 // 0x80
	RdevMinor      uint32 // 0x84
	DevMajor       uint32 // 0x88
	DevMinor       uint32 // 0x8C
	StatxIomap            // 0x90
}

// StatxOut is struct fuse_statx_out (288 bytes).
type StatxOut struct {
	AttrValid     uint64 // 0x00: seconds
	AttrValidNsec uint32 // 0x08
	Flags         uint32 // 0x0C
	_             [2]uint64
	Stat          Statx // 0x20
}

// SetAttrValid sets how long the kernel may cache the attributes.
func (o *StatxOut) SetAttrValid(d time.Duration) { o.AttrValid, o.AttrValidNsec = splitDuration(d) }

// StatfsOut is struct fuse_statfs_out (80 bytes).
type StatfsOut struct {
	Blocks  uint64 // 0x00: in units of Frsize
	Bfree   uint64 // 0x08
	Bavail  uint64 // 0x10
	Files   uint64 // 0x18
	Ffree   uint64 // 0x20
	Bsize   uint32 // 0x28
	Namelen uint32 // 0x2C
	Frsize  uint32 // 0x30
	_       uint32 // 0x34
	_       [6]uint32
}

func splitDuration(d time.Duration) (sec uint64, nsec uint32) {
	if d <= 0 {
		return 0, 0
	}
	return uint64(d / time.Second), uint32(d % time.Second)
}
