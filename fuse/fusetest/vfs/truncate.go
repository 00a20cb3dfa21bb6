package vfs

import (
	"syscall"

	"ext4box/fuse"
)

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

// truncate sets the size by SETATTR, which also carries what else msg says. rwsem and freeze protection are
// held, and whether the caller may was checked.
func (in *inode) truncate(c caller, msg *fuse.SetattrIn) syscall.Errno {
	if in.isBad() {
		return syscall.EIO
	}
	if !in.mapped() {
		if errno := in.setattr(c, msg); errno != 0 {
			return errno
		}
		in.setSize(msg.Size)
		return 0
	}
	in.invalidate.Lock()
	defer in.invalidate.Unlock()
	if errno := in.resizePages(c, msg.Size); errno != 0 {
		return errno
	}
	return in.setSizeRequest(c, msg)
}

// resizePages brings the page cache to the new size and writes all of it.
func (in *inode) resizePages(c caller, size uint64) syscall.Errno {
	old, block := in.size(), in.fs.blocksize
	var errno syscall.Errno
	switch {
	case size > old:
		errno = in.zeroRange(c, old, size-old)
	case size < old && size%block != 0:
		errno = in.zeroRange(c, size, roundUp(size, block)-size)
	}
	if errno != 0 {
		return errno
	}
	in.setSize(size)
	in.truncatePages(size)
	return in.writePages(0, toEOF)
}

// setSizeRequest tells the server the new size.
func (in *inode) setSizeRequest(c caller, msg *fuse.SetattrIn) syscall.Errno {
	size := msg.Size
	in.freeing.Add(1)
	defer in.freeing.Add(-1)
	in.mu.Lock()
	in.sizeChanged()
	in.known = sizeKnown{min(in.known.min, size), max(in.known.max, size)}
	in.mu.Unlock()
	out, errno := in.setattrRequest(c, msg)
	if errno != 0 {
		return errno
	}
	in.mu.Lock()
	in.sizeChanged()
	in.known = sizeKnown{size, size}
	in.mu.Unlock()
	in.setTimes(msg)
	in.applyAttr(&out.Attr, out.AttrValid, out.AttrValidNsec, sent(in))
	from := roundDown(size, in.fs.blocksize)
	in.mappings.invalidate(from, toEOF)
	return 0
}

// truncated is what is left to do when the server has truncated the file in OPEN or CREATE. rwsem and
// invalidate are held.
func (in *inode) truncated() {
	in.mu.Lock()
	in.sizeChanged()
	in.known = sizeKnown{}
	in.isize, in.disksize = 0, 0
	in.mu.Unlock()
	in.mappings.invalidate(0, toEOF)
	in.truncatePages(0)
	in.modified()
	in.invalidateAttr()
}
