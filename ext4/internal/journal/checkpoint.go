package journal

import (
	"cmp"
	"fmt"
	"slices"
	"syscall"
)

// checkpointLoop is the goroutine that makes room in the log.
func (l *Log) checkpointLoop() {
	for {
		select {
		case <-l.kickCheckpoint:
		case <-l.dead:
			return
		case <-l.quit:
			return
		}
		if err := l.makeRoom(); err != nil {
			l.stop(err)
		}
	}
}

// makeRoom brings home what is committed, or is about to be if there is nothing
// else.
func (l *Log) makeRoom() error {
	l.mu.Lock()
	committing, idle := l.committing, len(l.live) == 0
	l.mu.Unlock()
	if idle && committing != nil {
		if err := l.wait(committing); err != nil {
			return err
		}
	}
	l.checkpointing.Lock()
	defer l.checkpointing.Unlock()
	// Those who wait for room look again even if none was made.
	defer l.wakeAll()
	return l.retire(l.committed.Load())
}

// Checkpoint commits what there is and brings it all home. If nothing has been
// changed meanwhile the log is empty afterwards, and marked so.
func (l *Log) Checkpoint() error {
	if err := l.Sync(); err != nil {
		return err
	}
	if l.log == nil {
		return nil
	}
	l.checkpointing.Lock()
	defer l.checkpointing.Unlock()
	err := l.retire(l.committed.Load())
	if err == nil {
		err = l.moveTail(true)
	}
	if err != nil {
		l.stop(err)
		return l.abortErr(syscall.EIO)
	}
	return nil
}

// retire takes the transactions up to tid out of the log. The caller holds
// checkpointing.
func (l *Log) retire(tid uint32) error {
	for {
		l.mu.Lock()
		n := 0
		for n < len(l.live) && later(tid, l.live[n].tid) {
			n++
		}
		old := slices.Clone(l.live[:n])
		l.mu.Unlock()
		if n == 0 {
			return nil
		}
		blocker, err := l.bringHome(old)
		if err != nil {
			return err
		}
		if err := l.moveTail(false); err != nil {
			return err
		}
		if blocker != nil {
			// Blocks that are being changed all the time are never fit to be
			// written home, but once the younger transaction is durable the old
			// ones need not be kept for them.
			l.request(blocker)
			if err := l.wait(blocker); err != nil {
				return err
			}
		}
	}
}

// homeless is a block that home lacks.
type homeless struct {
	block uint64
	e     *entry
	t     *transaction // what it is behind
}

// bringHome writes the last versions of the blocks of the transactions home,
// and flushes. It leaves out blocks whose last version is in a younger
// transaction that is durable, and those that are in one that is not, which it
// then returns.
func (l *Log) bringHome(old []*transaction) (blocker *transaction, err error) {
	var todo []homeless
	for _, t := range old {
		for _, e := range t.entries {
			e.shard.mu.Lock()
			if e.behind == t {
				todo = append(todo, homeless{e.block, e, t})
			}
			e.shard.mu.Unlock()
		}
	}
	if len(todo) == 0 {
		return nil, nil
	}
	slices.SortFunc(todo, func(a, b homeless) int { return cmp.Compare(a.block, b.block) })

	buf := buffers.Get(homeBytes)
	defer buffers.Put(buf)
	var written []homeless
	for i := 0; i < len(todo); {
		if err := l.Err(); err != nil {
			return nil, err
		}
		n := min(len(todo)-i, len(buf)/l.layout.blockSize)
		done, stop, err := l.writeBatch(todo[i:i+n], buf)
		if err != nil {
			return nil, err
		}
		if stop != nil {
			blocker = stop
		}
		written = append(written, done...)
		i += n
	}
	if len(written) == 0 {
		return blocker, nil
	}
	if err := l.flushHome(); err != nil {
		return nil, err
	}
	for _, h := range written {
		h.e.shard.mu.Lock()
		if h.e.behind == h.t {
			h.e.detach()
			h.e.release()
		}
		h.e.shard.mu.Unlock()
	}
	l.checkpoints.Add(1)
	l.blocksHome.Add(int64(len(written)))
	return blocker, nil
}

// writeBatch copies blocks, which are in ascending order, into buf and writes
// them from there, neighbours together. It returns those it has written, in the
// memory of todo.
func (l *Log) writeBatch(todo []homeless, buf []byte) (written []homeless, blocker *transaction, err error) {
	l.homeMu.Lock()
	defer l.homeMu.Unlock()
	if err := l.Err(); err != nil {
		return nil, nil, err
	}
	bs := l.layout.blockSize
	written = todo[:0]
	for _, h := range todo {
		s := h.e.shard
		s.mu.Lock()
		switch e := h.e; {
		case e.behind != h.t:
		case e.running != nil:
			blocker = e.running
		case e.committing != nil:
			blocker = e.committing
		default:
			// Once the shard is unlocked the buffer may be changed.
			copy(buf[len(written)*bs:], e.buf.Data)
			written = append(written, h)
		}
		s.mu.Unlock()
	}
	for i := 0; i < len(written); {
		first := i
		for i++; i < len(written) && written[i].block == written[i-1].block+1; i++ {
		}
		if _, err := l.home.WriteAt(buf[first*bs:i*bs], int64(written[first].block)*int64(bs)); err != nil {
			return nil, nil, fmt.Errorf("checkpoint: %w", err)
		}
	}
	return written, blocker, nil
}
