package cache

import (
	"weak"

	"ext4box/internal/spin"
)

const shards = 32 // a power of two

// Cache maps 64-bit keys to pointers. All methods may be called concurrently.
type Cache[V any] struct {
	shard  [shards]shard[V]
	policy Policy[V]
}

// Policy says what may be evicted. Its functions may be nil; they are called
// with a shard locked and must be quick.
type Policy[V any] struct {
	// Acquire is called for each value that Get and Add return.
	Acquire func(*V)
	// Pinned values are not evicted; the cache grows beyond its limit instead.
	// A value that Acquire pins cannot be evicted between its return and use.
	Pinned func(*V) bool
	// Exact says that all who use a value pin it: what is evicted is in nobody's
	// use, and need not be remembered.
	Exact bool
}

type shard[V any] struct {
	mu    spin.Mutex
	index map[uint64]int // key to position in ring
	ring  []slot[V]
	hand  int
	limit int
	// gone are the evicted, for as long as somebody still uses them.
	gone  map[uint64]weak.Pointer[V]
	sweep int      // how many may be remembered until the next sweep
	_     [24]byte // keeps the mutexes of neighbours off one cache line
}

type slot[V any] struct {
	key  uint64
	val  *V
	used bool // since the hand last passed
}

// New returns a cache of about limit entries, at least one for each of its
// internal shards.
func New[V any](limit int, p Policy[V]) *Cache[V] {
	c := &Cache[V]{policy: p}
	for i := range c.shard {
		c.shard[i].limit = max(limit/shards, 1)
		c.shard[i].index = make(map[uint64]int)
		c.shard[i].gone = make(map[uint64]weak.Pointer[V])
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
		val := s.recall(key)
		if val == nil {
			return nil
		}
		i = c.insert(s, key, val)
	}
	s.ring[i].used = true
	return c.take(&s.ring[i])
}

// recall returns a value that was evicted and is still in use somewhere. There
// must never be two values for one key in use.
func (s *shard[V]) recall(key uint64) *V {
	w, ok := s.gone[key]
	if !ok {
		return nil
	}
	delete(s.gone, key)
	return w.Value()
}

// bury remembers an entry that is evicted. Those that nobody uses any longer are
// forgotten when there are twice as many as there were in use last time.
func (s *shard[V]) bury(e *slot[V]) {
	if len(s.gone) > s.sweep {
		for key, w := range s.gone {
			if w.Value() == nil {
				delete(s.gone, key)
			}
		}
		s.sweep = 2 * max(len(s.gone), s.limit)
	}
	s.gone[e.key] = weak.Make(e.val)
}

// insert puts a value into the ring, in place of another if it is full, and
// returns its position.
func (c *Cache[V]) insert(s *shard[V], key uint64, val *V) int {
	i := c.victim(s)
	if i < 0 {
		i = len(s.ring)
		s.ring = append(s.ring, slot[V]{})
	} else {
		old := &s.ring[i]
		delete(s.index, old.key)
		if !c.policy.Exact {
			s.bury(old)
		}
	}
	s.ring[i] = slot[V]{key: key, val: val}
	s.index[key] = i
	return i
}

// take is the way of every value to a caller.
func (c *Cache[V]) take(e *slot[V]) *V {
	if c.policy.Acquire != nil {
		c.policy.Acquire(e.val)
	}
	return e.val
}

// Add stores val under key unless the key is present, and returns the value
// that is stored afterwards. Another entry may be evicted.
func (c *Cache[V]) Add(key uint64, val *V) *V {
	s := c.of(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	i, ok := s.index[key]
	if !ok {
		if old := s.recall(key); old != nil {
			val = old
		}
		return c.take(&s.ring[c.insert(s, key, val)])
	}
	s.ring[i].used = true
	return c.take(&s.ring[i])
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
		case c.policy.Pinned == nil || !c.policy.Pinned(e.val):
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
	delete(s.gone, key)
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
