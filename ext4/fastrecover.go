package ext4

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"

	"ext4box/ext4/internal/balloc"
	"ext4box/ext4/internal/disk"
	"ext4box/ext4/internal/extent"
	"ext4box/ext4/internal/fastcommit"
	"ext4box/ext4/internal/journal"
)

// Recovery for writing makes fast commits part of the filesystem, in one
// transaction: the one that they belong to. Until it is durable the log holds
// nothing and the fast commits count; from then on they do not. So a crash in
// between is one before or after, and whoever recovers next, has the whole.
//
// What comes out is what the kernel makes of them but for what it gets wrong:
// link counts of directories that were made or removed, whose number of blocks
// it does not count either, and the targets of short symbolic links.

// fastRecovery is the work of recoverFastCommits.
type fastRecovery struct {
	fs      *FS
	st      *fastcommit.State
	tx      *journal.Handle
	orphans map[Ino]struct{} // before
	used    []usedRun        // clusters, by Start, that files have afterwards
	freed   []freedRun       // blocks that were taken out of files
	read    uint64           // bytes of directories without an index
}

// imageBlock is where the block area starts in the image of an inode.
const imageBlock = 0x28

type usedRun struct {
	extent.Run
	ino uint32
}

type freedRun struct {
	start, n uint64
	flags    balloc.FreeFlags
}

// recoverFastCommits brings st, which the journal holds beyond its log, home. The
// log, r, is there already, and the filesystem was loaded since. Afterwards the
// journal is clean, and has to be loaded again. If the filesystem cannot be
// written the error is a notWritableError, and nothing has changed.
func (fs *FS) recoverFastCommits(j *journal.Journal, log journal.LogDevice, r *journal.Replay, st *fastcommit.State) error {
	refuse := func(err error) error {
		if errors.Is(err, syscall.EIO) {
			return fmt.Errorf("recover fast commits: %w", err)
		}
		return &notWritableError{"its fast commits cannot be recovered", err}
	}
	if fs.sb.ROCompat&disk.ROCompatQuota != 0 {
		return refuse(fmt.Errorf("the filesystem has quota: %w", syscall.EOPNOTSUPP))
	}
	fs.findOrphans()
	f := &fastRecovery{fs: fs, st: st, orphans: fs.orphans}
	fs.orphans = nil
	if err := fs.startWriter(j, log, r); err != nil {
		return refuse(err)
	}
	w := fs.w
	err := f.run()
	if err != nil {
		// Not the filesystem's fault, as far as is known: nothing is recorded.
		w.log.Abort(fmt.Errorf("%w: %w", err, syscall.ESHUTDOWN))
	}
	w.damage.stop()
	closeErr := w.log.Close()
	fs.w = nil
	if err = cmp.Or(err, closeErr); err != nil {
		return refuse(err)
	}
	fs.recovery.Fast = true
	return fs.reload()
}

func (f *fastRecovery) run() (err error) {
	log := f.fs.w.log
	if need := f.estimate(); need > 3*log.MaxCredits() {
		return fmt.Errorf("they change %d blocks, more than the journal has room for: %w", need, syscall.ENOSPC)
	}
	credits := log.MaxCredits() // and as much more as there is
	if f.tx, err = log.Begin(journal.Credits{Blocks: credits, Revokes: credits}); err != nil {
		return err
	}
	defer func() { err = cmp.Or(err, f.tx.End()) }()
	f.fs.w.orphans.rest = f.fs.w.super.sb.LastOrphan
	// First what is in use afterwards, so that nothing else takes it.
	for _, step := range []func() error{f.claim, f.inodes, f.names, f.free} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// estimate is about the number of blocks that change.
func (f *fastRecovery) estimate() int {
	n := 0
	tables := make(map[uint32]struct{})
	for ino, fi := range f.st.Inodes() {
		tables[ino/(f.fs.geo.BlockSize/f.fs.geo.InodeSize)] = struct{}{}
		n += 2 * len(fi.Ranges())
	}
	for _, fd := range f.st.Dirs() {
		n += 3 + 2*len(fd.Entries())
	}
	groups := 3 * int(min(f.fs.geo.Groups, 1<<20))
	return n + len(tables) + min(groups, n+3*len(tables))
}

// claim marks the blocks used that files get.
func (f *fastRecovery) claim() error {
	fs := f.fs
	for ino, fi := range f.st.Inodes() {
		if fi.Links == 0 {
			continue
		}
		for _, r := range fi.Ranges() {
			if r.State == fastcommit.Removed {
				continue
			}
			if !fs.mayHave(r.Block, uint64(r.Len)) {
				return disk.Corruptf(disk.InodeName(ino), "a fast commit gives it blocks %d+%d, which are not for files", r.Block, r.Len)
			}
			start := fs.clusterStart(r.Block)
			n := fs.clusterEnd(r.Block+uint64(r.Len)) - start
			if err := fs.w.groups.Use(f.tx, start, n); err != nil {
				return err
			}
			f.used = append(f.used, usedRun{extent.Run{Block: fs.clusterStart(uint64(r.Start)), Start: start, Len: n}, ino})
		}
	}
	slices.SortFunc(f.used, func(a, b usedRun) int { return cmp.Compare(a.Start, b.Start) })
	rest := f.used
	f.used = nil
	for _, u := range rest {
		i := len(f.used) - 1
		if i < 0 || u.Start >= f.used[i].Start+f.used[i].Len {
			f.used = append(f.used, u)
			continue
		}
		// Two ranges of a file can be in one cluster.
		last := &f.used[i]
		if fs.geo.ClusterBits == 0 || u.ino != last.ino || u.Block-last.Block != u.Start-last.Start {
			return disk.Corruptf("fast commits", "give block %d to two files", u.Start)
		}
		last.Len = max(last.Len, u.Start+u.Len-last.Start)
	}
	return nil
}

func (f *fastRecovery) inodes() error {
	for n, fi := range f.st.Inodes() {
		if err := f.inode(Ino(n), fi); err != nil {
			return err
		}
	}
	return nil
}

// inode makes an inode what the fast commits say, but for the names in it.
func (f *fastRecovery) inode(ino Ino, fi *fastcommit.Inode) error {
	fs := f.fs
	if fs.ownInode(ino) || uint32(ino) > fs.geo.InodesCount {
		return disk.Corruptf(disk.InodeName(uint32(ino)), "fast commits change it, which is the filesystem's own")
	}
	there, err := fs.w.groups.InodeUsed(uint32(ino))
	if err != nil {
		return err
	}
	var before *inode
	if there {
		if before, err = fs.loadInode(ino); err != nil && !errors.Is(err, syscall.ESTALE) {
			return err
		}
		there = err == nil
	}
	switch {
	case fi.Links == 0 && (!there || before.Links == 0):
		return nil // there is none, or an orphan as before
	case fi.Links == 0:
		return f.orphan(before)
	case !there && fi.Image == nil:
		return disk.Corruptf(disk.InodeName(uint32(ino)), "fast commits change it, which is not in use")
	}
	if there && fi.Reset {
		if err := f.clear(before); err != nil {
			return err
		}
		there = false
	}
	if !there {
		before = &inode{}
	}
	if fi.Image == nil {
		before.Links = fi.Links
		return f.mapRanges(before, fi)
	}
	in, err := f.patch(ino, fi, before, there)
	if err != nil {
		return err
	}
	return f.mapRanges(in, fi)
}

// patch stores the new image of an inode.
func (f *fastRecovery) patch(ino Ino, fi *fastcommit.Inode, before *inode, there bool) (*inode, error) {
	fs := f.fs
	raw := make([]byte, fs.geo.InodeSize)
	if there {
		stored, err := fs.storedInode(ino, nil)
		if err != nil {
			return nil, err
		}
		copy(raw, stored)
	}
	fi.Patch(raw)
	hurd := fs.sb.CreatorOS == disk.CreatorHurd
	in := &inode{ino: ino, Inode: disk.DecodeInode(raw, hurd)}
	in.size = in.Size
	if err := fs.w.groups.UseInode(f.tx, uint32(ino), in.IsDir()); err != nil {
		return nil, err
	}
	if there && in.Type() != before.Type() {
		return nil, disk.Corruptf(disk.InodeName(uint32(ino)), "fast commits make it another type of file")
	}
	if in.FileACL != before.FileACL {
		return nil, fmt.Errorf("inode %d gets other attributes: %w", ino, syscall.EOPNOTSUPP)
	}
	if !there && !in.hasBlockMap() && !in.inline() {
		// A short target or a device's number, which have no ranges.
		copy(in.Block[:], fi.Image[imageBlock:])
	}
	in.SetSectors(before.Sectors(fs.hugeFile(), fs.geo.BlockBits), fs.hugeFile(), fs.geo.BlockBits)
	dtime := uint32(0)
	if _, listed := f.orphans[ino]; listed {
		dtime = before.Dtime // the next one of the list
	}
	seed := fs.sums.InodeSeed(uint32(ino), in.Generation)
	err := fs.editRaw(f.tx, ino, seed, func(to []byte) {
		copy(to, raw)
		disk.EncodeInode(to, &in.Inode, hurd)
		disk.SetInodeDtime(to, dtime)
	})
	if err != nil {
		return nil, err
	}
	return fs.loadInode(ino) // which checks it
}

// mapRanges makes the map of an inode what the fast commits say, and stores the
// inode.
func (f *fastRecovery) mapRanges(in *inode, fi *fastcommit.Inode) error {
	fs := f.fs
	if in.hasBlockMap() {
		// At no time two places on the device claim one cluster of the file.
		for _, step := range []func(*inode, fastcommit.Range) error{f.unmapOther, f.mapRange} {
			for _, r := range fi.Ranges() {
				if err := step(in, r); err != nil {
					return err
				}
			}
		}
	}
	return fs.store(f.tx, in)
}

// runOf is what a range is to be.
func runOf(r fastcommit.Range) extent.Run {
	want := extent.Run{Block: uint64(r.Start), Len: uint64(r.Len), Start: r.Block, State: extent.Hole}
	switch r.State {
	case fastcommit.Written:
		want.State = extent.Written
	case fastcommit.Unwritten:
		want.State = extent.Unwritten
	}
	return want
}

// unmapOther unmaps what is mapped otherwise in a range.
func (f *fastRecovery) unmapOther(in *inode, r fastcommit.Range) error {
	m := f.fs.blockMap(in)
	want := runOf(r)
	for blk := want.Block; blk < want.End(); {
		run, err := m.Lookup(blk)
		if err != nil {
			return err
		}
		run.Clip(blk, min(run.End(), want.End()))
		if run.State != extent.Hole && (run.State != want.State || run.Start != want.Start+blk-want.Block) {
			if err := f.unmap(in, run, 0); err != nil {
				return err
			}
		}
		blk = run.End()
	}
	return nil
}

// unmap takes a run out of the map of a file. What it occupied is freed in the
// end.
func (f *fastRecovery) unmap(in *inode, run extent.Run, flags balloc.FreeFlags) error {
	fs := f.fs
	m := fs.blockMap(in)
	for hi := run.End(); hi > run.Block; {
		var err error
		hi, err = m.RemoveStep(f.tx, nodeAllocator{fs, in}, run.Block, hi, 1, func(start, n uint64) error {
			start, n, err := fs.ownClusters(in, extent.Run{Block: run.Block + start - run.Start, Len: n, Start: start, State: run.State}, nil)
			if err != nil || n == 0 {
				return err
			}
			f.freed = append(f.freed, freedRun{start, n, flags})
			return fs.addBlocks(in, -int64(n))
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// mapRange maps what is a hole in a range and is not to be one.
func (f *fastRecovery) mapRange(in *inode, r fastcommit.Range) error {
	fs := f.fs
	want := runOf(r)
	if want.State == extent.Hole {
		return nil
	}
	m := fs.blockMap(in)
	for blk := want.Block; blk < want.End(); {
		run, err := m.Lookup(blk)
		if err != nil {
			return err
		}
		if run.Clip(blk, min(run.End(), want.End(), blk+extentMax)); run.State == extent.Hole {
			part := want
			part.Clip(blk, run.End())
			for _, end := range []uint64{part.Block, part.End() - 1} {
				if at, err := fs.implied(in, end); err != nil {
					return err
				} else if at != 0 && at != part.Start+end-part.Block {
					return disk.Corruptf(disk.InodeName(uint32(in.ino)), "fast commits split the cluster of block %d", end)
				}
			}
			_, n, err := fs.ownClusters(in, part, nil)
			if err != nil {
				return err
			}
			if err := errors.Join(m.Insert(f.tx, nodeAllocator{fs, in}, part), fs.addBlocks(in, int64(n))); err != nil {
				return err
			}
		}
		blk = run.End()
	}
	return nil
}

// clear frees an inode whose number was given to another one in the same
// transaction.
func (f *fastRecovery) clear(in *inode) error {
	fs := f.fs
	if _, listed := f.orphans[in.ino]; listed {
		return fmt.Errorf("inode %d is used again while it is on the orphan list: %w", in.ino, syscall.EOPNOTSUPP)
	}
	if n, err := fs.countInodes(in); err != nil {
		return err
	} else if n > 1 {
		return fmt.Errorf("inode %d is used again and had attribute values in other inodes: %w", in.ino, syscall.EOPNOTSUPP)
	}
	if in.hasBlockMap() {
		flags := balloc.FreeFlags(0)
		if !in.IsReg() {
			flags = balloc.FreeForget
		}
		for {
			run, err := fs.firstMapped(in, 0, extent.MaxBlocks)
			if err != nil {
				return err
			}
			if run.State == extent.Hole {
				break
			}
			if err := f.unmap(in, run, flags); err != nil {
				return err
			}
		}
	}
	if err := fs.dropXattrBlock(f.tx, in, valueRefs{}); err != nil {
		return err
	}
	return fs.w.groups.FreeInode(f.tx, uint32(in.ino), in.IsDir())
}

// orphan takes the last name from an inode; it is deleted with the other
// orphans.
func (f *fastRecovery) orphan(in *inode) error {
	in.Links = 0
	if err := f.fs.store(f.tx, in); err != nil {
		return err
	}
	if _, listed := f.orphans[in.ino]; listed {
		return nil
	}
	return f.fs.addOrphan(f.tx, in)
}

// names brings the directories up to date.
func (f *fastRecovery) names() error {
	fs := f.fs
	for n, fd := range f.st.Dirs() {
		if !fd.Made {
			continue
		}
		d, err := fs.loadInode(Ino(n))
		if err != nil {
			return err
		}
		if !d.IsDir() {
			return disk.Corruptf(disk.InodeName(n), "a fast commit makes it a directory, which it is not")
		}
		d.size, d.Links = 0, 2
		d.Flags &^= disk.FlagIndex
		if err := fs.initDir(f.tx, d, Ino(fd.Parent)); err != nil {
			return err
		}
		if err := fs.store(f.tx, d); err != nil {
			return err
		}
	}
	for n, fd := range f.st.Dirs() {
		d, err := fs.loadInode(Ino(n))
		if err != nil {
			return err
		}
		if !d.IsDir() {
			return disk.Corruptf(disk.InodeName(n), "fast commits change names in it, which is no directory")
		}
		for _, e := range fd.Entries() {
			if err := f.name(d, string(e.Name), Ino(e.Ino)); err != nil {
				return err
			}
		}
		fs.touch(d, true)
		if err := fs.store(f.tx, d); err != nil {
			return err
		}
	}
	return nil
}

// name makes a name in a directory lead to an inode, or, with 0, nowhere.
func (f *fastRecovery) name(d *inode, name string, ino Ino) error {
	fs := f.fs
	if dotName([]byte(name)) || !d.encrypted() && strings.ContainsAny(name, "/\x00") {
		return disk.Corruptf(disk.InodeName(uint32(d.ino)), "a fast commit changes the impossible name %q", name)
	}
	if d.Flags&disk.FlagIndex == 0 {
		if f.read += d.size; f.read > maxRead {
			return disk.Corruptf("fast commits", "change too many names in directories without an index, at last in inode %d", d.ino)
		}
	}
	entries, err := fs.entries(d)
	if err != nil {
		return err
	}
	found, err := entries.Lookup(name)
	if err != nil && !errors.Is(err, syscall.ENOENT) {
		return err
	}
	if err == nil && Ino(found) == ino || err != nil && ino == 0 {
		return nil
	}
	if err == nil {
		if err := f.unname(d, name, Ino(found)); err != nil || ino == 0 {
			return err
		}
	}
	in, err := fs.loadInode(ino)
	if err != nil {
		return err
	}
	if in.IsDir() {
		addSubdirLink(d)
	}
	return fs.addName(f.tx, d, name, in)
}

// unname takes a name out of a directory, and with it the last one from an inode
// that is a directory. Those of other inodes are counted elsewhere.
func (f *fastRecovery) unname(d *inode, name string, ino Ino) error {
	fs := f.fs
	if err := fs.removeName(f.tx, d, name); err != nil {
		return err
	}
	in, err := fs.loadInode(ino)
	if errors.Is(err, syscall.ESTALE) {
		return nil
	}
	if err != nil || !in.IsDir() {
		return err
	}
	removeSubdirLink(d)
	if in.Links == 0 {
		return nil
	}
	return f.orphan(in)
}

// free marks the blocks free that no file has any longer.
func (f *fastRecovery) free() error {
	for _, r := range f.freed {
		for r.n > 0 {
			// The first run in use that ends behind the start.
			i, _ := slices.BinarySearchFunc(f.used, r.start, func(u usedRun, start uint64) int {
				if u.Start+u.Len <= start {
					return -1
				}
				return 1
			})
			n := r.n
			if i < len(f.used) {
				if u := f.used[i]; u.Start <= r.start {
					skip := min(n, u.Start+u.Len-r.start)
					r.start, r.n = r.start+skip, n-skip
					continue
				} else {
					n = min(n, u.Start-r.start)
				}
			}
			if err := f.fs.w.groups.Free(f.tx, r.start, n, r.flags); err != nil {
				return err
			}
			r.start, r.n = r.start+n, r.n-n
		}
	}
	return nil
}
