package vfs

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"syscall"
	"testing"

	"ext4box/fuse"
)

// TestConcurrent has writers with a part of one file each, in every way there is, besides somebody who
// syncs, drops caches, drops mappings and grows the file. Each part ends up as its writer left it, on the
// device too. The server answers by the cache: with direct replies data can be lost, see TestCookieRace. It is
// for the race detector, and for what might wait for itself.
func TestConcurrent(t *testing.T) {
	const part, writers, steps = 64 << 10, 4, 60
	for _, socket := range []bool{false, true} {
		for _, block := range []uint64{1024, 16384} {
			t.Run(fmt.Sprintf("socket %v, blocks of %d", socket, block), func(t *testing.T) {
				s := newServer()
				s.block, s.exact = block, true
				fs, dev := mountOn(t, s, Config{Socket: socket})
				f := mustCreate(t, fs, "f")
				must(t, f.Truncate(writers*part))
				want := make([][]byte, writers)
				var wg, bystanders sync.WaitGroup
				stop := make(chan struct{})
				for w := range writers {
					wg.Go(func() { want[w] = writePart(t, fs, w, part, steps) })
				}
				bystanders.Go(func() {
					for n := int64(0); ; n++ {
						select {
						case <-stop:
							return
						default:
						}
						_ = fs.Sync()
						fs.DropCaches()
						_ = s.s.InvalMappings(&fuse.IomapInvalMappings{NodeID: 11, Ino: 11, Read: fuse.IomapRange{Length: toEOF}})
						if err := f.Truncate(writers*part + n%3*5000); err != nil {
							t.Error(err)
						}
					}
				})
				wg.Wait()
				close(stop)
				bystanders.Wait()
				must(t, f.Truncate(writers*part))
				all := bytes.Join(want, nil)
				wantRead(t, f, 0, all)
				must(t, f.Close())
				if got := s.stored("f", dev); !bytes.Equal(got, all) {
					t.Errorf("stored: %d bytes, first difference at %d", len(got), difference(got, all))
				}
				must(t, fs.Unmount())
			})
		}
	}
}

// writePart does what it likes in its part of the file and returns what has to be there.
func writePart(t *testing.T, fs *FS, w, part, steps int) []byte {
	r := rand.New(rand.NewPCG(uint64(w), 1))
	base := int64(w * part)
	f, err := fs.Open("f", syscall.O_RDWR, 0)
	d, err2 := fs.Open("f", syscall.O_RDWR|syscall.O_DIRECT, 0)
	if err != nil || err2 != nil {
		t.Error(err, err2)
		return nil
	}
	mem, err := f.Mmap()
	if err != nil {
		t.Error(err)
		return nil
	}
	want := make([]byte, part)
	for step := range steps {
		off, n := r.IntN(part-16384), r.IntN(9000)+1
		var err error
		switch op := r.IntN(6); op {
		case 0:
			p := pattern(step, n)
			_, err = f.WriteAt(p, base+int64(off))
			copy(want[off:], p)
		case 1:
			// Whole folios: what is stored to memory beside a direct write, in the same folio, while it
			// goes on, is not promised to be seen.
			off, n = off/16384*16384, 16384
			p := pattern(step, n)
			_, err = d.WriteAt(p, base+int64(off))
			copy(want[off:], p)
		case 2:
			p := pattern(step, n)
			err = mem.Store(p, uint64(base)+uint64(off))
			copy(want[off:], p)
		case 3:
			err = f.Fallocate(3, base+int64(off), int64(n))
			clear(want[off : off+n])
		case 4:
			err = f.Fsync()
		case 5:
			got := make([]byte, n)
			if _, err = f.ReadAt(got, base+int64(off)); err == io.EOF {
				err = nil
			}
			if err == nil && !bytes.Equal(got, want[off:off+n]) {
				err = fmt.Errorf("read of %d at %d: difference at %d", n, off, difference(got, want[off:]))
			}
		}
		if err != nil {
			t.Errorf("writer %d, step %d: %v", w, step, err)
			break
		}
	}
	mem.Unmap()
	for _, f := range []*File{f, d} {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}
	return want
}
