package blocktest

import (
	"cmp"
	"io"
	"iter"
	"math/rand/v2"
	"slices"
	"sync"
)

// History is a finished recording, from which the images that a power cut could
// have left are made. Its methods may be called concurrently.
type History struct {
	base   io.ReaderAt
	size   int64
	events []Event
	end    int64   // the tick after the last one
	byEnd  []int   // the changes that have ended, in the order they did
	bars   []point // for each flush that ended, in that order

	mu      sync.Mutex
	durable *Mem  // the changes that ended before tick barrier
	barrier int64 // of durable
	applied int   // how many of byEnd durable has
}

// point says that from tick end on, all changes that ended before tick barrier
// are durable.
type point struct{ end, barrier int64 }

func newHistory(base io.ReaderAt, size int64, events []Event, end int64) *History {
	h := &History{base: base, size: size, events: events, end: end}
	for i, e := range events {
		switch {
		case e.End == Unfinished:
		case e.Op == Flush:
			h.bars = append(h.bars, point{end: e.End, barrier: e.Start})
		default:
			h.byEnd = append(h.byEnd, i)
		}
	}
	slices.SortFunc(h.byEnd, func(a, b int) int { return cmp.Compare(events[a].End, events[b].End) })
	slices.SortFunc(h.bars, func(a, b point) int { return cmp.Compare(a.end, b.end) })
	for i := 1; i < len(h.bars); i++ {
		h.bars[i].barrier = max(h.bars[i].barrier, h.bars[i-1].barrier)
	}
	return h
}

// Events returns the requests in the order they began. The caller must not
// change them.
func (h *History) Events() []Event { return h.events }

// End returns the tick after the last one: the cut that has seen everything.
func (h *History) End() int64 { return h.end }

// Epochs returns the cuts that suffice to try: right before the end of each
// flush, and the end. An image that an earlier cut can leave, the next of these
// can leave too, and by then at least as much has been promised.
func (h *History) Epochs() []int64 {
	cuts := make([]int64, 0, len(h.bars)+1)
	for _, b := range h.bars {
		cuts = append(cuts, b.end)
	}
	return append(cuts, h.end)
}

// barrierAt returns the tick before which a change must have ended to be
// certain at the cut.
func (h *History) barrierAt(cut int64) int64 {
	n, _ := slices.BinarySearchFunc(h.bars, cut, func(b point, cut int64) int { return cmp.Compare(b.end, cut) })
	if n == 0 {
		return 0
	}
	return h.bars[n-1].barrier
}

// Pending returns the indices of the writes and discards that had begun before
// the cut and were not certain there, in the order in which they ended.
func (h *History) Pending(cut int64) []int {
	barrier := h.barrierAt(cut)
	var pending []int
	for i, e := range h.events {
		if e.Op != Flush && e.Start < cut && e.End >= barrier {
			pending = append(pending, i)
		}
	}
	slices.SortStableFunc(pending, func(a, b int) int { return cmp.Compare(h.events[a].End, h.events[b].End) })
	return pending
}

// certain returns a device with everything that is certain at the cut and
// nothing else. Cuts in ascending order are cheap.
func (h *History) certain(cut int64) *Mem {
	barrier := h.barrierAt(cut)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.durable == nil || barrier < h.barrier {
		h.durable, h.applied = NewOverlay(h.base, h.size), 0
	}
	h.barrier = barrier
	for h.applied < len(h.byEnd) && h.events[h.byEnd[h.applied]].End < barrier {
		e := &h.events[h.byEnd[h.applied]]
		e.apply(h.durable, 0, e.units())
		h.applied++
	}
	return h.durable.Clone()
}

// Sample returns one of the images that a power cut at the tick could leave,
// chosen by the seed.
func (h *History) Sample(cut int64, seed uint64) *Crash {
	rng := rand.New(rand.NewPCG(seed, uint64(cut)))
	return h.sample(cut, h.Pending(cut), rng)
}

// Samples returns n images at cuts all over the history, chosen by the seed:
// for histories that are too long to try everything.
func (h *History) Samples(n int, seed uint64) iter.Seq[*Crash] {
	return func(yield func(*Crash) bool) {
		rng := rand.New(rand.NewPCG(seed, 0))
		cuts := make([]int64, n)
		for i := range cuts {
			cuts[i] = rng.Int64N(h.end + 1)
		}
		slices.Sort(cuts) // which certain likes
		for _, cut := range cuts {
			if !yield(h.sample(cut, h.Pending(cut), rng)) {
				return
			}
		}
	}
}

// All returns the images of all [History.Epochs], up to limit of each as
// [History.At] chooses them.
func (h *History) All(limit int, seed uint64) iter.Seq[*Crash] {
	return func(yield func(*Crash) bool) {
		for _, cut := range h.Epochs() {
			for c := range h.At(cut, limit, seed) {
				if !yield(c) {
					return
				}
			}
		}
	}
}

// At returns the images that a power cut at the tick could leave. If there are
// no more than limit they are all: each pending write absent, whole, or torn
// after any number of its sectors, in every combination. Otherwise they are
// limit of them: none and all of the writes; the writes up to each, all but
// each, each alone, and each torn; and samples chosen by the seed, which are
// torn in any way and in any order. Some may be equal.
func (h *History) At(cut int64, limit int, seed uint64) iter.Seq[*Crash] {
	return func(yield func(*Crash) bool) {
		limit = max(limit, 2) // the empty and the full image, at least
		pending := h.Pending(cut)
		if h.combinations(pending, limit) <= limit {
			h.exhaust(cut, pending, yield)
			return
		}
		rng := rand.New(rand.NewPCG(seed, uint64(cut)))
		shapes := numShapes(len(pending))
		order := rng.Perm(shapes)
		// The empty and the full image come first and are never left out.
		slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(min(a, 2), min(b, 2)) })
		if most := limit - limit/4; shapes > most {
			order = order[:most]
		}
		for _, s := range order {
			if !yield(h.crash(cut, pending, h.shape(s, pending))) {
				return
			}
		}
		for range limit - len(order) {
			if !yield(h.sample(cut, pending, rng)) {
				return
			}
		}
	}
}

// states is in how many ways an event can have arrived, in order: not at all, up
// to each of its units.
func (e *Event) states() int { return e.units() + 1 }

// combinations returns the number of images of the pending events, or any
// number over limit.
func (h *History) combinations(pending []int, limit int) int {
	n := 1
	for _, i := range pending {
		s := h.events[i].states()
		if s > limit || n > limit/s {
			return limit + 1
		}
		n *= s
	}
	return n
}

// exhaust yields all combinations, like an odometer.
func (h *History) exhaust(cut int64, pending []int, yield func(*Crash) bool) {
	state := make([]int, len(pending))
	for {
		if !yield(h.crash(cut, pending, state)) {
			return
		}
		i := 0
		for ; i < len(state); i++ {
			if state[i]++; state[i] < h.events[pending[i]].states() {
				break
			}
			state[i] = 0
		}
		if i == len(state) {
			return
		}
	}
}

// numShapes is how many regular images there are of n pending events.
func numShapes(n int) int { return 2 + 5*n }

// shape returns the states of regular image number s.
func (h *History) shape(s int, pending []int) []int {
	state := make([]int, len(pending))
	fill := func(from, to int, arrived bool) {
		for i := from; i < to; i++ {
			state[i] = 0
			if arrived {
				state[i] = h.events[pending[i]].states() - 1
			}
		}
	}
	if s < 2 {
		fill(0, len(state), s == 1)
		return state
	}
	i := (s - 2) / 5
	half := h.events[pending[i]].states() / 2
	switch (s - 2) % 5 {
	case 0: // up to this one
		fill(0, i+1, true)
	case 1: // all but this one
		fill(0, len(state), true)
		state[i] = 0
	case 2: // this one alone
		fill(i, i+1, true)
	case 3: // up to this one, which is torn
		fill(0, i, true)
		state[i] = half
	case 4: // all, but this one is torn
		fill(0, len(state), true)
		state[i] = half
	}
	return state
}
