package test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"ext4box/internal/testimage"
)

// encryptedSteps are what is done to an encrypted directory d/v without its key,
// in which f are files, of the directories one is empty, and what link is. Each
// starts where the last one ended.
var encryptedSteps = []struct {
	name string
	do   func(d string, n encryptedNames) error
}{
	{"create", func(d string, n encryptedNames) error { return create(d+"/v/new", 0) }},
	{"create exclusively", func(d string, n encryptedNames) error { return create(d+"/v/new", os.O_EXCL) }},
	{"create existing exclusively", func(d string, n encryptedNames) error { return create(n.files[0], os.O_EXCL) }},
	{"mkdir", func(d string, n encryptedNames) error { return unix.Mkdir(d+"/v/new", 0o755) }},
	{"mkdir existing", func(d string, n encryptedNames) error { return unix.Mkdir(n.files[0], 0o755) }},
	{"mkdir long", func(d string, n encryptedNames) error { return unix.Mkdir(d+"/v/"+strings.Repeat("n", 255), 0o755) }},
	{"mkdir too long", func(d string, n encryptedNames) error { return unix.Mkdir(d+"/v/"+strings.Repeat("n", 256), 0o755) }},
	{"mknod", func(d string, n encryptedNames) error { return unix.Mknod(d+"/v/new", unix.S_IFIFO|0o644, 0) }},
	{"symlink", func(d string, n encryptedNames) error { return unix.Symlink("to", d+"/v/new") }},
	{"tmpfile", func(d string, n encryptedNames) error {
		fd, err := unix.Open(d+"/v", unix.O_TMPFILE|unix.O_WRONLY, 0o600)
		if err == nil {
			_ = unix.Close(fd)
		}
		return err
	}},
	{"link in", func(d string, n encryptedNames) error { return unix.Link(d+"/plain", d+"/v/new") }},
	{"link to existing", func(d string, n encryptedNames) error { return unix.Link(d+"/plain", n.files[0]) }},
	{"link inside", func(d string, n encryptedNames) error { return unix.Link(n.files[0], d+"/v/new") }},
	{"link out", func(d string, n encryptedNames) error { return unix.Link(n.files[0], d+"/out") }},
	{"link a directory", func(d string, n encryptedNames) error { return unix.Link(n.empty, d+"/outd") }},
	{"rename in", func(d string, n encryptedNames) error { return unix.Rename(d+"/plain", d+"/v/new") }},
	{"rename in over", func(d string, n encryptedNames) error { return unix.Rename(d+"/plain", n.files[0]) }},
	{"rename in over a directory", func(d string, n encryptedNames) error { return unix.Rename(d+"/plain", n.empty) }},
	{"rename a directory over a file", func(d string, n encryptedNames) error { return unix.Rename(d+"/v", n.files[0]) }},
	{"rename in, not replacing", func(d string, n encryptedNames) error { return rename2(d+"/plain", n.files[0], unix.RENAME_NOREPLACE) }},
	{"rename out", func(d string, n encryptedNames) error { return unix.Rename(n.files[0], d+"/outr") }},
	{"rename out over", func(d string, n encryptedNames) error { return unix.Rename(n.files[0], d+"/plain") }},
	{"rename inside", func(d string, n encryptedNames) error { return unix.Rename(n.files[0], d+"/v/new") }},
	{"rename inside over", func(d string, n encryptedNames) error { return unix.Rename(n.files[0], n.files[1]) }},
	{"rename to itself", func(d string, n encryptedNames) error { return unix.Rename(n.files[0], n.files[0]) }},
	{"rename what is missing", func(d string, n encryptedNames) error { return unix.Rename(d+"/v/nothing", d+"/v/new") }},
	{"exchange", func(d string, n encryptedNames) error { return rename2(n.files[0], d+"/plain", unix.RENAME_EXCHANGE) }},
	{"exchange inside", func(d string, n encryptedNames) error { return rename2(n.files[0], n.files[1], unix.RENAME_EXCHANGE) }},
	{"whiteout", func(d string, n encryptedNames) error { return rename2(n.files[0], d+"/wout", unix.RENAME_WHITEOUT) }},
	{"rename the directory into another and back", func(d string, n encryptedNames) error {
		return errors.Join(unix.Rename(d+"/v", d+"/dir/w"), unix.Rename(d+"/dir/w", d+"/v"))
	}},
	{"truncate", func(d string, n encryptedNames) error { return unix.Truncate(n.files[0], 0) }},
	{"truncate up", func(d string, n encryptedNames) error { return unix.Truncate(n.files[0], 10000) }},
	{"read", func(d string, n encryptedNames) error { _, err := os.ReadFile(n.files[0]); return err }},
	{"chmod", func(d string, n encryptedNames) error { return unix.Chmod(n.files[0], 0o600) }},
	{"chown", func(d string, n encryptedNames) error { return unix.Chown(n.files[0], 1, 1) }},
	{"utimes", func(d string, n encryptedNames) error {
		return unix.Utimes(n.files[0], []unix.Timeval{{Sec: 1}, {Sec: 2}})
	}},
	{"setxattr", func(d string, n encryptedNames) error { return unix.Setxattr(n.files[0], "user.a", []byte("b"), 0) }},
	{"long setxattr", func(d string, n encryptedNames) error {
		return unix.Setxattr(n.files[0], "user.b", make([]byte, 1000), 0)
	}},
	{"setxattr of the directory", func(d string, n encryptedNames) error { return unix.Setxattr(d+"/v", "user.a", []byte("b"), 0) }},
	{"chmod of the directory", func(d string, n encryptedNames) error { return unix.Chmod(d+"/v", 0o700) }},
	{"unlink what is missing", func(d string, n encryptedNames) error { return unix.Unlink(d + "/v/nothing") }},
	{"rmdir of what is not empty", func(d string, n encryptedNames) error { return unix.Rmdir(n.full) }},
	{"rmdir of a file", func(d string, n encryptedNames) error { return unix.Rmdir(n.files[0]) }},
	{"unlink of a directory", func(d string, n encryptedNames) error { return unix.Unlink(n.empty) }},
	{"rmdir", func(d string, n encryptedNames) error { return unix.Rmdir(n.empty) }},
	{"unlink of a link", func(d string, n encryptedNames) error { return unix.Unlink(n.link) }},
	{"unlink", func(d string, n encryptedNames) error { return unix.Unlink(n.files[1]) }},
	{"unlink again", func(d string, n encryptedNames) error { return unix.Unlink(n.files[1]) }},
	{"unlink of the longest name", func(d string, n encryptedNames) error { return unix.Unlink(n.files[len(n.files)-1]) }},
	{"mkdir where one was", func(d string, n encryptedNames) error { return unix.Mkdir(n.files[1], 0o755) }},
	{"rmdir of the directory", func(d string, n encryptedNames) error { return unix.Rmdir(d + "/v") }},
	{"unlink of a name outside", func(d string, n encryptedNames) error { return unix.Unlink(d + "/out") }},
}

func create(path string, flag int) error {
	fd, err := unix.Open(path, unix.O_CREAT|unix.O_WRONLY|flag, 0o644)
	if err == nil {
		err = unix.Close(fd)
	}
	return err
}

func rename2(from, to string, flags uint) error {
	return unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, flags)
}

// encryptedNames are the paths in an encrypted directory, as they are shown.
type encryptedNames struct {
	files             []string // shortest name first
	empty, full, link string
}

func newEncryptedNames(t *testing.T, dir string) (n encryptedNames) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		switch e.Type() {
		case 0:
			n.files = append(n.files, path)
		case fs.ModeDir:
			if in, err := os.ReadDir(path); err == nil && len(in) == 0 {
				n.empty = path
			} else {
				n.full = path
			}
		case fs.ModeSymlink:
			n.link = path
		}
	}
	slices.SortStableFunc(n.files, func(a, b string) int { return len(a) - len(b) })
	return n
}

// readEncrypted reads the directory again with the key.
const readEncrypted = `set -e
mount -o loop,ro "$1" "$2"
trap 'umount "$2"' EXIT
echo passphrase | e4crypt add_key -S 0x1234567890abcdef >/dev/null
cd "$2/v"
for f in file*; do echo "$f: $(cat "$f")"; done | sort
cat sub/in
cd /
`

// TestEncryptedWrite does to an encrypted directory what can be done without its
// key, and what cannot, on ext4box and by the kernel.
func TestEncryptedWrite(t *testing.T) {
	requireMounting(t)
	image := encryptedImage(t, encryptedTree+`mkdir "$2/v/empty" "$2/dir"`+"\n")
	box := &testimage.Image{Path: image.Path + ".box"}
	if err := testimage.CopyImage(box.Path, image.Path); err != nil {
		t.Fatal(err)
	}
	kernel := testimage.MountRW(t, image, "")
	dir := mountRW(t, box.Path)
	ours, theirs := newEncryptedNames(t, filepath.Join(dir, "v")), newEncryptedNames(t, filepath.Join(kernel.Dir, "v"))
	if len(ours.files) < 200 || ours.link == "" || ours.empty == "" {
		t.Fatalf("names are %+v", ours)
	}
	errno := func(err error) string {
		var e syscall.Errno
		if errors.As(err, &e) {
			return unix.ErrnoName(e)
		}
		return fmt.Sprint(err)
	}
	for _, s := range encryptedSteps {
		got, want := errno(s.do(dir, ours)), errno(s.do(kernel.Dir, theirs))
		if got != want {
			t.Errorf("%s: %s, the kernel says %s", s.name, got, want)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "plain"), []byte("changed\n"), 0o644); err != nil {
		t.Error(err)
	}
	umount(t, dir)
	if err := testimage.Run("e2fsck", "-fn", box.Path); err != nil {
		t.Fatal(err)
	}
	if err := kernel.Unmount(); err != nil {
		t.Fatal(err)
	}
	var trees [2]string
	for i, img := range []string{box.Path, image.Path} {
		out, err := exec.Command("keyctl", "session", "-", "bash", "-c", readEncrypted, "read", img, t.TempDir()).Output()
		if err != nil {
			t.Fatalf("with the key: %v", err)
		}
		trees[i] = string(out)
	}
	if trees[0] != trees[1] || !strings.Contains(trees[0], "deep") || strings.Count(trees[0], "data") < 190 {
		t.Errorf("with the key the kernel reads\n%s, of its own\n%s", trees[0], trees[1])
	}

	dir = mountRW(t, box.Path)
	if err := os.RemoveAll(filepath.Join(dir, "v")); err != nil {
		t.Error(err)
	}
	umount(t, dir)
	if err := testimage.Run("e2fsck", "-fn", box.Path); err != nil {
		t.Error(err)
	}
}
