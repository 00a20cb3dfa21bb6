package server

import (
	"errors"
	"math"
	"syscall"
	"time"

	"ext4box/ext4"
	"ext4box/fuse"

	"golang.org/x/sys/unix"
)

// Setattr changes attributes, of which the size goes first: it can fail.
func (s *Server) Setattr(r *fuse.Request, in *fuse.SetattrIn, out *fuse.AttrOut) syscall.Errno {
	// A chown(2) that changes neither owner is nothing but a new ctime here.
	idle := in.Valid == fuse.SetattrCtime
	if errno := s.owners.chown(in); errno != 0 {
		return errno
	}
	if o := s.exclusive(r.NodeID); o != nil {
		return o.setattr(r, in, out)
	}
	ino := s.inode(r.NodeID)
	if in.Valid&fuse.SetattrSize != 0 {
		if err := s.fs.Truncate(ino, in.Size); err != nil {
			return s.errno(r, err)
		}
	}
	a, change := s.attrOf(r, in, s.fs.Now())
	a.Touch = in.Valid&fuse.SetattrAtimeNow != 0
	// So, if not only so, comes what the kernel keeps of data that it writes back.
	a.WrittenBack = in.Valid&(fuse.SetattrAtime|fuse.SetattrMtimeNow) == 0
	kill := in.Valid&fuse.SetattrKillSuidgid != 0
	if s.owners.Fakeroot && in.Valid&(fuse.SetattrUID|fuse.SetattrGID) == 0 {
		kill = false // root truncates without
	}
	if idle || in.Valid&(fuse.SetattrSize|fuse.SetattrUID|fuse.SetattrGID|fuse.SetattrKillSuidgid) != 0 {
		if err := s.killPriv(r, ino, idle || kill); err != nil {
			return s.errno(r, err)
		}
	}
	if a.WrittenBack && in.Valid&(fuse.SetattrMode|fuse.SetattrUID|fuse.SetattrGID) == 0 && (s.protection.wasRefused(r.NodeID) || s.immutable(ino)) {
		change = false // the times are those of what was, or will be, refused
	}
	if change {
		if err := s.fs.SetAttr(ino, a); err != nil {
			return s.errno(r, err)
		}
	}
	if errno := s.durable(r, ino); errno != 0 {
		return errno
	}
	return s.Getattr(r, nil, out)
}

// attrOf is what a request says of attributes other than the size, and whether that is anything.
func (s *Server) attrOf(r *fuse.Request, in *fuse.SetattrIn, now time.Time) (a ext4.Attr, any bool) {
	a.Limited = s.limited(r)
	mode := in.Mode & 0o7777
	atime, mtime, ctime := in.AtimeTime(), in.MtimeTime(), in.CtimeTime()
	for _, f := range [...]struct {
		bit   fuse.SetattrValid
		apply func()
	}{
		{fuse.SetattrMode, func() { a.Mode = &mode }},
		{fuse.SetattrUID, func() { a.UID = &in.UID }},
		{fuse.SetattrGID, func() { a.GID = &in.GID }},
		{fuse.SetattrAtime, func() { a.Atime = &atime }},
		{fuse.SetattrMtime, func() { a.Mtime = &mtime }},
		{fuse.SetattrCtime, func() { a.Ctime = &ctime }},
		{fuse.SetattrAtimeNow, func() { a.Atime = &now }},
		{fuse.SetattrMtimeNow, func() { a.Mtime = &now }},
	} {
		if in.Valid&f.bit != 0 {
			f.apply()
			any = true
		}
	}
	return a, any
}

// Symlink, Mknod and Mkdir make inodes.
func (s *Server) Symlink(r *fuse.Request, name, target string, out *fuse.EntryOut) syscall.Errno {
	return s.create(r, name, ext4.NewNode{Mode: unix.S_IFLNK | 0o777, Target: target}, out)
}

func (s *Server) Mknod(r *fuse.Request, in *fuse.MknodIn, name string, out *fuse.EntryOut) syscall.Errno {
	major, minor := fuse.DecodeDev(in.Rdev)
	return s.create(r, name, ext4.NewNode{Mode: in.Mode, Umask: in.Umask, RdevMajor: major, RdevMinor: minor}, out)
}

func (s *Server) Mkdir(r *fuse.Request, in *fuse.MkdirIn, name string, out *fuse.EntryOut) syscall.Errno {
	return s.create(r, name, ext4.NewNode{Mode: unix.S_IFDIR | in.Mode&0o7777, Umask: in.Umask}, out)
}

// create makes an inode.
func (s *Server) create(r *fuse.Request, name string, n ext4.NewNode, out *fuse.EntryOut) syscall.Errno {
	dir := s.inode(r.NodeID)
	var err error
	if n.UID, n.GID, err = s.newOwner(r, dir); err != nil {
		return s.errno(r, err)
	}
	n.Limited, n.Final = s.limited(r), s.final(r)
	ino, err := s.fs.Create(dir, name, n)
	if err != nil {
		return s.errno(r, err)
	}
	if errno := s.durable(r, dir); errno != 0 {
		return errno
	}
	return s.errno(r, s.entry(s.inode(r.NodeID), ino, out))
}

// Create makes a file and opens it.
func (s *Server) Create(r *fuse.Request, in *fuse.CreateIn, name string, out *fuse.EntryOut, open *fuse.OpenOut) syscall.Errno {
	if !s.writable {
		return syscall.EROFS
	}
	n := ext4.NewNode{Mode: unix.S_IFREG | in.Mode&0o7777, Umask: in.Umask}
	if errno := s.create(r, name, n, out); errno != 0 {
		return errno
	}
	return s.open(r, s.inode(out.NodeID), in.Flags, open)
}

// Tmpfile makes a file without a name and opens it.
func (s *Server) Tmpfile(r *fuse.Request, in *fuse.CreateIn, _ string, out *fuse.EntryOut, open *fuse.OpenOut) syscall.Errno {
	dir := s.inode(r.NodeID)
	uid, gid, err := s.newOwner(r, dir)
	if err != nil {
		return s.errno(r, err)
	}
	ino, err := s.fs.Tmpfile(dir, ext4.NewNode{
		Mode: unix.S_IFREG | in.Mode&0o7777, Umask: in.Umask, UID: uid, GID: gid, Limited: s.limited(r), Final: s.final(r),
	})
	if err != nil {
		return s.errno(r, err)
	}
	// It comes held once, which is the kernel's lookup.
	if err := s.describe(ino, out); err != nil {
		return s.errno(r, err)
	}
	return s.open(r, ino, in.Flags, open)
}

// Link gives an inode another name.
func (s *Server) Link(r *fuse.Request, in *fuse.LinkIn, name string, out *fuse.EntryOut) syscall.Errno {
	ino := s.inode(in.OldNodeID)
	dir := s.inode(r.NodeID)
	if err := s.fs.LinkAs(ino, dir, name, s.limited(r)); err != nil {
		return s.errno(r, err)
	}
	if errno := s.durable(r, dir); errno != 0 {
		return errno
	}
	return s.errno(r, s.entry(s.inode(r.NodeID), ino, out))
}

// Unlink and Rmdir remove names.
func (s *Server) Unlink(r *fuse.Request, name string) syscall.Errno {
	dir := s.inode(r.NodeID)
	return s.settle(r, s.fs.Unlink(dir, name), dir)
}

func (s *Server) Rmdir(r *fuse.Request, name string) syscall.Errno {
	dir := s.inode(r.NodeID)
	return s.settle(r, s.fs.Rmdir(dir, name), dir)
}

// Rename moves a name.
func (s *Server) Rename(r *fuse.Request, in *fuse.RenameIn, oldName, newName string) syscall.Errno {
	from, to := s.inode(r.NodeID), s.inode(in.NewDir)
	whiteout := ext4.NewNode{Limited: s.limited(r)}
	if in.Flags&unix.RENAME_WHITEOUT != 0 {
		var err error
		if whiteout.UID, whiteout.GID, err = s.newOwner(r, from); err != nil {
			return s.errno(r, err)
		}
	}
	return s.settle(r, s.fs.RenameAs(from, oldName, to, newName, in.Flags, whiteout), from, to)
}

// Write writes through the mover.
func (s *Server) Write(r *fuse.Request, in *fuse.WriteIn, data []byte) (int, syscall.Errno) {
	if o := s.moved(r.NodeID); o != nil {
		return o.write(r, in, data)
	}
	if in.Offset >= 1<<63 {
		return 0, syscall.EFBIG
	}
	ino := s.inode(r.NodeID)
	if in.WriteFlags&fuse.WriteCache != 0 {
		return s.writeBack(r, ino, data, int64(in.Offset))
	}
	if errno := s.mayWrite(r, r.NodeID, int64(in.Offset)); errno != 0 {
		return 0, errno
	}
	if err := s.killPriv(r, ino, in.WriteFlags&fuse.WriteKillSuidgid != 0 && !s.owners.Fakeroot); err != nil {
		return 0, s.errno(r, err)
	}
	n, err := s.write(r, ino, data, int64(in.Offset))
	if n > 0 && !s.writeback && in.Flags&unix.O_DIRECT == 0 {
		return n, s.durable(r, ino)
	}
	// Of a direct write the kernel makes EIO when it is only told how much of it
	// was written: the reason is worth more.
	return n, s.settle(r, err, ino)
}

// writeBack writes what the kernel has had in its cache, for a program that may
// be long gone: the kernel took away privileges when it accepted the data, and
// those that the file has now it got later. It does not look at how much was
// written, and would take the rest for written too.
func (s *Server) writeBack(r *fuse.Request, ino ext4.Ino, data []byte, off int64) (int, syscall.Errno) {
	write := s.fs.WriteBehind
	if !s.writeback {
		// It was written to a mapping, by whom is not known: limits hold.
		write = s.fs.WriteBackLimited
	}
	size := len(data)
	skip, refused := s.mayWriteBack(r, data, off)
	if data = data[skip:]; len(data) == 0 {
		return size, refused
	}
	if _, err := write(ino, data, off+int64(skip)); err != nil {
		return 0, s.errno(r, err)
	}
	if s.writeback {
		s.grew(r)
	}
	if err := s.touch(ino); err != nil {
		return 0, s.errno(r, err)
	}
	return size, refused
}

// write writes for the caller, up to the limits of quota.
func (s *Server) write(r *fuse.Request, ino ext4.Ino, data []byte, off int64) (n int, err error) {
	if s.limited(r) {
		n, err = s.fs.WriteBackLimited(ino, data, off)
	} else {
		n, err = s.fs.WriteBack(ino, data, off)
	}
	if n == 0 {
		return 0, err
	}
	return n, errors.Join(err, s.touch(ino))
}

// touch sets the times of a file that was written to, unless the kernel does.
func (s *Server) touch(ino ext4.Ino) error {
	if s.writeback {
		return nil
	}
	return s.fs.Touch(ino)
}

// limited tells whether limits of quota hold for the caller.
func (s *Server) limited(r *fuse.Request) bool { return !s.privileged(r) }

// Fallocate changes how a range is backed.
func (s *Server) Fallocate(r *fuse.Request, in *fuse.FallocateIn) syscall.Errno {
	if o := s.moved(r.NodeID); o != nil {
		return o.fallocate(r, in)
	}
	ino := s.inode(r.NodeID)
	if errno := s.mayWrite(r, r.NodeID, math.MaxInt64); errno != 0 {
		return errno
	}
	err := s.fs.FallocateAs(ino, in.Mode, in.Offset, in.Length, s.limited(r))
	if !errors.Is(err, syscall.EPERM) && !errors.Is(err, syscall.EROFS) {
		// The kernel leaves this to us, without a flag that says who may keep
		// the bits. As in its own ext4 they go even if the call fails.
		err = errors.Join(err, s.killPriv(r, ino, !s.privileged(r)))
	}
	return s.settle(r, err, ino)
}

// Setxattr and Removexattr change extended attributes.
func (s *Server) Setxattr(r *fuse.Request, in *fuse.SetxattrIn, name string, value []byte) syscall.Errno {
	ino := s.inode(r.NodeID)
	value, err := s.storedXattr(ino, name, value)
	if err != nil {
		return s.errno(r, err)
	}
	if o := s.exclusive(r.NodeID); o != nil && isACL(name) {
		return o.setACL(r, in, name, value)
	}
	if err := s.fs.SetxattrAs(ino, name, value, int(in.Flags), s.limited(r)); err != nil {
		return s.errno(r, err)
	}
	// The kernel asks for it with default ACLs too, which leave the mode alone.
	if in.SetxattrFlags&fuse.SetxattrACLKillSgid != 0 && name == aclAccess {
		err = s.fs.KillSetgid(ino)
	}
	return s.settle(r, err, ino)
}

func (s *Server) Removexattr(r *fuse.Request, name string) syscall.Errno {
	if o := s.exclusive(r.NodeID); o != nil && isACL(name) {
		return o.removeACL(r, name)
	}
	ino := s.inode(r.NodeID)
	return s.settle(r, s.fs.Removexattr(ino, name), ino)
}

// Fsync and Fsyncdir make an inode durable. By then the blocks of a file are
// known, and the kernel, which keeps all other attributes of what it writes back
// up to date, is to learn how many they are.
func (s *Server) Fsync(r *fuse.Request, _ *fuse.FsyncIn) syscall.Errno {
	if err := s.fs.Fsync(s.inode(r.NodeID)); err != nil {
		return s.errno(r, err)
	}
	if s.moved(r.NodeID) == nil {
		s.stale(r)
	}
	return 0
}

func (s *Server) Fsyncdir(r *fuse.Request, _ *fuse.FsyncIn) syscall.Errno {
	return s.errno(r, s.fs.Fsync(s.inode(r.NodeID)))
}

// Syncfs makes everything durable.
func (s *Server) Syncfs(r *fuse.Request) syscall.Errno { return s.errno(r, s.fs.Sync()) }
