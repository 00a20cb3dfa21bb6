package blocktest

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"ext4box/blockdev"
)

const pageSize = 4096

// Mem is a sparse device in memory. Content that was never written is that of
// its base, or zeros. It is safe for concurrent use and takes memory for what
// has been written only.
type Mem struct {
	mu    sync.RWMutex
	size  int64
	base  io.ReaderAt // nil: zeros
	ro    bool
	owner *owner
	pages map[int64]page // by page number
}

// page is written in place by the Mem that owns it; other Mems that share it
// make a copy first.
type page struct {
	data  *[pageSize]byte
	owner *owner
}

type owner struct{ _ byte } // not empty: its address is its identity

var zeroPage [pageSize]byte

// NewMem returns a device of size zero bytes, for writing.
func NewMem(size int64) *Mem { return NewOverlay(nil, size) }

// NewOverlay returns a device of the given size in bytes whose content is that
// of base until it is written; base itself is never changed, and must not
// change. Past the end of base there are zeros. A nil base is all zeros.
func NewOverlay(base io.ReaderAt, size int64) *Mem {
	return &Mem{size: size, base: base, owner: new(owner), pages: make(map[int64]page)}
}

// LoadMem returns a device with the content of the file at path.
func LoadMem(path string) (*Mem, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	m := NewMem(st.Size())
	for off := int64(0); off < st.Size(); {
		from, to := dataRange(f, off, st.Size())
		err := eachChunk(f, from, to, func(p []byte, off int64) error {
			_, err := m.WriteAt(p, off)
			return err
		})
		if err != nil {
			return nil, err
		}
		off = to
	}
	return m, nil
}

// dataRange is the next range of a file, at or behind off, that is not known to be a hole: most of a large
// image is one.
func dataRange(f *os.File, off, size int64) (from, to int64) {
	from, err := f.Seek(off, unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) {
		return size, size
	}
	if err == nil {
		to, err = f.Seek(from, unix.SEEK_HOLE)
	}
	if err != nil {
		return off, size
	}
	// Pages are whole.
	return from &^ (pageSize - 1), min((to+pageSize-1)&^(pageSize-1), size)
}

// Dump writes the content of a device of the given size to a new sparse file at
// path, for tools that read images.
func Dump(dev io.ReaderAt, size int64, path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		return err
	}
	put := func(p []byte, off int64) error {
		_, err := f.WriteAt(p, off)
		return err
	}
	if m, ok := dev.(*Mem); ok && m.base == nil {
		err = m.eachPage(size, put)
	} else {
		err = eachChunk(dev, 0, size, put)
	}
	if err != nil {
		return fmt.Errorf("dump to %s: %w", path, err)
	}
	return f.Close()
}

// eachPage is eachChunk for a device without a base, which knows what was written.
func (m *Mem) eachPage(size int64, fn func(p []byte, off int64) error) error {
	m.mu.RLock()
	defer m.mu.RUnlock()
	for i, page := range m.pages {
		off := i * pageSize
		if off >= size || *page.data == zeroPage {
			continue
		}
		if err := fn(page.data[:min(pageSize, size-off)], off); err != nil {
			return err
		}
	}
	return nil
}

// eachChunk calls fn for the pages of [off, size) of r that are not zero.
func eachChunk(r io.ReaderAt, off, size int64, fn func(p []byte, off int64) error) error {
	buf := make([]byte, 256*pageSize)
	for ; off < size; off += int64(len(buf)) {
		n := int(min(int64(len(buf)), size-off))
		if m, err := r.ReadAt(buf[:n], off); m < n {
			return fmt.Errorf("read at %d: %w", off, err)
		}
		for at := 0; at < n; at += pageSize {
			p := buf[at:min(at+pageSize, n)]
			if string(p) == string(zeroPage[:len(p)]) {
				continue
			}
			if err := fn(p, off+int64(at)); err != nil {
				return err
			}
		}
	}
	return nil
}

// Clone returns an independent device with the same content. The two share
// memory until one of them is written.
func (m *Mem) Clone() *Mem {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := &Mem{size: m.size, base: m.base, owner: new(owner), pages: make(map[int64]page, len(m.pages))}
	for i, p := range m.pages {
		c.pages[i] = p
	}
	m.owner = new(owner) // what m has had so far is shared now
	return c
}

// SetReadOnly makes the device refuse changes, or accept them again.
func (m *Mem) SetReadOnly(ro bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ro = ro
}

// ReadAt implements blockdev.Device.
func (m *Mem) ReadAt(p []byte, off int64) (int, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	switch {
	case off < 0:
		return 0, fail("read", off, len(p), syscall.EINVAL)
	case len(p) == 0:
		return 0, nil
	case off >= m.size:
		return 0, io.EOF
	}
	var end error
	if rest := m.size - off; int64(len(p)) > rest {
		p, end = p[:rest], io.EOF
	}
	for done := 0; done < len(p); {
		at := off + int64(done)
		part := p[done:min(len(p), done+pageSize-int(at%pageSize))]
		if err := m.readPage(part, at); err != nil {
			return done, err
		}
		done += len(part)
	}
	return len(p), end
}

// readPage fills p, which does not cross a page.
func (m *Mem) readPage(p []byte, off int64) error {
	if pg, ok := m.pages[off/pageSize]; ok {
		copy(p, pg.data[off%pageSize:])
		return nil
	}
	if m.base == nil {
		clear(p)
		return nil
	}
	n, err := m.base.ReadAt(p, off)
	if n < len(p) {
		if err != io.EOF {
			return err
		}
		clear(p[n:])
	}
	return nil
}

// WriteAt implements blockdev.Device.
func (m *Mem) WriteAt(p []byte, off int64) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.check("write", off, int64(len(p)), syscall.ENOSPC); err != nil {
		return 0, err
	}
	for done := 0; done < len(p); {
		at := off + int64(done)
		part := p[done:min(len(p), done+pageSize-int(at%pageSize))]
		data, err := m.own(at/pageSize, len(part) == pageSize)
		if err != nil {
			return done, err
		}
		copy(data[at%pageSize:], part)
		done += len(part)
	}
	return len(p), nil
}

// own returns page i for writing in place. Its content does not matter when all
// of it is going to be written.
func (m *Mem) own(i int64, all bool) (*[pageSize]byte, error) {
	pg := m.pages[i]
	if pg.owner == m.owner {
		return pg.data, nil
	}
	data := new([pageSize]byte)
	if !all {
		if err := m.readPage(data[:], i*pageSize); err != nil {
			return nil, err
		}
	}
	m.pages[i] = page{data: data, owner: m.owner}
	return data, nil
}

// Discard implements blockdev.Device. The range reads as zeros.
func (m *Mem) Discard(off, n int64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.check("discard", off, n, syscall.EINVAL); err != nil {
		return err
	}
	for end := off + n; off < end; {
		next := min(end, (off/pageSize+1)*pageSize)
		if next-off == pageSize {
			m.dropPage(off / pageSize)
		} else {
			data, err := m.own(off/pageSize, false)
			if err != nil {
				return err
			}
			clear(data[off%pageSize:][:next-off])
		}
		off = next
	}
	return nil
}

// dropPage makes page i zero without taking memory for it.
func (m *Mem) dropPage(i int64) {
	if m.base == nil {
		delete(m.pages, i)
		return
	}
	m.pages[i] = page{data: &zeroPage} // owned by nobody: copied when written
}

func (m *Mem) check(op string, off, n int64, tooFar error) error {
	switch {
	case m.ro:
		return fail(op, off, int(n), syscall.EROFS)
	case off < 0 || n < 0:
		return fail(op, off, int(n), syscall.EINVAL)
	case off > m.size || n > m.size-off:
		return fail(op, off, int(n), tooFar)
	}
	return nil
}

// Flush implements blockdev.Device.
func (m *Mem) Flush() error {
	if m.ReadOnly() {
		return fail("flush", 0, 0, syscall.EROFS)
	}
	return nil
}

// Size implements blockdev.Device.
func (m *Mem) Size() int64 { return m.size }

// Alignment implements blockdev.Device. Memory needs none.
func (m *Mem) Alignment() int { return 1 }

// ReadOnly implements blockdev.Device.
func (m *Mem) ReadOnly() bool {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.ro
}

// Close implements blockdev.Device. The content stays: a test can look at it,
// or open it again.
func (m *Mem) Close() error { return nil }

// Resident returns how many bytes of memory the content takes.
func (m *Mem) Resident() int64 {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return int64(len(m.pages)) * pageSize
}

func fail(op string, off int64, n int, err error) error {
	return &blockdev.Error{Op: op, Name: "memory", Off: off, Len: int64(n), Err: err}
}
