package ext4_test

import (
	"os"
	"syscall"
	"testing"

	"ext4box/ext4"
	"ext4box/internal/e2test"
)

// TestTruncatedBeneath cuts an image file off while it is open. It is not mapped, so that
// nobody gets SIGBUS.
func TestTruncatedBeneath(t *testing.T) {
	path := e2test.Image(t, 16*mib, "-t", "ext4")
	fs := openRW(t, path)
	ino, err := fs.Create(ext4.RootIno, "new", ext4.NewNode{Mode: syscall.S_IFREG | 0o644})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fs.WriteAt(ino, make([]byte, 100000), 0); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, 64<<10); err != nil {
		t.Fatal(err)
	}
	if err := fs.Sync(); err == nil {
		t.Error("what was cut off is said to be durable")
	}
	if _, err := fs.ReadAt(ino, make([]byte, 4096), 49152); err != nil {
		t.Logf("read: %v", withErrno("read", err))
	}
	if err := withErrno("close", fs.Close()); err != nil {
		t.Error(err)
	}
}
