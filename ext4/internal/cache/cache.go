package cache

import "sync"

const shards = 32 // a power of two

// Cache maps 64-bit keys to pointers. All methods may be called concurrently.
type Cache[V any] struct {
	shard  [shards]shard[V]
	pinned func(*V) bool
}

type shard[V any] struct {
	mu    sync.Mutex
	index map[uint64]int // key to position in ring
	ring  []slot[V]
	hand  int
	limit int
	_     [24]byte // keeps the mutexes of neighbours off one cache line
}

type slot[V any] struct {
	key  uint64
	val  *V
	used bool // since the hand last passed
}

// New returns a cache of about limit entries, at least one for each of its
// internal shards. A value is not evicted while pinned, which may be nil, says
// so; the cache then grows beyond its limit. pinned is called with a shard
// locked and must be quick.
func New[V any](limit int, pinned func(*V) bool) *Cache[V] {
	c := &Cache[V]{pinned: pinned}
	for i := range c.shard {
		c.shard[i].limit = max(limit/shards, 1)
		c.shard[i].index = make(map[uint64]int)
	}
	return c
}

func (c *Cache[V]) of(key uint64) *shard[V] {
	// Fibonacci hashing: neighbouring keys land in different shards.
	return &c.shard[key*0x9E3779B97F4A7C15>>59]
}

// Get returns the value of key, or nil.
func (c *Cache[V]) Get(key uint64) *V {
	s := c.of(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	i, ok := s.index[key]
	if !ok {
		return nil
	}
	s.ring[i].used = true
	return s.ring[i].val
}

// Add stores val under key unless the key is present, and returns the value
// that is stored afterwards. Another entry may be evicted.
func (c *Cache[V]) Add(key uint64, val *V) *V {
	s := c.of(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if i, ok := s.index[key]; ok {
		s.ring[i].used = true
		return s.ring[i].val
	}
	victim := c.victim(s)
	if victim < 0 {
		s.index[key] = len(s.ring)
		s.ring = append(s.ring, slot[V]{key: key, val: val})
		return val
	}
	delete(s.index, s.ring[victim].key)
	s.ring[victim] = slot[V]{key: key, val: val}
	s.index[key] = victim
	return val
}

// victim is the position of the entry to replace, or -1 to add one.
func (c *Cache[V]) victim(s *shard[V]) int {
	if len(s.ring) < s.limit {
		return -1
	}
	// In its first round the hand takes the marks away, so that the second
	// finds an entry unless all are pinned.
	for range 2 * len(s.ring) {
		at := s.hand
		s.hand = (s.hand + 1) % len(s.ring)
		e := &s.ring[at]
		switch {
		case e.used:
			e.used = false
		case c.pinned == nil || !c.pinned(e.val):
			return at
		}
	}
	return -1
}

// Remove takes the entry of key out, if there is one.
func (c *Cache[V]) Remove(key uint64) {
	s := c.of(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	i, ok := s.index[key]
	if !ok {
		return
	}
	last := len(s.ring) - 1
	s.ring[i] = s.ring[last]
	s.index[s.ring[i].key] = i
	s.ring[last] = slot[V]{}
	s.ring = s.ring[:last]
	delete(s.index, key)
	if s.hand >= last {
		s.hand = 0
	}
}

// Len is the number of entries.
func (c *Cache[V]) Len() int {
	n := 0
	for i := range c.shard {
		s := &c.shard[i]
		s.mu.Lock()
		n += len(s.ring)
		s.mu.Unlock()
	}
	return n
}
