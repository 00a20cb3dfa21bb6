package check

import "ext4box/ext4/internal/disk"

// walkExtents is walkMap for an extent tree.
func (c *checker) walkExtents(in *inode, problem mapProblem, fn func(mapping) bool) error {
	if !headerSound(in.Block[:]) {
		problem(ExtentRootInvalid, 0, "has a corrupt extent header")
		return nil
	}
	depth := disk.DecodeExtentHeader(in.Block[:]).Depth
	if depth >= disk.ExtentMaxDepth {
		problem(ExtentTreeShape, 0, "has an extent tree that could be more shallow (%d; could be <= %d)", depth, disk.ExtentMaxDepth-1)
		return nil
	}
	blocks := (in.Size + uint64(c.geo.BlockSize) - 1) >> c.geo.BlockBits
	w := &extentWalk{c: c, in: in, problem: problem, fn: fn, eof: blocks}
	if in.Size > 1<<62 {
		w.eof = 1 << 50
	}
	w.node(in.Block[:], 0, int(depth), 0, w.eof, 0)
	// The shape is told of last, if nothing else was wrong.
	if w.err == nil && !w.stopped && depth > 0 && w.second+int(disk.DecodeExtentHeader(in.Block[:]).Entries)-1 <= 4 && w.first < 2 {
		problem(ExtentTreeShape, 0, "has an extent tree (at level %d) that could be shorter", 1)
	}
	return w.err
}

// extentWalk is a walk of one extent tree.
type extentWalk struct {
	c       *checker
	in      *inode
	problem mapProblem
	fn      func(mapping) bool
	eof     uint64 // file blocks that the size has
	next    uint64 // file block behind the last extent
	prev    disk.Extent
	first   int // entries of the root
	second  int // entries of the nodes below it
	stopped bool
	err     error

	problems int // that were told
}

// node goes through a node whose header is sound, at block blk, which may have the
// file blocks from lo on. What it leads to ends at end; last is the last block that
// it may have, unless that is 0.
func (w *extentWalk) node(b []byte, blk uint64, level int, lo, end, last uint64) {
	h := disk.DecodeExtentHeader(b)
	switch root := blk == 0; {
	case root:
		w.first = int(h.Entries)
	case level == int(disk.DecodeExtentHeader(w.in.Block[:]).Depth)-1:
		w.second += int(h.Entries)
	}
	w.next = max(w.next, lo)
	for i := range int(h.Entries) {
		if w.stopped || w.err != nil {
			return
		}
		entry := b[disk.ExtentHeaderSize+i*disk.ExtentEntrySize:]
		if level == 0 {
			w.extent(disk.DecodeExtent(entry), blk, last)
			continue
		}
		x := disk.DecodeExtentIndex(entry)
		below := end
		if i+1 < int(h.Entries) {
			below = uint64(disk.DecodeExtentIndex(entry[disk.ExtentEntrySize:]).Block)
		}
		w.index(x, blk, level, lo, below)
		lo = uint64(x.Block) + 1
	}
}

// extent examines one extent of the node in block blk.
func (w *extentWalk) extent(e disk.Extent, blk, last uint64) {
	g := &w.c.geo
	first, n := uint64(e.Block), uint64(e.Len)
	bad := func(class Class, what string) {
		w.problems++
		w.problem(class, blk, "%s (logical block %d, physical block %d, length %d)", what, first, e.Start, n)
	}
	switch {
	case e.Start < uint64(g.FirstDataBlock) || e.Start == 0 || e.Start >= g.BlocksCount:
		bad(ExtentBadStart, "has an invalid extent")
		return
	case first < w.next && w.prev.Len > 0 && first > uint64(w.prev.Block) && e.End() > w.prev.End():
		bad(ExtentDuplicate, "has a duplicate extent mapping")
		return
	case first < w.next:
		bad(ExtentOutOfOrder, "has out of order extents")
		return
	case last > 0 && n > 0 && e.End()-1 > last && !(e.Unwritten && e.End() > w.eof):
		bad(ExtentOutOfBounds, "has an extent whose end exceeds the allowed value")
		return
	case n == 0:
		bad(ExtentEmpty, "has an extent of length zero")
		return
	case n > g.BlocksCount-e.Start:
		bad(ExtentEndsBeyond, "has an invalid extent")
		return
	}
	if !w.fn(mapping{logical: first, start: e.Start, n: n, unwritten: e.Unwritten}) {
		w.stopped = true
	}
	w.prev, w.next = e, e.End()
}

// index examines an inner entry of the node in block blk and follows it.
func (w *extentWalk) index(x disk.ExtentIndex, blk uint64, level int, lo, end uint64) {
	g := &w.c.geo
	first := uint64(x.Block)
	bad := func(class Class, what string) {
		w.problems++
		w.problem(class, blk, "%s (logical block %d, physical block %d)", what, first, x.Leaf)
	}
	switch {
	case x.Leaf < uint64(g.FirstDataBlock) || x.Leaf == 0 || x.Leaf >= g.BlocksCount:
		bad(ExtentBadStart, "has an invalid extent index")
		return
	case first < lo:
		bad(ExtentOutOfOrder, "has out of order extent indexes")
		return
	}
	if !w.fn(mapping{logical: first, start: x.Leaf, n: 1, node: true}) {
		return
	}
	b := make([]byte, g.BlockSize)
	if err := w.c.readBlock(b, x.Leaf); err != nil {
		if err != errBeyond {
			w.err = err
			return
		}
		bad(ExtentNodeInvalid, "has an extent node beyond the device")
		return
	}
	h := disk.DecodeExtentHeader(b)
	stored, computed, room := disk.ExtentBlockChecksum(w.in.seed, b)
	wrong := w.c.sums.Metadata && (!room || stored != computed)
	if !headerSound(b) {
		bad(ExtentNodeInvalid, "has an invalid extent node")
		return
	}
	if h.Entries > 0 && uint64(le32(b[disk.ExtentHeaderSize:])) != first {
		bad(ExtentIndexStart, "has an interior extent node that does not start where its child does")
		return
	}
	// As long as the file has blocks for it: e2fsck computes with 32 bits.
	last := first + uint64(uint32(end-first)) - 1
	// e2fsck does not look at the depth that a node says it has. The kernel does.
	problems, deep := w.problems, int(h.Depth) != level-1
	w.node(b, x.Leaf, level-1, first, end, last)
	switch told := w.problems > problems || w.stopped || w.err != nil; {
	case told:
	case deep:
		bad(ExtentNodeInvalid, "has an extent node of a wrong depth")
	case wrong:
		bad(ExtentBlockChecksum, "has an extent block that passes checks, but whose checksum does not match")
	}
}
