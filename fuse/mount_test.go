package fuse_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ext4box/fuse"
	"ext4box/fuse/fusetest"
)

// mounted is a memfs on a real mount.
type mounted struct {
	*memfs
	dir    string
	s      *fuse.Session
	dev    *fuse.Device
	cancel context.CancelFunc
	served chan error

	ringed  bool // requests come by io_uring
	ringErr error
}

// mount mounts fs with the kernel, or skips the test where that is not possible.
func mount(t *testing.T, fs *memfs, d fuse.DeviceOptions) *mounted {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("mounting needs root")
	}
	f, err := os.OpenFile(fuse.DevicePath, os.O_RDWR, 0)
	if err != nil {
		t.Skipf("no FUSE here: %v", err)
	}
	dir := t.TempDir()
	opts := fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", f.Fd())
	if err := unix.Mount("memfs", dir, "fuse.memfs", unix.MS_NODEV|unix.MS_NOSUID, opts); err != nil {
		_ = f.Close()
		t.Skipf("cannot mount here: %v", err)
	}
	if d.Rings != nil {
		if err := d.Rings.Attach(f); err != nil {
			t.Fatal(err)
		}
	}
	m := &mounted{memfs: fs, dir: dir, served: make(chan error, 1)}
	// A process that waits for itself cannot even be killed. So if anything hangs, and at the end
	// whatever happened, the connection is aborted, which MNT_FORCE does to a busy mount as well.
	watchdog := time.AfterFunc(time.Minute, func() { _ = unix.Unmount(dir, unix.MNT_FORCE) })
	t.Cleanup(func() {
		watchdog.Stop()
		_ = unix.Unmount(dir, unix.MNT_FORCE|unix.MNT_DETACH)
	})
	m.dev = fuse.NewDevice(f, d)
	m.s, err = fuse.NewSession(fs, m.dev, fuse.Options{
		Params: fuse.Params{Flags: manyFlags, MaxBackground: 64},
		Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	m.cancel = cancel
	go func() {
		err := m.s.Serve(ctx)
		_ = m.dev.Close()
		m.served <- err
	}()
	<-m.s.Ready()
	if m.ringed, m.ringErr = m.dev.AwaitRings(); m.ringed != (d.Rings != nil) && m.ringErr == nil {
		t.Fatalf("by io_uring: %v", m.ringed)
	}
	if d.Rings != nil {
		switchBack()
	}
	if err := fusetest.SettlePoll(m.path(settleName)); err != nil {
		t.Fatal(err)
	}
	return m
}

const manyFlags = fuse.InitAsyncRead | fuse.InitParallelDirops | fuse.InitDoReaddirplus | fuse.InitReaddirplusAuto |
	fuse.InitAsyncDIO | fuse.InitAtomicOTrunc | fuse.InitHandleKillprivV2 | fuse.InitSetxattrExt | fuse.InitHasExpireOnly

// umount unmounts and waits for the end of Serve.
func (m *mounted) umount(t *testing.T) {
	t.Helper()
	if err := unix.Unmount(m.dir, 0); err != nil {
		t.Fatalf("umount: %v", err)
	}
	if err := <-m.served; err != nil {
		t.Errorf("Serve after umount: %v", err)
	}
	if n := m.destroyed.Load(); n != 1 {
		t.Errorf("Destroy was called %d times", n)
	}
	m.cancel()
	if st := m.s.Stats(); st.Malformed != 0 || st.Panics != 0 {
		t.Errorf("%+v", st)
	}
}

func (m *mounted) path(name string) string { return filepath.Join(m.dir, name) }

// count returns how many requests of a kind there were.
func (m *mounted) count(op fuse.Opcode) uint64 {
	for _, o := range m.s.Stats().Ops {
		if o.Op == op {
			return o.Count
		}
	}
	return 0
}

// wait waits for something that is bound to happen.
func wait(t *testing.T, what string, done func() bool) {
	t.Helper()
	for range 10000 {
		if done() {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatalf("waited in vain for %s", what)
}

// checkReaders fails the test if readers are left at its end.
func checkReaders(t *testing.T) {
	t.Cleanup(func() {
		var buf []byte
		for range 100 {
			buf = make([]byte, 1<<20)
			buf = buf[:runtime.Stack(buf, true)]
			if !bytes.Contains(buf, []byte("fuse.(*readers)")) && !bytes.Contains(buf, []byte("fuse.(*ringThread)")) && !bytes.Contains(buf, []byte("fuse.(*overflow)")) {
				return
			}
			time.Sleep(10 * time.Millisecond) // for goroutines that are about to return
		}
		t.Errorf("readers are left:\n%s", buf)
	})
}

// pattern is n bytes that differ from page to page.
func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i) ^ byte(i>>8) ^ byte(i>>16)
	}
	return b
}

func TestMount(t *testing.T) {
	checkReaders(t)
	big := pattern(5<<20 + 123)
	fs := newMemfs()
	fs.add("big", unix.S_IFREG|0o644, big)
	for i := range 2000 {
		fs.add(fmt.Sprintf("file-with-a-long-name-%04d", i), unix.S_IFREG|0o644, nil)
	}
	m := mount(t, fs, fuse.DeviceOptions{})
	p := m.s.Protocol()
	t.Logf("speaks %v with a kernel of 7.%d: %v", p, p.KernelMinor, p.Flags)

	if got, err := os.ReadFile(m.path("big")); err != nil || !bytes.Equal(got, big) {
		t.Errorf("read %d bytes: %v", len(got), err)
	}
	for _, n := range []int{0, 1, 4095, 4096, 128<<10 + 1, 1 << 20, 3<<20 + 5} {
		name := m.path(fmt.Sprintf("written-%d", n))
		if err := os.WriteFile(name, big[:n], 0o640); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(name); err != nil || !bytes.Equal(got, big[:n]) {
			t.Errorf("wrote %d bytes, read %d: %v", n, len(got), err)
		}
	}
	list, err := os.ReadDir(m.dir)
	if err != nil || len(list) != 2008 {
		t.Errorf("%d entries: %v", len(list), err)
	}
	for _, e := range list {
		if _, err := e.Info(); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("some/where", m.path("link")); err != nil {
		t.Error(err)
	}
	if target, err := os.Readlink(m.path("link")); err != nil || target != "some/where" {
		t.Errorf("readlink: %q, %v", target, err)
	}
	if err := os.Mkdir(m.path("sub"), 0o700); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(m.path("sub/none")); !os.IsNotExist(err) {
		t.Errorf("stat: %v", err)
	}
	if err := os.Remove(m.path("written-1")); err != nil {
		t.Error(err)
	}
	value := make([]byte, 65536)
	if n, err := unix.Getxattr(m.path("big"), "user.big", value); err != nil || n != 60000 {
		t.Errorf("getxattr: %d, %v", n, err)
	}
	if n, err := unix.Getxattr(m.path("big"), "user.big", nil); err != nil || n != 60000 {
		t.Errorf("length of an xattr: %d, %v", n, err)
	}
	if _, err := unix.Getxattr(m.path("big"), "user.big", value[:100]); err != unix.ERANGE {
		t.Errorf("getxattr into a short buffer: %v", err)
	}
	var sfs unix.Statfs_t
	if err := unix.Statfs(m.dir, &sfs); err != nil || sfs.Blocks != 100 || sfs.Namelen != 255 {
		t.Errorf("statfs: %+v, %v", sfs, err)
	}
	m.umount(t)
}

// TestMountLargeRequests reads 1 MiB with one request.
func TestMountLargeRequests(t *testing.T) {
	checkReaders(t)
	data := pattern(4 << 20)
	fs := newMemfs()
	fs.add("big", unix.S_IFREG|0o644, data)
	m := mount(t, fs, fuse.DeviceOptions{})
	f, err := os.OpenFile(m.path("big"), os.O_RDONLY|unix.O_DIRECT, 0)
	if err != nil {
		t.Fatal(err)
	}
	// Room for the unaligned address that a Go slice may have.
	mem, err := unix.Mmap(-1, 0, 1<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Munmap(mem) }()
	if n, err := f.ReadAt(mem, 1<<20); err != nil || !bytes.Equal(mem, data[1<<20:2<<20]) {
		t.Errorf("read %d bytes: %v", n, err)
	}
	_ = f.Close()
	if got, want := int(fs.maxRead.Load()), min(1<<20, m.s.PayloadSize()); got != want {
		t.Errorf("largest READ had %d bytes, want %d", got, want)
	}
	m.umount(t)
}

// TestMountConcurrent has 16 reads in flight at once.
func TestMountConcurrent(t *testing.T) {
	for name, spare := range map[string]int{"own descriptors": 0, "spare descriptors": 20, "no more descriptors": -1} {
		t.Run(name, func(t *testing.T) {
			checkReaders(t)
			const depth = 16
			fs := newMemfs()
			fs.add("file", unix.S_IFREG|0o644, make([]byte, depth*4096))
			fs.gate, fs.hung = make(chan struct{}), make(chan struct{}, depth)
			var o fuse.DeviceOptions
			for range spare {
				f, err := os.OpenFile(fuse.DevicePath, os.O_RDWR, 0)
				if err != nil {
					t.Skipf("no FUSE here: %v", err)
				}
				o.Spare = append(o.Spare, f)
			}
			o.Sealed = spare < 0
			m := mount(t, fs, o)
			before := fuseDescriptors(t)
			var wg sync.WaitGroup
			for i := range depth {
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
			for range depth {
				<-fs.hung // all must get in before one gets out
			}
			if after := fuseDescriptors(t); o.Sealed && after != before {
				t.Errorf("%d descriptors of the connection, and %d before", after, before)
			}
			close(fs.gate)
			wg.Wait()
			if n := fs.deepest.Load(); n != depth {
				t.Errorf("%d READs at once, want %d", n, depth)
			}
			m.umount(t)
		})
	}
}

// fuseDescriptors counts the descriptors of /dev/fuse that this process has.
func fuseDescriptors(t *testing.T) (n int) {
	fds, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		if to, err := os.Readlink(fd); err == nil && to == fuse.DevicePath {
			n++
		}
	}
	return n
}

// TestMountInterrupt kills a process whose READ hangs.
func TestMountInterrupt(t *testing.T) { bothWays(t, testMountInterrupt) }

func testMountInterrupt(t *testing.T, o fuse.DeviceOptions) {
	checkReaders(t)
	fs := newMemfs()
	fs.add("file", unix.S_IFREG|0o644, make([]byte, 4096))
	fs.gate, fs.hung = make(chan struct{}), make(chan struct{}, 1)
	m := mount(t, fs, o)
	// The READs of readahead belong to nobody who could be interrupted; direct ones do.
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

func TestMountNotify(t *testing.T) { bothWays(t, testMountNotify) }

func testMountNotify(t *testing.T, o fuse.DeviceOptions) {
	checkReaders(t)
	fs := newMemfs()
	id := fs.add("file", unix.S_IFREG|0o644, []byte("hello"))
	m := mount(t, fs, o)
	read := func() string {
		b, err := os.ReadFile(m.path("file"))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	set := func(data string) {
		fs.mu.Lock()
		defer fs.mu.Unlock()
		fs.nodes[id].data = []byte(data)
	}
	if got := read(); got != "hello" {
		t.Errorf("read %q", got)
	}
	set("world")
	if got := read(); got != "hello" {
		t.Errorf("data is not cached: read %q", got)
	}
	if err := m.s.NotifyInvalInode(id, 0, 0); err != nil {
		t.Error(err)
	}
	if got := read(); got != "world" {
		t.Errorf("read %q after INVAL_INODE", got)
	}
	p := m.s.Protocol()
	for _, c := range []struct {
		name string
		call func() error
		ok   bool
	}{
		{"INVAL_ENTRY", func() error { return m.s.NotifyInvalEntry(1, "file") }, true},
		{"EXPIRE", func() error { return m.s.NotifyExpireEntry(1, "file") }, p.Has(fuse.InitHasExpireOnly)},
		{"INC_EPOCH", m.s.NotifyIncEpoch, p.Minor >= 44},
	} {
		before := m.count(fuse.OpLookup)
		if err := c.call(); (err == nil) != c.ok {
			t.Errorf("%s: %v", c.name, err)
		}
		read()
		if after := m.count(fuse.OpLookup); (after != before) != c.ok {
			t.Errorf("%s: %d lookups", c.name, after-before)
		}
	}
	if err := m.s.NotifyPrune([]uint64{id, 12345}); (err == nil) != (p.Minor >= 45) {
		t.Errorf("PRUNE: %v", err)
	}
	if err := m.s.NotifyResend(); !errors.Is(err, syscall.ENOSYS) {
		t.Errorf("RESEND without the feature: %v", err)
	}
	// What the kernel does not know is nothing to worry about, but a RETRIEVE gets no answer then.
	if err := m.s.NotifyInvalInode(9999, 0, 0); err != nil {
		t.Errorf("INVAL_INODE of an unknown inode: %v", err)
	}
	if err := m.s.NotifyInvalEntry(1, "none"); err != nil {
		t.Errorf("INVAL_ENTRY of an unknown name: %v", err)
	}
	if err := m.s.NotifyRetrieve(7, 9999, 0, 100); !errors.Is(err, syscall.ENOENT) {
		t.Errorf("RETRIEVE of an unknown inode: %v", err)
	}
	read() // PRUNE has dropped the inode
	if err := m.s.NotifyStore(id, 0, []byte("STORE")); err != nil {
		t.Errorf("STORE: %v", err)
	}
	if got := read(); got != "STORE" {
		t.Errorf("read %q after STORE", got)
	}
	if err := m.s.NotifyRetrieve(7, id, 1, 100); err != nil {
		t.Errorf("RETRIEVE: %v", err)
	}
	select {
	case got := <-fs.retrieved:
		if got != "7 1 TORE" {
			t.Errorf("retrieved %q", got)
		}
	case <-time.After(10 * time.Second):
		t.Errorf("nothing was retrieved: %+v", m.s.Stats())
	}
	fs.mu.Lock()
	delete(fs.nodes[1].names, "file")
	fs.nodes[1].order = nil
	fs.mu.Unlock()
	if err := m.s.NotifyDelete(1, id, "file"); err != nil {
		t.Errorf("DELETE: %v", err)
	}
	if _, err := os.Stat(m.path("file")); !os.IsNotExist(err) {
		t.Errorf("stat after DELETE: %v", err)
	}
	m.umount(t)
}

// TestMountLifetime: what was looked up is forgotten, and nothing more.
func TestMountLifetime(t *testing.T) { bothWays(t, testMountLifetime) }

func testMountLifetime(t *testing.T, o fuse.DeviceOptions) {
	checkReaders(t)
	const files = 300
	fs := newMemfs()
	for i := range files {
		fs.add(fmt.Sprint("file", i), unix.S_IFREG|0o644, nil)
	}
	m := mount(t, fs, o)
	for range 3 {
		list, err := os.ReadDir(m.dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range list {
			_, _ = e.Info()
		}
		// Without their names the inodes are of no use, and the kernel forgets them in batches.
		if err := m.s.NotifyInvalEntry(1, settleName); err != nil {
			t.Fatal(err)
		}
		for i := range files {
			if err := m.s.NotifyInvalEntry(1, fmt.Sprint("file", i)); err != nil {
				t.Fatal(err)
			}
		}
	}
	wait(t, "everything to be forgotten", func() bool {
		n := 0
		fs.mu.Lock()
		defer fs.mu.Unlock()
		for _, count := range fs.lookups {
			if int64(count) < 0 {
				t.Fatal("more was forgotten than looked up")
			}
			if count == 0 {
				n++
			}
		}
		return n == files+1 // and the one of SettlePoll
	})
	m.umount(t)
}

// TestMountOverflow: what a reader gives away is answered where the kernel waits for it, on the descriptor
// that it was read from.
func TestMountOverflow(t *testing.T) {
	for _, readers := range []int{1, 3} {
		t.Run(fmt.Sprint(readers), func(t *testing.T) {
			checkReaders(t)
			const files = 40
			fs := newMemfs()
			data := pattern(files * 4096)
			for i := range files {
				fs.add(fmt.Sprint(i), unix.S_IFREG|0o644, data[i*4096:][:4096])
			}
			fs.gate, fs.hung = make(chan struct{}), make(chan struct{}, files)
			m := mount(t, fs, fuse.DeviceOptions{Readers: readers})
			m.s.ServeAsIomap()
			var wg sync.WaitGroup
			for i := range files {
				wg.Go(func() {
					got, err := os.ReadFile(m.path(fmt.Sprint(i)))
					if err != nil || !bytes.Equal(got, data[i*4096:][:4096]) {
						t.Errorf("file %d: %d bytes, %v", i, len(got), err)
					}
				})
			}
			for range 2*readers - 1 {
				<-fs.hung
			}
			close(fs.gate)
			wg.Wait()
			for i := range files {
				wg.Go(func() {
					name := m.path(fmt.Sprint("new", i))
					if err := os.WriteFile(name, data[:i*4096], 0o644); err != nil {
						t.Error(err)
					}
					if got, err := os.ReadFile(name); err != nil || !bytes.Equal(got, data[:i*4096]) {
						t.Errorf("file %d: %d bytes, %v", i, len(got), err)
					}
				})
			}
			wg.Wait()
			m.umount(t)
		})
	}
}
