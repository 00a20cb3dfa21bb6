package extent

import (
	"fmt"
	"syscall"

	"ext4box/ext4/internal/buffer"
)

// shiftDown is ShiftStep towards the start of the file, by d blocks. It goes
// upwards, so that the extents stay in order.
func (m *Map) shiftDown(tx buffer.Tx, a Allocator, lo, hi, d uint64) (rest uint64, err error) {
	if d > lo {
		return lo, fmt.Errorf("inode %d cannot move file block %d down by %d: %w", m.Ino, lo, d, syscall.EINVAL)
	}
	for blk := lo - d; blk < lo; {
		r, err := m.Lookup(blk)
		if err != nil {
			return lo, err
		}
		if r.State != Hole {
			return lo, fmt.Errorf("inode %d has blocks at file block %d, where others shall go: %w", m.Ino, blk, syscall.EINVAL)
		}
		blk = r.End()
	}
	var p path
	if err := m.find(&p, lo); err != nil {
		return lo, err
	}
	leaf := p.leaf()
	i := leaf.i
	if i < 0 || key(leaf.node, i) < lo {
		i++
	}
	j := i
	list := make(runs, 0, leaf.n-i+1)
	if i > 0 {
		i--
		list = list.add(leafRun(leaf.node, i)) // the first one may continue it now
	}
	for ; j < leaf.n && key(leaf.node, j) < hi; j++ {
		r := leafRun(leaf.node, j)
		r.Block -= d
		list = list.add(r)
	}
	rest = min(hi, leaf.end)
	if len(list) == 0 {
		return rest, nil
	}
	if err := m.rewrite(tx, a, &p, i, j, list); err != nil {
		return lo, err
	}
	return rest, nil
}

// shiftUp is ShiftStep towards the end of the file, by d blocks. It goes
// downwards.
func (m *Map) shiftUp(tx buffer.Tx, a Allocator, lo, hi, d uint64) (restLo, restHi uint64, err error) {
	var p path
	if err := m.find(&p, lo); err != nil {
		return lo, hi, err
	}
	leaf := p.leaf()
	if i := leaf.i; i >= 0 {
		if r := leafRun(leaf.node, i); r.Block < lo && r.End() > lo {
			return lo, hi, m.rewrite(tx, a, &p, i, i+1, runs{r.before(lo), r.from(lo)})
		}
	}
	if err := m.find(&p, hi-1); err != nil {
		return lo, hi, err
	}
	leaf = p.leaf()
	i, j := leaf.i+1, leaf.i+1
	for i > 0 && key(leaf.node, i-1) >= lo {
		i--
	}
	if i == j {
		return hi, hi, nil
	}
	last := leafRun(leaf.node, j-1)
	end := min(leaf.end, MaxMapped)
	if j < leaf.n {
		end = key(leaf.node, j)
	}
	if last.End() > end || d > end-last.End() {
		return lo, hi, fmt.Errorf("inode %d cannot move file block %d up by %d: %w", m.Ino, last.Block, d, syscall.EINVAL)
	}
	restHi = key(leaf.node, i)
	list := make(runs, 0, j-i)
	for k := i; k < j; k++ {
		r := leafRun(leaf.node, k)
		r.Block += d
		list = list.add(r)
	}
	if err := m.rewrite(tx, a, &p, i, j, list); err != nil {
		return lo, hi, err
	}
	return lo, restHi, nil
}
