package journal

import (
	"fmt"

	"ext4box/blockdev"
)

// homeBytes is how much is written home in one piece at most.
const homeBytes = 1 << 20

// buffers recycles what is written from.
var buffers blockdev.BufferPool

// WriteHome writes all blocks of the replay to dev, the filesystem's device, in
// ascending order and with neighbours together, and flushes it. It may be
// repeated, also after a crash in the middle, until [Journal.Reset] has been
// called, which has to follow; fast commits are replayed between the two.
func (r *Replay) WriteHome(dev blockdev.Device) error {
	buf := buffers.Get(homeBytes)
	defer buffers.Put(buf)
	bs := r.blockSize
	for i := 0; i < len(r.redirects); {
		first, n := r.redirects[i].Block, 0
		for ; i < len(r.redirects) && (n+1)*bs <= len(buf); i, n = i+1, n+1 {
			d := r.redirects[i]
			if d.Block != first+uint64(n) {
				break
			}
			if err := r.readAt(d, buf[n*bs:(n+1)*bs], 0); err != nil {
				return fmt.Errorf("replay block %d of the journal: %w", d.Log, err)
			}
		}
		if _, err := dev.WriteAt(buf[:n*bs], int64(first)*int64(bs)); err != nil {
			return fmt.Errorf("replay to block %d: %w", first, err)
		}
	}
	if err := dev.Flush(); err != nil {
		return fmt.Errorf("replay: %w", err)
	}
	return nil
}

// Reset makes the log empty after r has been written home, and takes its
// numbers out of use, so that none of its blocks can ever count again. log is
// the writable form of what [Load] was given. Afterwards the journal is clean.
func (j *Journal) Reset(log LogDevice, r *Replay) error {
	return j.update(log, func(s *Superblock) {
		s.Start, s.Sequence, s.Head = 0, r.NextTID, r.Head
	})
}

// ClearErrno removes the error that aborted the journal, once it has been noted
// in the filesystem's own superblock.
func (j *Journal) ClearErrno(log LogDevice) error {
	return j.update(log, func(s *Superblock) { s.Errno = 0 })
}

// update changes the superblock, durably.
func (j *Journal) update(log LogDevice, change func(*Superblock)) error {
	raw := make([]byte, SuperblockSize)
	off := int64(j.o.Superblock) * int64(j.o.BlockSize)
	if err := readFull(j.log, raw, off); err != nil {
		return fmt.Errorf("journal superblock: %w", err)
	}
	s := j.Superblock
	s.upgrade(raw)
	change(&s)
	s.encode(raw)
	if _, err := log.WriteAt(raw, off); err != nil {
		return fmt.Errorf("journal superblock: %w", err)
	}
	if err := log.Flush(); err != nil {
		return fmt.Errorf("journal superblock: %w", err)
	}
	j.Superblock = s
	return nil
}
