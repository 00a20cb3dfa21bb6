package extent

import "ext4box/ext4/internal/buffer"

// insertTree is Insert for a tree. The neighbours that r continues in the same
// leaf are merged with it.
func (m *Map) insertTree(tx buffer.Tx, a Allocator, r Run) error {
	var p path
	if err := m.find(&p, r.Block); err != nil {
		return err
	}
	leaf := p.leaf()
	var few [3]Run
	list := runs(few[:0])
	i, j := leaf.i+1, leaf.i+1
	if i > 0 {
		prev := leafRun(leaf.node, i-1)
		if prev.End() > r.Block {
			return m.mappedAlready(r)
		}
		if prev.continues(&r) {
			list = list.add(prev)
			i--
		}
	}
	list = list.add(r)
	end := leaf.end
	if j < leaf.n {
		next := leafRun(leaf.node, j)
		end = next.Block
		if r.continues(&next) {
			list = list.add(next)
			j++
		}
	}
	if r.End() > end {
		return m.mappedAlready(r)
	}
	return m.rewrite(tx, a, &p, i, j, list)
}
