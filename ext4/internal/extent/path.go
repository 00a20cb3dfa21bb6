package extent

import (
	"ext4box/ext4/internal/buffer"
	"ext4box/ext4/internal/disk"
)

// rootCapacity is the number of entries that fit into the inode.
const rootCapacity = (disk.InodeBlockSize - disk.ExtentHeaderSize) / disk.ExtentEntrySize

// step is a node on the way from the root of a tree to a leaf.
type step struct {
	buf  *buffer.Buffer // nil for the root, which is in the inode
	node []byte
	n    int // entries
	max  int // entries that the node may have

	// i is the entry that was taken. In the leaf it is the last that starts at
	// or before the block looked for, or -1.
	i int

	// end is the file block where the range ends that the parents leave to the
	// node.
	end uint64
}

// path is a way from the root to a leaf.
type path struct {
	steps [disk.ExtentMaxDepth + 1]step // the root first
	depth int                           // the leaf is steps[depth]
}

func (p *path) leaf() *step { return &p.steps[p.depth] }

// at is the node at the given height above the leaf.
func (p *path) at(height int) *step { return &p.steps[p.depth-height] }

// goal is a device block near which new nodes should be, or else.
func (p *path) goal(other uint64) uint64 {
	if b := p.leaf().buf; b != nil {
		return b.Block + 1
	}
	return other
}

func newStep(buf *buffer.Buffer, node []byte, end uint64) step {
	h := disk.DecodeExtentHeader(node)
	s := step{buf: buf, node: node, end: end}
	s.max = min(int(h.Max), disk.ExtentNodeCapacity(len(node)))
	s.n = min(int(h.Entries), s.max)
	return s
}

// find fills p with the way to the leaf for blk: the one that has it or, when
// none does, into which it would have to be inserted.
//
// Other than a lookup, which clips, it does not bear with a child that does not
// keep to the range that its parent gives it, or is empty: changes to such a
// tree could make things worse. This also keeps a node from being reached by two
// ways, since each child must begin where its index entry says.
func (m *Map) find(p *path, blk uint64) error {
	p.depth = min(int(disk.DecodeExtentHeader(m.Root).Depth), disk.ExtentMaxDepth)
	p.steps[0] = newStep(nil, m.Root, MaxBlocks)
	for d := range p.depth {
		s := &p.steps[d]
		if s.n == 0 {
			return disk.Corruptf(disk.InodeName(m.Ino), "inner extent node is empty")
		}
		// What lies before the first entry goes to the first child.
		s.i = max(searchNode(s.node, blk), 0)
		child, err := m.child(s, s.i, p.depth-d-1)
		if err != nil {
			return err
		}
		p.steps[d+1] = child
	}
	leaf := p.leaf()
	leaf.i = min(searchNode(leaf.node, blk), leaf.n-1)
	return nil
}

// child reads and checks the node below entry i of s, at the given height above
// the leaves.
func (m *Map) child(s *step, i, height int) (step, error) {
	x := disk.DecodeExtentIndex(entry(s.node, i))
	end := s.end
	if i+1 < s.n {
		end = key(s.node, i+1)
	}
	b, err := m.node(x.Leaf, height)
	if err != nil {
		return step{}, err
	}
	c := newStep(b, b.Data, end)
	switch {
	case c.n == 0:
		return step{}, disk.Corruptf(m.what("extent node", x.Leaf), "it is empty")
	case key(c.node, 0) != uint64(x.Block):
		return step{}, disk.Corruptf(m.what("extent node", x.Leaf), "it starts at file block %d, its index says %d", key(c.node, 0), x.Block)
	case height > 0 && key(c.node, c.n-1) >= end:
		return step{}, disk.Corruptf(m.what("extent node", x.Leaf), "it goes beyond file block %d, where the next one starts", end)
	case height == 0:
		if last := leafRun(c.node, c.n-1); last.End() > end {
			return step{}, disk.Corruptf(m.what("extent node", x.Leaf), "it goes beyond file block %d, where the next one starts", end)
		}
	}
	return c, nil
}
