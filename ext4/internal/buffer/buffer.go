package buffer

import (
	"fmt"
	"io"
	"math"
	"sync"
	"sync/atomic"
	"syscall"

	"ext4box/ext4/internal/cache"
	"ext4box/internal/spin"
)

// Kind is the kind of structure that a block holds.
type Kind uint8

// The kinds of metadata blocks.
const (
	GroupDescs Kind = iota + 1
	InodeTable
	Bitmap
	ExtentNode // plus the depth, to ExtentNode+5
	_
	_
	_
	_
	_
	Indirect
	DirLeaf
	DxRoot
	DxNode
	Xattr
	Orphans
	Symlink
	Superblock
	Quota
	XattrValue
)

// String is a word for what a block holds.
func (k Kind) String() string {
	if k >= ExtentNode && k < Indirect {
		k = ExtentNode
	}
	if int(k) < len(kindNames) && kindNames[k] != "" {
		return kindNames[k]
	}
	return "block"
}

var kindNames = [...]string{
	GroupDescs: "group_descriptors", InodeTable: "inode_table", Bitmap: "bitmap", ExtentNode: "extent_node",
	Indirect: "indirect_block", DirLeaf: "directory_leaf", DxRoot: "directory_index", DxNode: "directory_index",
	Xattr: "xattr_block", Orphans: "orphan_file", Symlink: "symlink", Superblock: "superblock",
	Quota: "quota", XattrValue: "xattr_value",
}

// Tag is what a block has been verified as.
type Tag struct {
	Kind  Kind
	Owner uint32 // the inode, or 0
}

func (t Tag) word() uint64 { return uint64(t.Kind)<<32 | uint64(t.Owner) }

// Note is something beyond the check that its user has found out about a block
// and does not want to find out again: a set of bits, of the user's choice. It
// holds for one tag, as long as the block keeps it, and until the block changes.
type Note uint8

const noteShift = 48

// Noted tells whether the block has a note.
func (b *Buffer) Noted(t Tag, n Note) bool {
	v := b.verified.Load()
	return v&(1<<noteShift-1) == t.word() && Note(v>>noteShift)&n == n
}

// SetNote adds a note to a block that was read with the tag, by somebody who
// keeps others from changing it.
func (b *Buffer) SetNote(t Tag, n Note) {
	if v := b.verified.Load(); v&(1<<noteShift-1) == t.word() {
		b.verified.CompareAndSwap(v, v|uint64(n)<<noteShift)
	}
}

// Unnote takes the notes back. Who notes something must do so before changing the
// block.
func (b *Buffer) Unnote() { b.verified.And(1<<noteShift - 1) }

// is tells whether the block is verified as what the tag says.
func (b *Buffer) is(t Tag) bool { return b.verified.Load()&(1<<noteShift-1) == t.word() }

// Buffer is one block in memory.
type Buffer struct {
	Block uint64
	Data  []byte // changed only in a Tx, under the lock of what the block holds

	// RWMutex guards the content of blocks that several structures share, such
	// as those of the inode table. It is the innermost lock.
	spin.RWMutex

	load     sync.Mutex // serialises reading and checking
	loaded   bool       // guarded by load
	verified atomic.Uint64
	pins     atomic.Int32
}

// Pin keeps the buffer in the cache until Unpin, which must follow as often.
func (b *Buffer) Pin() { b.pins.Add(1) }

// Unpin is the inverse of Pin.
func (b *Buffer) Unpin() { b.pins.Add(-1) }

// Cache holds the metadata blocks of one device. All methods may be called
// concurrently.
type Cache struct {
	// OnError, if not nil, is told of each block that Read fails to read or to
	// verify, while a lock is held on the block. It is set before the first use.
	OnError func(blk uint64, tag Tag, err error)

	dev       io.ReaderAt
	blockSize int
	blocks    *cache.Cache[Buffer]
}

// New returns a cache of about limit bytes over dev.
func New(dev io.ReaderAt, blockSize int, limit int64) *Cache {
	return &Cache{dev: dev, blockSize: blockSize, blocks: cache.New[Buffer](int(limit/int64(blockSize)), cache.Policy[Buffer]{Pinned: func(b *Buffer) bool { return b.pins.Load() > 0 }})}
}

// New returns block blk filled with zeros, without reading it, as if it had
// passed the check for tag. Whoever else holds a buffer of this block keeps an
// outdated one, so the block must have been free.
func (c *Cache) New(blk uint64, tag Tag) *Buffer {
	b := &Buffer{Block: blk, Data: make([]byte, c.blockSize), loaded: true}
	b.verified.Store(tag.word())
	c.blocks.Remove(blk)
	return c.blocks.Add(blk, b)
}

// Drop takes a block out of the cache.
func (c *Cache) Drop(blk uint64) { c.blocks.Remove(blk) }

// BlockSize is the size of every block, in bytes.
func (c *Cache) BlockSize() int { return c.blockSize }

// Read returns block blk after it has passed check, which is called only if
// the block is not known to have passed for the same tag. Concurrent readers of
// one block share the I/O. A block that fails is read again next time.
func (c *Cache) Read(blk uint64, tag Tag, check func(b []byte) error) (*Buffer, error) {
	b := c.blocks.Get(blk)
	if b == nil {
		b = c.blocks.Add(blk, &Buffer{Block: blk})
	}
	if b.is(tag) {
		return b, nil
	}
	b.load.Lock()
	defer b.load.Unlock()
	if !b.loaded {
		data := make([]byte, c.blockSize)
		if err := c.readAt(data, blk); err != nil {
			return nil, c.failed(blk, tag, err)
		}
		b.Data, b.loaded = data, true
	}
	if b.is(tag) {
		return b, nil
	}
	if err := check(b.Data); err != nil {
		// Nobody has got hold of the data unless it passed for another tag.
		b.loaded = b.verified.Load() != 0
		return nil, c.failed(blk, tag, err)
	}
	b.verified.Store(tag.word())
	return b, nil
}

func (c *Cache) failed(blk uint64, tag Tag, err error) error {
	if c.OnError != nil {
		c.OnError(blk, tag, err)
	}
	return err
}

// ReadPinned is Read for whoever is going to change the block: the buffer is the
// one that the cache has, and stays so until Unpin.
func (c *Cache) ReadPinned(blk uint64, tag Tag, check func(b []byte) error) (*Buffer, error) {
	for {
		b, err := c.Read(blk, tag, check)
		if err != nil {
			return nil, err
		}
		b.Pin()
		if c.blocks.Get(blk) == b {
			return b, nil
		}
		b.Unpin() // evicted in between
	}
}

// Prefetch brings the blocks [first, first+n) into the cache with one device
// read, without checking them. Failures are left for Read to report.
func (c *Cache) Prefetch(first uint64, n int) {
	data := make([]byte, n*c.blockSize)
	if c.readAt(data, first) != nil {
		return
	}
	for i := range n {
		blk := first + uint64(i)
		b := c.blocks.Get(blk)
		if b == nil {
			b = c.blocks.Add(blk, &Buffer{Block: blk})
		}
		b.load.Lock()
		if !b.loaded {
			// A copy, so that one block in use does not keep all n in memory.
			b.Data = append(make([]byte, 0, c.blockSize), data[i*c.blockSize:(i+1)*c.blockSize]...)
			b.loaded = true
		}
		b.load.Unlock()
	}
}

// Has tells whether the block is in the cache.
func (c *Cache) Has(blk uint64) bool { return c.blocks.Get(blk) != nil }

func (c *Cache) readAt(p []byte, blk uint64) error {
	var n int
	err := io.EOF
	if blk < math.MaxInt64/uint64(c.blockSize) {
		n, err = c.dev.ReadAt(p, int64(blk)*int64(c.blockSize))
	}
	if n == len(p) {
		return nil
	}
	if err == nil || err == io.EOF {
		err = fmt.Errorf("the device is too short: %w", syscall.EIO)
	}
	return fmt.Errorf("read metadata block %d: %w", blk, err)
}
