package mount

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// loopImage makes an image file in dir whose every sector has its number.
func loopImage(t *testing.T, dir string, size int) *os.File {
	t.Helper()
	data := make([]byte, size)
	for i := range data {
		data[i] = byte(i / 512)
	}
	path := filepath.Join(dir, "loop.img")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func needLoop(t *testing.T) {
	t.Helper()
	f, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("needs loop devices: %v", err)
	}
	f.Close()
}

// loopAttr is what sysfs says of a loop device, and whether it says anything.
func loopAttr(device, attr string) string {
	b, err := os.ReadFile(filepath.Join("/sys/block", filepath.Base(device), attr))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// detached waits until no loop device shows the file, by whatever name.
func detached(t *testing.T, image *os.File) {
	t.Helper()
	waitFor(t, "the loop device to go", func() bool { return loopOf(image, false) == "" })
}

func TestLoop(t *testing.T) {
	needLoop(t)
	image := loopImage(t, t.TempDir(), 1<<20)
	for _, c := range []struct {
		o    LoopOptions
		size int // sectors of 512 bytes
	}{
		{LoopOptions{}, 2048},
		{LoopOptions{Direct: true, ReadOnly: true}, 2048},
		{LoopOptions{Direct: true, Offset: 64 << 10}, 1920},
		{LoopOptions{Direct: true, Offset: 64 << 10, SizeLimit: 128 << 10}, 256},
		{LoopOptions{Direct: true, Offset: 64 << 10, SizeLimit: 1 << 30}, 1920},
	} {
		name := fmt.Sprintf("%+v", c.o)
		f, err := AttachLoop(image, c.o)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for attr, want := range map[string]string{
			"loop/dio": "1", "loop/autoclear": "1", "loop/partscan": "0", "loop/offset": fmt.Sprint(c.o.Offset),
			"ro": map[bool]string{false: "0", true: "1"}[c.o.ReadOnly], "size": fmt.Sprint(c.size),
			"loop/backing_file": image.Name(), "queue/logical_block_size": fmt.Sprint(loopSector(image)),
		} {
			if got := loopAttr(f.Name(), attr); got != want {
				t.Errorf("%s: %s is %q, want %q", name, attr, got, want)
			}
		}
		got := make([]byte, 8192)
		if _, err := f.ReadAt(got, 0); err != nil || got[0] != byte(c.o.Offset/512) || got[512] != byte(c.o.Offset/512+1) {
			t.Errorf("%s: reads %x %x, %v", name, got[0], got[512], err)
		}
		if fd, err := unix.Open(f.Name(), unix.O_RDONLY|unix.O_EXCL, 0); !errors.Is(err, unix.EBUSY) {
			t.Errorf("%s: others can claim it: %v", name, err)
			unix.Close(fd)
		}
		if loopOf(image, false) != f.Name() {
			t.Errorf("%s: it is not found", name)
		}
		f.Close()
		detached(t, image)
	}
}

// TestLoopInUse: two loop devices of one file have two caches.
func TestLoopInUse(t *testing.T) {
	needLoop(t)
	dir := t.TempDir()
	image := loopImage(t, dir, 1<<20)
	rw, err := AttachLoop(image, LoopOptions{})
	if err != nil {
		t.Fatal(err)
	}
	// The file is found by what it is, not by its name.
	if err := os.Rename(image.Name(), filepath.Join(dir, "renamed")); err != nil {
		t.Fatal(err)
	}
	for _, readOnly := range []bool{false, true} {
		f, err := AttachLoop(image, LoopOptions{ReadOnly: readOnly})
		if !errors.Is(err, unix.EBUSY) || !strings.Contains(err.Error(), "in use by "+rw.Name()) {
			t.Errorf("read-only %v, beside %s: %v, %v", readOnly, rw.Name(), f, err)
		}
	}
	rw.Close()
	detached(t, image)

	reader, err := AttachLoop(image, LoopOptions{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	if f, err := AttachLoop(image, LoopOptions{}); !errors.Is(err, unix.EBUSY) {
		t.Errorf("a writer beside a reader: %v, %v", f, err)
	}
	second, err := AttachLoop(image, LoopOptions{ReadOnly: true})
	if err != nil {
		t.Fatalf("two readers: %v", err)
	}
	second.Close()
}

// TestLoopDirect: where there is no direct I/O a device is made only if that is not
// asked for.
func TestLoopDirect(t *testing.T) {
	needLoop(t)
	image := loopImage(t, t.TempDir(), 1<<20)
	if f, err := AttachLoop(image, LoopOptions{Direct: true, Offset: 1000}); !errors.Is(err, unix.EOPNOTSUPP) {
		t.Errorf("from an odd offset: %v, %v", f, err)
	}
	detached(t, image)
	f, err := AttachLoop(image, LoopOptions{Offset: 1000})
	if err != nil {
		t.Fatal(err)
	}
	if got := loopAttr(f.Name(), "loop/dio"); got != "0" {
		t.Errorf("direct I/O from an odd offset: %q", got)
	}
	f.Close()
	detached(t, image)
}

// TestLoopSectors: on a disk with larger sectors the loop device has them as well, or
// direct I/O were not possible.
func TestLoopSectors(t *testing.T) {
	needLoop(t)
	needMount(t)
	if _, err := exec.LookPath("mke2fs"); err != nil {
		t.Skip("needs mke2fs (package e2fsprogs)")
	}
	for _, sector := range []uint32{1024, 2048, 4096} {
		disk := loopImage(t, t.TempDir(), 16<<20)
		outer := diskWith(t, disk, sector)
		out, err := exec.Command("mke2fs", "-q", "-t", "ext4", "-b", "4096", "-F", outer).CombinedOutput()
		if err != nil {
			t.Fatalf("mke2fs: %v\n%s", err, out)
		}
		dir := t.TempDir()
		if err := unix.Mount(outer, dir, "ext4", 0, ""); err != nil {
			t.Skipf("needs the kernel's ext4: %v", err)
		}
		t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
		image := loopImage(t, dir, 1<<20)
		f, err := AttachLoop(image, LoopOptions{Direct: true})
		if err != nil {
			t.Fatalf("on sectors of %d: %v", sector, err)
		}
		if size, err := unix.IoctlGetInt(int(f.Fd()), unix.BLKSSZGET); err != nil || size != int(sector) {
			t.Errorf("on sectors of %d: sectors of %d, %v", sector, size, err)
		}
		f.Close()
		detached(t, image)
		image.Close()
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	}
}

// diskWith is a loop device with such sectors, for the time of the test.
func diskWith(t *testing.T, image *os.File, sector uint32) string {
	t.Helper()
	out, err := exec.Command("losetup", "--find", "--show", "--sector-size", fmt.Sprint(sector), image.Name()).Output()
	if err != nil {
		t.Skipf("needs losetup (package util-linux): %v", err)
	}
	path := string(bytes.TrimSpace(out))
	t.Cleanup(func() { exec.Command("losetup", "--detach", path).Run() })
	return path
}

// TestLoopKilled: whoever attached it need not live to detach it.
func TestLoopKilled(t *testing.T) {
	needLoop(t)
	image := loopImage(t, t.TempDir(), 1<<20)
	c := part(t, nil, "loop", image.Name())
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the loop device", func() bool { return loopOf(image, false) != "" })
	c.Process.Kill()
	c.Wait()
	detached(t, image)
}
