package ext4

import (
	"errors"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"ext4box/ext4/internal/extent"
	"ext4box/internal/spin"
	"ext4box/iomap"
)

// Each write into a hole costs whoever moves data outside a question, unless the
// last answer covers it. So a write that goes on where the one before it ended
// gets many times what it asks for.
//
// What was handed out comes back only when whoever moves data has let go of it for
// certain: when the file is truncated or punched out there, or nobody holds the inode
// any longer. To take a mapping out of the cache is not enough: a direct write that
// found it there before is on its way to the device, and nobody can tell. If the
// blocks were another file's by then it would write into that.
//
// So when space is short there is one thing to do: to ask for the inodes that nobody
// uses to be let go of. What is ahead in a file that is in use stays, and others have
// ENOSPC rather than that. How much that can be is bounded when it is handed out.

const (
	// streakGrowth is how many times the last one the next write of a streak gets.
	streakGrowth = 16
	// aheadMax is the most that it gets, in bytes. A group has no more where blocks are
	// of 4 KiB.
	aheadMax = 128 << 20
	// totalShare: all files together have no more ahead than this part of what is free.
	// One write gets at most half of what is left of that: the only file that grows an
	// eighth of what is free, the next one a sixteenth, and so on.
	totalShare = 4
	// aheadInodes bounds how many inodes have something ahead; when there are so many,
	// those that have not used it for aheadIdle are asked for, not more often than that.
	aheadInodes = 1024
	aheadIdle   = 5 * time.Second
	// askWait is how long an operation waits for what is asked for; forgetWait is how
	// long, without any coming back, is taken for the end of it.
	askWait    = time.Second
	forgetWait = 100 * time.Millisecond
)

// streak is what is known of writes into holes of a file that follow each other.
type streak struct {
	first, next uint64 // the blocks that the last one got
	blocks      uint64 // how many it should have got
}

// aheads is what is reserved ahead of writes, of all files.
type aheads struct {
	blocks atomic.Int64
	back   atomic.Uint64 // blocks that have come back, ahead or not, ever

	mu      spin.Mutex // a leaf
	inodes  map[*inode]aheadOf
	kept    int64         // blocks of those that are kept
	wait    map[Ino]int   // which somebody, who waits, is about to map, maybe with pages of it locked
	asking  chan struct{} // closed when what goes on is over; nil: nothing
	next    time.Time     // when there may be asked again because there are too many inodes
	refused bool          // nobody listens
	closed  bool
	wg      sync.WaitGroup
}

// aheadOf is what is ahead in one file.
type aheadOf struct {
	blocks int64
	at     time.Time // of the last change
	kept   bool      // it was asked for, in vain
}

// count notes that an inode, which is locked, has so many more blocks ahead.
func (a *aheads) count(in *inode, blocks int64) {
	a.blocks.Add(blocks)
	a.mu.Lock()
	defer a.mu.Unlock()
	of := a.inodes[in]
	if of.kept {
		a.kept += blocks
		if blocks > 0 { // it goes on
			a.kept -= of.blocks + blocks
			of.kept = false
		}
	}
	if of.blocks += blocks; of.blocks == 0 {
		delete(a.inodes, in)
		return
	}
	if a.inodes == nil {
		a.inodes = make(map[*inode]aheadOf)
	}
	of.at = time.Now()
	a.inodes[in] = of
}

// lost is how many of the blocks cannot be had by others, as far as that is known.
func (a *aheads) lost() int64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.refused {
		return a.blocks.Load()
	}
	return a.kept
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
		ahead = fs.spare(want - asked)
	}
	s.blocks = want
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

// spare is how many of so many blocks can be had ahead.
func (fs *FS) spare(blocks uint64) uint64 {
	others := uint64(fs.w.ahead.blocks.Load())
	free := fs.w.groups.Room(totalShare * (2*blocks + others))
	all := (free + others) / totalShare
	return min(blocks, (all-min(all, others))/2)
}

// askBack asks for what is reserved ahead of writes, waits for it, though not for
// long, and tells whether any has come back. It is called without locks. ino is the
// inode of which the caller is to map something, if it is; that is in use.
func (fs *FS) askBack(ino Ino) bool {
	if fs.w == nil || fs.outside == nil {
		return false
	}
	a := &fs.w.ahead
	a.await(ino, 1)
	defer a.await(ino, -1)
	before := a.back.Load()
	done := fs.ask(0)
	if done == nil {
		return false
	}
	timeout := time.NewTimer(askWait)
	defer timeout.Stop()
	select {
	case <-done:
	case <-timeout.C:
	}
	return a.back.Load() > before
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

// ask starts to ask for the inodes that have not used for so long what is ahead in
// them, unless that is going on, and returns what is closed when it is over. It
// returns nil if there is nothing to ask for.
func (fs *FS) ask(idle time.Duration) <-chan struct{} {
	a := &fs.w.ahead
	now := time.Now()
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.asking != nil:
		return a.asking
	case a.closed || a.refused || idle > 0 && now.Before(a.next):
		return nil
	case idle > 0:
		a.next = now.Add(aheadIdle)
	}
	var inodes []*inode
	var inos []Ino
	for in, of := range a.inodes {
		if a.wait[in.ino] == 0 && now.Sub(of.at) >= idle {
			inodes, inos = append(inodes, in), append(inos, in.ino)
		}
	}
	if len(inos) == 0 {
		return nil
	}
	done := make(chan struct{})
	a.asking = done
	a.wg.Go(func() {
		err := fs.outside.LetGo(inos)
		if err == nil {
			a.awaitForgets(inodes)
		}
		a.asked(inodes, err)
		close(done)
		if err != nil {
			fs.log.Info("files that nobody uses cannot be asked for the space that is reserved in them", "error", err)
		}
	})
	return done
}

// awaitForgets returns when nothing is ahead in any of the inodes, or no more is
// likely to come back.
func (a *aheads) awaitForgets(inodes []*inode) {
	const step = time.Millisecond
	back := a.back.Load()
	for waited := time.Duration(0); waited < forgetWait && a.any(inodes); waited += step {
		time.Sleep(step)
		if now := a.back.Load(); now != back {
			back, waited = now, 0
		}
	}
}

// any tells whether anything is ahead in any of the inodes.
func (a *aheads) any(inodes []*inode) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return false
	}
	for _, in := range inodes {
		if a.inodes[in].blocks > 0 {
			return true
		}
	}
	return false
}

// asked notes what has become of asking for inodes.
func (a *aheads) asked(inodes []*inode, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.asking = nil
	if err != nil {
		a.refused = a.refused || errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENOSYS) || errors.Is(err, syscall.EOPNOTSUPP)
		return
	}
	for _, in := range inodes {
		if of, ok := a.inodes[in]; ok && !of.kept {
			of.kept = true
			a.kept += of.blocks
			a.inodes[in] = of
		}
	}
}

// stop ends all asking, for good.
func (a *aheads) stop() {
	a.mu.Lock()
	a.closed = true
	a.mu.Unlock()
	a.wg.Wait()
}
