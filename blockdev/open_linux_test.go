package blockdev

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func image(t *testing.T, dir string, size int64) string {
	t.Helper()
	path := filepath.Join(dir, "disk.img")
	if err := os.WriteFile(path, noise(int(size), 9), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// attach attaches path to a loop device.
func attach(t *testing.T, path string, args ...string) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("loop devices need root")
	}
	out, err := exec.Command("losetup", append(append([]string{"-f", "--show"}, args...), path)...).Output()
	if err != nil {
		t.Skip("no loop device: ", err)
	}
	return strings.TrimSpace(string(out))
}

func detach(t *testing.T, dev string) {
	t.Helper()
	if out, err := exec.Command("losetup", "-d", dev).CombinedOutput(); err != nil {
		t.Errorf("losetup -d %s: %v\n%s", dev, err, out)
	}
}

// loop attaches path to a loop device until the end of the test.
func loop(t *testing.T, path string, args ...string) string {
	t.Helper()
	dev := attach(t, path, args...)
	t.Cleanup(func() { detach(t, dev) })
	return dev
}

func tmpfs(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "blockdev")
	if err != nil {
		t.Skip("no /dev/shm")
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func mustOpen(t *testing.T, path string, o Options) *File {
	t.Helper()
	f, err := Open(path, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// Random requests against real files and devices: what is in them afterwards is
// what was written, outside of the window it is what was there before.
func TestRealHosts(t *testing.T) {
	const size = 4 << 20
	for _, host := range []struct {
		name string
		path func(t *testing.T) string
	}{
		{"disk", func(t *testing.T) string { return image(t, t.TempDir(), size) }},
		{"odd length", func(t *testing.T) string { return image(t, t.TempDir(), size+1234) }},
		{"tmpfs", func(t *testing.T) string { return image(t, tmpfs(t), size) }},
		{"loop 512", func(t *testing.T) string { return loop(t, image(t, t.TempDir(), size)) }},
		{"loop 4096", func(t *testing.T) string { return loop(t, image(t, t.TempDir(), size), "--sector-size", "4096") }},
	} {
		for _, c := range []struct {
			name string
			o    Options
		}{
			{"whole", Options{}},
			{"buffered", Options{Buffered: true}},
			{"read-only", Options{ReadOnly: true, Offset: 8192}},
			{"aligned window", Options{Offset: 1 << 20, SizeLimit: 2 << 20}},
			{"unaligned window", Options{Offset: 1000, SizeLimit: 1<<20 + 1}},
		} {
			t.Run(host.name+"/"+c.name, func(t *testing.T) {
				path := host.path(t)
				before, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				f := mustOpen(t, path, c.o)
				t.Logf("direct %v, alignment %d, sector %d", f.Direct(), f.Alignment(), f.SectorSize())
				if (c.o.Buffered || c.name == "unaligned window") && f.Direct() {
					t.Error("direct I/O")
				}
				if strings.HasPrefix(host.name, "loop") {
					if want, _ := strconv.Atoi(host.name[5:]); f.SectorSize() != want || !f.IsBlockDevice() {
						t.Errorf("sector size %d", f.SectorSize())
					}
				}
				direct := f.Direct()
				inside := exercise(t, f, 11)
				if f.Direct() != direct {
					t.Error("direct I/O was given up: a request was not aligned")
				}
				if !f.ReadOnly() {
					hammer(t, f)
					if _, err := f.WriteAt(inside, 0); err != nil {
						t.Fatal(err)
					}
				}
				if err := f.Close(); err != nil {
					t.Fatal(err)
				}
				copy(before[f.Base():], inside)
				after, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(before, after) {
					t.Error("content differs, in the window or outside of it")
				}
			})
		}
	}
}

// Where the kernel tells that it does direct I/O, we do.
func TestDirectWhereTheKernelSays(t *testing.T) {
	path := image(t, t.TempDir(), 1<<20)
	var stx unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, 0, unix.STATX_DIOALIGN, &stx); err != nil || stx.Dio_offset_align == 0 {
		t.Skip("this filesystem does not tell")
	}
	f := mustOpen(t, path, Options{})
	flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFL, 0)
	if err != nil || flags&unix.O_DIRECT == 0 || !f.Direct() {
		t.Errorf("no direct I/O: flags %#x, %v", flags, err)
	}
	if want := max(stx.Dio_offset_align, stx.Dio_mem_align); f.Alignment() != int(want) {
		t.Errorf("alignment %d, want %d", f.Alignment(), want)
	}

	// Reading finds an alignment that works too, where the kernel is silent.
	h := newOSHandle(os.NewFile(dup(t, f), path), false)
	defer h.close()
	if a := h.tryDirect(1 << 20); a < int(stx.Dio_offset_align) && stx.Dio_read_offset_align == 0 {
		t.Errorf("tried alignment %d, want %d", a, stx.Dio_offset_align)
	}
}

func dup(t *testing.T, f *File) uintptr {
	t.Helper()
	fd, err := unix.Dup(int(f.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	return uintptr(fd)
}

func TestTruncatedFile(t *testing.T) {
	for _, buffered := range []bool{false, true} {
		path := image(t, t.TempDir(), 1<<20)
		f := mustOpen(t, path, Options{Buffered: buffered})
		if err := os.Truncate(path, 10_000); err != nil {
			t.Fatal(err)
		}
		buf := AllocAligned(16384, 4096)
		if n, err := f.ReadAt(buf, 0); n != 10_000 || !errors.Is(err, syscall.EIO) {
			t.Errorf("read: %d, %v", n, err)
		}
		_, err := f.ReadAt(buf, 65536)
		wantError(t, err, syscall.EIO, "offset 65536: the file has become shorter")
		wantError(t, f.Flush(), syscall.EIO, "shorter")
	}
}

func TestEndOfFile(t *testing.T) {
	for _, o := range []Options{{}, {ReadOnly: true}, {Buffered: true}} {
		path := image(t, t.TempDir(), 10_000)
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		f := mustOpen(t, path, o)
		got, err := io.ReadAll(io.NewSectionReader(f, 0, 1<<20))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		if n, err := f.ReadAt(make([]byte, 100), 9_950); n != 50 || err != io.EOF {
			t.Errorf("tail: %d, %v", n, err)
		}
	}
}

func TestDiscard(t *testing.T) {
	for _, host := range []struct {
		name string
		path func(t *testing.T, img string) string
	}{
		{"image", func(t *testing.T, img string) string { return img }},
		{"loop", func(t *testing.T, img string) string { return loop(t, img) }},
	} {
		t.Run(host.name, func(t *testing.T) {
			img := image(t, t.TempDir(), 4<<20)
			f := mustOpen(t, host.path(t, img), Options{})
			err := f.Discard(1<<20, 1<<20)
			if errors.Is(err, errors.ErrUnsupported) {
				t.Skip("this host cannot discard: ", err)
			}
			if err != nil {
				t.Fatal(err)
			}
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
			var st unix.Stat_t
			if err := unix.Stat(img, &st); err != nil {
				t.Fatal(err)
			}
			if st.Size != 4<<20 || st.Blocks*512 > 3<<20+64<<10 {
				t.Errorf("size %d, %d bytes allocated", st.Size, st.Blocks*512)
			}
		})
	}
}

func TestNoAllocationOnFile(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector makes sync.Pool drop buffers")
	}
	f := mustOpen(t, image(t, t.TempDir(), 1<<20), Options{})
	buf := AllocAligned(8193, 4096)
	if n := testing.AllocsPerRun(20, func() {
		f.ReadAt(buf[:8192], 4096)
		f.WriteAt(buf[:8192], 4096)
		f.ReadAt(buf[1:], 77)
		f.WriteAt(buf[1:], 77)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestRefusedPaths(t *testing.T) {
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	img := image(t, dir, 8192)
	for _, c := range []struct {
		path  string
		o     Options
		errno error
		text  string
	}{
		{dir, Options{}, syscall.EISDIR, "is a directory; name an image file"},
		{fifo, Options{}, syscall.EINVAL, "is a fifo"},
		{"/dev/null", Options{}, syscall.EINVAL, "is a character device"},
		{filepath.Join(dir, "none"), Options{}, syscall.ENOENT, "none: no such file or directory; check the path"},
		{img + "/x", Options{}, syscall.ENOTDIR, "check the path"},
		{img, Options{Offset: -1}, syscall.EINVAL, "negative"},
		{img, Options{SizeLimit: -1}, syscall.EINVAL, "negative"},
		{img, Options{Offset: 8192}, syscall.EINVAL, "offset 8192 is past its end at 8192"},
		{img, Options{Offset: 1 << 62}, syscall.EINVAL, "past its end"},
		{img, Options{Partition: 1}, syscall.ENXIO, "no partition table"},
		{img, Options{Partition: 1, SectorSize: 500}, syscall.EINVAL, "sector size 500"},
	} {
		_, err := Open(c.path, c.o)
		wantError(t, err, c.errno, c.text)
		if err != nil && !strings.HasPrefix(err.Error(), c.path+": ") {
			t.Errorf("error %q does not begin with the path", err)
		}
		if !errors.As(err, new(syscall.Errno)) {
			t.Errorf("%v has no errno", err)
		}
	}
	f := mustOpen(t, img, Options{SizeLimit: 1 << 40})
	if f.Size() != 8192 {
		t.Errorf("size %d", f.Size())
	}
}

func TestNewFileChecksDescriptor(t *testing.T) {
	img := image(t, t.TempDir(), 8192)
	for _, c := range []struct {
		flags int
		o     Options
		errno error
	}{
		{os.O_RDONLY, Options{}, syscall.EROFS},
		{os.O_WRONLY, Options{}, syscall.EBADF},
		{os.O_RDWR | os.O_APPEND, Options{}, syscall.EINVAL},
		{unix.O_PATH, Options{ReadOnly: true}, syscall.EBADF},
		{os.O_RDONLY, Options{ReadOnly: true}, nil},
		{os.O_RDWR | unix.O_DIRECT, Options{Offset: 1}, nil}, // not possible directly
	} {
		f, err := os.OpenFile(img, c.flags, 0)
		if err != nil {
			t.Fatal(err)
		}
		dev, err := NewFile(f, c.o)
		if !errors.Is(err, c.errno) {
			t.Errorf("flags %#x: %v", c.flags, err)
		}
		if err == nil {
			exercise(t, dev, 1)
			f = nil
			dev.Close()
			if _, err := dev.ReadAt(make([]byte, 1), 0); !errors.Is(err, syscall.EBADF) {
				t.Errorf("read after close: %v", err)
			}
			continue
		}
		if _, err := f.Stat(); err != nil {
			t.Errorf("flags %#x: NewFile failed and closed the file", c.flags)
		}
		f.Close()
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	_, err = NewFile(r, Options{ReadOnly: true})
	wantError(t, err, syscall.EINVAL, "fifo or pipe")
}

func TestImageLocks(t *testing.T) {
	img := image(t, t.TempDir(), 8192)
	const inUse = "disk.img: in use by another process (mounted, or another ext4box); unmount it first"
	for _, c := range []struct {
		first, second Lock
		busy          bool
	}{
		{LockExclusive, LockExclusive, true},
		{LockExclusive, LockShared, true},
		{LockShared, LockExclusive, true},
		{LockShared, LockShared, false},
		{LockExclusive, LockNone, false},
		{LockNone, LockExclusive, false},
	} {
		first, err := Open(img, Options{Lock: c.first})
		if err != nil {
			t.Fatal(err)
		}
		second, err := Open(img, Options{Lock: c.second, LockWait: -1})
		if c.busy {
			wantError(t, err, syscall.EBUSY, inUse)
		} else if err != nil {
			t.Errorf("%v after %v: %v", c.second, c.first, err)
		} else {
			second.Close()
		}
		first.Close()
	}
}

// A lock that is let go meanwhile is waited for.
func TestLockWait(t *testing.T) {
	img := image(t, t.TempDir(), 8192)
	for _, path := range []string{img, loop(t, image(t, t.TempDir(), 8192))} {
		first := mustOpen(t, path, Options{Lock: LockExclusive})
		var wg sync.WaitGroup
		wg.Go(func() {
			time.Sleep(2 * lockPoll)
			first.Close()
		})
		second, err := Open(path, Options{Lock: LockExclusive, LockWait: time.Minute})
		wg.Wait()
		if err != nil {
			t.Fatal(err)
		}
		second.Close()
	}
}

func TestLocksOfHandedOverDescriptor(t *testing.T) {
	img := image(t, t.TempDir(), 8192)
	o := Options{Lock: LockExclusive, LockWait: -1}
	f, err := OpenFile(img, o)
	if err != nil {
		t.Fatal(err)
	}
	dev, err := NewFile(f, o) // twice is harmless
	if err != nil {
		t.Fatal(err)
	}
	_, err = Open(img, o)
	wantError(t, err, syscall.EBUSY, "in use")
	dev.Close()
	mustOpen(t, img, o)
}

func TestDeviceLocks(t *testing.T) {
	dev := loop(t, image(t, t.TempDir(), 1<<20))
	for _, l := range []Lock{LockShared, LockExclusive} {
		first := mustOpen(t, dev, Options{ReadOnly: true, Lock: l})
		_, err := Open(dev, Options{ReadOnly: true, Lock: LockShared, LockWait: -1})
		wantError(t, err, syscall.EBUSY, dev+": in use by another process")
		other := mustOpen(t, dev, Options{})
		if err := unix.Flock(int(other.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			t.Errorf("the device has a flock: %v", err)
		}
		other.Close()
		first.Close()
	}
}

func TestMountedDeviceIsBusy(t *testing.T) {
	mke2fs, err := exec.LookPath("mke2fs")
	if err != nil {
		t.Skip("mke2fs is not installed")
	}
	img := image(t, t.TempDir(), 2<<20)
	if out, err := exec.Command(mke2fs, "-q", "-F", "-t", "ext4", "-O", "^has_journal", img).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	dev, dir := loop(t, img), t.TempDir()
	if err := unix.Mount(dev, dir, "ext4", 0, ""); err != nil {
		t.Skip("cannot mount: ", err)
	}
	t.Cleanup(func() { unix.Unmount(dir, 0) })
	for _, l := range []Lock{LockShared, LockExclusive} {
		_, err := Open(dev, Options{ReadOnly: true, Lock: l, LockWait: -1})
		wantError(t, err, syscall.EBUSY, "mounted")
	}
}

func TestBackingFileOfLoopDevice(t *testing.T) {
	img := image(t, t.TempDir(), 1<<20)
	link := img + "2"
	if err := os.Link(img, link); err != nil {
		t.Fatal(err)
	}
	t.Run("writable", func(t *testing.T) {
		dev := loop(t, link)
		for _, l := range []Lock{LockShared, LockExclusive} {
			_, err := Open(img, Options{ReadOnly: true, Lock: l, LockWait: -1})
			wantError(t, err, syscall.EBUSY, "in use by the loop device "+dev+"; detach it first (losetup -d "+dev+")")
		}
		mustOpen(t, img, Options{ReadOnly: true})
	})
	t.Run("read-only", func(t *testing.T) {
		dev := loop(t, img, "-r")
		_, err := Open(img, Options{Lock: LockExclusive})
		wantError(t, err, syscall.EBUSY, dev)
		mustOpen(t, img, Options{ReadOnly: true, Lock: LockShared})
		_, err = Open(dev, Options{})
		wantError(t, err, syscall.EROFS, "write-protected; open it read-only")
	})
	t.Run("detached", func(t *testing.T) {
		mustOpen(t, img, Options{Lock: LockExclusive})
	})
	t.Run("detached soon", func(t *testing.T) {
		dev := attach(t, img)
		time.AfterFunc(100*time.Millisecond, func() { detach(t, dev) })
		mustOpen(t, img, Options{Lock: LockExclusive, LockWait: time.Minute})
	})
}

// A loop device on a block device is found as well.
func TestLoopDeviceOnDevice(t *testing.T) {
	dev := loop(t, image(t, t.TempDir(), 1<<20))
	upper := loop(t, dev)
	_, err := Open(dev, Options{Lock: LockExclusive, LockWait: -1})
	wantError(t, err, syscall.EBUSY, "")
	t.Log(upper, err)
}

// The same image with 4096-byte sectors behind a device that has them, and the
// partition opened through the device.
func TestPartitionsOfDevice(t *testing.T) {
	for _, sector := range []int{512, 4096} {
		img, table := makeTable(t, gptScript, sector)
		dev := loop(t, img, "--sector-size", strconv.Itoa(sector))
		compareTable(t, list(t, dev), table)
		f := mustOpen(t, dev, Options{Partition: 2})
		if !f.Direct() || f.Alignment() > 4096 || f.Size() != 2<<20 {
			t.Errorf("direct %v, alignment %d, size %d", f.Direct(), f.Alignment(), f.Size())
		}
		exercise(t, f, 12)

		// A device with other sectors does not have this table.
		other := loop(t, img, "-r", "--sector-size", strconv.Itoa(512+4096-sector))
		_, err := Open(other, Options{ReadOnly: true, Partition: 2})
		wantError(t, err, syscall.EUCLEAN, "damaged")
		mustOpen(t, other, Options{ReadOnly: true, Partition: 2, SectorSize: sector})
		mustOpen(t, other, Options{ReadOnly: true, Partition: 2, AnySector: true})
	}
}

func TestLimits(t *testing.T) {
	img := image(t, t.TempDir(), 1<<20)
	_, err := mustOpen(t, img, Options{}).Limits()
	wantError(t, err, syscall.ENOTBLK, "is not a block device")
	for _, sector := range []uint32{512, 1024, 4096} {
		dev := loop(t, img, "-r", "--sector-size", strconv.Itoa(int(sector)))
		l, err := mustOpen(t, dev, Options{ReadOnly: true}).Limits()
		if err != nil || l != (Limits{SectorSize: sector}) { // loop devices tear
			t.Errorf("sectors of %d: %+v, %v", sector, l, err)
		}
	}
}
