package ext4_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"ext4box/blockdev"
	"ext4box/blockdev/blocktest"
	"ext4box/ext4"
	"ext4box/ext4/internal/disk"
	"ext4box/ext4/mutate"
	"ext4box/internal/testimage"
	"ext4box/iomap"
)

// mutantConfigs are the shapes of filesystem that mutants are made of: all rich ones of the matrix that fit into a
// small image, and some with work left in their journal. What a mutant costs is what is in the image, so they are as
// small as they can be with everything in them.
func mutantConfigs() (list []testimage.Config) {
	for _, c := range testimage.Configs() {
		switch {
		case c.Name == "tiny":
			list = append(list, c)
			continue
		case c.Name == "8k" || c.Name == "16k":
			c.Size = 32 << 20
		case c.Name == "32k" || c.Name == "64k" || c.Name == "64k-ext2": // journals have 1024 blocks at least
			c.Size = 48 << 20
			c.Args = append(slices.Clone(c.Args), "-O", "^has_journal")
			if c.Name == "32k" {
				c.Args[len(c.Args)-1] += ",^metadata_csum"
			}
		default:
			c.Size = 12 << 20
		}
		if c.Name == "bigalloc" || c.Name == "bigalloc-1k-16k" || c.Name == "everything" || c.Name == "fastcommit" {
			c.Size = 24 << 20
		}
		c.Level, c.BigDir = testimage.Small, 0
		if !slices.Contains(c.Args, "-N") {
			c.Args = append(slices.Clone(c.Args), "-N", "1024")
		}
		list = append(list, c)
	}
	dirty := func(name, args string, oracle testimage.Oracle) {
		list = append(list, testimage.Config{Name: name, Size: 12 << 20, Args: strings.Fields(args), Level: testimage.Small, Oracle: oracle})
	}
	dirty("dirty", "-t ext4 -b 1024 -J size=1 -N 1024", testimage.Kernel)
	dirty("dirty-nocsum", "-t ext4 -b 1024 -J size=1 -N 1024 -O ^metadata_csum,^64bit", testimage.Kernel)
	dirty("dirty-orphanfile", "-t ext4 -b 1024 -J size=1 -N 1024 -O orphan_file,quota,^metadata_csum -E orphan_file_size=4", testimage.Debugfs)
	dirty("orphanfile-quota", "-t ext4 -b 1024 -J size=1 -N 1024 -O orphan_file,quota,project -E orphan_file_size=4,quotatype=usrquota:grpquota:prjquota", testimage.Debugfs)
	dirty("casefold-1k", "-t ext4 -b 1024 -J size=1 -N 1024 -O casefold,encrypt,^metadata_csum", testimage.Debugfs)
	return list
}

// fewMutants are those that "make test" takes.
var fewMutants = []string{"1k", "ext3", "nocsum", "inlinedata-1k-inode1024", "eainode-1k", "quota", "bigalloc-8k", "metabg-smallgroups", "fastcommit", "dirty", "dirty-orphanfile",
	"orphanfile-quota", "casefold-1k"}

// TestMutants opens mutants of rich images for reading and reads all there is, then opens them for writing and works on
// them as if they were sound, from two sides at once. Nothing may panic, take long or much memory, fail without an
// errno, leave a goroutine behind, or write where the mutant does not allow it (see guard).
//
// EXT4BOX_MUTANTS is the number of mutants of each image, and then of all images; EXT4BOX_MUTANTS_SEED is the seed of the
// first one, EXT4BOX_MUTANTS_OF a regular expression of the images. A failure says how to have that one again.
func TestMutants(t *testing.T) {
	if testing.Short() {
		// That a block of two owners is changed by one while the other reads it is
		// no fault here, and one for the race detector.
		t.Skip("not under the race detector")
	}
	var total mutantSum
	eachBase(t, 15, func(t *testing.T, run *mutantRun) {
		seeds := make(chan uint64)
		var sum mutantSum
		var wg sync.WaitGroup
		start := time.Now()
		for range runtime.GOMAXPROCS(0) {
			wg.Go(func() {
				for n := range seeds {
					attack(t, run, run.base.Mutant(n), rand.New(rand.NewPCG(n, 77)), &sum)
				}
			})
		}
		for i := range run.count {
			if t.Failed() {
				break
			}
			seeds <- run.seed + uint64(i)
		}
		close(seeds)
		wg.Wait()
		sum.heap = run.peak()
		t.Logf("%s from seed %d on: %v; %.0f a second", t.Name(), run.seed, &sum, float64(run.count)/time.Since(start).Seconds())
		if sum.done.Load() == 0 || sum.failed.Load() == 0 {
			t.Error("this tests nothing")
		}
		total.add(&sum)
	})
	t.Logf("in all: %v", &total)
}

// eachBase builds the images and has do make mutants of them, as many as the variable says, or else
// count of the few.
func eachBase(t *testing.T, count int, do func(t *testing.T, run *mutantRun)) {
	seed, few := uint64(1), true
	if n, err := strconv.Atoi(os.Getenv("EXT4BOX_MUTANTS")); err == nil {
		count, few = n, false
	}
	if n, err := strconv.ParseUint(os.Getenv("EXT4BOX_MUTANTS_SEED"), 10, 64); err == nil {
		seed = n
	}
	of := regexp.MustCompile(os.Getenv("EXT4BOX_MUTANTS_OF"))
	for _, c := range mutantConfigs() {
		if few && !slices.Contains(fewMutants, c.Name) || !of.MatchString(c.Name) {
			continue
		}
		t.Run(c.Name, func(t *testing.T) {
			img := testimage.Build(t, t.TempDir(), c)
			base, err := mutate.Load(img.Path)
			if err == nil && strings.HasPrefix(c.Name, "dirty") {
				base, err = crashed(t, base)
			}
			if err != nil {
				t.Fatal(err)
			}
			if n := len(base.Inodes()); n < 50 {
				t.Fatalf("%d inodes in use", n)
			}
			before := runtime.NumGoroutine()
			files := openFiles(t)
			peak, stop := watchHeap(t)
			defer stop()
			run := &mutantRun{base: base, count: count, seed: seed, peak: peak}
			if img.Journal != "" {
				if run.journal, err = os.ReadFile(img.Journal); err != nil {
					t.Fatal(err)
				}
			}
			do(t, run)
			if n := openFiles(t); n > files {
				t.Errorf("%d files are left open", n-files)
			}
			for end := time.Now().Add(10 * time.Second); runtime.NumGoroutine() > before+1 && !t.Failed(); time.Sleep(10 * time.Millisecond) {
				if time.Now().After(end) {
					stacks := make([]byte, 1<<20)
					t.Errorf("goroutines are left\n%s", stacks[:runtime.Stack(stacks, true)])
				}
			}
		})
	}
}

// mutantRun is what to do with the mutants of one image.
type mutantRun struct {
	base    *mutate.Base
	journal []byte // on a device of its own; nil: inside
	count   int
	seed    uint64
	peak    func() int64 // the largest heap until now, in bytes
}

// outside is the journal of a mutant where it is on another device: also a damaged one.
func (r *mutantRun) outside(rng *rand.Rand) *blocktest.Mem {
	if r.journal == nil {
		return nil
	}
	dev := blocktest.NewOverlay(bytes.NewReader(r.journal), int64(len(r.journal)))
	if rng.IntN(3) > 0 {
		return dev
	}
	const blockSize = 4096
	for range 1 + rng.IntN(3) {
		word := binary.BigEndian.AppendUint32(nil, []uint32{0, 1, 2, rng.Uint32N(2048), rng.Uint32()}[rng.IntN(5)])
		if _, err := dev.WriteAt(word, blockSize+4*rng.Int64N(64)); err != nil { // in the superblock of the journal
			panic(err)
		}
	}
	super := make([]byte, disk.SuperblockSize)
	if _, err := dev.ReadAt(super, blockSize); err != nil {
		panic(err)
	}
	clear(super[0xFC:0x100])
	if _, err := dev.WriteAt(binary.BigEndian.AppendUint32(nil, disk.CRC32C(^uint32(0), super)), blockSize+0xFC); err != nil {
		panic(err)
	}
	return dev
}

// mutantSum adds up what became of mutants.
type mutantSum struct {
	mutants, closed, readOnly, done, failed, writes atomic.Int64 // the guard judges each write

	heap int64 // the largest there was, in bytes

	mu      sync.Mutex
	longest time.Duration
	slowest uint64
}

func (s *mutantSum) String() string {
	return fmt.Sprintf("%d mutants, %d refused, %d opened for reading only, %d operations done, %d refused, %d writes to the device judged, longest %v (seed %d), at most %d MiB of heap",
		s.mutants.Load(), s.closed.Load(), s.readOnly.Load(), s.done.Load(), s.failed.Load(), s.writes.Load(), s.longest.Round(time.Millisecond), s.slowest, s.heap>>20)
}

func (s *mutantSum) add(o *mutantSum) {
	for _, n := range [][2]*atomic.Int64{{&s.mutants, &o.mutants}, {&s.closed, &o.closed}, {&s.readOnly, &o.readOnly}, {&s.done, &o.done}, {&s.failed, &o.failed},
		{&s.writes, &o.writes}} {
		n[0].Add(n[1].Load())
	}
	s.heap = max(s.heap, o.heap)
	if o.longest > s.longest {
		s.longest, s.slowest = o.longest, o.slowest
	}
}

func (s *mutantSum) took(d time.Duration, seed uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if d > s.longest {
		s.longest, s.slowest = d, seed
	}
}

// Limits for one image. The machine may be busy with other things as well.
const (
	mutantTime = 30 * time.Second
	mutantHeap = 400 << 20
)

// again says how to have a mutant of a test once more.
func again(t *testing.T, m *mutate.Mutant) string {
	test, image, _ := strings.Cut(t.Name(), "/")
	image, _, _ = strings.Cut(image, "/")
	return fmt.Sprintf("%s, %v\nagain: EXT4BOX_MUTANTS=1 EXT4BOX_MUTANTS_SEED=%d EXT4BOX_MUTANTS_OF='^%s$' go test -run '^%s$' ./ext4", t.Name(), m, m.Seed, image, test)
}

// keep leaves a mutant in the directory EXT4BOX_MUTANTS_KEEP: the images are made anew by each test, with
// other times and in parts in another order, and the next mutant of a seed may differ.
func keep(t *testing.T, m *mutate.Mutant) {
	dir := os.Getenv("EXT4BOX_MUTANTS_KEEP")
	if dir == "" {
		return
	}
	path := filepath.Join(dir, fmt.Sprintf("%s-%d", strings.ReplaceAll(t.Name(), "/", "-"), m.Seed))
	if err := m.WriteFile(path); err != nil {
		t.Error(err)
	}
	t.Logf("kept as %s", path)
}

// refusal is what is wrong about the words with which an image is refused. They are one sentence that names a
// structure, and a field or value of it.
func refusal(err error) error {
	text := err.Error()
	switch {
	case errors.Is(err, syscall.ESTALE) || errors.Is(err, syscall.EBUSY) || errors.Is(err, syscall.ENOENT):
		return fmt.Errorf("an image is refused with the errno of something else: %w", err)
	case strings.ContainsAny(text, "\n\x00") || len(text) > 1000: // of 32 unknown features each has a name
		return fmt.Errorf("an image is refused with more than a sentence: %w", err)
	case !strings.ContainsAny(text, "0123456789") && !strings.Contains(text, "feature"):
		return fmt.Errorf("an image is refused without saying which number or field is wrong: %w", err)
	}
	return nil
}

// bounded runs fn and returns what it returns, or what it panics with; where it does not
// end everything ends.
func bounded(name string, fn func() error) error {
	finished := make(chan error, 1)
	go func() {
		defer func() {
			if p := recover(); p != nil {
				finished <- fmt.Errorf("panic: %v\n%s", p, debug.Stack())
			}
		}()
		finished <- fn()
	}()
	select {
	case err := <-finished:
		return err
	case <-time.After(mutantTime):
		stacks := make([]byte, 1<<20)
		panic(fmt.Sprintf("%s: does not end\n%s", name, stacks[:runtime.Stack(stacks, true)]))
	}
}

// attack works on a mutant.
func attack(t *testing.T, run *mutantRun, m *mutate.Mutant, rng *rand.Rand, sum *mutantSum) {
	name := again(t, m)
	dev := m.Device()
	journal := run.outside(rng)
	g := &guard{Mem: dev, may: allowanceOf(dev, journal)}
	sum.mutants.Add(1)
	start := time.Now()
	err := bounded(name, func() error {
		err := readAll(g, journal, sum)
		if g.written() > 0 {
			err = errors.Join(err, errors.New("written while it was open for reading"))
		}
		return errors.Join(err, workload{users: 2, steps: 100}.workOn(g, journal, m, rng, sum))
	})
	if err = errors.Join(err, g.wrong()); err != nil {
		t.Errorf("%s\n%v", name, err)
		keep(t, m)
	}
	sum.writes.Add(int64(g.written()))
	sum.took(time.Since(start), m.Seed)
}

// watchHeap fails the test when the heap grows by more than the limit. What is not collected yet does
// not count: how much that is depends on what other tests have in memory.
func watchHeap(t *testing.T) (peak func() int64, stop func()) {
	before := liveHeap()
	var most atomic.Uint64
	quit, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			var m runtime.MemStats
			if runtime.ReadMemStats(&m); m.HeapAlloc > uint64(before)+mutantHeap && liveHeap() > before+mutantHeap {
				stacks := make([]byte, 1<<20)
				panic(fmt.Sprintf("%s: %d MiB of heap\n%s", t.Name(), m.HeapAlloc>>20, stacks[:runtime.Stack(stacks, true)]))
			}
			most.Store(max(most.Load(), m.HeapAlloc))
			select {
			case <-quit:
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	}()
	return func() int64 { return int64(most.Load()) }, func() { close(quit); <-ended }
}

// openFiles is how many descriptors the process has.
func openFiles(t *testing.T) int {
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

// crashed leaves work on the image in its journal, and inodes without a name.
func crashed(t *testing.T, base *mutate.Base) (*mutate.Base, error) {
	dev := unchanged(base).Device()
	fs, err := ext4.Open(dev, ext4.Options{CommitInterval: time.Hour})
	if err != nil {
		return nil, err
	}
	a := &attacker{fs: fs, ctx: context.Background(), sum: new(mutantSum), rng: rand.New(rand.NewPCG(1, 2))}
	a.explore(base)
	for range 5 {
		for range 40 {
			a.step()
		}
		if _, err := fs.Tmpfile(ext4.RootIno, ext4.NewNode{Mode: 0o600}); err != nil {
			return nil, err
		}
		if err := fs.Sync(); err != nil {
			return nil, err
		}
	}
	image := make([]byte, dev.Size())
	if _, err := dev.Clone().ReadAt(image, 0); err != nil {
		return nil, err
	}
	if err := fs.Close(); err != nil {
		return nil, err
	}
	return mutate.New(image)
}

// readAll opens an image for reading and reads what there is, within limits that no sound small image
// reaches.
func readAll(dev blockdev.Device, journal *blocktest.Mem, sum *mutantSum) error {
	o := ext4.Options{ReadOnly: true, CacheBytes: 1 << 20}
	if journal != nil {
		o.JournalDevice = journal
	}
	fs, err := ext4.Open(dev, o)
	if err != nil {
		return errors.Join(withErrno("open for reading", err), refusal(err))
	}
	ctx, cancel := context.WithTimeout(context.Background(), mutantTime/4)
	defer cancel()
	a := &attacker{fs: fs, ctx: ctx, sum: sum}
	a.explore(nil)
	_ = fs.Info()
	_, err = fs.Statfs()
	a.note("statfs", err)
	buf := make([]byte, 20000)
	for _, ino := range a.inodes {
		if ctx.Err() != nil {
			break
		}
		_, err := fs.Readlink(ino)
		a.note("readlink", err)
		names, err := fs.Listxattr(ino)
		a.note("listxattr", err)
		for _, name := range names {
			_, err := fs.Getxattr(ino, name)
			a.note("getxattr", err)
		}
		for off, n := int64(0), 0; n < 100; n++ {
			if off, err = fs.Seek(ino, off, ext4.SeekData); err != nil {
				break
			}
			m, err := fs.ReadAt(ino, buf, off)
			a.note("read", err)
			off += max(1, int64(m))
		}
		a.note("seek", err)
	}
	return errors.Join(a.bad, ctx.Err(), withErrno("close", fs.Close()))
}

// workload is how much is done with an image that is open for writing.
type workload struct{ users, steps int }

// workOn opens an image, does all kinds of things and closes it. It returns what
// no image may cause. What a single user does is the same each time.
func (l workload) workOn(dev blockdev.Device, journal *blocktest.Mem, m *mutate.Mutant, rng *rand.Rand, sum *mutantSum) error {
	o := attackOptions(rng)
	if l.users == 1 {
		o.CommitInterval = time.Hour
	}
	if journal != nil {
		o.JournalDevice = journal
	}
	return l.workWith(dev, m, rng, sum, o, func() {}, func() {})
}

func attackOptions(rng *rand.Rand) ext4.Options {
	return ext4.Options{
		CommitInterval: time.Duration(1+rng.IntN(50)) * time.Millisecond, CacheBytes: 1 << 20, Discard: rng.IntN(2) == 0,
		Errors: ext4.OnError(rng.IntN(2) * int(ext4.OnErrorContinue)),
	}
}

// workWith is workOn with options. It calls opened once the image is open, and often
// after each thing that it does.
func (l workload) workWith(dev blockdev.Device, m *mutate.Mutant, rng *rand.Rand, sum *mutantSum, o ext4.Options, opened, often func()) error {
	fs, err := ext4.Open(dev, o)
	if err != nil {
		sum.closed.Add(1)
		return errors.Join(withErrno("open", err), refusal(err))
	}
	if fs.ReadOnlyReason() != "" {
		sum.readOnly.Add(1)
	}
	ctx, cancel := context.WithTimeout(context.Background(), mutantTime/4)
	defer cancel()
	opened()
	a := &attacker{fs: fs, ctx: ctx, sum: sum}
	a.explore(m.Base)
	for _, ino := range m.Inodes {
		a.hurt = append(a.hurt, ext4.Ino(ino))
	}
	var wg sync.WaitGroup
	bad := make([]error, l.users)
	for i := range bad {
		one := *a
		one.inodes, one.dirs, one.names = slices.Clone(a.inodes), slices.Clone(a.dirs), slices.Clone(a.names)
		one.rng = rand.New(rand.NewPCG(rng.Uint64(), 1))
		wg.Go(func() {
			defer func() {
				if p := recover(); p != nil {
					bad[i] = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
				}
			}()
			for range l.steps {
				if ctx.Err() != nil {
					break
				}
				one.step()
				often()
				if one.rng.IntN(10) == 0 { // what is full waits for them
					one.release()
				}
			}
			one.release()
			bad[i] = errors.Join(one.bad, ctx.Err())
		})
	}
	wg.Wait()
	return errors.Join(append(bad, withErrno("close", fs.Close()))...)
}

func withErrno(what string, err error) error {
	var errno syscall.Errno
	if err == nil || errors.Is(err, io.EOF) || errors.As(err, &errno) {
		return nil
	}
	return fmt.Errorf("%s: an error without errno: %w", what, err)
}

// attacker does what users do.
type attacker struct {
	fs     *ext4.FS
	ctx    context.Context
	sum    *mutantSum
	rng    *rand.Rand
	inodes []ext4.Ino
	hurt   []ext4.Ino // those that the mutant is about
	dirs   []ext4.Ino
	names  []attackName
	held   []ext4.Ino
	bad    error
}

type attackName struct {
	dir  ext4.Ino
	name string
}

func (a *attacker) note(what string, err error) {
	if err == nil {
		a.sum.done.Add(1)
	} else {
		a.sum.failed.Add(1)
		a.bad = errors.Join(a.bad, withErrno(what, err))
	}
}

// explore collects what can be reached.
func (a *attacker) explore(base *mutate.Base) {
	seen := map[ext4.Ino]bool{ext4.RootIno: true}
	todo := []ext4.Ino{ext4.RootIno}
	for len(todo) > 0 && len(seen) < 2000 && a.ctx.Err() == nil {
		ino := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		st, err := a.fs.Stat(ino)
		if err != nil {
			continue
		}
		a.inodes = append(a.inodes, ino)
		if !st.IsDir() {
			continue
		}
		a.dirs = append(a.dirs, ino)
		n := 0
		a.note("readdir", a.fs.ReadDir(ino, 0, func(e ext4.Dirent) bool {
			if name := string(e.Name); name != "." && name != ".." {
				a.names = append(a.names, attackName{ino, name})
			}
			if !seen[e.Ino] {
				seen[e.Ino] = true
				todo = append(todo, e.Ino)
			}
			n++
			return n < 5000
		}))
	}
	// Inodes that nothing leads to are reached over NFS.
	if base != nil {
		for _, ino := range base.Inodes() {
			if !seen[ext4.Ino(ino)] {
				a.inodes = append(a.inodes, ext4.Ino(ino))
			}
		}
	}
	if len(a.dirs) == 0 {
		a.dirs = []ext4.Ino{ext4.RootIno}
	}
}

func (a *attacker) ino() ext4.Ino {
	if len(a.hurt) > 0 && a.rng.IntN(3) == 0 {
		return a.hurt[a.rng.IntN(len(a.hurt))]
	}
	return a.inodes[a.rng.IntN(len(a.inodes))]
}

func (a *attacker) dir() ext4.Ino {
	if len(a.hurt) > 0 && a.rng.IntN(6) == 0 { // it need not be one
		return a.hurt[a.rng.IntN(len(a.hurt))]
	}
	return a.dirs[a.rng.IntN(len(a.dirs))]
}

// release lets go of unnamed inodes.
func (a *attacker) release() {
	for _, ino := range a.held {
		a.note("unhold", a.fs.Unhold(ino, 1))
	}
	a.held = nil
}

func (a *attacker) name() attackName {
	if len(a.names) == 0 || a.rng.IntN(20) == 0 {
		return attackName{a.dir(), a.fresh()}
	}
	return a.names[a.rng.IntN(len(a.names))]
}
func (a *attacker) fresh() string {
	return fmt.Sprintf("%s%d", strings.Repeat("n", a.rng.IntN(100)), a.rng.IntN(1000))
}

// offset is somewhere in the file, near its end, or anywhere.
func (a *attacker) offset(ino ext4.Ino) uint64 {
	st, _ := a.fs.Stat(ino)
	switch a.rng.IntN(5) {
	case 0:
		return 0
	case 1:
		return uint64(max(0, st.Size+int64(a.rng.IntN(5000))-2500))
	case 2:
		return a.rng.Uint64() >> (1 + a.rng.IntN(50))
	}
	return a.rng.Uint64N(uint64(max(1, min(st.Size, 1<<40))))
}

func (a *attacker) length() uint64 {
	switch a.rng.IntN(8) {
	case 0:
		return 1 + a.rng.Uint64N(30000)
	case 1:
		if a.rng.IntN(5) == 0 { // all there is
			return a.rng.Uint64() >> (1 + a.rng.IntN(50))
		}
	}
	return (1 + a.rng.Uint64N(20)) << 10
}

func (a *attacker) step() {
	fs, rng := a.fs, a.rng
	if len(a.inodes) == 0 {
		return
	}
	u32 := func() *uint32 { n := uint32(rng.IntN(1 << 16)); return &n }
	ino := a.ino()
	switch rng.IntN(26) {
	case 0, 1, 2:
		kind := []uint32{syscall.S_IFREG, syscall.S_IFREG, syscall.S_IFDIR, syscall.S_IFLNK, syscall.S_IFIFO}[rng.IntN(5)]
		at := attackName{a.dir(), a.fresh()}
		made, err := fs.Create(at.dir, at.name, ext4.NewNode{Mode: kind | 0o755, UID: *u32() % 10, Target: a.fresh() + a.fresh(), Limited: rng.IntN(2) == 0})
		a.note("create", err)
		if err == nil {
			a.inodes, a.names = append(a.inodes, made), append(a.names, at)
			if kind == syscall.S_IFDIR {
				a.dirs = append(a.dirs, made)
			}
		}
	case 3, 4, 5, 6:
		n := int(min(a.length(), uint64(len(attackData))))
		_, err := fs.WriteAt(ino, attackData[:n], int64(a.offset(ino)&(1<<62-1)))
		a.note("write", err)
	case 7:
		a.note("truncate", fs.Truncate(ino, a.offset(ino)))
	case 8, 9:
		mode := []uint32{0, ext4.FallocKeepSize, ext4.FallocPunchHole | ext4.FallocKeepSize, ext4.FallocZeroRange, ext4.FallocCollapseRange, ext4.FallocInsertRange}[rng.IntN(6)]
		off, n := a.offset(ino), a.length()
		if rng.IntN(2) == 0 {
			off, n = off&^4095, (n+4095)&^4095
		}
		a.note("fallocate", fs.Fallocate(ino, mode, off, n))
	case 10:
		to := attackName{a.dir(), a.fresh()}
		err := fs.Link(ino, to.dir, to.name)
		a.note("link", err)
		if err == nil {
			a.names = append(a.names, to)
		}
	case 11, 12:
		from, to := a.name(), a.name()
		if rng.IntN(2) == 0 {
			to = attackName{a.dir(), a.fresh()}
		}
		flags := []uint32{0, 0, ext4.RenameExchange, ext4.RenameNoReplace, ext4.RenameWhiteout}[rng.IntN(5)]
		err := fs.Rename(from.dir, from.name, to.dir, to.name, flags)
		a.note("rename", err)
		if err == nil {
			a.names = append(a.names, to)
		}
	case 13, 14:
		n := a.name()
		err := fs.Unlink(n.dir, n.name)
		if errors.Is(err, syscall.EISDIR) {
			err = fs.Rmdir(n.dir, n.name)
		}
		a.note("unlink", err)
	case 15:
		if rng.IntN(8) == 0 {
			n := a.name()
			a.note("remove all", fs.RemoveAll(n.dir, n.name))
		}
	case 16, 17:
		size := rng.IntN(100) << rng.IntN(8)
		a.note("setxattr", fs.Setxattr(ino, "user."+a.fresh()[:1], attackValue[:min(size, len(attackValue))], 0))
	case 18:
		names, err := fs.Listxattr(ino)
		a.note("listxattr", err)
		for _, name := range names {
			_, err := fs.Getxattr(ino, name)
			a.note("getxattr", err)
			if rng.IntN(3) == 0 {
				a.note("removexattr", fs.Removexattr(ino, name))
			}
		}
	case 19, 20:
		attr := ext4.Attr{UID: u32(), GID: u32(), Limited: rng.IntN(2) == 0}
		if rng.IntN(2) == 0 {
			attr = ext4.Attr{Mode: u32(), ProjectID: u32()}
		}
		a.note("setattr", fs.SetAttr(ino, attr))
	case 21:
		n := 0
		a.note("readdir", fs.ReadDir(a.dir(), int64(rng.IntN(2)), func(ext4.Dirent) bool { n++; return n < 1000 }))
	case 22:
		buf := make([]byte, 20000)
		_, err := fs.ReadAt(ino, buf, int64(a.offset(ino)&(1<<62-1)))
		a.note("read", err)
		_, err = fs.Readlink(ino)
		a.note("readlink", err)
		_, err = fs.Seek(ino, int64(a.offset(ino)>>1), 3+rng.IntN(2))
		a.note("seek", err)
	case 23:
		a.note("fsync", fs.Fsync(ino))
		if rng.IntN(4) == 0 {
			a.note("sync", fs.Sync())
		}
	case 24:
		off, n := a.offset(ino), a.length()
		_, err := fs.Begin(ino, off, n, iomap.Write)
		a.note("begin", err)
		if rng.IntN(2) == 0 {
			a.note("ioend", fs.IOEnd(ino, off, n))
		}
		if rng.IntN(4) > 0 {
			a.note("end", fs.End(ino, off, n))
		}
	case 25:
		switch rng.IntN(6) {
		case 0:
			made, err := fs.Tmpfile(a.dir(), ext4.NewNode{Mode: 0o600})
			a.note("tmpfile", err)
			if err == nil {
				a.held, a.inodes = append(a.held, made), append(a.inodes, made)
			}
		case 1:
			_, err := fs.Statfs()
			a.note("statfs", err)
		case 2:
			_, err := fs.Trim(0, 1<<40, 0, nil)
			a.note("trim", err)
		case 3:
			a.note("label", fs.SetLabel("attacked"))
		case 4:
			a.note("limits", fs.SetQuotaLimits(ext4.UserQuota, *u32()%10, ext4.Quota{}))
			_, err := fs.Quota(ext4.GroupQuota, *u32())
			a.note("quota", err)
		case 5:
			_, err := fs.StatfsAt(ino)
			a.note("statfs", err)
			a.note("generation", fs.SetGeneration(ino, rng.Uint32()))
		}
	}
}
