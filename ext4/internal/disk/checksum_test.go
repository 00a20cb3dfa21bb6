package disk_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"

	"ext4box/ext4/internal/disk"
	"ext4box/ext4/internal/disktest"
	"ext4box/internal/e2test"
	"ext4box/internal/testimage"
)

func TestCRCCheckValues(t *testing.T) {
	check := []byte("123456789")
	if got := disk.CRC32C(^uint32(0), check) ^ 0xFFFFFFFF; got != 0xE3069283 {
		t.Errorf("CRC-32C is %#x", got)
	}
	if got := disk.CRC16(0, check); got != 0xBB3D {
		t.Errorf("CRC-16 is %#x", got)
	}
	le := binary.LittleEndian
	for _, v := range []uint64{0, 1, 0x0123456789ABCDEF, ^uint64(0)} {
		if disk.CRC32CUint64(7, v) != disk.CRC32C(7, le.AppendUint64(nil, v)) ||
			disk.CRC32CUint32(7, uint32(v)) != disk.CRC32C(7, le.AppendUint32(nil, uint32(v))) {
			t.Errorf("CRC-32C of the number %#x is not that of its bytes", v)
		}
	}
}

// TestChecksumsOfRealImages computes every checksum that mke2fs, debugfs and
// e2fsck stored, and sees that changes are noticed.
func TestChecksumsOfRealImages(t *testing.T) {
	for _, c := range []shape{
		{"metadata_csum", 32 * mib, []string{"-t", "ext4", "-b", "1024", "-O", "orphan_file"}},
		{"metadata_csum 4k", 32 * mib, []string{"-t", "ext4", "-b", "4096", "-O", "orphan_file"}},
		{"metadata_csum_seed", 32 * mib, []string{"-t", "ext4", "-b", "1024", "-O", "orphan_file,metadata_csum_seed"}},
		{"metadata_csum 32bit", 32 * mib, []string{"-t", "ext4", "-b", "1024", "-O", "orphan_file,^64bit"}},
		{"metadata_csum bigalloc", 32 * mib, []string{"-t", "ext4", "-b", "1024", "-C", "8192", "-O", "orphan_file,bigalloc"}},
		{"metadata_csum old inodes", 32 * mib, []string{"-t", "ext4", "-b", "1024", "-I", "128", "-O", "orphan_file"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := e2test.Image(t, c.size, append(c.args, "-d", richTree(t))...)
			e2test.Change(t, path, "write /dev/null fragmented", "ea_set small user.long "+strings.Repeat("v", 600),
				"fallocate fragmented 0 0", "fallocate fragmented 2 2", "fallocate fragmented 4 4", "fallocate fragmented 6 6",
				"fallocate fragmented 20 20", "fallocate fragmented 31 31")
			if err := testimage.Run("e2fsck", "-fyD", path); err != nil {
				t.Fatal(err)
			}
			if c.name == "metadata_csum_seed" {
				// The seed no longer follows from the UUID.
				if err := testimage.Run("tune2fs", "-U", "01234567-89ab-cdef-0123-456789abcdef", path); err != nil {
					t.Fatal(err)
				}
			}
			im := load(t, path)
			if !im.sums.Metadata {
				t.Fatal("no metadata_csum")
			}
			im.superblock()
			im.groups()
			im.inodes()
			im.extentBlock("/fragmented")
			im.directories()
			im.xattrBlock("/small")
			im.orphanFile()
		})
	}
}

func (im *image) superblock() {
	b := e2test.Bytes(im.T, im.path, disk.SuperblockOffset, disk.SuperblockSize)
	flips(im.T, "superblock", b, 0, len(b), func(b []byte) bool {
		return disk.SuperblockChecksum(b) == binary.LittleEndian.Uint32(b[0x3FC:])
	})
}

func (im *image) groups() {
	mask := ^uint32(0)
	if im.g.DescSize < disk.GroupDescSize64 {
		mask = 0xFFFF // the high halves are not stored
	}
	for group := range im.g.Groups {
		d, raw := im.group(group)
		flips(im.T, fmt.Sprintf("group %d descriptor", group), raw, 0, len(raw), func(b []byte) bool {
			return im.sums.GroupDesc(group, b) == disk.DecodeGroupDesc(b).Checksum
		})
		if other := im.sums.GroupDesc(group+1, raw); other == d.Checksum {
			im.Errorf("group %d: the checksum does not depend on the number of the group", group)
		}
		for _, bitmap := range []struct {
			what string
			blk  uint64
			bits uint32
			csum uint32
			skip bool
		}{
			{"block bitmap", d.BlockBitmap, im.g.ClustersPerGroup, d.BlockBitmapCsum, d.Flags&disk.GroupBlockUninit != 0},
			{"inode bitmap", d.InodeBitmap, im.g.InodesPerGroup, d.InodeBitmapCsum, d.Flags&disk.GroupInodeUninit != 0},
		} {
			if bitmap.skip {
				continue
			}
			b := im.block(bitmap.blk)
			flips(im.T, fmt.Sprintf("%s of group %d", bitmap.what, group), b, 0, int(bitmap.bits/8), func(b []byte) bool {
				return im.sums.Bitmap(b, bitmap.bits)&mask == bitmap.csum
			})
		}
	}
	// A hostile count of bits stays inside the bitmap.
	b := im.block(1)
	if im.sums.Bitmap(b, ^uint32(0)) != im.sums.Bitmap(b, 8*uint32(len(b))) {
		im.Error("a bitmap checksum of too many bits is not that of the bitmap")
	}
}

func (im *image) inodes() {
	seen := 0
	for ino := uint32(1); ino <= 600; ino++ {
		in, raw := im.inode(ino)
		if in.Links == 0 {
			continue
		}
		seen++
		accepted := func(b []byte) bool {
			in := disk.DecodeInode(b, false)
			return disk.InodeChecksum(im.sums.InodeSeed(ino, in.Generation), b, in.HasHiCsum) == in.Checksum
		}
		if seen > 20 { // the first ones for each bit, the others as they are
			if !accepted(raw) {
				im.Errorf("inode %d: the checksum of a real image does not match", ino)
			}
			continue
		}
		flips(im.T, fmt.Sprintf("inode %d", ino), raw, 0, len(raw), accepted)
	}
	if seen < 500 {
		im.Errorf("only %d inodes are in use", seen)
	}
}

func (im *image) extentBlock(name string) {
	ino := im.ino(name)
	in, _ := im.inode(ino)
	h := disk.DecodeExtentHeader(in.Block[:])
	if h.Depth != 1 {
		im.Fatalf("%s has an extent tree of depth %d", name, h.Depth)
	}
	if err := disk.CheckExtentNode(name, in.Block[:], 1, im.g.BlocksInRange); err != nil {
		im.Error(err)
	}
	b := im.block(disk.DecodeExtentIndex(in.Block[disk.ExtentHeaderSize:]).Leaf)
	if err := disk.CheckExtentNode(name, b, 0, im.g.BlocksInRange); err != nil {
		im.Error(err)
	}
	if n := disk.DecodeExtentHeader(b).Entries; n < 5 {
		im.Errorf("%s has %d extents", name, n)
	}
	seed := im.seed(ino)
	end := disk.ExtentHeaderSize + disk.ExtentEntrySize*int(disk.DecodeExtentHeader(b).Max)
	flips(im.T, "extent block", b, 0, end+4, func(b []byte) bool {
		stored, computed, ok := disk.ExtentBlockChecksum(seed, b)
		return ok && stored == computed
	})
}

// directories looks at each block of two directories, of which one has an index
// of two levels where blocks are small.
func (im *image) directories() {
	for _, name := range []string{"/linear", "/big"} {
		ino := im.ino(name)
		in, _ := im.inode(ino)
		seed := im.seed(ino)
		indexed := in.Flags&disk.FlagIndex != 0
		if indexed != (name == "/big") {
			im.Fatalf("%s: indexed is %v", name, indexed)
		}
		kinds := map[string]int{}
		for i, blk := range disktest.Blocks(im.T, im.path, name) {
			b := im.block(blk)
			what := fmt.Sprintf("%s block %d", name, i)
			switch {
			case indexed && i == 0:
				kinds["root"]++
				root, node, err := disk.DecodeDxRoot(what, b, 2, true)
				if err != nil || node.Count < 1 || root.HashVersion != disk.HashHalfMD4 {
					im.Fatalf("%s: %v, %+v", what, err, root)
				}
				if im.g.BlockSize == 1024 && root.Levels != 1 {
					im.Errorf("%s: the index has %d levels", what, root.Levels)
				}
				flips(im.T, what, b, 0, 0x20+8*node.Count, func(b []byte) bool { return dxMatches(seed, b, true) })
			case indexed && disk.IsDxNode(b):
				kinds["node"]++
				node, err := disk.DecodeDxNode(what, b, true)
				if err != nil || node.Count < 1 {
					im.Fatalf("%s: %v", what, err)
				}
				flips(im.T, what, b, 0, 8+8*node.Count, func(b []byte) bool { return dxMatches(seed, b, false) })
			default:
				kinds["leaf"]++
				flips(im.T, what, b, 0, len(b), func(b []byte) bool {
					stored, ok := disk.DirTail(b)
					return ok && stored == disk.DirLeafChecksum(seed, b)
				})
			}
		}
		if indexed && (kinds["root"] != 1 || kinds["leaf"] < 40 || im.g.BlockSize == 1024 && kinds["node"] < 2) {
			im.Errorf("%s has blocks %v", name, kinds)
		}
	}
}

func dxMatches(seed uint32, b []byte, root bool) bool {
	stored, computed, ok := disk.DxChecksum(seed, b, root)
	return ok && stored == computed
}

func (im *image) xattrBlock(name string) {
	in, _ := im.inode(im.ino(name))
	if in.FileACL == 0 {
		im.Fatalf("%s has no attribute block", name)
	}
	b := im.block(in.FileACL)
	h := disk.DecodeXattrHeader(b)
	if h.Magic != disk.XattrMagic || h.RefCount != 1 || h.Blocks != 1 {
		im.Errorf("attribute block header is %+v", h)
	}
	flips(im.T, "attribute block", b, 0, len(b), func(b []byte) bool {
		return im.sums.XattrBlock(in.FileACL, b) == disk.DecodeXattrHeader(b).Checksum
	})
	if im.sums.XattrBlock(in.FileACL+1, b) == h.Checksum {
		im.Error("the checksum of an attribute block does not depend on its place")
	}
}

func (im *image) orphanFile() {
	ino := im.sb.OrphanFileIno
	seed := im.seed(ino)
	blocks := disktest.Blocks(im.T, im.path, fmt.Sprintf("<%d>", ino))
	if len(blocks) == 0 {
		im.Fatal("the orphan file has no blocks")
	}
	for _, blk := range blocks {
		b := im.block(blk)
		flips(im.T, fmt.Sprintf("orphan file block %d", blk), b, 0, len(b), func(b []byte) bool {
			return disk.CheckOrphanBlock(&im.sums, seed, blk, b) == nil
		})
	}
}

// TestMMPEqualsDumpe2fs reads a record that debugfs wrote when it opened the
// image for writing.
func TestMMPEqualsDumpe2fs(t *testing.T) {
	path := e2test.Image(t, 8*mib, "-t", "ext4", "-b", "1024", "-O", "mmp", "-E", "mmp_update_interval=9")
	im := load(t, path)
	b := im.block(im.sb.MMPBlock)[:disk.MMPSize]
	m, err := disk.DecodeMMP(&im.sums, b)
	if err != nil {
		t.Fatal(err)
	}
	h := e2test.Dumpe2fs(t, path).Header
	for key, got := range map[string]string{
		"mmp_magic": fmt.Sprintf("0x%x", m.Magic), "mmp_check_interval": fmt.Sprint(m.Interval), "mmp_sequence": fmt.Sprintf("0x%x", m.Seq),
		"mmp_update_time": fmt.Sprint(m.Time), "mmp_node_name": disk.CString(m.NodeName[:]), "mmp_device_name": disk.CString(m.BdevName[:]),
	} {
		if h[key] != got {
			t.Errorf("%s is %q, dumpe2fs says %q", key, got, h[key])
		}
	}
	if m.Seq != disk.MMPSeqClean || m.Interval != 9 {
		t.Errorf("record of a new filesystem: %+v", m)
	}
	flips(t, "mmp", b, 0, len(b), func(b []byte) bool {
		_, err := disk.DecodeMMP(&im.sums, b)
		return err == nil
	})
	b[5] ^= 1
	if _, err := disk.DecodeMMP(&disk.Checksums{}, b); err != nil {
		t.Errorf("a checksum is verified where there is none: %v", err)
	}
	b[0] ^= 1
	if _, err := disk.DecodeMMP(&disk.Checksums{}, b); !errors.Is(err, syscall.EUCLEAN) {
		t.Errorf("bad magic: %v", err)
	}
}

// TestOrphanBlock checks the slots and the magic without checksums.
func TestOrphanBlock(t *testing.T) {
	b := make([]byte, 1024)
	binary.LittleEndian.PutUint32(b[1016:], disk.OrphanMagic)
	binary.LittleEndian.PutUint32(b[4:], 77)
	binary.LittleEndian.PutUint32(b[4*253:], 78)
	if err := disk.CheckOrphanBlock(&disk.Checksums{}, 0, 9, b); err != nil {
		t.Fatal(err)
	}
	var got []uint32
	for i := range disk.OrphanSlots(len(b)) {
		if ino := disk.OrphanSlot(b, i); ino != 0 {
			got = append(got, ino)
		}
	}
	if !slices.Equal(got, []uint32{77, 78}) {
		t.Errorf("slots hold %d", got)
	}
	b[1016]++
	if err := disk.CheckOrphanBlock(&disk.Checksums{}, 0, 9, b); !errors.Is(err, syscall.EUCLEAN) {
		t.Errorf("bad magic: %v", err)
	}
}

// TestGDTChecksumOfUnusualDescriptors checks what the real images do not show.
func TestGDTChecksumOfUnusualDescriptors(t *testing.T) {
	sums := disk.Checksums{GDT: true}
	if got := sums.GroupDesc(0, make([]byte, 8)); got != 0 {
		t.Errorf("checksum of a cut descriptor is %#x", got)
	}
}
