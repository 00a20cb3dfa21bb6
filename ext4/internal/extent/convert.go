package extent

import "ext4box/ext4/internal/buffer"

// convertTree is ConvertStep for a tree.
func (m *Map) convertTree(tx buffer.Tx, a Allocator, lo, hi uint64, to State) (rest uint64, err error) {
	var p path
	if err := m.find(&p, lo); err != nil {
		return lo, err
	}
	leaf := p.leaf()
	i := max(leaf.i, 0)
	if leaf.i >= 0 {
		if r := leafRun(leaf.node, i); r.End() <= lo {
			i++
		}
	}
	j := i
	for j < leaf.n && key(leaf.node, j) < hi {
		j++
	}
	rest = min(hi, leaf.end)
	if i == j {
		return rest, nil
	}
	// The extents on both sides take part, since they may merge with what is
	// converted.
	list := make(runs, 0, j-i+4)
	from, until := max(i-1, 0), min(j+1, leaf.n)
	for k := from; k < until; k++ {
		r := leafRun(leaf.node, k)
		list = list.add(r.before(lo))
		middle := r.from(lo).before(hi)
		middle.State = to
		list = list.add(middle)
		list = list.add(r.from(hi))
	}
	if err := m.rewrite(tx, a, &p, from, until, list); err != nil {
		return lo, err
	}
	return rest, nil
}
