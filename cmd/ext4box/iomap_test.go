package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ext4box/mount"
)

// An iomapTest is an image, which is mounted as on a kernel that says it had fuse-iomap. If
// it does not, that shows when the kernel mounts.
type iomapTest struct {
	image, dir string
	stderr     string
	verbose    bool
}

func newIomapTest(t *testing.T, mkfs ...string) *iomapTest {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	for _, path := range []string{"/dev/fuse", "/dev/loop-control"} {
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Skip(err)
		}
		f.Close()
	}
	if k := mount.AskIomap(); k.Known {
		t.Skip("this kernel has fuse-iomap")
	}
	base := t.TempDir()
	t.Setenv("XDG_RUNTIME_DIR", base)
	it := &iomapTest{image: filepath.Join(base, "image"), dir: filepath.Join(base, "dir")}
	args := append([]string{"-q", "-t", "ext4"}, mkfs...)
	if out, err := exec.Command("mke2fs", append(args, it.image, "16M")...).CombinedOutput(); err != nil {
		t.Skipf("needs mke2fs (package e2fsprogs): %v\n%s", err, out)
	}
	if err := os.Mkdir(it.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(it.dir, unix.MNT_DETACH) })
	return it
}

// mount mounts with the options given.
func (it *iomapTest) mount(options string) error {
	args := []string{"mount"}
	if it.verbose {
		args = append(args, "-v")
	}
	if options != "" {
		args = append(args, "-o", options)
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = append(append([]string{"ext4box-with-iomap"}, args...), it.image, it.dir)
	out, err := cmd.CombinedOutput()
	it.stderr = string(out)
	if err == nil {
		return nil
	}
	text := strings.TrimSuffix(it.stderr, "\n")
	if n := strings.LastIndexByte(text, '\n') + 1; n >= 0 {
		it.stderr, text = it.stderr[:n], text[n:]
	}
	return &mount.Error{Status: cmd.ProcessState.ExitCode(), Err: errors.New(text)}
}

// loop is the loop device of the image, or "".
func (it *iomapTest) loop() string {
	files, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	for _, f := range files {
		if b, err := os.ReadFile(f); err == nil && strings.TrimSpace(string(b)) == it.image {
			return filepath.Dir(f)
		}
	}
	return ""
}

func (it *iomapTest) mounted() bool {
	mounts, err := mount.Mounts()
	if err != nil {
		return false
	}
	for _, i := range mounts {
		if i.Dir == it.dir {
			return true
		}
	}
	return false
}

// gone expects that nothing is left: no mount, no loop device, no server.
func (it *iomapTest) gone(t *testing.T) {
	t.Helper()
	if it.mounted() {
		t.Error("it is mounted")
	}
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		locked := it.locked(t)
		if it.loop() == "" && !locked {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("left: loop device %q, locked %v", it.loop(), locked)
		}
	}
}

// locked tells whether somebody has the image: a server, or a loop device.
func (it *iomapTest) locked(t *testing.T) bool {
	t.Helper()
	f, err := os.Open(it.image)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil
}

// check expects e2fsck to find nothing.
func (it *iomapTest) check(t *testing.T, path string) {
	t.Helper()
	if out, err := exec.Command("e2fsck", "-fn", path).CombinedOutput(); err != nil {
		t.Errorf("e2fsck: %v\n%s", err, out)
	}
}

// TestIomapFallback: what is prepared for fuse-iomap is a good mount where the kernel, in the
// end, does not have it. There is one warning.
func TestIomapFallback(t *testing.T) {
	for _, blockSize := range []string{"1024", "4096"} {
		it := newIomapTest(t, "-b", blockSize)
		if err := it.mount(""); err != nil {
			t.Fatal(err)
		}
		if strings.Count(it.stderr, "\n") != 1 || !strings.Contains(it.stderr, "warning: "+it.image+": file data goes through the server: ") {
			t.Errorf("said %q", it.stderr)
		}
		loop := it.loop()
		for attr, want := range map[string]string{"dio": "1", "autoclear": "1", "offset": "0"} {
			if b, err := os.ReadFile(filepath.Join(loop, attr)); err != nil || strings.TrimSpace(string(b)) != want {
				t.Errorf("%s of the loop device is %q, %v", attr, b, err)
			}
		}
		if fd, err := unix.Open("/dev/"+filepath.Base(filepath.Dir(loop)), unix.O_RDONLY|unix.O_EXCL, 0); err == nil {
			t.Error("others can claim the device")
			unix.Close(fd)
		}
		data := bytes.Repeat([]byte("iomap"), 100_000)
		if err := os.WriteFile(filepath.Join(it.dir, "file"), data, 0o644); err != nil {
			t.Error(err)
		}
		if err := it.mount("ro"); err == nil {
			t.Error("it can be mounted twice")
		}
		if err := mount.Unmount(it.image, mount.UnmountOptions{}); err != nil {
			t.Fatal(err)
		}
		it.gone(t)
		it.check(t, it.image)
		it.verbose = true
		if err := it.mount("ro"); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(it.stderr, "mounted on "+it.dir) || strings.Count(it.stderr, "file data goes through the server") != 2 {
			t.Errorf("said %q", it.stderr)
		}
		if !strings.Contains(it.stderr, "the box of the server: complete") { // sealed while the kernel mounts
			t.Errorf("said %q", it.stderr)
		}
		if b, err := os.ReadFile(filepath.Join(it.loop(), "../ro")); err != nil || strings.TrimSpace(string(b)) != "1" {
			t.Errorf("mounted for reading: ro is %q, %v", b, err)
		}
		if got, err := os.ReadFile(filepath.Join(it.dir, "file")); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		if err := mount.Unmount(it.dir, mount.UnmountOptions{}); err != nil {
			t.Fatal(err)
		}
		it.gone(t)
	}
}

// TestIomapWindow: the loop device shows the part of the image that was asked for.
func TestIomapWindow(t *testing.T) {
	it := newIomapTest(t)
	fs, err := os.ReadFile(it.image)
	if err != nil {
		t.Fatal(err)
	}
	const before, behind = 1 << 20, 1 << 20
	disk := append(append(bytes.Repeat([]byte{0xaa}, before), fs...), bytes.Repeat([]byte{0xbb}, behind)...)
	if err := os.WriteFile(it.image, disk, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := it.mount(fmt.Sprintf("offset=%d,sizelimit=%d", before, len(fs))); err != nil {
		t.Fatal(err)
	}
	for attr, want := range map[string]int{"loop/offset": before, "loop/sizelimit": len(fs), "size": len(fs) / 512} {
		if b, err := os.ReadFile(filepath.Join(it.loop(), "..", attr)); err != nil || strings.TrimSpace(string(b)) != fmt.Sprint(want) {
			t.Errorf("%s is %q, want %d, %v", attr, b, want, err)
		}
	}
	if err := os.WriteFile(filepath.Join(it.dir, "file"), fs[:1<<20], 0o644); err != nil {
		t.Error(err)
	}
	if err := mount.Unmount(it.dir, mount.UnmountOptions{}); err != nil {
		t.Fatal(err)
	}
	it.gone(t)
	got, err := os.ReadFile(it.image)
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != len(disk) || !bytes.Equal(got[:before], disk[:before]) || !bytes.Equal(got[len(got)-behind:], disk[len(disk)-behind:]) {
		t.Error("something around the file system has changed")
	}
	inner := filepath.Join(t.TempDir(), "inner")
	if err := os.WriteFile(inner, got[before:len(got)-behind], 0o600); err != nil {
		t.Fatal(err)
	}
	it.check(t, inner)

	// An offset that direct I/O does not take is no reason not to mount.
	odd := append(bytes.Repeat([]byte{0xaa}, 1000), fs...)
	if err := os.WriteFile(it.image, odd, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := it.mount("offset=1000"); err != nil {
		t.Fatal(err)
	}
	if it.loop() != "" || strings.Count(it.stderr, "\n") != 1 || !strings.Contains(it.stderr, "no direct I/O") {
		t.Errorf("offset=1000: loop device %q, said %q", it.loop(), it.stderr)
	}
	if err := mount.Unmount(it.dir, mount.UnmountOptions{}); err != nil {
		t.Fatal(err)
	}
	it.gone(t)
	if err := it.mount("offset=1000,iomap=on"); err == nil || !strings.Contains(err.Error(), "iomap=on") || !strings.Contains(err.Error(), "no direct I/O") {
		t.Errorf("offset=1000,iomap=on: %v", err)
	}
	it.gone(t)
	if err := it.mount("offset=1G"); err == nil || !strings.Contains(err.Error(), "past its end") {
		t.Errorf("offset=1G: %v", err)
	}
	it.gone(t)
}

// typeOf is the type of the mount.
func (it *iomapTest) typeOf() string {
	mounts, _ := mount.Mounts()
	for _, i := range mounts {
		if i.Dir == it.dir {
			return i.Type
		}
	}
	return ""
}

// device attaches the image to a loop device for it to be mounted by.
func (it *iomapTest) device(t *testing.T, options ...string) {
	t.Helper()
	out, err := exec.Command("losetup", append([]string{"--find", "--show"}, append(options, it.image)...)...).Output()
	if err != nil {
		t.Skipf("needs losetup (package util-linux): %v", err)
	}
	it.image = strings.TrimSpace(string(out))
	t.Cleanup(func() { exec.Command("losetup", "--detach", it.image).Run() })
}

// claimed tells whether somebody keeps others off the device.
func (it *iomapTest) claimed() bool {
	fd, err := unix.Open(it.image, unix.O_RDONLY|unix.O_EXCL, 0)
	if err == nil {
		unix.Close(fd)
	}
	return err != nil
}

// TestIomapDevice: a block device gets no other device, and is nobody else's while it is
// mounted.
func TestIomapDevice(t *testing.T) {
	it := newIomapTest(t)
	it.device(t)
	for _, options := range []string{"", "ro", "fsname=x", "blkdev=off"} {
		if err := it.mount(options); err != nil {
			t.Fatal(err)
		}
		if got := it.typeOf(); got != mount.FSType || !it.claimed() || it.loop() != "" {
			t.Errorf("%q: type %s, claimed %v, loop device %q", options, got, it.claimed(), it.loop())
		}
		if err := mount.Unmount(it.dir, mount.UnmountOptions{}); err != nil {
			t.Fatal(err)
		}
		if it.mounted() || it.claimed() {
			t.Errorf("%q: mounted %v, claimed %v", options, it.mounted(), it.claimed())
		}
	}
	it.check(t, it.image)
	// Who wants the kernel to hold the device gets that.
	if err := it.mount("blkdev=on"); err != nil || it.typeOf() != mount.BlockType {
		t.Errorf("blkdev=on: %v, type %s", err, it.typeOf())
	}
	if err := unix.Unmount(it.dir, 0); err != nil {
		t.Fatal(err)
	}
	it.check(t, it.image)
}

// TestIomapSectors: what the server finds out leads to the mount that there would have been.
func TestIomapSectors(t *testing.T) {
	it := newIomapTest(t, "-b", "1024")
	it.device(t, "--sector-size", "4096")
	if err := it.mount(""); err != nil {
		t.Fatal(err)
	}
	if it.typeOf() != mount.BlockType || strings.Count(it.stderr, "\n") != 1 || !strings.Contains(it.stderr, "the sectors of the device, of 4096 bytes, are larger") {
		t.Errorf("type %s, said %q", it.typeOf(), it.stderr)
	}
	if err := os.WriteFile(filepath.Join(it.dir, "file"), make([]byte, 5000), 0o644); err != nil {
		t.Error(err)
	}
	if err := mount.Unmount(it.dir, mount.UnmountOptions{}); err != nil {
		t.Fatal(err)
	}
	it.check(t, it.image)
	err := it.mount("iomap=on")
	if err == nil || mount.ExitStatus(err) != mount.StatusFailed || !strings.Contains(err.Error(), `"iomap=on": the sectors of the device`) {
		t.Errorf("iomap=on: %v", err)
	}
	if it.mounted() || it.claimed() {
		t.Errorf("iomap=on: mounted %v, claimed %v", it.mounted(), it.claimed())
	}
}

// TestIomapUnaligned: a device is not used by the kernel if direct I/O to the part in question
// is not possible.
func TestIomapUnaligned(t *testing.T) {
	it := newIomapTest(t)
	fs, err := os.ReadFile(it.image)
	if err != nil {
		t.Fatal(err)
	}
	odd := append(make([]byte, 1000), fs...)
	if err := os.WriteFile(it.image, append(odd, make([]byte, 4096-1000)...), 0o600); err != nil {
		t.Fatal(err)
	}
	it.device(t)
	if err := it.mount("offset=1000"); err != nil {
		t.Fatal(err)
	}
	if strings.Count(it.stderr, "\n") != 1 || !strings.Contains(it.stderr, "there is no direct I/O to it") {
		t.Errorf("said %q", it.stderr)
	}
	if err := mount.Unmount(it.dir, mount.UnmountOptions{}); err != nil {
		t.Fatal(err)
	}
}

// TestIomapReplayed: what is only in memory the kernel cannot read.
func TestIomapReplayed(t *testing.T) {
	it := newIomapTest(t)
	if err := it.mount("iomap=off"); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(it.dir, "file"))
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	f.Close()
	dirty, err := os.ReadFile(it.image)
	if err != nil {
		t.Fatal(err)
	}
	if err := mount.Unmount(it.dir, mount.UnmountOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(it.image, dirty, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := it.mount("ro,iomap=on"); err == nil || !strings.Contains(err.Error(), "replayed in memory") {
		t.Errorf("ro,iomap=on: %v", err)
	}
	it.gone(t)
	if err := it.mount("ro"); err != nil {
		t.Fatal(err)
	}
	if strings.Count(it.stderr, "\n") != 1 || !strings.Contains(it.stderr, "replayed in memory") || it.typeOf() != mount.FSType {
		t.Errorf("type %s, said %q", it.typeOf(), it.stderr)
	}
	if _, err := os.Stat(filepath.Join(it.dir, "file")); err != nil {
		t.Error(err)
	}
	if err := mount.Unmount(it.dir, mount.UnmountOptions{}); err != nil {
		t.Fatal(err)
	}
	it.gone(t)
	if after, err := os.ReadFile(it.image); err != nil || !bytes.Equal(after, dirty) {
		t.Errorf("the image has changed, %v", err)
	}
}

// TestIomapKilled: a loop device does not outlive the server.
func TestIomapKilled(t *testing.T) {
	it := newIomapTest(t)
	if err := it.mount(""); err != nil {
		t.Fatal(err)
	}
	server := it.server(t)
	if err := unix.Kill(server, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := mount.Unmount(it.dir, mount.UnmountOptions{}); err != nil {
		t.Fatal(err)
	}
	it.gone(t)
}

// server is the process that has the image open, as the state file says.
func (it *iomapTest) server(t *testing.T) int {
	t.Helper()
	files, _ := filepath.Glob("/run/ext4box/*:*")
	for _, f := range files {
		var r mount.StateRecord
		if b, err := os.ReadFile(f); err == nil && json.Unmarshal(b, &r) == nil && r.Dir == it.dir {
			return r.PID
		}
	}
	t.Fatal("no state file")
	return 0
}

// TestIomapOn: a mount that insists fails, and leaves nothing.
func TestIomapOn(t *testing.T) {
	it := newIomapTest(t)
	for _, options := range []string{"iomap=on", "iomap=on,ro", "iomap=on,blkdev=on"} {
		err := it.mount(options)
		if err == nil || mount.ExitStatus(err) != mount.StatusFailed || !strings.Contains(err.Error(), "iomap=on") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: status %d, %v", options, mount.ExitStatus(err), err)
		}
		it.gone(t)
	}
	if err := it.mount("iomap=off"); err != nil || it.stderr != "" || it.loop() != "" {
		t.Errorf("iomap=off: %v, said %q, loop device %q", err, it.stderr, it.loop())
	}
	if err := mount.Unmount(it.dir, mount.UnmountOptions{}); err != nil {
		t.Fatal(err)
	}
	it.gone(t)
	it.check(t, it.image)
}

// TestIomapInUse: an image that the kernel has through a loop device of somebody else gets
// no second one.
func TestIomapInUse(t *testing.T) {
	it := newIomapTest(t)
	f, err := os.OpenFile(it.image, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	loop, err := mount.AttachLoop(f, mount.LoopOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := it.mount(""); err == nil || !strings.Contains(err.Error(), loop.Name()) {
		t.Errorf("mounted beside %s: %v", loop.Name(), err)
	}
	loop.Close()
	f.Close()
	it.gone(t)
}
