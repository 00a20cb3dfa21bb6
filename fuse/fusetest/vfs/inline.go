package vfs

import "syscall"

// checkInline refuses a mapping of inline data that is larger than a block.
func (in *inode) checkInline(m *mapping) syscall.Errno {
	if m.length > in.fs.blocksize {
		in.fs.violate("node %d: an INLINE mapping of %d bytes", in.nodeid, m.length)
		return syscall.ENOMEM
	}
	return 0
}

// readInline reads inline data with READ: the range, or, later, all of the mapping.
func (in *inode) readInline(c caller, m *mapping, p []byte, pos uint64) syscall.Errno {
	if errno := in.checkInline(m); errno != 0 {
		return errno
	}
	if in.fs.cfg.Generation == Later {
		all := make([]byte, m.length)
		errno := in.readAll(c, all, 0)
		copy(p, all[pos:])
		return errno
	}
	return in.readAll(c, p, pos)
}

// readAll reads with READ and fh 0 until p is full, which the server has to pad for.
func (in *inode) readAll(c caller, p []byte, pos uint64) syscall.Errno {
	for done := 0; done < len(p); {
		n, errno := in.readRequest(c, 0, pos+uint64(done), p[done:])
		if errno != 0 {
			return errno
		}
		if n == 0 {
			in.fs.violate("node %d: READ of inline data ends at %d, but %d bytes from %d on were asked for", in.nodeid, pos+uint64(done), len(p), pos)
			return syscall.EIO
		}
		done += n
	}
	return 0
}

// readInlineFolios makes the blocks of inline data up to date. The folios begin where pos and the
// mapping do.
func (in *inode) readInlineFolios(c caller, list []*folio, f *found, pos, n uint64) (uint64, syscall.Errno) {
	data := make([]byte, n)
	if errno := in.readInline(c, &f.target, data, pos); errno != 0 {
		return 0, errno
	}
	block, fsize := in.fs.blocksize, in.fs.folioSize()
	for b := uint64(0); b+block <= n; b += block {
		fo := list[(pos+b-in.pos(list[0]))/fsize]
		fo.fill(int((pos+b)%fsize/block), block, data[b:b+block])
	}
	return n, 0
}

// writeInline stores inline data with WRITE, at once: into the page cache, then to the server, then the
// mapping goes.
func (in *inode) writeInline(c caller, f *found, p []byte, pos uint64) (uint64, syscall.Errno) {
	m := &f.target
	if errno := in.checkInline(m); errno != 0 {
		return 0, errno
	}
	if errno := in.cacheInline(c, m, p, pos); errno != 0 {
		return 0, errno
	}
	end := pos + uint64(len(p))
	in.mu.Lock()
	in.known.max = max(in.known.max, end)
	in.mu.Unlock()
	for done := 0; done < len(p); {
		n, errno := in.writeRequest(c, 0, pos+uint64(done), p[done:], 0)
		if errno == 0 && (n == 0 || n < len(p)-done && in.fs.cfg.Generation == V7) {
			in.fs.violate("node %d: WRITE of inline data took %d of %d bytes", in.nodeid, n, len(p)-done)
			errno = syscall.EIO
		}
		if errno != 0 {
			in.punchPages(0, in.fs.blocksize)
			return 0, errno
		}
		done += n
	}
	in.mu.Lock()
	in.confirmed(end)
	in.disksize = max(in.disksize, end)
	in.mu.Unlock()
	in.grow(end)
	in.mappings.invalidate(m.offset, m.length)
	return uint64(len(p)), 0
}

// cacheInline puts inline data into the page cache, without making it dirty.
func (in *inode) cacheInline(c caller, m *mapping, p []byte, pos uint64) syscall.Errno {
	fo := in.lockFolio(0, true)
	defer in.unlock(fo)
	block := in.fs.blocksize
	if !fo.isUptodate(0, block, block) {
		data := make([]byte, m.length)
		if in.size() > 0 {
			if errno := in.readInline(c, m, data, 0); errno != 0 {
				return errno
			}
		}
		fo.fill(0, block, append(data, make([]byte, block-m.length)...))
	}
	fo.mu.Lock()
	defer fo.mu.Unlock()
	copy(fo.data[pos:], p)
	return 0
}
