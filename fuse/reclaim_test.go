package fuse

import (
	"errors"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestWithoutReclaim looks at the flags of the kernel's task: they differ in a process that was started
// that way, and only there.
func TestWithoutReclaim(t *testing.T) {
	flags := func(how func(func() error) error) string {
		t.Helper()
		var out []byte
		err := how(func() (err error) {
			out, err = exec.Command("cat", "/proc/self/stat").Output()
			return err
		})
		fields := strings.Fields(string(out))
		if err != nil || len(fields) < 9 {
			t.Skipf("cannot look: %v, %q", err, out)
		}
		return fields[8]
	}
	plain := func(f func() error) error { return f() }
	before, with, after := flags(plain), flags(WithoutReclaim), flags(plain)
	if before != after {
		t.Errorf("flags are %s before and %s after", before, after)
	}
	if with == before {
		if !mayFlush() {
			t.Skip("not allowed here")
		}
		t.Errorf("flags are %s either way", with)
	}
	failed := errors.New("failed")
	if err := WithoutReclaim(func() error { return failed }); err != failed {
		t.Errorf("failed to start: %v", err)
	}
}

// mayFlush reports whether this process could set the mark.
func mayFlush() bool {
	allowed := make(chan bool)
	go func() {
		runtime.LockOSThread() // and the thread ends with the goroutine
		allowed <- unix.Prctl(unix.PR_SET_IO_FLUSHER, 1, 0, 0, 0) == nil
	}()
	return <-allowed
}
