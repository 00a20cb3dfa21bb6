package mount

import (
	"errors"
	"fmt"
)

// Exit statuses, as in mount(8).
const (
	StatusOK          = 0
	StatusUsage       = 1  // wrong invocation, or no permission
	StatusSystem      = 2  // out of memory, cannot start a process, ...
	StatusInternal    = 4  // a bug in ext4box
	StatusInterrupted = 8  // the user interrupted it
	StatusFailed      = 32 // the mount failed
)

// Error is an error with the exit status that mount(8) prescribes for it.
type Error struct {
	Status int
	Err    error
}

func (e *Error) Error() string { return e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

// ExitStatus is the status a command ends with when it fails with err.
// Errors that carry none mean that the mount failed.
func ExitStatus(err error) int {
	if err == nil {
		return StatusOK
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Status
	}
	return StatusFailed
}

func usagef(format string, a ...any) error {
	return &Error{StatusUsage, fmt.Errorf(format, a...)}
}

func systemf(format string, a ...any) error {
	return &Error{StatusSystem, fmt.Errorf(format, a...)}
}

func failedf(format string, a ...any) error {
	return &Error{StatusFailed, fmt.Errorf(format, a...)}
}
