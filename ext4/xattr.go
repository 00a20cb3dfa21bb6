package ext4

import (
	"fmt"
	"syscall"

	"ext4box/ext4/internal/buffer"
	"ext4box/ext4/internal/disk"
	"ext4box/ext4/internal/xattr"
)

// MaxXattr is the longest value that the system calls of Linux take, in bytes.
// The format has room for more.
const MaxXattr = 64 << 10

// Getxattr returns the value of an extended attribute by its full name, such
// as "user.comment". POSIX ACLs come in the format of getxattr(2). Errors:
// ENODATA, EOPNOTSUPP for names that ext4 does not store, E2BIG for a value
// longer than MaxXattr, EUCLEAN.
func (fs *FS) Getxattr(ino Ino, name string) ([]byte, error) {
	in, err := fs.rlock(ino)
	if err != nil {
		return nil, err
	}
	defer in.runlock()
	index, rest, err := parseXattrName(name)
	if err != nil {
		return nil, err
	}
	areas, err := fs.xattrAreas(in)
	if err != nil {
		return nil, err
	}
	for _, a := range areas {
		at, ok := a.Find(index, rest)
		if !ok {
			continue
		}
		value, err := fs.xattrValue(in, &at)
		if err != nil || index != disk.XattrACLAccess && index != disk.XattrACLDefault {
			return value, err
		}
		wire, ok := xattr.ACLToWire(value)
		if !ok {
			return nil, disk.Corruptf(disk.InodeName(uint32(ino)), "%s is malformed", name)
		}
		return wire, nil
	}
	return nil, syscall.ENODATA
}

// parseXattrName splits the full name of an attribute. EOPNOTSUPP: ext4 stores
// none of the kind; EINVAL: there is only the name of the kind.
func parseXattrName(name string) (index uint8, rest string, err error) {
	index, rest, ok := xattr.ParseName(name)
	switch {
	case !ok && index != 0:
		err = syscall.EINVAL
	case !ok:
		err = syscall.EOPNOTSUPP
	}
	return index, rest, err
}

// Listxattr returns the full names of an inode's extended attributes, in the
// order in which they are stored. What is the filesystem's own business, such as
// inline data, is left out; trusted attributes are included.
func (fs *FS) Listxattr(ino Ino) ([]string, error) {
	in, err := fs.rlock(ino)
	if err != nil {
		return nil, err
	}
	defer in.runlock()
	areas, err := fs.xattrAreas(in)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, a := range areas {
		a.Each(func(at xattr.Attr) bool {
			if full, ok := xattr.FullName(at.Index, at.Name); ok {
				names = append(names, full)
			}
			return true
		})
	}
	return names, nil
}

// xattrAreas returns the places that hold an inode's attributes: the inode
// itself and its attribute block.
func (fs *FS) xattrAreas(in *inode) (areas [2]xattr.Area, err error) {
	if areas[0], err = fs.inodeXattrs(in); err != nil || in.FileACL == 0 {
		return areas, err
	}
	b, err := fs.blks.Read(in.FileACL, xattrTag, fs.xattrCheck(in.FileACL))
	if err != nil {
		return areas, fmt.Errorf("inode %d: %w", in.ino, err)
	}
	areas[1] = xattr.Trusted(b.Data)
	return areas, nil
}

var xattrTag = buffer.Tag{Kind: buffer.Xattr}

// xattrCheck verifies an attribute block.
func (fs *FS) xattrCheck(blk uint64) func(b []byte) error {
	return func(b []byte) error {
		what := "attribute " + disk.BlockName(blk)
		if _, err := xattr.Block(what, b); err != nil || !fs.sums.Metadata {
			return err
		}
		stored, sum := disk.DecodeXattrHeader(b).Checksum, fs.sums.XattrBlock(blk, b)
		if stored != sum {
			return disk.Corruptf(what, "checksum is %#x instead of %#x", stored, sum)
		}
		return nil
	}
}

func (fs *FS) inodeXattrs(in *inode) (xattr.Area, error) {
	if in.bare.Load() || in.ExtraIsize == 0 && !in.inline() {
		return xattr.Area{}, nil
	}
	raw, err := fs.rawInode(in.ino)
	if err != nil {
		return xattr.Area{}, err
	}
	return xattr.Inode(disk.InodeName(uint32(in.ino)), raw, in.ExtraIsize)
}

// xattrValue fetches a value that may be in an inode of its own.
func (fs *FS) xattrValue(in *inode, at *xattr.Attr) ([]byte, error) {
	if at.Ino == 0 {
		return append([]byte{}, at.Value...), nil
	}
	if at.Size > MaxXattr {
		return nil, syscall.E2BIG
	}
	ea, err := fs.loadValue(Ino(at.Ino))
	if err != nil {
		return nil, fmt.Errorf("inode %d: %w", in.ino, err)
	}
	what := fmt.Sprintf("attribute value %s of inode %d", disk.InodeName(at.Ino), in.ino)
	switch {
	case ea.size != uint64(at.Size):
		return nil, disk.Corruptf(what, "has %d bytes instead of %d", ea.size, at.Size)
	case ea.size > uint64(fs.geo.BlocksCount)<<fs.geo.BlockBits:
		return nil, disk.Corruptf(what, "is larger than the filesystem")
	}
	value, err := fs.readValue(ea)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	if sum := disk.CRC32C(fs.sums.Seed, value); uint32(ea.Atime.Sec) != sum && !ea.lustre(in) {
		return nil, disk.Corruptf(what, "hash is %#x instead of %#x", uint32(ea.Atime.Sec), sum)
	}
	return value, nil
}

// inlineTail is the part of inline data that is kept as an attribute.
func (fs *FS) inlineTail(in *inode) ([]byte, error) {
	a, err := fs.inodeXattrs(in)
	if err != nil {
		return nil, err
	}
	at, _ := a.Find(disk.XattrSystem, disk.XattrSystemInline)
	return at.Value, nil
}
