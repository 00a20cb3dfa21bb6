package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync/atomic"
	"syscall"

	"ext4box/ext4"
	"ext4box/fuse"

	"golang.org/x/sys/unix"
)

// rootNode is the nodeid of the root directory, unless the mount says otherwise.
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
	// Owners says to whom files belong for those who use the mount.
	Owners Owners
	// AllowIdmap allows the kernel to map ids itself, differently in each place where the
	// filesystem is mounted. The server is then told of no caller who he is: nobody is root.
	AllowIdmap bool
	// InGroup tells whether a process is a member of a group beside its first one. If it is nil,
	// only the first one counts. It may take a moment.
	InGroup func(pid, gid uint32) bool
	// Destroy, if not nil, is called when the last request was answered.
	Destroy func()
	// Sync and DirSync make changes, or those of directories, durable before they
	// are answered.
	Sync, DirSync bool
	// AskOpen has the kernel ask before it opens a file, where something can be written: for
	// programs that have to be told by open(2) that a file is immutable or only grows.
	AskOpen bool
	// RootNode is the nodeid that the mount gave the root directory: 0 or 1 for what
	// FUSE does, or 2, which makes every nodeid an inode number.
	RootNode uint64
	// Iomap says whether the kernel may move file data itself.
	Iomap Iomap
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
	owners    Owners
	idmap     bool // the kernel may map ids itself
	groups    func(pid, gid uint32) bool
	destroy   func()
	sync      bool
	dirsync   bool
	root      uint64 // the nodeid of the root directory
	versions  versions
	// asked says that the kernel asks before it opens a file; then writers are known.
	asked      bool
	writers    writers
	protection protection
	grown      grown

	iomap Iomap
	// outside is the server's other half where the kernel moves data itself, and nil
	// elsewhere, which is decided before there are requests.
	outside atomic.Pointer[outside]
	path    atomic.Pointer[string] // the way of data; see DataPath

	// respells says that a name can become present or absent under another
	// spelling, or that a directory can come to be such: what is absent is not to
	// be remembered.
	respells bool
}

var _ fuse.Operations = (*Server)(nil)

// New returns a server for fs, which stays the caller's to close, after the
// session has ended.
func New(fs *ext4.FS, o Options) *Server {
	s := &Server{fs: fs, log: o.Logger, owner: o.Owner, groups: o.InGroup, owners: o.Owners, idmap: o.AllowIdmap, destroy: o.Destroy, sync: o.Sync, dirsync: o.DirSync, root: o.RootNode, iomap: o.Iomap, writers: newWriters()}
	if s.root == 0 {
		s.root = rootNode
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.writable = fs.ReadOnlyReason() == ""
	s.writeback = s.writable && !fs.QuotaEnforced()
	// Where the kernel does not see set-user-id it must not keep what is written: see open.
	s.asked = s.writable && (o.AskOpen || s.owners.Umask != nil)
	s.respells = s.writable && fs.Casefolds()
	return s
}

// Params are the terms that the server asks of the kernel.
func (s *Server) Params() fuse.Params {
	p := fuse.Params{
		Flags: fuse.InitAsyncRead | fuse.InitExportSupport | fuse.InitDoReaddirplus |
			fuse.InitReaddirplusAuto | fuse.InitAsyncDIO | fuse.InitParallelDirops |
			fuse.InitCacheSymlinks | fuse.InitNoOpenSupport | fuse.InitNoOpendirSupport |
			fuse.InitExplicitInvalData | fuse.InitDontMask,
		MaxBackground: maxBackground,
		TimeGran:      s.timeGran(),
	}
	if s.writable {
		p.Flags |= fuse.InitHandleKillprivV2 | fuse.InitSetxattrExt | fuse.InitDirectIOAllowMmap
	}
	if s.writeback {
		p.Flags |= fuse.InitWritebackCache
	}
	if !s.owners.ownPermissions() {
		p.Flags |= fuse.InitPosixACL // which has the kernel check permissions
	}
	if s.idmap {
		p.Flags |= fuse.InitAllowIdmap
	}
	p.Iomap = s.noIomap() == ""
	return p
}

// timeGran is the resolution of timestamps in nanoseconds.
func (s *Server) timeGran() uint32 {
	if s.fs.Info().InodeSize == 128 {
		return 1e9 // there is no room for less
	}
	return 1
}

// Init accepts the terms. Where they let the kernel move data itself, IomapConfig
// decides whether it will.
func (s *Server) Init(_ *fuse.Request, p *fuse.Protocol) syscall.Errno {
	if s.idmap && !p.Has(fuse.InitAllowIdmap) {
		s.chosen(slog.LevelError, "", fmt.Errorf("this kernel maps no ids of FUSE mounts, which takes Linux 6.12: leave out allow_idmap: %w", syscall.EOPNOTSUPP))
		return syscall.EOPNOTSUPP
	}
	if p.Iomap {
		return 0
	}
	why := s.noIomap()
	if why == "" {
		why = p.NoIomap
	}
	return s.moves(why, false)
}

// Destroy comes when no request will: umount(2) of a block device waits for its
// answer.
func (s *Server) Destroy() {
	if s.destroy != nil {
		s.destroy()
	}
}

// inode is the inode of a nodeid.
func (s *Server) inode(nodeid uint64) ext4.Ino {
	switch {
	case nodeid == s.root:
		return ext4.RootIno
	case nodeid == uint64(ext4.RootIno) || nodeid != uint64(ext4.Ino(nodeid)):
		return 0 // no such node; the engine answers ESTALE
	}
	return ext4.Ino(nodeid)
}

// node is the nodeid of an inode.
func (s *Server) node(ino ext4.Ino) uint64 {
	if ino == ext4.RootIno {
		return s.root
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
		s.fs.ReportError(s.inode(r.NodeID), err)
		s.log.LogAttrs(context.Background(), slog.LevelError, "request failed",
			slog.Uint64("nodeid", r.NodeID), slog.Any("op", r.Opcode), slog.Any("error", err))
	}
	return e
}

// Statfs reports the space of the filesystem.
func (s *Server) Statfs(r *fuse.Request, out *fuse.StatfsOut) syscall.Errno {
	st, err := s.fs.StatfsAt(s.inode(r.NodeID))
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
	if o := s.moved(r.NodeID); o != nil {
		return o.read(r, in, buf)
	}
	if in.Offset >= 1<<63 {
		return 0, syscall.EINVAL
	}
	n, err := s.fs.ReadAt(s.inode(r.NodeID), buf, int64(in.Offset))
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
		s.fs.Accessed(s.inode(r.NodeID))
	}
}

// Lseek finds data and holes. EBUSY: too many ask at once for files that are
// being written.
func (s *Server) Lseek(r *fuse.Request, in *fuse.LseekIn, out *fuse.LseekOut) syscall.Errno {
	if s.moved(r.NodeID) != nil {
		return syscall.ENOSYS // only the kernel knows what of the file is data; it takes all for it then
	}
	if in.Offset >= 1<<63 {
		return syscall.ENXIO
	}
	ino, from := s.inode(r.NodeID), int64(in.Offset)
	off, err := s.fs.Seek(ino, from, int(in.Whence))
	// The kernel does not write back before it asks. That can only make data of a hole.
	sure := in.Whence == unix.SEEK_DATA && err == nil && off == from
	if !sure && s.mayBeDirty(ino) {
		if !s.writers.flush(r) {
			return syscall.EBUSY
		}
		off, err = s.fs.Seek(ino, from, int(in.Whence))
	}
	out.Offset = uint64(off)
	return s.errno(r, err)
}

// mayBeDirty tells whether the kernel can have something of a file to write back.
func (s *Server) mayBeDirty(ino ext4.Ino) bool {
	return s.writable && (!s.asked || s.writers.any(ino))
}
