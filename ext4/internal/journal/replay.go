package journal

import (
	"cmp"
	"io"
	"iter"
	"slices"
)

// Redirect says that the current version of a block is in the log.
type Redirect struct {
	Block   uint64 // block on the filesystem's device
	Log     uint32 // block of the log
	Escaped bool   // the first four bytes are the journal's magic number, and zero in the log
}

// Replay is what a recovery would write: for each block its last version in
// the log. It is immutable.
type Replay struct {
	blockSize int
	log       io.ReaderAt
	redirects []Redirect // by ascending block, each once

	Dirty        bool   // the log was not empty, even if it held no whole transaction
	Transactions uint32 // committed transactions in the log
	Logged       int    // logged blocks, all versions
	Revokes      int    // revoke records
	Revoked      int    // logged blocks that were revoked

	// EndTID is the number of the first transaction that is not in the log. Of
	// a dirty journal it is the one that fast commits must carry to count.
	EndTID uint32

	// NextTID is the first transaction number to be used after the recovery.
	// It skips EndTID, so that no remains of that transaction in the log can
	// ever count.
	NextTID uint32

	// Head is the log block behind the last commit, or 0 where it is unknown.
	// After a recovery the log is empty: its tail is wherever the next
	// transaction is written, at Head or at the log's first block.
	Head uint32
}

// Len is the number of blocks that a recovery would write.
func (r *Replay) Len() int { return len(r.redirects) }

// All lists the redirections in ascending order of block.
func (r *Replay) All() iter.Seq[Redirect] { return slices.Values(r.redirects) }

// Lookup tells where the current version of a block is, if it is in the log.
func (r *Replay) Lookup(block uint64) (Redirect, bool) {
	i, found := r.search(block)
	if !found {
		return Redirect{}, false
	}
	return r.redirects[i], true
}

// search finds the first redirection of block or of a later one.
func (r *Replay) search(block uint64) (int, bool) {
	return slices.BinarySearchFunc(r.redirects, block, func(d Redirect, block uint64) int {
		return cmp.Compare(d.Block, block)
	})
}

// readAt reads a part of a redirected block, beginning at the byte within.
func (r *Replay) readAt(d Redirect, p []byte, within int) error {
	if err := readFull(r.log, p, int64(d.Log)*int64(r.blockSize)+int64(within)); err != nil {
		return err
	}
	if d.Escaped && within < 4 {
		var magic [4]byte
		be.PutUint32(magic[:], magicNumber)
		copy(p, magic[within:])
	}
	return nil
}
