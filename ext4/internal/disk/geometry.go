package disk

import "math/bits"

// MaxBlockSize is the largest block of the format.
const MaxBlockSize = 65536

// Geometry is the layout that a superblock implies, computed and checked once;
// code that holds a Geometry may divide and shift by its fields.
type Geometry struct {
	BlockSize        uint32
	BlockBits        uint // log2 of BlockSize
	ClusterBits      uint // log2 of blocks per cluster; 0 without bigalloc
	BlocksCount      uint64
	FirstDataBlock   uint32
	BlocksPerGroup   uint32
	ClustersPerGroup uint32
	InodesPerGroup   uint32
	InodesCount      uint32
	InodeSize        uint32
	FirstIno         uint32 // first inode that is not reserved
	Groups           uint32
	DescSize         uint32
	DescPerBlock     uint32
	DescBlocks       uint32 // blocks of the whole descriptor table
	InodeTableBlocks uint32 // per group
	metaBG           bool
	firstMetaBG      uint32
	sparse           bool
	sparse2          bool
	backupBGs        [2]uint32
	reservedGDT      uint32
}

// Geometry validates everything that arithmetic depends on and returns the
// layout. It is independent of the features that the caller supports.
func (sb *Superblock) Geometry() (Geometry, error) {
	const what = "superblock"
	var g Geometry
	if sb.Magic != SuperMagic {
		return g, Corruptf(what, "magic number is %#x instead of %#x", sb.Magic, SuperMagic)
	}
	if sb.LogBlockSize > 6 {
		return g, Corruptf(what, "block size 2^%d is impossible", uint64(sb.LogBlockSize)+10)
	}
	g.BlockBits = uint(sb.LogBlockSize) + 10
	g.BlockSize = 1 << g.BlockBits

	if sb.ROCompat&ROCompatBigalloc != 0 {
		if sb.LogClusterSize < sb.LogBlockSize || sb.LogClusterSize > 20 {
			return g, Corruptf(what, "cluster size 2^%d is impossible with blocks of %d bytes", uint64(sb.LogClusterSize)+10, g.BlockSize)
		}
		g.ClusterBits = uint(sb.LogClusterSize - sb.LogBlockSize)
		if sb.ClustersPerGroup == 0 || sb.ClustersPerGroup > g.BlockSize*8 ||
			uint64(sb.BlocksPerGroup) != uint64(sb.ClustersPerGroup)<<g.ClusterBits {
			return g, Corruptf(what, "%d clusters and %d blocks per group do not fit together", sb.ClustersPerGroup, sb.BlocksPerGroup)
		}
		g.ClustersPerGroup = sb.ClustersPerGroup
	} else {
		g.ClustersPerGroup = sb.BlocksPerGroup
		if sb.BlocksPerGroup > g.BlockSize*8 {
			return g, Corruptf(what, "%d blocks per group are more than a bitmap block can describe", sb.BlocksPerGroup)
		}
	}
	if sb.BlocksPerGroup < 8 || sb.BlocksPerGroup%8 != 0 && sb.BlocksPerGroup != sb.ClustersPerGroup {
		return g, Corruptf(what, "%d blocks per group are impossible", sb.BlocksPerGroup)
	}
	g.BlocksPerGroup = sb.BlocksPerGroup

	g.InodeSize = uint32(sb.InodeSize)
	if bits.OnesCount32(g.InodeSize) != 1 || g.InodeSize < InodeSizeOld || g.InodeSize > g.BlockSize {
		return g, Corruptf(what, "inode size %d is impossible", g.InodeSize)
	}
	g.FirstIno = sb.FirstIno
	if g.FirstIno < 11 {
		return g, Corruptf(what, "first inode %d lies among the reserved ones", g.FirstIno)
	}
	perBlock := g.BlockSize / g.InodeSize
	g.InodesPerGroup = sb.InodesPerGroup
	if g.InodesPerGroup < perBlock || g.InodesPerGroup > g.BlockSize*8 {
		return g, Corruptf(what, "%d inodes per group are impossible", g.InodesPerGroup)
	}
	g.InodeTableBlocks = (g.InodesPerGroup + perBlock - 1) / perBlock

	g.DescSize = GroupDescSizeMin
	if sb.Incompat&Incompat64Bit != 0 {
		g.DescSize = uint32(sb.DescSize)
		if g.DescSize < GroupDescSize64 || g.DescSize > 1024 || bits.OnesCount32(g.DescSize) != 1 {
			return g, Corruptf(what, "group descriptor size %d is impossible", g.DescSize)
		}
	}
	g.DescPerBlock = g.BlockSize / g.DescSize

	g.BlocksCount = sb.BlocksCount
	g.FirstDataBlock = sb.FirstDataBlock
	if uint64(g.FirstDataBlock) >= g.BlocksCount {
		return g, Corruptf(what, "first data block %d lies beyond the filesystem's %d blocks", g.FirstDataBlock, g.BlocksCount)
	}
	// The superblock is in block 1 when blocks have 1 KiB and in block 0
	// otherwise; bigalloc always starts at 0.
	if g.FirstDataBlock > 1 || g.FirstDataBlock == 1 && g.BlockSize != 1024 ||
		g.FirstDataBlock == 0 && g.BlockSize == 1024 && g.ClusterBits == 0 {
		return g, Corruptf(what, "first data block %d is impossible with blocks of %d bytes", g.FirstDataBlock, g.BlockSize)
	}
	if g.BlocksCount > 1<<48 {
		return g, Corruptf(what, "%d blocks are more than the format can address", g.BlocksCount)
	}
	groups := (g.BlocksCount - uint64(g.FirstDataBlock) + uint64(g.BlocksPerGroup) - 1) / uint64(g.BlocksPerGroup)
	if groups > 1<<32-uint64(g.DescPerBlock) {
		return g, Corruptf(what, "%d block groups are too many", groups)
	}
	g.Groups = uint32(groups)
	if uint64(g.Groups)*uint64(g.InodesPerGroup) != uint64(sb.InodesCount) {
		return g, Corruptf(what, "%d inodes do not match %d groups of %d", sb.InodesCount, g.Groups, g.InodesPerGroup)
	}
	g.InodesCount = sb.InodesCount
	g.DescBlocks = (g.Groups + g.DescPerBlock - 1) / g.DescPerBlock

	g.metaBG = sb.Incompat&IncompatMetaBG != 0
	g.firstMetaBG = sb.FirstMetaBG
	if g.metaBG && g.firstMetaBG > g.DescBlocks {
		return g, Corruptf(what, "first meta block group %d lies beyond the %d descriptor blocks", g.firstMetaBG, g.DescBlocks)
	}
	g.sparse = sb.ROCompat&ROCompatSparseSuper != 0
	g.sparse2 = sb.Compat&CompatSparseSuper2 != 0
	g.backupBGs = sb.BackupBGs
	if sb.Compat&CompatResizeInode != 0 {
		g.reservedGDT = uint32(sb.ReservedGDT)
	}
	return g, nil
}

// GroupFirstBlock is the first block of a group.
func (g *Geometry) GroupFirstBlock(group uint32) uint64 {
	return uint64(g.FirstDataBlock) + uint64(group)*uint64(g.BlocksPerGroup)
}

// GroupBlocks is the number of blocks in a group; the last may be short.
func (g *Geometry) GroupBlocks(group uint32) uint32 {
	return uint32(min(uint64(g.BlocksPerGroup), g.BlocksCount-g.GroupFirstBlock(group)))
}

// HasSuper tells whether a group starts with a copy of the superblock (and, but
// for meta_bg, of the descriptor table).
func (g *Geometry) HasSuper(group uint32) bool {
	switch {
	case group == 0:
		return true
	case g.sparse2:
		return group == g.backupBGs[0] || group == g.backupBGs[1]
	case group == 1 || !g.sparse:
		return true
	}
	return isPower(group, 3) || isPower(group, 5) || isPower(group, 7)
}

func isPower(n, base uint32) bool {
	if n%2 == 0 {
		return false
	}
	for p := uint64(base); p <= uint64(n); p *= uint64(base) {
		if p == uint64(n) {
			return true
		}
	}
	return false
}

// DescBlock is the device block that holds the i-th block of the primary group
// descriptor table. sbBlock is the block of the superblock in use: 0 or 1 for the
// primary, the first block of its group for a backup.
func (g *Geometry) DescBlock(sbBlock uint64, i uint32) uint64 {
	if !g.metaBG || i < g.firstMetaBG {
		return sbBlock + 1 + uint64(i)
	}
	// A meta block group keeps its own descriptor block in its first group,
	// behind the superblock copy if there is one; copies in the second and last.
	group := i * g.DescPerBlock
	first := g.GroupFirstBlock(group)
	if sbBlock > SuperblockOffset>>g.BlockBits && group+1 < g.Groups {
		// With a backup superblock in use the primary is to be distrusted.
		group++
		first += uint64(g.BlocksPerGroup)
	}
	if g.HasSuper(group) {
		first++
	}
	// Blocks of 1 KiB with bigalloc start at 0, where the boot block is.
	if g.BlockSize == 1024 && group == 0 && g.FirstDataBlock == 0 {
		first++
	}
	return first
}

// BaseMetaBlocks is the number of blocks in the whole filesystem that hold
// copies of the superblock and of group descriptors, or are kept for more of
// the latter, as the kernel counts them for overhead. It takes a time that does
// not depend on the number of groups.
func (g *Geometry) BaseMetaBlocks() uint64 {
	classic := g.Groups // groups before the first meta block group
	if g.metaBG {
		classic = uint32(min(uint64(g.Groups), uint64(g.firstMetaBG)*uint64(g.DescPerBlock)))
	}
	perSuper := uint64(1) + uint64(g.reservedGDT)
	if g.metaBG {
		perSuper += uint64(g.firstMetaBG)
	} else {
		perSuper += uint64(g.DescBlocks)
	}
	blocks := g.supersBelow(classic) * perSuper
	blocks += g.supersBelow(g.Groups) - g.supersBelow(classic)
	if rest := g.Groups - classic; rest > 0 {
		// Each meta block group has its descriptor block in its first, second
		// and last group, as far as those exist and differ.
		full, tail := rest/g.DescPerBlock, rest%g.DescPerBlock
		blocks += uint64(full) * uint64(min(3, g.DescPerBlock))
		blocks += uint64(min(2, tail))
	}
	return blocks
}

// supersBelow is the number of groups below limit that have a superblock copy.
func (g *Geometry) supersBelow(limit uint32) uint64 {
	if !g.sparse2 && !g.sparse {
		return uint64(limit)
	}
	count := uint64(0)
	add := func(group uint64) {
		if group < uint64(limit) && g.HasSuper(uint32(group)) {
			count++
		}
	}
	add(0)
	if g.sparse2 {
		for i, bg := range g.backupBGs {
			if bg != 0 && (i == 0 || bg != g.backupBGs[0]) {
				add(uint64(bg))
			}
		}
		return count
	}
	add(1)
	for _, base := range [...]uint64{3, 5, 7} {
		for p := base; p < uint64(limit); p *= base {
			add(p)
		}
	}
	return count
}

// InodeGroup splits an inode number, which must be in 1..InodesCount.
func (g *Geometry) InodeGroup(ino uint32) (group, index uint32) {
	return (ino - 1) / g.InodesPerGroup, (ino - 1) % g.InodesPerGroup
}

// BlocksInRange tells whether [start, start+n) lies inside the data area.
func (g *Geometry) BlocksInRange(start, n uint64) bool {
	return start > uint64(g.FirstDataBlock) && start < g.BlocksCount && n <= g.BlocksCount-start
}
