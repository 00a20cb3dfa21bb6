package ext4

import (
	"maps"
	"slices"

	"ext4box/ext4/internal/disk"
	"ext4box/ext4/internal/extent"
)

// Orphans are inodes that were unlinked while open, or being truncated, when
// the filesystem was last in use. The kernel deletes or truncates them when it
// mounts, also read-only. Nothing is written here; instead the inodes that still
// have a name are shown as if they had been truncated, and the space of the
// others counts as free.

// maxOrphans bounds the memory for orphans: by default, some more than what the
// largest orphan file holds with blocks of 4 KiB.
func (fs *FS) maxOrphans() int { return atLeast(1024, fs.opts.shares().orphans, orphanBytes) }

// orphanCost is the work of reading an inode, in units of following a run of
// blocks.
const orphanCost = 32

// findOrphans collects the inode numbers from the orphan list and the orphan
// file. What cannot be read of them is logged and left out: it does not keep the
// rest of the filesystem from being read.
func (fs *FS) findOrphans() {
	if fs.sb.State&disk.StateErrors != 0 {
		// As the kernel does: a filesystem with errors is left as it is.
		return
	}
	orphans := make(map[Ino]struct{})
	for next := fs.sb.LastOrphan; next != 0; {
		ino := Ino(next)
		if _, seen := orphans[ino]; seen || fs.ownInode(ino) {
			fs.log.Warn("orphan list is damaged", "inode", ino)
			break
		}
		in, err := fs.loadInode(ino)
		if err != nil {
			fs.log.Warn("orphan list is damaged", "inode", ino, "error", err)
			break
		}
		orphans[ino] = struct{}{}
		if len(orphans) == fs.maxOrphans() {
			fs.log.Warn("orphan list is too long", "inodes", len(orphans))
			break
		}
		next = in.Dtime
	}
	if fs.sb.Compat&disk.CompatOrphanFile != 0 && fs.sb.ROCompat&disk.ROCompatOrphanPresent != 0 {
		if err := fs.readOrphanFile(orphans); err != nil {
			fs.log.Warn("orphan file is damaged", "error", err)
		}
	}
	if len(orphans) > 0 {
		fs.orphans = orphans
	}
	fs.recovery.Orphans = len(orphans)
}

// readOrphanFile adds the inodes in the orphan file.
func (fs *FS) readOrphanFile(orphans map[Ino]struct{}) error {
	_, err := fs.eachOrphanBlock(func(_ uint64, b []byte) error {
		for i := range disk.OrphanSlots(len(b)) {
			ino := Ino(disk.OrphanSlot(b, i))
			if ino == 0 || fs.ownInode(ino) || uint32(ino) > fs.geo.InodesCount {
				continue
			}
			if orphans[ino] = struct{}{}; len(orphans) >= fs.maxOrphans() {
				return disk.Corruptf("orphan file", "holds more than %d inodes", fs.maxOrphans())
			}
		}
		return nil
	})
	return err
}

// eachOrphanBlock calls fn for the checked blocks of the orphan file, a file of
// at most disk.OrphanFileMaxBlocks blocks full of inode numbers, and returns the
// seed of their checksums.
func (fs *FS) eachOrphanBlock(fn func(phys uint64, b []byte) error) (seed uint32, err error) {
	if fs.sb.OrphanFileIno < fs.geo.FirstIno { // whose blocks may be anybody's, see zonesFor
		return 0, disk.Corruptf("orphan file", "its inode cannot be %d", fs.sb.OrphanFileIno)
	}
	in, err := fs.systemInode("orphan file", fs.sb.OrphanFileIno)
	if err != nil {
		return 0, err
	}
	what := "orphan file " + disk.InodeName(uint32(in.ino))
	blocks := in.size >> fs.geo.BlockBits
	if !in.IsReg() || in.inline() || blocks > disk.OrphanFileMaxBlocks {
		return 0, disk.Corruptf(what, "cannot have %d blocks", blocks)
	}
	m := fs.blockMap(in)
	if n, err := m.CheckDistinct(what, blocks); err != nil {
		return 0, err
	} else if n < blocks {
		return 0, disk.Corruptf(what, "has a hole")
	}
	b := make([]byte, fs.geo.BlockSize)
	for blk := range blocks {
		run, err := fs.run(in, blk)
		if err != nil {
			return 0, err
		}
		if run.State != extent.Written {
			return 0, disk.Corruptf(what, "has a hole")
		}
		phys := run.Start + blk - run.Block
		if err := fs.readBlock(b, phys); err != nil {
			return 0, err
		}
		if err := disk.CheckOrphanBlock(&fs.sums, in.seed, phys, b); err != nil {
			return 0, err
		}
		if err := fn(phys, b); err != nil {
			return 0, err
		}
	}
	return in.seed, nil
}

func (fs *FS) isOrphan(ino Ino) bool {
	if fs.orphans == nil {
		return false
	}
	_, ok := fs.orphans[ino]
	return ok
}

// sectorsBeyondEOF is the space, in units of 512 bytes, of data blocks that an
// interrupted truncate left behind the end of a file.
func (fs *FS) sectorsBeyondEOF(in *inode) (uint64, error) {
	budget := maxRuns
	return fs.sectorsBeyond(in, &budget)
}

// sectorsBeyond is sectorsBeyondEOF, which takes the runs of blocks that it
// follows from the budget.
func (fs *FS) sectorsBeyond(in *inode, budget *int) (uint64, error) {
	if in.inline() {
		return 0, nil
	}
	m := fs.blockMap(in)
	blocks := uint64(0)
	eof := (in.size + uint64(fs.geo.BlockSize) - 1) >> fs.geo.BlockBits
	for blk := eof; blk < extent.MaxBlocks; {
		if *budget--; *budget < 0 {
			return 0, disk.Corruptf(disk.InodeName(uint32(in.ino)), "has too many pieces behind its end")
		}
		run, err := m.Lookup(blk)
		if err != nil {
			return 0, err
		}
		if run.State != extent.Hole {
			if blocks += run.End() - blk; blocks > fs.geo.BlocksCount {
				return 0, disk.Corruptf(disk.InodeName(uint32(in.ino)), "maps more blocks than the filesystem has")
			}
		}
		blk = run.End()
	}
	return blocks << (fs.geo.BlockBits - 9), nil
}

// orphanSpace is what deleting the orphans without a name sets free, as far as
// it takes no longer than a statfs should.
func (fs *FS) orphanSpace() (clusters, inodes uint64) {
	budget := maxRuns
	// In the order of the inode tables, which are read in pieces.
	for _, ino := range slices.Sorted(maps.Keys(fs.orphans)) {
		if budget -= orphanCost; budget < 0 {
			fs.log.Warn("too many orphans for the free space to be exact")
			break
		}
		in, err := fs.loadInode(ino)
		if err != nil {
			continue
		}
		sectors := uint64(0)
		if in.Links == 0 {
			inodes++
			sectors = in.Sectors(fs.sb.ROCompat&disk.ROCompatHugeFile != 0, fs.geo.BlockBits)
		} else if in.IsReg() {
			sectors, _ = fs.sectorsBeyond(in, &budget)
		}
		clusters = min(clusters+sectors>>(fs.geo.BlockBits-9+fs.geo.ClusterBits), fs.geo.BlocksCount)
	}
	return clusters, inodes
}
