package ext4

import (
	"errors"
	"fmt"
	"strings"
	"syscall"

	"ext4box/ext4/internal/balloc"
	"ext4box/ext4/internal/disk"
	"ext4box/ext4/internal/extent"
	"ext4box/ext4/internal/journal"
)

// maxWritableGroups bounds the search for space in a filesystem without any: 256
// TiB in groups of the usual size, while a hostile image can have a group for
// every 8 KiB.
const maxWritableGroups = 1 << 21

// readOnlyBecause says why the filesystem cannot be written, or nothing.
func (fs *FS) readOnlyBecause() string {
	if fs.opts.ReadOnly {
		return "it was asked for"
	}
	if fs.base.ReadOnly() {
		return "the device is read-only"
	}
	names := (fs.sb.Incompat &^ disk.IncompatWritable).Names()
	names = append(names, (fs.sb.ROCompat &^ disk.ROCompatWritable).Names()...)
	switch {
	case len(names) > 0:
		return "it uses features that cannot be written yet: " + strings.Join(names, ", ")
	case fs.geo.Groups > maxWritableGroups:
		return fmt.Sprintf("its %d block groups are too many to be searched for space", fs.geo.Groups)
	case fs.opts.NoRecovery && fs.sb.Incompat&disk.IncompatRecover != 0:
		return "its journal has not been recovered"
	case fs.opts.NoRecovery && fs.sb.Compat&disk.CompatHasJournal != 0:
		return "norecovery leaves its journal out"
	case fs.opts.Superblock != 0:
		return "a backup superblock is in use"
	case fs.sb.RevLevel == disk.RevGood:
		return "it has no features, and nowhere to note what changes"
	case fs.geo.ClusterBits > 0 && fs.sb.Incompat&disk.IncompatExtents == 0:
		return "it has bigalloc without extents"
	case fs.geo.ClusterBits > 0 && fs.geo.FirstDataBlock != 0:
		return "it has bigalloc and starts inside a cluster"
	case fs.sb.CreatorOS == disk.CreatorHurd:
		return "the Hurd made it"
	}
	return ""
}

// ReadOnlyReason says why the filesystem was not opened for writing, or nothing
// if it was.
func (fs *FS) ReadOnlyReason() string { return fs.roReason }

// notWritableError says why a filesystem that should be writable is not. It can
// still be read.
type notWritableError struct {
	why string
	err error
}

// notWritable is err, and a notWritableError if it is a corruption.
func notWritable(why string, err error) error {
	if errors.Is(err, syscall.EUCLEAN) {
		return &notWritableError{why, err}
	}
	return err
}

func (e *notWritableError) Error() string { return e.why + ": " + e.err.Error() + "; run e2fsck" }
func (e *notWritableError) Unwrap() error { return e.err }

// openWriter makes the filesystem, which is loaded and recovered on disk,
// writable. j is its journal, or nil.
func (fs *FS) openWriter(j *journal.Journal, log journal.LogDevice) error {
	if err := fs.takeErrno(j, log); err != nil {
		return err
	}
	if err := fs.startWriter(j, log, nil); err != nil {
		return err
	}
	fs.warnUnchecked()
	if err := fs.writeSuper(fs.noteOpened); err != nil {
		return errors.Join(err, fs.closeWriter())
	}
	fs.openQuotas()
	return nil
}

// startWriter sets up fs.w and with it the journal, for ordinary work or, with r,
// for the one transaction that recovers fast commits.
func (fs *FS) startWriter(j *journal.Journal, log journal.LogDevice, r *journal.Replay) error {
	mem := fs.opts.shares()
	w := &writer{quotaCredits: fs.quotaCredits(), maxReserved: int64(atLeast(minReserved, mem.pending, reservedBytes))}
	o := journal.WriterOptions{
		Interval:   fs.opts.CommitInterval,
		NoBarrier:  fs.opts.NoBarrier,
		Memory:     mem.journal,
		OnAbort:    fs.abortDamage,
		Wide:       fs.sb.Incompat&disk.Incompat64Bit != 0,
		ChecksumV3: fs.sums.Metadata,
	}
	protected, err := fs.journalRuns(j)
	if err != nil {
		return err
	}
	var runs []balloc.Run
	if fs.guard != nil {
		runs = append(runs, balloc.Run{Start: fs.sb.MMPBlock, Len: 1})
	}
	for _, r := range protected {
		if fs.guard != nil && r.Device <= fs.sb.MMPBlock && fs.sb.MMPBlock-r.Device < uint64(r.Blocks) {
			return disk.Corruptf("superblock", "the multiple mount protection block %d is in the journal", fs.sb.MMPBlock)
		}
		runs = append(runs, balloc.Run{Start: r.Device, Len: r.Blocks})
	}
	w.groups = balloc.New(balloc.Config{
		Cache: fs.blks, Geo: &fs.geo, Sums: &fs.sums, Super: &fs.sb, SuperBlock: fs.superBlock,
		Pool: fs.pool(), Protected: runs, MemoryBytes: mem.bitmaps,
		Own: func(start, n uint64) bool { return !fs.zones.Free(start, n) },
		OnCorrupt: func(group uint32, err error) {
			fs.log.Error("block group set aside", "group", group, "error", err)
			fs.found("block_group", 0, fs.geo.GroupFirstBlock(group), err)
		},
	})
	s := &w.super
	s.sb = fs.sb
	if s.buf, err = fs.blks.ReadPinned(fs.superBlock, superblockTag, noCheck); err != nil {
		return err
	}
	s.off = int(disk.SuperblockOffset) & int(fs.geo.BlockSize-1)
	switch {
	case r != nil:
		w.log, err = j.Resume(fs.base, log, fs.blks, r, o)
	case j != nil:
		w.log, err = j.Start(fs.base, log, fs.blks, o)
	default:
		w.log = journal.NewUnlogged(fs.base, fs.blks, o)
	}
	if err != nil {
		return err
	}
	if w.orphanFile, err = fs.openOrphanFile(); err != nil {
		return errors.Join(notWritable("its orphan file is damaged", err), w.log.Close())
	}
	if r == nil && (fs.opts.Discard || fs.sb.DefaultMountOpts&disk.DefMountDiscard != 0 && !fs.opts.NoDiscard) {
		w.discards = newDiscards(fs)
		w.groups.Freed = w.discards.add
	}
	fs.w = w
	fs.startDamage()
	fs.watchGuard()
	return nil
}

// takeErrno moves the error that aborted the journal, if one did, to the
// superblock.
func (fs *FS) takeErrno(j *journal.Journal, log journal.LogDevice) error {
	if j == nil || j.Errno() == 0 {
		return nil
	}
	fs.sb.State |= disk.StateErrors
	if err := fs.patchSuper(func(sb *disk.Superblock) { sb.State |= disk.StateErrors }); err != nil {
		return err
	}
	return j.ClearErrno(log)
}

// journalRuns is where the blocks of an internal journal are.
func (fs *FS) journalRuns(j *journal.Journal) ([]journal.Run, error) {
	if j == nil || fs.recovery.External {
		return nil, nil
	}
	in, err := fs.systemInode("journal", fs.sb.JournalIno)
	if err != nil {
		return nil, err
	}
	var runs []journal.Run
	for blk := uint64(0); blk < uint64(fs.journalLen); {
		run, err := fs.run(in, blk)
		if err != nil {
			return nil, err
		}
		if run.State != extent.Written {
			return nil, disk.Corruptf("journal", "block %d is not mapped", blk)
		}
		if len(runs) == maxJournalRuns {
			return nil, disk.Corruptf("journal", "is in more than %d pieces", maxJournalRuns)
		}
		run.Clip(blk, min(run.End(), fs.journalLen))
		runs = append(runs, journal.Run{Log: uint32(blk), Device: run.Start, Blocks: uint32(run.Len)})
		blk = run.End()
	}
	return runs, nil
}

// closeWriter commits everything, brings it home and marks the filesystem clean.
func (fs *FS) closeWriter() error {
	w := fs.w
	w.ahead.stop()
	err := fs.thaw()
	fs.closeTimes()
	w.damage.stop()
	defer w.discards.close()
	if fs.down.Load() {
		_ = w.log.Close() // tells that it was aborted, which is what was asked for
		return nil
	}
	// Nobody can come back to what is still held.
	for _, ino := range append(w.orphans.all(), w.orphanFile.all()...) {
		w.holds.mu.Lock()
		delete(w.holds.count, ino)
		w.holds.mu.Unlock()
		was, e := fs.finishValue(ino)
		if !was {
			e = fs.reap(ino)
		}
		err = errors.Join(err, e)
	}
	fs.tidyQuotas()
	if e := w.log.Close(); e != nil {
		return errors.Join(err, e)
	}
	return errors.Join(err, fs.markClean())
}

// Lost tells, after Close has failed, whether that was more than the word of an error that had
// stopped all writing before, at a time when everything was durable.
func (fs *FS) Lost() bool { return fs.w == nil || fs.w.log.Err() == nil || fs.w.log.Lost() }

// markClean makes the superblock say that everything is at home, as it must be. The
// journal must not have the superblock.
func (fs *FS) markClean() error {
	w := fs.w
	clusters, inodes := w.groups.Delta()
	var err error
	totals := balloc.Totals{
		FreeClusters: uint64(int64(fs.sb.FreeBlocks>>fs.geo.ClusterBits) + clusters),
		FreeInodes:   uint64(int64(fs.sb.FreeInodes) + inodes),
	}
	if fs.recovery.Needed {
		// After a crash the counts in the superblock were outdated.
		t, e := w.groups.Totals()
		totals, err = t, e
	}
	return errors.Join(err, fs.writeSuper(func(sb *disk.Superblock) {
		sb.FreeBlocks = totals.FreeClusters << fs.geo.ClusterBits
		sb.FreeInodes = uint32(totals.FreeInodes)
		fs.noteClosed(sb)
		if w.orphanFile.empty() {
			sb.ROCompat &^= disk.ROCompatOrphanPresent
		}
	}))
}
