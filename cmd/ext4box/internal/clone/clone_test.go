package clone

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// sparseFile is a file with data, a hole, zeros and an odd end.
func sparseFile(t *testing.T) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "src"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	for off, data := range map[int64][]byte{
		0: []byte("start"), 64 << 20: bytes.Repeat([]byte("x"), 3<<20), 80 << 20: make([]byte, 8<<20), 100<<20 + 1: []byte("end"),
	} {
		if _, err := f.WriteAt(data, off); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Truncate(100<<20 + 777); err != nil {
		t.Fatal(err)
	}
	return f
}

func same(t *testing.T, a, b string) bool {
	t.Helper()
	x, err := os.ReadFile(a)
	if err != nil {
		t.Fatal(err)
	}
	y, err := os.ReadFile(b)
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Equal(x, y)
}

func blocks(t *testing.T, path string) int64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Blocks
}

// TestCopy copies in the kernel and, as where it cannot, by reading and writing.
func TestCopy(t *testing.T) {
	src := sparseFile(t)
	for _, inKernel := range []bool{true, false} {
		dst, err := os.Create(filepath.Join(t.TempDir(), "dst"))
		if err != nil {
			t.Fatal(err)
		}
		defer dst.Close()
		var told int64
		if inKernel {
			err = Copy(t.Context(), dst, src, func(n int64) { told = n })
		} else {
			st, _ := src.Stat()
			if err := dst.Truncate(st.Size()); err != nil {
				t.Fatal(err)
			}
			c := copier{ctx: t.Context(), dst: dst, src: src, progress: func(n int64) { told = n }}
			err = c.copyRange(0, st.Size())
		}
		if err != nil || !same(t, src.Name(), dst.Name()) {
			t.Fatalf("in the kernel %v: %v, or the copy differs", inKernel, err)
		}
		if got, want := blocks(t, dst.Name()), blocks(t, src.Name()); got > want {
			t.Errorf("in the kernel %v: %d sectors, want at most %d", inKernel, got, want)
		}
		if told == 0 && !inKernel {
			t.Error("no progress was told")
		}
	}
}

// TestReplaceFails: after an error the destination is what it was, and nothing lies
// around.
func TestReplaceFails(t *testing.T) {
	src := sparseFile(t)
	dir := t.TempDir()
	dest := filepath.Join(dir, "dest")
	if err := os.WriteFile(dest, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	errChange := errors.New("no")
	err := Replace(t.Context(), dest, src, func(int64) {}, func(path string) error {
		if filepath.Dir(path) != dir || path == dest {
			t.Errorf("the copy is at %s", path)
		}
		return errChange
	})
	if !errors.Is(err, errChange) {
		t.Errorf("got %v", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("%v, %v", entries, err)
	}
	if got, err := os.ReadFile(dest); string(got) != "old" {
		t.Errorf("%q, %v", got, err)
	}
	if err := Replace(t.Context(), dest, src, func(int64) {}, func(string) error { return nil }); err != nil || !same(t, dest, src.Name()) {
		t.Errorf("%v, or the copy differs", err)
	}
}
