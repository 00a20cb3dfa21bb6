package vfs

import (
	"io"
	"syscall"
	"unsafe"

	"ext4box/fuse"
	"ext4box/iomap"
)

// ReadAt reads as pread(2) does, until p is full or the file ends, which is io.EOF.
func (f *File) ReadAt(p []byte, off int64) (int, error) { return f.Preadv2(p, off, 0) }

// RWFlags are the flags of preadv2(2) and pwritev2(2).
type RWFlags int

const (
	RWFDsync     RWFlags = 1 << iota // as if opened with O_DSYNC
	RWFSync                          // as if opened with O_SYNC
	RWFAppend                        // write to the end
	RWFNoWait                        // EAGAIN rather than waiting
	RWFAtomic                        // untorn
	RWFDontCache                     // do not keep in the page cache
)

// Preadv2 reads with flags.
func (f *File) Preadv2(p []byte, off int64, flags RWFlags) (int, error) {
	if off < 0 {
		return 0, syscall.EINVAL
	}
	if f.flags&syscall.O_ACCMODE == syscall.O_WRONLY {
		return 0, syscall.EBADF
	}
	if f.in.isBad() {
		return 0, syscall.EIO
	}
	var n int
	var errno syscall.Errno
	switch {
	case f.in.typ == syscall.S_IFDIR:
		return 0, syscall.EISDIR
	case !f.in.mapped():
		n, errno = f.readClassic(p, uint64(off))
	case f.direct():
		n, errno = f.readDirect(p, uint64(off), flags)
	default:
		n, errno = f.readBuffered(p, uint64(off))
	}
	f.in.accessed()
	if errno == 0 && n < len(p) {
		return n, io.EOF
	}
	return n, fail(errno)
}

// direct tells whether I/O on the file goes past the page cache.
func (f *File) direct() bool {
	return f.flags&syscall.O_DIRECT != 0 || f.open&fuse.OpenDirectIO != 0
}

func noWait(flags RWFlags) iomap.Op {
	if flags&RWFNoWait != 0 {
		return iomap.NoWait
	}
	return 0
}

// readBuffered reads through the page cache.
func (f *File) readBuffered(p []byte, pos uint64) (int, syscall.Errno) {
	in := f.in
	in.rwsem.RLock()
	defer in.rwsem.RUnlock()
	done := 0
	for done < len(p) {
		at := pos + uint64(done)
		size := in.size()
		if at >= size {
			break
		}
		n, errno := in.copyOut(p[done:min(uint64(len(p)), uint64(done)+size-at)], at)
		done += n
		if errno != 0 {
			return done, errno
		}
		if n > 0 {
			continue
		}
		in.invalidate.RLock()
		errno = in.readAhead(f.caller(), at, min(uint64(len(p)-done), size-at))
		in.invalidate.RUnlock()
		if errno != 0 {
			return done, errno
		}
	}
	return done, 0
}

// copyOut copies what the page cache has from pos on, up to the first block that it lacks.
func (in *inode) copyOut(p []byte, pos uint64) (int, syscall.Errno) {
	fsize, block := in.fs.folioSize(), in.fs.blocksize
	done := 0
	for done < len(p) {
		at := pos + uint64(done)
		fo := in.peek(at / fsize)
		if fo == nil {
			break
		}
		from := at % fsize
		fo.mu.Lock()
		to := from
		for to < fsize && fo.uptodate[to/block] {
			to = (to/block + 1) * block
		}
		n := copy(p[done:], fo.data[from:to])
		fo.mu.Unlock()
		if n == 0 {
			break
		}
		done += n
	}
	return done, 0
}

// readAhead reads the folios that a range lacks, from the first to before the next one that is there.
// invalidate is held.
func (in *inode) readAhead(c caller, pos, n uint64) syscall.Errno {
	fsize := in.fs.folioSize()
	var locked []*folio
	for i := pos / fsize; i*fsize < pos+n; i++ {
		if len(locked) > 0 && in.peek(i) != nil {
			break
		}
		locked = append(locked, in.lockFolio(i, true))
	}
	errno := in.readFolios(c, locked)
	for _, fo := range locked {
		in.unlock(fo)
	}
	return errno
}

// readFolios makes consecutive locked folios up to date.
func (in *inode) readFolios(c caller, list []*folio) syscall.Errno {
	fsize, block := in.fs.folioSize(), in.fs.blocksize
	first := in.pos(list[0])
	_, errno := in.iterate(c, first, uint64(len(list))*fsize, iomap.Read, func(f *found, pos, n uint64) (uint64, syscall.Errno) {
		if f.target.typ == iomap.Inline {
			return in.readInlineFolios(c, list, f, pos, n)
		}
		size := in.size()
		for at := pos; at < pos+n; {
			fo := list[(at-first)/fsize]
			end := min(pos+n, in.pos(fo)+fsize)
			if fo.isUptodate(at%fsize, at%fsize+(end-at), block) {
				at = end
				continue
			}
			data, errno := in.blocksAt(&f.target, at, end-at, size)
			if errno != 0 {
				return at - pos, errno
			}
			for b := uint64(0); b < end-at; b += block {
				var one []byte
				if data != nil {
					one = data[b : b+block]
				}
				fo.fill(int((at%fsize+b)/block), block, one)
			}
			at = end
		}
		return n, 0
	})
	return errno
}

// blocksAt reads whole blocks by a mapping; nil stands for zeros.
func (in *inode) blocksAt(m *mapping, pos, n, size uint64) ([]byte, syscall.Errno) {
	if m.typ != iomap.Mapped || m.flags&iomap.New != 0 || pos >= size {
		return nil, 0
	}
	// Blocks behind the one with the end of the file are not read.
	data := make([]byte, n)
	inside := min(n, roundUp(size, in.fs.blocksize)-pos)
	return data, in.readDevice(m, data[:inside], pos)
}

// accessed takes note of a read, as relatime does: if the file was not read since it last changed.
func (in *inode) accessed() {
	in.mu.Lock()
	defer in.mu.Unlock()
	a := &in.attr
	if !in.ownsTimes() || !in.flags.iomap {
		return
	}
	if newer(a.Mtime, a.MtimeNsec, a.Atime, a.AtimeNsec) || newer(a.Ctime, a.CtimeNsec, a.Atime, a.AtimeNsec) {
		a.Atime, a.AtimeNsec = in.fs.now()
		in.timesOut = true
	}
}

// newer tells whether the time a is not before b.
func newer(a uint64, an uint32, b uint64, bn uint32) bool {
	return int64(a) > int64(b) || a == b && an >= bn
}

// readClassic reads with READ.
func (f *File) readClassic(p []byte, pos uint64) (int, syscall.Errno) {
	f.in.rwsem.RLock()
	defer f.in.rwsem.RUnlock()
	done := 0
	for done < len(p) {
		n := min(len(p)-done, f.fs.maxIO())
		if f.fs.flags&fuse.InitWritebackCache != 0 {
			// The kernel knows the size and does not ask for more.
			if size := f.in.size(); pos+uint64(done) >= size {
				break
			} else {
				n = int(min(uint64(n), size-pos-uint64(done)))
			}
		}
		got, errno := f.in.readRequest(f.caller(), f.fh, pos+uint64(done), p[done:done+n])
		done += got
		if errno != 0 || got == 0 {
			return done, errno
		}
		if got < n {
			break
		}
	}
	return done, 0
}

// readRequest does one READ.
func (in *inode) readRequest(c caller, fh, pos uint64, p []byte) (int, syscall.Errno) {
	msg := fuse.ReadIn{Fh: fh, Offset: pos, Size: uint32(len(p))}
	payload, errno := in.fs.request(c, fuse.OpRead, in.nodeid, structure(&msg))
	if errno != 0 {
		return 0, errno
	}
	if len(payload) > len(p) {
		in.fs.violate("READ of node %d: %d bytes for %d", in.nodeid, len(payload), len(p))
		return 0, syscall.EIO
	}
	return copy(p, payload), 0
}

// writeRequest does one WRITE.
func (in *inode) writeRequest(c caller, fh, pos uint64, p []byte, flags int) (int, syscall.Errno) {
	msg := fuse.WriteIn{Fh: fh, Offset: pos, Size: uint32(len(p)), Flags: uint32(flags)}
	if in.fs.flags&fuse.InitHandleKillprivV2 != 0 && !in.mapped() && !in.fs.task(c).privileged() {
		msg.WriteFlags = fuse.WriteKillSuidgid
	}
	payload, errno := in.fs.request(c, fuse.OpWrite, in.nodeid, structure(&msg), p)
	if errno != 0 {
		return 0, errno
	}
	n := int(decode[uint32](payload))
	if len(payload) != int(unsafe.Sizeof([2]uint32{})) || n > len(p) {
		in.fs.violate("WRITE of node %d: %d bytes for %d", in.nodeid, n, len(p))
		return 0, syscall.EIO
	}
	return n, 0
}

// maxIO is the largest READ or WRITE.
func (fs *FS) maxIO() int {
	return min(int(fs.init.MaxWrite), max(1, int(fs.init.MaxPages))*fs.cfg.PageSize)
}

func roundUp(n, to uint64) uint64   { return (n + to - 1) / to * to }
func roundDown(n, to uint64) uint64 { return n / to * to }
