package fuse

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// noReclaim binds the goroutine to its thread for good and keeps the kernel from writing back files of
// this very mount while it looks for memory for that thread: it would wait for a request that nobody
// may be left to handle. When the goroutine ends, the thread does, and the mark with it.
//
// A kernel with fuse-iomap sets the mark for the asking. Where it does not, the more general one will
// do that takes CAP_SYS_RESOURCE; and without either the server goes on, as it does without
// fuse-iomap.
func (p *readers) noReclaim() {
	runtime.LockOSThread()
	on := uint32(1)
	_, err := p.s.control("keep memory reclaim out", DevIocSetNofs, raw(&on))
	if err == nil || unix.Prctl(unix.PR_SET_IO_FLUSHER, 1, 0, 0, 0) == nil {
		return
	}
	p.reclaim.Do(func() {
		p.s.log.Warn("memory reclaim may have to wait for this server", "error", err)
	})
}

// WithoutReclaim calls start, which starts a process, so that the mark that noReclaim puts on single threads
// is on all of them there, also those that commit and write back metadata, from the beginning. It takes
// CAP_SYS_RESOURCE; without it the process is started all the same.
func WithoutReclaim(start func() error) error {
	runtime.LockOSThread() // a process inherits it from the thread that starts it
	defer runtime.UnlockOSThread()
	if unix.Prctl(unix.PR_SET_IO_FLUSHER, 1, 0, 0, 0) == nil {
		defer func() { _ = unix.Prctl(unix.PR_SET_IO_FLUSHER, 0, 0, 0, 0) }()
	}
	return start()
}
