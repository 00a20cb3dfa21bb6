package ext4

import (
	"errors"
	"syscall"

	"ext4box/ext4/internal/disk"
	"ext4box/ext4/internal/extent"
	"ext4box/ext4/internal/fastcommit"
	"ext4box/ext4/internal/journal"
)

// Fast commits are records of operations behind the last full transaction. They
// are laid over the filesystem: an inode is patched when it is loaded, its
// mappings and the names of a directory when they are looked up.

// replayFastCommits loads them from the journal. The view with the log replayed
// must be in place, and fs.fc still empty.
func (fs *FS) replayFastCommits(j *journal.Journal, r *journal.Replay) error {
	st, err := fs.loadFastCommits(j, r)
	if err != nil || st == nil {
		return err
	}
	fs.fc = st
	fs.recovery.Fast = true
	fs.nodes = fs.newNodes() // without what is now outdated
	return nil
}

// loadFastCommits reads the fast commits that count, nil if there are none.
func (fs *FS) loadFastCommits(j *journal.Journal, r *journal.Replay) (*fastcommit.State, error) {
	area := j.FastCommitArea()
	if area == nil || !r.Dirty {
		return nil, nil
	}
	st, err := fastcommit.Load(area, fastcommit.Options{
		BlockSize: int(fs.geo.BlockSize),
		InodeSize: int(fs.geo.InodeSize),
		Blocks:    fs.geo.BlocksCount,
		TID:       r.EndTID,
	}, &fastBase{fs: fs})
	if err != nil || st.Empty() {
		return nil, err
	}
	return st, nil
}

// fastBase answers what fast commits ask of the filesystem under them.
type fastBase struct {
	fs   *FS
	read uint64 // bytes of directories without a usable index
}

// maxRead is the number of bytes of directories without an index that one
// operation goes through for all its names. It takes about a second. Thousands
// of names in directories of 50 KiB stay below.
const maxRead = 256 << 20

func (b *fastBase) Links(ino uint32) uint16 {
	in, err := b.fs.loadInode(Ino(ino))
	if err != nil {
		return 0
	}
	return in.Links
}

func (b *fastBase) Lookup(dir uint32, name []byte) (uint32, error) {
	ino, err := b.lookup(Ino(dir), string(name))
	if errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ENOTDIR) || errors.Is(err, syscall.ESTALE) {
		return 0, nil
	}
	return ino, err
}

func (b *fastBase) lookup(ino Ino, name string) (uint32, error) {
	in, err := b.fs.rlockDir(ino)
	if err != nil {
		return 0, err
	}
	defer in.runlock()
	entries, err := b.fs.entries(in)
	if err != nil {
		return 0, err
	}
	found, err := entries.Lookup(name)
	if b.read += b.fs.scanned(entries); b.read > maxRead {
		return 0, disk.Corruptf("fast commits", "change too many names in directories without an index, at last in inode %d", ino)
	}
	return found, err
}

func (b *fastBase) Key(dir uint32, name []byte) []byte {
	in, err := b.fs.iget(Ino(dir))
	if err != nil {
		return name
	}
	defer in.put()
	return b.fs.nameKey(in, name)
}

// nameKey is what names in a directory have in common if they are the same name
// there.
func (fs *FS) nameKey(dir *inode, name []byte) []byte {
	if dir.Flags&disk.FlagCasefold != 0 && fs.dirFormat.Fold != nil {
		if key, err := fs.dirFormat.Fold(nil, name); err == nil {
			return key
		}
	}
	return name
}

// fastInode is what fast commits know of an inode, or nil.
func (fs *FS) fastInode(ino Ino) *fastcommit.Inode {
	if fs.fc == nil {
		return nil
	}
	return fs.fc.Inode(uint32(ino))
}

// fastDir is what fast commits changed in a directory, or nil.
func (fs *FS) fastDir(ino Ino) *fastcommit.Dir {
	if fs.fc == nil {
		return nil
	}
	return fs.fc.Dir(uint32(ino))
}

// applyFastCommit corrects a run found on disk for block blk of an inode.
func (fs *FS) applyFastCommit(ino Ino, blk uint64, run *extent.Run) {
	fi := fs.fastInode(ino)
	if fi == nil || blk >= extent.MaxBlocks-1 {
		return
	}
	r, found, next := fi.Find(uint32(blk))
	if !found {
		run.Clip(run.Block, max(uint64(next), blk+1))
		// What lies before blk may be decided too; a run need not begin earlier.
		run.Clip(blk, run.End())
		return
	}
	*run = extent.Run{Block: blk, Len: uint64(r.Len)}
	switch r.State {
	case fastcommit.Written:
		run.Start, run.State = r.Block, extent.Written
	case fastcommit.Unwritten:
		run.Start, run.State = r.Block, extent.Unwritten
	}
}

// countSectors is the space, in units of 512 bytes, of a file whose block count
// fast commits leave to be found out: its blocks, and those of its extent tree.
func (fs *FS) countSectors(in *inode) (uint64, error) {
	budget := maxRuns
	return fs.countSectorsWithin(in, &budget)
}

// countSectorsWithin is countSectors, which takes the runs of blocks that it
// follows from the budget.
func (fs *FS) countSectorsWithin(in *inode, budget *int) (uint64, error) {
	if in.inline() {
		return 0, nil
	}
	blocks, extents := uint64(0), uint64(0)
	var last extent.Run
	for blk := uint64(0); blk < extent.MaxBlocks; {
		if *budget--; *budget < 0 {
			return 0, disk.Corruptf(disk.InodeName(uint32(in.ino)), "has too many pieces")
		}
		run, err := fs.run(in, blk)
		if err != nil {
			return 0, err
		}
		if run.State != extent.Hole {
			if blocks += run.End() - blk; blocks > fs.geo.BlocksCount {
				return 0, disk.Corruptf(disk.InodeName(uint32(in.ino)), "maps more blocks than the filesystem has")
			}
			if run.State != last.State || run.Block != last.End() || run.Start != last.Start+last.Len {
				extents++
			}
			last = run
		}
		blk = run.End()
	}
	if in.Flags&disk.FlagExtents != 0 && extents > (disk.InodeBlockSize-disk.ExtentHeaderSize)/disk.ExtentEntrySize {
		perNode := uint64(fs.geo.BlockSize-disk.ExtentHeaderSize) / disk.ExtentEntrySize
		for nodes := extents; nodes > 4; {
			nodes = (nodes + perNode - 1) / perNode
			blocks += nodes
		}
	}
	return blocks << (fs.geo.BlockBits - 9), nil
}

// storedSectors is the space of a directory that fast commits gave a new image:
// what it was, for they add no blocks to directories, and nothing for a new one.
func (fs *FS) storedSectors(ino Ino, fi *fastcommit.Inode) (uint64, error) {
	if fd := fs.fastDir(ino); fi.Reset || fd != nil && fd.Made {
		return 0, nil
	}
	raw, err := fs.storedInode(ino, nil)
	if err != nil {
		return 0, err
	}
	in := disk.DecodeInode(raw, fs.sb.CreatorOS == disk.CreatorHurd)
	return in.Sectors(fs.sb.ROCompat&disk.ROCompatHugeFile != 0, fs.geo.BlockBits), nil
}

// fastSpace is what fast commits take beyond what the group descriptors count:
// the space and the inodes that came with them. What they freed is not counted.
func (fs *FS) fastSpace() (clusters, inodes uint64, err error) {
	if fs.fc == nil {
		return 0, 0, nil
	}
	hurd := fs.sb.CreatorOS == disk.CreatorHurd
	huge := fs.sb.ROCompat&disk.ROCompatHugeFile != 0
	budget := maxRuns
	for n, fi := range fs.fc.Inodes() {
		raw, err := fs.storedInode(Ino(n), nil)
		if err != nil || fi.Freed {
			continue // there is no such inode, or none any longer
		}
		before := disk.DecodeInode(raw, hurd)
		if before.Links == 0 {
			inodes++
			before.Blocks = 0
		}
		in, err := fs.iget(Ino(n))
		if err != nil {
			continue
		}
		in.put() // with fast commits nothing changes
		if fd := fs.fastDir(in.ino); fd != nil && fd.Made && !in.inline() {
			clusters++ // the kernel gives it a block when it replays
		}
		if !in.IsReg() || fi.Image == nil {
			continue
		}
		sectors, err := fs.countSectorsWithin(in, &budget)
		if err != nil {
			return 0, 0, err
		}
		if had := before.Sectors(huge, fs.geo.BlockBits); sectors > had {
			clusters += (sectors - had) >> (fs.geo.BlockBits - 9 + fs.geo.ClusterBits)
		}
	}
	return clusters, inodes, nil
}

// fastType is the type, as directory entries have it, of an inode that a fast
// commit gave a name.
func (fs *FS) fastType(ino Ino) uint8 {
	in, err := fs.iget(ino)
	if err != nil {
		return DTUnknown
	}
	defer in.put()
	return uint8(in.Mode >> 12)
}
