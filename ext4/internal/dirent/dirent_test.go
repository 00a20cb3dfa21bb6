package dirent_test

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"ext4box/ext4/internal/buffer"
	"ext4box/ext4/internal/dirent"
	"ext4box/ext4/internal/disk"
	"ext4box/ext4/internal/disktest"
	"ext4box/ext4/internal/extent"
)

const (
	ino       = 12
	seed      = 0x5EED
	inodesMax = 1 << 20
	dirStart  = 8 // device block of the first block of a directory
)

// directory is a directory whose blocks follow each other on a device.
type directory struct {
	blockSize int
	csum      bool
	blocks    [][]byte
	reads     atomic.Int32
}

// ReadAt implements io.ReaderAt and counts.
func (d *directory) ReadAt(p []byte, off int64) (int, error) {
	d.reads.Add(1)
	blk := int(off)/d.blockSize - dirStart
	if blk < 0 || blk >= len(d.blocks) {
		return 0, io.EOF
	}
	return copy(p, d.blocks[blk]), nil
}

func (d *directory) leaf(entries ...disktest.Entry) {
	b := disktest.DirBlock(d.blockSize, d.csum, entries...)
	if d.csum {
		disktest.SealDirLeaf(seed, b)
	}
	d.blocks = append(d.blocks, b)
}

// open makes the directory for reading; change may alter it.
func (d *directory) open(tb testing.TB, change func(*dirent.Dir)) *dirent.Dir {
	dir := &dirent.Dir{
		Format: &dirent.Format{Filetype: true, InodesMax: inodesMax},
		Size:   uint64(len(d.blocks) * d.blockSize),
		Map: extent.Map{
			Cache: buffer.New(d, d.blockSize, 64<<20),
			Geo:   disktest.Geometry(tb, d.blockSize, 100000),
			Sums:  &disk.Checksums{Metadata: d.csum},
			Ino:   ino, Seed: seed, Tree: true,
			Root: disktest.ExtentNode(disktest.RootSize, 0, disktest.Written(0, uint32(len(d.blocks)), dirStart)),
		},
	}
	if change != nil {
		change(dir)
	}
	return dir
}

// reader is what Dir and Inline have in common.
type reader interface {
	Lookup(name string) (uint32, error)
	Read(pos int64, fn func(dirent.Entry) bool) error
}

// item is an entry that outlives the callback.
type item struct {
	name string
	ino  uint32
	ft   uint8
	next int64
}

func list(tb testing.TB, d reader, pos int64) (items []item) {
	tb.Helper()
	if err := d.Read(pos, func(e dirent.Entry) bool {
		items = append(items, item{string(e.Name), e.Ino, e.Type, e.Next})
		return true
	}); err != nil {
		tb.Fatalf("read from %d: %v", pos, err)
	}
	return items
}

func names(items []item) (list []string) {
	for _, i := range items {
		list = append(list, i.name)
	}
	return list
}

// expect checks that a directory lists exactly these entries, finds each by
// name and continues behind each.
func expect(tb testing.TB, d reader, want map[string]uint32) {
	tb.Helper()
	items := list(tb, d, 0)
	seen := map[string]bool{}
	for _, i := range items {
		if want[i.name] != i.ino || seen[i.name] {
			tb.Errorf("lists %q with inode %d, want %d; seen before: %v", i.name, i.ino, want[i.name], seen[i.name])
		}
		seen[i.name] = true
	}
	if len(seen) != len(want) {
		tb.Errorf("lists %d names of %d", len(seen), len(want))
	}
	for name, ino := range want {
		if got, err := d.Lookup(name); err != nil || got != ino {
			tb.Errorf("lookup of %q: %d, %v; want %d", name, got, err, ino)
		}
	}
	for _, absent := range []string{"absent", "a", strings.Repeat("n", 255), "..."} {
		if _, there := want[absent]; there {
			continue
		}
		if got, err := d.Lookup(absent); err != dirent.NotFound || got != 0 {
			tb.Errorf("lookup of %q: %d, %v", absent, got, err)
		}
	}
	seek(tb, d, items)
}

// seek continues behind entries: behind all of a small directory, behind some of
// a large one.
func seek(tb testing.TB, d reader, items []item) {
	tb.Helper()
	step := 1 + len(items)/100
	for i := 0; i < len(items); i += step {
		first := item{next: -1}
		if err := d.Read(items[i].next, func(e dirent.Entry) bool {
			first = item{string(e.Name), e.Ino, e.Type, e.Next}
			return false
		}); err != nil {
			tb.Fatal(err)
		}
		switch {
		case i+1 < len(items) && first != items[i+1]:
			tb.Errorf("behind %q comes %+v, not %+v", items[i].name, first, items[i+1])
		case i+1 == len(items) && first.next >= 0:
			tb.Errorf("behind the last entry comes %+v", first)
		}
		if i > 0 && items[i].next <= items[i-1].next {
			tb.Errorf("position %d of %q does not follow %d", items[i].next, items[i].name, items[i-1].next)
		}
	}
}

func dots() []disktest.Entry {
	return []disktest.Entry{{Ino: ino, Type: disk.FTDir, Name: "."}, {Ino: 2, Type: disk.FTDir, Name: ".."}}
}

func TestLinear(t *testing.T) {
	for _, size := range []int{1024, 4096, 65536} {
		for _, csum := range []bool{false, true} {
			d := &directory{blockSize: size, csum: csum}
			want := map[string]uint32{".": ino, "..": 2}
			d.leaf(append(dots(), disktest.Entry{Ino: 0, Name: "deleted"}, disktest.Entry{Ino: 20, Type: disk.FTReg, Name: "a file"})...)
			d.leaf() // empty
			d.leaf(disktest.Entry{Ino: 0, Name: "deleted first"}, disktest.Entry{Ino: 21, Type: disk.FTSymlink, Name: strings.Repeat("x", 255)},
				disktest.Entry{Ino: inodesMax, Name: "\xff\xfe"})
			want["a file"], want[strings.Repeat("x", 255)], want["\xff\xfe"] = 20, 21, inodesMax
			t.Run(fmt.Sprint(size, csum), func(t *testing.T) {
				expect(t, d.open(t, nil), want)
				if got := list(t, d.open(t, nil), 0)[2]; got.ft != disk.FTReg {
					t.Errorf("file type is %d", got.ft)
				}
			})
		}
	}
}

// TestOddPositions starts at every byte of a directory: the listing continues
// with the first entry at or behind it.
func TestOddPositions(t *testing.T) {
	d := &directory{blockSize: 1024, csum: true}
	d.leaf(append(dots(), disktest.Entry{Ino: 20, Name: "first"}, disktest.Entry{Ino: 21, Name: "second"})...)
	d.leaf(disktest.Entry{Ino: 22, Name: "third"})
	dir := d.open(t, nil)
	at := map[string]int64{".": 0, "..": 12, "first": 24, "second": 40, "third": 1024}
	all := []string{".", "..", "first", "second", "third"}
	for pos := int64(-5); pos < 2100; pos++ {
		var want []string
		for _, name := range all {
			if at[name] >= pos {
				want = append(want, name)
			}
		}
		if got := names(list(t, dir, pos)); pos >= 0 && !slices.Equal(got, want) {
			t.Fatalf("from %d: %q, want %q", pos, got, want)
		}
	}
	if got := list(t, dir, 1<<62); len(got) != 0 {
		t.Errorf("far behind the end there are %v", got)
	}
}

func TestStopping(t *testing.T) {
	d := &directory{blockSize: 1024}
	d.leaf(dots()...)
	d.leaf(disktest.Entry{Ino: 20, Name: "next block"})
	calls := 0
	if err := d.open(t, nil).Read(0, func(dirent.Entry) bool { calls++; return false }); err != nil || calls != 1 {
		t.Errorf("%d calls, %v", calls, err)
	}
	if d.reads.Load() != 1 {
		t.Errorf("%d blocks were read for one entry", d.reads.Load())
	}
}

// TestHoles has a directory of which the middle and the end are not there.
func TestHoles(t *testing.T) {
	d := &directory{blockSize: 1024}
	d.leaf(dots()...)
	d.leaf(disktest.Entry{Ino: 20, Name: "behind"})
	dir := d.open(t, func(dir *dirent.Dir) {
		dir.Size = 90 * 1024
		dir.Map.Root = disktest.ExtentNode(disktest.RootSize, 0, disktest.Written(0, 1, dirStart), disktest.Written(50, 1, dirStart+1))
	})
	expect(t, dir, map[string]uint32{".": ino, "..": 2, "behind": 20})
}

// TestEmptyDirectory has no blocks at all, as a damaged one can.
func TestEmptyDirectory(t *testing.T) {
	d := &directory{blockSize: 1024}
	dir := d.open(t, func(dir *dirent.Dir) { dir.Map.Root = disktest.ExtentNode(disktest.RootSize, 0) })
	expect(t, dir, nil)
}

// TestWithoutFiletype has a byte behind the name length that must not count.
func TestWithoutFiletype(t *testing.T) {
	d := &directory{blockSize: 1024, csum: true}
	d.leaf(append(dots(), disktest.Entry{Ino: 20, Name: "f"})...)
	dir := d.open(t, func(dir *dirent.Dir) { dir.Filetype = false })
	expect(t, dir, map[string]uint32{".": ino, "..": 2, "f": 20})
	if got := list(t, dir, 0)[0].ft; got != disk.FTUnknown {
		t.Errorf("file type is %d", got)
	}
}

// TestDamagedLeaves has blocks with one thing wrong.
func TestDamagedLeaves(t *testing.T) {
	raw := func(do func(b []byte)) *directory {
		d := &directory{blockSize: 1024, csum: true}
		b := disktest.DirBlock(1024, true, append(dots(), disktest.Entry{Ino: 20, Type: 1, Name: "name"})...)
		do(b)
		disktest.SealDirLeaf(seed, b)
		d.blocks = [][]byte{b}
		return d
	}
	put := func(off int, v ...byte) func(b []byte) { return func(b []byte) { copy(b[off:], v) } }
	for name, do := range map[string]func(b []byte){
		"record too short":       put(12+4, 8, 0),
		"record not aligned":     put(12+4, 13, 0),
		"record of nothing":      put(12+4, 0, 0),
		"record leaves":          put(24+4, 0xF0, 0xFF),
		"name longer than space": put(6, 5),
		"empty name":             put(24+6, 0),
		"slash in name":          put(24+8+1, '/'),
		"zero in name":           put(24+8+3, 0),
		"inode too large":        put(24, 0, 0, 0x10, 1),
		"inode 2^32-1":           put(24, 0xFF, 0xFF, 0xFF, 0xFF),
		"no tail":                put(1024-12+7, 1),
		"entry over the tail":    put(24+4, 0xE4, 3),
	} {
		dir := raw(do).open(t, nil)
		var corrupt *disk.CorruptError
		readErr := dir.Read(0, func(dirent.Entry) bool { return true })
		_, lookErr := dir.Lookup("zzz")
		for _, err := range []error{readErr, lookErr} {
			if name == "entry over the tail" {
				continue // the record may include the tail: the checksum is what counts
			}
			if !errors.As(err, &corrupt) || !strings.Contains(err.Error(), "inode 12") || !strings.Contains(err.Error(), "block 8") {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	d := raw(func([]byte) {})
	d.blocks[0][100] ^= 1
	if err := d.open(t, nil).Read(0, func(dirent.Entry) bool { return true }); !errors.Is(err, syscall.EUCLEAN) || !strings.Contains(err.Error(), "checksum") {
		t.Errorf("bad checksum: %v", err)
	}
	// In an encrypted directory any byte may occur.
	if got := names(list(t, raw(put(24+8, 0, '/', 1, 2)).open(t, func(d *dirent.Dir) { d.RawNames = true }), 0)); got[2] != "\x00/\x01\x02" {
		t.Errorf("names of ciphertext: %q", got)
	}
}

// TestImpossibleSizes has directories that claim to be larger than the device.
func TestImpossibleSizes(t *testing.T) {
	for _, size := range []uint64{100001 * 1024, 1 << 40, 1<<63 - 1, 1<<64 - 1} {
		d := &directory{blockSize: 1024}
		d.leaf(dots()...)
		dir := d.open(t, func(d *dirent.Dir) { d.Size = size })
		if err := dir.Read(0, func(dirent.Entry) bool { return true }); !errors.Is(err, syscall.EUCLEAN) {
			t.Errorf("%d bytes: read: %v", size, err)
		}
		if _, err := dir.Lookup("x"); !errors.Is(err, syscall.EUCLEAN) {
			t.Errorf("%d bytes: lookup: %v", size, err)
		}
	}
}

func TestDeviceErrors(t *testing.T) {
	d := &directory{blockSize: 1024}
	d.leaf(dots()...)
	dir := d.open(t, func(dir *dirent.Dir) {
		dir.Size = 2048
		dir.Map.Root = disktest.ExtentNode(disktest.RootSize, 0, disktest.Written(0, 2, dirStart))
	})
	seen := 0
	if err := dir.Read(0, func(dirent.Entry) bool { seen++; return true }); !errors.Is(err, syscall.EIO) || seen != 2 {
		t.Errorf("%d entries, then %v", seen, err)
	}
	if _, err := dir.Lookup("x"); !errors.Is(err, syscall.EIO) {
		t.Errorf("lookup: %v", err)
	}
	if got, err := dir.Lookup(".."); err != nil || got != 2 {
		t.Errorf("what can be read is not found: %v", err)
	}
}

// upper folds like casefolding does: names that begin with "!" are invalid.
func upper(dst, name []byte) ([]byte, error) {
	if bytes.HasPrefix(name, []byte("!")) {
		return dst, errors.New("invalid name")
	}
	return append(dst, bytes.ToUpper(name)...), nil
}

func TestCasefold(t *testing.T) {
	d := &directory{blockSize: 1024}
	d.leaf(append(dots(), disktest.Entry{Ino: 20, Name: "File"}, disktest.Entry{Ino: 21, Name: "!odd"}, disktest.Entry{Ino: 22, Name: "!ODD"})...)
	fold := d.open(t, func(d *dirent.Dir) { d.Casefold = true; d.Fold = upper })
	plain := d.open(t, func(d *dirent.Dir) { d.Fold = upper })
	for _, c := range []struct {
		dir  *dirent.Dir
		name string
		want uint32
	}{
		{fold, "fILE", 20}, {fold, "File", 20}, {fold, "!odd", 21}, {fold, "!ODD", 22}, {fold, "!Odd", 0}, {fold, ".", ino},
		{plain, "File", 20}, {plain, "fILE", 0},
	} {
		got, err := c.dir.Lookup(c.name)
		if got != c.want || (err == nil) != (c.want != 0) {
			t.Errorf("lookup of %q, casefold %v: %d, %v; want %d", c.name, c.dir.Casefold, got, err, c.want)
		}
	}
}

func sorted(m map[string]uint32) []string {
	list := make([]string, 0, len(m))
	for name := range m {
		list = append(list, name)
	}
	slices.SortFunc(list, cmp.Compare[string])
	return list
}
