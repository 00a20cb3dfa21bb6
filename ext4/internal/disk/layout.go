package disk

// BaseMeta is the number of blocks at the start of a group that hold copies of
// the superblock and of group descriptors, or are kept for more of the latter.
// It is at most the size of the group.
func (g *Geometry) BaseMeta(group uint32) uint32 {
	n := uint64(0)
	if g.HasSuper(group) {
		n = 1
	}
	if inMeta, i := g.metaBG && group >= g.firstMetaGroup(), group%g.DescPerBlock; inMeta {
		if i == 0 || i == 1 || i == g.DescPerBlock-1 {
			n++
		}
	} else if n > 0 {
		n += uint64(g.reservedGDT)
		n += uint64(g.ClassicDescBlocks())
	}
	// The boot block of 1 KiB belongs to group 0 when that starts at block 0.
	if group == 0 && g.FirstDataBlock == 0 && g.BlockSize == 1024 {
		n++
	}
	return uint32(min(n, uint64(g.GroupBlocks(group))))
}

// ClassicDescBlocks is the number of blocks of the descriptor table that follow
// the superblock; the others are in their meta block groups.
func (g *Geometry) ClassicDescBlocks() uint32 {
	if g.metaBG {
		return g.firstMetaBG
	}
	return g.DescBlocks
}

// firstMetaGroup is the first group whose descriptors lie in its own meta block
// group.
func (g *Geometry) firstMetaGroup() uint32 {
	return uint32(min(uint64(g.Groups), uint64(g.firstMetaBG)*uint64(g.DescPerBlock)))
}

// GroupOf is the group of a block, which must lie inside the filesystem and not
// before the first data block.
func (g *Geometry) GroupOf(blk uint64) uint32 {
	return uint32((blk - uint64(g.FirstDataBlock)) / uint64(g.BlocksPerGroup))
}

// GroupClusters is the number of clusters in a group, a last partial one
// included.
func (g *Geometry) GroupClusters(group uint32) uint32 {
	ratio := uint64(1) << g.ClusterBits
	return uint32((uint64(g.GroupBlocks(group)) + ratio - 1) >> g.ClusterBits)
}
