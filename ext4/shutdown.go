package ext4

import (
	"fmt"
	"syscall"
)

// errShutdown is what everything but Close answers after Shutdown.
var errShutdown = fmt.Errorf("the filesystem was shut down; unmount it: %w", syscall.EIO)

// Shutdown ends all access to files: from now on every operation on an inode fails
// with EIO, and Close writes nothing any more, so that the next mount has to
// recover. With flush, everything that was done before the call is made durable
// first; without, what no commit has made durable is lost, as in a crash.
//
// Where data is moved outside, mappings are taken back first; see recall.go.
//
// It is for machines that are about to lose the device, and for tests.
func (fs *FS) Shutdown(flush bool) error {
	if flush {
		if err := fs.Sync(); err != nil {
			return err
		}
	}
	if !fs.down.CompareAndSwap(false, true) {
		return nil
	}
	fs.log.Warn("the filesystem was shut down", "flushed", flush)
	if fs.w != nil {
		fs.w.log.Abort(syscall.ESHUTDOWN)
		fs.recall()
	}
	return nil
}
