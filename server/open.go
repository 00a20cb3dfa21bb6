package server

import (
	"syscall"

	"ext4box/ext4"
	"ext4box/fuse"

	"golang.org/x/sys/unix"
)

// Open says, unless the mount wants otherwise, that the kernel need not ask: it then
// opens and closes files by itself, on the whole connection and for ever. What it does
// not know is which files are immutable, can only be appended to, or are to be written
// through ([protection]). Where it asks, they are refused here, or opened for direct
// I/O. Nothing of that matters where nothing can be written, or where the kernel knows
// the flags.
func (s *Server) Open(r *fuse.Request, in *fuse.OpenIn, out *fuse.OpenOut) syscall.Errno {
	if !s.asked || s.outside.Load() != nil {
		return syscall.ENOSYS
	}
	return s.open(r, s.inode(r.NodeID), in.Flags, out)
}

func (s *Server) open(r *fuse.Request, ino ext4.Ino, flags uint32, out *fuse.OpenOut) syscall.Errno {
	out.OpenFlags = fuse.OpenKeepCache | fuse.OpenNoflush
	if s.outside.Load() != nil {
		return 0 // the kernel knows what it may do with the file, and keeps the books
	}
	if flags&unix.O_ACCMODE == unix.O_RDONLY {
		return 0
	}
	sync, err := s.fs.OpenForWriting(ino, flags&unix.O_APPEND != 0)
	if err == nil && s.owners.Umask != nil {
		// The kernel takes set-user-id away, with what it keeps, only where it sees it.
		st, e := s.fs.Stat(ino)
		sync, err = sync || s.owners.hides(st.Mode), e
	}
	if sync {
		// Or the kernel would keep what is written.
		out.OpenFlags |= fuse.OpenDirectIO
	}
	if err == nil && s.asked {
		s.writers.add(ino)
	}
	return s.errno(r, err)
}

// Release knows from the flags what Open was told: there are no handles.
func (s *Server) Release(r *fuse.Request, in *fuse.ReleaseIn) syscall.Errno {
	if s.asked && s.outside.Load() == nil && in.Flags&unix.O_ACCMODE != unix.O_RDONLY {
		s.writers.remove(s.inode(r.NodeID))
	}
	return 0
}

// settle answers an operation that ended with err, after durable if it succeeded.
func (s *Server) settle(r *fuse.Request, err error, inos ...ext4.Ino) syscall.Errno {
	if err != nil {
		return s.errno(r, err)
	}
	return s.durable(r, inos...)
}

// durable makes what an operation did to inodes durable before it is answered, where
// the mount or the flags of an inode ask for that. The kernel sees to it where the
// mount or the caller asks for it and data was written.
func (s *Server) durable(r *fuse.Request, inos ...ext4.Ino) syscall.Errno {
	for _, ino := range inos {
		if err := s.fs.SyncFlagged(ino, s.sync, s.sync || s.dirsync); err != nil {
			return s.errno(r, err)
		}
	}
	return 0
}
