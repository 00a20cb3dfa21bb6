package iomap

import (
	"fmt"
	"io"
	"syscall"
)

// Mover moves file data between memory and a device along the mappings of a
// Mapper. It has no state of its own; all methods may be called concurrently.
type Mover struct {
	Mapper Mapper
	Dev    io.ReaderAt // what Mapping.Addr counts on
	Align  uint64      // power of two: the device's preferred granularity
	Block  uint64      // the size of the file's blocks; needed for writing
	Behind bool        // data need not have reached the device, if it can be a BehindWriter
}

// ReadAt reads the file's bytes from off on into p, up to the end of the file,
// where it returns io.EOF as io.ReaderAt does. Bytes of p behind the returned
// count may have been overwritten.
//
// It is free of copies when off and the address of p are aligned to the device
// and p has room for the whole last block.
func (m *Mover) ReadAt(ino Ino, p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, syscall.EINVAL
	}
	size, err := m.Mapper.FileSize(ino)
	if err != nil {
		return 0, err
	}
	pos := uint64(off)
	if pos >= size {
		return 0, io.EOF
	}
	eof := error(nil)
	want := uint64(len(p))
	if want > size-pos {
		want, eof = size-pos, io.EOF
	}
	// Reading the last block whole, when there is room, keeps the device I/O
	// aligned; the mapping always covers whole blocks.
	room := min((want+m.Align-1)&^(m.Align-1), uint64(len(p)))
	done := uint64(0)
	for done < want {
		n, err := m.readMapping(ino, p[done:room], pos+done)
		if err != nil {
			return int(min(done, want)), err
		}
		done += uint64(n)
	}
	return int(want), eof
}

// readMapping reads what one mapping provides at pos, at least one byte.
func (m *Mover) readMapping(ino Ino, p []byte, pos uint64) (int, error) {
	mp, err := m.Mapper.Begin(ino, pos, uint64(len(p)), Read)
	if err != nil {
		return 0, err
	}
	if !mp.Contains(pos) {
		return 0, fmt.Errorf("inode %d: mapping %d+%d does not cover offset %d: %w", ino, mp.Offset, mp.Length, pos, syscall.EIO)
	}
	skip := pos - mp.Offset
	n := int(min(uint64(len(p)), mp.Length-skip))
	switch mp.Type {
	case Hole, Unwritten, Delalloc:
		clear(p[:n])
	case Inline:
		// What the inode does not store reads as zeros.
		copied := 0
		if skip < uint64(len(mp.Inline)) {
			copied = copy(p[:n], mp.Inline[skip:])
		}
		clear(p[copied:n])
	case Mapped:
		got, err := m.Dev.ReadAt(p[:n], int64(mp.Addr+skip))
		if got < n {
			if err == nil || err == io.EOF {
				err = fmt.Errorf("the device is too short: %w", syscall.EIO)
			}
			return 0, fmt.Errorf("inode %d: read data at device offset %d: %w", ino, mp.Addr+skip, err)
		}
	}
	return n, nil
}
