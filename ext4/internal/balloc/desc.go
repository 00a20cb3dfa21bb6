package balloc

import (
	"fmt"
	"sync"
	"sync/atomic"

	"ext4box/ext4/internal/buffer"
	"ext4box/ext4/internal/disk"
)

var descTag = buffer.Tag{Kind: buffer.GroupDescs}

func noCheck([]byte) error { return nil }

// pin reads a block and pins it. Several goroutines change a descriptor block,
// so all of them must have the same buffer: one that was evicted between Read
// and Pin is read again.
func (gs *Groups) pin(blk uint64, tag buffer.Tag, check func([]byte) error) (*buffer.Buffer, error) {
	for {
		b, err := gs.Cache.Read(blk, tag, check)
		if err != nil {
			return nil, err
		}
		b.Pin()
		again, err := gs.Cache.Read(blk, tag, check)
		if again == b {
			return b, nil
		}
		b.Unpin()
		if err != nil {
			return nil, err
		}
	}
}

// descBuffer pins block i of the descriptor table.
func (gs *Groups) descBuffer(i uint32) (*buffer.Buffer, error) {
	b, err := gs.pin(gs.Geo.DescBlock(gs.SuperBlock, i), descTag, noCheck)
	if err != nil {
		return nil, fmt.Errorf("group descriptors %d: %w", i, err)
	}
	return b, nil
}

// rawDesc is the place of a group's descriptor in its block.
func (gs *Groups) rawDesc(b *buffer.Buffer, num uint32) []byte {
	off := num % gs.Geo.DescPerBlock * gs.Geo.DescSize
	return b.Data[off : off+gs.Geo.DescSize]
}

// decode reads and checks a descriptor. The buffer must be locked.
func (gs *Groups) decode(b *buffer.Buffer, num uint32) (disk.GroupDesc, error) {
	raw := gs.rawDesc(b, num)
	d := disk.DecodeGroupDesc(raw)
	if gs.hasDescSums() {
		if sum := gs.Sums.GroupDesc(num, raw); sum != d.Checksum {
			return d, groupErrorf(num, "descriptor checksum is %#x instead of %#x", d.Checksum, sum)
		}
	} else {
		d.Flags = 0 // they have no meaning
	}
	if d.FreeInodes > gs.Geo.InodesPerGroup || d.FreeBlocks > gs.Geo.ClustersPerGroup || d.UsedDirs > gs.Geo.InodesPerGroup {
		return d, groupErrorf(num, "%d free blocks, %d free inodes and %d directories are more than a group has", d.FreeBlocks, d.FreeInodes, d.UsedDirs)
	}
	return d, d.Check(gs.Geo, num, gs.Super.Incompat&disk.IncompatFlexBG != 0)
}

func (gs *Groups) hasDescSums() bool { return gs.Sums.Metadata || gs.Sums.GDT }

func groupErrorf(num uint32, format string, args ...any) error {
	return disk.Corruptf(fmt.Sprintf("group %d", num), format, args...)
}

// loadDesc makes g.desc valid. A group whose descriptor is corrupt is set aside
// altogether.
func (gs *Groups) loadDesc(g *group) error {
	if g.descLoaded {
		return nil
	}
	b, err := gs.descBuffer(g.num / gs.Geo.DescPerBlock)
	if err != nil {
		return err
	}
	b.RLock()
	d, err := gs.decode(b, g.num)
	b.RUnlock()
	b.Unpin()
	if err != nil {
		if gs.blocks.get(g.num) != bad || gs.inodes.get(g.num) != bad {
			g.report = append(g.report, err)
		}
		// It was never counted in the sums.
		gs.blocks.set(g.num, bad, false)
		gs.inodes.set(g.num, bad, false)
		return err
	}
	g.desc, g.descLoaded = d, true
	return nil
}

// modifyDesc makes the descriptor's block part of the transaction, so that
// writeDesc cannot fail later.
func (gs *Groups) modifyDesc(tx buffer.Tx, g *group) (*buffer.Buffer, error) {
	b, err := gs.descBuffer(g.num / gs.Geo.DescPerBlock)
	if err != nil {
		return nil, err
	}
	b.Lock()
	err = tx.Modify(b)
	b.Unlock()
	if err != nil {
		b.Unpin()
		return nil, err
	}
	return b, nil
}

// writeDesc stores a group's descriptor in b, which modifyDesc returned, and
// unpins it. unheld corrects how much can be handed out; see blockEdit.finish.
func (gs *Groups) writeDesc(b *buffer.Buffer, g *group, d disk.GroupDesc, unheld int64) {
	b.Lock()
	raw := gs.rawDesc(b, g.num)
	stored := d
	if !gs.hasDescSums() {
		stored.Flags = disk.DecodeGroupDesc(raw).Flags
	}
	disk.EncodeGroupDesc(raw, &stored)
	gs.Sums.SealGroupDesc(g.num, raw)
	blocks := int64(d.FreeBlocks) - int64(g.desc.FreeBlocks)
	inodes := int64(d.FreeInodes) - int64(g.desc.FreeInodes)
	gs.sums.deltaBlocks.Add(blocks)
	gs.sums.deltaInodes.Add(inodes)
	if gs.sums.covers(gs, g.num) {
		gs.sums.blocks.Add(blocks)
		gs.sums.inodes.Add(inodes)
		gs.sums.dirs.Add(int64(d.UsedDirs) - int64(g.desc.UsedDirs))
		unheld += blocks
	}
	gs.space.avail.Add(unheld)
	b.Unlock()
	b.Unpin()
	g.desc = d
}

// setAside takes a group out of use, for blocks or for inodes.
func (gs *Groups) setAside(g *group, x *index, err error) {
	if x.get(g.num) == bad {
		return
	}
	g.report = append(g.report, err)
	b, readErr := gs.descBuffer(g.num / gs.Geo.DescPerBlock)
	if readErr != nil {
		// The descriptor was read once: nothing else is known to fail.
		x.set(g.num, bad, false)
		return
	}
	defer b.Unpin()
	b.Lock()
	defer b.Unlock()
	x.set(g.num, bad, false)
	if !gs.sums.covers(gs, g.num) {
		return
	}
	if x == gs.blocks {
		gs.sums.blocks.Add(-int64(g.desc.FreeBlocks))
		gs.space.avail.Add(-int64(g.desc.FreeBlocks))
	} else {
		gs.sums.inodes.Add(-int64(g.desc.FreeInodes))
	}
}

// totals are the sums over the groups whose descriptors were read so far, which
// are those of the first blocks of the descriptor table.
type totals struct {
	mu     sync.Mutex    // held to go on
	done   atomic.Uint32 // blocks of the descriptor table; changes with the buffer of block done locked
	groups atomic.Int64
	blocks atomic.Int64 // clusters
	inodes atomic.Int64
	dirs   atomic.Int64

	deltaBlocks, deltaInodes atomic.Int64
}

// covers tells whether a group is in the sums. Its descriptor's buffer must be
// locked for the answer to last.
func (t *totals) covers(gs *Groups, num uint32) bool {
	return num/gs.Geo.DescPerBlock < t.done.Load()
}

// sumNext adds the next block of descriptors to the sums and tells whether
// there was one.
func (gs *Groups) sumNext() (bool, error) {
	t := &gs.sums
	if t.done.Load() >= gs.Geo.DescBlocks {
		return false, nil
	}
	t.mu.Lock()
	i := t.done.Load()
	if i >= gs.Geo.DescBlocks {
		t.mu.Unlock()
		return false, nil
	}
	var found []corruption
	err := gs.eachDesc(i, &found, func(num uint32, d *disk.GroupDesc) {
		if gs.blocks.get(num) != bad {
			t.blocks.Add(int64(d.FreeBlocks))
			gs.space.avail.Add(int64(d.FreeBlocks))
		}
		if gs.inodes.get(num) != bad {
			t.inodes.Add(int64(d.FreeInodes))
		}
		t.dirs.Add(int64(d.UsedDirs))
		t.groups.Add(1)
		gs.guess(num, d)
	}, func() { t.done.Store(i + 1) })
	t.mu.Unlock()
	for _, c := range found {
		gs.tell(c.num, c.err)
	}
	return true, err
}

type corruption struct {
	num uint32
	err error
}

// eachDesc calls fn for the good descriptors in block i of the table and then
// end, all while its buffer is locked. Corrupt ones are set aside and, if that
// is news, appended to found.
func (gs *Groups) eachDesc(i uint32, found *[]corruption, fn func(num uint32, d *disk.GroupDesc), end func()) error {
	b, err := gs.descBuffer(i)
	if err != nil {
		return err
	}
	defer b.Unpin()
	b.RLock()
	defer b.RUnlock()
	for num := i * gs.Geo.DescPerBlock; num < gs.Geo.Groups && num/gs.Geo.DescPerBlock == i; num++ {
		d, err := gs.decode(b, num)
		if err == nil {
			fn(num, &d)
			continue
		}
		if gs.blocks.get(num) != bad || gs.inodes.get(num) != bad {
			*found = append(*found, corruption{num, err})
		}
		gs.blocks.set(num, bad, false)
		gs.inodes.set(num, bad, false)
	}
	end()
	return nil
}

// guess records what a descriptor says of a group that nobody looked at yet.
func (gs *Groups) guess(num uint32, d *disk.GroupDesc) {
	gs.blocks.set(num, classOf(d.FreeBlocks, false), true)
	gs.inodes.set(num, classOf(d.FreeInodes, true), true)
}

// learn records what the descriptors around a group say.
func (gs *Groups) learn(num uint32) error {
	var found []corruption
	err := gs.eachDesc(num/gs.Geo.DescPerBlock, &found, gs.guess, func() {})
	for _, c := range found {
		gs.tell(c.num, c.err)
	}
	return err
}

// Totals is the space of a filesystem. Groups that were set aside count as
// used.
type Totals struct {
	FreeClusters uint64 // free on disk: the superblock's counter
	Usable       uint64 // free clusters less those pending or promised
	FreeInodes   uint64
	Dirs         uint64
}

// Totals returns exact counts. The first call reads all descriptors that were
// not read before, which takes time in proportion to the size of the
// filesystem; further calls read nothing.
func (gs *Groups) Totals() (Totals, error) {
	for {
		more, err := gs.sumNext()
		if err != nil {
			return Totals{}, err
		}
		if !more {
			break
		}
	}
	return Totals{
		FreeClusters: positive(gs.sums.blocks.Load()),
		Usable:       positive(gs.space.avail.Load() + gs.space.waiting.Load()),
		FreeInodes:   positive(gs.sums.inodes.Load()),
		Dirs:         positive(gs.sums.dirs.Load()),
	}, nil
}

// Delta is by how much the free clusters and inodes on disk have changed since
// New. It costs nothing, where Totals may have to read.
func (gs *Groups) Delta() (clusters, inodes int64) {
	return gs.sums.deltaBlocks.Load(), gs.sums.deltaInodes.Load()
}

func positive(n int64) uint64 { return uint64(max(n, 0)) }
