package fuse_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ext4box/fuse"
)

// The kernel's switch, and the lock on it: see package mount.
const (
	uringParameter = "/sys/module/fuse/parameters/enable_uring"
	uringLock      = "/run/ext4box/enable_uring.lock"
)

// rings makes rings, and has the kernel allow them until the test ends. Where it cannot the test is skipped.
func rings(t *testing.T) *fuse.Rings {
	t.Helper()
	f, err := os.OpenFile(uringParameter, os.O_RDWR, 0)
	if err != nil {
		t.Skipf("no FUSE over io_uring here: %v", err)
	}
	t.Cleanup(func() { f.Close() })
	_ = os.Mkdir(filepath.Dir(uringLock), 0o700)
	lock, err := os.OpenFile(uringLock, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { lock.Close() })
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil { // as mounts do
		t.Fatal(err)
	}
	before := make([]byte, 1)
	if _, err := f.ReadAt(before, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = f.WriteAt(before, 0) })
	if _, err := f.WriteAt([]byte("Y"), 0); err != nil {
		t.Skipf("FUSE over io_uring cannot be switched on: %v", err)
	}
	cpus, err := fuse.FindCPUs()
	if err != nil {
		t.Skip(err)
	}
	r, err := fuse.NewRings(cpus)
	if err != nil {
		t.Skipf("no io_uring here: %v", err)
	}
	return r
}

// TestRings does on a mount by io_uring what others do by the device.
func TestRings(t *testing.T) {
	checkReaders(t)
	data := pattern(5<<20 + 123)
	fs := newMemfs()
	fs.add("big", unix.S_IFREG|0o644, data)
	m := mount(t, fs, fuse.DeviceOptions{Rings: rings(t)})
	if !m.s.Protocol().Has(fuse.InitOverIOUring) {
		t.Error("not by io_uring")
	}
	if got, err := os.ReadFile(m.path("big")); err != nil || !bytes.Equal(got, data) {
		t.Errorf("read %d bytes: %v", len(got), err)
	}
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			name := m.path("file-" + strings.Repeat("x", i))
			text := data[:i*997]
			for range 5 {
				if err := os.WriteFile(name, text, 0o600); err != nil {
					t.Error(err)
				}
				if got, err := os.ReadFile(name); err != nil || !bytes.Equal(got, text) {
					t.Errorf("wrote %d bytes, read %d: %v", len(text), len(got), err)
				}
				if err := os.Chmod(name, 0o640); err != nil {
					t.Error(err)
				}
			}
			if err := os.Remove(name); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if err := os.Symlink("some/where", m.path("link")); err != nil {
		t.Error(err)
	}
	if target, err := os.Readlink(m.path("link")); err != nil || target != "some/where" {
		t.Errorf("readlink: %q, %v", target, err)
	}
	value := make([]byte, 65536)
	if n, err := unix.Getxattr(m.path("big"), "user.big", value); err != nil || n != 60000 {
		t.Errorf("getxattr: %d, %v", n, err)
	}
	m.umount(t)
}

// TestRingsInterrupt kills a process whose READ hangs.
func TestRingsInterrupt(t *testing.T) {
	checkReaders(t)
	fs := newMemfs()
	fs.add("file", unix.S_IFREG|0o644, make([]byte, 4096))
	fs.gate, fs.hung = make(chan struct{}), make(chan struct{}, 1)
	m := mount(t, fs, fuse.DeviceOptions{Rings: rings(t)})
	cmd := exec.Command("dd", "if="+m.path("file"), "of=/dev/null", "bs=4096", "iflag=direct")
	if err := cmd.Start(); err != nil {
		t.Skipf("no dd: %v", err)
	}
	<-fs.hung
	if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	wait(t, "the READ to be interrupted", func() bool { return fs.inside.Load() == 0 })
	m.umount(t)
	if m.count(fuse.OpInterrupt) == 0 {
		t.Error("the kernel sent no INTERRUPT")
	}
}

// TestRingsForced takes a mount off that is in use.
func TestRingsForced(t *testing.T) {
	checkReaders(t)
	fs := newMemfs()
	fs.add("file", unix.S_IFREG|0o644, make([]byte, 4096))
	m := mount(t, fs, fuse.DeviceOptions{Rings: rings(t)})
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					_, _ = os.ReadFile(m.path("file"))
				}
			}
		})
	}
	time.Sleep(50 * time.Millisecond)
	if err := unix.Unmount(m.dir, unix.MNT_FORCE|unix.MNT_DETACH); err != nil {
		t.Error(err)
	}
	close(stop)
	wg.Wait()
	select {
	case <-m.served:
	case <-time.After(10 * time.Second):
		t.Error("Serve goes on")
	}
}
