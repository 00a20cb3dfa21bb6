package balloc

import (
	"fmt"
	"syscall"

	"ext4box/ext4/internal/buffer"
	"ext4box/ext4/internal/disk"
)

// InodeRequest says for what an inode is allocated.
type InodeRequest struct {
	Parent uint32 // inode of the directory it will be in
	Dir    bool
	// Spread puts a directory away from its parent, as one at the top of a tree
	// of its own. Children of the root always are.
	Spread bool
}

// Probes of the search for a good group of a directory.
const (
	spreadProbes = 32
	nearProbes   = 64
)

// AllocInode takes a free inode, which is in use on disk from then on. Its slot
// in the inode table is the caller's to write, generation included; where the
// table is not initialised that far it is zeroed here.
//
// Directories with Spread go to a flexible group with few directories and much
// space (Orlov); others near their parent unless it is crowded there. Files go
// to the flexible group of their parent. When that has no inode left, the groups
// at growing distances from the parent's are tried, then all. ENOSPC means that
// there is none, except in groups that are set aside.
func (gs *Groups) AllocInode(tx buffer.Tx, r InodeRequest) (uint32, error) {
	if r.Parent == 0 || r.Parent > gs.Geo.InodesCount {
		return 0, fmt.Errorf("allocate an inode below inode %d, which does not exist: %w", r.Parent, syscall.EINVAL)
	}
	home, _ := gs.Geo.InodeGroup(r.Parent)
	near := home
	if r.Dir {
		var err error
		if near, err = gs.dirGroup(r, home); err != nil {
			return 0, err
		}
	}
	lo, hi := gs.flexRange(near)
	if ino, err := gs.sweepInodes(tx, lo, hi, r.Dir); ino != 0 || err != nil {
		return ino, err
	}
	// The quadratic hash: siblings take the same way, children of other
	// directories in the same group another.
	num := (uint64(home) + uint64(r.Parent)) % uint64(gs.Geo.Groups)
	for step := uint64(1); step < uint64(gs.Geo.Groups); step <<= 1 {
		num = (num + step) % uint64(gs.Geo.Groups)
		if !gs.hasBlocks(uint32(num)) {
			continue
		}
		if ino, err := gs.allocInGroup(tx, uint32(num), r.Dir); ino != 0 || err != nil {
			return ino, err
		}
	}
	for _, p := range [2]span{{home, gs.Geo.Groups}, {0, home}} {
		if ino, err := gs.sweepInodes(tx, p.lo, p.hi, r.Dir); ino != 0 || err != nil {
			return ino, err
		}
	}
	return 0, errNoInodes
}

// hasBlocks tells whether a group is known, or was not yet found not, to have
// free blocks.
func (gs *Groups) hasBlocks(num uint32) bool {
	c := gs.blocks.get(num)
	return c != full && c != bad
}

// sweepInodes takes an inode from the first group in [lo, hi) that has one.
func (gs *Groups) sweepInodes(tx buffer.Tx, lo, hi uint32, dir bool) (uint32, error) {
	for at, corrupt := lo, 0; at < hi && corrupt < searchCorrupt; at++ {
		num, c, ok := gs.inodes.next(at, hi, exactFrom(0)|only(unknown))
		if !ok {
			return 0, nil
		}
		at = num
		if c == unknown {
			if err := gs.learn(num); err != nil {
				return 0, err
			}
			if gs.inodes.get(num) != unknown {
				at-- // look again, now that it is known
			}
			continue
		}
		if ino, err := gs.allocInGroup(tx, num, dir); ino != 0 || err != nil {
			return ino, err
		}
		if gs.inodes.get(num) == bad {
			corrupt++
		}
	}
	return 0, nil
}

// flexStats is what a flexible group has, by its descriptors.
type flexStats struct{ groups, inodes, blocks, dirs int64 }

// stats adds up the descriptors of the flexible group that starts at group lo.
func (gs *Groups) stats(lo uint32) (flexStats, error) {
	_, hi := gs.flexRange(lo)
	hi = min(hi, lo+maxFlex)
	var s flexStats
	for num := lo; num < hi; {
		b, err := gs.descBuffer(num / gs.Geo.DescPerBlock)
		if err != nil {
			return s, err
		}
		b.RLock()
		for end := min((num/gs.Geo.DescPerBlock+1)*gs.Geo.DescPerBlock, hi); num < end; num++ {
			s.groups++
			if gs.inodes.get(num) == bad {
				continue
			}
			d := disk.DecodeGroupDesc(gs.rawDesc(b, num))
			s.inodes += int64(d.FreeInodes)
			s.blocks += int64(d.FreeBlocks)
			s.dirs += int64(d.UsedDirs)
		}
		b.RUnlock()
		b.Unpin()
	}
	return s, nil
}

// dirGroup decides where a new directory should go: a group in which to start
// to look, the first of a flexible group.
func (gs *Groups) dirGroup(r InodeRequest, home uint32) (uint32, error) {
	flexGroups := uint32((uint64(gs.Geo.Groups) + uint64(gs.flex) - 1) / uint64(gs.flex))
	if r.Spread || r.Parent == disk.InoRoot {
		return gs.spreadGroup(flexGroups)
	}
	first, _ := gs.flexRange(home)
	total, err := gs.sampled()
	if err != nil {
		return 0, err
	}
	// Crowded is what has clearly more directories, or clearly less of the
	// rest, than the average.
	n := int64(gs.flex)
	maxDirs := total.dirs*n/total.groups + int64(gs.Geo.InodesPerGroup)*n/16
	minInodes := max(1, total.inodes*n/total.groups-int64(gs.Geo.InodesPerGroup)*n/4)
	minBlocks := max(0, total.blocks*n/total.groups-int64(gs.Geo.ClustersPerGroup)*n/4)
	at := first / gs.flex
	for range min(nearProbes, flexGroups) {
		s, err := gs.stats(at * gs.flex)
		if err != nil {
			return 0, err
		}
		if s.dirs < maxDirs && s.inodes >= minInodes && s.blocks >= minBlocks {
			return at * gs.flex, nil
		}
		at = (at + 1) % flexGroups
	}
	return first, nil
}

// spreadGroup finds a flexible group with few directories and not less space
// than usual, among a sample.
func (gs *Groups) spreadGroup(flexGroups uint32) (uint32, error) {
	n := min(spreadProbes, flexGroups)
	var probes [spreadProbes]flexStats
	var sum flexStats
	// Starting points that differ, at equal distances: the whole device is seen.
	start := uint64(gs.spread.Add(1)) * 0x9E3779B9 % uint64(flexGroups)
	group := func(i uint32) uint32 {
		return uint32((start+uint64(i)*uint64(flexGroups)/uint64(n))%uint64(flexGroups)) * gs.flex
	}
	for i := range n {
		s, err := gs.stats(group(i))
		if err != nil {
			return 0, err
		}
		probes[i] = s
		sum.inodes += s.inodes
		sum.blocks += s.blocks
	}
	best := -1
	for i, s := range probes[:n] {
		// Three quarters of the average will do.
		if s.inodes == 0 || 4*s.inodes*int64(n) < 3*sum.inodes || 4*s.blocks*int64(n) < 3*sum.blocks {
			continue
		}
		if best < 0 || s.dirs < probes[best].dirs {
			best = i
		}
	}
	return group(uint32(max(best, 0))), nil
}

// sampled are the sums over the groups whose descriptors were summed up so far,
// at least those of one block.
func (gs *Groups) sampled() (flexStats, error) {
	if gs.sums.done.Load() == 0 {
		if _, err := gs.sumNext(); err != nil {
			return flexStats{}, err
		}
	}
	return flexStats{
		groups: max(gs.sums.groups.Load(), 1),
		inodes: gs.sums.inodes.Load(),
		blocks: gs.sums.blocks.Load(),
		dirs:   gs.sums.dirs.Load(),
	}, nil
}
