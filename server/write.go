package server

import (
	"errors"
	"io"
	"syscall"
	"time"

	"ext4box/ext4"
	"ext4box/fuse"

	"golang.org/x/sys/unix"
)

// Setattr changes attributes, of which the size goes first: it can fail.
func (s *Server) Setattr(r *fuse.Request, in *fuse.SetattrIn, out *fuse.AttrOut) syscall.Errno {
	ino := inode(r.NodeID)
	if in.Valid&fuse.SetattrSize != 0 {
		if err := s.fs.Truncate(ino, in.Size); err != nil {
			return s.errno(r, err)
		}
	}
	var a ext4.Attr
	change := false
	set := func(bit fuse.SetattrValid, apply func()) {
		if in.Valid&bit != 0 {
			apply()
			change = true
		}
	}
	mode := in.Mode & 0o7777
	set(fuse.SetattrMode, func() { a.Mode = &mode })
	set(fuse.SetattrUID, func() { a.UID = &in.UID })
	set(fuse.SetattrGID, func() { a.GID = &in.GID })
	atime, mtime, ctime := in.AtimeTime(), in.MtimeTime(), in.CtimeTime()
	now := time.Now()
	set(fuse.SetattrAtime, func() { a.Atime = &atime })
	set(fuse.SetattrMtime, func() { a.Mtime = &mtime })
	set(fuse.SetattrCtime, func() { a.Ctime = &ctime })
	set(fuse.SetattrAtimeNow, func() { a.Atime = &now })
	set(fuse.SetattrMtimeNow, func() { a.Mtime = &now })
	if in.Valid&(fuse.SetattrSize|fuse.SetattrUID|fuse.SetattrGID|fuse.SetattrKillSuidgid) != 0 {
		kill := in.Valid&fuse.SetattrKillSuidgid != 0
		if err := s.fs.KillPriv(ino, kill); err != nil {
			return s.errno(r, err)
		}
	}
	if change {
		if err := s.fs.SetAttr(ino, a); err != nil {
			return s.errno(r, err)
		}
	}
	return s.Getattr(r, nil, out)
}

// Symlink, Mknod and Mkdir make inodes.
func (s *Server) Symlink(r *fuse.Request, name, target string, out *fuse.EntryOut) syscall.Errno {
	return s.create(r, name, ext4.NewNode{Mode: unix.S_IFLNK | 0o777, Target: target}, out)
}

func (s *Server) Mknod(r *fuse.Request, in *fuse.MknodIn, name string, out *fuse.EntryOut) syscall.Errno {
	major, minor := fuse.DecodeDev(in.Rdev)
	return s.create(r, name, ext4.NewNode{Mode: in.Mode, Umask: in.Umask, RdevMajor: major, RdevMinor: minor}, out)
}

func (s *Server) Mkdir(r *fuse.Request, in *fuse.MkdirIn, name string, out *fuse.EntryOut) syscall.Errno {
	return s.create(r, name, ext4.NewNode{Mode: unix.S_IFDIR | in.Mode&0o7777, Umask: in.Umask}, out)
}

// create makes an inode. CREATE is left unanswered, so that the kernel makes
// files with MKNOD, which needs no RELEASE.
func (s *Server) create(r *fuse.Request, name string, n ext4.NewNode, out *fuse.EntryOut) syscall.Errno {
	n.UID, n.GID = r.UID, r.GID
	ino, err := s.fs.Create(inode(r.NodeID), name, n)
	if err != nil {
		return s.errno(r, err)
	}
	return s.errno(r, s.entry(ino, out))
}

// Create is left to MKNOD, except that nothing is made in what is read-only.
func (s *Server) Create(*fuse.Request, *fuse.CreateIn, string, *fuse.EntryOut, *fuse.OpenOut) syscall.Errno {
	if !s.writable {
		return syscall.EROFS
	}
	return syscall.ENOSYS
}

// Tmpfile makes a file without a name.
func (s *Server) Tmpfile(r *fuse.Request, in *fuse.CreateIn, _ string, out *fuse.EntryOut, _ *fuse.OpenOut) syscall.Errno {
	ino, err := s.fs.Tmpfile(inode(r.NodeID), ext4.NewNode{Mode: unix.S_IFREG | in.Mode&0o7777, Umask: in.Umask, UID: r.UID, GID: r.GID})
	if err != nil {
		return s.errno(r, err)
	}
	// It comes held once, which is the kernel's lookup.
	return s.errno(r, s.describe(ino, out))
}

// Link gives an inode another name.
func (s *Server) Link(r *fuse.Request, in *fuse.LinkIn, name string, out *fuse.EntryOut) syscall.Errno {
	ino := inode(in.OldNodeID)
	if err := s.fs.Link(ino, inode(r.NodeID), name); err != nil {
		return s.errno(r, err)
	}
	return s.errno(r, s.entry(ino, out))
}

// Unlink and Rmdir remove names.
func (s *Server) Unlink(r *fuse.Request, name string) syscall.Errno {
	return s.errno(r, s.fs.Unlink(inode(r.NodeID), name))
}

func (s *Server) Rmdir(r *fuse.Request, name string) syscall.Errno {
	return s.errno(r, s.fs.Rmdir(inode(r.NodeID), name))
}

// Rename moves a name.
func (s *Server) Rename(r *fuse.Request, in *fuse.RenameIn, oldName, newName string) syscall.Errno {
	return s.errno(r, s.fs.RenameAs(inode(r.NodeID), oldName, inode(in.NewDir), newName, in.Flags, r.UID, r.GID))
}

// Write writes through the mover.
func (s *Server) Write(r *fuse.Request, in *fuse.WriteIn, data []byte) (int, syscall.Errno) {
	if in.Offset >= 1<<63 {
		return 0, syscall.EFBIG
	}
	ino := inode(r.NodeID)
	if in.WriteFlags&fuse.WriteCache != 0 {
		return s.writeBack(r, ino, data, int64(in.Offset))
	}
	if err := s.fs.KillPriv(ino, in.WriteFlags&fuse.WriteKillSuidgid != 0); err != nil {
		return 0, s.errno(r, err)
	}
	// Of a direct write the kernel makes EIO when it is only told how much of it
	// was written: the reason is worth more.
	n, err := s.fs.WriteBack(ino, data, int64(in.Offset))
	return n, s.errno(r, err)
}

// writeBack writes what the kernel has had in its cache, for a program that may
// be long gone: the kernel took away privileges when it accepted the data, and
// those that the file has now it got later. It does not look at how much was
// written, and would take the rest for written too.
func (s *Server) writeBack(r *fuse.Request, ino ext4.Ino, data []byte, off int64) (int, syscall.Errno) {
	if _, err := s.fs.WriteBack(ino, data, off); err != nil {
		return 0, s.errno(r, err)
	}
	return len(data), 0
}

// Fallocate changes how a range is backed.
func (s *Server) Fallocate(r *fuse.Request, in *fuse.FallocateIn) syscall.Errno {
	ino := inode(r.NodeID)
	err := s.fs.Fallocate(ino, in.Mode, in.Offset, in.Length)
	if !errors.Is(err, syscall.EPERM) && !errors.Is(err, syscall.EROFS) {
		// The kernel leaves this to us, without a flag that says who may keep
		// the bits. As in its own ext4 they go even if the call fails.
		err = errors.Join(err, s.fs.KillPriv(ino, r.UID != 0))
	}
	return s.errno(r, err)
}

// copyChunk is what copy_file_range(2) moves at once.
const copyChunk = 1 << 20

// CopyFileRange copies inside of the server.
func (s *Server) CopyFileRange(r *fuse.Request, in *fuse.CopyFileRangeIn) (uint64, syscall.Errno) {
	if in.Flags != 0 || in.OffIn >= 1<<63 || in.OffOut >= 1<<63 {
		return 0, syscall.EINVAL
	}
	buf := make([]byte, min(in.Len, copyChunk))
	done := uint64(0)
	// Interrupted or not, to have copied nothing would mean the end of the file.
	for done < in.Len && (done == 0 || !r.Interrupted()) {
		part := buf[:min(uint64(len(buf)), in.Len-done)]
		n, err := s.fs.ReadAt(inode(r.NodeID), part, int64(in.OffIn+done))
		end := errors.Is(err, io.EOF)
		if err == nil || end {
			n, err = s.fs.WriteBack(inode(in.NodeIDOut), part[:n], int64(in.OffOut+done))
		}
		done += uint64(n)
		if err != nil && done == 0 {
			return 0, s.errno(r, err)
		}
		if err != nil || end {
			break
		}
	}
	return done, 0
}

// Setxattr and Removexattr change extended attributes.
func (s *Server) Setxattr(r *fuse.Request, in *fuse.SetxattrIn, name string, value []byte) syscall.Errno {
	ino := inode(r.NodeID)
	if err := s.fs.Setxattr(ino, name, value, int(in.Flags)); err != nil {
		return s.errno(r, err)
	}
	if in.SetxattrFlags&fuse.SetxattrACLKillSgid != 0 {
		return s.errno(r, s.fs.KillSetgid(ino))
	}
	return 0
}

func (s *Server) Removexattr(r *fuse.Request, name string) syscall.Errno {
	return s.errno(r, s.fs.Removexattr(inode(r.NodeID), name))
}

// Fsync and Fsyncdir make an inode durable. By then the blocks of a file are
// known, and the kernel, which keeps all other attributes of what it writes back
// up to date, is to learn how many they are.
func (s *Server) Fsync(r *fuse.Request, _ *fuse.FsyncIn) syscall.Errno {
	if err := s.fs.Fsync(inode(r.NodeID)); err != nil {
		return s.errno(r, err)
	}
	if err := r.InvalAttr(); err != nil {
		s.log.Warn("outdated attributes", "nodeid", r.NodeID, "error", err)
	}
	return 0
}

func (s *Server) Fsyncdir(r *fuse.Request, _ *fuse.FsyncIn) syscall.Errno {
	return s.errno(r, s.fs.Fsync(inode(r.NodeID)))
}

// Syncfs makes everything durable.
func (s *Server) Syncfs(r *fuse.Request) syscall.Errno { return s.errno(r, s.fs.Sync()) }

// Release has nothing to do: there are no handles.
func (s *Server) Release(*fuse.Request, *fuse.ReleaseIn) syscall.Errno { return 0 }
