package extent

import "ext4box/ext4/internal/disk"

// Credits is the most that an edit may need of its transaction, computed from
// the state of the map before it. It leaves out the inode and what the allocator
// has to change itself, for each node and for the data.
type Credits struct {
	Blocks int // different blocks of the map that are changed or created
	Allocs int // calls of AllocNode
	Frees  int // calls of FreeNode, each of which forgets a block; also when an edit is undone
}

// InsertCredits is what it takes to insert at most so many runs into the file
// blocks [lo, hi), by as many calls of Insert.
func (m *Map) InsertCredits(n int, lo, hi uint64) Credits {
	if hi = min(hi, MaxBlocks); n <= 0 || lo >= hi {
		return Credits{}
	}
	if !m.Tree {
		nodes := m.nodesAbove(lo, hi, MaxBlocks)
		return Credits{Blocks: nodes, Allocs: nodes, Frees: nodes}
	}
	// Long runs are cut into extents, besides the one that each run is at least.
	const shortest = disk.ExtentMaxUnwritten
	return m.spliceCredits(n, n+int((hi-lo)/shortest))
}

// RemoveCredits is what one RemoveStep takes.
func (m *Map) RemoveCredits() Credits {
	if !m.Tree {
		return Credits{Blocks: 1, Frees: maxLevels}
	}
	// An extent is split; or nodes become fewer, when on each level the one on the
	// path and a sibling can change and go.
	c := m.spliceCredits(1, 1)
	c.Frees = max(c.Frees, 2*m.depth())
	return c
}

// ConvertCredits is what one ConvertStep takes.
func (m *Map) ConvertCredits() Credits {
	// Splitting at both ends adds two extents; becoming unwritten, which cannot
	// be as long, may cut each extent of the leaf in two.
	return m.spliceCredits(1, disk.ExtentNodeCapacity(m.Cache.BlockSize()))
}

// ShiftCredits is what one ShiftStep takes.
func (m *Map) ShiftCredits() Credits { return m.spliceCredits(1, 1) }

func (m *Map) depth() int { return int(disk.DecodeExtentHeader(m.Root).Depth) }

// NodesFor is how many nodes it may take, at most, to map so many of the file blocks
// [lo, hi), which are at so many places, in any order and in any number of edits.
// Nodes that are given up in between are not counted back.
func (m *Map) NodesFor(lo, hi uint64, places, blocks int) int {
	if !m.Tree {
		return m.nodesAbove(lo, hi, blocks)
	}
	entries := (blocks + places) / 2 // when there is every second block
	const half = 2
	capacity := disk.ExtentNodeCapacity(m.Cache.BlockSize())
	h := disk.DecodeExtentHeader(m.Root)
	depth := int(h.Depth)
	nodes := 0
	for height := 0; height < maxHeight; height++ {
		if height >= depth && rootEntries(&h, height)+entries <= rootCapacity {
			break
		}
		// A node that is there may be full, and is split by the first new entry. From
		// then on each node has half of its entries at least.
		full := places
		switch above := depth - height; {
		case above <= 0:
			full = 1 // what the root has
		case above == 1:
			full = min(places, int(h.Entries))
		case above == 2:
			full = min(places, int(h.Entries)*capacity)
		}
		n := full + (entries+capacity/half-1)/(capacity/half)
		nodes += n
		places, entries = n, n
	}
	return nodes
}

// rootEntries is how many entries the root has at some height, not below its own.
func rootEntries(h *disk.ExtentHeader, height int) int {
	if height == int(h.Depth) {
		return int(h.Entries)
	}
	return 1
}

// spliceCredits is what n splices take that together add so many entries.
func (m *Map) spliceCredits(n, add int) Credits {
	if !m.Tree {
		return Credits{}
	}
	capacity := disk.ExtentNodeCapacity(m.Cache.BlockSize())
	depth := m.depth()
	c := Credits{Blocks: n * depth}
	height := 0
	for ; height < depth; height++ {
		// In the worst case each splice meets a full node, and needs new ones for
		// what it adds, rounded up. They are entries one level up.
		if add > n {
			add = n + (add-n)/capacity
		}
		c.Allocs += add
	}
	// Where the root overflows, its few entries move to a node that has room for
	// many more. The root has one entry then, and overflows with the fourth more.
	for grows := true; grows && height < maxHeight; height++ {
		nodes := 1 + max(add-(capacity-rootCapacity), 0)
		c.Allocs += nodes
		add = nodes - 1
		grows = add >= rootCapacity
	}
	// Extents that merge may leave each level with one node, which then goes.
	c.Frees = max(c.Allocs, depth)
	if n > 1 {
		// Between splices the tree may get flatter by that and grow again. From
		// the inode to a leaf and back takes two, and where a level comes back
		// what it had before, at most a node's entries, is to be added again.
		c.Allocs += n/2 + depth
		c.Frees = c.Allocs + depth
	}
	c.Blocks += c.Allocs
	return c
}

// nodesAbove is the number of indirect blocks on the ways to the file blocks
// [lo, hi), but at most so many of each kind.
func (m *Map) nodesAbove(lo, hi uint64, most int) int {
	nodes := 0
	for level := 1; level <= maxLevels; level++ {
		p := m.rootPointers(level)
		from, to := max(lo, p.first), min(hi, p.end())
		if from >= to {
			continue
		}
		for span := p.span; span > 1; span /= uint64(m.Geo.BlockSize / 4) {
			nodes += min(int((to-1-p.first)/span-(from-p.first)/span+1), most)
		}
	}
	return nodes
}
