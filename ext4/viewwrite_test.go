package ext4_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"ext4box/ext4"
	"ext4box/internal/e2test"
)

var _ iofs.File = (*ext4.File)(nil)

// TestViewAsRoot does the same to an image and, through os.Root, to a directory:
// the same errors, the same tree.
func TestViewAsRoot(t *testing.T) {
	img := e2test.Image(t, 32<<20, "-t", "ext4")
	fs := openRW(t, img)
	v := fs.FS()
	host, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer host.Close()
	if err := v.RemoveAll("lost+found"); err != nil {
		t.Fatal(err)
	}
	type root interface {
		Mkdir(string, iofs.FileMode) error
		MkdirAll(string, iofs.FileMode) error
		WriteFile(string, []byte, iofs.FileMode) error
		Symlink(string, string) error
		Link(string, string) error
		Rename(string, string) error
		Remove(string) error
		RemoveAll(string) error
		Chmod(string, iofs.FileMode) error
	}
	for i, step := range []func(r root) error{
		func(r root) error { return r.Mkdir("d", 0o755) },
		func(r root) error { return r.Mkdir("d", 0o755) },
		func(r root) error { return r.Mkdir("absent/d", 0o755) },
		func(r root) error { return r.MkdirAll("a/b/c", 0o700) },
		func(r root) error { return r.MkdirAll("a/b/c", 0o700) },
		func(r root) error { return r.WriteFile("a/f", []byte("content"), 0o640) },
		func(r root) error { return r.WriteFile("a/f", []byte("new"), 0o600) },
		func(r root) error { return r.WriteFile("a/b", nil, 0o600) },
		func(r root) error { return r.MkdirAll("a/f/x", 0o700) },
		func(r root) error { return r.MkdirAll("a/f", 0o700) },
		func(r root) error { return r.Symlink("a/f", "link") },
		func(r root) error { return r.Symlink("a/f", "link") },
		func(r root) error { return r.WriteFile("link", []byte("through"), 0o600) },
		func(r root) error { return r.Chmod("link", 0o4711|iofs.ModeSetuid) },
		func(r root) error { return r.Link("a/f", "hard") },
		func(r root) error { return r.Link("a/b", "harddir") },
		func(r root) error { return r.Link("link", "hardlink") },
		func(r root) error { return r.Rename("hard", "a/b/c/hard") },
		func(r root) error { return r.Rename("absent", "x") },
		func(r root) error { return r.Rename("a", "a/b/a") },
		func(r root) error { return r.Rename("d", "a/f") },
		func(r root) error { return r.Remove("a") },
		func(r root) error { return r.Remove("absent") },
		func(r root) error { return r.Remove("hardlink") },
		func(r root) error { return r.Remove("d") },
		func(r root) error { return r.Remove("a/f/x") },
		func(r root) error { return r.RemoveAll("absent") },
		func(r root) error { return r.RemoveAll("a/b") },
		func(r root) error { return r.RemoveAll("link") },
	} {
		got, want := step(v), step(host)
		if errnoOf(t, got) != errnoOf(t, want) {
			t.Errorf("step %d: %v, want %v", i, got, want)
		}
	}
	list := func(fsys iofs.FS) (out []string) {
		err := iofs.WalkDir(fsys, ".", func(path string, d iofs.DirEntry, err error) error {
			if err != nil || path == "." {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			line := fmt.Sprint(path, " ", info.Mode())
			if info.Mode().IsRegular() {
				data, err := iofs.ReadFile(fsys, path)
				if err != nil {
					return err
				}
				line += fmt.Sprintf(" %q", data)
			}
			out = append(out, line)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	if got, want := list(v), list(host.FS()); !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	for _, bad := range []string{"/abs", "a/", "../x", ""} {
		if err := v.Mkdir(bad, 0o755); !errors.Is(err, iofs.ErrInvalid) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if err := fs.Close(); err != nil {
		t.Fatal(err)
	}
	fsck(t, img)
}

func TestViewFile(t *testing.T) {
	img := e2test.Image(t, 32<<20, "-t", "ext4")
	fs := openRW(t, img)
	v := fs.FS()
	f, err := v.OpenFile("f", os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := v.OpenFile("f", os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600); !errors.Is(err, iofs.ErrExist) {
		t.Errorf("exclusive: %v", err)
	}
	if _, err := v.OpenFile(".", os.O_RDWR, 0); !errors.Is(err, syscall.EISDIR) {
		t.Errorf("directory: %v", err)
	}
	data := bytes.Repeat([]byte("0123456789"), 10000)
	if n, err := io.Copy(f, bytes.NewReader(data)); n != int64(len(data)) || err != nil {
		t.Fatal(n, err)
	}
	if at, err := f.Seek(-10, io.SeekEnd); at != int64(len(data))-10 || err != nil {
		t.Errorf("seek: %d, %v", at, err)
	}
	if got, err := io.ReadAll(f); string(got) != "0123456789" || err != nil {
		t.Errorf("read: %q, %v", got, err)
	}
	if err := f.Truncate(5); err != nil {
		t.Error(err)
	}
	if err := f.Sync(); err != nil {
		t.Error(err)
	}
	a, err := v.OpenFile("f", os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{"abc", "def"} {
		if _, err := io.WriteString(a, s); err != nil {
			t.Error(err)
		}
	}
	if err := a.Close(); err != nil {
		t.Error(err)
	}
	if err := a.Close(); !errors.Is(err, iofs.ErrClosed) {
		t.Errorf("second close: %v", err)
	}
	// Without its name it lives until it is closed.
	if err := v.Remove("f"); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		t.Error(err)
	}
	if got, err := io.ReadAll(f); string(got) != "01234abcdef" || err != nil {
		t.Errorf("removed: %q, %v", got, err)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	if err := fs.Close(); err != nil {
		t.Fatal(err)
	}
	fsck(t, img)
	if got := e2test.Debugfs(t, img, "stat <12>"); !strings.Contains(got, "Links: 0") {
		t.Errorf("the inode is still in use:\n%s", got)
	}
}

// TestRemoveAll removes what is large and deep, and leaves nothing behind.
func TestRemoveAll(t *testing.T) {
	img := e2test.Image(t, 64<<20, "-t", "ext4", "-b", "1024", "-N", "8000")
	free := func() string {
		h := e2test.Dumpe2fs(t, img).Header
		return h["Free blocks"] + " " + h["Free inodes"]
	}
	before := free()
	fs := openRW(t, img)
	v := fs.FS()
	deep := "top" + strings.Repeat("/d", 300)
	if err := v.MkdirAll(deep, 0o755); err != nil {
		t.Fatal(err)
	}
	for i := range 3000 {
		if err := v.WriteFile(fmt.Sprintf("top/d/d/f%d", i), []byte("x"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := v.RemoveAll("top"); err != nil {
		t.Fatal(err)
	}
	if err := fs.Close(); err != nil {
		t.Fatal(err)
	}
	fsck(t, img)
	if after := free(); after != before {
		t.Errorf("free: %s, before %s", after, before)
	}
}

// TestRemoveAllStray: a directory that is named in a wrong place is not emptied.
func TestRemoveAllStray(t *testing.T) {
	img := e2test.Image(t, 16<<20, "-t", "ext4")
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	e2test.Change(t, img, "mkdir a", "mkdir a/b", "mkdir victim", "write "+file+" victim/file", "link victim a/b/stray", "link a a/b/up")
	for _, path := range []string{"a/b/stray", "a/b/up", "a"} {
		dev := load(t, img)
		dev.SetReadOnly(false)
		fs := open(t, dev, ext4.Options{})
		err := fs.FS().RemoveAll(path)
		if !errors.Is(err, syscall.EUCLEAN) {
			t.Errorf("%s: %v", path, err)
		}
		if _, err := fs.FS().Lstat("victim/file"); err != nil {
			t.Error(err)
		}
	}
}
