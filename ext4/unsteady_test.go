package ext4_test

import (
	"errors"
	"math/rand/v2"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"ext4box/blockdev/blocktest"
	"ext4box/ext4"
	"ext4box/ext4/mutate"
)

// TestUnsteady works, from two sides at once, on images that somebody else changes
// underneath: blocks that read differently each time, that are those of another version
// of the image, that are missing. What was checked when it came into memory must not be
// believed of what comes the next time. Nothing may panic, hang, or grow.
//
// Under the race detector only bits change, in images with checksums: otherwise a block
// comes to have two owners, of which one changes what the other reads.
//
// The variables are those of TestMutants.
func TestUnsteady(t *testing.T) {
	count := 2
	if testing.Short() {
		count = 1
	}
	eachBase(t, count, func(t *testing.T, run *mutantRun) {
		if testing.Short() && !run.base.Checksums().Metadata || run.journal != nil {
			t.Skip("not under the race detector, nor with a journal that is elsewhere")
		}
		other := otherVersion(t, run.base)
		var sum mutantSum
		var changed int64
		for i := range run.count {
			changed += unsteady(t, run.base, other, run.seed+uint64(i), &sum)
			if t.Failed() {
				break
			}
		}
		sum.heap = run.peak()
		t.Logf("from seed %d on: %d reads changed, %v", run.seed, changed, &sum)
		if changed == 0 || sum.done.Load() == 0 {
			t.Error("this tests nothing")
		}
	})
}

// otherVersion is the image after it has been worked on for a while.
func otherVersion(t *testing.T, base *mutate.Base) *blocktest.Mem {
	t.Helper()
	dev := unchanged(base).Device()
	fs, err := ext4.Open(dev, ext4.Options{CommitInterval: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	a := &attacker{fs: fs, ctx: t.Context(), sum: new(mutantSum), rng: rand.New(rand.NewPCG(5, 6))}
	a.explore(base)
	for range 300 {
		a.step()
	}
	if err := errors.Join(a.bad, fs.Close()); err != nil {
		t.Logf("the other version: %v", err)
	}
	return dev
}

// unchanged is the mutant that is none.
func unchanged(base *mutate.Base) *mutate.Mutant {
	return base.Craft("nothing", func(*mutate.Editor) {})
}

func unsteady(t *testing.T, base *mutate.Base, other *blocktest.Mem, seed uint64, sum *mutantSum) (changed int64) {
	rng := rand.New(rand.NewPCG(seed, 78))
	rate := []int{30, 150, 500}[rng.IntN(3)]
	m := unchanged(base)
	m.Seed = seed
	dev := blocktest.NewUnsteady(m.Device(), int64(base.Geometry().BlockSize), rate, seed)
	dev.Other, dev.Bits = other, testing.Short()
	name := again(t, m)
	start := time.Now()
	err := bounded(name, func() error {
		if rng.IntN(4) == 0 {
			dev.Start() // when it is opened, too
		}
		o := attackOptions(rng)
		o.Memory, o.CacheBytes = 1, 1 // so that each block is read again and again
		o.Errors = ext4.OnErrorContinue
		var steps atomic.Int64
		sum.mutants.Add(1)
		return workload{users: 2, steps: 100}.workWith(dev, m, rng, sum, o, dev.Start, func() {
			// What was evicted comes back as long as it has not been collected.
			if steps.Add(1)%20 == 0 {
				runtime.GC()
			}
		})
	})
	if err != nil {
		t.Errorf("%s\nrate %d: %v", name, rate, err)
	}
	sum.took(time.Since(start), seed)
	return dev.Changed()
}
