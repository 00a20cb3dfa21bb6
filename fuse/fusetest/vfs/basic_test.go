package vfs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"

	"ext4box/fuse"
)

// both runs a test in both generations.
func both(t *testing.T, f func(t *testing.T, gen Generation)) {
	for _, gen := range []Generation{V7, Later} {
		t.Run(gen.String(), func(t *testing.T) { f(t, gen) })
	}
}

// pattern is n bytes that differ, and are not zero.
func pattern(seed, n int) []byte {
	r := rand.New(rand.NewPCG(uint64(seed), uint64(n)))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32()) | 1
	}
	return b
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func mustOpen(t *testing.T, fs *FS, name string, flags int) *File {
	t.Helper()
	f, err := fs.Open(name, flags, 0)
	must(t, err)
	return f
}

func mustCreate(t *testing.T, fs *FS, name string) *File {
	t.Helper()
	f, err := fs.Open(name, syscall.O_RDWR|syscall.O_CREAT|syscall.O_EXCL, 0o644)
	must(t, err)
	return f
}

func mustWrite(t *testing.T, f *File, p []byte, off int64) {
	t.Helper()
	if n, err := f.WriteAt(p, off); n != len(p) || err != nil {
		t.Fatalf("write of %d at %d: %d, %v", len(p), off, n, err)
	}
}

func wantRead(t *testing.T, f *File, off int64, want []byte) {
	t.Helper()
	got := make([]byte, len(want))
	n, err := f.ReadAt(got, off)
	if err != nil && err != io.EOF {
		t.Fatalf("read of %d at %d: %v", len(want), off, err)
	}
	if n != len(want) || !bytes.Equal(got, want) {
		t.Fatalf("read of %d at %d: %d bytes, first difference at %d", len(want), off, n, difference(got[:n], want))
	}
}

func difference(a, b []byte) int {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i
		}
	}
	return min(len(a), len(b))
}

// wantTrace compares the trace since the last ResetTrace.
func wantTrace(t *testing.T, fs *FS, want ...string) {
	t.Helper()
	got := fs.Trace()
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("trace:\n\t%s\nwant:\n\t%s", strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
}

// wantViolation checks that what was expected came, and nothing else.
func wantViolation(t *testing.T, fs *FS, part string) {
	t.Helper()
	v := fs.Violations()
	if part == "" && len(v) == 0 {
		return
	}
	if len(v) == 0 || part == "" || !strings.Contains(v[0], part) {
		t.Errorf("violations %q, want one with %q", v, part)
	}
}

func wantErrno(t *testing.T, what string, err error, want syscall.Errno) {
	t.Helper()
	var errno syscall.Errno
	if errors.As(err, &errno); errno != want {
		t.Errorf("%s: %v, want %v", what, err, want)
	}
}

// TestBasics writes, reads back from the cache and from the device.
func TestBasics(t *testing.T) {
	for _, block := range []uint64{1024, 4096, 16384} {
		for _, direct := range []bool{false, true} {
			t.Run(fmt.Sprintf("block%d-direct%v", block, direct), func(t *testing.T) {
				both(t, func(t *testing.T, gen Generation) {
					s := newServer()
					s.block, s.direct = block, direct
					fs, dev := mountOn(t, s, Config{Generation: gen})
					f := mustCreate(t, fs, "f")
					data := pattern(1, 100000)
					mustWrite(t, f, data[:70000], 0)
					mustWrite(t, f, data[50000:], 50000)
					wantRead(t, f, 0, data)
					if got := len(s.stored("f", dev)); got != 0 {
						t.Errorf("%d bytes are recorded before anything was written back", got)
					}
					must(t, f.Fsync())
					if got := s.stored("f", dev); !bytes.Equal(got, data) {
						t.Errorf("stored: %d bytes, first difference at %d", len(got), difference(got, data))
					}
					must(t, f.Close())
					fs.DropCaches()
					f = mustOpen(t, fs, "f", syscall.O_RDWR)
					fs.ResetTrace()
					wantRead(t, f, 0, data)
					if fs.Count(fuse.OpIomapBegin) == 0 {
						t.Error("no BEGIN after DropCaches: the data came from nowhere")
					}
					// The end of the file is in the middle of a block; what follows reads as zeros.
					mustWrite(t, f, []byte{7}, 140000)
					wantRead(t, f, 99990, append(bytes.Clone(data[99990:]), make([]byte, 40000)...))
					must(t, f.Close())
					must(t, fs.Unmount())
				})
			})
		}
	}
}

// TestRandom compares random operations with a model that is a slice of bytes.
func TestRandom(t *testing.T) {
	both(t, func(t *testing.T, gen Generation) {
		for seed := range uint64(12) {
			r := rand.New(rand.NewPCG(seed, 5))
			s := newServer()
			s.block = []uint64{1024, 4096, 16384}[seed%3]
			s.direct, s.exact = seed%2 == 0, seed%4 < 2
			fs, dev := mountOn(t, s, Config{Generation: gen})
			f := mustCreate(t, fs, "f")
			d := mustOpen(t, fs, "f", syscall.O_RDWR|syscall.O_DIRECT)
			mem, err := f.Mmap()
			must(t, err)
			var want []byte
			store := func(off int, p []byte) {
				if n := off + len(p); n > len(want) {
					want = append(want, make([]byte, n-len(want))...)
				}
				copy(want[off:], p)
			}
			for step := range 150 {
				off, n := r.IntN(60000), r.IntN(20000)+1
				switch op := r.IntN(12); op {
				case 0, 1, 2:
					p := pattern(step, n)
					mustWrite(t, f, p, int64(off))
					store(off, p)
				case 3:
					off, n = off/512*512, (n+511)/512*512
					p := pattern(step, n)
					mustWrite(t, d, p, int64(off))
					store(off, p)
				case 4:
					must(t, f.Truncate(int64(off)))
					if off <= len(want) {
						want = want[:off:off]
					} else {
						store(off, nil)
						want = append(want, make([]byte, off-len(want))...)
					}
				case 5:
					must(t, f.Fallocate([]uint32{0, 1}[r.IntN(2)], int64(off), int64(n)))
					want = f.grown(want)
				case 6, 7:
					mode := []uint32{3, 0x10, 0x11}[r.IntN(3)]
					must(t, f.Fallocate(mode, int64(off), int64(n)))
					for i := off; i < min(off+n, len(want)); i++ {
						want[i] = 0
					}
					want = f.grown(want)
				case 8:
					if len(want) > off {
						p := pattern(step, min(n, len(want)-off))
						must(t, mem.Store(p, uint64(off)))
						store(off, p)
					}
				case 9:
					must(t, f.Fsync())
				case 10:
					fs.DropCaches()
				case 11:
					if off < len(want) {
						off = off / 512 * 512
						n = min(len(want)-off, (n+511)/512*512)
						p := make([]byte, (n+511)/512*512)
						got, err := d.ReadAt(p, int64(off))
						if got < n || err != nil && err != io.EOF || !bytes.Equal(p[:n], want[off:off+n]) {
							t.Fatalf("seed %d step %d: direct read of %d at %d: %d, %v, difference at %d", seed, step, n, off, got, err, difference(p[:n], want[off:off+n]))
						}
					}
				}
				got := make([]byte, len(want)+1)
				if n, err := f.ReadAt(got, 0); n != len(want) || err != io.EOF || !bytes.Equal(got[:n], want) {
					t.Fatalf("seed %d step %d: %d bytes, want %d; %v; first difference at %d", seed, step, n, len(want), err, difference(got[:n], want))
				}
			}
			mem.Unmap()
			must(t, d.Close())
			must(t, f.Close())
			if got := s.stored("f", dev); !bytes.Equal(got, want) {
				t.Errorf("seed %d: stored %d bytes, want %d; first difference at %d", seed, len(got), len(want), difference(got, want))
			}
			must(t, fs.Unmount())
		}
	})
}

// grown extends what a file should be to its size, for preallocation.
func (f *File) grown(want []byte) []byte {
	if n := int(f.in.size()); n > len(want) {
		return append(want, make([]byte, n-len(want))...)
	}
	return want
}
