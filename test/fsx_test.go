package test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"ext4box/ext4"
	"ext4box/internal/posixfs"
	"ext4box/internal/testimage"
)

// An exerciser is what a run of random I/O does and where.
type exerciser struct {
	name   string
	args   []string
	way    ioWay
	mount  mountFunc
	sector int64 // what direct I/O is a multiple of
	large  bool  // few large files and pieces, of several requests each
	tiny   bool  // small files and pieces, which come and go
}

// A mountFunc mounts an image for writing until done is called, at the latest until the test ends.
type mountFunc func(t *testing.T, image string) (fs posixfs.FS, done func())

// byKernel mounts by ext4box through the kernel.
func byKernel(t *testing.T, image string) (posixfs.FS, func()) {
	mnt := mountRW(t, image)
	return posixfs.Mounted(mnt), func() { umount(t, mnt) }
}

// ioWay is how an exerciser reads and writes.
type ioWay uint8

const (
	mixedIO ioWay = iota
	bufferedIO
	directIO
)

func exercisers() []exerciser {
	var all []exerciser
	for _, e := range []exerciser{
		{name: "ext4-4k", args: []string{"-t", "ext4", "-b", "4096"}},
		{name: "ext4-1k", args: []string{"-t", "ext4", "-b", "1024"}},
		{name: "ext3-4k", args: []string{"-t", "ext3", "-b", "4096"}},
		{name: "ext3-1k", args: []string{"-t", "ext3", "-b", "1024"}},
		{name: "nojournal-4k", args: []string{"-t", "ext4", "-b", "4096", "-O", "^has_journal"}},
		{name: "nojournal-1k", args: []string{"-t", "ext4", "-b", "1024", "-O", "^has_journal"}},
		{name: "bigalloc-4k-64k", args: []string{"-t", "ext4", "-b", "4096", "-O", "bigalloc"}},
		{name: "bigalloc-1k-4k", args: []string{"-t", "ext4", "-b", "1024", "-O", "bigalloc", "-C", "4096"}},
		{name: "bigalloc-1k-16k", args: []string{"-t", "ext4", "-b", "1024", "-O", "bigalloc", "-C", "16384"}},
	} {
		for way, name := range []string{"mixed", "buffered", "direct"} {
			x := e
			x.name, x.way = e.name+"-"+name, ioWay(way)
			all = append(all, x)
		}
		if e.name == "ext4-1k" || e.name == "ext3-4k" {
			e.name, e.large = e.name+"-large", true
			all = append(all, e)
		}
	}
	for _, e := range []exerciser{
		{name: "inline-4k", args: []string{"-t", "ext4", "-b", "4096", "-O", "inline_data"}},
		{name: "inline-1k", args: []string{"-t", "ext4", "-b", "1024", "-I", "1024", "-O", "inline_data"}},
	} {
		all = append(all, e)
		e.name, e.tiny = e.name+"-tiny", true
		all = append(all, e)
	}
	return all
}

// What an exerciser does when nobody asks for more, and the variables that ask.
const (
	fsxOps      = 400 // per exerciser
	fsxSeed     = 1
	fsxOpsEnv   = "EXT4BOX_FSX_OPS" // of all exercisers together
	fsxSeedEnv  = "EXT4BOX_FSX_SEED"
	fsxWorkers  = 3
	fsxRound    = 4000 // operations between two mounts
	fsxMaxSize  = 768 << 10
	fsxMaxIO    = 96 << 10
	fsxLarge    = 16 // times as large, and as few operations
	fsxTinySize = 1200
	fsxTinyIO   = 250
	fsxImage    = 192 << 20
	fsxHistory  = 40
	fsxInterval = 64 // operations between two looks at a whole file
)

// TestFsx does random I/O to several files at once through a mount, and wants
// to find in them, at any time and in the end with other readers, what a plain
// buffer in memory holds to which the same was done.
func TestFsx(t *testing.T) {
	requireMounting(t)
	fsx(t, exercisers(), byKernel, 1)
}

// fsx runs exercisers with what the environment asks for.
func fsx(t *testing.T, all []exerciser, mount mountFunc, sector int64) {
	ops, seed := fsxOps, uint64(fsxSeed)
	if s := os.Getenv(fsxOpsEnv); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatal(err)
		}
		full := 0 // those that do not do fewer
		for _, e := range all {
			if !e.large {
				full++
			}
		}
		ops = (n + full - 1) / full
	}
	if s := os.Getenv(fsxSeedEnv); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		seed = n
	}
	var total fsxCount
	t.Run("run", func(t *testing.T) {
		for i, e := range all {
			e.mount, e.sector = mount, sector
			t.Run(e.name, func(t *testing.T) {
				t.Parallel()
				parallelism <- struct{}{}
				defer func() { <-parallelism }()
				total.add(e.run(t, seed+uint64(i)<<32, ops))
			})
		}
	})
	t.Logf("%d operations, seed %d: %s", total.sum(), seed, total.String())
}

// fsxCount counts operations by name.
type fsxCount struct {
	mu sync.Mutex
	n  [len(fsxOpNames)]int
}

func (c *fsxCount) add(n [len(fsxOpNames)]int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range n {
		c.n[i] += n[i]
	}
}

func (c *fsxCount) sum() (sum int) {
	for _, n := range c.n {
		sum += n
	}
	return sum
}

func (c *fsxCount) String() string {
	var parts []string
	for i, n := range c.n {
		parts = append(parts, fmt.Sprintf("%s %d", fsxOpNames[i], n))
	}
	return strings.Join(parts, ", ")
}

// run mounts, works, unmounts and checks in rounds.
func (e *exerciser) run(t *testing.T, seed uint64, ops int) (count [len(fsxOpNames)]int) {
	dir := t.TempDir()
	img := &testimage.Image{Path: filepath.Join(dir, e.name+".img")}
	if err := testimage.Mke2fs(img.Path, fsxImage, e.args...); err != nil {
		t.Fatal(err)
	}
	maxSize, maxIO := fsxMaxSize, fsxMaxIO
	if e.large {
		maxSize, maxIO, ops = maxSize*fsxLarge, maxIO*fsxLarge, (ops+fsxLarge-1)/fsxLarge
	}
	if e.tiny {
		maxSize, maxIO = fsxTinySize, fsxTinyIO
	}
	sector := int(max(1, e.sector))
	maxSize = (maxSize + sector - 1) / sector * sector
	workers := make([]*fsxWorker, fsxWorkers)
	for i := range workers {
		w := &fsxWorker{name: fmt.Sprintf("%s worker %d, seed %d", e.name, i, seed), way: e.way, maxSize: int64(maxSize), maxIO: int64(maxIO),
			rng: rand.New(rand.NewPCG(seed, uint64(i))), indirect: strings.HasPrefix(e.name, "ext3"), tiny: e.tiny, sector: int64(sector)}
		for j := range w.files {
			w.files[j] = &fsxFile{name: fmt.Sprintf("file-%d-%d", i, j)}
		}
		workers[i] = w
	}
	for ops > 0 {
		round := min(ops, fsxRound)
		ops -= round
		fs, done := e.mount(t, img.Path)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for _, w := range workers {
			wg.Go(func() {
				if err := w.work(ctx, fs, (round+fsxWorkers-1)/fsxWorkers); err != nil {
					cancel()
					t.Errorf("%s: %v\nlatest operations:\n%s", w.name, err, strings.Join(w.history, "\n"))
				}
			})
		}
		wg.Wait()
		cancel()
		done()
		if t.Failed() {
			t.FailNow()
		}
		e.check(t, img, workers)
	}
	for _, w := range workers {
		for i, n := range w.count {
			count[i] += n
		}
	}
	return count
}

// check looks at the unmounted image in three ways.
func (e *exerciser) check(t *testing.T, img *testimage.Image, workers []*fsxWorker) {
	t.Helper()
	if err := testimage.Run("e2fsck", "-fn", img.Path); err != nil {
		t.Error(err)
	}
	dev := openDevice(t, img.Path)
	fs, err := ext4.Open(dev, ext4.Options{ReadOnly: true})
	if err != nil {
		dev.Close()
		t.Fatal(err)
	}
	kernel := testimage.MountRO(t, img, "")
	for _, w := range workers {
		for _, f := range w.files {
			if got, err := fs.FS().ReadFile(f.name); err != nil {
				t.Errorf("%s: %s by the library: %v", w.name, f.name, err)
			} else if d := differs(f.shadow, got, 0); d != nil {
				t.Errorf("%s: %s by the library: %v\nlatest operations:\n%s", w.name, f.name, d, strings.Join(w.history, "\n"))
			}
			if got, err := os.ReadFile(filepath.Join(kernel.Dir, f.name)); err != nil {
				t.Errorf("%s: %s by the kernel: %v", w.name, f.name, err)
			} else if d := differs(f.shadow, got, 0); d != nil {
				t.Errorf("%s: %s by the kernel: %v", w.name, f.name, d)
			}
		}
	}
	if err := errors.Join(fs.Close(), kernel.Unmount()); err != nil {
		t.Error(err)
	}
	if t.Failed() {
		t.FailNow()
	}
}

// mountRW mounts a file through ext4box for writing until the test ends.
func mountRW(t testing.TB, source string, options ...string) string {
	t.Helper()
	requireMounting(t)
	dir := t.TempDir()
	log := filepath.Join(t.TempDir(), "log")
	t.Cleanup(func() {
		if b, err := os.ReadFile(log); t.Failed() && err == nil && len(b) > 0 {
			t.Logf("log of the server of %s:\n%s", source, b[:min(len(b), 4000)])
		}
	})
	opts := strings.Join(append([]string{"rw"}, options...), ",")
	r := runMount(t, "-o", opts, "--log", log, source, dir)
	if r.status != 0 {
		t.Fatalf("mounting %s -o %s: status %d: %s", source, opts, r.status, r.stderr)
	}
	t.Cleanup(func() {
		if mounted(dir) {
			umount(t, dir)
		}
	})
	return dir
}

// differs tells where got is not what it should be; both begin at base.
func differs(want, got []byte, base int64) error {
	n := min(len(want), len(got))
	if bytes.Equal(want[:n], got[:n]) {
		if len(want) != len(got) {
			return fmt.Errorf("%d bytes, want %d", len(got), len(want))
		}
		return nil
	}
	first := 0
	for want[first] == got[first] {
		first++
	}
	last := n - 1
	for want[last] == got[last] {
		last--
	}
	return fmt.Errorf("wrong in %#x-%#x (%#x, want %#x) of %#x bytes, want %#x bytes",
		base+int64(first), base+int64(last), got[first], want[first], base+int64(len(got)), base+int64(len(want)))
}
