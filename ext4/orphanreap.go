package ext4

import (
	"errors"
	"fmt"
	"syscall"

	"ext4box/ext4/internal/disk"
	"ext4box/ext4/internal/journal"
)

// reapOrphans finishes what a crash interrupted: it deletes inodes without a name
// and truncates the others. Of a list only one inode at a time is in memory.
// Each step takes it off, and either frees it or ends its part of the list, so
// that a list that runs in circles comes to its end as well.
//
// What cannot be an orphan is damage. As in the kernel the rest of the list is
// then given up, what was on it is left to fsck, and the filesystem is marked.
// An error is one after which the filesystem cannot be written.
//
// Unlike the kernel this does not spare a filesystem with errors, among which is
// a device that failed once: each orphan is checked anyway.
func (fs *FS) reapOrphans() error {
	if err := fs.reapList(); err != nil {
		return err
	}
	return fs.reapFile()
}

func (fs *FS) reapList() error {
	o := &fs.w.orphans
	o.rest = fs.sb.LastOrphan
	for o.rest != 0 {
		ino := Ino(o.rest)
		in, err := fs.checkOrphan(ino)
		if err == nil && in.Dtime > fs.geo.InodesCount {
			err = disk.Corruptf("orphan list", "inode %d follows inode %d", in.Dtime, ino)
		}
		if err == nil {
			o.rest = in.Dtime
			o.enter(o.order.PushBack(orphanEntry{ino, in.seed}))
			err = fs.finishOrphan(ino)
		}
		if err != nil {
			if err := fs.orphanDamage(ino, err); err != nil {
				return err
			}
			return fs.dropOrphanList()
		}
		fs.recovery.Orphans++
	}
	return nil
}

// reapFile is reapOrphans for the orphan file. What is not an orphan there loses
// its slot; the others are not concerned.
func (fs *FS) reapFile() error {
	f := fs.w.orphanFile
	if f.empty() {
		return nil
	}
	for at := range f.blocks {
		buf, err := fs.readOrphanBlock(&f.blocks[at])
		if err != nil {
			return err
		}
		inos := make([]uint32, disk.OrphanSlots(len(buf.Data)))
		for i := range inos {
			inos[i] = disk.OrphanSlot(buf.Data, i)
		}
		buf.Unpin()
		for i, n := range inos {
			if n == 0 {
				continue
			}
			ino, slot := Ino(n), orphanSlot{int32(at), int32(i)}
			_, err := fs.checkOrphan(ino)
			if err == nil {
				f.set(ino, slot)
				err = fs.finishOrphan(ino)
			}
			if err == nil {
				fs.recovery.Orphans++
				continue
			}
			if err := fs.orphanDamage(ino, err); err != nil {
				return err
			}
			f.forget(ino)
			if err := fs.transact(1, 0, func(tx *journal.Handle) error { return fs.clearOrphanSlot(tx, slot) }); err != nil {
				return err
			}
		}
	}
	return nil
}

// checkOrphan returns an inode if it can be an orphan: it is in use, and is no
// part of the filesystem itself.
func (fs *FS) checkOrphan(ino Ino) (*inode, error) {
	if fs.ownInode(ino) || ino == RootIno || uint32(ino) > fs.geo.InodesCount {
		return nil, disk.Corruptf("orphan list", "inode %d cannot be on it", ino)
	}
	switch used, err := fs.w.groups.InodeUsed(uint32(ino)); {
	case err != nil:
		return nil, err
	case !used:
		return nil, disk.Corruptf("orphan list", "inode %d on it is not in use", ino)
	}
	in, err := fs.loadInode(ino)
	if errors.Is(err, syscall.ESTALE) {
		err = disk.Corruptf("orphan list", "inode %d on it is empty", ino)
	}
	return in, err
}

// orphanDamage notes that an inode is no orphan, or is damaged. It returns an
// error if nothing can be written any longer, be it by the errors= policy.
func (fs *FS) orphanDamage(ino Ino, err error) error {
	fs.log.Error("an orphan is damaged; run e2fsck", "inode", ino, "error", err)
	fs.found("orphan", ino, 0, err)
	if fs.w.log.Err() != nil || !errors.Is(err, syscall.EUCLEAN) {
		return fmt.Errorf("orphan inode %d: %w", ino, err)
	}
	return nil
}

// dropOrphanList makes the list empty.
func (fs *FS) dropOrphanList() error {
	o := &fs.w.orphans
	o.order.Init()
	o.index, o.rest = nil, 0
	return fs.transact(1, 0, func(tx *journal.Handle) error {
		return fs.editSuper(tx, func(sb *disk.Superblock) { sb.LastOrphan = 0 })
	})
}

func (fs *FS) finishOrphan(ino Ino) error {
	if was, err := fs.finishValue(ino); was || err != nil {
		return err
	}
	in, err := fs.iget(ino)
	if err != nil {
		return err
	}
	links := in.Links
	in.put()
	if links == 0 {
		return fs.reap(ino)
	}
	ref, err := fs.iget(ino)
	if err != nil {
		return err
	}
	defer ref.put()
	ref.io.Lock()
	defer ref.io.Unlock()
	if in, err = fs.wlock(ino); err != nil {
		return err
	}
	defer in.wunlock()
	if in.IsReg() && !in.inline() && !in.verity() { // whose Merkle tree is behind its end
		if err := fs.freeFrom(in, fs.roundUp(in.size)>>fs.geo.BlockBits); err != nil {
			return err
		}
	}
	return fs.transact(creditsOrphan, 0, func(tx *journal.Handle) error { return fs.removeOrphan(tx, in, 0) })
}
