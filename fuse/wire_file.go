package fuse

// OpenIn is struct fuse_open_in (8 bytes), for OPEN and OPENDIR.
type OpenIn struct {
	Flags     uint32      // 0x00: O_*
	OpenFlags OpenInFlags // 0x04
}

// OpenOut is struct fuse_open_out (16 bytes).
type OpenOut struct {
	Fh        uint64    // 0x00: comes back in each request on the open file
	OpenFlags OpenFlags // 0x08
	BackingID int32     // 0x0C: with OpenPassthrough, the id from BACKING_OPEN
}

// ReleaseIn is struct fuse_release_in (24 bytes), for RELEASE and RELEASEDIR.
type ReleaseIn struct {
	Fh           uint64       // 0x00
	Flags        uint32       // 0x08: O_*
	ReleaseFlags ReleaseFlags // 0x0C
	LockOwner    uint64       // 0x10
}

// FlushIn is struct fuse_flush_in (24 bytes).
type FlushIn struct {
	Fh        uint64 // 0x00
	_         uint32 // 0x08
	_         uint32 // 0x0C
	LockOwner uint64 // 0x10
}

// ReadIn is struct fuse_read_in (40 bytes), for READ, READDIR and READDIRPLUS.
type ReadIn struct {
	Fh        uint64    // 0x00
	Offset    uint64    // 0x08: bytes; for directories the position of an entry (see DirBuffer)
	Size      uint32    // 0x10: bytes that the reply may have at most
	ReadFlags ReadFlags // 0x14
	LockOwner uint64    // 0x18: with ReadLockOwner
	Flags     uint32    // 0x20: O_*
	_         uint32    // 0x24
}

// WriteIn is struct fuse_write_in (40 bytes).
type WriteIn struct {
	Fh         uint64     // 0x00
	Offset     uint64     // 0x08
	Size       uint32     // 0x10
	WriteFlags WriteFlags // 0x14
	LockOwner  uint64     // 0x18: with WriteLockOwner
	Flags      uint32     // 0x20: O_*
	_          uint32     // 0x24
}

// writeOut is struct fuse_write_out (8 bytes), also the reply to COPY_FILE_RANGE.
type writeOut struct {
	Size uint32 // 0x00
	_    uint32 // 0x04
}

// FsyncIn is struct fuse_fsync_in (16 bytes), for FSYNC and FSYNCDIR.
type FsyncIn struct {
	Fh    uint64     // 0x00
	Flags FsyncFlags // 0x08
	_     uint32     // 0x0C
}

// AccessIn is struct fuse_access_in (8 bytes).
type AccessIn struct {
	Mask uint32 // 0x00: R_OK, W_OK, X_OK
	_    uint32 // 0x04
}

// BmapIn is struct fuse_bmap_in (16 bytes).
type BmapIn struct {
	Block     uint64 // 0x00: in units of Blocksize
	Blocksize uint32 // 0x08
	_         uint32 // 0x0C
}

// BmapOut is struct fuse_bmap_out (8 bytes).
type BmapOut struct {
	Block uint64 // 0x00
}

// FallocateIn is struct fuse_fallocate_in (32 bytes).
type FallocateIn struct {
	Fh     uint64 // 0x00
	Offset uint64 // 0x08
	Length uint64 // 0x10
	Mode   uint32 // 0x18: FALLOC_FL_*
	_      uint32 // 0x1C
}

// LseekIn is struct fuse_lseek_in (24 bytes).
type LseekIn struct {
	Fh     uint64 // 0x00
	Offset uint64 // 0x08
	Whence uint32 // 0x10: SEEK_DATA or SEEK_HOLE
	_      uint32 // 0x14
}

// LseekOut is struct fuse_lseek_out (8 bytes).
type LseekOut struct {
	Offset uint64 // 0x00
}

// CopyFileRangeIn is struct fuse_copy_file_range_in (56 bytes), for COPY_FILE_RANGE and
// COPY_FILE_RANGE_64. The source is InHeader.NodeID.
type CopyFileRangeIn struct {
	FhIn      uint64 // 0x00
	OffIn     uint64 // 0x08
	NodeIDOut uint64 // 0x10
	FhOut     uint64 // 0x18
	OffOut    uint64 // 0x20
	Len       uint64 // 0x28
	Flags     uint64 // 0x30
}

// copyFileRangeOut is struct fuse_copy_file_range_out (8 bytes; 7.45).
type copyFileRangeOut struct {
	BytesCopied uint64 // 0x00
}

// syncfsIn is struct fuse_syncfs_in (8 bytes); it carries nothing.
type syncfsIn struct {
	_ uint64
}
