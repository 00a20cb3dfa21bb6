package server

import (
	"encoding/binary"
	"syscall"

	"ext4box/ext4"
	"ext4box/fuse"

	"golang.org/x/sys/unix"
)

// Owners says how the owners and permissions of files are shown where those of the image
// mean nothing, and what is stored of what callers say. The zero value shows what is
// stored.
//
// The engine knows only what is stored. Every answer with attributes goes through show,
// and every request with ids through newOwner, chown or storedXattr.
type Owners struct {
	// UID and GID, where not nil, are whom every file seems to belong to. What is made
	// gets the owner, or the group, of its directory.
	UID, GID *uint32
	// Umask, where not nil, are the permissions that no file seems to have; the others all
	// do. What chmod(2) says is stored nevertheless. ACLs are not enforced.
	Umask *uint32
	// Users and Groups map the ids of the image, instead.
	Users, Groups IDMap
	// Fakeroot, together with UID and GID, makes whoever is let in the root of the image:
	// the kernel is to check no permissions, what is made belongs to user and group 0, and
	// owners that are set are stored.
	Fakeroot bool
}

// IDMap maps ids of the image to those that are shown: it is a list of ranges that do not
// overlap. A nil map leaves every id as it is; another one knows no ids but its own.
type IDMap []IDRange

// IDRange maps Count ids from Stored on to those from Shown on.
type IDRange struct{ Stored, Shown, Count uint32 }

// shown is how an id of the image is shown. It is [fuse.InvalidID] for an id that is not
// mapped: the kernel takes that for an owner that nobody is, as it does for the files of a
// mount that it maps itself, and shows it as its overflow id, 65534.
func (m IDMap) shown(id uint32) uint32 {
	if m == nil {
		return id
	}
	for _, r := range m {
		if n := id - r.Stored; id >= r.Stored && n < r.Count {
			return r.Shown + n
		}
	}
	return fuse.InvalidID
}

// stored is the inverse of shown.
func (m IDMap) stored(id uint32) (uint32, bool) {
	if m == nil {
		return id, id != fuse.InvalidID
	}
	for _, r := range m {
		if n := id - r.Shown; id >= r.Shown && n < r.Count {
			return r.Stored + n, true
		}
	}
	return 0, false
}

func (o *Owners) maps() bool { return o.Users != nil || o.Groups != nil }

// overrides tells whether the kernel is shown something else than a mapping of what is
// stored, so that it cannot be left to it to store.
func (o *Owners) overrides() bool {
	return o.UID != nil || o.GID != nil || o.Umask != nil || o.Fakeroot
}

// ownPermissions tells whether modes or nobody decide who may what, so that ACLs must not.
func (o *Owners) ownPermissions() bool { return o.Umask != nil || o.Fakeroot }

// show turns attributes from stored to shown.
func (o *Owners) show(st *ext4.Stat) {
	st.UID, st.GID = o.shownUID(st.UID), o.shownGID(st.GID)
	if o.Umask != nil {
		st.Mode = st.Mode&unix.S_IFMT | 0o777&^*o.Umask
	}
}

func (o *Owners) shownUID(uid uint32) uint32 {
	if o.UID != nil {
		return *o.UID
	}
	return o.Users.shown(uid)
}

func (o *Owners) shownGID(gid uint32) uint32 {
	if o.GID != nil {
		return *o.GID
	}
	return o.Groups.shown(gid)
}

// hides tells whether a mode lends privilege without the kernel knowing it.
func (o *Owners) hides(mode uint32) bool {
	return o.Umask != nil && mode&unix.S_IFMT == unix.S_IFREG && mode&(unix.S_ISUID|unix.S_ISGID) != 0
}

// stat is what is shown of an inode.
func (s *Server) stat(ino ext4.Ino) (ext4.Stat, error) {
	st, err := s.fs.Stat(ino)
	if err == nil {
		s.owners.show(&st)
	}
	return st, err
}

// newOwner is to whom something belongs, in the image, that the caller makes in a
// directory. EOVERFLOW: to nobody whom the image knows.
func (s *Server) newOwner(r *fuse.Request, dir ext4.Ino) (uid, gid uint32, err error) {
	o := &s.owners
	if o.Fakeroot {
		return 0, 0, nil
	}
	known := true
	uid, gid = r.UID, r.GID
	if o.UID != nil || o.GID != nil {
		d, err := s.fs.Stat(dir)
		if err != nil {
			return 0, 0, err
		}
		if o.UID != nil {
			uid = d.UID
		}
		if o.GID != nil {
			gid = d.GID
		}
	}
	if o.UID == nil {
		uid, known = o.Users.stored(uid)
	}
	if o.GID == nil && known {
		gid, known = o.Groups.stored(gid)
	}
	if !known {
		return 0, 0, syscall.EOVERFLOW
	}
	return uid, gid, nil
}

// chown turns the owners that a request sets from shown to stored. An owner that all files
// have can be set, and that is all. EPERM: that is another one. EOVERFLOW: no id of the
// image is shown so.
func (o *Owners) chown(in *fuse.SetattrIn) syscall.Errno {
	if o.Fakeroot {
		return 0
	}
	asked := in.Valid & (fuse.SetattrUID | fuse.SetattrGID)
	for _, f := range [...]struct {
		bit  fuse.SetattrValid
		id   *uint32
		all  *uint32
		some IDMap
	}{
		{fuse.SetattrUID, &in.UID, o.UID, o.Users},
		{fuse.SetattrGID, &in.GID, o.GID, o.Groups},
	} {
		switch {
		case in.Valid&f.bit == 0:
		case f.all == nil:
			id, ok := f.some.stored(*f.id)
			if !ok {
				return syscall.EOVERFLOW
			}
			*f.id = id
		case *f.id != *f.all:
			return syscall.EPERM
		default:
			in.Valid &^= f.bit
		}
	}
	if asked != 0 && in.Valid&(fuse.SetattrUID|fuse.SetattrGID|fuse.SetattrSize) == 0 {
		in.Valid &^= fuse.SetattrKillSuidgid // nothing changed hands
	}
	return 0
}

// privileged tells whether the caller is root, as far as the user namespace of the mount goes, or
// acts as the image's. Whose ids are mapped to whose is no matter: what root may here is
// between the caller and this machine. A kernel that maps ids for mounts of its own does
// not tell who calls, but at most who is to own what is made.
func (s *Server) privileged(r *fuse.Request) bool {
	return s.owners.Fakeroot || s.caller(r) == 0
}

// caller is the uid of who sent the request, or [fuse.InvalidID].
func (s *Server) caller(r *fuse.Request) uint32 {
	if r.Protocol.Has(fuse.InitAllowIdmap) {
		return fuse.InvalidID
	}
	return r.UID
}

const (
	aclAccess  = "system.posix_acl_access"
	aclDefault = "system.posix_acl_default"
	capability = "security.capability"
)

// shownXattr turns the value of an attribute from stored to shown. ENODATA: it is about ids
// that are not shown.
func (o *Owners) shownXattr(name string, value []byte) ([]byte, error) {
	if !o.maps() {
		return value, nil
	}
	switch {
	case isACL(name):
		acl, _, err := o.mapACL(value, func(m IDMap, id uint32) (uint32, bool) {
			id = m.shown(id)
			return id, id != fuse.InvalidID
		})
		return acl, err
	case name == capability:
		return mapCapability(value, func(id uint32) (uint32, bool) {
			id = o.Users.shown(id)
			return id, id != fuse.InvalidID
		}, syscall.ENODATA)
	}
	return value, nil
}

// storedXattr turns the value of an attribute from shown to stored. EINVAL: no id of the
// image is shown like one in it. EOVERFLOW: the ACL that is there names ids that are not
// shown, and would lose them.
func (s *Server) storedXattr(ino ext4.Ino, name string, value []byte) ([]byte, error) {
	o := &s.owners
	if !o.maps() {
		return value, nil
	}
	switch {
	case isACL(name):
		if was, err := s.fs.Getxattr(ino, name); err == nil {
			_, hidden, err := o.mapACL(was, func(m IDMap, id uint32) (uint32, bool) {
				return 0, m.shown(id) != fuse.InvalidID
			})
			if err == nil && hidden {
				return nil, syscall.EOVERFLOW
			}
		}
		acl, unknown, err := o.mapACL(value, IDMap.stored)
		if err == nil && unknown {
			err = syscall.EINVAL
		}
		return acl, err
	case name == capability:
		return mapCapability(value, o.Users.stored, syscall.EINVAL)
	}
	return value, nil
}

// An ACL as system calls have it is a version and entries of a tag, permissions and an id.
const (
	aclHeader, aclEntry = 4, 8
	aclUser, aclGroup   = 0x02, 0x08 // the tags with an id
)

// mapACL maps the ids in an ACL. Entries of ids that are not mapped are left out, and left
// tells so: they are about nobody there is, and the kernel takes no ACL with such. EINVAL:
// it is no ACL.
func (o *Owners) mapACL(acl []byte, to func(IDMap, uint32) (uint32, bool)) (mapped []byte, left bool, err error) {
	if len(acl) < aclHeader || (len(acl)-aclHeader)%aclEntry != 0 {
		return nil, false, syscall.EINVAL
	}
	le := binary.LittleEndian
	mapped = append(make([]byte, 0, len(acl)), acl[:aclHeader]...)
	for e := acl[aclHeader:]; len(e) > 0; e = e[aclEntry:] {
		tag, id := le.Uint16(e), le.Uint32(e[4:])
		ok := true
		switch tag {
		case aclUser:
			id, ok = to(o.Users, id)
		case aclGroup:
			id, ok = to(o.Groups, id)
		}
		if !ok {
			left = true
			continue
		}
		mapped = le.AppendUint32(append(mapped, e[:4]...), id)
	}
	return mapped, left, nil
}

// The value of security.capability: revision and flags, the sets, and, in revision 3, the
// uid that is root in the user namespaces where it counts. Without one it is 0.
const (
	capRevisionMask        = 0xFF000000
	capRevision2, capSize2 = 0x02000000, 20
	capRevision3, capSize3 = 0x03000000, 24
	capRoot                = 20 // where the uid is
)

// mapCapability maps the root user of capabilities; unknown is the error for one that is not
// mapped. The capabilities of the image's root are not those of this machine's.
func mapCapability(value []byte, to func(uint32) (uint32, bool), unknown syscall.Errno) ([]byte, error) {
	le := binary.LittleEndian
	root := uint32(0)
	switch {
	case len(value) == capSize2 && le.Uint32(value)&capRevisionMask == capRevision2:
	case len(value) == capSize3 && le.Uint32(value)&capRevisionMask == capRevision3:
		root = le.Uint32(value[capRoot:])
	default:
		return value, nil // nothing that the kernel would grant anybody anything for
	}
	id, ok := to(root)
	if !ok {
		return nil, unknown
	}
	if id == root {
		return value, nil
	}
	flags := le.Uint32(value) &^ capRevisionMask
	if id == 0 {
		return append(le.AppendUint32(nil, capRevision2|flags), value[4:capSize2]...), nil
	}
	mapped := append(le.AppendUint32(nil, capRevision3|flags), value[4:capSize2]...)
	return le.AppendUint32(mapped, id), nil
}

// Access answers access(2) where the kernel checks no permissions and so asks: everything
// is allowed but to execute what nobody may, which is refused to root as well.
func (s *Server) Access(r *fuse.Request, in *fuse.AccessIn) syscall.Errno {
	if !s.owners.Fakeroot {
		return syscall.ENOSYS
	}
	if in.Mask&unix.X_OK == 0 {
		return 0
	}
	st, err := s.fs.Stat(s.inode(r.NodeID))
	if err != nil {
		return s.errno(r, err)
	}
	if st.IsRegular() && st.Mode&0o111 == 0 {
		return syscall.EACCES
	}
	return 0
}
