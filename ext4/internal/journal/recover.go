package journal

import (
	"cmp"
	"slices"

	"ext4box/ext4/internal/disk"
)

// defaultMaxLogged is how many logged blocks there are in the largest journal that
// mke2fs makes.
const defaultMaxLogged = 10240000

// later reports whether tid a comes at or after tid b. Transaction numbers wrap
// around, and 0 is one of them.
func later(a, b uint32) bool { return int32(a-b) >= 0 }

// logged is a block in the log, as a tag describes it.
type logged struct {
	home     uint64 // block on the filesystem's device
	at       uint32 // block of the log
	tid      uint32
	checksum uint32
	escaped  bool
	revoked  bool
}

// recovery is the work of one call of Recover.
type recovery struct {
	j   *Journal
	win window

	// What scan finds.
	end    uint32 // tid that the log ends in front of
	head   uint32 // log block behind the last commit
	logged int    // logged blocks of the transactions before end

	// What collect finds, in the order of the log.
	blocks []logged

	// What revoke finds.
	byHome  []uint32          // indices into blocks, by home block and then by age
	revoked map[uint32]uint32 // from the place in byHome where a block begins to the last tid that revokes it
	records int               // revoke records read
}

// Recover finds out what a replay of the log would change. It reads the log and
// nothing else, and writes nothing. A clean journal gives an empty Replay.
//
// The rules are the kernel's. The log ends in front of the first transaction
// that has no commit block. Where a checksum of the last transactions is
// wrong, it depends: stale blocks from an earlier life of the log, which their
// commit time gives away, and, with asynchronous commits, a transaction whose
// commit block overtook the rest, end the log as well; anything else is
// corruption, and an error.
func (j *Journal) Recover() (*Replay, error) {
	s := &j.Superblock
	if j.Clean() {
		return &Replay{
			blockSize: j.o.BlockSize, log: j.log,
			EndTID: s.Sequence, NextTID: s.Sequence + 1, Head: s.Head,
		}, nil
	}
	rc := &recovery{
		j: j,
		win: window{
			log: j.log, bs: j.o.BlockSize, end: uint64(s.MaxLen),
			buf: make([]byte, max(windowBytes, j.o.BlockSize)),
		},
	}
	for _, pass := range []func() error{rc.scan, rc.collect, rc.revoke, rc.verify} {
		if err := pass(); err != nil {
			return nil, err
		}
	}
	return rc.result(), nil
}

// cursor walks over the log in the order in which it was written.
type cursor struct {
	rc   *recovery
	next uint32 // log block to be read next
	tid  uint32 // expected number of the current transaction
	left uint32 // blocks until the start would come again
}

func (rc *recovery) cursor() cursor {
	s := &rc.j.Superblock
	return cursor{rc: rc, next: s.Start, tid: s.Sequence, left: rc.j.last - s.First}
}

// advance steps over n blocks. It returns false where they are not there: a log
// that fills its area to the last block ends where it started, and so does one
// that is a lie.
func (c *cursor) advance(n uint32) bool {
	if n > c.left {
		c.left = 0
		return false
	}
	c.left -= n
	next := uint64(c.next) + uint64(n)
	if next >= uint64(c.rc.j.last) {
		next -= uint64(c.rc.j.last - c.rc.j.Superblock.First)
	}
	c.next = uint32(next)
	return true
}

// control reads the next block as one of the journal's own, of the current
// transaction. kind is 0 at the end of the log.
func (c *cursor) control() (kind BlockType, b []byte, err error) {
	at := c.next
	if !c.advance(1) {
		return 0, nil, nil
	}
	if b, err = c.rc.win.block(at); err != nil {
		return 0, nil, err
	}
	var h Header
	if !h.Decode(b) || h.Sequence != c.tid {
		return 0, nil, nil
	}
	switch h.Type {
	case DescriptorBlock, RevokeBlock, CommitBlock:
		return h.Type, b, nil
	}
	return 0, nil, nil
}

// inLog tells whether the current transaction is one that has been committed.
func (c *cursor) inLog() bool { return !later(c.tid, c.rc.end) }

// collect lists the logged blocks of the committed transactions.
func (rc *recovery) collect() error {
	limit := defaultMaxLogged
	if rc.j.o.MaxLogged > 0 {
		limit = min(limit, rc.j.o.MaxLogged)
	}
	if rc.logged > limit/max(1, rc.j.o.BlockSize/4096) {
		return disk.Corruptf("journal", "%d logged blocks are more than there is memory for; recover it with e2fsck, or with a higher memlimit=", rc.logged)
	}
	rc.blocks = make([]logged, 0, rc.logged)
	l := &rc.j.layout
	c := rc.cursor()
	for c.inLog() {
		kind, b, err := c.control()
		if err != nil {
			return err
		}
		switch kind {
		case DescriptorBlock:
			var t Tag
			for r := l.tags(b); r.next(&t); {
				at := c.next
				if !c.advance(1) || len(rc.blocks) == rc.logged {
					return errUnsteady
				}
				rc.blocks = append(rc.blocks, logged{
					home: t.Block, at: at, tid: c.tid, checksum: t.Checksum, escaped: t.Flags&TagEscape != 0,
				})
			}
		case CommitBlock:
			c.tid++
		case RevokeBlock:
		default:
			return errUnsteady
		}
	}
	rc.byHome = make([]uint32, len(rc.blocks))
	for i := range rc.byHome {
		rc.byHome[i] = uint32(i)
	}
	slices.SortFunc(rc.byHome, func(a, b uint32) int {
		if d := cmp.Compare(rc.blocks[a].home, rc.blocks[b].home); d != 0 {
			return d
		}
		return cmp.Compare(a, b)
	})
	return nil
}

// revoke reads the revoke records of the committed transactions. A record
// matters only to blocks that are in the log, so what is kept is bounded by
// the number of those, not by the number of records.
func (rc *recovery) revoke() error {
	l := &rc.j.layout
	c := rc.cursor()
	rc.revoked = make(map[uint32]uint32)
	for c.inLog() {
		kind, b, err := c.control()
		if err != nil {
			return err
		}
		switch kind {
		case DescriptorBlock:
			if !c.advance(l.countTags(b)) {
				return errUnsteady
			}
		case CommitBlock:
			c.tid++
		case RevokeBlock:
			err := l.revoked(b, func(home uint64) {
				rc.records++
				i, found := slices.BinarySearchFunc(rc.byHome, home, func(i uint32, home uint64) int {
					return cmp.Compare(rc.blocks[i].home, home)
				})
				if found {
					rc.revoked[uint32(i)] = c.tid // tids only grow
				}
			})
			if err != nil {
				return err
			}
		default:
			return errUnsteady
		}
	}
	for i := 0; i < len(rc.byHome); {
		until, any := rc.revoked[uint32(i)]
		home := rc.blocks[rc.byHome[i]].home
		for ; i < len(rc.byHome) && rc.blocks[rc.byHome[i]].home == home; i++ {
			b := &rc.blocks[rc.byHome[i]]
			b.revoked = any && later(until, b.tid)
		}
	}
	return nil
}

// verify checks every block that is going to be replayed, in the order of the
// log. Older versions of a block are checked too, as the kernel does: where
// one is damaged the rest of the log deserves no trust.
func (rc *recovery) verify() error {
	l := &rc.j.layout
	for i := range rc.blocks {
		b := &rc.blocks[i]
		if b.revoked {
			continue
		}
		if b.home >= rc.j.o.DeviceBlocks {
			return disk.Corruptf("journal", "transaction %d has block %d, but the device ends at %d",
				b.tid, b.home, rc.j.o.DeviceBlocks)
		}
		if !l.perBlock() {
			continue
		}
		data, err := rc.win.block(b.at)
		if err != nil {
			return err
		}
		if !l.checkLogged(data, b.tid, b.checksum) {
			return disk.Corruptf("journal", "transaction %d is corrupt: the checksum of block %d, at %d in the log, is wrong",
				b.tid, b.home, b.at)
		}
	}
	return nil
}

// result makes the table of redirections.
func (rc *recovery) result() *Replay {
	s := &rc.j.Superblock
	r := &Replay{
		blockSize:    rc.j.o.BlockSize,
		log:          rc.j.log,
		Dirty:        true,
		Transactions: rc.end - s.Sequence,
		Logged:       len(rc.blocks),
		Revokes:      rc.records,
		EndTID:       rc.end,
		NextTID:      rc.end + 1,
		Head:         rc.head,
	}
	for i, at := range rc.byHome {
		b := &rc.blocks[at]
		if b.revoked {
			r.Revoked++
			continue
		}
		if i+1 < len(rc.byHome) {
			// Within a block's entries the revoked ones are the oldest.
			if rc.blocks[rc.byHome[i+1]].home == b.home {
				continue
			}
		}
		r.redirects = append(r.redirects, Redirect{Block: b.home, Log: b.at, Escaped: b.escaped})
	}
	return r
}

// errUnsteady cannot come from any log that stays as it is, because scan has
// been over it already.
var errUnsteady = disk.Corruptf("journal", "the log changes while it is being read")
