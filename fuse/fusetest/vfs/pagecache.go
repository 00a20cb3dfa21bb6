package vfs

import (
	"maps"
	"slices"
	"sync"
)

// pageCache are the folios of an inode.
type pageCache struct {
	mu     sync.Mutex
	cond   *sync.Cond // a folio was unlocked, or a write has ended
	folios map[uint64]*folio
}

func (pc *pageCache) init() {
	pc.cond = sync.NewCond(&pc.mu)
	pc.folios = map[uint64]*folio{}
}

// lockFolio returns the folio at an index, locked; nil if there is none and it is not to be made.
func (in *inode) lockFolio(index uint64, make bool) *folio {
	pc := &in.pages
	pc.mu.Lock()
	defer pc.mu.Unlock()
	for {
		fo := pc.folios[index]
		if fo == nil {
			if !make {
				return nil
			}
			fo = in.fs.newFolio(index)
			pc.folios[index] = fo
		}
		if !fo.locked {
			fo.locked = true
			return fo
		}
		pc.cond.Wait()
	}
}

// unlock unlocks a folio.
func (in *inode) unlock(fo *folio) {
	in.pages.mu.Lock()
	defer in.pages.mu.Unlock()
	fo.locked = false
	in.pages.cond.Broadcast()
}

// peek returns a folio without locking it.
func (in *inode) peek(index uint64) *folio {
	in.pages.mu.Lock()
	defer in.pages.mu.Unlock()
	return in.pages.folios[index]
}

// waitWriteback waits until what was written of the folio is reported.
func (in *inode) waitWriteback(fo *folio) {
	in.pages.mu.Lock()
	defer in.pages.mu.Unlock()
	for fo.writeback > 0 {
		in.pages.cond.Wait()
	}
}

// setWriteback adds to the writes under way of a folio, or takes off.
func (in *inode) setWriteback(fo *folio, delta int) {
	in.pages.mu.Lock()
	defer in.pages.mu.Unlock()
	fo.writeback += delta
	in.pages.cond.Broadcast()
}

// indexes returns those of the folios that a range touches, in order.
func (in *inode) indexes(off, n uint64) []uint64 {
	size := in.fs.folioSize()
	first, end := off/size, rangeEnd(off, n)
	in.pages.mu.Lock()
	defer in.pages.mu.Unlock()
	var list []uint64
	for _, i := range slices.Sorted(maps.Keys(in.pages.folios)) {
		if i >= first && i*size < end && n != 0 {
			list = append(list, i)
		}
	}
	return list
}

// waitRange waits for the writes under way in a range.
func (in *inode) waitRange(off, n uint64) {
	for _, i := range in.indexes(off, n) {
		if fo := in.peek(i); fo != nil {
			in.waitWriteback(fo)
		}
	}
}

// remove takes a locked folio out of the page cache and unlocks it.
func (in *inode) remove(fo *folio) {
	fo.clean()
	in.pages.mu.Lock()
	defer in.pages.mu.Unlock()
	if in.pages.folios[fo.index] == fo {
		delete(in.pages.folios, fo.index)
	}
	fo.gone, fo.locked = true, false
	in.pages.cond.Broadcast()
}

// dropPages lets go of the clean folios that lie in a range, whole or in part.
func (in *inode) dropPages(off, n uint64) {
	for _, i := range in.indexes(off, n) {
		fo := in.lockFolio(i, false)
		if fo == nil {
			continue
		}
		in.waitWriteback(fo)
		if fo.isDirty() {
			in.unlock(fo)
			continue
		}
		in.remove(fo)
	}
}

// truncatePages throws away what is cached from size on, dirty or not, and zeroes the rest of the
// folio in which it lies.
func (in *inode) truncatePages(size uint64) {
	fsize := in.fs.folioSize()
	for _, i := range in.indexes(size, toEOF) {
		fo := in.lockFolio(i, false)
		if fo == nil {
			continue
		}
		in.waitWriteback(fo)
		if i*fsize >= size {
			in.remove(fo)
			continue
		}
		in.zeroTail(fo, size)
		in.unlock(fo)
	}
}

// zeroTail zeroes what a locked folio has behind the end of the file, and lets go of its dirty blocks
// there.
func (in *inode) zeroTail(fo *folio, size uint64) {
	at := size - in.pos(fo)
	fo.mu.Lock()
	defer fo.mu.Unlock()
	clear(fo.data[at:])
	block := in.fs.blocksize
	for b := (at + block - 1) / block; b < uint64(len(fo.dirty)); b++ {
		fo.dirty[b] = false
	}
}

// punchPages throws away what is cached of a range, dirty or not: whole folios go, of others the part.
// Nothing of them may be dirty that is to be kept.
func (in *inode) punchPages(off, n uint64) {
	fsize := in.fs.folioSize()
	end := rangeEnd(off, n)
	for _, i := range in.indexes(off, n) {
		fo := in.lockFolio(i, false)
		if fo == nil {
			continue
		}
		in.waitWriteback(fo)
		if i*fsize >= off && (i+1)*fsize <= end || !fo.isDirty() {
			in.remove(fo)
			continue
		}
		in.unlock(fo)
	}
}

// evictPages lets go of all pages of an inode that leaves memory. What is dirty is lost: it has no
// name, or was written before.
func (in *inode) evictPages() { in.truncatePages(0) }

// dirtyIn tells whether anything of a range waits to be written, or is being written.
func (in *inode) dirtyIn(off, n uint64) bool {
	for _, i := range in.indexes(off, n) {
		fo := in.peek(i)
		if fo == nil {
			continue
		}
		in.pages.mu.Lock()
		busy := fo.writeback > 0
		in.pages.mu.Unlock()
		if busy || fo.isDirty() {
			return true
		}
	}
	return false
}
