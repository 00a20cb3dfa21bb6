package ext4

import (
	"fmt"

	"ext4box/ext4/internal/disk"
	"ext4box/ext4/internal/mmp"
)

// startGuard makes sure that a filesystem with multiple mount protection that is
// about to be opened for writing is open nowhere else, and keeps it so. Opening
// for reading is not protected, as in the kernel.
func (fs *FS) startGuard() error {
	if fs.sb.Incompat&disk.IncompatMMP == 0 || fs.readOnlyBecause() != "" {
		return nil
	}
	blk := fs.sb.MMPBlock
	if blk <= uint64(fs.geo.FirstDataBlock) || !fs.mayHave(blk, 1) {
		return disk.Corruptf("superblock", "the multiple mount protection block cannot be %d", blk)
	}
	sums := fs.sums
	var err error
	fs.guard, err = mmp.Start(mmp.Config{
		Device: fs.base, Block: blk, BlockSize: int(fs.geo.BlockSize), Sums: &sums,
		Update: fs.sb.MMPInterval, Logger: fs.log,
	})
	if err != nil {
		return fmt.Errorf("multiple mount protection: %w", err)
	}
	// Somebody may have written until a moment ago.
	if err := fs.load(); err != nil {
		return err
	}
	if fs.sb.MMPBlock != blk {
		return disk.Corruptf("superblock", "the multiple mount protection block has become %d", fs.sb.MMPBlock)
	}
	return nil
}

// watchGuard ends writing when the protection is lost. Nothing is recorded then:
// that would be writing, too.
func (fs *FS) watchGuard() {
	g := fs.guard
	if g == nil {
		return
	}
	log := fs.w.log
	go func() {
		select {
		case <-g.Lost():
		case <-g.Ended():
		}
		if err := g.Err(); err != nil {
			log.Abort(err)
			fs.recall()
		}
	}()
}
