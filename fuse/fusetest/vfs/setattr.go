package vfs

import (
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
