package check

import "ext4box/ext4/internal/disk"

// walkExtents is walkMap for an extent tree.
func (c *checker) walkExtents(in *inode, problem mapProblem, fn func(mapping) bool) error {
	root := disk.DecodeExtentHeader(in.Block[:])
	if root.Magic != disk.ExtentMagic || root.Depth > disk.ExtentMaxDepth || root.Max == 0 ||
		int(root.Max) > disk.ExtentNodeCapacity(disk.InodeBlockSize)+1 || root.Entries > root.Max {
		problem(ExtentRootInvalid, 0, "has an extent tree whose root is invalid")
		return nil
	}
	w := &extentWalk{c: c, in: in, problem: problem, fn: fn, left: 1 << 32}
	return w.node(in.Block[:], 0, int(root.Depth), 0, 1<<32)
}

// extentWalk is a walk of one extent tree.
type extentWalk struct {
	c       *checker
	in      *inode
	problem mapProblem
	fn      func(mapping) bool
	left    uint64
	stopped bool
}

// node goes through a node whose header is sound, at block blk, which may have the
// file blocks [lo, hi).
func (w *extentWalk) node(b []byte, blk uint64, depth int, lo, hi uint64) error {
	h := disk.DecodeExtentHeader(b)
	for i := range int(h.Entries) {
		if w.stopped {
			return nil
		}
		entry := b[disk.ExtentHeaderSize+i*disk.ExtentEntrySize:]
		if depth == 0 {
			lo = w.extent(disk.DecodeExtent(entry), blk, lo, hi)
			continue
		}
		x := disk.DecodeExtentIndex(entry)
		end := hi
		if i+1 < int(h.Entries) {
			end = min(hi, uint64(disk.DecodeExtentIndex(entry[disk.ExtentEntrySize:]).Block))
		}
		if err := w.index(x, blk, depth, lo, end); err != nil {
			return err
		}
		lo = max(lo, uint64(x.Block)+1)
	}
	return nil
}

// extent examines one extent and returns the first file block behind it.
func (w *extentWalk) extent(e disk.Extent, blk, lo, hi uint64) uint64 {
	g := &w.c.geo
	first, n := uint64(e.Block), uint64(e.Len)
	bad := func(class Class, what string) uint64 {
		w.problem(class, blk, "%s (logical block %d, physical block %d, length %d)", what, first, e.Start, n)
		return lo
	}
	switch {
	case e.Start < uint64(g.FirstDataBlock) || e.Start >= g.BlocksCount:
		return bad(ExtentBadStart, "has an invalid extent")
	case first < lo:
		return bad(ExtentOutOfOrder, "has out of order extents")
	case e.End() > hi:
		return bad(ExtentOutOfBounds, "has an extent that ends beyond the range of its node")
	case n == 0:
		return bad(ExtentEmpty, "has an extent of length zero")
	case n > g.BlocksCount-e.Start:
		return bad(ExtentEndsBeyond, "has an extent that ends beyond the filesystem")
	}
	if !w.fn(mapping{logical: first, start: e.Start, n: n, unwritten: e.Unwritten}) {
		w.stopped = true
	}
	return e.End()
}

// index examines an inner entry and follows it.
func (w *extentWalk) index(x disk.ExtentIndex, blk uint64, depth int, lo, hi uint64) error {
	g := &w.c.geo
	first := uint64(x.Block)
	bad := func(class Class, what string) error {
		w.problem(class, blk, "%s (logical block %d, physical block %d)", what, first, x.Leaf)
		return nil
	}
	switch {
	case x.Leaf < uint64(g.FirstDataBlock) || x.Leaf >= g.BlocksCount:
		return bad(ExtentBadStart, "has an invalid extent index")
	case first < lo:
		return bad(ExtentOutOfOrder, "has out of order extent indexes")
	}
	b := make([]byte, g.BlockSize)
	switch err := w.c.readBlock(b, x.Leaf); {
	case err == errBeyond:
		return bad(ExtentNodeInvalid, "has an extent node beyond the device")
	case err != nil:
		return err
	}
	h := disk.DecodeExtentHeader(b)
	if h.Magic != disk.ExtentMagic || h.Entries > h.Max || int(h.Max) > disk.ExtentNodeCapacity(len(b)) ||
		int(h.Depth) != depth-1 {
		return bad(ExtentNodeInvalid, "has an invalid extent node")
	}
	if h.Entries > 0 && uint64(le32(b[disk.ExtentHeaderSize:])) != first {
		return bad(ExtentIndexStart, "has an extent index that does not start where its node does")
	}
	if !w.fn(mapping{logical: first, start: x.Leaf, n: 1, node: true}) {
		return nil
	}
	return w.node(b, x.Leaf, depth-1, first, hi)
}
