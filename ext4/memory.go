package ext4

import "unsafe"

// What an open filesystem keeps in memory comes out of one budget ([Options.Memory]). This
// file says who gets how much of it; docs/architecture.md has in "Bounds" what follows at
// each limit, and what is not in the budget because it is bounded by something else.

const (
	// DefaultMemory is the budget, in bytes, of a filesystem that is given none.
	DefaultMemory = 128 << 20

	// MinMemory is the least budget with which everything works as it should. With less a
	// filesystem still works, but a directory in many pieces, or a long log, may be refused.
	MinMemory = 64 << 20
)

// Bytes of one of what is counted, with the place that it has in tables.
const (
	inodeBytes    = int64(unsafe.Sizeof(inode{})) + 64
	reservedBytes = int64(unsafe.Sizeof(reserved{})) * 2 // a list that grows is there twice
	orphanBytes   = 40
	loggedBytes   = 80 // of a log that is recovered, with what is sorted and found of it
)

// shares is who gets how much of the budget, in bytes. What belongs to the recovery of a log
// is there only before the rest is. Blocks that are not at home yet are in the cache of blocks,
// so that together the others are less than two thirds of the budget; what is usual is a
// third. The rest is for the requests under way, for the runtime, and for what it has not
// collected yet.
type shares struct {
	blocks  int64 // cache of metadata blocks
	inodes  int64 // cache of inodes
	journal int64 // of blocks, those that are not at home yet; a quarter of it again while they are copied
	bitmaps int64 // of block groups
	pending int64 // runs of blocks that are reserved for writes
	recover int64 // table of a log that is recovered
	orphans int64 // numbers of orphans, where nothing is written
}

func (o *Options) shares() shares {
	m := o.Memory
	if m <= 0 {
		m = DefaultMemory
	}
	s := shares{
		blocks:  m / 4,
		inodes:  m / 16,
		journal: m / 4,
		bitmaps: m / 8,
		pending: m / 8,
		recover: m * 3 / 4,
		orphans: m / 8,
	}
	if o.CacheBytes > 0 {
		s.blocks = o.CacheBytes
	}
	return s
}

// atLeast is how many things of a size fit into a share, but no less than some.
func atLeast(least, share, size int64) int { return int(max(share/size, least)) }
