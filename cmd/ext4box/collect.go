package main

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"

	"ext4box/ext4"
)

// collector decides how much the server allocates between two garbage collections. A collection costs
// what is alive, and with the threads of many rings something more; so a small heap, of which a collection
// frees next to nothing, may grow by slack, and a larger one to twice its size, as Go has it, but to no
// more than target, unless that would leave it less than a quarter.
type collector struct {
	slack, target int64

	live    []metrics.Sample
	percent int // as it is set
}

// collect has the garbage of a filesystem collected so that what it takes stays within its budget, 0
// being the default one. Who has set GOGC knows better.
func collect(memory int64) {
	if os.Getenv("GOGC") != "" {
		return
	}
	if memory <= 0 {
		memory = ext4.DefaultMemory
	}
	newCollector(memory).adapt()
}

func newCollector(memory int64) *collector {
	return &collector{slack: memory / 8, target: memory / 2, live: []metrics.Sample{{Name: "/gc/heap/live:bytes"}}}
}

type collected struct{ *collector }

// adapt is called after each collection.
func (c *collector) adapt() {
	metrics.Read(c.live)
	// Setting it stops all threads for a moment.
	if p := c.choose(int64(c.live[0].Value.Uint64())); p < c.percent*7/8 || p > c.percent*9/8 {
		debug.SetGCPercent(p)
		c.percent = p
	}
	// A finalizer runs when a collection has found that nobody knows this any longer.
	runtime.SetFinalizer(&collected{c}, func(*collected) { c.adapt() })
}

// leastHeap is what Go takes a heap to be at least; the percentage applies to it.
const leastHeap = 4 << 20

// choose is by how many percent the heap may grow if so many bytes of it are alive.
func (c *collector) choose(live int64) int {
	live = max(live, leastHeap)
	grow := max(live/4, min(max(live, c.slack), c.target-live))
	return int(grow * 100 / live)
}
