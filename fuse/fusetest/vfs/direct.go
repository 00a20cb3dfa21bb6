package vfs

import (
	"syscall"

	"ext4box/fuse"
	"ext4box/iomap"
)

// readDirect reads past the page cache, of which what is dirty is written first.
func (f *File) readDirect(p []byte, pos uint64, flags RWFlags) (int, syscall.Errno) {
	in := f.in
	if pos >= in.size() {
		return 0, 0 // whatever the alignment
	}
	if pos%sectorSize != 0 || uint64(len(p))%sectorSize != 0 {
		return 0, syscall.EINVAL
	}
	n, errno := f.readDirectLocked(p, pos, flags)
	if n == 0 && (errno == syscall.ENOTBLK || errno == syscall.ENOSYS) {
		if f.open&fuse.OpenDirectIO != 0 {
			return 0, syscall.EIO
		}
		return f.readBuffered(p, pos)
	}
	in.invalidateAttr()
	return n, errno
}

func (f *File) readDirectLocked(p []byte, pos uint64, flags RWFlags) (int, syscall.Errno) {
	in, c := f.in, f.caller()
	in.rwsem.RLock()
	defer in.rwsem.RUnlock()
	size := in.size()
	if pos >= size {
		return 0, 0
	}
	count := min(uint64(len(p)), size-pos)
	if errno := in.writePages(pos, count); errno != 0 {
		return 0, errno
	}
	n, errno := in.iterate(c, pos, count, iomap.Direct|noWait(flags), func(m *found, at, n uint64) (uint64, syscall.Errno) {
		part := p[at-pos:][:n]
		switch m.target.typ {
		case iomap.Hole, iomap.Unwritten:
			clear(part)
			return n, 0
		case iomap.Inline:
			return n, in.readInline(c, &m.target, part, at)
		case iomap.Mapped:
			if m.target.flags&iomap.New != 0 {
				clear(part)
				return n, 0
			}
			return n, in.readDevice(&m.target, part, at)
		}
		in.fs.violate("node %d: %s in answer to a direct read at %d", in.nodeid, typeString(m.target.typ), at)
		return 0, syscall.EIO
	})
	if n > 0 {
		errno = 0
	}
	return int(n), errno
}

// writeDirect writes past the page cache. rwsem is held. ENOTBLK asks for the page cache instead. The
// result says what remains to be synced.
func (f *File) writeDirect(c caller, p []byte, pos uint64, flags RWFlags, want syncKind) (int, syncKind, syscall.Errno) {
	in := f.in
	count := uint64(len(p))
	if pos%sectorSize != 0 || count%sectorSize != 0 {
		return 0, noSync, syscall.EINVAL
	}
	if size := in.size(); pos > size {
		if errno := in.zeroRange(c, size, pos-size); errno != 0 {
			return 0, noSync, errno
		}
	}
	if errno := in.writePages(pos, count); errno != 0 {
		return 0, noSync, errno
	}
	in.dropPages(pos, count)
	d := &directWrite{in: in, c: c, p: p, pos: pos, fua: want == dataSync && !f.fs.cfg.NoDeviceFUA}
	op := iomap.Write | iomap.Direct | noWait(flags)
	if flags&RWFAtomic != 0 {
		op |= iomap.Atomic
	}
	n, errno := in.iterate(c, pos, count, op, d.step)
	if n == 0 && d.errno == 0 && (errno == syscall.ENOSYS || errno == syscall.ENOTBLK) {
		if f.open&fuse.OpenDirectIO != 0 {
			return 0, noSync, syscall.EIO
		}
		return 0, noSync, syscall.ENOTBLK
	}
	if n == 0 && d.errno == 0 {
		return 0, noSync, errno
	}
	if d.inline {
		return int(n), want, 0
	}
	io := &ioend{pos: pos, written: n + d.failed, flags: fuse.IoendDirect | d.flags, errno: d.errno}
	if errno := in.ioend(c, io); errno != 0 {
		return 0, noSync, errno
	}
	in.dropPages(pos, n)
	if want == dataSync && d.fua && d.dev != nil {
		// The write itself went through the cache of the device.
		if err := d.dev.dev.Flush(); err != nil {
			return 0, noSync, ioErrno(err)
		}
		want = noSync
	}
	return int(n), want, 0
}

// directWrite is a direct write under way.
type directWrite struct {
	in     *inode
	c      caller
	p      []byte
	pos    uint64
	flags  fuse.IoendFlags
	fua    bool // nothing has to be committed for the data to be reachable
	dev    *backing
	inline bool
	errno  syscall.Errno // of the device
	failed uint64        // bytes that could not be written
}

// step writes what goes by one mapping.
func (d *directWrite) step(f *found, at, n uint64) (uint64, syscall.Errno) {
	in, m := d.in, &f.target
	part := d.p[at-d.pos:][:n]
	switch m.typ {
	case iomap.Inline:
		d.inline = true
		return in.writeInline(d.c, f, part, at)
	case iomap.Unwritten:
		d.flags |= fuse.IoendUnwritten
	case iomap.Mapped:
	default:
		in.fs.violate("node %d: %s as the target of a direct write at %d", in.nodeid, typeString(m.typ), at)
		return 0, syscall.EIO
	}
	if m.flags&iomap.AtomicBIO != 0 && n < uint64(len(d.p)) {
		in.fs.violate("node %d: a mapping with ATOMIC_BIO does not cover the direct write at %d+%d", in.nodeid, d.pos, len(d.p))
		return 0, syscall.EINVAL
	}
	if m.flags&iomap.Shared != 0 {
		d.flags |= fuse.IoendShared
	}
	if m.typ != iomap.Mapped || m.flags&(iomap.New|iomap.Dirty|iomap.Shared) != 0 {
		d.fua = false
	}
	d.dev = in.fs.backing(m.dev)
	// Blocks that nobody has written are zeroed around the data, and those with the end of the file behind it.
	block := in.fs.blocksize
	start, end := at, at+n
	if fresh := m.typ == iomap.Unwritten || m.flags&iomap.New != 0; fresh {
		start, end = roundDown(start, block), roundUp(end, block)
	} else if end >= in.size() {
		end = roundUp(end, block)
	}
	buf := make([]byte, end-start)
	copy(buf[at-start:], part)
	errno := in.writeDevice(m.dev, m.addr+(start-m.offset), buf, start, nil)
	in.fs.hold(&Event{Stage: DeviceDone, NodeID: in.nodeid, Pos: at, Count: n, Dev: m.dev, Addr: m.addr + (at - m.offset), Errno: errno}, nil)
	if errno != 0 {
		d.errno, d.failed = errno, n
		return 0, errno
	}
	return n, 0
}
