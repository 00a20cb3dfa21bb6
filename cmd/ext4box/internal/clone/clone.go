package clone

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Replace makes a copy of src, calls change with its path, and gives it the name
// dest when change has succeeded, durably. Until then, and after any error, dest
// is as it was. A file at dest is replaced, unless it is src or somebody holds a
// lock on it. progress is told how many bytes have been copied.
func Replace(ctx context.Context, dest string, src *os.File, progress func(bytes int64), change func(path string) error) (err error) {
	if err := checkDest(dest, src); err != nil {
		return err
	}
	st, err := src.Stat()
	if err != nil {
		return err
	}
	dir, name := filepath.Split(dest)
	tmp := fmt.Sprintf("%s.%s.%08x", dir, name, rand.Uint32())
	// It is to be written, and it is not less private than the original.
	f, err := os.OpenFile(tmp, os.O_RDWR|os.O_CREATE|os.O_EXCL, st.Mode().Perm()|0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	defer func() {
		if err != nil {
			os.Remove(tmp)
		}
	}()
	if err := Copy(ctx, f, src, progress); err != nil {
		return fmt.Errorf("copy %s: %w", src.Name(), err)
	}
	if err := change(tmp); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := os.Rename(tmp, dest); err != nil {
		return err
	}
	if dir == "" {
		dir = "."
	}
	d, err := os.Open(dir)
	if err != nil {
		return nil // it has its name, if not for certain durably
	}
	defer d.Close()
	if err := d.Sync(); err != nil && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("%s is complete, but its name may not survive a crash: %w", dest, err)
	}
	return nil
}

// checkDest verifies that dest may be replaced.
func checkDest(dest string, src *os.File) error {
	st, err := os.Lstat(dest)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if !st.Mode().IsRegular() {
		return fmt.Errorf("%s is not a regular file: name another for the copy", dest)
	}
	if s, err := src.Stat(); err != nil || os.SameFile(s, st) {
		return errors.Join(err, fmt.Errorf("%s is the image itself: to change it in place, leave --output out", dest))
	}
	f, err := os.OpenFile(dest, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); errors.Is(err, unix.EWOULDBLOCK) {
		return fmt.Errorf("%s is in use, such as by a mount: name another file for the copy", dest)
	}
	return nil
}

const (
	chunk = 1 << 20 // bytes that are read at a time
	piece = 4096    // what is a hole if it is all zeros
)

// Copy makes the empty file dst a copy of src, a file or a block device.
func Copy(ctx context.Context, dst, src *os.File, progress func(bytes int64)) error {
	if unix.IoctlFileClone(int(dst.Fd()), int(src.Fd())) == nil {
		return nil
	}
	size, err := src.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	if err := dst.Truncate(size); err != nil {
		return err
	}
	c := copier{ctx: ctx, dst: dst, src: src, progress: progress, inKernel: true}
	for off := int64(0); off < size; {
		data, err := unix.Seek(int(src.Fd()), off, unix.SEEK_DATA)
		switch {
		case errors.Is(err, unix.ENXIO):
			return nil
		case errors.Is(err, unix.EINVAL):
			return c.copyRange(off, size) // the host knows of no holes
		case err != nil:
			return err
		}
		hole, err := unix.Seek(int(src.Fd()), data, unix.SEEK_HOLE)
		if err != nil {
			return err
		}
		if data < off || hole <= data {
			return fmt.Errorf("the map of data and holes does not advance at offset %d", off)
		}
		if err := c.copyRange(data, min(hole, size)); err != nil {
			return err
		}
		off = hole
	}
	return nil
}

type copier struct {
	ctx      context.Context
	dst, src *os.File
	progress func(bytes int64)
	done     int64
	inKernel bool // copy_file_range works
	buf      []byte
}

func (c *copier) copyRange(off, end int64) error {
	for off < end {
		if c.ctx.Err() != nil {
			return context.Cause(c.ctx)
		}
		n, err := c.step(off, end)
		if err != nil {
			return err
		}
		off += n
		c.done += n
		c.progress(c.done)
	}
	return nil
}

// step copies the start of a range and tells how much.
func (c *copier) step(off, end int64) (int64, error) {
	if c.inKernel {
		from, to := off, off
		n, err := unix.CopyFileRange(int(c.src.Fd()), &from, int(c.dst.Fd()), &to, int(min(end-off, 16*chunk)), 0)
		if err == nil && n > 0 {
			return int64(n), nil
		}
		if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EIO) || errors.Is(err, unix.EDQUOT) {
			return 0, err
		}
		c.inKernel = false
	}
	if c.buf == nil {
		c.buf = make([]byte, chunk)
	}
	n, err := c.src.ReadAt(c.buf[:min(end-off, chunk)], off)
	if n == 0 {
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return 0, err
	}
	return int64(n), c.writeSparse(c.buf[:n], off)
}

var zeros [piece]byte

// writeSparse writes what is not zeros.
func (c *copier) writeSparse(p []byte, off int64) error {
	for len(p) > 0 {
		n := 0
		for n < len(p) && !bytes.Equal(p[n:min(n+piece, len(p))], zeros[:min(piece, len(p)-n)]) {
			n = min(n+piece, len(p))
		}
		if n > 0 {
			if _, err := c.dst.WriteAt(p[:n], off); err != nil {
				return err
			}
		} else {
			n = min(piece, len(p))
		}
		p, off = p[n:], off+int64(n)
	}
	return nil
}
