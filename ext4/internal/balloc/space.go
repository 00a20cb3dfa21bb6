package balloc

import (
	"sync/atomic"
	"syscall"
)

// Errors for a full filesystem.
var (
	errNoSpace  error = fullError("no free blocks are left; delete something")
	errNoInodes error = fullError("no free inodes are left; delete some files")
)

// fullError says in its own words what ENOSPC, which it unwraps to, would repeat.
type fullError string

func (e fullError) Error() string { return string(e) }
func (fullError) Unwrap() error   { return syscall.ENOSPC }

// space accounts for clusters. avail is what can be handed out: the free ones
// of the groups in the sums, less those pending, promised, or freed and not
// committed, wherever these are. It is a lower bound that becomes exact as the
// sums become complete.
type space struct {
	avail   atomic.Int64
	waiting atomic.Int64 // freed and not committed
}

// floor is what must stay free after an allocation.
func (gs *Groups) floor(root, pool bool) int64 {
	switch {
	case pool:
		return 0
	case root:
		return gs.pool
	}
	return gs.rootRes + gs.pool
}

// room is how many clusters can be handed out above floor. Further descriptors
// are read only as far as it takes to know of n of them.
func (gs *Groups) room(n, floor int64) (int64, error) {
	for {
		// In this order: once nothing is missing, avail is exact.
		complete := gs.sums.done.Load() >= gs.Geo.DescBlocks
		if room := gs.space.avail.Load() - floor; room >= n || complete {
			return room, nil
		}
		if _, err := gs.sumNext(); err != nil {
			return 0, err
		}
	}
}

// Room is how many blocks anybody may have, if that is less than n; else it is at
// least n. What cannot be read does not count.
func (gs *Groups) Room(n uint64) uint64 {
	room, _ := gs.room(int64(min(n, gs.Geo.BlocksCount)>>gs.ratio), gs.floor(false, false))
	return positive(room) << gs.ratio
}

// take claims up to n clusters above floor, at least least.
func (gs *Groups) take(n, least uint32, floor int64) (uint32, error) {
	for {
		room, err := gs.room(int64(n), floor)
		if err != nil {
			return 0, err
		}
		if room < int64(least) {
			return 0, errNoSpace
		}
		got := min(int64(n), room)
		if cur := gs.space.avail.Load(); cur-floor >= got && gs.space.avail.CompareAndSwap(cur, cur-got) {
			return uint32(got), nil
		}
	}
}

// ReserveSpace promises n blocks, so that allocations with Request.Promised
// cannot fail for lack of space until they have used them up. root allows the
// blocks reserved for root, pool those kept back by Config.Pool.
func (gs *Groups) ReserveSpace(n uint32, root, pool bool) error {
	want := gs.toClusters(n)
	if want == 0 {
		return nil
	}
	for {
		_, err := gs.take(want, want, gs.floor(root, pool))
		if err != errNoSpace || !gs.relieve() {
			return err
		}
	}
}

// ReturnSpace gives back n promised blocks that were not used.
func (gs *Groups) ReturnSpace(n uint32) { gs.space.avail.Add(int64(gs.toClusters(n))) }

// Waiting is the number of blocks that can be handed out once the transactions
// that freed them are committed: after ENOSPC, whether a commit would help.
func (gs *Groups) Waiting() uint64 { return positive(gs.space.waiting.Load()) << gs.ratio }

func (gs *Groups) toClusters(blocks uint32) uint32 {
	return uint32((uint64(blocks) + 1<<gs.ratio - 1) >> gs.ratio)
}
