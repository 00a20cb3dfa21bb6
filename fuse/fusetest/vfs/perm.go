package vfs

import (
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// Cred says with whose rights system calls are made. UID 0 has all capabilities.
type Cred struct {
	UID, GID uint32
	Groups   []uint32 // supplementary
	Umask    uint32
	// Admin is CAP_SYS_ADMIN for somebody who is not root, as who only looks like another user to
	// filesystems has.
	Admin bool
}

// Task makes system calls with certain rights. It may be used concurrently.
type Task struct {
	fs   *FS
	cred Cred
}

// As returns who makes system calls with the given rights.
func (fs *FS) As(c Cred) *Task { return &Task{fs: fs, cred: c} }

// caller is the task as requests tell.
func (t *Task) caller() caller {
	return caller{uid: t.cred.UID, gid: t.cred.GID, pid: uint32(os.Getpid()), cred: &t.cred}
}

// privileged tells whether the task has the capabilities that are about files.
func (t *Task) privileged() bool { return t.cred.UID == 0 }

func (t *Task) admin() bool { return t.privileged() || t.cred.Admin }

func (t *Task) inGroup(gid uint32) bool {
	return t.cred.GID == gid || slices.Contains(t.cred.Groups, gid)
}

// ownerOrCapable tells whether the task may do what an owner may.
func (t *Task) ownerOrCapable(in *inode) bool {
	return t.privileged() || in.attributes().UID == t.cred.UID
}

// inGroupOrCapable tells whether the task may keep set-group-id.
func (t *Task) inGroupOrCapable(gid uint32) bool { return t.inGroup(gid) || t.privileged() }

// What is asked of permission.
const (
	mayExec  = 1
	mayWrite = 2
	mayRead  = 4
)

// permission tells whether the task may use an inode, which is not locked, or is locked exclusively, in
// the given ways.
func (t *Task) permission(in *inode, mask uint32) syscall.Errno {
	if mask&mayWrite != 0 && in.isImmutable() {
		return syscall.EPERM
	}
	// What somebody else may have changed is asked for again, but an exclusive inode is nobody
	// else's.
	refreshed := false
	if !in.flags.exclusive && !in.fresh() {
		refreshed = true
		if errno := in.getattr(t.caller()); errno != 0 {
			return errno
		}
	}
	errno := t.checkMode(in, mask)
	if errno == syscall.EACCES && !refreshed && !in.flags.exclusive {
		if errno := in.getattr(t.caller()); errno != 0 {
			return errno
		}
		errno = t.checkMode(in, mask)
	}
	return errno
}

// checkMode decides by mode, ACL and capabilities.
func (t *Task) checkMode(in *inode, mask uint32) syscall.Errno {
	a := in.attributes()
	errno := t.checkClass(in, a.Mode, a.UID, a.GID, mask)
	if errno != syscall.EACCES || !t.privileged() {
		return errno
	}
	if in.typ != syscall.S_IFDIR && mask&mayExec != 0 && a.Mode&0o111 == 0 {
		return errno
	}
	return 0
}

// checkClass decides by mode and ACL alone.
func (t *Task) checkClass(in *inode, mode, uid, gid, mask uint32) syscall.Errno {
	switch {
	case uid == t.cred.UID:
		mode >>= 6
	case t.fs.posixACL() && in.typ != syscall.S_IFLNK && mode&0o070 != 0:
		acl, errno := in.acl(t.caller(), aclAccess)
		if errno != 0 {
			return errno
		}
		if acl != nil {
			return t.checkACL(acl, uid, gid, mask)
		}
		fallthrough
	default:
		if t.inGroup(gid) {
			mode >>= 3
		}
	}
	if mask&^mode != 0 {
		return syscall.EACCES
	}
	return 0
}

// posixACL tells whether the kernel handles ACLs.
func (fs *FS) posixACL() bool { return fs.init.InitFlags()&initPosixACL != 0 }

// mayCreate tells whether the task may make a name in a directory.
func (t *Task) mayCreate(dir *inode) syscall.Errno {
	if dir.isDead() {
		return syscall.ENOENT
	}
	return t.permission(dir, mayWrite|mayExec)
}

// mayDelete tells whether the task may take the name of victim, which is asked to be a directory or not,
// out of a directory.
func (t *Task) mayDelete(dir, victim *inode, isDir bool) syscall.Errno {
	if errno := t.permission(dir, mayWrite|mayExec); errno != 0 {
		return errno
	}
	if dir.isAppendOnly() || t.sticky(dir, victim) || victim.isAppendOnly() || victim.isImmutable() || victim.isSwap() {
		return syscall.EPERM
	}
	switch victimDir := victim.typ == syscall.S_IFDIR; {
	case isDir && !victimDir:
		return syscall.ENOTDIR
	case isDir && victim == t.fs.root:
		return syscall.EBUSY
	case !isDir && victimDir:
		return syscall.EISDIR
	case dir.isDead():
		return syscall.ENOENT
	}
	return 0
}

// sticky tells whether the sticky bit of a directory keeps the task from removing a name.
func (t *Task) sticky(dir, in *inode) bool {
	d := dir.attributes()
	return d.Mode&syscall.S_ISVTX != 0 && in.attributes().UID != t.cred.UID && d.UID != t.cred.UID && !t.privileged()
}

// protected is one of the fs.protected_* settings of the machine, which the model follows so that it
// can be compared with the kernel.
func protected(what string) int {
	b, err := os.ReadFile("/proc/sys/fs/protected_" + what)
	if err != nil {
		return 0
	}
	n, _ := strconv.Atoi(strings.TrimSpace(string(b)))
	return n
}

// mayHardlink tells whether protected_hardlinks lets the task link a file.
func (t *Task) mayHardlink(in *inode) bool {
	if protected("hardlinks") == 0 || t.ownerOrCapable(in) {
		return true
	}
	const setgidExec = syscall.S_ISGID | syscall.S_IXGRP
	mode := in.attributes().Mode
	return in.regular() && mode&syscall.S_ISUID == 0 && mode&setgidExec != setgidExec && t.permission(in, mayRead|mayWrite) == 0
}

// mayFollow tells whether protected_symlinks lets the task follow a link in a directory.
func (t *Task) mayFollow(dir, link *inode) bool {
	const shared = syscall.S_ISVTX | syscall.S_IWOTH
	d, uid := dir.attributes(), link.attributes().UID
	return uid == t.cred.UID || d.Mode&shared != shared || d.UID == uid || protected("symlinks") == 0
}

// mayCreateInSticky tells whether protected_regular and protected_fifos let the task open with O_CREAT
// what is there already.
func (t *Task) mayCreateInSticky(dir, in *inode) bool {
	d, uid := dir.attributes(), in.attributes().UID
	level := 1 // of anything else
	switch in.typ {
	case syscall.S_IFREG:
		level = protected("regular")
	case syscall.S_IFIFO:
		level = protected("fifos")
	}
	switch {
	case d.Mode&syscall.S_ISVTX == 0 || level == 0 || uid == d.UID || uid == t.cred.UID:
		return true
	case d.Mode&syscall.S_IWOTH != 0:
		return false
	}
	return d.Mode&syscall.S_IWGRP == 0 || level < 2
}

// newMode is the mode that the VFS asks a filesystem to give to something new.
func (t *Task) newMode(dir *inode, mode, mask uint32) uint32 {
	const setgidExec = syscall.S_ISGID | syscall.S_IXGRP
	d := dir.attributes()
	if mode&setgidExec == setgidExec && mode&syscall.S_IFMT != syscall.S_IFDIR && d.Mode&syscall.S_ISGID != 0 && !t.inGroupOrCapable(d.GID) {
		mode &^= syscall.S_ISGID
	}
	if !t.fs.posixACL() {
		mode &^= t.cred.Umask
	}
	return mode & mask
}
