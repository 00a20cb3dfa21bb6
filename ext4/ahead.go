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
// cache, stays until the file is truncated or let go. It may also use what the
// cache has from others, for which nobody asks; so once something was written that
// way to a file, all of its blocks stay. (The first such write, if it is under way
// just then, is one that nobody can know of.)

const (
	// streakGrowth is how many times the last one the next write of a streak gets.
	streakGrowth = 16
	// aheadMax is the most that it gets, in bytes. A group has no more where blocks are
	// of 4 KiB.
	aheadMax = 128 << 20
	// aheadShare: what one write gets ahead is at most this part of what is free,
	// or, if it cannot be asked back, unseenShare. All together get no more than
	// totalShare.
	aheadShare  = 8
	unseenShare = 16
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
	first, next uint64 // the blocks that the last one got
	blocks      uint64 // how many it should have got
	at          time.Time
}

// aheads is what is reserved ahead of writes, of all files.
type aheads struct {
	blocks atomic.Int64

	mu     sync.Mutex // a leaf
	inodes map[*inode]struct{}
	wait   map[Ino]int // whose mappings somebody waits for, who may have locked pages of it
	asking *asking     // what goes on; nil: nothing
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
	want := asked
	if s.blocks > 0 && s.next == hole.Block {
		want = max(asked, min(streakGrowth*s.blocks, aheadMax>>fs.geo.BlockBits, hole.Len))
		fs.askPending(in, s.first, s.next) // else it would not be here
	}
	if want > asked && fs.mayGoAhead(op) {
		ahead = fs.spare(want-asked, in.stays() || op&iomap.Direct != 0)
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

// askBack asks for what is reserved ahead of writes, waits until something comes
// back, though not for long, and tells whether it did. The caller may have inodes
// locked: nobody waits for these. ino is the one of which it is to map something, if
// it is; pages of that may be locked until it is done.
func (fs *FS) askBack(ino Ino) bool {
	if fs.w == nil || fs.outside == nil {
		return false
	}
	a := &fs.w.ahead
	a.await(ino, 1)
	defer a.await(ino, -1)
	r := fs.ask(0)
	if r == nil {
		return false
	}
	const step = time.Millisecond
	before := r.blocks.Load()
	for waited := time.Duration(0); waited < askWait; waited += step {
		select {
		case <-r.done:
			return r.blocks.Load() > 0
		case <-time.After(step):
			if r.blocks.Load() > before {
				return true
			}
		}
	}
	return false
}

func (a *aheads) await(ino Ino, n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.wait == nil {
		a.wait = make(map[Ino]int)
	}
	if a.wait[ino] += n; a.wait[ino] == 0 {
		delete(a.wait, ino)
	}
}

func (a *aheads) awaited(in *inode) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.wait[in.ino] > 0
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
		var last []*inode
		for _, in := range inodes {
			if a.awaited(in) {
				last = append(last, in)
				continue
			}
			r.blocks.Add(fs.giveBack(in, idle))
			in.put()
		}
		for _, in := range last {
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

// giveBack gives back what is ahead of the writes to an inode, has been so for some
// time, and turns out to be needed by nobody, and tells how many blocks that is.
func (fs *FS) giveBack(in *inode, idle time.Duration) (blocks uint64) {
	if !in.lockSoon() {
		return 0
	}
	defer in.mu.Unlock()
	if in.deleted || in.aheadBlocks == 0 || time.Since(in.streak.at) < idle {
		return 0
	}
	in.streak = streak{}
	// What is dirty needs mappings to be written, which are of whole runs and in the
	// cache then. So the second time there is nothing dirty.
	for range 2 {
		if in.aheadBlocks == 0 || in.stays() {
			break
		}
		n, err := fs.giveBackUnused(in)
		if blocks += n; err != nil {
			break
		}
	}
	return blocks
}

// giveBackUnused unlocks the inode while what is dirty is written.
func (fs *FS) giveBackUnused(in *inode) (blocks uint64, err error) {
	first, last := in.pending[0], in.pending[len(in.pending)-1]
	lo, hi := first.Block<<fs.geo.BlockBits, last.End()<<fs.geo.BlockBits
	if err := fs.outside.Drop(in.ino, lo, hi-lo); err != nil {
		return 0, err
	}
	in.idle = nil
	for _, p := range in.pending {
		if p.ahead {
			in.idle = append(in.idle, p.Run)
		}
	}
	in.mu.Unlock()
	err = fs.outside.WriteBack(in.ino)
	in.mu.Lock()
	runs := in.idle
	in.idle = nil
	if err != nil || in.stays() {
		return 0, err
	}
	for _, run := range runs {
		blocks += fs.dropPending(in, run.Block, run.End())
	}
	return blocks, nil
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

// stays tells whether what is ahead of the writes to an inode cannot be asked back.
func (in *inode) stays() bool { return in.unseen || in.direct.Load() }

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
