package server

import (
	"fmt"
	"io"
	"syscall"

	"ext4box/ext4"
	"ext4box/fuse"
	"ext4box/iomap"
)

// file returns the other half of the server and the inode of a request about mappings.
// attrIno is the number of the inode in its attributes, which the kernel repeats.
func (s *Server) file(r *fuse.Request, attrIno uint64) (*outside, ext4.Ino, syscall.Errno) {
	o, ino := s.outside.Load(), s.inode(r.NodeID)
	switch {
	case o == nil:
		return nil, 0, syscall.ENOSYS
	case ino == 0 || uint64(ino) != attrIno:
		return nil, 0, syscall.ESTALE
	}
	return o, ino, 0
}

// IomapBegin answers what backs a range of a file. The mapping goes to the kernel's cache,
// from which it is taken only as long as it holds, and the answer is to look there. What
// must not be kept, or that the kernel could not keep, is the answer itself.
func (s *Server) IomapBegin(r *fuse.Request, in *fuse.IomapBeginIn, out *fuse.IomapBeginOut) syscall.Errno {
	o, ino, errno := s.file(r, in.Ino)
	if errno != 0 {
		return errno
	}
	pos, n := in.Pos, in.Count
	switch {
	case n == 0:
		return syscall.EINVAL
	case pos >= o.maxSize && in.Op.Stores():
		return syscall.EFBIG
	case pos >= o.maxSize:
		return syscall.EINVAL
	}
	n = min(n, o.maxSize-pos)
	if in.Op&iomap.SwapFile != 0 {
		if err := s.fs.SetSwap(ino, true); err != nil {
			return s.errno(r, err)
		}
	}
	m, kept, err := s.fs.MapOutside(ino, pos, n, in.Op, s.limited(r))
	if err != nil {
		return s.errno(r, err)
	}
	if !m.Contains(pos) {
		return s.errno(r, fmt.Errorf("inode %d: mapping %d+%d does not cover offset %d: %w", ino, m.Offset, m.Length, pos, syscall.EIO))
	}
	out.Read = o.slot(&m)
	if kept {
		out.Read = filler(&out.Read, fuse.IomapRetryCache)
	}
	out.Write = filler(&out.Read, fuse.IomapPureOverwrite)
	return 0
}

// IomapEnd has nothing to do, for what BEGIN did stays until data was written, or cannot
// be any more.
func (s *Server) IomapEnd(*fuse.Request, *fuse.IomapEndIn) syscall.Errno { return syscall.ENOSYS }

// IomapIoend makes what was written a part of the file. The answer is the size that is
// recorded then, whatever the kernel has not written yet.
func (s *Server) IomapIoend(r *fuse.Request, in *fuse.IomapIoendIn, out *fuse.IomapIoendOut) syscall.Errno {
	o, ino, errno := s.file(r, in.Ino)
	if errno != 0 {
		return errno
	}
	switch {
	case in.Flags&fuse.IoendSwapoff != 0:
		if err := s.fs.SetSwap(ino, false); err != nil {
			return s.errno(r, err)
		}
		size, err := s.fs.FileSize(ino)
		out.Newsize = size
		return s.errno(r, err)
	case in.Pos > o.maxSize || in.Written > o.maxSize-in.Pos || in.Error > 0 || in.Error < -4095:
		return syscall.EINVAL
	case in.Flags&fuse.IoendShared != 0:
		return s.errno(r, fmt.Errorf("inode %d: the kernel wrote out of place, at %d+%d: %w", ino, in.Pos, in.Written, syscall.EUCLEAN))
	}
	failed := syscall.Errno(-in.Error)
	size, err := s.fs.IOEndOutside(ino, in.Pos, in.Written, failed)
	if failed != 0 {
		return failed
	}
	out.Newsize = size
	return s.errno(r, err)
}

// read reads content that is in its inode; what is behind it reads as zeros, however much
// is asked for. The kernel has no other reason to ask. (A page may be read in while a
// write moves the content to a block, which then is read instead.)
func (o *outside) read(r *fuse.Request, in *fuse.ReadIn, buf []byte) (int, syscall.Errno) {
	if in.Offset >= o.blockSize || uint64(len(buf)) > o.blockSize-in.Offset {
		return 0, o.unexpected(r, in.Offset, len(buf))
	}
	n, err := o.fs.ReadAt(o.inode(r.NodeID), buf, int64(in.Offset))
	if err != nil && err != io.EOF {
		return 0, o.errno(r, err)
	}
	clear(buf[n:])
	return len(buf), 0
}

// write changes content that is in its inode and, if it grows, the size of the file.
func (o *outside) write(r *fuse.Request, in *fuse.WriteIn, data []byte) (int, syscall.Errno) {
	ino := o.inode(r.NodeID)
	if in.Offset >= o.blockSize || uint64(len(data)) > o.blockSize-in.Offset {
		return 0, o.unexpected(r, in.Offset, len(data))
	}
	if len(data) == 0 {
		return 0, 0
	}
	// The mapping was the answer to the BEGIN before.
	m, _, err := o.fs.MapOutside(ino, in.Offset, uint64(len(data)), iomap.Write, o.limited(r))
	if err != nil {
		return 0, o.errno(r, err)
	}
	if m.Type != iomap.Inline {
		return 0, o.unexpected(r, in.Offset, len(data))
	}
	n, err := o.fs.WriteBack(ino, data, int64(in.Offset))
	if err == nil && n < len(data) {
		err = fmt.Errorf("inode %d: %d of %d bytes were written: %w", ino, n, len(data), syscall.EIO)
	}
	if err != nil {
		return 0, o.errno(r, err)
	}
	return n, o.durable(r, ino)
}

// unexpected refuses data of a file that the kernel has mappings of: by some mistake it
// goes by the server, where nobody sees to it that the kernel's cache agrees.
func (o *outside) unexpected(r *fuse.Request, off uint64, n int) syscall.Errno {
	o.strange.Do(func() {
		o.log.Error("the kernel sends data of a file that it has mappings of; this is told once",
			"op", r.Opcode, "nodeid", r.NodeID, "offset", off, "length", n)
	})
	return syscall.EIO
}

// fallocate changes how a range is backed. The kernel has written back what is there, sees to
// the ends of the range, the times and the bits that lend privilege, and has no
// mapping of the range afterwards.
func (o *outside) fallocate(r *fuse.Request, in *fuse.FallocateIn) syscall.Errno {
	ino := o.inode(r.NodeID)
	return o.settle(r, o.fs.FallocateAs(ino, in.Mode, in.Offset, in.Length, o.limited(r)), ino)
}

// FreezeFS makes everything durable and keeps it so until UnfreezeFS.
func (s *Server) FreezeFS(r *fuse.Request, in *fuse.FreezeFSIn) syscall.Errno {
	return s.errno(r, s.fs.Freeze(in.Unlinked))
}

// UnfreezeFS lets changes happen again.
func (s *Server) UnfreezeFS(r *fuse.Request) syscall.Errno { return s.errno(r, s.fs.Thaw()) }

// ShutdownFS ends the service of files, for the device is gone.
func (s *Server) ShutdownFS(r *fuse.Request, _ *fuse.ShutdownFSIn) syscall.Errno {
	return s.errno(r, s.fs.Shutdown(false))
}
