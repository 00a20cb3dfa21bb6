package server

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"syscall"

	"ext4box/ext4"
	"ext4box/fuse"

	"golang.org/x/sys/unix"
)

// rootNode is the nodeid of the root directory.
const rootNode = 1

// maxBackground is how many asynchronous requests (readahead, direct I/O) the
// kernel keeps in flight.
const maxBackground = 64

// Options says how a filesystem is served.
type Options struct {
	// Logger receives errors that callers are told only as an errno; nil
	// discards them.
	Logger *slog.Logger
	// Owner is the user who mounted it, and may do what else only root may.
	Owner uint32
	// Destroy, if not nil, is called when the last request was answered.
	Destroy func()
	// Sync and DirSync make changes, or those of directories, durable before they
	// are answered.
	Sync, DirSync bool
}

// Server answers FUSE requests from one filesystem. It implements
// fuse.Operations.
type Server struct {
	fuse.Unimplemented
	fs       *ext4.FS
	writable bool
	// writeback says that the kernel keeps data, size and times of files until it
	// writes back. With limits of quota it does not, for it would accept data that
	// nobody has room for.
	writeback bool
	log       *slog.Logger
	owner     uint32
	destroy   func()
	sync      bool
	dirsync   bool
	versions  versions
	writers   writers
	grown     grown

	// respells says that a name can become present or absent under another
	// spelling, or that a directory can come to be such: what is absent is not to
	// be remembered.
	respells bool
}

var _ fuse.Operations = (*Server)(nil)

// New returns a server for fs, which stays the caller's to close, after the
// session has ended.
func New(fs *ext4.FS, o Options) *Server {
	s := &Server{fs: fs, log: o.Logger, owner: o.Owner, destroy: o.Destroy, sync: o.Sync, dirsync: o.DirSync, writers: newWriters()}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.writable = fs.ReadOnlyReason() == ""
	s.writeback = s.writable && !fs.QuotaEnforced()
	s.respells = s.writable && fs.Casefolds()
	return s
}

// Params are the terms that the server asks of the kernel.
func (s *Server) Params() fuse.Params {
	p := fuse.Params{
		Flags: fuse.InitAsyncRead | fuse.InitExportSupport | fuse.InitDoReaddirplus |
			fuse.InitReaddirplusAuto | fuse.InitAsyncDIO | fuse.InitParallelDirops | fuse.InitPosixACL |
			fuse.InitCacheSymlinks | fuse.InitNoOpenSupport | fuse.InitNoOpendirSupport |
			fuse.InitExplicitInvalData | fuse.InitDontMask,
		MaxBackground: maxBackground,
		TimeGran:      1,
	}
	if s.fs.Info().InodeSize == 128 {
		p.TimeGran = 1e9 // there is no room for less
	}
	if s.writable {
		p.Flags |= fuse.InitHandleKillprivV2 | fuse.InitSetxattrExt | fuse.InitDirectIOAllowMmap
	}
	if s.writeback {
		p.Flags |= fuse.InitWritebackCache
	}
	return p
}

// Init accepts the terms.
func (s *Server) Init(*fuse.Request, *fuse.Protocol) syscall.Errno { return 0 }

// Destroy comes when no request will: umount(2) of a block device waits for its
// answer.
func (s *Server) Destroy() {
	if s.destroy != nil {
		s.destroy()
	}
}

// inode is the inode of a nodeid.
func inode(nodeid uint64) ext4.Ino {
	switch {
	case nodeid == rootNode:
		return ext4.RootIno
	case nodeid == uint64(ext4.RootIno) || nodeid != uint64(ext4.Ino(nodeid)):
		return 0 // no such node; the engine answers ESTALE
	}
	return ext4.Ino(nodeid)
}

// node is the nodeid of an inode.
func node(ino ext4.Ino) uint64 {
	if ino == ext4.RootIno {
		return rootNode
	}
	return uint64(ino)
}

// errno turns an error of the engine into the answer to a request. What points
// to the image or the device, rather than to the caller, is logged.
func (s *Server) errno(r *fuse.Request, err error) syscall.Errno {
	if err == nil {
		return 0
	}
	var e syscall.Errno
	if !errors.As(err, &e) || e == 0 {
		e = syscall.EIO
	}
	if e == syscall.EUCLEAN || e == syscall.EIO {
		s.fs.ReportError(inode(r.NodeID), err)
		s.log.LogAttrs(context.Background(), slog.LevelError, "request failed",
			slog.Uint64("nodeid", r.NodeID), slog.Any("op", r.Opcode), slog.Any("error", err))
	}
	return e
}

// Statfs reports the space of the filesystem.
func (s *Server) Statfs(r *fuse.Request, out *fuse.StatfsOut) syscall.Errno {
	st, err := s.fs.StatfsAt(inode(r.NodeID))
	if err != nil {
		return s.errno(r, err)
	}
	*out = fuse.StatfsOut{
		Blocks: st.Blocks, Bfree: st.BlocksFree, Bavail: st.BlocksAvail,
		Files: st.Files, Ffree: st.FilesFree,
		Bsize: st.BlockSize, Frsize: st.BlockSize, Namelen: st.NameLen,
	}
	return 0
}

// Read fills buf from the file through the mover.
func (s *Server) Read(r *fuse.Request, in *fuse.ReadIn, buf []byte) (int, syscall.Errno) {
	if in.Offset >= 1<<63 {
		return 0, syscall.EINVAL
	}
	n, err := s.fs.ReadAt(inode(r.NodeID), buf, int64(in.Offset))
	if err != nil && err != io.EOF {
		return 0, s.errno(r, err)
	}
	s.accessed(r, in.Flags, n > 0)
	return n, 0
}

// accessed changes the access time of what was read, as the kernel does for
// other file systems. Of FUSE it knows that it has to ask for the time again.
func (s *Server) accessed(r *fuse.Request, flags uint32, any bool) {
	if any && flags&unix.O_NOATIME == 0 {
		s.fs.Accessed(inode(r.NodeID))
	}
}

// Lseek finds data and holes. EBUSY: too many ask at once for files that are
// being written.
func (s *Server) Lseek(r *fuse.Request, in *fuse.LseekIn, out *fuse.LseekOut) syscall.Errno {
	// The kernel does not write back before it asks.
	if s.writable && s.writers.any(inode(r.NodeID)) && !s.writers.flush(r) {
		return syscall.EBUSY
	}
	if in.Offset >= 1<<63 {
		return syscall.ENXIO
	}
	off, err := s.fs.Seek(inode(r.NodeID), int64(in.Offset), int(in.Whence))
	out.Offset = uint64(off)
	return s.errno(r, err)
}
