package server

import (
	"syscall"

	"ext4box/ext4"
	"ext4box/fuse"

	"golang.org/x/sys/unix"
)

// Getattr reports the attributes of an inode.
func (s *Server) Getattr(r *fuse.Request, _ *fuse.GetattrIn, out *fuse.AttrOut) syscall.Errno {
	st, err := s.stat(s.inode(r.NodeID))
	if err != nil {
		return s.errno(r, err)
	}
	attr(&st, &out.Attr)
	out.SetAttrValid(fuse.Forever)
	return 0
}

func attr(st *ext4.Stat, a *fuse.Attr) {
	*a = fuse.Attr{
		Ino:     uint64(st.Ino),
		Size:    uint64(st.Size),
		Blocks:  st.Blocks,
		Mode:    st.Mode,
		Nlink:   st.Nlink,
		UID:     st.UID,
		GID:     st.GID,
		Rdev:    fuse.EncodeDev(st.RdevMajor, st.RdevMinor),
		Blksize: st.BlockSize,
	}
	a.SetTimes(st.Atime, st.Mtime, st.Ctime)
}

// The attributes of statx(2) that ext4 has, as the kernel's driver reports
// them.
const statxAttributes = unix.STATX_ATTR_COMPRESSED | unix.STATX_ATTR_IMMUTABLE | unix.STATX_ATTR_APPEND |
	unix.STATX_ATTR_NODUMP | unix.STATX_ATTR_ENCRYPTED | unix.STATX_ATTR_VERITY

// Statx adds the birth time and the attributes.
func (s *Server) Statx(r *fuse.Request, in *fuse.StatxIn, out *fuse.StatxOut) syscall.Errno {
	st, err := s.stat(s.inode(r.NodeID))
	if err != nil {
		return s.errno(r, err)
	}
	x := &out.Stat
	*x = fuse.Statx{
		Mask:           unix.STATX_BASIC_STATS,
		Blksize:        st.BlockSize,
		Nlink:          st.Nlink,
		UID:            st.UID,
		GID:            st.GID,
		Mode:           uint16(st.Mode),
		Ino:            uint64(st.Ino),
		Size:           uint64(st.Size),
		Blocks:         st.Blocks,
		AttributesMask: statxAttributes,
		RdevMajor:      st.RdevMajor,
		RdevMinor:      st.RdevMinor,
	}
	x.Atime.Set(st.Atime)
	x.Mtime.Set(st.Mtime)
	x.Ctime.Set(st.Ctime)
	if !st.Btime.IsZero() {
		x.Mask |= unix.STATX_BTIME
		x.Btime.Set(st.Btime)
	}
	for _, f := range [...]struct {
		flag uint32
		attr uint64
	}{
		{ext4.FlagCompressed, unix.STATX_ATTR_COMPRESSED},
		{ext4.FlagImmutable, unix.STATX_ATTR_IMMUTABLE},
		{ext4.FlagAppend, unix.STATX_ATTR_APPEND},
		{ext4.FlagNodump, unix.STATX_ATTR_NODUMP},
		{ext4.FlagEncrypted, unix.STATX_ATTR_ENCRYPTED},
		{ext4.FlagVerity, unix.STATX_ATTR_VERITY},
	} {
		if st.Flags&f.flag != 0 {
			x.Attributes |= f.attr
		}
	}
	if o := s.moved(r.NodeID); o != nil && st.IsRegular() {
		o.statx(in.SxMask, x)
	}
	out.SetAttrValid(fuse.Forever)
	return 0
}

// Readlink returns the target of a symbolic link.
func (s *Server) Readlink(r *fuse.Request, buf []byte) (int, syscall.Errno) {
	target, err := s.fs.Readlink(s.inode(r.NodeID))
	if err != nil {
		return 0, s.errno(r, err)
	}
	if len(target) > len(buf) {
		return 0, syscall.ENAMETOOLONG
	}
	s.accessed(r, 0, true)
	return copy(buf, target), 0
}

// Getxattr returns the value of an extended attribute.
func (s *Server) Getxattr(r *fuse.Request, name string, buf []byte) (int, syscall.Errno) {
	value, err := s.fs.Getxattr(s.inode(r.NodeID), name)
	if err == nil {
		value, err = s.owners.shownXattr(name, value)
	}
	if err != nil {
		return 0, s.errno(r, err)
	}
	if len(value) > maxXattrValue {
		return 0, syscall.E2BIG
	}
	if len(value) <= len(buf) {
		copy(buf, value)
	}
	return len(value), 0
}

// Listxattr returns the names of the extended attributes, of which those in the
// trusted namespace are for root.
func (s *Server) Listxattr(r *fuse.Request, buf []byte) (int, syscall.Errno) {
	names, err := s.fs.Listxattr(s.inode(r.NodeID))
	if err != nil {
		return 0, s.errno(r, err)
	}
	var list []byte
	for _, name := range names {
		if len(name) > len(trusted) && name[:len(trusted)] == trusted && !s.privileged(r) {
			continue
		}
		list = append(append(list, name...), 0)
	}
	if len(list) <= len(buf) {
		copy(buf, list)
	}
	return len(list), 0
}

const (
	trusted = "trusted."
	// maxXattrValue is XATTR_SIZE_MAX, the largest value that system calls take.
	maxXattrValue = 64 << 10
)
