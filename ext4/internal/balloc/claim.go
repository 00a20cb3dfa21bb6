package balloc

import (
	"fmt"
	"syscall"

	"ext4box/ext4/internal/buffer"
	"ext4box/ext4/internal/disk"
)

// Claim marks a pending run, or a part of one, used on disk. It changes nothing
// if it fails; what was not claimed stays pending.
func (gs *Groups) Claim(tx buffer.Tx, r Run) error {
	num, at, n, err := gs.locate(r)
	if err != nil {
		return err
	}
	g := gs.lock(num)
	defer gs.unlock(g)
	if err := gs.loadBlocks(g); err != nil {
		return err
	}
	if n > g.held || g.busy.NextClear(at, at+n) < at+n {
		return fmt.Errorf("claim blocks %d+%d, which are not reserved: %w", r.Start, r.Len, syscall.EINVAL)
	}
	e, err := gs.editBlocks(tx, g)
	if err != nil {
		return err
	}
	if used := e.bitmap.NextSet(at, at+n); used < at+n {
		err := groupErrorf(num, "block %d is marked used and was reserved", gs.run(num, used, 1).Start)
		e.cancel()
		gs.setAside(g, gs.blocks, err)
		return err
	}
	e.bitmap.SetRange(at, n)
	e.desc.FreeBlocks -= n
	g.held -= n
	gs.countPending(g, -int64(n))
	e.finish(int64(n)) // no longer pending
	return nil
}

// FreeFlags modify Free.
type FreeFlags uint8

// FreeForget says that the blocks held metadata: the transaction forgets them.
const FreeForget FreeFlags = 1

// Free marks the n blocks from start used no longer, on disk; they can be
// handed out again once tx is committed. The range may span groups.
//
// Blocks that are free already, or belong to the filesystem itself, are a
// corruption: the call fails, having freed only what lies in groups before. In
// groups that are set aside nothing is freed and that is no error: what their
// bitmaps say does not matter until they are repaired.
func (gs *Groups) Free(tx buffer.Tx, start, n uint64, flags FreeFlags) error {
	geo := gs.Geo
	if start < uint64(geo.FirstDataBlock) || start >= geo.BlocksCount || n > geo.BlocksCount-start {
		return disk.Corruptf(disk.BlockName(start), "%d blocks to be freed lie outside the filesystem", n)
	}
	for n > 0 {
		num := geo.GroupOf(start)
		r := Run{start, uint32(min(n, geo.GroupFirstBlock(num)+uint64(geo.GroupBlocks(num))-start))}
		freed, err := gs.freeRun(tx, r)
		if err != nil {
			return err
		}
		if freed {
			if flags&FreeForget != 0 {
				for blk := r.Start; blk < r.End(); blk++ {
					tx.Forget(blk)
				}
			}
			off := uint32(r.Start-geo.GroupFirstBlock(num)) >> gs.ratio
			gs.addFreed(tx, num, off, r.Len>>gs.ratio)
		}
		start, n = r.End(), n-uint64(r.Len)
	}
	return nil
}

// freeRun marks a run inside one group free on disk. It does nothing if the
// group is set aside.
func (gs *Groups) freeRun(tx buffer.Tx, r Run) (freed bool, err error) {
	num, at, n, err := gs.locate(r)
	if err != nil {
		return false, err
	}
	g := gs.lock(num)
	defer gs.unlock(g)
	if err := gs.loadBlocks(g); err != nil {
		if isCorrupt(err) {
			return false, nil
		}
		return false, err
	}
	if g.isMetadata(at, n) {
		return false, disk.Corruptf(disk.BlockName(r.Start), "%d blocks to be freed hold the filesystem's own structures", r.Len)
	}
	if free := g.busy.NextClear(at, at+n); free < at+n {
		return false, gs.doubleFree(g, free)
	}
	e, err := gs.editBlocks(tx, g)
	if err != nil {
		return false, err
	}
	if free := e.bitmap.NextClear(at, at+n); free < at+n {
		e.cancel()
		return false, gs.doubleFree(g, free)
	}
	e.bitmap.ClearRange(at, n)
	e.desc.FreeBlocks += n
	g.held += n
	gs.space.waiting.Add(int64(n))
	e.finish(-int64(n)) // free, but not to be handed out
	return true, nil
}

// doubleFree sets a group aside: two files have, or had, the same block.
func (gs *Groups) doubleFree(g *group, at uint32) error {
	err := groupErrorf(g.num, "block %d is to be freed and is free already", gs.run(g.num, at, 1).Start)
	gs.setAside(g, gs.blocks, err)
	return err
}

// blockEdit is a change in the making to a group's block bitmap and descriptor.
// The group is locked.
type blockEdit struct {
	gs     *Groups
	g      *group
	buf    *buffer.Buffer // of the bitmap; pinned and locked
	descs  *buffer.Buffer // pinned
	bitmap disk.Bitmap
	desc   disk.GroupDesc // to be stored
}

// editBlocks makes the bitmap and the descriptor of a loaded group part of the
// transaction. A bitmap that was not initialised is now.
func (gs *Groups) editBlocks(tx buffer.Tx, g *group) (e blockEdit, err error) {
	e = blockEdit{gs: gs, g: g, desc: g.desc}
	if e.descs, err = gs.modifyDesc(tx, g); err != nil {
		return e, err
	}
	if g.desc.Flags&disk.GroupBlockUninit == 0 {
		if e.buf, err = gs.blockBitmap(g); err != nil {
			e.descs.Unpin()
			if isCorrupt(err) {
				gs.setAside(g, gs.blocks, err)
			}
			return e, err
		}
		e.buf.Lock()
		if err = tx.Modify(e.buf); err != nil {
			e.cancel()
			return e, err
		}
		e.bitmap = e.buf.Data
		return e, nil
	}
	e.buf, err = tx.New(g.desc.BlockBitmap, buffer.Tag{Kind: buffer.Bitmap, Owner: g.num})
	if err != nil {
		e.descs.Unpin()
		return e, err
	}
	e.buf.Pin()
	e.buf.Lock()
	e.bitmap = e.buf.Data
	for _, z := range g.zones {
		e.bitmap.SetRange(z.lo, z.hi-z.lo)
	}
	e.bitmap.SetRange(g.clusters, gs.Geo.BlockSize*8-g.clusters)
	e.desc.Flags &^= disk.GroupBlockUninit
	return e, nil
}

// cancel gives up an edit that has changed nothing.
func (e *blockEdit) cancel() {
	e.buf.Unlock()
	e.buf.Unpin()
	e.descs.Unpin()
}

// finish stores the descriptor that fits the changed bitmap. unheld is how many
// clusters that are not free now can be handed out afterwards, beyond what the
// descriptor says.
func (e *blockEdit) finish(unheld int64) {
	if e.gs.Sums.Metadata {
		e.desc.BlockBitmapCsum = e.gs.descSum(e.gs.Sums.Bitmap(e.bitmap, e.gs.Geo.ClustersPerGroup))
	}
	e.buf.Unlock()
	e.buf.Unpin()
	e.gs.writeDesc(e.descs, e.g, e.desc, unheld)
}
