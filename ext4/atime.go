package ext4

import (
	"errors"
	"maps"
	"slices"
	"sync"
	"syscall"
	"time"

	"ext4box/ext4/internal/disk"
	"ext4box/ext4/internal/journal"
	"ext4box/internal/spin"
)

// AtimeMode says when an access changes the access time; see mount(8).
type AtimeMode uint8

// The values of AtimeMode.
const (
	AtimeRelative AtimeMode = iota // if it is not behind the other times, or a day old
	AtimeStrict                    // always
	AtimeNever
)

const (
	// lazyInterval is how long access times may stay in memory with LazyTime, as
	// by the kernel's default.
	lazyInterval = 12 * time.Hour

	// maxAccessed bounds the inodes that are kept in memory for their access times.
	maxAccessed = 1024
)

// accessTimes are the inodes, in use, whose access time on disk is outdated. No
// read makes a transaction: the times are written together after a while, or
// with whatever else changes the inode.
type accessTimes struct {
	mu     spin.Mutex // a leaf
	inodes map[Ino]*inode
	timer  *time.Timer // set while there are any
	closed bool
	writes sync.WaitGroup
}

// Accessed notes that somebody read a file, listed a directory or read a link, if
// the options and the inode's flags let that change its access time. The reading
// methods themselves leave it alone.
func (fs *FS) Accessed(ino Ino) {
	if fs.w == nil || fs.opts.Atime == AtimeNever || fs.w.log.Usable() != nil {
		return
	}
	in, err := fs.rlock(ino)
	if err != nil {
		return
	}
	now := fs.timestamp(fs.Now())
	old := fs.atimeOld(in, now)
	in.mu.RUnlock()
	added := false
	if old {
		in.mu.Lock()
		if !in.deleted && fs.atimeOld(in, now) {
			in.Atime = now
			added = !in.accessed
			in.accessed = true
		}
		in.mu.Unlock()
	}
	if !added || !fs.w.times.add(fs, in) {
		in.put()
	}
}

// atimeOld tells whether an access now changes the access time. The inode is
// locked.
func (fs *FS) atimeOld(in *inode, now disk.Timestamp) bool {
	switch {
	case in.Flags&disk.FlagNoatime != 0, fs.opts.NoDirAtime && in.IsDir(), in.Atime == now:
		return false
	case fs.opts.Atime == AtimeStrict:
		return true
	}
	return !in.Mtime.Before(in.Atime) || !in.Ctime.Before(in.Atime) || now.Sec-in.Atime.Sec >= 24*60*60
}

// add remembers an inode, and takes over the caller's use of it; unless it is
// remembered already.
func (a *accessTimes) add(fs *FS, in *inode) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed || a.inodes[in.ino] != nil {
		return false
	}
	if a.inodes == nil {
		a.inodes = make(map[Ino]*inode)
	}
	a.inodes[in.ino] = in
	wait := fs.opts.CommitInterval
	switch {
	case len(a.inodes) >= maxAccessed:
		wait = 0
	case fs.opts.LazyTime:
		wait = lazyInterval
	case wait <= 0:
		wait = journal.DefaultInterval
	}
	if wait == 0 && fs.w.freeze.on() {
		wait = journal.DefaultInterval
	}
	if a.timer == nil {
		a.writes.Add(1)
		a.timer = time.AfterFunc(wait, func() {
			defer a.writes.Done()
			fs.logTimes(fs.storeTimes())
		})
	} else if wait == 0 && a.timer.Stop() {
		a.timer.Reset(0)
	}
	return true
}

func (fs *FS) logTimes(err error) {
	if err != nil && !errors.Is(err, syscall.EROFS) {
		fs.log.Warn("store access times", "error", err)
	}
}

// take returns the inodes, which are the caller's to put.
func (a *accessTimes) take() map[Ino]*inode {
	a.mu.Lock()
	defer a.mu.Unlock()
	inodes := a.inodes
	a.inodes = nil
	if a.timer != nil && a.timer.Stop() {
		a.writes.Done()
	}
	a.timer = nil
	return inodes
}

// stop ends the writing by time. What is in memory stays there.
func (a *accessTimes) stop() {
	a.mu.Lock()
	a.closed = true
	a.mu.Unlock()
}

// storeTimes brings all access times that are only in memory into transactions.
func (fs *FS) storeTimes() error {
	inodes := fs.w.times.take()
	var err error
	for _, ino := range slices.Sorted(maps.Keys(inodes)) {
		in := inodes[ino]
		if err == nil {
			err = fs.storeTime(in)
		}
		if errors.Is(err, journal.ErrFrozen) {
			if err = nil; fs.w.times.add(fs, in) {
				continue // until later
			}
		}
		in.put()
	}
	return err
}

// storeTime is storeTimes for one inode.
func (fs *FS) storeTime(in *inode) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	if !in.accessed || in.deleted {
		return nil
	}
	return fs.transact(1, 0, func(tx *journal.Handle) error { return fs.store(tx, in) })
}

// closeTimes is for when the filesystem is closed.
func (fs *FS) closeTimes() {
	fs.w.times.stop()
	fs.logTimes(fs.storeTimes())
	fs.w.times.writes.Wait()
}
