package extent_test

import (
	"errors"
	"slices"
	"syscall"
	"testing"

	"pgregory.net/rapid"

	"ext4box/ext4/internal/disk"
	"ext4box/ext4/internal/disktest"
	"ext4box/ext4/internal/extent"
)

// backing is what the model says about a file block.
type backing struct {
	start uint64
	state extent.State
}

// model is a file's blocks, one by one.
type model map[uint64]backing

// check compares the run at blk with the model, block by block at its ends and
// where the model has something.
func (want model) check(t *rapid.T, m *extent.Map, blk uint64) extent.Run {
	t.Helper()
	r, err := m.Lookup(blk)
	if err != nil {
		t.Fatalf("block %d: %v", blk, err)
	}
	if blk < r.Block || blk >= r.End() || r.End() > extent.MaxBlocks || (r.State == extent.Hole) != (r.Start == 0) {
		t.Fatalf("block %d is in run %+v", blk, r)
	}
	at := func(blk uint64) {
		b := want[blk]
		if b.state != r.State || r.State != extent.Hole && b.start != r.Start+blk-r.Block {
			t.Fatalf("block %d: run %+v, want %+v", blk, r, b)
		}
	}
	if r.Len < 5000 {
		for i := r.Block; i < r.End(); i++ {
			at(i)
		}
		return r
	}
	for i := range want {
		if i >= r.Block && i < r.End() {
			at(i)
		}
	}
	at(r.Block)
	at(r.End() - 1)
	return r
}

// walk goes through the whole file run by run, and looks up some blocks too.
func (want model) walk(t *rapid.T, m *extent.Map, probes []uint64) {
	t.Helper()
	if err := m.CheckRoot(); err != nil {
		t.Fatal(err)
	}
	steps := 0
	for blk := uint64(0); blk < extent.MaxBlocks; steps++ {
		r := want.check(t, m, blk)
		blk = r.End()
	}
	if limit := 3*len(want) + 1000; steps > limit {
		t.Fatalf("%d runs for %d blocks", steps, len(want))
	}
	for _, blk := range probes {
		want.check(t, m, blk)
	}
}

const modelBlocks = 1 << 24 // of the device

// drawTree builds a random tree: random extents in leaves of random size, below
// inner nodes of random size, as deep as that takes.
func drawTree(t *rapid.T, d *device) (root []byte, want model, probes []uint64) {
	want = model{}
	var level []disktest.Extent
	blk := uint64(0)
	for range rapid.IntRange(0, 60).Draw(t, "extents") {
		blk += rapid.OneOf(rapid.Just(uint64(0)), rapid.Uint64Range(0, 20), rapid.Uint64Range(0, 1<<27)).Draw(t, "gap")
		n := rapid.Uint32Range(1, 50).Draw(t, "len")
		e := disktest.Written(uint32(blk), n, rapid.Uint64Range(1000, modelBlocks-100).Draw(t, "start"))
		e.Unwritten = rapid.Bool().Draw(t, "unwritten")
		state := extent.Written
		if e.Unwritten {
			state = extent.Unwritten
		}
		if blk+uint64(n) > extent.MaxBlocks {
			break
		}
		for i := range uint64(n) {
			want[blk+i] = backing{e.Start + i, state}
		}
		probes = append(probes, blk, blk+uint64(n)-1, min(blk+uint64(n), extent.MaxBlocks-1), max(blk, 1)-1)
		level = append(level, e)
		blk += uint64(n)
	}
	fan := rapid.IntRange(2, 8).Draw(t, "fan")
	depth := 0
	for len(level) > 4 || depth < 3 && len(level) > 0 && rapid.Bool().Draw(t, "deeper") {
		var above []disktest.Extent
		for group := range slices.Chunk(level, fan) {
			first := group[0].Block
			if len(above) == 0 && rapid.Bool().Draw(t, "from 0") {
				first = 0 // an index may cover more than its first extent
			}
			above = append(above, disktest.Written(first, 0, d.node(depth, group...)))
		}
		level = above
		if depth++; depth > disk.ExtentMaxDepth {
			t.Skip("too deep")
		}
	}
	return disktest.ExtentNode(disktest.RootSize, depth, level...), want, probes
}

func TestTreeEqualsModel(t *testing.T) {
	geo := newDevice(t, 1024, modelBlocks)
	rapid.Check(t, func(t *rapid.T) {
		d := &device{geo: geo.geo, sums: geo.sums, next: 2}
		root, want, probes := drawTree(t, d)
		want.walk(t, d.openMap(root, true), probes)
	})
}

// drawMap builds a random block map of direct to triple-indirect blocks, with
// stretches that are contiguous on the device.
func drawMap(t *rapid.T, d *device) (root []byte, want model, probes []uint64) {
	want = model{}
	for range rapid.IntRange(0, 8).Draw(t, "stretches") {
		blk := rapid.OneOf(rapid.Uint64Range(0, 40), rapid.Uint64Range(firstDouble-20, firstDouble+2*perBlock),
			rapid.Uint64Range(firstTriple-20, firstTriple+2*perBlock*perBlock), rapid.Uint64Range(0, firstNone-1)).Draw(t, "block")
		start := rapid.Uint64Range(1000, modelBlocks-1000).Draw(t, "start")
		for i := range rapid.Uint64Range(1, 300).Draw(t, "len") {
			if blk+i < firstNone {
				want[blk+i] = backing{start + i, extent.Written}
			}
		}
		probes = append(probes, blk, max(blk, 1)-1, min(blk+300, firstNone))
	}
	tree := map[int]uint64{}
	for blk, b := range want {
		if blk < firstSingle {
			tree[int(blk)] = b.start
		}
	}
	first, span := uint64(firstSingle), uint64(perBlock)
	for level := range 3 {
		if blk := putTree(d, want, first, span); blk != 0 {
			tree[12+level] = blk
		}
		first += span
		span *= perBlock
	}
	return inodePointers(tree), want, probes
}

// putTree stores the tree that covers [first, first+span), if it has anything.
func putTree(d *device, want model, first, span uint64) uint64 {
	span /= perBlock
	at := map[int]uint64{}
	for blk, b := range want {
		if blk < first || blk >= first+span*perBlock {
			continue
		}
		i := int((blk - first) / span)
		if span == 1 {
			at[i] = b.start
		} else {
			at[i] = 0
		}
	}
	if len(at) == 0 {
		return 0
	}
	if span > 1 {
		for i := range at {
			at[i] = putTree(d, want, first+uint64(i)*span, span)
		}
	}
	return d.indirect(at)
}

func TestBlockMapEqualsModel(t *testing.T) {
	geo := newDevice(t, 1024, modelBlocks)
	rapid.Check(t, func(t *rapid.T) {
		d := &device{geo: geo.geo, sums: geo.sums, next: 2}
		root, want, probes := drawMap(t, d)
		want.walk(t, d.openMap(root, false), probes)
	})
}

// FuzzMap takes the root and a few blocks that it may point to, and walks the
// file. Whatever they hold, runs cover the file without gaps, stay on the device
// and end.
func FuzzMap(f *testing.F) {
	d := newDevice(f, 1024, 1000)
	leaf := d.node(0, disktest.Written(0, 5, 900), disktest.Unwritten(7, 2, 800))
	inner := d.node(1, disktest.Written(0, 0, leaf))
	f.Add(disktest.ExtentNode(disktest.RootSize, 2, disktest.Written(0, 0, inner)), d.data[2048:], true, false)
	d = newDevice(f, 1024, 1000)
	single := d.indirect(map[int]uint64{0: 5, 1: 6, 9: 900})
	f.Add(inodePointers(map[int]uint64{0: 7, 12: single, 13: single, 14: d.indirect(map[int]uint64{4: single})}), d.data[2048:], false, false)
	f.Fuzz(func(t *testing.T, root, blocks []byte, tree, sums bool) {
		d := newDevice(t, 1024, 1000)
		d.sums.Metadata = sums
		blocks = blocks[:min(len(blocks), 8*1024)]
		for len(blocks) > 0 {
			n := min(len(blocks), 1024)
			b := append(append([]byte{}, blocks[:n]...), make([]byte, 1024-n)...)
			if sums && b[4] == 84 && b[5] == 0 {
				disktest.SealExtentNode(seed, b) // so that some get past the checksum
			}
			d.put(b)
			blocks = blocks[n:]
		}
		m := d.openMap(append(append([]byte{}, root[:min(len(root), 60)]...), make([]byte, 60-min(len(root), 60))...), tree)
		if err := m.CheckRoot(); err != nil {
			if !errors.Is(err, syscall.EUCLEAN) {
				t.Errorf("error %v", err)
			}
			return
		}
		blk := uint64(0)
		for range 3000 {
			r, err := m.Lookup(blk)
			if err != nil {
				if !errors.Is(err, syscall.EUCLEAN) && !errors.Is(err, syscall.EIO) {
					t.Errorf("error %v", err)
				}
				return
			}
			if r.Len == 0 || r.Block > blk || r.End() <= blk || r.End() > extent.MaxBlocks ||
				r.State != extent.Hole && !d.geo.BlocksInRange(r.Start, r.Len) {
				t.Fatalf("block %d is in run %+v", blk, r)
			}
			if blk = r.End(); blk == extent.MaxBlocks {
				return
			}
		}
	})
}
