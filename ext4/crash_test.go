package ext4_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"ext4box/blockdev"
	"ext4box/blockdev/blocktest"
	"ext4box/ext4"
	"ext4box/fuse/fusetest/vfs"
)

// crashPoints is how many cuts are tried of each random history: few, or as
// many as the environment says.
func crashPoints(few int) int {
	if n, err := strconv.Atoi(os.Getenv("EXT4BOX_CRASH_POINTS")); err == nil {
		return n
	}
	return few
}

// A crashConfig is a kind of filesystem to be crashed.
type crashConfig struct {
	name   string
	args   string
	size   int64
	extern bool
	tiny   int // not 0: half of what is written is shorter

	discard bool
	owners  bool // files have various; the kernel of the test may not write that

	prepare string // a request of debugfs
	foreign bool   // the kernel of the test may not write such a filesystem
	values  int    // not 0: attributes may be so long

	kernel *vfs.Generation // not nil: all goes through a model of such a kernel, which moves the data
}

var crashConfigs = []crashConfig{
	{name: "ext4", args: "-t ext4 -J size=4"},
	{name: "1k", args: "-t ext4 -b 1024 -J size=1"},
	{name: "discard", args: "-t ext4 -b 1024 -J size=1", discard: true},
	{name: "nocsum", args: "-t ext4 -b 1024 -O ^metadata_csum,^64bit -J size=1"},
	{name: "ext3", args: "-t ext3 -b 1024 -J size=1"},
	{name: "inode128", args: "-t ext4 -I 128 -J size=4"},
	{name: "orphanfile", args: "-t ext4 -b 1024 -J size=1 -O orphan_file -E orphan_file_size=2"},
	{name: "quota", args: "-t ext4 -O quota -J size=4", owners: true},
	{name: "quota-1k", args: "-t ext4 -b 1024 -O quota,project -E quotatype=usrquota:grpquota:prjquota -J size=1", owners: true},
	{name: "fastcommit", args: "-t ext4 -b 1024 -J size=2 -O fast_commit"},
	{name: "casefold", args: "-t ext4 -b 1024 -O casefold -E encoding=utf8 -J size=1", prepare: "sif / flags 0x40080000", foreign: true},
	{name: "features", args: "-t ext4 -O encrypt,stable_inodes,metadata_csum_seed,large_dir,sparse_super2,^resize_inode -E packed_meta_blocks=1 -J size=4"},
	{name: "external", args: "-t ext4 -b 1024", extern: true},
	{name: "inline", args: "-t ext4 -O inline_data -J size=4", tiny: 130},
	{name: "inline1k", args: "-t ext4 -b 1024 -I 1024 -O inline_data,^metadata_csum -J size=1", tiny: 800},
	{name: "bigalloc", args: "-t ext4 -O bigalloc -J size=4", size: 96 << 20},
	{name: "bigalloc-1k", args: "-t ext4 -b 1024 -O bigalloc -C 4096 -J size=1", size: 32 << 20},
	{name: "bigalloc-1k-16k", args: "-t ext4 -b 1024 -O bigalloc,^metadata_csum,^64bit -C 16384 -J size=1", size: 48 << 20},
	{name: "eainode", args: "-t ext4 -O ea_inode -J size=4", values: 20000},
	{name: "eainode1k", args: "-t ext4 -b 1024 -O ea_inode,inline_data,^metadata_csum -J size=4", tiny: 130, values: 9000},
	{name: "bigalloc-eainode", args: "-t ext4 -b 1024 -O bigalloc,ea_inode -C 4096 -J size=1", size: 32 << 20, values: 9000},
	{name: "bigalloc-eainode-64k", args: "-t ext4 -O bigalloc,ea_inode,inline_data -C 65536 -J size=4", size: 128 << 20, tiny: 130, values: 20000},
}

// crashRig is a filesystem whose devices are recorded.
type crashRig struct {
	config   crashConfig
	clock    *blocktest.Clock
	dev, log *blocktest.Recording // log is nil without an external journal
	fs       *ext4.FS
	unmount  func() error // what is over fs
	actors   []*crashActor
	histDev  *blocktest.History
	histLog  *blocktest.History
	scratch  string
	tried    int
	checked  int // by e2fsck
	mounted  int // by the kernel
	lost     int
}

func mke2fs(t *testing.T, path string, size int64, args ...string) {
	t.Helper()
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mke2fs", append(append([]string{"-q", "-F"}, args...), path)...).CombinedOutput(); err != nil {
		t.Fatalf("mke2fs %q: %v\n%s", args, err, out)
	}
}

func newCrashRig(t *testing.T, c crashConfig) *crashRig {
	t.Helper()
	if _, err := exec.LookPath("mke2fs"); err != nil {
		t.Skip("needs mke2fs")
	}
	r := &crashRig{config: c, clock: new(blocktest.Clock), scratch: t.TempDir()}
	img, args := filepath.Join(r.scratch, "base"), strings.Fields(c.args)
	size := c.size
	if size == 0 {
		size = 16 << 20
	}
	if c.extern {
		j := filepath.Join(r.scratch, "journal")
		mke2fs(t, j, 2<<20, "-b", "1024", "-O", "journal_dev")
		mem, err := blocktest.LoadMem(j)
		if err != nil {
			t.Fatal(err)
		}
		// mke2fs takes the journal from a block device only.
		loop, err := exec.Command("losetup", "-f", "--show", j).Output()
		if err != nil {
			t.Skip("needs a loop device")
		}
		name := strings.TrimSpace(string(loop))
		defer exec.Command("losetup", "-d", name).Run()
		args = append(args, "-J", "device="+name)
		defer func() {
			// Closing the device does not write it back while others, who look for
			// filesystems, have it open as well.
			if out, err := exec.Command("sync", name).CombinedOutput(); err != nil {
				t.Errorf("sync %s: %v: %s", name, err, out)
			}
			if mem, err = blocktest.LoadMem(j); err == nil {
				r.log = blocktest.NewRecording(mem, mem.Size(), r.clock)
			}
		}()
		mke2fs(t, img, size, args...)
	} else {
		mke2fs(t, img, size, args...)
	}
	if c.prepare != "" {
		if out, err := exec.Command("debugfs", "-w", "-R", c.prepare, img).CombinedOutput(); err != nil {
			t.Fatalf("debugfs: %v\n%s", err, out)
		}
	}
	mem, err := blocktest.LoadMem(img)
	if err != nil {
		t.Fatal(err)
	}
	r.dev = blocktest.NewRecording(mem, mem.Size(), r.clock)
	return r
}

// start opens the filesystem and makes the actors.
func (r *crashRig) start(t *testing.T, actors int, seed uint64) {
	t.Helper()
	o := ext4.Options{CommitInterval: time.Hour, Discard: r.config.discard}
	if r.log != nil {
		o.JournalDevice = r.log
	}
	var err error
	if r.fs, err = ext4.Open(r.dev, o); err != nil {
		t.Fatal(err)
	}
	if why := r.fs.ReadOnlyReason(); why != "" {
		t.Fatalf("opened read-only because %s", why)
	}
	var ops crashOps = engineOps{r.fs}
	r.unmount = func() error { return nil }
	if r.config.kernel != nil {
		ops, r.unmount = r.serve(t)
	}
	for i := range actors {
		a, err := newCrashActor(r.fs, ops, r.clock, fmt.Sprintf("actor%d", i), seed+uint64(i))
		if err != nil {
			t.Fatal(err)
		}
		a.tiny, a.values = r.config.tiny, r.config.values
		a.owners = r.config.owners
		if r.config.kernel != nil {
			a.edges = int(r.fs.Info().BlockSize)
		}
		r.actors = append(r.actors, a)
	}
}

// finish closes the filesystem and takes the histories.
func (r *crashRig) finish(t *testing.T) {
	t.Helper()
	for _, a := range r.actors {
		for r.config.kernel != nil && len(a.held) > 0 {
			if err := a.release(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := errors.Join(r.unmount(), r.fs.Close()); err != nil {
		t.Fatal(err)
	}
	for _, a := range r.actors {
		a.promiseAll()
	}
	r.histDev = r.dev.History()
	if r.log != nil {
		r.histLog = r.log.History()
	}
}

// wholeSuper makes the writes of a superblock arrive as a whole or not at all.
// Its checksum is in its second sector, so nobody can recover from half of it:
// the kernel and e2fsck depend on this as well.
func wholeSuper(h *blocktest.History, c *blocktest.Crash) *blocktest.Crash {
	for _, f := range c.Fates {
		e := h.Events()[f.Event]
		if e.Op != blocktest.Write || e.Off > 1024 || e.Off+e.Len < 2048 {
			continue
		}
		first := int(1024-e.Off) / blocktest.SectorSize
		f.Landed[first+1] = f.Landed[first]
	}
	return c
}

// crashAt tries one image.
func (r *crashRig) crashAt(t *testing.T, c *blocktest.Crash, seed uint64, deep bool) {
	img := wholeSuper(r.histDev, c).Image()
	var journal *blocktest.Mem
	if r.histLog != nil {
		journal = r.histLog.Sample(c.Cut, seed).Image()
	}
	r.tried++
	if err := r.examine(t, img, journal, c.Cut, seed, deep); err != nil {
		r.lost++
		if r.lost <= 3 {
			t.Errorf("%s: %v\n%v", r.config.name, err, c)
			if keep := os.Getenv("EXT4BOX_CRASH_KEEP"); keep != "" {
				path := filepath.Join(keep, fmt.Sprintf("%s-%d-%d.img", r.config.name, c.Cut, r.lost))
				t.Logf("kept as %s: %v", path, blocktest.Dump(img, img.Size(), path))
			}
		}
	}
}

func (r *crashRig) judge(fs *ext4.FS, cut int64) error {
	for _, a := range r.actors {
		if cut < r.begun(a) {
			continue // the actor's directory was not promised yet
		}
		if err := a.judge(fs, cut); err != nil {
			return err
		}
	}
	return nil
}

// begun is the tick from which on an actor's directory is durable.
func (r *crashRig) begun(a *crashActor) int64 {
	if len(a.steps) > 1 {
		return a.steps[1].start
	}
	return r.histDev.End()
}

// open opens what a crash left.
func (r *crashRig) open(dev, journal blockdev.Device, o ext4.Options) (*ext4.FS, error) {
	if journal != nil {
		o.JournalDevice = journal
	}
	o.CommitInterval = time.Hour
	return ext4.Open(dev, o)
}

func clone(m *blocktest.Mem) blockdev.Device {
	if m == nil {
		return nil
	}
	return m.Clone()
}

// examine looks at an image as ext4box recovers it in memory and on the device,
// and if deep as e2fsck does; and cuts the recovery in turn.
func (r *crashRig) examine(t *testing.T, img, journal *blocktest.Mem, cut int64, seed uint64, deep bool) error {
	crashed := img.Clone()
	ro, err := r.open(img.Clone(), clone(journal), ext4.Options{ReadOnly: true})
	if err != nil {
		return fmt.Errorf("open read-only: %w", err)
	}
	err = errors.Join(r.judge(ro, cut), ro.Close())
	if err != nil {
		return fmt.Errorf("recovered in memory: %w", err)
	}
	again := blocktest.NewRecording(img, img.Size(), nil)
	log := clone(journal)
	rw, err := r.open(again, log, ext4.Options{})
	if err != nil {
		return fmt.Errorf("open for writing: %w", err)
	}
	if why := rw.ReadOnlyReason(); why != "" {
		return fmt.Errorf("opened read-only because %s", why)
	}
	if err := errors.Join(r.judge(rw, cut), rw.Close()); err != nil {
		return fmt.Errorf("recovered: %w", err)
	}
	if journal == nil {
		h := again.History()
		for c := range h.Samples(1, seed) {
			twice, err := r.open(wholeSuper(h, c).Image(), nil, ext4.Options{ReadOnly: true})
			if err != nil {
				return fmt.Errorf("open after a crash of the recovery, %v: %w", c, err)
			}
			if err := errors.Join(r.judge(twice, cut), twice.Close()); err != nil {
				return fmt.Errorf("after a crash of the recovery, %v: %w", c, err)
			}
		}
	}
	if !deep {
		return nil
	}
	r.checked++
	path, args, err := r.dump(again, log)
	if err != nil {
		return err
	}
	if err := runFsck(path, append(args, "-fn")...); err != nil {
		return fmt.Errorf("after recovery by ext4box: %w", err)
	}
	decided, err := r.byE2fsck(crashed.Clone(), clone(journal), cut)
	if err != nil {
		return err
	}
	if (r.checked%3 == 0 || !decided) && os.Geteuid() == 0 && !r.config.owners && !r.config.foreign {
		return r.byKernel(t, crashed, clone(journal), cut)
	}
	return nil
}

func (r *crashRig) report(t *testing.T) {
	t.Logf("%s: %d crashes tried, %d judged by e2fsck, %d by the kernel, %d lost", r.config.name, r.tried, r.checked, r.mounted, r.lost)
}

// TestCrashRandom cuts random histories of several writers.
func TestCrashRandom(t *testing.T) {
	for _, c := range crashConfigs {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			crashRandomly(t, c, 200*time.Microsecond)
		})
	}
}

// crashRandomly cuts the random history of several writers, beside whom somebody syncs every now and then.
func crashRandomly(t *testing.T, c crashConfig, pause time.Duration) {
	r := newCrashRig(t, c)
	r.start(t, 3, 1)
	operations := 150
	if crashPoints(0) > 0 {
		operations = 600
	}
	var wg sync.WaitGroup
	for _, a := range r.actors {
		wg.Go(func() {
			for i := range operations {
				if err := a.random(); err != nil {
					t.Errorf("%s, operation %d: %v", a.dir, i, err)
					return
				}
			}
		})
	}
	// Commits in the middle of everything; and the log goes round.
	done := make(chan struct{})
	var syncer sync.WaitGroup
	syncer.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
			}
			if err := r.fs.Sync(); err != nil {
				t.Errorf("sync: %v", err)
				return
			}
			time.Sleep(pause)
		}
	})
	wg.Wait()
	close(done)
	syncer.Wait()
	r.finish(t)
	seed := uint64(0)
	few := 60
	if testing.Short() {
		few = 20
	}
	for crash := range r.histDev.Samples(crashPoints(few), 1) {
		r.crashAt(t, crash, seed, seed%10 == 0)
		seed++
	}
	r.report(t)
}

var crashScripts = map[string]func(a *crashActor) error{
	"create": func(a *crashActor) error {
		return errors.Join(a.create("f", syscall.S_IFREG, ""), a.write("f", 0, 9000), a.fsync("f"), a.create("d", syscall.S_IFDIR, ""), a.create("d/s", syscall.S_IFLNK, strings.Repeat("x", 100)), a.fsync("d/s"))
	},
	"overwrite": func(a *crashActor) error {
		return errors.Join(a.create("f", syscall.S_IFREG, ""), a.write("f", 0, 20000), a.fsync("f"), a.write("f", 3000, 9000), a.fsync("f"), a.write("f", 0, 5000), a.fsync("f"), a.create("g", syscall.S_IFREG, ""), a.write("f", 8192, 4096), a.fsync("f"))
	},
	"replace": func(a *crashActor) error {
		err := errors.Join(a.create("f", syscall.S_IFREG, ""), a.write("f", 0, 10000), a.sync())
		for range 3 {
			err = errors.Join(err, a.create("f.new", syscall.S_IFREG, ""), a.write("f.new", 0, 7000), a.fsync("f.new"), a.rename("f.new", "f", 0))
		}
		return errors.Join(err, a.fsync("f"))
	},
	"reuse": func(a *crashActor) error { // of blocks that are freed but not durably so
		err := errors.Join(a.create("f", syscall.S_IFREG, ""), a.write("f", 0, 3000000), a.create("k", syscall.S_IFREG, ""), a.write("k", 0, 3000000), a.sync(), a.unlink("f"))
		for i := range 3 {
			p := fmt.Sprintf("g%d", i)
			err = errors.Join(err, a.create(p, syscall.S_IFREG, ""), a.write(p, 0, 2000000), a.fsync(p), a.truncate(p, 5))
		}
		return err
	},
	"truncate": func(a *crashActor) error {
		return errors.Join(a.create("f", syscall.S_IFREG, ""), a.write("f", 0, 100000), a.sync(), a.truncate("f", 12345), a.fsync("f"), a.truncate("f", 50000), a.fsync("f"), a.write("f", 20000, 100), a.truncate("f", 0), a.write("f", 5, 3000), a.fsync("f"))
	},
	"fallocate": func(a *crashActor) error {
		return errors.Join(a.create("f", syscall.S_IFREG, ""), a.fallocate("f", 0, 0, 50000), a.write("f", 10000, 10000), a.fsync("f"),
			a.fallocate("f", ext4.FallocPunchHole|ext4.FallocKeepSize, 11000, 7000), a.fsync("f"), a.fallocate("f", ext4.FallocZeroRange, 1000, 20000), a.fallocate("f", ext4.FallocKeepSize, 60000, 40000), a.fsync("f"))
	},
	"names": func(a *crashActor) error {
		return errors.Join(a.create("d", syscall.S_IFDIR, ""), a.create("e", syscall.S_IFDIR, ""), a.create("d/f", syscall.S_IFREG, ""), a.link("d/f", "e/f"), a.sync(),
			a.rename("d", "e/d", 0), a.fsync("e/d"), a.rename("e/d/f", "g", 0), a.unlink("e/d"), a.tmpfile("t", 5000), a.fsync("t"), a.rename("g", "t", ext4.RenameExchange), a.unlink("g"), a.fsync("t"), a.setxattr("t", "user.a", 900), a.fsync("t"), a.setxattr("t", "user.b", 20), a.fsync("t"))
	},
	"shift": func(a *crashActor) error {
		u := a.unit
		err := errors.Join(a.create("f", syscall.S_IFREG, ""), a.write("f", 0, 15*u-1000), a.sync(), a.shift("f", ext4.FallocCollapseRange, 2*u, 3*u), a.fsync("f"), a.write("f", 9000, 5000),
			a.shift("f", ext4.FallocInsertRange, u, 4*u), a.fsync("f"), a.write("f", 5000, 9000), a.fsync("f"))
		// Blocks that are moved, or are to be, and then written to.
		err = errors.Join(err, a.fallocate("f", ext4.FallocPunchHole|ext4.FallocKeepSize, 6*u+1024, 1024), a.shift("f", ext4.FallocCollapseRange, 0, u), a.write("f", 5*u+1024, 1024), a.write("f", 7*u, 2000))
		return errors.Join(err, a.fsync("f"), a.shift("f", ext4.FallocInsertRange, 0, u), a.write("f", 4*u, 3000), a.fsync("f"))
	},
	"attributes": func(a *crashActor) error {
		return errors.Join(a.create("f", syscall.S_IFREG, ""), a.write("f", 0, 5000), a.create("d", syscall.S_IFDIR, ""), a.sync(),
			a.setattr("f", crashAttrs{0o600, 70000, 5, 12345}), a.setxattr("f", "user.a", 500), a.fsync("f"), a.setattr("d", crashAttrs{0o1777, 1, 2, 0}), a.removexattr("f", "user.a"), a.fsync("d"),
			a.rename("f", "d/f", ext4.RenameWhiteout), a.fsync("d/f"), a.unlink("f"), a.setattr("d/f", crashAttrs{0o4755, 0, 0, 1 << 30}), a.sync())
	},
	"revoke": func(a *crashActor) error { // blocks of directories become those of files
		var err error
		for i := range 6 {
			d := fmt.Sprintf("d%d", i)
			err = errors.Join(err, a.create(d, syscall.S_IFDIR, ""), a.create(d+"/f", syscall.S_IFREG, ""))
		}
		err = errors.Join(err, a.sync())
		for i := range 6 {
			d := fmt.Sprintf("d%d", i)
			err = errors.Join(err, a.unlink(d+"/f"), a.unlink(d))
		}
		err = errors.Join(err, a.sync())
		for i := range 8 {
			p := fmt.Sprintf("f%d", i)
			err = errors.Join(err, a.create(p, syscall.S_IFREG, ""), a.write(p, 0, 20000), a.fsync(p))
		}
		return err
	},
	"wrap": func(a *crashActor) error { // around the log, again and again
		err := a.create("f", syscall.S_IFREG, "")
		for i := range 60 {
			d := fmt.Sprintf("d%d", i)
			err = errors.Join(err, a.create(d, syscall.S_IFDIR, ""), a.create(d+"/f", syscall.S_IFREG, ""), a.write(d+"/f", 0, 300), a.write("f", 100*i, 50), a.fsync(d+"/f"))
		}
		return err
	},
	"inline": func(a *crashActor) error {
		err := errors.Join(a.create("f", syscall.S_IFREG, ""), a.write("f", 0, 40), a.fsync("f"), a.write("f", 90, 30), a.fsync("f"), a.setxattr("f", "user.a", 20), a.truncate("f", 70), a.fsync("f"),
			a.truncate("f", 3000), a.fsync("f"), a.create("g", syscall.S_IFREG, ""), a.write("g", 10, 100), a.write("g", 100, 2000), a.fsync("g"), a.create("h", syscall.S_IFREG, ""), a.write("h", 0, 99),
			a.fallocate("h", ext4.FallocPunchHole|ext4.FallocKeepSize, 10, 20), a.fsync("h"), a.create("d", syscall.S_IFDIR, ""), a.create("e", syscall.S_IFDIR, ""), a.rename("e", "d/e", 0), a.fsync("d/e"))
		for i := range 12 {
			err = errors.Join(err, a.create(fmt.Sprintf("d/e/%d-%s", i, strings.Repeat("n", 90)), syscall.S_IFREG, ""), a.fsync("d/e"))
		}
		return errors.Join(err, a.rename("d/e", "e", 0), a.unlink("d"), a.fsync("e"))
	},
	"values": func(a *crashActor) error { // of attributes, in inodes where there are such
		n := max(a.values, 200)
		err := errors.Join(a.create("f", syscall.S_IFREG, ""), a.setxattr("f", "user.a", n), a.fsync("f"), a.setxattr("f", "user.a", n-1), a.fsync("f"), a.setxattr("f", "user.b", n/2), a.setxattr("f", "user.a", 10), a.fsync("f"))
		return errors.Join(err, a.create("g", syscall.S_IFREG, ""), a.setxattr("g", "user.c", n), a.link("g", "h"), a.sync(), a.unlink("f"), a.unlink("g"), a.sync(), a.unlink("h"), a.create("i", syscall.S_IFREG, ""), a.write("i", 0, 30000), a.fsync("i"))
	},
	"orphans": func(a *crashActor) error {
		err := errors.Join(a.create("f", syscall.S_IFREG, ""), a.write("f", 0, 200000), a.create("g", syscall.S_IFREG, ""), a.write("g", 0, 200000), a.create("h", syscall.S_IFREG, ""), a.write("h", 0, 200000), a.sync())
		err = errors.Join(err, a.hold("f"), a.hold("g"), a.unlink("f"), a.unlink("g"), a.sync(), a.unlink("h"), a.sync(), a.release(), a.sync())
		return errors.Join(err, a.create("i", syscall.S_IFREG, ""), a.write("i", 0, 300000), a.fsync("i"), a.release(), a.sync())
	},
}

// TestCrashScripts cuts short histories wherever it makes a difference.
func TestCrashScripts(t *testing.T) {
	if testing.Short() {
		t.Skip("there is one actor; the random histories have several")
	}
	for _, c := range crashConfigs {
		t.Run(c.name, func(t *testing.T) {
			if crashPoints(0) == 0 && (c.name == "nocsum" || c.name == "inode128" || c.name == "bigalloc-1k") {
				t.Skip("the short run leaves it to the random histories")
			}
			t.Parallel()
			crashScripted(t, c)
		})
	}
}

// crashScripted cuts the histories that the scripts make.
func crashScripted(t *testing.T, c crashConfig) {
	tried, lost := 0, 0
	for name, script := range crashScripts {
		r := newCrashRig(t, c)
		r.config.name += "/" + name
		r.start(t, 1, 1)
		if err := script(r.actors[0]); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		r.finish(t)
		crashes, deep := r.histDev.Samples(25, 1), uint64(25)
		if n := crashPoints(0); n > 0 {
			crashes, deep = r.histDev.All(n/20, 1), 80
		}
		n := uint64(0)
		for crash := range crashes {
			r.crashAt(t, crash, n, n%deep == 0)
			n++
		}
		r.report(t)
		tried, lost = tried+r.tried, lost+r.lost
	}
	t.Logf("%s: all scripts: %d crashes, %d lost", c.name, tried, lost)
}

// TestCrashUnlogged: without a journal a commit that is done is durable, and a
// crash in the middle of one leaves what e2fsck can repair.
func TestCrashUnlogged(t *testing.T) {
	for _, c := range []crashConfig{{name: "nojournal", args: "-t ext4 -O ^has_journal"}, {name: "ext2", args: "-t ext2 -b 1024"},
		{name: "bigalloc", args: "-t ext4 -b 1024 -O ^has_journal,bigalloc -C 8192", size: 48 << 20}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := newCrashRig(t, c)
			r.start(t, 1, 3)
			a := r.actors[0]
			for i := range 120 {
				if err := a.random(); err != nil {
					t.Fatal(err)
				}
				if i%10 == 9 {
					if err := a.sync(); err != nil {
						t.Fatal(err)
					}
				}
			}
			r.finish(t)
			for i, p := range a.promises {
				if p.file != 0 {
					continue
				}
				r.tried++
				fs, err := r.open(r.histDev.Sample(p.tick, uint64(i)).Image(), nil, ext4.Options{ReadOnly: true})
				if err != nil {
					t.Fatal(err)
				}
				if err := errors.Join(r.judge(fs, p.tick), fs.Close()); err != nil {
					r.lost++
					t.Errorf("right after a sync: %v", err)
				}
			}
			for crash := range r.histDev.Samples(max(crashPoints(0), 200)/10, 1) {
				r.tried++
				r.checked++
				path, _, err := r.dump(wholeSuper(r.histDev, crash).Image(), nil)
				if err != nil {
					t.Fatal(err)
				}
				_ = exec.Command("e2fsck", "-fy", path).Run() // repairs, and says so
				if err := runFsck(path, "-fn"); err != nil {
					r.lost++
					t.Errorf("%v\n%v", err, crash)
				}
			}
			r.report(t)
		})
	}
}
