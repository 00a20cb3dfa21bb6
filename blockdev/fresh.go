package blockdev

import (
	"cmp"
	"slices"
	"sync"

	"ext4box/internal/spin"
)

// The host finds space for an image file for one write at a time, and lets no other write of the file begin
// before the data is there. So what is to be written in small pieces to blocks that were not in use, which are
// mostly holes of the file, goes together with its neighbours: those that are given out one after the other
// are neighbours, whatever file they are for, and of sixteen that come at once fifteen are one request to the
// host. What has no neighbours goes its own way: the host may have space there already.
const (
	freshMost     = 256 << 10 // bytes; what is longer goes alone, for waiting would cost more than it saves
	freshNear     = 1 << 20   // bytes; what is no further from something that waits is likely to become its neighbour
	freshTogether = 64        // writes in one request
	freshApart    = 4         // requests at a time, if they are not near each other
)

// fresh are the writes of [File.WriteNew]. The stripes of those that wait are held.
type fresh struct {
	mu      spin.Mutex
	writing int
	waiting []*freshWrite // by their places
	came    uint64        // how many have waited
}

// freshWrite is a write that waits.
type freshWrite struct {
	p    []byte
	pos  int64
	came uint64        // before it
	turn spin.Event    // when it is to write what is in with, or is done
	with []*freshWrite // itself and its neighbours, in order
	vec  [][]byte      // what these write
	done bool
}

var freshWrites = sync.Pool{New: func() any { return new(freshWrite) }}

func (w *freshWrite) end() int64 { return w.pos + int64(len(w.p)) }

// WriteNew is WriteAt for blocks that nobody has written to since they were free. It is
// faster where several are under way.
func (f *File) WriteNew(p []byte, off int64) (int, error) {
	if f.block || f.ioAlign == 1 || len(p) > freshMost || !f.fits(p, f.base+off) {
		return f.WriteAt(p, off)
	}
	return f.writeUnits(p, off, (*File).writeNew)
}

func (f *File) writeNew(p []byte, pos int64) (int, error) {
	q := &f.fresh
	q.mu.Lock()
	if q.writing == 0 || q.writing < freshApart && !q.near(pos) {
		q.writing++
		q.mu.Unlock()
		defer q.next()
		return f.pwriteFull(p, pos)
	}
	w := freshWrites.Get().(*freshWrite)
	w.p, w.pos, w.came, w.done = p, pos, q.came, false
	q.came++
	q.waiting = slices.Insert(q.waiting, q.place(pos), w)
	q.mu.Unlock()
	w.turn.Wait()
	if len(w.with) > 0 {
		f.writeTogether(w)
	}
	done := w.done
	w.p = nil
	freshWrites.Put(w)
	if !done {
		return f.pwriteFull(p, pos) // which finds out what is wrong
	}
	return len(p), nil
}

// place is where in the list a write at pos belongs.
func (q *fresh) place(pos int64) int {
	i, _ := slices.BinarySearchFunc(q.waiting, pos, func(w *freshWrite, pos int64) int { return cmp.Compare(w.pos, pos) })
	return i
}

// near tells whether to wait for neighbours: when there may be some, or nothing waits yet.
func (q *fresh) near(pos int64) bool {
	i := q.place(pos)
	return len(q.waiting) == 0 || i > 0 && pos-q.waiting[i-1].pos <= freshNear || i < len(q.waiting) && q.waiting[i].pos-pos <= freshNear
}

// writeTogether writes what w and its neighbours have.
func (f *File) writeTogether(w *freshWrite) {
	size := 0
	for _, o := range w.with {
		w.vec = append(w.vec, o.p)
		size += len(o.p)
	}
	n, err := f.h.pwritev(w.vec, w.with[0].pos)
	f.fresh.next()
	for _, o := range w.with {
		o.done = err == nil && n == size
		if o != w {
			o.turn.Happen()
		}
	}
	clear(w.vec)
	clear(w.with)
	w.vec, w.with = w.vec[:0], w.with[:0]
}

// next ends a request: what has waited longest goes on, with its neighbours.
func (q *fresh) next() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.waiting) == 0 {
		q.writing--
		return
	}
	first := slices.MinFunc(q.waiting, func(a, b *freshWrite) int { return cmp.Compare(a.came, b.came) })
	i := slices.Index(q.waiting, first)
	j := i + 1
	for i > 0 && j-i < freshTogether && q.waiting[i-1].end() == q.waiting[i].pos {
		i--
	}
	for j < len(q.waiting) && j-i < freshTogether && q.waiting[j-1].end() == q.waiting[j].pos {
		j++
	}
	first.with = append(first.with, q.waiting[i:j]...)
	q.waiting = slices.Delete(q.waiting, i, j)
	first.turn.Happen()
}
