package blockdev

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"sync"
	"syscall"
	"testing"
	"time"
)

// awaitWaiting returns when so many writes wait.
func awaitWaiting(t *testing.T, f *File, n int) {
	t.Helper()
	for range 5000 {
		f.fresh.mu.Lock()
		now := len(f.fresh.waiting)
		f.fresh.mu.Unlock()
		if now == n {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatalf("there are never %d writes that wait", n)
}

// TestWriteNew: what comes while a write is under way is written together with its
// neighbours, and each learns what has become of its own.
func TestWriteNew(t *testing.T) {
	const n, unit = 8, 4096
	for name, c := range map[string]struct {
		order    []int // of the blocks
		together []int
		bad      int64
	}{
		"neighbours":  {order: []int{3, 1, 5, 2, 7, 4, 6}, together: []int{7}},
		"a gap":       {order: []int{5, 1, 2, 6, 7}, together: []int{3, 2}}, // the oldest first
		"one is lost": {order: []int{1, 2, 3}, together: []int{3}, bad: 2 * unit},
	} {
		t.Run(name, func(t *testing.T) {
			h := &fakeHandle{data: make([]byte, n*unit), align: 512, hold: make(chan struct{}), badWrite: c.bad}
			f := fakeFile(t, h, Options{})
			want := make([]byte, n*unit)
			block := func(i int) []byte {
				b := AllocAligned(unit, BufferAlign)
				copy(b, bytes.Repeat([]byte{byte(i + 1)}, unit))
				return b
			}
			var wg sync.WaitGroup
			write := func(i int) {
				p := block(i)
				bad := c.bad > 0 && c.bad/unit == int64(i)
				if !bad {
					copy(want[i*unit:], p)
				}
				wg.Go(func() {
					m, err := f.WriteNew(p, int64(i*unit))
					switch {
					case bad && !errors.Is(err, syscall.EIO):
						t.Errorf("block %d: %d, %v; want EIO", i, m, err)
					case !bad && (m != unit || err != nil):
						t.Errorf("block %d: %d, %v", i, m, err)
					}
				})
			}
			write(0)
			for { // until it is under way
				f.fresh.mu.Lock()
				writing := f.fresh.writing
				f.fresh.mu.Unlock()
				if writing == 1 {
					break
				}
				time.Sleep(time.Millisecond)
			}
			for i, blk := range c.order {
				write(blk)
				awaitWaiting(t, f, i+1)
			}
			close(h.hold)
			wg.Wait()
			if got := h.together; len(got) != len(c.together) || got[0] != c.together[0] || len(got) > 1 && got[1] != c.together[1] {
				t.Errorf("together are %d, want %d", got, c.together)
			}
			if !bytes.Equal(h.data, want) {
				t.Error("not what was written")
			}
			if f.fresh.writing != 0 || len(f.fresh.waiting) != 0 {
				t.Errorf("in the end %d are writing and %d wait", f.fresh.writing, len(f.fresh.waiting))
			}
		})
	}
}

// TestWriteNewRandom writes blocks once each, from many sides, some of them badly aligned, with short counts.
func TestWriteNewRandom(t *testing.T) {
	const unit, blocks = 4096, 600
	for _, short := range []int{0, 1536} {
		h := &fakeHandle{data: make([]byte, blocks*unit), align: 512, short: short, delay: 10 * time.Microsecond}
		f := fakeFile(t, h, Options{})
		want := noise(blocks*unit, 3)
		perm := rand.New(rand.NewPCG(1, 2)).Perm(blocks / 2)
		var wg sync.WaitGroup
		for g := range 12 {
			wg.Go(func() {
				for i := g; i < blocks; i += 12 {
					at := i
					if i >= blocks/2 {
						at = blocks/2 + perm[i-blocks/2]
					}
					p := AllocAligned(unit+512, BufferAlign)[:unit]
					if i%16 == 1 {
						p = AllocAligned(unit+1, BufferAlign)[1:]
					}
					copy(p, want[at*unit:])
					if n, err := f.WriteNew(p, int64(at*unit)); n != unit || err != nil {
						t.Errorf("block %d: %d, %v", at, n, err)
					}
				}
			})
		}
		wg.Wait()
		if !bytes.Equal(h.data, want) {
			t.Error("not what was written")
		}
	}
}
