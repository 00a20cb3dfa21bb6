package ext4

import (
	"ext4box/ext4/internal/disk"
	"ext4box/ext4/internal/extent"
	"ext4box/ext4/internal/syszone"
)

// maxJournalRuns is how many pieces a journal may have that is written to, and how
// many are kept out of files where it is not: such a journal is not checked otherwise.
const maxJournalRuns = 1 << 16

// zonesFor are the blocks that an inode must not have. The journal has its own,
// the bad blocks are wherever they are, and the inode for resizing has the room
// for descriptors.
func (fs *FS) zonesFor(ino Ino) *syszone.Zones {
	if n := uint32(ino); n == disk.InoBadBlocks || n == disk.InoResize || n == fs.sb.JournalIno {
		return nil
	}
	return fs.zones
}

// mayHave tells whether a file may have the blocks [start, start+n) of the
// device.
func (fs *FS) mayHave(start, n uint64) bool {
	return fs.geo.BlocksInRange(start, n) && fs.zones.Free(start, n)
}

// protect keeps the blocks of the journal and of multiple-mount protection out
// of files, from before the first of them is looked at.
func (fs *FS) protect() {
	var runs []syszone.Run
	if fs.sb.Incompat&disk.IncompatMMP != 0 {
		runs = append(runs, syszone.Run{Start: fs.sb.MMPBlock, Len: 1})
	}
	if fs.journalLen > 0 && !fs.recovery.External {
		more, err := fs.journalZones()
		if err != nil {
			fs.log.Warn("not all blocks of the journal are known", "error", err)
		}
		runs = append(runs, more...)
	}
	fs.zones.Protect(runs)
}

// journalZones are the blocks of the journal, as far as its map is sound.
func (fs *FS) journalZones() (runs []syszone.Run, err error) {
	in, err := fs.systemInode("journal", fs.sb.JournalIno)
	if err != nil {
		return nil, err
	}
	m := fs.blockMap(in)
	for blk := uint64(0); blk < min(fs.journalLen, extent.MaxBlocks) && len(runs) < maxJournalRuns; {
		run, err := m.Lookup(blk)
		if err != nil {
			return runs, err
		}
		if run.State != extent.Hole {
			run.Clip(blk, run.End())
			runs = append(runs, syszone.Run{Start: run.Start, Len: run.Len})
		}
		blk = run.End()
	}
	return runs, nil
}
