package balloc

import (
	"cmp"
	"slices"
	"sync"

	"ext4box/ext4/internal/buffer"
)

// freedBatches are the blocks freed by transactions that are not yet committed,
// by transaction.
type freedBatches struct {
	mu    sync.Mutex
	byTID map[uint32]*freedBatch
}

type freedBatch struct{ runs []Run }

// add has a run, inside one group, handed out again after the commit. No group
// may be locked.
func (f *freedBatches) add(gs *Groups, tx buffer.Tx, r Run) {
	tid := tx.TID()
	f.mu.Lock()
	b := f.byTID[tid]
	isNew := b == nil
	if isNew {
		b = &freedBatch{}
		f.byTID[tid] = b
	}
	if n := len(b.runs); n > 0 && gs.adjacent(b.runs[n-1], r) {
		b.runs[n-1].Len += r.Len
	} else {
		b.runs = append(b.runs, r)
	}
	f.mu.Unlock()
	if isNew {
		tx.OnCommit(func() { gs.committed(tid, b) })
	}
}

// adjacent tells whether b continues a in the same group.
func (gs *Groups) adjacent(a, b Run) bool {
	return a.End() == b.Start && gs.Geo.GroupOf(a.Start) == gs.Geo.GroupOf(b.Start)
}

// committed makes the blocks of a batch available.
func (gs *Groups) committed(tid uint32, b *freedBatch) {
	gs.freed.mu.Lock()
	if gs.freed.byTID[tid] == b {
		delete(gs.freed.byTID, tid)
	}
	runs := b.runs
	gs.freed.mu.Unlock()

	slices.SortFunc(runs, func(a, b Run) int { return cmp.Compare(a.Start, b.Start) })
	for i := 0; i < len(runs); {
		r := runs[i]
		for i++; i < len(runs) && gs.adjacent(r, runs[i]); i++ {
			r.Len += runs[i].Len
		}
		num, at, n, err := gs.locate(r)
		if err != nil {
			continue // was checked when it was freed
		}
		g := gs.lock(num)
		gs.space.waiting.Add(-int64(n))
		gs.putBack(g, at, n)
		gs.unlock(g)
		if gs.Freed != nil {
			gs.Freed(r.Start, uint64(r.Len))
		}
	}
}
