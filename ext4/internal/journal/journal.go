package journal

import (
	"errors"
	"fmt"
	"io"

	"ext4box/ext4/internal/disk"
)

// Options say where the journal is and what it is for. All of them come from
// checked geometry, none from the journal itself.
type Options struct {
	BlockSize    int    // bytes, of filesystem and journal alike
	LogBlocks    uint64 // length of the log in blocks: of the inode, or of the journal device
	Superblock   uint32 // block of the log that is the jbd2 superblock: 0 in an inode, [ExternalSuperblock] on a device
	DeviceBlocks uint64 // size of the filesystem's device in blocks; more than s_blocks_count after a grow that is still in the log

	// MaxLogged is the most logged blocks of which a log is recovered; 0: as many as there
	// are in the largest journal that mke2fs makes. It bounds the memory that a recovery
	// takes, up to 80 bytes for each, and the time for those that are in a sparse image.
	MaxLogged int
}

// ExternalSuperblock is the block number of the jbd2 superblock on a journal
// device: the block behind the one that the ext superblock at byte 1024 is in.
// Block numbers in such a log count from the start of the device.
func ExternalSuperblock(blockSize int) uint32 {
	return uint32(1024/blockSize) + 1
}

// Journal is a journal whose superblock has been checked.
type Journal struct {
	// Superblock is the superblock as it is on disk.
	Superblock Superblock

	layout layout
	log    io.ReaderAt
	o      Options
	last   uint32 // block behind the last one of the log
}

// Load reads and checks the superblock of the journal in log, whose byte 0 is
// the first byte of the journal's inode, or of the journal's device. The log is
// kept for reading and must stay valid as long as the Journal, its Replay and
// overlays.
//
// Load does the same checks whether the journal is clean or not. Features it
// does not know are a [disk.FeatureError], everything else that is wrong a
// [disk.CorruptError].
func Load(log io.ReaderAt, o Options) (*Journal, error) {
	if o.BlockSize < 1024 || o.BlockSize > len(zeros) || o.BlockSize&(o.BlockSize-1) != 0 {
		return nil, corruptf("block size %d is not a power of two from 1024 to 65536", o.BlockSize)
	}
	if uint64(o.Superblock) >= o.LogBlocks {
		return nil, corruptf("a journal of %d blocks has no room for it", o.LogBlocks)
	}
	b := make([]byte, SuperblockSize)
	if err := readFull(log, b, int64(o.Superblock)*int64(o.BlockSize)); err != nil {
		return nil, fmt.Errorf("journal superblock: %w", err)
	}
	j := &Journal{log: log, o: o}
	s := &j.Superblock
	if !s.Decode(b) {
		return nil, corruptf("the magic number is %#x", s.Magic)
	}
	if err := s.check(b, &o); err != nil {
		return nil, err
	}
	j.last = s.last()
	j.layout = layout{
		blockSize: o.BlockSize,
		wide:      s.Incompat&Incompat64Bit != 0,
		checksum:  s.ChecksumVersion(),
		seed:      disk.CRC32C(^uint32(0), s.UUID[:]),
	}
	return j, nil
}

// Clean tells whether the log is empty, so that there is nothing to recover.
func (j *Journal) Clean() bool { return j.Superblock.Start == 0 }

// Errno is the error that aborted the journal, as a positive errno, or 0. A
// filesystem whose journal says so has errors, whatever its superblock says.
func (j *Journal) Errno() int {
	if j.Superblock.Errno < 0 {
		return -int(j.Superblock.Errno)
	}
	return int(j.Superblock.Errno)
}

// FastCommitArea returns the content of the fast commit area, or nil where the
// journal has none. It means something only after a recovery of a log that was
// not clean, see [Replay.EndTID].
//
// The area begins one block behind the end of the log, and is one block
// shorter than the superblock says: this is how the kernel has always counted.
func (j *Journal) FastCommitArea() *io.SectionReader {
	n := j.Superblock.fastCommitBlocks()
	if n < 2 {
		return nil
	}
	bs := int64(j.o.BlockSize)
	return io.NewSectionReader(j.log, (int64(j.last)+1)*bs, int64(n-1)*bs)
}

// readFull is ReadAt for callers to whom the end of the log is an error.
func readFull(r io.ReaderAt, p []byte, off int64) error {
	n, err := r.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		return disk.Corruptf("journal", "ends at byte %d, within its length", off+int64(n))
	}
	return err
}

// windowBytes is how much of the log is read at once.
const windowBytes = 128 << 10

// window reads log blocks through a buffer, for they are mostly read in order.
type window struct {
	log   io.ReaderAt
	bs    int
	end   uint64 // blocks in the log
	buf   []byte
	first uint64 // block at the start of buf
	n     uint64 // blocks in buf
}

// block returns a block of the log. The slice is valid until the next call.
func (w *window) block(n uint32) ([]byte, error) {
	at := uint64(n)
	if at < w.first || at >= w.first+w.n {
		count := min(uint64(len(w.buf)/w.bs), w.end-at)
		w.n = 0
		if err := readFull(w.log, w.buf[:int(count)*w.bs], int64(at)*int64(w.bs)); err != nil {
			return nil, fmt.Errorf("reading block %d of the journal: %w", n, err)
		}
		w.first, w.n = at, count
	}
	i := int(at-w.first) * w.bs
	return w.buf[i : i+w.bs : i+w.bs], nil
}
