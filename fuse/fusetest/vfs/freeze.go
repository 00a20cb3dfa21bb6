package vfs

import (
	"syscall"

	"ext4box/fuse"
)

// Freeze keeps out everybody who changes the filesystem, writes everything back, and has the server come
// to rest. Thaw ends it.
func (fs *FS) Freeze() error {
	fs.writers.Lock()
	err := fs.Sync()
	if err == nil {
		_, errno := fs.request(fs.caller(), fuse.OpFreezeFS, fs.root.nodeid, structure(&fuse.FreezeFSIn{Unlinked: fs.unlinked()}))
		if errno == syscall.ENOSYS {
			errno = syscall.EOPNOTSUPP
		}
		err = fail(errno)
	}
	if err != nil {
		fs.writers.Unlock()
	}
	return err
}

// unlinked counts the inodes without names that are still in use.
func (fs *FS) unlinked() uint64 {
	n := uint64(0)
	for _, in := range fs.all() {
		if in.nlink() == 0 && in != fs.root {
			n++
		}
		fs.iput(in)
	}
	return n
}

// Thaw lets everybody go on.
func (fs *FS) Thaw() error {
	errno := fs.optional(fs.caller(), fuse.OpUnfreezeFS, fs.root.nodeid)
	fs.writers.Unlock()
	return fail(errno)
}

// Shutdown tells the server that its device is gone.
func (fs *FS) Shutdown() {
	_, _ = fs.request(fs.caller(), fuse.OpShutdownFS, fs.root.nodeid, structure(&fuse.ShutdownFSIn{}))
}

// fsIocShutdown is FS_IOC_SHUTDOWN, whose argument a server never sees.
const fsIocShutdown = 0x8004587D

// ShutDown asks the server, as an ioctl of the file, to end the service of the filesystem, of which the
// kernel itself knows nothing.
func (f *File) ShutDown() error {
	_, errno := f.ioctlFlags(fsIocShutdown, nil, 0)
	return fail(errno)
}
