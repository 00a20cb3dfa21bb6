package extent

import (
	"encoding/binary"

	"ext4box/ext4/internal/buffer"
	"ext4box/ext4/internal/disk"
)

// maxHeight is the height of the root of the deepest tree above its leaves.
const maxHeight = disk.ExtentMaxDepth

// plan says what a splice does to the nodes of a path. It is made before
// anything is changed, so that all that may fail comes first.
type plan struct {
	level [maxHeight + 1]levelPlan // by height above the leaf
	top   int                      // the highest level that changes
	grow  int                      // levels that the tree gets more
	nodes int                      // nodes to create
}

// levelPlan is what happens to the node of the path at one height.
type levelPlan struct {
	i, j   int    // the entries [i, j) give way
	add    int    // to so many others
	first  uint64 // what the first entry starts at afterwards
	gone   bool   // nothing is left in the node
	modify bool   // the node is another block to be written

	news    int              // nodes to create at this height
	created []*buffer.Buffer // those, when they are there
}

// plan works out what it takes to replace the entries [i, j) of the leaf at the
// end of p with those in entries. It fails only if the tree would get too deep.
func (m *Map) plan(p *path, i, j int, entries []byte) (pl plan, err error) {
	capacity := disk.ExtentNodeCapacity(m.Cache.BlockSize())
	leaf := p.leaf()
	l := levelPlan{i: i, j: j, add: len(entries) / disk.ExtentEntrySize}
	switch {
	case i > 0:
		l.first = key(leaf.node, 0)
	case l.add > 0:
		l.first = uint64(binary.LittleEndian.Uint32(entries))
	case j < leaf.n:
		l.first = key(leaf.node, j)
	}
	rekeyed := false // an entry of the node gets another key
	for ; pl.top < p.depth; pl.top++ {
		s, parent := p.at(pl.top), p.at(pl.top+1)
		next := parent.i + 1
		n := s.n - (l.j - l.i) + l.add
		if n == 0 {
			l.gone = true
			pl.level[pl.top] = l
			l = levelPlan{i: parent.i, j: next, first: key(parent.node, 0)}
			if parent.i == 0 && parent.n > 1 {
				l.first = key(parent.node, 1)
			}
			rekeyed = false
			continue
		}
		l.news = overflow(n, s.max, capacity)
		pl.nodes += l.news
		// A full node to which something is appended stays as it is.
		l.modify = rekeyed || l.i < s.n || l.news == 0 || s.n < s.max
		pl.level[pl.top] = l
		rekeyed = l.first != key(parent.node, parent.i)
		if l.news == 0 && !rekeyed {
			return pl, nil
		}
		above := levelPlan{i: next, j: next, add: l.news, first: key(parent.node, 0)}
		if parent.i == 0 {
			above.first = l.first
		}
		l = above
	}
	return pl, m.planRoot(&pl, l, &p.steps[0])
}

// planRoot is the part of plan for the root, to which l is to happen. As long as
// it overflows, its content moves to a node of its own, or several, of which the
// new root is the parent.
func (m *Map) planRoot(pl *plan, l levelPlan, root *step) error {
	capacity := disk.ExtentNodeCapacity(m.Cache.BlockSize())
	n, limit := root.n-(l.j-l.i)+l.add, root.max
	for n > limit {
		if pl.top == maxHeight {
			return disk.Corruptf(disk.InodeName(m.Ino), "extent tree would get deeper than %d", maxHeight)
		}
		n, limit = 1+overflow(n, capacity, capacity), rootCapacity
		l.news, l.modify = n, true
		pl.level[pl.top] = l
		pl.nodes += n
		pl.grow++
		pl.top++
		l = levelPlan{i: 1, j: 1, add: n - 1, first: l.first}
	}
	pl.level[pl.top] = l
	return nil
}

// overflow is the number of nodes that n entries need besides one for max of
// them.
func overflow(n, limit, capacity int) int {
	return max(n-limit+capacity-1, 0) / capacity
}
