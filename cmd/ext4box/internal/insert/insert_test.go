package insert_test

import (
	"bytes"
	"context"
	"errors"
	"ext4box/blockdev"
	"ext4box/blockdev/blocktest"
	"ext4box/cmd/ext4box/internal/hosttree"
	"ext4box/cmd/ext4box/internal/insert"
	"ext4box/ext4"
	"ext4box/internal/e2test"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// newTree makes files on the host: contents by path, "->" before the target of a
// hard link.
func newTree(t *testing.T, files ...string) (*hosttree.Tree, ext4.Ino) {
	t.Helper()
	dir := t.TempDir()
	for _, f := range files {
		name, content, _ := strings.Cut(f, "=")
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		err := error(nil)
		if to, ok := strings.CutPrefix(content, "->"); ok {
			err = os.Link(filepath.Join(dir, to), path)
		} else {
			err = os.WriteFile(path, []byte(content), 0o640)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	tree := hosttree.New(nil)
	t.Cleanup(tree.Close)
	start, _ := tree.Add(dir + "/.")
	return tree, start
}

// odd is a source that does what a host's directory does not.
type odd struct {
	*hosttree.Tree
	rename map[string]string // entries that have another name
	read   func() error      // what reading returns after the first byte
}

func (o odd) ReadDir(dir ext4.Ino, pos int64, fn func(ext4.Dirent) bool) error {
	return o.Tree.ReadDir(dir, pos, func(d ext4.Dirent) bool {
		if name, ok := o.rename[string(d.Name)]; ok {
			d.Name = []byte(name)
		}
		return fn(d)
	})
}

func (o odd) ReadAt(ino ext4.Ino, p []byte, off int64) (int, error) {
	if o.read == nil {
		return o.Tree.ReadAt(ino, p, off)
	}
	if off > 0 {
		return 0, o.read()
	}
	return o.Tree.ReadAt(ino, p[:1], off)
}

func openImage(t *testing.T, dev blockdev.Device) *ext4.FS {
	t.Helper()
	fs, err := ext4.Open(dev, ext4.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return fs
}

// check closes an image and lets e2fsck judge it.
func check(t *testing.T, fs *ext4.FS, mem *blocktest.Mem) {
	t.Helper()
	if err := fs.Close(); err != nil {
		t.Fatal(err)
	}
	fsck(t, mem)
}

func fsck(t *testing.T, mem *blocktest.Mem) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "judged")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer os.Remove(path)
	defer f.Close()
	if _, err := io.Copy(f, io.NewSectionReader(mem, 0, mem.Size())); err != nil {
		t.Fatal(err)
	}
	e2test.Output(t, "e2fsck", "-fn", path)
}

// newMem makes an image in memory, which stays there when it is closed.
func newMem(t *testing.T) *blocktest.Mem {
	t.Helper()
	mem, err := blocktest.LoadMem(e2test.Image(t, 8<<20, "-t", "ext4", "-b", "1024", "-J", "size=1"))
	if err != nil {
		t.Fatal(err)
	}
	return mem
}

// TestHardLinkReplaced: a hard link is made to the copy, not to what took its place.
func TestHardLinkReplaced(t *testing.T) {
	mem := newMem(t)
	fs := openImage(t, mem)
	tree, start := newTree(t, "a=first", "b=second", "c=->a", "d=->a")
	src := odd{Tree: tree, rename: map[string]string{"b": "a"}}
	r, err := insert.Copy(t.Context(), src, start, "", fs, "/", insert.Options{Problem: func(path string, err error) { t.Errorf("%s: %v", path, err) }})
	if err != nil || r.Files != 5 {
		t.Errorf("%d files, %v", r.Files, err)
	}
	for name, want := range map[string]string{"a": "second", "c": "first", "d": "first"} {
		if got, err := fs.FS().ReadFile(name); string(got) != want {
			t.Errorf("%s: %q, %v; want %q", name, got, err, want)
		}
	}
	for name, links := range map[string]uint32{"a": 1, "c": 2, "d": 2} {
		info, err := fs.FS().Lstat(name)
		if err != nil {
			t.Fatal(err)
		}
		if st := info.Sys().(*ext4.Stat); st.Nlink != links {
			t.Errorf("%s has %d links, want %d", name, st.Nlink, links)
		}
	}
	check(t, fs, mem)
}

// TestIncomplete: what could not be copied wholly leaves the old file, or none, and
// no inode behind.
func TestIncomplete(t *testing.T) {
	errStop := errors.New("stopped")
	for _, what := range []string{"shorter", "EIO", "interrupted"} {
		t.Run(what, func(t *testing.T) {
			mem := newMem(t)
			fs := openImage(t, mem)
			if err := fs.FS().WriteFile("old", []byte("old content"), 0o600); err != nil {
				t.Fatal(err)
			}
			before, err := fs.Statfs()
			if err != nil {
				t.Fatal(err)
			}
			tree, start := newTree(t, "new=abc", "old=abc")
			ctx, cancel := context.WithCancelCause(t.Context())
			var problems []string
			src := odd{Tree: tree, read: func() error {
				switch what {
				case "EIO":
					return syscall.EIO
				case "interrupted":
					cancel(errStop)
				}
				return io.EOF
			}}
			_, err = insert.Copy(ctx, src, start, "", fs, "/", insert.Options{Problem: func(path string, err error) { problems = append(problems, path) }})
			if what == "interrupted" && (err != errStop || len(problems) > 0) || what != "interrupted" && (err != nil || len(problems) != 2) {
				t.Errorf("%v, problems %q", err, problems)
			}
			if _, err := fs.Resolve("new"); !errors.Is(err, syscall.ENOENT) {
				t.Errorf("new: %v", err)
			}
			if got, err := fs.FS().ReadFile("old"); string(got) != "old content" {
				t.Errorf("old: %q, %v", got, err)
			}
			if after, err := fs.Statfs(); err != nil || after.FilesFree != before.FilesFree || after.BlocksFree != before.BlocksFree {
				t.Errorf("free: %+v, before %+v, %v", after, before, err)
			}
			check(t, fs, mem)
		})
	}
}

// TestCrash cuts the power while files are replaced and copied: each name leads to
// a whole file, old or new, and what was synced is there.
func TestCrash(t *testing.T) {
	mem := newMem(t)
	rec := blocktest.NewRecording(mem, mem.Size(), nil)
	fs := openImage(t, rec)
	content := func(version int) []byte { return bytes.Repeat([]byte{byte('a' + version)}, 3000+1000*version) }
	const versions = 26
	// Commits come between any two transactions.
	var background sync.WaitGroup
	stop := make(chan struct{})
	background.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				for range 200 { // some microseconds
					runtime.Gosched()
				}
				if err := fs.Sync(); err != nil {
					t.Error(err)
				}
			}
		}
	})
	var synced []int64 // the cut after which a version is certain
	for v := range versions {
		var files []string
		for i := range 5 {
			files = append(files, fmt.Sprintf("f%d=%s", i, content(v)))
		}
		files = append(files, "hard=->f0")
		tree, start := newTree(t, files...)
		o := insert.Options{Problem: func(path string, err error) { t.Errorf("%s: %v", path, err) }}
		if _, err := insert.Copy(t.Context(), tree, start, "dir", fs, "/", o); err != nil {
			t.Fatal(err)
		}
		if _, err := insert.Stream(t.Context(), bytes.NewReader(content(v)), fs, "/stream", o); err != nil {
			t.Fatal(err)
		}
		if err := fs.Sync(); err != nil {
			t.Fatal(err)
		}
		synced = append(synced, rec.History().End())
	}
	close(stop)
	background.Wait()
	if err := fs.Close(); err != nil {
		t.Fatal(err)
	}
	tried := 0
	h := rec.History()
	for c := range h.Samples(1000, 1) {
		tried++
		for _, f := range c.Fates { // half a superblock is beyond anybody's recovery
			if e := h.Events()[f.Event]; e.Op == blocktest.Write && e.Off <= 1024 && e.Off+e.Len >= 2048 {
				first := int(1024-e.Off) / blocktest.SectorSize
				f.Landed[first+1] = f.Landed[first]
			}
		}
		image := c.Image()
		fs := openImage(t, image)
		for _, name := range []string{"dir/f0", "dir/f1", "dir/f2", "dir/f3", "dir/f4", "dir/hard", "stream"} {
			data, err := fs.FS().ReadFile(name)
			if errors.Is(err, syscall.ENOENT) && c.Cut < synced[0] {
				continue
			}
			if err != nil || len(data) == 0 {
				t.Fatalf("%v: %s: %d bytes, %v", c, name, len(data), err)
			}
			v := int(data[0] - 'a')
			if v < 0 || v >= versions || !bytes.Equal(data, content(v)) {
				t.Fatalf("%v: %s is no whole file", c, name)
			}
			for i, cut := range synced {
				if c.Cut >= cut && v < i {
					t.Fatalf("%v: %s has version %d, but %d was synced", c, name, v, i)
				}
			}
		}
		if err := fs.Close(); err != nil {
			t.Fatal(err)
		}
		if tried%20 == 0 {
			fsck(t, image)
		}
	}
	t.Logf("%d crashes in %d epochs", tried, len(h.Epochs()))
}
