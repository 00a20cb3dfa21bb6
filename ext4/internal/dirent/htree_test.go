package dirent_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"ext4box/ext4/internal/dirent"
	"ext4box/ext4/internal/disk"
	"ext4box/ext4/internal/disktest"
)

// hashSeed is the one of the indexed directories made here.
var hashSeed = [4]uint32{1, 2, 3, 4}

type hashed struct {
	entry disktest.Entry
	hash  uint32
}

// indexed puts names into an indexed directory with that many levels below the
// root: perLeaf names to a leaf, fan entries to an index block.
func indexed(tb testing.TB, blockSize int, csum bool, version disk.HashVersion, levels, perLeaf, fan int, names map[string]uint32) *directory {
	tb.Helper()
	var all []hashed
	for _, name := range sorted(names) {
		hash, _, err := disk.DirHash(version, hashSeed, []byte(name))
		if err != nil {
			tb.Fatal(err)
		}
		all = append(all, hashed{disktest.Entry{Ino: names[name], Type: disk.FTReg, Name: name}, hash})
	}
	slices.SortStableFunc(all, func(a, b hashed) int { return int(int64(a.hash) - int64(b.hash)) })

	d := &directory{blockSize: blockSize, csum: csum, blocks: make([][]byte, 1)}
	var entries []disktest.DxEntry
	last := uint32(0)
	for chunk := range slices.Chunk(all, perLeaf) {
		hash := chunk[0].hash
		if len(entries) > 0 && hash == last {
			hash |= 1 // continues the leaf before
		}
		entries = append(entries, disktest.DxEntry{Hash: hash, Block: uint32(len(d.blocks))})
		var leaf []disktest.Entry
		for _, h := range chunk {
			leaf = append(leaf, h.entry)
		}
		d.leaf(leaf...)
		last = chunk[len(chunk)-1].hash
	}
	for range levels {
		var above []disktest.DxEntry
		for chunk := range slices.Chunk(entries, fan) {
			b := disktest.DxNode(blockSize, csum, chunk...)
			if csum {
				disktest.SealDx(seed, b, false)
			}
			above = append(above, disktest.DxEntry{Hash: chunk[0].Hash, Block: uint32(len(d.blocks))})
			d.blocks = append(d.blocks, b)
		}
		entries = above
	}
	if limit := disktest.DxLimit(blockSize, true, csum); len(entries) > limit {
		tb.Fatalf("%d entries do not fit into the root", len(entries))
	}
	d.blocks[0] = disktest.DxRoot(blockSize, csum, ino, 2, uint8(version), uint8(levels), entries...)
	if csum {
		disktest.SealDx(seed, d.blocks[0], true)
	}
	return d
}

func openIndexed(tb testing.TB, d *directory, change func(*dirent.Dir)) *dirent.Dir {
	return d.open(tb, func(dir *dirent.Dir) {
		dir.Indexed, dir.LargeDir, dir.HashSeed = true, true, hashSeed
		if change != nil {
			change(dir)
		}
	})
}

// numbered makes n names.
func numbered(n int) map[string]uint32 {
	m := map[string]uint32{}
	for i := range n {
		m[fmt.Sprintf("name %06d", i)] = uint32(100 + i)
	}
	return m
}

func withDots(names map[string]uint32) map[string]uint32 {
	m := map[string]uint32{".": ino, "..": 2}
	for name, n := range names {
		m[name] = n
	}
	return m
}

// TestIndexLevels finds every name through indexes of one to three levels, with
// one read for each level.
func TestIndexLevels(t *testing.T) {
	for _, c := range []struct {
		blockSize, levels, perLeaf, fan, names int
		csum                                   bool
		version                                disk.HashVersion
	}{
		{1024, 0, 20, 0, 1500, true, disk.HashHalfMD4},
		{1024, 1, 5, 30, 2000, true, disk.HashTEA},
		{1024, 2, 2, 9, 3000, false, disk.HashLegacy},
		{1024, 2, 3, 40, 3000, true, disk.HashHalfMD4},
		{4096, 1, 50, 300, 3000, true, disk.HashHalfMD4},
		{65536, 1, 700, 3, 5000, true, disk.HashHalfMD4},
	} {
		t.Run(fmt.Sprint(c.blockSize, c.levels), func(t *testing.T) {
			all := numbered(c.names)
			d := indexed(t, c.blockSize, c.csum, c.version, c.levels, c.perLeaf, c.fan, all)
			dir := openIndexed(t, d, nil)
			d.reads.Store(0)
			if got, err := dir.Lookup("name 000007"); err != nil || got != 107 {
				t.Fatalf("lookup: %d, %v", got, err)
			}
			if n := int(d.reads.Load()); n != c.levels+2 {
				t.Errorf("a lookup read %d blocks through %d levels", n, c.levels+1)
			}
			expect(t, dir, withDots(all))
		})
	}
}

// TestIndexOfAbsentNames does not read on when a name is not where it belongs.
func TestIndexOfAbsentNames(t *testing.T) {
	d := indexed(t, 1024, true, disk.HashHalfMD4, 1, 5, 30, numbered(2000))
	for i := range 200 {
		dir := openIndexed(t, d, nil)
		d.reads.Store(0)
		if _, err := dir.Lookup(fmt.Sprint("absent", i)); err != dirent.NotFound {
			t.Fatal(err)
		}
		if n := d.reads.Load(); n > 4 {
			t.Errorf("lookup of an absent name read %d blocks", n)
		}
	}
}

// collisions finds names of equal hash.
func collisions(tb testing.TB, version disk.HashVersion) (groups [][]string) {
	tb.Helper()
	byHash := map[uint32][]string{}
	for i := range 150000 {
		name := fmt.Sprintf("collision %x", i)
		hash, _, err := disk.DirHash(version, hashSeed, []byte(name))
		if err != nil {
			tb.Fatal(err)
		}
		byHash[hash] = append(byHash[hash], name)
	}
	for _, list := range byHash {
		if len(list) > 1 {
			groups = append(groups, list)
		}
	}
	if len(groups) == 0 {
		tb.Fatal("no collisions")
	}
	return groups
}

// TestCollisionsAcrossLeaves puts each name into a leaf of its own, so that names
// of equal hash are on both sides of a border: of leaves, of index blocks, and of
// those above.
func TestCollisionsAcrossLeaves(t *testing.T) {
	groups := collisions(t, disk.HashHalfMD4)
	all := numbered(300)
	for i, g := range groups {
		for j, name := range g {
			all[name] = uint32(10000 + 10*i + j)
		}
	}
	for _, c := range []struct{ levels, fan int }{{1, 100}, {1, 4}, {2, 1}, {2, 2}, {2, 3}, {2, 5}} {
		size := 1024
		if c.levels == 1 && c.fan < 100 || c.fan < 3 {
			size = 4096
		}
		dir := openIndexed(t, indexed(t, size, true, disk.HashHalfMD4, c.levels, 1, c.fan, all), nil)
		for name, want := range all {
			if got, err := dir.Lookup(name); err != nil || got != want {
				t.Errorf("%d levels, fan %d: lookup of %q: %d, %v; want %d", c.levels, c.fan, name, got, err, want)
			}
		}
	}
	t.Logf("%d groups of equal hash", len(groups))
}

// TestUnsignedHash needs the variant of the hash that the superblock says.
func TestUnsignedHash(t *testing.T) {
	all := map[string]uint32{}
	for i := range 500 {
		all[fmt.Sprintf("näme \xff %d", i)] = uint32(100 + i)
	}
	d := indexed(t, 1024, true, disk.HashHalfMD4Unsigned, 1, 5, 30, all)
	d.blocks[0][28] = uint8(disk.HashHalfMD4) // as it is stored
	disktest.SealDx(seed, d.blocks[0], true)
	expect(t, openIndexed(t, d, func(d *dirent.Dir) { d.Unsigned = true }), withDots(all))
	missed := 0
	signed := openIndexed(t, d, nil)
	for name := range all {
		if _, err := signed.Lookup(name); err == dirent.NotFound {
			missed++
		}
	}
	if missed == 0 {
		t.Error("the signed hash finds the names too: the test tests nothing")
	}
}

// TestCasefoldedIndex hashes the folded name.
func TestCasefoldedIndex(t *testing.T) {
	upperNames := map[string]uint32{}
	for i := range 500 {
		upperNames[fmt.Sprintf("NAME %d", i)] = uint32(100 + i)
	}
	dir := openIndexed(t, indexed(t, 1024, true, disk.HashHalfMD4, 1, 5, 30, upperNames), func(d *dirent.Dir) { d.Casefold, d.Fold = true, upper })
	for name, want := range upperNames {
		if got, err := dir.Lookup(strings.ToLower(name)); err != nil || got != want {
			t.Errorf("lookup of %q: %d, %v; want %d", strings.ToLower(name), got, err, want)
		}
	}
}

// TestUnusableIndex reads through the leaves where the root is not one that can
// be used, as the kernel does.
func TestUnusableIndex(t *testing.T) {
	all := numbered(500)
	for name, do := range map[string]func(b []byte){
		"unknown hash": func(b []byte) { b[28] = 99 },
		"siphash":      func(b []byte) { b[28] = uint8(disk.HashSipHash) },
		"flags":        func(b []byte) { b[31] = 1 },
		"too deep":     func(b []byte) { b[30] = 3 },
	} {
		d := indexed(t, 1024, true, disk.HashHalfMD4, 1, 5, 30, all)
		do(d.blocks[0])
		disktest.SealDx(seed, d.blocks[0], true)
		t.Run(name, func(t *testing.T) { expect(t, openIndexed(t, d, nil), withDots(all)) })
	}
	d := indexed(t, 1024, true, disk.HashHalfMD4, 2, 2, 5, all)
	dir := openIndexed(t, d, func(d *dirent.Dir) { d.LargeDir = false })
	d.reads.Store(0)
	if got, err := dir.Lookup("name 000100"); err != nil || got != 200 {
		t.Errorf("three levels without large_dir: %d, %v", got, err)
	}
	if d.reads.Load() < 10 {
		t.Errorf("three levels are used without large_dir")
	}
}

// TestDamagedIndexes has indexes with one thing wrong below the root.
func TestDamagedIndexes(t *testing.T) {
	const names = 500
	lookAll := func(dir *dirent.Dir) (failed int, err error) {
		for i := range names {
			if _, e := dir.Lookup(fmt.Sprintf("name %06d", i)); e != nil {
				failed++
				err = e
			}
		}
		return failed, err
	}
	for name, do := range map[string]func(d *directory, node []byte){
		"block behind the end": func(d *directory, node []byte) { copy(node[12:], "\xFF\xFF\xFF\x0F") },
		"points to the root":   func(d *directory, node []byte) { copy(node[12:], "\x00\x00\x00\x00") },
		"limit":                func(d *directory, node []byte) { node[8]-- },
		"count":                func(d *directory, node []byte) { node[10], node[11] = 0, 0 },
		"points to another node": func(d *directory, node []byte) {
			copy(node[12:], []byte{byte(len(d.blocks) - 2), byte((len(d.blocks) - 2) >> 8)})
		},
	} {
		d := indexed(t, 1024, true, disk.HashHalfMD4, 1, 5, 30, numbered(names))
		node := d.blocks[len(d.blocks)-1]
		do(d, node)
		// A wrong limit moves the checksum; what is stored stays wrong then.
		disktest.SealDx(seed, node, false)
		failed, err := lookAll(openIndexed(t, d, nil))
		if failed == 0 || failed == names {
			t.Errorf("%s: %d of %d lookups failed: %v", name, failed, names, err)
		}
		if err != nil && !errors.Is(err, syscall.EUCLEAN) && err != dirent.NotFound {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Checksums of root and nodes count.
	for _, root := range []bool{true, false} {
		d := indexed(t, 1024, true, disk.HashHalfMD4, 1, 5, 30, numbered(names))
		blk := 0
		if !root {
			blk = len(d.blocks) - 1
		}
		d.blocks[blk][45] ^= 1
		if failed, err := lookAll(openIndexed(t, d, nil)); failed == 0 || !errors.Is(err, syscall.EUCLEAN) {
			t.Errorf("changed block %d: %d lookups failed: %v", blk, failed, err)
		}
	}
	// A hole where the index points to.
	d := indexed(t, 1024, true, disk.HashHalfMD4, 1, 5, 30, numbered(names))
	dir := openIndexed(t, d, func(dir *dirent.Dir) {
		dir.Map.Root = disktest.ExtentNode(disktest.RootSize, 0, disktest.Written(0, uint32(len(d.blocks)-1), dirStart))
	})
	if failed, err := lookAll(dir); failed == 0 || !errors.Is(err, syscall.EUCLEAN) || !strings.Contains(err.Error(), "hole") {
		t.Errorf("hole: %d lookups failed: %v", failed, err)
	}
}

// TestIndexThatNeverEnds has a root and nodes whose every entry has the hash that
// is looked for, and which all lead to the same blocks: there are 127 million
// ways to the leaf.
func TestIndexThatNeverEnds(t *testing.T) {
	const size = 4096
	hash, _, err := disk.DirHash(disk.HashHalfMD4, hashSeed, []byte("absent"))
	if err != nil {
		t.Fatal(err)
	}
	same := func(n int, blk uint32) []disktest.DxEntry {
		return slices.Repeat([]disktest.DxEntry{{Hash: hash | 1, Block: blk}}, n)
	}
	d := &directory{blockSize: size}
	d.blocks = [][]byte{
		disktest.DxRoot(size, false, ino, 2, uint8(disk.HashHalfMD4), 2, same(disktest.DxLimit(size, true, false), 1)...),
		disktest.DxNode(size, false, same(disktest.DxLimit(size, false, false), 2)...),
		disktest.DxNode(size, false, same(disktest.DxLimit(size, false, false), 3)...),
	}
	d.leaf(disktest.Entry{Ino: 20, Name: "there"})
	done := make(chan error, 1)
	go func() {
		_, err := openIndexed(t, d, nil).Lookup("absent")
		done <- err
	}()
	select {
	case err := <-done:
		if !errors.Is(err, syscall.EUCLEAN) {
			t.Errorf("lookup: %v", err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("the lookup does not end")
	}
}
