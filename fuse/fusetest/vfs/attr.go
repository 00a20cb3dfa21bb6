package vfs

import (
	"encoding/binary"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"ext4box/fuse"
)

// iattr is a change of attributes on its way from a system call to SETATTR.
type iattr struct {
	valid        uint32
	mode         uint32
	uid, gid     uint32
	size         uint64
	atime, mtime time.Time
	ctime        time.Time
	file         *File // ftruncate(2), or nil
}

// What an iattr is about.
const (
	attrMode     = 1 << iota
	attrUID      // chown
	attrGID      // chgrp
	attrSize     //
	attrAtime    //
	attrMtime    //
	attrCtime    //
	attrAtimeSet // to what it says, not to now
	attrMtimeSet //
	attrTimesSet // utimensat(2) with times
	attrTouch    // without
	attrForce    // permission does not matter
	attrKillSUID // take away what lends privilege
	attrKillSGID
	attrKillPriv // and capabilities
	attrOpen     // open(2) with O_TRUNC
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

// Chmod is chmod(2).
func (t *Task) Chmod(path string, mode uint32) error {
	in, errno := t.walk(path, follow)
	if errno != 0 {
		return errno
	}
	defer t.fs.iput(in)
	return fail(t.chmod(in, mode))
}

// Chmod is fchmod(2).
func (f *File) Chmod(mode uint32) error { return fail(f.task().chmod(f.in, mode)) }

func (t *Task) chmod(in *inode, mode uint32) syscall.Errno {
	done := t.fs.startWrite()
	defer done()
	in.rwsem.Lock()
	defer in.rwsem.Unlock()
	return t.notifyChange(in, &iattr{valid: attrMode | attrCtime, mode: mode&0o7777 | in.attributes().Mode&^0o7777})
}

// Chown is lchown(2); -1 leaves an owner as he is.
func (t *Task) Chown(path string, uid, gid int) error {
	in, errno := t.walk(path, 0)
	if errno != 0 {
		return errno
	}
	defer t.fs.iput(in)
	done := t.fs.startWrite()
	defer done()
	in.rwsem.Lock()
	defer in.rwsem.Unlock()
	a := &iattr{valid: attrCtime}
	if uid != -1 {
		a.valid |= attrUID
		a.uid = uint32(uid)
	}
	if gid != -1 {
		a.valid |= attrGID
		a.gid = uint32(gid)
	}
	if in.typ != syscall.S_IFDIR {
		a.valid |= attrKillSUID | attrKillPriv | t.dropSGID(in)
	}
	return fail(t.notifyChange(in, a))
}

// Utimes is utimensat(2).
func (t *Task) Utimes(path string, times [2]unix.Timespec, followLink bool) error {
	flags := walkFlags(0)
	if followLink {
		flags = follow
	}
	in, errno := t.walk(path, flags)
	if errno != 0 {
		return errno
	}
	defer t.fs.iput(in)
	a := &iattr{valid: attrCtime | attrAtime | attrMtime | attrTimesSet}
	switch at, mt := times[0].Nsec, times[1].Nsec; {
	case at == unix.UTIME_OMIT && mt == unix.UTIME_OMIT:
		return nil
	case at == unix.UTIME_NOW && mt == unix.UTIME_NOW:
		a.valid = a.valid&^attrTimesSet | attrTouch
	}
	for i, one := range []struct {
		is, set uint32
		to      *time.Time
	}{{attrAtime, attrAtimeSet, &a.atime}, {attrMtime, attrMtimeSet, &a.mtime}} {
		switch times[i].Nsec {
		case unix.UTIME_OMIT:
			a.valid &^= one.is
		case unix.UTIME_NOW:
		default:
			a.valid |= one.set
			gran := int64(t.fs.timeGran)
			*one.to = time.Unix(times[i].Sec, times[i].Nsec/gran*gran)
		}
	}
	done := t.fs.startWrite()
	defer done()
	in.rwsem.Lock()
	defer in.rwsem.Unlock()
	return fail(t.notifyChange(in, a))
}

// Truncate is truncate(2).
func (t *Task) Truncate(path string, size int64) error {
	if size < 0 {
		return syscall.EINVAL
	}
	in, errno := t.walk(path, follow)
	if errno != 0 {
		return errno
	}
	defer t.fs.iput(in)
	switch {
	case in.typ == syscall.S_IFDIR:
		return syscall.EISDIR
	case !in.regular():
		return syscall.EINVAL
	}
	done := t.fs.startWrite()
	defer done()
	if errno := t.permission(in, mayWrite); errno != 0 {
		return errno
	}
	if in.isAppendOnly() {
		return syscall.EPERM
	}
	return fail(t.doTruncate(in, &iattr{valid: attrSize, size: uint64(size)}))
}

// Truncate is ftruncate(2).
func (f *File) Truncate(size int64) error {
	switch {
	case size < 0, !f.in.regular(), !f.writable():
		return syscall.EINVAL
	case f.in.isAppendOnly():
		return syscall.EPERM
	}
	t := f.task()
	done := t.fs.startWrite()
	defer done()
	return fail(t.doTruncate(f.in, &iattr{valid: attrSize | attrMtime | attrCtime, size: uint64(size), file: f}))
}

func (f *File) writable() bool { return f.flags&syscall.O_ACCMODE != syscall.O_RDONLY }

// doTruncate changes the size of a file, which is not locked.
func (t *Task) doTruncate(in *inode, a *iattr) syscall.Errno {
	kill, errno := t.privileges(in)
	if errno != 0 {
		return errno
	}
	if kill != 0 {
		a.valid |= kill | attrForce
	}
	in.rwsem.Lock()
	defer in.rwsem.Unlock()
	return t.notifyChange(in, a)
}

// dropSGID says whether chown(2) and writing take set-group-id away.
func (t *Task) dropSGID(in *inode) uint32 {
	a := in.attributes()
	if a.Mode&syscall.S_ISGID != 0 && (a.Mode&syscall.S_IXGRP != 0 || !t.inGroupOrCapable(a.GID)) {
		return attrKillSGID
	}
	return 0
}

// privileges says what a file loses when the task changes its content, and asks the server for
// capabilities if the kernel does not know that there are none.
func (t *Task) privileges(in *inode) (kill uint32, _ syscall.Errno) {
	in.mu.Lock()
	nosec := in.nosec
	in.mu.Unlock()
	if nosec {
		return 0, 0
	}
	if in.attributes().Mode&syscall.S_ISUID != 0 {
		kill = attrKillSUID
	}
	kill |= t.dropSGID(in)
	if t.privileged() || !in.regular() {
		kill = 0
	}
	const capability = "security.capability"
	value, errno := in.getxattr(t.caller(), capability, 0)
	switch {
	case errno == 0 && len(value) >= 4 && binary.NativeEndian.Uint32(value) > 0:
		kill |= attrKillPriv
	case errno == 0 || errno == syscall.ENODATA || errno == syscall.EOPNOTSUPP:
	default:
		return 0, errno
	}
	return kill, 0
}

// removePrivileges is what writing to a file, which is locked exclusively, does before anything else. The
// server does it where it has promised to.
func (t *Task) removePrivileges(in *inode) syscall.Errno {
	kill, errno := t.privileges(in)
	if errno != 0 {
		return errno
	}
	if kill != 0 {
		if errno := t.notifyChange(in, &iattr{valid: kill | attrForce}); errno != 0 {
			return errno
		}
	}
	const set = syscall.S_ISUID | syscall.S_ISGID
	if t.fs.flags&fuse.InitHandleKillprivV2 != 0 && in.attributes().Mode&set == 0 {
		in.mu.Lock()
		defer in.mu.Unlock()
		in.nosec = true
	}
	return 0
}

// notifyChange changes attributes of an inode, which is locked exclusively.
func (t *Task) notifyChange(in *inode, a *iattr) syscall.Errno {
	if a.valid&(attrMode|attrUID|attrGID|attrTimesSet) != 0 && (in.isImmutable() || in.isAppendOnly()) {
		return syscall.EPERM
	}
	if a.valid&attrTouch != 0 {
		if in.isImmutable() {
			return syscall.EPERM
		}
		if !t.ownerOrCapable(in) {
			if errno := t.permission(in, mayWrite); errno != 0 {
				return errno
			}
		}
	}
	mode := in.attributes().Mode
	if a.valid&attrKillSUID != 0 && mode&syscall.S_ISUID != 0 {
		a.valid |= attrMode
		a.mode = mode &^ syscall.S_ISUID
	}
	if a.valid&attrKillSGID != 0 && mode&syscall.S_ISGID != 0 {
		if a.valid&attrMode == 0 {
			a.mode = mode
		}
		a.valid |= attrMode
		a.mode &^= syscall.S_ISGID
	}
	if !in.mapped() && a.valid&(attrKillSUID|attrKillSGID) != 0 {
		// The server does it when it is told to.
		a.valid &^= attrMode
	}
	a.valid &^= attrKillSUID | attrKillSGID
	if errno := t.mayChange(in, a); errno != 0 {
		return errno
	}
	if a.valid&attrKillPriv != 0 {
		errno := in.removexattr(t.caller(), "security.capability")
		if errno != 0 && errno != syscall.ENODATA && errno != syscall.EOPNOTSUPP {
			return errno
		}
	}
	if a.valid&^(attrKillPriv|attrForce) == 0 {
		return 0
	}
	return t.setattrNow(in, a)
}

// mayChange tells whether the task may change attributes so.
func (t *Task) mayChange(in *inode, a *iattr) syscall.Errno {
	if a.valid&attrSize != 0 {
		switch {
		case a.size > t.fs.maxbytes:
			return syscall.EFBIG
		case in.isSwap():
			return syscall.ETXTBSY
		}
	}
	if a.valid&attrForce != 0 {
		return 0
	}
	old := in.attributes()
	owner := old.UID == t.cred.UID
	if a.valid&attrUID != 0 && !t.privileged() && (!owner || a.uid != old.UID) {
		return syscall.EPERM
	}
	if a.valid&attrGID != 0 && !t.privileged() && (!owner || a.gid != old.GID && !t.inGroup(a.gid)) {
		return syscall.EPERM
	}
	if a.valid&attrMode != 0 {
		if !t.ownerOrCapable(in) {
			return syscall.EPERM
		}
		gid := old.GID
		if a.valid&attrGID != 0 {
			gid = a.gid
		}
		if !t.inGroupOrCapable(gid) {
			a.mode &^= syscall.S_ISGID
		}
	}
	if a.valid&(attrMtimeSet|attrAtimeSet|attrTimesSet) != 0 && !t.ownerOrCapable(in) {
		return syscall.EPERM
	}
	return 0
}

// setattrNow sends SETATTR for an inode, which is locked exclusively, with exactly what belongs into it.
func (t *Task) setattrNow(in *inode, a *iattr) syscall.Errno {
	now := t.fs.currentTime()
	if a.valid&attrAtimeSet == 0 {
		a.atime = now
	}
	if a.valid&attrMtimeSet == 0 {
		a.mtime = now
	}
	a.ctime = now
	if in.ownsTimes() && a.valid&(attrMode|attrUID|attrGID|attrMtimeSet|attrTimesSet) != 0 {
		if errno := in.writeInode(); errno != 0 {
			return errno
		}
	}
	if a.valid&attrSize != 0 && in.ownsTimes() && a.size != in.size() {
		a.valid |= attrMtime | attrCtime
	}
	s := t.setattrIn(in, a)
	if s.Valid&fuse.SetattrSize != 0 {
		if errno := in.truncate(t.caller(), s); errno != 0 {
			return errno
		}
	} else {
		if errno := in.setattr(t.caller(), s); errno != 0 {
			return errno
		}
		if in.ownsTimes() {
			in.setTimes(s)
		}
	}
	in.forgetACLs()
	if a.valid&attrMode != 0 && in.flags.exclusive && t.fs.posixACL() && in.typ != syscall.S_IFLNK && a.valid&attrForce == 0 {
		return t.chmodOwnACL(in, a.mode)
	}
	return 0
}

// setattrIn is the request for a change.
func (t *Task) setattrIn(in *inode, a *iattr) *fuse.SetattrIn {
	owns := in.ownsTimes()
	s := &fuse.SetattrIn{}
	set := func(valid uint32, bit fuse.SetattrValid, apply func()) {
		if a.valid&valid != 0 {
			s.Valid |= bit
			apply()
		}
	}
	set(attrMode, fuse.SetattrMode, func() { s.Mode = a.mode })
	set(attrUID, fuse.SetattrUID, func() { s.UID = a.uid })
	set(attrGID, fuse.SetattrGID, func() { s.GID = a.gid })
	set(attrSize, fuse.SetattrSize, func() { s.Size = a.size })
	set(attrAtime, fuse.SetattrAtime, func() {
		s.Atime, s.AtimeNsec = uint64(a.atime.Unix()), uint32(a.atime.Nanosecond())
		if a.valid&attrAtimeSet == 0 {
			s.Valid |= fuse.SetattrAtimeNow
		}
	})
	// Without the cache the server sets the time of a truncation by itself.
	if explicit := a.valid&attrMtimeSet != 0; explicit || owns || a.valid&attrSize == 0 || a.file == nil && a.valid&attrOpen == 0 {
		set(attrMtime, fuse.SetattrMtime, func() {
			s.Mtime, s.MtimeNsec = uint64(a.mtime.Unix()), uint32(a.mtime.Nanosecond())
			if !explicit && !owns {
				s.Valid |= fuse.SetattrMtimeNow
			}
		})
	}
	if owns {
		set(attrCtime, fuse.SetattrCtime, func() { s.Ctime, s.CtimeNsec = uint64(a.ctime.Unix()), uint32(a.ctime.Nanosecond()) })
	}
	if a.file != nil {
		s.Valid |= fuse.SetattrFh
		s.Fh = a.file.fh
	}
	if a.valid&attrSize != 0 {
		s.Valid |= fuse.SetattrLockOwner
	}
	if t.fs.flags&fuse.InitHandleKillprivV2 != 0 && !in.mapped() {
		chown := a.valid&(attrUID|attrGID) != 0 && in.typ != syscall.S_IFDIR
		if chown || a.valid&attrSize != 0 && !t.privileged() {
			s.Valid |= fuse.SetattrKillSuidgid
		}
	}
	return s
}

// setTimes keeps the times of a SETATTR.
func (in *inode) setTimes(s *fuse.SetattrIn) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if s.Valid&fuse.SetattrAtime != 0 {
		in.attr.Atime, in.attr.AtimeNsec = s.Atime, s.AtimeNsec
	}
	if s.Valid&fuse.SetattrMtime != 0 {
		in.attr.Mtime, in.attr.MtimeNsec = s.Mtime, s.MtimeNsec
	}
	if s.Valid&fuse.SetattrCtime != 0 {
		in.attr.Ctime, in.attr.CtimeNsec = s.Ctime, s.CtimeNsec
	}
}

// chmodOwnACL brings the ACL of an exclusive inode in line with a new mode.
func (t *Task) chmodOwnACL(in *inode, mode uint32) syscall.Errno {
	acl, errno := in.acl(t.caller(), aclAccess)
	if errno != 0 || acl == nil {
		return errno
	}
	return t.setOwnACL(in, aclAccess, chmodACL(acl, mode))
}

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

// SetFlags is FS_IOC_SETFLAGS. What succeeds changes also what the kernel knows of an exclusive
// inode.
func (f *File) SetFlags(flags uint32) error {
	t := f.task()
	done := t.fs.startWrite()
	defer done()
	if !t.ownerOrCapable(f.in) {
		return syscall.EPERM
	}
	f.in.rwsem.Lock()
	defer f.in.rwsem.Unlock()
	b, errno := f.ioctlFlags(unix.FS_IOC_GETFLAGS, nil, 4)
	if errno != 0 {
		return errno
	}
	old := binary.NativeEndian.Uint32(b)
	if (old^flags)&(flagImmutable|flagAppend) != 0 && !t.privileged() {
		return syscall.EPERM
	}
	if _, errno := f.ioctlFlags(unix.FS_IOC_SETFLAGS, binary.NativeEndian.AppendUint32(nil, flags), 0); errno != 0 {
		return errno
	}
	f.in.setFlags(flags&flagImmutable != 0, flags&flagAppend != 0, flags&flagSync != 0)
	return nil
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
	t := f.task()
	done := t.fs.startWrite()
	defer done()
	if !t.ownerOrCapable(f.in) {
		return syscall.EPERM
	}
	f.in.rwsem.Lock()
	defer f.in.rwsem.Unlock()
	b, errno := f.ioctlFlags(fsIocFSGetXattr, nil, fsxattrSize)
	if errno != 0 {
		return errno
	}
	old := decode[Fsxattr](b)
	if (old.Xflags^x.Xflags)&(xflagImmutable|xflagAppend) != 0 && !t.privileged() {
		return syscall.EPERM
	}
	if _, errno := f.ioctlFlags(fsIocFSSetXattr, structure(&x), 0); errno != 0 {
		return errno
	}
	f.in.setFlags(x.Xflags&xflagImmutable != 0, x.Xflags&xflagAppend != 0, x.Xflags&xflagSync != 0)
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
