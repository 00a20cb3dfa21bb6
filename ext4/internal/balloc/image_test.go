package balloc

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"

	"ext4box/blockdev/blocktest"
	"ext4box/ext4/internal/buffer"
	"ext4box/ext4/internal/buffer/buffertest"
	"ext4box/ext4/internal/disk"
)

// layout is a way to make a filesystem.
type layout struct {
	name string
	size int64
	args []string
}

const mib = 1 << 20

var layouts = []layout{
	{"default", 256 * mib, nil},
	{"1k", 64 * mib, []string{"-b", "1024"}},
	{"64k", 512 * mib, []string{"-b", "65536"}},
	{"noflex", 300 * mib, []string{"-O", "^flex_bg"}},
	{"uninit_bg", 300 * mib, []string{"-O", "^metadata_csum,uninit_bg"}},
	{"nosums", 200 * mib, []string{"-O", "^metadata_csum,^uninit_bg"}},
	{"32bit", 300 * mib, []string{"-O", "^64bit"}},
	{"ext2", 100 * mib, []string{"-t", "ext2"}},
	{"rev0", 40 * mib, []string{"-t", "ext2", "-r", "0", "-O", "none"}},
	{"meta_bg", 300 * mib, []string{"-O", "meta_bg,^resize_inode", "-b", "1024"}},
	{"bigalloc", 512 * mib, []string{"-O", "bigalloc"}},
	{"bigalloc1k", 256 * mib, []string{"-O", "bigalloc", "-b", "1024", "-C", "8192"}},
	{"sparse_super2", 200 * mib, []string{"-O", "sparse_super2", "-b", "1024"}},
	{"nosparse", 100 * mib, []string{"-O", "^sparse_super,^resize_inode", "-b", "1024"}},
	{"tiny groups", 40 * mib, []string{"-b", "1024", "-g", "256", "-O", "^resize_inode", "-N", "4096"}},
	{"short last group", 71*mib + 137*1024, []string{"-b", "1024"}},
	{"flex64", 512 * mib, []string{"-b", "1024", "-G", "64"}},
}

func needTools(t testing.TB, tools ...string) {
	t.Helper()
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip(tool + " is not installed")
		}
	}
}

// device is what the tests need of one.
type device interface {
	io.ReaderAt
	io.WriterAt
}

// file is an image in a file, where tools can look at it.
type file struct{ *os.File }

// mem is a copy of the image in memory.
func (f file) mem(t testing.TB) *blocktest.Mem {
	t.Helper()
	m, err := blocktest.LoadMem(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// mkfs makes a filesystem without a journal.
func mkfs(t testing.TB, l layout) file {
	t.Helper()
	needTools(t, "mke2fs", "e2fsck", "dumpe2fs")
	path := filepath.Join(t.TempDir(), "image")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(l.size); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	args := append([]string{"-q", "-F", "-E", "lazy_itable_init=1,nodiscard"}, l.args...)
	if len(l.args) == 0 || l.args[0] != "-t" {
		args = append(args, "-t", "ext4")
	}
	for i, a := range args {
		if a == "-O" {
			args[i+1] += ",^has_journal"
		}
	}
	if !strings.Contains(strings.Join(args, " "), "-O") {
		args = append(args, "-O", "^has_journal")
	}
	if out, err := exec.Command("mke2fs", append(args, path)...).CombinedOutput(); err != nil {
		t.Fatalf("mke2fs %v: %v\n%s", args, err, out)
	}
	return file{f}
}

// fixture is a filesystem and its groups.
type fixture struct {
	t     testing.TB
	dev   device
	raw   []byte // superblock
	super disk.Superblock
	geo   disk.Geometry
	sums  disk.Checksums
	cache *buffer.Cache
	gs    *Groups
	tx    *buffertest.Tx

	mu      sync.Mutex
	corrupt map[uint32][]error
}

// open makes the groups of the filesystem on dev, with what change does to the
// configuration.
func open(t testing.TB, dev device, change func(*Config)) *fixture {
	t.Helper()
	f := &fixture{t: t, dev: dev, raw: make([]byte, disk.SuperblockSize), corrupt: make(map[uint32][]error)}
	if _, err := dev.ReadAt(f.raw, disk.SuperblockOffset); err != nil {
		t.Fatal(err)
	}
	f.super = disk.DecodeSuperblock(f.raw)
	var err error
	if f.geo, err = f.super.Geometry(); err != nil {
		t.Fatal(err)
	}
	f.sums = f.super.Checksums()
	f.cache = buffer.New(dev, int(f.geo.BlockSize), 64*mib)
	f.tx = buffertest.New(f.cache)
	c := Config{
		Cache: f.cache, Geo: &f.geo, Sums: &f.sums, Super: &f.super,
		SuperBlock: disk.SuperblockOffset / uint64(f.geo.BlockSize),
		OnCorrupt: func(num uint32, err error) {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.corrupt[num] = append(f.corrupt[num], err)
		},
	}
	if change != nil {
		change(&c)
	}
	f.gs = New(c)
	return f
}

func (f *fixture) commit() {
	f.t.Helper()
	if err := f.tx.Commit(f.dev); err != nil {
		f.t.Fatal(err)
	}
}

// sync commits, and writes the superblock's counters.
func (f *fixture) sync() {
	f.t.Helper()
	f.commit()
	total, err := f.gs.Totals()
	if err != nil {
		f.t.Fatal(err)
	}
	sb := f.super
	sb.FreeBlocks, sb.FreeInodes = total.FreeClusters<<f.geo.ClusterBits, uint32(total.FreeInodes)
	if f.super.ROCompat&disk.ROCompatBigalloc != 0 {
		sb.FreeBlocks = total.FreeClusters << f.geo.ClusterBits
	}
	disk.EncodeSuperblock(f.raw, &sb)
	f.sums.SealSuperblock(f.raw)
	if _, err := f.dev.WriteAt(f.raw, disk.SuperblockOffset); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) sound() {
	f.t.Helper()
	for num, errs := range f.corrupt {
		f.t.Errorf("group %d was set aside: %v", num, errs)
	}
}

// path is a file with the image.
func (f *fixture) path() string {
	f.t.Helper()
	if on, ok := f.dev.(file); ok {
		return on.Name()
	}
	path := filepath.Join(f.t.TempDir(), "image")
	if err := blocktest.Dump(f.dev, int64(f.geo.BlocksCount)*int64(f.geo.BlockSize), path); err != nil {
		f.t.Fatal(err)
	}
	return path
}

// fsck fails the test unless e2fsck has nothing to say.
func (f *fixture) fsck() {
	f.t.Helper()
	path := f.path()
	if out, err := exec.Command("e2fsck", "-fn", path).CombinedOutput(); err != nil {
		f.t.Fatalf("e2fsck: %v\n%s", err, cut(out))
	}
}

func cut(b []byte) string { return string(b[:min(len(b), 2000)]) }

// freeMap is what dumpe2fs says is free.
type freeMap struct {
	blocks disk.Bitmap // set: free
	inodes disk.Bitmap
	dirs   int
}

var dirsLine = regexp.MustCompile(`(\d+) free (?:blocks|clusters), (\d+) free inodes, (\d+) directories`)

// dumpe2fs reads the bitmaps with dumpe2fs, an independent reader, and checks
// that the counts in the descriptors fit them.
func (f *fixture) dumpe2fs() freeMap {
	f.t.Helper()
	path := f.path()
	out, err := exec.Command("dumpe2fs", path).CombinedOutput()
	if err != nil {
		f.t.Fatalf("dumpe2fs: %v\n%s", err, cut(out))
	}
	m := freeMap{blocks: make(disk.Bitmap, f.geo.BlocksCount/8+8), inodes: make(disk.Bitmap, f.geo.InodesCount/8+8)}
	var blocks, inodes int
	_, groups, _ := strings.Cut(string(out), "\nGroup 0:")
	for line := range strings.Lines(groups) {
		line = strings.TrimSpace(line)
		if strings.Contains(line, "EXPECTED") {
			f.t.Errorf("dumpe2fs: %s", line)
		}
		if d := dirsLine.FindStringSubmatch(line); d != nil {
			blocks, _ = strconv.Atoi(d[1])
			inodes, _ = strconv.Atoi(d[2])
			n, _ := strconv.Atoi(d[3])
			m.dirs += n
		}
		if list, ok := strings.CutPrefix(line, "Free blocks: "); ok && strings.TrimSpace(list) != "" {
			if n := fill(f.t, m.blocks, list, 1<<f.geo.ClusterBits); n != blocks<<f.geo.ClusterBits {
				f.t.Errorf("%d free blocks by descriptor, %d by bitmap", blocks, n)
			}
		}
		if list, ok := strings.CutPrefix(line, "Free inodes: "); ok && strings.TrimSpace(list) != "" {
			if n := fill(f.t, m.inodes, list, 1); n != inodes {
				f.t.Errorf("%d free inodes by descriptor, %d by bitmap", inodes, n)
			}
		}
	}
	return m
}

// fill sets the bits of a list such as "3-7, 9", whose ranges end where the last
// unit of the given size starts.
func fill(t testing.TB, m disk.Bitmap, list string, unit int) int {
	n := 0
	for part := range strings.SplitSeq(list, ",") {
		lo, hi, isRange := strings.Cut(strings.TrimSpace(part), "-")
		a, err := strconv.Atoi(lo)
		b := a
		if isRange && err == nil {
			b, err = strconv.Atoi(hi)
		}
		if err != nil || b < a {
			t.Fatalf("dumpe2fs: free list %q", list)
		}
		m.SetRange(uint32(a), uint32(b-a+unit))
		n += b - a + unit
	}
	return n
}
