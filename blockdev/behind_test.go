package blockdev

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// openBehind makes an image file of n bytes, and a device on it that can write behind.
func openBehind(t *testing.T, n int64) (dev *File, path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "disk.img")
	if err := os.WriteFile(path, noise(int(n), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := OpenFile(path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	behind, err := Reopen(f)
	if err != nil {
		t.Fatal(err)
	}
	if dev, err = NewFile(f, Options{Behind: behind}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dev.Close() })
	if !dev.Direct() {
		t.Skip("there is no direct I/O here")
	}
	return dev, path
}

// TestWriteBehind mixes writes that wait for the device, those that do not, reads and flushes: everybody sees
// what was written last.
func TestWriteBehind(t *testing.T) {
	const size = 4 << 20
	dev, path := openBehind(t, size)
	want := noise(size, 1)
	rng := rand.New(rand.NewPCG(5, 6))
	for i := range 3000 {
		n := 1 + rng.IntN(24)
		off := rng.IntN(size/512 - n)
		p := AllocAligned(512*n, BufferAlign)
		at := int64(512 * off)
		switch i % 8 {
		case 0, 1, 2:
			copy(p, noise(len(p), uint64(i)))
			copy(want[at:], p)
			if m, err := dev.WriteBehind(p, at); m != len(p) || err != nil {
				t.Fatal(m, err)
			}
		case 3, 4:
			copy(p, noise(len(p), uint64(i)))
			copy(want[at:], p)
			if m, err := dev.WriteAt(p, at); m != len(p) || err != nil {
				t.Fatal(m, err)
			}
		case 5:
			p, at = p[:len(p)-100], at+50 // badly aligned
			copy(p, noise(len(p), uint64(i)))
			copy(want[at:], p)
			if m, err := dev.WriteBehind(p, at); m != len(p) || err != nil {
				t.Fatal(m, err)
			}
		case 6:
			if _, err := dev.ReadAt(p, at); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(p, want[at:at+int64(len(p))]) {
				t.Fatalf("request %d: at %d is not what was written", i, at)
			}
		case 7:
			if i%64 == 7 {
				if err := dev.Flush(); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) {
		t.Errorf("the file has not what was written: %v", err)
	}
}

// TestWriteBehindWay looks which descriptor a write takes.
func TestWriteBehindWay(t *testing.T) {
	block := AllocAligned(4096, BufferAlign)
	long := AllocAligned(behindMost+4096, BufferAlign)
	for name, c := range map[string]struct {
		p      []byte
		off    int64
		change func(*File)
		behind bool
	}{
		"short":           {p: block, behind: true},
		"long":            {p: long},
		"badly aligned":   {p: block[:1000], off: 100},
		"strictly direct": {p: block, change: func(f *File) { f.strict.Store(true) }},
		"not direct":      {p: block, change: func(f *File) { f.direct.Store(false) }},
		"no second one":   {p: block, change: func(f *File) { f.behind = nil }},
	} {
		h := &fakeHandle{data: make([]byte, 1<<20), align: 512}
		second := &fakeHandle{data: make([]byte, 1<<20), align: 1}
		f := fakeFile(t, h, Options{})
		f.behind = second
		if c.change != nil {
			c.change(f)
		}
		if n, err := f.WriteBehind(c.p, c.off); n != len(c.p) || err != nil {
			t.Errorf("%s: %d, %v", name, n, err)
		}
		if got := second.writes > 0; got != c.behind {
			t.Errorf("%s: by the second descriptor %v, want %v", name, got, c.behind)
		}
		if (h.writes > 0) == c.behind {
			t.Errorf("%s: by the first descriptor %v", name, h.writes > 0)
		}
	}
}

// TestWriteBehindFails: what the host refuses is told.
func TestWriteBehindFails(t *testing.T) {
	f := fakeFile(t, &fakeHandle{data: make([]byte, 1<<20), align: 512}, Options{})
	f.behind = &fakeHandle{data: make([]byte, 1<<20), align: 1, badWrite: 3072}
	n, err := f.WriteBehind(AllocAligned(4096, BufferAlign), 0)
	if n != 0 || !errors.Is(err, syscall.EIO) {
		t.Errorf("%d, %v; want 0 and EIO", n, err)
	}
	if _, err := f.WriteBehind(make([]byte, 512), 1<<20); err == nil {
		t.Error("a write behind the end succeeds")
	}
}
