package main

import (
	"runtime"
	"runtime/debug"
	"testing"
	"time"
)

// TestCollectorChooses: small heaps are collected seldom, and none grows far beyond the target.
func TestCollectorChooses(t *testing.T) {
	c := collector{slack: 16, target: 64}
	c.slack <<= 20
	c.target <<= 20
	for _, w := range []struct{ live, until int64 }{ // MiB
		{0, 20}, {1, 20}, {4, 20}, {8, 24}, {16, 32}, {24, 48}, {32, 64}, {40, 64}, {48, 64}, {50, 64}, {60, 75}, {100, 125},
	} {
		percent := c.choose(w.live << 20)
		until := max(w.live, 4)<<20*int64(100+percent)/100 + 1<<19
		if until>>20 != w.until {
			t.Errorf("with %d MiB alive the heap may have %d, not %d", w.live, until>>20, w.until)
		}
	}
}

// TestCollectorAdapts: what is set follows what is alive, collection by collection.
func TestCollectorAdapts(t *testing.T) {
	before := debug.SetGCPercent(100)
	c := newCollector(128 << 20)
	defer func() { debug.SetGCPercent(before) }()
	c.adapt()
	set := func() int {
		p := debug.SetGCPercent(-1)
		debug.SetGCPercent(p)
		return p
	}
	small := set()
	if small < 200 {
		t.Errorf("%d%% for a small heap", small)
	}
	alive := make([]byte, 50<<20)
	for range 100 {
		runtime.GC()
		time.Sleep(10 * time.Millisecond) // the finalizer runs when it does
		if p := set(); p < 50 {
			runtime.KeepAlive(alive)
			return
		}
	}
	t.Errorf("still %d%% with 50 MiB alive", set())
	runtime.KeepAlive(alive)
}
