package ext4

import (
	"errors"
	"syscall"
	"time"

	"ext4box/ext4/internal/disk"
	"ext4box/ext4/internal/journal"
	"ext4box/ext4/internal/quota"
	"ext4box/ext4/internal/xattr"
)

// Attr says which attributes SetAttr changes; nil fields stay.
type Attr struct {
	Mode      *uint32 // permission bits
	UID, GID  *uint32
	Atime     *time.Time
	Mtime     *time.Time
	Ctime     *time.Time // nil: now, unless Verbatim
	Flags     *uint32    // of lsattr(1); those that cannot be set are passed over
	ProjectID *uint32

	// Touch says that the times are the present one because somebody wants them to
	// be. WrittenBack says that they belong to data that was written earlier, when
	// that was still allowed.
	Touch, WrittenBack bool

	// Verbatim says that a kernel which keeps times and ACLs of the inode itself
	// tells how they are by now, and has checked what there is to be checked: only
	// what is named changes, a mode leaves the ACL as it is, and flags protect no
	// times, which may be those of a change that came before the flags.
	Verbatim bool

	Limited bool // limits of quota hold for the caller
}

// SetAttr changes attributes. Permission is the caller's to check. EPERM: the
// file is immutable, or can only be appended to. EOPNOTSUPP: flags or projects
// that the file cannot have.
func (fs *FS) SetAttr(ino Ino, a Attr) error {
	in, err := fs.wlock(ino)
	if err != nil {
		return err
	}
	defer in.wunlock()
	if a.protects(in.Flags) {
		return syscall.EPERM
	}
	if a.Flags != nil {
		if err := fs.checkFlags(in, disk.InodeFlags(*a.Flags), a.ProjectID); err != nil {
			return err
		}
	}
	if a.ProjectID != nil {
		if err := fs.checkProject(in, *a.ProjectID); err != nil {
			return err
		}
	}
	var acl []xattr.Attr
	changed := 0
	if !a.Verbatim {
		if acl, changed, err = fs.chmodACL(in, a.Mode); err != nil {
			return err
		}
	}
	in.quota.limited = a.Limited
	if err := fs.transfer(in, a.owners(&in.Inode)); err != nil {
		return err
	}
	apply := func(*journal.Handle) error {
		if a.Mode != nil {
			in.Mode = in.Mode&disk.ModeFmt | uint16(*a.Mode&0o7777)
		}
		if a.UID != nil {
			in.UID = *a.UID
		}
		if a.GID != nil {
			in.GID = *a.GID
		}
		if a.Atime != nil {
			in.Atime = fs.timestamp(*a.Atime)
		}
		if a.Mtime != nil {
			in.Mtime = fs.timestamp(*a.Mtime)
		}
		if a.Flags != nil {
			in.Flags = in.Flags&^settableFlags | disk.InodeFlags(*a.Flags)&settableFlags
		}
		if a.ProjectID != nil {
			in.ProjectID = *a.ProjectID
		}
		switch {
		case a.Ctime != nil:
			in.Ctime = fs.timestamp(*a.Ctime)
		case !a.Verbatim:
			in.Ctime = fs.now()
		}
		return nil
	}
	if acl != nil {
		return fs.replaceXattrs(in, acl, changed, apply)
	}
	return fs.transact(1, 0, func(tx *journal.Handle) error { return errors.Join(apply(tx), fs.store(tx, in)) })
}

// owners is whose the inode will be.
func (a *Attr) owners(in *disk.Inode) [quota.Kinds]uint32 {
	ids := owners(in)
	for kind, id := range [quota.Kinds]*uint32{quota.User: a.UID, quota.Group: a.GID, quota.Project: a.ProjectID} {
		if id != nil {
			ids[kind] = *id
		}
	}
	return ids
}

// SetProject makes a file part of a project, whose quota it counts to from then
// on. EOPNOTSUPP: the filesystem has no projects, or the inode no room for one.
func (fs *FS) SetProject(ino Ino, id uint32) error { return fs.SetAttr(ino, Attr{ProjectID: &id}) }

// chmodACL returns the attributes of an inode as a change of its mode leaves
// them, and which one that changes, or nil if it has no influence.
func (fs *FS) chmodACL(in *inode, mode *uint32) (attrs []xattr.Attr, changed int, err error) {
	if mode == nil || in.IsSymlink() {
		return nil, 0, nil
	}
	if attrs, err = fs.allXattrs(in); err != nil {
		return nil, 0, err
	}
	i := findXattr(attrs, disk.XattrACLAccess, "")
	if i < 0 {
		return nil, 0, nil
	}
	acl, err := fs.xattrValue(in, &attrs[i])
	if err != nil {
		return nil, 0, err
	}
	if !xattr.ChmodACL(acl, uint16(*mode)) {
		return nil, 0, disk.Corruptf(disk.InodeName(uint32(in.ino)), "access ACL is malformed")
	}
	attrs[i].Value, attrs[i].Ino = acl, 0
	return attrs, i, nil
}

// fits tells whether the extra fields of an inode reach as far as end.
func (fs *FS) fits(in *inode, end int) bool {
	return disk.InodeSizeOld+int(in.ExtraIsize) >= end
}

// timestamp is a time as inodes can have it: what is too early or too late
// becomes the first or the last such time, and inodes of the old size have whole
// seconds.
func (fs *FS) timestamp(t time.Time) disk.Timestamp {
	first, last := fs.TimeRange()
	ts := disk.Timestamp{Sec: t.Unix(), Nsec: uint32(t.Nanosecond())}
	if fs.geo.InodeSize == disk.InodeSizeOld {
		ts.Nsec = 0
	}
	if ts.Sec <= first || ts.Sec >= last {
		ts = disk.Timestamp{Sec: min(max(ts.Sec, first), last)}
	}
	return ts
}

// TimeRange is the first and the last second that inodes can have as a time.
func (fs *FS) TimeRange() (first, last int64) {
	const epoch, lastOld, end = -1 << 31, 1<<31 - 1, 1<<34 - 1<<31 - 1
	if fs.geo.InodeSize == disk.InodeSizeOld {
		return epoch, lastOld
	}
	return epoch, end
}

// Fsync returns once the inode, its content and its name are durable as they
// were when it was called.
func (fs *FS) Fsync(ino Ino) error {
	if fs.w == nil {
		return nil
	}
	in, err := fs.rlock(ino)
	if err != nil {
		return err
	}
	if in.accessed {
		in.mu.RUnlock()
		err := fs.storeTime(in)
		if in.mu.RLock(); err != nil && !errors.Is(err, journal.ErrFrozen) {
			in.runlock()
			return err
		}
	}
	tid, dirty := in.tid, in.dirty
	in.runlock()
	if !dirty {
		return fs.w.log.Sync()
	}
	return fs.w.log.Fsync(tid)
}

// Sync makes everything durable that was done before the call.
func (fs *FS) Sync() error {
	if fs.w == nil {
		return nil
	}
	return errors.Join(fs.storeTimes(), fs.w.log.Sync())
}

// KillPriv takes away what a file loses when somebody writes to it: its
// capabilities, and with bits also set-user-id and set-group-id. Where the latter
// lends no privilege only members of the file's group keep it; inGroup tells who is
// one. EPERM: the file is immutable, so that nobody may write.
func (fs *FS) KillPriv(ino Ino, bits bool, inGroup func(gid uint32) bool) error {
	const capability = "security.capability"
	in, err := fs.rlock(ino)
	if err != nil {
		return err
	}
	immutable, mode := in.Flags&disk.FlagImmutable != 0, in.Mode
	kill := killMode(mode)
	if kill&syscall.S_ISGID != 0 && bits && !inGroup(in.GID) {
		kill &^= syscall.S_ISGID
	}
	change := in.IsReg() && bits && kill != mode
	areas, err := fs.xattrAreas(in)
	caps := false
	for _, a := range areas {
		_, has := a.Find(disk.XattrSecurity, "capability")
		caps = caps || has
	}
	in.runlock()
	switch {
	case immutable:
		return syscall.EPERM
	case err != nil:
		return err
	}
	if caps {
		if err := fs.Removexattr(ino, capability); err != nil && !errors.Is(err, syscall.ENODATA) {
			return err
		}
	}
	if !change {
		return nil
	}
	lost := mode &^ kill
	return fs.changeMode(ino, func(mode uint16) uint16 { return mode &^ lost })
}

// KillSetgid clears the set-group-id bit.
func (fs *FS) KillSetgid(ino Ino) error {
	return fs.changeMode(ino, func(mode uint16) uint16 { return mode &^ syscall.S_ISGID })
}

// killMode is a mode without the bits that lend privilege; set-group-id without
// permission to execute means something else.
func killMode(mode uint16) uint16 {
	mode &^= syscall.S_ISUID
	if mode&syscall.S_IXGRP != 0 {
		mode &^= syscall.S_ISGID
	}
	return mode
}

func (fs *FS) changeMode(ino Ino, change func(uint16) uint16) error {
	in, err := fs.wlock(ino)
	if err != nil {
		return err
	}
	defer in.wunlock()
	return fs.transact(1, 0, func(tx *journal.Handle) error {
		in.Mode = change(in.Mode)
		fs.touch(in, false)
		return fs.store(tx, in)
	})
}
