package extent

import "ext4box/ext4/internal/buffer"

// removeTree is RemoveStep for a tree.
func (m *Map) removeTree(tx buffer.Tx, a Allocator, lo, hi uint64, limit int, freed func(start, n uint64) error) (rest uint64, err error) {
	var p path
	if err := m.find(&p, hi-1); err != nil {
		return hi, err
	}
	leaf := p.leaf()
	i, j := leaf.i+1, leaf.i+1
	var gone []Run
	for i > 0 && j-i < limit {
		r := leafRun(leaf.node, i-1)
		if r.End() <= lo {
			break
		}
		gone = append(gone, r.from(lo).before(hi))
		i--
	}
	if len(gone) == 0 {
		return lo, nil // leaves further down end before this one starts
	}
	first, last := leafRun(leaf.node, i), leafRun(leaf.node, j-1)
	stopped := i > 0 && j-i == limit
	rest = lo
	if stopped || i == 0 {
		rest = max(lo, first.Block)
	}
	kept := make(runs, 0, 2)
	if first.Block < lo {
		kept = append(kept, first.before(lo))
	}
	if last.End() > hi {
		kept = append(kept, last.from(hi))
	}
	if err := m.splice(tx, a, &p, i, j, kept.encode(nil), p.goal(first.Start)); err != nil {
		return hi, err
	}
	for i := range gone {
		if err := freed(gone[i].Start, gone[i].Len); err != nil {
			return rest, err
		}
	}
	if stopped {
		return rest, nil
	}
	return rest, m.balance(tx, a, &p)
}
