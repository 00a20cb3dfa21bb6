package ext4_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"ext4box/blockdev"
	"ext4box/blockdev/blocktest"
	"ext4box/ext4"
	"ext4box/ext4/internal/disk"
	"ext4box/ext4/internal/disktest"
	"ext4box/internal/e2test"
	"ext4box/internal/testimage"
)

const mib = 1 << 20

// load puts an image into memory.
func load(tb testing.TB, path string) *blocktest.Mem {
	tb.Helper()
	dev, err := blocktest.LoadMem(path)
	if err != nil {
		tb.Fatal(err)
	}
	dev.SetReadOnly(true)
	return dev
}

func open(tb testing.TB, dev blockdev.Device, o ext4.Options) *ext4.FS {
	tb.Helper()
	fs, err := ext4.Open(dev, o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := fs.Close(); err != nil {
			tb.Error(err)
		}
	})
	return fs
}

// hostTree is a tree on the host for mke2fs -d.
func hostTree(tb testing.TB) string {
	tb.Helper()
	files := map[string]string{
		"hello": "hello, world\n", "empty": "", "dir/inner/deep": "deep\n", "dir/other": "other", "emptydir/": "",
		"long/" + strings.Repeat("n", 255): "long name", "block": strings.Repeat("b", 4096), "blocks": strings.Repeat("0123456789abcdef", 5000),
	}
	for i := range 400 {
		files[fmt.Sprintf("many/file %04d", i)] = fmt.Sprint(i)
	}
	root := e2test.Tree(tb, files)
	for link, target := range map[string]string{
		"link": "hello", "dir/up": "../hello", "abs": "/dir/inner", "dangling": "nowhere", "loop1": "loop2", "loop2": "loop1", "self": "self",
		"slow": strings.Repeat("/./", 30) + "dir/other", "through": "abs/deep", "dir/root": "/",
	} {
		if err := os.Symlink(target, filepath.Join(root, link)); err != nil {
			tb.Fatal(err)
		}
	}
	prev := "hello" // a chain of 41 links
	for i := range 41 {
		name := fmt.Sprintf("chain%02d", i)
		if err := os.Symlink(prev, filepath.Join(root, name)); err != nil {
			tb.Fatal(err)
		}
		prev = name
	}
	sparse(tb, filepath.Join(root, "sparse"))
	if err := os.Link(filepath.Join(root, "hello"), filepath.Join(root, "dir", "hard")); err != nil {
		tb.Fatal(err)
	}
	return root
}

// sparse makes a file with holes at its beginning, middle and end.
func sparse(tb testing.TB, path string) {
	tb.Helper()
	f, err := os.Create(path)
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	for _, blk := range []int64{2, 3, 4, 9, 40, 41, 100, 300} {
		if _, err := f.WriteAt(bytes.Repeat([]byte{byte(blk)}, 4096), blk*4096); err != nil {
			tb.Fatal(err)
		}
	}
	if err := f.Truncate(400*4096 + 77); err != nil {
		tb.Fatal(err)
	}
}

// errnoOf fails the test if an error has no errno.
func errnoOf(tb testing.TB, err error) syscall.Errno {
	tb.Helper()
	var e syscall.Errno
	if err != nil && !errors.As(err, &e) {
		tb.Errorf("error %q has no errno", err)
	}
	return e
}

// TestOpenRefuses checks the kind and the text of errors that users meet.
func TestOpenRefuses(t *testing.T) {
	image := e2test.Image(t, 4*mib, "-t", "ext4", "-b", "1024", "-O", "^metadata_csum,^has_journal")
	csum := e2test.Image(t, 4*mib, "-t", "ext4", "-b", "1024", "-O", "^has_journal")
	journaled := e2test.Image(t, 4*mib, "-t", "ext4", "-b", "1024")
	journal := e2test.Image(t, 8*mib, "-b", "4096", "-O", "journal_dev")
	patched := func(path string, off int64, b ...byte) func() *blocktest.Mem {
		return func() *blocktest.Mem {
			dev := load(t, path)
			dev.SetReadOnly(false)
			if _, err := dev.WriteAt(b, off); err != nil {
				t.Fatal(err)
			}
			return dev
		}
	}
	zeros := func(size int64, off int64, magic string) func() *blocktest.Mem {
		return func() *blocktest.Mem {
			dev := blocktest.NewMem(size)
			if _, err := dev.WriteAt([]byte(magic), off); err != nil {
				t.Fatal(err)
			}
			return dev
		}
	}
	const sb = disk.SuperblockOffset
	for _, c := range []struct {
		name  string
		dev   func() *blocktest.Mem
		o     ext4.Options
		errno syscall.Errno
		kind  any
		text  string
	}{
		{"zeros", zeros(mib, 0, ""), ext4.Options{}, syscall.EINVAL, new(*ext4.NotExt4Error), "no superblock at offset 1024"},
		{"too short", zeros(1500, 0, ""), ext4.Options{}, syscall.EINVAL, new(*ext4.NotExt4Error), "only 1500 bytes long"},
		{"nothing", zeros(0, 0, ""), ext4.Options{}, syscall.EINVAL, new(*ext4.NotExt4Error), "only 0 bytes long"},
		{"XFS", zeros(mib, 0, "XFSB"), ext4.Options{}, syscall.EINVAL, new(*ext4.NotExt4Error), "but XFS"},
		{"partitioned", zeros(mib, 510, "\x55\xAA"), ext4.Options{}, syscall.EINVAL, new(*ext4.NotExt4Error), "@p1"},
		{"btrfs", zeros(mib, 0x10040, "_BHRfS_M"), ext4.Options{}, syscall.EINVAL, new(*ext4.NotExt4Error), "Btrfs"},
		{"gzip", zeros(mib, 0, "\x1F\x8B"), ext4.Options{}, syscall.EINVAL, new(*ext4.NotExt4Error), "decompress"},
		{"journal device", func() *blocktest.Mem { return load(t, journal) }, ext4.Options{}, syscall.EINVAL, new(*ext4.NotExt4Error), "journal_path="},
		{"truncated", func() *blocktest.Mem { return blocktest.NewOverlay(load(t, image), 3*mib) }, ext4.Options{}, syscall.EINVAL, new(*ext4.TruncatedError), "needs 4194304 bytes and the image has 3145728"},
		{"unknown incompat", patched(image, sb+0x63, 0x80), ext4.Options{}, syscall.EOPNOTSUPP, new(*disk.FeatureError), "FEATURE_I31"},
		{"compression", patched(image, sb+0x60, 0xC3), ext4.Options{}, syscall.EOPNOTSUPP, new(*disk.FeatureError), "compression"},
		{"bad checksum", patched(csum, sb+0x78, 'x'), ext4.Options{}, syscall.EUCLEAN, new(*disk.CorruptError), "sb=8193"},
		{"checksum type", patched(csum, sb+0x175, 2), ext4.Options{}, syscall.EUCLEAN, new(*disk.CorruptError), "checksum type 2"},
		{"geometry", patched(image, sb+0x20, 0, 0, 0, 0), ext4.Options{}, syscall.EUCLEAN, new(*disk.CorruptError), "blocks per group"},
		{"negative superblock", func() *blocktest.Mem { return load(t, image) }, ext4.Options{Superblock: -1}, syscall.EINVAL, nil, "sb=-1"},
		{"journal inside", func() *blocktest.Mem { return load(t, journaled) }, ext4.Options{JournalDevice: blocktest.NewMem(mib)}, syscall.EINVAL, nil, "journal_path="},
		{"user quota", func() *blocktest.Mem { return load(t, image) }, ext4.Options{UserQuota: true}, syscall.EINVAL, nil, "leave usrquota out"},
		{"project quota", func() *blocktest.Mem { return load(t, image) }, ext4.Options{ProjectQuota: true}, syscall.EINVAL, nil, "leave prjquota out"},
		{"superblock elsewhere", func() *blocktest.Mem { return load(t, image) }, ext4.Options{Superblock: 77}, syscall.EINVAL, new(*ext4.NotExt4Error), "offset 78848"},
		{"superblock behind the end", func() *blocktest.Mem { return load(t, image) }, ext4.Options{Superblock: 1 << 30}, syscall.EINVAL, new(*ext4.NotExt4Error), ""},
		{"superblock overflows", func() *blocktest.Mem { return load(t, image) }, ext4.Options{Superblock: 1<<63 - 1}, syscall.EINVAL, nil, ""},
		{"superblock wraps to the primary", func() *blocktest.Mem { return load(t, image) }, ext4.Options{Superblock: 1<<54 + 1}, syscall.EINVAL, nil, ""},
	} {
		fs, err := ext4.Open(c.dev(), c.o)
		switch {
		case err == nil:
			t.Errorf("%s: opened", c.name)
			fs.Close()
			continue
		case errnoOf(t, err) != c.errno:
			t.Errorf("%s: %v is not %v", c.name, err, c.errno)
		case c.kind != nil && !errors.As(err, c.kind):
			t.Errorf("%s: %v is no %T", c.name, err, c.kind)
		}
		if !strings.Contains(err.Error(), c.text) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %q does not say %q", c.name, err, c.text)
		}
	}
	// An unknown read-only feature does not keep anybody from reading.
	fs := open(t, patched(image, sb+0x67, 0x80)(), ext4.Options{})
	if got := fs.Info().ReadOnlyFeatures; len(got) != 1 || got[0] != "FEATURE_R31" {
		t.Errorf("features that forbid writing: %q", got)
	}
}

// TestLargestBlockCount has a superblock whose size in bytes is 2^64.
func TestLargestBlockCount(t *testing.T) {
	raw := make([]byte, disk.SuperblockSize)
	le := binary.LittleEndian
	le.PutUint16(raw[0x38:], disk.SuperMagic)
	le.PutUint32(raw[0x4C:], disk.RevDynamic)
	le.PutUint32(raw[0x18:], 6)
	le.PutUint32(raw[0x1C:], 6)
	le.PutUint32(raw[0x150:], 1<<16) // 2^48 blocks
	le.PutUint32(raw[0x20:], 524288)
	le.PutUint32(raw[0x24:], 524288)
	le.PutUint32(raw[0x28:], 4)
	le.PutUint32(raw[0x00:], 4<<29)
	le.PutUint32(raw[0x54:], 11)
	le.PutUint16(raw[0x58:], 16384)
	le.PutUint16(raw[0xFE:], 64)
	le.PutUint32(raw[0x60:], uint32(disk.Incompat64Bit|disk.IncompatExtents))
	sb := disk.DecodeSuperblock(raw)
	if _, err := sb.Geometry(); err != nil {
		t.Fatalf("the test needs a geometry that is accepted: %v", err)
	}
	dev := blocktest.NewMem(mib)
	if _, err := dev.WriteAt(raw, disk.SuperblockOffset); err != nil {
		t.Fatal(err)
	}
	var short *ext4.TruncatedError
	if _, err := ext4.Open(dev, ext4.Options{}); !errors.As(err, &short) || short.Have != mib || short.Want <= 0 {
		t.Errorf("open: %v", err)
	}
}

// TestBackupSuperblock opens images whose primary superblock and descriptors
// are gone.
func TestBackupSuperblock(t *testing.T) {
	for name, args := range map[string][]string{
		"1k": {"-b", "1024"}, "4k": {"-b", "4096", "-g", "2048"}, "meta_bg": {"-b", "1024", "-g", "512", "-O", "meta_bg,^resize_inode"},
		"bigalloc 1k": {"-b", "1024", "-O", "bigalloc,meta_bg,^resize_inode", "-C", "2048", "-g", "4096"},
	} {
		t.Run(name, func(t *testing.T) {
			path := e2test.Image(t, 64*mib, append([]string{"-t", "ext4", "-d", e2test.Tree(t, map[string]string{"f": "content"})}, args...)...)
			groups := e2test.Dumpe2fs(t, path).Groups
			info := open(t, load(t, path), ext4.Options{}).Info()
			dev := load(t, path)
			dev.SetReadOnly(false)
			if _, err := dev.WriteAt(make([]byte, 1024), 1024); err != nil {
				t.Fatal(err)
			}
			if name != "bigalloc 1k" { // whose first groups hold the data as well
				if err := dev.Discard(int64(groups[0].DescFirst)*int64(info.BlockSize), int64(info.BlockSize)); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := ext4.Open(dev, ext4.Options{}); err == nil {
				t.Fatal("opened without a superblock")
			}
			tried := 0
			for _, g := range groups[1:] {
				if !g.HasSuper {
					continue
				}
				tried++
				fs, err := ext4.Open(dev, ext4.Options{Superblock: int64(g.Super) * int64(info.BlockSize) / 1024})
				if err != nil {
					t.Errorf("superblock in block %d: %v", g.Super, err)
					continue
				}
				if data, err := fs.FS().ReadFile("f"); err != nil || string(data) != "content" {
					t.Errorf("superblock in block %d: %q, %v", g.Super, data, err)
				}
			}
			if tried == 0 {
				t.Error("no backups")
			}
		})
	}
}

// closer counts how often it is closed.
type closer struct {
	blockdev.Device
	closed int
	err    error
}

func (c *closer) Close() error { c.closed++; return c.err }

func TestCloseAndOwnership(t *testing.T) {
	path := e2test.Image(t, 4*mib, "-t", "ext2", "-b", "1024")
	dev, journal := &closer{Device: load(t, path), err: syscall.EIO}, &closer{Device: blocktest.NewMem(mib)}
	fs, err := ext4.Open(dev, ext4.Options{JournalDevice: journal})
	if err != nil {
		t.Fatal(err)
	}
	if dev.closed+journal.closed != 0 {
		t.Error("closed while in use")
	}
	if err := fs.Close(); !errors.Is(err, syscall.EIO) || dev.closed != 1 || journal.closed != 1 {
		t.Errorf("close: %v, closed %d and %d times", err, dev.closed, journal.closed)
	}
	dev, journal = &closer{Device: blocktest.NewMem(mib)}, &closer{Device: blocktest.NewMem(mib)}
	if _, err := ext4.Open(dev, ext4.Options{JournalDevice: journal}); err == nil || dev.closed+journal.closed != 0 {
		t.Errorf("failed open: %v; closed %d and %d times", err, dev.closed, journal.closed)
	}
}

// TestFeatureOddities opens images that lack what others have and reads their
// directories and files.
func TestFeatureOddities(t *testing.T) {
	tree := hostTree(t)
	for name, args := range map[string][]string{
		"no filetype with checksums": {"-t", "ext4", "-O", "^filetype"},
		"rev0":                       {"-t", "ext2", "-r", "0"},
		"inline_data":                {"-t", "ext4", "-O", "inline_data"},
		"64k":                        {"-t", "ext4", "-b", "65536"},
		"old inodes":                 {"-t", "ext4", "-I", "128"},
	} {
		t.Run(name, func(t *testing.T) {
			tree := tree
			if name == "inline_data" { // with which mke2fs -d forgets holes at the end
				tree = hostTree(t)
				if err := os.Truncate(filepath.Join(tree, "sparse"), 301*4096); err != nil {
					t.Fatal(err)
				}
			}
			path := e2test.Image(t, 64*mib, append(args, "-d", tree)...)
			fs := open(t, load(t, path), ext4.Options{})
			compareTree(t, fs, tree)
			ino, err := fs.Resolve("hello")
			if err != nil {
				t.Fatal(err)
			}
			data, dataErr := fs.Seek(ino, 5, ext4.SeekData)
			hole, holeErr := fs.Seek(ino, 5, ext4.SeekHole)
			if data != 5 || hole != 13 || dataErr != nil || holeErr != nil {
				t.Errorf("data at %d, %v, hole at %d, %v", data, dataErr, hole, holeErr)
			}
		})
	}
	t.Run("dir_index taken away", func(t *testing.T) {
		path := e2test.Image(t, 16*mib, "-t", "ext4", "-b", "1024", "-O", "^metadata_csum", "-d", tree)
		if err := testimage.Run("e2fsck", "-fyD", path); err != nil {
			t.Fatal(err)
		}
		fs := open(t, load(t, path), ext4.Options{})
		ino, err := fs.Resolve("many")
		if err != nil {
			t.Fatal(err)
		}
		if st, err := fs.Stat(ino); err != nil || st.Flags&uint32(disk.FlagIndex) == 0 {
			t.Fatalf("the test needs an indexed directory: flags %#x, %v", st.Flags, err)
		}
		// An index of the wrong hash finds nothing, and without the feature
		// nobody must look at it.
		rootBlock := disktest.Blocks(t, path, "many")[0]
		e2test.Patch(t, path, int64(rootBlock)*1024+28, []byte{uint8(disk.HashTEA)})
		found := func() (n int) {
			fs := open(t, load(t, path), ext4.Options{})
			for i := range 400 {
				if _, err := fs.Resolve(fmt.Sprintf("many/file %04d", i)); err == nil {
					n++
				}
			}
			return n
		}
		if n := found(); n > 300 {
			t.Errorf("%d names are found through a wrong index", n)
		}
		e2test.Change(t, path, "features -dir_index")
		if n := found(); n != 400 {
			t.Errorf("%d names are found: the index is used though the feature is off", n)
		}
	})
}
