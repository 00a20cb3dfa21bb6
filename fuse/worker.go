package fuse

import (
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"
)

// Worker handles one message at a time. Transports have one for each goroutine (or ring entry) that
// handles requests; it holds what a request needs, so that handling one allocates nothing.
type Worker struct {
	s    *Session
	lone bool // nobody else handles what comes by the same way

	// busy is held while a message is being handled.
	busy sync.Mutex
	// unique is that of the request being handled, without the resend bit; 0 in between.
	unique atomic.Uint64
	// interrupted is the unique of the last request that was interrupted here. Uniques are not
	// reused, so a late INTERRUPT cannot hit the next request.
	interrupted atomic.Uint64
	hasDone     atomic.Bool
	mu          sync.Mutex
	doneCh      chan struct{} // made by Request.Done; under mu

	req   Request
	dir   DirBuffer
	in    [16]uint64 // the fixed structure of the request
	out   [36]uint64 // a reply of fixed size, staged: its place may still hold the request's names
	name  [256]byte  // see keep
	stats counters
}

// noUnique is a unique that no request has.
const noUnique = ^uint64(0)

// NewWorker adds a worker to the session. Close it when it is no longer used.
func (s *Session) NewWorker() *Worker {
	w := &Worker{s: s}
	w.interrupted.Store(noUnique)
	s.mu.Lock()
	defer s.mu.Unlock()
	old := *s.workers.Load()
	list := append(old[:len(old):len(old)], w)
	s.workers.Store(&list)
	return w
}

// Close takes the worker out of the session, which keeps its statistics.
func (w *Worker) Close() {
	s := w.s
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []*Worker
	for _, x := range *s.workers.Load() {
		if x != w {
			list = append(list, x)
		}
	}
	s.workers.Store(&list)
	s.retired.add(&w.stats)
}

// begin claims the worker for a request.
func (w *Worker) begin(unique uint64) {
	w.busy.Lock()
	unique &^= uniqueResend
	w.unique.Store(unique)
	if w.s.early.some.Load() && w.s.early.take(unique) {
		w.interrupted.Store(unique)
	}
}

// end gives it back.
func (w *Worker) end() {
	w.unique.Store(0)
	if w.hasDone.Load() {
		w.mu.Lock()
		w.doneCh = nil
		w.hasDone.Store(false)
		w.mu.Unlock()
	}
	w.req = Request{}
	w.dir = DirBuffer{}
	w.busy.Unlock()
}

// drain waits until the worker is between two requests.
func (w *Worker) drain() {
	w.busy.Lock()
	defer w.busy.Unlock()
}

// done returns the channel that interrupt closes.
func (w *Worker) done() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.doneCh == nil {
		w.doneCh = make(chan struct{})
		w.hasDone.Store(true)
		if w.interrupted.Load() == w.unique.Load() {
			close(w.doneCh)
		}
	}
	return w.doneCh
}

// interrupt tells the request about it if it is being handled here.
func (w *Worker) interrupt(unique uint64) bool {
	if w.unique.Load() != unique {
		return false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.unique.Load() != unique {
		return false
	}
	if w.interrupted.Swap(unique) != unique && w.doneCh != nil {
		close(w.doneCh)
	}
	return true
}

// interrupt handles INTERRUPT: 0 if no answer is needed. EAGAIN makes the kernel send the INTERRUPT
// again if the request is still unanswered, for instance because another reader holds it but has not
// begun; the kernel drops the answer if the request is through. Of requests that a ring has it does not
// find them that way, so the INTERRUPT waits here.
func (s *Session) interrupt(unique uint64) syscall.Errno {
	unique &^= uniqueInterrupt | uniqueResend
	if unique == 0 {
		return syscall.EAGAIN
	}
	if s.deliver(unique) {
		return 0
	}
	if p := s.proto.Load(); p == nil || !p.Has(InitOverIOUring) {
		return syscall.EAGAIN
	}
	s.early.put(unique)
	if s.deliver(unique) {
		s.early.take(unique)
	}
	return 0
}

func (s *Session) deliver(unique uint64) bool {
	for _, w := range *s.workers.Load() {
		if w.interrupt(unique) {
			return true
		}
	}
	return false
}

// earlyInterrupts are INTERRUPTs that have overtaken their requests, or come too late: they are on another way.
type earlyInterrupts struct {
	some atomic.Bool // there are any
	mu   sync.Mutex
	list map[uint64]time.Time
}

// earlyTime is how long a request can take from the kernel to its worker.
const earlyTime = time.Second

// maxEarly bounds the list, which every request that comes meanwhile goes through: signals that come too late
// can be had in any number.
const maxEarly = 256

func (e *earlyInterrupts) put(unique uint64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.list == nil {
		e.list = map[uint64]time.Time{}
	}
	if len(e.list) >= maxEarly {
		e.sweep()
		if len(e.list) >= maxEarly {
			return
		}
	}
	e.list[unique] = time.Now()
	e.some.Store(true)
}

// take takes an INTERRUPT out, false if there is none, and all that nobody takes any more.
func (e *earlyInterrupts) take(unique uint64) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	_, found := e.list[unique]
	delete(e.list, unique)
	e.sweep()
	e.some.Store(len(e.list) > 0)
	return found
}

func (e *earlyInterrupts) sweep() {
	for u, came := range e.list {
		if time.Since(came) > earlyTime {
			delete(e.list, u)
		}
	}
}

// input is the request's fixed structure.
func input[T any](w *Worker) *T { return (*T)(unsafe.Pointer(&w.in)) }

// output is a zeroed reply of fixed size; copy it to the payload when it is filled in.
func output[T any](w *Worker) *T {
	p := (*T)(unsafe.Pointer(&w.out))
	var zero T
	*p = zero
	return p
}
