package blocktest

import (
	"bytes"
	"io"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
)

// Clock counts the instants at which requests begin and end. Recordings that
// share one can be cut at the same instant. The zero value is ready for use.
type Clock struct{ ticks atomic.Int64 }

// Now returns the tick that has not happened yet. A cut there has seen
// everything so far.
func (c *Clock) Now() int64 { return c.ticks.Load() }

// tick lets one tick happen and returns it.
func (c *Clock) tick() int64 { return c.ticks.Add(1) - 1 }

// Unfinished is the End of an event that has not ended.
const Unfinished = math.MaxInt64

// Event is one request that a [Recording] has seen.
type Event struct {
	Op       Op     // Write, Flush or Discard
	Off, Len int64  // in bytes; of a Flush 0
	Data     []byte // what was written; not to be changed
	Start    int64  // the tick at which it began
	End      int64  // the tick at which it had succeeded, or Unfinished
}

// Recording is a device in memory that remembers every write, flush and
// discard. It keeps one copy of what was written beside the current content.
type Recording struct {
	*Mem  // the current content
	base  io.ReaderAt
	clock *Clock

	mu     sync.Mutex
	events []Event
}

// NewRecording returns a device of the given size in bytes with the content of
// base, which is read when needed, never changed, and must not change. A nil
// base is all zeros. A nil clock is one of its own.
func NewRecording(base io.ReaderAt, size int64, clock *Clock) *Recording {
	if clock == nil {
		clock = new(Clock)
	}
	return &Recording{Mem: NewOverlay(base, size), base: base, clock: clock}
}

// Now returns the current tick of the clock. A test notes it when something has
// been promised, an fsync that returned: images cut at that tick or later must
// keep the promise.
func (r *Recording) Now() int64 { return r.clock.Now() }

// History returns what has been recorded so far.
func (r *Recording) History() *History {
	r.mu.Lock()
	defer r.mu.Unlock()
	return newHistory(r.base, r.Size(), slices.Clone(r.events), r.clock.Now())
}

// WriteAt implements blockdev.Device.
func (r *Recording) WriteAt(p []byte, off int64) (int, error) {
	e := Event{Op: Write, Off: off, Len: int64(len(p))}
	if err := r.refuse(e, syscall.ENOSPC); err != nil || len(p) == 0 {
		return 0, err
	}
	e.Data = bytes.Clone(p)
	err := r.record(e, func() error {
		_, err := r.Mem.WriteAt(p, off)
		return err
	})
	if err != nil {
		return 0, err
	}
	return len(p), nil
}

// Discard implements blockdev.Device.
func (r *Recording) Discard(off, n int64) error {
	e := Event{Op: Discard, Off: off, Len: n}
	if err := r.refuse(e, syscall.EINVAL); err != nil || n == 0 {
		return err
	}
	return r.record(e, func() error { return r.Mem.Discard(off, n) })
}

// Flush implements blockdev.Device.
func (r *Recording) Flush() error {
	return r.record(Event{Op: Flush}, r.Mem.Flush)
}

// refuse says why a request does not even begin.
func (r *Recording) refuse(e Event, tooFar error) error {
	r.Mem.mu.RLock()
	defer r.Mem.mu.RUnlock()
	return r.check(e.Op.String(), e.Off, e.Len, tooFar)
}

// record carries out a request. What it does takes effect at its end, so of
// requests that overlap in time the one that ends last has the last word, here
// and in the images of a crash.
func (r *Recording) record(e Event, do func() error) error {
	r.mu.Lock()
	i := len(r.events)
	e.Start, e.End = r.clock.tick(), Unfinished
	r.events = append(r.events, e)
	r.mu.Unlock()

	r.mu.Lock()
	defer r.mu.Unlock()
	if err := do(); err != nil {
		return err
	}
	r.events[i].End = r.clock.tick()
	return nil
}
