package vfs

import (
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"ext4box/fuse"
)

// Limits of the system calls.
const (
	maxXattrName  = 255
	maxXattrValue = 64 << 10
)

// xattrRequest sends a request about attributes. A server that does not know it is not asked again.
func (in *inode) xattrRequest(c caller, op fuse.Opcode, parts ...[]byte) ([]byte, syscall.Errno) {
	if in.fs.unsupported(op) {
		return nil, syscall.EOPNOTSUPP
	}
	payload, errno := in.fs.request(c, op, in.nodeid, parts...)
	if errno == syscall.ENOSYS {
		in.fs.without(op)
		errno = syscall.EOPNOTSUPP
	}
	return payload, errno
}

// getxattr asks for a value with room for so much, 0 for its size.
func (in *inode) getxattr(c caller, name string, room int) ([]byte, syscall.Errno) {
	payload, errno := in.xattrRequest(c, fuse.OpGetxattr, structure(&[2]uint32{uint32(room)}), cstr(name))
	if errno == 0 && len(payload) > max(room, 8) {
		in.fs.violate("GETXATTR of node %d: %d bytes for room of %d", in.nodeid, len(payload), room)
		return nil, syscall.EIO
	}
	return payload, errno
}

func (in *inode) setxattr(c caller, name string, value []byte, flags int, more fuse.SetxattrFlags) syscall.Errno {
	s := fuse.SetxattrIn{Size: uint32(len(value)), Flags: uint32(flags), SetxattrFlags: more}
	head := structure(&s)
	if in.fs.flags&fuse.InitSetxattrExt == 0 {
		head = head[:8]
	}
	_, errno := in.xattrRequest(c, fuse.OpSetxattr, head, cstr(name), value)
	if errno == 0 {
		in.changedXattr()
	}
	return errno
}

func (in *inode) removexattr(c caller, name string) syscall.Errno {
	_, errno := in.xattrRequest(c, fuse.OpRemovexattr, cstr(name))
	if errno == 0 {
		in.changedXattr()
	}
	return errno
}

// changedXattr follows a change of attributes.
func (in *inode) changedXattr() {
	in.updateCtime()
	in.mu.Lock()
	defer in.mu.Unlock()
	in.nosec = false
}

func cstr(s string) []byte { return append([]byte(s), 0) }

func checkXattrName(name string) syscall.Errno {
	if name == "" || len(name) > maxXattrName {
		return syscall.ERANGE
	}
	return 0
}

// xattrPermission tells whether the task may read or write an attribute that is no ACL.
func (t *Task) xattrPermission(in *inode, name string, mask uint32) syscall.Errno {
	write := mask&mayWrite != 0
	if write && (in.isImmutable() || in.isAppendOnly()) {
		return syscall.EPERM
	}
	hidden := syscall.ENODATA
	if write {
		hidden = syscall.EPERM
	}
	switch {
	case strings.HasPrefix(name, "security."):
		if write && !t.admin() {
			return syscall.EPERM
		}
		return 0
	case strings.HasPrefix(name, "system."):
		return 0
	case strings.HasPrefix(name, "trusted."):
		if !t.admin() {
			return hidden
		}
		return 0
	case strings.HasPrefix(name, "user."):
		if !in.regular() && in.typ != syscall.S_IFDIR {
			return hidden
		}
		if write && in.typ == syscall.S_IFDIR && in.attributes().Mode&syscall.S_ISVTX != 0 && !t.ownerOrCapable(in) {
			return syscall.EPERM
		}
	}
	return t.permission(in, mask)
}

// Setxattr is lsetxattr(2).
func (t *Task) Setxattr(path, name string, value []byte, flags int) error {
	if flags&^(unix.XATTR_CREATE|unix.XATTR_REPLACE) != 0 {
		return syscall.EINVAL
	}
	if errno := checkXattrName(name); errno != 0 {
		return errno
	}
	if len(value) > maxXattrValue {
		return syscall.E2BIG
	}
	return fail(t.changeXattr(path, name, func(in *inode, kind aclKind) syscall.Errno {
		acl, errno := parseACL(value)
		if errno != 0 {
			return errno
		}
		return t.setACL(in, kind, acl)
	}, func(in *inode) syscall.Errno { return in.setxattr(t.caller(), name, value, flags, 0) }))
}

// Removexattr is lremovexattr(2).
func (t *Task) Removexattr(path, name string) error {
	if errno := checkXattrName(name); errno != 0 {
		return errno
	}
	return fail(t.changeXattr(path, name,
		func(in *inode, kind aclKind) syscall.Errno { return t.setACL(in, kind, nil) },
		func(in *inode) syscall.Errno { return in.removexattr(t.caller(), name) }))
}

// changeXattr changes, of what a path leads to, an ACL or any other attribute.
func (t *Task) changeXattr(path, name string, acl func(*inode, aclKind) syscall.Errno, other func(*inode) syscall.Errno) syscall.Errno {
	in, errno := t.walk(path, 0)
	if errno != 0 {
		return errno
	}
	defer t.fs.iput(in)
	done := t.fs.startWrite()
	defer done()
	kind, isACL := aclKindOf(name)
	if !isACL {
		if errno := t.xattrPermission(in, name, mayWrite); errno != 0 {
			return errno
		}
	}
	in.rwsem.Lock()
	defer in.rwsem.Unlock()
	if isACL {
		return acl(in, kind)
	}
	return other(in)
}

// Getxattr is lgetxattr(2).
func (t *Task) Getxattr(path, name string) ([]byte, error) {
	if errno := checkXattrName(name); errno != 0 {
		return nil, errno
	}
	in, errno := t.walk(path, 0)
	if errno != 0 {
		return nil, errno
	}
	defer t.fs.iput(in)
	if kind, ok := aclKindOf(name); ok {
		if !t.fs.posixACL() || in.typ == syscall.S_IFLNK {
			return nil, syscall.EOPNOTSUPP
		}
		acl, errno := in.acl(t.caller(), kind)
		switch {
		case errno != 0:
			return nil, errno
		case acl == nil:
			return nil, syscall.ENODATA
		}
		return encodeACL(acl), nil
	}
	if errno := t.xattrPermission(in, name, mayRead); errno != 0 {
		return nil, errno
	}
	value, errno := in.getxattr(t.caller(), name, maxXattrValue)
	return value, fail(errno)
}

// Listxattr is llistxattr(2).
func (t *Task) Listxattr(path string) ([]string, error) {
	in, errno := t.walk(path, 0)
	if errno != 0 {
		return nil, errno
	}
	defer t.fs.iput(in)
	payload, errno := t.fs.request(t.caller(), fuse.OpListxattr, in.nodeid, structure(&[2]uint32{maxXattrValue}))
	if errno == syscall.ENOSYS {
		errno = syscall.EOPNOTSUPP
	}
	if errno != 0 || len(payload) == 0 {
		return nil, fail(errno)
	}
	if payload[len(payload)-1] != 0 {
		t.fs.violate("LISTXATTR of node %d: names that do not end", in.nodeid)
		return nil, syscall.EIO
	}
	return strings.Split(string(payload[:len(payload)-1]), "\x00"), nil
}
