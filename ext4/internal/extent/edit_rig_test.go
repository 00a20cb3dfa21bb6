package extent_test

import (
	"bytes"
	"errors"
	"maps"
	"slices"
	"syscall"

	"pgregory.net/rapid"

	"ext4box/blockdev/blocktest"
	"ext4box/ext4/internal/buffer"
	"ext4box/ext4/internal/buffer/buffertest"
	"ext4box/ext4/internal/disk"
	"ext4box/ext4/internal/extent"
)

// editBlocks is the size of the device on which maps are edited; the start of
// it, where nodes are, is all that has any content.
const editBlocks = 1 << 40

// rig is a map that is edited, the blocks it takes for nodes, and what it should
// map.
type rig struct {
	rapid.TB
	geo   *disk.Geometry
	dev   *blocktest.Mem
	m     *extent.Map
	tx    *countingTx
	nodes *nodePool
	want  layout
	phys  uint64 // where device blocks are that nothing uses
}

func newRig(tb rapid.TB, geo *disk.Geometry, tree, sums bool) *rig {
	g := &rig{TB: tb, geo: geo, dev: blocktest.NewMem(1 << 30), nodes: &nodePool{next: 100, used: map[uint64]bool{}, fail: -1}, phys: 1 << 33}
	if !tree {
		g.phys = 1 << 20
	}
	g.m = &extent.Map{Geo: geo, Sums: &disk.Checksums{Metadata: sums}, Ino: ino, Seed: seed, Root: make([]byte, disk.InodeBlockSize)}
	g.m.Init(tree)
	g.reopen()
	return g
}

// reopen forgets all that is in memory only, and what was changed outside the
// transaction with it.
func (g *rig) reopen() {
	g.Helper()
	if g.tx != nil {
		if err := g.tx.Commit(g.dev); err != nil {
			g.Fatal(err)
		}
	}
	g.m.Cache = buffer.New(g.dev, int(g.geo.BlockSize), 1<<22)
	g.tx = &countingTx{Tx: buffertest.New(g.m.Cache), touched: map[uint64]bool{}, buffers: map[uint64]*buffer.Buffer{}}
	g.nodes.tx = g.tx
}

// countingTx counts the blocks that an edit touches.
type countingTx struct {
	*buffertest.Tx
	touched map[uint64]bool
	buffers map[uint64]*buffer.Buffer // of all times
}

func (tx *countingTx) Modify(b *buffer.Buffer) error {
	tx.touched[b.Block] = true
	tx.buffers[b.Block] = b
	return tx.Tx.Modify(b)
}

func (tx *countingTx) New(blk uint64, tag buffer.Tag) (*buffer.Buffer, error) {
	tx.touched[blk] = true
	b, err := tx.Tx.New(blk, tag)
	tx.buffers[blk] = b
	return b, err
}

// nodePool hands out blocks for nodes, those freed last first.
type nodePool struct {
	tx            *countingTx
	next          uint64
	spare         []uint64
	used          map[uint64]bool
	fail          int // so many allocations succeed; -1: all
	allocs, frees int
}

func (p *nodePool) AllocNode(tx buffer.Tx, goal uint64) (uint64, error) {
	p.allocs++
	if tx != p.tx || goal == 0 {
		return 0, errors.New("wrong call of AllocNode")
	}
	if p.fail == 0 {
		return 0, syscall.ENOSPC
	}
	if p.fail > 0 {
		p.fail--
	}
	var blk uint64
	if n := len(p.spare); n > 0 {
		blk, p.spare = p.spare[n-1], p.spare[:n-1]
	} else {
		blk = p.next
		p.next++
	}
	p.used[blk] = true
	return blk, nil
}

func (p *nodePool) FreeNode(tx buffer.Tx, blk uint64) error {
	p.frees++
	if tx != p.tx || !p.used[blk] {
		return disk.Corruptf(disk.BlockName(blk), "it is freed and not in use")
	}
	delete(p.used, blk)
	p.spare = append(p.spare, blk)
	tx.Forget(blk)
	return nil
}

// layout is what is mapped, in order.
type layout []extent.Run

// cut takes [lo, hi) out and returns it.
func (l *layout) cut(lo, hi uint64) (out layout) {
	var left layout
	for _, r := range *l {
		if r.End() <= lo || r.Block >= hi {
			left = append(left, r)
			continue
		}
		part := r
		part.Clip(lo, hi)
		out = append(out, part)
		if r.Block < lo {
			part = r
			part.Clip(0, lo)
			left = append(left, part)
		}
		if r.End() > hi {
			part = r
			part.Clip(hi, extent.MaxBlocks)
			left = append(left, part)
		}
	}
	*l = left
	return out
}

func (l *layout) put(runs ...extent.Run) {
	*l = append(*l, runs...)
	slices.SortFunc(*l, func(a, b extent.Run) int { return int(int64(a.Block) - int64(b.Block)) })
}

// merged joins what continues.
func (l layout) merged() (out layout) {
	for _, r := range l {
		if n := len(out); n > 0 {
			if p := &out[n-1]; p.End() == r.Block && p.Start+p.Len == r.Start && p.State == r.State {
				p.Len += r.Len
				continue
			}
		}
		out = append(out, r)
	}
	return out
}

// onDevice is where the runs are, whatever is in them.
func (l layout) onDevice() layout {
	out := slices.Clone(l)
	for i := range out {
		out[i].Block, out[i].State = out[i].Start, extent.Written
	}
	slices.SortFunc(out, func(a, b extent.Run) int { return int(int64(a.Start) - int64(b.Start)) })
	return out.merged()
}

// uses tells whether any of the device blocks belongs to the file.
func (l layout) uses(start, n uint64) bool {
	return slices.ContainsFunc(l, func(r extent.Run) bool { return start < r.Start+r.Len && r.Start < start+n })
}

// mapped is all that the map says.
func (g *rig) mapped() (out layout) {
	g.Helper()
	for blk := uint64(0); blk < extent.MaxBlocks; {
		r, err := g.m.Lookup(blk)
		if err != nil {
			g.Fatalf("block %d: %v", blk, err)
		}
		if r.Block != blk || r.Len == 0 {
			g.Fatalf("block %d is in run %+v", blk, r)
		}
		if r.State != extent.Hole {
			out = append(out, r)
		}
		blk = r.End()
	}
	return out
}

// check sees that everything is as it should be, on the device too.
func (g *rig) check() {
	g.Helper()
	g.reopen()
	if err := g.m.CheckRoot(); err != nil {
		g.Fatal(err)
	}
	if got, want := g.mapped().merged(), g.want.merged(); !slices.Equal(got, want) {
		g.Fatalf("the file has\n%+v, want\n%+v", got, want)
	}
	nodes := g.walk()
	if !maps.Equal(nodes, g.nodes.used) {
		g.Fatalf("nodes %v are in use, and allocated are %v", nodes, g.nodes.used)
	}
	if len(g.want) == 0 && len(nodes) > 0 {
		g.Fatalf("an empty file has %d nodes", len(nodes))
	}
}

// walk checks every node and returns where they are.
func (g *rig) walk() map[uint64]bool {
	g.Helper()
	nodes := map[uint64]bool{}
	visit := func(blk uint64, tag buffer.Tag) []byte {
		if nodes[blk] {
			g.Fatalf("block %d is used twice", blk)
		}
		nodes[blk] = true
		b, err := g.m.Cache.Read(blk, tag, func([]byte) error { return nil })
		if err != nil {
			g.Fatal(err)
		}
		return b.Data
	}
	if g.m.Tree {
		g.walkTree(g.m.Root, int(disk.DecodeExtentHeader(g.m.Root).Depth), 0, extent.MaxBlocks, visit)
	} else {
		for i := 12; i < 15; i++ {
			g.walkPointers(uint64(binaryPointer(g.m.Root, i)), i-11, visit)
		}
	}
	return nodes
}

func (g *rig) walkTree(node []byte, depth int, lo, hi uint64, visit func(uint64, buffer.Tag) []byte) {
	g.Helper()
	if err := disk.CheckExtentNode("node", node, depth, g.geo.BlocksInRange); err != nil {
		g.Fatal(err)
	}
	h := disk.DecodeExtentHeader(node)
	end := disk.ExtentHeaderSize + int(h.Entries)*disk.ExtentEntrySize
	if limit := disk.ExtentHeaderSize + int(h.Max)*disk.ExtentEntrySize; !bytes.Equal(node[end:limit], make([]byte, limit-end)) {
		g.Fatalf("a node has something behind its %d entries", h.Entries)
	}
	if len(node) > disk.InodeBlockSize {
		if h.Entries == 0 {
			g.Fatalf("a node is empty")
		}
		stored, computed, _ := disk.ExtentBlockChecksum(seed, node)
		if g.m.Sums.Metadata && stored != computed {
			g.Fatalf("checksum %#x is stored, %#x is right", stored, computed)
		}
	}
	for i := range int(h.Entries) {
		b := node[disk.ExtentHeaderSize+i*disk.ExtentEntrySize:]
		if depth == 0 {
			e := disk.DecodeExtent(b)
			if i == 0 && lo > 0 && uint64(e.Block) != lo || e.End() > min(hi, extent.MaxMapped) {
				g.Fatalf("extent %+v in a leaf for %d to %d", e, lo, hi)
			}
			continue
		}
		x := disk.DecodeExtentIndex(b)
		if i == 0 && lo > 0 && uint64(x.Block) != lo || uint64(x.Block) >= hi {
			g.Fatalf("index %+v in a node for %d to %d", x, lo, hi)
		}
		end := hi
		if i+1 < int(h.Entries) {
			end = uint64(disk.DecodeExtentIndex(b[disk.ExtentEntrySize:]).Block)
		}
		child := visit(x.Leaf, buffer.Tag{Kind: buffer.ExtentNode + buffer.Kind(depth-1), Owner: ino})
		if first := disk.DecodeExtentIndex(child[disk.ExtentHeaderSize:]).Block; first != x.Block {
			g.Fatalf("index %+v leads to a node that starts at %d", x, first)
		}
		g.walkTree(child, depth-1, uint64(x.Block), end, visit)
	}
}

func (g *rig) walkPointers(blk uint64, level int, visit func(uint64, buffer.Tag) []byte) {
	g.Helper()
	if blk == 0 {
		return
	}
	b := visit(blk, buffer.Tag{Kind: buffer.Indirect, Owner: ino})
	if bytes.Equal(b, make([]byte, len(b))) {
		g.Fatalf("indirect block %d is empty", blk)
	}
	for i := range len(b) / 4 {
		if level > 1 {
			g.walkPointers(uint64(binaryPointer(b, i)), level-1, visit)
		}
	}
}

func binaryPointer(b []byte, i int) uint32 {
	return uint32(b[4*i]) | uint32(b[4*i+1])<<8 | uint32(b[4*i+2])<<16 | uint32(b[4*i+3])<<24
}

// shape is the map as it is stored.
func (g *rig) shape() map[uint64]string {
	g.reopen()
	shape := map[uint64]string{0: string(g.m.Root)}
	for blk := range g.walk() {
		b := make([]byte, g.geo.BlockSize)
		if _, err := g.dev.ReadAt(b, int64(blk)*int64(g.geo.BlockSize)); err != nil {
			g.Fatal(err)
		}
		shape[blk] = string(b)
	}
	return shape
}

// edit does one edit and sees that it stays within its credits.
func (g *rig) edit(what string, c extent.Credits, fn func() error) error {
	g.Helper()
	clear(g.tx.touched)
	g.nodes.allocs, g.nodes.frees = 0, 0
	err := fn()
	if n := len(g.tx.touched); n > c.Blocks || g.nodes.allocs > c.Allocs || g.nodes.frees > c.Frees {
		g.Fatalf("%s: touched %d blocks, allocated %d, freed %d; credits were %+v", what, n, g.nodes.allocs, g.nodes.frees, c)
	}
	return err
}

func (g *rig) insert(r extent.Run) error {
	g.Helper()
	err := g.edit("insert", g.m.InsertCredits(1, r.Block, r.End()), func() error { return g.m.Insert(g.tx, g.nodes, r) })
	if err == nil {
		g.want.put(r)
	}
	return err
}

// remove does it in steps, and returns when one fails.
func (g *rig) remove(lo, hi uint64, limit int) error {
	g.Helper()
	for rest := hi; lo < rest; {
		var gone layout
		end := rest
		err := g.edit("remove", g.m.RemoveCredits(), func() (err error) {
			rest, err = g.m.RemoveStep(g.tx, g.nodes, lo, rest, limit, func(start, n uint64) error {
				gone = append(gone, extent.Run{Start: start, Len: n})
				return nil
			})
			return err
		})
		if err != nil {
			return err
		}
		if rest < lo || rest >= end && rest > lo {
			g.Fatalf("from [%d, %d) a step left [%d, %d)", lo, end, lo, rest)
		}
		if len(gone) > limit {
			g.Fatalf("a step with limit %d freed %v", limit, gone)
		}
		if got, want := gone.onDevice(), g.want.cut(rest, hi).onDevice(); !slices.Equal(got, want) {
			g.Fatalf("removing [%d, %d) freed %v, want %v", rest, end, got, want)
		}
		g.sound()
	}
	return nil
}

func (g *rig) convert(lo, hi uint64, to extent.State) error {
	g.Helper()
	for lo < hi {
		rest := lo
		err := g.edit("convert", g.m.ConvertCredits(), func() (err error) {
			rest, err = g.m.ConvertStep(g.tx, g.nodes, lo, hi, to)
			return err
		})
		if err != nil {
			return err
		}
		if rest <= lo || rest > hi {
			g.Fatalf("of [%d, %d) a step left [%d, %d)", lo, hi, rest, hi)
		}
		done := g.want.cut(lo, rest)
		for i := range done {
			done[i].State = to
		}
		g.want.put(done...)
		lo = rest
		g.sound()
	}
	return nil
}

func (g *rig) shift(from uint64, by int64) error {
	g.Helper()
	for lo, hi := from, uint64(extent.MaxBlocks); lo < hi; {
		var restLo, restHi uint64
		err := g.edit("shift", g.m.ShiftCredits(), func() (err error) {
			restLo, restHi, err = g.m.ShiftStep(g.tx, g.nodes, lo, hi, by)
			return err
		})
		if err != nil {
			return err
		}
		switch {
		case restLo >= restHi:
			g.move(lo, hi, by)
		case restLo > lo:
			g.move(lo, restLo, by)
		case restHi < hi:
			g.move(restHi, hi, by)
		}
		lo, hi = restLo, restHi
		g.sound()
	}
	return nil
}

func (g *rig) move(lo, hi uint64, by int64) {
	moved := g.want.cut(lo, hi)
	for i := range moved {
		moved[i].Block += uint64(by)
	}
	g.want.put(moved...)
}

// sound is check for between the steps, as far as it is cheap.
func (g *rig) sound() {
	g.Helper()
	if len(g.want) < 50 && len(g.nodes.used) < 50 {
		g.check()
	}
}
