package server

import (
	"syscall"

	"ext4box/ext4"
	"ext4box/fuse"
	"ext4box/iomap"

	"golang.org/x/sys/unix"
)

// attrFlags says how the kernel is to treat an inode that it gets to know: as one that
// only it changes, and whose data, if it has any, it moves itself. It looks at this
// once, when it makes room for the inode.
func (o *outside) attrFlags(st *ext4.Stat) fuse.AttrFlags {
	if st.Ino == ext4.RootIno {
		return 0 // it is known already, and is not to become something else
	}
	flags := fuse.AttrExclusive | fuse.AttrIomap
	for _, f := range [...]struct {
		flag uint32
		attr fuse.AttrFlags
	}{
		{ext4.FlagSync, fuse.AttrSync},
		{ext4.FlagImmutable, fuse.AttrImmutable},
		{ext4.FlagAppend, fuse.AttrAppend},
	} {
		if st.Flags&f.flag != 0 {
			flags |= f.attr
		}
	}
	if !st.IsRegular() {
		return flags
	}
	if why := o.fs.Mappable(st.Ino); why != "" {
		o.whyUnmapped(st.Ino, why)
		return flags &^ fuse.AttrIomap
	}
	if o.atomic {
		flags |= fuse.AttrAtomic
	}
	return flags
}

// statx adds what direct I/O and untorn writes of a regular file have to keep to.
func (o *outside) statx(mask uint32, x *fuse.Statx) {
	if mask&unix.STATX_DIOALIGN != 0 {
		unit := o.iomap.SectorSize
		if unit == 0 {
			unit = uint32(o.blockSize) // no device wants more
		}
		x.Mask |= unix.STATX_DIOALIGN
		x.DioMemAlign, x.DioOffsetAlign = unit, unit
	}
	if mask&unix.STATX_WRITE_ATOMIC != 0 && o.atomic {
		// One block, neither less nor more.
		x.Mask |= unix.STATX_WRITE_ATOMIC
		x.AtomicWriteUnitMin, x.AtomicWriteUnitMax, x.AtomicWriteSegmentsMax = uint32(o.blockSize), uint32(o.blockSize), 1
	}
}

// setattr does what it is told and nothing else: the kernel has checked what flags
// forbid, has taken away what lends privilege, and changes ACLs itself. Of regular
// files it also keeps the times, and says what they are.
func (o *outside) setattr(r *fuse.Request, in *fuse.SetattrIn, out *fuse.AttrOut) (errno syscall.Errno) {
	ino := o.inode(r.NodeID)
	if in.Valid&fuse.SetattrSize != 0 {
		if err := o.fs.Truncate(ino, in.Size); err != nil {
			return o.errno(r, err)
		}
		// A kernel that is told of an error keeps what it knows of blocks that are gone.
		defer func() {
			if errno != 0 {
				_ = o.Drop(ino, in.Size, iomap.ToEOF)
			}
		}()
	}
	now := o.fs.Now()
	a, change := o.attrOf(r, in, now)
	a.Verbatim = true
	// Of a file whose data comes by the server the kernel leaves it to us.
	if in.Valid&fuse.SetattrKillSuidgid != 0 && o.moved(r.NodeID) == nil {
		if err := o.killPriv(r, ino, true); err != nil {
			return o.errno(r, err)
		}
	}
	if change {
		if a.Ctime == nil && !o.keepsTimes(ino) {
			a.Ctime = &now
		}
		if err := o.fs.SetAttr(ino, a); err != nil {
			return o.errno(r, err)
		}
	}
	if errno := o.durable(r, ino); errno != 0 {
		return errno
	}
	return o.Getattr(r, nil, out)
}

// keepsTimes tells whether the kernel keeps the times of an inode, as it does of regular
// files; those of others are the server's.
func (o *outside) keepsTimes(ino ext4.Ino) bool {
	st, err := o.fs.Stat(ino)
	return err == nil && st.IsRegular()
}

// isACL tells whether an attribute is an ACL.
func isACL(name string) bool {
	return name == aclAccess || name == aclDefault
}

// setACL stores an ACL. The kernel knows what that means for the mode, and says so.
func (o *outside) setACL(r *fuse.Request, in *fuse.SetxattrIn, name string, value []byte) syscall.Errno {
	ino := o.inode(r.NodeID)
	return o.settle(r, o.fs.SetxattrVerbatim(ino, name, value, int(in.Flags), o.limited(r)), ino)
}

func (o *outside) removeACL(r *fuse.Request, name string) syscall.Errno {
	ino := o.inode(r.NodeID)
	return o.settle(r, o.fs.RemovexattrVerbatim(ino, name), ino)
}

// checkFlags refuses what would change by which way the data of a file goes, which the
// kernel learns when it gets to know the file, and never again.
func (o *outside) checkFlags(r *fuse.Request, flags uint32) syscall.Errno {
	st, err := o.fs.Stat(o.inode(r.NodeID))
	if err != nil {
		return o.errno(r, err)
	}
	if st.IsRegular() && (st.Flags^flags)&ext4.FlagDAX != 0 {
		return syscall.EOPNOTSUPP
	}
	return 0
}
