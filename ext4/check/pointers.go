package check

// walkPointers is walkMap for a map of direct and indirect blocks.
func (c *checker) walkPointers(in *inode, problem mapProblem, fn func(mapping) bool) error {
	w := &pointerWalk{c: c, in: in, problem: problem, fn: fn, per: uint64(c.geo.BlockSize / 4)}
	if err := w.list(in.Block[:48], 0, 0, 0); err != nil {
		return err
	}
	first, span := uint64(12), uint64(1)
	for level := 1; level <= 3; level++ {
		// One pointer, to a tree of so many levels.
		if err := w.list(in.Block[44+4*level:48+4*level], 0, level, first); err != nil {
			return err
		}
		span *= w.per
		first += span
	}
	w.flush()
	return nil
}

// pointerWalk is a walk of one map of pointers.
type pointerWalk struct {
	c       *checker
	in      *inode
	problem mapProblem
	fn      func(mapping) bool
	per     uint64 // pointers in a block
	run     mapping
	stopped bool
}

// list goes through pointers to trees of so many levels, which are in block blk
// and stand for the file's blocks from first on.
func (w *pointerWalk) list(b []byte, blk uint64, level int, first uint64) error {
	g := &w.c.geo
	span := uint64(1)
	for range level {
		span *= w.per
	}
	for i := 0; i < len(b) && !w.stopped; i += 4 {
		p, logical := uint64(le32(b[i:])), first+uint64(i/4)*span
		switch {
		case p == 0:
			continue
		case p < uint64(g.FirstDataBlock) || p >= g.BlocksCount:
			w.flush()
			w.problem(PointerIllegal, p, "has illegal block #%d (%d)", logical, p)
			continue
		case level == 0:
			w.data(logical, p)
			continue
		}
		w.flush()
		if w.stopped || !w.fn(mapping{logical: logical, start: p, n: 1, node: true}) {
			continue
		}
		node := make([]byte, g.BlockSize)
		switch err := w.c.readBlock(node, p); {
		case err == errBeyond:
			w.problem(PointerIllegal, p, "has an indirect block %d beyond the device", p)
			continue
		case err != nil:
			return err
		}
		if err := w.list(node, p, level-1, logical); err != nil {
			return err
		}
	}
	return nil
}

// data adds one block to the run that is growing.
func (w *pointerWalk) data(logical, p uint64) {
	if r := &w.run; r.n > 0 && r.logical+r.n == logical && r.start+r.n == p {
		r.n++
		return
	}
	w.flush()
	w.run = mapping{logical: logical, start: p, n: 1}
}

// flush hands the growing run over.
func (w *pointerWalk) flush() {
	if w.run.n > 0 && !w.stopped {
		w.stopped = !w.fn(w.run)
	}
	w.run.n = 0
}
