package journal

import "ext4box/ext4/internal/disk"

// scanner finds the end of the log.
type scanner struct {
	*cursor
	l *layout

	tags     int    // logged blocks of the current transaction
	suspect  bool   // one of the current transaction's own blocks has a wrong checksum
	sum      uint32 // v1: checksum of the current transaction so far
	lastTime uint64 // commit time of the transaction before, in seconds
	ended    bool   // the end is known, what follows decides whether it can be believed
}

// scan finds the end of the log: the first transaction without a good commit
// block.
func (rc *recovery) scan() error {
	c := rc.cursor()
	rc.end, rc.head = c.tid, c.next
	s := scanner{cursor: &c, l: &rc.j.layout, sum: ^uint32(0)}
	for {
		kind, b, err := s.control()
		if err != nil {
			return err
		}
		switch kind {
		case DescriptorBlock:
			s.suspect = s.suspect || !s.l.checkTail(b)
			if err := s.passLogged(b); err != nil {
				return err
			}
		case RevokeBlock:
			s.suspect = s.suspect || !s.l.checkTail(b)
		case CommitBlock:
			if more, err := s.commit(b); err != nil || !more {
				return err
			}
		default:
			return nil
		}
	}
}

// passLogged steps over the blocks that the descriptor block b describes. Where
// they are not there the log ends, which the next step finds out.
func (s *scanner) passLogged(b []byte) error {
	n := s.l.countTags(b)
	s.tags += int(n)
	if s.l.checksum != ChecksumV1 || s.ended {
		s.advance(n)
		return nil
	}
	s.sum = crc32BE(s.sum, b)
	for range n {
		at := s.next
		if !s.advance(1) {
			return nil
		}
		data, err := s.rc.win.block(at)
		if err != nil {
			return err
		}
		s.sum = crc32BE(s.sum, data)
	}
	return nil
}

// commit judges the current transaction by its commit block b. more is false
// where the log ends.
func (s *scanner) commit(b []byte) (more bool, err error) {
	var c Commit
	c.Decode(b)
	switch {
	case s.ended:
		// The bad transaction was not the last one after all.
		return false, corruptTransaction(s.rc.end)
	case !s.suspect && s.good(b, &c):
		s.lastTime, s.sum = c.Sec, ^uint32(0)
		s.tid++
		s.rc.end, s.rc.head = s.tid, s.next
		s.rc.logged += s.tags
		s.tags = 0
		return true, nil
	case c.Sec < s.lastTime:
		// Left over from an earlier life of the log, whose numbers happen to
		// go on where the ones of this life end.
		return false, nil
	case s.suspect, s.rc.j.Superblock.Incompat&IncompatAsyncCommit == 0:
		return false, corruptTransaction(s.tid)
	}
	// The commit block may have reached the disk before the rest did. A v1
	// journal can be asked whether another transaction was committed behind
	// it, which means that it had been complete and was damaged later; the
	// kernel does not ask a v2 or v3 journal.
	s.ended = true
	s.tid++
	return s.l.checksum == ChecksumV1, nil
}

// good verifies the checksum in a commit block.
func (s *scanner) good(b []byte, c *Commit) bool {
	if s.l.checksum != ChecksumV1 {
		return s.l.checkCommit(b, c)
	}
	unused := c.ChecksumType == 0 && c.ChecksumSize == 0 && c.Checksum == 0
	return unused || c.ChecksumType == commitCRC32 && c.ChecksumSize == commitCRC32Size && c.Checksum == s.sum
}

func corruptTransaction(tid uint32) error {
	return disk.Corruptf("journal", "transaction %d is corrupt: its checksum is wrong", tid)
}
