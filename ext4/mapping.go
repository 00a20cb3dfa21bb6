package ext4

import (
	"errors"
	"fmt"
	"io"
	"syscall"

	"ext4box/ext4/internal/disk"
	"ext4box/ext4/internal/extent"
	"ext4box/iomap"
)

// Whence values of Seek, as lseek(2) has them.
const (
	SeekData = 3
	SeekHole = 4
)

// Begin maps the start of the range [off, off+n) of a regular file, in bytes.
// The mapping covers off and may be longer than asked for, but is no longer
// than what is backed alike. A write into a hole reserves blocks, and must be
// followed by IOEnd once the data is there, or by End. Errors: EISDIR,
// EINVAL for other inodes without data, ENOKEY for encrypted files, EUCLEAN.
func (fs *FS) Begin(ino Ino, off, n uint64, op iomap.Op) (iomap.Mapping, error) {
	return fs.beginAs(ino, off, n, op, false)
}

// limitedMapper is the mapper for callers for whom limits of quota hold.
type limitedMapper struct{ *FS }

// Begin is [FS.Begin]. EDQUOT: there is not even room for one block.
func (m limitedMapper) Begin(ino Ino, off, n uint64, op iomap.Op) (iomap.Mapping, error) {
	return m.beginAs(ino, off, n, op, true)
}

func (fs *FS) beginAs(ino Ino, off, n uint64, op iomap.Op, limited bool) (iomap.Mapping, error) {
	if op.Stores() {
		if m, ok := fs.beginOverwrite(ino, off, n, op); ok {
			return m, nil
		}
	}
	in, unlock, err := fs.lockToMap(ino, op, false)
	if err != nil {
		return iomap.Mapping{}, err
	}
	defer unlock()
	return fs.mapFor(in, off, n, op, limited)
}

// beginOverwrite is Begin for a write to blocks that have data already, if that is what it is. It changes
// nothing, so that any number of them go on at the same time.
func (fs *FS) beginOverwrite(ino Ino, off, n uint64, op iomap.Op) (m iomap.Mapping, ok bool) {
	if fs.w == nil || uint32(ino) == fs.sb.JournalIno || op&iomap.NoWait != 0 || fs.w.log.Usable() != nil {
		return m, false
	}
	in, err := fs.rlock(ino)
	if err != nil {
		return m, false
	}
	defer in.runlock()
	if !in.IsReg() || in.encrypted() || in.verity() || in.inline() || in.mayInline || off+n < off || off+n > fs.maxSize(in) {
		return m, false
	}
	run, err := fs.backing(in, off>>fs.geo.BlockBits)
	if err != nil || run.State != extent.Written {
		return m, false
	}
	return fs.toMapping(in, run), true
}

// lockToMap returns an inode locked as an operation on its mappings needs it, or
// locked for itself alone.
func (fs *FS) lockToMap(ino Ino, op iomap.Op, alone bool) (in *inode, unlock func(), err error) {
	try := op&iomap.NoWait != 0
	if op.Stores() {
		if in, err = fs.wlockIf(ino, try); err != nil {
			return nil, nil, err
		}
		return in, in.wunlock, nil
	}
	if in, err = fs.rlockIf(ino, try); err != nil {
		return nil, nil, err
	}
	if !alone {
		return in, in.runlock, nil
	}
	in.runlock()
	if in, err = fs.iget(ino); err != nil {
		return nil, nil, err
	}
	in.mu.Lock()
	unlock = func() {
		in.mu.Unlock()
		in.put()
	}
	if in.deleted {
		unlock()
		return nil, nil, fmt.Errorf("inode %d is not in use: %w", ino, syscall.ESTALE)
	}
	return in, unlock, nil
}

// mapFor is Begin of an inode that is locked.
func (fs *FS) mapFor(in *inode, off, n uint64, op iomap.Op, limited bool) (iomap.Mapping, error) {
	switch {
	case in.IsDir():
		return iomap.Mapping{}, syscall.EISDIR
	case !in.IsReg():
		return iomap.Mapping{}, syscall.EINVAL
	case in.encrypted() && op&iomap.Report == 0:
		return iomap.Mapping{}, fmt.Errorf("inode %d is encrypted: %w", in.ino, syscall.ENOKEY)
	}
	if op.Stores() {
		in.quota.limited = limited
		return fs.beginWrite(in, off, n, op)
	}
	return fs.mapping(in, off)
}

// mapping is Begin, for an operation that stores nothing, of any inode with
// content.
func (fs *FS) mapping(in *inode, off uint64) (iomap.Mapping, error) {
	if in.inline() {
		data, err := fs.inlineData(in)
		return iomap.Mapping{Length: max(in.size, off+1), Addr: iomap.NullAddr, Type: iomap.Inline, Inline: data}, err
	}
	run, err := fs.backing(in, off>>fs.geo.BlockBits)
	if err != nil {
		return iomap.Mapping{}, err
	}
	return fs.toMapping(in, run), nil
}

// backing is what backs a block of a file, where pending blocks count as
// unwritten ones.
func (fs *FS) backing(in *inode, blk uint64) (extent.Run, error) {
	run, err := fs.run(in, blk)
	if err != nil || run.State != extent.Hole || len(in.pending) == 0 {
		return run, err
	}
	if p := fs.pendingAt(in, blk); p.State != extent.Hole {
		return p, nil
	}
	lo, hi := run.Block, run.End()
	i := covering(in.pending, blk)
	if i > 0 {
		lo = max(lo, in.pending[i-1].End())
	}
	if i < len(in.pending) {
		hi = min(hi, in.pending[i].Block)
	}
	run.Clip(lo, hi)
	return run, nil
}

// toMapping expresses a run in bytes.
func (fs *FS) toMapping(in *inode, run extent.Run) iomap.Mapping {
	m := iomap.Mapping{
		Cookie: in.seq,
		Offset: run.Block << fs.geo.BlockBits,
		Length: run.Len << fs.geo.BlockBits,
		Addr:   iomap.NullAddr,
	}
	switch run.State {
	case extent.Written:
		m.Type, m.Addr = iomap.Mapped, run.Start<<fs.geo.BlockBits
	case extent.Unwritten:
		m.Type, m.Addr = iomap.Unwritten, run.Start<<fs.geo.BlockBits
	}
	return m
}

// run finds what backs a block of an inode that has a block map, with fast
// commits applied and what an interrupted truncate left behind taken away.
func (fs *FS) run(in *inode, blk uint64) (extent.Run, error) {
	end := uint64(1) << (63 - fs.geo.BlockBits)
	if blk >= extent.MaxBlocks {
		return extent.Run{Block: extent.MaxBlocks, Len: end - extent.MaxBlocks}, nil
	}
	m := fs.blockMap(in)
	run, err := m.Lookup(blk)
	if err != nil {
		return run, err
	}
	if fs.fc != nil {
		fs.applyFastCommit(in.ino, blk, &run)
		if run.State != extent.Hole && !fs.mayHave(run.Start, run.Len) {
			return run, disk.Corruptf(disk.InodeName(uint32(in.ino)), "a fast commit gives it blocks %d+%d, which are not for files", run.Start, run.Len)
		}
	}
	if fs.isOrphan(in.ino) {
		eof := (in.size + uint64(fs.geo.BlockSize) - 1) >> fs.geo.BlockBits
		switch {
		case blk >= eof:
			run = extent.Run{Block: eof, Len: end - eof}
		case run.End() > eof && run.State != extent.Hole:
			run.Clip(run.Block, eof)
		}
	}
	return run, nil
}

// ReadAt reads from a regular file through the mover, as io.ReaderAt does. It
// may overwrite the part of p behind the returned count.
func (fs *FS) ReadAt(ino Ino, p []byte, off int64) (int, error) {
	if fs.w != nil {
		in, err := fs.iget(ino)
		if err != nil {
			return 0, err
		}
		defer in.put()
		in.io.RLock()
		defer in.io.RUnlock()
		if err := in.current(); err != nil {
			return 0, err
		}
	}
	return fs.mover.ReadAt(ino, p, off)
}

// maxRuns is the number of runs of blocks that one call follows through a file.
// Files of so many are rare; in a hostile image a few shared indirect blocks
// make more of them than anybody can wait for.
const maxRuns = 1 << 20

// Seek finds the first data (SeekData) or hole (SeekHole) at or behind off, in
// bytes. Preallocated space that was never written counts as a hole, and there
// is one at the end of the file. ENXIO: off is beyond the end, or only a hole
// follows.
func (fs *FS) Seek(ino Ino, off int64, whence int) (int64, error) {
	in, err := fs.rlock(ino)
	if err != nil {
		return 0, err
	}
	size, dir := in.size, in.IsDir()
	in.runlock()
	switch {
	case whence != SeekData && whence != SeekHole:
		return 0, syscall.EINVAL
	case dir:
		return 0, syscall.EISDIR
	case off < 0 || uint64(off) >= size:
		return 0, syscall.ENXIO
	}
	budget := fs.geo.BlocksCount // a file cannot have more blocks than there are
	runs := 0
	for pos := uint64(off); pos < size; {
		if runs++; runs > maxRuns {
			// What is behind pos counts as data, which is always permitted.
			if whence == SeekData {
				return int64(pos), nil
			}
			break
		}
		m, err := fs.Begin(ino, pos, size-pos, iomap.Report)
		if err != nil {
			return 0, err
		}
		data := m.Type == iomap.Mapped || m.Type == iomap.Inline
		if data == (whence == SeekData) {
			return int64(pos), nil
		}
		if data {
			blocks := m.Length >> fs.geo.BlockBits
			if blocks > budget {
				return 0, disk.Corruptf(disk.InodeName(uint32(ino)), "maps more blocks than the filesystem has")
			}
			budget -= blocks
		}
		pos = m.Offset + m.Length
	}
	if whence == SeekData {
		return 0, syscall.ENXIO
	}
	return int64(size), nil
}

// readMapped fills p with what the mapping has at file offset pos; it must
// cover all of p.
func (fs *FS) readMapped(m *iomap.Mapping, p []byte, pos uint64) error {
	skip := pos - m.Offset
	switch m.Type {
	case iomap.Mapped:
		return readFull(fs.dev, p, int64(m.Addr+skip))
	case iomap.Inline:
		n := 0
		if skip < uint64(len(m.Inline)) {
			n = copy(p, m.Inline[skip:])
		}
		clear(p[n:])
	default:
		clear(p)
	}
	return nil
}

// readFull reads all of p; an end of the device is an error.
func readFull(dev io.ReaderAt, p []byte, off int64) error {
	n, err := dev.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = fmt.Errorf("the device is too short: %w", syscall.EIO)
	}
	return err
}

// readBlock reads a device block without going through the cache.
func (fs *FS) readBlock(p []byte, blk uint64) error {
	if err := readFull(fs.dev, p, int64(blk)<<fs.geo.BlockBits); err != nil {
		return fmt.Errorf("read block %d: %w", blk, err)
	}
	return nil
}

// inlineData returns the data that an inode stores in itself: in its block area
// and, if that does not suffice, in an attribute.
func (fs *FS) inlineData(in *inode) ([]byte, error) {
	if in.size <= disk.InodeBlockSize {
		return append([]byte(nil), in.Block[:in.size]...), nil
	}
	tail, err := fs.inlineTail(in)
	if err != nil {
		return nil, err
	}
	data := append(append(make([]byte, 0, disk.InodeBlockSize+len(tail)), in.Block[:]...), tail...)
	return data[:min(uint64(len(data)), in.size)], nil
}
