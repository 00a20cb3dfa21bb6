package fuse

// FileLock is struct fuse_file_lock (24 bytes).
type FileLock struct {
	Start uint64 // 0x00
	End   uint64 // 0x08: last byte; 2^63-1 for "to the end of the file"
	Type  uint32 // 0x10: F_RDLCK, F_WRLCK, F_UNLCK
	PID   uint32 // 0x14
}

// LkIn is struct fuse_lk_in (48 bytes), for GETLK, SETLK and SETLKW.
type LkIn struct {
	Fh    uint64   // 0x00
	Owner uint64   // 0x08
	Lk    FileLock // 0x10
	Flags LkFlags  // 0x28
	_     uint32   // 0x2C
}

// LkOut is struct fuse_lk_out (24 bytes).
type LkOut struct {
	Lk FileLock // 0x00
}
