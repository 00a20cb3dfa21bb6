package test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"ext4box/internal/e2test"
	"ext4box/internal/testimage"
)

// TestMMP has an image with multiple mount protection open in two places, one of
// them ours, and lets each notice the other. It takes as long as these wait.
func TestMMP(t *testing.T) {
	requireMounting(t)
	image := func(t *testing.T) *testimage.Image {
		return &testimage.Image{Path: e2test.Image(t, 16<<20, "-t", "ext4", "-O", "mmp", "-E", "mmp_update_interval=1")}
	}
	t.Run("kernel first", func(t *testing.T) {
		t.Parallel()
		img := image(t)
		k := testimage.MountRW(t, img, "")
		// The lock of the loop device is not what is tested here.
		alias := filepath.Join(t.TempDir(), "alias")
		if err := os.Symlink(testimage.Attach(t, img.Path, false), alias); err != nil {
			t.Fatal(err)
		}
		r := run(t, "mount", "-f", alias, t.TempDir())
		node, _ := os.Hostname()
		if r.status == 0 || !strings.Contains(r.stderr, "in use on node \""+node+"\", device \""+filepath.Base(k.Device)) {
			t.Errorf("status %d: %s", r.status, r.stderr)
		}
		if err := os.WriteFile(filepath.Join(k.Dir, "file"), nil, 0o600); err != nil {
			t.Error(err)
		}
		if err := k.Unmount(); err != nil {
			t.Fatal(err)
		}
		if err := testimage.Run("e2fsck", "-fn", img.Path); err != nil {
			t.Error(err)
		}
	})
	t.Run("ours first", func(t *testing.T) {
		t.Parallel()
		img := image(t)
		m := mountRW(t, img.Path)
		kernel := make(chan string, 1)
		go func() {
			device := testimage.Attach(t, img.Path, false)
			out, err := exec.Command("mount", "-t", "ext4", device, t.TempDir()).CombinedOutput()
			if err == nil {
				out = []byte("it mounts")
			}
			kernel <- string(out)
		}()
		out, err := exec.Command("e2fsck", "-fy", img.Path).CombinedOutput()
		if err == nil || !strings.Contains(string(out), "MMP") {
			t.Errorf("e2fsck: %v: %s", err, out)
		}
		if out := <-kernel; !strings.Contains(out, "busy") && !strings.Contains(out, "already mounted") {
			t.Errorf("kernel: %s", out)
		}
		if err := os.WriteFile(filepath.Join(m, "file"), nil, 0o600); err != nil {
			t.Error(err)
		}
		umount(t, m)
		// It says that nobody has it, so nobody waits.
		if err := testimage.Run("e2fsck", "-fy", img.Path); err != nil {
			t.Error(err)
		}
		k := testimage.MountRW(t, img, "")
		if _, err := os.Stat(filepath.Join(k.Dir, "file")); err != nil {
			t.Error(err)
		}
	})
}
