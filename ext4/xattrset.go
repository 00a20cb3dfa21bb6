package ext4

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"syscall"

	"ext4box/ext4/internal/balloc"
	"ext4box/ext4/internal/disk"
	"ext4box/ext4/internal/journal"
	"ext4box/ext4/internal/xattr"
)

// Flags of Setxattr, as setxattr(2) has them.
const (
	XattrCreate  = 1 // the attribute must not exist: EEXIST
	XattrReplace = 2 // the attribute must exist: ENODATA
)

const (
	// creditsSetXattrs: the inode, the old block and the new one, each with its
	// bitmap and descriptor, and the superblock.
	creditsSetXattrs = 1 + 3 + 3 + 1
	// creditsDropXattrs: the block, or its bitmap and descriptor.
	creditsDropXattrs = 3
)

// Setxattr sets an extended attribute by its full name. POSIX ACLs are in the
// format of setxattr(2); an access ACL changes the mode, and is not stored if
// the mode expresses it. Errors: EEXIST, ENODATA, EOPNOTSUPP for names that ext4
// does not store, ENOSPC when neither inode nor attribute block has room, E2BIG.
func (fs *FS) Setxattr(ino Ino, name string, value []byte, flags int) error {
	return fs.SetxattrAs(ino, name, value, flags, false)
}

// SetxattrAs is Setxattr by somebody for whom, if limited, limits of quota hold:
// EDQUOT.
func (fs *FS) SetxattrAs(ino Ino, name string, value []byte, flags int, limited bool) error {
	return fs.retryingOutside(func() error { return fs.setxattr(ino, name, value, flags, limited, false) })
}

// SetxattrVerbatim is SetxattrAs for a kernel that keeps ACL, mode and times of the
// inode in step itself: an access ACL is stored whatever it says and leaves the mode
// alone, and ctime stays.
func (fs *FS) SetxattrVerbatim(ino Ino, name string, value []byte, flags int, limited bool) error {
	return fs.retryingOutside(func() error { return fs.setxattr(ino, name, value, flags, limited, true) })
}

func (fs *FS) setxattr(ino Ino, name string, value []byte, flags int, limited, verbatim bool) error {
	index, rest, nameErr := parseXattrName(name)
	if len(rest) > disk.NameMax {
		return syscall.ERANGE
	}
	if isACL(index) {
		stored, ok := xattr.ACLToDisk(value)
		if !ok {
			return syscall.EINVAL
		}
		value = stored
	}
	in, err := fs.wlock(ino)
	if err != nil {
		return err
	}
	defer in.wunlock()
	in.quota.limited = limited
	switch {
	case in.Flags&(disk.FlagImmutable|disk.FlagAppend) != 0: // whatever the name
		return syscall.EPERM
	case nameErr != nil:
		return nameErr
	case index == disk.XattrACLDefault && !in.IsDir():
		return syscall.EACCES
	}
	return fs.editXattrs(in, !verbatim, func(attrs []xattr.Attr) ([]xattr.Attr, int, error) {
		i := findXattr(attrs, index, rest)
		switch {
		case i >= 0 && flags&XattrCreate != 0:
			return nil, 0, syscall.EEXIST
		case i < 0 && flags&XattrReplace != 0:
			return nil, 0, syscall.ENODATA
		}
		if err := fs.checkValue(len(value)); err != nil {
			return nil, 0, err
		}
		if index == disk.XattrACLAccess {
			mode, exact, ok := xattr.ACLMode(value, in.Mode)
			if !ok {
				return nil, 0, syscall.EINVAL
			}
			if !verbatim {
				in.Mode = mode
			}
			if exact && !verbatim {
				if i >= 0 {
					attrs = append(attrs[:i], attrs[i+1:]...)
				}
				return attrs, -1, nil
			}
		}
		at := xattr.Attr{Index: index, Name: []byte(rest), Value: value, Size: uint32(len(value))}
		if i < 0 {
			return append(attrs, at), len(attrs), nil
		}
		attrs[i] = at
		return attrs, i, nil
	})
}

// Removexattr removes an extended attribute. ENODATA: there is none, and it is
// no ACL.
func (fs *FS) Removexattr(ino Ino, name string) error {
	err := fs.removexattr(ino, name, false)
	if index, _, _ := parseXattrName(name); isACL(index) && errors.Is(err, syscall.ENODATA) {
		return nil // a file without ACL has one, its mode, which stays
	}
	return err
}

// RemovexattrVerbatim is Removexattr for a kernel that keeps ACL, mode and times of
// the inode in step itself: ctime stays. ENODATA: there is none.
func (fs *FS) RemovexattrVerbatim(ino Ino, name string) error {
	return fs.removexattr(ino, name, true)
}

func (fs *FS) removexattr(ino Ino, name string, verbatim bool) error {
	index, rest, nameErr := parseXattrName(name)
	in, err := fs.wlock(ino)
	if err != nil {
		return err
	}
	defer in.wunlock()
	switch {
	case in.Flags&(disk.FlagImmutable|disk.FlagAppend) != 0:
		return syscall.EPERM
	case nameErr != nil:
		return nameErr
	}
	return fs.editXattrs(in, !verbatim, func(attrs []xattr.Attr) ([]xattr.Attr, int, error) {
		i := findXattr(attrs, index, rest)
		if i < 0 {
			return nil, 0, syscall.ENODATA
		}
		return append(attrs[:i], attrs[i+1:]...), -1, nil
	})
}

func isACL(index uint8) bool {
	return index == disk.XattrACLAccess || index == disk.XattrACLDefault
}

func findXattr(attrs []xattr.Attr, index uint8, name string) int {
	for i := range attrs {
		if attrs[i].Index == index && string(attrs[i].Name) == name {
			return i
		}
	}
	return -1
}

// editXattrs replaces the attributes of an inode, which is locked, by what edit
// makes of them, in one transaction, which with ctime sets that. edit also tells which
// one it changed, or -1.
func (fs *FS) editXattrs(in *inode, ctime bool, edit func([]xattr.Attr) ([]xattr.Attr, int, error)) error {
	attrs, err := fs.allXattrs(in)
	if err != nil {
		return err
	}
	mode := in.Mode
	attrs, changed, err := edit(attrs)
	if err == nil {
		err = fs.replaceXattrs(in, attrs, changed, func(*journal.Handle) error {
			if ctime {
				fs.touch(in, false)
			}
			return nil
		})
	}
	if err != nil {
		in.Mode = mode
	}
	return err
}

// allXattrs returns copies of all attributes of an inode.
func (fs *FS) allXattrs(in *inode) ([]xattr.Attr, error) {
	areas, err := fs.xattrAreas(in)
	if err != nil {
		return nil, err
	}
	var attrs []xattr.Attr
	for _, a := range areas {
		a.Each(func(at xattr.Attr) bool {
			at.Name = append([]byte(nil), at.Name...)
			at.Value = append([]byte(nil), at.Value...)
			attrs = append(attrs, at)
			return true
		})
	}
	return attrs, nil
}

// placeXattrs divides attributes into those in the inode, as many as fit, and
// the others.
func (fs *FS) placeXattrs(in *inode, attrs []xattr.Attr) (inside, outside []xattr.Attr, err error) {
	if attrs, err = fs.withInlineTail(in, attrs); err != nil {
		return nil, nil, err
	}
	room := 0
	if in.ExtraIsize > 0 {
		room = xattr.InodeRoom(int(fs.geo.InodeSize), in.ExtraIsize)
	}
	inside, outside = xattr.Split(attrs, room)
	if in.inline() && (len(inside) == 0 || !isInlineAttr(&inside[0])) {
		err = disk.Corruptf(disk.InodeName(uint32(in.ino)), "has no room for its inline data")
	}
	if in.IsSymlink() && !in.hasBlockMap() && len(outside) == 0 {
		// Without an attribute block e2fsck takes what values count to the link
		// for blocks of its target, which is in the inode.
		for i := range inside {
			if inside[i].Ino != 0 {
				return slices.Concat(inside[:i], inside[i+1:]), inside[i : i+1], err
			}
		}
	}
	return inside, outside, err
}

func (fs *FS) fitsXattrBlock(attrs []xattr.Attr) bool {
	return xattr.Fit(attrs, xattr.BlockRoom(int(fs.geo.BlockSize))) == len(attrs)
}

// putXattrs stores attributes: in the inode as many as fit, the rest in a block.
// With ENOSPC nothing has changed. The caller stores the inode, and deletes the
// values that have no reference any longer.
func (fs *FS) putXattrs(tx *journal.Handle, in *inode, attrs []xattr.Attr) (gone []Ino, err error) {
	inside, outside, err := fs.placeXattrs(in, attrs)
	if err != nil {
		return nil, err
	}
	if !fs.fitsXattrBlock(outside) {
		return nil, fmt.Errorf("inode %d has no room for its attributes: %w", in.ino, syscall.ENOSPC)
	}
	areas, err := fs.xattrAreas(in)
	if err != nil {
		return nil, err
	}
	refs := valueRefs{}
	oldIn, oldOut := areas[0].All(), areas[1].All()
	values := fs.valueBlocks(inside) + fs.valueBlocks(outside) - fs.valueBlocks(oldIn) - fs.valueBlocks(oldOut)
	refs.count(oldIn, -1)
	refs.count(inside, 1)
	if !slices.EqualFunc(outside, oldOut, sameXattr) {
		if err := fs.putXattrBlock(tx, in, outside, oldOut, refs); err != nil {
			return nil, err
		}
	}
	if err := fs.editInodeXattrs(tx, in, inside); err != nil {
		return nil, err
	}
	if len(inside)+len(outside) > 0 {
		if err := fs.markXattrs(tx); err != nil {
			return nil, err
		}
	}
	if err := fs.addBlocks(in, values); err != nil {
		return nil, err
	}
	return fs.countValues(tx, in, refs)
}

// editInodeXattrs stores attributes in the inode table. It takes the credit of the inode.
func (fs *FS) editInodeXattrs(tx *journal.Handle, in *inode, attrs []xattr.Attr) error {
	in.bare.Store(false)
	return fs.editInode(tx, in, func(raw []byte) {
		xattr.EncodeInode(raw, in.ExtraIsize, attrs)
		in.bare.Store(!xattr.InInode(raw, in.ExtraIsize))
	})
}

// markXattrs gives the filesystem the feature ext_attr, without which e2fsck takes
// attribute blocks for mistakes.
func (fs *FS) markXattrs(tx *journal.Handle) error {
	if fs.sb.Compat&disk.CompatExtAttr != 0 || fs.w.hasXattrs.Load() {
		return nil
	}
	err := fs.editSuper(tx, func(sb *disk.Superblock) { sb.Compat |= disk.CompatExtAttr })
	if err == nil {
		fs.w.hasXattrs.Store(true)
	}
	return err
}

func sameXattr(a, b xattr.Attr) bool {
	return a.Index == b.Index && a.Ino == b.Ino && a.Size == b.Size && bytes.Equal(a.Name, b.Name) && bytes.Equal(a.Value, b.Value)
}

// sharesXattrs tells whether other inodes have the same attribute block.
func (fs *FS) sharesXattrs(in *inode) (bool, error) {
	if in.FileACL == 0 {
		return false, nil
	}
	b, err := fs.blks.ReadPinned(in.FileACL, xattrTag, fs.xattrCheck(in.FileACL))
	if err != nil {
		return false, err
	}
	defer b.Unpin()
	fs.w.sharedXattrs.Lock()
	defer fs.w.sharedXattrs.Unlock()
	return disk.DecodeXattrHeader(b.Data).RefCount > 1, nil
}

// putXattrBlock stores the attributes that do not fit into the inode.
// refs takes up what becomes of the references in the block, which had the
// attributes old.
func (fs *FS) putXattrBlock(tx *journal.Handle, in *inode, attrs, old []xattr.Attr, refs valueRefs) error {
	if len(attrs) == 0 {
		return fs.dropXattrBlock(tx, in, refs)
	}
	if in.FileACL != 0 {
		shared, err := fs.sharesXattrs(in)
		if err != nil {
			return err
		}
		if !shared {
			b, err := fs.blks.ReadPinned(in.FileACL, xattrTag, fs.xattrCheck(in.FileACL))
			if err != nil {
				return err
			}
			defer b.Unpin()
			if err := tx.Modify(b); err != nil {
				return err
			}
			refs.count(old, -1)
			refs.count(attrs, 1)
			xattr.EncodeBlock(b.Data, attrs)
			xattr.SealBlock(&fs.sums, b.Block, b.Data)
			return nil
		}
	}
	if _, err := fs.afford(in, fs.perCluster(), 0); err != nil {
		return err
	}
	goal, _ := fs.goal(in, 0)
	run, err := fs.w.groups.Allocate(tx, balloc.Request{Goal: goal, Want: 1, Metadata: true, Root: fs.privileged(&in.Inode)})
	if err != nil {
		return err
	}
	refs.count(attrs, 1)
	if err := fs.dropXattrBlock(tx, in, refs); err != nil {
		return err
	}
	b, err := tx.New(run.Start, xattrTag)
	if err != nil {
		return err
	}
	xattr.EncodeBlock(b.Data, attrs)
	xattr.SealBlock(&fs.sums, b.Block, b.Data)
	in.FileACL = run.Start
	return fs.addBlocks(in, int64(run.Len))
}

// dropXattrBlock takes an inode's reference to its attribute block back, and
// frees the block with the last one, which takes back the references in it.
func (fs *FS) dropXattrBlock(tx *journal.Handle, in *inode, refs valueRefs) error {
	if in.FileACL == 0 {
		return nil
	}
	areas, err := fs.xattrAreas(in)
	if err != nil {
		return err
	}
	b, err := fs.blks.ReadPinned(in.FileACL, xattrTag, fs.xattrCheck(in.FileACL))
	if err != nil {
		return err
	}
	defer b.Unpin()
	fs.w.sharedXattrs.Lock()
	defer fs.w.sharedXattrs.Unlock()
	if n := disk.DecodeXattrHeader(b.Data).RefCount; n > 1 {
		if err := tx.Modify(b); err != nil {
			return err
		}
		xattr.SetRefCount(b.Data, n-1)
		xattr.SealBlock(&fs.sums, b.Block, b.Data)
	} else {
		refs.count(areas[1].All(), -1)
		if err := fs.freeMeta(tx, in.FileACL); err != nil {
			return err
		}
	}
	in.FileACL = 0
	return fs.addBlocks(in, -int64(fs.perCluster()))
}
