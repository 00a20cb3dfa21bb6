package test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// TestWriteSeek compares with the kernel where a file has data and holes while it
// is written and afterwards.
func TestWriteSeek(t *testing.T) {
	bothWays(t, 64<<20, plainExt4, func(t *testing.T, dir string) string {
		var b strings.Builder
		f, err := os.Create(filepath.Join(dir, "sparse"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		ranges := func(what string, f *os.File) {
			fmt.Fprintf(&b, "%s:", what)
			for off := int64(0); ; {
				data, err := unix.Seek(int(f.Fd()), off, unix.SEEK_DATA)
				if err != nil {
					fmt.Fprintf(&b, " %v\n", err)
					return
				}
				if off, err = unix.Seek(int(f.Fd()), data, unix.SEEK_HOLE); err != nil {
					t.Fatal(err)
				}
				fmt.Fprintf(&b, " %d-%d", data, off)
			}
		}
		for i, off := range []int64{1 << 20, 5 << 20, 3<<20 + 4096, 0} {
			if _, err := f.WriteAt(make([]byte, 8192), off); err != nil {
				t.Fatal(err)
			}
			ranges(fmt.Sprint("written ", i), f)
		}
		if err := f.Truncate(9 << 20); err != nil {
			t.Fatal(err)
		}
		ranges("longer", f)
		m, err := unix.Mmap(int(f.Fd()), 7<<20, 8192, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		if err != nil {
			t.Fatal(err)
		}
		m[5000] = 1
		if err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 5<<20, 4096); err != nil {
			t.Fatal(err)
		}
		ranges("mapped and punched", f)
		name := f.Name()
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		m[1] = 2 // nobody has it open, but it is mapped
		r, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		ranges("read only, while mapped", r)
		if err := unix.Munmap(m); err != nil {
			t.Fatal(err)
		}
		ranges("read only", r)
		return b.String()
	}, nil)
}

// TestWriteSeekTogether asks for many files at once, while they are written.
func TestWriteSeekTogether(t *testing.T) {
	img := smallImage(t, t.TempDir(), "seek")
	dir := mountRW(t, img.Path)
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() {
			f, err := os.Create(filepath.Join(dir, fmt.Sprint(i)))
			if err != nil {
				t.Error(err)
				return
			}
			defer f.Close()
			for n := range int64(20) {
				if _, err := f.WriteAt(make([]byte, 4096), n*12288+8192); err != nil {
					t.Error(err)
					return
				}
				hole, err := unix.Seek(int(f.Fd()), n*12288+8192, unix.SEEK_HOLE)
				if err != nil && err != unix.EBUSY || err == nil && hole != n*12288+12288 {
					t.Errorf("file %d: hole behind block %d: %d, %v", i, n, hole, err)
				}
			}
		})
	}
	wg.Wait()
}
