package ext4_test

import (
	"fmt"
	"path/filepath"
	"syscall"
	"testing"

	"ext4box/blockdev"
	"ext4box/blockdev/blocktest"
	"ext4box/ext4"
)

// openCounted makes a filesystem of size bytes and opens it on a device that
// counts.
func openCounted(t *testing.T, size int64, args ...string) (*ext4.FS, *blocktest.Counting) {
	t.Helper()
	img := filepath.Join(t.TempDir(), "image")
	mke2fs(t, img, size, args...)
	dev, err := blockdev.Open(img, blockdev.Options{})
	if err != nil {
		t.Fatal(err)
	}
	counting := blocktest.NewCounting(dev, 4096)
	fs, err := ext4.Open(counting, ext4.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := fs.Close(); err != nil {
			t.Error(err)
		}
		fsck(t, img)
	})
	return fs, counting
}

// cost is what the device had to do while f ran, in bytes.
func cost(t *testing.T, fs *ext4.FS, dev *blocktest.Counting, f func()) int64 {
	t.Helper()
	before := dev.Counts()
	f()
	if err := fs.Sync(); err != nil {
		t.Fatal(err)
	}
	after := dev.Counts()
	return after.BytesRead - before.BytesRead + after.BytesWritten - before.BytesWritten
}

// TestFloorManyFiles: the last thousand files of a large directory cost the
// device no more than the blocks that their names fall into.
func TestFloorManyFiles(t *testing.T) {
	if testing.Short() {
		t.Skip("makes 100,000 files")
	}
	fs, dev := openCounted(t, 1<<30, "-t", "ext4", "-N", "120000")
	create := func(from, to int) {
		for i := from; i < to; i++ {
			_, err := fs.Create(ext4.RootIno, fmt.Sprintf("a name of common length %d", i), ext4.NewNode{Mode: syscall.S_IFREG | 0o644})
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	const n, step = 100_000, 5000
	create(0, step) // the directory gets its index, and the bitmaps are read
	first := cost(t, fs, dev, func() { create(step, 2*step) })
	create(2*step, n-step)
	last := cost(t, fs, dev, func() { create(n-step, n) })
	t.Logf("%d files: the second %d cost %d bytes of I/O, the last %d", n, step, first, last)
	// Of a small directory each block is written once for many names. In a large
	// one every name falls into another block: once into the log, once home, and
	// as much again for its inode.
	if limit := int64(step * 4 * 4096); last > limit {
		t.Errorf("the last %d of %d files cost %d bytes of I/O, more than %d", step, n, last, limit)
	}
}

// TestFloorFragments: a file in many pieces costs its neighbours nothing, and a
// write to it no more than the path to the piece.
func TestFloorFragments(t *testing.T) {
	if testing.Short() {
		t.Skip("makes 30,000 extents")
	}
	fs, dev := openCounted(t, 4<<30, "-t", "ext4")
	ino := func(name string) ext4.Ino {
		ino, err := fs.Create(ext4.RootIno, name, ext4.NewNode{Mode: syscall.S_IFREG | 0o644})
		if err != nil {
			t.Fatal(err)
		}
		return ino
	}
	write := func(ino ext4.Ino, off int64) {
		t.Helper()
		if _, err := fs.WriteAt(ino, make([]byte, 4096), off); err != nil {
			t.Fatal(err)
		}
	}
	neighbour := ino("neighbour")
	const pieces, gap = 30_000, 100 << 30 / 30_000 &^ 4095
	work := func() {
		for i := range 500 {
			write(neighbour, int64(i)<<12)
		}
		if err := fs.Truncate(neighbour, 0); err != nil {
			t.Fatal(err)
		}
	}
	work()
	before := cost(t, fs, dev, work)
	large := ino("large")
	some := func(from, to int) {
		for i := from; i < to; i++ {
			write(large, int64(i)*gap)
		}
	}
	early := cost(t, fs, dev, func() { some(0, 1000) })
	some(1000, pieces-1000)
	late := cost(t, fs, dev, func() { some(pieces-1000, pieces) })
	after := cost(t, fs, dev, work)
	t.Logf("%d pieces: the first 1000 cost %d bytes of I/O, the last %d; a neighbour %d before, %d after", pieces, early, late, before, after)
	if late > 2*early {
		t.Errorf("the last 1000 of %d pieces cost %d bytes of I/O, the first %d", pieces, late, early)
	}
	if after > 2*before {
		t.Errorf("a neighbour of a file in %d pieces costs %d bytes of I/O, and cost %d", pieces, after, before)
	}
}
