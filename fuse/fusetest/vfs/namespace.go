package vfs

import (
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"ext4box/fuse"
)

// place is where a name is to be made, changed or removed: its directory, locked exclusively.
type place struct {
	*trail
	dir  *inode
	name string
	done func()
}

// newName prepares for making a name that must not be there. trailing says whether it may end in a
// slash.
func (t *Task) newName(path string, trailing bool) (*place, syscall.Errno) {
	tr := t.trail()
	l, errno := tr.parent(path)
	if errno == 0 && l.special() {
		errno = syscall.EEXIST
	}
	if errno != 0 {
		tr.done()
		return nil, errno
	}
	p := t.lock(tr, l.name)
	in, errno := t.lookup(p.dir, p.name, true)
	switch {
	case errno != 0:
	case in != nil:
		t.fs.iput(in)
		errno = syscall.EEXIST
	case l.slash && !trailing:
		errno = syscall.ENOENT
	}
	if errno != 0 {
		p.done()
		return nil, errno
	}
	return p, 0
}

// lock locks the directory where a trail is at; done unlocks it and gives the trail back.
func (t *Task) lock(tr *trail, name string) *place {
	written := t.fs.startWrite()
	dir := tr.at()
	dir.rwsem.Lock()
	return &place{tr, dir, name, func() {
		dir.rwsem.Unlock()
		written()
		tr.done()
	}}
}

// newEntry is newName for something that is to be made there, if the caller may.
func (t *Task) newEntry(path string, trailing bool) (*place, syscall.Errno) {
	p, errno := t.newName(path, trailing)
	if errno != 0 {
		return nil, errno
	}
	if errno := t.mayCreate(p.dir); errno != 0 {
		p.done()
		return nil, errno
	}
	return p, 0
}

// Mkdir is mkdir(2).
func (t *Task) Mkdir(path string, mode uint32) error {
	p, errno := t.newEntry(path, true)
	if errno != 0 {
		return errno
	}
	defer p.done()
	if t.fs.maxLinks != 0 && p.dir.nlink() >= t.fs.maxLinks {
		return syscall.EMLINK
	}
	mode = t.newMode(p.dir, mode, 0o1777)
	return fail(t.make(p, fuse.OpMkdir, mode|syscall.S_IFDIR, func(mode uint32) [][]byte {
		return [][]byte{structure(&fuse.MkdirIn{Mode: mode &^ syscall.S_IFMT, Umask: t.cred.Umask}), cstr(p.name)}
	}))
}

// Mknod is mknod(2); dev is as unix.Mkdev has it.
func (t *Task) Mknod(path string, mode uint32, dev uint64) error {
	switch mode & syscall.S_IFMT {
	case 0:
		mode |= syscall.S_IFREG
	case syscall.S_IFREG, syscall.S_IFCHR, syscall.S_IFBLK, syscall.S_IFIFO, syscall.S_IFSOCK:
	case syscall.S_IFDIR:
		return syscall.EPERM
	default:
		return syscall.EINVAL
	}
	p, errno := t.newEntry(path, false)
	if errno != 0 {
		return errno
	}
	defer p.done()
	rdev := uint32(0)
	if typ := mode & syscall.S_IFMT; typ == syscall.S_IFCHR || typ == syscall.S_IFBLK {
		if whiteout := typ == syscall.S_IFCHR && dev == 0; !whiteout && !t.privileged() {
			return syscall.EPERM
		}
		rdev = fuse.EncodeDev(unix.Major(dev), unix.Minor(dev))
	}
	mode = t.newMode(p.dir, mode, ^uint32(0))
	return fail(t.make(p, fuse.OpMknod, mode, func(mode uint32) [][]byte {
		return [][]byte{structure(&fuse.MknodIn{Mode: mode, Rdev: rdev, Umask: t.cred.Umask}), cstr(p.name)}
	}))
}

// Symlink is symlink(2).
func (t *Task) Symlink(target, path string) error {
	switch {
	case target == "":
		return syscall.ENOENT
	case len(target) >= maxPath:
		return syscall.ENAMETOOLONG
	}
	p, errno := t.newEntry(path, false)
	if errno != 0 {
		return errno
	}
	defer p.done()
	return fail(t.make(p, fuse.OpSymlink, syscall.S_IFLNK, func(uint32) [][]byte { return [][]byte{cstr(p.name), cstr(target)} }))
}

// make sends a request that makes an inode with a name. mode is what the VFS asks for, with the type.
func (t *Task) make(p *place, op fuse.Opcode, mode uint32, body func(mode uint32) [][]byte) syscall.Errno {
	mode, heritage, errno := t.inherit(p.dir, mode)
	if errno != 0 {
		return errno
	}
	payload, errno := t.fs.request(t.caller(), op, p.dir.nodeid, body(mode)...)
	if errno != 0 {
		if errno == syscall.EEXIST {
			t.fs.forgetName(p.dir, p.name)
		}
		return errno
	}
	e := decode[fuse.EntryOut](payload)
	in, errno := t.introduced(&e, mode&syscall.S_IFMT, op)
	if errno != 0 {
		return errno
	}
	defer t.fs.iput(in)
	t.fs.remember(p.dir, p.name, in, expiry(e.EntryValid, e.EntryValidNsec))
	p.dir.invalidateAttr()
	return t.bequeath(in, heritage)
}

// introduced takes over the inode of a reply to a request that made one.
func (t *Task) introduced(e *fuse.EntryOut, typ uint32, op fuse.Opcode) (*inode, syscall.Errno) {
	if e.Attr.Mode&syscall.S_IFMT != typ {
		t.fs.violate("%v: the new inode has mode %o", op, e.Attr.Mode)
		return nil, syscall.EIO
	}
	return t.fs.iget(e, nil)
}

// Link is link(2).
func (t *Task) Link(path, to string) error {
	in, errno := t.walk(path, 0)
	if errno != 0 {
		return errno
	}
	defer t.fs.iput(in)
	return fail(t.link(in, to))
}

// Link is linkat(2) of an open file.
func (f *File) Link(to string) error { return fail(f.task().link(f.in, to)) }

func (t *Task) link(in *inode, to string) syscall.Errno {
	p, errno := t.newName(to, false)
	if errno != 0 {
		return errno
	}
	defer p.done()
	if !t.mayHardlink(in) {
		return syscall.EPERM
	}
	if errno := t.mayCreate(p.dir); errno != 0 {
		return errno
	}
	if in.isAppendOnly() || in.isImmutable() || in.typ == syscall.S_IFDIR {
		return syscall.EPERM
	}
	in.rwsem.Lock()
	defer in.rwsem.Unlock()
	in.mu.Lock()
	nlink, linkable := in.attr.Nlink, in.linkable
	in.mu.Unlock()
	switch {
	case nlink == 0 && !linkable:
		return syscall.ENOENT
	case t.fs.maxLinks != 0 && nlink >= t.fs.maxLinks:
		return syscall.EMLINK
	}
	at := sent(in)
	payload, errno := t.fs.request(t.caller(), fuse.OpLink, p.dir.nodeid, structure(&fuse.LinkIn{OldNodeID: in.nodeid}), cstr(p.name))
	if errno != 0 {
		return errno
	}
	e := decode[fuse.EntryOut](payload)
	if e.NodeID != in.nodeid {
		t.fs.violate("LINK of node %d answers node %d", in.nodeid, e.NodeID)
		return syscall.EIO
	}
	same, errno := t.fs.iget(&e, at)
	if errno != 0 {
		return errno
	}
	defer t.fs.iput(same)
	t.fs.remember(p.dir, p.name, same, expiry(e.EntryValid, e.EntryValidNsec))
	p.dir.invalidateAttr()
	same.mu.Lock()
	same.linkable = false
	same.mu.Unlock()
	if same.ownsTimes() {
		fresh := same.fresh()
		same.updateCtime()
		if fresh {
			same.mu.Lock()
			same.expires = expiry(e.AttrValid, e.AttrValidNsec)
			same.mu.Unlock()
		}
	}
	return 0
}

// Unlink is unlink(2).
func (t *Task) Unlink(path string) error { return fail(t.remove(path, fuse.OpUnlink)) }

// Rmdir is rmdir(2).
func (t *Task) Rmdir(path string) error { return fail(t.remove(path, fuse.OpRmdir)) }

func (t *Task) remove(path string, op fuse.Opcode) syscall.Errno {
	isDir := op == fuse.OpRmdir
	tr := t.trail()
	l, errno := tr.parent(path)
	if errno == 0 && l.special() {
		switch {
		case !isDir:
			errno = syscall.EISDIR
		case l.name == "..":
			errno = syscall.ENOTEMPTY
		case l.name == ".":
			errno = syscall.EINVAL
		default:
			errno = syscall.EBUSY
		}
	}
	if errno != 0 {
		tr.done()
		return errno
	}
	p := t.lock(tr, l.name)
	defer p.done()
	in, errno := t.lookup(p.dir, p.name, true)
	switch {
	case errno != 0:
		return errno
	case in == nil:
		return syscall.ENOENT
	}
	defer t.fs.iput(in)
	if l.slash && !isDir {
		if in.typ == syscall.S_IFDIR {
			return syscall.EISDIR
		}
		return syscall.ENOTDIR
	}
	if errno := t.mayDelete(p.dir, in, isDir); errno != 0 {
		return errno
	}
	if in != p.dir {
		in.rwsem.Lock()
		defer in.rwsem.Unlock()
	}
	if _, errno := t.fs.request(t.caller(), op, p.dir.nodeid, cstr(p.name)); errno != 0 {
		if errno == syscall.EINTR || errno == syscall.ENOENT {
			t.fs.forgetName(p.dir, p.name)
		}
		return errno
	}
	p.dir.invalidateAttr()
	in.unlinked()
	t.fs.forgetName(p.dir, p.name)
	if isDir {
		t.fs.forgetChildren(in)
	}
	return 0
}

// unlinked follows the loss of a name.
func (in *inode) unlinked() {
	in.mu.Lock()
	switch {
	case in.typ == syscall.S_IFDIR:
		in.attr.Nlink, in.dead = 0, true
	case in.attr.Nlink > 0:
		in.attr.Nlink--
	}
	in.mu.Unlock()
	in.updateCtime()
}

// isDead tells whether a directory was removed.
func (in *inode) isDead() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.dead
}

// Readlink is readlink(2).
func (t *Task) Readlink(path string) (string, error) {
	in, errno := t.walk(path, 0)
	if errno != 0 {
		return "", errno
	}
	defer t.fs.iput(in)
	if in.typ != syscall.S_IFLNK {
		return "", syscall.EINVAL
	}
	target, errno := t.readlink(in)
	return strings.Clone(target), fail(errno)
}
