package mount

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestUnmountLinks: a directory on the way that has become a symbolic link does not lead root to another mount.
func TestUnmountLinks(t *testing.T) {
	base, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	dir, link := filepath.Join(base, "dir"), filepath.Join(base, "link")
	for _, path := range []string{dir, filepath.Join(dir, "mount")} {
		if err := os.Mkdir(path, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("dir", link); err != nil {
		t.Fatal(err)
	}
	at := filepath.Join(dir, "mount")
	if err := unix.Mount("none", at, "tmpfs", 0, "size=4k"); err != nil {
		t.Skipf("needs to mount: %v", err)
	}
	mounted := func() bool {
		mounts, err := Mounts()
		if err != nil {
			t.Fatal(err)
		}
		_, ok := top(mounts, at)
		return ok
	}
	defer func() {
		if mounted() {
			_ = unix.Unmount(at, unix.MNT_DETACH)
		}
	}()
	for _, flags := range []int{0, unix.MNT_DETACH} {
		if err := detach(filepath.Join(link, "mount"), flags); err == nil || !mounted() {
			t.Errorf("flags %d: %v, mounted: %v", flags, err, mounted())
		}
	}
	if err := detach(at, 0); err != nil || mounted() {
		t.Errorf("%v, mounted: %v", err, mounted())
	}
}

// TestBySource: a mount of somebody else that has the name of one's own image is not in its way.
func TestBySource(t *testing.T) {
	mine := Info{Dir: "/mine", Type: FSType, Source: "/image", Options: "rw,user_id=0,group_id=0"}
	theirs := Info{Dir: "/theirs", Type: FSType, Source: "/image", Options: "rw,user_id=1000,group_id=1000"}
	other := Info{Dir: "/other", Type: "fuse.sshfs", Source: "/image", Options: "rw,user_id=0"}
	for _, c := range []struct {
		mounts []Info
		want   string
	}{
		{[]Info{mine, theirs, other}, "/mine"},
		{[]Info{theirs, mine}, "/mine"},
		{[]Info{theirs, other}, "/theirs"},
		{[]Info{other}, ""},
	} {
		dirs := ""
		for _, i := range bySource(c.mounts, 0, "image", "/image") {
			dirs += i.Dir
		}
		if dirs != c.want {
			t.Errorf("%v: %q", c.mounts, dirs)
		}
	}
}
