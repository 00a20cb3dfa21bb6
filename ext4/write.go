package ext4

import (
	"errors"
	"fmt"
	"syscall"

	"ext4box/ext4/internal/balloc"
	"ext4box/ext4/internal/disk"
	"ext4box/ext4/internal/extent"
	"ext4box/ext4/internal/journal"
	"ext4box/iomap"
)

// A write into a hole reserves blocks in memory, which stay pending until the
// data is in them; only then, in IOEnd, do they enter the allocation bitmap and
// the file's map, as written blocks, in one transaction. A crash in between
// leaks nothing and shows nothing.

// beginWrite is Begin for an operation that stores data. The inode is locked.
func (fs *FS) beginWrite(in *inode, off, n uint64, op iomap.Op) (iomap.Mapping, error) {
	switch {
	case in.Flags&disk.FlagVerity != 0:
		return iomap.Mapping{}, syscall.EPERM
	case off+n < off || off+n > fs.maxSize(in):
		return iomap.Mapping{}, syscall.EFBIG
	}
	if in.inline() || in.mayInline {
		if m, ok, err := fs.beginInline(in, off, n, op); ok || err != nil {
			return m, err
		}
	}
	blk := off >> fs.geo.BlockBits
	end := max((off+n+uint64(fs.geo.BlockSize)-1)>>fs.geo.BlockBits, blk+1)
	run, err := fs.backing(in, blk)
	if err != nil {
		return iomap.Mapping{}, err
	}
	if op&iomap.OverwriteOnly != 0 && run.State != extent.Written {
		return iomap.Mapping{}, syscall.EAGAIN
	}
	if run.State != extent.Hole {
		return fs.toMapping(in, run), fs.handOut(in, run, blk, end)
	}
	run.Clip(blk, min(run.End(), fs.maxSize(in)>>fs.geo.BlockBits))
	asked := min(run.Len, end-blk, extentMax)
	ahead := fs.ahead(in, run, asked, op)
	run.Clip(blk, blk+asked+ahead)
	w := want{asked: asked, more: off+n > in.size && end<<fs.geo.BlockBits >= in.size, must: op&iomap.Writeback != 0}
	p, err := fs.place(in, run, w)
	if err != nil {
		return iomap.Mapping{}, err
	}
	in.seq++
	in.streak.first, in.streak.next = p.Block, p.End()
	m := fs.toMapping(in, p)
	m.Flags |= iomap.New
	return m, nil
}

// handOut prepares the blocks of a run that is not a hole, of which [lo, hi) are
// asked for, to be written.
func (fs *FS) handOut(in *inode, run extent.Run, lo, hi uint64) error {
	if run.State != extent.Unwritten {
		return nil
	}
	if firstPending(in.pending, lo, lo+1).State == extent.Hole {
		return fs.promiseUnwritten(in, run)
	}
	fs.askPending(in, lo, min(hi, run.End()))
	return nil
}

// reserve makes a run pending, of which the first blocks were asked for.
func (fs *FS) reserve(in *inode, run extent.Run, asked uint64) error {
	fs.addPending(in, run, asked)
	fs.pin(in)
	err := fs.promiseNodes(in)
	if err == nil && fs.outside != nil && fs.w.reserved.Load() > fs.w.maxReserved {
		err = fmt.Errorf("inode %d: too much is waiting to be written, in too many pieces: %w", in.ino, syscall.ENOSPC)
	}
	if err != nil {
		fs.dropPending(in, run.Block, run.End())
	}
	return err
}

// extentMax is the most blocks that are mapped by one write.
const extentMax = disk.ExtentMaxLen - 1

// IOEnd says that data was written to the range [off, off+n) of a file, in the
// blocks that Begin returned. They become part of the file, whose size grows to
// the end of the range.
func (fs *FS) IOEnd(ino Ino, off, n uint64) error {
	_, err := fs.ioEnd(ino, off, n, func(blk uint64) error {
		return fmt.Errorf("inode %d: no blocks were reserved for the data at block %d: %w", ino, blk, syscall.EIO)
	})
	return err
}

// ioEnd is IOEnd, and tells how long the file is then. What it finds to be a hole
// is left one, unless missing returns an error for it.
//
// What is one run, in the map or pending, becomes written, and the size what it
// should be, in one transaction.
func (fs *FS) ioEnd(ino Ino, off, n uint64, missing func(blk uint64) error) (size uint64, err error) {
	in, err := fs.wlock(ino)
	if err != nil {
		return 0, err
	}
	defer in.wunlock()
	end := off + n
	switch {
	case !in.IsReg():
		return 0, syscall.EINVAL
	case end > fs.maxSize(in): // where nothing was mapped
		return in.size, syscall.EFBIG
	case in.inline():
		return in.size, nil // whose data is where its size is
	}
	was := in.size
	for blk, hi := off>>fs.geo.BlockBits, fs.roundUp(end)>>fs.geo.BlockBits; blk < hi; {
		run, err := fs.backing(in, blk)
		if err != nil {
			return in.size, err
		}
		run.Clip(blk, min(run.End(), hi))
		if run.State == extent.Hole {
			err = missing(blk)
		} else {
			err = fs.commitWritten(in, run, end)
		}
		if err != nil {
			return in.size, err
		}
		blk = run.End()
	}
	if n > 0 && end > in.size {
		err = fs.transact(1, 0, func(tx *journal.Handle) error {
			in.size = end
			return fs.store(tx, in)
		})
	}
	if err == nil && off >= fs.roundUp(was) {
		fs.endMoved(in, was)
	}
	return in.size, err
}

// commitWritten makes a run, pending or unwritten, a written part of the file
// that ends at or behind end.
func (fs *FS) commitWritten(in *inode, run extent.Run, end uint64) error {
	m := fs.blockMap(in)
	alloc := nodeAllocator{fs, in}
	if run.State == extent.Written {
		return nil
	}
	mapped, err := m.Lookup(run.Block)
	if err != nil {
		return err
	}
	done := func(tx *journal.Handle, blk uint64) error {
		in.size = max(in.size, min(end, blk<<fs.geo.BlockBits))
		in.seq++
		return fs.store(tx, in)
	}
	if mapped.State != extent.Unwritten {
		credits, revokes := fs.creditsClaim(in, run)
		return fs.transact(credits, revokes, func(tx *journal.Handle) error {
			if err := fs.claim(tx, in, run, extent.Written); err != nil {
				return err
			}
			return done(tx, run.End())
		})
	}
	nodes := in.promise.nodes
	for lo := run.Block; lo < run.End(); {
		credits, revokes := fs.creditsEdit(m.ConvertCredits())
		err := fs.transact(credits+1, revokes, func(tx *journal.Handle) (err error) {
			if lo, err = m.ConvertStep(tx, alloc, lo, run.End(), extent.Written); err != nil {
				return err
			}
			fs.w.converted.Add(1)
			return done(tx, lo)
		})
		if err != nil {
			return err
		}
	}
	if in.promise.nodes < nodes {
		fs.promiseAgain(in)
	}
	return nil
}

// claim makes a pending run part of the file's map. If it does not fit into that
// all is as before.
func (fs *FS) claim(tx *journal.Handle, in *inode, run extent.Run, state extent.State) error {
	start, n, err := fs.ownClusters(in, run, nil)
	if err != nil {
		return err
	}
	m := fs.blockMap(in)
	run.State = state
	if err := m.Insert(tx, nodeAllocator{fs, in}, run); err != nil {
		return err
	}
	fs.forgetPending(in, run.Block, run.End())
	if n == 0 {
		return nil
	}
	// This fails only where it cannot go on: for a bitmap that is damaged.
	if err := fs.w.groups.Claim(tx, balloc.Run{Start: start, Len: uint32(n)}); err != nil {
		return err
	}
	return fs.addBlocks(in, int64(n))
}

// creditsClaim is what making a reserved run part of a file takes, the inode
// included.
func (fs *FS) creditsClaim(in *inode, run extent.Run) (credits, revokes int) {
	m := fs.blockMap(in)
	credits, revokes = fs.creditsEdit(m.InsertCredits(1, run.Block, run.End()))
	return credits + balloc.CreditsClaim + 1, revokes
}

// End says that the write for which Begin gave a mapping is over. What it
// reserved and no IOEnd has taken is given back; not where data is moved outside,
// for others may have mappings of the same blocks.
func (fs *FS) End(ino Ino, off, n uint64) error {
	if fs.outside != nil {
		return nil
	}
	in, err := fs.wlock(ino)
	if err != nil {
		return err
	}
	defer in.wunlock()
	fs.dropPending(in, off>>fs.geo.BlockBits, (off+n+uint64(fs.geo.BlockSize)-1)>>fs.geo.BlockBits)
	return nil
}

// WriteAt writes to a regular file through the mover, which grows as far as
// needed. Data is on the device, if not yet durable, when it returns.
//
// EPERM: the file is immutable, what it has can only be added to, or its content
// is sealed by fs-verity.
func (fs *FS) WriteAt(ino Ino, p []byte, off int64) (int, error) {
	if err := fs.checkWrite(ino, off); err != nil {
		return 0, err
	}
	n, err := fs.WriteBack(ino, p, off)
	if n == 0 {
		return n, err
	}
	return n, errors.Join(err, fs.Touch(ino))
}

// Touch sets mtime and ctime of an inode to the present.
func (fs *FS) Touch(ino Ino) error {
	in, err := fs.wlock(ino)
	if err != nil {
		return err
	}
	defer in.wunlock()
	return fs.transact(1, 0, func(tx *journal.Handle) error {
		fs.touch(in, true)
		return fs.store(tx, in)
	})
}

// WriteBack is WriteAt for a caller that keeps the times of files itself, as the
// kernel does, and sets them with SetAttr. It does not look at what the flags of
// the file protect either: a kernel writes back what it accepted when the file was
// open, and by now it can have become immutable.
func (fs *FS) WriteBack(ino Ino, p []byte, off int64) (int, error) {
	return fs.writeBack(&fs.mover, ino, p, off)
}

// WriteBehind is WriteBack for data that nobody waits for: it may not have reached the device when it returns.
// What makes it part of the file is committed only after it has, as each commit begins with a flush, and
// a host that could not write it fails that, and with it the filesystem. Reading finds it.
func (fs *FS) WriteBehind(ino Ino, p []byte, off int64) (int, error) {
	return fs.writeBack(&fs.lazy, ino, p, off)
}

// WriteBackLimited is WriteBack by somebody for whom limits of quota hold.
// EDQUOT: not even the first block fits.
func (fs *FS) WriteBackLimited(ino Ino, p []byte, off int64) (int, error) {
	return fs.writeBack(&fs.limit, ino, p, off)
}

func (fs *FS) writeBack(mover *iomap.Mover, ino Ino, p []byte, off int64) (int, error) {
	if fs.w == nil {
		return 0, syscall.EROFS
	}
	if err := fs.w.log.Usable(); err != nil {
		return 0, err
	}
	if off < 0 {
		return 0, syscall.EINVAL
	}
	in, err := fs.iget(ino)
	if err != nil {
		return 0, err
	}
	defer in.put()
	switch { // before the end of what is no file is taken for that of one
	case in.IsDir():
		return 0, syscall.EISDIR
	case !in.IsReg():
		return 0, syscall.EINVAL
	case in.encrypted():
		return 0, fmt.Errorf("inode %d is encrypted: %w", ino, syscall.ENOKEY)
	}
	bs := uint64(fs.geo.BlockSize)
	pos, end := uint64(off), uint64(off)+uint64(len(p))
	aligned := pos%bs == 0 && end%bs == 0
	in.io.RLock()
	in.mu.RLock()
	size, shared := in.size, aligned && !in.inline()
	in.mu.RUnlock()
	if !shared || pos > size && size%bs != 0 {
		// A block that is filled from two sides, or an end of the file that is
		// about to be inside of it: one at a time.
		in.io.RUnlock()
		in.io.Lock()
		defer in.io.Unlock()
		if err := in.current(); err != nil {
			return 0, err
		}
		if err := fs.zeroTail(in, pos); err != nil {
			return 0, err
		}
	} else {
		defer in.io.RUnlock()
		if err := in.current(); err != nil {
			return 0, err
		}
	}
	n, err := mover.WriteAt(ino, p, off)
	fs.w.written.Add(uint64(n))
	if err != nil {
		err = errors.Join(err, fs.End(ino, pos+uint64(n), end-pos-uint64(n)))
	}
	return n, err
}

// zeroTail clears what is behind the end of the file in its last block, before
// a write at pos moves the end away from there.
func (fs *FS) zeroTail(in *inode, pos uint64) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	bs := uint64(fs.geo.BlockSize)
	if in.inline() || pos <= in.size {
		return nil
	}
	return fs.zeroRange(in, in.size, min(pos, (in.size+bs-1)&^(bs-1)))
}
