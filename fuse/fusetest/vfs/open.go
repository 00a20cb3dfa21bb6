package vfs

import (
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"ext4box/fuse"
)

// Open is open(2). The mode counts where a file is made.
func (t *Task) Open(path string, flags int, mode uint32) (*File, error) {
	f, errno := t.open(path, flags, mode&0o7777)
	if errno != 0 {
		return nil, errno
	}
	return f, nil
}

// Create is open(2) with O_CREAT, O_EXCL and O_RDWR.
func (t *Task) Create(path string, mode uint32) (*File, error) {
	return t.Open(path, syscall.O_RDWR|syscall.O_CREAT|syscall.O_EXCL, mode)
}

// access is what opening with these flags asks of permission.
func access(flags int) uint32 {
	mask := [...]uint32{mayRead, mayWrite, mayRead | mayWrite, mayRead | mayWrite}[flags&syscall.O_ACCMODE]
	if flags&syscall.O_TRUNC != 0 {
		mask |= mayWrite
	}
	return mask
}

func (t *Task) open(path string, flags int, mode uint32) (*File, syscall.Errno) {
	flags &^= unix.O_CLOEXEC
	tmpfile := flags&unix.O_TMPFILE == unix.O_TMPFILE
	switch {
	case tmpfile && access(flags)&mayWrite == 0:
		return nil, syscall.EINVAL
	case flags&syscall.O_CREAT != 0 && flags&syscall.O_DIRECTORY != 0:
		return nil, syscall.EINVAL
	}
	walk := follow
	if flags&syscall.O_NOFOLLOW != 0 || flags&syscall.O_CREAT != 0 && flags&syscall.O_EXCL != 0 {
		walk = 0
	}
	if flags&syscall.O_DIRECTORY != 0 {
		walk |= directory
	}
	tr := t.trail()
	defer tr.done()
	l, errno := tr.parent(path)
	if errno != 0 {
		return nil, errno
	}
	switch {
	case tmpfile:
		dir, errno := tr.end(l, walk)
		if errno != 0 {
			return nil, errno
		}
		defer t.fs.iput(dir)
		return t.tmpfile(dir, flags, mode)
	case flags&syscall.O_CREAT != 0:
		return t.openOrCreate(tr, l, walk, flags, mode)
	}
	in, errno := tr.end(l, walk)
	if errno != 0 {
		return nil, errno
	}
	return t.openExisting(tr.at(), in, flags)
}

// openOrCreate opens the last name of a path with O_CREAT.
func (t *Task) openOrCreate(tr *trail, l last, walk walkFlags, flags int, mode uint32) (*File, syscall.Errno) {
	for {
		if l.special() {
			in, errno := tr.end(l, walk)
			if errno != 0 {
				return nil, errno
			}
			return t.openExisting(tr.at(), in, flags)
		}
		if l.slash {
			return nil, syscall.EISDIR
		}
		f, in, errno := t.lookupOrCreate(tr, l.name, flags, mode)
		if f != nil || errno != 0 {
			return f, errno
		}
		if in.typ != syscall.S_IFLNK || walk&follow == 0 {
			return t.openExisting(tr.at(), in, flags)
		}
		target, errno := tr.target(in)
		if errno != 0 {
			return nil, errno
		}
		if l, errno = tr.parent(target); errno != 0 {
			return nil, errno
		}
	}
}

// lookupOrCreate returns what a name leads to, or, open, the file that it made.
func (t *Task) lookupOrCreate(tr *trail, name string, flags int, mode uint32) (*File, *inode, syscall.Errno) {
	dir := tr.at()
	if d, ok := t.fs.cached(dir, name); ok && d.in != nil {
		return nil, d.in, 0
	}
	done := t.fs.startWrite()
	defer done()
	dir.rwsem.Lock()
	defer dir.rwsem.Unlock()
	in, errno := t.lookup(dir, name, true)
	if in != nil || errno != 0 {
		return nil, in, errno
	}
	if errno := t.mayCreate(dir); errno != 0 {
		return nil, nil, errno
	}
	f, errno := t.create(fuse.OpCreate, dir, name, flags, mode)
	return f, nil, errno
}

// create makes and opens a regular file in a directory, which is locked unless the file has no name.
func (t *Task) create(op fuse.Opcode, dir *inode, name string, flags int, mode uint32) (*File, syscall.Errno) {
	mode, heritage, errno := t.inherit(dir, t.newMode(dir, mode|syscall.S_IFREG, ^uint32(0)))
	if errno != 0 {
		return nil, errno
	}
	s := fuse.CreateIn{Flags: uint32(flags &^ syscall.O_NOCTTY), Mode: mode, Umask: t.cred.Umask}
	if t.fs.flags&fuse.InitHandleKillprivV2 != 0 && flags&syscall.O_TRUNC != 0 && flags&syscall.O_EXCL == 0 && !t.privileged() {
		s.OpenFlags = fuse.OpenKillSuidgid
	}
	payload, errno := t.fs.request(t.caller(), op, dir.nodeid, structure(&s), cstr(name))
	if errno != 0 {
		if op == fuse.OpTmpfile && errno == syscall.ENOSYS {
			errno = syscall.EOPNOTSUPP
		}
		return nil, errno
	}
	e, out := decode[fuse.EntryOut](payload), decode[fuse.OpenOut](payload[len(payload)-16:])
	in, errno := t.introduced(&e, syscall.S_IFREG, op)
	if errno != 0 {
		return nil, errno
	}
	f := t.newFile(in, flags, &out, false)
	errno = f.checkOpen(&out)
	if op == fuse.OpCreate {
		t.fs.remember(dir, name, in, expiry(e.EntryValid, e.EntryValidNsec))
		dir.invalidateAttr()
	}
	if errno == 0 {
		errno = t.bequeath(in, heritage)
	}
	if errno != 0 {
		f.release()
		t.fs.iput(in)
		return nil, errno
	}
	return f, 0
}

// tmpfile makes a file without a name.
func (t *Task) tmpfile(dir *inode, flags int, mode uint32) (*File, syscall.Errno) {
	done := t.fs.startWrite()
	defer done()
	if errno := t.permission(dir, mayWrite|mayExec); errno != 0 {
		return nil, errno
	}
	f, errno := t.create(fuse.OpTmpfile, dir, "/", flags, mode)
	if errno == 0 && flags&syscall.O_EXCL == 0 {
		f.in.mu.Lock()
		f.in.linkable = true
		f.in.mu.Unlock()
	}
	return f, errno
}

// openExisting opens what a name in a directory leads to. The reference to the inode is given back or
// becomes the file's.
func (t *Task) openExisting(dir, in *inode, flags int) (*File, syscall.Errno) {
	f, errno := t.tryOpen(dir, in, flags)
	if errno != 0 {
		t.fs.iput(in)
	}
	return f, errno
}

func (t *Task) tryOpen(dir, in *inode, flags int) (*File, syscall.Errno) {
	isDir := in.typ == syscall.S_IFDIR
	if flags&syscall.O_CREAT != 0 {
		switch {
		case flags&syscall.O_EXCL != 0:
			return nil, syscall.EEXIST
		case isDir:
			return nil, syscall.EISDIR
		case !t.mayCreateInSticky(dir, in):
			return nil, syscall.EACCES
		}
	}
	mask := access(flags)
	switch in.typ {
	case syscall.S_IFLNK:
		return nil, syscall.ELOOP
	case syscall.S_IFDIR:
		if mask&mayWrite != 0 {
			return nil, syscall.EISDIR
		}
	}
	if !in.regular() {
		flags &^= syscall.O_TRUNC
	}
	if flags&syscall.O_TRUNC != 0 || mask&mayWrite != 0 {
		done := t.fs.startWrite()
		defer done()
	}
	if errno := t.permission(in, mask); errno != 0 {
		return nil, errno
	}
	if in.isAppendOnly() && (mask&mayWrite != 0 && flags&syscall.O_APPEND == 0 || flags&syscall.O_TRUNC != 0) {
		return nil, syscall.EPERM
	}
	if flags&unix.O_NOATIME != 0 && !t.ownerOrCapable(in) {
		return nil, syscall.EPERM
	}
	if !in.regular() && !isDir {
		return t.openSpecial(in, flags)
	}
	if flags&syscall.O_TRUNC == 0 || t.fs.flags&fuse.InitAtomicOTrunc != 0 {
		return t.openRequest(in, flags)
	}
	if in.isSwap() {
		return nil, syscall.ETXTBSY
	}
	f, errno := t.openRequest(in, flags&^syscall.O_TRUNC)
	if errno != 0 {
		return nil, errno
	}
	if errno := t.doTruncate(in, &iattr{valid: attrSize | attrMtime | attrCtime | attrOpen}); errno != 0 {
		f.release()
		return nil, errno
	}
	return f, 0
}

// openSpecial opens a device or a pipe, which is not the filesystem's business: what is behind it is a
// node of the machine of the same kind.
func (t *Task) openSpecial(in *inode, flags int) (*File, syscall.Errno) {
	node, errno := t.fs.hostNode(in)
	if errno != 0 {
		return nil, errno
	}
	fd, err := unix.Open(node, flags&^(syscall.O_CREAT|syscall.O_EXCL|syscall.O_NOFOLLOW)|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, errnoIn(err)
	}
	f := t.newFile(in, flags, &fuse.OpenOut{}, true)
	f.host = os.NewFile(uintptr(fd), node)
	return f, 0
}

// hostNode makes the node of the machine for an inode, once.
func (fs *FS) hostNode(in *inode) (string, syscall.Errno) {
	fs.hostOnce.Do(func() { fs.hostDir = fs.tb.TempDir() })
	node := filepath.Join(fs.hostDir, strconv.FormatUint(in.nodeid, 10)+"-"+strconv.FormatUint(in.generation, 10))
	a := in.attributes()
	major, minor := fuse.DecodeDev(a.Rdev)
	err := unix.Mknod(node, in.typ|0o600, int(unix.Mkdev(major, minor)))
	if err != nil && err != syscall.EEXIST {
		return "", errnoIn(err)
	}
	return node, 0
}
