package ext4_test

import (
	"errors"
	"syscall"
	"testing"

	"ext4box/ext4"
	"ext4box/iomap"
)

// TestOutsideRunsLimit asks for blocks all over files and never writes: the memory for that is bounded, for
// all files together, and free again when it is written, or the file is let go.
func TestOutsideRunsLimit(t *testing.T) {
	for _, args := range []string{"-t ext4 -b 4096", "-t ext3 -b 1024", "-t ext4 -b 1024 -O bigalloc -C 4096"} {
		r := newOutsideRig(t, 64<<20, args, ext4.Options{})
		const limit = 100
		if n := r.fs.LimitReserved(limit); n != 0 {
			t.Fatalf("%d runs before anything was done", n)
		}
		var inos [2]ext4.Ino
		for i := range inos {
			ino, err := r.fs.Create(ext4.RootIno, string(rune('a'+i)), ext4.NewNode{Mode: syscall.S_IFREG | 0o600})
			r.must(err)
			r.fs.Hold(ino)
			inos[i] = ino
		}
		ask := func(ino ext4.Ino, i int) error {
			_, _, err := r.fs.MapOutside(ino, uint64(i)<<16, 1, iomap.Write, false)
			return err
		}
		for i := range limit {
			if err := ask(inos[i%2], i); err != nil {
				t.Fatalf("%s: run %d: %v", args, i, err)
			}
		}
		for i := range 3 {
			if err := ask(inos[i%2], limit+i); !errors.Is(err, syscall.ENOSPC) {
				t.Errorf("%s: run %d: %v", args, limit+i, err)
			}
		}
		if n := r.fs.LimitReserved(limit); n != limit {
			t.Errorf("%s: %d runs", args, n)
		}
		if err := ask(inos[0], 0); err != nil { // which is there
			t.Errorf("%s: %v", args, err)
		}
		_, err := r.fs.IOEndOutside(inos[0], 0, 1, 0)
		r.must(err)
		if err := ask(inos[0], limit); err != nil {
			t.Errorf("%s: after one was written: %v", args, err)
		}
		r.must(r.fs.Truncate(inos[1], 1))
		r.must(r.fs.Unhold(inos[0], 1))
		if n := r.fs.LimitReserved(limit); n != 0 {
			t.Errorf("%s: %d runs in the end", args, n)
		}
		r.must(r.fs.Close())
	}
}
