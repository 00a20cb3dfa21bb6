package fuse

import "ext4box/iomap"

// This file is the binary interface of fuse-iomap, the experimental extension of the protocol with
// which the kernel moves file data itself along mappings that the server answers. No released kernel
// has it; the numbers are those of its seventh posting (February 2026, "v7") and can change before it is
// merged. Nothing outside of this file knows a number of it.

// IomapMinor is the minor version by which kernels with the extension tell what they are.
const IomapMinor = 99

// InitIomap offers and accepts the extension, where the minor version is IomapMinor. Elsewhere the same
// bit means something else; see InitIOUringBufpool.
const InitIomap = initBit43

// The operations of the extension.
const (
	OpFreezeFS    Opcode = 4089
	OpUnfreezeFS  Opcode = 4090
	OpShutdownFS  Opcode = 4091
	OpIomapConfig Opcode = 4092
	OpIomapIoend  Opcode = 4093
	OpIomapBegin  Opcode = 4094
	OpIomapEnd    Opcode = 4095
)

// Codes of its notifications.
const (
	NotifyIomapDevInval       = 99
	NotifyIomapUpsertMappings = 100
	NotifyIomapInvalMappings  = 101
)

// Ioctls of /dev/fuse that belong to it; BackingOpen and BackingClose are also those of passthrough.
const (
	DevIocBackingOpen       = 0x4010E501 // _IOW(229, 1, struct fuse_backing_map)
	DevIocBackingClose      = 0x4004E502 // _IOW(229, 2, uint32)
	DevIocIomapSupport      = 0x8010E563 // _IOR(229, 99, struct fuse_iomap_support)
	DevIocSetNofs           = 0x4004E564 // _IOW(229, 100, uint32)
	DevIocAddIomap          = 0x0000E565 // _IO(229, 101)
	DevIocIomapSetBlocksize = 0x4008E566 // _IOW(229, 102, struct fuse_iomap_backing_info)
)

// BackingIomap is the type of a BackingMap that registers a block device for mappings.
const BackingIomap uint32 = 1

// IomapSupport flags, the answer to DevIocIomapSupport.
const (
	IomapSupportFileIO uint64 = 1 << 0
	IomapSupportAtomic uint64 = 1 << 1
)

// Attr.Flags that kernels with IomapMinor look at when an inode becomes known to them, and only then.
const (
	AttrExclusive AttrFlags = 1 << 2 // nobody else changes the inode: what the kernel knows stays true
	AttrIomap     AttrFlags = 1 << 3 // data goes by mappings; needs AttrExclusive
	AttrAtomic    AttrFlags = 1 << 4 // untorn writes are possible
	AttrSync      AttrFlags = 1 << 5
	AttrImmutable AttrFlags = 1 << 6
	AttrAppend    AttrFlags = 1 << 7
)

// Types of mappings that only the protocol has, beside those of package iomap.
const (
	IomapNoCache       iomap.Type = 253 // of an upsert: this fork stays as it is
	IomapRetryCache    iomap.Type = 254 // of BEGIN: look into the cache again
	IomapPureOverwrite iomap.Type = 255 // of the write slot: data goes where it is
)

// IoendFlags say what an IOEND is about.
type IoendFlags uint32

const (
	IoendShared    IoendFlags = 1 << 0 // written out of place
	IoendUnwritten IoendFlags = 1 << 1 // blocks were unwritten
	IoendBoundary  IoendFlags = 1 << 2
	IoendDirect    IoendFlags = 1 << 3
	IoendAppend    IoendFlags = 1 << 4 // behind what the server has recorded as the size
	IoendWriteback IoendFlags = 1 << 5
	IoendSwapoff   IoendFlags = 1 << 6 // the file is no longer a swap file
)

// StatxIomap is the end of struct fuse_statx (112 bytes), which kernels with IomapMinor read as that of
// struct statx and others take for padding. Statx.Mask says which fields count.
type StatxIomap struct {
	MntID                  uint64    // 0x90: the kernel knows better
	DioMemAlign            uint32    // 0x98: bytes, of memory; STATX_DIOALIGN
	DioOffsetAlign         uint32    // 0x9C: bytes, of offsets in the file
	Subvol                 uint64    // 0xA0: STATX_SUBVOL
	AtomicWriteUnitMin     uint32    // 0xA8: bytes; STATX_WRITE_ATOMIC
	AtomicWriteUnitMax     uint32    // 0xAC
	AtomicWriteSegmentsMax uint32    // 0xB0: pieces of memory
	DioReadOffsetAlign     uint32    // 0xB4: bytes; STATX_DIO_READ_ALIGN
	AtomicWriteUnitMaxOpt  uint32    // 0xB8: bytes, up to which they are fast
	_                      uint32    // 0xBC
	_                      [8]uint64 // 0xC0
}

// IomapConfigFlags say which fields of an IomapConfigOut count.
type IomapConfigFlags uint64

const (
	IomapConfigSID IomapConfigFlags = 1 << iota
	IomapConfigUUID
	IomapConfigBlocksize
	IomapConfigMaxLinks
	IomapConfigTime
	IomapConfigMaxbytes
	IomapConfigCacheMaxbytes
)

// Marks that stand in the place of numbers.
const (
	IomapDevNull    uint32 = 0          // no device
	IomapNullAddr          = ^uint64(0) // no address
	IomapInvalToEOF        = ^uint64(0) // the length of a range to the end of the file
)

// IomapConfigIn is struct fuse_iomap_config_in (64 bytes).
type IomapConfigIn struct {
	Flags         IomapConfigFlags // 0x00: fields that the kernel knows
	Maxbytes      int64            // 0x08: the largest file that it supports
	CacheMaxbytes uint32           // 0x10: limit of mappings that it keeps of a file, per fork
	_             uint32           // 0x14
	_             [5]uint64        // 0x18
}

// IomapConfigOut is struct fuse_iomap_config_out (104 bytes).
type IomapConfigOut struct {
	Flags         IomapConfigFlags // 0x00
	SID           [32]byte         // 0x08: name of the filesystem
	UUID          [16]byte         // 0x28
	UUIDLen       uint8            // 0x38
	_             [3]uint8         // 0x39
	Blocksize     uint32           // 0x3C
	MaxLinks      uint32           // 0x40
	TimeGran      uint32           // 0x44: nanoseconds, 1 to 1e9
	TimeMin       int64            // 0x48: seconds
	TimeMax       int64            // 0x50: seconds
	Maxbytes      int64            // 0x58: the largest file
	CacheMaxbytes uint32           // 0x60: 0: as it is
	_             uint32           // 0x64
}

// IomapIO is struct fuse_iomap_io (32 bytes), one mapping.
type IomapIO struct {
	Offset uint64      // 0x00: in the file, bytes
	Length uint64      // 0x08: bytes
	Addr   uint64      // 0x10: on the device, bytes; or IomapNullAddr
	Type   iomap.Type  // 0x18
	Flags  iomap.Flags // 0x1A
	Dev    uint32      // 0x1C: as OpenBacking numbered it; or IomapDevNull
}

// IomapBeginIn is struct fuse_iomap_begin_in (32 bytes).
type IomapBeginIn struct {
	Op    iomap.Op // 0x00
	_     uint32   // 0x04
	Ino   uint64   // 0x08: Attr.Ino of the inode
	Pos   uint64   // 0x10
	Count uint64   // 0x18
}

// IomapBeginOut is struct fuse_iomap_begin_out (64 bytes).
type IomapBeginOut struct {
	Read  IomapIO // 0x00: where data is
	Write IomapIO // 0x20: where new data goes
}

// IomapEndIn is struct fuse_iomap_end_in (72 bytes).
type IomapEndIn struct {
	Op      iomap.Op // 0x00
	_       uint32   // 0x04
	Ino     uint64   // 0x08
	Pos     uint64   // 0x10
	Count   uint64   // 0x18
	Written int64    // 0x20
	Map     IomapIO  // 0x28: what the kernel acted on
}

// IomapIoendIn is struct fuse_iomap_ioend_in (48 bytes).
type IomapIoendIn struct {
	Flags   IoendFlags // 0x00
	Error   int32      // 0x04: 0 or a negative errno
	Ino     uint64     // 0x08
	Pos     uint64     // 0x10
	NewAddr uint64     // 0x18: not to be relied on
	Written uint64     // 0x20: bytes
	Dev     uint32     // 0x28
	_       uint32     // 0x2C
}

// IomapIoendOut is struct fuse_iomap_ioend_out (8 bytes).
type IomapIoendOut struct {
	Newsize uint64 // 0x00: size of the file as it is recorded now
}

// FreezeFSIn is struct fuse_freezefs_in (8 bytes).
type FreezeFSIn struct {
	Unlinked uint64 // 0x00: inodes that are open and have no name
}

// ShutdownFSIn is struct fuse_shutdownfs_in (8 bytes).
type ShutdownFSIn struct {
	Flags uint64 // 0x00
}

// IomapRange is struct fuse_range (16 bytes).
type IomapRange struct {
	Offset uint64 // 0x00
	Length uint64 // 0x08: 0: nothing
}

// IomapDevInval is struct fuse_iomap_dev_inval_out (24 bytes), of NotifyIomapDevInval.
type IomapDevInval struct {
	Dev   uint32 // 0x00
	_     uint32 // 0x04
	Range IomapRange
}

// IomapInvalMappings is struct fuse_iomap_inval_mappings_out (48 bytes), of NotifyIomapInvalMappings.
type IomapInvalMappings struct {
	NodeID uint64     // 0x00
	Ino    uint64     // 0x08
	Read   IomapRange // 0x10
	Write  IomapRange // 0x20
}

// IomapUpsertMappings is struct fuse_iomap_upsert_mappings_out (80 bytes), of
// NotifyIomapUpsertMappings.
type IomapUpsertMappings struct {
	NodeID uint64  // 0x00
	Ino    uint64  // 0x08
	Read   IomapIO // 0x10
	Write  IomapIO // 0x30
}

// BackingMap is struct fuse_backing_map (16 bytes), of DevIocBackingOpen.
type BackingMap struct {
	FD    int32  // 0x00
	Flags uint32 // 0x04: the type
	_     uint64 // 0x08
}

// IomapSupport is struct fuse_iomap_support (16 bytes), of DevIocIomapSupport.
type IomapSupport struct {
	Flags uint64 // 0x00
	_     uint64 // 0x08
}

// IomapBackingInfo is struct fuse_iomap_backing_info (8 bytes), of DevIocIomapSetBlocksize.
type IomapBackingInfo struct {
	ID        uint32 // 0x00
	Blocksize uint32 // 0x04
}
