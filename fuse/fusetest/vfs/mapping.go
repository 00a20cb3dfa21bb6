package vfs

import (
	"slices"
	"sync"

	"ext4box/fuse"
	"ext4box/iomap"
)

// toEOF is the length of a range to the end of any file.
const toEOF = ^uint64(0)

// efscorrupted is what a mapping is refused with.
const efscorrupted = 117

// alwaysValid is the cookie of a mapping that never was in the cache: nothing tells whether it still
// holds.
const alwaysValid = 0

// mapping is a mapping as the kernel works with it.
type mapping struct {
	offset, length uint64
	addr           uint64
	typ            iomap.Type
	flags          iomap.Flags
	dev            uint32
	cookie         uint64
}

// newMapping is a mapping as the server tells it, which has no cookie yet.
func newMapping(io fuse.IomapIO) mapping {
	return mapping{io.Offset, io.Length, io.Addr, io.Type, io.Flags, io.Dev, alwaysValid}
}

// wire is the mapping as END tells it.
func (m *mapping) wire() fuse.IomapIO {
	return fuse.IomapIO{Offset: m.offset, Length: m.length, Addr: m.addr, Type: m.typ, Flags: m.flags, Dev: m.dev}
}

func (m *mapping) end() uint64 { return m.offset + m.length }

func (m *mapping) contains(pos uint64) bool { return pos >= m.offset && pos-m.offset < m.length }

// from is the part of the mapping from pos on.
func (m mapping) from(pos uint64) mapping {
	skip := pos - m.offset
	if m.addr != fuse.IomapNullAddr {
		m.addr += skip
	}
	m.offset, m.length = pos, m.length-skip
	return m
}

// to is the part of the mapping before end.
func (m mapping) to(end uint64) mapping {
	m.length = end - m.offset
	return m
}

// joins tells whether b continues a, so that they can be one record.
func (m *mapping) joins(b *mapping) bool {
	if m.end() != b.offset || m.typ != b.typ || m.flags != b.flags || m.dev != b.dev {
		return false
	}
	if m.addr == fuse.IomapNullAddr {
		return b.addr == fuse.IomapNullAddr
	}
	return m.addr+m.length == b.addr
}

// fork is an ordered list of mappings that do not overlap.
type fork struct{ list []mapping }

// find returns the record at pos.
func (f *fork) find(pos uint64) (mapping, bool) {
	i, _ := slices.BinarySearchFunc(f.list, pos, func(m mapping, pos uint64) int {
		if m.end() <= pos {
			return -1
		}
		return 1
	})
	if i < len(f.list) && f.list[i].contains(pos) {
		return f.list[i], true
	}
	return mapping{}, false
}

// remove cuts a range out.
func (f *fork) remove(off, end uint64) {
	var out []mapping
	for _, m := range f.list {
		if m.end() <= off || m.offset >= end {
			out = append(out, m)
			continue
		}
		if m.offset < off {
			out = append(out, m.to(off))
		}
		if m.end() > end {
			out = append(out, m.from(end))
		}
	}
	f.list = out
}

// insert replaces what the mapping overlaps and merges it with its neighbours. limit is the number of
// records that there is room for; when they are used up the whole fork goes first.
func (f *fork) insert(m mapping, limit int) {
	f.remove(m.offset, m.end())
	if len(f.list)+1 > limit {
		f.list = nil
	}
	i, _ := slices.BinarySearchFunc(f.list, m.offset, func(a mapping, off uint64) int {
		if a.offset < off {
			return -1
		}
		return 1
	})
	if i > 0 && f.list[i-1].joins(&m) {
		i--
		f.list[i].length += m.length
	} else {
		f.list = slices.Insert(f.list, i, m)
	}
	if i+1 < len(f.list) && f.list[i].joins(&f.list[i+1]) {
		f.list[i].length += f.list[i+1].length
		f.list = slices.Delete(f.list, i+1, i+2)
	}
}

// mappingSize is what a record counts in the limit of a fork, in bytes.
const mappingSize = 32

// mappingCache are the mappings of an inode that the server has pushed. The lock is never held while
// a request is under way, so that notifications can come meanwhile.
type mappingCache struct {
	mu     sync.Mutex
	exists bool // something was pushed, ever
	hasCOW bool // there is a write fork
	seq    uint64
	read   fork
	write  fork
}

func (c *mappingCache) init() { c.seq = 1 }

// upsert takes over both slots of a notification.
func (c *mappingCache) upsert(read, write fuse.IomapIO, limit uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.exists = true
	room := max(1, int(limit/mappingSize))
	if read.Type != fuse.IomapNoCache {
		c.seq++
		c.read.insert(newMapping(read), room)
	}
	switch {
	case write.Type == fuse.IomapNoCache:
	case write.Type == fuse.IomapPureOverwrite && !c.hasCOW:
	default:
		c.seq++
		c.hasCOW = true
		c.write.insert(newMapping(write), room)
	}
}

// invalidate drops what is cached of [off, off+n) in both forks.
func (c *mappingCache) invalidate(off, n uint64) { c.invalidateForks(off, n, off, n) }

func (c *mappingCache) invalidateForks(readOff, readLen, writeOff, writeLen uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.exists {
		return
	}
	c.seq++
	if readLen != 0 {
		c.read.remove(readOff, rangeEnd(readOff, readLen))
	}
	if writeLen != 0 {
		c.write.remove(writeOff, rangeEnd(writeOff, writeLen))
	}
}

// rangeEnd is the end of a range whose length may be toEOF.
func rangeEnd(off, n uint64) uint64 {
	if off+n < off {
		return toEOF
	}
	return off + n
}

// has tells whether anything was pushed, ever.
func (c *mappingCache) has() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.exists
}

// isFileWrite tells whether an operation stores to the file.
func isFileWrite(op iomap.Op) bool {
	return op&(iomap.Write|iomap.Zero|iomap.Unshare|iomap.Writeback) != 0
}

// found is what backs a position: where data goes, or comes from, and for a write out of place where
// the old data is.
type found struct{ target, source mapping }

// lookup answers from the cache by the rules of the protocol, if it can.
func (c *mappingCache) lookup(gen Generation, pos uint64, op iomap.Op) (found, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.exists || op&(iomap.Atomic|iomap.SwapFile) != 0 {
		return found{}, false
	}
	m, ok := c.read.find(pos)
	if !ok {
		return found{}, false
	}
	f := found{m, m}
	if isFileWrite(op) && c.hasCOW {
		w, ok := c.write.find(pos)
		if !ok {
			return found{}, false
		}
		if w.typ == fuse.IomapPureOverwrite {
			f.target = m.from(max(m.offset, w.offset)).to(min(m.end(), w.end()))
			f.source = f.target
		} else {
			f.target = w
		}
	}
	t := f.target.typ
	switch {
	case t == iomap.Hole && isFileWrite(op) && op&(iomap.Zero|iomap.Unshare) == 0,
		t == iomap.Delalloc && op&iomap.Direct != 0,
		t == iomap.Delalloc && op&iomap.Writeback != 0 && gen == Later:
		return found{}, false
	}
	f.target.cookie, f.source.cookie = c.seq, c.seq
	return f, true
}

// valid tells whether a mapping still holds, as far as anybody knows.
func (c *mappingCache) valid(m *mapping) bool {
	if m.cookie == alwaysValid {
		return true
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return m.cookie == c.seq
}
