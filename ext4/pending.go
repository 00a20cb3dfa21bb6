package ext4

import (
	"slices"
	"sort"

	"ext4box/ext4/internal/balloc"
	"ext4box/ext4/internal/extent"
)

// reserved is a run of blocks that is pending for a part of a file; see the
// comment of write.go. What is pending of a file is in order.
type reserved struct {
	extent.Run
	ahead bool // nobody has asked for it yet
}

// minReserved is how many runs may be pending in any case, in all files together, where data is moved
// outside. A write that fails after its question leaves a run behind of which nobody may ever hear again, so
// nothing else bounds them but the space on the device, and the share of memory that they have.
const minReserved = 1 << 12

// covering is the place in pending of the first run that ends behind blk.
func covering(pending []reserved, blk uint64) int {
	return sort.Search(len(pending), func(i int) bool { return pending[i].End() > blk })
}

// firstPending is the first run that is pending in the file blocks [lo, hi), which
// may be none, or a hole.
func firstPending(pending []reserved, lo, hi uint64) extent.Run {
	if i := covering(pending, lo); lo < hi && i < len(pending) && pending[i].Block < hi {
		p := pending[i].Run
		p.Clip(lo, hi)
		return p
	}
	return extent.Run{}
}

// joins tells whether b continues a, in the file and in one group of the device.
func (fs *FS) joins(a, b *reserved) bool {
	return a.End() == b.Block && a.Start+a.Len == b.Start && fs.geo.GroupOf(a.Start) == fs.geo.GroupOf(b.Start)
}

// pendingAt is the whole run that is pending around a block of a file, or a hole.
func (fs *FS) pendingAt(in *inode, blk uint64) extent.Run {
	list := in.pending
	i := covering(list, blk)
	if i == len(list) || list[i].Block > blk {
		return extent.Run{}
	}
	j := i
	for i > 0 && fs.joins(&list[i-1], &list[i]) {
		i--
	}
	for j+1 < len(list) && fs.joins(&list[j], &list[j+1]) {
		j++
	}
	run := list[i].Run
	run.Len = list[j].End() - run.Block
	return run
}

// addPending makes a run pending of which the first blocks were asked for.
func (fs *FS) addPending(in *inode, run extent.Run, asked uint64) {
	fs.insertPending(in, reserved{extent.Run{Block: run.Block, Len: min(asked, run.Len), Start: run.Start, State: extent.Unwritten}, false})
	if asked < run.Len {
		run.Clip(run.Block+asked, run.End())
		fs.insertPending(in, reserved{run, true})
	}
}

func (fs *FS) insertPending(in *inode, p reserved) {
	i := covering(in.pending, p.Block)
	in.pending = slices.Insert(in.pending, i, p)
	fs.w.reserved.Add(1)
	fs.countPending(in, &p, int64(p.Len))
	if i+1 < len(in.pending) && fs.mergePending(in, i) {
		in.pending = slices.Delete(in.pending, i+1, i+2)
	}
	if i > 0 && fs.mergePending(in, i-1) {
		in.pending = slices.Delete(in.pending, i, i+1)
	}
}

// mergePending adds to run i of what is pending the next one, if they are alike.
func (fs *FS) mergePending(in *inode, i int) bool {
	a, b := &in.pending[i], &in.pending[i+1]
	if a.ahead != b.ahead || !fs.joins(a, b) {
		return false
	}
	a.Len += b.Len
	fs.w.reserved.Add(-1)
	return true
}

// countPending keeps the sums when so many blocks like p become pending, or are
// no longer.
func (fs *FS) countPending(in *inode, p *reserved, blocks int64) {
	in.pendingBlocks += blocks
	if p.ahead {
		in.aheadBlocks += blocks
		fs.w.ahead.count(in, blocks)
	} else {
		fs.w.asked.Add(blocks)
	}
}

// cutPending takes the blocks [lo, hi) out of what is pending, and returns what
// there was of them.
func (fs *FS) cutPending(in *inode, lo, hi uint64) (cut []reserved) {
	i := covering(in.pending, lo)
	j := i
	var rest []reserved
	for ; j < len(in.pending) && in.pending[j].Block < hi; j++ {
		p := in.pending[j]
		if p.Block < lo {
			left := p
			left.Clip(p.Block, lo)
			rest = append(rest, left)
		}
		if p.End() > hi {
			right := p
			right.Clip(hi, p.End())
			rest = append(rest, right)
		}
		p.Clip(lo, hi)
		fs.countPending(in, &p, -int64(p.Len))
		cut = append(cut, p)
	}
	in.pending = slices.Replace(in.pending, i, j, rest...)
	fs.w.reserved.Add(int64(len(rest) - (j - i)))
	return cut
}

// forgetPending takes the blocks [lo, hi) out of what is pending, because they
// are now mapped.
func (fs *FS) forgetPending(in *inode, lo, hi uint64) {
	fs.cutPending(in, lo, hi)
	fs.pin(in)
}

// askPending notes that what is pending of the blocks [lo, hi) was asked for.
func (fs *FS) askPending(in *inode, lo, hi uint64) {
	if in.aheadBlocks == 0 {
		return
	}
	for _, p := range fs.cutPending(in, lo, hi) {
		p.ahead = false
		fs.insertPending(in, p)
	}
}

// dropPending gives back what is pending of the blocks [lo, hi), to which nobody has
// a mapping, or nobody can have anything on its way: they may be another file's next.
func (fs *FS) dropPending(in *inode, lo, hi uint64) {
	for {
		p := firstPending(in.pending, lo, hi)
		if p.State == extent.Hole {
			break
		}
		fs.cutPending(in, p.Block, p.End())
		start, n, err := fs.ownClusters(in, p, in.pending)
		if err == nil && n > 0 {
			err = fs.w.groups.Release(balloc.Run{Start: start, Len: uint32(n)})
			fs.w.ahead.back.Add(n)
		}
		if err != nil {
			fs.log.Error("release reserved blocks", "inode", in.ino, "error", err)
		}
	}
	fs.pin(in)
}
