package ext4

import (
	"ext4box/ext4/internal/balloc"
	"ext4box/ext4/internal/buffer"
	"ext4box/ext4/internal/disk"
	"ext4box/ext4/internal/extent"
)

// With bigalloc space is given out in clusters of several blocks, while a file
// maps blocks. A block has the same place in its cluster in the file as on the
// device, so that all blocks of a file that are in one cluster of the file are in
// one cluster of the device. That cluster belongs to the file from the first of
// them that is mapped to the last; before, while one of them is only pending, it
// is reserved. The other blocks of the cluster are holes, whatever the device
// has there. A node of a map and a block of attributes have a cluster each.
//
// Everything here holds without bigalloc too, where a cluster is a block, and
// costs nothing then.

// perCluster is the number of blocks in a cluster.
func (fs *FS) perCluster() uint64 { return 1 << fs.geo.ClusterBits }

// clusterStart is the first block of the cluster that a block, of a file or of
// the device, is in; clusterEnd is the first one behind all clusters that blocks
// before blk are in.
func (fs *FS) clusterStart(blk uint64) uint64 { return blk &^ (fs.perCluster() - 1) }
func (fs *FS) clusterEnd(blk uint64) uint64   { return fs.clusterStart(blk + fs.perCluster() - 1) }

// checkClusters returns an error if blocks of the file are not in their places
// in the clusters of the device, so that it cannot be told whose these are.
func (fs *FS) checkClusters(in *inode, run extent.Run) error {
	switch {
	case fs.geo.ClusterBits == 0 || run.State == extent.Hole:
		return nil
	case in.Flags&disk.FlagExtents == 0:
		return disk.Corruptf(disk.InodeName(uint32(in.ino)), "has a block map, which cannot be where blocks come in clusters")
	case (run.Start^run.Block)&(fs.perCluster()-1) != 0:
		return disk.Corruptf(disk.InodeName(uint32(in.ino)), "block %d is at %d, at another place in its cluster", run.Block, run.Start)
	}
	return nil
}

// firstMapped is the first run that the map of a file has in the file blocks
// [lo, hi), or a hole.
func (fs *FS) firstMapped(in *inode, lo, hi uint64) (extent.Run, error) {
	m := fs.blockMap(in)
	for hi = min(hi, extent.MaxBlocks); lo < hi; {
		run, err := m.Lookup(lo)
		if err != nil {
			return extent.Run{}, err
		}
		if run.State != extent.Hole {
			run.Clip(lo, hi)
			return run, nil
		}
		lo = run.End()
	}
	return extent.Run{}, nil
}

// implied is the device block at which a block of a file is, or has to be
// because another block of its cluster is mapped or pending; 0 if it can be
// anywhere.
func (fs *FS) implied(in *inode, blk uint64) (uint64, error) {
	lo := fs.clusterStart(blk)
	run, err := fs.firstMapped(in, lo, lo+fs.perCluster())
	if err == nil && run.State == extent.Hole {
		run = firstPending(in.pending, lo, lo+fs.perCluster())
	}
	if err != nil || run.State == extent.Hole {
		return 0, err
	}
	if err := fs.checkClusters(in, run); err != nil {
		return 0, err
	}
	// The map was checked for what is in it, not for what shares its clusters.
	at := run.Start - run.Block + blk
	start := fs.clusterStart(at)
	if end := min(start+fs.perCluster(), fs.geo.BlocksCount); at >= end || !fs.mayHave(start, end-start) {
		return 0, disk.Corruptf(disk.InodeName(uint32(in.ino)), "block %d is in a cluster that is not for files", run.Start)
	}
	return at, nil
}

// want says what blocks are for. Only the first of them are asked for.
type want struct {
	asked uint64
	more  bool // the file goes on growing there
	must  bool // or data is lost that was accepted: what is kept back will do
}

// place finds device blocks for the start of a hole, whose blocks are not
// pending either, and makes them pending.
func (fs *FS) place(in *inode, hole extent.Run, w want) (extent.Run, error) {
	p := extent.Run{Block: hole.Block, Len: hole.Len, State: extent.Unwritten}
	if fs.geo.ClusterBits > 0 {
		if in.Flags&disk.FlagExtents == 0 {
			return p, fs.checkClusters(in, p)
		}
		at, err := fs.implied(in, p.Block)
		if err != nil {
			return p, err
		}
		if at != 0 {
			// The cluster is the file's already: what is ahead in it costs nothing.
			p.Clip(p.Block, min(p.End(), fs.clusterEnd(p.Block+1)))
			p.Start = at
			return p, fs.reserve(in, p, w.asked)
		}
		if end := p.End(); end > fs.clusterEnd(p.Block+1) {
			if at, err = fs.implied(in, end-1); err != nil {
				return p, err
			}
			if at != 0 {
				p.Clip(p.Block, fs.clusterStart(end-1))
			}
		}
	}
	first := fs.clusterStart(p.Block)
	blocks, err := fs.afford(in, fs.clusterEnd(p.End())-first, 0)
	if err != nil {
		return p, err
	}
	goal, merge := fs.goal(in, first)
	if w.asked < hole.Len {
		// All at once, and more than what is kept behind the last write.
		in.prealloc.Discard(fs.w.groups)
		w.more = false
	}
	var got balloc.Run
	err = fs.retryingInside(func() (err error) {
		got, err = in.prealloc.Reserve(fs.w.groups, balloc.Request{
			Goal: goal, Merge: merge, Want: uint32(blocks), Append: w.more, Root: fs.privileged(&in.Inode), Pool: w.must,
		})
		return err
	})
	if err != nil {
		return p, err
	}
	p.Clip(p.Block, min(p.End(), first+uint64(got.Len)))
	p.Start = got.Start + p.Block - first
	return p, fs.reserve(in, p, w.asked)
}

// ownClusters is the device blocks of the clusters of a run in which no other
// block of the file is mapped or in pending. n is 0 if there are none.
func (fs *FS) ownClusters(in *inode, run extent.Run, pending []reserved) (start, n uint64, err error) {
	if fs.geo.ClusterBits == 0 {
		return run.Start, run.Len, nil
	}
	if err := fs.checkClusters(in, run); err != nil {
		return 0, 0, err
	}
	used := func(lo, hi uint64) bool {
		if lo >= hi || err != nil {
			return false
		}
		var other extent.Run
		if other, err = fs.firstMapped(in, lo, hi); other.State == extent.Hole {
			other = firstPending(pending, lo, hi)
		}
		return other.State != extent.Hole
	}
	lo, hi := fs.clusterStart(run.Block), fs.clusterEnd(run.End())
	if used(lo, run.Block) {
		lo += fs.perCluster()
	}
	if lo < hi && used(run.End(), hi) {
		hi -= fs.perCluster()
	}
	return run.Start - run.Block + lo, hi - lo, err
}

// pendingClusters is the number of blocks in the clusters that are reserved for
// a file.
func (fs *FS) pendingClusters(in *inode) (blocks uint64) {
	for i, p := range in.pending {
		if _, n, err := fs.ownClusters(in, p.Run, in.pending[:i]); err == nil {
			blocks += n
		}
	}
	return blocks
}

// freeMeta frees a block of metadata that has a cluster to itself.
func (fs *FS) freeMeta(tx buffer.Tx, blk uint64) error {
	if err := fs.w.groups.Free(tx, fs.clusterStart(blk), fs.perCluster(), 0); err != nil {
		return err
	}
	tx.Forget(blk)
	return nil
}
