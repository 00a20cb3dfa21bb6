package blockdev

import (
	"io"
	"syscall"
)

// window is a range of another device.
type window struct {
	dev   Device
	off   int64
	size  int64
	align int
}

// Range returns the n bytes of dev from offset off as a device of their own.
// The range is cut to what dev has. Closing the window closes dev.
//
// The window has the alignment of dev when off is a multiple of it, otherwise
// 1: no request to such a window is aligned on dev.
func Range(dev Device, off, n int64) Device {
	off = min(max(off, 0), dev.Size())
	n = min(max(n, 0), dev.Size()-off)
	if w, ok := dev.(*window); ok {
		dev, off = w.dev, w.off+off
	}
	align := dev.Alignment()
	if off%int64(align) != 0 {
		align = 1
	}
	return &window{dev: dev, off: off, size: n, align: align}
}

func (w *window) ReadAt(p []byte, off int64) (int, error) {
	n, err := clipRead(len(p), off, w.size)
	if n == 0 {
		if err != nil && err != io.EOF {
			err = w.fail("read", off, len(p), err)
		}
		return 0, err
	}
	done, rerr := w.dev.ReadAt(p[:n], w.off+off)
	if done < n {
		return done, rerr
	}
	return done, err
}

func (w *window) WriteAt(p []byte, off int64) (int, error) {
	if err := checkWrite(len(p), off, w.size, w.dev.ReadOnly()); err != nil {
		return 0, w.fail("write", off, len(p), err)
	}
	return w.dev.WriteAt(p, w.off+off)
}

func (w *window) Discard(off, n int64) error {
	if err := checkDiscard(off, n, w.size, w.dev.ReadOnly()); err != nil {
		return &Error{Op: "discard", Name: w.Name(), Off: w.off + off, Len: n, Err: err}
	}
	return w.dev.Discard(w.off+off, n)
}

func (w *window) fail(op string, off int64, n int, err error) error {
	return &Error{Op: op, Name: w.Name(), Off: w.off + off, Len: int64(n), Err: err}
}

func (w *window) Size() int64     { return w.size }
func (w *window) Alignment() int  { return w.align }
func (w *window) ReadOnly() bool  { return w.dev.ReadOnly() }
func (w *window) Flush() error    { return w.dev.Flush() }
func (w *window) Close() error    { return w.dev.Close() }
func (w *window) SectorSize() int { return SectorSize(w.dev) }
func (w *window) Name() string    { return Name(w.dev) }

// clipRead returns how many of n bytes at off a device of the given size has.
// The error is io.EOF when these are fewer than n, EINVAL for a negative
// offset.
func clipRead(n int, off, size int64) (int, error) {
	switch {
	case off < 0:
		return 0, syscall.EINVAL
	case n == 0:
		return 0, nil
	case off >= size:
		return 0, io.EOF
	case int64(n) > size-off:
		return int(size - off), io.EOF
	}
	return n, nil
}

// checkWrite says what is wrong with a write of n bytes at off.
func checkWrite(n int, off, size int64, readOnly bool) error {
	switch {
	case readOnly:
		return syscall.EROFS
	case off < 0:
		return syscall.EINVAL
	case off > size || int64(n) > size-off:
		return syscall.ENOSPC
	}
	return nil
}

// checkDiscard says what is wrong with a discard of n bytes at off.
func checkDiscard(off, n, size int64, readOnly bool) error {
	switch {
	case readOnly:
		return syscall.EROFS
	case off < 0 || n < 0 || off > size || n > size-off:
		return syscall.EINVAL
	}
	return nil
}
