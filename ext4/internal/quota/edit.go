package quota

import (
	"encoding/binary"

	"ext4box/ext4/internal/buffer"
)

// Insert makes an empty record for an id that has none. With ENOSPC from the
// storage there still is none.
func (f *File) Insert(tx buffer.Tx, id uint32) (Place, error) {
	w, err := f.walk(id)
	if err != nil {
		return Place{}, err
	}
	if w.complete() {
		return Place{}, f.corruptf("has a record of id %d already", id)
	}
	missing := levels - w.n // tree blocks
	need := missing
	if f.freeEntry == 0 {
		need++
	}
	// First whatever can fail for want of space.
	if err := f.stock(tx, need); err != nil {
		return Place{}, err
	}
	child, slot, err := f.place(tx, id)
	if err != nil {
		return Place{}, err
	}
	blk := child
	for level := levels - 1; level >= w.n-1; level-- {
		parent := w.blk[level]
		if level >= w.n {
			if parent, err = f.take(tx); err != nil {
				return Place{}, err
			}
		}
		err := f.edit(tx, parent, func(b []byte) { binary.LittleEndian.PutUint32(b[index(id, level):], child) })
		if err != nil {
			return Place{}, err
		}
		child = parent
	}
	if err := f.setHeader(tx); err != nil {
		return Place{}, err
	}
	at, _, _, err := f.locate(blk, id, slot)
	return at, err
}

// stock sees to it that the list of free blocks has n.
func (f *File) stock(tx buffer.Tx, n int) error {
	for blk := f.freeBlock; blk != 0 && n > 0; n-- {
		next, err := f.nextFree(blk)
		if err != nil {
			return err
		}
		blk = next
	}
	for ; n > 0; n-- {
		blk := f.blocks
		if err := f.storage.Grow(tx, blk); err != nil {
			return err
		}
		f.blocks++
		if err := f.give(tx, blk); err != nil {
			return err
		}
		if err := f.setHeader(tx); err != nil {
			return err
		}
	}
	return nil
}

// nextFree is what follows a block in the list of free blocks.
func (f *File) nextFree(blk uint32) (next uint32, err error) {
	err = f.view(blk, func(b []byte) error {
		next = binary.LittleEndian.Uint32(b[blockNext:])
		if next == blk {
			return f.corruptf("free block %d is followed by itself", blk)
		}
		return f.check(next)
	})
	return next, err
}

// give puts a block on the list of free ones. The caller stores the header.
func (f *File) give(tx buffer.Tx, blk uint32) error {
	err := f.edit(tx, blk, func(b []byte) {
		clear(b)
		binary.LittleEndian.PutUint32(b[blockNext:], f.freeBlock)
	})
	f.freeBlock = blk
	return err
}

// take takes a block, which then is all zeros, from the list of free ones. The
// caller stores the header.
func (f *File) take(tx buffer.Tx) (uint32, error) {
	blk := f.freeBlock
	if blk == 0 {
		return 0, f.corruptf("has fewer free blocks than it had before")
	}
	next, err := f.nextFree(blk)
	if err != nil {
		return 0, err
	}
	f.freeBlock = next
	return blk, f.edit(tx, blk, func(b []byte) { clear(b) })
}

// place puts an empty record of an id into a block that has room, or a new one.
func (f *File) place(tx buffer.Tx, id uint32) (blk uint32, slot int, err error) {
	n := 0
	if blk = f.freeEntry; blk == 0 {
		if blk, err = f.take(tx); err != nil {
			return 0, 0, err
		}
		f.freeEntry = blk
	} else {
		err = f.records(blk, func(b []byte, has int) error {
			if n = has; n == perBlock || binary.LittleEndian.Uint32(b[blockPrev:]) != 0 {
				return f.corruptf("block %d with %d records is the first with room", blk, n)
			}
			for used(b[slotOff(slot):]) {
				slot++
			}
			return nil
		})
		if err != nil {
			return 0, 0, err
		}
	}
	if n+1 == perBlock {
		if err := f.unlink(tx, blk); err != nil {
			return 0, 0, err
		}
	}
	return blk, slot, f.edit(tx, blk, func(b []byte) {
		binary.LittleEndian.PutUint16(b[blockRecords:], uint16(n+1))
		encode(b[slotOff(slot):], &Record{ID: id})
	})
}

// unlink takes a block off the list of those with free places. The caller
// stores the header.
func (f *File) unlink(tx buffer.Tx, blk uint32) error {
	var next, prev uint32
	err := f.edit(tx, blk, func(b []byte) {
		next, prev = binary.LittleEndian.Uint32(b[blockNext:]), binary.LittleEndian.Uint32(b[blockPrev:])
		clear(b[:blockRecords])
	})
	if err != nil {
		return err
	}
	if prev == 0 {
		f.freeEntry = next
	} else if err := f.setLink(tx, prev, blockNext, next); err != nil {
		return err
	}
	return f.setLink(tx, next, blockPrev, prev)
}

// setLink sets one of the two references of a block in the list, unless the
// block is none.
func (f *File) setLink(tx buffer.Tx, blk uint32, off int, to uint32) error {
	if blk == 0 {
		return nil
	}
	return f.edit(tx, blk, func(b []byte) { binary.LittleEndian.PutUint32(b[off:], to) })
}

// Remove takes the record of an id away, and the blocks that become empty.
func (f *File) Remove(tx buffer.Tx, id uint32) error {
	w, err := f.walk(id)
	if err != nil || !w.complete() {
		return err
	}
	blk, n := w.blk[levels], 0
	if err := f.records(blk, func(_ []byte, has int) error { n = has; return nil }); err != nil {
		return err
	}
	if n == 1 {
		if err := f.unlink(tx, blk); err != nil {
			return err
		}
		if err := f.give(tx, blk); err != nil {
			return err
		}
		return f.prune(tx, &w, id)
	}
	err = f.edit(tx, blk, func(b []byte) {
		binary.LittleEndian.PutUint16(b[blockRecords:], uint16(n-1))
		clear(b[slotOff(w.slot):slotOff(w.slot+1)])
	})
	if err == nil && n == perBlock {
		err = f.link(tx, blk)
	}
	if err != nil {
		return err
	}
	return f.prune(tx, &w, id)
}

// link puts a block at the head of the list of those with free places.
func (f *File) link(tx buffer.Tx, blk uint32) error {
	if err := f.setLink(tx, f.freeEntry, blockPrev, blk); err != nil {
		return err
	}
	err := f.setLink(tx, blk, blockNext, f.freeEntry)
	f.freeEntry = blk
	return err
}

// prune takes the reference to a record away, and the tree blocks that have no
// other, but for the root.
func (f *File) prune(tx buffer.Tx, w *way, id uint32) error {
	for level := levels - 1; level >= 0; level-- {
		empty := true
		err := f.edit(tx, w.blk[level], func(b []byte) {
			binary.LittleEndian.PutUint32(b[index(id, level):], 0)
			for _, v := range b {
				empty = empty && v == 0
			}
		})
		if err != nil {
			return err
		}
		if !empty || level == 0 {
			break
		}
		if err := f.give(tx, w.blk[level]); err != nil {
			return err
		}
	}
	return f.setHeader(tx)
}
