package fuse

import (
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// readers are the goroutines that serve one connection. There is always one that waits for a request,
// up to the maximum: whoever takes a request and leaves nobody waiting starts another. Once started a
// reader stays, so their number is that of the requests that ever came at the same time.
//
// With fuse-iomap somebody must wait even when there cannot be more: see overflow.
type readers struct {
	d   *Device
	s   *Session
	max int

	idle atomic.Int32 // readers that wait, or are about to
	full atomic.Bool  // there will be no more readers: idle does not matter without fuse-iomap

	overflow overflow
	reclaim  sync.Once // complained of noReclaim

	mu     sync.Mutex
	n      int // readers started
	active int // readers that have not returned
	over   bool
	err    error
	done   chan struct{} // closed when Serve is to return
}

// source is where a reader reads from. The replies have to be written there.
type source struct {
	fd   int
	owed sync.WaitGroup // requests that overflow has
}

// start adds a reader on f, which calls done in the end.
func (p *readers) start(f *os.File, done func()) error {
	buf, err := newBuffer(p.s.PayloadSize())
	if err != nil {
		done()
		return err
	}
	p.mu.Lock()
	p.n++
	p.active++
	if p.n >= p.max {
		p.full.Store(true)
	}
	p.mu.Unlock()
	p.idle.Add(1)
	go p.run(f, done, buf)
	return nil
}

// startAnother adds a reader, if there may be one more, on a descriptor of its own if that is to be had.
func (p *readers) startAnother() {
	p.mu.Lock()
	more := p.n < p.max && !p.over
	p.mu.Unlock()
	if !more {
		return
	}
	f, err := p.d.clone()
	done := func() { _ = f.Close() }
	if err != nil {
		f, done, err = p.d.shared.use() // a little slower: its readers contend for one queue
	}
	if err == nil {
		err = p.start(f, done)
	}
	if err != nil {
		p.full.Store(true) // do with those that there are
		p.s.log.Warn("cannot start another reader", "error", err)
	}
}

// run is a reader.
func (p *readers) run(f *os.File, done func(), buf buffer) {
	w := p.s.NewWorker()
	src := &source{fd: int(f.Fd())}
	err := p.loop(src, w, buf)
	src.owed.Wait()
	w.Close()
	buf.free()
	done()
	p.left(err)
}

// left is called by each reader, or thread of a ring, at its end.
func (p *readers) left(err error) {
	p.mu.Lock()
	p.active--
	last := p.active == 0
	p.mu.Unlock()
	if last {
		p.overflow.close()
	}
	if last || err != nil && err != ErrAborted {
		p.finish(err)
	} else {
		p.note(err)
	}
}

// loop serves requests until the connection ends.
func (p *readers) loop(src *source, w *Worker, buf buffer) error {
	req, reply := buf.request(), buf.reply()
	iomap := false
	for {
		if iomap {
			p.help(w, buf)
		}
		n, err := unix.Read(src.fd, req)
		switch err {
		case nil:
		case unix.EINTR, unix.EAGAIN, unix.ENOENT:
			continue // a signal, or a request that was interrupted before it was read
		case unix.ENODEV:
			return nil
		case unix.ECONNABORTED:
			return ErrAborted
		case unix.EPERM:
			return fmt.Errorf("read requests: the FUSE device is not mounted: %w", err)
		default:
			return fmt.Errorf("read requests: %w", err)
		}
		if n == 0 {
			return nil // a socket in place of the device was closed
		}
		if !iomap && p.s.iomap() {
			iomap = true
			p.noReclaim()
		}
		counted := iomap || !p.full.Load()
		switch {
		case iomap:
			if p.pass(src, req[:n]) {
				p.idle.Add(1)
				continue
			}
		case counted && p.idle.Add(-1) == 0 && !brief(req[:n]):
			p.startAnother()
		}
		op := opcodeOf(req[:n])
		if n, ok := w.Handle(req[:n], reply); ok {
			p.send(src.fd, buf.message(n))
		}
		if op == OpInit {
			p.d.startRings(p)
		}
		if (op == OpForget || op == OpBatchForget) && p.d.rings != nil && p.d.rings.serving.Load() {
			time.Sleep(forgetTime)
		}
		if err := p.s.Err(); err != nil {
			return err
		}
		if counted {
			p.idle.Add(1)
		}
	}
}

// pass decides with fuse-iomap whether somebody else handles a request, because nobody but its reader
// is left to read the next one, and sees to it. DESTROY always goes that way: it waits for others, and
// must stay behind those that did.
func (p *readers) pass(src *source, req []byte) bool {
	last, urgent := p.idle.Add(-1) == 0, urgent(req)
	if last && !p.full.Load() && !(urgent && brief(req)) {
		p.startAnother()
		last = p.idle.Load() == 0
	}
	if p.overflow.interrupt(req) {
		return true
	}
	destroy := opcodeOf(req) == OpDestroy
	return (last && !urgent || destroy) && p.overflow.take(src, req)
}

// help handles parked requests, as long as there is another reader that waits. Whoever parks one, or is
// through with another, looks here afterwards, so that none stays parked while two readers wait.
func (p *readers) help(w *Worker, buf buffer) {
	for p.overflow.queued.Load() > 0 && p.spare() {
		if r := p.overflow.poll(); r != nil {
			p.overflow.handle(r, w, buf)
		}
		p.idle.Add(1)
	}
}

// spare takes the caller out of the readers that wait, and false if it is the only one.
func (p *readers) spare() bool {
	for {
		n := p.idle.Load()
		if n < 2 {
			return false
		}
		if p.idle.CompareAndSwap(n, n-1) {
			return true
		}
	}
}

// brief reports whether a request is answered so fast that it is not worth another reader.
func brief(req []byte) bool {
	switch opcodeOf(req) {
	case noOpcode, OpInit, OpForget, OpBatchForget, OpInterrupt, OpNotifyReply:
		return true
	}
	return false
}

// forgetTime is how long a reader that has nothing else to read, because requests come by rings, lets FORGETs
// gather. Each would wake it otherwise, which costs the program that deletes files more than the deleting.
const forgetTime = 2 * time.Millisecond

// noOpcode is an opcode that no request has.
const noOpcode = ^Opcode(0)

// opcodeOf is the opcode of a request, noOpcode if that is too short to have one.
func opcodeOf(req []byte) Opcode {
	if len(req) < InHeaderSize {
		return noOpcode
	}
	return load[InHeader](req).Opcode
}

// send writes a reply.
func (p *readers) send(fd int, msg []byte) {
	for {
		_, err := unix.Write(fd, msg)
		switch err {
		case unix.EINTR:
			continue
		case nil, unix.ENOENT, unix.ENODEV, unix.ECONNABORTED, unix.EPERM, unix.EPIPE:
			// Sent, or the caller was interrupted or killed, or all callers are gone: the next
			// read tells.
		default:
			// EINVAL is a reply that the kernel does not understand; its caller gets EIO.
			p.s.log.Error("the kernel refused a reply", "unique", load[OutHeader](msg).Unique, "error", err)
		}
		return
	}
}

// note keeps the first error for Serve.
func (p *readers) note(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err == nil && !p.over {
		p.err = err
	}
}

// finish lets Serve return. When the connection is gone all readers have returned by then. Otherwise
// some are left waiting in read(2), where nothing reaches them: it takes no second descriptor to wait
// for, closing the one it has does not wake it, and the Go runtime has it restarted after signals. What
// they still read the session refuses, and they end with the mount, or the process.
func (p *readers) finish(err error) {
	p.note(err)
	p.overflow.close()
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.over {
		p.over = true
		close(p.done)
	}
}
