package test

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ext4box/ext4"
	"ext4box/internal/testimage"
)

// mountType is the type and source of what is mounted on dir.
func mountType(t *testing.T, dir string) (typ, source string) {
	t.Helper()
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.SplitSeq(string(b), "\n") {
		if f := strings.Fields(line); len(f) > 6 && f[4] == dir {
			_, tail, _ := strings.Cut(line, " - ")
			return strings.Fields(tail)[0], strings.Fields(tail)[1]
		}
	}
	t.Fatalf("%s is not mounted", dir)
	return "", ""
}

// attach makes a loop device of an image until the test ends.
func attach(t *testing.T, path string) string {
	t.Helper()
	out, err := exec.Command("losetup", "-f", "--show", path).Output()
	if err != nil {
		t.Skip("needs a loop device")
	}
	name := strings.TrimSpace(string(out))
	t.Cleanup(func() {
		if err := exec.Command("losetup", "-d", name).Run(); err != nil {
			t.Errorf("detach %s: %v", name, err)
		}
	})
	return name
}

// TestBlkdev mounts in each of the ways that blkdev= chooses from, and looks at
// what a mount that holds its device has over others: it cannot be taken by others,
// syncfs(2) makes what was written durable, and umount(2) returns when the device is
// closed, with the file system clean.
func TestBlkdev(t *testing.T) {
	for _, c := range []struct {
		name, options string
		loop, block   bool
	}{
		{name: "file", options: "blkdev=auto"},
		{name: "file on", options: "blkdev=on", block: true},
		{name: "device", options: "blkdev=auto", loop: true, block: true},
		{name: "device on", options: "blkdev=on", loop: true, block: true},
		{name: "device off", options: "blkdev=off", loop: true},
		{name: "device with a name", options: "fsname=name", loop: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			img := makeImage(t, 32<<20)
			source := img.Path
			if c.loop {
				source = attach(t, img.Path)
			}
			dir := mountRW(t, source, "commit=900", c.options)
			typ, shown := mountType(t, dir)
			if c.block != (typ == "fuseblk.ext4box") || !c.block && typ != "fuse.ext4box" {
				t.Errorf("type %s", typ)
			}
			if c.loop && c.block && shown != source || c.block && !strings.HasPrefix(shown, "/dev/loop") {
				t.Errorf("source %s", shown)
			}
			if c.loop || c.block {
				if fd, err := unix.Open(shown, unix.O_RDWR|unix.O_EXCL, 0); !strings.HasPrefix(c.options, "fsname") && c.block && !errors.Is(err, unix.EBUSY) {
					t.Errorf("the device can be taken: %v", err)
					unix.Close(fd)
				}
			}
			if r := run(t, "mount", source, t.TempDir()); r.status == 0 {
				t.Error("it can be mounted twice")
			}
			want := pattern(3<<20, 5)
			if err := os.Mkdir(filepath.Join(dir, "d"), 0o777); err != nil {
				t.Fatal(err)
			}
			f, err := os.Create(filepath.Join(dir, "d", "file"))
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if _, err := f.Write(want); err != nil {
				t.Fatal(err)
			}
			fd, err := unix.Open(dir, unix.O_RDONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			err = unix.Syncfs(fd)
			unix.Close(fd)
			if err != nil {
				t.Fatal(err)
			}
			if c.block {
				got, err := openImage(t, copyImage(t, img, ".synced"), ext4.Options{}).FS().ReadFile("d/file")
				if err != nil || !bytes.Equal(got, want) {
					t.Errorf("after syncfs: %d bytes of %d, %v", len(got), len(want), err)
				}
			}
			if err := errors.Join(f.Close(), os.Rename(filepath.Join(dir, "d", "file"), filepath.Join(dir, "moved"))); err != nil {
				t.Fatal(err)
			}
			if !c.block {
				umount(t, dir)
				return
			}
			if err := unix.Unmount(dir, 0); err != nil {
				t.Fatal(err)
			}
			// At once, with the server perhaps not yet gone.
			if err := testimage.Run("e2fsck", "-fn", img.Path); err != nil {
				t.Error(err)
			}
			fs := openImage(t, copyImage(t, img, ".unmounted"), ext4.Options{NoRecovery: true})
			if got, err := fs.FS().ReadFile("moved"); err != nil || !bytes.Equal(got, want) || fs.Recovery().Needed {
				t.Errorf("after umount: %d bytes of %d, %v, %+v", len(got), len(want), err, fs.Recovery())
			}
			if c.loop {
				fd, err := unix.Open(source, unix.O_RDWR|unix.O_EXCL, 0)
				if err != nil {
					t.Errorf("after umount the device is in use: %v", err)
				} else {
					unix.Close(fd)
				}
			}
		})
	}
}

// TestBlkdevNames: a mount through a loop device is unmounted by the name of
// its image, and leaves no loop device.
func TestBlkdevNames(t *testing.T) {
	img := makeImage(t, 16<<20)
	dir := mountRW(t, img.Path, "blkdev=on")
	_, loop := mountType(t, dir)
	if r := run(t, "umount", img.Path); r.status != 0 || mounted(dir) {
		t.Fatalf("status %d: %s", r.status, r.stderr)
	}
	backing := filepath.Join("/sys/block", filepath.Base(loop), "loop/backing_file")
	for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		b, err := os.ReadFile(backing)
		if err != nil || !strings.Contains(string(b), img.Path) {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%s is still attached", loop)
		}
	}
}

// TestBlkdevReadOnly mounts a device for reading, which leaves it as it is.
func TestBlkdevReadOnly(t *testing.T) {
	img := makeImage(t, 16<<20)
	before := imageSums(t, img)
	dir := mount(t, attach(t, img.Path))
	if typ, _ := mountType(t, dir); typ != "fuseblk.ext4box" {
		t.Errorf("type %s", typ)
	}
	if err := os.Mkdir(filepath.Join(dir, "x"), 0o777); !errors.Is(err, unix.EROFS) {
		t.Errorf("mkdir: %v", err)
	}
	if err := unix.Unmount(dir, 0); err != nil {
		t.Fatal(err)
	}
	if imageSums(t, img) != before {
		t.Error("the image has changed")
	}
}
