package balloc

import (
	"ext4box/ext4/internal/buffer"
	"ext4box/ext4/internal/disk"
)

// InodeUsed tells whether an inode, which must exist, is marked used. The error
// is a corruption where its group is set aside.
func (gs *Groups) InodeUsed(ino uint32) (bool, error) {
	num, index := gs.Geo.InodeGroup(ino)
	g := gs.lock(num)
	defer gs.unlock(g)
	if err := gs.loadInodes(g); err != nil {
		return false, err
	}
	if g.desc.Flags&disk.GroupInodeUninit != 0 {
		return false, nil
	}
	b, err := gs.inodeBitmap(g)
	if err != nil {
		return false, err
	}
	defer b.Unpin()
	b.RLock()
	defer b.RUnlock()
	return disk.Bitmap(b.Data).Test(index), nil
}

// UseInode marks a given inode used, which must not be a reserved one. It
// does nothing if it is marked so already. The transaction needs
// CreditsAllocInode, and a credit for each block of the inode table in front of
// the inode that is not initialised.
func (gs *Groups) UseInode(tx buffer.Tx, ino uint32, dir bool) error {
	if ino < gs.Geo.FirstIno || ino > gs.Geo.InodesCount {
		return disk.Corruptf(disk.InodeName(ino), "cannot be taken into use")
	}
	num, index := gs.Geo.InodeGroup(ino)
	g := gs.lock(num)
	defer gs.unlock(g)
	if err := gs.loadInodes(g); err != nil {
		return err
	}
	if g.desc.Flags&disk.GroupBlockUninit != 0 {
		if err := gs.initBlocks(tx, g); err != nil {
			return err
		}
	}
	descs, err := gs.modifyDesc(tx, g)
	if err != nil {
		return err
	}
	b, err := gs.openInodeBitmap(tx, g)
	if err != nil {
		descs.Unpin()
		return err
	}
	if disk.Bitmap(b.Data).Test(index) {
		closeBitmap(b)
		descs.Unpin()
		return nil
	}
	return gs.markInode(tx, g, b, descs, index, dir)
}

// Use marks the n blocks from start used, as far as they are not; but for the
// filesystem's own, which is a corruption. Nothing may be reserved yet. The
// transaction needs CreditsClaim for each group that the range touches.
func (gs *Groups) Use(tx buffer.Tx, start, n uint64) error {
	if !gs.Geo.BlocksInRange(start, n) {
		return disk.Corruptf(disk.BlockName(start), "%d blocks to be used lie outside the filesystem", n)
	}
	for n > 0 {
		num := gs.Geo.GroupOf(start)
		r := Run{start, uint32(min(n, gs.Geo.GroupFirstBlock(num)+uint64(gs.Geo.GroupBlocks(num))-start))}
		if err := gs.useRun(tx, r); err != nil {
			return err
		}
		start, n = r.End(), n-uint64(r.Len)
	}
	return nil
}

// useRun is Use inside one group.
func (gs *Groups) useRun(tx buffer.Tx, r Run) error {
	num, at, n, err := gs.locate(r)
	if err != nil {
		return err
	}
	g := gs.lock(num)
	defer gs.unlock(g)
	if err := gs.loadBlocks(g); err != nil {
		return err
	}
	if g.isMetadata(at, n) {
		return disk.Corruptf(disk.BlockName(r.Start), "%d blocks to be used hold the filesystem's own structures", r.Len)
	}
	free := g.busy.CountClear(at, at+n)
	if free == 0 {
		return nil
	}
	e, err := gs.editBlocks(tx, g)
	if err != nil {
		return err
	}
	e.bitmap.SetRange(at, n)
	g.busy.SetRange(at, n)
	g.free -= free
	g.longestExact = false
	e.desc.FreeBlocks -= free
	e.finish(0)
	gs.publish(g)
	return nil
}
