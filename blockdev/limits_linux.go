package blockdev

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// Limits is what a block device says of the requests it takes.
type Limits struct {
	// SectorSize is the logical block size in bytes: no request, and no block of a
	// filesystem, can be smaller.
	SectorSize uint32
	// AtomicMin and AtomicMax are the smallest and the largest write, in bytes, that is
	// done as a whole or not at all. 0: none, or not known.
	AtomicMin, AtomicMax uint32
}

// Limits asks the underlying device. ENOTBLK: it is a file.
func (f *File) Limits() (Limits, error) {
	if !f.block {
		return Limits{}, causef(syscall.ENOTBLK, "%s: is not a block device", f.name)
	}
	fd := int(f.h.fd())
	sector, err := unix.IoctlGetUint32(fd, unix.BLKSSZGET)
	if err != nil {
		return Limits{}, openError(f.name, err, Options{})
	}
	l := Limits{SectorSize: sector}
	var st unix.Statx_t
	err = unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_WRITE_ATOMIC, &st)
	if err == nil && st.Mask&unix.STATX_WRITE_ATOMIC != 0 {
		l.AtomicMin, l.AtomicMax = st.Atomic_write_unit_min, st.Atomic_write_unit_max
	}
	return l, nil
}
