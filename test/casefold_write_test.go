package test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"ext4box/internal/testimage"
)

// TestCasefoldMount uses names under several spellings on a mount: to the kernel
// each spelling is a name of its own, and what it remembers of one must not
// outlive what is done to another.
func TestCasefoldMount(t *testing.T) {
	requireMounting(t)
	img := &testimage.Image{Path: filepath.Join(t.TempDir(), "c.img")}
	if err := testimage.Mke2fs(img.Path, 32<<20, "-t", "ext4", "-O", "casefold"); err != nil {
		t.Fatal(err)
	}
	root := mountRW(t, img.Path)
	dir := filepath.Join(root, "dir")
	at := func(name string) string { return filepath.Join(dir, name) }
	missing := func(name string) {
		t.Helper()
		if _, err := os.Lstat(at(name)); !errors.Is(err, syscall.ENOENT) {
			t.Errorf("%s: %v", name, err)
		}
	}
	same := func(a, b string) {
		t.Helper()
		sa, errA := os.Lstat(at(a))
		sb, errB := os.Lstat(at(b))
		if errA != nil || errB != nil || !os.SameFile(sa, sb) {
			t.Errorf("%s and %s are not the same: %v, %v", a, b, errA, errB)
		}
	}
	must := func(errs ...error) {
		t.Helper()
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
	}
	fails := func(err error, want syscall.Errno) {
		t.Helper()
		if !errors.Is(err, want) {
			t.Errorf("%v, want %v", err, want)
		}
	}
	put := func(name string) error { return os.WriteFile(at(name), []byte(name), 0o644) }

	must(os.Mkdir(dir, 0o755))
	missing("early") // remembered, were it not for what the directory becomes
	must(exec.Command("chattr", "+F", dir).Run())
	must(put("EARLY"))
	same("early", "EARLY")

	missing("foo")
	must(put("Foo"))
	same("foo", "Foo")
	same("FOO", "foo")
	must(os.Remove(at("FOO")))
	for _, name := range []string{"foo", "Foo", "FOO"} {
		missing(name)
	}
	must(put("foo"))
	same("Foo", "foo")
	fails(create(at("FOO"), os.O_EXCL), syscall.EEXIST)
	fails(os.Mkdir(at("FOO"), 0o755), syscall.EEXIST)
	fails(os.Symlink("x", at("fOO")), syscall.EEXIST)
	fails(os.Link(at("EARLY"), at("fOO")), syscall.EEXIST)
	must(create(at("FOO"), 0)) // opens it
	if b, err := os.ReadFile(at("FOO")); err != nil || string(b) != "foo" {
		t.Errorf("read %q, %v", b, err)
	}
	must(os.WriteFile(at("FOO"), []byte("through another spelling"), 0o644))
	if b, err := os.ReadFile(at("foo")); err != nil || string(b) != "through another spelling" {
		t.Errorf("read %q, %v", b, err)
	}

	// A rename to another spelling of the name changes nothing, as in the kernel.
	must(unix.Rename(at("foo"), at("FOO")))
	same("foo", "FOO")
	fails(rename2(at("foo"), at("FOO"), unix.RENAME_NOREPLACE), syscall.EEXIST)
	must(unix.Rename(at("Foo"), at("Bar")))
	missing("foo")
	missing("FOO")
	same("bar", "BAR")
	must(put("baz"), unix.Rename(at("BAR"), at("BAZ")))
	missing("bar")
	if b, err := os.ReadFile(at("Baz")); err != nil || string(b) != "through another spelling" {
		t.Errorf("read %q, %v", b, err)
	}
	must(unix.Link(at("Baz"), at("Link")))
	same("LINK", "baz")
	must(os.Remove(at("link")))
	missing("Link")

	must(os.Mkdir(at("Sub"), 0o755), put("SUB/in"))
	same("sub/IN", "Sub/in")
	if out, err := exec.Command("lsattr", "-d", at("sub")).Output(); err != nil || !strings.Contains(strings.Fields(string(out))[0], "F") {
		t.Errorf("lsattr of a subdirectory: %s, %v", out, err)
	}
	fails(os.Remove(at("SUB")), syscall.ENOTEMPTY)
	must(os.Remove(at("SUB/IN")), os.Remove(at("sub")))
	missing("Sub")
	missing("SUB")

	// After listing, which gives the kernel all names, too.
	must(put("Listed"))
	entries, err := os.ReadDir(dir)
	must(err)
	for _, e := range entries {
		if _, err := e.Info(); err != nil {
			t.Error(err)
		}
	}
	must(exec.Command("ls", "-l", dir).Run(), os.Remove(at("LISTED")))
	missing("Listed")
	missing("listed")

	if exec.Command("chattr", "-F", dir).Run() == nil {
		t.Error("chattr -F of a directory that is not empty")
	}
	must(os.WriteFile(filepath.Join(root, "Case"), nil, 0o644))
	if _, err := os.Lstat(filepath.Join(root, "case")); !errors.Is(err, syscall.ENOENT) {
		t.Errorf("the root directory folds names: %v", err)
	}
	umount(t, root)
	if err := testimage.Run("e2fsck", "-fn", img.Path); err != nil {
		t.Error(err)
	}
}
