package vfs

import (
	"syscall"

	"golang.org/x/sys/unix"

	"ext4box/fuse"
)

// Rename is renameat2(2).
func (t *Task) Rename(path, to string, flags uint) error { return fail(t.rename(path, to, flags)) }

func (t *Task) rename(path, to string, flags uint) syscall.Errno {
	const exclusive = unix.RENAME_NOREPLACE | unix.RENAME_WHITEOUT
	exchange := flags&unix.RENAME_EXCHANGE != 0
	if flags&^(exclusive|unix.RENAME_EXCHANGE) != 0 || exchange && flags&exclusive != 0 {
		return syscall.EINVAL
	}
	from, onto := t.trail(), t.trail()
	defer from.done()
	defer onto.done()
	old, errno := from.parent(path)
	if errno != 0 {
		return errno
	}
	next, errno := onto.parent(to)
	if errno != 0 {
		return errno
	}
	switch {
	case old.special():
		return syscall.EBUSY
	case next.special() && flags&unix.RENAME_NOREPLACE != 0:
		return syscall.EEXIST
	case next.special():
		return syscall.EBUSY
	}
	written := t.fs.startWrite()
	defer written()
	defer t.fs.lockRename(from.at(), onto.at())()
	r := &renaming{from: from, onto: onto, old: old, next: next, flags: flags}
	defer func() {
		for _, in := range []*inode{r.source, r.target} {
			if in != nil {
				t.fs.iput(in)
			}
		}
	}()
	if errno := t.findRenamed(r); errno != 0 {
		return errno
	}
	if r.source == r.target {
		return 0
	}
	if errno := t.mayRename(r); errno != 0 {
		return errno
	}
	return t.doRename(r)
}

// lockRename locks the directories of a rename, the one with the lower number first.
func (fs *FS) lockRename(a, b *inode) (unlock func()) {
	if a == b {
		a.rwsem.Lock()
		return a.rwsem.Unlock
	}
	fs.renames.Lock()
	if a.nodeid > b.nodeid {
		a, b = b, a
	}
	a.rwsem.Lock()
	b.rwsem.Lock()
	return func() {
		b.rwsem.Unlock()
		a.rwsem.Unlock()
		fs.renames.Unlock()
	}
}

// renaming is a rename under way.
type renaming struct {
	from, onto     *trail
	old, next      last
	source, target *inode // target is nil if there is none
	flags          uint
}

func (r *renaming) exchange() bool { return r.flags&unix.RENAME_EXCHANGE != 0 }

// findRenamed looks up both names, and refuses what cannot be whoever asks.
func (t *Task) findRenamed(r *renaming) (errno syscall.Errno) {
	if r.source, errno = t.lookup(r.from.at(), r.old.name, true); errno != 0 {
		return errno
	}
	if r.source == nil {
		return syscall.ENOENT
	}
	if r.target, errno = t.lookup(r.onto.at(), r.next.name, true); errno != 0 {
		return errno
	}
	isDir := func(in *inode) bool { return in.typ == syscall.S_IFDIR }
	switch {
	case r.target != nil && r.flags&unix.RENAME_NOREPLACE != 0:
		return syscall.EEXIST
	case r.exchange() && r.target == nil:
		return syscall.ENOENT
	case r.exchange() && !isDir(r.target) && r.next.slash:
		return syscall.ENOTDIR
	case !isDir(r.source) && (r.old.slash || !r.exchange() && r.next.slash):
		return syscall.ENOTDIR
	case r.onto.has(r.source):
		return syscall.EINVAL
	case r.target != nil && r.from.has(r.target):
		if r.exchange() {
			return syscall.EINVAL
		}
		return syscall.ENOTEMPTY
	}
	return 0
}

// mayRename tells whether the task may do it.
func (t *Task) mayRename(r *renaming) syscall.Errno {
	dir, newDir := r.from.at(), r.onto.at()
	isDir := r.source.typ == syscall.S_IFDIR
	targetDir := r.target != nil && r.target.typ == syscall.S_IFDIR
	if errno := t.mayDelete(dir, r.source, isDir); errno != 0 {
		return errno
	}
	var errno syscall.Errno
	switch {
	case r.target == nil:
		errno = t.mayCreate(newDir)
	case r.exchange():
		errno = t.mayDelete(newDir, r.target, targetDir)
	default:
		errno = t.mayDelete(newDir, r.target, isDir)
	}
	if errno != 0 {
		return errno
	}
	if dir != newDir { // ".." changes
		if isDir {
			if errno := t.permission(r.source, mayWrite); errno != 0 {
				return errno
			}
		}
		if r.exchange() && targetDir {
			return t.permission(r.target, mayWrite)
		}
	}
	return 0
}

func (t *Task) doRename(r *renaming) syscall.Errno {
	dir, newDir := r.from.at(), r.onto.at()
	if r.target != nil {
		r.target.rwsem.Lock()
		defer r.target.rwsem.Unlock()
	}
	names := append(cstr(r.old.name), cstr(r.next.name)...)
	var errno syscall.Errno
	if r.flags == 0 {
		_, errno = t.fs.request(t.caller(), fuse.OpRename, dir.nodeid, structure(&[1]uint64{newDir.nodeid}), names)
	} else if _, errno = t.fs.request(t.caller(), fuse.OpRename2, dir.nodeid,
		structure(&fuse.RenameIn{NewDir: newDir.nodeid, Flags: uint32(r.flags)}), names); errno == syscall.ENOSYS {
		errno = syscall.EINVAL
	}
	if errno != 0 {
		if errno == syscall.EINTR {
			t.fs.forgetName(dir, r.old.name)
			t.fs.forgetName(newDir, r.next.name)
		}
		return errno
	}
	r.source.updateCtime()
	dir.invalidateAttr()
	newDir.invalidateAttr()
	t.fs.moveName(dir, r.old.name, newDir, r.next.name, r.exchange())
	switch {
	case r.target == nil:
	case r.exchange():
		r.target.updateCtime()
	default:
		r.target.unlinked()
		if r.target.typ == syscall.S_IFDIR {
			t.fs.forgetChildren(r.target)
		}
	}
	return 0
}

// moveName follows a rename.
func (fs *FS) moveName(dir *inode, name string, newDir *inode, newName string, exchange bool) {
	fs.names.mu.Lock()
	from, okFrom := fs.names.dirs[dir][name]
	onto, okOnto := fs.names.dirs[newDir][newName]
	delete(fs.names.dirs[dir], name)
	delete(fs.names.dirs[newDir], newName)
	if okFrom {
		if fs.names.dirs[newDir] == nil {
			fs.names.dirs[newDir] = map[string]dentry{}
		}
		fs.names.dirs[newDir][newName] = from
	}
	var gone *inode
	switch {
	case exchange && okOnto:
		fs.names.dirs[dir][name] = onto
	case okOnto:
		gone = onto.in
	}
	fs.names.mu.Unlock()
	if gone != nil {
		fs.iput(gone)
	}
}
