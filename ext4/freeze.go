package ext4

import (
	"errors"
	"sync"
	"syscall"

	"ext4box/ext4/internal/journal"
)

// freeze is whether the filesystem is frozen, and what has to wait for that to end.
type freeze struct {
	turn   sync.Mutex // of Freeze and Thaw
	frozen bool       // guarded by turn
	clean  bool       // the superblock says so; guarded by turn

	mu     sync.Mutex // a leaf
	defers bool       // reapings go to later
	later  []Ino
}

// on tells whether the filesystem is, or is about to be, frozen.
func (f *freeze) on() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.defers
}

// start has reapings deferred.
func (f *freeze) start() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.defers = true
}

// stop ends that, and returns which there are.
func (f *freeze) stop() []Ino {
	f.mu.Lock()
	defer f.mu.Unlock()
	inos := f.later
	f.later, f.defers = nil, false
	return inos
}

// postpone defers a reaping, if that is what is done at present.
func (f *freeze) postpone(ino Ino) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.defers {
		f.later = append(f.later, ino)
	}
	return f.defers
}

// Freeze returns when everything that was done before is at home and durable; from
// then on the image is what it would be after Close, for whoever copies the device,
// and stays so until Thaw. It is marked clean, unless unlinked says that there are
// inodes without a name that somebody has open, or the filesystem knows of some: who
// opens the copy deletes them, for which it must not be taken for clean.
//
// Reading goes on. What would change something fails with EBUSY: to wait here could
// keep the one from coming through who is to thaw. So whoever freezes sees to it that
// nobody tries, as the kernel does. Access times, errors to be recorded, deletions
// that became due and discards are seen to after Thaw. Multiple mount protection
// goes on, for others must not take the filesystem for abandoned; its block is the only
// one that changes.
//
// EBUSY: it is frozen. A filesystem that is open for reading always is.
func (fs *FS) Freeze(unlinked uint64) error {
	if fs.w == nil {
		return nil
	}
	w := fs.w
	f := &w.freeze
	f.turn.Lock()
	defer f.turn.Unlock()
	if err := w.log.Usable(); err != nil {
		return err
	}
	err := fs.storeTimes()
	f.start()
	w.discards.pause()
	f.frozen = true
	if err == nil {
		err = w.log.Freeze()
	}
	if err == nil && unlinked == 0 && w.orphans.empty() && w.orphanFile.empty() {
		err = fs.markClean()
		f.clean = err == nil
	}
	if err != nil {
		return errors.Join(err, fs.thawLocked())
	}
	return nil
}

// Thaw ends what Freeze began. EINVAL: the filesystem is not frozen.
func (fs *FS) Thaw() error {
	if fs.w == nil {
		return nil
	}
	f := &fs.w.freeze
	f.turn.Lock()
	defer f.turn.Unlock()
	if !f.frozen {
		return syscall.EINVAL
	}
	return fs.thawLocked()
}

// thaw is Thaw of a filesystem that need not be frozen.
func (fs *FS) thaw() error {
	f := &fs.w.freeze
	f.turn.Lock()
	defer f.turn.Unlock()
	if !f.frozen {
		return nil
	}
	return fs.thawLocked()
}

// thawLocked is Thaw with f.turn locked. The superblock says that the filesystem is in
// use before anything else does; if it cannot, nothing may be written any longer.
func (fs *FS) thawLocked() error {
	w := fs.w
	f := &w.freeze
	var err error
	if f.clean && w.log.Err() == nil {
		if err = fs.writeSuper(fs.noteInUse); err != nil {
			w.log.Abort(err)
		}
	}
	f.frozen, f.clean = false, false
	w.log.Thaw()
	w.discards.resume()
	for _, ino := range f.stop() {
		if !w.holds.held(ino) {
			err = errors.Join(err, fs.reap(ino))
		}
	}
	w.damage.resume(fs)
	return err
}

// reapOnceThawed is reap, now or, if the filesystem is frozen, later.
func (fs *FS) reapOnceThawed(ino Ino) error {
	for {
		err := fs.reap(ino)
		if !errors.Is(err, journal.ErrFrozen) {
			return err
		}
		if fs.w.freeze.postpone(ino) {
			return nil
		}
	}
}
