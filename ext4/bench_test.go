package ext4_test

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"ext4box/blockdev"
	"ext4box/ext4"
	"ext4box/internal/testimage"
)

// newBenchFS makes a filesystem and opens it for writing; img is where it is.
func newBenchFS(b *testing.B, size int64, args ...string) (fs *ext4.FS, img string) {
	b.Helper()
	img = filepath.Join(b.TempDir(), "a.img")
	if err := testimage.Mke2fs(img, size, append([]string{"-t", "ext4"}, args...)...); err != nil {
		b.Skip(err)
	}
	dev, err := blockdev.Open(img, blockdev.Options{})
	if err != nil {
		b.Fatal(err)
	}
	if fs, err = ext4.Open(dev, ext4.Options{}); err != nil {
		b.Fatal(err)
	}
	return fs, img
}

// BenchmarkCreateWrite makes files of 4 KiB in one directory.
func BenchmarkCreateWrite(b *testing.B) {
	fs, _ := newBenchFS(b, 8<<30, "-N", "2000000")
	defer fs.Close()
	data := make([]byte, 4096)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		ino, err := fs.Create(ext4.RootIno, fmt.Sprintf("file%d", i), ext4.NewNode{Mode: 0o100644})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := fs.WriteAt(ino, data, 0); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkLargeDirectory makes 100,000 files in a directory, and reports what
// the first and the last ten thousand cost each.
func BenchmarkLargeDirectory(b *testing.B) {
	const n, part = 100_000, 10_000
	for b.Loop() {
		fs, _ := newBenchFS(b, 1<<30, "-N", "120000")
		var at [n/part + 1]time.Time
		for i := range n {
			if i%part == 0 {
				at[i/part] = time.Now()
			}
			if _, err := fs.Create(ext4.RootIno, fmt.Sprintf("file%d", i), ext4.NewNode{Mode: 0o100644}); err != nil {
				b.Fatal(err)
			}
		}
		at[n/part] = time.Now()
		b.ReportMetric(float64(at[1].Sub(at[0]).Nanoseconds())/part, "ns/first")
		b.ReportMetric(float64(at[n/part].Sub(at[n/part-1]).Nanoseconds())/part, "ns/last")
		if err := fs.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
