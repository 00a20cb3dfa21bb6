package journal

import (
	"errors"
	"fmt"
	"syscall"
)

// AbortError is what callers get after the journal has been aborted. It unwraps
// to EROFS for those who want to change something, and to EIO for those who
// wait for what they have changed.
type AbortError struct {
	Cause error
	errno syscall.Errno
}

func (e *AbortError) Error() string { return fmt.Sprintf("the journal was aborted: %v", e.Cause) }

// Unwrap returns the errno.
func (e *AbortError) Unwrap() error { return e.errno }

// abortErr is the error after an abort, or nil if there was none.
func (l *Log) abortErr(errno syscall.Errno) error {
	if cause := l.Err(); cause != nil {
		return &AbortError{Cause: cause, errno: errno}
	}
	return nil
}

// beginErr is the error of Begin after an abort or Close.
func (l *Log) beginErr() error {
	if err := l.abortErr(syscall.EROFS); err != nil {
		return err
	}
	return fmt.Errorf("the journal is closed: %w", syscall.EROFS)
}

// stop is the abort. The commit goroutine notes the cause on disk, since stop
// may be called with any lock held but mu.
func (l *Log) stop(cause error) {
	if cause == nil {
		cause = syscall.EIO
	}
	if l.stopped.CompareAndSwap(nil, &stopReason{cause: cause}) {
		l.mu.Lock()
		l.lost.Store(l.committing != nil || l.running.Load().armed.Load())
		l.mu.Unlock()
		close(l.dead)
		l.wakeAll()
	}
}

// Lost tells, after an abort, whether there was anything then that was not durable yet.
func (l *Log) Lost() bool { return l.lost.Load() }

// wakeAll wakes those who wait for room.
func (l *Log) wakeAll() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.room.Broadcast()
}

// Usable returns the error that Begin would fail with now because of an abort, Close
// or Freeze.
func (l *Log) Usable() error {
	switch {
	case l.stopped.Load() != nil:
		return l.beginErr()
	case l.frozen.Load():
		return ErrFrozen
	}
	return nil
}

// noteAbort notes the cause of an abort. It runs when nothing is committed any
// longer.
func (l *Log) noteAbort() {
	cause := l.Err()
	if cause == nil || errors.Is(cause, syscall.ESHUTDOWN) {
		return
	}
	if l.log != nil {
		l.noteErrno(cause)
	}
	if l.onAbort != nil {
		// The last batch on its way home may have the filesystem's superblock,
		// which is about to be written.
		l.homeMu.Lock()
		defer l.homeMu.Unlock()
		l.onAbort(cause)
	}
}

// noteErrno writes the cause of an abort into the journal's superblock. There is
// no point in looking whether that succeeds.
func (l *Log) noteErrno(cause error) {
	errno := syscall.EIO
	errors.As(cause, &errno)
	l.superMu.Lock()
	defer l.superMu.Unlock()
	l.super.Errno = -int32(errno)
	if l.writeSuper() == nil {
		_ = l.flushLog()
	}
}
