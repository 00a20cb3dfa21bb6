package testimage

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// ShareFuse lets everybody open /dev/fuse until the test ends, as most distributions do at any
// time. Tests of other packages that run meanwhile may want the same: each holds a shared lock on
// it, and who has changed the mode waits for the others before it is changed back.
func ShareFuse(tb testing.TB) {
	tb.Helper()
	f, err := os.Open("/dev/fuse")
	if err != nil {
		tb.Skipf("needs /dev/fuse: %v", err)
	}
	if err := flock(f, unix.LOCK_SH); err != nil {
		tb.Fatal(err)
	}
	st, err := f.Stat()
	if err != nil {
		tb.Fatal(err)
	}
	mode := st.Mode().Perm()
	if mode&0o006 == 0o006 {
		tb.Cleanup(func() { _ = f.Close() })
		return
	}
	if err := os.Chmod("/dev/fuse", 0o666); err != nil {
		_ = f.Close()
		tb.Skipf("needs /dev/fuse for everybody: %v", err)
	}
	tb.Cleanup(func() {
		if err := flock(f, unix.LOCK_EX); err != nil {
			tb.Error(err)
		}
		if err := os.Chmod("/dev/fuse", mode); err != nil {
			tb.Error(err)
		}
		_ = f.Close()
	})
}

func flock(f *os.File, how int) error {
	for {
		if err := unix.Flock(int(f.Fd()), how); err != unix.EINTR {
			return err
		}
	}
}
