package extent

import (
	"ext4box/ext4/internal/buffer"
	"ext4box/ext4/internal/disk"
)

// balance is for a path from which splice has removed entries and on which it
// has split no node: where there is little left in a node it is merged with a
// sibling, and the tree shrinks as far as it can.
func (m *Map) balance(tx buffer.Tx, a Allocator, p *path) error {
	d := p.depth
	for d > 0 && p.steps[d].n == 0 {
		d-- // the node is gone
	}
	for ; d > 0; d-- {
		merged, err := m.merge(tx, a, p, d)
		if err != nil {
			return err
		}
		if !merged {
			break
		}
	}
	return m.shrink(tx, a)
}

// merge joins the node at step d with a neighbour below the same parent, if it
// is a quarter full at most and the two leave a quarter free, so that the next
// few changes do not split them again.
func (m *Map) merge(tx buffer.Tx, a Allocator, p *path, d int) (bool, error) {
	s, parent := &p.steps[d], &p.steps[d-1]
	if s.n > s.max/4 || parent.n < 2 {
		return false, nil
	}
	at := parent.i - 1
	if parent.i == 0 {
		at = 1
	}
	sibling, err := m.child(parent, at, p.depth-d)
	if err != nil {
		return false, nil // who needs that node will see the error; here nobody does
	}
	left, right, gone := &sibling, s, parent.i
	if parent.i == 0 {
		left, right, gone = s, &sibling, 1
	}
	if left.n+right.n > left.max/4*3 {
		return false, nil
	}
	for _, s := range [...]*step{left, parent} {
		if s.buf == nil {
			continue
		}
		if err := tx.Modify(s.buf); err != nil {
			return false, err
		}
	}
	left.replace(left.n, left.n, entry(right.node, 0)[:right.n*disk.ExtentEntrySize])
	m.seal(left)
	parent.replace(gone, gone+1, nil)
	m.seal(parent)
	return true, a.FreeNode(tx, right.buf.Block)
}

// shrink makes the tree flatter while the root has one child, the content of
// which fits into the root.
func (m *Map) shrink(tx buffer.Tx, a Allocator) error {
	for {
		h := disk.DecodeExtentHeader(m.Root)
		if h.Depth == 0 || h.Entries != 1 {
			return nil
		}
		root := newStep(nil, m.Root, MaxBlocks)
		child, err := m.child(&root, 0, int(h.Depth)-1)
		if err != nil {
			return nil // see merge
		}
		if child.n > rootCapacity {
			return nil
		}
		initNode(m.Root, int(h.Depth)-1)
		root = newStep(nil, m.Root, MaxBlocks)
		root.replace(0, 0, entry(child.node, 0)[:child.n*disk.ExtentEntrySize])
		if err := a.FreeNode(tx, child.buf.Block); err != nil {
			return err
		}
	}
}
