package server_test

import (
	"bytes"
	"errors"
	"fmt"
	"syscall"
	"testing"
	"time"

	"ext4box/ext4"
	"ext4box/fuse"
	"ext4box/fuse/fusetest/vfs"
)

// recalled is a file whose mappings the kernel has: it is overwritten without a question.
func recalled(t *testing.T, g vfs.Generation, o ext4.Options) (m *mounted, f *vfs.File) {
	t.Helper()
	m = mountModelWith(t, modelConfig{Config: vfs.Config{Generation: g}, open: o, lenient: true, prepare: func(fs *ext4.FS) {
		file(t, fs, "f", xs(64<<10), 64<<10)
		file(t, fs, "other", xs(8192), 8192)
	}})
	f = m.open(t, "f", syscall.O_RDWR|syscall.O_DIRECT)
	// The kernel forgets what it has written to.
	overwrite := func(off int64) {
		if _, err := f.WriteAt(bytes.Repeat([]byte{'y'}, 4096), off); err != nil {
			t.Fatal(err)
		}
	}
	overwrite(0)
	begins := m.Count(fuse.OpIomapBegin)
	overwrite(4096)
	if m.Count(fuse.OpIomapBegin) != begins || begins == 0 {
		t.Fatalf("%d questions, then %d: the kernel does not have the mapping: %q", begins, m.Count(fuse.OpIomapBegin)-begins, m.Trace())
	}
	return m, f
}

// onDevice tells whether the device has something somewhere.
func (m *mounted) onDevice(t *testing.T, p []byte) bool {
	t.Helper()
	all := make([]byte, m.dev.Size())
	if _, err := m.dev.ReadAt(all, 0); err != nil {
		t.Fatal(err)
	}
	return bytes.Contains(all, p)
}

// drop unmounts, which fails, for there is no filesystem any more that could be made durable.
func (m *mounted) drop(files ...*vfs.File) {
	for _, f := range files {
		_ = f.Close()
	}
	_ = m.Unmount()
}

// TestModelShutDown: after FS_IOC_SHUTDOWN nothing reaches a file any more, neither by mappings that the
// kernel had nor by others.
func TestModelShutDown(t *testing.T) {
	generations(t, func(t *testing.T, g vfs.Generation) {
		m, f := recalled(t, g, ext4.Options{})
		other := m.open(t, "other", syscall.O_RDWR)
		if _, err := other.ReadAt(make([]byte, 10), 0); err != nil {
			t.Fatal(err)
		}
		if err := other.ShutDown(); err != nil {
			t.Fatal(err)
		}
		late := bytes.Repeat([]byte("late"), 1024)
		if _, err := f.WriteAt(late, 8192); !errors.Is(err, syscall.EIO) {
			t.Errorf("direct write: %v", err)
		}
		if _, err := f.ReadAt(late[:4096], 16384); !errors.Is(err, syscall.EIO) {
			t.Errorf("direct read: %v", err)
		}
		// What is in the page cache can still be read, and must not be written back.
		_, err := other.WriteAt([]byte("latelatelatelate"), 100)
		if err == nil {
			err = other.Fsync()
		}
		if !errors.Is(err, syscall.EIO) {
			t.Errorf("buffered write: %v", err)
		}
		if m.onDevice(t, []byte("latelatelatelate")) {
			t.Error("data was written after the shutdown")
		}
		m.drop(f, other)
	})
}

// TestModelAborted: when an error makes the filesystem read-only its files are not overwritten any more,
// also not by mappings that are asked for to read.
func TestModelAborted(t *testing.T) {
	generations(t, func(t *testing.T, g vfs.Generation) {
		m, f := recalled(t, g, ext4.Options{Errors: ext4.OnErrorReadOnly})
		m.fs.ReportError(ext4.RootIno, fmt.Errorf("something is wrong: %w", syscall.EUCLEAN))
		for end := time.Now().Add(20 * time.Second); m.Notifications(fuse.NotifyIomapInvalMappings) == 0 && time.Now().Before(end); {
			time.Sleep(time.Millisecond)
		}
		late := bytes.Repeat([]byte("late"), 1024)
		if _, err := f.WriteAt(late, 8192); !errors.Is(err, syscall.EROFS) {
			t.Errorf("direct write: %v", err)
		}
		got := make([]byte, 4096)
		if _, err := f.ReadAt(got, 16384); err != nil || !bytes.Equal(got, xs(4096)) {
			t.Errorf("direct read: %v", err)
		}
		if _, err := f.WriteAt(late, 16384); !errors.Is(err, syscall.EROFS) {
			t.Errorf("direct write of what was read: %v", err)
		}
		m.drop(f)
	})
}
