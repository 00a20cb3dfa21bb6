package extent

import "ext4box/ext4/internal/buffer"

// clearing is a step of removal from a block map: the way down to the last
// pointers to data in the range, and what goes.
type clearing struct {
	*Map
	way  [maxLevels + 1]pointers // from the inode down
	slot [maxLevels + 1]int      // the pointer taken in each
	len  int                     // of the way
	gone runs                    // device blocks that are no longer mapped
}

// removeBlockMap is RemoveStep for a map of block pointers.
func (m *Map) removeBlockMap(tx buffer.Tx, a Allocator, lo, hi uint64, limit int, freed func(start, n uint64) error) (rest uint64, err error) {
	for level := maxLevels; level >= 0; level-- {
		p := m.rootPointers(level)
		if hi <= p.first || level > 0 && pointer(p.data, 0) == 0 {
			hi = min(hi, p.first)
			if hi <= lo {
				return lo, nil
			}
			continue
		}
		c := clearing{Map: m}
		return c.step(tx, a, p, lo, min(hi, p.end()), limit, freed)
	}
	return lo, nil
}

// step removes the end of [lo, hi) below the pointers p of the inode.
func (c *clearing) step(tx buffer.Tx, a Allocator, p pointers, lo, hi uint64, limit int, freed func(start, n uint64) error) (rest uint64, err error) {
	i, j := 0, 0 // the pointers of the last array that become zero
	for {
		last := c.len
		c.way[last], c.len = p, last+1
		i, j = p.slots(lo, hi)
		if p.level == 0 {
			if i, err = c.collect(&p, i, j, limit); err != nil {
				return hi, err
			}
			break
		}
		for j > i && pointer(p.data, j-1) == 0 {
			j--
		}
		if j == i {
			break // nothing is left below this one
		}
		c.slot[last] = j - 1
		blk, err := c.pointee(&p, j-1)
		if err != nil {
			return hi, err
		}
		b, err := c.indirect(blk)
		if err != nil {
			return hi, err
		}
		p = p.child(j-1, b, uint64(c.Geo.BlockSize/4))
		hi = min(hi, p.end())
	}
	rest = max(lo, p.first+uint64(i)*p.span)

	// Blocks in which nothing is left go, without being written, and so does
	// the pointer to them.
	bottom := &c.way[c.len-1]
	var empty []uint64
	for ; bottom.buf != nil && zeroBut(bottom.data, i, j); bottom = &c.way[c.len-1] {
		empty = append(empty, bottom.buf.Block)
		c.len--
		i, j = c.slot[c.len-1], c.slot[c.len-1]+1
	}
	if len(empty) == 0 && len(c.gone) == 0 {
		return rest, nil
	}
	if bottom.buf != nil {
		if err := tx.Modify(bottom.buf); err != nil {
			return hi, err
		}
	}
	clear(bottom.data[4*i : 4*j])
	if err := free(tx, a, empty); err != nil {
		return rest, err
	}
	for k := range c.gone {
		if err := freed(c.gone[k].Start, c.gone[k].Len); err != nil {
			return rest, err
		}
	}
	return rest, nil
}

// collect notes the runs behind the pointers [i, j) to data, from the end and at
// most limit of them. It returns the first pointer that belongs to these.
func (c *clearing) collect(p *pointers, i, j, limit int) (int, error) {
	for k := j - 1; k >= i; k-- {
		blk, err := c.pointee(p, k)
		if err != nil {
			return 0, err
		}
		if blk == 0 {
			continue
		}
		if n := len(c.gone); n > 0 && c.gone[n-1].Start == blk+1 {
			c.gone[n-1].Start, c.gone[n-1].Len = blk, c.gone[n-1].Len+1
			continue
		}
		if len(c.gone) == limit {
			return k + 1, nil
		}
		c.gone = append(c.gone, Run{Start: blk, Len: 1})
	}
	return i, nil
}

// zeroBut tells whether all pointers but those in [i, j) are zero.
func zeroBut(b []byte, i, j int) bool {
	for k := range len(b) / 4 {
		if (k < i || k >= j) && pointer(b, k) != 0 {
			return false
		}
	}
	return true
}
