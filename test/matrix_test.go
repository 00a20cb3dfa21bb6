package test

import (
	"fmt"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"ext4box/blockdev"
	"ext4box/ext4"
	"ext4box/ext4/check"
	"ext4box/internal/e2test"
	"ext4box/internal/testimage"
	"ext4box/internal/testimage/apitree"
)

// shortMatrix stands for the matrix in -short mode.
var shortMatrix = map[string]bool{"ext4": true, "ext2-1k": true, "inlinedata": true, "eainode": true, "64k": true, "casefold": true}

// parallelism keeps a machine with few processors, and its loop devices, usable.
var parallelism = make(chan struct{}, 2)

// TestMatrix shows every configuration through the kernel (or debugfs), through
// a mount of ext4box and through the library, and wants three times the same.
func TestMatrix(t *testing.T) {
	for _, c := range testimage.Configs() {
		if testing.Short() && !shortMatrix[c.Name] {
			continue
		}
		if testing.Short() {
			c.BigDir = min(c.BigDir, 3000)
		}
		t.Run(c.Name, func(t *testing.T) {
			t.Parallel()
			parallelism <- struct{}{}
			defer func() { <-parallelism }()
			testConfig(t, c)
		})
	}
}

func testConfig(t *testing.T, c testimage.Config) {
	img := testimage.Build(t, t.TempDir(), c)
	before := imageSums(t, img)
	want, ignore := judge(t, img)
	checkTypes(t, want)
	if !c.ExternalJournal {
		agreeWithFsck(t, img.Path)
	}

	fs := openImage(t, img, ext4.Options{})
	got, err := apitree.Walk(fs)
	if err != nil {
		t.Errorf("library: %v", err)
	} else {
		checkTypes(t, got)
		if d := want.Diff(got, ignore); d != "" {
			t.Errorf("the library differs:\n%s", d)
		}
	}
	if err := testViews(fs); err != nil {
		t.Errorf("io/fs view: %v", err)
	}
	if c.Oracle == testimage.Kernel && canMount() {
		testStatfs(t, img)
	}
	if canMount() {
		dir := mountImage(t, img)
		if d := want.Diff(walkMount(t, dir), ignore); d != "" {
			t.Errorf("the mount differs:\n%s", d)
		}
		umount(t, dir)
	}
	if after := imageSums(t, img); after != before {
		t.Error("reading changed the image")
	}
}

func canMount() bool { return unix.Geteuid() == 0 && unix.Access("/dev/fuse", unix.R_OK) == nil }

// judge asks the configuration's oracle.
func judge(t *testing.T, img *testimage.Image) (testimage.Manifest, testimage.Ignore) {
	t.Helper()
	if img.Config.Oracle == testimage.Kernel && canMount() {
		m := testimage.MountRO(t, img, "")
		tree := walkMount(t, m.Dir)
		if err := m.Unmount(); err != nil {
			t.Fatal(err)
		}
		return tree, nil
	}
	tree, err := testimage.WalkDebugfs(img.Path, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for path, rec := range tree {
		// debugfs shows flags that users do not get to see.
		rec.Flags &= ext4.FlagsVisible
		switch rec.Mode & unix.S_IFMT {
		case unix.S_IFDIR:
		case unix.S_IFREG:
			rec.Flags &^= ext4.FlagProjInherit // means nothing there
		default:
			rec.Flags, rec.Project = 0, 0
		}
		tree[path] = rec
	}
	return tree, testimage.IgnoreDebugfs
}

// checkTypes wants directories to be right about the types they tell.
func checkTypes(t *testing.T, tree testimage.Manifest) {
	t.Helper()
	for path, rec := range tree {
		if want := uint8(rec.Mode & unix.S_IFMT >> 12); path != "" && rec.DirentType != 0 && rec.DirentType != want {
			t.Errorf("the entry of %q has type %d, its inode is of type %d", path, rec.DirentType, want)
			return
		}
	}
}

// statfs is what the kernel and the project must agree on.
type statfs struct {
	Blocks, Free, Available, Files, FilesFree uint64
	BlockSize, NameLength                     int64
}

func statfsOf(t *testing.T, dir string) statfs {
	t.Helper()
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		t.Fatal(err)
	}
	return statfs{st.Blocks, st.Bfree, st.Bavail, st.Files, st.Ffree, st.Bsize, st.Namelen}
}

// testStatfs compares statfs with and without minixdf.
func testStatfs(t *testing.T, img *testimage.Image) {
	t.Helper()
	for _, option := range []string{"bsddf", "minixdf"} {
		m := testimage.MountRO(t, img, option)
		want := statfsOf(t, m.Dir)
		if err := m.Unmount(); err != nil {
			t.Fatal(err)
		}
		st, err := openImage(t, img, ext4.Options{MinixDF: option == "minixdf"}).Statfs()
		if err != nil {
			t.Fatal(err)
		}
		lib := statfs{st.Blocks, st.BlocksFree, st.BlocksAvail, st.Files, st.FilesFree, int64(st.BlockSize), int64(st.NameLen)}
		if lib != want {
			t.Errorf("statfs with %s: the library has\n%+v, the kernel\n%+v", option, lib, want)
		}
		dir := mountImage(t, img, option)
		if got := statfsOf(t, dir); got != want {
			t.Errorf("statfs with %s: the mount has\n%+v, the kernel\n%+v", option, got, want)
		}
		umount(t, dir)
	}
}

// testViews looks at a few files of the populated tree through io/fs.
func testViews(fs *ext4.FS) error {
	view := fs.FS()
	b, err := view.ReadFile("files/hello")
	if err != nil || string(b) != "hello, world\n" {
		return fmt.Errorf("files/hello is %q, %v", b, err)
	}
	list, err := view.ReadDir("files")
	if err != nil {
		return err
	}
	var names []string
	for _, e := range list {
		names = append(names, e.Name())
	}
	want := []string{"empty", "hello", "large", "linked"}
	if len(names) == 3 {
		want = []string{"empty", "hello", "linked"} // a Tiny tree
	}
	if !slices.Equal(names, want) {
		return fmt.Errorf("files has %q, want %q", names, want)
	}
	return nil
}

// agreeWithFsck wants the verb check to find an image clean where e2fsck does, and
// not where that does not.
func agreeWithFsck(t *testing.T, path string) {
	t.Helper()
	dev, err := blockdev.Open(path, blockdev.Options{ReadOnly: true, Buffered: true})
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	r, err := check.Check(t.Context(), dev, check.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if f := e2test.RunFsck(t, path); f.Clean() != r.Clean() {
		t.Errorf("check found %d problems, %+v; e2fsck ended with %d: %s", r.Total, r.Findings, f.Status, f.Output)
	}
}
