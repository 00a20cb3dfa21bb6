package extent

import (
	"errors"
	"fmt"
	"syscall"

	"ext4box/ext4/internal/buffer"
	"ext4box/ext4/internal/disk"
)

// Allocator gives out and takes back the blocks of the device that hold a map's
// own nodes. It counts them in the inode's block count.
type Allocator interface {
	// AllocNode takes one block for metadata, near device block goal. Nodes of a
	// map that is not a tree must lie below [BlockMapLimit].
	AllocNode(tx buffer.Tx, goal uint64) (blk uint64, err error)

	// FreeNode frees a block that AllocNode gave out, now or in another
	// transaction, and forgets it.
	FreeNode(tx buffer.Tx, blk uint64) error
}

const (
	// MaxMapped is the number of file blocks that can be mapped. It is one less
	// than MaxBlocks, so that the end of an extent always fits 32 bits, as the
	// kernel wants it.
	MaxMapped = MaxBlocks - 1

	// BlockMapLimit is the first device block that a pointer in a block map
	// cannot name.
	BlockMapLimit = 1 << 32
)

// Init makes the map empty: a tree without extents, or no pointers. Nothing that
// it had is freed.
func (m *Map) Init(tree bool) {
	m.Tree = tree
	clear(m.Root)
	if tree {
		initNode(m.Root, 0)
	}
}

// Insert maps the file blocks of r, which must be a hole. Extents that continue
// each other are merged. ENOSPC and EDQUOT (from the allocator), EFBIG (r ends
// beyond what the map can hold) and EOPNOTSUPP (r is unwritten and the map not a
// tree) leave everything as it was. With another error something is corrupt, and
// the blocks of r, which may be mapped, must not be freed.
//
// The transaction needs [Map.InsertCredits].
func (m *Map) Insert(tx buffer.Tx, a Allocator, r Run) error {
	if r.Len == 0 || r.State == Hole || !m.mayHave(r.Start, r.Len) {
		return disk.Corruptf(disk.InodeName(m.Ino), "blocks %d+%d cannot back file block %d", r.Start, r.Len, r.Block)
	}
	if r.Block > MaxMapped || r.Len > MaxMapped-r.Block {
		return fmt.Errorf("inode %d cannot have %d blocks at %d: %w", m.Ino, r.Len, r.Block, syscall.EFBIG)
	}
	if m.Tree {
		return m.insertTree(tx, a, r)
	}
	return m.insertBlockMap(tx, a, r)
}

// Remove unmaps the file blocks [lo, hi) and calls freed for each run of device
// blocks that they had, when these are no longer mapped. With ENOSPC or EDQUOT,
// which are possible when an extent has to be split, nothing has changed. Other
// errors leave a map that is sound but may still have part of the range, and
// blocks that nothing maps but which freed was not called for.
//
// All happens in one transaction, which needs credits for as many steps as the
// range has leaves; see [Map.RemoveStep].
func (m *Map) Remove(tx buffer.Tx, a Allocator, lo, hi uint64, freed func(start, n uint64) error) error {
	for lo < hi {
		var err error
		if hi, err = m.RemoveStep(tx, a, lo, hi, int(^uint(0)>>1), freed); err != nil {
			return err
		}
	}
	return nil
}

// RemoveStep is a part of Remove that needs no more than [Map.RemoveCredits]: it
// unmaps the end of [lo, hi), as far as one leaf has it and with at most limit
// calls of freed. What is left is [lo, rest), with rest equal to lo when nothing
// is. Between steps the map is sound, and the inode may be stored.
func (m *Map) RemoveStep(tx buffer.Tx, a Allocator, lo, hi uint64, limit int, freed func(start, n uint64) error) (rest uint64, err error) {
	switch {
	case lo >= hi:
		return lo, nil
	case m.Tree:
		return m.removeTree(tx, a, lo, hi, max(limit, 1), freed)
	}
	return m.removeBlockMap(tx, a, lo, hi, max(limit, 1), freed)
}

// Convert makes what is mapped of the file blocks [lo, hi) written or unwritten;
// holes stay. Extents are split and merged as needed. With ENOSPC or EDQUOT,
// possible when extents have to be split, a part from lo on may be converted,
// and nothing else has changed. EOPNOTSUPP: the map is not a tree.
//
// All happens in one transaction, which needs credits for as many steps as the
// range has leaves; see [Map.ConvertStep].
func (m *Map) Convert(tx buffer.Tx, a Allocator, lo, hi uint64, to State) error {
	for lo < hi {
		var err error
		if lo, err = m.ConvertStep(tx, a, lo, hi, to); err != nil {
			return err
		}
	}
	return nil
}

// ConvertStep is a part of Convert that needs no more than
// [Map.ConvertCredits]: it converts the start of [lo, hi), as far as one leaf
// has it. What is left is [rest, hi).
func (m *Map) ConvertStep(tx buffer.Tx, a Allocator, lo, hi uint64, to State) (rest uint64, err error) {
	switch {
	case !m.Tree:
		return lo, m.unsupported()
	case to == Hole:
		return lo, syscall.EINVAL
	case lo >= min(hi, MaxBlocks):
		return hi, nil
	}
	return m.convertTree(tx, a, lo, min(hi, MaxBlocks), to)
}

// Shift moves what is mapped from file block from on by so many blocks: towards
// the start, where a hole must have been made for it, or towards the end, when
// an extent that goes across from is split. EINVAL: there is no such hole, or
// extents would leave the file. EOPNOTSUPP: the map is not a tree. With
// ENOSPC or EDQUOT nothing has changed.
//
// All happens in one transaction, which needs credits for as many steps as there
// are leaves from there on; see [Map.ShiftStep].
func (m *Map) Shift(tx buffer.Tx, a Allocator, from uint64, by int64) error {
	for lo, hi := from, uint64(MaxBlocks); lo < hi; {
		var err error
		if lo, hi, err = m.ShiftStep(tx, a, lo, hi, by); err != nil {
			return err
		}
	}
	return nil
}

// ShiftStep is a part of Shift that needs no more than [Map.ShiftCredits]: of
// what is mapped in [lo, hi), which is at first all from where Shift begins to
// MaxBlocks, it shifts as much as one leaf has, or splits the extent at lo. What
// is left is [restLo, restHi), in blocks as they were before; a file
// that is left in this state has its extents in order but not where they belong.
func (m *Map) ShiftStep(tx buffer.Tx, a Allocator, lo, hi uint64, by int64) (restLo, restHi uint64, err error) {
	hi = min(hi, MaxBlocks)
	switch {
	case !m.Tree:
		return lo, hi, m.unsupported()
	case lo >= hi || by == 0:
		return hi, hi, nil
	case by < 0:
		restLo, err = m.shiftDown(tx, a, lo, hi, uint64(-by))
		return restLo, hi, err
	}
	return m.shiftUp(tx, a, lo, hi, uint64(by))
}

func (m *Map) unsupported() error {
	return fmt.Errorf("inode %d has a block map, which cannot do this: %w", m.Ino, syscall.EOPNOTSUPP)
}

func (m *Map) mappedAlready(r Run) error {
	return disk.Corruptf(disk.InodeName(m.Ino), "of file blocks %d+%d, to be mapped, some are mapped already", r.Block, r.Len)
}

// allocate takes n blocks for nodes, or none at all.
func allocate(tx buffer.Tx, a Allocator, n int, goal uint64) ([]uint64, error) {
	blocks := make([]uint64, 0, n)
	for range n {
		blk, err := a.AllocNode(tx, goal)
		if err != nil {
			return nil, unwound(err, free(tx, a, blocks))
		}
		blocks = append(blocks, blk)
		goal = blk + 1
	}
	return blocks, nil
}

func free(tx buffer.Tx, a Allocator, blocks []uint64) (err error) {
	for _, blk := range blocks {
		if e := a.FreeNode(tx, blk); e != nil {
			err = e
		}
	}
	return err
}

// unwound is the error of an edit that failed with err and was undone with the
// result undo. A failure to undo is the graver one.
func unwound(err, undo error) error {
	if undo != nil {
		return errors.Join(undo, err)
	}
	return err
}
