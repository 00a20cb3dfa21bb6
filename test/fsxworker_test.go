package test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"ext4box/internal/posixfs"
)

// A fsxFile is a file and what it must hold.
type fsxFile struct {
	name   string
	shadow []byte
	fd     posixfs.File // O_RDWR
	direct posixfs.File // O_RDWR|O_DIRECT
	app    posixfs.File // O_WRONLY|O_APPEND
}

func (f *fsxFile) open(fs posixfs.FS) (err error) {
	for _, o := range []struct {
		file *posixfs.File
		flag int
	}{
		{&f.fd, os.O_RDWR | os.O_CREATE},
		{&f.direct, os.O_RDWR | unix.O_DIRECT},
		{&f.app, os.O_WRONLY | os.O_APPEND},
	} {
		if *o.file, err = fs.Open(f.name, o.flag, 0o644); err != nil {
			return err
		}
	}
	return nil
}

func (f *fsxFile) close() error {
	var errs []error
	for _, file := range []*posixfs.File{&f.fd, &f.direct, &f.app} {
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
	tiny     bool  // the files are so small that their content may be inline
	sector   int64 // what direct I/O is a multiple of
	maxSize  int64 // of a file
	maxIO    int64 // of an operation
	rng      *rand.Rand
	fs       posixfs.FS
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
func (w *fsxWorker) place(f *fsxFile) (off, n int64) {
	n = 1 + w.rng.Int64N(w.maxIO)
	if w.rng.IntN(3) == 0 {
		n = 1 + w.rng.Int64N(min(3000, w.maxIO))
	}
	limit := w.maxSize
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
func (w *fsxWorker) work(ctx context.Context, fs posixfs.FS, ops int) (err error) {
	w.fs = fs
	defer func() {
		for _, f := range w.files {
			err = errors.Join(err, f.close())
		}
	}()
	for _, f := range w.files {
		if err := f.open(fs); err != nil {
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
		if w.tiny && w.rng.IntN(12) == 0 {
			if err := w.anew(f); err != nil {
				return err
			}
		}
		op := w.pick()
		w.count[op]++
		if err := w.do(op, f); err != nil {
			return fmt.Errorf("%s %s: %w", fsxOpNames[op], f.name, err)
		}
		st, err := f.fd.Statx(unix.STATX_BASIC_STATS)
		if err != nil {
			return err
		}
		if st.Size != uint64(len(f.shadow)) {
			return fmt.Errorf("after %s %s: size %#x, want %#x", fsxOpNames[op], f.name, st.Size, len(f.shadow))
		}
		if i%fsxInterval == fsxInterval-1 {
			if err := w.look(f); err != nil {
				return fmt.Errorf("look at %s: %w", f.name, err)
			}
		}
	}
	return nil
}

// anew replaces a file by an empty one, whose content may be inline again.
func (w *fsxWorker) anew(f *fsxFile) error {
	w.note("%s anew", f.name)
	if w.rng.IntN(2) == 0 { // else what is cached goes nowhere
		if err := w.look(f); err != nil {
			return fmt.Errorf("look at %s: %w", f.name, err)
		}
	}
	if err := errors.Join(f.close(), w.fs.Unlink(f.name)); err != nil {
		return err
	}
	f.shadow = nil
	return f.open(w.fs)
}

// look reads a file whole.
func (w *fsxWorker) look(f *fsxFile) error {
	file := f.fd
	if w.way == directIO {
		file = f.direct
	}
	got := alignedBuffer((len(f.shadow) + 2*4096 - 1) &^ 4095)
	n, err := posixfs.ReadFull(file, got, 0)
	if err != nil && err != io.EOF {
		return err
	}
	return differs(f.shadow, got[:n], 0)
}

// do does one operation to the file and to its shadow.
func (w *fsxWorker) do(op int, f *fsxFile) error {
	off, n := w.place(f)
	if op == opDirectRead || op == opDirectWrite {
		off, n = off/w.sector*w.sector, (n+w.sector-1)/w.sector*w.sector
	}
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
		if _, err := posixfs.WriteFull(file, p, off); err != nil {
			return err
		}
		f.put(p, off)
	case opAppend:
		n = min(n, w.maxSize-size)
		w.note("%s append %#x+%#x", f.name, size, n)
		p := w.data(n)
		if _, err := posixfs.WriteFull(f.app, p, 0); err != nil {
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
			return f.fd.Fdatasync()
		}
		w.note("%s fsync", f.name)
		return f.fd.Fsync()
	case opReopen:
		w.note("%s reopen", f.name)
		if err := f.close(); err != nil {
			return err
		}
		return f.open(w.fs)
	case opDrop:
		w.note("%s drop", f.name)
		if w.rng.IntN(2) == 0 {
			if err := f.fd.Fsync(); err != nil {
				return err
			}
		}
		return f.fd.Drop()
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
	got, err := posixfs.ReadFull(file, p, off)
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
	length := int(skip+n+4095) &^ 4095
	m, err := f.fd.Map(off-skip, length, op == opMmapWrite)
	if err != nil {
		return err
	}
	defer m.Unmap()
	if op == opMmapRead {
		got := make([]byte, n)
		if err := m.Load(got, int(skip)); err != nil {
			return err
		}
		return differs(f.shadow[off:off+n], got, off)
	}
	p := w.data(n)
	stored := p
	if off+n == size { // what is behind must not show when the file grows
		stored = append(bytes.Clone(p), bytes.Repeat(p[:1], length-int(skip+n))...)
	}
	if err := m.Store(stored, int(skip)); err != nil {
		return err
	}
	f.put(p, off)
	if w.rng.IntN(3) == 0 {
		return m.Sync()
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
	err := f.fd.Fallocate(mode, off, n)
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
		k, err := from.fd.CopyRange(src+done, f.fd, off+done, int(n-done))
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
