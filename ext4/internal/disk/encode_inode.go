package disk

import "encoding/binary"

// EncodeTime is the inverse of [DecodeTime]. Seconds that the format cannot
// hold are moved to the nearest that it can: 34 bits with the extra word, 31 and
// a sign without.
func EncodeTime(t Timestamp, hasExtra bool) (secs, extra uint32) {
	lo, hi := int64(-1)<<31, int64(1)<<31-1
	if hasExtra {
		hi = lo + 1<<34 - 1
	}
	sec := min(max(t.Sec, lo), hi)
	if hasExtra {
		extra = uint32((sec-int64(int32(sec)))>>32)&3 | t.Nsec<<2
	}
	return uint32(sec), extra
}

// EncodeInode stores in into b, the raw inode, which keeps what an Inode does
// not have: unknown fields, attributes, and the deletion time, which doubles as
// the link of the orphan list and is set by [SetInodeDtime]. The checksum is
// left to [SealInode].
func EncodeInode(b []byte, in *Inode, hurd bool) {
	_ = b[InodeSizeOld-1]
	le := binary.LittleEndian
	p16 := func(off int, v uint16) { le.PutUint16(b[off:], v) }
	p32 := func(off int, v uint32) { le.PutUint32(b[off:], v) }

	p16(0x00, in.Mode)
	p16(0x02, uint16(in.UID))
	p32(0x04, uint32(in.Size))
	p16(0x18, uint16(in.GID))
	p16(0x1A, in.Links)
	p32(0x1C, uint32(in.Blocks))
	p32(0x20, uint32(in.Flags))
	p32(0x24, uint32(in.Version))
	copy(b[0x28:], in.Block[:])
	p32(0x64, in.Generation)
	p32(0x68, uint32(in.FileACL))
	p32(0x6C, uint32(in.Size>>32))
	if !hurd {
		p16(0x74, uint16(in.Blocks>>32))
		p16(0x76, uint16(in.FileACL>>32))
		p16(0x78, uint16(in.UID>>16))
		p16(0x7A, uint16(in.GID>>16))
	}

	end := InodeSizeOld
	if len(b) > InodeSizeOld {
		p16(0x80, in.ExtraIsize)
		end = min(InodeSizeOld+int(in.ExtraIsize), len(b), inodeExtraMax)
	}
	times := [...]struct {
		t           Timestamp
		base, extra int
	}{{in.Ctime, 0x0C, 0x84}, {in.Mtime, 0x10, 0x88}, {in.Atime, 0x08, 0x8C}, {in.Crtime, 0x90, 0x94}}
	for _, f := range times {
		if f.base >= InodeSizeOld && f.base+4 > end {
			continue
		}
		hasExtra := f.extra+4 <= end
		secs, extra := EncodeTime(f.t, hasExtra)
		p32(f.base, secs)
		if hasExtra {
			p32(f.extra, extra)
		}
	}
	if 0x98+4 <= end {
		p32(0x98, uint32(in.Version>>32))
	}
	if 0x9C+4 <= end {
		p32(0x9C, in.ProjectID)
	}
}

// SetInodeDtime stores the deletion time, or the next inode of the orphan list,
// in the raw inode b.
func SetInodeDtime(b []byte, v uint32) { binary.LittleEndian.PutUint32(b[0x14:], v) }

// SealInode stores the checksum of the raw inode b. seed is the inode's own.
func SealInode(seed uint32, b []byte) {
	hi := len(b) > InodeSizeOld && binary.LittleEndian.Uint16(b[0x80:]) >= 4
	sum := InodeChecksum(seed, b, hi)
	binary.LittleEndian.PutUint16(b[0x7C:], uint16(sum))
	if hi {
		binary.LittleEndian.PutUint16(b[0x82:], uint16(sum>>16))
	}
}

// SetRdev stores a device number in the block area of a device inode, in the
// old form where that can express it.
func (in *Inode) SetRdev(major, minor uint32) {
	clear(in.Block[:])
	if major < 256 && minor < 256 {
		binary.LittleEndian.PutUint32(in.Block[0:], major<<8|minor)
		return
	}
	binary.LittleEndian.PutUint32(in.Block[4:], minor&0xFF|major<<8|minor&^0xFF<<12)
}

// SetSectors is the inverse of [Inode.Sectors]. ok is false if the count is
// larger than the format can hold.
func (in *Inode) SetSectors(sectors uint64, hugeFile bool, blockBits uint) (ok bool) {
	in.Flags &^= FlagHugeFile
	switch {
	case sectors < 1<<32:
	case !hugeFile:
		return false
	case sectors < 1<<48:
	default:
		in.Flags |= FlagHugeFile
		sectors >>= blockBits - 9
	}
	in.Blocks = sectors
	return sectors < 1<<48
}
