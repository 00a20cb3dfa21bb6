package balloc

import (
	"math/bits"
	"sort"

	"ext4box/ext4/internal/buffer"
	"ext4box/ext4/internal/disk"
)

// loadBlocks makes what g holds of blocks valid. A group that fails its checks
// is set aside; an error that is not a corruption may go away.
func (gs *Groups) loadBlocks(g *group) error {
	if gs.blocks.get(g.num) == bad {
		return groupErrorf(g.num, "set aside because of an earlier error")
	}
	if g.blocksLoaded {
		return nil
	}
	if err := gs.loadDesc(g); err != nil {
		return err
	}
	zones, err := gs.metadata(g.num, &g.desc)
	if err != nil {
		gs.setAside(g, gs.blocks, err)
		return err
	}
	clusters := gs.Geo.GroupClusters(g.num)
	busy := make(disk.Bitmap, (clusters+63)/64*8)
	if g.desc.Flags&disk.GroupBlockUninit != 0 {
		if g.num == 0 {
			// Group 0 has the superblock and the root directory.
			err = groupErrorf(0, "block bitmap is marked uninitialised")
		}
		for _, z := range zones {
			busy.SetRange(z.lo, z.hi-z.lo)
		}
	} else {
		var b *buffer.Buffer
		if b, err = gs.blockBitmap(g); err == nil {
			b.RLock()
			copy(busy, b.Data)
			b.RUnlock()
			b.Unpin()
		} else if !isCorrupt(err) {
			return err
		}
	}
	if err == nil {
		err = gs.checkBlocks(g, busy, clusters, zones)
	}
	if err != nil {
		gs.setAside(g, gs.blocks, err)
		return err
	}
	g.busy, g.clusters, g.zones = busy, clusters, zones
	g.noRun = [runClasses]noRun{}
	g.free = g.desc.FreeBlocks
	g.longest, g.longestExact = longestRun(busy, clusters), true
	g.blocksLoaded = true
	gs.publish(g)
	return nil
}

// checkBlocks verifies the content of a group's bitmap.
func (gs *Groups) checkBlocks(g *group, m disk.Bitmap, clusters uint32, zones []span) error {
	if gs.Geo.GroupBlocks(g.num)&(1<<gs.ratio-1) != 0 {
		return groupErrorf(g.num, "ends inside a cluster")
	}
	for _, z := range zones {
		if at := m.NextClear(z.lo, z.hi); at < z.hi {
			return groupErrorf(g.num, "block %d holds metadata and is marked free", gs.run(g.num, at, 1).Start)
		}
	}
	if n := m.CountClear(0, clusters); n != g.desc.FreeBlocks {
		return groupErrorf(g.num, "%d blocks are free in the bitmap and %d in the descriptor", n, g.desc.FreeBlocks)
	}
	return nil
}

// blockBitmap pins the checked block bitmap of a group that has one.
func (gs *Groups) blockBitmap(g *group) (*buffer.Buffer, error) {
	return gs.pin(g.desc.BlockBitmap, buffer.Tag{Kind: buffer.Bitmap, Owner: g.num}, func(b []byte) error {
		if gs.Sums.Metadata {
			if sum := gs.descSum(gs.Sums.Bitmap(b, gs.Geo.ClustersPerGroup)); sum != g.desc.BlockBitmapCsum {
				return groupErrorf(g.num, "block bitmap checksum is %#x instead of %#x", g.desc.BlockBitmapCsum, sum)
			}
		}
		end := gs.Geo.BlockSize * 8
		if disk.Bitmap(b).NextClear(gs.Geo.GroupClusters(g.num), end) < end {
			return groupErrorf(g.num, "padding at the end of the block bitmap is not set")
		}
		return nil
	})
}

// descSum is a bitmap's checksum as a descriptor can hold it: small ones have
// only the low half.
func (gs *Groups) descSum(sum uint32) uint32 {
	if gs.Geo.DescSize < disk.GroupDescSize64 {
		return sum & 0xFFFF
	}
	return sum
}

// metadata lists the clusters of group num that hold the filesystem's own
// structures, in ascending order and merged: copies of the superblock and
// descriptors, the bitmaps and inode tables of this group and of the others in
// its flexible group, and the protected blocks. d is the group's descriptor.
func (gs *Groups) metadata(num uint32, d *disk.GroupDesc) ([]span, error) {
	first := gs.Geo.GroupFirstBlock(num)
	last := first + uint64(gs.Geo.GroupBlocks(num))
	var zones []span
	add := func(start, n uint64) {
		lo, hi := max(start, first), min(start+n, last)
		if lo < hi {
			zones = append(zones, span{uint32(lo-first) >> gs.ratio, uint32(hi-1-first)>>gs.ratio + 1})
		}
	}
	add(first, uint64(gs.Geo.BaseMeta(num)))
	own := gs.structures(d)
	for i, s := range own {
		add(s.Start, uint64(s.Len))
		for _, other := range own[:i] {
			if overlap(s, other) {
				return nil, groupErrorf(num, "bitmaps and inode table overlap at block %d", s.Start)
			}
		}
		if gs.hitsBase(s) {
			return nil, groupErrorf(num, "a structure at block %d lies on a superblock or descriptors", s.Start)
		}
	}
	if err := gs.neighbours(num, func(other uint32, nd *disk.GroupDesc) error {
		for _, s := range gs.structures(nd) {
			add(s.Start, uint64(s.Len))
			for _, o := range own {
				if overlap(s, o) {
					return groupErrorf(num, "a structure at block %d overlaps one of group %d", o.Start, other)
				}
			}
		}
		return nil
	}); err != nil {
		return nil, err
	}
	at := sort.Search(len(gs.Protected), func(i int) bool { return gs.Protected[i].End() > first })
	for ; at < len(gs.Protected) && gs.Protected[at].Start < last; at++ {
		add(gs.Protected[at].Start, uint64(gs.Protected[at].Len))
	}
	return merge(zones), nil
}

// structures are the places of a group's bitmaps and inode table.
func (gs *Groups) structures(d *disk.GroupDesc) [3]Run {
	return [3]Run{{d.BlockBitmap, 1}, {d.InodeBitmap, 1}, {d.InodeTable, gs.Geo.InodeTableBlocks}}
}

func overlap(a, b Run) bool {
	return a.Start < b.End() && b.Start < a.End() && a.Len > 0 && b.Len > 0
}

// hitsBase tells whether a structure lies on superblock or descriptor copies.
func (gs *Groups) hitsBase(r Run) bool {
	for num := gs.Geo.GroupOf(r.Start); num <= gs.Geo.GroupOf(r.End()-1); num++ {
		if overlap(r, Run{gs.Geo.GroupFirstBlock(num), gs.Geo.BaseMeta(num)}) {
			return true
		}
	}
	return false
}

// neighbours calls fn with the descriptors of the other groups in the flexible
// group of num, whose structures can lie in num. Corrupt ones are left out:
// they are found when their own group is used.
func (gs *Groups) neighbours(num uint32, fn func(other uint32, d *disk.GroupDesc) error) error {
	lo, hi := gs.flexRange(num)
	hi = min(hi, lo+maxFlex)
	for i := lo; i < hi; {
		b, err := gs.descBuffer(i / gs.Geo.DescPerBlock)
		if err != nil {
			return err
		}
		b.RLock()
		for end := min((i/gs.Geo.DescPerBlock+1)*gs.Geo.DescPerBlock, hi); i < end && err == nil; i++ {
			if i == num {
				continue
			}
			if d, bad := gs.decode(b, i); bad == nil {
				err = fn(i, &d)
			}
		}
		b.RUnlock()
		b.Unpin()
		if err != nil {
			return err
		}
	}
	return nil
}

// merge sorts ranges and joins those that touch.
func merge(zones []span) []span {
	sort.Slice(zones, func(i, j int) bool { return zones[i].lo < zones[j].lo })
	out := zones[:0]
	for _, z := range zones {
		if n := len(out); n > 0 && z.lo <= out[n-1].hi {
			out[n-1].hi = max(out[n-1].hi, z.hi)
			continue
		}
		out = append(out, z)
	}
	return out
}

// isMetadata tells whether clusters [at, at+n) of a loaded group hold some of
// the filesystem's own structures.
func (g *group) isMetadata(at, n uint32) bool {
	i := sort.Search(len(g.zones), func(i int) bool { return g.zones[i].hi > at })
	return i < len(g.zones) && g.zones[i].lo < at+n
}

// publish records in the index how much a loaded group has, if that differs in
// order. A group thought to be exact that is not any more costs a search in
// vain, no more.
func (gs *Groups) publish(g *group) {
	n := min(g.longest, g.free)
	if g.published && bits.Len32(n) == g.publishedLen {
		return
	}
	gs.blocks.set(g.num, classOf(n, g.longestExact), false)
	g.published, g.publishedLen = true, bits.Len32(n)
}

// longestRun is the length of the longest run of clear bits in [0, end).
func longestRun(m disk.Bitmap, end uint32) uint32 {
	longest := uint32(0)
	for at := m.NextClear(0, end); at < end; {
		stop := m.NextSet(at, end)
		longest = max(longest, stop-at)
		at = m.NextClear(stop, end)
	}
	return longest
}
