package dirent_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"ext4box/ext4/internal/buffer"
	"ext4box/ext4/internal/buffer/buffertest"
	"ext4box/ext4/internal/casefold"
	"ext4box/ext4/internal/dirent"
	"ext4box/ext4/internal/disk"
	"ext4box/ext4/internal/disktest"
	"ext4box/ext4/internal/extent"
	"ext4box/internal/e2test"
	"ext4box/internal/testimage"
)

// imageDir is a directory in an image that has its blocks already, and whose
// content is written anew: with names that are all links to one file.
type imageDir struct {
	t       *testing.T
	path    string
	file    *os.File
	sb      disk.Superblock
	geo     disk.Geometry
	sums    disk.Checksums
	format  dirent.Format
	cache   *buffer.Cache
	tx      *buffertest.Tx
	ino     uint32
	target  uint32
	raw     disk.Inode
	blocks  []uint64
	used    int
	indexed bool
	names   map[string]uint32
}

// openImageDir takes the directory /d of an image, and the file /target.
func openImageDir(t *testing.T, path string) *imageDir {
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	d := &imageDir{t: t, path: path, file: file, names: map[string]uint32{}, blocks: disktest.Blocks(t, path, "/d")}
	d.ino, d.target = inodeOf(t, path, "/d"), inodeOf(t, path, "/target")
	d.load()
	return d
}

func inodeOf(t *testing.T, image, path string) (n uint32) {
	_, rest, _ := strings.Cut(e2test.Debugfs(t, image, "stat "+path), "Inode: ")
	if _, err := fmt.Sscan(rest, &n); err != nil {
		t.Fatal(err)
	}
	return n
}

// load reads what is needed to open the directory.
func (d *imageDir) load() {
	d.t.Helper()
	d.sb = disk.DecodeSuperblock(e2test.Bytes(d.t, d.path, disk.SuperblockOffset, disk.SuperblockSize))
	geo, err := d.sb.Geometry()
	if err != nil {
		d.t.Fatal(err)
	}
	d.geo, d.sums = geo, d.sb.Checksums()
	group, index := geo.InodeGroup(d.ino)
	table := e2test.Dumpe2fs(d.t, d.path).Groups[group].TableFirst
	d.raw = disk.DecodeInode(e2test.Bytes(d.t, d.path, int64(table)*int64(geo.BlockSize)+int64(index)*int64(geo.InodeSize), int(geo.InodeSize)), false)
	d.format = dirent.Format{
		Filetype: d.sb.Incompat&disk.IncompatFiletype != 0, Index: d.sb.Compat&disk.CompatDirIndex != 0,
		LargeDir: d.sb.Incompat&disk.IncompatLargeDir != 0, HashVersion: disk.HashVersion(d.sb.DefHashVersion),
		HashSeed: d.sb.HashSeed, Unsigned: d.sb.UnsignedHash(), InodesMax: d.sb.InodesCount, Fold: casefold.Fold,
	}
	d.cache = buffer.New(d.file, int(geo.BlockSize), 256<<20)
	d.tx = buffertest.New(d.cache)
}

func (d *imageDir) open() *dirent.Dir {
	return &dirent.Dir{
		Format: &d.format, Size: uint64(d.used) * uint64(d.geo.BlockSize), Indexed: d.indexed, Casefold: d.raw.Flags&disk.FlagCasefold != 0,
		Map: extent.Map{
			Cache: d.cache, Geo: &d.geo, Sums: &d.sums, Ino: d.ino, Seed: d.sums.InodeSeed(d.ino, d.raw.Generation),
			Root: d.raw.Block[:], Tree: d.raw.Flags&disk.FlagExtents != 0,
		},
	}
}

func (d *imageDir) change(fn func(dir *dirent.Dir, grow dirent.Grow) error) error {
	dir := d.open()
	err := fn(dir, func() (uint64, uint64, error) {
		if d.used == len(d.blocks) {
			return 0, 0, syscall.ENOSPC
		}
		d.used++
		return uint64(d.used - 1), d.blocks[d.used-1], nil
	})
	d.indexed = dir.Indexed
	if e := d.tx.Commit(d.file); e != nil {
		d.t.Fatal(e)
	}
	return err
}

func (d *imageDir) add(name string) error {
	err := d.change(func(dir *dirent.Dir, grow dirent.Grow) error { return dir.Add(d.tx, grow, name, d.target, disk.FTReg) })
	if err == nil {
		d.names[name] = d.target
	}
	return err
}

// rewrite fills all blocks of the directory, takes two of three names out again
// and adds others as far as they fit.
func (d *imageDir) rewrite(name func(i int) string) {
	d.t.Helper()
	if err := d.change(func(dir *dirent.Dir, grow dirent.Grow) error { return dir.Init(d.tx, grow, 2) }); err != nil {
		d.t.Fatal(err)
	}
	n := 0
	for ; ; n++ {
		if err := d.add(name(n)); errors.Is(err, syscall.ENOSPC) {
			break
		} else if err != nil {
			d.t.Fatal(err)
		}
	}
	if d.used != len(d.blocks) {
		d.t.Fatalf("%d blocks of %d are used", d.used, len(d.blocks))
	}
	for i := range n {
		if i%3 == 0 {
			continue
		}
		if err := d.change(func(dir *dirent.Dir, _ dirent.Grow) error {
			_, err := dir.Remove(d.tx, name(i))
			return err
		}); err != nil {
			d.t.Fatal(err)
		}
		delete(d.names, name(i))
	}
	for i := range n / 2 {
		if err := d.add(name(n + i)); err != nil && !errors.Is(err, syscall.ENOSPC) {
			d.t.Fatal(err)
		}
	}
	d.finish()
}

// finish makes the inodes fit the blocks, and asks e2fsck.
func (d *imageDir) finish() {
	d.t.Helper()
	flags := d.raw.Flags &^ disk.FlagIndex
	if d.indexed {
		flags |= disk.FlagIndex
	}
	e2test.Change(d.t, d.path,
		fmt.Sprintf("set_inode_field <%d> flags %d", d.ino, flags),
		fmt.Sprintf("set_inode_field <%d> links_count %d", d.target, len(d.names)+1))
	d.fsck()
}

func (d *imageDir) fsck() {
	d.t.Helper()
	if err := testimage.Run("e2fsck", "-fn", d.path); err != nil {
		d.t.Fatal(err)
	}
}

// listed is the order of the names in ReadByHash, without the dots.
func (d *imageDir) listed() (names []string) {
	d.t.Helper()
	if err := d.open().ReadByHash(0, func(e dirent.Entry) bool {
		if n := string(e.Name); n != "." && n != ".." {
			names = append(names, n)
		}
		return true
	}); err != nil {
		d.t.Fatal(err)
	}
	return names
}

// ask lets the kernel list and look up.
func (d *imageDir) ask() {
	d.t.Helper()
	m := testimage.MountRO(d.t, &testimage.Image{Path: d.path}, "")
	dir := filepath.Join(m.Dir, "d")
	got := order(d.t, dir)
	if want := d.listed(); !slices.Equal(got, want) {
		d.t.Errorf("the kernel lists %d names, this %d, of %d; or in another order", len(got), len(want), len(d.names))
	}
	for name := range d.names {
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(dir, name), &st); err != nil || st.Ino != uint64(d.target) {
			d.t.Fatalf("the kernel looks up %q: inode %d, %v", name, st.Ino, err)
		}
	}
	if err := m.Unmount(); err != nil {
		d.t.Fatal(err)
	}
}

// order lists a directory as the kernel orders it.
func order(t *testing.T, dir string) []string {
	t.Helper()
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// goOn lets the kernel change what was written, and reads what becomes of it.
func (d *imageDir) goOn(name func(i int) string) {
	d.t.Helper()
	m := testimage.MountRW(d.t, &testimage.Image{Path: d.path}, "")
	i := 0
	for old := range d.names {
		if err := unix.Unlink(filepath.Join(m.Dir, "d", old)); err != nil {
			d.t.Fatal(err)
		}
		delete(d.names, old)
		if i++; i == 100 {
			break
		}
	}
	for i := range 300 {
		n := name(1<<20 + i)
		if err := unix.Link(filepath.Join(m.Dir, "target"), filepath.Join(m.Dir, "d", n)); err != nil {
			d.t.Fatal(err)
		}
		d.names[n] = d.target
	}
	if err := m.Unmount(); err != nil {
		d.t.Fatal(err)
	}
	d.fsck()
	d.load()
	d.blocks = disktest.Blocks(d.t, d.path, "/d")
	d.used, d.indexed = len(d.blocks), d.raw.Flags&disk.FlagIndex != 0
	if got, want := len(d.listed()), len(d.names); got != want {
		d.t.Errorf("lists %d names of %d", got, want)
	}
	for name := range d.names {
		if got, err := d.open().Lookup(name); err != nil || got != d.target {
			d.t.Fatalf("lookup of %q: %d, %v", name, got, err)
		}
	}
}

// linked is a tree with a directory d of n links to the file target.
func linked(t *testing.T, n, nameLen int) string {
	t.Helper()
	tree := e2test.Tree(t, map[string]string{"target": "content", "d/": ""})
	for i := range n {
		if err := os.Link(filepath.Join(tree, "target"), filepath.Join(tree, "d", long(nameLen, i))); err != nil {
			t.Fatal(err)
		}
	}
	return tree
}

// anyName makes names of many lengths and bytes.
func anyName(i int) string {
	r := rand.New(rand.NewPCG(uint64(i), 1))
	b := fmt.Appendf(nil, "%d ", i)
	for range r.IntN(200) {
		c := byte(0xC0 + r.IntN(0x40))
		if r.IntN(4) > 0 {
			c = byte('a' + r.IntN(26))
		}
		b = append(b, c)
	}
	return string(b)
}

// TestImages writes directories that e2fsck and the kernel judge.
func TestImages(t *testing.T) {
	const mib = 1 << 20
	fold := func(i int) string { return fmt.Sprintf("Größe%s %d", strings.Repeat("É", i%60), i) }
	for _, c := range []struct {
		name    string
		size    int64
		args    []string
		tune    []string
		links   int
		nameLen int
		names   func(int) string
		noMount bool
	}{
		{"ext4", 32 * mib, []string{"-t", "ext4", "-b", "4096"}, nil, 1000, 200, anyName, false},
		{"1k", 32 * mib, []string{"-t", "ext4", "-b", "1024"}, nil, 900, 250, anyName, false},
		{"1k long names", 32 * mib, []string{"-t", "ext4", "-b", "1024"}, nil, 900, 250, func(i int) string { return long(255, i) }, false},
		{"no checksums", 32 * mib, []string{"-t", "ext4", "-b", "1024", "-O", "^metadata_csum"}, nil, 900, 250, anyName, false},
		{"ext3 tea", 32 * mib, []string{"-t", "ext3", "-b", "1024"}, []string{"tune2fs", "-E", "hash_alg=tea"}, 900, 250, anyName, false},
		{"legacy", 32 * mib, []string{"-t", "ext4", "-b", "4096"}, []string{"tune2fs", "-E", "hash_alg=legacy"}, 1000, 200, anyName, false},
		{"unsigned", 32 * mib, []string{"-t", "ext4", "-b", "1024"}, []string{"debugfs", "-w", "-R", "set_super_value flags 2"}, 900, 250, anyName, false},
		{"no file types", 32 * mib, []string{"-t", "ext4", "-b", "1024", "-O", "^filetype"}, nil, 1000, 250, anyName, false},
		{"no index", 32 * mib, []string{"-t", "ext4", "-b", "1024", "-O", "^dir_index"}, nil, 300, 250, anyName, false},
		{"one block", 32 * mib, []string{"-t", "ext4", "-b", "4096"}, nil, 10, 20, anyName, false},
		{"64k", 64 * mib, []string{"-t", "ext4", "-b", "65536"}, nil, 1000, 250, anyName, true},
		{"64k without checksums", 64 * mib, []string{"-t", "ext4", "-b", "65536", "-O", "^metadata_csum"}, nil, 1000, 250, anyName, true},
		{"casefold", 32 * mib, []string{"-t", "ext4", "-b", "1024", "-O", "casefold", "-E", "encoding=utf8"}, []string{"debugfs", "-w", "-R", fmt.Sprintf("set_inode_field /d flags %d", disk.FlagCasefold|disk.FlagExtents)}, 1000, 250, fold, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			image := e2test.Image(t, c.size, append(c.args, "-d", linked(t, c.links, c.nameLen))...)
			if c.tune != nil {
				if err := testimage.Run(append(c.tune, image)...); err != nil {
					t.Fatal(err)
				}
			}
			d := openImageDir(t, image)
			d.rewrite(c.names)
			if c.noMount || os.Geteuid() != 0 {
				return
			}
			d.ask()
			if c.name != "one block" {
				d.goOn(c.names)
			}
		})
	}
}

// TestImageOfThreeLevels writes an index of three levels into blocks that the
// kernel allocated for one.
func TestImageOfThreeLevels(t *testing.T) {
	testimage.RequireRoot(t)
	image := e2test.Image(t, 64<<20, "-t", "ext4", "-b", "1024", "-O", "large_dir", "-d", linked(t, 1, 10))
	m := testimage.MountRW(t, &testimage.Image{Path: image}, "")
	for i := range 27000 {
		if err := unix.Link(filepath.Join(m.Dir, "target"), filepath.Join(m.Dir, "d", long(255, i))); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.Unmount(); err != nil {
		t.Fatal(err)
	}
	d := openImageDir(t, image)
	d.rewrite(func(i int) string { return long(250, 100000+i) })
	if b := e2test.Bytes(t, image, int64(d.blocks[0])*1024, 32); b[30] != 2 || binary.LittleEndian.Uint32(b) != d.ino {
		t.Errorf("the root is %x", b)
	}
	d.ask()
	d.goOn(func(i int) string { return long(251, i) })
}
