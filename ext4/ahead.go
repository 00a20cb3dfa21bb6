package ext4

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"ext4box/ext4/internal/extent"
	"ext4box/iomap"
)

// Each write into a hole costs whoever moves data outside a question, unless the
// last answer covers it. So a write that goes on where the one before it ended
// gets many times what it asks for. What nobody has asked for counts as free, and
// is given back: when a file is truncated or let go, and when space is short.
//
// For the latter it must be sure that nobody is about to write there. The
// mappings are taken out of the cache; then, without locks, what is dirty is
// written, and so becomes a part of the file; and what nobody has asked for in
// the meantime is nobody's. What writes past the page cache may be on its way all
// the time and is not seen by that: what was handed out for it, or around the
// cache, stays until the file is truncated or let go.

const (
	// streakGrowth is how many times the last one the next write of a streak gets.
	streakGrowth = 16
	// aheadShare: what one write gets ahead is at most this part of what is free,
	// or, if it cannot be asked back, unseenShare. All together get no more than
	// totalShare.
	aheadShare  = 8
	unseenShare = 64
	totalShare  = 4
	// aheadInodes bounds how many inodes have something ahead; beyond it, what has
	// been of no use for aheadIdle is asked back.
	aheadInodes = 1024
	aheadIdle   = 30 * time.Second
	// askWait is how long an operation waits for what is asked back.
	askWait = time.Second
)

// streak is what is known of writes into holes of a file that follow each other.
type streak struct {
	next   uint64 // the block behind what the last one got
	blocks uint64 // how many it got, or should have
	at     time.Time
}

// aheads is what is reserved ahead of writes, of all files.
type aheads struct {
	blocks atomic.Int64

	mu     sync.Mutex // a leaf
	inodes map[*inode]struct{}
	asking *asking // what goes on; nil: nothing
	closed bool
	wg     sync.WaitGroup
}

// asking is one round of asking back.
type asking struct {
	done   chan struct{}
	blocks atomic.Uint64 // that have come back
}

// count notes that an inode, which is locked, has so many more blocks ahead.
func (a *aheads) count(in *inode, blocks int64) {
	a.blocks.Add(blocks)
	a.mu.Lock()
	defer a.mu.Unlock()
	if in.aheadBlocks == 0 {
		delete(a.inodes, in)
		return
	}
	if a.inodes == nil {
		a.inodes = make(map[*inode]struct{})
	}
	a.inodes[in] = struct{}{}
}

// ahead is how many blocks beyond those asked for a write gets at the start of a
// hole.
func (fs *FS) ahead(in *inode, hole extent.Run, asked uint64, op iomap.Op) (ahead uint64) {
	s := &in.streak
	goesOn := s.blocks > 0 && s.next == hole.Block
	want := asked
	if goesOn {
		want = max(asked, min(streakGrowth*s.blocks, extentMax, hole.Len))
	}
	if want > asked && fs.mayGoAhead(op) {
		ahead = fs.spare(want-asked, in.unseen || op&iomap.Direct != 0)
	}
	s.blocks, s.at = want, time.Now()
	return ahead
}

// mayGoAhead tells whether an operation may get more than it asks for. Limits of
// quota count all that is reserved.
func (fs *FS) mayGoAhead(op iomap.Op) bool {
	if fs.outside == nil || fs.w.enforcing || op&(iomap.Atomic|iomap.Writeback) != 0 {
		return false
	}
	a := &fs.w.ahead
	a.mu.Lock()
	full := len(a.inodes) >= aheadInodes
	a.mu.Unlock()
	if full {
		fs.ask(aheadIdle)
	}
	return !full
}

// spare is how many of so many blocks can be had ahead. unseen: they cannot be
// asked back.
func (fs *FS) spare(blocks uint64, unseen bool) uint64 {
	share := uint64(aheadShare)
	if unseen {
		share = unseenShare
	}
	others := uint64(fs.w.ahead.blocks.Load())
	free := fs.w.groups.Room(share*blocks + totalShare*others)
	blocks = min(blocks, free/share)
	all := (free + others) / totalShare
	return min(blocks, all-min(all, others))
}

// askBack asks for what is reserved ahead of writes, waits for it, though not for
// long, and tells whether something came back. What the caller has locked is left
// alone; as others write meanwhile, it may not have anything that they need for
// that but inodes.
func (fs *FS) askBack() bool {
	if fs.w == nil || fs.outside == nil {
		return false
	}
	r := fs.ask(0)
	if r == nil {
		return false
	}
	select {
	case <-r.done:
	case <-time.After(askWait):
	}
	return r.blocks.Load() > 0
}

// ask starts to ask back what has been of no use for so long, unless that is going
// on. It returns nil if there is nothing to ask for.
func (fs *FS) ask(idle time.Duration) *asking {
	a := &fs.w.ahead
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.asking != nil || len(a.inodes) == 0 || a.closed {
		return a.asking
	}
	r := &asking{done: make(chan struct{})}
	a.asking = r
	var inodes []*inode
	for in := range a.inodes {
		in.refs.Add(1)
		inodes = append(inodes, in)
	}
	a.wg.Go(func() {
		for _, in := range inodes {
			r.blocks.Add(fs.giveBack(in, idle))
			in.put()
		}
		a.mu.Lock()
		a.asking = nil
		a.mu.Unlock()
		close(r.done)
	})
	return r
}

// giveBack gives back what is pending of an inode, has been so for some time, and
// turns out to be needed by nobody.
func (fs *FS) giveBack(in *inode, idle time.Duration) (blocks uint64) {
	if !in.lockSoon() {
		return 0
	}
	if in.unseen || in.deleted || in.aheadBlocks == 0 || time.Since(in.streak.at) < idle {
		in.mu.Unlock()
		return 0
	}
	first, last := in.pending[0], in.pending[len(in.pending)-1]
	lo, hi := first.Block<<fs.geo.BlockBits, last.End()<<fs.geo.BlockBits
	err := fs.outside.Drop(in.ino, lo, hi-lo)
	if err == nil {
		in.idle = nil
		for _, p := range in.pending {
			in.idle = append(in.idle, p.Run)
		}
	}
	in.mu.Unlock()
	if err == nil {
		err = fs.outside.WriteBack(in.ino)
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	runs := in.idle
	in.idle = nil
	if err != nil || in.unseen {
		return 0
	}
	for _, run := range runs {
		blocks += fs.dropPending(in, run.Block, run.End())
	}
	in.streak = streak{}
	return blocks
}

// lockSoon locks an inode unless that takes long: whoever has locked it may be
// waiting for the result.
func (in *inode) lockSoon() bool {
	for range 20 {
		if in.mu.TryLock() {
			return true
		}
		time.Sleep(time.Millisecond)
	}
	return false
}

// stop ends all asking, for good.
func (a *aheads) stop() {
	a.mu.Lock()
	a.closed = true
	a.mu.Unlock()
	a.wg.Wait()
}

// cutRuns takes the blocks [lo, hi) out of a list.
func cutRuns(list []extent.Run, lo, hi uint64) []extent.Run {
	if len(list) == 0 {
		return nil
	}
	rest := make([]extent.Run, 0, len(list)+1)
	for _, r := range list {
		if r.End() <= lo || r.Block >= hi {
			rest = append(rest, r)
			continue
		}
		if r.Block < lo {
			left := r
			left.Clip(r.Block, lo)
			rest = append(rest, left)
		}
		if r.End() > hi {
			r.Clip(hi, r.End())
			rest = append(rest, r)
		}
	}
	return slices.Clip(rest)
}
