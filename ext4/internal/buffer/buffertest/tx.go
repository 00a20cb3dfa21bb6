package buffertest

import (
	"fmt"
	"io"
	"maps"
	"slices"

	"ext4box/ext4/internal/buffer"
)

// Tx is a [buffer.Tx] that lets changes happen in the cache, remembers what was
// asked of it, and writes the changed blocks home when told to. Like every Tx
// it belongs to one goroutine. Unlike a handle of the journal it may be used
// for any number of operations, before and after [Tx.Commit].
type Tx struct {
	// Number is what TID returns. Commit adds one to it.
	Number uint32

	// Err, where it is set, is what Modify and New return.
	Err error

	cache     *buffer.Cache
	modified  map[uint64]*buffer.Buffer
	created   map[uint64]buffer.Tag
	forgotten []uint64
	callbacks []func()
	most      int
}

var _ buffer.Tx = (*Tx)(nil)

// New returns a transaction over the blocks of cache.
func New(cache *buffer.Cache) *Tx {
	return &Tx{
		Number: 1, cache: cache,
		modified: make(map[uint64]*buffer.Buffer),
		created:  make(map[uint64]buffer.Tag),
	}
}

// Modify implements [buffer.Tx].
func (tx *Tx) Modify(b *buffer.Buffer) error {
	if tx.Err != nil {
		return tx.Err
	}
	switch old := tx.modified[b.Block]; old {
	case b:
		return nil
	case nil:
		tx.add(b)
		return nil
	default:
		return fmt.Errorf("buffertest: block %d is in the transaction with another buffer", b.Block)
	}
}

// New implements [buffer.Tx].
func (tx *Tx) New(blk uint64, tag buffer.Tag) (*buffer.Buffer, error) {
	if tx.Err != nil {
		return nil, tx.Err
	}
	tx.remove(blk)
	b := tx.cache.New(blk, tag)
	tx.add(b)
	tx.created[blk] = tag
	return b, nil
}

// Forget implements [buffer.Tx].
func (tx *Tx) Forget(blk uint64) {
	tx.remove(blk)
	tx.cache.Drop(blk)
	tx.forgotten = append(tx.forgotten, blk)
}

// OnCommit implements [buffer.Tx].
func (tx *Tx) OnCommit(fn func()) { tx.callbacks = append(tx.callbacks, fn) }

// TID implements [buffer.Tx].
func (tx *Tx) TID() uint32 { return tx.Number }

func (tx *Tx) add(b *buffer.Buffer) {
	b.Pin()
	tx.modified[b.Block] = b
	tx.most = max(tx.most, len(tx.modified))
}

func (tx *Tx) remove(blk uint64) {
	if b := tx.modified[blk]; b != nil {
		b.Unpin()
		delete(tx.modified, blk)
	}
	delete(tx.created, blk)
}

// Modified lists the blocks that have been changed or created since the last
// Commit, and not forgotten, in ascending order. Its length is what the
// operation would need as credits.
func (tx *Tx) Modified() []uint64 { return slices.Sorted(maps.Keys(tx.modified)) }

// Most is the greatest number of blocks that the transaction has had at once
// since the last Commit.
func (tx *Tx) Most() int { return tx.most }

// Created tells as what a block of Modified was made with New.
func (tx *Tx) Created(blk uint64) (buffer.Tag, bool) {
	tag, ok := tx.created[blk]
	return tag, ok
}

// Forgotten lists the blocks that Forget was called with since the last Commit,
// in that order. A block that was created again afterwards stays in the list.
func (tx *Tx) Forgotten() []uint64 { return slices.Clone(tx.forgotten) }

// Pending is the number of functions that wait for the Commit.
func (tx *Tx) Pending() int { return len(tx.callbacks) }

// Commit writes the modified blocks to dev, which may be nil, in block order,
// and then calls the functions that OnCommit was given. The transaction is then
// empty and has the next number.
func (tx *Tx) Commit(dev io.WriterAt) error {
	for _, blk := range tx.Modified() {
		b := tx.modified[blk]
		if dev != nil {
			if _, err := dev.WriteAt(b.Data, int64(blk)*int64(len(b.Data))); err != nil {
				return fmt.Errorf("buffertest: write block %d: %w", blk, err)
			}
		}
		tx.remove(blk)
	}
	callbacks := tx.callbacks
	tx.callbacks, tx.forgotten, tx.most = nil, nil, 0
	tx.Number++
	for _, fn := range callbacks {
		fn()
	}
	return nil
}

// Abort drops the changed blocks from the cache, so that they are read again,
// and the functions that wait for the Commit.
func (tx *Tx) Abort() {
	for _, blk := range tx.Modified() {
		tx.remove(blk)
		tx.cache.Drop(blk)
	}
	tx.callbacks, tx.forgotten, tx.most = nil, nil, 0
	tx.Number++
}
