package cache

import (
	"math/rand/v2"
	"sync"
	"testing"
)

func TestCacheKeepsItsBoundAndItsValues(t *testing.T) {
	c := New[uint64](64)
	for k := range uint64(10000) {
		v := k * 3
		if got := *c.Add(k, &v); got != v {
			t.Fatalf("Add(%d) = %d", k, got)
		}
		if got := c.Get(k); got == nil || *got != v {
			t.Fatalf("Get(%d) = %v right after Add", k, got)
		}
	}
	if n := c.Len(); n > 64 || n < 32 {
		t.Errorf("cache of 64 holds %d entries", n)
	}
}

func TestCacheAddKeepsTheFirst(t *testing.T) {
	c := New[int](64)
	a, b := 1, 2
	c.Add(7, &a)
	if got := c.Add(7, &b); got != &a {
		t.Errorf("second Add replaced the value")
	}
}

func TestCacheEvictsTheUnused(t *testing.T) {
	c := New[int](shards * 4) // four entries a shard
	hot := 1
	c.Add(0, &hot)
	for k := uint64(1); k < 5000; k++ {
		c.Add(k, new(int))
		if c.Get(0) == nil {
			t.Fatalf("entry in constant use was evicted after %d others", k)
		}
	}
}

func TestCacheConcurrent(t *testing.T) {
	c := New[uint64](128)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 20000 {
				k := rand.Uint64N(512)
				v := k
				if got := *c.Add(k, &v); got != k {
					t.Errorf("key %d has value %d", k, got)
				}
				if p := c.Get(rand.Uint64N(512)); p != nil && *p >= 512 {
					t.Errorf("foreign value %d", *p)
				}
			}
		})
	}
	wg.Wait()
}
