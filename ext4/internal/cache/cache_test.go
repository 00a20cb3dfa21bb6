package cache

import (
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
)

func TestCacheKeepsItsBoundAndItsValues(t *testing.T) {
	c := New(64, Policy[uint64]{})
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
	c := New(64, Policy[int]{})
	a, b := 1, 2
	c.Add(7, &a)
	if got := c.Add(7, &b); got != &a {
		t.Errorf("second Add replaced the value")
	}
}

func TestCacheEvictsTheUnused(t *testing.T) {
	c := New(shards*4, Policy[int]{}) // four entries a shard
	hot := 1
	c.Add(0, &hot)
	for k := uint64(1); k < 5000; k++ {
		c.Add(k, new(int))
		if c.Get(0) == nil {
			t.Fatalf("entry in constant use was evicted after %d others", k)
		}
	}
}

func TestCacheKeepsThePinned(t *testing.T) {
	c := New(shards, Policy[int]{Pinned: func(v *int) bool { return *v == 1 }})
	one := 1
	for k := range uint64(100) {
		c.Add(k, &one)
	}
	for k := uint64(100); k < 1000; k++ {
		c.Add(k, new(int))
	}
	for k := range uint64(100) {
		if c.Get(k) == nil {
			t.Fatalf("pinned entry %d was evicted", k)
		}
	}
}

func TestCacheRemove(t *testing.T) {
	c := New(1024, Policy[uint64]{})
	for k := range uint64(1000) {
		c.Add(k, &k)
	}
	for k := uint64(0); k < 1000; k += 3 {
		c.Remove(k)
		c.Remove(k)
	}
	for k := range uint64(1000) {
		got := c.Get(k)
		if (got == nil) != (k%3 == 0) || got != nil && *got != k {
			t.Fatalf("after removal key %d has %v", k, got)
		}
	}
}

func TestCacheConcurrent(t *testing.T) {
	c := New(128, Policy[uint64]{})
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

func TestCacheGivesOutTheValueThatIsStillInUse(t *testing.T) {
	c := New(shards, Policy[[16]int]{})
	held := new([16]int)
	c.Add(0, held)
	for k := uint64(1); k < 10000; k++ {
		c.Add(k, new([16]int))
	}
	if got := c.Get(0); got != held {
		t.Errorf("after its eviction a value in use is lost")
	}
	for k := uint64(1); k < 10000; k++ {
		c.Add(k, new([16]int))
	}
	if got := c.Add(0, new([16]int)); got != held {
		t.Errorf("a value in use got a second one beside it")
	}
	c.Remove(0)
	if got := c.Get(0); got != nil {
		t.Errorf("a removed value comes back")
	}
	runtime.KeepAlive(held)
}

func TestCacheForgetsWhatNobodyUses(t *testing.T) {
	c := New(shards, Policy[[16]int]{})
	for k := range uint64(200000) {
		c.Add(k, new([16]int))
		if k%1000 == 0 {
			runtime.GC()
		}
	}
	gone := 0
	for i := range c.shard {
		gone += len(c.shard[i].gone)
	}
	if gone > 3*shards+2000 {
		t.Errorf("%d evicted values are remembered", gone)
	}
}

// TestCacheExact evicts what somebody still has, without having pinned it.
func TestCacheExact(t *testing.T) {
	for _, exact := range []bool{false, true} {
		c := New(shards, Policy[int]{Exact: exact})
		first, second := 1, 2
		c.Add(0, &first)
		for k := uint64(1); k < 1000; k++ {
			c.Add(k, new(int))
		}
		if got := c.Add(0, &second); (got == &second) != exact {
			t.Errorf("exact %v: an evicted value comes back as %d", exact, *got)
		}
		runtime.KeepAlive(&first)
	}
}
