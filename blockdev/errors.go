package blockdev

import (
	"fmt"
	"syscall"
)

// Error is a request that a device refused or failed. It unwraps to the errno.
type Error struct {
	Op   string // "read", "write", "flush" or "discard"
	Name string // the device, usually its path
	Off  int64  // of the request in bytes, from the start of the image or disk
	Len  int64  // of the request in bytes; 0 for a flush
	Err  error  // the cause
}

// Error says which request on which device failed, and why.
func (e *Error) Error() string {
	if e.Op == "flush" {
		return fmt.Sprintf("%s: flush: %v", e.Name, e.Err)
	}
	return fmt.Sprintf("%s: %s of %d bytes at offset %d: %v", e.Name, e.Op, e.Len, e.Off, e.Err)
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// cause is a sentence for the user that carries an errno which it does not
// spell out.
type cause struct {
	msg   string
	errno syscall.Errno
}

func (c *cause) Error() string { return c.msg }
func (c *cause) Unwrap() error { return c.errno }

func causef(errno syscall.Errno, format string, args ...any) error {
	return &cause{msg: fmt.Sprintf(format, args...), errno: errno}
}

// errTruncated is the cause of reads of a file that somebody made shorter.
var errTruncated error = &cause{"the file has become shorter while in use", syscall.EIO}
