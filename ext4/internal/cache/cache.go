package cache

import "sync"

const shards = 32 // a power of two

// Cache maps 64-bit keys to pointers. All methods may be called concurrently.
type Cache[V any] struct {
	shard [shards]shard[V]
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
// internal shards.
func New[V any](limit int) *Cache[V] {
	c := new(Cache[V])
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
	if len(s.ring) < s.limit {
		s.index[key] = len(s.ring)
		s.ring = append(s.ring, slot[V]{key: key, val: val})
		return val
	}
	// The hand passes each used entry at most once, so this ends.
	for s.ring[s.hand].used {
		s.ring[s.hand].used = false
		s.hand = (s.hand + 1) % len(s.ring)
	}
	victim := &s.ring[s.hand]
	delete(s.index, victim.key)
	victim.key, victim.val = key, val
	s.index[key] = s.hand
	s.hand = (s.hand + 1) % len(s.ring)
	return val
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
