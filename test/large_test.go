package test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"ext4box/blockdev/blocktest"
	"ext4box/ext4"
	"ext4box/internal/testimage"
)

// openCounting opens an image with the library over a device that counts.
func openCounting(t *testing.T, path string) (*ext4.FS, *blocktest.Counting) {
	t.Helper()
	dev := blocktest.NewCounting(openDevice(t, path), 4096)
	fs, err := ext4.Open(dev, ext4.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { fs.Close() })
	return fs, dev
}

// TestMillionEntries looks names up in, and lists, a directory of a million.
func TestMillionEntries(t *testing.T) {
	requireMounting(t)
	entries := 1_000_000
	if testing.Short() {
		entries = 50_000
	}
	img := testimage.Build(t, t.TempDir(), testimage.Config{
		Name: "million", Size: 256 << 20, Args: []string{"-t", "ext4", "-b", "4096"}, Level: testimage.Tiny, BigDir: entries})

	t.Run("lookup", func(t *testing.T) {
		rng := rand.New(rand.NewPCG(1, 2))
		for range 5 {
			fs, dev := openCounting(t, img.Path)
			big, err := fs.Resolve("big")
			if err != nil {
				t.Fatal(err)
			}
			dev.Reset()
			name := testimage.BigName(rng.IntN(entries))
			if _, err := fs.Lookup(big, name); err != nil {
				t.Fatalf("%q: %v", name, err)
			}
			if _, err := fs.Lookup(big, "no such name"); !errors.Is(err, syscall.ENOENT) {
				t.Errorf("a name that is not there gives %v", err)
			}
			// The index of two levels and a leaf, for two names, and the
			// extent tree of the directory.
			if c := dev.Counts(); c.Reads > 12 || c.BytesRead > 12*4096 {
				t.Errorf("two lookups take %+v", c)
			}
		}
	})
	dir := filepath.Join(mountImage(t, img), "big")
	t.Run("list", func(t *testing.T) {
		d := openDir(t, dir)
		names := make(map[string]bool, entries)
		for {
			list := d.next(t)
			if len(list) == 0 {
				break
			}
			for _, e := range list {
				if names[e.name] {
					t.Fatalf("%q is listed twice", e.name)
				}
				names[e.name] = true
			}
		}
		for i := range entries {
			if !names[testimage.BigName(i)] {
				t.Fatalf("%q is not listed", testimage.BigName(i))
			}
		}
		if len(names) != entries+2 {
			t.Errorf("%d names, want %d and the dots", len(names), entries)
		}
	})
	t.Run("seek", func(t *testing.T) { testSeekDir(t, dir) })
}

// TestSeekDir seeks in directories of each kind: inline, of one block, linear
// and indexed.
func TestSeekDir(t *testing.T) {
	requireMounting(t)
	for _, name := range []string{"inlinedata-1k-inode1024", "ext3-nodirindex"} {
		c, ok := testimage.Find(name)
		if !ok {
			t.Fatalf("no configuration %s", name)
		}
		c.Level, c.BigDir = testimage.Small, 2500
		img := testimage.Build(t, t.TempDir(), c)
		root := mountImage(t, img)
		for _, dir := range []string{"big", "dirs/inline-3", "dirs/inline-0", "dirs/holes", "dirs/index", "."} {
			t.Run(name+"/"+dir, func(t *testing.T) { testSeekDir(t, filepath.Join(root, dir)) })
		}
	}
}

// testSeekDir remembers positions while it reads a directory, returns to them
// in random order, and wants to read on as before.
func testSeekDir(t *testing.T, dir string) {
	d := openDir(t, dir)
	var all []listed
	for {
		list := d.next(t)
		if len(list) == 0 {
			break
		}
		all = append(all, list...)
	}
	rng := rand.New(rand.NewPCG(3, 4))
	for range 200 {
		i := rng.IntN(len(all))
		d.seek(t, all[i].next)
		list := d.next(t)
		if i == len(all)-1 {
			if len(list) != 0 {
				t.Fatalf("%q follows the last entry", list[0].name)
			}
			continue
		}
		if len(list) == 0 || list[0] != all[i+1] {
			t.Fatalf("after entry %d, %+v, comes %+v, at first it was %+v", i, all[i], list[:min(1, len(list))], all[i+1])
		}
	}
	d.seek(t, 0)
	if list := d.next(t); len(list) == 0 || list[0] != all[0] {
		t.Error("rewinding does not lead to the first entry")
	}
}

// dirReader reads a directory by the system calls under readdir, telldir and
// seekdir, without what a C library or Go would buffer.
type dirReader struct {
	fd  int
	buf [32 << 10]byte
}

type listed struct {
	name string
	ino  uint64
	typ  uint8
	next int64 // what telldir says after the entry
}

func openDir(t *testing.T, dir string) *dirReader {
	t.Helper()
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	return &dirReader{fd: fd}
}

func (d *dirReader) seek(t *testing.T, pos int64) {
	t.Helper()
	if _, err := unix.Seek(d.fd, pos, unix.SEEK_SET); err != nil {
		t.Fatalf("seeking to %#x: %v", pos, err)
	}
}

func (d *dirReader) next(t *testing.T) (list []listed) {
	t.Helper()
	n, err := unix.Getdents(d.fd, d.buf[:])
	if err != nil {
		t.Fatalf("getdents64: %v", err)
	}
	for b := d.buf[:n]; len(b) > 0; {
		length := binary.NativeEndian.Uint16(b[16:])
		list = append(list, listed{
			unix.ByteSliceToString(b[19:length]), binary.NativeEndian.Uint64(b), b[18],
			int64(binary.NativeEndian.Uint64(b[8:]))})
		b = b[length:]
	}
	return list
}

// TestSparse16TiB opens and mounts a filesystem of 16 TiB, or of the largest
// file that the host keeps, and counts what that reads.
func TestSparse16TiB(t *testing.T) {
	testimage.RequireTools(t)
	path := filepath.Join(t.TempDir(), "huge.img")
	size := largestFile(t, path, 16<<40)
	if size < 1<<40 {
		t.Skipf("the temporary directory keeps files of %d GiB at most", size>>30)
	}
	size &^= 128<<20 - 1
	err := testimage.Mke2fs(path, size, "-t", "ext4", "-b", "4096", "-J", "size=4", "-i", "67108864", "-m", "0",
		"-O", "sparse_super2,^resize_inode,metadata_csum_seed",
		"-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard")
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%.1f TiB", float64(size)/(1<<40))
	fs, dev := openCounting(t, path)
	if c := dev.Counts(); c.Reads > 40 || c.BytesRead > 1<<20 {
		t.Errorf("opening takes %+v", c)
	}
	dev.Reset()
	if _, err := fs.Resolve("lost+found"); err != nil {
		t.Error(err)
	}
	if c := dev.Counts(); c.Reads > 20 || c.BytesRead > 256<<10 {
		t.Errorf("a path takes %+v", c)
	}
	st, err := fs.Statfs()
	if err != nil || st.Blocks < uint64(size)/4096*9/10 {
		t.Errorf("statfs says %+v, %v", st, err)
	}
	// Free space is in the superblock or in the descriptors, which are 64
	// bytes for each 128 MiB; never in the bitmaps.
	if c := dev.Counts(); c.BytesRead > size>>20 {
		t.Errorf("statfs takes %+v", c)
	}
	if !canMount() {
		return
	}
	dir := mount(t, path)
	list, err := os.ReadDir(dir)
	if err != nil || len(list) != 1 || list[0].Name() != "lost+found" {
		t.Errorf("the root has %v, %v", list, err)
	}
	var fst unix.Statfs_t
	if err := unix.Statfs(dir, &fst); err != nil || fst.Blocks != st.Blocks {
		t.Errorf("statfs of the mount: %d blocks, %v; want %d", fst.Blocks, err, st.Blocks)
	}
}

// largestFile finds how large a file may be, up to a limit.
func largestFile(t *testing.T, path string, limit int64) int64 {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lo, hi := int64(0), limit
	for lo < hi {
		mid := lo + (hi-lo+1)/2
		if f.Truncate(mid) == nil {
			lo = mid
		} else {
			hi = mid - 1
		}
	}
	return lo
}

// TestCasefold looks names up in other cases.
func TestCasefold(t *testing.T) {
	c, _ := testimage.Find("casefold")
	c.BigDir = 100
	img := testimage.Build(t, t.TempDir(), c)
	fs := openImage(t, img, ext4.Options{})
	for _, path := range []string{"dirs/linear", "dirs/index"} {
		dir, err := fs.Resolve(path)
		if err != nil {
			t.Fatal(err)
		}
		for as, name := range map[string]string{
			"NAME-1-Ä": "Name-1-ä", "name-1-a\u0308": "Name-1-ä", "TARGET": "target", "Target": "target",
		} {
			want, err := fs.Lookup(dir, name)
			if err != nil {
				t.Fatalf("%s/%s: %v", path, name, err)
			}
			if got, err := fs.Lookup(dir, as); got != want || err != nil {
				t.Errorf("%s/%s gives inode %d, %v; want that of %s, %d", path, as, got, err, name, want)
			}
		}
		if _, err := fs.Lookup(dir, "name-1-a"); !errors.Is(err, syscall.ENOENT) {
			t.Errorf("another letter gives %v", err)
		}
	}
	if _, err := fs.Resolve("FILES/hello"); !errors.Is(err, syscall.ENOENT) {
		t.Errorf("a directory without the flag gives %v", err)
	}
}

// String keeps failure messages short.
func (l listed) String() string { return fmt.Sprintf("%q (inode %d, next %#x)", l.name, l.ino, l.next) }
