package ext4

import (
	"fmt"
	"syscall"

	"ext4box/ext4/internal/disk"
	"ext4box/ext4/internal/extent"
)

// SetSwap says that a regular file is swap space from now on, or, with on false, that
// it is not any longer. The kernel writes to the blocks of a swap file without asking,
// so they stay where they are: ETXTBSY for who wants to truncate or preallocate, and
// without a name the inode is deleted only afterwards. It may be called again.
//
// EINVAL: the file cannot be swap space, because it has holes or is not all on the
// device as it is.
func (fs *FS) SetSwap(ino Ino, on bool) error {
	in, err := fs.wlock(ino)
	if err != nil {
		return err
	}
	switch {
	case in.swap == on:
		in.wunlock()
		return nil
	case on:
		err = fs.checkSwap(in)
		if err == nil {
			in.swap = true
			in.refs.Add(1) // nobody else knows it
		}
		in.wunlock()
		return err
	}
	in.swap = false
	gone := in.Links == 0
	in.wunlock()
	in.put()
	if gone && !fs.w.holds.held(ino) {
		return fs.reapOnceThawed(ino)
	}
	return nil
}

// checkSwap verifies that a file, which is locked, can be swap space.
func (fs *FS) checkSwap(in *inode) error {
	refuse := func(why string) error {
		return fmt.Errorf("inode %d cannot be a swap file: %s: %w", in.ino, why, syscall.EINVAL)
	}
	switch {
	case !in.IsReg():
		return refuse("it is no regular file")
	case in.inline() || in.mayInline:
		return refuse("its content is inline")
	case in.encrypted(), in.verity():
		return refuse("its content is not stored as it is")
	case in.Flags&disk.FlagJournalData != 0:
		return refuse("its data is journaled")
	}
	end := fs.roundUp(in.size) >> fs.geo.BlockBits
	if end == 0 {
		return refuse("it is empty")
	}
	runs := 0
	for blk := uint64(0); blk < end; {
		if runs++; runs > maxRuns {
			return refuse("it is in too many pieces")
		}
		run, err := fs.run(in, blk)
		if err != nil {
			return err
		}
		if run.State == extent.Hole {
			return refuse(fmt.Sprintf("there is a hole at block %d", blk))
		}
		blk = run.End()
	}
	return nil
}
