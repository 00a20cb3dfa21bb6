package fuse_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"ext4box/fuse"
)

func TestMountAbort(t *testing.T) { bothWays(t, testMountAbort) }

func testMountAbort(t *testing.T, o fuse.DeviceOptions) {
	checkReaders(t)
	fs := newMemfs()
	fs.add("file", unix.S_IFREG|0o644, make([]byte, 4096))
	fs.gate, fs.hung = make(chan struct{}), make(chan struct{}, 1)
	m := mount(t, fs, o)
	abort := abortFile(t, m.dir)
	checkAbort(t, m, abort, fuse.ErrAborted)
}

// TestMountForced: umount -f on a busy mount is an abort, too.
func TestMountForced(t *testing.T) { bothWays(t, testMountForced) }

func testMountForced(t *testing.T, o fuse.DeviceOptions) {
	checkReaders(t)
	fs := newMemfs()
	fs.add("file", unix.S_IFREG|0o644, make([]byte, 4096))
	fs.gate, fs.hung = make(chan struct{}), make(chan struct{}, 1)
	m := mount(t, fs, o)
	checkAbort(t, m, func() error {
		if err := unix.Unmount(m.dir, unix.MNT_FORCE); err != unix.EBUSY {
			return err
		}
		return nil
	}, nil) // the kernel takes it for an unmount
}

// checkAbort aborts while a READ hangs.
func checkAbort(t *testing.T, m *mounted, abort func() error, want error) {
	t.Helper()
	fs := m.memfs
	read := make(chan error)
	go func() {
		_, err := os.ReadFile(m.path("file"))
		read <- err
	}()
	<-fs.hung
	if err := abort(); err != nil {
		t.Fatal(err)
	}
	if err := <-read; err == nil {
		t.Error("read on an aborted connection succeeded")
	}
	select {
	case err := <-m.served:
		t.Errorf("Serve did not wait for the READ: %v", err)
	default:
	}
	close(fs.gate)
	if err := <-m.served; !errors.Is(err, want) {
		t.Errorf("Serve: %v, want %v", err, want)
	}
	if n := fs.destroyed.Load(); n != 1 {
		t.Errorf("Destroy was called %d times", n)
	}
	m.cancel()
}

// abortFile returns what aborts the connection of a mount through its control file.
func abortFile(t *testing.T, dir string) func() error {
	t.Helper()
	const connections = "/sys/fs/fuse/connections"
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(connections, fmt.Sprint(unix.Minor(st.Dev)), "abort")
	abort := func() error { return os.WriteFile(name, []byte("1"), 0) }
	if _, err := os.Stat(name); err == nil {
		return abort
	}
	if err := unix.Mount("fusectl", connections, "fusectl", 0, ""); err != nil {
		t.Skipf("cannot abort: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(connections, 0) })
	return abort
}

// TestMountCancel ends the service while the mount stays. The last of it is answered, then nothing.
func TestMountCancel(t *testing.T) { bothWays(t, testMountCancel) }

func testMountCancel(t *testing.T, o fuse.DeviceOptions) {
	checkReaders(t)
	fs := newMemfs()
	fs.add("file", unix.S_IFREG|0o644, make([]byte, 16*4096))
	fs.gate, fs.hung = make(chan struct{}), make(chan struct{}, 8)
	m := mount(t, fs, o)
	var wg sync.WaitGroup
	for i := range 8 { // so that there are several readers
		wg.Go(func() {
			f, err := os.OpenFile(m.path("file"), os.O_RDONLY|unix.O_DIRECT, 0)
			if err != nil {
				t.Error(err)
				return
			}
			defer f.Close()
			if n, err := f.ReadAt(make([]byte, 4096), int64(i)*4096); n != 4096 {
				t.Errorf("read %d bytes: %v", n, err)
			}
		})
	}
	for range 8 {
		<-fs.hung
	}
	m.cancel()
	if n := fs.destroyed.Load(); n != 0 {
		t.Error("Destroy was called beside a READ")
	}
	close(fs.gate)
	wg.Wait()
	if err := <-m.served; !errors.Is(err, context.Canceled) {
		t.Errorf("Serve: %v", err)
	}
	for range 20 {
		if _, err := os.Stat(m.path("none")); !errors.Is(err, syscall.ENOTCONN) {
			t.Errorf("stat without a server: %v", err)
		}
	}
	if n := fs.destroyed.Load(); n != 1 {
		t.Errorf("Destroy was called %d times", n)
	}
	if err := unix.Unmount(m.dir, 0); err != nil {
		t.Errorf("umount: %v", err)
	}
}

// TestMountRefused: an error of Init ends the session.
func TestMountRefused(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("mounting needs root")
	}
	f, err := os.OpenFile(fuse.DevicePath, os.O_RDWR, 0)
	if err != nil {
		t.Skipf("no FUSE here: %v", err)
	}
	dev := fuse.NewDevice(f, fuse.DeviceOptions{})
	defer dev.Close()
	s, err := fuse.NewSession(refusing{}, dev, fuse.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Serve(t.Context()); !errors.Is(err, syscall.EPERM) || !strings.Contains(err.Error(), "not mounted") {
		t.Errorf("Serve before mounting: %v", err)
	}

	dir := t.TempDir()
	opts := fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", f.Fd())
	if err := unix.Mount("memfs", dir, "fuse.memfs", 0, opts); err != nil {
		t.Skipf("cannot mount here: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	s, err = fuse.NewSession(refusing{}, dev, fuse.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Serve(t.Context()); !errors.Is(err, syscall.EMEDIUMTYPE) {
		t.Errorf("Serve: %v", err)
	}
}

type refusing struct{ fuse.Unimplemented }

func (refusing) Init(r *fuse.Request, p *fuse.Protocol) syscall.Errno { return syscall.EMEDIUMTYPE }
