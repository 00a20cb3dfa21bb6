package fuse

import (
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"
)

// waiter blocks in Lookup until it is interrupted or released.
type waiter struct {
	Unimplemented
	entered chan *Request
	release chan struct{}
}

func (w *waiter) Lookup(r *Request, name string, out *EntryOut) syscall.Errno {
	if r.Interrupted() {
		return syscall.EALREADY
	}
	done := r.Done()
	w.entered <- r
	select {
	case <-done:
		if !r.Interrupted() {
			return syscall.EPROTO
		}
		return syscall.EINTR
	case <-w.release:
		return 0
	}
}

// second gives the session another worker with a buffer of its own.
func (r *rig) second(tb testing.TB) *rig {
	tb.Helper()
	buf, err := newBuffer(r.s.PayloadSize())
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(buf.free)
	return &rig{s: r.s, w: r.s.NewWorker(), buf: buf}
}

func interruptMessage(unique uint64) []byte {
	msg := message(OpInterrupt, 0, raw(&interruptIn{Unique: unique}))
	h := load[InHeader](msg)
	h.Unique = unique | uniqueInterrupt
	store(msg, &h)
	return msg
}

func TestInterrupt(t *testing.T) {
	ops := &waiter{entered: make(chan *Request), release: make(chan struct{})}
	a := startRig(t, ops, 0)
	b := a.second(t)

	// Not begun, or unknown: the kernel is to ask again.
	if h, _, ok := b.do(interruptMessage(testUnique)); !ok || h.Error != -int32(syscall.EAGAIN) || h.Unique != testUnique|1 {
		t.Fatalf("INTERRUPT of nothing: %+v", h)
	}
	for _, late := range []bool{false, true} {
		var wg sync.WaitGroup
		wg.Go(func() {
			want := -int32(syscall.EINTR)
			if late {
				want = 0
			}
			if h, _, _ := a.do(message(OpLookup, 1, str("name"))); h.Error != want {
				t.Errorf("interrupted LOOKUP: %d, want %d", h.Error, want)
			}
		})
		<-ops.entered
		if late {
			ops.release <- struct{}{}
			wg.Wait()
			if h, _, ok := b.do(interruptMessage(testUnique)); !ok || h.Error != -int32(syscall.EAGAIN) {
				t.Errorf("INTERRUPT of a request that is through: %+v", h)
			}
			break
		}
		if h, _, ok := b.do(interruptMessage(testUnique + 2)); !ok || h.Error != -int32(syscall.EAGAIN) {
			t.Errorf("INTERRUPT of another request: %+v", h)
		}
		for range 2 {
			if h, _, ok := b.do(interruptMessage(testUnique)); ok && h.Error != -int32(syscall.EAGAIN) {
				t.Errorf("INTERRUPT was answered: %+v", h)
			}
		}
		wg.Wait()
		a.w.interrupted.Store(noUnique) // uniques are not reused, but this test does
	}
}

// TestInterruptBeforeDone: the signal may come before the operation asks for the channel.
func TestInterruptBeforeDone(t *testing.T) {
	a := startRig(t, &echo{}, 0)
	b := a.second(t)
	for _, resend := range []uint64{0, uniqueResend} {
		e := a.s.ops.(*echo)
		seen := false
		e.hook = func(r *Request) {
			if r.Interrupted() {
				t.Error("interrupted too early")
			}
			b.do(interruptMessage(r.Unique &^ uniqueResend))
			if !r.Interrupted() {
				t.Error("not interrupted")
			}
			<-r.Done()
			seen = true
		}
		msg := message(OpGetattr, 5, raw(&GetattrIn{}))
		h := load[InHeader](msg)
		h.Unique = 1000 | resend
		store(msg, &h)
		a.w.interrupted.Store(noUnique)
		if h, _, _ := a.do(msg); h.Error != 0 || !seen {
			t.Errorf("%+v", h)
		}
	}
}

// TestInterruptTwice: the kernel may repeat itself.
func TestInterruptTwice(t *testing.T) {
	ops := &echo{}
	a := startRig(t, ops, 0)
	b := a.second(t)
	ops.hook = func(r *Request) {
		done := r.Done()
		for range 3 {
			if h, _, ok := b.do(interruptMessage(r.Unique)); ok {
				t.Errorf("INTERRUPT was answered: %+v", h)
			}
			<-done
		}
	}
	if h, _, _ := a.do(message(OpGetattr, 5, raw(&GetattrIn{}))); h.Error != 0 {
		t.Errorf("%+v", h)
	}
	if n := a.s.Stats().Panics; n != 0 {
		t.Errorf("%d panics", n)
	}
}

// TestInterruptRace lets requests and interrupts race; each request is either interrupted or not, and
// no interrupt reaches a later one.
func TestInterruptRace(t *testing.T) {
	ops := &echo{}
	a := startRig(t, ops, 0)
	b := a.second(t)
	const n = 2000
	var wg sync.WaitGroup
	ops.hook = func(r *Request) {
		if r.Unique%4 == 0 {
			<-r.Done()
		}
		if r.Interrupted() && r.Unique%4 != 0 {
			t.Error("the wrong request was interrupted")
		}
	}
	wg.Go(func() {
		for u := uint64(4); u < n; u += 4 {
			for {
				if _, _, ok := b.do(interruptMessage(u)); !ok {
					break
				}
			}
		}
	})
	for u := uint64(2); u < n; u += 2 {
		msg := message(OpGetattr, 5, raw(&GetattrIn{}))
		h := load[InHeader](msg)
		h.Unique = u
		store(msg, &h)
		a.do(msg)
		ops.calls = ops.calls[:0]
	}
	wg.Wait()
}

// TestDestroyDrains: DESTROY waits for what other workers are doing.
func TestDestroyDrains(t *testing.T) {
	ops := &drained{waiter: waiter{entered: make(chan *Request), release: make(chan struct{})}}
	a := startRig(t, ops, 0)
	b := a.second(t)
	var wg sync.WaitGroup
	wg.Go(func() { a.do(message(OpLookup, 1, str("name"))) })
	<-ops.entered
	wg.Go(func() { b.do(message(OpDestroy, 0)) })
	for !a.s.destroyed.Load() {
		runtime.Gosched() // until DESTROY is being handled
	}
	close(ops.release)
	wg.Wait()
	if !ops.after {
		t.Error("Destroy was called before the LOOKUP was through")
	}
}

// drained notes whether a Lookup was through when Destroy was called. That the two do not race is left
// to the session, and to the race detector.
type drained struct {
	waiter
	finished, after bool
}

func (d *drained) Lookup(r *Request, name string, out *EntryOut) syscall.Errno {
	errno := d.waiter.Lookup(r, name, out)
	d.finished = true
	return errno
}

func (d *drained) Destroy() { d.after = d.finished }

// TestInterruptOvertakes: where requests come by io_uring, which INTERRUPT does not, it may be there first. It waits for
// its request, and many that wait in vain are not kept.
func TestInterruptOvertakes(t *testing.T) {
	ops := &echo{}
	a := startRig(t, ops, 0)
	b := a.second(t)
	p := *a.s.proto.Load()
	p.Flags |= InitOverIOUring
	a.s.proto.Store(&p)
	var interrupted bool
	ops.hook = func(r *Request) { interrupted = r.Interrupted() }
	do := func(unique uint64) bool {
		msg := message(OpGetattr, 5, raw(&GetattrIn{}))
		h := load[InHeader](msg)
		h.Unique = unique
		store(msg, &h)
		if h, _, _ := a.do(msg); h.Error != 0 {
			t.Errorf("%+v", h)
		}
		return interrupted
	}
	if h, _, ok := b.do(interruptMessage(1000)); ok {
		t.Errorf("INTERRUPT was answered: %+v", h)
	}
	if do(998) || !do(1000) || do(1002) {
		t.Error("not interrupted, or another is")
	}
	if a.s.early.some.Load() {
		t.Error("it still waits")
	}
	for i := range uint64(2 * maxEarly) {
		b.do(interruptMessage(2000 + 2*i))
	}
	if n := len(a.s.early.list); n != maxEarly {
		t.Errorf("%d wait", n)
	}
	for u := range a.s.early.list {
		a.s.early.list[u] = time.Now().Add(-2 * earlyTime)
	}
	if do(1) || len(a.s.early.list) != 0 || a.s.early.some.Load() {
		t.Error("they wait for ever")
	}
}
