package journal

import (
	"cmp"
	"io"
	"slices"

	"ext4box/blockdev"
	"ext4box/ext4/internal/disk"
)

// LogDevice is where a log is written. Byte 0 is the first byte of the
// journal's inode or of the journal's device, as it is to [Load]. A journal
// device is one as it is; an [ExtentLog] is one inside of the filesystem.
type LogDevice interface {
	io.WriterAt

	// Flush returns once everything written before the call is durable.
	Flush() error
}

// Run is a part of a journal that is contiguous on the filesystem's device. All
// its fields count blocks.
type Run struct {
	Log    uint32 // first block, in the journal
	Device uint64 // first block, on the device
	Blocks uint32
}

// ExtentLog is a journal inside of the filesystem, as what [Load] reads from and
// a [Log] writes to. It may be used concurrently.
type ExtentLog struct {
	dev  blockdev.Device
	bs   int64
	runs []Run // by Log, without gaps
	size int64 // bytes
}

// NewExtentLog returns the journal that lies on dev in runs, which must be in
// order, without holes, without overlap, and within the device; otherwise the
// error is a [disk.CorruptError]. The caller vouches that no other metadata
// lies there.
func NewExtentLog(dev blockdev.Device, blockSize int, runs []Run) (*ExtentLog, error) {
	x := &ExtentLog{dev: dev, bs: int64(blockSize), runs: slices.Clone(runs)}
	next, blocks := uint64(0), uint64(dev.Size())/uint64(blockSize)
	for _, r := range runs {
		switch {
		case r.Blocks == 0 || uint64(r.Log) != next:
			return nil, disk.Corruptf("journal", "block %d of it is not mapped", next)
		case r.Device >= blocks || uint64(r.Blocks) > blocks-r.Device:
			return nil, disk.Corruptf("journal", "its block %d is at %d, but the device ends at %d", r.Log, r.Device, blocks)
		}
		next += uint64(r.Blocks)
	}
	byDevice := slices.SortedFunc(slices.Values(runs), func(a, b Run) int { return cmp.Compare(a.Device, b.Device) })
	for i := 1; i < len(byDevice); i++ {
		if byDevice[i].Device < byDevice[i-1].Device+uint64(byDevice[i-1].Blocks) {
			return nil, disk.Corruptf("journal", "block %d of the device is in it twice", byDevice[i].Device)
		}
	}
	if next > 1<<32-1 {
		return nil, disk.Corruptf("journal", "%d blocks are too many", next)
	}
	x.size = int64(next) * x.bs
	return x, nil
}

// ReadAt implements [io.ReaderAt].
func (x *ExtentLog) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off >= x.size {
		return 0, io.EOF
	}
	whole := p
	p = p[:min(int64(len(p)), x.size-off)]
	n, err := x.each(p, off, x.dev.ReadAt)
	if err == nil && n < len(whole) {
		err = io.EOF
	}
	return n, err
}

// WriteAt implements [io.WriterAt]. Nothing is written past the end.
func (x *ExtentLog) WriteAt(p []byte, off int64) (int, error) {
	if off < 0 || off > x.size || int64(len(p)) > x.size-off {
		return 0, disk.Corruptf("journal", "ends at byte %d, not at %d", x.size, off+int64(len(p)))
	}
	return x.each(p, off, x.dev.WriteAt)
}

// each calls do for the parts of p that are contiguous on the device.
func (x *ExtentLog) each(p []byte, off int64, do func(p []byte, off int64) (int, error)) (done int, err error) {
	i, found := slices.BinarySearchFunc(x.runs, off/x.bs, func(r Run, b int64) int { return cmp.Compare(int64(r.Log), b) })
	if !found {
		i--
	}
	for ; done < len(p); i++ {
		r := x.runs[i]
		within := off + int64(done) - int64(r.Log)*x.bs
		n := min(int64(len(p)-done), int64(r.Blocks)*x.bs-within)
		m, err := do(p[done:done+int(n)], int64(r.Device)*x.bs+within)
		done += m
		if int64(m) < n {
			if err == nil {
				err = io.ErrUnexpectedEOF
			}
			return done, err
		}
	}
	return done, nil
}

// Flush implements [LogDevice]. It flushes all of the filesystem's device.
func (x *ExtentLog) Flush() error { return x.dev.Flush() }

// shares tells whether a flush of dev covers the log.
func shares(log LogDevice, dev blockdev.Device) bool {
	x, ok := log.(*ExtentLog)
	return ok && x.dev == dev
}
