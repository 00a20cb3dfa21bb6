package check

import (
	"slices"
	"sync"
	"sync/atomic"

	"ext4box/ext4/internal/disk"
)

// blockSet is a set of clusters (blocks, without bigalloc) that stays within a
// budget of memory: when it outgrows it, what it has of the highest groups is
// dropped, and it covers only the groups below limit from then on. Its methods may
// be called concurrently.
type blockSet struct {
	perGroup uint64 // clusters
	first    uint64 // cluster that group 0 begins with
	budget   int64  // bytes
	groups   uint64

	mu       sync.RWMutex // exclusively while groups are dropped
	from, to uint64       // groups that are covered
	chunks   []atomic.Pointer[setChunk]
	memory   atomic.Int64
}

const setsPerChunk = 64

type setChunk struct {
	mu   sync.Mutex
	sets [setsPerChunk]groupSet
}

// groupSet is the part of a set in one group: sorted ranges, or a bitmap once that
// is smaller.
type groupSet struct {
	runs []run
	bits disk.Bitmap
}

// run is the clusters [lo, hi) of a group.
type run struct{ lo, hi uint32 }

const (
	chunkBytes = setsPerChunk*48 + 16
	runBytes   = 8
)

func newBlockSet(g *disk.Geometry, budget int64) *blockSet {
	return &blockSet{
		perGroup: uint64(g.ClustersPerGroup),
		first:    uint64(g.FirstDataBlock) >> g.ClusterBits,
		budget:   budget,
		groups:   uint64(g.Groups),
		to:       uint64(g.Groups),
		chunks:   make([]atomic.Pointer[setChunk], (uint64(g.Groups)+setsPerChunk-1)/setsPerChunk),
	}
}

// reset empties the set and lets it cover the groups [from, to).
func (s *blockSet) reset(from, to uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.chunks {
		s.chunks[i].Store(nil)
	}
	s.memory.Store(0)
	s.from, s.to = from, to
}

// window is the groups that the set covers.
func (s *blockSet) window() (from, to uint64) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.from, s.to
}

// covers tells whether the set covers a cluster.
func (s *blockSet) covers(cluster uint64) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	group := (cluster - min(s.first, cluster)) / s.perGroup
	return group >= s.from && group < s.to
}

// whole tells whether it covers all groups.
func (s *blockSet) whole() bool {
	from, to := s.window()
	return from == 0 && to >= s.groups
}

// split calls fn for the part of the clusters [start, start+n) in each group that
// the set covers, as places in the group.
func (s *blockSet) split(start, n uint64, fn func(group uint64, lo, hi uint32)) {
	if start < s.first {
		skip := min(s.first-start, n)
		start, n = start+skip, n-skip
	}
	lo := max(start-s.first, s.from*s.perGroup)
	hi := min(start-s.first+n, s.to*s.perGroup)
	for lo < hi {
		group := lo / s.perGroup
		end := min(hi, (group+1)*s.perGroup)
		fn(group, uint32(lo-group*s.perGroup), uint32(end-group*s.perGroup))
		lo = end
	}
}

// add puts the clusters [start, start+n) into the set, and tells again of those
// that were in it already. again may be nil.
func (s *blockSet) add(start, n uint64, again func(start, n uint64)) {
	s.mu.RLock()
	s.split(start, n, func(group uint64, lo, hi uint32) {
		base := s.first + group*s.perGroup
		chunk := s.chunk(group)
		chunk.mu.Lock()
		var twice []run
		set := &chunk.sets[group%setsPerChunk]
		before := set.bytes()
		twice = set.add(run{lo, hi}, uint32(s.perGroup), again != nil)
		s.memory.Add(set.bytes() - before)
		chunk.mu.Unlock()
		for _, r := range twice {
			again(base+uint64(r.lo), uint64(r.hi-r.lo))
		}
	})
	s.mu.RUnlock()
	if s.memory.Load() > s.budget {
		s.shrink()
	}
}

func (s *blockSet) chunk(group uint64) *setChunk {
	slot := &s.chunks[group/setsPerChunk]
	if c := slot.Load(); c != nil {
		return c
	}
	if slot.CompareAndSwap(nil, new(setChunk)) {
		s.memory.Add(chunkBytes)
	}
	return slot.Load()
}

// shrink drops the highest groups until a quarter of the budget is free, but never
// the lowest ones.
func (s *blockSet) shrink() {
	s.mu.Lock()
	defer s.mu.Unlock()
	low := s.from / setsPerChunk
	for i := uint64(len(s.chunks)); i > low+1 && s.memory.Load() > s.budget/4*3; i-- {
		c := s.chunks[i-1].Load()
		if c == nil {
			continue
		}
		bytes := int64(chunkBytes)
		for j := range c.sets {
			bytes += c.sets[j].bytes()
		}
		s.chunks[i-1].Store(nil)
		s.memory.Add(-bytes)
		s.to = min(s.to, (i-1)*setsPerChunk)
	}
}

// has tells whether any of the clusters [start, start+n) is in the set.
func (s *blockSet) has(start, n uint64) (any bool) {
	s.each(start, n, func(_, _ uint64) bool { any = true; return false })
	return any
}

// each calls fn for the ranges of [start, start+n) that are in the set, in
// ascending order, until it returns false.
func (s *blockSet) each(start, n uint64, fn func(start, n uint64) bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	more := true
	s.split(start, n, func(group uint64, lo, hi uint32) {
		chunk := s.chunks[group/setsPerChunk].Load()
		if !more || chunk == nil {
			return
		}
		chunk.mu.Lock()
		runs := chunk.sets[group%setsPerChunk].within(run{lo, hi})
		chunk.mu.Unlock()
		base := s.first + group*s.perGroup
		for _, r := range runs {
			if more = fn(base+uint64(r.lo), uint64(r.hi-r.lo)); !more {
				return
			}
		}
	})
}

// bitmap sets the bits of the clusters of a group that are in the set.
func (s *blockSet) bitmap(group uint64, to disk.Bitmap) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	chunk := s.chunks[group/setsPerChunk].Load()
	if chunk == nil {
		return
	}
	chunk.mu.Lock()
	defer chunk.mu.Unlock()
	set := &chunk.sets[group%setsPerChunk]
	copy(to, set.bits)
	for _, r := range set.runs {
		to.SetRange(r.lo, r.hi-r.lo)
	}
}

func (g *groupSet) bytes() int64 { return int64(cap(g.runs))*runBytes + int64(cap(g.bits)) }

// add puts r into the set. With report it returns what of it was there.
func (g *groupSet) add(r run, clusters uint32, report bool) (twice []run) {
	if report {
		twice = g.within(r)
	}
	if g.bits != nil {
		g.bits.SetRange(r.lo, r.hi-r.lo)
		return twice
	}
	// The ranges that r overlaps or touches become one with it.
	i, _ := slices.BinarySearchFunc(g.runs, r.lo, func(x run, lo uint32) int {
		if x.hi < lo {
			return -1
		}
		return 1
	})
	j := i
	for j < len(g.runs) && g.runs[j].lo <= r.hi {
		r.lo, r.hi = min(r.lo, g.runs[j].lo), max(r.hi, g.runs[j].hi)
		j++
	}
	g.runs = slices.Replace(g.runs, i, j, r)
	if bytes := (clusters + 7) / 8; uint32(len(g.runs))*runBytes > bytes {
		g.bits = make(disk.Bitmap, bytes)
		for _, r := range g.runs {
			g.bits.SetRange(r.lo, r.hi-r.lo)
		}
		g.runs = nil
	}
	return twice
}

// within returns what of r is in the set.
func (g *groupSet) within(r run) (in []run) {
	if g.bits != nil {
		for lo := g.bits.NextSet(r.lo, r.hi); lo < r.hi; {
			hi := g.bits.NextClear(lo, r.hi)
			in = append(in, run{lo, hi})
			lo = g.bits.NextSet(hi, r.hi)
		}
		return in
	}
	i, _ := slices.BinarySearchFunc(g.runs, r.lo, func(x run, lo uint32) int {
		if x.hi <= lo {
			return -1
		}
		return 1
	})
	for ; i < len(g.runs) && g.runs[i].lo < r.hi; i++ {
		in = append(in, run{max(r.lo, g.runs[i].lo), min(r.hi, g.runs[i].hi)})
	}
	return in
}
