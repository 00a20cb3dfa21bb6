package fuse

import (
	"fmt"
	"runtime"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ringThread is a thread with a ring of its own. It handles what the kernel puts into its entries, of which it
// has one; only the thread for processors that there are not has more.
type ringThread struct {
	rs      *Rings
	ring    *ring
	cpu     int // -1: none
	entries []*ringEntry
	started bool

	begin      chan *readers // closed without one: there will be nothing to do
	registered chan struct{} // closed when it has registered, or failed to
	tried      bool          // registered is closed; under rs.mu

	p    *readers
	live int // entries that the kernel knows

	// Where the thread runs: see follow.
	pinned       bool
	last         uint32 // ringQueue.taken when it took its last request
	alone, crowd int    // requests in a row
	lingers      int    // after so many requests it does not go to sleep at once: see note
}

// ringEntry is room for one request. It is mapped, and the kernel knows where.
type ringEntry struct {
	q       *ringQueue
	buf     buffer
	head    *ringEntryHead
	iov     *[2]ringIovec
	payload []byte
	w       *Worker
	commit  bool // the kernel has it registered
	used    bool // there are pages behind keepPayload
}

// Places in the first page of an entry's memory, behind the head.
const (
	ringIovecOff = 512
	ringWaitOff  = 576
	ringTimeOff  = 608
)

// keepPayload is what an entry keeps of its memory when there is nothing to do for idleTime.
const (
	keepPayload = 64 << 10
	idleTime    = 3 // seconds
)

func (e *ringEntry) init(b buffer) {
	e.buf, e.payload = b, b.mem[pageSize:]
	e.head = (*ringEntryHead)(unsafe.Pointer(&b.mem[0]))
	e.iov = (*[2]ringIovec)(unsafe.Pointer(&b.mem[ringIovecOff]))
	e.iov[0] = ringIovec{uint64(uintptr(unsafe.Pointer(e.head))), uint64(pageSize)}
	e.iov[1] = ringIovec{uint64(uintptr(unsafe.Pointer(&e.payload[0]))), uint64(len(e.payload))}
}

// run is the whole life of a thread, which ends with it.
func (t *ringThread) run(enabled chan<- error) {
	runtime.LockOSThread()
	defer t.ring.close()
	err := t.ring.enable()
	enabled <- err
	if err != nil {
		return
	}
	p, ok := <-t.begin
	if !ok {
		t.free()
		return
	}
	t.p = p
	for _, e := range t.entries {
		e.w = p.s.NewWorker()
		e.w.lone = t.cpu < 0
	}
	err = t.serve()
	if err == nil {
		t.rs.ready(t, unix.ENOTCONN) // if somebody still waits for that
	} else {
		t.rs.ready(t, err)
	}
	for _, e := range t.entries {
		e.w.Close()
	}
	t.free()
	p.left(err)
}

func (t *ringThread) free() {
	for _, e := range t.entries {
		if e.buf.mem != nil {
			e.buf.free()
		}
	}
}

// serve registers the entries and serves what comes, until the connection ends.
func (t *ringThread) serve() error {
	t.pin()
	for i := range t.entries {
		t.submit(i)
	}
	t.live = len(t.entries)
	wait := 0 // the first time: what cannot be registered is complained of at once
	for {
		var timeout *ringWait
		if wait > 0 {
			timeout = t.idle()
		}
		if wait > 0 && t.lingers > 0 && t.pinned {
			t.linger()
		}
		errno := t.ring.enter(wait, timeout)
		switch errno {
		case 0, unix.EINTR, unix.EAGAIN, unix.EBUSY, unix.ETIME:
		default:
			err := fmt.Errorf("io_uring_enter: %w", errno)
			t.rs.ready(t, err)
			return err
		}
		if timeout != nil {
			t.trim()
		}
		again := false
		for {
			i, res, ok := t.ring.completed()
			if !ok {
				break
			}
			if res == 0 {
				t.entries[i].commit = true
				t.handle(i)
				continue
			}
			retry, err := t.failed(i, syscall.Errno(-res))
			if err != nil || t.live == 0 {
				return err
			}
			again = again || retry
		}
		switch {
		case wait == 0 && again:
			time.Sleep(time.Millisecond) // the kernel is not through with INIT
		case wait == 0 && errno == 0:
			wait = 1
			t.rs.ready(t, nil)
		}
		if err := t.p.s.Err(); err != nil {
			return err
		}
	}
}

// submit pushes the command that an entry is to be submitted with.
func (t *ringThread) submit(i int) {
	e := t.entries[i]
	if e.commit {
		t.ring.push(ringCommit, i, e.q.id).CommitID = e.head.CommitID
		return
	}
	sqe := t.ring.push(ringRegister, i, e.q.id)
	sqe.Addr, sqe.Len = uint64(uintptr(unsafe.Pointer(e.iov))), uint32(len(e.iov))
}

// handle serves the request in an entry and has the answer pushed.
func (t *ringThread) handle(i int) {
	e := t.entries[i]
	h := e.head
	t.follow(e.q)
	t.note(e.q)
	in := load[InHeader](h.InOut[:])
	size := min(int(h.PayloadSize), len(e.payload))
	n, ok := e.w.HandleSplit(h.InOut[:InHeaderSize], h.OpIn[:], e.payload[:size],
		Reply{Header: h.InOut[:OutHeaderSize], Payload: e.payload})
	if !ok { // the entry goes back all the same
		n, _ = finish(in, Reply{Header: h.InOut[:OutHeaderSize]}, 0, 0, true)
	}
	h.PayloadSize = uint32(n)
	if max(n, size) > keepPayload {
		e.used = true
	}
	t.submit(i)
}

// failed deals with a command that the kernel did not, or not any more, take.
func (t *ringThread) failed(i int, errno syscall.Errno) (again bool, err error) {
	e := t.entries[i]
	switch errno {
	case unix.EAGAIN, unix.EINTR:
		t.submit(i)
		return true, nil
	case unix.ENOTCONN, unix.ECONNABORTED, unix.ECANCELED:
		t.live--
		return false, nil // the readers of the device know why
	}
	t.live--
	err = fmt.Errorf("request by io_uring: %w", errno)
	if !e.commit {
		// The kernel has given up on rings, and goes on with the readers of the device.
		t.rs.ready(t, err)
		return false, nil
	}
	if errno == unix.EOPNOTSUPP {
		return false, err // rings were given up when some were in use, and no answer is taken any more
	}
	t.p.s.log.Error("a ring has lost an entry", "queue", e.q.id, "error", errno)
	if e.q.dead.Add(1) == e.q.n {
		return false, err // who runs there would wait for ever
	}
	return false, nil
}

// idle is how long to wait before memory is given back.
func (t *ringThread) idle() *ringWait {
	e := t.entries[0]
	if !e.used {
		return nil
	}
	w := (*ringWait)(unsafe.Pointer(&e.buf.mem[ringWaitOff]))
	clock := (*[2]int64)(unsafe.Pointer(&e.buf.mem[ringTimeOff]))
	clock[0] = idleTime
	w.Timeout = uint64(uintptr(unsafe.Pointer(clock)))
	return w
}

// trim gives memory back if nothing has come. The kernel fills it only while this thread is in enter.
func (t *ringThread) trim() {
	if t.ring.cqHead.Load() != t.ring.cqTail.Load() {
		return
	}
	for _, e := range t.entries {
		if e.used && len(e.payload) > keepPayload {
			_ = unix.Madvise(e.payload[keepPayload:], unix.MADV_DONTNEED)
		}
		e.used = false
	}
}

// How many requests in a row decide where a thread runs, and how many of others in between are many.
const (
	aloneRequests = 16
	crowdRequests = 8
	crowdSize     = 4
)

// follow decides where the thread runs. As long as requests come one at a time, it is best on the processor of
// who asks: the kernel then switches from one to the other and back without waking a processor. With many
// at once that would leave others idle; then the thread goes where there is room. What counts is how
// many requests of the queue others have taken since this thread took its last one: those that wait for
// a disk take none.
func (t *ringThread) follow(q *ringQueue) {
	now := q.taken.Add(1)
	others := now - t.last - 1
	t.last = now
	switch {
	case others == 0:
		t.crowd = 0
		if !t.pinned {
			if t.alone++; t.alone >= aloneRequests {
				t.pin()
			}
		}
	case others >= crowdSize:
		t.alone = 0
		if t.pinned {
			if t.crowd++; t.crowd >= crowdRequests {
				t.unpin()
			}
		}
	default:
		t.alone, t.crowd = 0, 0
	}
}

// pin keeps the thread on its processor, where it may run there.
func (t *ringThread) pin() {
	t.alone, t.crowd = 0, 0
	if t.cpu < 0 || !t.rs.allowed.IsSet(t.cpu) {
		return
	}
	var set unix.CPUSet
	set.Set(t.cpu)
	t.pinned = unix.SchedSetaffinity(0, &set) == nil
}

func (t *ringThread) unpin() {
	t.alone, t.crowd = 0, 0
	t.pinned = unix.SchedSetaffinity(0, &t.rs.allowed) != nil
}

// How long a thread waits without sleeping, and after how many requests once others have had some of those before.
const (
	lingerTime     = 50 * time.Microsecond
	lingerRequests = 64
)

// note remembers whose the last request was. Requests of one program that come from one processor and then from
// another are a sign of a kernel that wakes the program, when it is answered, on a processor that sleeps, as it does while
// they mostly sleep. Waking that takes longer than all else, so that both go on sleeping, and so on. A thread
// that has not gone to sleep yet ends this: there is no such processor, and the program stays where it is.
func (t *ringThread) note(q *ringQueue) {
	id := uint32(q.id) + 1
	if t.rs.lastQueue.Load() != id {
		t.rs.lastQueue.Store(id)
		t.lingers = lingerRequests
	}
}

// linger submits, and waits for lingerTime at most. It lets others run.
func (t *ringThread) linger() {
	t.lingers--
	if t.ring.enter(0, nil) != 0 {
		return // and again, with an error that tells
	}
	for start := time.Now(); !t.ring.ready() && time.Since(start) < lingerTime; {
		_, _, _ = unix.Syscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
	}
}
