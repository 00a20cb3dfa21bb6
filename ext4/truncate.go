package ext4

import (
	"errors"
	"syscall"
	"time"

	"ext4box/ext4/internal/balloc"
	"ext4box/ext4/internal/disk"
	"ext4box/ext4/internal/extent"
	"ext4box/ext4/internal/journal"
	"ext4box/iomap"
)

// Truncate sets the size of a regular file. What is cut off is freed, what is
// added reads as zeros. Where data is moved outside, the mover has cleared the rest of
// the block in which the file now ends or ended, and tells the times by SetAttr.
// ETXTBSY: it is a swap file.
func (fs *FS) Truncate(ino Ino, size uint64) error {
	return fs.retryingOutside(func() error { return fs.truncateOnce(ino, size) })
}

func (fs *FS) truncateOnce(ino Ino, size uint64) error {
	in, err := fs.iget(ino)
	if err != nil {
		return err
	}
	defer in.put()
	// Nobody may move data to blocks that are about to go away.
	in.io.Lock()
	defer in.io.Unlock()
	if err := in.current(); err != nil {
		return err
	}
	if in, err = fs.wlock(ino); err != nil {
		return err
	}
	defer in.wunlock()
	switch {
	case in.IsDir():
		return syscall.EISDIR
	case !in.IsReg():
		return syscall.EINVAL
	case in.Flags&(disk.FlagImmutable|disk.FlagAppend|disk.FlagVerity) != 0:
		return syscall.EPERM
	case in.encrypted():
		return syscall.ENOKEY
	case in.swap:
		return syscall.ETXTBSY
	case size > fs.maxSize(in):
		return syscall.EFBIG
	}
	if fs.outside == nil {
		return fs.truncate(in, size, true)
	}
	was := in.size
	err = fs.truncate(in, size, false)
	fs.takeBack(in, size, iomap.ToEOF, err)
	fs.endMoved(in, was)
	return err
}

// takeBack takes mappings back after a change of the range [off, off+n) that failed,
// and may have been done in part. After one that did not the kernel does so itself;
// until it has been answered nobody moves data there.
func (fs *FS) takeBack(in *inode, off, n uint64, failed error) {
	if failed == nil || fs.outside == nil {
		return
	}
	lo := off &^ (uint64(fs.geo.BlockSize) - 1)
	if n != iomap.ToEOF {
		n = fs.roundUp(off+n) - lo
	}
	if err := fs.outside.Drop(in.ino, lo, n); err != nil {
		fs.log.Error("take mappings back", "inode", in.ino, "error", err)
	}
}

// endMoved takes back the mapping of the block in which a file ended before it grew.
// Who has it takes it that data there needs no commit to be found; now the size does.
func (fs *FS) endMoved(in *inode, was uint64) {
	bs := uint64(fs.geo.BlockSize)
	if fs.outside == nil || in.size <= was || was%bs == 0 || in.inline() {
		return
	}
	if err := fs.outside.Drop(in.ino, was&^(bs-1), bs); err != nil {
		fs.log.Error("take a mapping back", "inode", in.ino, "error", err)
	}
}

// maxSize is the largest size that a file can have, which the block numbers
// limit and the field that counts its sectors.
func (fs *FS) maxSize(in *inode) uint64 {
	blocks := uint64(extent.MaxBlocks - 1)
	count := uint64(1<<48 - 1) // blocks that the inode can account for
	if !fs.hugeFile() {
		count = (1<<32 - 1) >> (fs.geo.BlockBits - 9)
	}
	if in.Flags&disk.FlagExtents != 0 || in.inline() && fs.sb.Incompat&disk.IncompatExtents != 0 {
		return min(blocks, count) << fs.geo.BlockBits
	}
	return min(blocks, extent.MaxPointed(fs.geo.BlockSize, count)) << fs.geo.BlockBits
}

// MaxFileSize is the size, in bytes, beyond which no file of the filesystem grows.
func (fs *FS) MaxFileSize() uint64 {
	in := inode{}
	if fs.sb.Incompat&disk.IncompatExtents != 0 {
		in.Flags = disk.FlagExtents
	}
	return fs.maxSize(&in)
}

// truncate is Truncate of an inode whose locks, io and mu, are both held. With
// times it sets mtime and ctime.
func (fs *FS) truncate(in *inode, size uint64, times bool) error {
	if in.inline() {
		if ok, err := fs.truncateInline(in, size, times); ok || err != nil {
			return err
		}
	}
	bs := uint64(fs.geo.BlockSize)
	if size >= in.size {
		if err := fs.zeroRange(in, in.size, min(size, (in.size+bs-1)&^(bs-1))); err != nil {
			return err
		}
		if size == in.size && fs.nothingBeyond(in) {
			return nil
		}
	}
	if err := fs.settleEdges(in, fs.roundUp(size)>>fs.geo.BlockBits, extent.MaxBlocks); err != nil {
		return err
	}
	if err := fs.zeroRange(in, size, (size+bs-1)&^(bs-1)); size < in.size && err != nil {
		return err
	}
	grow := size > in.size
	err := fs.transact(1+creditsOrphan, 0, func(tx *journal.Handle) error {
		if !grow {
			// Until the blocks are gone the inode is on the orphan list, so that
			// a crash does not leave them.
			if err := fs.addOrphan(tx, in); err != nil {
				return err
			}
		}
		in.size = size
		if times {
			fs.touch(in, true)
		}
		return fs.store(tx, in)
	})
	if err == nil && grow && fs.outside != nil {
		fs.dropPending(in, fs.roundUp(size)>>fs.geo.BlockBits, extent.MaxBlocks)
	}
	if err != nil || grow {
		return err
	}
	if err := fs.freeFrom(in, (size+bs-1)>>fs.geo.BlockBits); err != nil {
		return err
	}
	return fs.transact(1+creditsOrphan, 0, func(tx *journal.Handle) error {
		if in.Links == 0 {
			return nil // it stays an orphan until it is deleted
		}
		return fs.removeOrphan(tx, in, 0)
	})
}

// nothingBeyond tells whether a file has no blocks behind its end.
func (fs *FS) nothingBeyond(in *inode) bool {
	run, err := fs.run(in, extent.MaxBlocks-1)
	eof := (in.size + uint64(fs.geo.BlockSize) - 1) >> fs.geo.BlockBits
	if err != nil || run.State != extent.Hole || run.Block > eof {
		return false
	}
	if fs.outside != nil {
		return firstPending(in.pending, eof, extent.MaxBlocks).State == extent.Hole
	}
	return len(in.pending) == 0
}

// freeFrom frees all blocks of an inode from blk on, in as many transactions as
// it takes. io and mu are held, so what is pending there is nobody's any longer.
func (fs *FS) freeFrom(in *inode, blk uint64) error {
	from := blk
	if fs.outside == nil {
		from = fs.clusterStart(blk)
	}
	fs.dropPending(in, from, extent.MaxBlocks)
	in.prealloc.Discard(fs.w.groups)
	return fs.freeRange(in, blk, extent.MaxBlocks)
}

// maxStuck is how many pieces of a file that cannot be freed are taken out of it by one
// request.
const maxStuck = 1 << 16

// freeRange frees the blocks [lo, hi) of an inode, from the end on.
func (fs *FS) freeRange(in *inode, lo, hi uint64) error {
	m := fs.blockMap(in)
	in.seq++
	for stuck := 0; hi > lo; {
		run, err := m.Lookup(hi - 1)
		if err != nil {
			return err
		}
		if run.State == extent.Hole {
			hi = max(run.Block, lo)
			continue
		}
		if err := fs.checkClusters(in, run); err != nil {
			return err
		}
		// What a damaged group has is not freed, so it says nothing against a map in which
		// a few blocks are there again and again, of which there can be 2^30.
		if fs.w.groups.SetAside(run.Start) {
			if stuck++; stuck > maxStuck {
				return disk.Corruptf(disk.InodeName(uint32(in.ino)), "more than %d pieces of it are in block groups that are set aside; run e2fsck", maxStuck)
			}
		}
		// A step that is small enough for the smallest journal.
		step := 2 * uint64(fs.geo.BlocksPerGroup)
		if in.journaled() {
			step = 64 // each is revoked
		}
		from := max(run.Block, lo, hi-min(step, hi))
		blocks, revokes := fs.creditsRemove(in, hi-from)
		err = fs.transact(blocks, revokes, func(tx *journal.Handle) error {
			hi, err = fs.unmap(tx, in, from, hi, run)
			return errors.Join(err, fs.store(tx, in))
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// unmap frees the end of the blocks [lo, hi) of an inode, which are a part of
// run, and tells where it began.
func (fs *FS) unmap(tx *journal.Handle, in *inode, lo, hi uint64, run extent.Run) (rest uint64, err error) {
	m := fs.blockMap(in)
	return m.RemoveStep(tx, nodeAllocator{fs, in}, lo, hi, 1, func(start, n uint64) error {
		return fs.freeData(tx, in, extent.Run{Block: run.Block + start - run.Start, Len: n, Start: start, State: run.State})
	})
}

// freeData frees blocks that an inode has mapped until now.
func (fs *FS) freeData(tx *journal.Handle, in *inode, run extent.Run) error {
	start, n, err := fs.ownClusters(in, run, nil)
	if err != nil {
		return err
	}
	if n > 0 {
		if err := errors.Join(fs.w.groups.Free(tx, start, n, 0), fs.addBlocks(in, -int64(n))); err != nil {
			return err
		}
	}
	if in.journaled() {
		for i := range run.Len {
			tx.Forget(run.Start + i)
		}
	}
	return nil
}

// creditsRemove is what removing a run of blocks from a map takes, the inode
// included.
func (fs *FS) creditsRemove(in *inode, blocks uint64) (credits, revokes int) {
	m := fs.blockMap(in)
	credits, revokes = fs.creditsEdit(m.RemoveCredits())
	groups := int(blocks/uint64(fs.geo.BlocksPerGroup)) + 2
	if in.journaled() {
		revokes += int(blocks)
	}
	return credits + groups*balloc.CreditsFree + 1, revokes
}

// creditsEdit adds to what an edit of a block map takes what its allocator
// changes.
func (fs *FS) creditsEdit(c extent.Credits) (credits, revokes int) {
	return c.Blocks + c.Allocs*balloc.CreditsClaim + c.Frees*balloc.CreditsFree, c.Frees
}

// reap deletes an inode that has no name and is on the orphan list, unless it
// is held.
func (fs *FS) reap(ino Ino) error {
	in, err := fs.iget(ino)
	if err != nil {
		return err
	}
	defer in.put()
	in.io.Lock()
	defer in.io.Unlock()
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.deleted || in.Links > 0 || in.swap || fs.w.holds.held(ino) {
		return nil
	}
	defer in.detach()
	if err := fs.attach(in); err != nil {
		return err
	}
	if in.hasBlockMap() {
		if err := fs.freeFrom(in, 0); err != nil {
			return err
		}
	}
	if err := fs.dropValues(in); err != nil {
		return err
	}
	return fs.deleteInode(in)
}

// deleteInode frees an orphan that has no blocks but for its attributes.
func (fs *FS) deleteInode(in *inode) error {
	fs.w.reaping.Add(1)
	defer fs.w.reaping.Add(-1)
	dir := in.IsDir()
	blocks, revokes := 1+creditsOrphan+balloc.CreditsFreeInode+creditsDropXattrs, 1
	err := fs.transact(blocks, revokes, func(tx *journal.Handle) error {
		if err := fs.dropXattrBlock(tx, in, valueRefs{}); err != nil {
			return err
		}
		if err := fs.removeOrphan(tx, in, uint32(time.Now().Unix())); err != nil {
			return err
		}
		in.Mode, in.size = 0, 0
		in.Flags &^= disk.FlagExtents | disk.FlagInlineData
		clear(in.Block[:])
		// Nobody finds it any longer by the time its number is free.
		fs.w.numbers.startChange(in.ino)
		err := fs.store(tx, in)
		if err == nil {
			in.deleted = true
			fs.nodes.Remove(uint64(in.ino))
		}
		fs.w.numbers.endChange(in.ino)
		if err != nil {
			return err
		}
		err = fs.discharge(tx, in)
		return errors.Join(err, fs.w.groups.FreeInode(tx, uint32(in.ino), dir))
	})
	if err == nil {
		fs.w.reaped.Add(1)
	}
	return err
}

// hasBlockMap tells whether the block area of an inode maps blocks.
func (in *inode) hasBlockMap() bool {
	switch in.Type() {
	case disk.ModeReg, disk.ModeDir:
		return !in.inline()
	case disk.ModeLink:
		return !in.inline() && !in.fastSymlink()
	}
	return false
}

// zeroRange writes zeros over the part of [from, to) that has written blocks.
// Both offsets are in one block. io is held exclusively, or the part beyond the
// end of the file is nobody's. It leaves alone what is moved outside, where newer
// data may be on its way, and who moves it clears it.
func (fs *FS) zeroRange(in *inode, from, to uint64) error {
	if from >= to || fs.outside != nil {
		return nil
	}
	run, err := fs.run(in, from>>fs.geo.BlockBits)
	if err != nil || run.State != extent.Written {
		return err
	}
	at := run.Start<<fs.geo.BlockBits + from - run.Block<<fs.geo.BlockBits
	_, err = fs.dev.WriteAt(make([]byte, to-from), int64(at))
	return err
}
