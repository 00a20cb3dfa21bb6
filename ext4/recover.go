package ext4

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"syscall"

	"ext4box/blockdev"
	"ext4box/ext4/internal/disk"
	"ext4box/ext4/internal/journal"
)

// recover looks at the journal and, if it was left dirty, writes home what it
// holds. Where the filesystem is opened for reading only it puts a view of the
// device in place of it in which the journal is replayed, and writes nothing.
func (fs *FS) recover() error {
	if fs.sb.Compat&disk.CompatHasJournal == 0 {
		if fs.sb.Incompat&disk.IncompatRecover != 0 {
			fs.log.Warn("the filesystem needs recovery but has no journal")
		}
		return fs.openRecovered(nil, nil)
	}
	needed := fs.sb.Incompat&disk.IncompatRecover != 0
	fs.recovery.External = fs.sb.JournalIno == 0
	if fs.opts.NoRecovery {
		// The length of the journal counts as overhead also when it is ignored.
		if in, err := fs.loadInode(Ino(fs.sb.JournalIno)); err == nil {
			fs.journalLen = in.size >> fs.geo.BlockBits
		}
		fs.recovery.Needed, fs.recovery.Skipped = needed, needed
		fs.roReason = fs.readOnlyBecause()
		return nil
	}
	j, err := fs.openJournal()
	if err != nil {
		return err
	}
	if !fs.recovery.External {
		fs.journalLen = uint64(j.Superblock.MaxLen)
	}
	if j.Errno() != 0 {
		fs.log.Warn("the journal was aborted by an error; run e2fsck", "error", syscall.Errno(j.Errno()))
	}
	if fs.roReason = fs.readOnlyBecause(); fs.roReason != "" {
		if needed {
			if err := fs.replay(j); err != nil {
				return err
			}
		}
		fs.findOrphans()
		return nil
	}
	runs, err := fs.journalRuns(j)
	if err != nil {
		return err
	}
	log, err := fs.logDevice(runs)
	if err != nil {
		return err
	}
	if !needed && !j.Clean() {
		return notWritable("its journal is not empty", disk.Corruptf("superblock", "it lacks the feature needs_recovery, and the log starts at block %d", j.Superblock.Start))
	}
	if needed {
		if err := fs.replayHome(j, log, runs); err != nil {
			return err
		}
		if err := fs.checkJournalStays(j, runs); err != nil {
			return err
		}
	}
	return fs.openRecovered(j, log)
}

// openRecovered goes on with a filesystem whose journal, if it has one, is
// clean: for writing if that is possible.
func (fs *FS) openRecovered(j *journal.Journal, log journal.LogDevice) error {
	if fs.roReason = fs.readOnlyBecause(); fs.roReason != "" {
		fs.findOrphans()
		return nil
	}
	return fs.openWriter(j, log)
}

// logDevice is the journal for writing, which has the blocks runs where it is not external.
func (fs *FS) logDevice(runs []journal.Run) (journal.LogDevice, error) {
	if fs.recovery.External {
		return fs.opts.JournalDevice, nil
	}
	return journal.NewExtentLog(fs.base, int(fs.geo.BlockSize), runs)
}

// checkJournalStays refuses a journal that has moved away from runs by its own recovery: what is
// written to the log from now on would go to blocks that are free, or a file's.
func (fs *FS) checkJournalStays(j *journal.Journal, runs []journal.Run) error {
	now, err := fs.journalRuns(j)
	if err == nil && !slices.Equal(now, runs) {
		err = disk.Corruptf("journal", "its recovery moves inode %d to other blocks", fs.sb.JournalIno)
	}
	return err
}

// replayHome recovers the filesystem on disk. The journal has the blocks runs.
func (fs *FS) replayHome(j *journal.Journal, log journal.LogDevice, runs []journal.Run) error {
	r, err := j.Recover()
	if err != nil {
		return fmt.Errorf("recover the journal: %w", err)
	}
	fs.recovery.Needed = r.Dirty
	fs.recovery.Blocks = r.Len()
	fs.recovery.LastTID = r.EndTID - 1
	if err := r.WriteHome(fs.base); err != nil {
		return err
	}
	if j.FastCommitArea() == nil {
		return errors.Join(j.Reset(log, r), fs.reload())
	}
	if err := fs.reload(); err != nil {
		return err
	}
	if err := fs.checkJournalStays(j, runs); err != nil {
		return err
	}
	st, err := fs.loadFastCommits(j, r)
	if err != nil {
		return err
	}
	if st == nil {
		return j.Reset(log, r)
	}
	if err := fs.recoverFastCommits(j, log, r, st); err != nil {
		return err
	}
	fresh, err := fs.openJournal()
	if err == nil {
		*j = *fresh
	}
	return err
}

// reload looks again at everything that was known from before the journal was
// replayed, for it may have had a new superblock. Errors are noted past the
// journal when that is aborted, so what was there before may be newer.
func (fs *FS) reload() error {
	before, blockSize := fs.sb, fs.geo.BlockSize
	if err := fs.load(); err != nil {
		return fmt.Errorf("after recovery of the journal: %w", err)
	}
	if fs.geo.BlockSize != blockSize {
		return disk.Corruptf("superblock", "the journal changes the block size from %d to %d", blockSize, fs.geo.BlockSize)
	}
	if err := checkSuperStays(&before, &fs.sb); err != nil {
		return err
	}
	if before.ErrorCount > fs.sb.ErrorCount {
		fs.sb.CopyErrors(&before)
	}
	fs.sb.State |= before.State & disk.StateErrors
	return nil
}

// checkSuperStays refuses a superblock from the journal that says something else than the one before about what is
// in use already: the journal itself, and the protection from other hosts.
func checkSuperStays(before, after *disk.Superblock) error {
	const what = "superblock"
	switch {
	case (before.Compat^after.Compat)&disk.CompatHasJournal != 0:
		return disk.Corruptf(what, "the journal changes the feature has_journal ")
	case before.JournalIno != after.JournalIno:
		return disk.Corruptf(what, "the journal changes its inode number from %d to %d", before.JournalIno, after.JournalIno)
	case (before.Incompat^after.Incompat)&disk.IncompatMMP != 0:
		return disk.Corruptf(what, "the journal changes the feature mmp")
	case before.Incompat&disk.IncompatMMP != 0 && before.MMPBlock != after.MMPBlock:
		return disk.Corruptf(what, "the journal changes the multiple mount protection block from %d to %d", before.MMPBlock, after.MMPBlock)
	}
	return nil
}

// openJournal reads the superblock of the journal, inside or outside the image.
func (fs *FS) openJournal() (*journal.Journal, error) {
	o := journal.Options{
		BlockSize:    int(fs.geo.BlockSize),
		DeviceBlocks: uint64(fs.dev.Size()) >> fs.geo.BlockBits,
		MaxLogged:    atLeast(1<<16, fs.opts.shares().recover, loggedBytes),
	}
	if fs.recovery.External {
		dev := fs.opts.JournalDevice
		if dev == nil {
			return nil, fmt.Errorf("the journal is on another device, with UUID %s; name it with journal_path= or --journal, or ignore it with norecovery: %w",
				uuid(fs.sb.JournalUUID), syscall.EINVAL)
		}
		if err := fs.checkJournalDevice(dev); err != nil {
			return nil, err
		}
		o.LogBlocks = uint64(dev.Size()) >> fs.geo.BlockBits
		o.Superblock = journal.ExternalSuperblock(o.BlockSize)
		return journal.Load(dev, o)
	}
	in, err := fs.systemInode("journal", fs.sb.JournalIno)
	if err != nil {
		return nil, err
	}
	if !in.IsReg() || in.Links == 0 || in.inline() || in.encrypted() {
		return nil, disk.Corruptf("journal", "inode %d is not a plain file", in.ino)
	}
	// No file has more blocks than the filesystem, whatever its size says.
	o.LogBlocks = min(in.size>>fs.geo.BlockBits, fs.geo.BlocksCount)
	j, err := journal.Load(&inodeReader{fs.snapshot(), in}, o)
	if err != nil || j.Clean() && fs.readOnlyBecause() != "" {
		return j, err
	}
	// A log is as long as it says only if it has a block of its own for each.
	m := fs.blockMap(in)
	length := uint64(j.Superblock.MaxLen)
	if n, err := m.CheckDistinct("journal", length); err != nil {
		return nil, err
	} else if n < length {
		return nil, disk.Corruptf("journal", "inode %d has holes", in.ino)
	}
	return j, nil
}

// checkJournalDevice verifies that a device holds the journal of this
// filesystem and no other's.
func (fs *FS) checkJournalDevice(dev blockdev.Device) error {
	raw := make([]byte, disk.SuperblockSize)
	if err := readFull(dev, raw, disk.SuperblockOffset); err != nil {
		return fmt.Errorf("read the superblock of the journal device: %w", err)
	}
	sb := disk.DecodeSuperblock(raw)
	if sb.Magic != disk.SuperMagic || sb.Incompat&disk.IncompatJournalDev == 0 {
		return fmt.Errorf("the journal device holds no ext4 journal: %w", syscall.EINVAL)
	}
	if sb.UUID != fs.sb.JournalUUID {
		return fmt.Errorf("the journal device has UUID %s, the filesystem's journal is %s: %w", uuid(sb.UUID), uuid(fs.sb.JournalUUID), syscall.EINVAL)
	}
	return nil
}

// DataElsewhere says why file data is not everywhere where mappings say, but has to be
// read by the filesystem itself; or nothing.
func (fs *FS) DataElsewhere() string {
	if fs.dev != fs.base {
		return "the journal was replayed in memory only, and may hold content of files"
	}
	return ""
}

// replay puts the recovered view in place and looks again at everything that
// was known from the unrecovered one: the journal may carry a new superblock.
func (fs *FS) replay(j *journal.Journal) error {
	r, err := j.Recover()
	if err != nil {
		return fmt.Errorf("recover the journal (norecovery shows the filesystem without): %w", err)
	}
	fs.recovery.Needed = r.Dirty
	fs.recovery.Blocks = r.Len()
	fs.recovery.LastTID = r.EndTID - 1
	if r.Len() > 0 {
		fs.dev = journal.NewOverlay(fs.base, r)
		if err := fs.reload(); err != nil {
			return err
		}
	}
	return fs.replayFastCommits(j, r)
}

// inodeReader is the content of an inode as an io.ReaderAt, for inodes that are
// not files to anybody else.
type inodeReader struct {
	fs *FS
	in *inode
}

func (r *inodeReader) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || uint64(off) >= r.in.size {
		return 0, io.EOF
	}
	n := min(uint64(len(p)), r.in.size-uint64(off))
	for done := uint64(0); done < n; {
		pos := uint64(off) + done
		m, err := r.fs.mapping(r.in, pos)
		if err != nil {
			return int(done), err
		}
		part := p[done:min(n, done+m.Offset+m.Length-pos)]
		if err := r.fs.readMapped(&m, part, pos); err != nil {
			return int(done), fmt.Errorf("inode %d: %w", r.in.ino, err)
		}
		done += uint64(len(part))
	}
	if n < uint64(len(p)) {
		return int(n), io.EOF
	}
	return int(n), nil
}

// snapshot is a copy of the filesystem's present view, for readers that must
// not see a later one.
func (fs *FS) snapshot() *FS {
	return &FS{opts: fs.opts, log: fs.log, base: fs.base, dev: fs.dev, sb: fs.sb, geo: fs.geo, sums: fs.sums, blks: fs.blks, nodes: fs.nodes}
}
