package test

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"ext4box/blockdev"
	"ext4box/ext4"
	"ext4box/internal/testimage"
	"ext4box/internal/testimage/apitree"
)

// A crash is a shape of filesystem and of journal to take by surprise.
type crash struct {
	name   string
	args   []string
	mount  string // mount options beside commit=
	extern bool
	size   int64
}

func crashes() []crash {
	base := func(args ...string) []string { return append([]string{"-t", "ext4", "-b", "1024"}, args...) }
	return []crash{
		{name: "v3", args: base()},
		{name: "4k", args: base("-b", "4096")},
		{name: "32bit-v3", args: base("-O", "^64bit")},
		{name: "nocsum", args: base("-O", "^metadata_csum,^64bit")},
		{name: "v1", args: base("-O", "^metadata_csum"), mount: "journal_checksum"},
		{name: "async", args: base(), mount: "journal_async_commit,data=writeback"},
		{name: "data-journal", args: base(), mount: "data=journal,nodelalloc"},
		{name: "writeback", args: base(), mount: "data=writeback"},
		{name: "ext3", args: []string{"-t", "ext3", "-b", "1024"}},
		{name: "fastcommit", args: base("-O", "fast_commit")},
		{name: "fastcommit-4k-inline", args: base("-b", "4096", "-O", "fast_commit,inline_data")},
		{name: "orphanfile", args: base("-O", "orphan_file")},
		{name: "everything", args: base("-I", "512", "-O", "inline_data,ea_inode,large_dir,metadata_csum_seed,orphan_file")},
		{name: "bigalloc", args: base("-b", "4096", "-O", "bigalloc"), size: 96 << 20},
		{name: "external", args: []string{"-t", "ext4", "-b", "4096"}, extern: true},
	}
}

// TestCrashImages takes images from under a live mount, with a dirty journal,
// orphans and fast commits, and wants the tree that the kernel shows when it
// has recovered a copy, without a byte of the image changed.
func TestCrashImages(t *testing.T) {
	requireMounting(t)
	for _, c := range crashes() {
		if testing.Short() && c.name != "v3" && c.name != "fastcommit" && c.name != "external" {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			parallelism <- struct{}{}
			defer func() { <-parallelism }()
			testCrash(t, c)
		})
	}
}

func testCrash(t *testing.T, c crash) {
	dir := t.TempDir()
	img := testimage.Build(t, dir, testimage.Config{
		Name: c.name, Size: cmp.Or(c.size, 32<<20), Args: c.args,
		ExternalJournal: c.extern, Level: testimage.Small,
	})
	// No commit by the clock: only what the work below asks for.
	options := "commit=900"
	if c.mount != "" {
		options += "," + c.mount
	}
	m := testimage.MountRW(t, img, options)
	closeAll := disturb(t, m.Dir, img.Config.Size/5)
	if err := lastSync(t, m, strings.Contains(c.name, "fastcommit")); err != nil {
		t.Fatal(err)
	}
	live := copyImage(t, img, ".live")
	// And once more where it stands after a last burst that was never synced.
	if err := burst(m.Dir, "late"); err != nil {
		t.Fatal(err)
	}
	if err := m.Shutdown(); err != nil {
		t.Fatalf("stopping the filesystem: %v", err)
	}
	closeAll()
	if err := m.Unmount(); err != nil {
		t.Fatal(err)
	}
	for kind, img := range map[string]*testimage.Image{"live copy": live, "stopped": img} {
		compareRecovered(t, kind, img, nil)
		compareWritten(t, kind, img)
	}
}

// compareWritten has the library recover a copy on the disk, which e2fsck must
// then find sound, and the kernel another one, and wants the same tree on both.
func compareWritten(t *testing.T, kind string, img *testimage.Image) {
	t.Helper()
	ours, theirs := copyImage(t, img, ".ours"), copyImage(t, img, ".theirs")
	fs := openWritable(t, ours)
	if fast := strings.HasPrefix(img.Config.Name, "fastcommit"); fast != fs.Recovery().Fast {
		t.Errorf("%s: recovered fast commits: %v", kind, !fast)
	}
	if why := fs.ReadOnlyReason(); why != "" {
		t.Logf("%s: not recovered for writing, because %s", kind, why)
		if err := fs.Close(); err != nil {
			t.Error(err)
		}
		return
	}
	if err := fs.Close(); err != nil {
		t.Errorf("%s: closing after recovery: %v", kind, err)
	}
	argv := []string{"e2fsck", "-fn"}
	if ours.Journal != "" {
		argv = append(argv, "-j", ours.Journal)
	}
	if err := testimage.Run(append(argv, ours.Path)...); err != nil {
		t.Errorf("%s: after recovery for writing: %v", kind, err)
	}
	if err := testimage.MountRW(t, theirs, "").Unmount(); err != nil {
		t.Fatal(err)
	}
	if strings.HasPrefix(img.Config.Name, "fastcommit") {
		// The kernel's replay leaves wrong link counts of directories, and does
		// not count the blocks of new ones.
		_ = testimage.Run("e2fsck", "-fy", theirs.Path)
	}
	tree := func(img *testimage.Image) (testimage.Manifest, statfs) {
		m := testimage.MountRO(t, img, "")
		defer func() {
			if err := m.Unmount(); err != nil {
				t.Error(err)
			}
		}()
		return walkMount(t, m.Dir), statfsOf(t, m.Dir)
	}
	got, gotSpace := tree(ours)
	want, wantSpace := tree(theirs)
	if d := want.Diff(forgiveNow(want, got), nil); d != "" {
		t.Errorf("%s: recovered for writing it differs from what the kernel recovers:\n%s", kind, d)
	}
	if gotSpace != wantSpace {
		t.Errorf("%s: recovered for writing statfs is\n%+v, by the kernel\n%+v", kind, gotSpace, wantSpace)
	}
}

// disturb works on the mounted tree, syncs in between, and leaves unlinked
// files open. ballastSize is the space, in bytes, it has after filling up.
func disturb(t *testing.T, dir string, ballastSize int64) (closeAll func()) {
	t.Helper()
	var open []*os.File
	closeAll = func() {
		for _, f := range open {
			f.Close()
		}
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			closeAll()
			t.Fatal(err)
		}
	}
	must(burst(dir, "early"))
	must(syncFS(dir))
	// Blocks that were metadata, and are in the journal, are freed and used
	// for data: without revoke records replaying would spoil it.
	ballast := filepath.Join(dir, "ballast")
	must(os.WriteFile(ballast, make([]byte, ballastSize), 0o600))
	must(os.RemoveAll(filepath.Join(dir, "dirs")))
	must(os.RemoveAll(filepath.Join(dir, "early", "sub")))
	must(syncFS(dir))
	must(fill(filepath.Join(dir, "full")))
	must(os.Remove(ballast))
	must(syncFS(dir))
	// A block that looks like the journal's own must be escaped.
	magic := make([]byte, 8192)
	for i := 0; i < len(magic); i += 1024 {
		copy(magic[i:], "\xc0\x3b\x39\x98\x00\x00\x00\x01")
	}
	must(os.WriteFile(filepath.Join(dir, "magic"), magic, 0o600))
	must(burst(dir, "second"))
	for i := range 5 {
		f, err := os.Create(filepath.Join(dir, fmt.Sprintf("orphan-%d", i)))
		must(err)
		open = append(open, f)
		_, err = f.Write(make([]byte, 3000*(i+1)))
		must(err)
		if i%2 == 0 {
			must(f.Sync())
		}
		must(os.Remove(f.Name()))
	}
	must(os.Truncate(filepath.Join(dir, "files", "large"), 12345))
	must(os.Rename(filepath.Join(dir, "files", "linked"), filepath.Join(dir, "links", "moved")))
	must(unix.Setxattr(filepath.Join(dir, "files", "hello"), "user.late", []byte("after the crash"), 0))
	must(os.Symlink("target", filepath.Join(dir, "late-symlink")))
	must(syncFile(filepath.Join(dir, "magic")))
	// With fast commits these are what they record: names, sizes, ranges.
	for i := range 6 {
		name := filepath.Join(dir, fmt.Sprintf("fast-%d", i))
		must(os.WriteFile(name, make([]byte, 1500*i+1), 0o644))
		must(syncFile(name))
		if i == 2 {
			must(os.Link(name, name+"-link"))
		}
		if i == 3 {
			must(os.Rename(name, name+"-renamed"))
		}
		if i == 4 {
			must(os.Remove(filepath.Join(dir, "fast-1")))
			must(os.Truncate(filepath.Join(dir, "fast-2"), 100))
		}
	}
	must(os.Mkdir(filepath.Join(dir, "fast-dir"), 0o755))
	must(os.WriteFile(filepath.Join(dir, "fast-dir", "x"), []byte("x"), 0o644))
	must(syncFile(filepath.Join(dir, "fast-5")))
	return closeAll
}

// lastSync syncs something small. Where fast commits are expected it must make
// one, and none may have been made void by a full commit after it.
func lastSync(t *testing.T, m *testimage.Mount, fast bool) error {
	t.Helper()
	before := fastCommits(t, m)
	last := filepath.Join(m.Dir, "fast-last")
	if err := os.WriteFile(last, []byte("the last word"), 0o644); err != nil {
		return err
	}
	if err := syncFile(last); err != nil {
		return err
	}
	if n := fastCommits(t, m); fast && (n == before || before < 5) {
		t.Errorf("%d fast commits and %d by the last sync, so this does not test them", before, n-before)
	}
	return nil
}

// fill writes a file until the filesystem is full, and syncs it.
func fill(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	chunk := bytes.Repeat([]byte("no block of this is zero or a directory. "), 1000)
	for err == nil {
		_, err = f.Write(chunk)
	}
	if !errors.Is(err, unix.ENOSPC) {
		return err
	}
	return f.Sync()
}

// fastCommits is how many fast commits the kernel has made on a mount.
func fastCommits(t *testing.T, m *testimage.Mount) (n int) {
	t.Helper()
	b, err := os.ReadFile("/proc/fs/ext4/" + filepath.Base(m.Device) + "/fc_info")
	if err != nil {
		return 0
	}
	if _, err := fmt.Sscanf(string(b), "fc stats:\n%d commits", &n); err != nil {
		t.Fatalf("%v in %s", err, b)
	}
	return n
}

// burst makes and changes a few hundred things.
func burst(dir, name string) error {
	d := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Join(d, "sub"), 0o755); err != nil {
		return err
	}
	for i := range 120 {
		f := filepath.Join(d, fmt.Sprintf("file-%d", i))
		if err := os.WriteFile(f, []byte(fmt.Sprintf("%s %d %0*d", name, i, 20*i, i)), 0o644); err != nil {
			return err
		}
		if err := os.Link(f, filepath.Join(d, "sub", fmt.Sprintf("link with a longer name %d", i))); err != nil {
			return err
		}
		if i%9 == 0 {
			if err := os.Remove(f); err != nil {
				return err
			}
		}
	}
	return nil
}

func syncFS(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.Syncfs(int(f.Fd()))
}

func syncFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

// compareRecovered lets the kernel recover a copy and compares with what the
// library and a mount show of the image itself.
func compareRecovered(t *testing.T, kind string, img *testimage.Image, ignore testimage.Ignore) {
	t.Helper()
	before := imageSums(t, img)
	judge := copyImage(t, img, ".kernel")
	// Writable, for the kernel cannot replay every fast commit otherwise.
	if err := testimage.MountRW(t, judge, "").Unmount(); err != nil {
		t.Fatal(err)
	}
	m := testimage.MountRO(t, judge, "")
	want, wantStatfs := walkMount(t, m.Dir), statfsOf(t, m.Dir)
	if err := m.Unmount(); err != nil {
		t.Fatal(err)
	}
	if imageSums(t, judge) == before {
		t.Errorf("%s: there was nothing to recover, so this tests nothing", kind)
	}
	func() {
		fs := openImage(t, img, ext4.Options{})
		got, err := apitree.Walk(fs)
		if err != nil {
			t.Errorf("%s: library: %v", kind, err)
			return
		}
		if d := want.Diff(forgiveNow(want, got), ignore); d != "" {
			t.Errorf("%s: the library differs from the kernel after recovery:\n%s", kind, d)
		}
		st, err := fs.Statfs()
		lib := statfs{st.Blocks, st.BlocksFree, st.BlocksAvail, st.Files, st.FilesFree, int64(st.BlockSize), int64(st.NameLen)}
		if err != nil || lib != wantStatfs {
			t.Errorf("%s: statfs of the library is\n%+v (%v), the kernel's after recovery\n%+v", kind, lib, err, wantStatfs)
		}
	}()
	dir := mountImage(t, img)
	if d := want.Diff(forgiveNow(want, walkMount(t, dir)), ignore); d != "" {
		t.Errorf("%s: the mount differs from the kernel after recovery:\n%s", kind, d)
	}
	umount(t, dir)
	if after := imageSums(t, img); after != before {
		t.Errorf("%s: reading changed the image", kind)
	}
}

// openWritable opens an image for writing, where that is possible.
func openWritable(t *testing.T, img *testimage.Image) *ext4.FS {
	t.Helper()
	open := func(path string) blockdev.Device {
		dev, err := blockdev.Open(path, blockdev.Options{})
		if err != nil {
			t.Fatal(err)
		}
		return dev
	}
	var o ext4.Options
	if img.Journal != "" {
		o.JournalDevice = open(img.Journal)
	}
	fs, err := ext4.Open(open(img.Path), o)
	if err != nil {
		t.Fatalf("opening %s for writing: %v", img.Path, err)
	}
	return fs
}

// forgiveNow accepts the times that the kernel gives to directories when it
// replays fast commits: those of the replay, which nobody else can know.
func forgiveNow(want, got testimage.Manifest) testimage.Manifest {
	for _, path := range []string{"", "fast-dir"} {
		if g, ok := got[path]; ok {
			g.Mtime, g.Ctime = want[path].Mtime, want[path].Ctime
			got[path] = g
		}
	}
	return got
}

// TestOrphanTruncate crafts what a crash in the middle of a truncation leaves:
// a linked file on the orphan list with blocks behind its end.
func TestOrphanTruncate(t *testing.T) {
	requireMounting(t)
	for name, args := range map[string][]string{
		"extents":  {"-t", "ext4", "-b", "1024"},
		"indirect": {"-t", "ext3", "-b", "1024"},
	} {
		t.Run(name, func(t *testing.T) {
			img := testimage.Build(t, t.TempDir(), testimage.Config{
				Name: name, Size: 32 << 20, Args: args, Level: testimage.Small})
			m := testimage.MountRO(t, img, "")
			var st unix.Stat_t
			if err := unix.Stat(filepath.Join(m.Dir, "files", "large"), &st); err != nil {
				t.Fatal(err)
			}
			if err := m.Unmount(); err != nil {
				t.Fatal(err)
			}
			for _, request := range []string{
				"sif /files/large size 20001",
				"sif /files/large dtime 0",
				fmt.Sprintf("ssv last_orphan %d", st.Ino),
			} {
				if err := testimage.Run("debugfs", "-w", "-R", request, img.Path); err != nil {
					t.Fatal(err)
				}
			}
			// Truncating now makes the kernel set the times to now.
			compareRecovered(t, "truncation", img, testimage.Ignore{"Mtime", "Ctime"})
		})
	}
}

// TestNoRecovery shows a dirty image as it stands on the disk.
func TestNoRecovery(t *testing.T) {
	requireMounting(t)
	c, _ := testimage.Find("ext4")
	c.Level, c.BigDir, c.Finish = testimage.Small, 0, nil
	img := testimage.Build(t, t.TempDir(), c)
	m := testimage.MountRW(t, img, "commit=900")
	if err := os.WriteFile(filepath.Join(m.Dir, "fresh"), []byte("fresh"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := syncFile(filepath.Join(m.Dir, "fresh")); err != nil {
		t.Fatal(err)
	}
	// Not after a shutdown: unmounting writes what was committed in place.
	img = copyImage(t, img, ".dirty")
	if err := m.Unmount(); err != nil {
		t.Fatal(err)
	}
	if _, err := openImage(t, img, ext4.Options{}).Resolve("fresh"); err != nil {
		t.Errorf("with recovery: %v", err)
	}
	raw := testimage.MountRO(t, img, "noload")
	want := walkMount(t, raw.Dir)
	if err := raw.Unmount(); err != nil {
		t.Fatal(err)
	}
	if _, there := want["fresh"]; there {
		t.Fatal("the journal holds nothing, so this tests nothing")
	}
	for _, option := range []string{"noload", "norecovery"} {
		if d := want.Diff(walkMount(t, mountImage(t, img, option)), nil); d != "" {
			t.Errorf("%s differs:\n%s", option, d)
		}
	}
}
