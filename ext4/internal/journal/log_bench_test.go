package journal

import (
	"fmt"
	"sync/atomic"
	"testing"

	"ext4box/blockdev/blocktest"
	"ext4box/ext4/internal/buffer"
)

func benchRig(b *testing.B) (*Log, *buffer.Cache) {
	r := newRig(4096, true, func(lb *logBuilder) { lb.bs, lb.maxLen = 4096, 16384 })
	mem := blocktest.NewMem(r.home.Size())
	ext := blocktest.NewOverlay(r.ext, r.ext.Size())
	j, log, err := r.load(mem, ext)
	if err != nil {
		b.Fatal(err)
	}
	cache := buffer.New(mem, 4096, 4096*4096*2)
	l, err := j.Start(mem, log, cache, WriterOptions{Interval: -1})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := l.Close(); err != nil {
			b.Error(err)
		}
	})
	return l, cache
}

// An operation that changes a few blocks, most of which others have changed
// before it: what a create is to the journal.
func BenchmarkHandle(b *testing.B) {
	for _, blocks := range []int{0, 1, 6} {
		b.Run(fmt.Sprintf("blocks=%d", blocks), func(b *testing.B) {
			l, cache := benchRig(b)
			bufs := make([]*buffer.Buffer, 512)
			for i := range bufs {
				bufs[i] = read(b, cache, uint64(i))
			}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				h, err := l.Begin(Credits{Blocks: 20, Revokes: 4})
				if err != nil {
					b.Fatal(err)
				}
				for k := range blocks {
					if err := h.Modify(bufs[(i*7+k*64)%len(bufs)]); err != nil {
						b.Fatal(err)
					}
				}
				if err := h.End(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkHandleParallel(b *testing.B) {
	l, cache := benchRig(b)
	bufs := make([]*buffer.Buffer, 512)
	for i := range bufs {
		bufs[i] = read(b, cache, uint64(i))
	}
	var goroutine atomic.Int64
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		first := int(goroutine.Add(1)) * 100
		for i := 0; pb.Next(); i++ {
			h, err := l.Begin(Credits{Blocks: 20})
			if err != nil {
				b.Error(err)
				return
			}
			for k := range 6 {
				if err := h.Modify(bufs[(first+i+k*16)%len(bufs)]); err != nil {
					b.Error(err)
				}
			}
			if err := h.End(); err != nil {
				b.Error(err)
			}
		}
	})
}

// Whole transactions, with the checkpoints they cause, on a device that costs
// nothing.
func BenchmarkCommit(b *testing.B) {
	for _, blocks := range []int{4, 64, 1024} {
		b.Run(fmt.Sprintf("blocks=%d", blocks), func(b *testing.B) {
			l, cache := benchRig(b)
			bufs := make([]*buffer.Buffer, 4096)
			for i := range bufs {
				bufs[i] = read(b, cache, uint64(i))
			}
			b.SetBytes(int64(blocks) * 4096)
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				h, err := l.Begin(Credits{Blocks: blocks})
				if err != nil {
					b.Fatal(err)
				}
				for k := range blocks {
					if err := h.Modify(bufs[(i*blocks+k)%len(bufs)]); err != nil {
						b.Fatal(err)
					}
				}
				tid := h.TID()
				if err := h.End(); err != nil {
					b.Fatal(err)
				}
				if err := l.Commit(tid); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
