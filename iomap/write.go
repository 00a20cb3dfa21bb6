package iomap

import (
	"fmt"
	"io"
	"syscall"
)

// Writer is what a Mapper for writing can do beside.
type Writer interface {
	// IOEnd says that data is on the device for the range [off, off+n), in the
	// blocks that Begin gave for it.
	IOEnd(ino Ino, off, n uint64) error

	// WriteInline stores data at off of a file, inside of the Inline mapping
	// that Begin gave for it.
	WriteInline(ino Ino, p []byte, off uint64) error
}

// NewWriter is implemented by devices that want to know when blocks are written for the first time since they
// were free.
type NewWriter interface {
	WriteNew(p []byte, off int64) (int, error)
}

// BehindWriter is implemented by devices that can take data before it has reached them, and read it back.
type BehindWriter interface {
	WriteBehind(p []byte, off int64) (int, error)
}

// WriteAt writes p to the file at off, block for block as the mapper backs it,
// and tells the mapper. Blocks that did not hold data before are filled up with
// zeros, so nobody else may write to the same block at the same time unless both
// write whole blocks. The Mapper must be a [Writer], and Dev an io.WriterAt.
func (m *Mover) WriteAt(ino Ino, p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, syscall.EINVAL
	}
	done := 0
	for done < len(p) {
		n, err := m.writeMapping(ino, p[done:], uint64(off)+uint64(done))
		done += n
		if err != nil {
			return done, err
		}
	}
	return done, nil
}

// writeMapping writes what one mapping takes at pos, at least one byte.
func (m *Mover) writeMapping(ino Ino, p []byte, pos uint64) (int, error) {
	mp, err := m.Mapper.Begin(ino, pos, uint64(len(p)), Write)
	if err != nil {
		return 0, err
	}
	if mp.Type == Inline && mp.Contains(pos) {
		p = p[:min(uint64(len(p)), mp.Length-(pos-mp.Offset))]
		if err := m.Mapper.(Writer).WriteInline(ino, p, pos); err != nil {
			return 0, err
		}
		return len(p), nil
	}
	if !mp.Contains(pos) || mp.Type != Mapped && mp.Type != Unwritten {
		return 0, fmt.Errorf("inode %d: mapping %d+%d of type %d cannot be written at offset %d: %w", ino, mp.Offset, mp.Length, mp.Type, pos, syscall.EIO)
	}
	skip := pos - mp.Offset
	n := min(uint64(len(p)), mp.Length-skip)
	data, at := p[:n], mp.Addr+skip
	if mp.Type == Unwritten {
		if head, tail := pos%m.Block, (m.Block-(pos+n)%m.Block)%m.Block; head+tail > 0 {
			data = make([]byte, head+n+tail)
			copy(data[head:], p[:n])
			at -= head
		}
	}
	if got, err := m.writeDevice(data, int64(at), mp.Type == Unwritten); err != nil {
		return 0, fmt.Errorf("inode %d: write data at device offset %d, after %d bytes: %w", ino, at, got, err)
	}
	if mp.Type == Unwritten || mp.Flags&Dirty != 0 {
		return int(n), m.Mapper.(Writer).IOEnd(ino, pos, n)
	}
	size, err := m.Mapper.FileSize(ino)
	if err != nil || pos+n <= size {
		return int(n), err
	}
	return int(n), m.Mapper.(Writer).IOEnd(ino, pos, n)
}

// writeDevice writes to the device, in the way that suits.
func (m *Mover) writeDevice(p []byte, off int64, fresh bool) (int, error) {
	if m.Behind {
		if w, ok := m.Dev.(BehindWriter); ok {
			return w.WriteBehind(p, off)
		}
	}
	if fresh {
		if w, ok := m.Dev.(NewWriter); ok {
			return w.WriteNew(p, off)
		}
	}
	return m.Dev.(io.WriterAt).WriteAt(p, off)
}
