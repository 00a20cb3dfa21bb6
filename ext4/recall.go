package ext4

import (
	"errors"
	"sync"
	"sync/atomic"
	"syscall"

	"ext4box/iomap"
)

// A mapping that was handed out serves without anybody asking again, so that files go on being
// overwritten when the filesystem was shut down, or is read-only because of an error, or because another
// machine has taken it. So then all mappings are taken back, and none is handed out any more: whoever
// moves data has to ask each time, which fails for what would write, and for everything after a shutdown.
// What is on its way to the device by then gets there, as it would from any other filesystem.
//
// Where the filesystem was open for reading only, nothing can be overwritten, and nothing is done.

// mayHandOut tells whether mappings of an inode, which is locked, may be handed out. It notes that they
// are before it looks, so that recall does not miss what it lets through.
func (fs *FS) mayHandOut(ino Ino) bool {
	if fs.w == nil {
		return true
	}
	fs.w.holds.handOut(ino)
	return !fs.down.Load() && fs.w.log.Err() == nil
}

// recall takes back all mappings that were handed out, once mayHandOut lets no more of them through.
func (fs *FS) recall() {
	if fs.outside == nil {
		return
	}
	fs.recallEach(fs.recallInode)
}

// recallEach takes back all mappings, by what does so for one inode.
func (fs *FS) recallEach(recallInode func(ino Ino) error) {
	var failed error
	for _, ino := range fs.w.holds.handedOut() {
		if err := recallInode(ino); err != nil && !errors.Is(err, syscall.ESTALE) && !errors.Is(err, syscall.ENOENT) {
			failed = err // for the others it is no different, mostly
		}
	}
	if failed != nil {
		fs.log.Error("take back what the kernel knows of where data is", "error", failed)
	}
}

// recallInode waits for those who have the inode locked, who may be about to hand something out.
func (fs *FS) recallInode(ino Ino) error {
	if in := fs.nodes.Get(uint64(ino)); in != nil {
		defer in.put()
		in.mu.Lock()
		defer in.mu.Unlock()
	}
	return fs.dropAll(ino)
}

// strayed is how much of what is known of structures in strange places (see package syszone) was known when
// mappings were last taken back for that.
type strayed struct {
	seen atomic.Uint64
	mu   sync.Mutex // while they are taken back
}

// recallStrays comes between the first look at the descriptor of a group and the use of its structures. When
// these lie where a file may have blocks, a mapping may have been handed out that leads there. It
// is called with any lock held, so it does not wait for inodes; see MapOutside for who is about to hand out
// such a mapping now.
func (fs *FS) recallStrays() {
	if fs.outside == nil || fs.w == nil || fs.strayed.seen.Load() == fs.zones.Changes() {
		return
	}
	fs.strayed.mu.Lock()
	defer fs.strayed.mu.Unlock()
	if n := fs.zones.Changes(); n != fs.strayed.seen.Load() {
		fs.recallEach(fs.dropAll)
		fs.strayed.seen.Store(n)
	}
}

func (fs *FS) dropAll(ino Ino) error { return fs.outside.Drop(ino, 0, iomap.ToEOF) }
