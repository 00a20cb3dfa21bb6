package fuse

import (
	"sync"
	"sync/atomic"
)

// overflow takes requests off a reader that has to go on reading, because it is the last that does: see
// "Readers" in the package comment. They are parked until a goroutine of overflow, with a worker and a
// buffer of its own, or a reader that can be spared again, handles them, in the order in which they
// came.
//
// Goroutines are started when they are needed and stay, and parked requests are used again, so that
// what happens often allocates nothing.
type overflow struct {
	p   *readers
	max int // goroutines

	mu          sync.Mutex
	work        sync.Cond // there is a parked request, or it is over
	quiet       sync.Cond // running has become 0
	first, last *parked
	free        *parked
	bytes       int // of the requests from first to last
	n           int // goroutines
	idle        int // those that wait for work
	running     int // requests that are being handled
	over        bool

	queued atomic.Int32 // requests from first to last; changes under mu
}

// parked is a request on its way from a reader to a goroutine of overflow.
type parked struct {
	next        *parked
	from        *source
	msg         []byte
	interrupted bool
}

const (
	// maxParkedBytes bounds what is parked. Requests that carry no data are about 100 bytes, and
	// each has a task in the kernel that waits for it.
	maxParkedBytes = 64 << 20
	// maxParkedReuse is the size up to which the memory of a parked request is kept.
	maxParkedReuse = 4096
)

func (o *overflow) init(p *readers) {
	o.p, o.max = p, p.max
	o.work.L, o.quiet.L = &o.mu, &o.mu
}

// take takes over a request that was read from src, and false if it cannot: then the reader handles it
// itself.
func (o *overflow) take(src *source, msg []byte) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.over || o.bytes+len(msg) > maxParkedBytes {
		return false
	}
	if int(o.queued.Load()) >= o.idle && o.n < o.max {
		o.start()
	}
	if o.n == 0 {
		return false
	}
	r := o.free
	if r == nil {
		r = new(parked)
	} else {
		o.free = r.next
	}
	r.next, r.from, r.msg, r.interrupted = nil, src, append(r.msg[:0], msg...), false
	if o.last == nil {
		o.first = r
	} else {
		o.last.next = r
	}
	o.last = r
	o.queued.Add(1)
	o.bytes += len(msg)
	src.owed.Add(1)
	o.work.Signal()
	return true
}

// start adds a goroutine. The caller holds o.mu.
func (o *overflow) start() {
	buf, err := newBuffer(o.p.s.PayloadSize())
	if err != nil {
		o.p.s.log.Warn("cannot handle more requests at once", "error", err)
		o.max = o.n // do with those that there are
		return
	}
	o.n++
	go o.run(o.p.s.NewWorker(), buf)
}

// run handles parked requests until all are through and no more will come.
func (o *overflow) run(w *Worker, buf buffer) {
	defer buf.free()
	defer w.Close()
	o.p.noReclaim()
	for {
		r := o.await()
		if r == nil {
			return
		}
		o.handle(r, w, buf)
	}
}

// handle handles a request that await or poll returned.
func (o *overflow) handle(r *parked, w *Worker, buf buffer) {
	if r.interrupted {
		w.interrupted.Store(load[InHeader](r.msg).Unique &^ uniqueResend)
	}
	req := buf.request()
	if n, ok := w.Handle(req[:copy(req, r.msg)], buf.reply()); ok {
		o.p.send(r.from.fd, buf.message(n))
	}
	r.from.owed.Done()
	o.give(r)
}

// give gives back a request that is through.
func (o *overflow) give(r *parked) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.running--; o.running == 0 {
		o.quiet.Broadcast()
	}
	if r.from = nil; cap(r.msg) <= maxParkedReuse {
		r.next, o.free = o.free, r
	}
}

// await waits for a request; nil is the end of a goroutine.
func (o *overflow) await() *parked {
	o.mu.Lock()
	defer o.mu.Unlock()
	for o.first == nil {
		if o.over {
			o.n--
			return nil
		}
		o.idle++
		o.work.Wait()
		o.idle--
	}
	return o.pop()
}

// poll returns a request if there is one.
func (o *overflow) poll() *parked {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.first == nil {
		return nil
	}
	return o.pop()
}

// pop takes the first request. The caller holds o.mu.
func (o *overflow) pop() *parked {
	r := o.first
	if o.first = r.next; o.first == nil {
		o.last = nil
	}
	r.next = nil
	o.queued.Add(-1)
	o.bytes -= len(r.msg)
	// What came before DESTROY is to be through, not only begun: DESTROY waits for workers, and only
	// what has begun holds one.
	for load[InHeader](r.msg).Opcode == OpDestroy && o.running > 0 {
		o.quiet.Wait()
	}
	o.running++
	return r
}

// interrupt tells a request that is still parked about an INTERRUPT, and false if it is not here.
func (o *overflow) interrupt(msg []byte) bool {
	if len(msg) < InHeaderSize || load[InHeader](msg).Opcode != OpInterrupt {
		return false
	}
	unique := load[interruptIn](msg[InHeaderSize:]).Unique &^ (uniqueInterrupt | uniqueResend)
	o.mu.Lock()
	defer o.mu.Unlock()
	for r := o.first; r != nil; r = r.next {
		if load[InHeader](r.msg).Unique&^uniqueResend == unique {
			r.interrupted = true
			return true
		}
	}
	return false
}

// close ends the goroutines once nothing is parked any more.
func (o *overflow) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.over = true
	o.work.Broadcast()
}

// urgent reports whether others may be waiting for this request in turn: that it must always find a
// reader, and never wait for another request. Data that has been written must be able to become part
// of its file (IOEND), and so must data that is written back to make room, which begins with finding its
// place.
func urgent(req []byte) bool {
	switch opcodeOf(req) {
	case noOpcode: // refused at once
		return true
	case OpIomapIoend, OpIomapConfig, OpInit, OpInterrupt, OpNotifyReply:
		return true
	case OpIomapBegin:
		return load[IomapBeginIn](req[InHeaderSize:]).Op.WritesBack()
	}
	return false
}
