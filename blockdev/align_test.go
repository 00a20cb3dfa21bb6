package blockdev

import (
	"fmt"
	"testing"
)

func TestAllocAligned(t *testing.T) {
	for _, align := range []int{1, 8, 512, 4096, 65536, 1 << 20} {
		for _, n := range []int{1, 511, 512, 4096, 5000, 8192, 65536, 1 << 20} {
			b := AllocAligned(n, align)
			if len(b) != n || cap(b) != n || !aligned(b, align) {
				t.Errorf("AllocAligned(%d, %d): length %d, capacity %d, at %p", n, align, len(b), cap(b), b)
			}
		}
	}
}

func TestBufferPool(t *testing.T) {
	var p BufferPool
	for _, n := range []int{0, 1, 4095, 4096, 4097, 1<<20 + 4096, MaxPooled, MaxPooled + 1} {
		for range 3 {
			b := p.Get(n)
			if len(b) != n || !aligned(b, BufferAlign) {
				t.Fatalf("Get(%d): length %d, at %p", n, len(b), b)
			}
			for i := range b {
				b[i] = 1
			}
			p.Put(b[:n/2])
		}
	}
	p.Put(nil)
	p.Put(make([]byte, 100))
	p.Put(p.Get(8192)[1:])
	if b := p.Get(8192); len(b) != 8192 || !aligned(b, BufferAlign) {
		t.Error("a buffer that was cut at its start came back")
	}
	if raceEnabled {
		return
	}
	for _, n := range []int{1, 4096, 1 << 20, 1<<20 + 1} {
		if a := testing.AllocsPerRun(100, func() { p.Put(p.Get(n)) }); a != 0 {
			t.Errorf("Get(%d): %v allocations", n, a)
		}
	}
}

func BenchmarkBufferPool(b *testing.B) {
	for _, n := range []int{4096, 1 << 20} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.ReportAllocs()
			var p BufferPool
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					p.Put(p.Get(n))
				}
			})
		})
	}
}
