package blockdev

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

func fakeFile(t *testing.T, h *fakeHandle, o Options) *File {
	t.Helper()
	g := geometry{size: int64(len(h.data)), ioAlign: h.align, mem: min(h.align, BufferAlign)}
	f, err := newFile(h, "fake.img", g, o)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func noise(n int, seed uint64) []byte {
	rng := rand.New(rand.NewPCG(seed, 0))
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(rng.Uint32())
	}
	return p
}

// exercise compares random requests on dev with a slice, and returns what dev
// contains then.
func exercise(t *testing.T, dev Device, seed uint64) []byte {
	t.Helper()
	size := int(dev.Size())
	model := make([]byte, size)
	if n, err := dev.ReadAt(model, 0); n != size || err != nil {
		t.Fatalf("read all: %d, %v", n, err)
	}
	rng := rand.New(rand.NewPCG(seed, 1))
	for range 300 {
		off, n := rng.IntN(size+1), rng.IntN(20000)
		if rng.IntN(20) == 0 {
			n += MaxPooled
		}
		if rng.IntN(2) == 0 { // aligned
			off, n = off&^4095, n&^4095
		}
		buf := AllocAligned(n+1, 4096)[rng.IntN(2):][:n]
		if rng.IntN(2) == 0 && !dev.ReadOnly() {
			n = min(n, size-off)
			buf = buf[:n]
			copy(buf, noise(min(n, 3000), rng.Uint64()))
			if m, err := dev.WriteAt(buf, int64(off)); m != n || err != nil {
				t.Fatalf("write %d at %d: %d, %v", n, off, m, err)
			}
			copy(model[off:], buf)
			continue
		}
		m, err := dev.ReadAt(buf, int64(off))
		want := min(n, size-off)
		if m != want || (want < n) != (err == io.EOF) || err != nil && err != io.EOF {
			t.Fatalf("read %d at %d of %d: %d, %v", n, off, size, m, err)
		}
		if !bytes.Equal(buf[:m], model[off:off+m]) {
			t.Fatalf("read %d at %d: wrong content", n, off)
		}
	}
	if !dev.ReadOnly() {
		if err := dev.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	return model
}

func TestStrictKernel(t *testing.T) {
	for _, c := range []struct {
		name   string
		size   int
		align  int
		short  int
		o      Options
		direct bool
	}{
		{"512", 3 << 20, 512, 0, Options{}, true},
		{"4096", 3 << 20, 4096, 0, Options{}, true},
		{"64k", 3 << 20, 65536, 0, Options{}, true},
		{"short sectors", 1 << 20, 512, 1024, Options{}, true},
		{"short unaligned", 1 << 20, 512, 700, Options{}, true},
		{"window", 3 << 20, 4096, 0, Options{Offset: 8192, SizeLimit: 1 << 20}, true},
		{"odd offset", 3 << 20, 512, 0, Options{Offset: 1000}, false},
		{"odd end", 1<<20 + 100, 512, 0, Options{}, false},
		{"odd limit", 1 << 20, 512, 0, Options{SizeLimit: 1<<19 + 1}, false},
		{"odd end read-only", 1<<20 + 100, 512, 0, Options{ReadOnly: true}, true},
		{"odd limit read-only", 1 << 20, 512, 0, Options{ReadOnly: true, SizeLimit: 1<<19 + 1}, true},
		{"tiny", 100, 512, 0, Options{ReadOnly: true}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := noise(c.size, 1)
			h := &fakeHandle{data: bytes.Clone(before), align: c.align, short: c.short}
			f := fakeFile(t, h, c.o)
			if f.Direct() != c.direct {
				t.Errorf("direct: %v", f.Direct())
			}
			inside := exercise(t, f, 2)
			if f.Direct() != c.direct {
				t.Error("direct I/O was given up: a request was not aligned")
			}
			copy(before[f.Base():], inside)
			if !bytes.Equal(h.data, before) {
				t.Error("content of the file differs, in the window or outside of it")
			}
		})
	}
}

// Writers to different bytes of the same sectors do not undo each other, whether
// they read the sector first or replace it.
func TestConcurrentPartialWrites(t *testing.T) {
	for _, align := range []int{512, 4096} {
		h := &fakeHandle{data: make([]byte, 64<<10), align: align, delay: time.Microsecond}
		hammer(t, fakeFile(t, h, Options{}))
	}
}

// hammer has eight writers fill dev, each every eighth run of 37 bytes.
func hammer(t *testing.T, dev Device) {
	t.Helper()
	const writers, run = 8, 37
	size := min(dev.Size(), 16<<10) / (writers * run) * (writers * run)
	var wg sync.WaitGroup
	for w := range int64(writers) {
		wg.Go(func() {
			p := bytes.Repeat([]byte{byte(w + 1)}, run)
			for off := w * run; off < size; off += writers * run {
				if _, err := dev.WriteAt(p, off); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	got := make([]byte, size)
	if _, err := dev.ReadAt(got, 0); err != nil {
		t.Fatal(err)
	}
	lost := 0
	for i, b := range got {
		if b != byte(i/run%writers+1) {
			lost++
		}
	}
	if lost > 0 {
		t.Errorf("%d bytes of %d lost", lost, size)
	}
}

// A write of a whole sector is not undone by a read-modify-write of a part of
// it that began earlier.
func TestPartialAgainstWholeWrite(t *testing.T) {
	h := &fakeHandle{data: make([]byte, 4096), align: 512, delay: 20 * time.Microsecond}
	f := fakeFile(t, h, Options{})
	for i := range 200 {
		whole := bytes.Repeat([]byte{byte(i)}, 512)
		var wg sync.WaitGroup
		wg.Go(func() { f.WriteAt([]byte{0xff}, 1024) })
		wg.Go(func() { f.WriteAt(whole, 1024) })
		wg.Wait()
		if got := h.data[1025:1536]; !bytes.Equal(got, whole[1:]) {
			t.Fatalf("round %d: the whole write was undone", i)
		}
	}
}

func TestReadErrorNamesOffset(t *testing.T) {
	h := &fakeHandle{data: make([]byte, 1<<20), align: 512, bad: 40960}
	f := fakeFile(t, h, Options{Offset: 8192})
	n, err := f.ReadAt(make([]byte, 16384), 24576)
	if n != 8192 || !errors.Is(err, syscall.EIO) {
		t.Errorf("%d, %v", n, err)
	}
	if want := "fake.img: read of 8192 bytes at offset 40960: input/output error"; err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
	if n, err := f.ReadAt(make([]byte, 100), 40960-8192-50); n != 50 || !errors.Is(err, syscall.EIO) {
		t.Errorf("unaligned: %d, %v", n, err)
	}
	if _, err := f.WriteAt(make([]byte, 100), 40960-8192-50); !errors.Is(err, syscall.EIO) {
		t.Errorf("read-modify-write: %v", err)
	}
	if n, err := f.ReadAt(make([]byte, 100), 40960-8192-512); n != 100 || err != nil {
		t.Errorf("beside: %d, %v", n, err)
	}
}

func TestTruncatedUnderneath(t *testing.T) {
	for _, align := range []int{1, 512, 4096} {
		for _, left := range []int{0, 100, 8192, 8292} {
			h := &fakeHandle{data: noise(64<<10, 1), align: align}
			f := fakeFile(t, h, Options{})
			h.data = h.data[:left]
			buf := AllocAligned(16384, 4096)
			n, err := f.ReadAt(buf, 0)
			if !errors.Is(err, syscall.EIO) || n > left || !bytes.Equal(buf[:n], h.data[:n]) {
				t.Errorf("align %d, %d left: %d, %v", align, left, n, err)
			}
			if _, err := f.ReadAt(buf[1:100], 32769); !errors.Is(err, syscall.EIO) || !strings.Contains(err.Error(), "offset 32769") {
				t.Errorf("align %d, %d left: %v", align, left, err)
			}
			if err := f.Flush(); !errors.Is(err, syscall.EIO) {
				t.Errorf("flush: %v", err)
			}
		}
	}
}

// A host that takes direct I/O when it is switched on and refuses the first
// request is used buffered.
func TestDegrade(t *testing.T) {
	h := &fakeHandle{data: noise(1<<20, 1), align: 4096, refuse: true}
	f := fakeFile(t, h, Options{})
	align := f.Alignment()
	exercise(t, f, 3)
	if f.Direct() || h.direct {
		t.Error("still direct")
	}
	if f.Alignment() != align {
		t.Error("the alignment has changed")
	}
	hammer(t, f)
}

// TestKeepDirect: a host that turns out not to do it has its requests fail.
func TestKeepDirect(t *testing.T) {
	h := &fakeHandle{data: noise(1<<20, 1), align: 4096}
	f := fakeFile(t, h, Options{})
	if err := f.KeepDirect(); err != nil {
		t.Fatal(err)
	}
	exercise(t, f, 3)
	h.refuse = true
	buf := make([]byte, 4096)
	if _, err := f.ReadAt(buf, 0); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("read: %v", err)
	}
	if _, err := f.WriteAt(buf, 0); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("write: %v", err)
	}
	if !f.Direct() || !h.direct {
		t.Error("not direct any more")
	}
	odd := fakeFile(t, &fakeHandle{data: noise(1<<20, 1), align: 4096}, Options{Offset: 1000})
	if err := odd.KeepDirect(); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("where there is none: %v", err)
	}
	lost := fakeFile(t, &fakeHandle{data: noise(1<<20, 1), align: 4096, syncErr: syscall.EIO}, Options{})
	if err := lost.KeepDirect(); !errors.Is(err, syscall.EIO) {
		t.Errorf("where the page cache cannot be written: %v", err)
	}
}

func TestFailedFlushStays(t *testing.T) {
	h := &fakeHandle{data: make([]byte, 4096), align: 512, syncErr: syscall.EIO}
	f := fakeFile(t, h, Options{})
	for range 2 {
		if err := f.Flush(); !errors.Is(err, syscall.EIO) || err.Error() != "fake.img: flush: input/output error" {
			t.Errorf("flush: %v", err)
		}
	}
}

func TestDiscardWholeUnits(t *testing.T) {
	h := &fakeHandle{data: make([]byte, 1<<20), align: 4096}
	f := fakeFile(t, h, Options{Offset: 4096})
	for _, c := range []struct{ off, n, wantOff, wantN int64 }{
		{0, 4096, 4096, 4096},
		{1, 8191, 8192, 4096},
		{100, 20000, 8192, 12288},
		{1, 4094, 0, 0},
		{0, 0, 0, 0},
	} {
		h.discarded = nil
		if err := f.Discard(c.off, c.n); err != nil {
			t.Fatal(err)
		}
		var got [2]int64
		if len(h.discarded) > 0 {
			got = h.discarded[0]
		}
		if want := [2]int64{c.wantOff, c.wantN}; got != want {
			t.Errorf("discard %d, %d: got %v, want %v", c.off, c.n, got, want)
		}
	}
}

func TestBoundsAndReadOnly(t *testing.T) {
	whole := &fakeHandle{data: make([]byte, 8192), align: 512}
	rw := fakeFile(t, whole, Options{})
	ro := fakeFile(t, &fakeHandle{data: make([]byte, 8192), align: 512}, Options{ReadOnly: true})
	for _, devs := range [][2]Device{{rw, ro}, {Range(rw, 0, 8192), Range(ro, 0, 8192)}} {
		rw, ro := devs[0], devs[1]
		write := func(d Device, n int, off int64) error { _, err := d.WriteAt(make([]byte, n), off); return err }
		read := func(d Device, n int, off int64) error { _, err := d.ReadAt(make([]byte, n), off); return err }
		for i, c := range []struct{ got, want error }{
			{write(rw, 10, 8190), syscall.ENOSPC},
			{write(rw, 1, 8192), syscall.ENOSPC},
			{write(rw, 0, 8192), nil},
			{write(rw, 0, 8193), syscall.ENOSPC},
			{write(rw, 1, 1<<62), syscall.ENOSPC},
			{write(rw, 1, -1), syscall.EINVAL},
			{read(rw, 1, -1), syscall.EINVAL},
			{read(rw, 1, 8192), io.EOF},
			{read(rw, 1, 1<<62), io.EOF},
			{read(rw, 0, 8192), nil},
			{read(rw, 2, 8191), io.EOF},
			{read(rw, 2, 8190), nil},
			{rw.Discard(8000, 193), syscall.EINVAL},
			{rw.Discard(-1, 5), syscall.EINVAL},
			{rw.Discard(1, -1), syscall.EINVAL},
			{rw.Flush(), nil},
			{write(ro, 1, 0), syscall.EROFS},
			{ro.Flush(), syscall.EROFS},
			{ro.Discard(0, 512), syscall.EROFS},
			{read(ro, 1, 0), nil},
		} {
			if c.want == io.EOF && c.got != io.EOF || c.want == nil && c.got != nil || !errors.Is(c.got, c.want) {
				t.Errorf("case %d: got %v, want %v", i, c.got, c.want)
			}
		}
	}
	if len(whole.data) != 8192 {
		t.Errorf("the file has grown to %d", len(whole.data))
	}
}

func TestRange(t *testing.T) {
	h := &fakeHandle{data: noise(1<<20, 5), align: 512}
	f := fakeFile(t, h, Options{})
	for _, c := range []struct {
		off, n, size int64
		align        int
	}{
		{0, 1 << 20, 1 << 20, 512},
		{4096, 8192, 8192, 512},
		{1000, 8192, 8192, 1},
		{4096, 1 << 30, 1<<20 - 4096, 512},
		{1 << 21, 5, 0, 512},
		{-5, -5, 0, 512},
	} {
		w := Range(f, c.off, c.n)
		if w.Size() != c.size || w.Alignment() != c.align || Name(w) != "fake.img" {
			t.Errorf("Range(%d, %d): size %d, alignment %d", c.off, c.n, w.Size(), w.Alignment())
		}
	}
	before := bytes.Clone(h.data)
	w := Range(Range(f, 1000, 1<<19), 24, 100_000) // an unaligned step to an aligned place
	if w.Alignment() != 512 {
		t.Errorf("alignment %d", w.Alignment())
	}
	copy(before[1024:], exercise(t, w, 6))
	w = Range(f, 1000, 100_001)
	copy(before[1000:], exercise(t, w, 7))
	if !bytes.Equal(before, h.data) {
		t.Error("content differs, inside or outside")
	}
	hammer(t, w)
}

func TestSpan(t *testing.T) {
	const mib = 1 << 20
	for _, c := range []struct {
		off  int64
		n    int
		want []int
	}{
		{0, 1, []int{0}},
		{mib - 1, 1, []int{0}},
		{mib - 1, 2, []int{0, 1}},
		{63 * mib, 2 * mib, []int{0, 63}},
		{64*mib + 5, 1, []int{0}},
		{62 * mib, 4 * mib, []int{0, 1, 62, 63}},
	} {
		var got []int
		spanOf(c.off, c.n).each(func(i int) { got = append(got, i) })
		if len(got) != len(c.want) {
			t.Errorf("span of %d, %d: %v, want %v", c.off, c.n, got, c.want)
			continue
		}
		for i := range got {
			if got[i] != c.want[i] {
				t.Errorf("span of %d, %d: %v, want %v", c.off, c.n, got, c.want)
			}
		}
	}
	for _, n := range []int{62, 63, 64, 65, 1000} {
		seen := map[int]int{}
		spanOf(5*mib+1, n*mib).each(func(i int) { seen[i]++ })
		if len(seen) != min(n+1, numStripes) {
			t.Errorf("%d MiB take %d stripes", n, len(seen))
		}
		for i, times := range seen {
			if times != 1 {
				t.Errorf("%d MiB take stripe %d %d times", n, i, times)
			}
		}
	}
}

func TestNoAllocation(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector makes sync.Pool drop buffers")
	}
	h := &fakeHandle{data: make([]byte, 1<<20), align: 512}
	f := fakeFile(t, h, Options{})
	buf := AllocAligned(8193, 4096)
	for _, c := range []struct {
		name string
		p    []byte
		off  int64
	}{{"aligned", buf[:8192], 4096}, {"unaligned", buf[1:], 77}} {
		if n := testing.AllocsPerRun(100, func() {
			f.ReadAt(c.p, c.off)
			f.WriteAt(c.p, c.off)
		}); n != 0 {
			t.Errorf("%s: %v allocations", c.name, n)
		}
	}
}
