package balloc

import "ext4box/internal/spin"

// Prealloc is the window of pending blocks behind the last allocation of one
// inode. The zero value is an empty one; it must not be copied. Reserve is
// called with the inode locked; the window can be taken away at any time when
// space runs out.
type Prealloc struct {
	mu   spin.Mutex
	run  Run    // the window; Len 0 when there is none
	next uint32 // clusters of the next window

	// Links of the list of windows, guarded by its lock.
	prev, succ *Prealloc
	listed     bool
}

const (
	// windowBytes bounds a window.
	windowBytes = 8 << 20
	// windowFirst is how many times what is asked for the first window has.
	windowFirst = 4
	// windowShare: a window never takes more than this part of what is free.
	windowShare = 64
)

// Reserve is like [Groups.Reserve], for the inode that owns p. Requests with
// Append take from the window if it starts at their goal, and leave a new one
// behind otherwise; others pass p by.
func (p *Prealloc) Reserve(gs *Groups, r Request) (Run, error) {
	if !r.Append {
		return gs.Reserve(r)
	}
	p.mu.Lock()
	if w := p.run; w.Len > 0 && w.Start == r.Goal && w.Len >= r.Min {
		n := min(gs.toClusters(r.Want)<<gs.ratio, w.Len)
		p.run = Run{w.Start + uint64(n), w.Len - n}
		if p.run.Len == 0 {
			gs.windows.remove(p)
		}
		p.mu.Unlock()
		return Run{w.Start, n}, nil
	}
	want := gs.toClusters(r.Want)
	extra := p.grow(gs, want)
	p.mu.Unlock()
	p.release(gs)

	asked := r
	asked.Want = uint32(min(uint64(want+extra)<<gs.ratio, uint64(gs.Geo.BlocksPerGroup)))
	run, err := gs.Reserve(asked)
	if n := want << gs.ratio; err == nil && run.Len > n {
		p.mu.Lock()
		p.run = Run{run.Start + uint64(n), run.Len - n}
		gs.windows.insert(p)
		p.mu.Unlock()
		run.Len = n
	}
	return run, err
}

// grow decides the size of the next window: twice the one before, so that a
// file gets long runs when it is long.
func (p *Prealloc) grow(gs *Groups, want uint32) uint32 {
	limit := uint32(max(windowBytes>>gs.Geo.BlockBits>>gs.ratio, 1))
	if p.next == 0 {
		p.next = want * min(windowFirst, limit)
	}
	n := min(p.next, limit, gs.Geo.ClustersPerGroup)
	p.next = min(2*n, limit)
	// An error here is one that Reserve will find again.
	room, _ := gs.room(int64(n)*windowShare, gs.floor(false, false))
	return uint32(min(uint64(n), positive(room)/windowShare))
}

// Discard gives the window back: when the inode is closed or truncated, or
// leaves memory.
func (p *Prealloc) Discard(gs *Groups) {
	p.mu.Lock()
	p.next = 0
	p.mu.Unlock()
	p.release(gs)
}

// release gives the window back and tells whether there was one.
func (p *Prealloc) release(gs *Groups) bool {
	p.mu.Lock()
	w := p.run
	p.run = Run{}
	gs.windows.remove(p)
	p.mu.Unlock()
	if w.Len == 0 {
		return false
	}
	return gs.Release(w) == nil
}

// windowList is the list of all windows that are not empty, so that they can be
// taken away. Its lock comes after Prealloc.mu.
type windowList struct {
	mu   spin.Mutex
	head *Prealloc
}

func (l *windowList) insert(p *Prealloc) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if p.listed {
		return
	}
	p.listed, p.prev, p.succ = true, nil, l.head
	if l.head != nil {
		l.head.prev = p
	}
	l.head = p
}

func (l *windowList) remove(p *Prealloc) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.unlink(p)
}

func (l *windowList) unlink(p *Prealloc) {
	if !p.listed {
		return
	}
	if p.prev != nil {
		p.prev.succ = p.succ
	} else {
		l.head = p.succ
	}
	if p.succ != nil {
		p.succ.prev = p.prev
	}
	p.listed, p.prev, p.succ = false, nil, nil
}

// pop takes a window off the list.
func (l *windowList) pop() *Prealloc {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.head
	if p != nil {
		l.unlink(p)
	}
	return p
}

// discardWindows takes all windows away and tells whether that gave space back.
func (gs *Groups) discardWindows() bool {
	any := false
	for p := gs.windows.pop(); p != nil; p = gs.windows.pop() {
		any = p.release(gs) || any
	}
	return any
}
