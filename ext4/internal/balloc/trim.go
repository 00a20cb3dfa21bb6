package balloc

import (
	"fmt"
	"syscall"
)

// Trim calls discard for the free runs of at least minLen blocks in [start,
// end), one at a time; meanwhile nobody gets the run. Runs freed by transactions
// that are not committed are left out, for a crash can bring back what was in
// them. end may lie beyond the filesystem. Groups that cannot be trusted are
// passed over. stop, if not nil, is asked before each group whether to give up, with
// EINTR. It returns the number of blocks discarded.
func (gs *Groups) Trim(start, end, minLen uint64, stop func() bool, discard func(start, n uint64) error) (uint64, error) {
	start, end = max(start, uint64(gs.Geo.FirstDataBlock)), min(end, gs.Geo.BlocksCount)
	if start >= end {
		return 0, fmt.Errorf("trim from block %d on: %w", start, syscall.EINVAL)
	}
	least := max((minLen+1<<gs.ratio-1)>>gs.ratio, 1)
	total := uint64(0)
	if least > uint64(gs.Geo.ClustersPerGroup) {
		return 0, nil
	}
	for num := gs.Geo.GroupOf(start); num <= gs.Geo.GroupOf(end-1); num++ {
		// Also where there is nothing to discard, but bitmaps to be read.
		if stop != nil && stop() {
			return total, syscall.EINTR
		}
		first := gs.Geo.GroupFirstBlock(num)
		// Clusters that lie in the range as a whole.
		lo := uint32((max(start, first) - first + 1<<gs.ratio - 1) >> gs.ratio)
		hi := uint32((min(end-first, uint64(gs.Geo.GroupBlocks(num)))) >> gs.ratio)
		n, err := gs.trimGroup(num, lo, hi, uint32(least), discard)
		total += n
		if err != nil {
			return total, err
		}
	}
	return total, nil
}

func (gs *Groups) trimGroup(num, lo, hi, least uint32, discard func(start, n uint64) error) (total uint64, err error) {
	if c := gs.blocks.get(num); c == full || c == bad {
		return 0, nil
	}
	for lo < hi {
		r, next, err := gs.trimNext(num, lo, hi, least, discard)
		total += uint64(r.Len)
		if err != nil {
			return total, err
		}
		lo = next
	}
	return total, nil
}

// trimNext discards the first run that is long enough in clusters [lo, hi) of a
// group and tells where to go on.
func (gs *Groups) trimNext(num, lo, hi, least uint32, discard func(start, n uint64) error) (Run, uint32, error) {
	// Allocations that find nothing wait for this lock before they give up.
	gs.trimMu.Lock()
	defer gs.trimMu.Unlock()
	g := gs.lock(num)
	if err := gs.loadBlocks(g); err != nil {
		gs.unlock(g)
		if isCorrupt(err) {
			err = nil
		}
		return Run{}, hi, err
	}
	at, end := gs.trimmable(g, lo, hi, least)
	if at == end {
		gs.unlock(g)
		return Run{}, hi, nil
	}
	n := end - at
	r, ok := gs.grab(g, at, n)
	if !ok {
		gs.unlock(g)
		return Run{}, hi, nil
	}
	gs.space.avail.Add(-int64(n))
	gs.unlock(g)

	err := discard(r.Start, uint64(r.Len))

	g = gs.lock(num)
	gs.countPending(g, -int64(n))
	gs.putBack(g, at, n)
	gs.unlock(g)
	if err != nil {
		r.Len = 0
	}
	return r, end, err
}

// trimmable is the first run of at least least free clusters in [lo, hi).
func (gs *Groups) trimmable(g *group, lo, hi, least uint32) (at, end uint32) {
	for at = g.busy.NextClear(lo, hi); at < hi; at = g.busy.NextClear(end, hi) {
		if end = g.busy.NextSet(at, hi); end-at >= least {
			return at, end
		}
	}
	return hi, hi
}

// awaitTrim waits until the run that is being trimmed is back and tells whether
// there was one.
func (gs *Groups) awaitTrim() bool {
	if gs.trimMu.TryLock() {
		gs.trimMu.Unlock()
		return false
	}
	gs.trimMu.Lock()
	defer gs.trimMu.Unlock()
	return true
}
