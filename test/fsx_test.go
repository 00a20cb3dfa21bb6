package test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"ext4box/ext4"
	"ext4box/internal/testimage"
)

// An exerciser is what a run of random I/O does and where.
type exerciser struct {
	name string
	args []string
	size int64
	way  ioWay
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
	} {
		e.size = 96 << 20
		for way, name := range []string{"mixed", "buffered", "direct"} {
			x := e
			x.name, x.way = e.name+"-"+name, ioWay(way)
			all = append(all, x)
		}
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
	fsxHistory  = 40
	fsxInterval = 64 // operations between two looks at a whole file
)

// TestFsx does random I/O to several files at once through a mount, and wants
// to find in them, at any time and in the end with other readers, what a plain
// buffer in memory holds to which the same was done.
func TestFsx(t *testing.T) {
	requireMounting(t)
	all := exercisers()
	ops, seed := fsxOps, uint64(fsxSeed)
	if s := os.Getenv(fsxOpsEnv); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatal(err)
		}
		ops = (n + len(all) - 1) / len(all)
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
	if err := testimage.Mke2fs(img.Path, e.size, e.args...); err != nil {
		t.Fatal(err)
	}
	workers := make([]*fsxWorker, fsxWorkers)
	for i := range workers {
		w := &fsxWorker{name: fmt.Sprintf("%s worker %d, seed %d", e.name, i, seed), way: e.way,
			rng: rand.New(rand.NewPCG(seed, uint64(i))), indirect: strings.HasPrefix(e.name, "ext3")}
		for j := range w.files {
			w.files[j] = &fsxFile{name: fmt.Sprintf("file-%d-%d", i, j)}
		}
		workers[i] = w
	}
	for ops > 0 {
		round := min(ops, fsxRound)
		ops -= round
		mnt := mountRW(t, img.Path)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for _, w := range workers {
			wg.Go(func() {
				if err := w.work(ctx, mnt, (round+fsxWorkers-1)/fsxWorkers); err != nil {
					cancel()
					t.Errorf("%s: %v\nlatest operations:\n%s", w.name, err, strings.Join(w.history, "\n"))
				}
			})
		}
		wg.Wait()
		cancel()
		umount(t, mnt)
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
	if r := run(t, "mount", "-o", opts, "--log", log, source, dir); r.status != 0 {
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

// A fsxFile is a file and what it must hold.
type fsxFile struct {
	name   string
	shadow []byte
	fd     *os.File // O_RDWR
	direct *os.File // O_RDWR|O_DIRECT
	app    *os.File // O_WRONLY|O_APPEND
}

func (f *fsxFile) open(dir string) (err error) {
	path := filepath.Join(dir, f.name)
	for _, o := range []struct {
		file **os.File
		flag int
	}{
		{&f.fd, os.O_RDWR | os.O_CREATE},
		{&f.direct, os.O_RDWR | unix.O_DIRECT},
		{&f.app, os.O_WRONLY | os.O_APPEND},
	} {
		if *o.file, err = os.OpenFile(path, o.flag, 0o644); err != nil {
			return err
		}
	}
	return nil
}

func (f *fsxFile) close() error {
	var errs []error
	for _, file := range []**os.File{&f.fd, &f.direct, &f.app} {
		if *file != nil {
			errs = append(errs, (*file).Close())
		}
		*file = nil
	}
	return errors.Join(errs...)
}

// put writes to the shadow.
func (f *fsxFile) put(p []byte, off int64) {
	if len(p) == 0 {
		return
	}
	f.grow(off + int64(len(p)))
	copy(f.shadow[off:], p)
}

// grow makes the shadow at least so long.
func (f *fsxFile) grow(size int64) {
	if size > int64(len(f.shadow)) {
		f.shadow = append(f.shadow, make([]byte, size-int64(len(f.shadow)))...)
	}
}

// A fsxWorker works on its own files.
type fsxWorker struct {
	name     string
	way      ioWay
	indirect bool
	rng      *rand.Rand
	dir      string
	files    [2]*fsxFile
	history  []string
	stamp    byte
	count    [len(fsxOpNames)]int
}

// The operations.
var fsxOpNames = [...]string{"read", "write", "direct read", "direct write", "mmap read", "mmap write", "append", "truncate",
	"allocate", "allocate beyond", "punch", "zero", "copy range", "fsync", "reopen", "drop"}

const (
	opRead = iota
	opWrite
	opDirectRead
	opDirectWrite
	opMmapRead
	opMmapWrite
	opAppend
	opTruncate
	opAllocate
	opAllocateKeep
	opPunch
	opZero
	opCopy
	opFsync
	opReopen
	opDrop
)

// fsxChances is how often operations come up, of their sum.
var fsxChances = [3][len(fsxOpNames)]int{
	mixedIO:    {8, 12, 6, 10, 5, 8, 4, 8, 4, 4, 6, 5, 6, 2, 2, 4},
	bufferedIO: {12, 20, 0, 0, 8, 12, 6, 8, 4, 4, 6, 5, 6, 2, 2, 4},
	directIO:   {0, 0, 20, 30, 0, 0, 0, 8, 4, 4, 6, 5, 6, 2, 2, 1},
}

func (w *fsxWorker) pick() int {
	chances := &fsxChances[w.way]
	sum := 0
	for _, c := range chances {
		sum += c
	}
	n := w.rng.IntN(sum)
	for op, c := range chances {
		if n -= c; n < 0 {
			return op
		}
	}
	panic("unreachable")
}

// place chooses a range to work on, which may end behind the end of the file.
func (w *fsxWorker) place(f *fsxFile, maxLen int) (off, n int64) {
	n = 1 + w.rng.Int64N(int64(maxLen))
	if w.rng.IntN(3) == 0 {
		n = 1 + w.rng.Int64N(3000)
	}
	limit := int64(fsxMaxSize)
	switch w.rng.IntN(4) {
	case 0: // anywhere
		off = w.rng.Int64N(limit)
	case 1: // around the end
		off = max(0, int64(len(f.shadow))-w.rng.Int64N(2*n+1)+n/2)
	default:
		off = w.rng.Int64N(int64(len(f.shadow)) + 1)
	}
	switch w.rng.IntN(5) {
	case 0:
		off, n = off&^4095, (n+4095)&^4095
	case 1:
		off, n = off&^1023, (n+1023)&^1023
	case 2:
		off = off &^ 511
	}
	if off >= limit {
		off = limit - 1
	}
	return off, min(n, limit-off)
}

// data makes bytes that no other operation makes.
func (w *fsxWorker) data(n int64) []byte {
	p := alignedBuffer(int(n))
	for i := range p {
		w.stamp++
		if w.stamp == 0 {
			w.stamp = byte(1 + w.rng.IntN(250))
		}
		p[i] = w.stamp
	}
	return p
}

// alignedBuffer returns memory that direct I/O takes.
func alignedBuffer(n int) []byte {
	const align = 4096
	p := make([]byte, n+align)
	skip := int(-uintptr(unsafe.Pointer(unsafe.SliceData(p))) % align)
	return p[skip : skip+n : skip+n]
}

func (w *fsxWorker) note(format string, args ...any) {
	if len(w.history) >= fsxHistory {
		w.history = w.history[1:]
	}
	w.history = append(w.history, time.Now().Format("05.000 ")+fmt.Sprintf(format, args...))
}

// work does so many operations, and closes the files.
func (w *fsxWorker) work(ctx context.Context, dir string, ops int) (err error) {
	w.dir = dir
	defer func() {
		for _, f := range w.files {
			err = errors.Join(err, f.close())
		}
	}()
	for _, f := range w.files {
		if err := f.open(dir); err != nil {
			return err
		}
		if err := w.look(f); err != nil {
			return err
		}
	}
	for i := range ops {
		if ctx.Err() != nil {
			return nil
		}
		f := w.files[w.rng.IntN(len(w.files))]
		op := w.pick()
		w.count[op]++
		if err := w.do(op, f); err != nil {
			return fmt.Errorf("%s %s: %w", fsxOpNames[op], f.name, err)
		}
		st, err := f.fd.Stat()
		if err != nil {
			return err
		}
		if st.Size() != int64(len(f.shadow)) {
			return fmt.Errorf("after %s %s: size %#x, want %#x", fsxOpNames[op], f.name, st.Size(), len(f.shadow))
		}
		if i%fsxInterval == fsxInterval-1 {
			if err := w.look(f); err != nil {
				return fmt.Errorf("look at %s: %w", f.name, err)
			}
		}
	}
	return nil
}

// look reads a file whole.
func (w *fsxWorker) look(f *fsxFile) error {
	file := f.fd
	if w.way == directIO {
		file = f.direct
	}
	got := alignedBuffer(len(f.shadow) + 4096)
	n, err := file.ReadAt(got, 0)
	if err != nil && err != io.EOF {
		return err
	}
	return differs(f.shadow, got[:n], 0)
}

// do does one operation to the file and to its shadow.
func (w *fsxWorker) do(op int, f *fsxFile) error {
	off, n := w.place(f, fsxMaxIO)
	size := int64(len(f.shadow))
	switch op {
	case opRead, opDirectRead:
		return w.read(op, f, off, n)
	case opWrite, opDirectWrite:
		file := f.fd
		if op == opDirectWrite {
			file = f.direct
		}
		w.note("%s %s %#x+%#x (%#x)", f.name, fsxOpNames[op], off, n, size)
		p := w.data(n)
		if _, err := file.WriteAt(p, off); err != nil {
			return err
		}
		f.put(p, off)
	case opAppend:
		n = min(n, fsxMaxSize-size)
		w.note("%s append %#x+%#x", f.name, size, n)
		p := w.data(n)
		if _, err := f.app.Write(p); err != nil {
			return err
		}
		f.put(p, size)
	case opMmapRead, opMmapWrite:
		return w.mmap(op, f, off, n)
	case opTruncate:
		to := off
		if w.rng.IntN(8) == 0 {
			to = 0
		}
		w.note("%s truncate %#x -> %#x", f.name, size, to)
		if err := f.fd.Truncate(to); err != nil {
			return err
		}
		f.grow(to)
		f.shadow = f.shadow[:to]
	case opAllocate, opAllocateKeep, opPunch, opZero:
		return w.fallocate(op, f, off, n)
	case opCopy:
		return w.copyRange(f, off, n)
	case opFsync:
		if w.rng.IntN(2) == 0 {
			w.note("%s fdatasync", f.name)
			return unix.Fdatasync(int(f.fd.Fd()))
		}
		w.note("%s fsync", f.name)
		return f.fd.Sync()
	case opReopen:
		w.note("%s reopen", f.name)
		if err := f.close(); err != nil {
			return err
		}
		return f.open(w.dir)
	case opDrop:
		w.note("%s drop", f.name)
		if w.rng.IntN(2) == 0 {
			if err := f.fd.Sync(); err != nil {
				return err
			}
		}
		return unix.Fadvise(int(f.fd.Fd()), 0, 0, unix.FADV_DONTNEED)
	}
	return nil
}

func (w *fsxWorker) read(op int, f *fsxFile, off, n int64) error {
	file := f.fd
	if op == opDirectRead {
		file = f.direct
	}
	w.note("%s %s %#x+%#x (%#x)", f.name, fsxOpNames[op], off, n, len(f.shadow))
	p := alignedBuffer(int(n))
	got, err := file.ReadAt(p, off)
	if err != nil && err != io.EOF {
		return err
	}
	lo := min(off, int64(len(f.shadow)))
	return differs(f.shadow[lo:min(off+n, int64(len(f.shadow)))], p[:got], off)
}

// mmap reads or writes through a shared mapping, of which the part behind the
// end of the file belongs to nobody.
func (w *fsxWorker) mmap(op int, f *fsxFile, off, n int64) error {
	size := int64(len(f.shadow))
	if size == 0 {
		return nil
	}
	if off >= size {
		off = w.rng.Int64N(size)
	}
	n = min(n, size-off)
	w.note("%s %s %#x+%#x (%#x)", f.name, fsxOpNames[op], off, n, size)
	skip := off % 4096
	prot := unix.PROT_READ
	if op == opMmapWrite {
		prot |= unix.PROT_WRITE
	}
	m, err := unix.Mmap(int(f.fd.Fd()), off-skip, int(skip+n), prot, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	defer unix.Munmap(m)
	if op == opMmapRead {
		return differs(f.shadow[off:off+n], m[skip:], off)
	}
	p := w.data(n)
	copy(m[skip:], p)
	f.put(p, off)
	if w.rng.IntN(3) == 0 {
		return unix.Msync(m, unix.MS_SYNC)
	}
	return nil
}

func (w *fsxWorker) fallocate(op int, f *fsxFile, off, n int64) error {
	size := int64(len(f.shadow))
	mode := uint32(0)
	keep := op == opAllocateKeep || op == opPunch || op == opZero && w.rng.IntN(2) == 0
	switch op {
	case opPunch:
		mode = unix.FALLOC_FL_PUNCH_HOLE
	case opZero:
		mode = unix.FALLOC_FL_ZERO_RANGE
	}
	if keep {
		mode |= unix.FALLOC_FL_KEEP_SIZE
	}
	w.note("%s fallocate %#x %#x+%#x (%#x)", f.name, mode, off, n, size)
	err := unix.Fallocate(int(f.fd.Fd()), mode, off, n)
	if w.indirect && op != opPunch {
		if !errors.Is(err, unix.EOPNOTSUPP) {
			return fmt.Errorf("in a file without extents: %v, want EOPNOTSUPP", err)
		}
		return nil
	}
	if err != nil {
		return err
	}
	if !keep {
		f.grow(off + n)
	}
	if op == opPunch || op == opZero {
		clear(f.shadow[min(off, int64(len(f.shadow))):min(off+n, int64(len(f.shadow)))])
	}
	return nil
}

// copyRange copies to a place of the other file or, without an overlap, of the
// same.
func (w *fsxWorker) copyRange(f *fsxFile, off, n int64) error {
	from := w.files[w.rng.IntN(len(w.files))]
	src := w.rng.Int64N(int64(len(from.shadow)) + 1)
	if w.rng.IntN(2) == 0 {
		src &^= 4095
	}
	if from == f && src < off+n && off < src+n {
		return nil
	}
	want := max(0, min(n, int64(len(from.shadow))-src))
	w.note("copy %s %#x -> %s %#x+%#x", from.name, src, f.name, off, n)
	for done := int64(0); done < want; {
		s, d := src+done, off+done
		k, err := unix.CopyFileRange(int(from.fd.Fd()), &s, int(f.fd.Fd()), &d, int(n-done), 0)
		if err != nil {
			return err
		}
		if k == 0 || done+int64(k) > want {
			return fmt.Errorf("copied %d bytes after %d, want %d", k, done, want)
		}
		f.put(from.shadow[src+done:src+done+int64(k)], off+done)
		done += int64(k)
	}
	return nil
}
