package fuse

import (
	"sync"
	"sync/atomic"
	"syscall"
	"unsafe"
)

// Worker handles one message at a time. Transports have one for each goroutine (or ring entry) that
// handles requests; it holds what a request needs, so that handling one allocates nothing.
type Worker struct {
	s *Session

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
	w.unique.Store(unique &^ uniqueResend)
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

// interrupt handles INTERRUPT: 0 if the request was found. EAGAIN makes the kernel send the INTERRUPT
// again if the request is still unanswered, for instance because another reader holds it but has not
// begun; the kernel drops the answer if the request is through.
func (s *Session) interrupt(unique uint64) syscall.Errno {
	unique &^= uniqueInterrupt | uniqueResend
	if unique == 0 {
		return syscall.EAGAIN
	}
	for _, w := range *s.workers.Load() {
		if w.interrupt(unique) {
			return 0
		}
	}
	return syscall.EAGAIN
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
