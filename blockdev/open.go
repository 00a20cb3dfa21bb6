package blockdev

import (
	"fmt"
	"math"
	"os"
	"syscall"
	"time"
)

// Lock says who else may use a device while it is open.
type Lock int

const (
	// LockNone: everybody. For looking at an image that somebody else has.
	LockNone Lock = iota

	// LockShared: other readers. Block devices know no such lock, so there it
	// is the same as LockExclusive: a device that the kernel has mounted for
	// writing must not be read as if it stood still.
	LockShared

	// LockExclusive: nobody.
	LockExclusive
)

// DefaultLockWait is how long opening waits for a lock when Options do not say.
// A server that has just been unmounted may need a moment to let go.
const DefaultLockWait = time.Second

// Options say how to open a device. The zero value opens all of it for reading
// and writing, without a lock.
type Options struct {
	ReadOnly bool

	// Offset and SizeLimit select a window of the file, in bytes. A SizeLimit
	// of 0 means the rest; one that reaches past the end is cut.
	Offset    int64
	SizeLimit int64

	// Partition selects a partition of the table in that window by its number
	// as Linux counts them, from 1. 0 selects the whole window.
	Partition int

	// SectorSize is the unit of the partition table in bytes. 0 means that of
	// the block device; on an image file both 512 and 4096 are tried.
	SectorSize int

	// AnySector has both tried on a block device too, which is an image behind a
	// loop device: its sectors are not those of the disk that the image is of.
	AnySector bool

	Lock     Lock
	LockWait time.Duration // 0 means DefaultLockWait, negative not to wait

	// Name is what errors call the device. Empty means the name of the file,
	// which a descriptor from another process has lost.
	Name string

	// Buffered switches direct I/O off.
	Buffered bool

	// Behind is the file once more, from [Reopen]: [File.WriteBehind] needs it. The device
	// closes it.
	Behind *os.File
}

// Open opens the image file or block device at path. It is [OpenFile] followed
// by [NewFile].
//
// Errors name the path and the cause in one sentence and keep the errno: EBUSY
// for a device in use, EINVAL for something that is no device or for options
// that do not fit it, ENXIO for a partition that does not exist, EUCLEAN for a
// damaged partition table.
func Open(path string, o Options) (*File, error) {
	f, err := OpenFile(path, o)
	if err != nil {
		return nil, err
	}
	o.Lock = LockNone // OpenFile has it
	dev, err := NewFile(f, o)
	if err != nil {
		f.Close()
		return nil, err
	}
	return dev, nil
}

// newFile builds a File from a handle whose geometry is known. It is what
// remains of opening when the operating system has been asked everything.
func newFile(h handle, name string, g geometry, o Options) (*File, error) {
	f := &File{
		h: h, name: name, ro: o.ReadOnly,
		length: g.size, sector: g.sector, block: g.block,
		ioAlign: 1, mem: 1,
	}
	if err := f.narrow(o); err != nil {
		return nil, err
	}
	if o.Partition != 0 {
		// The table is read buffered, before it is known where the partition
		// starts and so whether direct I/O is possible.
		if err := f.selectPartition(o); err != nil {
			return nil, err
		}
	}
	if f.directPossible(g) && h.setDirect(true) == nil {
		f.ioAlign, f.mem = g.ioAlign, g.mem
		f.direct.Store(true)
	}
	return f, nil
}

// narrow applies Offset and SizeLimit.
func (f *File) narrow(o Options) error {
	switch {
	case o.Offset < 0 || o.SizeLimit < 0:
		return causef(syscall.EINVAL, "%s: offset and size limit must not be negative", f.name)
	case o.Offset > 0 && o.Offset >= f.length:
		return causef(syscall.EINVAL, "%s: offset %d is past its end at %d; check the offset", f.name, o.Offset, f.length)
	}
	f.base = o.Offset
	f.length -= o.Offset
	if o.SizeLimit > 0 {
		f.length = min(f.length, o.SizeLimit)
	}
	return nil
}

// directPossible tells whether direct I/O makes sense for the window and cannot
// touch anything outside of it.
func (f *File) directPossible(g geometry) bool {
	unit := int64(g.ioAlign)
	if unit == 0 || f.base%unit != 0 {
		return false
	}
	return f.ro || (f.base+f.length)%unit == 0
}

// selectPartition makes f the partition o.Partition of what it is.
func (f *File) selectPartition(o Options) error {
	sector := o.SectorSize
	if sector == 0 {
		if !o.AnySector {
			sector = f.sector
		}
	} else if sector < 512 || !validAlign(sector) {
		return causef(syscall.EINVAL, "%s: sector size %d is not a power of two from 512 to %d", f.name, sector, maxAlign)
	}
	parts, damage := readTable(f, sector)
	for i := range parts {
		p := &parts[i]
		if p.Number != o.Partition {
			continue
		}
		if p.Extended {
			return causef(syscall.EINVAL, "%s: partition %d is an extended partition, which only holds others; use a number from 5", f.name, p.Number)
		}
		if p.Offset > f.length || p.Size > f.length-p.Offset {
			return causef(syscall.EINVAL, "%s: partition %d ends at byte %d, but there are only %d; the image is incomplete, or its sector size is not %d",
				f.name, p.Number, saturate(p.Offset, p.Size), f.length, p.SectorSize)
		}
		f.name = fmt.Sprintf("%s@p%d", f.name, p.Number)
		f.base += p.Offset
		f.length = p.Size
		f.sector = p.SectorSize
		return nil
	}
	if damage != nil {
		return nameError(f.name, damage)
	}
	return causef(syscall.ENXIO, "%s: no partition %d; there %s", f.name, o.Partition, listNumbers(parts))
}

// listNumbers says which partitions there are.
func listNumbers(parts []Partition) string {
	const most = 12
	var s string
	n := 0
	for _, p := range parts {
		if p.Extended {
			continue
		}
		if n++; n > most {
			return "are " + s + " and more"
		}
		if s != "" {
			s += ", "
		}
		s += fmt.Sprint(p.Number)
	}
	switch n {
	case 0:
		return "are none"
	case 1:
		return "is only " + s
	}
	return "are " + s
}

func saturate(a, b int64) int64 {
	if a > math.MaxInt64-b {
		return math.MaxInt64
	}
	return a + b
}
