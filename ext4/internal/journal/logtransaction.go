package journal

import (
	"sync"
	"sync/atomic"
	"time"
)

// The parts of a transaction's word, from the lowest bit up: the blocks and the
// revoke records that are in it or promised to open handles, the number of open
// handles, and whether it is closed to new ones.
const (
	countBits  = 24
	countMask  = 1<<countBits - 1
	handleUnit = 1 << (2 * countBits)
	maxHandles = 1<<15 - 1
	closedBit  = 1 << 63

	// maxLog is the most blocks of a log that are used, so that no count
	// overflows.
	maxLog = 1 << 22
)

type word uint64

func makeWord(blocks, revokes int) word { return word(revokes)<<countBits | word(blocks) }

func (w word) blocks() int   { return int(w & countMask) }
func (w word) revokes() int  { return int(w >> countBits & countMask) }
func (w word) handles() int  { return int(w >> (2 * countBits) & maxHandles) }
func (w word) closed() bool  { return w&closedBit != 0 }
func (w word) unused() bool  { return w&^closedBit == 0 }
func (w word) settled() bool { return w.closed() && w.handles() == 0 }

// transaction goes through these states: running, closed, committing, live
// (committed, but not all of it at home), retired.
type transaction struct {
	log *Log
	tid uint32

	state atomic.Uint64 // a word
	limit atomic.Int64  // the cost that new handles may bring it to, in log blocks
	space atomic.Int64  // the cost that it must never exceed

	armed     atomic.Bool // the timer is set
	requested atomic.Bool // it is to be committed
	timer     *time.Timer // set by the first handle, read when there are none

	settled chan struct{} // closed when it is closed and has no open handles
	done    chan struct{} // closed when it is durable, or has failed
	err     error         // of the commit; set before done is closed
	flushed bool          // the commit was not empty; set before done is closed

	callbackMu sync.Mutex
	callbacks  []func()

	// What follows is the commit's.
	entries []*entry // logged blocks
	leaving []*entry // forgotten blocks
	revokes []uint64
	start   uint32 // first block in the log
	length  int    // blocks in the log

	pending atomic.Int64 // entries that are behind this transaction
}

// join lets a handle in, if there is room.
func (t *transaction) join(c Credits) bool {
	for {
		w := word(t.state.Load())
		if w.closed() || w.handles() == maxHandles ||
			t.log.cost(w.blocks()+c.Blocks, w.revokes()+c.Revokes) > t.limit.Load() {
			return false
		}
		if t.state.CompareAndSwap(uint64(w), uint64(w+handleUnit+makeWord(c.Blocks, c.Revokes))) {
			break
		}
	}
	if !t.armed.Load() && t.armed.CompareAndSwap(false, true) && t.log.interval > 0 {
		t.timer = time.AfterFunc(t.log.interval, func() { t.log.request(t) })
	}
	return true
}

// extend promises more to an open handle.
func (t *transaction) extend(blocks, revokes int) bool {
	for {
		w := word(t.state.Load())
		if t.log.cost(w.blocks()+blocks, w.revokes()+revokes) > t.space.Load() {
			return false
		}
		if t.state.CompareAndSwap(uint64(w), uint64(w+makeWord(blocks, revokes))) {
			return true
		}
	}
}

// leave ends a handle that has not used what is given back.
func (t *transaction) leave(blocks, revokes int) word {
	back := word(handleUnit) + makeWord(blocks, revokes)
	w := word(t.state.Add(-uint64(back)))
	if w.settled() {
		close(t.settled)
	}
	return w
}

// close lets no further handle in. It is called once.
func (t *transaction) close() {
	if old := word(t.state.Or(closedBit)); old.handles() == 0 {
		close(t.settled)
	}
}

// disarm stops the timer. There must be no open handles.
func (t *transaction) disarm() {
	// Reading the state makes what the handles did visible.
	if w := word(t.state.Load()); w.handles() == 0 && t.timer != nil {
		t.timer.Stop()
	}
}

func (t *transaction) onCommit(fn func()) {
	t.callbackMu.Lock()
	defer t.callbackMu.Unlock()
	t.callbacks = append(t.callbacks, fn)
}

// finish ends the transaction for those who wait for it.
func (t *transaction) finish(err error) {
	t.err = err
	close(t.done)
}
