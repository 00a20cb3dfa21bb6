package journal

import (
	"fmt"
	"syscall"

	"ext4box/ext4/internal/buffer"
)

// Credits are the most that a handle needs: an upper bound, computed before it
// begins. What it does not use it gives back.
type Credits struct {
	Blocks  int // different blocks modified or created
	Revokes int // blocks forgotten
}

// CreditError says that an operation needed more than it had asked for, which is
// a mistake in the computation of its credits. It unwraps to ENOSPC.
type CreditError struct {
	Asked Credits
	What  string // what it has too few of
}

func (e *CreditError) Error() string {
	return fmt.Sprintf("journal: an operation asked for room for %d blocks and %d revokes and needs more %s",
		e.Asked.Blocks, e.Asked.Revokes, e.What)
}

// Unwrap makes errors.Is(err, syscall.ENOSPC) true.
func (e *CreditError) Unwrap() error { return syscall.ENOSPC }

// Handle is one operation's part in a transaction: all that is changed through
// it becomes durable at once, or not at all. It implements [buffer.Tx]. A
// Handle belongs to one goroutine and must not be used after End. A goroutine
// must not begin a second one before it has ended the first.
type Handle struct {
	log   *Log
	txn   *transaction
	asked Credits
	left  Credits
	err   error

	changed bool
}

var _ buffer.Tx = (*Handle)(nil)

// Begin opens a handle in the running transaction. It waits while that one is
// being closed, or is too full, or the log is. It fails with an error that is
// EROFS after an abort or Close, with [ErrFrozen] between Freeze and Thaw, and with
// ENOSPC for credits beyond [Log.MaxCredits].
func (l *Log) Begin(c Credits) (*Handle, error) {
	if l.stopped.Load() != nil {
		return nil, l.beginErr()
	}
	t := l.running.Load()
	if !t.join(c) {
		var err error
		if t, err = l.waitToJoin(c); err != nil {
			return nil, err
		}
	}
	if l.frozen.Load() {
		// Whoever set this either sees the handle and waits for it, or is seen.
		t.leave(c.Blocks, c.Revokes)
		return nil, ErrFrozen
	}
	l.opened.Add(1)
	h := l.handles.Get().(*Handle)
	*h = Handle{log: l, txn: t, asked: c, left: c}
	return h, nil
}

// waitToJoin is the part of Begin that waits.
func (l *Log) waitToJoin(c Credits) (*transaction, error) {
	if l.cost(c.Blocks, c.Revokes) > l.max {
		return nil, fmt.Errorf("journal: an operation on %d blocks is too large for a log of %d: %w", c.Blocks, l.last-l.first, syscall.ENOSPC)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for {
		if l.stopped.Load() != nil {
			return nil, l.beginErr()
		}
		if l.frozen.Load() {
			return nil, ErrFrozen
		}
		t := l.running.Load()
		if t.join(c) {
			return t, nil
		}
		w := word(t.state.Load())
		switch {
		case w.closed():
			// The next transaction begins soon.
		case t.limit.Load() < l.max && w.handles() < maxHandles:
			// It is the log that is full. Should the checkpoint need this
			// transaction out of the way, it will see to that.
			kick(l.kickCheckpoint)
		default:
			l.request(t)
		}
		l.room.Wait()
	}
}

// End closes the handle. The changes are durable only after [Log.Commit] of the
// handle's TID. An error says that they will never be.
func (h *Handle) End() error {
	l, t, err := h.log, h.txn, h.err
	w := t.leave(max(h.left.Blocks, 0), max(h.left.Revokes, 0))
	if l.cost(w.blocks(), w.revokes()) > l.max/2 {
		l.request(t) // so that it is rare to have to wait for a full one
	}
	if err == nil && l.stopped.Load() != nil {
		err = l.abortErr(syscall.EROFS)
	}
	*h = Handle{}
	l.handles.Put(h)
	return err
}

// TID implements [buffer.Tx].
func (h *Handle) TID() uint32 { return h.txn.tid }

// Changed tells whether anything was changed through the handle.
func (h *Handle) Changed() bool { return h.changed }

// OnCommit implements [buffer.Tx]. fn runs on the journal's own goroutine. It
// must be quick, and must not wait for the journal or open a handle.
func (h *Handle) OnCommit(fn func()) { h.txn.onCommit(fn) }

// Modify implements [buffer.Tx]. It fails after an abort, with a [CreditError],
// or with EIO for a buffer that is not the one the transaction has.
func (h *Handle) Modify(b *buffer.Buffer) error {
	s := h.log.shardOf(b.Block)
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.index[b.Block]
	if e != nil && e.running == h.txn && e.buf == b {
		h.changed = true
		return nil
	}
	if e != nil && e.buf != nil && e.buf != b {
		return fmt.Errorf("journal: block %d is changed in an outdated buffer: %w", b.Block, syscall.EIO)
	}
	return h.enter(s, e, b)
}

// New implements [buffer.Tx].
func (h *Handle) New(blk uint64, tag buffer.Tag) (*buffer.Buffer, error) {
	b := h.log.cache.New(blk, tag)
	b.Pin()
	defer b.Unpin()
	for !h.log.cache.Has(blk) {
		// It was evicted before it was pinned.
		b.Unpin()
		b = h.log.cache.New(blk, tag)
		b.Pin()
	}
	s := h.log.shardOf(blk)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := h.enter(s, s.index[blk], b); err != nil {
		return nil, err
	}
	return b, nil
}

// enter puts b into the transaction. The shard is locked.
func (h *Handle) enter(s *shard, e *entry, b *buffer.Buffer) error {
	if h.log.stopped.Load() != nil {
		return h.log.beginErr()
	}
	if e == nil || e.running != h.txn || !e.counted {
		if h.left.Blocks--; h.left.Blocks < 0 {
			if err := h.extend(1, 0, "blocks"); err != nil {
				return err
			}
		}
	}
	if e == nil {
		e = s.add(b.Block)
	}
	h.changed = true
	e.enter(h.txn)
	e.counted = true
	if e.buf != b {
		e.hold(b)
	}
	// What is logged is not revoked: a revoke record holds for its own
	// transaction too.
	delete(s.revoked, b.Block)
	return nil
}

// Forget implements [buffer.Tx].
//
// Until the transaction is durable the block is still what it was before, and
// must come back after a crash. So an older version that is not at home yet
// stays in the log, and keeps the tail from moving over it; the entry, now
// without a buffer, waits for the commit.
func (h *Handle) Forget(blk uint64) {
	l := h.log
	h.changed = true
	s := l.shardOf(blk)
	s.mu.Lock()
	if e := s.index[blk]; e != nil {
		e.enter(h.txn)
		e.drop()
	}
	var err error
	if _, again := s.revoked[blk]; !again && l.log != nil {
		if h.left.Revokes--; h.left.Revokes < 0 {
			err = h.extend(0, 1, "revokes")
		}
		s.revoked[blk] = struct{}{}
	}
	s.mu.Unlock()
	l.cache.Drop(blk)
	if err != nil && h.err == nil {
		h.err = err
	}
}

// extend is for a handle that needs more than it asked for. Where the log has
// no room either, the operation can neither go on nor be undone; the abort
// makes sure that no part of it is ever seen.
func (h *Handle) extend(blocks, revokes int, what string) error {
	if !h.log.strict && h.txn.extend(blocks, revokes) {
		h.log.overruns.Add(1)
		return nil
	}
	err := &CreditError{Asked: h.asked, What: what}
	if h.err == nil {
		h.err = err
	}
	// Not Abort, which does I/O: a shard is locked here.
	h.log.stop(err)
	return err
}
