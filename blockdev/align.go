package blockdev

import (
	"math/bits"
	"sync"
	"unsafe"
)

// BufferAlign is the address alignment in bytes of the buffers of a
// [BufferPool]. Direct I/O of every host we know is satisfied with it.
const BufferAlign = 4096

// The size classes of a BufferPool are the powers of two from the first to the
// last: the last holds a 1 MiB request together with its header.
const (
	minClassBits = 12
	maxClassBits = 21
	numClasses   = maxClassBits - minClassBits + 1
)

// MaxPooled is the size in bytes of the largest buffer that a [BufferPool]
// keeps.
const MaxPooled = 1 << maxClassBits

// AllocAligned returns n zeroed bytes whose address is a multiple of align,
// which must be a power of two. Length and capacity are n.
//
// It is not inlined because a buffer on a goroutine's stack moves.
//
//go:noinline
func AllocAligned(n, align int) []byte {
	if n >= align && n%align == 0 {
		// The allocator happens to align such sizes up to its own page size,
		// so most calls need no slack.
		if b := make([]byte, n); aligned(b, align) {
			return b
		}
	}
	b := make([]byte, n+align-1)
	skip := -int(uintptr(unsafe.Pointer(unsafe.SliceData(b)))) & (align - 1)
	return b[skip : skip+n : skip+n]
}

// aligned tells whether b starts at a multiple of align, a power of two.
func aligned(b []byte, align int) bool {
	return uintptr(unsafe.Pointer(unsafe.SliceData(b)))&uintptr(align-1) == 0
}

// BufferPool recycles buffers aligned to [BufferAlign]. The zero value is
// ready for use, by any number of goroutines. In steady state neither Get nor
// Put allocates.
type BufferPool struct {
	// The pools hold *byte, the first byte of a buffer of the class's size:
	// unlike a slice, a pointer fits into an interface without allocating.
	classes [numClasses]sync.Pool
}

// Get returns a buffer of length n with arbitrary content. A buffer of more
// than [MaxPooled] bytes is allocated afresh.
func (p *BufferPool) Get(n int) []byte {
	if n > MaxPooled {
		return AllocAligned(n, BufferAlign)
	}
	c := classOf(n)
	size := 1 << (minClassBits + c)
	if v := p.classes[c].Get(); v != nil {
		return unsafe.Slice(v.(*byte), size)[:n]
	}
	return AllocAligned(size, BufferAlign)[:n]
}

// Put gives back a buffer that Get returned; the caller must not use it any
// longer. The buffer may have been cut at its end, not at its start. Buffers
// that are of no class are left to the garbage collector.
func (p *BufferPool) Put(b []byte) {
	size := cap(b)
	if size < 1<<minClassBits || size > MaxPooled || size&(size-1) != 0 || !aligned(b, BufferAlign) {
		return
	}
	p.classes[classOf(size)].Put(unsafe.SliceData(b))
}

// classOf returns the index of the smallest class that holds n bytes.
func classOf(n int) int {
	if n <= 1<<minClassBits {
		return 0
	}
	return bits.Len(uint(n-1)) - minClassBits
}

// bounce is where all Files take their bounce buffers from.
var bounce BufferPool
