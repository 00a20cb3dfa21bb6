package journal

import (
	"ext4box/ext4/internal/buffer"
	"ext4box/internal/spin"
)

const (
	shardBits   = 5
	shards      = 1 << shardBits
	keptEntries = 256 // unused ones that a shard keeps for later
)

// shard is a part of the table of the blocks that the log is concerned with.
type shard struct {
	mu      spin.Mutex
	index   map[uint64]*entry
	dirty   []*entry            // what the running transaction has, in the order it came
	revoked map[uint64]struct{} // what the running transaction revokes
	unused  []*entry
	_       [64]byte // keeps the mutexes of neighbours off one cache line
}

// entry is a block that is in a transaction, or not at home yet. All fields but
// the first are guarded by the mutex of shard.
//
// The three transactions are in the order of age, the youngest first. A block
// whose running or committing is set must not be written home from its buffer,
// which has changes that are not durable.
type entry struct {
	shard *shard // does not change

	block      uint64
	buf        *buffer.Buffer // pinned; nil once the block is forgotten
	running    *transaction
	committing *transaction
	behind     *transaction // the last committed transaction that logged it and that home does not have
	counted    bool         // running has room for it
}

func (l *Log) shardOf(block uint64) *shard {
	return &l.shards[block*0x9E3779B97F4A7C15>>(64-shardBits)]
}

// add returns a new entry for the block. The shard is locked.
func (s *shard) add(block uint64) *entry {
	var e *entry
	if n := len(s.unused); n > 0 {
		e, s.unused = s.unused[n-1], s.unused[:n-1]
	} else {
		e = &entry{shard: s}
	}
	e.block = block
	s.index[block] = e
	return e
}

// enter makes e part of the running transaction. The shard is locked.
func (e *entry) enter(t *transaction) {
	if e.running == t {
		return
	}
	e.running, e.counted = t, false
	e.shard.dirty = append(e.shard.dirty, e)
}

// hold makes b the entry's buffer. The shard is locked.
func (e *entry) hold(b *buffer.Buffer) {
	if e.buf != nil {
		e.buf.Unpin()
	}
	b.Pin()
	e.buf = b
}

// drop lets go of the entry's buffer. The shard is locked.
func (e *entry) drop() {
	if e.buf != nil {
		e.buf.Unpin()
		e.buf = nil
	}
}

// release removes the entry if nothing needs it any longer. The shard is locked.
func (e *entry) release() {
	if e.running != nil || e.committing != nil || e.behind != nil {
		return
	}
	s := e.shard
	delete(s.index, e.block)
	e.drop()
	if len(s.unused) < keptEntries {
		s.unused = append(s.unused, e)
	}
}

// detach ends that home lacks something. The shard is locked.
func (e *entry) detach() {
	if e.behind != nil {
		e.behind.pending.Add(-1)
		e.behind = nil
	}
}
