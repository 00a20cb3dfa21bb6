package journal

import (
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"ext4box/blockdev"
	"ext4box/blockdev/blocktest"
	"ext4box/ext4/internal/buffer"
)

func TestLogCommitsOnItsOwn(t *testing.T) {
	r := newRig(20, false)
	l, cache := r.start(t, r.home, nil, WriterOptions{Interval: time.Millisecond})
	h, _ := l.Begin(Credits{Blocks: 1})
	durable := make(chan struct{})
	h.OnCommit(func() { close(durable) })
	if err := errors.Join(h.Modify(read(t, cache, 1)), h.End()); err != nil {
		t.Fatal(err)
	}
	<-durable
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

// gate is a device on which one kind of request waits while it is shut.
type gate struct {
	blockdev.Device
	mu   sync.Mutex
	op   blocktest.Op
	shut chan chan struct{} // a request announces itself here, and waits
}

func (g *gate) close(op blocktest.Op) (requests chan chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.op, g.shut = op, make(chan chan struct{})
	return g.shut
}

func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.op = 0
}

func (g *gate) pass(op blocktest.Op) {
	g.mu.Lock()
	held, c := g.op == op, g.shut
	g.mu.Unlock()
	if held {
		wait := make(chan struct{})
		c <- wait
		<-wait
	}
}

func (g *gate) WriteAt(p []byte, off int64) (int, error) {
	g.pass(blocktest.Write)
	return g.Device.WriteAt(p, off)
}

func (g *gate) Flush() error {
	g.pass(blocktest.Flush)
	return g.Device.Flush()
}

// Space in the log is used again only after the superblock that gives it up is
// durable; a younger transaction is kept waiting until then.
func TestLogSpaceIsFreeOnlyWhenTheTailIs(t *testing.T) {
	r := newRig(64, true, func(lb *logBuilder) { lb.maxLen = 64 })
	g := &gate{Device: r.ext}
	l, cache := r.start(t, r.home, g, WriterOptions{})
	for i := range 2 {
		logSome(t, l, cache, uint64(i*12), 12) // 14 blocks each, of 60
	}
	requests := g.close(blocktest.Flush)
	checkpoint := make(chan error, 1)
	go func() { checkpoint <- l.Checkpoint() }() // the flush of its superblock is held up
	wait := <-requests

	l.mu.Lock()
	used := l.used
	l.mu.Unlock()
	if used != 28 {
		t.Errorf("%d blocks are in use while the superblock is not durable", used)
	}
	g.open()
	close(wait)
	if err := errors.Join(<-checkpoint, l.Close()); err != nil {
		t.Fatal(err)
	}
}

// A block on its way home is freed meanwhile. It is not to be used again before
// the write has arrived.
func TestLogFreedBlockOnItsWayHome(t *testing.T) {
	r := newRig(64, true, func(lb *logBuilder) { lb.maxLen = 64 })
	g := &gate{Device: r.home}
	l, cache := r.start(t, g, r.ext, WriterOptions{})
	logSome(t, l, cache, 5, 1)
	requests := g.close(blocktest.Write)
	checkpoint := make(chan error, 1)
	go func() { checkpoint <- l.Checkpoint() }()
	wait := <-requests
	g.open()

	h, err := l.Begin(Credits{Revokes: 1})
	if err != nil {
		t.Fatal(err)
	}
	var arrived, early atomic.Bool
	h.Forget(5)
	h.OnCommit(func() { early.Store(!arrived.Load()) })
	tid := h.TID()
	if err := h.End(); err != nil {
		t.Fatal(err)
	}
	committed := make(chan error, 1)
	go func() { committed <- l.Commit(tid) }()
	select {
	case <-committed:
		t.Error("the block may be used while an old version is being written over it")
		committed <- nil
	case <-time.After(20 * time.Millisecond):
		// It waits, as it should.
	}
	arrived.Store(true)
	close(wait)
	if err := errors.Join(<-committed, <-checkpoint, l.Close()); err != nil || early.Load() {
		t.Fatal(err, early.Load())
	}
}

// Many goroutines on a log that has room for few of them. The race detector
// looks at it too, and so does the scheduler: nothing may wait for ever.
func TestLogStress(t *testing.T) {
	before := runtime.NumGoroutine()
	for _, unlogged := range []bool{false, true} {
		r := newRig(200, false, func(lb *logBuilder) { lb.maxLen = 80 })
		l, _ := r.start(t, r.home, nil, WriterOptions{Interval: time.Millisecond, Strict: true})
		// A buffer must stay in the cache from being read to being modified.
		cache := buffer.New(r.home, 1024, 4<<20)
		l.cache = cache
		if unlogged {
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			l = NewUnlogged(r.home, cache, WriterOptions{Interval: time.Millisecond, Strict: true})
		}
		var called, registered sync.WaitGroup
		var wg sync.WaitGroup
		var hot sync.Mutex // the lock of block 0
		for g := range 8 {
			wg.Go(func() {
				pick := seeded(uint64(g))
				mine := map[uint64]bool{}
				for i := range 150 {
					n := 1 + pick(6)
					h, err := l.Begin(Credits{Blocks: n + 1, Revokes: n})
					if err != nil {
						t.Error(err)
						return
					}
					registered.Add(1)
					called.Add(1)
					h.OnCommit(called.Done)
					registered.Done()
					hot.Lock()
					b := read(t, cache, 0)
					if err := h.Modify(b); err != nil {
						t.Error(err)
					}
					b.Data[0]++
					hot.Unlock()
					for range n {
						blk := uint64(1 + g*20 + pick(20))
						switch {
						case !mine[blk]:
							b, err := h.New(blk, tagOf(0))
							if err != nil {
								t.Error(err)
								break
							}
							b.Data[5] = byte(i)
							mine[blk] = true
						case pick(4) == 0:
							h.Forget(blk)
							mine[blk] = false
						default:
							b := read(t, cache, blk)
							if err := h.Modify(b); err != nil {
								t.Error(err)
							}
							b.Data[5] = byte(i)
						}
					}
					tid := h.TID()
					if err := h.End(); err != nil {
						t.Error(err)
					}
					switch pick(20) {
					case 0:
						if err := l.Commit(tid); err != nil {
							t.Error(err)
						}
					case 1:
						if err := l.Checkpoint(); err != nil {
							t.Error(err)
						}
					case 2:
						if err := l.Sync(); err != nil {
							t.Error(err)
						}
					}
				}
			})
		}
		wg.Wait()
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		called.Wait()
		if n := l.entries(); n != 0 {
			t.Errorf("%d entries are left", n)
		}
		b := make([]byte, 1)
		if _, err := r.home.ReadAt(b, 0); err != nil || b[0] != byte(8*150&0xFF) {
			t.Errorf("%v, block 0 counts %d", err, b[0])
		}
	}
	for range 100 {
		if runtime.NumGoroutine() <= before {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Errorf("%d goroutines, %d before", runtime.NumGoroutine(), before)
}
