package balloc

import (
	"errors"
	"fmt"
	"slices"
	"syscall"

	"ext4box/ext4/internal/buffer"
	"ext4box/ext4/internal/disk"
)

// Request says what to allocate. The zero values of Goal and Min mean the start
// of the filesystem and one block.
type Request struct {
	Goal uint64 // block to start at, or near
	Want uint32 // blocks, at least 1; the result has at most that many, rounded up to clusters
	Min  uint32 // blocks; the result has at least that many

	// Merge says that Goal continues an extent: any run that starts right there
	// is better than a longer one elsewhere.
	Merge bool
	// Append says that more requests will follow that continue this one, so that
	// it is worth keeping the space behind it; see [Prealloc].
	Append bool
	// Metadata asks for a run that fits tightly, to leave the long ones to data.
	Metadata bool

	Root     bool // may use the blocks reserved for root
	Pool     bool // may use those and the ones kept back by Config.Pool
	Promised bool // uses blocks promised by ReserveSpace

	atOnce bool // claimed at once, and not pending for longer than that
}

// How much of what is not in memory a search reads while a shorter run than
// wanted would do.
const (
	searchBitmaps = 16
	searchDescs   = 32

	// searchCorrupt is after how many groups that turn out to be corrupt, and are set
	// aside, a search gives up: it may hold a transaction open. The next one goes on.
	searchCorrupt = 256
)

// Reserve makes a run of free blocks pending. It takes, in this order, what is
// free at the goal, near it in its group, in the groups of its flexible group,
// and in any other. It returns less than wanted only if no run that long was
// found with reasonable effort, and fails with ENOSPC only if there is none of
// Min blocks; see [Groups.Waiting] for what may help then. Min is best left at
// 1: with others a search in a full filesystem can take long.
//
// The run must be given to Claim or Release, as a whole or in parts.
func (gs *Groups) Reserve(r Request) (Run, error) {
	want, least := gs.toClusters(r.Want), max(gs.toClusters(r.Min), 1)
	want = min(want, gs.Geo.ClustersPerGroup)
	if want < least {
		return Run{}, fmt.Errorf("reserve %d to %d blocks: %w", r.Min, r.Want, syscall.EINVAL)
	}
	for {
		run, err := gs.reserve(r, want, least)
		if !errors.Is(err, errNoSpace) || !gs.relieve() {
			return run, err
		}
	}
}

func (gs *Groups) reserve(r Request, want, least uint32) (Run, error) {
	if r.Promised {
		return gs.find(r, want, least)
	}
	got, err := gs.take(want, least, gs.floor(r.Root, r.Pool))
	if err != nil {
		return Run{}, err
	}
	run, err := gs.find(r, got, least)
	gs.space.avail.Add(int64(got - run.Len>>gs.ratio))
	return run, err
}

// relieve makes space by taking the windows of all inodes away, and tells
// whether trying again makes sense.
func (gs *Groups) relieve() bool {
	if gs.discardWindows() {
		return true
	}
	return gs.awaitTrim()
}

// finder is one search for free clusters.
type finder struct {
	want, least    uint32
	home           uint32 // the goal's group
	goal           uint32 // the goal, in clusters of that group
	tight          bool
	bitmaps, descs int   // left to read, unless it must be
	must           bool  // read whatever it takes
	corrupt        int   // groups that turned out to be corrupt
	failed         error // the first that was not a corruption
}

// find holds a run of at most want clusters, and at least least.
func (gs *Groups) find(r Request, want, least uint32) (Run, error) {
	goal := r.Goal
	if goal < uint64(gs.Geo.FirstDataBlock) || goal >= gs.Geo.BlocksCount {
		goal = uint64(gs.Geo.FirstDataBlock)
	}
	f := finder{want: want, least: least, tight: r.Metadata, bitmaps: searchBitmaps, descs: searchDescs}
	f.home = gs.Geo.GroupOf(goal)
	f.goal = uint32(goal-gs.Geo.GroupFirstBlock(f.home)) >> gs.ratio
	if !r.atOnce && gs.pending.Load() >= gs.most {
		if run, ok := gs.findPending(&f, least); ok {
			return run, nil
		}
		return Run{}, errNoSpace
	}
	if run, ok := gs.findAtGoal(&f, r.Merge); ok {
		return run, nil
	}
	lo, hi := gs.flexRange(f.home)
	parts := [...]span{{f.home, hi}, {lo, f.home}, {hi, gs.Geo.Groups}, {0, lo}}
	last := floorLog2(least)
	for order := ceilLog2(want); order >= last; order-- {
		// At first only groups that have all that is wanted, then those that
		// have most, and in the end whatever is enough.
		f.must = order == last
		f.least = max(least, min(want, 1<<order))
		for _, p := range parts {
			if run, ok := gs.sweep(&f, p, order); ok {
				return run, nil
			}
		}
	}
	if f.failed != nil {
		return Run{}, f.failed
	}
	return Run{}, errNoSpace
}

// findPending tries the groups that have something pending, from that of the goal on.
func (gs *Groups) findPending(f *finder, least uint32) (Run, bool) {
	nums := gs.table.nums()
	at, _ := slices.BinarySearch(nums, f.home)
	nums = append(nums[at:], nums[:at]...)
	for _, f.least = range [2]uint32{f.want, least} {
		for _, num := range nums {
			g := gs.lock(num)
			if g.pending > 0 && gs.blocks.get(num) != bad {
				goal := uint32(0)
				if num == f.home {
					goal = f.goal
				}
				if at, n, ok := g.search(goal, f.want, f.least, f.tight); ok {
					if run, ok := gs.grab(g, at, n); ok {
						gs.unlock(g)
						return run, true
					}
				}
				gs.publish(g)
			}
			gs.unlock(g)
		}
	}
	return Run{}, false
}

// findAtGoal tries the run that starts at the goal itself, then the goal's
// group.
func (gs *Groups) findAtGoal(f *finder, merge bool) (Run, bool) {
	c := gs.blocks.get(f.home)
	if c == unknown {
		// The descriptors around are worth having before the bitmap.
		f.note(gs.learn(f.home))
		c = gs.blocks.get(f.home)
	}
	if c == full || c == bad {
		return Run{}, false
	}
	g := gs.lock(f.home)
	defer gs.unlock(g)
	if err := gs.loadBlocks(g); err != nil {
		f.note(err)
		return Run{}, false
	}
	if n := g.runAt(f.goal, f.want); merge && n >= f.least || !f.tight && n == f.want {
		return gs.grab(g, f.goal, n)
	}
	at, n, ok := g.search(f.goal, f.want, f.want, f.tight)
	if !ok {
		gs.publish(g)
		return Run{}, false
	}
	return gs.grab(g, at, n)
}

// sweep tries the groups of a range that may have a run of the given order.
func (gs *Groups) sweep(f *finder, part span, order int) (Run, bool) {
	for at := part.lo; at < part.hi && f.corrupt < searchCorrupt; at++ {
		among := exactFrom(order)
		if f.must || f.bitmaps > 0 {
			among |= boundFrom(order)
		}
		if f.must || f.descs > 0 {
			among |= only(unknown)
		}
		num, c, ok := gs.blocks.next(at, part.hi, among)
		if !ok {
			return Run{}, false
		}
		at = num
		if c == unknown {
			f.descs--
			f.note(gs.learn(num))
			if gs.blocks.get(num) == unknown {
				continue
			}
			at-- // look again, now that it is known
			continue
		}
		if run, ok := gs.try(f, num); ok {
			return run, true
		}
	}
	return Run{}, false
}

// try takes clusters from one group.
func (gs *Groups) try(f *finder, num uint32) (Run, bool) {
	g := gs.lock(num)
	defer gs.unlock(g)
	if !g.blocksLoaded {
		f.bitmaps--
	}
	if err := gs.loadBlocks(g); err != nil {
		f.note(err)
		return Run{}, false
	}
	goal := uint32(0)
	if num == f.home {
		goal = f.goal
	}
	at, n, ok := g.search(goal, f.want, f.least, f.tight)
	if !ok {
		gs.publish(g)
		return Run{}, false
	}
	return gs.grab(g, at, n)
}

// note keeps an error that should be told if nothing is found.
func (f *finder) note(err error) {
	switch {
	case err == nil:
	case isCorrupt(err):
		f.corrupt++
	case f.failed == nil:
		f.failed = err
	}
}

func isCorrupt(err error) bool {
	var c *disk.CorruptError
	return errors.As(err, &c)
}

// grab holds clusters of a locked group, or sets the group aside where its bitmap
// gives away what belongs to the filesystem itself.
func (gs *Groups) grab(g *group, at, n uint32) (r Run, ok bool) {
	r = gs.run(g.num, at, n)
	if gs.Own != nil && gs.Own(r.Start, uint64(r.Len)) {
		gs.setAside(g, gs.blocks, groupErrorf(g.num, "of blocks %d to %d one holds metadata of another group and is marked free", r.Start, r.End()-1))
		return Run{}, false
	}
	g.hold(at, n)
	gs.countPending(g, int64(n))
	gs.publish(g)
	return r, true
}

// Release gives back pending blocks that were not claimed.
func (gs *Groups) Release(r Run) error {
	num, at, n, err := gs.locate(r)
	if err != nil {
		return err
	}
	g := gs.lock(num)
	defer gs.unlock(g)
	if !g.blocksLoaded || n > g.held || g.busy.NextClear(at, at+n) < at+n {
		return fmt.Errorf("release blocks %d+%d, which are not reserved: %w", r.Start, r.Len, syscall.EINVAL)
	}
	gs.countPending(g, -int64(n))
	gs.putBack(g, at, n)
	return nil
}

// countPending notes that so many more clusters of a locked group are pending.
func (gs *Groups) countPending(g *group, n int64) {
	was := g.pending > 0
	g.pending = uint32(int64(g.pending) + n)
	switch is := g.pending > 0; {
	case is && !was:
		gs.pending.Add(1)
	case was && !is:
		gs.pending.Add(-1)
	}
}

// putBack makes held clusters of a locked group available again.
func (gs *Groups) putBack(g *group, at, n uint32) {
	g.letGo(at, n)
	gs.publish(g)
	gs.space.avail.Add(int64(n))
}

// Allocate reserves and claims a run at once, for metadata.
func (gs *Groups) Allocate(tx buffer.Tx, r Request) (Run, error) {
	r.atOnce = true
	run, err := gs.Reserve(r)
	if err != nil {
		return Run{}, err
	}
	if err := gs.Claim(tx, run); err != nil {
		return Run{}, errors.Join(err, gs.Release(run))
	}
	return run, nil
}

// InodeGoal is where the data of an inode that has none yet should start. In
// flexible groups directories get the first group and other files the rest,
// so that the blocks of directories stay close together.
func (gs *Groups) InodeGoal(ino uint32, dir bool) uint64 {
	if ino == 0 || ino > gs.Geo.InodesCount {
		return uint64(gs.Geo.FirstDataBlock)
	}
	num, _ := gs.Geo.InodeGroup(ino)
	if gs.flex >= 4 {
		lo, hi := gs.flexRange(num)
		if num = lo; !dir && lo+1 < hi {
			num++
		}
	}
	return gs.Geo.GroupFirstBlock(num)
}
