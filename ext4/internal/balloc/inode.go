package balloc

import (
	"fmt"
	"syscall"

	"ext4box/ext4/internal/buffer"
	"ext4box/ext4/internal/disk"
)

var inodeTableTag = buffer.Tag{Kind: buffer.InodeTable}

// loadInodes makes what g holds of inodes valid, and the descriptor. A group
// that fails its checks is set aside for inodes.
func (gs *Groups) loadInodes(g *group) error {
	if gs.inodes.get(g.num) == bad {
		return groupErrorf(g.num, "set aside because of an earlier error")
	}
	if g.inodesLoaded {
		return nil
	}
	if err := gs.loadDesc(g); err != nil {
		return err
	}
	if _, err := gs.metadata(g.num, &g.desc); err != nil {
		if isCorrupt(err) {
			gs.setAside(g, gs.inodes, err)
		}
		return err
	}
	err := gs.checkInodes(g)
	if err != nil {
		if isCorrupt(err) {
			gs.setAside(g, gs.inodes, err)
		}
		return err
	}
	g.inodesLoaded = true
	return nil
}

// checkInodes verifies the content of a group's inode bitmap.
func (gs *Groups) checkInodes(g *group) error {
	per := gs.Geo.InodesPerGroup
	if g.desc.Flags&disk.GroupInodeUninit != 0 {
		switch {
		case g.num == 0:
			return groupErrorf(0, "inode bitmap is marked uninitialised")
		case g.desc.FreeInodes != per || g.desc.UsedDirs != 0:
			return groupErrorf(g.num, "inode bitmap is marked uninitialised, with %d free inodes and %d directories", g.desc.FreeInodes, g.desc.UsedDirs)
		}
		return nil
	}
	b, err := gs.inodeBitmap(g)
	if err != nil {
		return err
	}
	defer b.Unpin()
	b.RLock()
	defer b.RUnlock()
	m := disk.Bitmap(b.Data)
	if n := m.CountClear(0, per); n != g.desc.FreeInodes {
		return groupErrorf(g.num, "%d inodes are free in the bitmap and %d in the descriptor", n, g.desc.FreeInodes)
	}
	if g.desc.UsedDirs > per-g.desc.FreeInodes {
		return groupErrorf(g.num, "%d directories are more than the %d inodes in use", g.desc.UsedDirs, per-g.desc.FreeInodes)
	}
	if used := gs.tableUsed(&g.desc); m.NextSet(used, per) < per {
		return groupErrorf(g.num, "inode %d is in use and behind the end of the initialised inodes", gs.ino(g.num, m.NextSet(used, per)))
	}
	if reserved := min(gs.Geo.FirstIno-1, per); g.num == 0 && m.NextClear(0, reserved) < reserved {
		return groupErrorf(0, "reserved inode %d is marked free", m.NextClear(0, reserved)+1)
	}
	return nil
}

// inodeBitmap pins the checked inode bitmap of a group that has one. The
// padding at its end is not checked; nothing depends on it.
func (gs *Groups) inodeBitmap(g *group) (*buffer.Buffer, error) {
	return gs.pin(g.desc.InodeBitmap, buffer.Tag{Kind: buffer.Bitmap, Owner: g.num}, func(b []byte) error {
		if gs.Sums.Metadata {
			if sum := gs.descSum(gs.Sums.Bitmap(b, gs.Geo.InodesPerGroup)); sum != g.desc.InodeBitmapCsum {
				return groupErrorf(g.num, "inode bitmap checksum is %#x instead of %#x", g.desc.InodeBitmapCsum, sum)
			}
		}
		return nil
	})
}

// tableUsed is the number of inodes at the start of a group's table that are
// initialised.
func (gs *Groups) tableUsed(d *disk.GroupDesc) uint32 {
	switch {
	case !gs.hasDescSums():
		return gs.Geo.InodesPerGroup
	case d.Flags&disk.GroupInodeUninit != 0:
		return 0
	}
	return gs.Geo.InodesPerGroup - d.ItableUnused
}

func (gs *Groups) ino(num, index uint32) uint32 { return num*gs.Geo.InodesPerGroup + index + 1 }

// allocInGroup takes the first free inode of a group. It returns 0 if there is
// none, or the group cannot be used.
func (gs *Groups) allocInGroup(tx buffer.Tx, num uint32, dir bool) (uint32, error) {
	if c := gs.inodes.get(num); c == full || c == bad {
		return 0, nil
	}
	g := gs.lock(num)
	defer gs.unlock(g)
	if err := gs.loadInodes(g); err != nil {
		if isCorrupt(err) {
			err = nil
		}
		return 0, err
	}
	if g.desc.FreeInodes == 0 {
		gs.publishInodes(g)
		return 0, nil
	}
	if g.desc.Flags&disk.GroupBlockUninit != 0 {
		// A group with inodes in use must have a block bitmap.
		if err := gs.initBlocks(tx, g); err != nil {
			if isCorrupt(err) {
				gs.setAside(g, gs.inodes, err)
				err = nil
			}
			return 0, err
		}
	}
	return gs.takeInode(tx, g, dir)
}

// initBlocks initialises the block bitmap of a group on disk.
func (gs *Groups) initBlocks(tx buffer.Tx, g *group) error {
	if err := gs.loadBlocks(g); err != nil {
		return err
	}
	e, err := gs.editBlocks(tx, g)
	if err != nil {
		return err
	}
	e.finish(0)
	return nil
}

// takeInode takes the first free inode of a loaded group that has one.
func (gs *Groups) takeInode(tx buffer.Tx, g *group, dir bool) (uint32, error) {
	per := gs.Geo.InodesPerGroup
	descs, err := gs.modifyDesc(tx, g)
	if err != nil {
		return 0, err
	}
	b, err := gs.openInodeBitmap(tx, g)
	if err != nil {
		descs.Unpin()
		return 0, err
	}
	// Group 0 starts with the reserved inodes, which checkInodes saw in use.
	index := disk.Bitmap(b.Data).NextClear(g.firstInode, per)
	if index == per {
		closeBitmap(b)
		descs.Unpin()
		err := groupErrorf(g.num, "%d inodes are free in the descriptor and none in the bitmap", g.desc.FreeInodes)
		gs.setAside(g, gs.inodes, err)
		return 0, err
	}
	if err := gs.markInode(tx, g, b, descs, index, dir); err != nil {
		return 0, err
	}
	g.firstInode = index + 1
	return gs.ino(g.num, index), nil
}

// markInode marks a free inode used, and makes sure that its block of the table
// is initialised. b, locked, and descs are in the transaction, and are done with
// afterwards.
func (gs *Groups) markInode(tx buffer.Tx, g *group, b, descs *buffer.Buffer, index uint32, dir bool) error {
	per := gs.Geo.InodesPerGroup
	d := g.desc
	used := gs.tableUsed(&d)
	if index >= used && d.Flags&disk.GroupZeroed == 0 {
		// The bitmap's lock is let go: one buffer at a time. The group's is held.
		b.Unlock()
		err := gs.zeroTable(tx, &d, used, index+1)
		b.Lock()
		if err != nil {
			closeBitmap(b)
			descs.Unpin()
			return err
		}
	}
	disk.Bitmap(b.Data).SetRange(index, 1)
	d.Flags &^= disk.GroupInodeUninit
	if gs.hasDescSums() {
		d.ItableUnused = per - max(used, index+1)
	}
	d.FreeInodes--
	if dir {
		d.UsedDirs++
	}
	gs.sumInodes(&d, b)
	closeBitmap(b)
	gs.writeDesc(descs, g, d, 0)
	gs.publishInodes(g)
	return nil
}

// openInodeBitmap pins, locks and makes part of the transaction the inode
// bitmap of a group. One that was not initialised is now.
func (gs *Groups) openInodeBitmap(tx buffer.Tx, g *group) (*buffer.Buffer, error) {
	if g.desc.Flags&disk.GroupInodeUninit != 0 {
		b, err := tx.New(g.desc.InodeBitmap, buffer.Tag{Kind: buffer.Bitmap, Owner: g.num})
		if err != nil {
			return nil, err
		}
		b.Pin()
		b.Lock()
		per := gs.Geo.InodesPerGroup
		disk.Bitmap(b.Data).SetRange(per, gs.Geo.BlockSize*8-per)
		return b, nil
	}
	b, err := gs.inodeBitmap(g)
	if err != nil {
		if isCorrupt(err) {
			gs.setAside(g, gs.inodes, err)
		}
		return nil, err
	}
	b.Lock()
	if err := tx.Modify(b); err != nil {
		closeBitmap(b)
		return nil, err
	}
	return b, nil
}

func closeBitmap(b *buffer.Buffer) {
	b.Unlock()
	b.Unpin()
}

func (gs *Groups) sumInodes(d *disk.GroupDesc, b *buffer.Buffer) {
	if gs.Sums.Metadata {
		d.InodeBitmapCsum = gs.descSum(gs.Sums.Bitmap(b.Data, gs.Geo.InodesPerGroup))
	}
}

// zeroTable zeroes the blocks of an inode table that hold inodes in [used, to)
// and none before: what is in them is from before the filesystem was made.
func (gs *Groups) zeroTable(tx buffer.Tx, d *disk.GroupDesc, used, to uint32) error {
	per := gs.Geo.BlockSize / gs.Geo.InodeSize
	for i := (used + per - 1) / per; i < (to+per-1)/per; i++ {
		if _, err := tx.New(d.InodeTable+uint64(i), inodeTableTag); err != nil {
			return err
		}
	}
	return nil
}

func (gs *Groups) publishInodes(g *group) {
	gs.inodes.set(g.num, classOf(g.desc.FreeInodes, true), false)
}

// FreeInode marks an inode free on disk. Its number may be used again in the
// same transaction. dir says whether it was a directory.
//
// An inode that is free already is a corruption and sets the group aside; in a
// group that is set aside nothing is freed and that is no error.
func (gs *Groups) FreeInode(tx buffer.Tx, ino uint32, dir bool) error {
	if ino < gs.Geo.FirstIno || ino > gs.Geo.InodesCount {
		return fmt.Errorf("free inode %d, which is reserved or does not exist: %w", ino, syscall.EINVAL)
	}
	num, index := gs.Geo.InodeGroup(ino)
	g := gs.lock(num)
	defer gs.unlock(g)
	if err := gs.loadInodes(g); err != nil {
		if isCorrupt(err) {
			return nil
		}
		return err
	}
	d := g.desc
	if d.Flags&disk.GroupInodeUninit != 0 {
		return gs.badFree(g, ino, "is free already")
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
	m := disk.Bitmap(b.Data)
	problem := ""
	switch {
	case !m.Test(index):
		problem = "is free already"
	case dir && d.UsedDirs == 0:
		problem = "is a directory in a group without any"
	}
	if problem != "" {
		closeBitmap(b)
		descs.Unpin()
		return gs.badFree(g, ino, problem)
	}
	m.ClearRange(index, 1)
	d.FreeInodes++
	if dir {
		d.UsedDirs--
	}
	gs.sumInodes(&d, b)
	closeBitmap(b)
	gs.writeDesc(descs, g, d, 0)
	g.firstInode = min(g.firstInode, index)
	gs.publishInodes(g)
	return nil
}

// badFree sets a group aside for inodes.
func (gs *Groups) badFree(g *group, ino uint32, problem string) error {
	err := groupErrorf(g.num, "inode %d is to be freed and %s", ino, problem)
	gs.setAside(g, gs.inodes, err)
	return err
}
