package dirent_test

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"syscall"
	"testing"

	"ext4box/ext4/internal/buffer"
	"ext4box/ext4/internal/dirent"
	"ext4box/ext4/internal/disk"
	"ext4box/ext4/internal/disktest"
)

// load makes a rig of blocks that may hold anything.
func load(t *testing.T, shape rigShape, blocks []byte, index bool) *rig {
	n := min(len(blocks)/shape.blockSize, 30)
	shape.most = uint64(n) + 6
	r := newRig(t, shape)
	r.blocks, r.indexed = uint64(n), index
	r.size = r.blocks * uint64(shape.blockSize)
	if _, err := r.dev.WriteAt(blocks[:n*shape.blockSize], int64(rigStart*shape.blockSize)); err != nil {
		t.Fatal(err)
	}
	return r
}

// abuse does everything to a directory. Any result will do, any error not.
func abuse(t *testing.T, r *rig, name string, pos int64) {
	t.Helper()
	check := func(what string, err error) {
		if err != nil && !errors.Is(err, syscall.EUCLEAN) && err != dirent.NotFound && !errors.Is(err, syscall.ENOSPC) &&
			!errors.Is(err, syscall.EINVAL) && !errors.Is(err, syscall.ENAMETOOLONG) && !errors.Is(err, syscall.EOPNOTSUPP) {
			t.Errorf("%s: %v", what, err)
		}
	}
	last, seen := pos, 0
	check("list", r.open().ReadByHash(pos, func(e dirent.Entry) bool {
		if e.Next < last || e.Ino == 0 {
			t.Errorf("entry %+v behind %d", e, last)
		}
		last = e.Next
		seen++
		return seen < 100000
	}))
	names := []string{name, "a new name", long(200, 3), long(255, 4)}
	if err := r.open().Read(0, func(e dirent.Entry) bool { names = append(names, string(e.Name)); return len(names) < 20 }); err != nil {
		check("read", err)
	}
	for _, name := range names {
		_, err := r.open().Lookup(name)
		check("lookup", err)
		if err == dirent.NotFound {
			check("add", r.add(name, 77))
		}
		_, err = r.replace(name, 78, disk.FTFifo)
		check("replace", err)
	}
	for _, name := range names {
		_, err := r.remove(name)
		check("remove", err)
	}
	_, err := r.replace("..", 79, disk.FTDir)
	check("replace ..", err)
	_, err = r.open().Empty()
	check("empty", err)
}

// reseal gives a damaged block the checksum that it would need to be read.
func reseal(b []byte, root bool) {
	if _, ok := disk.DirTail(b); ok {
		disk.SealDirLeaf(seed, b)
	} else {
		disk.SealDx(seed, b, root)
	}
}

// hostileSeeds are directories to damage.
func hostileSeeds(tb testing.TB, csum bool) (all [][]byte) {
	for _, n := range []int{2, 12, 40, 400} {
		f := rigFormat()
		f.LargeDir = true
		r := newRig(tb, rigShape{blockSize: 1024, csum: csum, format: f})
		r.init()
		for i := range n {
			r.mustAdd(long(250, i), uint32(100+i))
		}
		all = append(all, r.raw())
	}
	return all
}

func (r *rig) raw() []byte {
	b := make([]byte, r.size)
	if _, err := r.dev.ReadAt(b, int64(rigStart*r.blockSize)); err != nil {
		r.tb.Fatalf("%v", err)
	}
	return b
}

func hostileShape(csum, large bool) rigShape {
	f := rigFormat()
	f.LargeDir = large
	return rigShape{blockSize: 1024, csum: csum, format: f}
}

// TestDamagedDirectories changes bytes of directories, and abuses what comes out.
func TestDamagedDirectories(t *testing.T) {
	rnd := rand.New(rand.NewPCG(5, 8))
	for _, csum := range []bool{false, true} {
		for _, raw := range hostileSeeds(t, csum) {
			for range 150 {
				b := slices.Clone(raw)
				for range 1 + rnd.IntN(4) {
					at := rnd.IntN(len(b))
					if rnd.IntN(2) == 0 { // where heads of records and of the index are
						at = at&^1023 + []int{0, 4, 6, 12, 16, 28, 30, 32, 34, 36, 40, 44, 8, 10, 14, 264, 268}[rnd.IntN(17)]
					}
					switch rnd.IntN(3) {
					case 0:
						b[at] = byte(rnd.Uint32())
					case 1:
						b[at]++
					default:
						binary.LittleEndian.PutUint16(b[at&^3:], uint16(rnd.IntN(8)))
					}
					if csum {
						reseal(b[at&^1023:at&^1023+1024], at < 1024)
					}
				}
				abuse(t, load(t, hostileShape(csum, rnd.IntN(2) == 0), b, true), long(250, 1), rnd.Int64()>>rnd.IntN(60))
			}
		}
	}
}

// TestTwistedIndexes has indexes that lead to where no index may.
func TestTwistedIndexes(t *testing.T) {
	root := func(levels uint8, e ...disktest.DxEntry) []byte {
		return disktest.DxRoot(1024, false, ino, 2, 1, levels, e...)
	}
	full := func(blk uint32) (e []disktest.DxEntry) {
		for i := range disktest.DxLimit(1024, false, false) {
			e = append(e, disktest.DxEntry{Hash: uint32(i) << 24, Block: blk})
		}
		return e
	}
	leaf := disktest.DirBlock(1024, false, disktest.Entry{Ino: 20, Type: 1, Name: long(255, 1), RecLen: 264},
		disktest.Entry{Ino: 21, Type: 1, Name: long(255, 2), RecLen: 264}, disktest.Entry{Ino: 22, Type: 1, Name: long(255, 3), RecLen: 264},
		disktest.Entry{Ino: 23, Type: 1, Name: long(223, 3)})
	for name, blocks := range map[string][][]byte{
		"leaf is the root":         {root(0, disktest.DxEntry{}), leaf},
		"node is the root":         {root(1, disktest.DxEntry{}), leaf},
		"node is its own child":    {root(2, disktest.DxEntry{Block: 1}), disktest.DxNode(1024, false, disktest.DxEntry{Block: 1}), leaf},
		"leaf is the node":         {root(1, disktest.DxEntry{Block: 1}), disktest.DxNode(1024, false, disktest.DxEntry{Block: 1}), leaf},
		"all are one leaf":         {root(1, full(1)[:100]...), disktest.DxNode(1024, false, full(2)...), leaf},
		"all are one node":         {root(2, full(1)[:124]...), disktest.DxNode(1024, false, full(2)...), disktest.DxNode(1024, false, full(3)...), leaf},
		"leaf is a hole":           {root(0, disktest.DxEntry{Block: 77}), leaf},
		"node with a full leaf":    {root(1, disktest.DxEntry{Block: 1}), disktest.DxNode(1024, false, full(2)...), leaf},
		"unused records only":      {root(0, disktest.DxEntry{Block: 1}), unusedRecords()},
		"root of the linear kind":  {disktest.DirBlock(1024, false, append(dots(), disktest.Entry{Ino: 20, Name: "x"})...)},
		"dots of a linear one":     {disktest.DirBlock(1024, false, disktest.Entry{Ino: 20, Name: "x", RecLen: 500}, disktest.Entry{Ino: 20, Name: "y"})},
		"full and without dots":    {leaf},
		"dots with another length": {disktest.DirBlock(1024, false, disktest.Entry{Ino: ino, Name: ".", RecLen: 24}, disktest.Entry{Ino: ino, Name: "..", RecLen: 20}, disktest.Entry{Ino: 7, Name: long(255, 8), RecLen: 264}, disktest.Entry{Ino: 7, Name: long(255, 9), RecLen: 716})},
	} {
		for _, index := range []bool{true, false} {
			for _, large := range []bool{true, false} {
				t.Run(name, func(t *testing.T) {
					if index && large && strings.Contains(name, " is ") {
						r := load(t, hostileShape(false, large), slices.Concat(blocks...), index)
						if err := r.add("short", 77); !errors.Is(err, syscall.EUCLEAN) || r.touched != 0 {
							t.Errorf("adding: %v, %d blocks touched", err, r.touched)
						}
					}
					abuse(t, load(t, hostileShape(false, large), slices.Concat(blocks...), index), long(200, 7), 0)
				})
			}
		}
	}
}

// unusedRecords is a leaf full of unused records too short for most names.
func unusedRecords() []byte {
	b := make([]byte, 1024)
	for off := 0; off < 1020; off += 12 {
		n := 12
		if off == 1008 {
			n = 16
		}
		disktest.PutRecLen(b, off, n)
	}
	return b
}

// TestSharedBlocks maps all blocks of a directory to one.
func TestSharedBlocks(t *testing.T) {
	for _, index := range []bool{false, true} {
		for _, raw := range hostileSeeds(t, false) {
			r := load(t, hostileShape(false, true), raw, index)
			d := r.open()
			d.Map.Root = disktest.ExtentNode(disktest.RootSize, 0, disktest.Written(0, 1, rigStart+1), disktest.Written(1, 1, rigStart+1),
				disktest.Written(2, 1, rigStart), disktest.Written(3, 1, rigStart+1))
			grow := func() (uint64, uint64, error) { return r.blocks, rigStart, nil }
			for i := range 20 {
				if err := d.Add(r.tx, grow, long(201, i), 7, 1); err != nil && !errors.Is(err, syscall.EUCLEAN) {
					t.Fatal(err)
				}
			}
		}
	}
}

// TestListingThatNeverEnds has an index with 123 x 127 ways to one leaf.
func TestListingThatNeverEnds(t *testing.T) {
	var root, node []disktest.DxEntry
	for i := range disktest.DxLimit(1024, true, false) {
		root = append(root, disktest.DxEntry{Hash: uint32(i) << 25, Block: 1})
	}
	for i := range disktest.DxLimit(1024, false, false) {
		node = append(node, disktest.DxEntry{Hash: uint32(i) << 1, Block: 2})
	}
	blocks := slices.Concat(disktest.DxRoot(1024, false, ino, 2, 1, 1, root...), disktest.DxNode(1024, false, node...),
		disktest.DirBlock(1024, false, disktest.Entry{Ino: 20, Name: "one"}))
	r := load(t, hostileShape(false, false), blocks, true)
	seen := 0
	if err := r.open().ReadByHash(0, func(dirent.Entry) bool { seen++; return true }); !errors.Is(err, syscall.EUCLEAN) || seen != 2 {
		t.Errorf("%d entries, then %v", seen, err)
	}
}

// TestTooManyOfOneHash adds names until lookups would no longer find them.
func TestTooManyOfOneHash(t *testing.T) {
	f := rigFormat()
	f.HashVersion = disk.HashLegacy
	r := newRig(t, rigShape{blockSize: 1024, csum: true, format: f})
	r.init()
	var err error
	names := sameHash(16384, strings.Repeat("x", 255-9*14))
	n := 0
	for ; err == nil; n++ {
		if n == len(names) {
			t.Fatal("there is no end")
		}
		err = r.add(names[n], uint32(100+n))
	}
	if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "too many names have the hash") {
		t.Fatal(err)
	}
	for i, name := range names[:n-1] {
		if i%40 == 0 {
			if got, err := r.open().Lookup(name); err != nil || got != uint32(100+i) {
				t.Fatalf("lookup of %q: %d, %v", name, got, err)
			}
		}
	}
	t.Logf("%d names in %d blocks", n-1, r.blocks)
}

// TestGrowLies is told a block that the directory has.
func TestGrowLies(t *testing.T) {
	r := newRig(t, hostileShape(true, false))
	r.init()
	for i := range 3 {
		r.mustAdd(long(255, i), 100)
	}
	d := r.open()
	if err := d.Add(r.tx, func() (uint64, uint64, error) { return 0, rigStart, nil }, long(255, 9), 7, 1); !errors.Is(err, syscall.EUCLEAN) {
		t.Error(err)
	}
}

// TestLargestDirectories cannot grow any further.
func TestLargestDirectories(t *testing.T) {
	for _, c := range []struct {
		blockSize    int
		large, index bool
		size         uint64
	}{
		{4096, false, false, 1<<32 - 4096}, {4096, false, true, 1<<32 - 4096}, {4096, true, true, 4096 << 28}, {1024, true, false, 1024 << 32},
	} {
		f := rigFormat()
		f.Index, f.LargeDir = c.index, c.large
		r := newRig(t, rigShape{blockSize: c.blockSize, format: f, most: 4})
		r.geo = disktest.Geometry(t, c.blockSize, 1<<32+1<<20)
		r.init()
		r.mustAdd(long(255, 0), 100)
		d := r.open()
		d.Size = c.size
		grown := false
		grow := func() (uint64, uint64, error) { grown = true; return 0, 0, syscall.EIO }
		var err error
		for i := 1; err == nil && i < 30; i++ {
			err = d.Add(r.tx, grow, long(255, i), 100, 1)
		}
		if !errors.Is(err, syscall.ENOSPC) || grown {
			t.Errorf("%+v: %v, grown %v", c, err, grown)
		}
	}
}

// FuzzEdit changes directories whose blocks hold anything.
func FuzzEdit(f *testing.F) {
	for _, csum := range []bool{false, true} {
		for i, raw := range hostileSeeds(f, csum) {
			f.Add(raw[:min(len(raw), 30*1024)], long(250, 1), csum, i > 0, int64(i)<<60)
		}
	}
	f.Fuzz(func(t *testing.T, blocks []byte, name string, csum, index bool, pos int64) {
		blocks = append(slices.Clone(blocks), make([]byte, -len(blocks)&1023)...)
		if csum {
			for i := 0; i < len(blocks); i += 1024 {
				if blocks[i+100]&1 == 0 {
					reseal(blocks[i:i+1024], i == 0)
				}
			}
		}
		abuse(t, load(t, hostileShape(csum, pos&1 == 0), blocks, index), name, pos)
	})
}

// FuzzInlineEdit changes directories in inodes that hold anything.
func FuzzInlineEdit(f *testing.F) {
	in := newInlineRig(rigFormat())
	d := in.open()
	for i := range 6 {
		if err := d.Add(long(10+i, i), 100, 1, 100); err != nil {
			f.Fatal(err)
		}
	}
	f.Add(d.Head, d.Tail, long(12, 2), int64(0), 160)
	f.Fuzz(func(t *testing.T, head, tail []byte, name string, pos int64, room int) {
		in := newInlineRig(rigFormat())
		in.format.Index = pos&1 == 0
		in.head, in.tail = head[:min(len(head), disk.InodeBlockSize)], tail[:min(len(tail), 3900)]
		d := in.open()
		check := func(err error) {
			if err != nil && err != dirent.NotFound && err != dirent.ErrNoRoom && !errors.Is(err, syscall.EUCLEAN) &&
				!errors.Is(err, syscall.EINVAL) && !errors.Is(err, syscall.ENAMETOOLONG) {
				t.Error(err)
			}
		}
		check(d.ReadByHash(pos, func(dirent.Entry) bool { return true }))
		check(d.Add(name, 77, 1, room&4095))
		_, err := d.Replace(name, 78, 2)
		check(err)
		_, err = d.Empty()
		check(err)
		r := newRig(t, hostileShape(true, false))
		check(r.change(func(to *dirent.Dir, tx buffer.Tx, grow dirent.Grow) error { return d.Convert(tx, to, grow) }))
		_, err = d.Remove(name)
		check(err)
	})
}
