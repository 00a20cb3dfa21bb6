package extent

import (
	"bytes"

	"ext4box/ext4/internal/buffer"
	"ext4box/ext4/internal/disk"
)

// runs is a list of runs to be made extents of. It merges what continues the run
// before it, and cuts what is longer than an extent can be.
type runs []Run

func maxLen(s State) uint64 {
	if s == Unwritten {
		return disk.ExtentMaxUnwritten
	}
	return disk.ExtentMaxLen
}

// continues tells whether a run directly follows r in the file and on the
// device and is backed alike.
func (r *Run) continues(next *Run) bool {
	return r.State == next.State && r.End() == next.Block && r.Start+r.Len == next.Start
}

// add returns the list with another run, which may be empty, at its end.
func (l runs) add(r Run) runs {
	limit := maxLen(r.State)
	if n := len(l); n > 0 && r.Len > 0 {
		last := &l[n-1]
		if last.continues(&r) && last.Len < limit {
			more := min(limit-last.Len, r.Len)
			last.Len += more
			r.advance(more)
		}
	}
	for r.Len > 0 {
		part := r
		part.Len = min(limit, r.Len)
		l = append(l, part)
		r.advance(part.Len)
	}
	return l
}

// advance takes n blocks off the start of the run.
func (r *Run) advance(n uint64) {
	r.Block, r.Start, r.Len = r.Block+n, r.Start+n, r.Len-n
}

// before and from are the parts of the run on both sides of file block blk,
// which may be empty.
func (r Run) before(blk uint64) Run {
	r.Len = min(r.Len, max(blk, r.Block)-r.Block)
	return r
}

func (r Run) from(blk uint64) Run {
	r.advance(min(r.Len, max(blk, r.Block)-r.Block))
	return r
}

// encode appends the leaf entries of the runs to b.
func (l runs) encode(b []byte) []byte {
	for i := range l {
		r := &l[i]
		b = append(b, make([]byte, disk.ExtentEntrySize)...)
		disk.EncodeExtent(b[len(b)-disk.ExtentEntrySize:], &disk.Extent{
			Block: uint32(r.Block), Len: uint32(r.Len), Start: r.Start, Unwritten: r.State == Unwritten})
	}
	return b
}

// rewrite makes the entries [i, j) of the leaf at the end of p those of the
// list, which is not empty, and touches only what differs.
func (m *Map) rewrite(tx buffer.Tx, a Allocator, p *path, i, j int, list runs) error {
	const size = disk.ExtentEntrySize
	var few [4 * size]byte
	entries := list.encode(few[:0])
	leaf := p.leaf()
	for i < j && len(entries) > 0 && bytes.Equal(entries[:size], entry(leaf.node, i)[:size]) {
		i, entries = i+1, entries[size:]
	}
	for i < j && len(entries) > 0 && bytes.Equal(entries[len(entries)-size:], entry(leaf.node, j-1)[:size]) {
		j, entries = j-1, entries[:len(entries)-size]
	}
	if i == j && len(entries) == 0 {
		return nil
	}
	less := len(entries)/size < j-i
	if err := m.splice(tx, a, p, i, j, entries, p.goal(list[0].Start)); err != nil || !less {
		return err
	}
	return m.shrink(tx, a)
}
