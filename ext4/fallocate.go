package ext4

import (
	"errors"
	"syscall"

	"ext4box/ext4/internal/disk"
	"ext4box/ext4/internal/extent"
	"ext4box/ext4/internal/journal"
)

// Modes of Fallocate, as fallocate(2) has them. 0 allocates and extends.
const (
	FallocKeepSize      = 0x01
	FallocPunchHole     = 0x02
	FallocCollapseRange = 0x08
	FallocZeroRange     = 0x10
	FallocInsertRange   = 0x20
)

// Fallocate changes how a range of a file is backed. Errors: EOPNOTSUPP for an
// unknown mode, or one that needs unwritten extents in a file without extents;
// EINVAL, EFBIG, ENOSPC; ETXTBSY for a swap file.
//
// Where data is moved outside, the mover clears what the range has of the blocks at
// its edges and tells the times by SetAttr. Collapsing and inserting, which move data
// that may be on its way, is EOPNOTSUPP there.
func (fs *FS) Fallocate(ino Ino, mode uint32, off, n uint64) error {
	return fs.FallocateAs(ino, mode, off, n, false)
}

// FallocateAs is Fallocate by somebody for whom, if limited, limits of quota
// hold: EDQUOT.
func (fs *FS) FallocateAs(ino Ino, mode uint32, off, n uint64, limited bool) error {
	if fs.w == nil {
		return syscall.EROFS
	}
	if n == 0 {
		return syscall.EINVAL
	}
	known := uint32(FallocKeepSize | FallocPunchHole | FallocZeroRange)
	if fs.outside == nil {
		known |= FallocCollapseRange | FallocInsertRange
	}
	if mode&^known != 0 {
		return syscall.EOPNOTSUPP
	}
	return fs.retryingOutside(func() error { return fs.fallocate(ino, mode, off, n, limited) })
}

func (fs *FS) fallocate(ino Ino, mode uint32, off, n uint64, limited bool) (err error) {
	ref, err := fs.iget(ino)
	if err != nil {
		return err
	}
	defer ref.put()
	ref.io.Lock()
	defer ref.io.Unlock()
	if err := ref.current(); err != nil {
		return err
	}
	in, err := fs.wlock(ino)
	if err != nil {
		return err
	}
	defer in.wunlock()
	in.quota.limited = limited
	switch {
	case in.IsDir():
		return syscall.EISDIR
	case !in.IsReg():
		return syscall.ENODEV
	case in.Flags&(disk.FlagImmutable|disk.FlagVerity) != 0, in.Flags&disk.FlagAppend != 0 && mode&^FallocKeepSize != 0:
		return syscall.EPERM
	case in.encrypted():
		return syscall.ENOKEY
	case in.swap:
		return syscall.ETXTBSY
	}
	if limit := fs.maxSize(in); mode&FallocPunchHole == 0 && (off+n < off || off+n > limit) {
		return syscall.EFBIG
	} else if off+n < off || off+n > limit {
		if off >= limit {
			return nil
		}
		n = limit - off
	}
	if fs.outside == nil {
		// What is pending belongs to writes that are over: io is held.
		fs.dropPending(in, 0, extent.MaxBlocks)
	}
	was := in.size
	defer func() {
		fs.takeBack(in, off, n, err)
		if off > was {
			fs.endMoved(in, was)
		}
	}()
	if err := fs.outOfLine(in); err != nil {
		return err
	}
	switch mode {
	case 0, FallocKeepSize:
		return fs.preallocate(in, off, n, mode&FallocKeepSize != 0)
	case FallocPunchHole | FallocKeepSize:
		return fs.punch(in, off, n)
	case FallocZeroRange, FallocZeroRange | FallocKeepSize:
		return fs.zeroOut(in, off, n, mode&FallocKeepSize != 0)
	case FallocCollapseRange:
		return fs.collapse(in, off, n)
	case FallocInsertRange:
		return fs.insert(in, off, n)
	}
	return syscall.EOPNOTSUPP
}

// extend makes a file that is shorter than size that long.
func (fs *FS) extend(in *inode, size uint64, keep bool) error {
	if keep || size <= in.size {
		size = in.size
	} else if err := fs.zeroRange(in, in.size, fs.roundUp(in.size)); err != nil {
		return err
	}
	if fs.outside != nil && size == in.size {
		return nil
	}
	return fs.transact(1, 0, func(tx *journal.Handle) error {
		if fs.outside == nil {
			if size != in.size {
				in.Mtime = fs.now()
			}
			fs.touch(in, false)
		}
		in.size = size
		return fs.store(tx, in)
	})
}

func (fs *FS) roundUp(n uint64) uint64 {
	bs := uint64(fs.geo.BlockSize)
	return (n + bs - 1) &^ (bs - 1)
}

// preallocate backs the holes in a range with unwritten blocks. With an error
// what was allocated before it stays, as in the kernel.
func (fs *FS) preallocate(in *inode, off, n uint64, keep bool) error {
	if in.Flags&disk.FlagExtents == 0 {
		return syscall.EOPNOTSUPP
	}
	lo, hi := off>>fs.geo.BlockBits, fs.roundUp(off+n)>>fs.geo.BlockBits
	for blk := lo; blk < hi; {
		run, err := fs.run(in, blk)
		if err != nil {
			return err
		}
		if run.State != extent.Hole {
			blk = run.End()
			continue
		}
		run.Clip(blk, min(run.End(), hi, blk+extentMax))
		if p := firstPending(in.pending, blk, run.End()); p.State != extent.Hole {
			// Data may be on its way there: these blocks, and no others.
			if err := fs.mapPending(in, p); err != nil {
				return err
			}
			continue
		}
		got, err := fs.allocUnwritten(in, run)
		if err != nil {
			return err
		}
		blk += got
	}
	return fs.extend(in, off+n, keep)
}

// mapPending makes blocks that are pending unwritten ones.
func (fs *FS) mapPending(in *inode, run extent.Run) error {
	credits, revokes := fs.creditsClaim(in, run)
	return fs.transact(credits, revokes, func(tx *journal.Handle) error {
		return errors.Join(fs.claim(tx, in, run, extent.Unwritten), fs.store(tx, in))
	})
}

// settleEdges is for when the blocks [lo, hi) of a file are about to be freed and what
// is pending elsewhere is not: a cluster on the edge belongs to the file as long as
// something of it is mapped. So what is pending there becomes so.
func (fs *FS) settleEdges(in *inode, lo, hi uint64) error {
	if fs.outside == nil || fs.geo.ClusterBits == 0 {
		return nil
	}
	for _, edge := range [2][2]uint64{{fs.clusterStart(lo), lo}, {hi, fs.clusterEnd(hi)}} {
		for {
			p := firstPending(in.pending, edge[0], edge[1])
			if p.State == extent.Hole {
				break
			}
			if err := fs.mapPending(in, p); err != nil {
				return err
			}
		}
	}
	return nil
}

// allocUnwritten backs the start of a hole with unwritten blocks, and tells with
// how many.
func (fs *FS) allocUnwritten(in *inode, hole extent.Run) (uint64, error) {
	run, err := fs.place(in, hole, want{asked: hole.Len})
	if err != nil {
		return 0, err
	}
	credits, revokes := fs.creditsClaim(in, run)
	err = fs.transact(credits, revokes, func(tx *journal.Handle) error {
		if err := fs.claim(tx, in, run, extent.Unwritten); err != nil {
			return err
		}
		return fs.store(tx, in)
	})
	if err != nil {
		fs.dropPending(in, run.Block, run.End())
	}
	return run.Len, err
}

// punch makes a hole: whole blocks are freed, the rest of the range is zeroed.
func (fs *FS) punch(in *inode, off, n uint64) error {
	if fs.outside != nil {
		// Whoever moves data may know of a size that is not on disk yet.
		return fs.freeWhole(in, off, off+n)
	}
	if off >= in.size {
		return nil
	}
	end := min(off+n, fs.roundUp(in.size))
	if err := fs.zeroEdges(in, off, end); err != nil {
		return err
	}
	if err := fs.freeWhole(in, off, end); err != nil {
		return err
	}
	return fs.transact(1, 0, func(tx *journal.Handle) error {
		fs.touch(in, true)
		return fs.store(tx, in)
	})
}

// freeWhole frees the blocks that are in a range as a whole, and gives back those that
// are pending, to which nobody moves data.
func (fs *FS) freeWhole(in *inode, off, end uint64) error {
	lo, hi := fs.roundUp(off)>>fs.geo.BlockBits, end>>fs.geo.BlockBits
	if lo >= hi {
		return nil
	}
	if err := fs.settleEdges(in, lo, hi); err != nil {
		return err
	}
	fs.dropPending(in, lo, hi)
	return fs.freeRange(in, lo, hi)
}

// zeroEdges clears the parts of a range that are not whole blocks.
func (fs *FS) zeroEdges(in *inode, off, end uint64) error {
	first, last := fs.roundUp(off), end&^(uint64(fs.geo.BlockSize)-1)
	if first > last { // inside of one block
		return fs.zeroRange(in, off, end)
	}
	return errors.Join(fs.zeroRange(in, off, first), fs.zeroRange(in, last, end))
}

// zeroOut makes a range read as zeros, backed by unwritten blocks.
func (fs *FS) zeroOut(in *inode, off, n uint64, keep bool) error {
	if in.Flags&disk.FlagExtents == 0 {
		return syscall.EOPNOTSUPP
	}
	var err error
	if fs.outside != nil {
		err = fs.unwrite(in, fs.roundUp(off)>>fs.geo.BlockBits, (off+n)>>fs.geo.BlockBits)
	} else if err = fs.zeroEdges(in, off, off+n); err == nil {
		err = fs.freeWhole(in, off, off+n)
	}
	if err != nil {
		return err
	}
	return fs.preallocate(in, off, n, keep)
}

// unwrite makes the written blocks in [lo, hi) of a file with extents unwritten ones.
func (fs *FS) unwrite(in *inode, lo, hi uint64) error {
	m := fs.blockMap(in)
	for lo < hi {
		run, err := m.Lookup(lo)
		if err != nil {
			return err
		}
		if run.State != extent.Written {
			lo = run.End()
			continue
		}
		credits, revokes := fs.creditsEdit(m.ConvertCredits())
		err = fs.transact(credits+1, revokes, func(tx *journal.Handle) (err error) {
			if lo, err = m.ConvertStep(tx, nodeAllocator{fs, in}, lo, min(run.End(), hi), extent.Unwritten); err != nil {
				return err
			}
			in.seq++
			return fs.store(tx, in)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// collapse takes a range of whole clusters out of a file.
func (fs *FS) collapse(in *inode, off, n uint64) error {
	mask := fs.perCluster()<<fs.geo.BlockBits - 1
	switch {
	case in.Flags&disk.FlagExtents == 0:
		return syscall.EOPNOTSUPP
	case (off|n)&mask != 0, off+n >= in.size:
		return syscall.EINVAL
	}
	lo, d := off>>fs.geo.BlockBits, n>>fs.geo.BlockBits
	if err := fs.freeRange(in, lo, lo+d); err != nil {
		return err
	}
	return fs.shift(in, lo+d, -int64(d), in.size-n)
}

// insert puts a hole of whole clusters into a file.
func (fs *FS) insert(in *inode, off, n uint64) error {
	mask := fs.perCluster()<<fs.geo.BlockBits - 1
	switch {
	case in.Flags&disk.FlagExtents == 0:
		return syscall.EOPNOTSUPP
	case (off|n)&mask != 0, off >= in.size:
		return syscall.EINVAL
	case in.size+n > fs.maxSize(in):
		return syscall.EFBIG
	}
	return fs.shift(in, off>>fs.geo.BlockBits, int64(n>>fs.geo.BlockBits), in.size+n)
}

// shift moves what is mapped from block lo on by so many blocks and sets the
// size. It takes as many transactions as the file has leaves: as in the kernel,
// a crash in between leaves a part of the file shifted. It returns when that is
// durable: what is written to a block before would turn up, after a crash, where
// the block was.
func (fs *FS) shift(in *inode, lo uint64, by int64, size uint64) error {
	m := fs.blockMap(in)
	for hi := uint64(extent.MaxBlocks); lo < hi; {
		credits, revokes := fs.creditsEdit(m.ShiftCredits())
		err := fs.transact(credits+1, revokes, func(tx *journal.Handle) (err error) {
			if lo, hi, err = m.ShiftStep(tx, nodeAllocator{fs, in}, lo, hi, by); err != nil {
				return err
			}
			if lo >= hi {
				in.size = size
			}
			in.seq++
			fs.touch(in, true)
			return fs.store(tx, in)
		})
		if err != nil {
			return err
		}
	}
	return fs.w.log.Commit(in.tid)
}
