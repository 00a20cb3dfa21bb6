package extent_test

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"syscall"
	"testing"

	"pgregory.net/rapid"

	"ext4box/ext4/internal/disk"
	"ext4box/ext4/internal/disktest"
	"ext4box/ext4/internal/extent"
)

// draw makes the choices of a random edit: it returns a number below n.
type draw func(n uint64) uint64

// place is a file block: near the start, where the map has a boundary, or far
// out, at the very end too.
func (g *rig) place(pick draw) uint64 {
	end := uint64(extent.MaxMapped)
	if !g.m.Tree {
		end = firstNone
	}
	var blk uint64
	switch pick(8) {
	case 0, 1, 2:
		blk = pick(2000)
	case 3:
		if g.m.Tree {
			blk = pick(end)
		} else {
			blk = []uint64{0, firstSingle, firstDouble, firstTriple, firstTriple + 256*256}[pick(5)] + pick(600)
		}
	case 4:
		blk = end - 1 - pick(100)
	default:
		if len(g.want) > 0 {
			r := g.want[pick(uint64(len(g.want)))]
			blk = []uint64{r.Block, r.Block + r.Len/2, r.End(), max(r.Block, 1) - 1, r.End() + 1}[pick(5)]
		}
	}
	return min(blk, end-1)
}

func length(pick draw) uint64 {
	switch pick(8) {
	case 0:
		return 1 + pick(80000)
	case 1:
		return []uint64{32767, 32768, 32769, 65536}[pick(4)]
	case 2, 3, 4:
		return 1 + pick(300)
	}
	return 1 + pick(8)
}

// space is room for a run of at most n blocks at blk, or nothing, and the
// neighbours.
func (g *rig) space(blk, n uint64) (room uint64, prev, next *extent.Run) {
	end := uint64(extent.MaxMapped)
	if !g.m.Tree {
		end = firstNone
	}
	for i := range g.want {
		r := &g.want[i]
		if r.End() <= blk {
			prev = r
			continue
		}
		if r.Block <= blk {
			return 0, nil, nil
		}
		next, end = r, r.Block
		break
	}
	return min(n, end-blk), prev, next
}

// randomRun is a run for a hole at blk, if there is one. Often it continues a
// neighbour.
func (g *rig) randomRun(pick draw, blk, n uint64) (r extent.Run, ok bool) {
	n, prev, next := g.space(blk, n)
	if n == 0 {
		return r, false
	}
	r = extent.Run{Block: blk, Len: n, State: extent.Written}
	if g.m.Tree && pick(3) == 0 {
		r.State = extent.Unwritten
	}
	switch {
	case prev != nil && prev.End() == blk && pick(2) == 0:
		r.Start, r.State = prev.Start+prev.Len, prev.State
	case next != nil && next.Block == blk+n && next.Start > n && pick(2) == 0:
		r.Start, r.State = next.Start-n, next.State
	}
	if r.Start == 0 || g.want.uses(r.Start, n) || r.Start+n > g.phys {
		r.Start = g.phys
		g.phys += n + pick(2)
	}
	return r, true
}

// random does a random edit. Sometimes the space for nodes runs out, which must
// then have no effect.
func (g *rig) random(pick draw) {
	g.Helper()
	if pick(4) == 0 {
		g.nodes.fail = int(pick(4))
		defer func() { g.nodes.fail = -1 }()
	}
	blk, n := g.place(pick), length(pick)
	op := pick(10)
	switch {
	case op < 3:
		if r, ok := g.randomRun(pick, blk, n); ok {
			g.try("insert", func() error { return g.insert(r) })
		}
	case op < 5:
		g.many(pick, blk)
	case op < 7:
		if pick(6) == 0 {
			n = 1 << (10 + pick(22))
		}
		limit := 1 << 30
		if pick(2) == 0 {
			limit = 1 + int(pick(30))
		}
		g.try("remove", func() error { return g.remove(blk, blk+n, limit) })
	case op < 9:
		to := extent.Written + extent.State(pick(2))
		if !g.m.Tree {
			if err := g.m.Convert(g.tx, g.nodes, blk, blk+n, to); !errors.Is(err, syscall.EOPNOTSUPP) {
				g.Fatalf("convert: %v", err)
			}
			return
		}
		g.try("convert", func() error { return g.convert(blk, blk+n, to) })
	case !g.m.Tree:
		if err := g.m.Shift(g.tx, g.nodes, blk, 1); !errors.Is(err, syscall.EOPNOTSUPP) {
			g.Fatalf("shift: %v", err)
		}
	case pick(2) == 0:
		n = min(n, extent.MaxMapped-blk)
		if g.try("remove", func() error { return g.remove(blk, blk+n, 1<<30) }) {
			g.try("shift down", func() error { return g.shift(blk+n, -int64(n)) })
		}
	default:
		// What is beyond the end falls off.
		if g.try("remove", func() error { return g.remove(max(extent.MaxMapped-n, blk), extent.MaxMapped, 1<<30) }) {
			if err := g.shiftUp(blk, n); err != nil && (blk < extent.MaxMapped-n || !errors.Is(err, syscall.EINVAL)) {
				g.Fatalf("shift up: %v", err)
			}
		}
	}
	g.check()
}

// many inserts many short runs, so that there are nodes. It has credits for all
// of them.
func (g *rig) many(pick draw, blk uint64) {
	g.Helper()
	n, stride := 2+pick(120), 2+pick(2)
	c := g.m.InsertCredits(int(n), blk, blk+n*stride)
	var used extent.Credits
	touched := map[uint64]bool{}
	for range n {
		if r, ok := g.randomRun(pick, blk, 1+pick(stride)); ok {
			done := g.try("insert", func() error { return g.insert(r) })
			maps.Copy(touched, g.tx.touched)
			used.Allocs += g.nodes.allocs
			used.Frees += g.nodes.frees
			if !done {
				break
			}
		}
		if blk += stride; blk >= firstNone-1 {
			break
		}
	}
	if used.Blocks = len(touched); used.Blocks > c.Blocks || used.Allocs > c.Allocs || used.Frees > c.Frees {
		g.Fatalf("inserting %d runs needed %+v, credits were %+v", n, used, c)
	}
}

func (g *rig) shiftUp(blk, n uint64) error {
	var err error
	g.try("shift up", func() error {
		err = g.shift(blk, int64(n))
		if errors.Is(err, syscall.EINVAL) {
			return nil
		}
		return err
	})
	if errors.Is(err, syscall.ENOSPC) {
		return nil
	}
	return err
}

// try does what may fail for lack of space, which must change no more than the
// steps that succeeded before.
func (g *rig) try(what string, fn func() error) bool {
	g.Helper()
	if g.nodes.fail < 0 {
		if err := fn(); err != nil {
			g.Fatalf("%s: %v", what, err)
		}
		return true
	}
	var before map[uint64]string
	if len(g.want) < 300 {
		before = g.shape()
	}
	had := slices.Clone(g.want)
	err := fn()
	switch {
	case err == nil:
		return true
	case !errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EUCLEAN):
		g.Fatalf("%s: %v", what, err)
	case before != nil && slices.Equal(had.merged(), g.want.merged()):
		if after := g.shape(); !maps.Equal(before, after) {
			g.Fatalf("%s failed, and %d nodes became %d other ones", what, len(before), len(after))
		}
	}
	g.check()
	return false
}

// small gives the map a tree of nodes with room for few entries, which the format
// allows, so that it is deep.
func (g *rig) small(pick draw) {
	limit := int(2 + pick(4))
	var level []disktest.Extent
	blk := uint64(pick(3))
	for range pick(60) {
		n := 1 + pick(5)
		e := disktest.Written(uint32(blk), uint32(n), g.phys)
		e.Unwritten = pick(3) == 0
		state := extent.Written
		if e.Unwritten {
			state = extent.Unwritten
		}
		g.want.put(extent.Run{Block: blk, Len: n, Start: g.phys, State: state})
		level = append(level, e)
		blk += n + pick(4)
		g.phys += n + 1
	}
	depth := 0
	for len(level) > 4 && depth < disk.ExtentMaxDepth {
		fill := int(1 + pick(uint64(limit)))
		if depth > 1 {
			fill = limit
		}
		var above []disktest.Extent
		for part := range slices.Chunk(level, max(fill, 2)) {
			above = append(above, g.store(depth, max(limit, len(part)), part...))
		}
		level = above
		depth++
	}
	if len(level) > 4 {
		g.Fatal("the tree is too deep")
	}
	copy(g.m.Root, disktest.ExtentNode(disktest.RootSize, depth, level...))
}

// drawn makes the choices for the i-th edit from one number, so that what rapid
// reports and shortens is the list of edits.
func drawn(seed uint64, i int) draw { return rand.New(rand.NewPCG(seed, uint64(i))).Uint64N }

// TestEditsEqualModel does random edits and sees each time that the map is what
// the model says, that its nodes are as they should be and none is lost, that
// nothing is changed but through the transaction, and that credits suffice.
func TestEditsEqualModel(t *testing.T) {
	for _, blockSize := range []int{1024, 4096} {
		geo := disktest.Geometry(t, blockSize, editBlocks)
		for _, kind := range []string{"tree", "tree without checksums", "small nodes", "block map"} {
			if kind == "block map" && blockSize != 1024 {
				continue // the boundaries are those of 1 KiB
			}
			t.Run(fmt.Sprintf("%s %d", kind, blockSize), func(t *testing.T) {
				rapid.Check(t, func(t *rapid.T) {
					g := newRig(t, geo, kind != "block map", kind != "tree without checksums")
					if kind == "small nodes" {
						g.small(drawn(rapid.Uint64().Draw(t, "tree"), 0))
						g.check()
					}
					for i, seed := range rapid.SliceOfN(rapid.Uint64(), 5, 60).Draw(t, "edits") {
						g.random(drawn(seed, i))
					}
					if err := g.m.Remove(g.tx, g.nodes, 0, 1<<63, func(uint64, uint64) error { return nil }); err != nil {
						t.Fatal(err)
					}
					g.want = nil
					g.check()
					if want := newRig(t, geo, g.m.Tree, false).m.Root; !bytes.Equal(g.m.Root, want) {
						t.Fatalf("an empty file has root %x", g.m.Root)
					}
				})
			})
		}
	}
}
