package iomap_test

import (
	"bytes"
	"errors"
	"io"
	"math"
	"math/rand/v2"
	"syscall"
	"testing"

	"pgregory.net/rapid"

	"ext4box/blockdev/blocktest"
	"ext4box/iomap"
)

const blockSize = 512

// file is a Mapper of one file.
type file struct {
	size  uint64
	maps  []iomap.Mapping // in order and without gaps
	calls int
	fail  map[uint64]error // by the offset that Begin is asked for
}

func (f *file) FileSize(iomap.Ino) (uint64, error) { return f.size, nil }

func (f *file) Begin(_ iomap.Ino, off, n uint64, op iomap.Op) (iomap.Mapping, error) {
	f.calls++
	if n == 0 || op != iomap.Read {
		return iomap.Mapping{}, errors.New("asked for nothing, or for more than reading")
	}
	if err := f.fail[off]; err != nil {
		return iomap.Mapping{}, err
	}
	for _, m := range f.maps {
		if m.Contains(off) {
			return m, nil
		}
	}
	return iomap.Mapping{}, syscall.ENXIO
}

// add appends a mapping of n bytes and returns the file.
func (f *file) add(typ iomap.Type, addr, n uint64) *file {
	m := iomap.Mapping{Length: n, Addr: addr, Type: typ}
	if k := len(f.maps); k > 0 {
		m.Offset = f.maps[k-1].Offset + f.maps[k-1].Length
	}
	f.maps = append(f.maps, m)
	return f
}

// pattern is a device full of bytes that differ.
func pattern(n int) []byte {
	r := rand.New(rand.NewPCG(1, uint64(n)))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32()) | 1 // never zero, so that holes are told apart
	}
	return b
}

// dirty is a buffer of which nothing is zero by chance.
func dirty(n int) []byte { return bytes.Repeat([]byte{0xAA}, n) }

// TestReadAtEqualsModel reads random ranges of random files.
func TestReadAtEqualsModel(t *testing.T) {
	dev := pattern(64 * blockSize)
	rapid.Check(t, func(t *rapid.T) {
		f := &file{}
		var want []byte
		for range rapid.IntRange(1, 12).Draw(t, "mappings") {
			typ := rapid.SampledFrom([]iomap.Type{iomap.Hole, iomap.Mapped, iomap.Mapped, iomap.Unwritten, iomap.Delalloc}).Draw(t, "type")
			n := rapid.Uint64Range(1, 8).Draw(t, "blocks") * blockSize
			addr := uint64(iomap.NullAddr)
			if typ == iomap.Mapped || typ == iomap.Unwritten {
				addr = rapid.Uint64Range(0, 64-n/blockSize).Draw(t, "addr") * blockSize
			}
			f.add(typ, addr, n)
			if typ == iomap.Mapped {
				want = append(want, dev[addr:addr+n]...)
			} else {
				want = append(want, make([]byte, n)...)
			}
		}
		f.size = rapid.Uint64Range(0, uint64(len(want))).Draw(t, "size")
		want = want[:f.size]
		m := iomap.Mover{Mapper: f, Dev: bytes.NewReader(dev), Align: 1 << rapid.IntRange(0, 9).Draw(t, "align")}
		for range 8 {
			off := rapid.Int64Range(0, int64(f.size)+2*blockSize).Draw(t, "off")
			p := dirty(rapid.IntRange(0, 6*blockSize).Draw(t, "len"))
			n, err := m.ReadAt(3, p, off)
			left := max(0, int64(f.size)-off)
			wantN := int(min(left, int64(len(p))))
			if n != wantN {
				t.Fatalf("read of %d at %d: %d bytes, %v; want %d", len(p), off, n, err, wantN)
			}
			wantErr := error(nil)
			if int64(len(p)) > left || left == 0 {
				wantErr = io.EOF
			}
			if err != wantErr {
				t.Fatalf("read of %d at %d of %d: %v, want %v", len(p), off, f.size, err, wantErr)
			}
			if n > 0 && !bytes.Equal(p[:n], want[off:off+int64(n)]) {
				t.Fatalf("read of %d at %d: wrong bytes", len(p), off)
			}
		}
	})
}

func TestInline(t *testing.T) {
	f := &file{size: 10, maps: []iomap.Mapping{{Length: 10, Addr: iomap.NullAddr, Type: iomap.Inline, Inline: []byte("hello")}}}
	m := iomap.Mover{Mapper: f, Dev: bytes.NewReader(nil), Align: 4}
	for _, c := range []struct {
		off, n int
		want   string
		err    error
	}{
		{0, 10, "hello\x00\x00\x00\x00\x00", nil}, {0, 20, "hello\x00\x00\x00\x00\x00", io.EOF}, {1, 3, "ell", nil},
		{4, 4, "o\x00\x00\x00", nil}, {7, 9, "\x00\x00\x00", io.EOF}, {10, 1, "", io.EOF},
	} {
		p := dirty(c.n)
		n, err := m.ReadAt(3, p, int64(c.off))
		if string(p[:n]) != c.want || err != c.err {
			t.Errorf("read of %d at %d: %q, %v; want %q, %v", c.n, c.off, p[:n], err, c.want, c.err)
		}
	}
	// Data behind the end of the file stays there.
	f.size = 3
	if p := dirty(5); true {
		if n, err := m.ReadAt(3, p, 0); n != 3 || err != io.EOF || string(p[:n]) != "hel" {
			t.Errorf("short file: %q, %v", p[:n], err)
		}
	}
}

// TestAlignedEnd reads the last block whole where the buffer has room, so that
// the device sees aligned requests.
func TestAlignedEnd(t *testing.T) {
	dev := blocktest.NewMem(16 * blockSize)
	var reads [][2]int64
	reader := readerFunc(func(p []byte, off int64) (int, error) {
		reads = append(reads, [2]int64{off, int64(len(p))})
		return dev.ReadAt(p, off)
	})
	f := (&file{size: 700}).add(iomap.Mapped, 4*blockSize, 2*blockSize)
	m := iomap.Mover{Mapper: f, Dev: reader, Align: blockSize}
	for _, c := range []struct {
		off  int64
		n    int
		want [2]int64
	}{
		{0, 4096, [2]int64{4 * blockSize, 2 * blockSize}}, {512, 512, [2]int64{5 * blockSize, blockSize}}, {0, 700, [2]int64{4 * blockSize, 700}},
		{0, 600, [2]int64{4 * blockSize, 600}},
	} {
		reads = nil
		if _, err := m.ReadAt(3, dirty(c.n), c.off); err != nil && err != io.EOF {
			t.Fatal(err)
		}
		if len(reads) != 1 || reads[0] != c.want {
			t.Errorf("read of %d at %d reads %v from the device, want %v", c.n, c.off, reads, c.want)
		}
	}
}

type readerFunc func(p []byte, off int64) (int, error)

func (f readerFunc) ReadAt(p []byte, off int64) (int, error) { return f(p, off) }

func TestErrors(t *testing.T) {
	dev := bytes.NewReader(pattern(3 * blockSize))
	for name, c := range map[string]struct {
		f     *file
		off   int64
		n     int // what comes before the error
		errno syscall.Errno
	}{
		"negative offset":      {(&file{size: 10}).add(iomap.Hole, 0, 10), -1, 0, syscall.EINVAL},
		"device ends inside":   {(&file{size: 2048}).add(iomap.Hole, 0, 512).add(iomap.Mapped, 2*blockSize, 3*blockSize), 0, 512, syscall.EIO},
		"device ends before":   {(&file{size: 2048}).add(iomap.Mapped, 1<<40, 2048), 0, 0, syscall.EIO},
		"begin fails":          {&file{size: 2048, fail: map[uint64]error{0: syscall.EUCLEAN}}, 0, 0, syscall.EUCLEAN},
		"begin fails later":    {(&file{size: 2048, fail: map[uint64]error{512: syscall.EUCLEAN}}).add(iomap.Hole, 0, 512).add(iomap.Hole, 0, 9999), 0, 512, syscall.EUCLEAN},
		"mapping is elsewhere": {&file{size: 2048, maps: nil}, 0, 0, syscall.ENXIO},
	} {
		m := iomap.Mover{Mapper: c.f, Dev: dev, Align: 1}
		n, err := m.ReadAt(3, dirty(2048), c.off)
		var errno syscall.Errno
		if n != c.n || !errors.As(err, &errno) || errno != c.errno {
			t.Errorf("%s: %d bytes, %v", name, n, err)
		}
	}
}

// lost answers with mappings that do not cover what they were asked for.
type lost struct{ m iomap.Mapping }

func (l lost) FileSize(iomap.Ino) (uint64, error) { return math.MaxInt64, nil }
func (l lost) Begin(iomap.Ino, uint64, uint64, iomap.Op) (iomap.Mapping, error) {
	return l.m, nil
}

func TestUselessMappings(t *testing.T) {
	for _, m := range []iomap.Mapping{{}, {Offset: 0, Length: 100}, {Offset: 101, Length: 100}, {Offset: math.MaxUint64, Length: 1}} {
		mover := iomap.Mover{Mapper: lost{m}, Dev: bytes.NewReader(nil), Align: 1}
		if n, err := mover.ReadAt(3, dirty(10), 100); n != 0 || !errors.Is(err, syscall.EIO) {
			t.Errorf("mapping %d+%d for offset 100: %d, %v", m.Offset, m.Length, n, err)
		}
	}
	// A mapping may reach further than any file.
	mover := iomap.Mover{Mapper: lost{iomap.Mapping{Length: math.MaxUint64}}, Dev: bytes.NewReader(nil), Align: 4096}
	p := dirty(10)
	if n, err := mover.ReadAt(3, p, math.MaxInt64-20); n != 10 || err != nil || !bytes.Equal(p, make([]byte, 10)) {
		t.Errorf("hole without end: %d, %v", n, err)
	}
	if n, err := mover.ReadAt(3, p, math.MaxInt64-5); n != 5 || err != io.EOF {
		t.Errorf("the end of the longest file: %d, %v", n, err)
	}
}

func TestContains(t *testing.T) {
	m := iomap.Mapping{Offset: 100, Length: 10}
	for off, want := range map[uint64]bool{99: false, 100: true, 109: true, 110: false, 0: false, math.MaxUint64: false} {
		if m.Contains(off) != want {
			t.Errorf("contains %d: %v", off, !want)
		}
	}
	all := iomap.Mapping{Length: math.MaxUint64}
	if !all.Contains(math.MaxUint64 - 1) {
		t.Error("a mapping of everything does not contain the last byte")
	}
}

// TestNumbers are those of the protocol.
func TestNumbers(t *testing.T) {
	if iomap.Hole != 0 || iomap.Delalloc != 1 || iomap.Mapped != 2 || iomap.Unwritten != 3 || iomap.Inline != 4 ||
		iomap.New != 1 || iomap.Dirty != 2 || iomap.Shared != 4 || iomap.Merged != 8 || uint64(iomap.NullAddr) != math.MaxUint64 {
		t.Error("numbers of the fuse-iomap protocol have changed")
	}
}

// TestNoAllocation reads without allocating, as the hot path must.
func TestNoAllocation(t *testing.T) {
	f := (&file{size: 1024}).add(iomap.Mapped, 0, 512).add(iomap.Hole, 0, 512)
	m := iomap.Mover{Mapper: f, Dev: bytes.NewReader(pattern(1024)), Align: 1}
	p := dirty(1024)
	if n := testing.AllocsPerRun(100, func() {
		if _, err := m.ReadAt(3, p, 0); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations for a read", n)
	}
}
