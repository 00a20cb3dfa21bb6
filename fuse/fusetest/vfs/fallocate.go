package vfs

import (
	"math"
	"syscall"

	"golang.org/x/sys/unix"

	"ext4box/fuse"
)

// Fallocate is fallocate(2).
func (f *File) Fallocate(mode uint32, off, n int64) error {
	const known = unix.FALLOC_FL_KEEP_SIZE | unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_ZERO_RANGE
	punch, zero := mode&unix.FALLOC_FL_PUNCH_HOLE != 0, mode&unix.FALLOC_FL_ZERO_RANGE != 0
	switch {
	case off < 0 || n <= 0:
		return syscall.EINVAL
	case f.flags&syscall.O_ACCMODE == syscall.O_RDONLY:
		return syscall.EBADF
	case !f.in.regular():
		return syscall.ENODEV
	case mode&^(known|unix.FALLOC_FL_UNSHARE_RANGE|unix.FALLOC_FL_COLLAPSE_RANGE|unix.FALLOC_FL_INSERT_RANGE) != 0,
		punch && zero, punch && mode&unix.FALLOC_FL_KEEP_SIZE == 0:
		return syscall.EOPNOTSUPP
	case f.in.isImmutable(), f.in.isAppendOnly() && mode&^unix.FALLOC_FL_KEEP_SIZE != 0:
		return syscall.EPERM
	case mode&^known != 0: // known to the VFS, but not to FUSE
		return syscall.EOPNOTSUPP
	case off > math.MaxInt64-n || uint64(off+n) > f.fs.maxbytes:
		return syscall.EFBIG
	case f.in.isBad():
		return syscall.EIO
	case f.fs.unsupported(fuse.OpFallocate):
		return syscall.EOPNOTSUPP
	}
	done := f.fs.startWrite()
	defer done()
	return fail(f.fallocate(mode, uint64(off), uint64(n), punch || zero))
}

func (f *File) fallocate(mode uint32, off, n uint64, clears bool) syscall.Errno {
	in, c := f.in, f.caller()
	in.rwsem.Lock()
	defer in.rwsem.Unlock()
	in.mu.Lock()
	swap, immutable, appendOnly := in.swap, in.immutable, in.appendTo
	in.mu.Unlock()
	switch {
	case swap:
		return syscall.ETXTBSY
	case immutable, appendOnly && mode&^unix.FALLOC_FL_KEEP_SIZE != 0:
		return syscall.EPERM
	}
	in.invalidate.Lock()
	defer in.invalidate.Unlock()
	if clears && in.mapped() {
		unit := f.fs.folioSize()
		from, to := roundDown(off, unit), roundUp(off+n, unit)
		if errno := in.writePages(from, to-from); errno != 0 {
			return errno
		}
		in.punchPages(from, to-from)
	}
	in.modified()
	if in.mapped() {
		if errno := in.fs.task(c).removePrivileges(in); errno != 0 {
			return errno
		}
	}
	old, end := in.size(), off+n
	grows := mode&unix.FALLOC_FL_KEEP_SIZE == 0
	extends := grows && end > old
	if grows {
		// Also where the file is that long already: what the server has recorded may be less.
		in.mu.Lock()
		in.known.max = max(in.known.max, end)
		in.mu.Unlock()
	}
	in.freeing.Add(1)
	defer in.freeing.Add(-1)
	msg := fuse.FallocateIn{Fh: f.fh, Offset: off, Length: n, Mode: mode}
	if _, errno := f.fs.request(c, fuse.OpFallocate, in.nodeid, structure(&msg)); errno != 0 {
		if errno == syscall.ENOSYS {
			f.fs.without(fuse.OpFallocate)
			errno = syscall.EOPNOTSUPP
		}
		return errno
	}
	in.invalidateAttr()
	if !in.mapped() {
		if extends {
			in.setSize(end)
		}
		return 0
	}
	return in.allocated(c, off, end, old, clears, extends)
}

// allocated is what the kernel does when the server has done its part.
func (in *inode) allocated(c caller, off, end, old uint64, clears, extends bool) syscall.Errno {
	block := in.fs.blocksize
	from := roundDown(off, block)
	in.mappings.invalidate(from, roundUp(end, block)-from)
	if clears {
		if errno := in.zeroEdges(c, off, end, old); errno != 0 {
			return errno
		}
	}
	if !extends {
		return 0
	}
	in.mappings.invalidate(roundDown(end, block), toEOF)
	in.mu.Lock()
	in.confirmed(end)
	in.mu.Unlock()
	if errno := in.zeroRange(c, old, end-old); errno != 0 {
		return errno
	}
	in.setSize(end)
	if errno := in.writePages(0, toEOF); errno != 0 {
		return errno
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	in.disksize = end
	return 0
}

// zeroEdges zeroes the parts of blocks at the ends of [off, end), as far as they are in the file.
func (in *inode) zeroEdges(c caller, off, end, size uint64) syscall.Errno {
	block := in.fs.blocksize
	head := min(roundUp(off, block), end)
	tail := max(roundDown(end, block), head)
	for _, edge := range [][2]uint64{{off, head}, {tail, end}} {
		if to := min(edge[1], size); edge[0] < to {
			if errno := in.zeroRange(c, edge[0], to-edge[0]); errno != 0 {
				return errno
			}
		}
	}
	return 0
}
