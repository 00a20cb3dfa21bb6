package server

import (
	"syscall"

	"ext4box/fuse"
)

// What would change the filesystem is refused. On a read-only mount the kernel
// does so itself; but a mount can be told to be writable after the fact, and a
// missing operation would be taken for an old server rather than for EROFS.

func (s *Server) Setattr(*fuse.Request, *fuse.SetattrIn, *fuse.AttrOut) syscall.Errno {
	return syscall.EROFS
}

func (s *Server) Symlink(*fuse.Request, string, string, *fuse.EntryOut) syscall.Errno {
	return syscall.EROFS
}

func (s *Server) Mknod(*fuse.Request, *fuse.MknodIn, string, *fuse.EntryOut) syscall.Errno {
	return syscall.EROFS
}

func (s *Server) Mkdir(*fuse.Request, *fuse.MkdirIn, string, *fuse.EntryOut) syscall.Errno {
	return syscall.EROFS
}

func (s *Server) Create(*fuse.Request, *fuse.CreateIn, string, *fuse.EntryOut, *fuse.OpenOut) syscall.Errno {
	return syscall.EROFS
}

func (s *Server) Tmpfile(*fuse.Request, *fuse.CreateIn, string, *fuse.EntryOut, *fuse.OpenOut) syscall.Errno {
	return syscall.EROFS
}

func (s *Server) Link(*fuse.Request, *fuse.LinkIn, string, *fuse.EntryOut) syscall.Errno {
	return syscall.EROFS
}

func (s *Server) Unlink(*fuse.Request, string) syscall.Errno { return syscall.EROFS }

func (s *Server) Rmdir(*fuse.Request, string) syscall.Errno { return syscall.EROFS }

func (s *Server) Rename(*fuse.Request, *fuse.RenameIn, string, string) syscall.Errno {
	return syscall.EROFS
}

func (s *Server) Write(*fuse.Request, *fuse.WriteIn, []byte) (int, syscall.Errno) {
	return 0, syscall.EROFS
}

func (s *Server) Fallocate(*fuse.Request, *fuse.FallocateIn) syscall.Errno { return syscall.EROFS }

func (s *Server) CopyFileRange(*fuse.Request, *fuse.CopyFileRangeIn) (uint64, syscall.Errno) {
	return 0, syscall.EROFS
}

func (s *Server) Setxattr(*fuse.Request, *fuse.SetxattrIn, string, []byte) syscall.Errno {
	return syscall.EROFS
}

func (s *Server) Removexattr(*fuse.Request, string) syscall.Errno { return syscall.EROFS }

// Fsync and Fsyncdir have nothing to do. Answering ENOSYS instead would hold
// for the rest of the mount.
func (s *Server) Fsync(*fuse.Request, *fuse.FsyncIn) syscall.Errno { return 0 }

func (s *Server) Fsyncdir(*fuse.Request, *fuse.FsyncIn) syscall.Errno { return 0 }
