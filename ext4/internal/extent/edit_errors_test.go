package extent_test

import (
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"syscall"
	"testing"

	"ext4box/ext4/internal/buffer"
	"ext4box/ext4/internal/disk"
	"ext4box/ext4/internal/disktest"
	"ext4box/ext4/internal/extent"
)

func TestEditsThatCannotBe(t *testing.T) {
	geo := disktest.Geometry(t, 1024, editBlocks)
	tree, blockMap := newRig(t, geo, true, true), newRig(t, geo, false, true)
	for _, g := range []*rig{tree, blockMap} {
		g.must(g.insert(written(10, 10, 1<<20)))
		g.must(g.insert(written(500, 10, 1<<21)))
	}
	insert := func(r extent.Run) func(g *rig) error {
		return func(g *rig) error { return g.m.Insert(g.tx, g.nodes, r) }
	}
	shift := func(from uint64, by int64) func(g *rig) error {
		return func(g *rig) error { return g.m.Shift(g.tx, g.nodes, from, by) }
	}
	const never = syscall.Errno(0)
	for what, c := range map[string]struct {
		tree, blockMap syscall.Errno
		edit           func(g *rig) error
	}{
		"no blocks":                    {syscall.EUCLEAN, syscall.EUCLEAN, insert(written(0, 0, 1<<20))},
		"a hole":                       {syscall.EUCLEAN, syscall.EUCLEAN, insert(hole(0, 5))},
		"beyond the device":            {syscall.EUCLEAN, syscall.EUCLEAN, insert(written(0, 2, editBlocks-1))},
		"over the one before":          {syscall.EUCLEAN, syscall.EUCLEAN, insert(written(19, 2, 1<<22))},
		"over the one behind":          {syscall.EUCLEAN, syscall.EUCLEAN, insert(written(9, 2, 1<<22))},
		"over two":                     {syscall.EUCLEAN, syscall.EUCLEAN, insert(written(0, 600, 1<<22))},
		"inside":                       {syscall.EUCLEAN, syscall.EUCLEAN, insert(written(505, 1, 1<<22))},
		"the last block of 2^32":       {syscall.EFBIG, syscall.EFBIG, insert(written(1<<32-1, 1, 1<<22))},
		"across the end":               {syscall.EFBIG, syscall.EFBIG, insert(written(1<<32-5, 5, 1<<22))},
		"far beyond the end":           {syscall.EFBIG, syscall.EFBIG, insert(written(1<<63, 1, 1<<22))},
		"longer than 64 bits":          {syscall.EFBIG, syscall.EFBIG, insert(written(1<<32-2, 1<<39, 1<<22))},
		"across the end of triple":     {never, syscall.EFBIG, insert(written(firstNone-1, 2, 1<<22))},
		"unwritten":                    {never, syscall.EOPNOTSUPP, insert(unwritten(100, 1, 1<<22))},
		"device block of 33 bits":      {never, syscall.ENOSPC, insert(written(101, 1, 1<<32))},
		"across 32 bits of the device": {never, syscall.ENOSPC, insert(written(103, 2, 1<<32-1))},
		"convert":                      {never, syscall.EOPNOTSUPP, func(g *rig) error { return g.m.Convert(g.tx, g.nodes, 0, 1, extent.Unwritten) }},
		"convert to a hole":            {syscall.EINVAL, syscall.EOPNOTSUPP, func(g *rig) error { return g.m.Convert(g.tx, g.nodes, 0, 1, extent.Hole) }},
		"shift down over others":       {syscall.EINVAL, syscall.EOPNOTSUPP, shift(500, -482)},
		"shift down out of the file":   {syscall.EINVAL, syscall.EOPNOTSUPP, shift(5, -6)},
		"shift down a part":            {syscall.EINVAL, syscall.EOPNOTSUPP, shift(15, -1)},
		"shift up out of the file":     {syscall.EINVAL, syscall.EOPNOTSUPP, shift(500, 1<<32-510)},
		"shift up far":                 {syscall.EINVAL, syscall.EOPNOTSUPP, shift(500, 1<<63-1)},
		"shift down far":               {syscall.EINVAL, syscall.EOPNOTSUPP, shift(500, -1<<63)},
	} {
		for _, g := range []*rig{tree, blockMap} {
			want := c.tree
			if g == blockMap {
				want = c.blockMap
			}
			before := g.shape()
			err := c.edit(g)
			var errno syscall.Errno
			errors.As(err, &errno)
			switch {
			case errno != want:
				t.Errorf("%s (tree %v): %v, want %v", what, g.m.Tree, err, want)
			case want != never && !maps.Equal(before, g.shape()):
				t.Errorf("%s (tree %v): the map has changed", what, g.m.Tree)
			}
			g.want = g.mapped()
			g.check()
		}
	}
}

// TestInsertIntoNextLeaf has a run that starts behind the end of a leaf and ends
// in the next.
func TestInsertIntoNextLeaf(t *testing.T) {
	g := newRig(t, disktest.Geometry(t, 1024, editBlocks), true, true)
	for i := range uint64(85) {
		g.must(g.insert(scattered(3 * i)))
	}
	if err := g.m.Insert(g.tx, g.nodes, written(83*3+1, 3, 1<<20)); !errors.Is(err, syscall.EUCLEAN) {
		t.Errorf("%v", err)
	}
	g.check()
	g.must(g.insert(written(83*3+1, 2, 1<<20)))
	g.check()
}

// TestEmptyRanges has edits of nothing, and of what is beyond any file.
func TestEmptyRanges(t *testing.T) {
	g := newRig(t, disktest.Geometry(t, 1024, editBlocks), true, true)
	g.must(g.insert(written(0, 10, 1<<20)))
	g.must(g.insert(written(extent.MaxMapped-10, 10, 1<<21)))
	for _, r := range [][2]uint64{{5, 5}, {6, 5}, {1 << 32, 1 << 33}, {1 << 33, 1 << 63}, {1<<64 - 1, 1<<64 - 1}, {1<<32 - 1, 1<<64 - 1}} {
		g.must(g.m.Remove(g.tx, g.nodes, r[0], r[1], noFree))
		g.must(g.m.Convert(g.tx, g.nodes, r[0], r[1], extent.Unwritten))
		g.must(g.m.Shift(g.tx, g.nodes, r[0]|1<<32, 5))
		g.must(g.m.Shift(g.tx, g.nodes, 5, 0))
		g.check()
	}
	if c := g.m.InsertCredits(1, 1<<33, 1<<34); c != (extent.Credits{}) {
		t.Errorf("credits for nothing are %+v", c)
	}
}

// failingTx fails after some calls, as a journal does that is aborted.
type failingTx struct {
	*countingTx
	left int
}

func (tx *failingTx) fails() bool { tx.left--; return tx.left < 0 }

func (tx *failingTx) Modify(b *buffer.Buffer) error {
	if tx.fails() {
		return syscall.EROFS
	}
	return tx.countingTx.Modify(b)
}

func (tx *failingTx) New(blk uint64, tag buffer.Tag) (*buffer.Buffer, error) {
	if tx.fails() {
		return nil, syscall.EROFS
	}
	return tx.countingTx.New(blk, tag)
}

// anyPool is a node pool that does not mind whose transaction it is.
type anyPool struct{ *nodePool }

func (p anyPool) AllocNode(_ buffer.Tx, goal uint64) (uint64, error) {
	return p.nodePool.AllocNode(p.tx, goal)
}

func (p anyPool) FreeNode(_ buffer.Tx, blk uint64) error { return p.nodePool.FreeNode(p.tx, blk) }

// TestAbortedTransaction has the transaction fail at each of its calls. The map
// in memory is then as before, but for what earlier steps did.
func TestAbortedTransaction(t *testing.T) {
	geo := disktest.Geometry(t, 1024, editBlocks)
	build := func(tree bool) *rig {
		g := newRig(t, geo, tree, true)
		for i := range uint64(4 * 84 * 2) {
			r := scattered(3 * i)
			r.Start = 1<<20 + 2*i
			g.must(g.m.Insert(g.tx, g.nodes, r))
			g.want = append(g.want, r)
		}
		if tree {
			g.must(g.insert(written(10000, 100, 1<<22)))
		}
		g.check()
		return g
	}
	for what, edit := range map[string]func(g *rig, tx *failingTx, a extent.Allocator) error{
		"insert": func(g *rig, tx *failingTx, a extent.Allocator) error {
			return g.m.Insert(tx, a, written(1, 1, 1<<23))
		},
		"insert into a full one": func(g *rig, tx *failingTx, a extent.Allocator) error {
			return g.m.Insert(tx, a, written(3*84*5+1, 1, 1<<23))
		},
		"indirect": func(g *rig, tx *failingTx, a extent.Allocator) error {
			return g.m.Insert(tx, a, written(firstTriple-5, 1000, 1<<23))
		},
		"remove": func(g *rig, tx *failingTx, a extent.Allocator) error {
			_, err := g.m.RemoveStep(tx, a, 10010, 10020, 9, noFree)
			return err
		},
		"convert": func(g *rig, tx *failingTx, a extent.Allocator) error {
			if !g.m.Tree {
				return syscall.EROFS
			}
			return g.m.Convert(tx, a, 300, 301, extent.Unwritten)
		},
	} {
		for _, tree := range []bool{true, false} {
			for fail := 0; ; fail++ {
				g := build(tree)
				err := edit(g, &failingTx{g.tx, fail}, anyPool{g.nodes})
				if err == nil {
					break
				}
				if !errors.Is(err, syscall.EROFS) {
					t.Fatalf("%s: %v", what, err)
				}
				if got := g.mapped().merged(); !slices.Equal(got, g.want.merged()) {
					t.Errorf("%s, tree %v: failure at call %d changes the map", what, tree, fail)
				}
				if !maps.Equal(g.walk(), g.nodes.used) {
					t.Errorf("%s, tree %v: failure at call %d: nodes are lost", what, tree, fail)
				}
				if what == "convert" && !tree {
					break
				}
			}
		}
	}
}

// TestFailureToFree sees that blocks are unmapped before they are freed, so that
// a failure loses them instead of leaving them in use and free at once.
func TestFailureToFree(t *testing.T) {
	for _, tree := range []bool{true, false} {
		g := newRig(t, disktest.Geometry(t, 1024, editBlocks), tree, true)
		for i := range uint64(20) {
			g.must(g.insert(written(3*i, 1, 1<<20+2*i)))
		}
		calls := 0
		err := g.m.Remove(g.tx, g.nodes, 0, 1<<32, func(start, n uint64) error {
			if calls++; calls == 3 {
				return syscall.EUCLEAN
			}
			if slices.ContainsFunc(g.mapped(), func(r extent.Run) bool { return r.Start <= start && start < r.Start+r.Len }) {
				t.Errorf("block %d is freed while it is mapped", start)
			}
			return nil
		})
		if err != syscall.EUCLEAN || calls != 3 {
			t.Errorf("tree %v: %v after %d calls", tree, err, calls)
		}
		g.want = g.mapped()
		g.check()
	}
}

// patch changes a byte of a node on the device, and its checksum.
func (g *rig) patch(blk uint64, at int, v byte) {
	g.Helper()
	b := make([]byte, g.geo.BlockSize)
	_, err := g.dev.ReadAt(b, int64(blk)*int64(len(b)))
	g.must(err)
	b[at] = v
	disktest.SealExtentNode(seed, b)
	_, err = g.dev.WriteAt(b, int64(blk)*int64(len(b)))
	g.must(err)
}

// TestEditDamagedTrees has trees that a lookup bears with, and edits do not.
func TestEditDamagedTrees(t *testing.T) {
	geo := disktest.Geometry(t, 1024, editBlocks)
	w := disktest.Written
	for what, build := range map[string]func(g *rig) []byte{
		"empty leaf": func(g *rig) []byte {
			b := g.store(0, 84, disktest.Written(0, 0, 0))
			g.patch(b.Start, 2, 0)
			return root(1, b)
		},
		"leaf that starts behind its index": func(g *rig) []byte {
			return root(1, w(5, 0, g.store(0, 84, w(6, 1, 1000)).Start))
		},
		"leaf that starts before its index": func(g *rig) []byte {
			return root(1, w(5, 0, g.store(0, 84, w(4, 1, 1000)).Start))
		},
		"leaf that reaches into the next": func(g *rig) []byte {
			return root(1, g.store(0, 84, w(5, 10, 1000)), g.store(0, 84, w(14, 1, 2000)))
		},
		"node that reaches into the next": func(g *rig) []byte {
			a, b, c := g.store(0, 84, w(5, 1, 1000)), g.store(0, 84, w(15, 1, 1500)), g.store(0, 84, w(14, 1, 2000))
			return root(2, g.store(1, 84, a, b), g.store(1, 84, c))
		},
		"one leaf twice": func(g *rig) []byte {
			leaf := g.store(0, 84, w(5, 1, 1000))
			return root(1, leaf, w(7, 0, leaf.Start))
		},
		"full to the greatest depth": func(g *rig) []byte {
			e := w(5, 1, 1000)
			for depth := range disk.ExtentMaxDepth {
				e = g.store(depth, max(1, 84-84*depth), e)
			}
			b := root(disk.ExtentMaxDepth, e)
			b[4] = 1
			return b
		},
	} {
		edits := map[string]func(g *rig) error{
			"insert":     func(g *rig) error { return g.m.Insert(g.tx, g.nodes, written(8, 1, 3000)) },
			"remove":     func(g *rig) error { return g.m.Remove(g.tx, g.nodes, 0, 1<<32, noFree) },
			"convert":    func(g *rig) error { return g.m.Convert(g.tx, g.nodes, 0, 100, extent.Unwritten) },
			"shift up":   func(g *rig) error { return g.m.Shift(g.tx, g.nodes, 4, 1) },
			"shift down": func(g *rig) error { return g.m.Shift(g.tx, g.nodes, 4, -1) },
		}
		if strings.HasSuffix(what, "reaches into the next") {
			// From the end, there is no next one when the first gets its turn.
			delete(edits, "remove")
			delete(edits, "shift up")
		}
		if what == "full to the greatest depth" {
			edits = map[string]func(g *rig) error{"inserts": func(g *rig) (err error) {
				for i := uint64(20); err == nil && i < 1000; i++ {
					err = g.m.Insert(g.tx, g.nodes, scattered(2*i))
				}
				return err
			}}
		}
		for name, edit := range edits {
			g := newRig(t, geo, true, true)
			copy(g.m.Root, build(g))
			g.must(g.m.CheckRoot())
			var corrupt *disk.CorruptError
			if err := edit(g); !errors.As(err, &corrupt) {
				t.Errorf("%s: %s: %v", what, name, err)
			}
		}
	}
}

// TestNodeChangesUnderneath has nodes that become nonsense after they were
// checked, as they do when a hostile image gives their block to another inode
// too. Edits may then do anything but panic.
func TestNodeChangesUnderneath(t *testing.T) {
	geo := disktest.Geometry(t, 1024, editBlocks)
	rng := rand.New(rand.NewPCG(1, 1))
	for range 300 {
		g := newRig(t, geo, true, true)
		for i := range uint64(84 * 6) {
			g.must(g.m.Insert(g.tx, g.nodes, scattered(3*i)))
		}
		for blk := range g.nodes.used {
			b := g.tx.buffers[blk]
			for range rng.IntN(3) {
				b.Data[rng.IntN(40)] = byte(rng.Uint32())
				b.Data[2+rng.IntN(4)] = byte(rng.Uint32())
			}
		}
		for range 20 {
			blk := rng.Uint64N(84 * 6 * 3)
			_, _ = g.m.Lookup(blk)
			_ = g.m.Insert(g.tx, g.nodes, written(blk, 1+rng.Uint64N(9), 1<<20+50*blk))
			_, _ = g.m.RemoveStep(g.tx, g.nodes, blk, blk+20, 50, noFree)
			_, _ = g.m.ConvertStep(g.tx, g.nodes, blk, blk+20, extent.Unwritten)
			_, _, _ = g.m.ShiftStep(g.tx, g.nodes, blk, 1<<32, rng.Int64N(9)-4)
		}
	}
}

// TestSpaceRunsOut has the allocator fail at each call of edits that need nodes
// at every level.
func TestSpaceRunsOut(t *testing.T) {
	for _, tree := range []bool{true, false} {
		geo := disktest.Geometry(t, 1024, editBlocks)
		edits := map[string]func(g *rig) error{
			"insert": func(g *rig) error { return g.insert(written(1, 1, 1<<24)) },
			"insert a long one": func(g *rig) error {
				return g.insert(written(200000, 32768*20, 1<<24))
			},
		}
		if tree {
			edits["remove"] = func(g *rig) error { return g.remove(1011, 1012, 1) }
			edits["convert"] = func(g *rig) error { return g.convert(1011, 1012, extent.Unwritten) }
			edits["shift"] = func(g *rig) error { return g.shift(1011, 100) }
		}
		for what, edit := range edits {
			for fail := 0; ; fail++ {
				if fail > 4000 {
					t.Fatalf("%s: it never succeeds", what)
				}
				if fail > 20 {
					fail += 200 // long runs in a block map need many
				}
				g := newRig(t, geo, tree, true)
				for i := range uint64(4 * 84) {
					r := written(3*i+2000*(3*i/1000), 1, 1<<20+2*i)
					if i == 333 {
						break
					}
					g.must(g.m.Insert(g.tx, g.nodes, r))
					g.want = append(g.want, r)
				}
				if tree {
					g.must(g.m.Insert(g.tx, g.nodes, written(1005, 20, 1<<22)))
					g.want.put(written(1005, 20, 1<<22))
					rng := rand.New(rand.NewPCG(1, 1))
					for i := uint64(5000); len(g.want) < 4*84; i += 2 + rng.Uint64N(3) {
						r := written(i, 1, 1<<23+2*i)
						g.must(g.m.Insert(g.tx, g.nodes, r))
						g.want.put(r)
					}
				}
				before := g.shape()
				g.nodes.fail = fail
				err := edit(g)
				if err == nil {
					g.nodes.fail = -1
					g.check()
					if fail == 0 && tree {
						t.Errorf("%s: needs no node", what)
					}
					break
				}
				if !errors.Is(err, syscall.ENOSPC) {
					t.Fatalf("%s: %v", what, err)
				}
				if !maps.Equal(before, g.shape()) {
					t.Errorf("%s, tree %v: failure of allocation %d has an effect", what, tree, fail)
				}
				g.check()
			}
		}
	}
}
