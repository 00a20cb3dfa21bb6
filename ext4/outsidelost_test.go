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

// TestOutsideEndMoves has files grow past the block in which they ended. What is
// written there afterwards, with O_DSYNC, is found only when the new size is durable,
// and the mapping must say so.
func TestOutsideEndMoves(t *testing.T) {
	for name, grow := range map[string]func(r *outsideRig, ino ext4.Ino){
		"truncate": func(r *outsideRig, ino ext4.Ino) { r.truncate(ino, 5000) },
		"fallocate": func(r *outsideRig, ino ext4.Ino) {
			r.must(r.fs.Fallocate(ino, 0, 8192, 4096))
			f := r.file(ino)
			f.size, f.disk, f.want = 12288, 12288, append(f.want, make([]byte, 12188)...)
		},
		"write": func(r *outsideRig, ino ext4.Ino) { r.must(r.direct(ino, make([]byte, 4096), 4096)) },
	} {
		t.Run(name, func(t *testing.T) {
			r := newOutsideRig(t, 32<<20, "-t ext4 -b 4096", ext4.Options{})
			ino := r.create("f")
			r.must(r.write(ino, make([]byte, 100), 0))
			r.must(r.writeBack(ino))
			r.must(r.fs.Fsync(ino))
			if m, err := r.lookup(ino, 0, 100, iomap.Write|iomap.Direct); err != nil || m.Type != iomap.Mapped || m.Flags&iomap.Dirty != 0 {
				t.Fatalf("%+v, %v", m, err)
			}
			grow(r, ino)
			if m, err := r.lookup(ino, 512, 512, iomap.Write|iomap.Direct); err != nil || m.Flags&iomap.Dirty == 0 {
				t.Errorf("nothing has to be committed: %+v, %v", m, err)
			}
			r.must(r.fs.Fsync(ino))
			r.finish()
		})
	}
}
