package test

import (
	"cmp"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ext4box/internal/posixfs"
	"ext4box/internal/testimage"
)

// differentials are the shapes of filesystem on which ext4box and the kernel
// are compared.
func differentials() []testimage.Config {
	shape := func(name, typ string, args ...string) testimage.Config {
		return testimage.Config{Name: name, Size: 64 << 20, Args: append([]string{"-t", typ, "-b", "4096"}, args...)}
	}
	foreign := func(c testimage.Config) testimage.Config { c.Oracle = testimage.Debugfs; return c }
	return []testimage.Config{
		shape("ext4", "ext4"),
		shape("1k", "ext4", "-b", "1024"),
		shape("ext3", "ext3"),
		shape("ext2", "ext2"),
		shape("nojournal", "ext4", "-O", "^has_journal"),
		shape("uninit", "ext4", "-O", "^metadata_csum,uninit_bg"),
		shape("inode128", "ext4", "-I", "128"),
		shape("nodirindex", "ext4", "-b", "1024", "-O", "^dir_index"),
		shape("largedir", "ext4", "-b", "1024", "-O", "large_dir"),
		foreign(shape("project", "ext4", "-O", "project")),
		foreign(shape("quota", "ext4", "-O", "quota")),
		foreign(shape("quota-1k", "ext4", "-b", "1024", "-O", "quota,project", "-E", "quotatype=usrquota:grpquota:prjquota")),
		shape("orphanfile", "ext4", "-O", "orphan_file"),
		shape("mmp", "ext4", "-O", "mmp"),
		shape("fastcommit", "ext4", "-O", "fast_commit"),
		shape("ext2-1k", "ext2", "-b", "1024", "-I", "128"),
		shape("inlinedata", "ext4", "-O", "inline_data"),
		shape("inlinedata-1k", "ext4", "-b", "1024", "-I", "1024", "-O", "inline_data,^metadata_csum"),
		shape("inlinedata-noextents", "ext4", "-I", "512", "-O", "inline_data,^extents,^64bit"),
		shape("bigalloc", "ext4", "-O", "bigalloc", "-C", "16384"),
		shape("bigalloc-64k-inline", "ext4", "-O", "bigalloc,inline_data"),
		shape("bigalloc-1k", "ext4", "-b", "1024", "-O", "bigalloc", "-C", "4096"),
		shape("bigalloc-nojournal", "ext4", "-b", "1024", "-O", "bigalloc,^has_journal,^metadata_csum", "-C", "16384"),
		shape("eainode", "ext4", "-O", "ea_inode"),
		shape("eainode-1k", "ext4", "-b", "1024", "-O", "ea_inode,^metadata_csum"),
		shape("eainode-inode128", "ext4", "-I", "128", "-O", "ea_inode"),
		shape("eainode-inlinedata", "ext4", "-b", "1024", "-O", "ea_inode,inline_data"),
		shape("bigalloc-eainode", "ext4", "-O", "bigalloc,ea_inode", "-C", "16384"),
		shape("bigalloc-eainode-1k", "ext4", "-b", "1024", "-O", "bigalloc,ea_inode,inline_data", "-C", "4096"),
	}
}

// differential runs sequences on two images that were one.
type differential struct {
	t      *testing.T
	config testimage.Config
	count  int
	dir    string
	image  string // freshly made
	judge  string // what the kernel mounts: the same, or the default shape if it cannot

	model *kernelModel // on which ext4box is mounted; nil: the kernel itself
}

func newDifferential(t *testing.T, c testimage.Config) *differential {
	requireMounting(t)
	testimage.RequireTools(t)
	d := &differential{t: t, config: c, dir: t.TempDir()}
	d.image = filepath.Join(d.dir, "fresh")
	if err := testimage.Mke2fs(d.image, c.Size, c.Args...); err != nil {
		t.Fatal(err)
	}
	for _, argv := range slices.Concat(c.Prepare, c.Finish) {
		if err := testimage.Run(append(slices.Clone(argv), d.image)...); err != nil {
			t.Fatal(err)
		}
	}
	d.judge = d.image
	if d.foreign() {
		d.judge = filepath.Join(d.dir, "judge")
		if err := testimage.Mke2fs(d.judge, c.Size, "-t", c.Args[1], "-b", strconv.FormatInt(d.blockSize(), 10)); err != nil {
			t.Fatal(err)
		}
	}
	return d
}

// foreign tells whether the kernel of the test may be unable to write the shape.
func (d *differential) foreign() bool { return d.config.Oracle == testimage.Debugfs }

func (d *differential) blockSize() int64 {
	if strings.Contains(strings.Join(d.config.Args, " "), "-b 1024") {
		return 1024
	}
	return 4096
}

// large tells whether attributes can be larger than a block.
func (d *differential) large() bool {
	return strings.Contains(strings.Join(d.config.Args, " "), "ea_inode")
}

// tiny is about half of what an inode can hold in itself.
func (d *differential) tiny() int64 {
	args := strings.Join(d.config.Args, " ")
	switch {
	case !strings.Contains(args, "inline_data"):
		return 0
	case strings.Contains(args, "-I 1024"):
		return 500
	case strings.Contains(args, "-I 512"):
		return 200
	}
	return 75
}

func (d *differential) oldInodes() bool {
	return strings.Contains(strings.Join(d.config.Args, " "), "-I 128")
}

// A side is one of the filesystems that are compared.
type side struct {
	posixfs.FS
	walk func() (testimage.Manifest, error) // of top
	done func() error                       // unmounts such that the image is complete; again, it does nothing
}

// mountedSide is a side at a mount point.
func mountedSide(dir string, done func() error) side {
	return side{
		FS:   posixfs.Mounted(dir),
		walk: func() (testimage.Manifest, error) { return testimage.Walk(filepath.Join(dir, top)) },
		done: done,
	}
}

// mountBox mounts an image by ext4box for writing.
func (d *differential) mountBox(image string) side {
	d.t.Helper()
	if d.model != nil {
		m, err := mountModel(d.t, *d.model, image)
		if err != nil {
			d.t.Fatal(err)
		}
		fs := m.Posix()
		return side{FS: fs, walk: func() (testimage.Manifest, error) { return testimage.WalkFS(fs, top) }, done: m.unmount}
	}
	dir := d.t.TempDir()
	openUp(dir)
	if r := runMount(d.t, "-o", "rw,allow_other,dev,suid", image, dir); r.status != 0 {
		d.t.Fatalf("mounting %s: status %d: %s", image, r.status, r.stderr)
	}
	var once bool
	done := func() error {
		if once {
			return nil
		}
		once = true
		if r := run(d.t, "umount", dir); r.status != 0 {
			_ = unix.Unmount(dir, unix.MNT_DETACH)
			return fmt.Errorf("umount: status %d: %s", r.status, r.stderr)
		}
		eventually(d.t, "the image to be closed", func() bool { return unlocked(d.t, image) })
		return nil
	}
	d.t.Cleanup(func() { _ = done() })
	return mountedSide(dir, done)
}

// Steps run in the directory work, whose parent they reach as "..". What they do
// is all below top, and goes away with it.
const top, work = "top", "top/work"

// run runs a sequence on both and returns the first difference.
func (d *differential) run(steps []step) error {
	d.count++
	ours, theirs := filepath.Join(d.dir, fmt.Sprint("ours", d.count)), filepath.Join(d.dir, fmt.Sprint("theirs", d.count))
	for image, from := range map[string]string{ours: d.image, theirs: d.judge} {
		if err := testimage.CopyImage(image, from); err != nil {
			return err
		}
		defer os.Remove(image)
	}
	box := d.mountBox(ours)
	defer box.done()
	mount := testimage.MountRW(d.t, &testimage.Image{Config: d.config, Path: theirs}, "")
	openUp(mount.Dir)
	kernel := mountedSide(mount.Dir, mount.Unmount)
	defer kernel.done()
	players := [2]*player{newPlayer(box, work), newPlayer(kernel, work)}
	for _, p := range players {
		if err := p.fs.Chmod(".", 0o755); err != nil {
			return err
		}
		for _, dir := range []string{top, work} {
			if err := errors.Join(p.fs.Mkdir(dir, 0o777), p.fs.Chmod(dir, 0o777)); err != nil {
				return fmt.Errorf("%s: %w", dir, err)
			}
		}
		defer p.close()
	}
	for i, s := range steps {
		got, want := players[0].play(s), players[1].play(s)
		if got != want && !answeredAbove(s, got, want) {
			return fmt.Errorf("step %d %v: ext4box says %q, the kernel %q", i, s, got, want)
		}
	}
	for _, p := range players {
		p.close()
	}
	if d.tiny() > 0 {
		// Until it has written back what outgrew an inode, the kernel answers
		// SEEK_HOLE behind it with ENOENT.
		if err := kernel.Sync(); err != nil {
			return err
		}
	}
	if err := d.compare("mounted", players, box, kernel, "Map"); err != nil {
		return err
	}
	if err := box.done(); err != nil {
		return err
	}
	if err := testimage.Run("e2fsck", "-fn", ours); err != nil {
		return err
	}
	if d.foreign() {
		return d.empty(ours)
	}
	again := testimage.MountRO(d.t, &testimage.Image{Config: d.config, Path: ours}, "")
	defer again.Unmount()
	if err := d.compare("read by the kernel", players, mountedSide(again.Dir, again.Unmount), kernel, "Map"); err != nil {
		return err
	}
	if err := again.Unmount(); err != nil {
		return err
	}
	return d.empty(ours)
}

// answeredAbove tells whether a difference is not ours: some questions about
// types of files the kernel answers to callers of a FUSE mount before it asks,
// and thus before anybody looks at flags that forbid the change.
func answeredAbove(s step, got, want string) bool {
	if want != unix.ErrnoName(unix.EPERM) {
		return false
	}
	switch s.kind {
	case "setacl": // only directories have default ACLs
		return s.b == "system.posix_acl_default" && got == unix.ErrnoName(unix.EACCES)
	case "removexattr":
		return s.b == "system.posix_acl_default" && got == ""
	case "unlink", "rmdir", "rename":
		return got == unix.ErrnoName(unix.EISDIR) || got == unix.ErrnoName(unix.ENOTDIR)
	}
	return false
}

// compare compares the trees. Inode numbers and generations are each one's own
// affair, and so are sizes of directories, blocks (preallocation, and how the
// blocks of a map and of attributes are divided) and times the clock set.
func (d *differential) compare(when string, players [2]*player, ours, theirs side, ignore ...string) error {
	var trees [2]testimage.Manifest
	for i, s := range []side{ours, theirs} {
		tree, err := s.walk()
		if err != nil {
			return fmt.Errorf("%s, side %d: %w", when, i, err)
		}
		for path, rec := range tree {
			for _, tm := range []*testimage.Time{&rec.Mtime, &rec.Ctime} {
				if players[0].when(unix.StatxTimestamp{Sec: tm.Sec, Nsec: tm.Nsec}) == "now" {
					*tm = testimage.Time{}
				}
			}
			dir := rec.Mode&unix.S_IFMT == unix.S_IFDIR
			if dir {
				rec.Size = 0
			}
			if d.tiny() > 0 && (!dir || d.foreign() || d.model != nil) {
				// Whether a file is truncated before or after what was written
				// to it arrives is the affair of the cache above. A judge of
				// another shape may have nothing inline. With fuse-iomap a
				// directory exists before it gets the ACLs that it inherits.
				const extentsOrInline = 0x80000 | 0x10000000
				rec.Flags &^= extentsOrInline
			}
			tree[path] = rec
		}
		trees[i] = tree
	}
	ignored := append(testimage.Ignore{"Ino", "DirentIno", "Generation", "Atime", "Btime", "Blocks"}, ignore...)
	if diff := trees[1].Diff(trees[0], ignored); diff != "" {
		return fmt.Errorf("%s, the tree differs:\n%s", when, diff)
	}
	return nil
}

// empty deletes everything and wants all blocks and inodes back.
func (d *differential) empty(image string) error {
	box := d.mountBox(image)
	defer box.done()
	if err := removeAll(box, top); err != nil {
		return err
	}
	if err := box.done(); err != nil {
		return err
	}
	if err := testimage.Run("e2fsck", "-fn", image); err != nil {
		return fmt.Errorf("after deleting everything: %w", err)
	}
	got, err := freeCounts(image)
	if err != nil {
		return err
	}
	want, err := freeCounts(d.image)
	if err != nil {
		return err
	}
	if got != want {
		return fmt.Errorf("after deleting everything: free are %s, want %s", got, want)
	}
	return nil
}

// freeCounts is what the superblock says about free blocks and inodes. The blocks
// of quota files, which only grow, count as free.
func freeCounts(image string) (string, error) {
	out, err := exec.Command("/usr/sbin/dumpe2fs", "-h", image).Output()
	if err != nil {
		return "", fmt.Errorf("dumpe2fs: %w", err)
	}
	var free, size, quota int
	var b strings.Builder
	for line := range strings.Lines(string(out)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		value = strings.TrimSpace(value)
		switch {
		case name == "Free blocks":
			free, err = strconv.Atoi(value)
		case name == "Block size":
			size, err = strconv.Atoi(value)
		case strings.HasSuffix(name, " quota inode"):
			var sectors int
			sectors, err = sectorsOf(image, value)
			quota += sectors * 512
		case strings.HasPrefix(name, "Free "):
			b.WriteString(name + " " + value + "; ")
		}
		if err != nil {
			return "", fmt.Errorf("%s: %w", line, err)
		}
	}
	return fmt.Sprintf("%sfree blocks %d", &b, free+quota/size), nil
}

// sectorsOf is what debugfs says that an inode occupies.
func sectorsOf(image, ino string) (n int, err error) {
	out, err := exec.Command("/usr/sbin/debugfs", "-R", "stat <"+ino+">", image).Output()
	if err != nil {
		return 0, err
	}
	_, after, _ := strings.Cut(string(out), "Blockcount: ")
	_, err = fmt.Sscan(after, &n)
	return n, err
}

// minimise leaves out what a failing sequence does not need, within a budget.
func (d *differential) minimise(steps []step, budget int) ([]step, error) {
	var last error
	for size := max(len(steps)/2, 1); budget > 0; {
		shorter := false
		for at := 0; at < len(steps) && budget > 0; {
			without := append(append([]step{}, steps[:at]...), steps[min(at+size, len(steps)):]...)
			budget--
			if err := d.run(without); err != nil {
				steps, last, shorter = without, err, true
			} else {
				at += size
			}
		}
		if size == 1 && !shorter {
			break
		}
		if !shorter {
			size = max(size/2, 1)
		}
	}
	return steps, last
}

// check runs a sequence and, should it fail, finds a short one that does.
func (d *differential) check(seed uint64, steps []step) {
	err := d.run(steps)
	if err == nil {
		return
	}
	budget, _ := strconv.Atoi(cmp.Or(os.Getenv("DIFFERENTIAL_SHRINK"), "60"))
	var at int
	if n, _ := fmt.Sscanf(err.Error(), "step %d", &at); n == 1 {
		steps = steps[:at+1]
	}
	less, lastErr := d.minimise(steps, budget)
	if lastErr != nil {
		err, steps = lastErr, less
	}
	var b strings.Builder
	for _, s := range steps {
		fmt.Fprintf(&b, "\t%v,\n", s)
	}
	d.t.Errorf("%s, seed %d: %v\nafter %d steps:\n%s", d.config.Name, seed, err, len(steps), b.String())
}

// TestDifferential runs the same random system calls on ext4box and on the
// kernel's ext4 and wants the same answers and the same tree. Environment:
// DIFFERENTIAL_OPS, calls per shape; DIFFERENTIAL_SEED; DIFFERENTIAL_SHRINK, how
// many runs may be spent on a shorter failing sequence.
func TestDifferential(t *testing.T) {
	testDifferential(t, nil)
}

// testDifferential compares what the kernel does with ext4box on a kernel, nil for that of the system.
func testDifferential(t *testing.T, k *kernelModel) {
	requireMounting(t)
	const each = 250
	total, _ := strconv.Atoi(cmp.Or(os.Getenv("DIFFERENTIAL_OPS"), strconv.Itoa(each)))
	seed, err := strconv.ParseUint(cmp.Or(os.Getenv("DIFFERENTIAL_SEED"), "1"), 0, 64)
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	done := 0
	for _, c := range differentials() {
		t.Run(c.Name, func(t *testing.T) {
			d := newDifferential(t, c)
			d.model = k
			for i, n := seed, 0; n < total && !t.Failed(); i, n = i+1, n+each {
				g := &generator{Rand: rand.New(rand.NewPCG(i, 0)), block: d.blockSize(), old: d.oldInodes(), tiny: d.tiny(), large: d.large()}
				d.check(i, g.sequence(each))
				done += each
			}
		})
	}
	t.Logf("%d system calls compared, from seed %d, in %v", done, seed, time.Since(start).Round(time.Second))
}

// TestDifferentialRegressions repeats the short sequences that once found
// something.
func TestDifferentialRegressions(t *testing.T) {
	testDifferentialRegressions(t, nil)
}

func testDifferentialRegressions(t *testing.T, k *kernelModel) {
	requireMounting(t)
	create := step{kind: "create", a: "c", n: 0o666}
	suid := step{kind: "chmod", a: "c", n: 0o4266}
	all := []step{
		create,
		{kind: "removexattr", a: "c", b: "system.posix_acl_access"},
		{kind: "removexattr", a: "c", b: "system.posix_acl_default"},
		{kind: "setxattr", a: "c", b: "user.", m: 4},
		{kind: "getxattr", a: "c", b: "user."},
		{kind: "removexattr", a: "c", b: "user."},
		{kind: "setxattr", a: "c", b: "security.s", m: 5000, flag: 2},
		{kind: "mkdir", a: "d", n: 0o777},
		{kind: "utimes", a: "d", n: 1 << 34, m: 1 << 34},
		{kind: "stat", a: "d"},
		{kind: "utimes", a: "d", n: -1<<31 - 9, m: -1<<31 - 9},
		{kind: "stat", a: "d"},
		{kind: "chmod", a: "d", n: 0o777},
		{kind: "setacl", a: "d", b: "system.posix_acl_default", n: 0o37777},
		suid,
		{kind: "fallocate", a: "c", n: 055451, m: 0311052, flag: 1, uid: stranger},
		{kind: "stat", a: "c"},
		{kind: "create", a: "d/w", n: 0o666, uid: stranger},
		{kind: "rename", a: "d/w", b: "d/x", flag: 4, uid: stranger},
		{kind: "stat", a: "d/w"},
		{kind: "listxattr", a: "d/w"},
		{kind: "chmod", a: "d", n: 0o7777},
		{kind: "chown", a: "d", n: stranger, m: 0},
		{kind: "chmod", a: "d", n: 0o7777},
		{kind: "setacl", a: "d", b: "system.posix_acl_default", n: 0o27777, uid: stranger},
		{kind: "stat", a: "d"},
		{kind: "setacl", a: "d", b: "system.posix_acl_access", n: 0o27777, uid: stranger},
		{kind: "stat", a: "d"},
		{kind: "create", a: "g", n: 0o2775, uid: stranger},
		{kind: "chown", a: "g", n: -1, m: -1, uid: stranger},
		{kind: "stat", a: "g"},
		{kind: "open", a: "g", flag: 0},
		{kind: "fchmod", n: 0o6023},
		{kind: "ftruncate", n: 5000, uid: stranger},
		{kind: "fstat"},
		{kind: "chown", a: "g", n: 0, m: 0},
		{kind: "fchmod", n: 0o6023},
		{kind: "ftruncate", n: 5000, uid: stranger},
		{kind: "fstat"},
		{kind: "fchmod", n: 0o6023},
		{kind: "pwrite", n: 50, m: 10, uid: stranger},
		{kind: "fstat"},
		{kind: "fchmod", n: 0o6023},
		{kind: "ffallocate", n: 50, m: 10, flag: 3, uid: stranger},
		{kind: "fstat"},
		{kind: "fchmod", n: 0o6023},
		{kind: "ftruncate", n: 0, uid: stranger},
		{kind: "fstat"},
		{kind: "setflags", a: "c", n: flagAppend},
		{kind: "setxattr", a: "c", b: "system.x", m: 4},
		{kind: "removexattr", a: "c", b: "system.x"},
		{kind: "setacl", a: "c", b: "system.posix_acl_access", n: 0o27777},
		{kind: "setflags", a: "c", n: 0},

		// The sticky bit.
		{kind: "mkdir", a: "s", n: 0o777},
		{kind: "chmod", a: "s", n: 0o1777},
		{kind: "create", a: "s/r", n: 0o666},
		{kind: "create", a: "s/m", n: 0o666, uid: stranger},
		{kind: "unlink", a: "s/r", uid: stranger},
		{kind: "rename", a: "s/r", b: "s/q", uid: stranger},
		{kind: "rename", a: "s/m", b: "s/r", uid: stranger},
		{kind: "rename", a: "s/m", b: "s/n", uid: stranger},
		{kind: "setxattr", a: "s", b: "user.a", m: 4, uid: stranger},
		{kind: "unlink", a: "s/n", uid: stranger},

		// Permission by mode, by an ACL, and as far as its mask goes.
		{kind: "create", a: "p", n: 0o600},
		{kind: "write", a: "p", m: 10, uid: stranger},
		{kind: "setacl", a: "p", b: "system.posix_acl_access", n: 0o7 | 7<<9 | 1<<12 | 6<<15},
		{kind: "stat", a: "p"},
		{kind: "write", a: "p", m: 10, uid: stranger},
		{kind: "read", a: "p", m: 10, uid: stranger},
		{kind: "getxattr", a: "p", b: "system.posix_acl_access"},
		{kind: "chmod", a: "p", n: 0o640},
		{kind: "write", a: "p", m: 10, uid: stranger},
		{kind: "read", a: "p", m: 10, uid: stranger},
		{kind: "getxattr", a: "p", b: "system.posix_acl_access"},
		{kind: "chmod", a: "p", n: 0o666, uid: stranger},
		{kind: "chown", a: "p", n: stranger, m: stranger, uid: stranger},
		{kind: "utimes", a: "p", uid: stranger},
		{kind: "setacl", a: "p", b: "system.posix_acl_access", n: 0o7},
		{kind: "getxattr", a: "p", b: "system.posix_acl_access"},
		{kind: "stat", a: "p"},

		// What is inherited.
		{kind: "mkdir", a: "i", n: 0o777},
		{kind: "setacl", a: "i", b: "system.posix_acl_default", n: 0o567 | 7<<9 | 1<<12 | 6<<15},
		{kind: "chmod", a: "i", n: 0o2777},
		{kind: "chown", a: "i", n: -1, m: 70000},
		{kind: "create", a: "i/f", n: 0o666, uid: stranger},
		{kind: "create", a: "i/g", n: 0o2775, uid: stranger},
		{kind: "mkdir", a: "i/d", n: 0o777, uid: stranger},
		{kind: "symlink", a: "i/l", b: "f", uid: stranger},
		{kind: "mknod", a: "i/p", n: unix.S_IFIFO | 0o644, uid: stranger},
		{kind: "tmpfile", a: "i", n: 0o666, uid: stranger},
		{kind: "linkfd", a: "i/t"},
		{kind: "stat", a: "i/f"},
		{kind: "stat", a: "i/g"},
		{kind: "stat", a: "i/d"},
		{kind: "stat", a: "i/p"},
		{kind: "stat", a: "i/t"},
		{kind: "getxattr", a: "i/f", b: "system.posix_acl_access"},
		{kind: "getxattr", a: "i/d", b: "system.posix_acl_access"},
		{kind: "getxattr", a: "i/d", b: "system.posix_acl_default"},
		{kind: "getxattr", a: "i/t", b: "system.posix_acl_access"},

		// Links that are followed, and not.
		{kind: "symlink", a: "l", b: "i/l"},
		{kind: "write", a: "l", m: 10},
		{kind: "create", a: "l", n: 0o644, flag: unix.O_EXCL},
		{kind: "create", a: "l", n: 0o644, flag: unix.O_NOFOLLOW},
		{kind: "symlink", a: "loop", b: "loop"},
		{kind: "write", a: "loop", m: 10},
		{kind: "symlink", a: "dangling", b: "i/new"},
		{kind: "create", a: "dangling", n: 0o644},
		{kind: "stat", a: "i/new"},
		{kind: "list", a: "i"},
	}
	for _, c := range differentials() {
		switch c.Name {
		case "ext4", "ext3", "inode128":
			t.Run(c.Name, func(t *testing.T) {
				d := newDifferential(t, c)
				d.model = k
				d.check(0, all)
			})
		}
	}
}
