package vfs

import (
	"cmp"
	"slices"
	"sync"
	"syscall"

	"ext4box/fuse"
	"ext4box/iomap"
)

// writeback is what is under way of an inode.
type writeback struct {
	mu     sync.Mutex
	done   []*ioend // written, not reported
	worker bool     // somebody reports
	errSeq uint64   // counts errors
	err    syscall.Errno
}

// errors is what File.wbSeen is compared with.
func (w *writeback) errors() uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.errSeq
}

// failed takes note of an error for fsync(2) to report.
func (w *writeback) failed(errno syscall.Errno) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.errSeq++
	w.err = errno
}

// writebackError is an error of writeback that was not reported on this file yet.
func (f *File) writebackError() syscall.Errno {
	w := &f.in.writeback
	w.mu.Lock()
	defer w.mu.Unlock()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.wbSeen == w.errSeq {
		return 0
	}
	f.wbSeen = w.errSeq
	return w.err
}

// ioend is a write to the device, from the page cache, until it is reported.
type ioend struct {
	pos, size uint64 // size is a multiple of a block
	written   uint64 // what of it is in the file
	addr      uint64
	dev       uint32
	flags     fuse.IoendFlags
	data      []byte
	folios    []*folio
	errno     syscall.Errno
}

// pass is one walk over dirty folios.
type pass struct {
	in      *inode
	m       mapping // the mapping in hand
	have    bool
	cur     *ioend
	writing sync.WaitGroup // device writes that nobody holds
	errno   syscall.Errno
}

// writePages writes what is dirty in a range and waits until it is on the device and reported. The error
// is the first of this pass.
func (in *inode) writePages(off, n uint64) syscall.Errno {
	w := &pass{in: in}
	for _, i := range in.indexes(off, n) {
		fo := in.lockFolio(i, false)
		if fo == nil {
			continue
		}
		in.waitWriteback(fo)
		if fo.isDirty() {
			w.folio(fo)
		}
		in.unlock(fo)
	}
	w.submit()
	w.writing.Wait()
	in.writeback.report(in)
	in.waitRange(off, n)
	return w.errno
}

// dirtyRange is a run of dirty blocks in a folio.
type dirtyRange struct{ from, to uint64 }

// takeDirty returns the dirty runs of a folio, and makes it clean.
func (fo *folio) takeDirty(block uint64) []dirtyRange {
	fo.mu.Lock()
	defer fo.mu.Unlock()
	var runs []dirtyRange
	for b, dirty := range fo.dirty {
		at := uint64(b) * block
		switch {
		case !dirty:
		case len(runs) > 0 && runs[len(runs)-1].to == at:
			runs[len(runs)-1].to += block
		default:
			runs = append(runs, dirtyRange{at, at + block})
		}
		fo.dirty[b] = false
	}
	fo.writable = false
	return runs
}

// folio maps and submits the dirty blocks of a locked folio.
func (w *pass) folio(fo *folio) {
	in := w.in
	size, base := in.size(), in.pos(fo)
	if base >= size {
		fo.clean()
		return
	}
	if size < base+in.fs.folioSize() {
		in.zeroTail(fo, size)
	}
	// The folio must not look idle between two ioends.
	in.setWriteback(fo, 1)
	defer in.setWriteback(fo, -1)
	for _, r := range fo.takeDirty(in.fs.blocksize) {
		for at := r.from; at < r.to; {
			errno := w.mapping(base+at, r.to-at)
			if errno != 0 {
				w.discard(fo, at, r.to, errno)
				break
			}
			n := min(r.to-at, w.m.end()-base-at)
			if w.m.typ != iomap.Hole {
				w.add(fo, at, n, size)
			}
			at += n
		}
	}
}

// mapping makes sure that the mapping in hand is that of pos.
func (w *pass) mapping(pos, n uint64) syscall.Errno {
	if w.have && w.m.contains(pos) && w.in.mappings.valid(&w.m) {
		return 0
	}
	f, errno := w.in.mapAt(kernelTask, pos, n, iomap.Writeback)
	w.have = errno == 0
	if errno != 0 {
		return errno
	}
	w.m = f.target
	switch w.m.typ {
	case iomap.Hole:
		w.in.fs.violate("node %d: a hole in answer to WRITEBACK at %d+%d: the data is lost", w.in.nodeid, pos, n)
	case iomap.Inline, iomap.Delalloc:
		w.in.fs.violate("node %d: %s in answer to WRITEBACK at %d+%d", w.in.nodeid, typeString(w.m.typ), pos, n)
		w.have = false
		return syscall.EIO
	}
	return 0
}

// discard gives dirty blocks up that cannot be mapped, and tells the server so.
func (w *pass) discard(fo *folio, from, to uint64, errno syscall.Errno) {
	in := w.in
	if w.errno == 0 {
		w.errno = errno
	}
	fo.mu.Lock()
	for b := from / in.fs.blocksize; b*in.fs.blocksize < to; b++ {
		fo.uptodate[b] = false
	}
	fo.mu.Unlock()
	in.writeback.failed(errno)
	_ = in.ioend(kernelTask, &ioend{pos: in.pos(fo) + from, written: to - from, addr: fuse.IomapNullAddr, errno: errno})
}

// add puts blocks of a folio into the ioend in hand if they continue it, or else into a new one.
func (w *pass) add(fo *folio, at, n, size uint64) {
	in := w.in
	pos := in.pos(fo) + at
	addr := w.m.addr + (pos - w.m.offset)
	flags := fuse.IoendWriteback
	if w.m.typ == iomap.Unwritten {
		flags |= fuse.IoendUnwritten
	}
	if w.m.flags&iomap.Shared != 0 {
		flags |= fuse.IoendShared
	}
	cur := w.cur
	boundary := w.m.flags&iomap.Boundary != 0 && pos == w.m.offset
	if cur == nil || boundary || cur.pos+cur.size != pos || cur.addr+cur.size != addr || cur.dev != w.m.dev || cur.flags&^fuse.IoendBoundary != flags {
		w.submit()
		if boundary {
			flags |= fuse.IoendBoundary
		}
		cur = &ioend{pos: pos, addr: addr, dev: w.m.dev, flags: flags}
		w.cur = cur
	}
	if len(cur.folios) == 0 || cur.folios[len(cur.folios)-1] != fo {
		cur.folios = append(cur.folios, fo)
		in.setWriteback(fo, 1)
	}
	fo.mu.Lock()
	cur.data = append(cur.data, fo.data[at:at+n]...)
	fo.mu.Unlock()
	cur.size += n
	cur.written = min(cur.size, size-cur.pos)
}

// submit sends the ioend in hand to the device.
func (w *pass) submit() {
	io := w.cur
	if io == nil {
		return
	}
	w.cur = nil
	in, wb := w.in, &w.in.writeback
	w.writing.Add(1)
	go func() {
		var once sync.Once
		detached := false
		leave := func() { detached = true; once.Do(w.writing.Done) }
		io.errno = in.writeDevice(io.dev, io.addr, io.data, io.pos, leave)
		in.fs.hold(&Event{Stage: DeviceDone, NodeID: in.nodeid, Pos: io.pos, Count: io.size, Dev: io.dev, Addr: io.addr, Errno: io.errno}, leave)
		wb.mu.Lock()
		wb.done = append(wb.done, io)
		wb.mu.Unlock()
		once.Do(w.writing.Done)
		if detached {
			wb.report(in)
		}
	}()
}

// report tells the server about what was written, as far as it has to know, and lets the folios go. One
// goroutine at a time does that for an inode; what is done meanwhile it takes along.
func (wb *writeback) report(in *inode) {
	wb.mu.Lock()
	defer wb.mu.Unlock()
	if wb.worker {
		return
	}
	wb.worker = true
	for len(wb.done) > 0 {
		batch := wb.done
		wb.done = nil
		wb.mu.Unlock()
		for _, io := range merge(batch) {
			if errno := in.ioend(kernelTask, io); errno != 0 {
				wb.failed(errno)
			}
			for _, fo := range io.folios {
				in.setWriteback(fo, -1)
			}
		}
		wb.mu.Lock()
	}
	wb.worker = false
}

// merge sorts ioends and joins those that continue each other.
func merge(list []*ioend) []*ioend {
	slices.SortFunc(list, func(a, b *ioend) int { return cmp.Compare(a.pos, b.pos) })
	var out []*ioend
	for _, io := range list {
		if n := len(out); n > 0 && out[n-1].takes(io) {
			last := out[n-1]
			last.written += io.written
			last.size += io.size
			last.folios = append(last.folios, io.folios...)
			continue
		}
		out = append(out, io)
	}
	return out
}

// takes tells whether b continues a in the file and on the device.
func (io *ioend) takes(b *ioend) bool {
	return io.pos+io.size == b.pos && io.written == io.size && io.addr+io.size == b.addr && io.dev == b.dev &&
		io.errno == b.errno && io.flags&^fuse.IoendBoundary == b.flags && b.flags&fuse.IoendBoundary == 0
}

// ioend is the end of a write: IOMAP_IOEND if the server has to know of it, and what the kernel makes
// of the answer. The result is the error of the write.
func (in *inode) ioend(c caller, io *ioend) syscall.Errno {
	flags := io.flags
	end := io.pos + io.written
	in.mu.Lock()
	if io.errno == 0 && flags&fuse.IoendSwapoff == 0 && end > in.disksize {
		flags |= fuse.IoendAppend
	}
	in.mu.Unlock()
	const worthIt = fuse.IoendShared | fuse.IoendUnwritten | fuse.IoendAppend
	if io.errno != 0 || flags&fuse.IoendSwapoff != 0 || io.written > 0 && flags&worthIt != 0 {
		if errno := in.ioendRequest(c, io, flags, end); errno != 0 {
			return cmp.Or(io.errno, errno)
		}
	}
	if io.errno != 0 {
		return io.errno
	}
	if io.written > 0 {
		block := in.fs.blocksize
		off := roundDown(io.pos, block)
		in.mappings.invalidate(off, roundUp(end, block)-off)
		in.grow(end)
		in.invalidateAttr()
	}
	return 0
}

// ioendRequest sends IOMAP_IOEND, unless the server does not want to hear of it.
func (in *inode) ioendRequest(c caller, io *ioend, flags fuse.IoendFlags, end uint64) syscall.Errno {
	silent := in.fs.unsupported(fuse.OpIomapIoend)
	if silent && (flags&fuse.IoendSwapoff == 0 || in.fs.cfg.Generation == V7) {
		in.assume(end)
		return 0
	}
	msg := fuse.IomapIoendIn{Flags: flags, Error: -int32(io.errno), Ino: in.number(), Pos: io.pos, Written: io.written, Dev: io.dev, NewAddr: io.addr}
	switch {
	case flags&fuse.IoendWriteback == 0:
		msg.Dev, msg.NewAddr = 0, fuse.IomapNullAddr
	case in.fs.cfg.Generation == V7:
		msg.NewAddr /= sectorSize
	}
	in.mu.Lock()
	if io.errno == 0 {
		in.known.max = max(in.known.max, end)
	}
	version, low := in.version, in.known.min
	in.mu.Unlock()
	payload, errno := in.fs.request(c, fuse.OpIomapIoend, in.nodeid, structure(&msg))
	if errno == syscall.ENOSYS {
		in.fs.without(fuse.OpIomapIoend)
		in.assume(end)
		return 0
	}
	if errno != 0 {
		return errno
	}
	in.recorded(decode[fuse.IomapIoendOut](payload).Newsize, io, end, version, low)
	return 0
}

// assume is what the kernel believes of a server that does not answer IOEND.
func (in *inode) assume(end uint64) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.disksize = max(in.disksize, end)
	in.known.max = max(in.known.max, end)
}

// recorded takes over the size that the server says is on disk now, and checks it.
func (in *inode) recorded(size uint64, io *ioend, end, version, low uint64) {
	in.mu.Lock()
	if io.errno == 0 {
		low = max(low, end)
	}
	bad := version == in.version && (size < low || size > in.known.max)
	high := in.known.max
	if io.errno == 0 {
		in.confirmed(end)
	}
	if in.fs.cfg.Generation == Later {
		size = max(size, in.disksize)
	}
	in.disksize = size
	in.mu.Unlock()
	if bad {
		in.fs.violate("IOMAP_IOEND of node %d, %d+%d: newsize %d, must be between %d and %d", in.nodeid, io.pos, io.written, size, low, high)
	}
}

// Fsync is fsync(2): data, times, then the server.
func (f *File) Fsync() error { return fail(f.fsync(false)) }

// Fdatasync is fdatasync(2).
func (f *File) Fdatasync() error { return fail(f.fsync(true)) }

func (f *File) fsync(datasync bool) syscall.Errno {
	in := f.in
	if in.isBad() {
		return syscall.EIO
	}
	in.rwsem.Lock()
	defer in.rwsem.Unlock()
	_ = in.writePages(0, toEOF)
	if errno := f.writebackError(); errno != 0 {
		return errno
	}
	if errno := in.flushTimes(); errno != 0 {
		return errno
	}
	op := fuse.OpFsync
	if in.typ == syscall.S_IFDIR {
		op = fuse.OpFsyncdir
	}
	msg := fuse.FsyncIn{Fh: f.fh}
	if datasync {
		msg.Flags = fuse.FsyncDatasync
	}
	return f.fs.optional(f.caller(), op, in.nodeid, structure(&msg))
}

// WriteBack writes back the data of every inode, and times, as the flusher does after a while.
func (fs *FS) WriteBack() {
	for _, in := range fs.all() {
		_ = in.writeInode()
		fs.iput(in)
	}
}

// Sync is syncfs(2).
func (fs *FS) Sync() error {
	fs.WriteBack()
	if !fs.iomap {
		return nil
	}
	return fail(fs.optional(fs.caller(), fuse.OpSyncfs, fs.root.nodeid, structure(new(uint64))))
}
