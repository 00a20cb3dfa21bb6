package test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ext4box/blockdev"
	"ext4box/blockdev/blocktest"
	"ext4box/ext4"
	"ext4box/internal/testimage"
	"ext4box/internal/testimage/apitree"
)

// TestFastCommitRecovery has the kernel make fast commits of random operations,
// each of which is synced, takes the image from under it, and recovers it for
// writing. The tree must be the one that the kernel showed, and e2fsck content.
// The recovery is cut too, at any point, and recovered once more by ext4box and
// by the kernel.
func TestFastCommitRecovery(t *testing.T) {
	requireMounting(t)
	seeds, cuts := 3, 12
	if n, err := strconv.Atoi(os.Getenv("EXT4BOX_CRASH_POINTS")); err == nil {
		seeds, cuts = max(3, n/1000), max(12, n/100)
	}
	for name, args := range map[string][]string{
		"1k":         {"-b", "1024", "-O", "fast_commit"},
		"4k":         {"-b", "4096", "-O", "fast_commit"},
		"orphanfile": {"-b", "1024", "-O", "fast_commit,orphan_file"},
		"nocsum":     {"-b", "1024", "-O", "fast_commit,^metadata_csum,^64bit"},
		"inline":     {"-b", "4096", "-O", "fast_commit,inline_data"},
		"bigalloc":   {"-b", "1024", "-O", "fast_commit,bigalloc", "-C", "4096"},
		"bigalloc64": {"-b", "4096", "-O", "fast_commit,bigalloc", "-C", "65536"},
	} {
		t.Run(name, func(t *testing.T) {
			tried := 0
			for seed := range seeds {
				tried += testFastRecovery(t, name, args, uint64(seed), cuts)
			}
			t.Logf("%s: %d histories, %d crashes of the recovery", name, seeds, tried)
		})
	}
}

func testFastRecovery(t *testing.T, name string, args []string, seed uint64, cuts int) (tried int) {
	// The kernel does not mount what a crash leaves when the area for fast
	// commits is full, so it is a large one.
	img := testimage.Build(t, t.TempDir(), testimage.Config{
		Name: "fastcommit-" + name, Size: 32 << 20, Args: append([]string{"-t", "ext4", "-J", "size=8,fast_commit_size=1024"}, args...), Level: testimage.Small,
	})
	m := testimage.MountRW(t, img, "commit=900")
	defer m.Unmount()
	w := &fastWork{dir: m.Dir, rng: rand.New(rand.NewPCG(seed, 1))}
	for range 20 {
		if err := w.step(); err != nil {
			t.Fatal(err)
		}
	}
	if err := syncFS(m.Dir); err != nil {
		t.Fatal(err)
	}
	before := fastCommits(t, m)
	for i := range 60 {
		if err := w.step(); err != nil {
			t.Fatalf("seed %d, step %d: %v", seed, i, err)
		}
	}
	// What was written down by the last sync is all there is.
	if err := w.write("last"); err != nil {
		t.Fatal(err)
	}
	if n := fastCommits(t, m) - before; n < 20 {
		t.Errorf("seed %d: %d fast commits, so this does not test them", seed, n)
	}
	want := walkMount(t, m.Dir)
	crashed := copyImage(t, img, ".crashed")
	if err := m.Unmount(); err != nil {
		t.Fatal(err)
	}

	what := fmt.Sprintf("seed %d", seed)
	judge := copyImage(t, crashed, ".judge")
	if err := testimage.MountRW(t, judge, "").Unmount(); err != nil {
		t.Fatal(err)
	}
	base, err := blocktest.LoadMem(crashed.Path)
	if err != nil {
		t.Fatal(err)
	}
	dev := blocktest.NewRecording(base, base.Size(), nil)
	if !compareFast(t, what, dev, want) {
		return 0
	}
	result := &testimage.Image{Config: img.Config, Path: crashed.Path + ".result"}
	if err := blocktest.Dump(dev, dev.Size(), result.Path); err != nil {
		t.Fatal(err)
	}
	if err := testimage.Run("e2fsck", "-fn", result.Path); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	useByKernel(t, result)

	h, n := dev.History(), 0
	for c := range h.Samples(cuts, seed) {
		tried++
		n++
		at := fmt.Sprintf("%s, %v", what, c)
		cut := wholeSuperblock(h, c).Image()
		if n%4 == 0 {
			byKernel := &testimage.Image{Config: img.Config, Path: fmt.Sprint(crashed.Path, ".cut", n)}
			if err := blocktest.Dump(cut, cut.Size(), byKernel.Path); err != nil {
				t.Fatal(err)
			}
			if err := testimage.MountRW(t, byKernel, "").Unmount(); err != nil {
				t.Fatal(err)
			}
			// For what its replay leaves wrong, if it is what was recovered.
			_ = testimage.Run("e2fsck", "-fy", byKernel.Path)
			fs := openImage(t, byKernel, ext4.Options{})
			compareTree(t, at+", recovered by the kernel", fs, want, testimage.Ignore{"Map", "Link", "Size", "Major", "Minor"})
			os.Remove(byKernel.Path)
		}
		if !compareFast(t, at, cut, want) {
			return tried
		}
		path := crashed.Path + ".again"
		if err := blocktest.Dump(cut, cut.Size(), path); err != nil {
			t.Fatal(err)
		}
		if err := testimage.Run("e2fsck", "-fn", path); err != nil {
			t.Fatalf("%s: recovered again: %v", at, err)
		}
	}
	return tried
}

// wholeSuperblock makes writes of the superblock arrive as a whole, for nobody
// can recover from half of it.
func wholeSuperblock(h *blocktest.History, c *blocktest.Crash) *blocktest.Crash {
	for _, f := range c.Fates {
		e := h.Events()[f.Event]
		if e.Op == blocktest.Write && e.Off <= 1024 && e.Off+e.Len >= 2048 {
			first := int(1024-e.Off) / blocktest.SectorSize
			f.Landed[first+1] = f.Landed[first]
		}
	}
	return c
}

// compareFast recovers dev for writing and compares the tree.
func compareFast(t *testing.T, what string, dev blockdev.Device, want testimage.Manifest) bool {
	t.Helper()
	fs, err := ext4.Open(dev, ext4.Options{CommitInterval: time.Hour})
	if err != nil {
		t.Errorf("%s: open: %v", what, err)
		return false
	}
	ok := fs.ReadOnlyReason() == ""
	if !ok {
		t.Errorf("%s: read-only because %s", what, fs.ReadOnlyReason())
	}
	ok = compareTree(t, what, fs, want, testimage.Ignore{"Map"}) && ok // of which the page cache has its own idea
	if err := fs.Close(); err != nil {
		t.Errorf("%s: close: %v", what, err)
		return false
	}
	return ok
}

// compareTree compares but for the times of directories, which are those of the
// recovery.
func compareTree(t *testing.T, what string, fs *ext4.FS, want testimage.Manifest, ignore testimage.Ignore) bool {
	t.Helper()
	got, err := apitree.Walk(fs)
	if err != nil {
		t.Errorf("%s: %v", what, err)
		return false
	}
	for path, g := range got {
		if w := want[path]; g.Mode&unix.S_IFMT == unix.S_IFDIR || len(ignore) > 1 {
			g.Mtime, g.Ctime = w.Mtime, w.Ctime
		}
		got[path] = g
	}
	if d := want.Diff(got, ignore); d != "" {
		t.Errorf("%s: the tree differs:\n%s", what, d)
		return false
	}
	return true
}

// useByKernel has the kernel make fast commits on an image that ext4box has
// recovered, and recover them.
func useByKernel(t *testing.T, img *testimage.Image) {
	t.Helper()
	m := testimage.MountRW(t, img, "commit=900")
	before := fastCommits(t, m)
	w := &fastWork{dir: m.Dir, rng: rand.New(rand.NewPCG(7, 7))}
	var names []string
	for i := range 5 {
		names = append(names, fmt.Sprintf("kernel-%d", i))
		if err := w.write(names[i]); err != nil {
			t.Error(err)
		}
	}
	if fastCommits(t, m) == before {
		t.Error("the kernel makes no fast commits any longer")
	}
	after := copyImage(t, img, ".after")
	if err := m.Unmount(); err != nil {
		t.Fatal(err)
	}
	fs := openWritable(t, after)
	if !fs.Recovery().Fast {
		t.Log("the kernel has made a full commit of its own in the end")
	}
	for i := range 5 {
		if _, err := fs.Resolve(names[i]); err != nil {
			t.Errorf("of what the kernel made since: %v", err)
		}
	}
	if err := fs.Close(); err != nil {
		t.Error(err)
	}
	if err := testimage.Run("e2fsck", "-fn", after.Path); err != nil {
		t.Error(err)
	}
}

// fastWork does what fast commits can record, and syncs each operation.
type fastWork struct {
	dir   string
	rng   *rand.Rand
	files []string
	dirs  []string
	made  int
}

func (w *fastWork) name() string {
	w.made++
	dir := ""
	if n := len(w.dirs); n > 0 && w.rng.IntN(2) == 0 {
		dir = w.dirs[w.rng.IntN(n)]
	}
	return filepath.Join(dir, fmt.Sprintf("%s-%d", []string{"f", "a name that is much longer than the others are"}[w.rng.IntN(2)], w.made))
}

func (w *fastWork) path(name string) string { return filepath.Join(w.dir, name) }

// write makes a file and syncs it.
func (w *fastWork) write(name string) error {
	w.made++
	return w.change(name, os.O_CREATE, func(f *os.File) error {
		_, err := f.WriteAt(w.data(), 0)
		return err
	})
}

func (w *fastWork) data() []byte {
	b := make([]byte, 1+w.rng.IntN([]int{40, 5000, 60000}[w.rng.IntN(3)]))
	for i := range b {
		b[i] = byte(w.rng.Uint32())
	}
	return b
}

// change opens a file, does something with it and syncs it.
func (w *fastWork) change(name string, flags int, fn func(f *os.File) error) error {
	f, err := os.OpenFile(w.path(name), os.O_RDWR|flags, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := fn(f); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return f.Sync()
}

// sync makes names durable, with the help of a file.
func (w *fastWork) sync() error {
	return w.change("sync", os.O_CREATE, func(f *os.File) error {
		_, err := f.WriteAt([]byte{byte(w.made)}, int64(w.made))
		return err
	})
}

// step does one operation.
func (w *fastWork) step() error {
	op := w.rng.IntN(14)
	if len(w.files) < 3 {
		op = 0
	}
	pick := func() int { return w.rng.IntN(len(w.files)) }
	switch op {
	case 0, 1, 2:
		name := w.name()
		w.files = append(w.files, name)
		return w.write(name)
	case 3, 4:
		return w.change(w.files[pick()], 0, func(f *os.File) error {
			_, err := f.WriteAt(w.data(), int64(w.rng.IntN(200000)))
			return err
		})
	case 5:
		return w.change(w.files[pick()], 0, func(f *os.File) error { return f.Truncate(int64(w.rng.IntN(100000))) })
	case 6, 7:
		mode := []uint32{0, unix.FALLOC_FL_KEEP_SIZE, unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE,
			unix.FALLOC_FL_ZERO_RANGE, unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE}[w.rng.IntN(5)]
		return w.change(w.files[pick()], 0, func(f *os.File) error {
			return unix.Fallocate(int(f.Fd()), mode, int64(w.rng.IntN(100000)), int64(1+w.rng.IntN(50000)))
		})
	case 8:
		name := w.name()
		if err := os.Link(w.path(w.files[pick()]), w.path(name)); err != nil {
			return err
		}
		w.files = append(w.files, name)
	case 9:
		i := pick()
		name := w.files[i]
		w.files = append(w.files[:i], w.files[i+1:]...)
		if err := os.Remove(w.path(name)); err != nil {
			return err
		}
	case 10:
		i, name := pick(), w.name()
		if err := os.Rename(w.path(w.files[i]), w.path(name)); err != nil {
			return err
		}
		w.files[i] = name
	case 11:
		w.made++
		name := fmt.Sprintf("dir-%d", w.made)
		if err := os.Mkdir(w.path(name), 0o755); err != nil {
			return err
		}
		w.dirs = append(w.dirs, name)
	case 12:
		w.made++
		name := fmt.Sprintf("empty-%d", w.made)
		if err := os.Mkdir(w.path(name), 0o755); err != nil {
			return err
		}
		if w.rng.IntN(2) == 0 {
			if err := w.sync(); err != nil {
				return err
			}
		}
		if err := os.Remove(w.path(name)); err != nil {
			return err
		}
	case 13:
		w.made++
		name := w.path(fmt.Sprintf("special-%d", w.made))
		var err error
		switch w.rng.IntN(4) {
		case 0:
			err = os.Symlink("short", name)
		case 1:
			err = os.Symlink(fmt.Sprintf("a target that is too long for the inode %0100d", w.made), name)
		case 2:
			err = unix.Mknod(name, unix.S_IFIFO|0o600, 0)
		case 3:
			err = unix.Mknod(name, unix.S_IFCHR|0o600, int(unix.Mkdev(5, 1)))
		}
		if err != nil {
			return err
		}
	}
	return w.sync()
}

// TestFastCommitEach recovers one operation at a time on what was there before:
// each gives back blocks or names that are in use on the disk.
func TestFastCommitEach(t *testing.T) {
	requireMounting(t)
	img := testimage.Build(t, t.TempDir(), testimage.Config{
		Name: "fastcommit-each", Size: 32 << 20, Args: []string{"-t", "ext4", "-b", "1024", "-O", "fast_commit"}, Level: testimage.Small,
	})
	m := testimage.MountRW(t, img, "commit=900")
	defer m.Unmount()
	w := &fastWork{dir: m.Dir, rng: rand.New(rand.NewPCG(3, 3))}
	ops := map[string]func(name string) error{
		"truncate": func(name string) error {
			return w.change(name, 0, func(f *os.File) error { return f.Truncate(3000) })
		},
		"punch": func(name string) error {
			return w.change(name, 0, func(f *os.File) error {
				return unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 20480, 30720)
			})
		},
		"unlink": func(name string) error { return os.Remove(w.path(name)) },
		"rmdir":  func(name string) error { return os.Remove(w.path(name + "-dir")) },
		"mkdir":  func(name string) error { return os.Mkdir(w.path(name+"-dir/new"), 0o755) },
		"rename": func(name string) error { return os.Rename(w.path(name), w.path(name+"-dir/moved")) },
	}
	for _, name := range slices.Sorted(maps.Keys(ops)) {
		file, op := "each-"+name, ops[name]
		if err := os.Mkdir(w.path(file+"-dir"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := w.change(file, os.O_CREATE, func(f *os.File) error {
			_, err := f.Write(make([]byte, 100000))
			return err
		}); err != nil {
			t.Fatal(err)
		}
		if err := syncFS(m.Dir); err != nil {
			t.Fatal(err)
		}
		before := fastCommits(t, m)
		if err := op(file); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if err := w.sync(); err != nil {
			t.Fatal(err)
		}
		if fastCommits(t, m) == before {
			t.Logf("%s: the kernel makes a full commit", name)
		}
		want := walkMount(t, m.Dir)
		crashed := copyImage(t, img, "."+name)
		fs := openWritable(t, crashed)
		compareTree(t, name, fs, want, testimage.Ignore{"Map"})
		t.Logf("%s: fast commits recovered: %v", name, fs.Recovery().Fast)
		if err := fs.Close(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := testimage.Run("e2fsck", "-fn", crashed.Path); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
