package balloc

import "ext4box/ext4/internal/disk"

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
