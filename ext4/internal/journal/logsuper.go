package journal

import (
	"fmt"

	"ext4box/ext4/internal/disk"
)

// layoutOf is what the features in a superblock make of the log.
func layoutOf(s *Superblock, blockSize int) layout {
	return layout{
		blockSize: blockSize,
		wide:      s.Incompat&Incompat64Bit != 0,
		checksum:  s.ChecksumVersion(),
		seed:      disk.CRC32C(^uint32(0), s.UUID[:]),
	}
}

// startLog makes the superblock say where the log begins, if the log is empty
// so far. It is not flushed: whoever calls it is going to, before anything in
// the log counts.
func (l *Log) startLog(t *transaction) error {
	l.superMu.Lock()
	defer l.superMu.Unlock()
	if l.super.Start != 0 {
		return nil
	}
	l.super.Start, l.super.Sequence = t.start, t.tid
	return l.writeSuper()
}

// moveTail takes the transactions that are at home out of the log. What they
// lack must have been flushed home. Their space is used again only after the
// superblock with the new tail is durable: before that, a recovery would begin
// at the old tail, and must find there what was there.
//
// With empty set, a log that has nothing in it afterwards is marked empty. The
// caller holds checkpointing.
func (l *Log) moveTail(empty bool) error {
	l.superMu.Lock()
	defer l.superMu.Unlock()

	l.mu.Lock()
	n, freed := 0, 0
	for n < len(l.live) && l.live[n].pending.Load() == 0 {
		freed += l.live[n].length
		n++
	}
	s := l.super
	switch {
	case n < len(l.live):
		s.Start, s.Sequence = l.live[n].start, l.live[n].tid
	case l.committing != nil:
		s.Start, s.Sequence = l.committing.start, l.committing.tid
	case empty:
		s.Start, s.Sequence, s.Head = 0, l.running.Load().tid, l.head
	default:
		s.Start, s.Sequence = l.head, l.running.Load().tid
	}
	l.mu.Unlock()

	if n == 0 && (s.Start != 0 || l.super.Start == 0) {
		return nil
	}
	l.super = s
	if err := l.writeSuper(); err != nil {
		return err
	}
	if err := l.flushLog(); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	clear(l.live[:n])
	l.live = l.live[n:]
	l.used -= int64(freed)
	l.setLimits(l.running.Load())
	l.room.Broadcast()
	return nil
}

// writeSuper writes the superblock. superMu is locked.
func (l *Log) writeSuper() error {
	l.super.encode(l.raw)
	if _, err := l.log.WriteAt(l.raw, l.superAt); err != nil {
		return fmt.Errorf("journal superblock: %w", err)
	}
	return nil
}

// flushHome is the barrier of the filesystem's device.
func (l *Log) flushHome() error {
	if !l.barrier {
		return nil
	}
	return l.home.Flush()
}

// flushLog is the barrier of the log.
func (l *Log) flushLog() error {
	if !l.barrier {
		return nil
	}
	return l.log.Flush()
}
