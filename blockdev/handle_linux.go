package blockdev

import (
	"os"
	"runtime"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// osHandle is a descriptor. Its methods use the descriptor's number: os.File
// completes short reads by itself, which direct I/O does not survive. The
// number becomes invalid with close, so that a request made too late, against
// the contract, fails with EBADF and does not reach another file.
type osHandle struct {
	f     *os.File
	num   atomic.Int64
	block bool
}

func newOSHandle(f *os.File, block bool) *osHandle {
	h := &osHandle{f: f, block: block}
	h.num.Store(int64(f.Fd()))
	return h
}

func (h *osHandle) fd() uintptr { return uintptr(h.num.Load()) }

func (h *osHandle) pread(p []byte, off int64) (int, error) {
	return h.retry(func() (int, error) { return unix.Pread(int(h.num.Load()), p, off) })
}

func (h *osHandle) pwrite(p []byte, off int64) (int, error) {
	return h.retry(func() (int, error) { return unix.Pwrite(int(h.num.Load()), p, off) })
}

func (h *osHandle) pwritev(p [][]byte, off int64) (int, error) {
	return h.retry(func() (int, error) { return unix.Pwritev(int(h.num.Load()), p, off) })
}

func (h *osHandle) datasync() error {
	_, err := h.retry(func() (int, error) { return 0, unix.Fdatasync(int(h.num.Load())) })
	return err
}

func (h *osHandle) discard(off, n int64) error {
	_, err := h.retry(func() (int, error) {
		if h.block {
			return 0, blkDiscard(int(h.num.Load()), off, n)
		}
		return 0, unix.Fallocate(int(h.num.Load()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n)
	})
	if err == unix.ENOTTY || err == unix.ENOSYS {
		return unix.EOPNOTSUPP
	}
	return err
}

// blkDiscard is the ioctl BLKDISCARD, which takes offset and length in bytes.
func blkDiscard(fd int, off, n int64) error {
	arg := [2]uint64{uint64(off), uint64(n)}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.BLKDISCARD, uintptr(unsafe.Pointer(&arg)))
	if errno != 0 {
		return errno
	}
	return nil
}

// size is the length of the file now. Seeking tells it for block devices too
// and, unlike their ioctl, is allowed in the tightest sandbox.
func (h *osHandle) size() (int64, error) {
	return unix.Seek(int(h.num.Load()), 0, unix.SEEK_END)
}

func (h *osHandle) setDirect(on bool) error {
	fd := h.fd()
	flags, err := unix.FcntlInt(fd, unix.F_GETFL, 0)
	if err != nil {
		return err
	}
	want := flags &^ unix.O_DIRECT
	if on {
		want |= unix.O_DIRECT
	}
	if want != flags {
		_, err = unix.FcntlInt(fd, unix.F_SETFL, want)
	}
	return err
}

func (h *osHandle) close() error {
	h.num.Store(-1)
	return h.f.Close()
}

// retry calls a system call until it is not interrupted. The count is of no
// meaning beside an error.
func (h *osHandle) retry(call func() (int, error)) (int, error) {
	for {
		n, err := call()
		if err != unix.EINTR {
			runtime.KeepAlive(h.f)
			return n, err
		}
	}
}

// probe finds out the geometry of the file and, unless buffered, how to do
// direct I/O on it. It leaves direct I/O switched off.
func (h *osHandle) probe(st *unix.Stat_t, buffered bool) (geometry, error) {
	g := geometry{block: h.block, size: st.Size}
	fd := int(h.fd())
	if err := h.setDirect(false); err != nil {
		return g, err
	}
	if h.block {
		size, err := h.size()
		if err != nil {
			return g, err
		}
		g.size = size
		// Every Linux block device knows its sector size; 512 is what the
		// kernel itself falls back to.
		g.sector = 512
		if s, err := unix.IoctlGetUint32(fd, unix.BLKSSZGET); err == nil && validAlign(int(s)) {
			g.sector = int(s)
		}
	}
	if buffered {
		return g, nil
	}
	g.ioAlign, g.mem = h.directAlign(g)
	return g, nil
}

// directAlign returns the alignment that direct I/O asks of offsets and of
// addresses, zeros when there is no direct I/O.
func (h *osHandle) directAlign(g geometry) (io, mem int) {
	var stx unix.Statx_t
	err := unix.Statx(int(h.fd()), "", unix.AT_EMPTY_PATH, unix.STATX_DIOALIGN, &stx)
	if err == nil && stx.Mask&unix.STATX_DIOALIGN != 0 {
		io, mem = int(stx.Dio_offset_align), int(stx.Dio_mem_align)
		if validAlign(io) && validAlign(mem) && mem <= BufferAlign {
			return io, mem
		}
		return 0, 0
	}
	if g.block {
		return g.sector, min(g.sector, BufferAlign)
	}
	if h.inMemory() || h.setDirect(true) != nil {
		return 0, 0
	}
	io = h.tryDirect(g.size)
	if h.setDirect(false) != nil {
		return 0, 0
	}
	return io, min(io, BufferAlign)
}

// inMemory tells whether the file lives in the page cache, which direct I/O
// therefore cannot bypass.
func (h *osHandle) inMemory() bool {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(h.fd()), &st); err != nil {
		return false
	}
	return st.Type == unix.TMPFS_MAGIC || st.Type == unix.RAMFS_MAGIC
}

// tryDirect finds the alignment by reading, on kernels and filesystems that do
// not tell. Each read is aligned to the candidate and not to more than it. A
// filesystem may take a read in a hole that it would refuse elsewhere;
// File.degrade deals with that.
func (h *osHandle) tryDirect(size int64) int {
	candidates := [...]int{512, 4096, maxAlign}
	buf := AllocAligned(3*maxAlign, 2*maxAlign)
	for _, a := range candidates {
		if size < 2*int64(a) {
			return 4096 // nothing to try it on
		}
		if _, err := h.pread(buf[a:2*a], int64(a)); err != unix.EINVAL {
			return a
		}
	}
	return 0
}

// maxAlign is the largest alignment that is taken for one.
const maxAlign = 64 << 10

func validAlign(a int) bool { return a > 0 && a <= maxAlign && a&(a-1) == 0 }
