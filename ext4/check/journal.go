package check

import (
	"encoding/binary"
	"errors"
	"io"

	"ext4box/ext4/internal/disk"
	"ext4box/ext4/internal/journal"
)

// journalMagic begins each block of a journal that is not data.
const journalMagic = 0xC03B3998

// journal examines the journal as far as it has to be sound to be replayed; what is
// in it is not looked at.
func (c *checker) journal(b *batch) error {
	has := c.sb.Compat&disk.CompatHasJournal != 0
	recover := c.sb.Incompat&disk.IncompatRecover != 0
	if !has && c.sb.JournalIno != 0 {
		switch file, err := c.journalFile(); {
		case err != nil:
			return err
		case file == nil:
			b.fs(JournalInode, "the superblock has an invalid journal (inode %d)", c.sb.JournalIno)
			return nil
		}
	}
	switch {
	case !has && (c.sb.JournalIno != 0 || c.sb.JournalUUID != [16]byte{}):
		b.fs(JournalFlag, "the superblock's has_journal flag is clear, but a journal is present")
		return nil
	case !has && recover:
		b.fs(JournalFlag, "the superblock's needs_recovery flag is set, but no journal is present")
		return nil
	case !has:
		return nil
	}
	start := [4]byte{}
	external := c.sb.JournalIno == 0 && (c.sb.JournalUUID != [16]byte{} || c.sb.JournalDev != 0)
	var log io.ReaderAt
	o := journal.Options{BlockSize: int(c.geo.BlockSize), DeviceBlocks: uint64(c.dev.Size()) >> c.geo.BlockBits}
	if external {
		if c.opt.Journal == nil {
			b.fs(JournalMissing, "the external journal is not at hand")
			return errStop
		}
		o.LogBlocks = uint64(c.opt.Journal.Size()) >> c.geo.BlockBits
		o.Superblock = journal.ExternalSuperblock(o.BlockSize)
		log = c.opt.Journal
	} else {
		file, err := c.journalFile()
		if err != nil {
			return err
		}
		if file == nil {
			b.fs(JournalInode, "the superblock has an invalid journal (inode %d)", c.sb.JournalIno)
			return errStop
		}
		o.LogBlocks = uint64(file.size) >> c.geo.BlockBits
		log = file
		var head [4]byte
		if _, err := file.ReadAt(head[:], 0); err == nil && binary.BigEndian.Uint32(head[:]) != journalMagic {
			b.fs(JournalInode, "the superblock has an invalid journal (inode %d)", c.sb.JournalIno)
			return errStop
		}
	}
	j, err := journal.Load(log, o)
	if !recover {
		if _, err := log.ReadAt(start[:], int64(o.Superblock)*int64(o.BlockSize)+0x1C); err == nil && start != [4]byte{} {
			b.minor(JournalFlag, "the superblock's needs_recovery flag is clear, but the journal has data")
		}
	}
	if err == nil && !external && c.sb.JournalUUID == [16]byte{} && j.Superblock.Users > 1 {
		b.fs(JournalSuperblock, "the journal is shared by %d filesystems, which an internal one cannot be", j.Superblock.Users)
		return errStop
	}
	var feature *disk.FeatureError
	var corrupt *disk.CorruptError
	switch {
	case errors.As(err, &feature):
		b.fs(JournalFeatures, "the journal has unknown features: %v", err)
		return errStop
	case errors.As(err, &corrupt), errors.Is(err, errBeyond), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		b.fs(JournalSuperblock, "the journal superblock is corrupt: %v", err)
		return errStop
	case err != nil:
		return err
	}
	if recover {
		c.warn("the journal has not been replayed: what it holds is not taken into account")
	}
	return nil
}

// journalFile is the file that holds the journal, or nil if it cannot.
func (c *checker) journalFile() (*file, error) {
	ino := c.sb.JournalIno
	if ino < 1 || ino > c.geo.InodesCount {
		return nil, nil
	}
	in, ok, err := c.inode(ino)
	if err != nil || !ok || in.Links == 0 || !in.IsReg() || in.is(disk.FlagEncrypt) || in.is(disk.FlagInlineData) {
		return nil, err
	}
	f, sound, err := c.file(in)
	const minBlocks = 1024
	blocks := in.Size >> c.geo.BlockBits
	if err != nil || !sound || blocks < minBlocks || f.mapped < blocks {
		return nil, err
	}
	return f, nil
}

// file is the data of an inode, as far as its map is sound. It is for the few files
// that belong to the filesystem itself.
type file struct {
	c      *checker
	size   int64
	mapped uint64    // blocks from 0 on that have no hole
	runs   []mapping // at most maxFileRuns
}

const maxFileRuns = 1 << 14

func (c *checker) file(in *inode) (f *file, sound bool, err error) {
	f = &file{c: c, size: int64(min(in.Size, c.geo.BlocksCount<<c.geo.BlockBits))}
	sound = true
	nodes := 0
	problem := func(Class, uint64, string, ...any) { sound = false }
	err = c.walkMap(in, problem, func(m mapping) bool {
		if m.node {
			nodes++
			return nodes < maxFileRuns
		}
		f.runs = append(f.runs, m)
		if m.logical == f.mapped {
			f.mapped += m.n
		}
		return len(f.runs) < maxFileRuns
	})
	return f, sound, err
}

// block is the device block of a block of the file, or 0.
func (f *file) block(blk uint64) uint64 {
	for _, m := range f.runs {
		if blk >= m.logical && blk < m.logical+m.n {
			return m.start + blk - m.logical
		}
	}
	return 0
}

// ReadAt reads from the file; holes read as zeros.
func (f *file) ReadAt(p []byte, off int64) (int, error) {
	bits, size := f.c.geo.BlockBits, int64(f.c.geo.BlockSize)
	for n := 0; n < len(p); {
		at := off + int64(n)
		if at >= f.size {
			return n, io.EOF
		}
		part := p[n:min(len(p), n+int(size-at%size))]
		if blk := f.block(uint64(at) >> bits); blk == 0 {
			clear(part)
		} else if err := f.c.read(part, blk<<bits+uint64(at%size)); err != nil {
			return n, err
		}
		n += len(part)
	}
	return len(p), nil
}
