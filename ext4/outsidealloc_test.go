package ext4_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"

	"ext4box/ext4"
	"ext4box/iomap"
)

// writeRange writes back what is dirty of a range, and forgets it.
func (r *outsideRig) writeRange(ino ext4.Ino, f *outsideFile, off, end uint64) {
	r.t.Helper()
	others := map[uint64][]byte{}
	for blk, p := range f.dirty {
		if (blk+1)*r.bs <= off || blk*r.bs >= end {
			others[blk] = p
			delete(f.dirty, blk)
		}
	}
	r.must(r.writeDirty(ino, f))
	f.dirty = others
}

// clearPart zeros a part of a block in the page cache, if it has data.
func (r *outsideRig) clearPart(ino ext4.Ino, f *outsideFile, off, end uint64) {
	r.t.Helper()
	if off >= end {
		return
	}
	blk := off / r.bs
	m, err := r.lookup(ino, blk*r.bs, r.bs, iomap.Zero)
	r.must(err)
	if m.Type != iomap.Mapped && f.dirty[blk] == nil {
		return
	}
	p, err := r.page(ino, f, blk, iomap.Zero)
	r.must(err)
	clear(p[off%r.bs : off%r.bs+end-off])
	f.dirty[blk] = p
}

// fallocate does what the kernel does for fallocate(2).
func (r *outsideRig) fallocate(ino ext4.Ino, mode uint32, off, n uint64) {
	r.t.Helper()
	f := r.file(ino)
	f.mu.Lock()
	defer f.mu.Unlock()
	end := off + n
	clears := mode&(ext4.FallocPunchHole|ext4.FallocZeroRange) != 0
	if clears {
		r.writeRange(ino, f, off, end)
	}
	err := r.fs.Fallocate(ino, mode, off, n)
	if errors.Is(err, syscall.EOPNOTSUPP) && mode != ext4.FallocPunchHole|ext4.FallocKeepSize {
		return
	}
	r.must(err)
	up := func(n uint64) uint64 { return (n + r.bs - 1) / r.bs * r.bs }
	r.must(r.cache.Drop(ino, off/r.bs*r.bs, up(end)-off/r.bs*r.bs))
	if clears {
		r.clearPart(ino, f, off, min(end, up(off), max(off, f.size)))
		r.clearPart(ino, f, max(off, end/r.bs*r.bs), min(end, f.size))
		for i := off; i < min(end, f.size); i++ {
			f.want[i] = 0
		}
	}
	if mode&ext4.FallocKeepSize == 0 && end > f.size {
		r.must(r.cache.Drop(ino, end/r.bs*r.bs, iomap.ToEOF))
		r.clearPart(ino, f, f.size, min(up(f.size), end))
		f.want = append(f.want, make([]byte, end-f.size)...)
		f.size = end
		r.must(r.writeDirty(ino, f))
		f.disk = end // which nobody is told of any more
	}
}

// TestOutsideAlloc mixes fallocate(2) with what TestOutside does, and has e2fsck and
// the kernel judge what that comes to.
func TestOutsideAlloc(t *testing.T) {
	for _, s := range outsideShapes {
		t.Run(s.name, func(t *testing.T) {
			r := newOutsideRig(t, 48<<20, s.args, ext4.Options{})
			rng := rand.New(rand.NewPCG(uint64(len(s.name)), 11))
			var inos []ext4.Ino
			for i := range 3 {
				inos = append(inos, r.create(fmt.Sprint("file", i)))
			}
			modes := []uint32{0, ext4.FallocKeepSize, ext4.FallocPunchHole | ext4.FallocKeepSize, ext4.FallocZeroRange, ext4.FallocZeroRange | ext4.FallocKeepSize}
			place := func() uint64 { return rng.Uint64N(1 << (4 + rng.UintN(15))) }
			for i := range 500 {
				ino := inos[rng.IntN(len(inos))]
				switch rng.IntN(9) {
				case 0, 1:
					r.must(r.write(ino, []byte(strings.Repeat(fmt.Sprint(i), 1+int(place()>>3))), place()))
				case 2:
					r.must(r.write(ino, []byte(strings.Repeat(fmt.Sprint(i), 1+int(place()>>3))), r.file(ino).size))
				case 3:
					r.must(r.writeBack(ino))
				case 4:
					r.truncate(ino, place())
				default:
					r.fallocate(ino, modes[rng.IntN(len(modes))], place(), 1+place())
				}
				if rng.IntN(20) == 0 {
					r.check()
				}
			}
			r.finish()
		})
	}
}
