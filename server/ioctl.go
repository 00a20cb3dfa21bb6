package server

import (
	"bytes"
	"encoding/binary"
	"sync"
	"syscall"

	"ext4box/ext4"
	"ext4box/fuse"

	"golang.org/x/sys/unix"
)

// The ioctls that are served. The kernel hands on, for files and directories, what
// it does not know itself, with as much data as the size and direction in the
// number say: the argument of FS_IOC_SHUTDOWN, which is declared the wrong way
// round, therefore never comes. It turns FS_IOC_[GS]ETFLAGS and FS_IOC_FS[GS]ETXATTR
// into operations of its own, checks owner and CAP_LINUX_IMMUTABLE, and sends the
// numbers of old with data of other sizes than these say. The 32-bit forms of the
// numbers pass by these checks, and so must not be known here.
const (
	fsIocGetVersion   = 0x80087601 // _IOR('v', 1, long)
	fsIocSetVersion   = 0x40087602 // _IOW('v', 2, long)
	ext4IocGetVersion = 0x80086603 // _IOR('f', 3, long)
	ext4IocSetVersion = 0x40086604 // _IOW('f', 4, long)
	fsIocFSGetXattr   = 0x801C581F // _IOR('X', 31, struct fsxattr)
	fsIocFSSetXattr   = 0x401C5820 // _IOW('X', 32, struct fsxattr)
	fsIocGetFSLabel   = 0x81009431 // _IOR(0x94, 49, char[256])
	fsIocSetFSLabel   = 0x41009432 // _IOW(0x94, 50, char[256])
	fiTrim            = 0xC0185879 // _IOWR('X', 121, struct fstrim_range)
	fsIocShutdown     = 0x8004587D // _IOR('X', 125, __u32)
	fsIocShutdownHow  = 0x4004587D // _IOW('X', 125, __u32): the same with its argument
)

const (
	fsLabelMax  = 256
	fsxattrSize = 28
	fstrimSize  = 24
)

// shutdownNoLogFlush is the mode of FS_IOC_SHUTDOWN that is like a crash. The
// others, 0 and 1, differ in what they flush of file data, which is all on the
// device here when a transaction refers to it.
const shutdownNoLogFlush = 2

// xflags are the flags of struct fsxattr that stand for inode flags.
var xflags = [...]struct{ flag, xflag uint32 }{
	{ext4.FlagSync, 0x20},
	{ext4.FlagImmutable, 0x8},
	{ext4.FlagAppend, 0x10},
	{ext4.FlagNodump, 0x80},
	{ext4.FlagNoatime, 0x40},
	{ext4.FlagDAX, 0x8000},
	{ext4.FlagProjInherit, 0x200},
	{ext4.FlagVerity, 0x20000}, // cannot be set
}

// Ioctl does what has no operation of its own.
func (s *Server) Ioctl(r *fuse.Request, in *fuse.IoctlIn, data []byte, _ *fuse.IoctlOut, buf []byte) (int, syscall.Errno) {
	var answer []byte
	var errno syscall.Errno
	switch in.Cmd {
	case unix.FS_IOC_GETFLAGS, fsIocFSGetXattr, fsIocGetVersion, ext4IocGetVersion:
		answer, errno = s.inodeIoctl(r, in.Cmd)
	case fsIocGetFSLabel:
		answer = make([]byte, fsLabelMax)
		copy(answer, s.fs.Label())
	case unix.FS_IOC_SETFLAGS:
		if len(data) < 4 {
			return 0, syscall.EINVAL
		}
		flags := binary.NativeEndian.Uint32(data)
		errno = s.changeFlags(r, ext4.Attr{Flags: &flags})
	case fsIocFSSetXattr:
		errno = s.setFsxattr(r, data)
	case fsIocSetVersion, ext4IocSetVersion:
		errno = s.setVersion(r, data)
	case fsIocSetFSLabel:
		errno = s.setLabel(r, data)
	case fiTrim:
		answer, errno = s.trim(r, data)
	case fsIocShutdown, fsIocShutdownHow:
		errno = s.shutdown(r, data)
	default:
		errno = syscall.ENOTTY
	}
	return copy(buf, answer), errno
}

// inodeIoctl answers the questions about an inode.
func (s *Server) inodeIoctl(r *fuse.Request, cmd uint32) ([]byte, syscall.Errno) {
	st, err := s.fs.Stat(s.inode(r.NodeID))
	if err != nil {
		return nil, s.errno(r, err)
	}
	ne := binary.NativeEndian
	flags := st.Flags & ext4.FlagsVisible
	switch cmd {
	case unix.FS_IOC_GETFLAGS:
		return ne.AppendUint32(nil, flags), 0
	case fsIocGetVersion, ext4IocGetVersion:
		return ne.AppendUint32(nil, st.Generation), 0
	}
	answer := make([]byte, fsxattrSize)
	x := uint32(0)
	for _, f := range xflags {
		if flags&f.flag != 0 {
			x |= f.xflag
		}
	}
	ne.PutUint32(answer, x)
	ne.PutUint32(answer[12:], st.ProjectID)
	return answer, 0
}

// setFsxattr sets the flags that struct fsxattr has, keeps the others, and sets the
// project.
func (s *Server) setFsxattr(r *fuse.Request, data []byte) syscall.Errno {
	if len(data) < fsxattrSize {
		return syscall.EINVAL
	}
	st, err := s.fs.Stat(s.inode(r.NodeID))
	if err != nil {
		return s.errno(r, err)
	}
	x, project := binary.NativeEndian.Uint32(data), binary.NativeEndian.Uint32(data[12:])
	flags := st.Flags & ext4.FlagsVisible
	for _, f := range xflags {
		if f.flag == ext4.FlagVerity {
			continue
		}
		flags &^= f.flag
		if x&f.xflag != 0 {
			flags |= f.flag
		}
	}
	return s.changeFlags(r, ext4.Attr{Flags: &flags, ProjectID: &project, Limited: s.limited(r)})
}

func (s *Server) changeFlags(r *fuse.Request, a ext4.Attr) syscall.Errno {
	if o := s.moved(r.NodeID); o != nil {
		if errno := o.checkFlags(r, *a.Flags); errno != 0 {
			return errno
		}
	}
	ino := s.inode(r.NodeID)
	if s.outside.Load() == nil && s.mayBeDirty(ino) && s.protects(ino, *a.Flags) && !s.writers.flush(r) {
		return syscall.EBUSY
	}
	if err := s.fs.SetAttr(ino, a); err != nil {
		return s.errno(r, err)
	}
	s.stale(r)
	return s.durable(r, ino)
}

// stale has the kernel ask again for the attributes of an inode, which an ioctl
// changed unseen.
func (s *Server) stale(r *fuse.Request) {
	if err := r.InvalAttr(); err != nil {
		s.log.Warn("outdated attributes", "nodeid", r.NodeID, "error", err)
	}
}

// versions remembers what the kernel was told of inodes whose generation changed
// since: it takes an inode with another one for another inode, and drops it with
// all that has not been written back.
type versions struct {
	mu  sync.Mutex
	now map[ext4.Ino]version
}

type version struct{ told, is uint32 }

// maxVersions bounds the inodes whose generation changes during one mount.
const maxVersions = 1 << 16

// shown is the generation by which the kernel knows an inode that has generation
// is.
func (v *versions) shown(ino ext4.Ino, is uint32) uint32 {
	v.mu.Lock()
	defer v.mu.Unlock()
	if c, ok := v.now[ino]; ok && c.is == is {
		return c.told
	}
	return is
}

// change notes that a generation is about to change, and false if it must not, for too
// many have.
func (v *versions) change(ino ext4.Ino, was, is uint32) bool {
	told := v.shown(ino, was)
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.now == nil {
		v.now = make(map[ext4.Ino]version)
	}
	if _, known := v.now[ino]; !known && len(v.now) >= maxVersions {
		return false
	}
	v.now[ino] = version{told, is}
	return true
}

// setVersion changes the generation of an inode, which its owner may.
func (s *Server) setVersion(r *fuse.Request, data []byte) syscall.Errno {
	if len(data) < 4 {
		return syscall.EINVAL
	}
	ino := s.inode(r.NodeID)
	st, err := s.stat(ino)
	if err != nil {
		return s.errno(r, err)
	}
	if !s.privileged(r) && (s.caller(r) != st.UID || st.UID == fuse.InvalidID) {
		return syscall.EPERM
	}
	to := binary.NativeEndian.Uint32(data)
	if !s.versions.change(ino, st.Generation, to) {
		return syscall.ENOSPC
	}
	if err := s.fs.SetGeneration(ino, to); err != nil {
		return s.errno(r, err)
	}
	s.stale(r)
	return s.durable(r, ino)
}

// mayAdminister tells whether a request comes from somebody who may do what concerns
// the filesystem as a whole: root, as far as the user namespace of the mount goes, or
// whoever mounted it and so has the image. Requests do not tell capabilities.
func (s *Server) mayAdminister(r *fuse.Request) bool {
	return s.privileged(r) || s.caller(r) == s.owner
}

func (s *Server) setLabel(r *fuse.Request, data []byte) syscall.Errno {
	if !s.mayAdminister(r) {
		return syscall.EPERM
	}
	label, _, ok := bytes.Cut(data, []byte{0})
	if !ok {
		return syscall.EINVAL
	}
	return s.errno(r, s.fs.SetLabel(string(label)))
}

func (s *Server) trim(r *fuse.Request, data []byte) ([]byte, syscall.Errno) {
	if !s.mayAdminister(r) {
		return nil, syscall.EPERM
	}
	if len(data) < fstrimSize {
		return nil, syscall.EINVAL
	}
	ne := binary.NativeEndian
	n, err := s.fs.Trim(ne.Uint64(data), ne.Uint64(data[8:]), ne.Uint64(data[16:]), r.Interrupted)
	if err != nil {
		return nil, s.errno(r, err)
	}
	answer := bytes.Clone(data[:fstrimSize])
	ne.PutUint64(answer[8:], n)
	return answer, 0
}

// shutdown ends the service of files. Without a mode, see fsIocShutdown, what was
// done is kept.
func (s *Server) shutdown(r *fuse.Request, data []byte) syscall.Errno {
	if !s.mayAdminister(r) {
		return syscall.EPERM
	}
	how := uint32(0)
	if len(data) >= 4 {
		how = binary.NativeEndian.Uint32(data)
	}
	if how > shutdownNoLogFlush {
		return syscall.EINVAL
	}
	return s.errno(r, s.fs.Shutdown(how != shutdownNoLogFlush))
}
