package balloc

import (
	"cmp"
	"maps"
	"slices"

	"ext4box/ext4/internal/buffer"
	"ext4box/ext4/internal/disk"
	"ext4box/internal/spin"
)

// freedBatches are the blocks freed by transactions that are not yet committed,
// by transaction. What they take is bounded by the size of a transaction, which has
// the bitmap of each of the groups in it.
type freedBatches struct {
	mu    spin.Mutex
	byTID map[uint32]freedBatch
}

// freedBatch has what one transaction freed, by group.
type freedBatch map[uint32]*freedClusters

// freedClusters are clusters of one group: the spans, or as soon as those would take
// more, a bitmap.
type freedClusters struct {
	spans []span
	bits  disk.Bitmap
}

// bytesPerSpan is what a span takes, in a list that grows.
const bytesPerSpan = 16

func (f *freedClusters) add(at, n, clusters uint32) {
	if f.bits != nil {
		f.bits.SetRange(at, n)
		return
	}
	if i := len(f.spans) - 1; i >= 0 && f.spans[i].hi == at {
		f.spans[i].hi += n
		return
	}
	f.spans = append(f.spans, span{at, at + n})
	if len(f.spans)*bytesPerSpan <= int(clusters/8) {
		return
	}
	f.bits = make(disk.Bitmap, (clusters+63)/64*8)
	for _, s := range f.spans {
		f.bits.SetRange(s.lo, s.hi-s.lo)
	}
	f.spans = nil
}

// each calls fn with the clusters, in order, adjacent ones together.
func (f *freedClusters) each(clusters uint32, fn func(at, n uint32)) {
	if f.bits != nil {
		for at := f.bits.NextSet(0, clusters); at < clusters; {
			end := f.bits.NextClear(at, clusters)
			fn(at, end-at)
			at = f.bits.NextSet(end, clusters)
		}
		return
	}
	slices.SortFunc(f.spans, func(a, b span) int { return cmp.Compare(a.lo, b.lo) })
	for i := 0; i < len(f.spans); {
		s := f.spans[i]
		for i++; i < len(f.spans) && f.spans[i].lo == s.hi; i++ {
			s.hi = f.spans[i].hi
		}
		fn(s.lo, s.hi-s.lo)
	}
}

// addFreed has clusters of a group handed out again after the commit. No group
// may be locked.
func (gs *Groups) addFreed(tx buffer.Tx, num, at, n uint32) {
	f := &gs.freed
	tid := tx.TID()
	f.mu.Lock()
	b := f.byTID[tid]
	isNew := b == nil
	if isNew {
		b = make(freedBatch)
		f.byTID[tid] = b
	}
	if b[num] == nil {
		b[num] = new(freedClusters)
	}
	b[num].add(at, n, gs.Geo.ClustersPerGroup)
	f.mu.Unlock()
	if isNew {
		tx.OnCommit(func() { gs.committed(tid) })
	}
}

// committed makes the blocks of a batch available.
func (gs *Groups) committed(tid uint32) {
	gs.freed.mu.Lock()
	b := gs.freed.byTID[tid]
	delete(gs.freed.byTID, tid)
	gs.freed.mu.Unlock()

	for _, num := range slices.Sorted(maps.Keys(b)) {
		// Not all at once: those who wait for the group go between.
		b[num].each(gs.Geo.ClustersPerGroup, func(at, n uint32) {
			g := gs.lock(num)
			gs.space.waiting.Add(-int64(n))
			gs.putBack(g, at, n)
			gs.unlock(g)
			if gs.Freed != nil {
				r := gs.run(num, at, n)
				gs.Freed(r.Start, uint64(r.Len))
			}
		})
		delete(b, num)
	}
}
