package blockdev

import (
	"bytes"
	"sync"
	"syscall"
	"time"
)

// raceEnabled tells whether the race detector runs, which makes sync.Pool drop
// buffers at random.
var raceEnabled bool

// fakeHandle is a file in memory that does what a kernel may do: it insists on
// alignment, returns short counts, and fails.
type fakeHandle struct {
	mu     sync.Mutex
	data   []byte
	align  int // asked for while direct is on
	direct bool

	short     int           // the most one call moves, 0 for no limit
	delay     time.Duration // between looking at the request and carrying it out
	bad       int64         // reads of this offset fail with EIO, if it is > 0
	badWrite  int64         // as bad, for writes
	refuse    bool          // direct requests fail with EINVAL
	syncErr   error         // of the next datasync
	reads     int
	writes    int
	together  []int         // how many buffers each pwritev had
	hold      chan struct{} // if not nil, a pwrite receives before it is carried out
	discarded [][2]int64
}

func (h *fakeHandle) check(p []byte, off int64) error {
	if !h.direct {
		return nil
	}
	if h.refuse || (int(off)|len(p))&(h.align-1) != 0 || !aligned(p, min(h.align, BufferAlign)) {
		return syscall.EINVAL
	}
	return nil
}

func (h *fakeHandle) cut(p []byte) []byte {
	if h.short > 0 && len(p) > h.short {
		return p[:h.short]
	}
	return p
}

func (h *fakeHandle) pread(p []byte, off int64) (int, error) {
	time.Sleep(h.delay)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.reads++
	if err := h.check(p, off); err != nil {
		return 0, err
	}
	p = h.cut(p)
	if h.bad > 0 && off <= h.bad && h.bad < off+int64(len(p)) {
		if p = p[:h.bad-off]; len(p) == 0 {
			return 0, syscall.EIO
		}
	}
	if off >= int64(len(h.data)) {
		return 0, nil
	}
	return copy(p, h.data[off:]), nil
}

func (h *fakeHandle) pwrite(p []byte, off int64) (int, error) {
	if h.hold != nil {
		<-h.hold
	}
	time.Sleep(h.delay)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.writes++
	if h.badWrite > 0 && off <= h.badWrite && h.badWrite < off+int64(len(p)) {
		return 0, syscall.EIO
	}
	if err := h.check(p, off); err != nil {
		return 0, err
	}
	p = h.cut(p)
	if grow := off + int64(len(p)) - int64(len(h.data)); grow > 0 {
		h.data = append(h.data, make([]byte, grow)...)
	}
	return copy(h.data[off:], p), nil
}

func (h *fakeHandle) pwritev(p [][]byte, off int64) (int, error) {
	h.mu.Lock()
	h.together = append(h.together, len(p))
	h.mu.Unlock()
	return h.pwrite(bytes.Join(p, nil), off)
}

func (h *fakeHandle) datasync() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	err := h.syncErr
	h.syncErr = nil
	return err
}

func (h *fakeHandle) discard(off, n int64) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.discarded = append(h.discarded, [2]int64{off, n})
	return nil
}

func (h *fakeHandle) size() (int64, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return int64(len(h.data)), nil
}

func (h *fakeHandle) setDirect(on bool) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.direct = on
	return nil
}

func (h *fakeHandle) fd() uintptr  { return ^uintptr(0) }
func (h *fakeHandle) close() error { return nil }
