package journal

import (
	"cmp"
	"slices"
	"syscall"
	"time"
)

// commitLoop is the goroutine that commits, one transaction at a time.
func (l *Log) commitLoop() {
	defer l.noteAbort()
	for {
		select {
		case <-l.kickCommit:
		case <-l.dead:
			return
		case <-l.quit:
			return
		}
		if t := l.running.Load(); t.requested.Load() {
			if err := l.commit(t); err != nil {
				l.stop(err)
				t.finish(l.abortErr(syscall.EIO))
			}
		}
	}
}

// commit takes t through all states up to being durable.
func (l *Log) commit(t *transaction) error {
	t.close()
	select {
	case <-t.settled:
	case <-l.dead:
		return l.Err()
	}
	t.disarm()

	l.gather(t)
	if len(t.entries) == 0 && len(t.revokes) == 0 {
		l.mu.Lock()
		l.open(t.tid) // the numbers in the log have no gaps
		l.mu.Unlock()
		l.settle(t)
		return nil
	}
	im := l.freeze(t)
	defer im.release()
	l.openNext(t)

	write := l.writeLog
	if l.log == nil {
		write = l.writeThrough
	}
	if err := write(t, im); err != nil {
		return err
	}
	t.flushed = true
	l.commits.Add(1)
	l.blocks.Add(int64(len(t.entries)))
	l.revokes.Add(int64(len(t.revokes)))
	l.settle(t)
	return nil
}

// gather lists what is in the transaction, to which nobody can add any longer,
// and marks it as being committed.
func (l *Log) gather(t *transaction) {
	for i := range l.shards {
		s := &l.shards[i]
		s.mu.Lock()
		for _, e := range s.dirty {
			e.running, e.committing = nil, t
			if e.buf == nil {
				t.leaving = append(t.leaving, e)
			} else {
				t.entries = append(t.entries, e)
			}
		}
		clear(s.dirty)
		s.dirty = s.dirty[:0]
		for blk := range s.revoked {
			t.revokes = append(t.revokes, blk)
		}
		clear(s.revoked)
		s.mu.Unlock()
	}
}

// freeze copies the content of the transaction's blocks to where they will be in
// the log. Nobody changes them meanwhile, for there is no open handle.
//
// No lock is needed to read the fields of the entries: they are changed by
// handles, and by a checkpoint if they are not being committed.
func (l *Log) freeze(t *transaction) *image {
	if l.log == nil {
		slices.SortFunc(t.entries, func(a, b *entry) int { return cmp.Compare(a.block, b.block) })
		im := newImage(l.layout.blockSize, len(t.entries))
		for i, e := range t.entries {
			copy(im.block(i), e.buf.Data)
		}
		return im
	}
	im := newImage(l.layout.blockSize, int(l.cost(len(t.entries), len(t.revokes)))-1)
	t.length = im.blocks + 1
	for i, e := range t.entries {
		copy(im.block(l.place(t, i)), e.buf.Data)
	}
	return im
}

// place is where in its log image the i-th entry of a transaction is: behind
// the revoke blocks and, with up to as many others as its tags cover, behind a
// descriptor block.
func (l *Log) place(t *transaction, i int) int {
	records, tags := l.layout.revokesPerBlock(), l.layout.tagsPerBlock()
	return (len(t.revokes)+records-1)/records + i/tags + 1 + i
}

// openNext gives t its place in the log and opens the barrier.
func (l *Log) openNext(t *transaction) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.log != nil {
		t.start = l.head
		l.head = l.after(t.start, t.length)
		l.used += int64(t.length)
	}
	l.committing = t
	l.open(t.tid + 1)
}

// after is the place n blocks behind block in the circular log.
func (l *Log) after(block uint32, n int) uint32 {
	if left := l.last - block; uint32(n) >= left {
		return l.first + uint32(n) - left
	}
	return block + uint32(n)
}

// writeLog writes t, whose content is in im, to the log.
func (l *Log) writeLog(t *transaction, im *image) error {
	sum := l.seal(t, im)
	if err := l.startLog(t); err != nil {
		return err
	}
	at := t.start
	for _, chunk := range im.chunks {
		if err := l.append(at, chunk); err != nil {
			return err
		}
		at = l.after(at, len(chunk)/im.bs)
	}
	// What the commit block makes valid must be there before it: the log, and
	// the file data that the transaction points to.
	if err := l.flushHome(); err != nil {
		return err
	}
	if !l.shared {
		if err := l.flushLog(); err != nil {
			return err
		}
	}
	if err := l.Err(); err != nil {
		return err
	}
	block := newImage(im.bs, 1)
	defer block.release()
	now := l.commitTime()
	l.layout.commitBlock(block.block(0), t.tid, Commit{
		Checksum: sum, Sec: uint64(max(now.Unix(), 0)), Nsec: uint32(now.Nanosecond()),
	})
	if err := l.append(at, block.block(0)); err != nil {
		return err
	}
	return l.flushLog()
}

// commitTime never goes back: a commit time before that of the transaction in
// front is how a recovery tells stale blocks.
func (l *Log) commitTime() time.Time {
	if now := time.Now(); now.After(l.lastTime) {
		l.lastTime = now
	}
	return l.lastTime
}

// append writes p to the log from block at on, and around its end.
func (l *Log) append(at uint32, p []byte) error {
	bs := int64(l.layout.blockSize)
	n := min(len(p), int(int64(l.last-at)*bs))
	if _, err := l.log.WriteAt(p[:n], int64(at)*bs); err != nil {
		return err
	}
	if n == len(p) {
		return nil
	}
	_, err := l.log.WriteAt(p[n:], int64(l.first)*bs)
	return err
}

// seal makes the image what the log must have: with revoke blocks and
// descriptors, escaped, with checksums. It returns the sum of a v1 journal.
func (l *Log) seal(t *transaction, im *image) uint32 {
	lo := &l.layout
	next, sum := 0, ^uint32(0)
	for rest := t.revokes; len(rest) > 0; next++ {
		n := min(len(rest), lo.revokesPerBlock())
		lo.revoke(im.block(next), t.tid, rest[:n])
		rest = rest[n:]
	}
	for rest := t.entries; len(rest) > 0; {
		n := min(len(rest), lo.tagsPerBlock())
		descriptor := im.block(next)
		w := lo.describe(descriptor, t.tid)
		for i, e := range rest[:n] {
			data := im.block(next + 1 + i)
			flags := escape(data)
			w.add(Tag{Block: e.block, Flags: flags, Checksum: lo.sumLogged(data, t.tid)}, &l.uuid)
		}
		w.finish()
		if lo.checksum == ChecksumV1 {
			for i := range n + 1 {
				sum = crc32BE(sum, im.block(next+i))
			}
		}
		next += n + 1
		rest = rest[n:]
	}
	return sum
}

// writeThrough is the commit of a filesystem without a journal.
func (l *Log) writeThrough(t *transaction, im *image) error {
	if err := l.flushHome(); err != nil {
		return err
	}
	for i := 0; i < im.blocks; {
		first, n := i, 1
		for n < im.perChunk-first%im.perChunk && first+n < im.blocks &&
			t.entries[first+n].block == t.entries[first].block+uint64(n) {
			n++
		}
		p := im.span(first, n)
		if _, err := l.home.WriteAt(p, int64(t.entries[first].block)*int64(im.bs)); err != nil {
			return err
		}
		i += n
	}
	l.blocksHome.Add(int64(im.blocks))
	return l.flushHome()
}

// settle is for when t is durable. Blocks that it logged are now behind it, and
// no longer behind an older transaction, which need not be replayed for them.
// Blocks that it freed are of no concern any longer.
func (l *Log) settle(t *transaction) {
	if len(t.leaving) > 0 {
		// A batch on its way home may have a block that has been freed since it
		// was put together; it must not arrive after what the block is used
		// for next.
		l.homeMu.Lock()
		for _, e := range t.leaving {
			e.shard.mu.Lock()
			e.committing = nil
			e.detach()
			e.release()
			e.shard.mu.Unlock()
		}
		l.homeMu.Unlock()
	}
	for _, e := range t.entries {
		e.shard.mu.Lock()
		e.committing = nil
		e.detach()
		if l.log != nil {
			e.behind = t
			t.pending.Add(1)
		}
		e.release()
		e.shard.mu.Unlock()
	}
	t.leaving, t.revokes = nil, nil

	// Nobody adds to the callbacks without an open handle.
	for _, fn := range t.callbacks {
		fn()
	}
	t.callbacks = nil

	l.mu.Lock()
	if l.committing == t {
		l.committing = nil
		l.committed.Store(t.tid)
		if l.log != nil {
			l.live = append(l.live, t)
		}
		if l.used > l.capacity/2 {
			kick(l.kickCheckpoint)
		}
		l.room.Broadcast()
	}
	l.mu.Unlock()
	t.finish(nil)
}
