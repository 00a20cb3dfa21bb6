package ext4

import (
	"errors"
	"fmt"
	"math"
	"syscall"

	"ext4box/ext4/internal/journal"
)

// Trim tells the device that it need not keep what is in the free blocks of the
// range [start, start+n), in bytes, where there are at least least bytes of them in
// one piece, and returns how many bytes that were. stop, if not nil, is asked in
// between whether to give up, with EINTR. Errors: EINVAL, EOPNOTSUPP for a device
// that cannot, EROFS.
func (fs *FS) Trim(start, n, least uint64, stop func() bool) (uint64, error) {
	if fs.w == nil {
		return 0, syscall.EROFS
	}
	bits := fs.geo.BlockBits
	first, end := start>>bits, uint64(math.MaxUint64)
	if blocks := n >> bits; blocks < math.MaxUint64-first {
		end = first + blocks
	}
	switch {
	case n < uint64(fs.geo.BlockSize), first >= fs.geo.BlocksCount, least>>bits > uint64(fs.geo.BlocksPerGroup):
		return 0, syscall.EINVAL
	case end <= uint64(fs.geo.FirstDataBlock):
		return 0, nil
	}
	// What was deleted before the call is to be part of it.
	if err := fs.Sync(); err != nil {
		return 0, err
	}
	blocks, err := fs.w.groups.Trim(first, end, least>>bits, stop, func(start, n uint64) error {
		if stop != nil && stop() {
			return syscall.EINTR
		}
		return fs.discard(start, n)
	})
	return blocks << bits, err
}

// discard tells the device that blocks are free.
func (fs *FS) discard(start, n uint64) error {
	if fs.w.freeze.on() {
		return journal.ErrFrozen
	}
	err := fs.base.Discard(int64(start)<<fs.geo.BlockBits, int64(n)<<fs.geo.BlockBits)
	if errors.Is(err, syscall.EBUSY) {
		return nil // a thin pool that shares the blocks with a snapshot
	}
	if errors.Is(err, errors.ErrUnsupported) {
		return fmt.Errorf("the device cannot discard: %w", syscall.EOPNOTSUPP)
	}
	return err
}
