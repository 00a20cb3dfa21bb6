package journal

import (
	"bytes"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"syscall"
	"testing"

	"ext4box/blockdev/blocktest"
	"ext4box/ext4/internal/buffer"
)

func read(t testT, c *buffer.Cache, blk uint64) *buffer.Buffer {
	t.Helper()
	b, err := c.Read(blk, tagOf(0), func([]byte) error { return nil })
	if err != nil {
		t.Fatalf("%v", err)
	}
	return b
}

// logSome makes version 9 of n blocks durable.
func logSome(t testT, l *Log, cache *buffer.Cache, first uint64, n int) uint32 {
	t.Helper()
	h, err := l.Begin(Credits{Blocks: n})
	if err != nil {
		t.Fatalf("%v", err)
	}
	for i := range uint64(n) {
		b := read(t, cache, first+i)
		if err := h.Modify(b); err != nil {
			t.Fatalf("%v", err)
		}
		copy(b.Data, content(len(b.Data), b.Block, 9))
	}
	tid := h.TID()
	if err := h.End(); err != nil {
		t.Fatalf("%v", err)
	}
	if err := l.Commit(tid); err != nil {
		t.Fatalf("%v", err)
	}
	return tid
}

func TestLogEmptyTransactionsWriteNothing(t *testing.T) {
	r := newRig(20, false)
	l, cache := r.start(t, r.home, nil, WriterOptions{})
	h, err := l.Begin(Credits{Blocks: 5, Revokes: 5})
	if err != nil {
		t.Fatal(err)
	}
	tid, called := h.TID(), false
	h.OnCommit(func() { called = true })
	if err := errors.Join(h.End(), l.Commit(tid), l.Commit(tid)); err != nil || !called {
		t.Fatal(err, called)
	}
	if n := len(r.home.History().Events()); n != 0 {
		t.Errorf("%d requests for nothing", n)
	}
	if err := l.Sync(); err != nil { // there may be data that was written
		t.Fatal(err)
	}
	if e := r.home.History().Events(); len(e) != 1 || e[0].Op != blocktest.Flush {
		t.Errorf("%+v", e)
	}
	if got := logSome(t, l, cache, 0, 1); got != tid {
		t.Errorf("transaction %d follows an empty %d", got, tid)
	}
	if err := l.Commit(tid + 100); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("Commit of the future: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Begin(Credits{}); !errors.Is(err, syscall.EROFS) {
		t.Errorf("Begin after Close: %v", err)
	}
}

// A commit is two writes and two flushes, and one write more when the log was
// empty.
func TestLogRequestsOfACommit(t *testing.T) {
	r := newRig(100, false, func(lb *logBuilder) { lb.maxLen = 1024 })
	l, cache := r.start(t, r.home, nil, WriterOptions{})
	logSome(t, l, cache, 0, 20)
	logSome(t, l, cache, 0, 20)
	var got []string
	for _, e := range r.home.History().Events() {
		got = append(got, fmt.Sprintf("%v %d", e.Op, e.Len/1024))
	}
	want := []string{"write 1", "write 21", "flush 0", "write 1", "flush 0", "write 21", "flush 0", "write 1", "flush 0"}
	if !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	// Home in one piece, and the superblock.
	got = got[:0]
	for _, e := range r.home.History().Events()[len(want):] {
		got = append(got, fmt.Sprintf("%v %d", e.Op, e.Len/1024))
	}
	if len(got) != 7 || got[0] != "flush 0" || got[1] != "write 20" || got[2] != "flush 0" {
		t.Errorf("%q", got)
	}
}

func TestLogNoBarrier(t *testing.T) {
	r := newRig(100, true)
	l, cache := r.start(t, r.home, r.ext, WriterOptions{NoBarrier: true})
	logSome(t, l, cache, 0, 5)
	if err := errors.Join(l.Sync(), l.Close()); err != nil {
		t.Fatal(err)
	}
	for _, e := range append(r.home.History().Events(), r.ext.History().Events()...) {
		if e.Op == blocktest.Flush {
			t.Fatal("a flush")
		}
	}
}

// No block in the log looks like one of the journal's own.
func TestLogEscapes(t *testing.T) {
	r := newRig(20, true)
	l, cache := r.start(t, r.home, r.ext, WriterOptions{})
	h, err := l.Begin(Credits{Blocks: 1})
	if err != nil {
		t.Fatal(err)
	}
	b := read(t, cache, 4)
	if err := h.Modify(b); err != nil {
		t.Fatal(err)
	}
	putHeader(b.Data, CommitBlock, h.TID())
	tid := h.TID()
	if err := errors.Join(h.End(), l.Commit(tid)); err != nil {
		t.Fatal(err)
	}
	if be.Uint32(b.Data) != magicNumber {
		t.Error("the buffer itself was escaped")
	}
	j, _, err := r.load(r.home, r.ext)
	if err != nil {
		t.Fatal(err)
	}
	rec, err := j.Recover()
	if err != nil || rec.Len() != 1 {
		t.Fatalf("%v, %+v", err, rec)
	}
	d, _ := rec.Lookup(4)
	raw, got := make([]byte, 1024), make([]byte, 1024)
	if _, err := r.ext.ReadAt(raw, int64(d.Log)*1024); err != nil || be.Uint32(raw) != 0 || !d.Escaped {
		t.Errorf("%v, in the log it begins with %x", err, raw[:12])
	}
	if err := rec.readAt(d, got, 0); err != nil || !bytes.Equal(got, b.Data) {
		t.Errorf("%v, recovered as %x", err, got[:12])
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestLogCredits(t *testing.T) {
	t.Run("strict", func(t *testing.T) {
		r := newRig(20, false)
		l, cache := r.start(t, r.home, nil, WriterOptions{Strict: true})
		h, _ := l.Begin(Credits{Blocks: 1})
		var credit *CreditError
		if err := errors.Join(h.Modify(read(t, cache, 1)), h.Modify(read(t, cache, 1))); err != nil {
			t.Fatal(err)
		}
		if err := h.Modify(read(t, cache, 2)); !errors.As(err, &credit) || !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("%v", err)
		}
		if err := h.End(); !errors.As(err, &credit) {
			t.Errorf("%v", err)
		}
		if err := l.Close(); !errors.As(err, &credit) {
			t.Errorf("half an operation is not refused: %v", err)
		}
	})
	t.Run("lenient", func(t *testing.T) {
		r := newRig(40, false)
		l, cache := r.start(t, r.home, nil, WriterOptions{})
		h, _ := l.Begin(Credits{})
		h.Forget(30)
		for b := range uint64(6) {
			if err := h.Modify(read(t, cache, b)); err != nil {
				t.Fatal(err)
			}
		}
		if err := h.End(); err != nil {
			t.Fatal(err)
		}
		if s := l.Stats(); s.Overruns != 7 {
			t.Errorf("%+v", s)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("no room", func(t *testing.T) {
		r := newRig(100, false)
		l, cache := r.start(t, r.home, nil, WriterOptions{})
		h, _ := l.Begin(Credits{})
		for b := range uint64(100) {
			if err := h.Modify(read(t, cache, b)); err != nil {
				if b < 40 {
					t.Errorf("only %d blocks in a log of 64: %v", b, err)
				}
				break
			}
		}
		if err := h.End(); err == nil || l.Close() == nil {
			t.Error("the log has taken more than it has room for")
		}
	})
	t.Run("too large", func(t *testing.T) {
		r := newRig(100, false)
		l, _ := r.start(t, r.home, nil, WriterOptions{})
		n := l.MaxCredits()
		h, err := l.Begin(Credits{Blocks: n, Revokes: n})
		if n < 10 || err != nil {
			t.Fatalf("%d: %v", n, err)
		}
		if err := h.End(); err != nil {
			t.Fatal(err)
		}
		if _, err := l.Begin(Credits{Blocks: n + 3, Revokes: n + 3}); !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("%v", err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestLogNoticesAStaleBuffer(t *testing.T) {
	r := newRig(20, false)
	l, cache := r.start(t, r.home, nil, WriterOptions{})
	stale := read(t, cache, 3)
	cache.Drop(3)
	h, _ := l.Begin(Credits{Blocks: 2})
	if err := h.Modify(read(t, cache, 3)); err != nil {
		t.Fatal(err)
	}
	if err := h.Modify(stale); !errors.Is(err, syscall.EIO) {
		t.Errorf("%v", err)
	}
	if err := errors.Join(h.End(), l.Close()); err != nil {
		t.Fatal(err)
	}
}

func TestLogStartRefuses(t *testing.T) {
	r := newRig(20, true)
	j, log, err := r.load(r.home, r.ext)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := j.Start(r.home, log, buffer.New(r.home, 1024, 1<<20), WriterOptions{}); !errors.Is(err, syscall.EUCLEAN) {
		t.Errorf("a log of 63 blocks: %v", err)
	}
	if _, err := j.Start(r.home, log, buffer.New(r.home, 4096, 1<<20), WriterOptions{}); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("another block size: %v", err)
	}
}

func TestExtentLogRefuses(t *testing.T) {
	dev := blocktest.NewMem(100 << 10)
	for name, runs := range map[string][]Run{
		"hole":     {{0, 10, 5}, {6, 20, 5}},
		"start":    {{1, 10, 5}},
		"empty":    {{0, 10, 0}},
		"beyond":   {{0, 96, 5}},
		"far":      {{0, 1 << 60, 5}},
		"long":     {{0, 5, 1<<32 - 1}},
		"overlap":  {{0, 10, 5}, {5, 14, 5}},
		"the same": {{0, 10, 5}, {5, 10, 5}},
	} {
		if _, err := NewExtentLog(dev, 1024, runs); !errors.Is(err, syscall.EUCLEAN) {
			t.Errorf("%s: %v", name, err)
		}
	}
	x, err := NewExtentLog(dev, 1024, []Run{{0, 50, 3}, {3, 10, 2}, {5, 90, 10}})
	if err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 15<<10)
	for i := range p {
		p[i] = byte(i / 512)
	}
	if _, err := x.WriteAt(p, 0); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 5000)
	if n, err := x.ReadAt(got, 2500); n != 5000 || err != nil || !bytes.Equal(got, p[2500:7500]) {
		t.Errorf("%d, %v", n, err)
	}
	if n, err := x.ReadAt(got, 15<<10-100); n != 100 || err == nil {
		t.Errorf("%d, %v", n, err)
	}
	if _, err := x.WriteAt(got, 15<<10-100); err == nil {
		t.Error("a write past the end")
	}
}

func TestUnlogged(t *testing.T) {
	dev := blocktest.NewRecording(nil, 1<<20, nil)
	cache := buffer.New(dev, 1024, 1<<20)
	l := NewUnlogged(dev, cache, WriterOptions{Interval: -1, Strict: true})
	h, err := l.Begin(Credits{Blocks: 6})
	if err != nil {
		t.Fatal(err)
	}
	for _, blk := range []uint64{40, 7, 41, 6, 42, 99} {
		b, err := h.New(blk, tagOf(0))
		if err != nil {
			t.Fatal(err)
		}
		copy(b.Data, content(1024, blk, 3))
	}
	h.Forget(99) // needs no credit: there is nothing that could be replayed
	durable := false
	h.OnCommit(func() { durable = true })
	tid := h.TID()
	if err := errors.Join(h.End(), l.Commit(tid)); err != nil || !durable {
		t.Fatal(err, durable)
	}
	var got []string
	for _, e := range dev.History().Events() {
		got = append(got, fmt.Sprintf("%v %d+%d", e.Op, e.Off/1024, e.Len/1024))
	}
	if want := []string{"flush 0+0", "write 6+2", "write 40+3", "flush 0+0"}; !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	// The numbers go on, also behind transactions without changes.
	for range 3 {
		h, err := l.Begin(Credits{})
		if err != nil {
			t.Fatal(err)
		}
		tid := h.TID()
		if err := errors.Join(h.End(), l.Commit(tid)); err != nil {
			t.Fatal(err)
		}
	}
	if next := logSome(t, l, cache, 6, 1); next != tid+1 {
		t.Errorf("transaction %d follows %d", next, tid)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 1024)
	if _, err := dev.ReadAt(p, 6<<10); err != nil || !bytes.Equal(p, content(1024, 6, 9)) {
		t.Errorf("%v, %x", err, p[:16])
	}
}

// TestLogFreeze: a frozen log is empty and lets nobody change anything, and afterwards
// all is as ever.
func TestLogFreeze(t *testing.T) {
	r := newRig(100, false, func(lb *logBuilder) { lb.maxLen = 1024 })
	l, cache := r.start(t, r.home, nil, WriterOptions{})
	logSome(t, l, cache, 0, 20)
	open, err := l.Begin(Credits{Blocks: 1})
	if err != nil {
		t.Fatal(err)
	}
	frozen := make(chan error)
	go func() { frozen <- l.Freeze() }()
	// It waits for the handle, which can still change something.
	for l.Usable() == nil {
		runtime.Gosched()
	}
	if _, err := l.Begin(Credits{}); !errors.Is(err, ErrFrozen) || !errors.Is(err, syscall.EBUSY) {
		t.Errorf("Begin: %v", err)
	}
	b := read(t, cache, 30)
	if err := open.Modify(b); err != nil {
		t.Fatal(err)
	}
	copy(b.Data, content(len(b.Data), 30, 9))
	select {
	case err := <-frozen:
		t.Fatalf("frozen with an open handle: %v", err)
	default:
	}
	if err := errors.Join(open.End(), <-frozen); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(b.Data))
	if _, err := r.home.ReadAt(got, 30*int64(len(got))); err != nil || !bytes.Equal(got, b.Data) {
		t.Errorf("a block is not at home: %v", err)
	}
	if j, _, err := r.load(r.home, nil); err != nil || !j.Clean() {
		t.Errorf("the log is not empty: %v", err)
	}
	n := len(r.home.History().Events())
	if err := l.Sync(); err != nil {
		t.Errorf("Sync: %v", err)
	}
	for _, e := range r.home.History().Events()[n:] {
		if e.Op != blocktest.Flush {
			t.Errorf("while frozen: %+v", e)
		}
	}
	l.Thaw()
	logSome(t, l, cache, 0, 20)
	if j, _, err := r.load(r.home, nil); err != nil || j.Clean() {
		t.Errorf("nothing is in the log after Thaw: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}
