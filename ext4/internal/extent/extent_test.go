package extent_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"

	"ext4box/ext4/internal/buffer"
	"ext4box/ext4/internal/disk"
	"ext4box/ext4/internal/disktest"
	"ext4box/ext4/internal/extent"
	"ext4box/internal/e2test"
)

const (
	ino  = 12
	seed = 0x5EED
)

// device is a filesystem in memory that hands out blocks for metadata from its
// start.
type device struct {
	geo  *disk.Geometry
	sums disk.Checksums
	data []byte
	next uint64
}

func newDevice(tb testing.TB, blockSize int, blocks uint64) *device {
	return &device{
		geo: disktest.Geometry(tb, blockSize, blocks), sums: disk.Checksums{Metadata: true},
		data: make([]byte, 0, 16*blockSize), next: 2,
	}
}

// put stores a metadata block and returns its place.
func (d *device) put(b []byte) uint64 {
	blk := d.next
	d.next++
	end := int(blk+1) * int(d.geo.BlockSize)
	d.data = append(d.data, make([]byte, end-len(d.data))...)
	copy(d.data[end-len(b):], b)
	return blk
}

// node stores an extent tree node with its checksum.
func (d *device) node(depth int, entries ...disktest.Extent) uint64 {
	b := disktest.ExtentNode(int(d.geo.BlockSize), depth, entries...)
	disktest.SealExtentNode(seed, b)
	return d.put(b)
}

func (d *device) openMap(root []byte, tree bool) *extent.Map {
	return &extent.Map{
		Cache: buffer.New(bytes.NewReader(d.data), int(d.geo.BlockSize), 1<<20),
		Geo:   d.geo, Sums: &d.sums, Ino: ino, Seed: seed, Root: root, Tree: tree,
	}
}

func root(depth int, entries ...disktest.Extent) []byte {
	return disktest.ExtentNode(disktest.RootSize, depth, entries...)
}

// lookup fails the test unless blk is in the run wanted.
func lookup(t *testing.T, m *extent.Map, blk uint64, want extent.Run) {
	t.Helper()
	got, err := m.Lookup(blk)
	if err != nil || got != want {
		t.Errorf("block %d: %+v, %v; want %+v", blk, got, err, want)
	}
}

func written(blk, n, start uint64) extent.Run {
	return extent.Run{Block: blk, Len: n, Start: start, State: extent.Written}
}

func unwritten(blk, n, start uint64) extent.Run {
	return extent.Run{Block: blk, Len: n, Start: start, State: extent.Unwritten}
}

func hole(blk, end uint64) extent.Run { return extent.Run{Block: blk, Len: end - blk} }

func TestEmptyTree(t *testing.T) {
	m := newDevice(t, 1024, 1000).openMap(root(0), true)
	if err := m.CheckRoot(); err != nil {
		t.Fatal(err)
	}
	for _, blk := range []uint64{0, 77, extent.MaxBlocks - 1} {
		lookup(t, m, blk, hole(0, extent.MaxBlocks))
	}
}

func TestExtentsInTheInode(t *testing.T) {
	m := newDevice(t, 1024, 100000).openMap(root(0, disktest.Written(2, 3, 100), disktest.Unwritten(5, 1, 103), disktest.Written(10, 32768, 200),
		disktest.Written(1<<32-1, 1, 9)), true)
	if err := m.CheckRoot(); err != nil {
		t.Fatal(err)
	}
	for blk, want := range map[uint64]extent.Run{
		0: hole(0, 2), 1: hole(0, 2), 2: written(2, 3, 100), 4: written(2, 3, 100), 5: unwritten(5, 1, 103), 6: hole(6, 10), 9: hole(6, 10),
		10: written(10, 32768, 200), 32777: written(10, 32768, 200), 32778: hole(32778, 1<<32-1),
		1<<32 - 2: hole(32778, 1<<32-1), 1<<32 - 1: written(1<<32-1, 1, 9),
	} {
		lookup(t, m, blk, want)
	}
}

// TestDepths has one extent below a chain of each possible length, in the
// middle of a range that the nodes leave open on both sides.
func TestDepths(t *testing.T) {
	for depth := 0; depth <= disk.ExtentMaxDepth; depth++ {
		d := newDevice(t, 1024, 1000)
		entry := disktest.Written(50, 10, 500)
		for level := range depth {
			entry = disktest.Written(uint32(50-level), 0, d.node(level, entry))
		}
		m := d.openMap(root(depth, entry), true)
		if err := m.CheckRoot(); err != nil {
			t.Fatalf("depth %d: %v", depth, err)
		}
		lookup(t, m, 55, written(50, 10, 500))
		lookup(t, m, 60, hole(60, extent.MaxBlocks))
		lookup(t, m, 1<<32-1, hole(60, extent.MaxBlocks))
		if r, err := m.Lookup(10); err != nil || r.State != extent.Hole || r.Block > 10 || r.End() <= 10 || r.End() > 50 {
			t.Errorf("depth %d: block 10: %+v, %v", depth, r, err)
		}
	}
	d := newDevice(t, 1024, 1000)
	if err := d.openMap(root(disk.ExtentMaxDepth+1, disktest.Written(0, 0, 5)), true).CheckRoot(); !errors.Is(err, syscall.EUCLEAN) {
		t.Errorf("depth %d: %v", disk.ExtentMaxDepth+1, err)
	}
}

// TestChildrenBeyondTheirRange has leaves that claim more than their parents
// leave to them. Each file block has exactly one answer.
func TestChildrenBeyondTheirRange(t *testing.T) {
	d := newDevice(t, 1024, 100000)
	a := d.node(0, disktest.Written(0, 200, 1000)) // beyond the 100 of its range
	b := d.node(0, disktest.Written(50, 10, 5000), disktest.Written(150, 10, 6000))
	c := d.node(0, disktest.Written(900, 10, 7000), disktest.Written(0xFFFFFFF0, 16, 8000))
	m := d.openMap(root(1, disktest.Written(0, 0, a), disktest.Written(100, 0, b), disktest.Written(400, 0, c)), true)
	for blk, want := range map[uint64]extent.Run{
		0: written(0, 100, 1000), 99: written(0, 100, 1000), 100: hole(100, 150), 149: hole(100, 150), 150: written(150, 10, 6000),
		160: hole(160, 400), 399: hole(160, 400), 400: hole(400, 900), 905: written(900, 10, 7000), 1<<32 - 1: written(0xFFFFFFF0, 16, 8000),
	} {
		lookup(t, m, blk, want)
	}
	// An extent that starts before its range keeps its device blocks.
	e := d.node(0, disktest.Written(0, 200, 1000))
	m = d.openMap(root(1, disktest.Written(100, 0, e)), true)
	lookup(t, m, 100, written(100, 100, 1100))
	lookup(t, m, 99, hole(0, 100))
}

// TestDamagedTrees has trees with one thing wrong. The error names the inode.
func TestDamagedTrees(t *testing.T) {
	for name, build := range map[string]func(d *device) []byte{
		"cycle": func(d *device) []byte {
			blk := d.next
			d.node(1, disktest.Written(0, 0, blk))
			return root(2, disktest.Written(0, 0, blk))
		},
		"cycle through two": func(d *device) []byte {
			blk := d.next
			d.node(2, disktest.Written(0, 0, blk+1))
			d.node(1, disktest.Written(0, 0, blk))
			return root(3, disktest.Written(0, 0, blk))
		},
		"leaf in the place of a node": func(d *device) []byte {
			return root(2, disktest.Written(0, 0, d.node(0, disktest.Written(0, 1, 9))))
		},
		"node in the place of a leaf": func(d *device) []byte {
			return root(1, disktest.Written(0, 0, d.node(1, disktest.Written(0, 0, 9))))
		},
		"child behind the device": func(d *device) []byte { return root(1, disktest.Written(0, 0, 1000)) },
		"child in block 0":        func(d *device) []byte { return root(1, disktest.Written(0, 0, 0)) },
		"no node at all":          func(d *device) []byte { return root(1, disktest.Written(0, 0, d.put(nil))) },
		"bad checksum": func(d *device) []byte {
			b := disktest.ExtentNode(1024, 0, disktest.Written(0, 1, 9))
			disktest.SealExtentNode(seed+1, b)
			return root(1, disktest.Written(0, 0, d.put(b)))
		},
		"no room for the checksum": func(d *device) []byte {
			b := disktest.ExtentNode(1024, 0, disktest.Written(0, 1, 9))
			disktest.SealExtentNode(seed, b)
			binary.LittleEndian.PutUint16(b[4:], 85)
			return root(1, disktest.Written(0, 0, d.put(b)))
		},
		"extent behind the device": func(d *device) []byte {
			return root(1, disktest.Written(0, 0, d.node(0, disktest.Written(0, 2, 999))))
		},
		"overlap in a leaf": func(d *device) []byte {
			return root(1, disktest.Written(0, 0, d.node(0, disktest.Written(0, 2, 9), disktest.Written(1, 2, 11))))
		},
		"empty inner node": func(d *device) []byte { return root(2, disktest.Written(0, 0, d.node(1))) },
	} {
		d := newDevice(t, 1024, 1000)
		m := d.openMap(build(d), true)
		err := m.CheckRoot()
		if err == nil {
			_, err = m.Lookup(0)
		}
		var corrupt *disk.CorruptError
		if !errors.As(err, &corrupt) || !strings.Contains(err.Error(), "inode 12") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestLeafOfAnotherInode sees that a block that was checked for one inode is
// checked again for another, whose checksum seed it does not have.
func TestLeafOfAnotherInode(t *testing.T) {
	d := newDevice(t, 1024, 1000)
	r := root(1, disktest.Written(0, 0, d.node(0, disktest.Written(0, 1, 9))))
	mine := d.openMap(r, true)
	lookup(t, mine, 0, written(0, 1, 9))
	other := *mine
	other.Ino, other.Seed = ino+1, seed+1
	if _, err := other.Lookup(0); !errors.Is(err, syscall.EUCLEAN) {
		t.Errorf("the other inode: %v", err)
	}
	lookup(t, mine, 0, written(0, 1, 9))
}

// TestWithoutChecksums reads a leaf that has none.
func TestWithoutChecksums(t *testing.T) {
	d := newDevice(t, 1024, 1000)
	d.sums.Metadata = false
	blk := d.put(disktest.ExtentNode(1024, 0, disktest.Written(0, 1, 9)))
	lookup(t, d.openMap(root(1, disktest.Written(0, 0, blk)), true), 0, written(0, 1, 9))
}

func TestClip(t *testing.T) {
	for _, c := range []struct {
		in     extent.Run
		lo, hi uint64
		want   extent.Run
	}{
		{written(10, 10, 100), 0, 100, written(10, 10, 100)},
		{written(10, 10, 100), 12, 15, written(12, 3, 102)},
		{hole(10, 20), 12, 15, hole(12, 15)},
		{unwritten(10, 10, 100), 19, 20, unwritten(19, 1, 109)},
	} {
		got := c.in
		if got.Clip(c.lo, c.hi); got != c.want {
			t.Errorf("%+v in %d-%d: %+v, want %+v", c.in, c.lo, c.hi, got, c.want)
		}
	}
}

// TestExtentsEqualDebugfs compares a file with many extents, made by debugfs.
func TestExtentsEqualDebugfs(t *testing.T) {
	for _, format := range []string{"ext4", "ext2"} {
		path := e2test.Image(t, 16<<20, "-t", format, "-b", "1024")
		requests := []string{"write /dev/null f"}
		if format == "ext4" {
			for i := range 200 {
				requests = append(requests, fmt.Sprintf("fallocate f %d %d", i*i, i*i+i%3))
			}
		} else {
			for _, i := range []int{0, 11, 12, 13, 267, 268, 269, 300, 65803, 65804, 65805, 400000, 16843019} {
				requests = append(requests, fmt.Sprintf("fallocate f %d %d", i, i))
			}
		}
		e2test.Change(t, path, requests...)
		raw := e2test.Bytes(t, path, disk.SuperblockOffset, disk.SuperblockSize)
		sb := disk.DecodeSuperblock(raw)
		g, err := sb.Geometry()
		if err != nil {
			t.Fatal(err)
		}
		var num uint32
		if _, err := fmt.Sscanf(e2test.Debugfs(t, path, "stat f"), "Inode: %d", &num); err != nil {
			t.Fatal(err)
		}
		image := e2test.Bytes(t, path, 0, 16<<20)
		group, index := g.InodeGroup(num)
		desc := disk.DecodeGroupDesc(image[g.DescBlock(1, 0)*1024+uint64(group*g.DescSize):][:g.DescSize])
		in := disk.DecodeInode(image[desc.InodeTable*1024+uint64(index*g.InodeSize):][:g.InodeSize], false)
		sums := sb.Checksums()
		m := extent.Map{Cache: buffer.New(bytes.NewReader(image), 1024, 1<<20), Geo: &g, Sums: &sums, Ino: num,
			Seed: sums.InodeSeed(num, in.Generation), Root: in.Block[:], Tree: in.Flags&disk.FlagExtents != 0}
		if err := m.CheckRoot(); err != nil || m.Tree != (format == "ext4") {
			t.Fatalf("tree is %v, %v", m.Tree, err)
		}
		var got []disktest.Extent
		for blk := uint64(0); blk < extent.MaxBlocks; {
			r, err := m.Lookup(blk)
			if err != nil {
				t.Fatal(err)
			}
			for ; r.State != extent.Hole && blk < r.End(); blk++ {
				got = append(got, disktest.Extent{Block: uint32(blk), Len: 1, Start: r.Start + blk - r.Block, Unwritten: r.State == extent.Unwritten})
			}
			blk = r.End()
		}
		var want []disktest.Extent
		for _, e := range disktest.Extents(t, path, "f") {
			for i := range e.Len {
				want = append(want, disktest.Extent{Block: e.Block + i, Len: 1, Start: e.Start + uint64(i), Unwritten: e.Unwritten})
			}
		}
		if !slices.Equal(got, want) || len(want) < 10 {
			t.Errorf("%s: blocks %v, debugfs says %v", format, got, want)
		}
	}
}
