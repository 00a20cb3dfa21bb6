package fuse

import "sync/atomic"

// OpStat counts the requests of one kind.
type OpStat struct {
	Op     Opcode // 0 for all that are unknown
	Count  uint64
	Errors uint64 // answered with an errno, ENOENT and ENOSYS included
}

// Stats are the counters of a session. They are read one by one while requests go on.
type Stats struct {
	Ops       []OpStat // those that occurred, by opcode
	Malformed uint64   // requests that the kernel should not have sent
	Panics    uint64   // operations that panicked
}

// counters are kept per worker, so that counting is uncontended.
type counters struct {
	ops       [opCount]struct{ count, errors atomic.Uint64 }
	malformed atomic.Uint64
	panics    atomic.Uint64
}

func (c *counters) count(op Opcode, failed bool) {
	i := op.index()
	c.ops[i].count.Add(1)
	if failed {
		c.ops[i].errors.Add(1)
	}
}

// add moves on what other has counted.
func (c *counters) add(other *counters) {
	for i := range c.ops {
		c.ops[i].count.Add(other.ops[i].count.Load())
		c.ops[i].errors.Add(other.ops[i].errors.Load())
	}
	c.malformed.Add(other.malformed.Load())
	c.panics.Add(other.panics.Load())
}

// Stats adds up the counters of all workers.
func (s *Session) Stats() Stats {
	var sum counters
	s.mu.Lock()
	sum.add(&s.retired)
	for _, w := range *s.workers.Load() {
		sum.add(&w.stats)
	}
	s.mu.Unlock()
	st := Stats{Malformed: sum.malformed.Load(), Panics: sum.panics.Load()}
	for i := range sum.ops {
		if n := sum.ops[i].count.Load(); n != 0 {
			st.Ops = append(st.Ops, OpStat{Op: opcodeAt(i), Count: n, Errors: sum.ops[i].errors.Load()})
		}
	}
	return st
}
