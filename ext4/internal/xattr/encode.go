package xattr

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"slices"

	"ext4box/ext4/internal/disk"
)

// entrySize is the length of an entry with its name.
func entrySize(at *Attr) int { return (disk.XattrEntrySize + len(at.Name) + 3) &^ 3 }

// valueSize is the room that a value takes in its area.
func valueSize(at *Attr) int {
	if at.Ino != 0 {
		return 0
	}
	return (len(at.Value) + 3) &^ 3
}

// Size is the room that an attribute takes in an area, in bytes.
func Size(at *Attr) int { return entrySize(at) + valueSize(at) }

// ListEnd is the room that the end of the list takes in an area.
const ListEnd = 4

// Fit returns how many of the first attributes fit into an area of so many
// bytes behind its header.
func Fit(attrs []Attr, room int) int {
	left := room - ListEnd
	for i := range attrs {
		if left -= Size(&attrs[i]); left < 0 {
			return i
		}
	}
	return len(attrs)
}

// Split divides attributes into those that go into an area of so many bytes
// behind its header, the first ones having precedence, and the others.
func Split(attrs []Attr, room int) (inside, outside []Attr) {
	left := room - ListEnd
	for i := range attrs {
		if n := Size(&attrs[i]); n <= left {
			left -= n
			inside = append(inside, attrs[i])
		} else {
			outside = append(outside, attrs[i])
		}
	}
	return inside, outside
}

// InodeRoom is the room for attributes behind the fields of an inode.
func InodeRoom(inodeSize int, extraIsize uint16) int {
	return inodeSize - disk.InodeSizeOld - int(extraIsize) - disk.XattrIbodyHeaderSize
}

// BlockRoom is the room for attributes in a block.
func BlockRoom(blockSize int) int { return blockSize - disk.XattrHeaderSize }

// EncodeInode stores the attributes, which must fit, behind the fields of the
// raw inode, in place of those that were there.
func EncodeInode(raw []byte, extraIsize uint16, attrs []Attr) {
	start := disk.InodeSizeOld + int(extraIsize)
	if start+disk.XattrIbodyHeaderSize > len(raw) {
		return
	}
	clear(raw[start:])
	if len(attrs) == 0 {
		return
	}
	binary.LittleEndian.PutUint32(raw[start:], disk.XattrMagic)
	first := start + disk.XattrIbodyHeaderSize
	encode(raw, first, first, attrs, false)
}

// EncodeBlock stores the attributes, which must fit, in block b with one
// reference. The checksum is left to [SealBlock].
func EncodeBlock(b []byte, attrs []Attr) {
	clear(b)
	le := binary.LittleEndian
	le.PutUint32(b[0x0:], disk.XattrMagic)
	le.PutUint32(b[0x4:], 1)
	le.PutUint32(b[0x8:], 1)
	sorted := slices.Clone(attrs)
	slices.SortFunc(sorted, func(x, y Attr) int {
		return cmp.Or(cmp.Compare(x.Index, y.Index), cmp.Compare(len(x.Name), len(y.Name)), bytes.Compare(x.Name, y.Name))
	})
	le.PutUint32(b[0xC:], encode(b, disk.XattrHeaderSize, 0, sorted, true))
}

// SetRefCount changes the number of inodes that share block b.
func SetRefCount(b []byte, n uint32) { binary.LittleEndian.PutUint32(b[0x4:], n) }

// SealBlock stores the checksum of the attribute block b, at device block blk.
func SealBlock(c *disk.Checksums, blk uint64, b []byte) {
	if c.Metadata {
		binary.LittleEndian.PutUint32(b[0x10:], c.XattrBlock(blk, b))
	}
}

// encode writes entries from first on and values from the end down, and returns
// the hash of the area. hashed says whether entries carry hashes.
func encode(b []byte, first, base int, attrs []Attr, hashed bool) (sum uint32) {
	le := binary.LittleEndian
	off, end := first, len(b)
	known := true
	for i := range attrs {
		at := &attrs[i]
		e := b[off:]
		e[0] = byte(len(at.Name))
		e[1] = at.Index
		le.PutUint32(e[4:], at.Ino)
		le.PutUint32(e[8:], at.Size)
		copy(e[disk.XattrEntrySize:], at.Name)
		if at.Ino == 0 && len(at.Value) > 0 {
			end -= valueSize(at)
			copy(b[end:], at.Value)
			le.PutUint16(e[2:], uint16(end-base))
		}
		hash := at.Hash
		if at.Ino == 0 {
			hash = 0
			if hashed {
				hash = entryHash(at.Name, b[end:end+valueSize(at)])
			}
		}
		le.PutUint32(e[12:], hash)
		if hashed {
			known = known && hash != 0
			sum = sum<<16 ^ sum>>16 ^ hash
		}
		off += entrySize(at)
	}
	if !known {
		return 0 // the block is not to be shared
	}
	return sum
}

// entryHash is the hash of an attribute's name and padded value.
func entryHash(name, value []byte) uint32 {
	h := uint32(0)
	for _, c := range name {
		h = h<<5 ^ h>>27 ^ uint32(c)
	}
	for ; len(value) >= 4; value = value[4:] {
		h = h<<16 ^ h>>16 ^ binary.LittleEndian.Uint32(value)
	}
	return h
}

// HashFits tells whether the stored hash of an attribute whose value is beside it
// fits name and value. Some kernels took names as signed characters.
func HashFits(at *Attr) bool {
	padded := append(append(make([]byte, 0, len(at.Value)+3), at.Value...), 0, 0, 0)
	padded = padded[:len(padded)&^3]
	h := uint32(0)
	for _, c := range at.Name {
		h = h<<5 ^ h>>27 ^ uint32(int32(int8(c)))
	}
	for v := padded; len(v) >= 4; v = v[4:] {
		h = h<<16 ^ h>>16 ^ binary.LittleEndian.Uint32(v)
	}
	return at.Hash == h || at.Hash == entryHash(at.Name, padded)
}

// ValueHash is the hash of an attribute whose value is in another inode and has
// that checksum.
func ValueHash(name []byte, sum uint32) uint32 {
	return entryHash(name, binary.LittleEndian.AppendUint32(nil, sum))
}

// ACLToDisk converts an ACL from the format of setxattr(2) to the disk's. ok is
// false if it is malformed.
func ACLToDisk(wire []byte) (stored []byte, ok bool) {
	le := binary.LittleEndian
	if len(wire) < aclHeader || (len(wire)-aclHeader)%aclLong != 0 || le.Uint32(wire) != aclWireVersion {
		return nil, false
	}
	stored = le.AppendUint32(nil, aclDiskVersion)
	for b := wire[aclHeader:]; len(b) > 0; b = b[aclLong:] {
		stored = append(stored, b[:aclShort]...)
		switch le.Uint16(b) {
		case aclUserObj, aclGroupObj, aclMask, aclOther:
		case aclUser, aclGroup:
			stored = append(stored, b[aclShort:aclLong]...)
		default:
			return nil, false
		}
	}
	return stored, true
}

// InheritACL derives, from the default ACL of a directory and the mode asked
// for, the ACL and the permission bits of a new inode in it. minimal says that
// the bits express the ACL, so that it need not be stored. All ACLs are in the
// disk's format.
func InheritACL(stored []byte, mode uint16) (acl []byte, newMode uint16, minimal, ok bool) {
	le := binary.LittleEndian
	acl = bytes.Clone(stored)
	newMode, minimal = mode, true
	var groupObj, mask []byte
	if len(acl) < aclHeader || le.Uint32(acl) != aclDiskVersion {
		return nil, mode, false, false
	}
	for b := acl[aclHeader:]; len(b) > 0; {
		size := aclShort
		if tag := tagOf(b); tag == aclUser || tag == aclGroup {
			size = aclLong
		}
		if len(b) < size {
			return nil, mode, false, false
		}
		perm := b[2:4]
		switch tagOf(b) {
		case aclUserObj:
			p := le.Uint16(perm) & (mode >> 6 & 7)
			le.PutUint16(perm, p)
			newMode = newMode&^0o700 | p<<6
		case aclOther:
			p := le.Uint16(perm) & (mode & 7)
			le.PutUint16(perm, p)
			newMode = newMode&^0o007 | p
		case aclGroupObj:
			groupObj = perm
		case aclMask:
			mask, minimal = perm, false
		case aclUser, aclGroup:
			minimal = false
		default:
			return nil, mode, false, false
		}
		b = b[size:]
	}
	of := mask
	if of == nil {
		of = groupObj
	}
	if of == nil {
		return nil, mode, false, false
	}
	p := le.Uint16(of) & (mode >> 3 & 7)
	le.PutUint16(of, p)
	newMode = newMode&^0o070 | p<<3
	return acl, newMode, minimal, true
}

func tagOf(b []byte) uint16 {
	if len(b) < aclShort {
		return 0
	}
	return binary.LittleEndian.Uint16(b)
}

// ACLMode folds an access ACL, in the disk's format, into permission bits. exact
// says that the bits express all of it. ok is false if it is malformed.
func ACLMode(stored []byte, mode uint16) (newMode uint16, exact, ok bool) {
	// What a new inode with all bits would inherit is the ACL itself.
	_, bits, minimal, ok := InheritACL(stored, 0o777)
	return mode&^0o777 | bits&0o777, minimal, ok
}

// ChmodACL changes a stored access ACL in place as chmod(2) does: owner, others,
// and the mask or, without one, the group get the bits of mode. ok is false if
// the ACL is malformed.
func ChmodACL(acl []byte, mode uint16) (ok bool) {
	le := binary.LittleEndian
	var groupObj, mask []byte
	if len(acl) < aclHeader || le.Uint32(acl) != aclDiskVersion {
		return false
	}
	for b := acl[aclHeader:]; len(b) > 0; {
		size := aclShort
		if tag := tagOf(b); tag == aclUser || tag == aclGroup {
			size = aclLong
		}
		if len(b) < size {
			return false
		}
		switch perm := b[2:4]; tagOf(b) {
		case aclUserObj:
			le.PutUint16(perm, mode>>6&7)
		case aclOther:
			le.PutUint16(perm, mode&7)
		case aclGroupObj:
			groupObj = perm
		case aclMask:
			mask = perm
		}
		b = b[size:]
	}
	if mask == nil {
		mask = groupObj
	}
	if mask == nil {
		return false
	}
	le.PutUint16(mask, mode>>3&7)
	return true
}
