package vfs

import (
	"slices"
	"sync"
)

// folio is a piece of the page cache: a page, or a block where blocks are larger.
type folio struct {
	index uint64 // position in the file, in folios

	// Bits under pageCache.mu.
	locked    bool
	writeback int  // ends of writes that are still to come
	gone      bool // no longer in the page cache

	mu       sync.Mutex
	data     []byte
	uptodate []bool // by block
	dirty    []bool // by block
	writable bool   // stores through mappings need not ask
}

// pos is where the folio begins.
func (in *inode) pos(fo *folio) uint64 { return fo.index * in.fs.folioSize() }

// folioSize is the size of every folio in bytes.
func (fs *FS) folioSize() uint64 { return max(uint64(fs.cfg.PageSize), fs.blocksize) }

func (fs *FS) newFolio(index uint64) *folio {
	size := fs.folioSize()
	n := size / fs.blocksize
	return &folio{index: index, data: make([]byte, size), uptodate: make([]bool, n), dirty: make([]bool, n)}
}

// isDirty tells whether any block is.
func (fo *folio) isDirty() bool {
	fo.mu.Lock()
	defer fo.mu.Unlock()
	return slices.Contains(fo.dirty, true)
}

// isUptodate tells whether all blocks of [from, to) in the folio are.
func (fo *folio) isUptodate(from, to, block uint64) bool {
	fo.mu.Lock()
	defer fo.mu.Unlock()
	for b := from / block; b*block < to; b++ {
		if !fo.uptodate[b] {
			return false
		}
	}
	return true
}

// fill makes one block up to date, with data or, if it is nil, with zeros.
func (fo *folio) fill(b int, block uint64, data []byte) {
	fo.mu.Lock()
	defer fo.mu.Unlock()
	if fo.uptodate[b] {
		return
	}
	at := uint64(b) * block
	if data == nil {
		clear(fo.data[at : at+block])
	} else {
		copy(fo.data[at:at+block], data)
	}
	fo.uptodate[b] = true
}

// put stores bytes and makes their blocks dirty and up to date.
func (fo *folio) put(at uint64, p []byte, block uint64) {
	fo.mu.Lock()
	defer fo.mu.Unlock()
	copy(fo.data[at:], p)
	for b := at / block; b*block < at+uint64(len(p)); b++ {
		fo.dirty[b], fo.uptodate[b] = true, true
	}
}

// clean takes away what says that the folio needs writing, and that stores may go on unseen.
func (fo *folio) clean() {
	fo.mu.Lock()
	defer fo.mu.Unlock()
	clear(fo.dirty)
	fo.writable = false
}
