package hosttree

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"ext4box/cmd/ext4box/internal/tree"
	"ext4box/ext4"
)

// visitor collects the paths of a walk.
type visitor struct {
	t     *testing.T
	paths []string
	stats map[string]ext4.Stat
	enter func(n *tree.Node)
}

func (v *visitor) Enter(n *tree.Node) error {
	v.paths = append(v.paths, n.Path)
	if v.stats != nil {
		v.stats[n.Path] = n.Stat
	}
	if v.enter != nil {
		v.enter(n)
	}
	return nil
}
func (v *visitor) Leave(*tree.Node) error { return nil }
func (v *visitor) Problem(path string, err error) error {
	v.paths = append(v.paths, "!"+path)
	return nil
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func mkdir(t *testing.T, path string) {
	t.Helper()
	if err := os.MkdirAll(path, 0o700); err != nil {
		t.Fatal(err)
	}
}

func TestNames(t *testing.T) {
	dir := t.TempDir()
	mkdir(t, dir+"/d/sub")
	write(t, dir+"/f", "x")
	if err := os.Symlink("d", dir+"/link"); err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir)
	for path, want := range map[string]struct {
		name string
		kind uint32
	}{
		"d": {"d", unix.S_IFDIR}, "d/": {"d", unix.S_IFDIR}, "d/.": {"", unix.S_IFDIR}, ".": {"", unix.S_IFDIR}, "d/..": {"", unix.S_IFDIR}, "/": {"", unix.S_IFDIR},
		"f": {"f", unix.S_IFREG}, dir + "/f": {"f", unix.S_IFREG}, "link": {"link", unix.S_IFLNK}, "link/": {"link", unix.S_IFDIR}, "link/sub": {"sub", unix.S_IFDIR},
		"f/": {"f", 0}, "absent": {"absent", 0},
	} {
		h := New(nil)
		start, name := h.Add(path)
		st, err := h.Stat(start)
		if name != want.name || st.Mode&unix.S_IFMT != want.kind || (err == nil) != (want.kind != 0) {
			t.Errorf("%q: %q, mode %#o, %v", path, name, st.Mode, err)
		}
		h.Close()
	}
}

// TestSwapped: what changes under the walk leads nowhere else.
func TestSwapped(t *testing.T) {
	outside := t.TempDir()
	write(t, outside+"/secret", "secret")
	for name, swap := range map[string]func(dir string) error{
		"directory by link": func(dir string) error {
			return os.Symlink(outside, dir+"/d")
		},
		"file by link":       func(dir string) error { return os.Symlink(outside+"/secret", dir+"/d") },
		"file by fifo":       func(dir string) error { return unix.Mkfifo(dir+"/d", 0o600) },
		"file by other file": func(dir string) error { return os.Link(outside+"/secret", dir+"/d") },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if strings.HasPrefix(name, "directory") {
				mkdir(t, dir+"/d")
				write(t, dir+"/d/secret", "harmless")
			} else {
				write(t, dir+"/d", "harmless")
			}
			h := New(nil)
			defer h.Close()
			start, _ := h.Add(dir)
			v := &visitor{t: t}
			v.enter = func(n *tree.Node) {
				if n.Path != "d" {
					if n.Path != "" {
						t.Errorf("entered %s", n.Path)
					}
					return
				}
				if err := os.Rename(dir+"/d", dir+"/away"); err != nil {
					t.Fatal(err)
				}
				if err := swap(dir); err != nil {
					t.Fatal(err)
				}
				if n.Stat.IsRegular() {
					buf := make([]byte, 10)
					if got, err := h.ReadAt(n.Stat.Ino, buf, 0); err == nil {
						t.Errorf("read %q", buf[:got])
					}
				}
			}
			if err := tree.Walk(h, start, v); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestDeepAndWide: descriptors do not run out, order is that of bytes, links are
// known, and the protected file is left out.
func TestDeepAndWide(t *testing.T) {
	dir := t.TempDir()
	path := dir
	for i := range 150 {
		path += fmt.Sprintf("/d%d", i)
	}
	mkdir(t, path)
	for i := range 500 {
		write(t, fmt.Sprintf("%s/d0/f%d", dir, i), "")
	}
	write(t, path+"/bottom", "content")
	if err := os.Link(path+"/bottom", dir+"/z"); err != nil {
		t.Fatal(err)
	}
	write(t, dir+"/image", "")
	image, err := os.Stat(dir + "/image")
	if err != nil {
		t.Fatal(err)
	}
	h := New([]os.FileInfo{image})
	defer h.Close()
	start, name := h.Add(dir)
	if name != filepath.Base(dir) {
		t.Errorf("name %q", name)
	}
	v := &visitor{t: t, stats: map[string]ext4.Stat{}}
	if err := tree.Walk(h, start, v); err != nil {
		t.Fatal(err)
	}
	bottom := strings.TrimPrefix(path, dir+"/") + "/bottom"
	if len(v.paths) != 1+150+500+1+1+1 || !slices.Contains(v.paths, "!image") {
		t.Errorf("%d paths", len(v.paths))
	}
	if a, b := v.stats[bottom], v.stats["z"]; a.Ino != b.Ino || a.Nlink != 2 || a.Size != 7 {
		t.Errorf("%+v and %+v", a, b)
	}
	buf := make([]byte, 10)
	if n, err := h.ReadAt(v.stats["z"].Ino, buf, 0); string(buf[:n]) != "content" || err != nil {
		t.Errorf("%q, %v", buf[:n], err)
	}
	if _, err := h.ReadAt(v.stats["z"].Ino, buf, 7); err != io.EOF {
		t.Errorf("at the end: %v", err)
	}
	var files []string
	for _, p := range v.paths {
		if strings.HasPrefix(p, "d0/f") {
			files = append(files, p)
		}
	}
	if len(files) != 500 || !slices.IsSorted(files) {
		t.Errorf("%d files, not in order", len(files))
	}
}
