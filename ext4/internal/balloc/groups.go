package balloc

import (
	"fmt"
	"sort"
	"sync"
	"sync/atomic"
	"syscall"

	"ext4box/ext4/internal/buffer"
	"ext4box/ext4/internal/disk"
)

// Journal credits: how many blocks an operation adds to a transaction at most.
const (
	CreditsClaim      = 2 // for each run
	CreditsFree       = 2 // for each group that the range touches
	CreditsAllocInode = 4 // both bitmaps, descriptor, a block of the inode table
	CreditsFreeInode  = 2
)

const (
	defaultMemory = 16 << 20
	// minPending is of how many groups something may be pending in any case.
	minPending = 64
	// maxFlex bounds how many neighbours are asked for metadata that lies in a
	// group. mke2fs makes flexible groups of 16.
	maxFlex = 4096
)

// Run is a range of blocks inside one group.
type Run struct {
	Start uint64
	Len   uint32 // blocks
}

// End is the block behind the run.
func (r Run) End() uint64 { return r.Start + uint64(r.Len) }

// Config is what New needs to know. Cache, Geo, Sums and Super are required and
// must not change afterwards.
type Config struct {
	Cache *buffer.Cache
	Geo   *disk.Geometry
	Sums  *disk.Checksums
	Super *disk.Superblock

	// SuperBlock is the block of the superblock in use; see
	// [disk.Geometry.DescBlock].
	SuperBlock uint64

	// Pool is the number of blocks kept back, beside those reserved for root, for
	// allocations that must not fail (Request.Pool).
	Pool uint64

	// Protected are further blocks that belong to the filesystem itself, as the
	// journal's or the MMP block. They are never handed out or freed.
	Protected []Run

	// Own, if not nil, tells whether any of a range of blocks is known to belong to the
	// filesystem itself. A group knows what its own flexible group has in it; with flex_bg
	// a structure may be anywhere. It is asked with a group locked.
	Own func(start, n uint64) bool

	// MemoryBytes bounds the bitmaps in memory; 0 means 16 MiB. When so many groups have
	// something pending, runs are reserved in these only. Beyond it are the groups of which
	// something was freed and not committed.
	MemoryBytes int64

	// OnCorrupt, if not nil, is told once of each group that is set aside. It
	// may be called from any method with whatever locks the caller holds, but
	// none of this package's.
	OnCorrupt func(group uint32, err error)

	// Freed, if not nil, is told of each range of blocks that was freed, when
	// that is durable and the range can be handed out again: the place to have
	// it trimmed. It runs in a commit callback.
	Freed func(start, n uint64)
}

// Groups is the block groups of a filesystem. All methods may be called
// concurrently.
type Groups struct {
	Config
	ratio   uint // log2 of blocks per cluster
	flex    uint32
	rootRes int64 // clusters
	pool    int64 // clusters

	table   table
	blocks  *index // longest free run of each group
	inodes  *index // free inodes of each group
	space   space
	sums    totals
	spread  atomic.Uint32 // varies where top-level directories go
	freed   freedBatches
	windows windowList
	pending atomic.Int64 // groups of which something is pending
	most    int64        // of them
	trimMu  sync.Mutex   // held while a run is taken for trimming
}

// New returns the groups of a filesystem. It reads nothing.
func New(c Config) *Groups {
	gs := &Groups{Config: c, ratio: c.Geo.ClusterBits, flex: c.Super.GroupsPerFlex()}
	gs.rootRes = int64(min(c.Super.ReservedBlocks, c.Geo.BlocksCount) >> gs.ratio)
	gs.pool = int64(min(c.Pool, c.Geo.BlocksCount) >> gs.ratio)
	gs.Protected = append([]Run(nil), c.Protected...)
	sort.Slice(gs.Protected, func(i, j int) bool { return gs.Protected[i].Start < gs.Protected[j].Start })
	memory := c.MemoryBytes
	if memory <= 0 {
		memory = defaultMemory
	}
	limit := int(memory / int64(c.Geo.ClustersPerGroup/8+512))
	gs.table.init(limit)
	gs.most = int64(max(limit, minPending))
	gs.blocks = newIndex(c.Geo.Groups)
	gs.inodes = newIndex(c.Geo.Groups)
	gs.freed.byTID = make(map[uint32]freedBatch)
	return gs
}

// lock returns a group with its lock held.
func (gs *Groups) lock(num uint32) *group {
	g := gs.table.get(num)
	g.mu.Lock()
	return g
}

// unlock is the inverse of lock. It reports what was found meanwhile.
func (gs *Groups) unlock(g *group) {
	report := g.report
	g.report = nil
	g.mu.Unlock()
	gs.table.put(g)
	for _, err := range report {
		gs.tell(g.num, err)
	}
}

func (gs *Groups) tell(num uint32, err error) {
	if gs.OnCorrupt != nil {
		gs.OnCorrupt(num, err)
	}
}

// flexRange are the groups [lo, hi) of the flexible group that num belongs to.
func (gs *Groups) flexRange(num uint32) (lo, hi uint32) {
	lo = num &^ (gs.flex - 1)
	return lo, uint32(min(uint64(lo)+uint64(gs.flex), uint64(gs.Geo.Groups)))
}

// SetAside tells whether the blocks of the group of a block are set aside: they cannot be
// handed out or freed.
func (gs *Groups) SetAside(blk uint64) bool { return gs.blocks.get(gs.Geo.GroupOf(blk)) == bad }

// locate checks a range of blocks that the caller passed and returns its group
// and clusters. The range must lie inside one group.
func (gs *Groups) locate(r Run) (num, at, n uint32, err error) {
	if r.Len == 0 || r.Start < uint64(gs.Geo.FirstDataBlock) || r.Start >= gs.Geo.BlocksCount || uint64(r.Len) > gs.Geo.BlocksCount-r.Start {
		return 0, 0, 0, fmt.Errorf("blocks %d+%d lie outside the filesystem: %w", r.Start, r.Len, syscall.EINVAL)
	}
	num = gs.Geo.GroupOf(r.Start)
	off := uint32(r.Start - gs.Geo.GroupFirstBlock(num))
	if r.Len > gs.Geo.GroupBlocks(num)-off {
		return 0, 0, 0, fmt.Errorf("blocks %d+%d cross a group boundary: %w", r.Start, r.Len, syscall.EINVAL)
	}
	if mask := uint32(1)<<gs.ratio - 1; (off|r.Len)&mask != 0 {
		return 0, 0, 0, fmt.Errorf("blocks %d+%d are not whole clusters: %w", r.Start, r.Len, syscall.EINVAL)
	}
	return num, off >> gs.ratio, r.Len >> gs.ratio, nil
}

// run is the inverse of locate.
func (gs *Groups) run(num, at, n uint32) Run {
	return Run{gs.Geo.GroupFirstBlock(num) + uint64(at)<<gs.ratio, n << gs.ratio}
}
