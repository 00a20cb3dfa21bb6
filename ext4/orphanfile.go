package ext4

import (
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"ext4box/ext4/internal/buffer"
	"ext4box/ext4/internal/disk"
	"ext4box/ext4/internal/journal"
)

// orphanFile is the file whose blocks hold the numbers of orphans, each in a
// slot of its own: unlike the list, orphans of different block groups have
// nothing in common there, and an inode leaves it by changing a single block.
// When it is full the list takes the rest. A nil orphanFile is one that the
// filesystem does not have.
type orphanFile struct {
	ino      Ino
	seed     uint32 // of the checksums of its blocks
	blocks   []orphanBlock
	perBlock int // slots

	mu    sync.Mutex
	slots map[Ino]orphanSlot // of the orphans in the file
}

type orphanBlock struct {
	phys uint64
	free atomic.Int32 // slots; lowered before one is taken, raised after one was given back
}

type orphanSlot struct{ block, slot int32 }

// openOrphanFile checks the orphan file and counts its free slots. It returns
// nil where there is none.
func (fs *FS) openOrphanFile() (*orphanFile, error) {
	if fs.sb.Compat&disk.CompatOrphanFile == 0 {
		return nil, nil
	}
	f := &orphanFile{ino: Ino(fs.sb.OrphanFileIno), slots: make(map[Ino]orphanSlot)}
	f.perBlock = disk.OrphanSlots(int(fs.geo.BlockSize))
	f.blocks = make([]orphanBlock, 0, disk.OrphanFileMaxBlocks) // which do not move
	seed, err := fs.eachOrphanBlock(func(phys uint64, b []byte) error {
		free := 0
		for i := range f.perBlock {
			if disk.OrphanSlot(b, i) == 0 {
				free++
			}
		}
		f.blocks = f.blocks[:len(f.blocks)+1]
		b0 := &f.blocks[len(f.blocks)-1]
		b0.phys = phys
		b0.free.Store(int32(free))
		return nil
	})
	f.seed = seed
	return f, err
}

// readOrphanBlock pins a block of the orphan file.
func (fs *FS) readOrphanBlock(b *orphanBlock) (*buffer.Buffer, error) {
	f := fs.w.orphanFile
	return fs.blks.ReadPinned(b.phys, buffer.Tag{Kind: buffer.Orphans, Owner: uint32(f.ino)}, func(data []byte) error {
		return disk.CheckOrphanBlock(&fs.sums, f.seed, b.phys, data)
	})
}

// editOrphanBlock changes a block of the orphan file in a transaction and renews
// its checksum. It takes one credit.
func (fs *FS) editOrphanBlock(tx *journal.Handle, b *orphanBlock, edit func(data []byte)) error {
	buf, err := fs.readOrphanBlock(b)
	if err != nil {
		return err
	}
	defer buf.Unpin()
	if err := tx.Modify(buf); err != nil {
		return err
	}
	buf.Lock()
	defer buf.Unlock()
	edit(buf.Data)
	disk.SealOrphanBlock(&fs.sums, fs.w.orphanFile.seed, b.phys, buf.Data)
	return nil
}

// addToOrphanFile puts an inode, which is locked and in no slot, into the orphan
// file. added is false if the file is full, or there is none. Inodes of one
// group go to the same block as long as it has room, those of others elsewhere.
func (fs *FS) addToOrphanFile(tx *journal.Handle, ino Ino) (added bool, err error) {
	f := fs.w.orphanFile
	if f == nil || len(f.blocks) == 0 {
		return false, nil
	}
	group, _ := fs.geo.InodeGroup(uint32(ino))
	for i := range f.blocks {
		at := (int(group) + i) % len(f.blocks)
		b := &f.blocks[at]
		if !b.take() {
			continue
		}
		slot := -1
		err := fs.editOrphanBlock(tx, b, func(data []byte) {
			if slot = disk.FreeOrphanSlot(data); slot >= 0 {
				disk.SetOrphanSlot(data, slot, uint32(ino))
			}
		})
		if err != nil {
			b.free.Add(1)
			return false, err
		}
		if slot < 0 {
			continue // the count was wrong: leave the block alone from now on
		}
		f.set(ino, orphanSlot{int32(at), int32(slot)})
		return true, nil
	}
	return false, nil
}

// removeFromOrphanFile gives the slot of an inode back, if it has one.
func (fs *FS) removeFromOrphanFile(tx *journal.Handle, ino Ino) (removed bool, err error) {
	f := fs.w.orphanFile
	s, found := f.slot(ino)
	if !found {
		return false, nil
	}
	if err := fs.clearOrphanSlot(tx, s); err != nil {
		return false, err
	}
	f.forget(ino)
	return true, nil
}

// clearOrphanSlot makes a slot free. It takes one credit.
func (fs *FS) clearOrphanSlot(tx *journal.Handle, s orphanSlot) error {
	b := &fs.w.orphanFile.blocks[s.block]
	err := fs.editOrphanBlock(tx, b, func(data []byte) { disk.SetOrphanSlot(data, int(s.slot), 0) })
	if err == nil {
		b.free.Add(1)
	}
	return err
}

// take reserves a slot of the block, if one is free.
func (b *orphanBlock) take() bool {
	for {
		n := b.free.Load()
		if n <= 0 {
			return false
		}
		if b.free.CompareAndSwap(n, n-1) {
			return true
		}
	}
}

func (f *orphanFile) set(ino Ino, s orphanSlot) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.slots[ino] = s
}

func (f *orphanFile) forget(ino Ino) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.slots, ino)
}

func (f *orphanFile) slot(ino Ino) (orphanSlot, bool) {
	if f == nil {
		return orphanSlot{}, false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	s, found := f.slots[ino]
	return s, found
}

func (f *orphanFile) has(ino Ino) bool {
	_, found := f.slot(ino)
	return found
}

// all lists the inodes in the file.
func (f *orphanFile) all() []Ino {
	if f == nil {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Collect(maps.Keys(f.slots))
}

// empty tells whether there are no orphans in the file, not even such as were
// left from before the filesystem was opened.
func (f *orphanFile) empty() bool {
	if f == nil {
		return true
	}
	for i := range f.blocks {
		if int(f.blocks[i].free.Load()) < f.perBlock {
			return false
		}
	}
	return true
}
