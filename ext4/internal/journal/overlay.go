package journal

import (
	"io"
	"syscall"

	"ext4box/blockdev"
)

// overlay is a device as it will be after the recovery.
type overlay struct {
	dev blockdev.Device
	r   *Replay
}

// NewOverlay returns a read-only view of dev, the filesystem's device, in which
// all of r has been replayed. It takes dev over: closing the view closes dev.
// Nothing is ever written to dev, for writing to the view fails with EROFS.
func NewOverlay(dev blockdev.Device, r *Replay) blockdev.Device {
	return &overlay{dev: dev, r: r}
}

// ReadAt implements [io.ReaderAt]. It costs one search where no redirected
// block is touched, and one read where all that is asked for lies within one
// redirected block.
func (v *overlay) ReadAt(p []byte, off int64) (int, error) {
	size := v.dev.Size()
	if len(p) == 0 || off < 0 || off >= size {
		return v.dev.ReadAt(p, off)
	}
	bs := uint64(v.r.blockSize)
	end := uint64(off) + min(uint64(len(p)), uint64(size-off))
	first := uint64(off) / bs
	i, _ := v.r.search(first)
	if i == len(v.r.redirects) || v.r.redirects[i].Block*bs >= end {
		return v.dev.ReadAt(p, off)
	}
	whole := end == uint64(off)+uint64(len(p))
	if d := v.r.redirects[i]; whole && d.Block == first && end <= (first+1)*bs {
		if err := v.r.readAt(d, p, int(uint64(off)%bs)); err != nil {
			return 0, err
		}
		return len(p), nil
	}
	n, err := v.dev.ReadAt(p, off)
	if err != nil && err != io.EOF {
		return n, err
	}
	end = uint64(off) + uint64(n)
	for ; i < len(v.r.redirects); i++ {
		d := v.r.redirects[i]
		lo, hi := d.Block*bs, (d.Block+1)*bs
		if lo >= end {
			break
		}
		within := 0
		if lo < uint64(off) {
			within = int(uint64(off) - lo)
			lo = uint64(off)
		}
		hi = min(hi, end)
		if err := v.r.readAt(d, p[lo-uint64(off):hi-uint64(off)], within); err != nil {
			return int(lo - uint64(off)), err
		}
	}
	return n, err
}

func (v *overlay) Size() int64                            { return v.dev.Size() }
func (v *overlay) Alignment() int                         { return v.dev.Alignment() }
func (v *overlay) ReadOnly() bool                         { return true }
func (v *overlay) WriteAt(p []byte, _ int64) (int, error) { return 0, syscall.EROFS }
func (v *overlay) Flush() error                           { return nil }
func (v *overlay) Discard(int64, int64) error             { return syscall.EROFS }
func (v *overlay) Close() error                           { return v.dev.Close() }
