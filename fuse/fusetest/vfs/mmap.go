package vfs

import (
	"sync"
	"syscall"

	"ext4box/iomap"
)

// Memory is a file mapped into memory, shared. Load and Store are what a program does with it.
type Memory struct {
	fs       *FS
	in       *inode
	writable bool
	once     sync.Once
}

// Mmap maps the whole file. The mapping outlives the file; end it with Unmap.
func (f *File) Mmap() (*Memory, error) {
	if !f.in.mapped() {
		return nil, syscall.ENODEV
	}
	return &Memory{fs: f.fs, in: f.fs.igrab(f.in), writable: f.flags&syscall.O_ACCMODE == syscall.O_RDWR}, nil
}

// Unmap ends the mapping. What was stored stays in the page cache.
func (m *Memory) Unmap() { m.once.Do(func() { m.fs.iput(m.in) }) }

// Load reads from memory. EFAULT is the signal for what lies behind the page with the end of the file,
// or cannot be read.
func (m *Memory) Load(p []byte, off uint64) error {
	in, fsize := m.in, m.fs.folioSize()
	for done := 0; done < len(p); {
		at := off + uint64(done)
		n, _ := in.copyOut(p[done:], at)
		done += n
		if n > 0 {
			continue
		}
		if errno := in.fault(at - at%fsize); errno != 0 {
			return syscall.EFAULT
		}
	}
	in.accessed()
	return nil
}

// fault reads the folio at pos.
func (in *inode) fault(pos uint64) syscall.Errno {
	in.invalidate.RLock()
	defer in.invalidate.RUnlock()
	if pos >= in.size() {
		return syscall.EFAULT
	}
	return in.readAhead(in.fs.caller(), pos, 1)
}

// Store writes to memory.
func (m *Memory) Store(p []byte, off uint64) error {
	if !m.writable {
		return syscall.EFAULT
	}
	in, fsize := m.in, m.fs.folioSize()
	for done := 0; done < len(p); {
		at := off + uint64(done)
		n := min(len(p)-done, int(fsize-at%fsize))
		if fo := in.peek(at / fsize); fo != nil && fo.store(at%fsize, p[done:done+n]) {
			done += n
			continue
		}
		if errno := in.makeWritable(at - at%fsize); errno != 0 {
			return syscall.EFAULT
		}
	}
	return nil
}

// store writes to a folio if that needs no fault.
func (fo *folio) store(at uint64, p []byte) bool {
	fo.mu.Lock()
	defer fo.mu.Unlock()
	if fo.writable {
		copy(fo.data[at:], p)
	}
	return fo.writable
}

// makeWritable is the fault of the first store to a folio.
func (in *inode) makeWritable(pos uint64) syscall.Errno {
	done := in.fs.startWrite()
	defer done()
	c, fsize := in.fs.caller(), in.fs.folioSize()
	in.modified()
	in.invalidate.RLock()
	defer in.invalidate.RUnlock()
	size := in.size()
	if pos >= size {
		return syscall.EFAULT
	}
	fo := in.peek(pos / fsize)
	if fo == nil || !fo.isUptodate(0, fsize, in.fs.blocksize) {
		if errno := in.readAhead(c, pos, 1); errno != 0 {
			return errno
		}
	}
	fo = in.lockFolio(pos/fsize, false)
	if fo == nil {
		return 0 // gone already: the program faults again
	}
	defer in.unlock(fo)
	if !fo.isUptodate(0, fsize, in.fs.blocksize) {
		return 0
	}
	count := min(fsize, size-pos)
	_, errno := in.iterate(c, pos, count, iomap.Write|iomap.Fault, func(f *found, at, n uint64) (uint64, syscall.Errno) {
		if t := f.target.typ; t == iomap.Hole || t == iomap.Inline {
			in.fs.violate("node %d: %s in answer to a write fault at %d", in.nodeid, typeString(t), at)
			return 0, syscall.EIO
		}
		fo.dirtyBlocks(at-pos, n, in.fs.blocksize)
		return n, 0
	})
	if errno != 0 {
		return errno
	}
	fo.mu.Lock()
	fo.writable = true
	fo.mu.Unlock()
	in.invalidateAttr()
	return 0
}

// dirtyBlocks makes the blocks of a range dirty.
func (fo *folio) dirtyBlocks(at, n, block uint64) {
	fo.mu.Lock()
	defer fo.mu.Unlock()
	for b := at / block; b*block < at+n; b++ {
		fo.dirty[b] = true
	}
}
