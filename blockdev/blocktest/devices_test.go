package blocktest

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"ext4box/blockdev"
)

var (
	_ blockdev.Device = (*Mem)(nil)
	_ blockdev.Device = (*Counting)(nil)
	_ blockdev.Device = (*Failing)(nil)
	_ blockdev.Device = (*Recording)(nil)
)

// Random writes, discards and clones of an overlay behave as on a byte slice.
func TestMemAgainstSlice(t *testing.T) {
	const size = 5*pageSize + 123
	base := bytes.Repeat([]byte{0xee}, 3*pageSize+7)
	m := NewOverlay(bytes.NewReader(base), size)
	model := make([]byte, size)
	copy(model, base)
	rng := rand.New(rand.NewPCG(1, 2))
	type frozen struct {
		m     *Mem
		model []byte
	}
	var clones []frozen
	for range 2000 {
		off := rng.IntN(size)
		n := rng.IntN(min(size-off, 2*pageSize) + 1)
		switch rng.IntN(10) {
		case 0:
			if err := m.Discard(int64(off), int64(n)); err != nil {
				t.Fatal(err)
			}
			clear(model[off : off+n])
		case 1:
			if len(clones) < 20 {
				clones = append(clones, frozen{m.Clone(), bytes.Clone(model)})
			}
		default:
			p := make([]byte, n)
			for i := range p {
				p[i] = byte(rng.Uint32())
			}
			if _, err := m.WriteAt(p, int64(off)); err != nil {
				t.Fatal(err)
			}
			copy(model[off:], p)
		}
	}
	clones = append(clones, frozen{m, model})
	for i, c := range clones {
		got := make([]byte, size+10)
		if n, err := c.m.ReadAt(got, 0); n != size || err != io.EOF {
			t.Fatalf("read: %d, %v", n, err)
		}
		if !bytes.Equal(got[:size], c.model) {
			t.Errorf("clone %d differs", i)
		}
	}
}

func TestMemIsSparse(t *testing.T) {
	m := NewMem(16 << 40)
	if _, err := m.WriteAt([]byte("x"), 16<<40-1); err != nil {
		t.Fatal(err)
	}
	if got := m.Resident(); got != pageSize {
		t.Errorf("resident %d", got)
	}
	if err := m.Discard(16<<40-pageSize, pageSize); err != nil {
		t.Fatal(err)
	}
	if got := m.Resident(); got != 0 {
		t.Errorf("resident %d after discard", got)
	}
}

func TestMemErrors(t *testing.T) {
	m := NewMem(100)
	_, err := m.WriteAt(make([]byte, 2), 99)
	wantErrno(t, err, syscall.ENOSPC)
	_, err = m.ReadAt(make([]byte, 2), -1)
	wantErrno(t, err, syscall.EINVAL)
	wantErrno(t, m.Discard(90, 11), syscall.EINVAL)
	m.SetReadOnly(true)
	_, err = m.WriteAt(make([]byte, 2), 0)
	wantErrno(t, err, syscall.EROFS)
	wantErrno(t, m.Flush(), syscall.EROFS)
	wantErrno(t, m.Discard(0, 1), syscall.EROFS)
}

func TestDumpAndLoad(t *testing.T) {
	m := NewMem(1<<20 + 77)
	m.WriteAt([]byte("begin"), 0)
	m.WriteAt([]byte("end"), 1<<20+74)
	path := filepath.Join(t.TempDir(), "img")
	if err := Dump(m, m.Size(), path); err != nil {
		t.Fatal(err)
	}
	var st syscall.Stat_t
	if err := syscall.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	if st.Size != m.Size() || st.Blocks*512 > 64<<10 {
		t.Errorf("size %d, %d bytes allocated", st.Size, st.Blocks*512)
	}
	l, err := LoadMem(path)
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, l.Size())
	if _, err := l.ReadAt(got, 0); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, data) || !bytes.HasPrefix(got, []byte("begin")) || !bytes.HasSuffix(got, []byte("end")) {
		t.Error("content differs")
	}
}

func TestCounting(t *testing.T) {
	c := NewCounting(NewMem(1<<20), 4096)
	buf := make([]byte, 4096)
	c.ReadAt(buf, 0)
	c.ReadAt(buf, 0)
	c.ReadAt(buf, 4000) // two blocks, one of them again
	c.WriteAt(buf[:1], 8192)
	c.WriteAt(nil, 0)
	c.Flush()
	c.Discard(0, 1)
	want := Counts{Reads: 3, Writes: 2, Flushes: 1, Discards: 1, BytesRead: 3 * 4096, BytesWritten: 1, BlocksRead: 2, BlocksWritten: 1}
	if got := c.Counts(); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	c.Reset()
	if got := c.Counts(); got != (Counts{}) {
		t.Errorf("after reset %+v", got)
	}
}

func TestFailingNth(t *testing.T) {
	f := NewFailing(NewMem(1 << 20))
	f.FailNth(Write, 2, nil)
	f.FailNth(Flush, 1, syscall.ENOSPC)
	for i, want := range []error{nil, syscall.EIO, nil} {
		_, err := f.WriteAt([]byte{1}, int64(i))
		wantErrno(t, err, want)
	}
	wantErrno(t, f.Flush(), syscall.ENOSPC)
	wantErrno(t, f.Flush(), nil)
	buf := make([]byte, 3)
	f.ReadAt(buf, 0)
	if !bytes.Equal(buf, []byte{1, 0, 1}) {
		t.Errorf("content %v", buf)
	}
	if f.Fired() != 2 {
		t.Errorf("fired %d times", f.Fired())
	}
}

func TestFailingRange(t *testing.T) {
	f := NewFailing(NewMem(1 << 20))
	f.FailRange(100, 10, nil)
	for _, c := range []struct {
		off  int64
		want error
	}{{0, nil}, {95, nil}, {96, syscall.EIO}, {109, syscall.EIO}, {110, nil}} {
		_, err := f.ReadAt(make([]byte, 5), c.off)
		wantErrno(t, err, c.want)
		_, err = f.WriteAt(make([]byte, 5), c.off)
		wantErrno(t, err, c.want)
		wantErrno(t, f.Discard(c.off, 5), c.want)
	}
	wantErrno(t, f.Flush(), nil)
	f.Clear()
	_, err := f.ReadAt(make([]byte, 5), 100)
	wantErrno(t, err, nil)
}

func TestFailingPartial(t *testing.T) {
	m := NewMem(1 << 20)
	f := NewFailing(m)
	f.Add(Rule{Ops: Write, Skip: 1, Partial: 2})
	f.WriteAt([]byte("abcd"), 0)
	for range 2 { // all from then on
		n, err := f.WriteAt([]byte("ABCD"), 0)
		if n != 2 {
			t.Errorf("wrote %d", n)
		}
		wantErrno(t, err, syscall.EIO)
	}
	buf := make([]byte, 4)
	m.ReadAt(buf, 0)
	if string(buf) != "ABcd" {
		t.Errorf("content %q", buf)
	}
}

func wantErrno(t *testing.T, err, want error) {
	t.Helper()
	if want == nil && err != nil || !errors.Is(err, want) {
		t.Errorf("error %v, want %v", err, want)
	}
}
