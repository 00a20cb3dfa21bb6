package ext4

import (
	"errors"
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
	var failed error
	for _, ino := range fs.w.holds.handedOut() {
		if err := fs.recallInode(ino); err != nil && !errors.Is(err, syscall.ESTALE) && !errors.Is(err, syscall.ENOENT) {
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
	return fs.outside.Drop(ino, 0, iomap.ToEOF)
}
