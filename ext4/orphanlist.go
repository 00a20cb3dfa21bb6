package ext4

import (
	"container/list"
	"maps"
	"math"
	"slices"
	"sync"

	"ext4box/ext4/internal/disk"
	"ext4box/ext4/internal/journal"
)

// orphanList is the list, in the superblock and the deletion times of inodes, of
// those that a crash would leave without a name or half truncated, for as many
// as the orphan file has no room. In memory it is doubly linked, so that an
// inode leaves it without a search.
type orphanList struct {
	mu    sync.Mutex
	order list.List // of orphanEntry; the front is the head on disk
	index map[Ino]*list.Element
	rest  uint32 // the inode behind the last one, which recovery has not come to
}

type orphanEntry struct {
	ino  Ino
	seed uint32
}

// creditsOrphan is what adding or removing an orphan takes: the superblock, the
// inode, the one before it in the list; or the inode and a block of the orphan
// file.
const creditsOrphan = 3

// addOrphan makes an inode, which is locked, an orphan. It does nothing if it is
// one.
func (fs *FS) addOrphan(tx *journal.Handle, in *inode) error {
	o := &fs.w.orphans
	if o.has(in.ino) || fs.w.orphanFile.has(in.ino) {
		return nil
	}
	if added, err := fs.addToOrphanFile(tx, in.ino); added || err != nil {
		return err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	next := o.next(o.order.Front())
	if err := fs.editRaw(tx, in.ino, in.seed, func(raw []byte) { disk.SetInodeDtime(raw, next) }); err != nil {
		return err
	}
	if err := fs.editSuper(tx, func(sb *disk.Superblock) { sb.LastOrphan = uint32(in.ino) }); err != nil {
		return err
	}
	o.enter(o.order.PushFront(orphanEntry{in.ino, in.seed}))
	return nil
}

// removeOrphan takes an inode, which is locked, off the list or out of the
// orphan file and sets its deletion time to dtime.
func (fs *FS) removeOrphan(tx *journal.Handle, in *inode, dtime uint32) error {
	removed, err := fs.removeFromOrphanFile(tx, in.ino)
	if err == nil && !removed {
		removed, err = fs.unlinkOrphan(tx, in.ino)
	}
	if err != nil || !removed {
		return err
	}
	return fs.editRaw(tx, in.ino, in.seed, func(raw []byte) { disk.SetInodeDtime(raw, dtime) })
}

// unlinkOrphan takes an inode off the list, if it is there.
func (fs *FS) unlinkOrphan(tx *journal.Handle, ino Ino) (removed bool, err error) {
	o := &fs.w.orphans
	o.mu.Lock()
	defer o.mu.Unlock()
	at := o.index[ino]
	if at == nil {
		return false, nil
	}
	next := o.next(at.Next())
	if prev := at.Prev(); prev == nil {
		err = fs.editSuper(tx, func(sb *disk.Superblock) { sb.LastOrphan = next })
	} else {
		p := prev.Value.(orphanEntry)
		err = fs.editRaw(tx, p.ino, p.seed, func(raw []byte) { disk.SetInodeDtime(raw, next) })
	}
	if err != nil {
		return false, err
	}
	o.order.Remove(at)
	delete(o.index, ino)
	return true, nil
}

// next is the number of the inode of an element, or of the one behind the last.
func (o *orphanList) next(e *list.Element) uint32 {
	if e == nil {
		return o.rest
	}
	return uint32(e.Value.(orphanEntry).ino)
}

func (o *orphanList) enter(e *list.Element) {
	if o.index == nil {
		o.index = make(map[Ino]*list.Element)
	}
	o.index[e.Value.(orphanEntry).ino] = e
}

// holds counts, for each inode, those who may still ask for it by its number:
// the lookups of a kernel. An inode without a name is freed when nobody does.
type holds struct {
	mu     sync.Mutex
	count  map[Ino]uint32   // of which the largest is not counted any further, up or down
	mapped map[Ino]struct{} // may have mappings that were handed out; see recall.go
}

// Hold says that somebody may come back to the inode by its number: it stays,
// also without a name, until Unhold was called as often.
func (fs *FS) Hold(ino Ino) {
	if fs.w == nil {
		return
	}
	h := &fs.w.holds
	h.mu.Lock()
	if h.count == nil {
		h.count = make(map[Ino]uint32)
	}
	if h.count[ino] < math.MaxUint32 {
		h.count[ino]++
	}
	h.mu.Unlock()
}

// Unhold takes n holds back. The last one deletes the inode if it has no name.
func (fs *FS) Unhold(ino Ino, n uint64) error {
	if fs.w == nil || fs.down.Load() {
		return nil
	}
	h := &fs.w.holds
	h.mu.Lock()
	left := h.count[ino]
	if left < math.MaxUint32 {
		left -= uint32(min(n, uint64(left)))
	}
	if left > 0 {
		h.count[ino] = left
	} else {
		delete(h.count, ino)
		delete(h.mapped, ino)
	}
	h.mu.Unlock()
	if left > 0 {
		return nil
	}
	fs.ForgetOutside(ino)
	if !fs.w.orphans.has(ino) && !fs.w.orphanFile.has(ino) {
		return nil
	}
	return fs.reapOnceThawed(ino)
}

// Held tells whether somebody holds the inode.
func (fs *FS) Held(ino Ino) bool { return fs.w != nil && fs.w.holds.held(ino) }

func (h *holds) held(ino Ino) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.count[ino] > 0
}

// handOut notes that mappings of an inode are handed out.
func (h *holds) handOut(ino Ino) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.mapped == nil {
		h.mapped = make(map[Ino]struct{})
	}
	h.mapped[ino] = struct{}{}
}

// handedOut lists the inodes of which there may be mappings outside.
func (h *holds) handedOut() []Ino {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Collect(maps.Keys(h.mapped))
}

func (o *orphanList) has(ino Ino) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.index[ino] != nil
}

func (o *orphanList) empty() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.index) == 0
}

// all lists the inodes, the first one first.
func (o *orphanList) all() []Ino {
	o.mu.Lock()
	defer o.mu.Unlock()
	var inos []Ino
	for e := o.order.Front(); e != nil; e = e.Next() {
		inos = append(inos, e.Value.(orphanEntry).ino)
	}
	return inos
}
