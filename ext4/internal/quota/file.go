package quota

import (
	"encoding/binary"

	"ext4box/ext4/internal/buffer"
	"ext4box/ext4/internal/disk"
)

// BlockSize is the size of the file's blocks, in bytes.
const BlockSize = 1 << BlockBits

// BlockBits is the logarithm of BlockSize.
const BlockBits = 10

const (
	version = 1
	root    = 1 // the block that the tree begins with
	levels  = 4

	// A block of records begins with its neighbours in the list of those with
	// free places, and the number of records.
	blockNext    = 0x00
	blockPrev    = 0x04
	blockRecords = 0x08
	blockHeader  = 0x10
	perBlock     = (BlockSize - blockHeader) / recordSize
)

// Kind says whose usage a file is about.
type Kind uint8

// The kinds of quota.
const (
	User Kind = iota
	Group
	Project
	Kinds = 3
)

var (
	kindNames = [Kinds]string{"user", "group", "project"}
	magics    = [Kinds]uint32{0xD9C01F11, 0xD9C01927, 0xD9C03F14}
)

func (k Kind) String() string { return kindNames[k] }

// Storage is where the blocks of a file are.
type Storage interface {
	// Where tells in which block of the device, and from which byte on, block
	// blk is.
	Where(blk uint32) (phys uint64, off int, err error)
	// Grow makes blk, which is the one behind the last, part of the file.
	Grow(tx buffer.Tx, blk uint32) error
}

// GrowMax is the most blocks by which one Insert lets the file grow.
const GrowMax = levels

// Credits of a change, without what Storage.Grow takes.
const (
	CreditsWrite  = 1
	CreditsInsert = 1 + levels + 1 + 2 + GrowMax // header, way, block of records, its neighbours, new blocks
	CreditsRemove = 1 + levels + 1 + 2
)

// Place is where a record is. It does not change until the record is removed.
type Place struct {
	Phys uint64 // block of the device
	Off  int
}

// File is an open quota file.
type File struct {
	// SpaceGrace and InodeGrace are how long soft limits may be exceeded, in
	// seconds.
	SpaceGrace, InodeGrace uint32

	cache   *buffer.Cache
	storage Storage
	tag     buffer.Tag
	what    string

	blocks    uint32 // in use or free
	freeBlock uint32 // first of the list of free blocks, or 0
	freeEntry uint32 // first of the list of blocks of records with free places, or 0
}

// Open reads the header of a file of size bytes.
func Open(c *buffer.Cache, s Storage, kind Kind, size uint64) (*File, error) {
	f := &File{cache: c, storage: s, what: kind.String() + " quota", tag: buffer.Tag{Kind: buffer.Quota}}
	le := binary.LittleEndian
	err := f.view(0, func(b []byte) error {
		if magic, v := le.Uint32(b), le.Uint32(b[4:]); magic != magics[kind] || v != version {
			return f.corruptf("has magic %#x and version %d", magic, v)
		}
		f.SpaceGrace, f.InodeGrace = le.Uint32(b[0x08:]), le.Uint32(b[0x0C:])
		f.blocks, f.freeBlock, f.freeEntry = le.Uint32(b[0x14:]), le.Uint32(b[0x18:]), le.Uint32(b[0x1C:])
		return nil
	})
	if err != nil {
		return nil, err
	}
	if f.blocks <= root || uint64(f.blocks) > (size+BlockSize-1)>>BlockBits {
		return nil, f.corruptf("has %d blocks in %d bytes", f.blocks, size)
	}
	if err := f.check(f.freeBlock); err != nil {
		return nil, err
	}
	return f, f.check(f.freeEntry)
}

func (f *File) corruptf(format string, args ...any) error {
	return disk.Corruptf(f.what, format, args...)
}

// check verifies a reference to a block, or none.
func (f *File) check(blk uint32) error {
	if blk != 0 && (blk <= root || blk >= f.blocks) {
		return f.corruptf("refers to block %d of %d", blk, f.blocks)
	}
	return nil
}

// open pins the buffer that a block is in.
func (f *File) open(blk uint32) (*buffer.Buffer, int, error) {
	phys, off, err := f.storage.Where(blk)
	if err != nil {
		return nil, 0, err
	}
	b, err := f.pin(phys)
	return b, off, err
}

func (f *File) pin(phys uint64) (*buffer.Buffer, error) {
	// Checked piece by piece, as it is used.
	return f.cache.ReadPinned(phys, f.tag, func([]byte) error { return nil })
}

// view lets fn read a block.
func (f *File) view(blk uint32, fn func(b []byte) error) error {
	b, off, err := f.open(blk)
	if err != nil {
		return err
	}
	defer b.Unpin()
	b.RLock()
	defer b.RUnlock()
	return fn(b.Data[off : off+BlockSize])
}

// edit lets fn change a block in a transaction.
func (f *File) edit(tx buffer.Tx, blk uint32, fn func(b []byte)) error {
	b, off, err := f.open(blk)
	if err != nil {
		return err
	}
	return change(tx, b, func(data []byte) { fn(data[off : off+BlockSize]) })
}

// change lets fn change a pinned buffer, and unpins it.
func change(tx buffer.Tx, b *buffer.Buffer, fn func(data []byte)) error {
	defer b.Unpin()
	if err := tx.Modify(b); err != nil {
		return err
	}
	b.Lock()
	defer b.Unlock()
	fn(b.Data)
	return nil
}

// setHeader stores what of the header changes.
func (f *File) setHeader(tx buffer.Tx) error {
	return f.edit(tx, 0, func(b []byte) {
		binary.LittleEndian.PutUint32(b[0x14:], f.blocks)
		binary.LittleEndian.PutUint32(b[0x18:], f.freeBlock)
		binary.LittleEndian.PutUint32(b[0x1C:], f.freeEntry)
	})
}

// Write stores a record in its place.
func (f *File) Write(tx buffer.Tx, at Place, r *Record) error {
	b, err := f.pin(at.Phys)
	if err != nil {
		return err
	}
	return change(tx, b, func(data []byte) { encode(data[at.Off:], r) })
}

// Find reads the record of an id. ok is false if there is none.
func (f *File) Find(id uint32) (at Place, r Record, ok bool, err error) {
	w, err := f.walk(id)
	if err != nil || !w.complete() {
		return at, r, false, err
	}
	return f.locate(w.blk[levels], id, w.slot)
}

// locate tells where on the device a place in a block of records is, and what
// is there.
func (f *File) locate(blk, id uint32, slot int) (at Place, r Record, ok bool, err error) {
	phys, off, err := f.storage.Where(blk)
	if err != nil {
		return at, r, false, err
	}
	at = Place{phys, off + slotOff(slot)}
	b, err := f.pin(phys)
	if err != nil {
		return at, r, false, err
	}
	defer b.Unpin()
	b.RLock()
	defer b.RUnlock()
	r = decode(b.Data[at.Off:])
	return at, r, true, nil
}

func slotOff(slot int) int { return blockHeader + slot*recordSize }

// way is the way to the record of an id, as far as there is one.
type way struct {
	n    int                // the blocks that are known
	blk  [levels + 1]uint32 // tree blocks from the root on, and a block of records
	slot int                // of the record in the last
}

func (w *way) complete() bool { return w.n == len(w.blk) }

// index is which reference of a tree block leads to an id.
func index(id uint32, level int) int { return int(id>>(8*(levels-1-level))&0xFF) * 4 }

func (f *File) walk(id uint32) (w way, err error) {
	w.blk[0], w.n = root, 1
	for level := range levels {
		err := f.view(w.blk[level], func(b []byte) error {
			w.blk[level+1] = binary.LittleEndian.Uint32(b[index(id, level):])
			return f.check(w.blk[level+1])
		})
		if err != nil || w.blk[level+1] == 0 {
			return w, err
		}
		w.n++
	}
	err = f.records(w.blk[levels], func(b []byte, n int) error {
		for w.slot = 0; w.slot < perBlock; w.slot++ {
			p := b[slotOff(w.slot):]
			if used(p) && binary.LittleEndian.Uint32(p) == id {
				return nil
			}
		}
		return f.corruptf("block %d has no record of id %d", w.blk[levels], id)
	})
	return w, err
}

// records lets fn read a block of n records.
func (f *File) records(blk uint32, fn func(b []byte, n int) error) error {
	return f.view(blk, func(b []byte) error {
		n := 0
		for slot := range perBlock {
			if used(b[slotOff(slot):]) {
				n++
			}
		}
		le := binary.LittleEndian
		if says := int(le.Uint16(b[blockRecords:])); says != n || n == 0 {
			return f.corruptf("block %d has %d records and says %d", blk, n, says)
		}
		for _, off := range []int{blockNext, blockPrev} {
			if err := f.check(le.Uint32(b[off:])); err != nil {
				return err
			}
		}
		return fn(b, n)
	})
}
