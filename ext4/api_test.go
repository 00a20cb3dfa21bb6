package ext4_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/fstest"

	"ext4box/blockdev/blocktest"
	"ext4box/ext4"
	"ext4box/internal/e2test"
	"ext4box/iomap"
)

// compareTree compares a filesystem with the tree it was made from.
func compareTree(t *testing.T, fs *ext4.FS, tree string) {
	t.Helper()
	seen := 0
	err := filepath.WalkDir(tree, func(path string, d iofs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(tree, path)
		want, err := os.Lstat(path)
		if err != nil {
			return err
		}
		got, err := fs.FS().Lstat(name)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			return nil
		}
		seen++
		st := got.Sys().(*ext4.Stat)
		sys := want.Sys().(*syscall.Stat_t)
		if name != "." && (got.Mode() != want.Mode() || st.UID != sys.Uid || st.GID != sys.Gid) ||
			!want.IsDir() && (got.Size() != want.Size() || uint64(st.Nlink) != uint64(sys.Nlink)) ||
			name != "." && got.ModTime().Unix() != want.ModTime().Unix() {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
		switch {
		case want.Mode().IsRegular():
			data, err := fs.FS().ReadFile(name)
			if content, _ := os.ReadFile(path); err != nil || !bytes.Equal(data, content) {
				t.Errorf("%s: %d bytes, %v; want %d", name, len(data), err, len(content))
			}
		case want.Mode()&iofs.ModeSymlink != 0:
			target, err := fs.FS().ReadLink(name)
			if content, _ := os.Readlink(path); err != nil || target != content {
				t.Errorf("%s: %q, %v; want %q", name, target, err, content)
			}
		case want.IsDir():
			entries, err := os.ReadDir(path)
			if err != nil {
				return err
			}
			var wantNames, gotNames []string
			for _, e := range entries {
				wantNames = append(wantNames, e.Name())
			}
			list, err := fs.FS().ReadDir(name)
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			for _, e := range list {
				if name != "." || e.Name() != "lost+found" {
					gotNames = append(gotNames, e.Name())
				}
			}
			if !slices.Equal(gotNames, wantNames) {
				t.Errorf("%s: %q, want %q", name, gotNames, wantNames)
			}
		}
		return nil
	})
	if err != nil || seen < 100 {
		t.Errorf("compared %d things: %v", seen, err)
	}
}

// standardImage makes an image of a host tree with small blocks.
func standardImage(tb testing.TB) (tree, image string) {
	tb.Helper()
	tree = hostTree(tb)
	return tree, e2test.Image(tb, 16*mib, "-t", "ext4", "-b", "1024", "-d", tree)
}

func TestTreeEqualsHost(t *testing.T) {
	tree, image := standardImage(t)
	fs := open(t, load(t, image), ext4.Options{})
	compareTree(t, fs, tree)
}

func TestViewPassesTestFS(t *testing.T) {
	files := map[string]string{"hello": "hello\n", "empty": "", "dir/inner/deep": strings.Repeat("deep", 1000), "emptydir/": ""}
	for i := range 40 {
		files[fmt.Sprintf("many/file %02d", i)] = fmt.Sprint(i)
	}
	tree := e2test.Tree(t, files)
	if err := os.Symlink("dir/inner", filepath.Join(tree, "link")); err != nil {
		t.Fatal(err)
	}
	fs := open(t, load(t, e2test.Image(t, 4*mib, "-t", "ext4", "-b", "1024", "-d", tree)), ext4.Options{})
	if err := fstest.TestFS(fs.FS(), "hello", "empty", "dir/inner/deep", "emptydir", "link", "many/file 39", "lost+found"); err != nil {
		t.Error(err)
	}
}

func TestFileMode(t *testing.T) {
	for mode, want := range map[uint32]string{
		0o100644: "-rw-r--r--", 0o040755: "drwxr-xr-x", 0o120777: "Lrwxrwxrwx", 0o020600: "Dcrw-------", 0o060600: "Drw-------",
		0o010600: "prw-------", 0o140600: "Srw-------", 0o104755: "urwxr-xr-x", 0o102755: "grwxr-xr-x", 0o041777: "dtrwxrwxrwx",
	} {
		if got := ext4.FileMode(mode).String(); got != want {
			t.Errorf("mode %o is %s, want %s", mode, got, want)
		}
	}
}

func TestViewErrors(t *testing.T) {
	_, image := standardImage(t)
	v := open(t, load(t, image), ext4.Options{}).FS()
	for _, c := range []struct {
		op   string
		name string
		do   func(name string) error
		want error
	}{
		{"open", "absent", func(n string) error { _, err := v.Open(n); return err }, iofs.ErrNotExist},
		{"open", "/hello", func(n string) error { _, err := v.Open(n); return err }, iofs.ErrInvalid},
		{"open", "dir/../hello", func(n string) error { _, err := v.Open(n); return err }, iofs.ErrInvalid},
		{"open", "", func(n string) error { _, err := v.Open(n); return err }, iofs.ErrInvalid},
		{"open", "hello/x", func(n string) error { _, err := v.Open(n); return err }, syscall.ENOTDIR},
		{"open", "self", func(n string) error { _, err := v.Open(n); return err }, syscall.ELOOP},
		{"stat", "dangling", func(n string) error { _, err := v.Stat(n); return err }, iofs.ErrNotExist},
		{"lstat", "absent", func(n string) error { _, err := v.Lstat(n); return err }, iofs.ErrNotExist},
		{"readlink", "hello", func(n string) error { _, err := v.ReadLink(n); return err }, syscall.EINVAL},
		{"readdir", "hello", func(n string) error { _, err := v.ReadDir(n); return err }, syscall.ENOTDIR},
		{"read", "dir", func(n string) error { _, err := v.ReadFile(n); return err }, syscall.EISDIR},
	} {
		err := c.do(c.name)
		var path *iofs.PathError
		if !errors.Is(err, c.want) || !errors.As(err, &path) || path.Op != c.op || path.Path != c.name {
			t.Errorf("%s %q: %v, want %v", c.op, c.name, err, c.want)
		}
	}
	if _, err := v.Lstat("dangling"); err != nil {
		t.Errorf("a link without target cannot be looked at: %v", err)
	}
	f, err := v.Open("sparse")
	if err != nil {
		t.Fatal(err)
	}
	s := f.(io.ReadSeeker)
	for _, c := range []struct {
		off    int64
		whence int
		want   int64
		err    error
	}{
		{5, io.SeekStart, 5, nil}, {5, io.SeekCurrent, 10, nil}, {-10, io.SeekEnd, 400*4096 + 67, nil}, {-1, io.SeekStart, 0, syscall.EINVAL},
		{0, ext4.SeekData, 2 * 4096, nil}, {2 * 4096, ext4.SeekHole, 5 * 4096, nil}, {350 * 4096, ext4.SeekData, 0, syscall.ENXIO},
		{0, 99, 0, syscall.EINVAL},
	} {
		if got, err := s.Seek(c.off, c.whence); got != c.want || !errors.Is(err, c.err) {
			t.Errorf("seek %d, %d: %d, %v; want %d, %v", c.off, c.whence, got, err, c.want, c.err)
		}
	}
}

// TestResolve walks paths with links of all kinds.
func TestResolve(t *testing.T) {
	_, image := standardImage(t)
	fs := open(t, load(t, image), ext4.Options{})
	want := func(path string) ext4.Ino {
		t.Helper()
		ino, err := fs.Resolve(path)
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		return ino
	}
	hello, deep := want("hello"), want("dir/inner/deep")
	for path, ino := range map[string]ext4.Ino{
		"": ext4.RootIno, "/": ext4.RootIno, "//": ext4.RootIno, ".": ext4.RootIno, "..": ext4.RootIno, "../../..": ext4.RootIno,
		"/hello": hello, "//hello": hello, "./hello": hello, "dir/../hello": hello, "dir/inner/../../hello": hello, "dir/hard": hello,
		"dir/": want("dir"), "dir//": want("dir"), "abs/": want("dir/inner"), "dir/root/": ext4.RootIno, "abs/.": want("dir/inner"),
		"abs/deep": deep, "/abs/../inner/deep": deep, "dir/root/hello": hello, "dir/root/dir/root/dir/inner/deep": deep,
	} {
		if got, err := fs.Resolve(path); err != nil || got != ino {
			t.Errorf("%q: %d, %v; want %d", path, got, err, ino)
		}
	}
	for path, ino := range map[string]ext4.Ino{
		"link": hello, "dir/up": hello, "abs": want("dir/inner"), "slow": want("dir/other"), "through": deep, "chain38": hello, "chain39": hello,
	} {
		if got, err := fs.ResolveFollow(path); err != nil || got != ino {
			t.Errorf("%q followed: %d, %v; want %d", path, got, err, ino)
		}
		if got, err := fs.Resolve(path); err != nil || got == ino {
			t.Errorf("%q is followed: %d, %v", path, got, err)
		}
	}
	for path, errno := range map[string]syscall.Errno{
		"absent": syscall.ENOENT, "hello/x": syscall.ENOTDIR, "hello/..": syscall.ENOTDIR, "link/x": syscall.ENOTDIR, "dangling/x": syscall.ENOENT,
		"hello/": syscall.ENOTDIR, "hello//": syscall.ENOTDIR, "link/": syscall.ENOTDIR, "dangling/": syscall.ENOENT, "self/": syscall.ELOOP,
		"self/x": syscall.ELOOP, "loop1/x": syscall.ELOOP, "chain40/x": syscall.ELOOP,
		strings.Repeat("n", 256): syscall.ENAMETOOLONG, "dir/" + strings.Repeat("n", 256) + "/x": syscall.ENAMETOOLONG,
	} {
		if got, err := fs.Resolve(path); errnoOf(t, err) != errno {
			t.Errorf("%q: %d, %v; want %v", path, got, err, errno)
		}
	}
}

func TestResolveParent(t *testing.T) {
	_, image := standardImage(t)
	fs := open(t, load(t, image), ext4.Options{})
	dir, err := fs.Resolve("dir")
	if err != nil {
		t.Fatal(err)
	}
	inner, err := fs.Resolve("dir/inner")
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]struct {
		dir  ext4.Ino
		name string
		err  syscall.Errno
	}{
		"x": {ext4.RootIno, "x", 0}, "/x": {ext4.RootIno, "x", 0}, "dir/x": {dir, "x", 0}, "/dir//x//": {dir, "x", 0}, "dir/inner": {dir, "inner", 0},
		"abs/x": {inner, "x", 0}, "dir/../x": {ext4.RootIno, "x", 0}, "dir/./x": {dir, "x", 0},
		"": {0, "", syscall.EINVAL}, "/": {0, "", syscall.EINVAL}, "dir/..": {0, "", syscall.EINVAL}, ".": {0, "", syscall.EINVAL}, "dir/./": {0, "", syscall.EINVAL},
		"absent/x": {0, "x", syscall.ENOENT}, "hello/x": {0, "x", syscall.ENOTDIR}, "link/x": {0, "x", syscall.ENOTDIR},
	} {
		got, name, err := fs.ResolveParent(path)
		if errnoOf(t, err) != want.err || err == nil && (got != want.dir || name != want.name) {
			t.Errorf("%q: %d, %q, %v; want %v", path, got, name, err, want)
		}
	}
}

// TestMisuse calls everything with inodes that it is not for.
func TestMisuse(t *testing.T) {
	_, image := standardImage(t)
	e2test.Change(t, image, "mknod fifo p", "mknod chr c 1 3")
	fs := open(t, load(t, image), ext4.Options{})
	ino := func(path string) ext4.Ino {
		t.Helper()
		n, err := fs.Resolve(path)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	p := make([]byte, 10)
	ops := map[string]func(ext4.Ino) error{
		"stat":      func(i ext4.Ino) error { _, err := fs.Stat(i); return err },
		"lookup":    func(i ext4.Ino) error { _, err := fs.Lookup(i, "hello"); return err },
		"readdir":   func(i ext4.Ino) error { return fs.ReadDir(i, 0, func(ext4.Dirent) bool { return true }) },
		"readlink":  func(i ext4.Ino) error { _, err := fs.Readlink(i); return err },
		"getxattr":  func(i ext4.Ino) error { _, err := fs.Getxattr(i, "user.a"); return err },
		"listxattr": func(i ext4.Ino) error { _, err := fs.Listxattr(i); return err },
		"begin":     func(i ext4.Ino) error { _, err := fs.Begin(i, 0, 10, iomap.Read); return err },
		"write":     func(i ext4.Ino) error { _, err := fs.Begin(i, 0, 10, iomap.Write); return err },
		"read":      func(i ext4.Ino) error { _, err := fs.ReadAt(i, p, 0); return err },
		"seek":      func(i ext4.Ino) error { _, err := fs.Seek(i, 0, ext4.SeekData); return err },
		"size":      func(i ext4.Ino) error { _, err := fs.FileSize(i); return err },
	}
	const ok = syscall.Errno(0)
	for name, want := range map[ext4.Ino]map[string]syscall.Errno{
		ino("hello"): {"lookup": syscall.ENOTDIR, "readdir": syscall.ENOTDIR, "readlink": syscall.EINVAL, "getxattr": syscall.ENODATA, "write": syscall.EROFS},
		ino("dir"): {"lookup": syscall.ENOENT, "readlink": syscall.EINVAL, "getxattr": syscall.ENODATA, "begin": syscall.EISDIR, "write": syscall.EROFS,
			"read": syscall.EISDIR, "seek": syscall.EISDIR},
		ino("link"): {"lookup": syscall.ENOTDIR, "readdir": syscall.ENOTDIR, "getxattr": syscall.ENODATA, "begin": syscall.EINVAL, "write": syscall.EROFS,
			"read": syscall.EINVAL, "seek": syscall.EINVAL},
		ino("fifo"): {"lookup": syscall.ENOTDIR, "readdir": syscall.ENOTDIR, "readlink": syscall.EINVAL, "getxattr": syscall.ENODATA, "begin": syscall.EINVAL,
			"write": syscall.EROFS, "read": ok, "seek": syscall.ENXIO},
		ino("empty"): {"lookup": syscall.ENOTDIR, "readdir": syscall.ENOTDIR, "readlink": syscall.EINVAL, "getxattr": syscall.ENODATA, "write": syscall.EROFS,
			"seek": syscall.ENXIO},
	} {
		for op, do := range ops {
			err := do(name)
			if err == io.EOF {
				err = nil
			}
			if got := errnoOf(t, err); got != want[op] {
				t.Errorf("%s of inode %d: %v, want %v", op, name, err, want[op])
			}
		}
	}
	info := fs.Info()
	for _, n := range []ext4.Ino{0, 1, 3, 4, 5, 6, 7, 8, 9, 10, ext4.Ino(info.Inodes), ext4.Ino(info.Inodes) + 1, 1 << 31, 1<<32 - 1} {
		for op, do := range ops {
			want := syscall.ESTALE
			if op == "write" {
				want = syscall.EROFS
			}
			if err := do(n); errnoOf(t, err) != want {
				t.Errorf("%s of inode %d: %v", op, n, err)
			}
		}
	}
	hello := ino("hello")
	for name, errno := range map[string]syscall.Errno{
		"user.absent": syscall.ENODATA, "system.data": syscall.EOPNOTSUPP, "nonsense": syscall.EOPNOTSUPP, "user.": syscall.EINVAL,
		"system.posix_acl_access": syscall.ENODATA, "": syscall.EOPNOTSUPP,
	} {
		if _, err := fs.Getxattr(hello, name); errnoOf(t, err) != errno {
			t.Errorf("getxattr %q: %v, want %v", name, err, errno)
		}
	}
	for name, err := range map[string]error{
		"negative read": func() error { _, err := fs.ReadAt(hello, p, -1); return err }(),
		"bad whence":    func() error { _, err := fs.Seek(hello, 0, 9); return err }(),
	} {
		if errnoOf(t, err) != syscall.EINVAL {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, off := range []int64{-1, 13, 1 << 62} {
		if _, err := fs.Seek(hello, off, ext4.SeekHole); errnoOf(t, err) != syscall.ENXIO {
			t.Errorf("seek from %d: %v", off, err)
		}
	}
	if _, err := fs.Lookup(ext4.RootIno, strings.Repeat("n", 256)); errnoOf(t, err) != syscall.ENAMETOOLONG {
		t.Errorf("long name: %v", err)
	}
	if err := fs.ReadDir(ext4.RootIno, -1, func(ext4.Dirent) bool { return true }); err != nil {
		t.Errorf("negative position: %v", err)
	}
}

// TestSparseEqualsHost reads and seeks everywhere in a file with holes, in an
// image with extents and in one with a block map.
func TestSparseEqualsHost(t *testing.T) {
	tree := t.TempDir()
	sparse(t, filepath.Join(tree, "sparse"))
	host, err := os.Open(filepath.Join(tree, "sparse"))
	if err != nil {
		t.Fatal(err)
	}
	defer host.Close()
	for _, format := range []string{"ext4", "ext2"} {
		fs := open(t, load(t, e2test.Image(t, 16*mib, "-t", format, "-b", "4096", "-d", tree)), ext4.Options{})
		ino, err := fs.Resolve("sparse")
		if err != nil {
			t.Fatal(err)
		}
		r := rand.New(rand.NewPCG(1, 2))
		for range 300 {
			off := r.Int64N(401 * 4096)
			a, b := make([]byte, r.IntN(50000)), make([]byte, 50000)
			b = b[:len(a)]
			n, err := fs.ReadAt(ino, a, off)
			wantN, wantErr := host.ReadAt(b, off)
			if len(a) == 0 {
				wantErr = err
			}
			if n != wantN || err != wantErr || !bytes.Equal(a[:n], b[:n]) {
				t.Fatalf("%s: read of %d at %d: %d, %v; the host reads %d, %v", format, len(a), off, n, err, wantN, wantErr)
			}
		}
		for off := int64(0); off < 401*4096; off += 1111 {
			for _, whence := range []int{ext4.SeekData, ext4.SeekHole} {
				got, err := fs.Seek(ino, off, whence)
				want, wantErr := host.Seek(off, whence)
				if got != want && wantErr == nil || errnoOf(t, err) != errnoOf(t, wantErr) {
					t.Fatalf("%s: seek %d from %d: %d, %v; the host finds %d, %v", format, whence, off, got, err, want, wantErr)
				}
			}
		}
		if _, err := fs.Begin(ino, 1<<63, 1, iomap.Read); err != nil {
			t.Errorf("mapping behind the largest file: %v", err)
		}
	}
}

// TestReadDirContinues reads a directory in pieces.
func TestReadDirContinues(t *testing.T) {
	_, image := standardImage(t)
	fs := open(t, load(t, image), ext4.Options{})
	dir, err := fs.Resolve("many")
	if err != nil {
		t.Fatal(err)
	}
	var all, pieces []string
	types := map[uint8]int{}
	if err := fs.ReadDir(dir, 0, func(e ext4.Dirent) bool {
		all = append(all, string(e.Name))
		types[e.Type]++
		return true
	}); err != nil {
		t.Fatal(err)
	}
	for pos, n := int64(0), -1; n != 0; {
		n = 0
		if err := fs.ReadDir(dir, pos, func(e ext4.Dirent) bool {
			pieces = append(pieces, string(e.Name))
			pos = e.Next
			n++
			return n < 7
		}); err != nil {
			t.Fatal(err)
		}
	}
	if !slices.Equal(all, pieces) || len(all) != 402 || types[ext4.DTReg] != 400 || types[ext4.DTDir] != 2 {
		t.Errorf("%d entries in one piece, %d in many; types %v", len(all), len(pieces), types)
	}
}

// TestConcurrentUse has many users of a filesystem whose caches hold next to
// nothing.
func TestConcurrentUse(t *testing.T) {
	tree, image := standardImage(t)
	fs := open(t, load(t, image), ext4.Options{CacheBytes: 1})
	blocks, err := os.ReadFile(filepath.Join(tree, "blocks"))
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	for worker := range uint64(8) {
		group.Go(func() {
			r := rand.New(rand.NewPCG(3, worker))
			for range 30 {
				name := "many/file 0" + string([]byte{'0' + byte(r.IntN(4)), '0' + byte(r.IntN(10)), '0' + byte(r.IntN(10))})
				if data, err := fs.FS().ReadFile(name); err != nil || !strings.HasSuffix(name, string(data)) {
					t.Errorf("%s: %q, %v", name, data, err)
				}
				ino, err := fs.Resolve("abs/../../blocks")
				if err != nil {
					t.Error(err)
					return
				}
				p, off := make([]byte, 1+r.IntN(9000)), r.Int64N(int64(len(blocks)))
				if n, err := fs.ReadAt(ino, p, off); err != nil && err != io.EOF || !bytes.Equal(p[:n], blocks[off:off+int64(n)]) {
					t.Errorf("read at %d: %d, %v", off, n, err)
				}
				seen := 0
				if err := fs.ReadDir(ext4.RootIno, 0, func(ext4.Dirent) bool { seen++; return true }); err != nil || seen < 50 {
					t.Errorf("root has %d entries, %v", seen, err)
				}
				if _, err := fs.Statfs(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
}

// TestFailingDevice makes each read of the device fail in turn. What is asked
// for fails with EIO, or succeeds without that read, and works afterwards.
func TestFailingDevice(t *testing.T) {
	tree, image := standardImage(t)
	e2test.Change(t, image, "ea_set hello user.long "+strings.Repeat("v", 500))
	content, err := os.ReadFile(filepath.Join(tree, "blocks"))
	if err != nil {
		t.Fatal(err)
	}
	use := func(fs *ext4.FS) (failed []error) {
		note := func(err error) {
			if err != nil {
				failed = append(failed, err)
			}
		}
		_, err := fs.FS().Stat("dir/inner/deep")
		note(err)
		data, err := fs.FS().ReadFile("blocks")
		note(err)
		if err == nil && !bytes.Equal(data, content) {
			t.Error("wrong content")
		}
		_, err = fs.FS().ReadLink("slow")
		note(err)
		_, err = fs.FS().ReadDir("many")
		note(err)
		_, err = fs.Statfs()
		note(err)
		ino, err := fs.Resolve("hello")
		note(err)
		if err == nil {
			_, err = fs.Getxattr(ino, "user.long")
			note(err)
		}
		return failed
	}
	dev := blocktest.NewFailing(load(t, image))
	failures := 0
	for n := 1; ; n++ {
		dev.Clear()
		before := dev.Fired()
		dev.FailNth(blocktest.Read, n, nil)
		fs, err := ext4.Open(dev, ext4.Options{})
		if err != nil {
			if errnoOf(t, err) != syscall.EIO {
				t.Errorf("read %d failed, and open: %v", n, err)
			}
			continue
		}
		for _, err := range use(fs) {
			failures++
			if errnoOf(t, err) != syscall.EIO {
				t.Errorf("read %d failed, and then: %v", n, err)
			}
		}
		if dev.Fired() == before {
			break // n is more than there are reads
		}
		dev.Clear()
		for _, err := range use(fs) {
			t.Errorf("after the failure of read %d had passed: %v", n, err)
		}
		if n > 2000 {
			t.Fatal("no end of reads")
		}
	}
	if failures < 10 {
		t.Errorf("only %d failures", failures)
	}
}

// TestShrunkDevice has a device that ends early after the image was opened.
func TestShrunkDevice(t *testing.T) {
	_, image := standardImage(t)
	mem := load(t, image)
	dev := &short{Mem: mem, limit: mem.Size()}
	fs := open(t, dev, ext4.Options{})
	dev.limit = 4096
	if _, err := fs.FS().ReadFile("blocks"); errnoOf(t, err) != syscall.EIO {
		t.Errorf("a file: %v", err)
	}
	if _, err := fs.FS().ReadDir("many"); errnoOf(t, err) != syscall.EIO {
		t.Errorf("a directory: %v", err)
	}
	if _, err := fs.Statfs(); errnoOf(t, err) != syscall.EIO && err != nil {
		t.Errorf("statfs: %v", err)
	}
}

type short struct {
	*blocktest.Mem
	limit int64
}

func (s *short) ReadAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) > s.limit {
		return 0, io.EOF
	}
	return s.Mem.ReadAt(p, off)
}
