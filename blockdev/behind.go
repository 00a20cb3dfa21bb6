package blockdev

import "syscall"

// behindMost is how much goes to the host's page cache at a time, in bytes. To copy what is longer takes about as
// long as the device does, of which several such requests are in flight.
const behindMost = 256 << 10

// WriteBehind is WriteAt for who need not know that the data has reached the device: with direct I/O it
// leaves what is short to the host's page cache. ReadAt sees it, other writes come after it, and Flush makes
// it durable, or fails if the host could not write it. Nothing is lost with this process.
func (f *File) WriteBehind(p []byte, off int64) (int, error) {
	if f.behind == nil || len(p) > behindMost || !f.direct.Load() || f.strict.Load() {
		return f.WriteAt(p, off)
	}
	return f.writeUnits(p, off, (*File).writeBehind)
}

func (f *File) writeBehind(p []byte, pos int64) (int, error) {
	for n := 0; n < len(p); {
		m, err := f.behind.pwrite(p[n:], pos+int64(n))
		if err == nil && m <= 0 {
			err = syscall.EIO // no progress: a kernel that does so is broken
		}
		if err != nil {
			return n, err
		}
		n += m
	}
	return len(p), nil
}
