package ext4

import (
	"fmt"
	"math"
	"syscall"

	"ext4box/ext4/internal/disk"
)

// NotExt4Error says that there is no ext2, ext3 or ext4 filesystem where one
// was looked for. It unwraps to EINVAL, as mount(2) has it.
type NotExt4Error struct {
	Offset int64  // where the superblock was expected
	Found  string // what is there instead, if recognised
}

func (e *NotExt4Error) Error() string {
	s := "not an ext2, ext3 or ext4 filesystem"
	if e.Found != "" {
		return s + " but " + e.Found
	}
	return fmt.Sprintf("%s: no superblock at offset %d (for a partition give its number as in IMAGE@p1, or offset=; for a copy of a broken superblock, sb=)", s, e.Offset)
}

// Unwrap makes errors.Is(err, syscall.EINVAL) true.
func (e *NotExt4Error) Unwrap() error { return syscall.EINVAL }

// TruncatedError says that the image is shorter than its filesystem. It
// unwraps to EINVAL.
type TruncatedError struct {
	Want, Have int64 // bytes
}

func (e *TruncatedError) Error() string {
	return fmt.Sprintf("the image is truncated: the filesystem needs %d bytes and the image has %d; get a complete copy", e.Want, e.Have)
}

// Unwrap makes errors.Is(err, syscall.EINVAL) true.
func (e *TruncatedError) Unwrap() error { return syscall.EINVAL }

// readSuperblock reads and validates the superblock through fs.dev.
func (fs *FS) readSuperblock() error {
	off := int64(disk.SuperblockOffset)
	if fs.opts.Superblock < 0 {
		return fmt.Errorf("superblock location sb=%d is negative: %w", fs.opts.Superblock, syscall.EINVAL)
	}
	if fs.opts.Superblock > 0 {
		off = min(fs.opts.Superblock, math.MaxInt64/1024) * 1024
	}
	raw := make([]byte, disk.SuperblockSize)
	if off > fs.dev.Size()-disk.SuperblockSize {
		return &NotExt4Error{Offset: off, Found: fmt.Sprintf("only %d bytes long", fs.dev.Size())}
	}
	if err := readFull(fs.dev, raw, off); err != nil {
		return fmt.Errorf("read superblock: %w", err)
	}
	sb := disk.DecodeSuperblock(raw)
	if sb.Magic != disk.SuperMagic {
		return &NotExt4Error{Offset: off, Found: fs.recognise()}
	}
	if bad := sb.Incompat &^ disk.IncompatReadable; bad != 0 {
		if bad&disk.IncompatJournalDev != 0 {
			return &NotExt4Error{Offset: off, Found: "the external journal of one; mount the filesystem itself and name this device with journal_path="}
		}
		return &disk.FeatureError{Names: bad.Names()}
	}
	if sb.ROCompat&disk.ROCompatMetadataCsum != 0 {
		if sb.ChecksumType != 1 {
			return disk.Corruptf("superblock", "checksum type %d is unknown", sb.ChecksumType)
		}
		if sum := disk.SuperblockChecksum(raw); sum != sb.Checksum {
			return disk.Corruptf("superblock", "checksum is %#x instead of %#x; a backup can be used with sb=32768 (or sb=8193 with blocks of 1 KiB)", sb.Checksum, sum)
		}
	}
	if sb.Incompat&disk.IncompatCasefold != 0 && sb.Encoding != 1 {
		return &disk.FeatureError{Names: []string{fmt.Sprintf("casefold with encoding %d", sb.Encoding)}}
	}
	geo, err := sb.Geometry()
	if err != nil {
		return err
	}
	if have := fs.dev.Size(); geo.BlocksCount > uint64(have)>>geo.BlockBits {
		want := min(geo.BlocksCount, math.MaxInt64>>geo.BlockBits)
		return &TruncatedError{Want: int64(want << geo.BlockBits), Have: have}
	}
	fs.sb, fs.geo = sb, geo
	fs.superBlock = uint64(off) >> geo.BlockBits
	return nil
}

// recognise names a few other things that people try to mount.
func (fs *FS) recognise() string {
	signs := []struct {
		off   int64
		magic string
		name  string
	}{
		{510, "\x55\xAA", "a partitioned disk; give the partition as in IMAGE@p1"},
		{0, "XFSB", "XFS"},
		{0, "hsqs", "SquashFS"},
		{1024, "\xE2\xE1\xF5\xE0", "EROFS"},
		{0x10040, "_BHRfS_M", "Btrfs"},
		{0, "LUKS\xBA\xBE", "an encrypted LUKS container"},
		{0, "QFI\xFB", "a QCOW2 image; convert it with qemu-img convert -O raw"},
		{0, "KDMV", "a VMDK image; convert it with qemu-img convert -O raw"},
		{0, "\x1F\x8B", "gzip-compressed data; decompress it first"},
		{0, "\xFD7zXZ\x00", "xz-compressed data; decompress it first"},
		{0, "\x28\xB5\x2F\xFD", "zstd-compressed data; decompress it first"},
	}
	for _, s := range signs {
		b := make([]byte, len(s.magic))
		if n, _ := fs.dev.ReadAt(b, s.off); n == len(b) && string(b) == s.magic {
			return s.name
		}
	}
	return ""
}

// group returns the checked descriptor of a group, which must exist, for use of
// what it points to.
func (fs *FS) group(group uint32) (disk.GroupDesc, error) {
	d, err := fs.readGroup(group)
	if err == nil && fs.zones != nil {
		err = fs.zones.Note(group, &d)
		fs.recallStrays()
	}
	return d, err
}

// maxTables is of how many groups the place of the inode table is remembered: 8 bytes
// each, for 16 TiB with blocks of 4 KiB.
const maxTables = 1 << 17

// inodeTable is the first block of a group's inode table, which does not move while the
// filesystem is open.
func (fs *FS) inodeTable(group uint32) (uint64, error) {
	known := int(group) < len(fs.tables)
	if known {
		if blk := fs.tables[group].Load(); blk != 0 {
			return blk, nil
		}
	}
	desc, err := fs.group(group)
	if err == nil && known {
		fs.tables[group].Store(desc.InodeTable)
	}
	return desc.InodeTable, err
}

// readGroup returns the checked descriptor of a group.
func (fs *FS) readGroup(group uint32) (disk.GroupDesc, error) {
	blk := fs.geo.DescBlock(fs.superBlock, group/fs.geo.DescPerBlock)
	b, err := fs.blks.Read(blk, groupDescTag, noCheck)
	if err != nil {
		return disk.GroupDesc{}, err
	}
	off := group % fs.geo.DescPerBlock * fs.geo.DescSize
	b.RLock() // an allocation may be about to change it
	defer b.RUnlock()
	desc, err := fs.decodeGroup(group, b.Data[off:off+fs.geo.DescSize])
	if err != nil {
		fs.found("group_descriptor", 0, blk, err)
	}
	return desc, err
}

// decodeGroup reads a descriptor and checks it, checksum first.
func (fs *FS) decodeGroup(group uint32, raw []byte) (disk.GroupDesc, error) {
	d := disk.DecodeGroupDesc(raw)
	if fs.sums.Metadata || fs.sums.GDT {
		if sum := fs.sums.GroupDesc(group, raw); sum != d.Checksum {
			return d, disk.Corruptf(fmt.Sprintf("group %d descriptor", group), "checksum is %#x instead of %#x", d.Checksum, sum)
		}
	}
	return d, d.Check(&fs.geo, group, fs.sb.Incompat&disk.IncompatFlexBG != 0)
}
