package vfs

import (
	"encoding/binary"
	"syscall"

	"golang.org/x/sys/unix"

	"ext4box/fuse"
)

// Flags of FS_IOC_FSGETXATTR that are inode flags as well, and their counterparts.
const (
	flagSync      = 0x8
	flagImmutable = 0x10
	flagAppend    = 0x20

	xflagImmutable = 0x8
	xflagAppend    = 0x10
	xflagSync      = 0x20

	fsIocFSGetXattr = 0x801C581F
	fsIocFSSetXattr = 0x401C5820
	fsxattrSize     = 28
)

// ioctlFlags exchanges flags with the server, as ioctls of the file.
func (f *File) ioctlFlags(cmd uint32, arg []byte, room int) ([]byte, syscall.Errno) {
	s := fuse.IoctlIn{Fh: f.fh, Cmd: cmd, InSize: uint32(len(arg)), OutSize: uint32(room)}
	if f.in.typ == syscall.S_IFDIR {
		s.Flags = fuse.IoctlDir
	}
	if !f.in.regular() && f.in.typ != syscall.S_IFDIR {
		return nil, syscall.ENOTTY
	}
	payload, errno := f.fs.request(f.task().caller(), fuse.OpIoctl, f.in.nodeid, structure(&s), arg)
	if errno != 0 {
		if errno == syscall.ENOSYS {
			errno = syscall.ENOTTY
		}
		return nil, errno
	}
	out := decode[fuse.IoctlOut](payload)
	if out.Result < 0 {
		return nil, syscall.Errno(-out.Result)
	}
	const head = 16
	if len(payload) < head+room {
		return nil, syscall.EIO
	}
	return payload[head:], 0
}

// Flags is FS_IOC_GETFLAGS.
func (f *File) Flags() (uint32, error) {
	b, errno := f.ioctlFlags(unix.FS_IOC_GETFLAGS, nil, 4)
	if errno != 0 {
		return 0, errno
	}
	return binary.NativeEndian.Uint32(b), nil
}

// SetFlags is FS_IOC_SETFLAGS.
func (f *File) SetFlags(flags uint32) error {
	return f.changeFlags(flagChange{
		get: unix.FS_IOC_GETFLAGS, set: unix.FS_IOC_SETFLAGS, arg: binary.NativeEndian.AppendUint32(nil, flags),
		guarded: func(old []byte) bool {
			return (binary.NativeEndian.Uint32(old)^flags)&(flagImmutable|flagAppend) != 0
		},
		follow: func() { f.in.setFlags(flags&flagImmutable != 0, flags&flagAppend != 0, flags&flagSync != 0) },
	})
}

// Fsxattr is the struct of FS_IOC_FSGETXATTR.
type Fsxattr struct {
	Xflags, Extsize, Nextents, Project, Cowextsize uint32
	_                                              [8]byte
}

// Fsxattr is FS_IOC_FSGETXATTR.
func (f *File) Fsxattr() (Fsxattr, error) {
	b, errno := f.ioctlFlags(fsIocFSGetXattr, nil, fsxattrSize)
	if errno != 0 {
		return Fsxattr{}, errno
	}
	return decode[Fsxattr](b), nil
}

// SetFsxattr is FS_IOC_FSSETXATTR.
func (f *File) SetFsxattr(x Fsxattr) error {
	return f.changeFlags(flagChange{
		get: fsIocFSGetXattr, set: fsIocFSSetXattr, arg: structure(&x),
		guarded: func(old []byte) bool {
			return (decode[Fsxattr](old).Xflags^x.Xflags)&(xflagImmutable|xflagAppend) != 0
		},
		follow: func() {
			f.in.setFlags(x.Xflags&xflagImmutable != 0, x.Xflags&xflagAppend != 0, x.Xflags&xflagSync != 0)
		},
	})
}

// flagChange is one of the two ways to change flags.
type flagChange struct {
	get, set uint32                // the ioctls
	arg      []byte                // what they exchange
	guarded  func(old []byte) bool // tells whether it takes CAP_LINUX_IMMUTABLE
	follow   func()                // what the kernel does once the server has agreed
}

// changeFlags changes flags. What succeeds changes also what the kernel knows of an exclusive inode.
func (f *File) changeFlags(c flagChange) error {
	t := f.task()
	done := t.fs.startWrite()
	defer done()
	if !t.ownerOrCapable(f.in) {
		return syscall.EPERM
	}
	f.in.rwsem.Lock()
	defer f.in.rwsem.Unlock()
	old, errno := f.ioctlFlags(c.get, nil, len(c.arg))
	if errno != 0 {
		return errno
	}
	if c.guarded(old) && !t.privileged() {
		return syscall.EPERM
	}
	if _, errno := f.ioctlFlags(c.set, c.arg, 0); errno != 0 {
		return errno
	}
	c.follow()
	return nil
}

// setFlags follows a change of flags.
func (in *inode) setFlags(immutable, appendTo, syncing bool) {
	in.mu.Lock()
	if in.flags.exclusive {
		in.immutable, in.appendTo, in.syncing = immutable, appendTo, syncing
	}
	in.mu.Unlock()
	in.updateCtime()
}
