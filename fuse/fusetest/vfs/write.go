package vfs

import (
	"math"
	"syscall"

	"ext4box/iomap"
)

// WriteAt writes as pwrite(2) does.
func (f *File) WriteAt(p []byte, off int64) (int, error) { return f.Pwritev2(p, off, 0) }

// Append writes to the end of the file, wherever that is when the lock is held.
func (f *File) Append(p []byte) (int, error) { return f.Pwritev2(p, 0, RWFAppend) }

// Pwritev2 writes with flags.
func (f *File) Pwritev2(p []byte, off int64, flags RWFlags) (int, error) {
	if off < 0 || off > math.MaxInt64-int64(len(p)) {
		return 0, syscall.EINVAL
	}
	if f.flags&syscall.O_ACCMODE == syscall.O_RDONLY {
		return 0, syscall.EBADF
	}
	if f.in.isBad() {
		return 0, syscall.EIO
	}
	if f.flags&syscall.O_APPEND != 0 {
		flags |= RWFAppend
	}
	done := f.fs.startWrite()
	defer done()
	n, errno := f.write(p, uint64(off), flags)
	if n > 0 {
		return n, fail(errno)
	}
	return 0, fail(errno)
}

// write does so until the data is where the flags want it.
func (f *File) write(p []byte, pos uint64, flags RWFlags) (int, syscall.Errno) {
	if !f.in.mapped() {
		return f.writeClassic(p, pos, flags)
	}
	n, needSync, errno := f.writeLocked(p, pos, flags)
	if n == 0 || errno != 0 {
		return n, errno
	}
	if needSync != noSync {
		if errno := f.fsync(needSync == dataSync); errno != 0 {
			return 0, errno
		}
	}
	return n, 0
}

// syncKind is how durable a write has to be before it returns.
type syncKind int

const (
	noSync syncKind = iota
	dataSync
	fullSync
)

func (f *File) syncKind(flags RWFlags) syncKind {
	f.in.mu.Lock()
	syncing := f.in.syncing
	f.in.mu.Unlock()
	switch {
	case f.flags&syscall.O_SYNC == syscall.O_SYNC || flags&RWFSync != 0 || syncing:
		return fullSync
	case f.flags&syscall.O_DSYNC != 0 || flags&RWFDsync != 0:
		return dataSync
	}
	return noSync
}

// writeLocked is the part under rwsem. It returns what remains to be synced.
func (f *File) writeLocked(p []byte, pos uint64, flags RWFlags) (int, syncKind, syscall.Errno) {
	in, c := f.in, f.caller()
	in.rwsem.Lock()
	defer in.rwsem.Unlock()
	if flags&RWFAppend != 0 {
		pos = in.size()
	}
	p, errno := f.writeChecks(p, pos, flags)
	if errno != 0 || len(p) == 0 {
		return 0, noSync, errno
	}
	if errno := in.fs.task(c).removePrivileges(in); errno != 0 {
		return 0, noSync, errno
	}
	in.modified()
	want := f.syncKind(flags)
	if f.direct() {
		n, left, errno := f.writeDirect(c, p, pos, flags, want)
		if errno != syscall.ENOTBLK {
			return n, left, errno
		}
		if flags&RWFAtomic != 0 {
			return 0, noSync, syscall.EIO
		}
		want = fullSync // what was meant to be on the device has to get there
	}
	op := iomap.Write | noWait(flags)
	if flags&RWFDontCache != 0 {
		op |= iomap.DontCache
	}
	n, errno := in.writeBuffered(c, p, pos, op)
	return int(n), want, errno
}

// writeChecks refuses what may not be written, and clips what reaches behind the largest file.
func (f *File) writeChecks(p []byte, pos uint64, flags RWFlags) ([]byte, syscall.Errno) {
	in := f.in
	in.mu.Lock()
	swap, appendOnly := in.swap, in.appendTo
	in.mu.Unlock()
	switch {
	case swap:
		return nil, syscall.ETXTBSY
	case appendOnly && flags&RWFAppend == 0:
		return nil, syscall.EPERM
	case pos >= f.fs.maxbytes && len(p) > 0:
		return nil, syscall.EFBIG
	}
	if flags&RWFAtomic != 0 {
		if errno := f.atomicChecks(p, pos); errno != 0 {
			return nil, errno
		}
	}
	return p[:min(uint64(len(p)), f.fs.maxbytes-pos)], 0
}

// writeBuffered stores into the page cache. rwsem is held.
func (in *inode) writeBuffered(c caller, p []byte, pos uint64, op iomap.Op) (uint64, syscall.Errno) {
	if size := in.size(); pos > size {
		if errno := in.zeroRange(c, size, pos-size); errno != 0 {
			return 0, errno
		}
	}
	n, errno := in.iterate(c, pos, uint64(len(p)), op, func(f *found, at, n uint64) (uint64, syscall.Errno) {
		part := p[at-pos:][:n]
		if f.target.typ == iomap.Inline {
			return in.writeInline(c, f, part, at)
		}
		if f.target.typ == iomap.Hole {
			in.fs.violate("node %d: a hole in answer to %s at %d: what is written there is lost", in.nodeid, opString(op), at)
		}
		return in.storeFolios(f, part, at)
	})
	in.invalidateAttr()
	if n > 0 {
		errno = 0
	}
	return n, errno
}

// storeFolios copies into the folios of one mapping.
func (in *inode) storeFolios(f *found, p []byte, pos uint64) (uint64, syscall.Errno) {
	fsize := in.fs.folioSize()
	done := uint64(0)
	for done < uint64(len(p)) {
		at := pos + done
		n := min(uint64(len(p))-done, fsize-at%fsize)
		fo := in.lockFolio(at/fsize, true)
		if !in.mappings.valid(&f.target) {
			in.unlock(fo)
			return done, errStale
		}
		errno := in.prepare(fo, f, at, n)
		if errno == 0 {
			fo.put(at%fsize, p[done:done+n], in.fs.blocksize)
		}
		in.unlock(fo)
		if errno != 0 {
			return done, errno
		}
		if in.grow(at + n) {
			f.target.flags |= iomap.SizeChanged
		}
		done += n
	}
	return done, 0
}

// prepare makes the blocks up to date of which a write to [pos, pos+n) of a locked folio leaves a part as
// it is.
func (in *inode) prepare(fo *folio, f *found, pos, n uint64) syscall.Errno {
	block, fsize := in.fs.blocksize, in.fs.folioSize()
	first, last := roundDown(pos, block), roundDown(pos+n-1, block)
	for _, at := range []uint64{first, last} {
		partial := at == first && pos%block != 0 || at == last && (pos+n)%block != 0
		if !partial || fo.isUptodate(at%fsize, at%fsize+block, block) {
			continue
		}
		data, errno := in.blocksAt(&f.source, at, block, in.size())
		if errno != 0 {
			return errno
		}
		fo.fill(int(at%fsize/block), block, data)
	}
	return 0
}

// zeroRange zeroes a range through the page cache: what has blocks with data. Holes and unwritten blocks
// are zero, unless something is cached over them, which is written first. rwsem is held.
func (in *inode) zeroRange(c caller, pos, n uint64) syscall.Errno {
	fsize := in.fs.folioSize()
	_, errno := in.iterate(c, pos, n, iomap.Zero, func(f *found, at, n uint64) (uint64, syscall.Errno) {
		switch f.source.typ {
		case iomap.Hole, iomap.Unwritten:
			if in.dirtyIn(at, n) {
				if errno := in.writePages(at, n); errno != 0 {
					return 0, errno
				}
				return 0, errStale
			}
			return n, 0
		case iomap.Inline:
			return in.writeInline(c, f, make([]byte, n), at)
		}
		for done := uint64(0); done < n; {
			pos := at + done
			part := min(n-done, fsize-pos%fsize)
			fo := in.lockFolio(pos/fsize, true)
			if !in.mappings.valid(&f.target) {
				in.unlock(fo)
				return done, errStale
			}
			errno := in.prepare(fo, f, pos, part)
			if errno == 0 {
				fo.put(pos%fsize, make([]byte, part), in.fs.blocksize)
			}
			in.unlock(fo)
			if errno != 0 {
				return done, errno
			}
			done += part
		}
		return n, 0
	})
	return errno
}

// writeClassic writes through with WRITE.
func (f *File) writeClassic(p []byte, pos uint64, flags RWFlags) (int, syscall.Errno) {
	in, c := f.in, f.caller()
	in.rwsem.Lock()
	defer in.rwsem.Unlock()
	if flags&RWFAppend != 0 {
		pos = in.size()
	}
	in.modified()
	done := 0
	for done < len(p) {
		part := p[done:min(len(p), done+f.fs.maxIO())]
		n, errno := in.writeRequest(c, f.fh, pos+uint64(done), part, f.flags)
		if errno != 0 || n == 0 {
			in.invalidateAttr()
			return done, errno
		}
		done += n
		in.grow(pos + uint64(done))
	}
	in.invalidateAttr()
	return done, 0
}
