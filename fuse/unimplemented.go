package fuse

import "syscall"

// Unimplemented answers ENOSYS to every operation that has a reply, accepts INIT as negotiated and
// ignores the rest. It is meant to be embedded in an implementation of Operations.
type Unimplemented struct{}

var _ Operations = Unimplemented{}

// Init accepts the terms.
func (Unimplemented) Init(*Request, *Protocol) syscall.Errno { return 0 }

// Destroy does nothing.
func (Unimplemented) Destroy() {}

// Lookup answers ENOSYS.
func (Unimplemented) Lookup(*Request, string, *EntryOut) syscall.Errno { return syscall.ENOSYS }

// Forget does nothing.
func (Unimplemented) Forget(uint64, uint64) {}

// Getattr answers ENOSYS.
func (Unimplemented) Getattr(*Request, *GetattrIn, *AttrOut) syscall.Errno { return syscall.ENOSYS }

// Setattr answers ENOSYS.
func (Unimplemented) Setattr(*Request, *SetattrIn, *AttrOut) syscall.Errno { return syscall.ENOSYS }

// Statx answers ENOSYS.
func (Unimplemented) Statx(*Request, *StatxIn, *StatxOut) syscall.Errno { return syscall.ENOSYS }

// Statfs answers ENOSYS.
func (Unimplemented) Statfs(*Request, *StatfsOut) syscall.Errno { return syscall.ENOSYS }

// Access answers ENOSYS.
func (Unimplemented) Access(*Request, *AccessIn) syscall.Errno { return syscall.ENOSYS }

// Readlink answers ENOSYS.
func (Unimplemented) Readlink(*Request, []byte) (int, syscall.Errno) { return 0, syscall.ENOSYS }

// Symlink answers ENOSYS.
func (Unimplemented) Symlink(*Request, string, string, *EntryOut) syscall.Errno {
	return syscall.ENOSYS
}

// Mknod answers ENOSYS.
func (Unimplemented) Mknod(*Request, *MknodIn, string, *EntryOut) syscall.Errno {
	return syscall.ENOSYS
}

// Mkdir answers ENOSYS.
func (Unimplemented) Mkdir(*Request, *MkdirIn, string, *EntryOut) syscall.Errno {
	return syscall.ENOSYS
}

// Create answers ENOSYS.
func (Unimplemented) Create(*Request, *CreateIn, string, *EntryOut, *OpenOut) syscall.Errno {
	return syscall.ENOSYS
}

// Tmpfile answers ENOSYS.
func (Unimplemented) Tmpfile(*Request, *CreateIn, string, *EntryOut, *OpenOut) syscall.Errno {
	return syscall.ENOSYS
}

// Link answers ENOSYS.
func (Unimplemented) Link(*Request, *LinkIn, string, *EntryOut) syscall.Errno { return syscall.ENOSYS }

// Unlink answers ENOSYS.
func (Unimplemented) Unlink(*Request, string) syscall.Errno { return syscall.ENOSYS }

// Rmdir answers ENOSYS.
func (Unimplemented) Rmdir(*Request, string) syscall.Errno { return syscall.ENOSYS }

// Rename answers ENOSYS.
func (Unimplemented) Rename(*Request, *RenameIn, string, string) syscall.Errno { return syscall.ENOSYS }

// Open answers ENOSYS.
func (Unimplemented) Open(*Request, *OpenIn, *OpenOut) syscall.Errno { return syscall.ENOSYS }

// Read answers ENOSYS.
func (Unimplemented) Read(*Request, *ReadIn, []byte) (int, syscall.Errno) { return 0, syscall.ENOSYS }

// Write answers ENOSYS.
func (Unimplemented) Write(*Request, *WriteIn, []byte) (int, syscall.Errno) { return 0, syscall.ENOSYS }

// Lseek answers ENOSYS.
func (Unimplemented) Lseek(*Request, *LseekIn, *LseekOut) syscall.Errno { return syscall.ENOSYS }

// Fallocate answers ENOSYS.
func (Unimplemented) Fallocate(*Request, *FallocateIn) syscall.Errno { return syscall.ENOSYS }

// CopyFileRange answers ENOSYS.
func (Unimplemented) CopyFileRange(*Request, *CopyFileRangeIn) (uint64, syscall.Errno) {
	return 0, syscall.ENOSYS
}

// Flush answers ENOSYS.
func (Unimplemented) Flush(*Request, *FlushIn) syscall.Errno { return syscall.ENOSYS }

// Fsync answers ENOSYS.
func (Unimplemented) Fsync(*Request, *FsyncIn) syscall.Errno { return syscall.ENOSYS }

// Release answers ENOSYS.
func (Unimplemented) Release(*Request, *ReleaseIn) syscall.Errno { return syscall.ENOSYS }

// Opendir answers ENOSYS.
func (Unimplemented) Opendir(*Request, *OpenIn, *OpenOut) syscall.Errno { return syscall.ENOSYS }

// Readdir answers ENOSYS.
func (Unimplemented) Readdir(*Request, *ReadIn, *DirBuffer) syscall.Errno { return syscall.ENOSYS }

// Readdirplus answers ENOSYS.
func (Unimplemented) Readdirplus(*Request, *ReadIn, *DirBuffer) syscall.Errno { return syscall.ENOSYS }

// Fsyncdir answers ENOSYS.
func (Unimplemented) Fsyncdir(*Request, *FsyncIn) syscall.Errno { return syscall.ENOSYS }

// Releasedir answers ENOSYS.
func (Unimplemented) Releasedir(*Request, *ReleaseIn) syscall.Errno { return syscall.ENOSYS }

// Setxattr answers ENOSYS.
func (Unimplemented) Setxattr(*Request, *SetxattrIn, string, []byte) syscall.Errno {
	return syscall.ENOSYS
}

// Getxattr answers ENOSYS.
func (Unimplemented) Getxattr(*Request, string, []byte) (int, syscall.Errno) {
	return 0, syscall.ENOSYS
}

// Listxattr answers ENOSYS.
func (Unimplemented) Listxattr(*Request, []byte) (int, syscall.Errno) { return 0, syscall.ENOSYS }

// Removexattr answers ENOSYS.
func (Unimplemented) Removexattr(*Request, string) syscall.Errno { return syscall.ENOSYS }

// Getlk answers ENOSYS.
func (Unimplemented) Getlk(*Request, *LkIn, *LkOut) syscall.Errno { return syscall.ENOSYS }

// Setlk answers ENOSYS.
func (Unimplemented) Setlk(*Request, *LkIn, bool) syscall.Errno { return syscall.ENOSYS }

// Bmap answers ENOSYS.
func (Unimplemented) Bmap(*Request, *BmapIn, *BmapOut) syscall.Errno { return syscall.ENOSYS }

// Ioctl answers ENOSYS.
func (Unimplemented) Ioctl(*Request, *IoctlIn, []byte, *IoctlOut, []byte) (int, syscall.Errno) {
	return 0, syscall.ENOSYS
}

// Poll answers ENOSYS.
func (Unimplemented) Poll(*Request, *PollIn, *PollOut) syscall.Errno { return syscall.ENOSYS }

// Syncfs answers ENOSYS.
func (Unimplemented) Syncfs(*Request) syscall.Errno { return syscall.ENOSYS }

// NotifyReply does nothing.
func (Unimplemented) NotifyReply(*Request, *NotifyRetrieveIn, []byte) {}

// Setupmapping answers ENOSYS.
func (Unimplemented) Setupmapping(*Request, *SetupmappingIn) syscall.Errno { return syscall.ENOSYS }

// Removemapping answers ENOSYS.
func (Unimplemented) Removemapping(*Request, []RemovemappingOne) syscall.Errno { return syscall.ENOSYS }

// IomapConfig answers ENOSYS.
func (Unimplemented) IomapConfig(*Request, *IomapConfigIn, *IomapConfigOut) syscall.Errno {
	return syscall.ENOSYS
}

// IomapBegin answers ENOSYS.
func (Unimplemented) IomapBegin(*Request, *IomapBeginIn, *IomapBeginOut) syscall.Errno {
	return syscall.ENOSYS
}

// IomapEnd answers ENOSYS.
func (Unimplemented) IomapEnd(*Request, *IomapEndIn) syscall.Errno { return syscall.ENOSYS }

// IomapIoend answers ENOSYS.
func (Unimplemented) IomapIoend(*Request, *IomapIoendIn, *IomapIoendOut) syscall.Errno {
	return syscall.ENOSYS
}

// FreezeFS answers ENOSYS.
func (Unimplemented) FreezeFS(*Request, *FreezeFSIn) syscall.Errno { return syscall.ENOSYS }

// UnfreezeFS answers ENOSYS.
func (Unimplemented) UnfreezeFS(*Request) syscall.Errno { return syscall.ENOSYS }

// ShutdownFS answers ENOSYS.
func (Unimplemented) ShutdownFS(*Request, *ShutdownFSIn) syscall.Errno { return syscall.ENOSYS }
