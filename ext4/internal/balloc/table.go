package balloc

import (
	"slices"
	"sync/atomic"

	"ext4box/ext4/internal/disk"
	"ext4box/internal/spin"
)

// group is what is in memory of one block group. Its fields, but for refs, are
// guarded by mu.
type group struct {
	num  uint32
	refs atomic.Int32 // users; raised only with the lock of the table's shard held

	mu         spin.Mutex
	report     []error // corruption found, to be reported once mu is free
	descLoaded bool
	desc       disk.GroupDesc // as in the descriptor's buffer

	blocksLoaded bool
	clusters     uint32      // in the group
	busy         disk.Bitmap // used on disk, pending, or freed and not committed
	free         uint32      // clear bits in busy
	longest      uint32      // longest run of clear bits, or more unless longestExact
	longestExact bool
	published    bool // in the index
	publishedLen int  // number of bits of the longest run as in the index
	noRun        [runClasses]noRun
	zones        []span // metadata in the group, ascending
	held         uint32 // pending, being trimmed, or freed and not committed
	pending      uint32 // those of them that are not freed

	inodesLoaded bool
	firstInode   uint32 // no inode below this index is free
}

// span is a range of clusters of a group.
type span struct{ lo, hi uint32 }

const tableShards = 16 // a power of two

// table holds the groups in use and, up to a limit, those that were. Groups
// with something in memory that is not on disk stay.
type table struct {
	shard [tableShards]tableShard
}

type tableShard struct {
	mu    spin.Mutex
	index map[uint32]int // position in ring
	ring  []tableSlot
	hand  int
	limit int
}

type tableSlot struct {
	g    *group
	used bool // since the hand last passed
}

func (t *table) init(limit int) {
	for i := range t.shard {
		t.shard[i].limit = max(limit/tableShards, 4)
		t.shard[i].index = make(map[uint32]int)
	}
}

// get returns a group, which stays in the table until put.
func (t *table) get(num uint32) *group {
	// Fibonacci hashing: the groups of one stride land in different shards.
	s := &t.shard[num*0x9E3779B9>>28]
	s.mu.Lock()
	defer s.mu.Unlock()
	if i, ok := s.index[num]; ok {
		s.ring[i].used = true
		g := s.ring[i].g
		g.refs.Add(1)
		return g
	}
	g := &group{num: num}
	g.refs.Store(1)
	at := s.victim()
	if at < 0 {
		at = len(s.ring)
		s.ring = append(s.ring, tableSlot{})
	} else {
		delete(s.index, s.ring[at].g.num)
	}
	s.ring[at] = tableSlot{g: g}
	s.index[num] = at
	return g
}

func (t *table) put(g *group) { g.refs.Add(-1) }

// nums are the groups in the table, in order.
func (t *table) nums() (nums []uint32) {
	for i := range t.shard {
		s := &t.shard[i]
		s.mu.Lock()
		for num := range s.index {
			nums = append(nums, num)
		}
		s.mu.Unlock()
	}
	slices.Sort(nums)
	return nums
}

// victim is the position of a group to replace, or -1 to add one.
func (s *tableShard) victim() int {
	if len(s.ring) < s.limit {
		return -1
	}
	for range 2 * len(s.ring) {
		at := s.hand
		s.hand = (s.hand + 1) % len(s.ring)
		e := &s.ring[at]
		switch {
		case e.used:
			e.used = false
		// Without users nobody holds mu, and held does not change.
		case e.g.refs.Load() == 0 && e.g.held == 0:
			return at
		}
	}
	return -1
}
