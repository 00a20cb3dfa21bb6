package ext4_test

import (
	"errors"
	"fmt"
	"syscall"
	"testing"

	"ext4box/ext4"
	"ext4box/iomap"
)

// fillUp takes all space that somebody without privileges can have.
func (r *outsideRig) fillUp(name string) {
	r.t.Helper()
	ino := r.createAs(name, 1000)
	for n := 64 * r.bs; n >= r.bs; n /= 2 {
		for off := uint64(0); ; off += n {
			_, _, err := r.fs.MapOutside(ino, off, n, iomap.Write, false)
			if errors.Is(err, syscall.ENOSPC) {
				break
			}
			r.must(err)
		}
	}
}

// TestOutsideWritebackOfHole has data written back for which nothing was reserved: it
// was accepted, so it gets what is kept back.
func TestOutsideWritebackOfHole(t *testing.T) {
	r := newOutsideRig(t, 64<<20, "-t ext4 -b 4096 -J size=4", ext4.Options{})
	ino := r.createAs("f", 1000)
	r.truncate(ino, 1<<20)
	r.fillUp("fill")
	if _, _, err := r.fs.MapOutside(ino, 0, r.bs, iomap.Write, false); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("a write: %v", err)
	}
	for off := uint64(0); off < 20*r.bs; off += r.bs {
		m, _, err := r.fs.MapOutside(ino, off, r.bs, iomap.Writeback, false)
		if err != nil || m.Type != iomap.Unwritten {
			t.Fatalf("data is lost: %+v, %v", m, err)
		}
	}
	r.must(r.fs.Close())
}

// TestOutsideReadThenWritten has unwritten extents in the cache because somebody read
// there, and then written to, without a question. Space for the nodes that this takes
// must be there.
func TestOutsideReadThenWritten(t *testing.T) {
	r := newOutsideRig(t, 16<<20, "-t ext4 -b 1024 -J size=1 -m 0 -N 4096", ext4.Options{})
	var inos []ext4.Ino
	for i := range 600 {
		ino := r.createAs(fmt.Sprint("f", i), 1000)
		r.fallocate(ino, 0, 0, 8*r.bs)
		_, err := r.lookup(ino, 0, 8*r.bs, iomap.Read)
		if !errors.Is(err, syscall.ENOSPC) {
			r.must(err)
		}
		inos = append(inos, ino)
	}
	r.fillUp("fill")
	data := make([]byte, r.bs)
	lost := 0
	for _, blk := range []uint64{1, 3, 5} {
		for _, ino := range inos {
			if _, ok := r.cache.find(ino, blk*r.bs, iomap.Write|iomap.Direct); !ok {
				// It has to ask, and may be told then that there is no space.
				if _, _, err := r.fs.MapOutside(ino, blk*r.bs, r.bs, iomap.Write|iomap.Direct, false); errors.Is(err, syscall.ENOSPC) {
					continue
				}
			}
			if err := r.direct(ino, data, blk*r.bs); err != nil {
				lost++
			}
		}
	}
	if lost > 0 {
		t.Errorf("%d writes were lost for lack of space", lost)
	}
	for ino, f := range r.files {
		if f.name == "fill" {
			delete(r.files, ino)
		}
	}
	r.close()
}
