package vfs

import (
	"encoding/binary"
	"syscall"

	"ext4box/fuse"
)

const initPosixACL = fuse.InitPosixACL

// aclKind is one of the two ACLs of an inode.
type aclKind int

const (
	aclAccess aclKind = iota
	aclDefault
)

func (k aclKind) name() string {
	return [...]string{"system.posix_acl_access", "system.posix_acl_default"}[k]
}

// aclKindOf is the ACL that an attribute holds.
func aclKindOf(name string) (aclKind, bool) {
	switch name {
	case aclAccess.name():
		return aclAccess, true
	case aclDefault.name():
		return aclDefault, true
	}
	return 0, false
}

// aclEntry is an entry of an ACL; id counts for the tags that have one.
type aclEntry struct {
	tag, perm uint16
	id        uint32
}

// The tags, in the order of the entries of an ACL.
const (
	aclUserObj  = 0x01
	aclUser     = 0x02
	aclGroupObj = 0x04
	aclGroup    = 0x08
	aclMask     = 0x10
	aclOther    = 0x20
)

const aclVersion = 2

// cachedACL is what the kernel remembers of an ACL.
type cachedACL struct {
	known bool
	acl   []aclEntry // nil: there is none
}

// acl returns an ACL of an inode, nil if there is none.
func (in *inode) acl(c caller, kind aclKind) ([]aclEntry, syscall.Errno) {
	in.mu.Lock()
	have := in.acls[kind]
	in.mu.Unlock()
	if have.known {
		return have.acl, 0
	}
	const room = 4096
	value, errno := in.getxattr(c, kind.name(), room)
	switch {
	case errno == syscall.ENODATA || errno == syscall.EOPNOTSUPP || errno == syscall.ENOSYS:
		value = nil
	case errno == syscall.ERANGE:
		return nil, syscall.E2BIG
	case errno != 0:
		return nil, errno
	}
	acl, errno := parseACL(value)
	if errno != 0 {
		return nil, errno
	}
	in.rememberACL(kind, acl)
	return acl, 0
}

func (in *inode) rememberACL(kind aclKind, acl []aclEntry) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.acls[kind] = cachedACL{true, acl}
}

func (in *inode) forgetACLs() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.acls = [2]cachedACL{}
}

// parseACL decodes the value of an attribute. An empty one, and one without entries, are none.
func parseACL(b []byte) ([]aclEntry, syscall.Errno) {
	const head, size = 4, 8
	switch {
	case len(b) == 0:
		return nil, 0
	case len(b) < head || binary.LittleEndian.Uint32(b) != aclVersion:
		return nil, syscall.EOPNOTSUPP
	case (len(b)-head)%size != 0:
		return nil, syscall.EINVAL
	}
	var acl []aclEntry
	for b = b[head:]; len(b) > 0; b = b[size:] {
		e := aclEntry{tag: binary.LittleEndian.Uint16(b), perm: binary.LittleEndian.Uint16(b[2:]), id: binary.LittleEndian.Uint32(b[4:])}
		switch e.tag {
		case aclUserObj, aclGroupObj, aclMask, aclOther:
			e.id = 0
		case aclUser, aclGroup:
		default:
			return nil, syscall.EINVAL
		}
		acl = append(acl, e)
	}
	return acl, 0
}

func encodeACL(acl []aclEntry) []byte {
	b := binary.LittleEndian.AppendUint32(nil, aclVersion)
	for _, e := range acl {
		id := e.id
		if e.tag != aclUser && e.tag != aclGroup {
			id = 1<<32 - 1
		}
		b = binary.LittleEndian.AppendUint16(b, e.tag)
		b = binary.LittleEndian.AppendUint16(b, e.perm)
		b = binary.LittleEndian.AppendUint32(b, id)
	}
	return b
}

// validACL tells whether the entries are those of an ACL, in their order.
func validACL(acl []aclEntry) bool {
	last, named, masked := uint16(0), false, false
	for _, e := range acl {
		if e.perm&^7 != 0 {
			return false
		}
		again := e.tag == last && (e.tag == aclUser || e.tag == aclGroup)
		if !again {
			next := map[uint16][]uint16{0: {aclUserObj}, aclUserObj: {aclUser, aclGroupObj}, aclUser: {aclGroupObj},
				aclGroupObj: {aclGroup, aclMask, aclOther}, aclGroup: {aclMask}, aclMask: {aclOther}}[last]
			ok := false
			for _, tag := range next {
				ok = ok || tag == e.tag
			}
			if !ok {
				return false
			}
		}
		named = named || e.tag == aclUser || e.tag == aclGroup
		masked = masked || e.tag == aclMask
		last = e.tag
	}
	return last == aclOther && (!named || masked)
}

// aclMode returns the mode that an ACL gives to an inode of the given mode, and whether it says nothing
// beside that.
func aclMode(acl []aclEntry, mode uint32) (uint32, bool) {
	minimal := true
	bits, masked := uint32(0), false
	for _, e := range acl {
		p := uint32(e.perm)
		switch e.tag {
		case aclUserObj:
			bits |= p << 6
		case aclGroupObj:
			if !masked {
				bits |= p << 3
			}
		case aclOther:
			bits |= p
		case aclMask:
			bits, masked, minimal = bits&^0o070|p<<3, true, false
		default:
			minimal = false
		}
	}
	return mode&^0o777 | bits, minimal
}

// chmodACL is an ACL after a change of the mode.
func chmodACL(acl []aclEntry, mode uint32) []aclEntry {
	acl = append([]aclEntry(nil), acl...)
	group := findACL(acl, aclMask)
	if group < 0 {
		group = findACL(acl, aclGroupObj)
	}
	for i := range acl {
		switch {
		case acl[i].tag == aclUserObj:
			acl[i].perm = uint16(mode >> 6 & 7)
		case i == group:
			acl[i].perm = uint16(mode >> 3 & 7)
		case acl[i].tag == aclOther:
			acl[i].perm = uint16(mode & 7)
		}
	}
	return acl
}

// createACL is the ACL that something new gets from a default ACL, and the mode that the two of them
// leave of the mode asked for.
func createACL(def []aclEntry, mode uint32) (acl []aclEntry, _ uint32) {
	acl = append([]aclEntry(nil), def...)
	group := findACL(acl, aclMask)
	if group < 0 {
		group = findACL(acl, aclGroupObj)
	}
	for i := range acl {
		e := &acl[i]
		switch {
		case e.tag == aclUserObj:
			e.perm &= uint16(mode >> 6 & 7)
			mode &= uint32(e.perm)<<6 | ^uint32(0o700)
		case i == group:
			e.perm &= uint16(mode >> 3 & 7)
			mode &= uint32(e.perm)<<3 | ^uint32(0o070)
		case e.tag == aclOther:
			e.perm &= uint16(mode & 7)
			mode &= uint32(e.perm) | ^uint32(0o007)
		}
	}
	return acl, mode
}

func findACL(acl []aclEntry, tag uint16) int {
	for i, e := range acl {
		if e.tag == tag {
			return i
		}
	}
	return -1
}

// checkACL decides by an ACL; the owner is none of its business.
func (t *Task) checkACL(acl []aclEntry, uid, gid, mask uint32) syscall.Errno {
	limit := uint32(7)
	if i := findACL(acl, aclMask); i >= 0 {
		limit = uint32(acl[i].perm)
	}
	decide := func(perm, limit uint32) syscall.Errno {
		if mask&^(perm&limit) != 0 {
			return syscall.EACCES
		}
		return 0
	}
	member := false
	for _, e := range acl {
		perm := uint32(e.perm)
		switch e.tag {
		case aclUserObj:
			if uid == t.cred.UID {
				return decide(perm, 7)
			}
		case aclUser:
			if e.id == t.cred.UID {
				return decide(perm, limit)
			}
		case aclGroupObj, aclGroup:
			id := e.id
			if e.tag == aclGroupObj {
				id = gid
			}
			if t.inGroup(id) {
				member = true
				if mask&^perm == 0 {
					return decide(perm, limit)
				}
			}
		case aclOther:
			if member {
				return syscall.EACCES
			}
			return decide(perm, 7)
		}
	}
	return syscall.EIO
}

// setACL stores an ACL, or with nil removes it. The inode is locked.
func (t *Task) setACL(in *inode, kind aclKind, acl []aclEntry) syscall.Errno {
	if in.isImmutable() || in.isAppendOnly() {
		return syscall.EPERM
	}
	if !t.fs.posixACL() || in.typ == syscall.S_IFLNK {
		return syscall.EOPNOTSUPP
	}
	if kind == aclDefault && in.typ != syscall.S_IFDIR {
		if acl != nil {
			return syscall.EACCES
		}
		return 0
	}
	if !t.ownerOrCapable(in) {
		return syscall.EPERM
	}
	if acl != nil && !validACL(acl) {
		return syscall.EINVAL
	}
	if in.flags.exclusive {
		return t.setOwnACL(in, kind, acl)
	}
	var errno syscall.Errno
	if acl == nil {
		errno = in.removexattr(t.caller(), kind.name())
	} else {
		flags := fuse.SetxattrFlags(0)
		if !t.inGroupOrCapable(in.attributes().GID) {
			flags = fuse.SetxattrACLKillSgid
		}
		errno = in.setxattr(t.caller(), kind.name(), encodeACL(acl), 0, flags)
	}
	in.forgetACLs()
	in.invalidateAttr()
	return errno
}

// setOwnACL is setACL of an exclusive inode, whose mode the kernel changes as the ACL says.
func (t *Task) setOwnACL(in *inode, kind aclKind, acl []aclEntry) syscall.Errno {
	old := in.attributes()
	mode := old.Mode
	store := acl
	if kind == aclAccess && acl != nil {
		var minimal bool
		if mode, minimal = aclMode(acl, mode); minimal {
			store = nil
		}
		if !t.inGroupOrCapable(old.GID) {
			mode &^= syscall.S_ISGID
		}
	}
	if errno := in.storeACL(t.caller(), kind, store); errno != 0 {
		return errno
	}
	// The mode, or at least the time of the change, follows.
	a := &iattr{valid: attrCtime | attrForce}
	if mode != old.Mode {
		a.valid |= attrMode
		a.mode = mode
	}
	return t.setattrNow(in, a)
}

// storeACL stores an ACL as it is.
func (in *inode) storeACL(c caller, kind aclKind, acl []aclEntry) syscall.Errno {
	var errno syscall.Errno
	if acl == nil {
		if errno = in.removexattr(c, kind.name()); errno == syscall.ENODATA {
			errno = 0
		}
	} else {
		errno = in.setxattr(c, kind.name(), encodeACL(acl), 0, 0)
	}
	if errno == 0 {
		in.rememberACL(kind, acl)
	}
	return errno
}

// inherited is what something new gets from its directory.
type inherited struct{ access, def []aclEntry }

// inherit returns the mode to ask for, and the ACLs to set afterwards, where the kernel and not the
// server sees to inheritance.
func (t *Task) inherit(dir *inode, mode uint32) (uint32, inherited, syscall.Errno) {
	var h inherited
	if !dir.flags.exclusive || !t.fs.posixACL() {
		if t.fs.flags&fuse.InitDontMask == 0 {
			mode &^= t.cred.Umask
		}
		return mode, h, 0
	}
	if mode&syscall.S_IFMT == syscall.S_IFLNK {
		return mode, h, 0
	}
	def, errno := dir.acl(t.caller(), aclDefault)
	if errno != 0 {
		return 0, h, errno
	}
	if def == nil {
		return mode &^ t.cred.Umask, h, 0
	}
	acl, mode := createACL(def, mode)
	if _, minimal := aclMode(acl, 0); !minimal {
		h.access = acl
	}
	if mode&syscall.S_IFMT == syscall.S_IFDIR {
		h.def = def
	}
	return mode, h, 0
}

// bequeath sets the ACLs of something new.
func (t *Task) bequeath(in *inode, h inherited) syscall.Errno {
	if h.def != nil {
		if errno := in.storeACL(t.caller(), aclDefault, h.def); errno != 0 {
			return errno
		}
	}
	if h.access != nil {
		return in.storeACL(t.caller(), aclAccess, h.access)
	}
	return 0
}
