package ext4

import (
	"errors"
	"fmt"
	"syscall"

	"ext4box/ext4/internal/balloc"
	"ext4box/ext4/internal/buffer"
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
	// bitmap and descriptor.
	creditsSetXattrs = 1 + 3 + 3
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
	index, rest, err := parseXattrName(name)
	switch {
	case err != nil:
		return err
	case len(rest) > disk.NameMax:
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
	if in.Flags&(disk.FlagImmutable|disk.FlagAppend) != 0 {
		return syscall.EPERM
	}
	if index == disk.XattrACLDefault && !in.IsDir() {
		return syscall.EACCES
	}
	return fs.editXattrs(in, func(attrs []xattr.Attr) ([]xattr.Attr, error) {
		i := findXattr(attrs, index, rest)
		switch {
		case i >= 0 && flags&XattrCreate != 0:
			return nil, syscall.EEXIST
		case i < 0 && flags&XattrReplace != 0:
			return nil, syscall.ENODATA
		case len(value) > int(fs.geo.BlockSize):
			return nil, syscall.ENOSPC
		}
		if index == disk.XattrACLAccess {
			mode, exact, ok := xattr.ACLMode(value, in.Mode)
			if !ok {
				return nil, syscall.EINVAL
			}
			in.Mode = mode
			if exact {
				if i >= 0 {
					attrs = append(attrs[:i], attrs[i+1:]...)
				}
				return attrs, nil
			}
		}
		at := xattr.Attr{Index: index, Name: []byte(rest), Value: value, Size: uint32(len(value))}
		if i < 0 {
			return append(attrs, at), nil
		}
		attrs[i] = at
		return attrs, nil
	})
}

// Removexattr removes an extended attribute. ENODATA: there is none, and it is
// no ACL.
func (fs *FS) Removexattr(ino Ino, name string) error {
	index, rest, err := parseXattrName(name)
	if err != nil {
		return err
	}
	in, err := fs.wlock(ino)
	if err != nil {
		return err
	}
	defer in.wunlock()
	if in.Flags&(disk.FlagImmutable|disk.FlagAppend) != 0 {
		return syscall.EPERM
	}
	err = fs.editXattrs(in, func(attrs []xattr.Attr) ([]xattr.Attr, error) {
		i := findXattr(attrs, index, rest)
		if i < 0 {
			return nil, syscall.ENODATA
		}
		return append(attrs[:i], attrs[i+1:]...), nil
	})
	if isACL(index) && errors.Is(err, syscall.ENODATA) {
		return nil // a file without ACL has one, its mode, which stays
	}
	return err
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
// makes of them, in one transaction.
func (fs *FS) editXattrs(in *inode, edit func([]xattr.Attr) ([]xattr.Attr, error)) error {
	attrs, err := fs.allXattrs(in)
	if err != nil {
		return err
	}
	mode := in.Mode
	if attrs, err = edit(attrs); err != nil {
		return err
	}
	err = fs.retrying(func() error {
		return fs.transact(creditsSetXattrs, 1, func(tx *journal.Handle) error {
			if err := fs.putXattrs(tx, in, attrs); err != nil {
				return err
			}
			in.touch(false)
			return fs.store(tx, in)
		})
	})
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

// putXattrs stores attributes: in the inode as many as fit, the rest in a block.
// With ENOSPC nothing has changed. The caller stores the inode.
func (fs *FS) putXattrs(tx *journal.Handle, in *inode, attrs []xattr.Attr) error {
	attrs, err := fs.withInlineTail(in, attrs)
	if err != nil {
		return err
	}
	room := 0
	if in.ExtraIsize > 0 {
		room = xattr.InodeRoom(int(fs.geo.InodeSize), in.ExtraIsize)
	}
	inside, outside := xattr.Split(attrs, room)
	if xattr.Fit(outside, xattr.BlockRoom(int(fs.geo.BlockSize))) < len(outside) {
		return fmt.Errorf("inode %d has no room for its attributes: %w", in.ino, syscall.ENOSPC)
	}
	if in.inline() && (len(inside) == 0 || !isInlineAttr(&inside[0])) {
		return disk.Corruptf(disk.InodeName(uint32(in.ino)), "has no room for its inline data")
	}
	if err := fs.putXattrBlock(tx, in, outside); err != nil {
		return err
	}
	return fs.editRaw(tx, in.ino, in.seed, func(raw []byte) { xattr.EncodeInode(raw, in.ExtraIsize, inside) })
}

// putXattrBlock stores the attributes that do not fit into the inode.
func (fs *FS) putXattrBlock(tx *journal.Handle, in *inode, attrs []xattr.Attr) error {
	if len(attrs) == 0 {
		return fs.dropXattrBlock(tx, in)
	}
	tag := buffer.Tag{Kind: buffer.Xattr}
	if in.FileACL != 0 {
		b, err := fs.blks.ReadPinned(in.FileACL, tag, noCheck) // has been checked by xattrAreas
		if err != nil {
			return err
		}
		defer b.Unpin()
		fs.w.sharedXattrs.Lock()
		alone := disk.DecodeXattrHeader(b.Data).RefCount <= 1
		fs.w.sharedXattrs.Unlock()
		if alone {
			if err := tx.Modify(b); err != nil {
				return err
			}
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
	if err := fs.dropXattrBlock(tx, in); err != nil {
		return err
	}
	b, err := tx.New(run.Start, tag)
	if err != nil {
		return err
	}
	xattr.EncodeBlock(b.Data, attrs)
	xattr.SealBlock(&fs.sums, b.Block, b.Data)
	in.FileACL = run.Start
	return fs.addBlocks(in, int64(run.Len))
}

// dropXattrBlock takes an inode's reference to its attribute block back, and
// frees the block with the last one.
func (fs *FS) dropXattrBlock(tx *journal.Handle, in *inode) error {
	if in.FileACL == 0 {
		return nil
	}
	if _, err := fs.xattrAreas(in); err != nil { // checks the block
		return err
	}
	b, err := fs.blks.ReadPinned(in.FileACL, buffer.Tag{Kind: buffer.Xattr}, noCheck)
	if err != nil {
		return err
	}
	defer b.Unpin()
	fs.w.sharedXattrs.Lock()
	defer fs.w.sharedXattrs.Unlock()
	if refs := disk.DecodeXattrHeader(b.Data).RefCount; refs > 1 {
		if err := tx.Modify(b); err != nil {
			return err
		}
		xattr.SetRefCount(b.Data, refs-1)
		xattr.SealBlock(&fs.sums, b.Block, b.Data)
	} else if err := fs.freeMeta(tx, in.FileACL); err != nil {
		return err
	}
	in.FileACL = 0
	return fs.addBlocks(in, -int64(fs.perCluster()))
}
