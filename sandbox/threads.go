package sandbox

import (
	"errors"
	"syscall"

	"golang.org/x/sys/unix"
)

// errCgo says why not all threads could be reached.
var errCgo = errors.New("this program was built with cgo, which keeps Go from reaching all of its threads; build it with CGO_ENABLED=0")

// reachThreads says whether allThreads reaches them.
func reachThreads() error {
	if _, _, errno := syscall.AllThreadsSyscall(unix.SYS_GETPPID, 0, 0, 0); errno != 0 {
		return errCgo
	}
	return nil
}

// allThreads makes a system call on every thread or, in a program with cgo, on that of the
// caller.
func allThreads(trap uintptr, args ...uintptr) error {
	var a [6]uintptr
	copy(a[:], args)
	_, _, errno := syscall.AllThreadsSyscall6(trap, a[0], a[1], a[2], a[3], a[4], a[5])
	if errno == syscall.ENOTSUP && reachThreads() != nil {
		_, _, errno = syscall.Syscall6(trap, a[0], a[1], a[2], a[3], a[4], a[5])
	}
	if errno != 0 {
		return errno
	}
	return nil
}

func prctl(option uintptr, args ...uintptr) error {
	return allThreads(unix.SYS_PRCTL, append([]uintptr{option}, args...)...)
}
