package fuse

// ForgetIn is struct fuse_forget_in (8 bytes).
type ForgetIn struct {
	Nlookup uint64 // 0x00: lookups to take back
}

// ForgetOne is struct fuse_forget_one (16 bytes), an element of BATCH_FORGET.
type ForgetOne struct {
	NodeID  uint64 // 0x00
	Nlookup uint64 // 0x08
}

// BatchForgetIn is struct fuse_batch_forget_in (8 bytes); Count ForgetOne follow.
type BatchForgetIn struct {
	Count uint32 // 0x00
	_     uint32 // 0x04
}

// MknodIn is struct fuse_mknod_in (16 bytes).
type MknodIn struct {
	Mode  uint32 // 0x00: with the file type; Umask is already applied unless InitDontMask is on
	Rdev  uint32 // 0x04: see DecodeDev
	Umask uint32 // 0x08
	_     uint32 // 0x0C
}

// MkdirIn is struct fuse_mkdir_in (8 bytes).
type MkdirIn struct {
	Mode  uint32 // 0x00: without the file type
	Umask uint32 // 0x04
}

// renameIn is struct fuse_rename_in (8 bytes); handlers get a RenameIn.
type renameIn struct {
	NewDir uint64 // 0x00
}

// RenameIn is struct fuse_rename2_in (16 bytes), used for RENAME (without flags) and RENAME2.
type RenameIn struct {
	NewDir uint64 // 0x00: nodeid of the target directory
	Flags  uint32 // 0x08: RENAME_*
	_      uint32 // 0x0C
}

// LinkIn is struct fuse_link_in (8 bytes).
type LinkIn struct {
	OldNodeID uint64 // 0x00: the inode that gets another name
}

// CreateIn is struct fuse_create_in (16 bytes), for CREATE and TMPFILE.
type CreateIn struct {
	Flags     uint32      // 0x00: O_*
	Mode      uint32      // 0x04
	Umask     uint32      // 0x08
	OpenFlags OpenInFlags // 0x0C
}
