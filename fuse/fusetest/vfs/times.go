package vfs

import (
	"syscall"

	"ext4box/fuse"
)

// now is the coarse time in the granularity of the filesystem.
func (fs *FS) now() (sec uint64, nsec uint32) {
	t := fs.cfg.Now()
	n := uint32(t.Nanosecond())
	return uint64(t.Unix()), n - n%fs.timeGran
}

// modified takes note of a change of data, at a time that reaches the server later.
func (in *inode) modified() {
	in.mu.Lock()
	defer in.mu.Unlock()
	if !in.ownsTimes() {
		return
	}
	a := &in.attr
	a.Mtime, a.MtimeNsec = in.fs.now()
	a.Ctime, a.CtimeNsec = a.Mtime, a.MtimeNsec
	in.timesOut = true
}

// flushTimes sends the times that the server does not know.
func (in *inode) flushTimes() syscall.Errno {
	// Whoever finds them flushed must also find that the server has them.
	in.flushing.Lock()
	defer in.flushing.Unlock()
	in.mu.Lock()
	if !in.timesOut || in.bad {
		in.mu.Unlock()
		return 0
	}
	in.timesOut = false
	msg := fuse.SetattrIn{Valid: fuse.SetattrMtime | fuse.SetattrCtime}
	in.putTimes(&msg)
	in.mu.Unlock()
	errno := in.setattr(kernelTask, &msg)
	if errno != 0 {
		in.mu.Lock()
		in.timesOut = true
		in.mu.Unlock()
	}
	return errno
}

// putTimes fills in the times of a SETATTR; mu is held. Only with mappings is atime the kernel's.
func (in *inode) putTimes(msg *fuse.SetattrIn) {
	a := &in.attr
	if in.mapped() {
		msg.Valid |= fuse.SetattrAtime
	}
	msg.Atime, msg.AtimeNsec = a.Atime, a.AtimeNsec
	msg.Mtime, msg.MtimeNsec = a.Mtime, a.MtimeNsec
	msg.Ctime, msg.CtimeNsec = a.Ctime, a.CtimeNsec
}

// setattr sends SETATTR and takes over the reply, except of a size, which the caller deals with.
func (in *inode) setattr(c caller, msg *fuse.SetattrIn) syscall.Errno {
	at := sent(in)
	out, errno := in.setattrRequest(c, msg)
	if errno != 0 {
		return errno
	}
	if out.Attr.Mode&syscall.S_IFMT != in.typ {
		in.fs.violate("SETATTR of node %d: the reply has mode %o", in.nodeid, out.Attr.Mode)
		in.makeBad()
		return syscall.EIO
	}
	in.applyAttr(&out.Attr, out.AttrValid, out.AttrValidNsec, at)
	return 0
}

// setattrRequest sends SETATTR. For a file whose times the kernel keeps the reply has to have what was
// set, as it was set, unless another one was under way at the same time.
func (in *inode) setattrRequest(c caller, msg *fuse.SetattrIn) (*fuse.AttrOut, syscall.Errno) {
	in.mu.Lock()
	in.setattrs.sent++
	in.setattrs.flying++
	mine, alone := in.setattrs.sent, in.setattrs.flying == 1
	in.mu.Unlock()
	payload, errno := in.fs.request(c, fuse.OpSetattr, in.nodeid, structure(msg))
	in.mu.Lock()
	in.setattrs.flying--
	alone = alone && in.setattrs.sent == mine
	in.mu.Unlock()
	if errno != 0 {
		return nil, errno
	}
	out := decode[fuse.AttrOut](payload)
	if alone && in.mapped() {
		if what := differs(msg, &out.Attr); what != "" {
			in.fs.violate("SETATTR of node %d: the reply has another %s than was set", in.nodeid, what)
		}
	}
	return &out, 0
}

// differs names an attribute that is not as it was set.
func differs(msg *fuse.SetattrIn, a *fuse.Attr) string {
	for _, x := range []struct {
		name  string
		bit   fuse.SetattrValid
		equal bool
	}{
		{"mode", fuse.SetattrMode, msg.Mode&0o7777 == a.Mode&0o7777},
		{"uid", fuse.SetattrUID, msg.UID == a.UID},
		{"gid", fuse.SetattrGID, msg.GID == a.GID},
		{"size", fuse.SetattrSize, msg.Size == a.Size},
		{"atime", fuse.SetattrAtime, msg.Atime == a.Atime && msg.AtimeNsec == a.AtimeNsec},
		{"mtime", fuse.SetattrMtime, msg.Mtime == a.Mtime && msg.MtimeNsec == a.MtimeNsec},
		{"ctime", fuse.SetattrCtime, msg.Ctime == a.Ctime && msg.CtimeNsec == a.CtimeNsec},
	} {
		if msg.Valid&x.bit != 0 && !x.equal {
			return x.name
		}
	}
	return ""
}

// writeInode writes back data and then times, as write_inode_now does.
func (in *inode) writeInode() syscall.Errno {
	if !in.regular() {
		return in.flushTimes()
	}
	errno := in.writePages(0, toEOF)
	if e := in.flushTimes(); errno == 0 {
		errno = e
	}
	return errno
}
