package blockdev

import "io"

// Device is a random-access array of bytes with a durability barrier: an image
// file, a block device, a partition of either, or a test device.
//
// All offsets and lengths are in bytes. Every method may be called concurrently
// with every other, except that nothing may be called after Close.
//
// ReadAt and WriteAt accept any offset and any buffer; they are fastest, and
// free of copies, when offset, length and buffer address are multiples of
// Alignment. ReadAt past the end returns io.EOF with the bytes that exist, as
// io.ReaderAt prescribes; a read that ends exactly at the end returns a nil
// error. A write that reaches past the end fails with ENOSPC and writes
// nothing.
//
// Errors of a real device are *Error values, which keep the errno.
type Device interface {
	io.ReaderAt
	io.WriterAt

	// Size is the length of the device. It does not change.
	Size() int64

	// Alignment is the granularity, a power of two, at which I/O reaches the
	// device without being copied or turned into read-modify-write. It is 1
	// when aligning requests gains nothing.
	Alignment() int

	// ReadOnly tells whether WriteAt, Flush of written data and Discard fail
	// with EROFS.
	ReadOnly() bool

	// Flush returns once everything written before the call is durable.
	Flush() error

	// Discard tells the device that the range's content is no longer needed.
	// It is advice: a device that cannot discard returns
	// errors.ErrUnsupported, and the range reads as anything afterwards.
	Discard(off, n int64) error

	io.Closer
}

// Sectored is implemented by devices that know the sector size in which
// partition tables on them count.
type Sectored interface {
	// SectorSize is the logical sector size in bytes, 0 when unknown: an image
	// file does not record that of the disk it was taken from.
	SectorSize() int
}

// Named is implemented by devices that can say which device they are.
type Named interface {
	// Name is what messages to the user call the device, usually its path.
	Name() string
}

// SectorSize returns the logical sector size of dev in bytes, or 0 when dev
// does not know it.
func SectorSize(dev Device) int {
	if s, ok := dev.(Sectored); ok {
		return s.SectorSize()
	}
	return 0
}

// Name returns what to call dev in a message to the user.
func Name(dev Device) string {
	if n, ok := dev.(Named); ok {
		return n.Name()
	}
	return "device"
}
