package vfs

import (
	"syscall"

	"ext4box/fuse"
)

// CopyRange is copy_file_range(2): by the server if it can, through the page cache otherwise.
func (f *File) CopyRange(off int64, to *File, toOff int64, n int) (int, error) {
	switch {
	case f.in.typ == syscall.S_IFDIR || to.in.typ == syscall.S_IFDIR:
		return 0, syscall.EISDIR
	case !f.in.regular() || !to.in.regular():
		return 0, syscall.EINVAL
	case f.flags&syscall.O_ACCMODE == syscall.O_WRONLY, !to.writable(), to.flags&syscall.O_APPEND != 0:
		return 0, syscall.EBADF
	case to.in.isImmutable():
		return 0, syscall.EPERM
	case f.in.isSwap() || to.in.isSwap():
		return 0, syscall.ETXTBSY
	case off < 0 || toOff < 0 || n < 0:
		return 0, syscall.EINVAL
	}
	if size := int64(f.in.size()); off+int64(n) > size {
		n = int(max(0, size-off))
	}
	if f.in == to.in && off < toOff+int64(n) && toOff < off+int64(n) {
		return 0, syscall.EINVAL
	}
	if n == 0 {
		return 0, nil
	}
	if !f.fs.unsupported(fuse.OpCopyFileRange) {
		done, errno := f.copyRequest(uint64(off), to, uint64(toOff), uint64(n))
		switch errno {
		case syscall.ENOSYS:
			f.fs.without(fuse.OpCopyFileRange)
		case syscall.EOPNOTSUPP:
		default:
			return done, fail(errno)
		}
	}
	buf := make([]byte, n)
	n, err := f.ReadAt(buf, off)
	if n == 0 {
		return 0, err
	}
	return to.WriteAt(buf[:n], toOff)
}

// copyRequest has the server copy what it finds on the device.
func (f *File) copyRequest(off uint64, to *File, toOff, n uint64) (int, syscall.Errno) {
	done := f.fs.startWrite()
	defer done()
	c, block := f.caller(), f.fs.blocksize
	f.in.rwsem.Lock()
	errno := f.in.writePages(off, n)
	f.in.rwsem.Unlock()
	if errno != 0 {
		return 0, errno
	}
	out := to.in
	out.rwsem.Lock()
	defer out.rwsem.Unlock()
	if out.mapped() {
		if errno := f.task().removePrivileges(out); errno != 0 {
			return 0, errno
		}
	}
	out.modified()
	if errno := out.writePages(toOff, n); errno != 0 {
		return 0, errno
	}
	out.mu.Lock()
	out.known.max = max(out.known.max, toOff+n)
	out.mu.Unlock()
	msg := fuse.CopyFileRangeIn{FhIn: f.fh, OffIn: off, NodeIDOut: out.nodeid, FhOut: to.fh, OffOut: toOff, Len: n}
	payload, errno := f.fs.request(c, fuse.OpCopyFileRange, f.in.nodeid, structure(&msg))
	if errno != 0 {
		return 0, errno
	}
	copied := uint64(decode[uint32](payload))
	if copied > n {
		f.fs.violate("COPY_FILE_RANGE of node %d: %d bytes for %d", f.in.nodeid, copied, n)
		return 0, syscall.EIO
	}
	end := toOff + copied
	if out.mapped() {
		from := roundDown(toOff, block)
		out.mappings.invalidate(from, roundUp(end, block)-from)
		unit := f.fs.folioSize()
		out.punchPages(roundDown(toOff, unit), roundUp(end, unit)-roundDown(toOff, unit))
	}
	out.mu.Lock()
	out.confirmed(min(end, out.known.max))
	out.mu.Unlock()
	out.grow(end)
	out.invalidateAttr()
	return int(copied), 0
}

// DontNeed is posix_fadvise(2) with POSIX_FADV_DONTNEED of the whole file.
func (f *File) DontNeed() { f.in.dropPages(0, toEOF) }
