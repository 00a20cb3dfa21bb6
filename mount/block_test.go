package mount

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestBlockClaim: a device that the kernel does not take is still ours alone.
func TestBlockClaim(t *testing.T) {
	needMount(t)
	image, dir := filepath.Join(t.TempDir(), "image"), t.TempDir()
	f, err := os.Create(image)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(1 << 20); err != nil {
		t.Fatal(err)
	}
	loop, err := AttachLoop(f, LoopOptions{})
	if err != nil {
		t.Skip(err)
	}
	target, err := OpenTarget(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer target.Close()
	taken := func() bool {
		fd, err := unix.Open(loop.Name(), unix.O_RDWR|unix.O_EXCL, 0)
		if err == nil {
			unix.Close(fd)
		}
		return errors.Is(err, unix.EBUSY)
	}
	if !taken() {
		t.Error("a new loop device is not claimed")
	}
	b := &BlockDevice{Path: filepath.Join(dir, "no such device"), Claim: loop}
	if m, err := target.mountBlock(b, Default()); err == nil {
		t.Fatalf("mounted %+v", m)
	}
	if b.Claim == nil || b.Claim == loop || !taken() {
		t.Error("after a failed mount the device is not claimed")
	}
	l := &launcher{LaunchConfig: LaunchConfig{Target: target, Block: b, Request: Request{Source: image, Options: Default()}}}
	if err := l.mount(); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	defer l.mounted.Fuse.Close()
	if i, ok := mountAt(t, dir); !ok || i.Type != FSType || b.Claim == nil {
		t.Errorf("instead of the device: %+v", i)
	}
	b.Claim.Close()
	if taken() {
		t.Error("the device is claimed for ever")
	}
}
