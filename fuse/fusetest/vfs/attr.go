package vfs

import (
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"ext4box/fuse"
)

// attributes are those that the kernel has in memory, size and times included.
func (in *inode) attributes() fuse.Attr {
	in.mu.Lock()
	defer in.mu.Unlock()
	a := in.attr
	a.Size = in.isize
	return a
}

func (in *inode) isImmutable() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.immutable
}

func (in *inode) isAppendOnly() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.appendTo
}

// getattr asks the server for attributes.
func (in *inode) getattr(c caller) syscall.Errno {
	in.forgetACLs()
	at := sent(in)
	payload, errno := in.fs.request(c, fuse.OpGetattr, in.nodeid, structure(&fuse.GetattrIn{}))
	if errno != 0 {
		return errno
	}
	out := decode[fuse.AttrOut](payload)
	return in.takeAttr(&out, at)
}

// takeAttr takes over the reply to GETATTR or SETATTR.
func (in *inode) takeAttr(out *fuse.AttrOut, at sentAt) syscall.Errno {
	if out.Attr.Mode&syscall.S_IFMT != in.typ {
		in.fs.violate("node %d has become a file of mode %o", in.nodeid, out.Attr.Mode)
		in.makeBad()
		return syscall.EIO
	}
	in.applyAttr(&out.Attr, out.AttrValid, out.AttrValidNsec, at)
	return 0
}

// statx asks for attributes with the time of birth.
func (in *inode) statx(c caller, mask uint32) syscall.Errno {
	in.forgetACLs()
	at := sent(in)
	payload, errno := in.fs.request(c, fuse.OpStatx, in.nodeid, structure(&fuse.StatxIn{SxMask: mask}))
	if errno != 0 {
		return errno
	}
	out := decode[fuse.StatxOut](payload)
	x := &out.Stat
	if x.Mask&unix.STATX_BASIC_STATS != unix.STATX_BASIC_STATS || uint32(x.Mode)&syscall.S_IFMT != in.typ {
		in.fs.violate("STATX of node %d: mask %#x, mode %o", in.nodeid, x.Mask, x.Mode)
		return syscall.EIO
	}
	a := fuse.Attr{
		Ino: x.Ino, Size: x.Size, Blocks: x.Blocks, Mode: uint32(x.Mode), Nlink: x.Nlink, UID: x.UID, GID: x.GID,
		Rdev: fuse.EncodeDev(x.RdevMajor, x.RdevMinor), Blksize: x.Blksize,
		Atime: uint64(x.Atime.Sec), AtimeNsec: x.Atime.Nsec, Mtime: uint64(x.Mtime.Sec), MtimeNsec: x.Mtime.Nsec,
		Ctime: uint64(x.Ctime.Sec), CtimeNsec: x.Ctime.Nsec,
	}
	in.applyAttr(&a, out.AttrValid, out.AttrValidNsec, at)
	in.mu.Lock()
	defer in.mu.Unlock()
	in.btime, in.bornKnown = x.Btime, x.Mask&unix.STATX_BTIME != 0
	return 0
}

// Statx is statx(2) of what a path leads to, not following a link at its end.
func (t *Task) Statx(path string, mask int) (unix.Statx_t, error) {
	in, errno := t.walk(path, 0)
	if errno != 0 {
		return unix.Statx_t{}, errno
	}
	defer t.fs.iput(in)
	return t.statInode(in, mask)
}

// Statx is statx(2) of the open file.
func (f *File) Statx(mask int) (unix.Statx_t, error) { return f.task().statInode(f.in, mask) }

func (t *Task) statInode(in *inode, mask int) (unix.Statx_t, error) {
	errno := syscall.Errno(0)
	born := mask&unix.STATX_BTIME != 0
	in.mu.Lock()
	bornKnown := in.bornKnown
	in.mu.Unlock()
	switch fresh := in.fresh(); {
	case fresh && (!born || bornKnown):
	case born && !t.fs.unsupported(fuse.OpStatx):
		if errno = in.statx(t.caller(), uint32(mask)); errno != syscall.ENOSYS {
			break
		}
		t.fs.without(fuse.OpStatx)
		fallthrough
	default:
		errno = in.getattr(t.caller())
	}
	if errno != 0 {
		return unix.Statx_t{}, errno
	}
	a := in.attributes()
	major, minor := fuse.DecodeDev(a.Rdev)
	st := unix.Statx_t{
		Mask: unix.STATX_BASIC_STATS, Blksize: a.Blksize, Nlink: a.Nlink, Uid: a.UID, Gid: a.GID, Mode: uint16(a.Mode), Ino: a.Ino, Size: a.Size,
		Blocks: a.Blocks, Rdev_major: major, Rdev_minor: minor,
		Atime: unix.StatxTimestamp{Sec: int64(a.Atime), Nsec: a.AtimeNsec},
		Mtime: unix.StatxTimestamp{Sec: int64(a.Mtime), Nsec: a.MtimeNsec},
		Ctime: unix.StatxTimestamp{Sec: int64(a.Ctime), Nsec: a.CtimeNsec},
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.bornKnown {
		st.Mask |= unix.STATX_BTIME
		st.Btime = unix.StatxTimestamp{Sec: in.btime.Sec, Nsec: in.btime.Nsec}
	}
	return st, nil
}

// Statfs asks for the figures of the filesystem.
func (t *Task) Statfs() (fuse.StatfsOut, error) {
	payload, errno := t.fs.request(t.caller(), fuse.OpStatfs, t.fs.root.nodeid)
	if errno != 0 {
		return fuse.StatfsOut{}, errno
	}
	return decode[fuse.StatfsOut](payload), nil
}

// currentTime is the time that the kernel gives to inodes.
func (fs *FS) currentTime() time.Time {
	sec, nsec := fs.now()
	return time.Unix(int64(sec), int64(nsec))
}

// updateCtime follows a change that the server has made to an inode: where the kernel keeps the times it
// is the one to tell when that was.
func (in *inode) updateCtime() {
	owns := in.ownsTimes()
	in.mu.Lock()
	defer in.mu.Unlock()
	in.expires = time.Time{}
	if owns {
		in.attr.Ctime, in.attr.CtimeNsec = in.fs.now()
		in.timesOut = true
	}
}
