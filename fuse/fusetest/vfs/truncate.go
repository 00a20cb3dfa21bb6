package vfs

import (
	"syscall"

	"ext4box/fuse"
)

// Truncate is ftruncate(2).
func (f *File) Truncate(size int64) error {
	if f.flags&syscall.O_ACCMODE == syscall.O_RDONLY || size < 0 {
		return syscall.EINVAL
	}
	if f.in.typ == syscall.S_IFDIR {
		return syscall.EINVAL
	}
	done := f.fs.startWrite()
	defer done()
	return fail(f.in.truncate(f.fs.caller(), uint64(size)))
}

// truncate sets the size by SETATTR. Freeze protection is held.
func (in *inode) truncate(c caller, size uint64) syscall.Errno {
	in.rwsem.Lock()
	defer in.rwsem.Unlock()
	in.mu.Lock()
	swap, fixed := in.swap, in.appendTo || in.immutable
	in.mu.Unlock()
	switch {
	case in.isBad():
		return syscall.EIO
	case swap:
		return syscall.ETXTBSY
	case fixed:
		return syscall.EPERM
	case size > in.fs.maxbytes:
		return syscall.EFBIG
	case !in.mapped():
		return in.truncateClassic(c, size)
	}
	if caps, errno := in.hasCapability(c); errno != 0 {
		return errno
	} else if caps {
		if errno := in.removePrivs(c); errno != 0 {
			return errno
		}
	}
	in.invalidate.Lock()
	defer in.invalidate.Unlock()
	if errno := in.resizePages(c, size); errno != 0 {
		return errno
	}
	return in.setSizeRequest(c, size)
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
func (in *inode) setSizeRequest(c caller, size uint64) syscall.Errno {
	msg := fuse.SetattrIn{Valid: fuse.SetattrSize | fuse.SetattrMtime | fuse.SetattrCtime, Size: size}
	if mode, kill := in.killMode(c); kill {
		msg.Valid |= fuse.SetattrMode
		msg.Mode = mode
	}
	in.mu.Lock()
	late := in.timesOut
	in.mu.Unlock()
	in.modified()
	in.mu.Lock()
	a := &in.attr
	msg.Mtime, msg.MtimeNsec, msg.Ctime, msg.CtimeNsec = a.Mtime, a.MtimeNsec, a.Ctime, a.CtimeNsec
	in.timesOut = late
	in.version++
	in.known = sizeKnown{min(in.known.min, size), max(in.known.max, size)}
	in.mu.Unlock()
	payload, errno := in.fs.request(c, fuse.OpSetattr, in.nodeid, structure(&msg))
	if errno != 0 {
		return errno
	}
	in.mu.Lock()
	in.version++
	in.known = sizeKnown{size, size}
	in.mu.Unlock()
	out := decode[fuse.AttrOut](payload)
	in.applyAttr(&out.Attr, out.AttrValid, out.AttrValidNsec, sent(in))
	from := roundDown(size, in.fs.blocksize)
	in.mappings.invalidate(from, toEOF)
	return 0
}

// truncated is what is left to do when the server has truncated the file in OPEN or CREATE. rwsem and
// invalidate are held.
func (in *inode) truncated() {
	in.mu.Lock()
	in.version++
	in.known = sizeKnown{}
	in.isize, in.disksize = 0, 0
	in.mu.Unlock()
	in.mappings.invalidate(0, toEOF)
	in.truncatePages(0)
	in.modified()
	in.invalidateAttr()
}

func (in *inode) truncateClassic(c caller, size uint64) syscall.Errno {
	msg := fuse.SetattrIn{Valid: fuse.SetattrSize, Size: size}
	if in.ownsTimes() {
		in.modified()
		in.mu.Lock()
		msg.Valid |= fuse.SetattrMtime | fuse.SetattrCtime
		in.putTimes(&msg)
		in.mu.Unlock()
	}
	if errno := in.setattr(c, &msg); errno != 0 {
		return errno
	}
	in.setSize(size)
	return 0
}
