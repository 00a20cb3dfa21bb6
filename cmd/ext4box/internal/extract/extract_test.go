package extract_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"ext4box/cmd/ext4box/internal/extract"
	"ext4box/cmd/ext4box/internal/tree"
	"ext4box/ext4"
)

// file is an inode of a made-up image, which can be as wrong as a test wants.
type file struct {
	mode    uint32
	nlink   uint32
	entries []link  // of a directory
	target  string  // of a link
	data    string  // of a file
	size    int64   // of a file, if larger than its data: the rest is a hole
	seek    []int64 // what Seek answers, in order
	readErr error
	xattrs  map[string]string
}

type link struct {
	name string
	ino  ext4.Ino
}

type image map[ext4.Ino]*file

func (m image) Stat(ino ext4.Ino) (ext4.Stat, error) {
	f := m[ino]
	if f == nil {
		return ext4.Stat{}, syscall.ESTALE
	}
	return ext4.Stat{Ino: ino, Mode: f.mode, Nlink: max(1, f.nlink), Size: max(f.size, int64(len(f.data))),
		UID: uint32(os.Getuid()), GID: uint32(os.Getgid())}, nil
}

func (m image) ReadDir(dir ext4.Ino, pos int64, fn func(ext4.Dirent) bool) error {
	entries := m[dir].entries
	for i := pos; i < int64(len(entries)); i++ {
		if !fn(ext4.Dirent{Ino: entries[i].ino, Name: []byte(entries[i].name), Next: i + 1}) {
			return nil
		}
	}
	return nil
}

func (m image) Readlink(ino ext4.Ino) (string, error) { return m[ino].target, nil }

func (m image) Getxattr(ino ext4.Ino, name string) ([]byte, error) {
	return []byte(m[ino].xattrs[name]), nil
}

func (m image) Listxattr(ino ext4.Ino) (names []string, err error) {
	for n := range m[ino].xattrs {
		names = append(names, n)
	}
	return names, nil
}

func (m image) ReadAt(ino ext4.Ino, p []byte, off int64) (int, error) {
	if m[ino].readErr != nil {
		return 0, m[ino].readErr
	}
	if off >= int64(len(m[ino].data)) {
		return 0, io.EOF
	}
	return copy(p, m[ino].data[off:]), nil
}

func (m image) Seek(ino ext4.Ino, off int64, whence int) (int64, error) {
	f := m[ino]
	if len(f.seek) > 0 {
		at := f.seek[0]
		f.seek = f.seek[1:]
		return at, nil
	}
	switch {
	case off >= int64(len(f.data)):
		return 0, syscall.ENXIO
	case whence == unix.SEEK_DATA:
		return off, nil
	}
	return int64(len(f.data)), nil
}

const (
	reg = unix.S_IFREG | 0o644
	dir = unix.S_IFDIR | 0o755
	lnk = unix.S_IFLNK | 0o777
)

// copyAll copies the whole image and returns the problems.
func copyAll(t *testing.T, m image, dest string) (tree.Result, []string) {
	t.Helper()
	var problems []string
	r, err := extract.Copy(t.Context(), m, 2, "", dest, extract.Options{
		Owner: os.Geteuid() == 0, Xattrs: true,
		Problem: func(path string, err error) { problems = append(problems, path+": "+err.Error()) },
	})
	if err != nil {
		t.Fatal(err)
	}
	return r, problems
}

func isEmpty(t *testing.T, path string) bool {
	t.Helper()
	entries, err := os.ReadDir(path)
	if err != nil {
		t.Fatal(err)
	}
	return len(entries) == 0
}

// TestEscape: no combination of names and links leads out of the destination.
func TestEscape(t *testing.T) {
	outside := t.TempDir()
	m := image{
		3: {mode: lnk, target: outside},
		4: {mode: dir, entries: []link{{"loot", 5}}},
		5: {mode: reg, data: "loot"},
		6: {mode: lnk, target: "sub"},
		7: {mode: lnk, target: outside + "/loot"},
	}
	for name, entries := range map[string][]link{
		"link, then directory":         {{"x", 3}, {"x", 4}},
		"directory, then link":         {{"x", 4}, {"x", 3}},
		"link, then file through it":   {{"x", 7}, {"x", 5}},
		"dotdot":                       {{"..", 5}, {"../x", 5}, {"../x", 4}, {".", 4}},
		"absolute":                     {{outside + "/loot", 5}},
		"relative link, then the same": {{"sub", 3}, {"x", 6}, {"x", 4}},
	} {
		m[2] = &file{mode: dir, entries: entries}
		dest := t.TempDir()
		copyAll(t, m, dest)
		if !isEmpty(t, outside) {
			t.Errorf("%s: got out", name)
		}
	}
	// The same when the destination already has the link.
	dest := t.TempDir()
	if err := os.Symlink(outside, filepath.Join(dest, "x")); err != nil {
		t.Fatal(err)
	}
	m[2] = &file{mode: dir, entries: []link{{"x", 4}}}
	if _, problems := copyAll(t, m, dest); len(problems) != 1 || !isEmpty(t, outside) {
		t.Errorf("existing link: %q", problems)
	}
}

// TestHardLinkEscape: a hard link is made to the copy, not to what took its place.
func TestHardLinkReplaced(t *testing.T) {
	m := image{
		2: {mode: dir, entries: []link{{"a", 3}, {"a", 4}, {"b", 3}}},
		3: {mode: reg, nlink: 2, data: "first"},
		4: {mode: reg, data: "second"},
	}
	dest := t.TempDir()
	if _, problems := copyAll(t, m, dest); len(problems) != 0 {
		t.Errorf("%q", problems)
	}
	for name, want := range map[string]string{"a": "second", "b": "first"} {
		if got, _ := os.ReadFile(filepath.Join(dest, name)); string(got) != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

// TestDeep: neither the length of a path nor the number of descriptors limits the
// depth.
func TestDeep(t *testing.T) {
	const depth = 1200
	m := image{2: {mode: dir, entries: []link{{"name", 1000}}}}
	for i := range ext4.Ino(depth) {
		m[1000+i] = &file{mode: unix.S_IFDIR | 0o500, entries: []link{{"name", 1001 + i}, {fmt.Sprint("f", i), 5}}}
	}
	m[1000+depth] = &file{mode: reg, data: "at the bottom"}
	m[5] = &file{mode: reg, nlink: depth, data: "linked"}
	dest := filepath.Join(t.TempDir(), "deep")
	r, problems := copyAll(t, m, dest)
	if len(problems) != 0 || r.Files != 2*depth+2 {
		t.Errorf("%d files, %q", r.Files, problems[:min(3, len(problems))])
	}
	fd, err := unix.Open(dest, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	for range depth {
		next, err := unix.Openat(fd, "name", unix.O_PATH|unix.O_DIRECTORY, 0)
		unix.Close(fd)
		if err != nil {
			t.Fatal(err)
		}
		fd = next
		// So that the test's directory can be removed by anybody.
		if err := os.Chmod(fmt.Sprintf("/proc/self/fd/%d", fd), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstatat(fd, "name", &st, 0); err != nil || st.Size != int64(len("at the bottom")) {
		t.Errorf("bottom: %v, %d bytes", err, st.Size)
	}
	if err := unix.Fstatat(fd, fmt.Sprint("f", depth-1), &st, 0); err != nil || st.Nlink != depth {
		t.Errorf("links: %v, %d", err, st.Nlink)
	}
}

func TestData(t *testing.T) {
	m := image{
		2:  {mode: dir, entries: []link{{"plain", 3}, {"sparse", 4}, {"bad", 5}, {"stuck", 6}, {"back", 7}, {"short", 8}, {"huge", 9}, {"hole", 10}}},
		3:  {mode: reg, data: strings.Repeat("0123456789", 300_000)},
		4:  {mode: reg, data: "start", size: 1 << 40},
		5:  {mode: reg, data: "x", readErr: syscall.EUCLEAN},
		6:  {mode: reg, data: "stuck", seek: []int64{0, 0}},
		7:  {mode: reg, data: "back", size: 100, seek: []int64{0, 2, 1, 3}},
		8:  {mode: reg, data: "short", size: 100, seek: []int64{0, 100}},
		9:  {mode: reg, size: 1<<63 - 1},
		10: {mode: reg, size: 1 << 30},
	}
	dest := t.TempDir()
	r, problems := copyAll(t, m, dest)
	got := strings.Join(problems, "\n")
	for _, want := range []string{"bad: structure needs cleaning", "stuck: the map of data", "back: the map of data", "short: unexpected EOF", "huge: make the file"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is missing in:\n%s", want, got)
		}
	}
	if len(problems) != 5 || r.Problems != 5 {
		t.Errorf("problems:\n%s", got)
	}
	for name, want := range map[string]int64{"plain": 3_000_000, "sparse": 1 << 40, "hole": 1 << 30} {
		st, err := os.Stat(filepath.Join(dest, name))
		if err != nil || st.Size() != want {
			t.Errorf("%s: %v, %v", name, st, err)
		}
	}
	for _, name := range []string{"bad", "stuck", "back", "short", "huge"} {
		if _, err := os.Lstat(filepath.Join(dest, name)); err == nil {
			t.Errorf("%s: half a file was left", name)
		}
	}
	if text, _ := os.ReadFile(filepath.Join(dest, "plain")); string(text) != m[3].data {
		t.Error("plain: other content")
	}
}

// TestSetuid: without the owner, a set-user-ID bit would be the user's gift.
func TestSetuid(t *testing.T) {
	m := image{
		2: {mode: dir, entries: []link{{"su", 3}}},
		3: {mode: unix.S_IFREG | 0o6755, data: "x", xattrs: map[string]string{"bogus.name": "x"}},
	}
	dest := t.TempDir()
	r, err := extract.Copy(t.Context(), m, 2, "", dest, extract.Options{Xattrs: true, Problem: func(p string, err error) { t.Errorf("%s: %v", p, err) }})
	if err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(dest, "su"), &st); err != nil || st.Mode != unix.S_IFREG|0o755 {
		t.Errorf("%v, mode %#o", err, st.Mode)
	}
	if r.Lost != 1 || r.XattrError == nil {
		t.Errorf("lost %d: %v", r.Lost, r.XattrError)
	}
}

// TestInterrupted: the file that was being copied is taken away, and what is
// complete stays.
func TestInterrupted(t *testing.T) {
	m := image{
		2: {mode: dir, entries: []link{{"whole", 3}, {"half", 4}, {"never", 3}}},
		3: {mode: reg, data: "x"},
		4: {mode: reg, data: strings.Repeat("y", 3<<20)},
	}
	dest := t.TempDir()
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("why")
	_, err := extract.Copy(ctx, m, 2, "", dest, extract.Options{
		Problem: func(p string, err error) { t.Errorf("%s: %v", p, err) },
		Progress: func(files, bytes int64) {
			if bytes > 1<<20 {
				cancel(why)
			}
		},
	})
	if err != why {
		t.Errorf("got %v", err)
	}
	entries, err := os.ReadDir(dest)
	if err != nil || len(entries) != 1 || entries[0].Name() != "whole" {
		t.Errorf("%v, %v", entries, err)
	}
}
