package fuse

import (
	"testing"
	"testing/synctest"
)

// TestOverflowDestroy: DESTROY does not come out while another request is out that may not have begun.
func TestOverflowDestroy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := NewSession(Unimplemented{}, noTransport{}, Options{})
		if err != nil {
			t.Fatal(err)
		}
		buf, err := newBuffer(s.PayloadSize())
		if err != nil {
			t.Fatal(err)
		}
		defer buf.free()
		var o overflow
		o.init(&readers{s: s, max: 1})
		o.n = 1 // as if its goroutine were busy
		src := &source{fd: -1}
		for _, op := range []Opcode{OpRelease, OpRelease, OpDestroy, OpRelease} {
			if !o.take(src, message(op, 5)) {
				t.Fatalf("%v was not taken", op)
			}
		}
		a, b := o.poll(), o.poll()
		var destroy *parked
		go func() { destroy = o.poll() }()
		w := s.NewWorker()
		for _, r := range []*parked{a, b} {
			synctest.Wait()
			if destroy != nil {
				t.Error("DESTROY came out beside another request")
			}
			o.handle(r, w, buf)
		}
		synctest.Wait()
		if destroy == nil || load[InHeader](destroy.msg).Opcode != OpDestroy {
			t.Error("DESTROY did not come out")
		}
		if n := o.queued.Load(); n != 1 || o.bytes != InHeaderSize {
			t.Errorf("%d requests of %d bytes are left", n, o.bytes)
		}
		if o.poll(); o.poll() != nil || o.bytes != 0 {
			t.Error("something is left")
		}
	})
}

// TestOverflowBounds: what is parked is bounded, by bytes, and then the reader has to do it itself; and
// so when there is nobody to do it.
func TestOverflowBounds(t *testing.T) {
	var o overflow
	o.init(&readers{})
	src := &source{}
	if o.take(src, message(OpLookup, 1, str("name"))) {
		t.Error("a request was taken that nobody will handle")
	}
	o.n = 1
	big, n := message(OpWrite, 5, make([]byte, 1<<20)), 0
	for o.take(src, big) {
		if n++; n > 1000 {
			t.Fatal("no end")
		}
	}
	if n != 63 {
		t.Errorf("%d requests of 1 MiB were taken", n)
	}
	if !o.take(src, message(OpLookup, 1, str("name"))) {
		t.Error("a small one still fits")
	}
	o.close()
	if o.take(src, message(OpLookup, 1, str("name"))) {
		t.Error("a request was taken after the end")
	}
}

// TestOverflowAllocates checks that giving a request away costs no memory, from the second on.
func TestOverflowAllocates(t *testing.T) {
	var o overflow
	o.init(&readers{})
	o.n = 1
	src, msg := &source{}, message(OpLookup, 1, str("name"))
	if n := testing.AllocsPerRun(100, func() {
		for range 3 {
			o.take(src, msg)
		}
		for range 3 {
			r := o.poll()
			o.give(r)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestUrgent(t *testing.T) {
	for _, c := range []struct {
		name string
		msg  []byte
		want bool
	}{
		{"IOEND", message(OpIomapIoend, 5, raw(&IomapIoendIn{})), true},
		{"read", message(OpIomapBegin, 5, raw(&IomapBeginIn{})), false},
		{"write", message(OpIomapBegin, 5, raw(&IomapBeginIn{Op: 1})), false},
		{"everything known", message(OpIomapBegin, 5, raw(&IomapBeginIn{Op: 1<<11 - 1 | 1<<30})), false},
		{"writeback", message(OpIomapBegin, 5, raw(&IomapBeginIn{Op: 1 << 31})), true},
		{"unknown", message(OpIomapBegin, 5, raw(&IomapBeginIn{Op: 1<<11 | 1})), true},
		{"cut off", message(OpIomapBegin, 5), false},
		{"shorter than a header", make([]byte, 39), true},
		{"LOOKUP", message(OpLookup, 5, str("x")), false},
		{"FORGET", message(OpForget, 5, raw(&ForgetIn{})), false},
		{"DESTROY", message(OpDestroy, 0), false},
		{"INTERRUPT", interruptMessage(2), true},
	} {
		if got := urgent(c.msg); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}

// TestPass: the last reader gives away what may take long, and any reader DESTROY.
func TestPass(t *testing.T) {
	p := &readers{}
	p.full.Store(true)
	p.overflow.init(p)
	p.overflow.n = 1
	for _, c := range []struct {
		op   Opcode
		idle int32 // before
		want bool
	}{
		{OpLookup, 2, false}, {OpIomapIoend, 2, false}, {OpDestroy, 2, true},
		{OpLookup, 1, true}, {OpIomapIoend, 1, false}, {OpDestroy, 1, true}, {OpForget, 1, true},
	} {
		p.idle.Store(c.idle)
		if got := p.pass(&source{}, message(c.op, 5, make([]byte, 48))); got != c.want {
			t.Errorf("%v with %d readers that wait: given away %v", c.op, c.idle, got)
		}
		if n := p.idle.Load(); n != c.idle-1 {
			t.Errorf("%v with %d readers that wait: %d then", c.op, c.idle, n)
		}
	}
}
