package blocktest

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
)

// SectorSize is what a device writes as a whole or not at all, in bytes.
const SectorSize = 512

// Crash is one state that a power cut could leave a device in. It takes little
// memory until its image is made.
type Crash struct {
	Cut   int64  // the tick of the cut
	Fates []Fate // what became of the pending events, in the order they arrive

	h *History
}

// Fate is what became of a write or discard that was not certain.
type Fate struct {
	Event  int    // index into History.Events
	Landed []bool // which of its sectors arrived, from the one with its first byte; a discard has one
}

// Image returns a device with what the cut has left. Each call makes a new one,
// which may be written.
func (c *Crash) Image() *Mem {
	m := c.h.certain(c.Cut)
	for _, f := range c.Fates {
		e := &c.h.events[f.Event]
		for first := 0; first < len(f.Landed); {
			if !f.Landed[first] {
				first++
				continue
			}
			last := first
			for last < len(f.Landed) && f.Landed[last] {
				last++
			}
			e.apply(m, first, last)
			first = last
		}
	}
	return m
}

// String describes the crash for the log of a failed test.
func (c *Crash) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "cut at tick %d of %d", c.Cut, c.h.end)
	for _, f := range c.Fates {
		e := &c.h.events[f.Event]
		fmt.Fprintf(&b, "\n\t%v #%d of %d bytes at %d: %s", e.Op, f.Event, e.Len, e.Off, f)
	}
	return b.String()
}

// String says which sectors arrived.
func (f Fate) String() string {
	n := 0
	for _, ok := range f.Landed {
		if ok {
			n++
		}
	}
	switch n {
	case 0:
		return "absent"
	case len(f.Landed):
		return "whole"
	}
	var b strings.Builder
	b.WriteString("torn, sectors ")
	for _, ok := range f.Landed {
		if ok {
			b.WriteByte('1')
		} else {
			b.WriteByte('0')
		}
	}
	return b.String()
}

// units returns in how many parts the event can arrive: the sectors that a
// write touches. A discard arrives as a whole; it may span the device.
func (e *Event) units() int {
	if e.Op == Discard {
		return 1
	}
	return int((e.Off+e.Len+SectorSize-1)/SectorSize - e.Off/SectorSize)
}

// apply carries the units from first up to last of the event out on m. What is
// discarded reads as zeros.
func (e *Event) apply(m *Mem, first, last int) {
	var err error
	if e.Op == Discard {
		err = m.Discard(e.Off, e.Len)
	} else {
		start := e.Off / SectorSize * SectorSize
		lo := max(e.Off, start+int64(first)*SectorSize)
		hi := min(e.Off+e.Len, start+int64(last)*SectorSize)
		_, err = m.WriteAt(e.Data[lo-e.Off:hi-e.Off], lo)
	}
	if err != nil {
		// The recording did the same before, so it is the base that fails.
		panic(fmt.Sprintf("blocktest: base of a recording: %v", err))
	}
}

// crash makes the crash in which of each pending event as many leading units
// arrive as state says.
func (h *History) crash(cut int64, pending, state []int) *Crash {
	c := &Crash{Cut: cut, Fates: make([]Fate, len(pending)), h: h}
	for i, ev := range pending {
		c.Fates[i] = Fate{Event: ev, Landed: leading(state[i], h.events[ev].units())}
	}
	return c
}

// sample makes a random crash.
func (h *History) sample(cut int64, pending []int, rng *rand.Rand) *Crash {
	c := &Crash{Cut: cut, Fates: make([]Fate, len(pending)), h: h}

	// An event arrives at some instant between its beginning and its end, so
	// only events that overlap in time change places.
	arrival := make(map[int]int64, len(pending))
	for _, ev := range pending {
		e := &h.events[ev]
		arrival[ev] = e.Start + rng.Int64N(min(e.End, cut)-e.Start+1)
	}
	order := slices.Clone(pending)
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(arrival[a], arrival[b]) })

	// Caches that have lost little, much and about half of what they held.
	odds := [...]float64{0.1, 0.5, 0.9}[rng.IntN(3)]
	for i, ev := range order {
		n := h.events[ev].units()
		f := Fate{Event: ev}
		switch {
		case n > 1 && rng.Float64() < 0.25:
			if rng.IntN(2) == 0 {
				f.Landed = leading(1+rng.IntN(n-1), n)
				break
			}
			f.Landed = make([]bool, n)
			for s := range f.Landed {
				f.Landed[s] = rng.IntN(2) == 0
			}
		case rng.Float64() < odds:
			f.Landed = leading(n, n)
		default:
			f.Landed = leading(0, n)
		}
		c.Fates[i] = f
	}
	return c
}

// leading returns n units the first k of which have landed.
func leading(k, n int) []bool {
	landed := make([]bool, n)
	for i := range k {
		landed[i] = true
	}
	return landed
}
