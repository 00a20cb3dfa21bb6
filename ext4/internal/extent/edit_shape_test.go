package extent_test

import (
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"ext4box/ext4/internal/buffer"
	"ext4box/ext4/internal/disk"
	"ext4box/ext4/internal/disktest"
	"ext4box/ext4/internal/extent"
)

func (g *rig) depth() int { return int(disk.DecodeExtentHeader(g.m.Root).Depth) }

// scattered is a block for a file block that continues none of its neighbours.
func scattered(blk uint64) extent.Run {
	return extent.Run{Block: blk, Len: 1, Start: 1<<33 + 2*blk, State: extent.Written}
}

func (g *rig) must(err error) {
	g.Helper()
	if err != nil {
		g.Fatal(err)
	}
}

// TestAppendsFillNodes has a file that grows by blocks that are not contiguous:
// all leaves and inner nodes but the last ones are full.
func TestAppendsFillNodes(t *testing.T) {
	const extents = 100000
	for blockSize, want := range map[int]int{1024: 1191 + 15 + 1, 4096: 295 + 1} {
		g := newRig(t, disktest.Geometry(t, blockSize, editBlocks), true, true)
		for i := range uint64(extents) {
			g.must(g.m.Insert(g.tx, g.nodes, scattered(i)))
			g.want = append(g.want, scattered(i))
		}
		g.check()
		if n := len(g.nodes.used); n != want {
			t.Errorf("blocks of %d: %d nodes, want %d", blockSize, n, want)
		}
	}
}

// TestRandomInsertsAndRemoves builds a deep tree in random order, and takes it
// down in another.
func TestRandomInsertsAndRemoves(t *testing.T) {
	const extents = 50000
	g := newRig(t, disktest.Geometry(t, 1024, editBlocks), true, true)
	rng := rand.New(rand.NewPCG(1, 2))
	for i, at := range rng.Perm(extents) {
		g.must(g.m.Insert(g.tx, g.nodes, scattered(uint64(2*at))))
		g.want = append(g.want, scattered(uint64(2*at)))
		if i%10000 == 9999 {
			g.want.put()
			g.check()
		}
	}
	if d, n := g.depth(), len(g.nodes.used); d < 3 || n > extents/84*2 {
		t.Errorf("depth %d, %d nodes", d, n)
	}
	freed := map[uint64]bool{}
	gone := map[uint64]bool{}
	for i, at := range rng.Perm(extents) {
		blk := uint64(2 * at)
		g.must(g.m.Remove(g.tx, g.nodes, blk, blk+1, func(start, n uint64) error {
			if n != 1 || start != scattered(blk).Start || freed[start] {
				t.Fatalf("block %d: freed %d+%d", blk, start, n)
			}
			freed[start] = true
			return nil
		}))
		gone[blk] = true
		if left := extents - 1 - i; left%10000 == 0 || left == 5 || left == 4 || left == 100 {
			g.want = slices.DeleteFunc(g.want, func(r extent.Run) bool { return gone[r.Block] })
			g.check()
			// Sparse leaves are merged, and four extents fit into the inode.
			if n := len(g.nodes.used); n > left/84*5+4 || left <= 4 && g.depth() != 0 {
				t.Errorf("%d extents left in %d nodes, depth %d", left, n, g.depth())
			}
		}
	}
}

// TestWholeFileAtOnce inserts the longest possible run, which is cut into more
// extents than a few nodes have room for, and takes it out in steps.
func TestWholeFileAtOnce(t *testing.T) {
	g := newRig(t, disktest.Geometry(t, 1024, editBlocks), true, true)
	all := extent.Run{Len: extent.MaxMapped, Start: 1 << 34, State: extent.Unwritten}
	g.must(g.insert(all))
	g.check()
	g.must(g.convert(1<<31+5, 1<<31+6, extent.Written))
	g.must(g.convert(1<<20, 1<<22, extent.Written))
	g.check()
	g.must(g.remove(1<<20, 1<<22, 7))
	g.must(g.shift(1<<22, -(1 << 20)))
	g.check()
	g.must(g.remove(0, 1<<63, 1000))
	g.check()

	// The same into a tree that has nodes already.
	for i := range uint64(10) {
		g.must(g.insert(scattered(i)))
	}
	g.must(g.insert(extent.Run{Block: 100, Len: extent.MaxMapped - 100, Start: 1 << 34, State: extent.Written}))
	g.check()
}

// TestConvertToUnwritten splits every extent of a full leaf, since an unwritten
// extent cannot be as long as a written one.
func TestConvertToUnwritten(t *testing.T) {
	g := newRig(t, disktest.Geometry(t, 1024, editBlocks), true, true)
	for i := range uint64(84 * 3) {
		g.must(g.insert(extent.Run{Block: i << 16, Len: 1 << 15, Start: 1<<34 + i<<16, State: extent.Written}))
	}
	g.must(g.convert(5, 84*3<<16, extent.Unwritten))
	g.check()
	if n := len(g.mapped()); n != 84*3*2 {
		t.Errorf("%d extents", n)
	}
	g.must(g.convert(5, 84*3<<16, extent.Written))
	g.check()
	if n := len(g.mapped()); n != 84*3 {
		t.Errorf("%d extents", n)
	}
}

// TestMerging has small edits whose result is known to the extent.
func TestMerging(t *testing.T) {
	g := newRig(t, disktest.Geometry(t, 1024, editBlocks), true, true)
	const at = 1 << 33
	expect := func(want ...extent.Run) {
		t.Helper()
		g.check()
		if got := g.mapped(); !slices.Equal(got, layout(want)) {
			t.Errorf("extents %v, want %v", got, want)
		}
	}
	g.must(g.insert(written(10, 10, at+10)))
	g.must(g.insert(written(30, 10, at+30)))
	expect(written(10, 10, at+10), written(30, 10, at+30))
	g.must(g.insert(written(20, 10, at+20)))
	expect(written(10, 30, at+10))
	g.must(g.insert(unwritten(40, 10, at+40)))
	g.must(g.insert(unwritten(5, 5, at+5)))
	expect(unwritten(5, 5, at+5), written(10, 30, at+10), unwritten(40, 10, at+40))
	g.must(g.convert(42, 44, extent.Written))
	expect(unwritten(5, 5, at+5), written(10, 30, at+10), unwritten(40, 2, at+40), written(42, 2, at+42), unwritten(44, 6, at+44))
	g.must(g.convert(40, 42, extent.Written))
	expect(unwritten(5, 5, at+5), written(10, 34, at+10), unwritten(44, 6, at+44))
	g.must(g.convert(0, 100, extent.Written))
	expect(written(5, 45, at+5))
	g.must(g.convert(10, 20, extent.Unwritten))
	g.must(g.convert(12, 13, extent.Unwritten)) // nothing to do
	expect(written(5, 5, at+5), unwritten(10, 10, at+10), written(20, 30, at+20))
	g.must(g.remove(8, 22, 10))
	expect(written(5, 3, at+5), written(22, 28, at+22))
	g.must(g.insert(written(8, 2, at+100))) // not where it would continue
	expect(written(5, 3, at+5), written(8, 2, at+100), written(22, 28, at+22))
	g.must(g.shift(22, -12))
	expect(written(5, 3, at+5), written(8, 2, at+100), written(10, 28, at+22))
	g.must(g.remove(0, 100, 10))
	g.must(g.insert(written(5, 33, at+5)))
	g.must(g.shift(20, 1000))
	expect(written(5, 15, at+5), written(1020, 18, at+20))
	g.must(g.shift(1020, -1000))
	expect(written(5, 33, at+5))

	// The longest extents, and what does not fit any more.
	g.must(g.remove(0, 100, 10))
	g.must(g.insert(written(0, 32767, at)))
	g.must(g.insert(written(32767, 3, at+32767)))
	expect(written(0, 32768, at), written(32768, 2, at+32768))
	g.must(g.insert(unwritten(40000, 32766, at+40000)))
	g.must(g.insert(unwritten(40000+32766, 3, at+40000+32766)))
	expect(written(0, 32768, at), written(32768, 2, at+32768), unwritten(40000, 32767, at+40000), unwritten(72767, 2, at+72767))
}

// TestShrinking goes between the inode and one leaf.
func TestShrinking(t *testing.T) {
	g := newRig(t, disktest.Geometry(t, 1024, editBlocks), true, true)
	for i := range uint64(5) {
		g.must(g.insert(written(10*i, 5, 1<<33+10*i)))
	}
	if g.check(); g.depth() != 1 {
		t.Errorf("five extents: depth %d", g.depth())
	}
	g.must(g.insert(written(5, 5, 1<<33+5))) // joins two
	if g.check(); g.depth() != 0 {
		t.Errorf("four extents: depth %d", g.depth())
	}
	g.must(g.convert(2, 3, extent.Unwritten))
	if g.check(); g.depth() != 1 {
		t.Errorf("six extents: depth %d", g.depth())
	}
	g.must(g.convert(2, 3, extent.Written))
	if g.check(); g.depth() != 0 {
		t.Errorf("four extents: depth %d", g.depth())
	}
}

// TestIndirectNodes counts the indirect blocks of files whose ends are at the
// boundaries of the trees.
func TestIndirectNodes(t *testing.T) {
	geo := disktest.Geometry(t, 1024, editBlocks)
	for _, c := range []struct{ lo, hi, nodes uint64 }{
		{0, 12, 0}, {0, 13, 1}, {12, 268, 1}, {11, 269, 3}, {268, 269, 2}, {268, 268 + 257, 3}, {firstTriple - 1, firstTriple + 1, 5},
		{firstTriple + 65535, firstTriple + 65537, 5}, {firstNone - 1, firstNone, 3}, {firstNone - 300, firstNone, 4}, {0, 70000, 1 + 257 + 1 + 17 + 1},
	} {
		g := newRig(t, geo, false, true)
		r := written(c.lo, c.hi-c.lo, 1<<20)
		if got := g.m.InsertCredits(3, c.lo, c.hi); got != (extent.Credits{Blocks: int(c.nodes), Allocs: int(c.nodes), Frees: int(c.nodes)}) {
			t.Errorf("[%d, %d): credits %+v, want %d", c.lo, c.hi, got, c.nodes)
		}
		g.must(g.insert(r))
		if g.check(); len(g.nodes.used) != int(c.nodes) {
			t.Errorf("[%d, %d): %d nodes, want %d", c.lo, c.hi, len(g.nodes.used), c.nodes)
		}
		g.must(g.remove(c.lo+1, c.hi, 3))
		g.check()
		g.must(g.remove(0, c.lo+1, 3))
		g.check()
	}
}

// store puts a node on the device, and returns the index entry for it.
func (g *rig) store(depth, limit int, entries ...disktest.Extent) disktest.Extent {
	g.Helper()
	b := disktest.ExtentNode(int(g.geo.BlockSize), depth, entries...)
	b[4], b[5] = byte(limit), byte(limit>>8)
	disktest.SealExtentNode(seed, b)
	blk, err := g.nodes.AllocNode(g.tx, 1)
	g.must(err)
	_, err = g.dev.WriteAt(b, int64(blk)*int64(len(b)))
	g.must(err)
	return disktest.Written(entries[0].Block, 0, blk)
}

// TestNodesOfOne has nodes with room for one entry each, so that an insert before
// all others splits every node and changes every key.
func TestNodesOfOne(t *testing.T) {
	g := newRig(t, disktest.Geometry(t, 1024, editBlocks), true, true)
	entry := disktest.Written(10, 1, 1<<20)
	for depth := range 3 {
		entry = g.store(depth, 1, entry)
	}
	copy(g.m.Root, root(3, entry))
	g.want.put(written(10, 1, 1<<20))
	g.check()
	g.must(g.insert(written(5, 1, 1<<21)))
	g.check()
	g.must(g.insert(written(4, 1, 1<<22)))
	g.check()
}

// TestCreditsAreTight sees that what is asked for is really needed in the worst
// case: all nodes on the way are full.
func TestCreditsAreTight(t *testing.T) {
	geo := disktest.Geometry(t, 1024, editBlocks)
	for depth, extents := range []uint64{4, 4 * 84, 4 * 84 * 84} {
		g := newRig(t, geo, true, true)
		for i := range extents {
			g.must(g.m.Insert(g.tx, g.nodes, scattered(3*i)))
		}
		if g.depth() != depth {
			t.Fatalf("%d extents have depth %d", extents, g.depth())
		}
		c := g.m.InsertCredits(1, 1, 2)
		if want := (extent.Credits{Blocks: 2*depth + 1, Allocs: depth + 1, Frees: depth + 1}); c != want {
			t.Errorf("depth %d: credits %+v, want %+v", depth, c, want)
		}
		g.must(g.insert(scattered(1)))
		if n := len(g.tx.touched); n != c.Blocks || g.nodes.allocs != c.Allocs {
			t.Errorf("depth %d: an insert into full nodes touches %d and allocates %d, credits %+v", depth, n, g.nodes.allocs, c)
		}
	}
}

// TestRemoveFreesAll removes the second of two extents, each of which has a
// branch of its own, so that all nodes go.
func TestRemoveFreesAll(t *testing.T) {
	for depth := 1; depth <= disk.ExtentMaxDepth; depth++ {
		g := newRig(t, disktest.Geometry(t, 1024, editBlocks), true, true)
		a, b := disktest.Written(10, 1, 1<<20), disktest.Written(20, 1, 1<<21)
		for d := range depth {
			a, b = g.store(d, 84, a), g.store(d, 84, b)
		}
		copy(g.m.Root, root(depth, a, b))
		g.want.put(written(10, 1, 1<<20), written(20, 1, 1<<21))
		g.check()
		c := g.m.RemoveCredits()
		g.must(g.remove(20, 21, 1))
		if g.check(); g.depth() != 0 || g.nodes.frees != 2*depth || c.Frees != 2*depth {
			t.Errorf("depth %d becomes %d, %d nodes freed, credits %+v", depth, g.depth(), g.nodes.frees, c)
		}
	}
}

// TestCreditsOfMany has inserts by which the tree grows and shrinks in turn.
func TestCreditsOfMany(t *testing.T) {
	g := newRig(t, disktest.Geometry(t, 1024, editBlocks), true, true)
	for i := range uint64(4) {
		g.must(g.insert(written(1000*i, 1, 1<<33+1000*i)))
	}
	const n = 20
	c := g.m.InsertCredits(n, 0, 4000)
	var used extent.Credits
	touched := map[uint64]bool{}
	for i := range uint64(n) {
		at := 3000 + i + 2 // leaves a gap, which the next one closes
		if i%2 == 1 {
			at = 3000 + i
		}
		g.must(g.insert(written(at, 1, 1<<33+at)))
		g.nodes.spare = nil // so that no block is used again
		maps.Copy(touched, g.tx.touched)
		used.Allocs += g.nodes.allocs
		used.Frees += g.nodes.frees
	}
	used.Blocks = len(touched)
	if used.Allocs > c.Allocs || used.Frees > c.Frees || used.Blocks > c.Blocks || used.Allocs < n/2 {
		t.Errorf("%d inserts needed %+v, credits were %+v", n, used, c)
	}
	g.check()
}

// TestTouchesLittle has edits that change one leaf, and with it no other block.
func TestTouchesLittle(t *testing.T) {
	g := newRig(t, disktest.Geometry(t, 1024, editBlocks), true, true)
	for i := range uint64(84 * 20) {
		g.must(g.m.Insert(g.tx, g.nodes, scattered(3*i)))
	}
	steps := []struct {
		what string
		want int
		edit func() error
	}{
		{"merge", 1, func() error { r := scattered(3 * 600); r.Block++; r.Start++; return g.m.Insert(g.tx, g.nodes, r) }},
		{"remove", 1, func() error { return g.m.Remove(g.tx, g.nodes, 3*700, 3*700+1, noFree) }},
		{"insert", 1, func() error { return g.m.Insert(g.tx, g.nodes, scattered(3*700)) }},
		{"convert", 1, func() error { return g.m.Convert(g.tx, g.nodes, 3*800, 3*801, extent.Unwritten) }},
		{"convert what is", 0, func() error { return g.m.Convert(g.tx, g.nodes, 0, 1, extent.Written) }},
		{"remove a hole", 0, func() error { return g.m.Remove(g.tx, g.nodes, 3*900+1, 3*901, noFree) }},
		{"append to a full leaf", 2, func() error { return g.m.Insert(g.tx, g.nodes, scattered(3*84*20)) }},
		{"remove that leaf", 1, func() error { return g.m.Remove(g.tx, g.nodes, 3*84*20, 1<<40, noFree) }},
	}
	for _, s := range steps {
		clear(g.tx.touched)
		g.must(s.edit())
		if n := len(g.tx.touched); n != s.want {
			t.Errorf("%s: touches %d blocks, want %d", s.what, n, s.want)
		}
	}
}

// TestTouchesLittleElsewhere is the same for other kinds of nodes.
func TestTouchesLittleElsewhere(t *testing.T) {
	geo := disktest.Geometry(t, 1024, editBlocks)
	g := newRig(t, geo, true, true)
	for i := range uint64(83) {
		g.must(g.insert(scattered(3 * i)))
	}
	g.must(g.insert(written(1000, 32768, 1<<20)))
	g.must(g.insert(written(1000+32768, 5, 1<<20+32768)))
	if n := len(g.tx.touched); n != 1 {
		t.Errorf("an extent that continues the longest possible one touches %d blocks, besides the new leaf", n-1)
	}
	g.check()

	g = newRig(t, geo, false, true)
	g.must(g.insert(written(firstTriple, 1, 1<<20)))
	g.must(g.insert(written(firstTriple+5, 1, 1<<21)))
	if n := len(g.tx.touched); n != 1 {
		t.Errorf("a pointer into an indirect block touches %d blocks", n)
	}
	g.must(g.insert(written(firstTriple+perBlock, 1, 1<<22)))
	if n := len(g.tx.touched); n != 2 {
		t.Errorf("a new indirect block touches %d blocks", n)
	}
	clear(g.tx.touched)
	g.must(g.m.Remove(g.tx, g.nodes, firstTriple+perBlock, firstTriple+perBlock+1, noFree))
	if n := len(g.tx.touched); n != 1 {
		t.Errorf("removing it touches %d blocks", n)
	}
	g.want.cut(firstTriple+perBlock, firstTriple+perBlock+1)
	g.check()
}

func noFree(uint64, uint64) error { return nil }

// nopTx takes changes without noticing.
type nopTx struct{ buffer.Tx }

func (nopTx) Modify(*buffer.Buffer) error { return nil }

// TestAppendDoesNotAllocate is about the most frequent edits.
func TestAppendDoesNotAllocate(t *testing.T) {
	g := newRig(t, disktest.Geometry(t, 4096, editBlocks), true, true)
	for i := range uint64(10) {
		g.must(g.m.Insert(g.tx, g.nodes, scattered(100000*i)))
	}
	blk := uint64(1)
	n := testing.AllocsPerRun(1000, func() {
		g.must(g.m.Insert(nopTx{}, g.nodes, extent.Run{Block: blk, Len: 1, Start: 1<<33 + blk, State: extent.Written}))
		blk++
	})
	if n != 0 {
		t.Errorf("an append allocates %v times", n)
	}
	g.must(g.m.Convert(g.tx, g.nodes, 1, blk, extent.Unwritten))
}

func BenchmarkInsert(b *testing.B) {
	for _, order := range []string{"append", "random"} {
		b.Run(order, func(b *testing.B) {
			g := newRig(b, disktest.Geometry(b, 4096, editBlocks), true, true)
			perm := rand.New(rand.NewPCG(1, 2)).Perm(b.N)
			b.ResetTimer()
			for i := range b.N {
				if order == "random" {
					i = perm[i]
				}
				g.must(g.m.Insert(g.tx, g.nodes, scattered(uint64(i))))
			}
		})
	}
}
