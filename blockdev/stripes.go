package blockdev

import "sync"

const (
	// stripeBits makes a stripe cover 1 MiB of the device, so that the largest
	// usual request takes one or two of them.
	stripeBits = 20
	numStripes = 64
)

// stripes is a range lock: a fixed number of reader-writer locks dealt out over
// the device in turn. Ranges that do not overlap may share a stripe; that costs
// time, never correctness.
//
// Writes of whole sectors hold their range shared: the device orders them among
// themselves. A read-modify-write holds it exclusively, or it would write back
// what it read before another write to the same sector.
type stripes [numStripes]struct {
	sync.RWMutex
	_ [40]byte // one stripe per cache line
}

// span is the set of stripes of one range: count of them, from first, wrapping.
type span struct{ first, count int }

func spanOf(off int64, n int) span {
	lo, hi := off>>stripeBits, (off+int64(n)-1)>>stripeBits
	if hi-lo >= numStripes-1 {
		return span{0, numStripes}
	}
	return span{int(lo % numStripes), int(hi-lo) + 1}
}

// each calls fn for the stripes of s in ascending order, which is the lock
// order.
func (s span) each(fn func(i int)) {
	wrapped := max(0, s.first+s.count-numStripes)
	for i := range wrapped {
		fn(i)
	}
	for i := s.first; i < min(s.first+s.count, numStripes); i++ {
		fn(i)
	}
}

func (l *stripes) lock(s span)    { s.each(func(i int) { l[i].Lock() }) }
func (l *stripes) unlock(s span)  { s.each(func(i int) { l[i].Unlock() }) }
func (l *stripes) rlock(s span)   { s.each(func(i int) { l[i].RLock() }) }
func (l *stripes) runlock(s span) { s.each(func(i int) { l[i].RUnlock() }) }
