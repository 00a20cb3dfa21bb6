package fuse_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"runtime"
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

// switchBack is called when the mount that rings were made for has them.
var switchBack func()

// rings makes rings, and has the kernel allow them for the next mount. Where it cannot the test is skipped.
func rings(t *testing.T, change ...func(*fuse.CPUs)) *fuse.Rings {
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
	switchBack = sync.OnceFunc(func() {
		_, _ = f.WriteAt(before, 0)
		lock.Close()
	})
	t.Cleanup(switchBack)
	if _, err := f.WriteAt([]byte("Y"), 0); err != nil {
		t.Skipf("FUSE over io_uring cannot be switched on: %v", err)
	}
	cpus, err := fuse.FindCPUs()
	if err != nil {
		t.Skip(err)
	}
	for _, c := range change {
		c(&cpus)
	}
	r, err := fuse.NewRings(cpus)
	if err != nil {
		t.Skipf("no io_uring here: %v", err)
	}
	return r
}

// load does what it can at once, on all processors.
func (m *mounted) load(t *testing.T, data []byte) {
	t.Helper()
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
}

// bothWays runs a test with requests by the device, and by io_uring.
func bothWays(t *testing.T, test func(t *testing.T, o fuse.DeviceOptions)) {
	t.Run("dev", func(t *testing.T) { test(t, fuse.DeviceOptions{}) })
	t.Run("uring", func(t *testing.T) { test(t, fuse.DeviceOptions{Rings: rings(t)}) })
}

// TestRings does on a mount by io_uring what others do by the device.
func TestRings(t *testing.T) {
	checkReaders(t)
	data := pattern(5<<20 + 123)
	fs := newMemfs()
	fs.add("big", unix.S_IFREG|0o644, data)
	m := mount(t, fs, fuse.DeviceOptions{Rings: rings(t)})
	if !m.ringed || !m.s.Protocol().Has(fuse.InitOverIOUring) {
		t.Errorf("not by io_uring: %v", m.ringErr)
	}
	if got, err := os.ReadFile(m.path("big")); err != nil || !bytes.Equal(got, data) {
		t.Errorf("read %d bytes: %v", len(got), err)
	}
	m.load(t, data)
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

// TestRingsAbsent: a processor that was not there, and is now, has its requests answered by the thread of those.
func TestRingsAbsent(t *testing.T) {
	checkReaders(t)
	data := pattern(100 * 997)
	r := rings(t, func(c *fuse.CPUs) { c.Online = c.Online[:1] })
	fs := newMemfs()
	fs.add("file", unix.S_IFREG|0o644, data)
	m := mount(t, fs, fuse.DeviceOptions{Rings: r})
	if !m.ringed {
		t.Fatal(m.ringErr)
	}
	cpus, err := fuse.FindCPUs()
	if err != nil || len(cpus.Online) < 2 {
		t.Skip("there is one processor: ", err)
	}
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			runtime.LockOSThread() // and ends with the goroutine
			var set unix.CPUSet
			set.Set(cpus.Online[1+i%(len(cpus.Online)-1)])
			if err := unix.SchedSetaffinity(0, &set); err != nil {
				t.Error(err)
			}
			f, err := os.OpenFile(m.path("file"), os.O_RDONLY|unix.O_DIRECT, 0)
			if err != nil {
				t.Error(err)
				return
			}
			defer f.Close()
			got := make([]byte, len(data))
			for range 20 {
				if n, err := f.ReadAt(got, 0); n != len(data) || !bytes.Equal(got, data) {
					t.Errorf("read %d bytes: %v", n, err)
				}
			}
		})
	}
	wg.Wait()
	m.load(t, data)
	m.umount(t)
}

// TestRingsRefused: where the kernel refuses a ring, requests come by the device, also when the switch is off again.
func TestRingsRefused(t *testing.T) {
	checkReaders(t)
	data := pattern(100 * 997)
	m := mount(t, newMemfs(), fuse.DeviceOptions{Rings: rings(t, func(c *fuse.CPUs) { c.Possible++ })})
	if m.ringed || !errors.Is(m.ringErr, unix.EINVAL) {
		t.Errorf("%v, %v", m.ringed, m.ringErr)
	}
	m.load(t, data)
	m.umount(t)
}

// TestRingsTrim: memory that nobody needs is given back, and is there again when somebody does.
func TestRingsTrim(t *testing.T) {
	checkReaders(t)
	r := rings(t)
	data := pattern(1 << 20)
	fs := newMemfs()
	fs.add("file", unix.S_IFREG|0o644, data)
	m := mount(t, fs, fuse.DeviceOptions{Rings: r})
	spare := func() int {
		n, err := r.Spare()
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	read := func() {
		f, err := os.OpenFile(m.path("file"), os.O_RDONLY|unix.O_DIRECT, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		got := make([]byte, len(data))
		if n, err := f.ReadAt(got, 0); n != len(data) || !bytes.Equal(got, data) {
			t.Errorf("read %d bytes: %v", n, err)
		}
	}
	for range 2 {
		read()
		if spare() == 0 {
			t.Fatal("no memory was needed")
		}
		time.Sleep(fuse.IdleTime * time.Second)
		wait(t, "memory to be given back", func() bool { return spare() == 0 })
	}
	read()
	m.umount(t)
}

// TestRingsInterruptAnswer: the kernel does not find what a ring has by the answer to an INTERRUPT. So it would not
// repeat that, and the session must keep what came too early.
func TestRingsInterruptAnswer(t *testing.T) {
	bothWays(t, func(t *testing.T, o fuse.DeviceOptions) {
		checkReaders(t)
		want := syscall.EINVAL // it is found, and was not interrupted
		if o.Rings != nil {
			want = syscall.ENOENT
		}
		fs := newMemfs()
		fs.add("file", unix.S_IFREG|0o644, make([]byte, 4096))
		fs.gate, fs.hung = make(chan struct{}), make(chan struct{}, 1)
		o.Readers = 1
		m := mount(t, fs, o)
		read := make(chan error)
		go func() {
			_, err := os.ReadFile(m.path("file"))
			read <- err
		}()
		<-fs.hung
		answer := make([]byte, fuse.OutHeaderSize)
		binary.NativeEndian.PutUint32(answer, uint32(len(answer)))
		again := -int32(syscall.EAGAIN)
		binary.NativeEndian.PutUint32(answer[4:], uint32(again))
		binary.NativeEndian.PutUint64(answer[8:], fs.unique.Load()|1)
		if err := m.dev.Notify(answer); !errors.Is(err, want) {
			t.Errorf("the answer to an INTERRUPT: %v, want %v", err, want)
		}
		close(fs.gate)
		if err := <-read; err != nil {
			t.Error(err)
		}
		m.umount(t)
	})
}
