package blockdev

import (
	"errors"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
)

// handle is an open file as the kernel offers it: requests may come back
// short, and with direct I/O they must be aligned. Interrupted calls have been
// repeated already. It is the seam at which tests put a file that misbehaves.
type handle interface {
	pread(p []byte, off int64) (int, error)
	pwrite(p []byte, off int64) (int, error)
	pwritev(p [][]byte, off int64) (int, error)
	datasync() error
	discard(off, n int64) error
	size() (int64, error)
	setDirect(on bool) error
	fd() uintptr
	close() error
}

// geometry is what is to be known about a handle before it is used.
type geometry struct {
	size    int64 // in bytes
	block   bool  // a block device, not an image file
	sector  int   // logical sector size in bytes; 0 for an image file
	ioAlign int   // what direct I/O asks of offsets and lengths; 0: no direct I/O
	mem     int   // what direct I/O asks of addresses
}

// File is a [Device] on an image file or a block device, or a window of one.
type File struct {
	h      handle
	name   string
	base   int64 // where byte 0 of the device is in the file
	length int64
	sector int
	block  bool
	ro     bool

	// ioAlign and mem are the units of direct I/O in bytes, both 1 when the
	// file is buffered. They stay when direct is given up later, so that
	// Alignment never changes and writers keep taking the stripes.
	ioAlign int
	mem     int
	direct  atomic.Bool
	strict  atomic.Bool // direct I/O is never given up

	degrading sync.Mutex // serialises giving up direct I/O
	stripes   stripes
	fresh     fresh
	behind    handle // the same file through the host's page cache; nil: none

	// flushFailed is the first error of a Flush. The kernel reports a lost
	// write to one fsync only, so a later one that succeeds proves nothing.
	flushFailed atomic.Pointer[Error]
}

// Size is the length of the device in bytes.
func (f *File) Size() int64 { return f.length }

// Alignment is the unit of direct I/O in bytes; 1 when the file is buffered.
func (f *File) Alignment() int { return max(f.ioAlign, f.mem) }

// ReadOnly tells whether the device refuses changes.
func (f *File) ReadOnly() bool { return f.ro }

// SectorSize is the logical sector size in bytes: that of the block device, or
// that of the partition table through which an image file was opened, otherwise
// 0 for an image file.
func (f *File) SectorSize() int { return f.sector }

// Name is the path of the file, with the partition when one was selected.
func (f *File) Name() string { return f.name }

// Base is the offset in bytes of the device's first byte in the underlying
// file: the sum of Options.Offset and the start of the partition.
func (f *File) Base() int64 { return f.base }

// IsBlockDevice tells whether the underlying file is a block device.
func (f *File) IsBlockDevice() bool { return f.block }

// Direct tells whether requests bypass the host's page cache.
func (f *File) Direct() bool { return f.direct.Load() }

// KeepDirect keeps requests from ever going through the host's page cache, for somebody
// else moves data past it: what the host refuses to do directly fails from now on. What
// others have left in the page cache of a block device before, and could reach it
// over newer data, is on the device when it returns. EINVAL: there is no direct I/O to
// the file, or not any longer.
func (f *File) KeepDirect() error {
	f.degrading.Lock()
	defer f.degrading.Unlock()
	if !f.direct.Load() {
		return causef(syscall.EINVAL, "%s: there is no direct I/O to it", f.name)
	}
	f.strict.Store(true)
	if f.ro {
		return nil
	}
	return f.Flush()
}

// Fd is the underlying descriptor, for handing it to the kernel. It is valid
// until Close.
func (f *File) Fd() uintptr { return f.h.fd() }

// ReadAt reads len(p) bytes at off, as [Device] says.
func (f *File) ReadAt(p []byte, off int64) (int, error) {
	n, end := clipRead(len(p), off, f.length)
	if n == 0 {
		if end != nil && end != io.EOF {
			end = f.fail("read", off, len(p), end)
		}
		return 0, end
	}
	done, err := f.read(p[:n], f.base+off)
	if err != nil {
		return done, f.fail("read", off+int64(done), n-done, err)
	}
	return done, end
}

// read fills p from pos of the file.
func (f *File) read(p []byte, pos int64) (int, error) {
	if f.fits(p, pos) {
		return f.preadFull(p, pos, len(p))
	}
	for done := 0; done < len(p); {
		part := p[done:]
		lead := int(pos & int64(f.ioAlign-1))
		part = part[:min(len(part), MaxPooled-lead)]
		n, err := f.readBounced(part, pos, lead)
		done += n
		pos += int64(n)
		if err != nil {
			return done, err
		}
	}
	return len(p), nil
}

// readBounced fills part, which starts lead bytes into an alignment unit,
// through one aligned buffer.
func (f *File) readBounced(part []byte, pos int64, lead int) (int, error) {
	buf := bounce.Get(f.roundUp(lead + len(part)))
	defer bounce.Put(buf)
	n, err := f.preadFull(buf, pos-int64(lead), lead+len(part))
	if n <= lead {
		return 0, err
	}
	return copy(part, buf[lead:n]), err
}

// preadFull reads until at least need bytes of p are there. More of p is read
// where the file has it.
func (f *File) preadFull(p []byte, pos int64, need int) (int, error) {
	for n := 0; ; {
		// A direct read that ended inside a sector has reached the end of the
		// file or has been cut short; it goes on from the sector's start.
		from := n &^ (f.ioAlign - 1)
		direct := f.direct.Load()
		m, err := f.h.pread(p[from:], pos+int64(from))
		if err != nil {
			if direct && f.degrade(err) {
				continue
			}
			return n, err
		}
		if from+m <= n {
			return n, errTruncated
		}
		n = from + m
		if n >= need {
			return n, nil
		}
	}
}

// WriteAt writes p at off, as [Device] says. On an error it returns how many
// bytes are known to have been handed to the kernel.
func (f *File) WriteAt(p []byte, off int64) (int, error) {
	if err := checkWrite(len(p), off, f.length, f.ro); err != nil {
		return 0, f.fail("write", off, len(p), err)
	}
	if len(p) == 0 {
		return 0, nil
	}
	n, err := f.write(p, f.base+off)
	if err != nil {
		return n, f.fail("write", off+int64(n), len(p)-n, err)
	}
	return n, nil
}

// writeUnits is WriteAt by another way, if p is whole units of direct I/O.
func (f *File) writeUnits(p []byte, off int64, way func(f *File, p []byte, pos int64) (int, error)) (int, error) {
	pos := f.base + off
	if len(p) == 0 || (int(pos)|len(p))&(f.ioAlign-1) != 0 || checkWrite(len(p), off, f.length, f.ro) != nil {
		return f.WriteAt(p, off)
	}
	s := spanOf(pos, len(p))
	f.stripes.rlock(s)
	defer f.stripes.runlock(s)
	n, err := way(f, p, pos)
	if err != nil {
		return n, f.fail("write", off+int64(n), len(p)-n, err)
	}
	return n, nil
}

// write writes p at pos of the file.
func (f *File) write(p []byte, pos int64) (int, error) {
	if f.ioAlign == 1 {
		return f.pwriteFull(p, pos)
	}
	s := spanOf(pos, len(p))
	if (int(pos)|len(p))&(f.ioAlign-1) == 0 {
		f.stripes.rlock(s)
		defer f.stripes.runlock(s)
	} else {
		f.stripes.lock(s)
		defer f.stripes.unlock(s)
	}
	if f.fits(p, pos) {
		return f.pwriteFull(p, pos)
	}
	for done := 0; done < len(p); {
		part := p[done:]
		lead := int(pos & int64(f.ioAlign-1))
		part = part[:min(len(part), MaxPooled-lead)]
		n, err := f.writeBounced(part, pos, lead)
		done += n
		pos += int64(n)
		if err != nil {
			return done, err
		}
	}
	return len(p), nil
}

// writeBounced writes part, which starts lead bytes into an alignment unit,
// through one aligned buffer. Units that part covers only in part are read
// first; the caller holds their stripes exclusively. They lie inside the file
// and inside the window, or the file would not be open for direct I/O.
func (f *File) writeBounced(part []byte, pos int64, lead int) (int, error) {
	end := lead + len(part)
	buf := bounce.Get(f.roundUp(end))
	defer bounce.Put(buf)
	start := pos - int64(lead)
	last := len(buf) - f.ioAlign
	tail := end < len(buf)
	if lead > 0 || tail && last == 0 {
		if _, err := f.preadFull(buf[:f.ioAlign], start, f.ioAlign); err != nil {
			return 0, err
		}
	}
	if tail && last > 0 {
		if _, err := f.preadFull(buf[last:], start+int64(last), f.ioAlign); err != nil {
			return 0, err
		}
	}
	copy(buf[lead:], part)
	n, err := f.pwriteFull(buf, start)
	return min(max(n-lead, 0), len(part)), err
}

// pwriteFull writes all of p.
func (f *File) pwriteFull(p []byte, pos int64) (int, error) {
	for n := 0; n < len(p); {
		from := n &^ (f.ioAlign - 1)
		direct := f.direct.Load()
		m, err := f.h.pwrite(p[from:], pos+int64(from))
		if err != nil {
			if direct && f.degrade(err) {
				continue
			}
			return n, err
		}
		if from+m <= n {
			return n, syscall.EIO // no progress: a kernel that does so is broken
		}
		n = from + m
	}
	return len(p), nil
}

// fits tells whether the kernel takes the request as it is.
func (f *File) fits(p []byte, pos int64) bool {
	return !f.direct.Load() || (int(pos)|len(p))&(f.ioAlign-1) == 0 && aligned(p, f.mem)
}

func (f *File) roundUp(n int) int { return (n + f.ioAlign - 1) &^ (f.ioAlign - 1) }

// degrade gives up direct I/O after the host refused an aligned direct request
// with EINVAL, as filesystems do that take direct I/O for some parts of a file
// only. It tells whether the request should be repeated, now buffered.
func (f *File) degrade(err error) bool {
	if err != syscall.EINVAL {
		return false
	}
	f.degrading.Lock()
	defer f.degrading.Unlock()
	if f.strict.Load() {
		return false
	}
	if f.direct.Load() {
		if f.h.setDirect(false) != nil {
			return false
		}
		f.direct.Store(false)
	}
	return true
}

// Flush makes everything written before the call durable. After a failed Flush
// every later one fails too: what was lost cannot be known.
func (f *File) Flush() error {
	if f.ro {
		return &Error{Op: "flush", Name: f.name, Err: syscall.EROFS}
	}
	if failed := f.flushFailed.Load(); failed != nil {
		return failed
	}
	err := f.h.datasync()
	if err == nil && !f.block {
		err = f.checkLength()
	}
	if err == nil {
		return nil
	}
	failed := &Error{Op: "flush", Name: f.name, Err: err}
	f.flushFailed.CompareAndSwap(nil, failed)
	return failed
}

// checkLength notices an image file that somebody has made shorter: writes
// there succeed, but what lay between is gone.
func (f *File) checkLength() error {
	size, err := f.h.size()
	if err == nil && size < f.base+f.length {
		err = errTruncated
	}
	return err
}

// Discard gives the range back: a hole in an image file, a TRIM on a device.
// Where the host cannot, the error is errors.ErrUnsupported. Only whole
// alignment units are discarded.
func (f *File) Discard(off, n int64) error {
	err := checkDiscard(off, n, f.length, f.ro)
	if err == nil {
		unit := int64(max(f.ioAlign, f.sector, 1))
		lo := (f.base + off + unit - 1) &^ (unit - 1)
		hi := (f.base + off + n) &^ (unit - 1)
		if lo >= hi {
			return nil
		}
		err = f.h.discard(lo, hi-lo)
	}
	if err != nil {
		return &Error{Op: "discard", Name: f.name, Off: f.base + off, Len: n, Err: err}
	}
	return nil
}

// Close closes the file, which releases its lock. It does not flush.
func (f *File) Close() error {
	if f.behind != nil {
		_ = f.behind.close()
	}
	if err := f.h.close(); err != nil && !errors.Is(err, os.ErrClosed) {
		return &os.PathError{Op: "close", Path: f.name, Err: err}
	}
	return nil
}

// fail builds the error of a request at off of the device.
func (f *File) fail(op string, off int64, n int, err error) error {
	return &Error{Op: op, Name: f.name, Off: f.base + off, Len: int64(n), Err: err}
}
