package vfs

import (
	"syscall"

	"golang.org/x/sys/unix"

	"ext4box/fuse"
	"ext4box/iomap"
)

// Extent is what FIEMAP tells of a piece of a file.
type Extent struct {
	Offset, Length uint64
	Addr           uint64 // on the device; 0 where there is none
	Dev            uint32
	Type           iomap.Type // Mapped, Unwritten, Delalloc or Inline
	Shared, Merged bool
}

// Fiemap is the ioctl FIEMAP; with sync dirty data is written first.
func (f *File) Fiemap(off, n uint64, sync bool) ([]Extent, error) {
	in := f.in
	if !in.mapped() {
		return nil, syscall.EOPNOTSUPP
	}
	if off >= f.fs.maxbytes {
		return nil, syscall.EFBIG
	}
	if sync {
		if errno := in.writePages(0, toEOF); errno != 0 {
			return nil, errno
		}
	}
	in.rwsem.RLock()
	defer in.rwsem.RUnlock()
	var list []Extent
	_, errno := in.iterate(f.caller(), off, min(n, f.fs.maxbytes-off), iomap.Report, func(f *found, at, n uint64) (uint64, syscall.Errno) {
		m := f.target
		// Extents are told whole, though asked for from the middle.
		if m.typ != iomap.Hole && (len(list) == 0 || list[len(list)-1].Offset != m.offset) {
			e := Extent{Offset: m.offset, Length: m.length, Dev: m.dev, Type: m.typ, Shared: m.flags&iomap.Shared != 0, Merged: m.flags&iomap.Merged != 0}
			if m.addr != fuse.IomapNullAddr {
				e.Addr = m.addr
			}
			list = append(list, e)
		}
		return n, 0
	})
	return list, fail(errno)
}

// SeekData is lseek(2) with SEEK_DATA, SeekHole with SEEK_HOLE.
func (f *File) SeekData(off int64) (int64, error) { return f.seek(off, unix.SEEK_DATA) }

// SeekHole is lseek(2) with SEEK_HOLE.
func (f *File) SeekHole(off int64) (int64, error) { return f.seek(off, unix.SEEK_HOLE) }

func (f *File) seek(off int64, whence uint32) (int64, error) {
	in, c := f.in, f.caller()
	if !in.mapped() {
		return f.seekRequest(off, whence)
	}
	in.rwsem.RLock()
	defer in.rwsem.RUnlock()
	size := in.size()
	if off < 0 || uint64(off) >= size {
		return 0, syscall.ENXIO
	}
	at, hit := uint64(off), false
	_, errno := in.iterate(c, at, size-at, iomap.Report, func(m *found, pos, n uint64) (uint64, syscall.Errno) {
		where, ok := in.seekIn(&m.target, pos, n, whence == unix.SEEK_DATA)
		if ok {
			at, hit = where, true
			return 0, 0
		}
		return n, 0
	})
	switch {
	case errno == syscall.ENOSYS:
		return f.seekRequest(off, whence)
	case errno != 0:
		return 0, errno
	case hit:
		return int64(at), nil
	case whence == unix.SEEK_HOLE:
		return int64(size), nil
	}
	return 0, syscall.ENXIO
}

// seekIn finds data, or a hole, in the range of a mapping. What is cached over unwritten blocks is data.
func (in *inode) seekIn(m *mapping, pos, n uint64, data bool) (uint64, bool) {
	switch m.typ {
	case iomap.Hole:
		return pos, !data
	case iomap.Unwritten:
		for at := pos; at < pos+n; at = roundDown(at, in.fs.blocksize) + in.fs.blocksize {
			if in.cached(at) == data {
				return at, true
			}
		}
		return 0, false
	}
	return pos, data
}

// cached tells whether the block at pos is in the page cache.
func (in *inode) cached(pos uint64) bool {
	fsize := in.fs.folioSize()
	fo := in.peek(pos / fsize)
	return fo != nil && fo.isUptodate(pos%fsize, pos%fsize+1, in.fs.blocksize)
}

// seekRequest asks with LSEEK.
func (f *File) seekRequest(off int64, whence uint32) (int64, error) {
	payload, errno := f.fs.request(f.caller(), fuse.OpLseek, f.in.nodeid, structure(&fuse.LseekIn{Fh: f.fh, Offset: uint64(off), Whence: whence}))
	if errno != 0 {
		return 0, errno
	}
	return int64(decode[fuse.LseekOut](payload).Offset), nil
}

// Bmap is the ioctl FIBMAP: the block of the device behind a block of the file, 0 if there is none.
// It works where the filesystem is mounted on a block device.
func (f *File) Bmap(block uint64) (uint64, error) {
	in := f.in
	if !f.fs.cfg.Fuseblk || !in.mapped() {
		return 0, syscall.EINVAL
	}
	if errno := in.writePages(0, toEOF); errno != 0 {
		return 0, errno
	}
	in.rwsem.RLock()
	defer in.rwsem.RUnlock()
	pos := block * f.fs.blocksize
	m, errno := in.mapAt(f.caller(), pos, f.fs.blocksize, iomap.Report)
	if errno != 0 || m.target.typ != iomap.Mapped {
		return 0, fail(errno)
	}
	return (m.target.addr + pos - m.target.offset) / f.fs.blocksize, nil
}
