package check

import (
	"bytes"

	"ext4box/ext4/internal/disk"
	"ext4box/ext4/internal/xattr"
)

// content examines attributes, block map, size and count of blocks.
func (x *examination) content() error {
	c, in := x.c, x.in
	if err := x.xattrs(); err != nil {
		return err
	}
	// e2fsck puts these off, to read in the order of the device.
	if in.ino != disk.InoResize && !(in.IsSymlink() && in.fastSymlink()) && !in.is(disk.FlagExtents|disk.FlagInlineData) && (!isZero(in.Block[48:60]) || in.FileACL != 0) {
		x.b.putOff(le32(in.Block[48:]), uint32(in.FileACL))
		defer x.b.putOffEnd()
	}
	if err := x.xattrBlock(); err != nil {
		return err
	}
	if in.mapped() {
		if err := x.blockMap(); err != nil {
			return err
		}
	}
	if in.is(disk.FlagIndex) && !in.IsDir() {
		x.found(IndexFlagNotDir, "inode %d has the index flag, but is not a directory", in.ino)
	}
	if in.IsDir() {
		if in.is(disk.FlagIndex) {
			if c.sb.Compat&disk.CompatDirIndex == 0 {
				x.found(IndexFlagFeature, "inode %d has the index flag on a filesystem without indexes", in.ino)
			} else {
				x.fact |= factIndexed
				if err := x.indexRoot(); err != nil {
					return err
				}
			}
		}
		if x.last == 0 && !in.is(disk.FlagInlineData) && x.blocks == 0 {
			x.found(ZeroLengthDir, "inode %d is a directory of length zero", in.ino)
			return nil
		}
	}
	if err := x.symlink(); err != nil {
		return err
	}
	x.sizes()
	return nil
}

// ownsNode tells whether a node of the inode's map belongs to it. Of the resize inode
// it is the first one, the others are blocks kept for descriptors.
func (in *inode) ownsNode(blk uint64) bool {
	return in.ino != disk.InoResize || blk == uint64(le32(in.Block[52:]))
}

// eachClaim calls fn for the clusters that the map and the attribute block of an
// inode claim.
func (c *checker) eachClaim(in *inode, problem mapProblem, fn func(start, n uint64)) error {
	bits := c.geo.ClusterBits
	if in.FileACL != 0 && c.xattrPlace(in) {
		fn(in.FileACL>>bits, 1)
	}
	if !in.mapped() || in.ino == disk.InoBadBlocks {
		return nil
	}
	var cl clusters
	return c.walkMap(in, problem, func(m mapping) bool {
		if m.node {
			if in.ownsNode(m.start) {
				fn(m.start>>bits, 1)
			}
			return !c.meta.has(m.start>>bits, 1) && c.nodeOnce(m.start)
		}
		if start, n := cl.next(m, bits); n > 0 {
			fn(start, n)
		}
		return true
	})
}

// clusters turns the runs of one file into runs of clusters: what follows in the
// same cluster is not claimed again.
type clusters struct {
	any           bool
	last, logical uint64
}

func (cl *clusters) next(m mapping, bits uint) (start, n uint64) {
	first, last := m.start>>bits, (m.start+m.n-1)>>bits
	same := cl.any && bits > 0 && first == cl.last && m.logical>>bits == cl.logical
	cl.any, cl.last, cl.logical = true, last, (m.logical+m.n-1)>>bits
	if same {
		first++
	}
	return first, last + 1 - first
}

// sharedNodes is how often, in all, a node is followed that is another inode's
// already. Without a bound sharing could multiply the work.
const sharedNodes = 1 << 14

// nodeOnce tells whether a node may be followed.
func (c *checker) nodeOnce(blk uint64) bool {
	cluster, again := blk>>c.geo.ClusterBits, false
	c.nodes.add(cluster, 1, func(_, _ uint64) { again = true })
	if !c.nodes.covers(cluster) {
		// Of so many nodes it is not known which are shared, but not how many there can be.
		return uint64(c.looseNodes.Add(1)) <= c.geo.BlocksCount
	}
	if again && c.sharedNodes.Add(1) >= sharedNodes {
		c.nodesCut.Store(true)
		return false
	}
	return true
}

// firstBlock is the device block of an inode's block 0, or 0.
func (c *checker) firstBlock(in *inode) (first uint64, err error) {
	nodes := 0
	err = c.walkMap(in, nil, func(m mapping) bool {
		if m.node {
			nodes++
			return nodes <= disk.ExtentMaxDepth
		}
		if m.logical == 0 {
			first = m.start
		}
		return false
	})
	return first, err
}

// blockMap goes through the inode's block map and claims what it has.
func (x *examination) blockMap() error {
	c, in := x.c, x.in
	bits := c.geo.ClusterBits
	told := false
	problem := func(class Class, blk uint64, format string, args ...any) {
		x.illegal++
		x.fact |= factNoBlocks
		if class == PointerIllegal && !told {
			told = true
			x.found(BlocksIllegal, "inode %d has illegal blocks", in.ino)
		}
		x.b.block(class, in.ino, blk, "inode %d "+format, append([]any{in.ino}, args...)...)
	}
	claim := func(start, n uint64) {
		c.claims.add(start, n, func(start, n uint64) {
			if in.ino != disk.InoResize {
				c.claimedTwice.add(start, n, nil)
			}
		})
	}
	var cl clusters
	pointers := !in.is(disk.FlagExtents)
	if bits > 0 && pointers && in.Blocks != 0 && !x.reserved() {
		x.found(BigallocPointers, "inode %d has a block map, on a filesystem with clusters", in.ino)
	}
	x.fact &^= factNoBlocks
	next := uint64(0)
	return c.walkMap(in, problem, func(m mapping) bool {
		if m.node {
			if c.meta.has(m.start>>bits, 1) && in.ino != disk.InoResize {
				x.b.block(MetadataConflict, in.ino, m.start, "inode %d block %d conflicts with critical metadata", in.ino, m.start)
				x.fact |= factNoBlocks
				return false
			}
			if in.ownsNode(m.start) {
				claim(m.start>>bits, 1)
			}
			x.blocks += 1 << bits
			return c.nodeOnce(m.start)
		}
		if in.ino == disk.InoResize {
			// Its data are the blocks kept for descriptors.
			x.blocks += m.n
			x.last, x.lastInit = m.logical+m.n, m.logical+m.n
			return true
		}
		if pointers && in.IsSymlink() && m.logical+m.n > 1 {
			if !told {
				told = true
				x.b.block(FileTooBig, in.ino, m.start, "symbolic link inode %d has more than one block", in.ino)
			}
			if m.logical > 0 {
				return true
			}
			m.n = 1
		}
		if bits > 0 && m.start&(1<<bits-1) != m.logical&(1<<bits-1) {
			x.b.block(ClusterRule, in.ino, m.start, "inode %d block %d (at %d) violates the rules of clusters", in.ino, m.logical, m.start)
		}
		if start, n := cl.next(m, bits); n > 0 {
			claim(start, n)
			x.blocks += n << bits
		}
		if in.IsDir() {
			if m.unwritten {
				x.b.block(ExtentUnwrittenDir, in.ino, m.start, "directory inode %d has an extent marked uninitialised at block %d", in.ino, m.logical)
			}
			if m.logical != next && !pointers {
				x.b.block(DirBlockOrder, in.ino, m.start, "directory inode %d block %d should be at block %d", in.ino, m.logical, next)
			}
			next = m.logical + m.n
		}
		x.last = max(x.last, m.logical+m.n)
		if !m.unwritten {
			x.lastInit = max(x.lastInit, m.logical+m.n)
		}
		return true
	})
}

// inline examines data inside the inode, whose attributes must all be readable.
func (x *examination) inline() error {
	c, in := x.c, x.in
	if in.Size <= disk.InodeBlockSize && in.IsSymlink() {
		return nil
	}
	a, bad := xattr.Inode("", in.raw, in.ExtraIsize)
	_, ok := a.Find(disk.XattrSystem, disk.XattrSystemInline)
	if ok = ok && bad == nil; ok && in.FileACL != 0 && c.xattrPlace(in) {
		b := make([]byte, c.geo.BlockSize)
		if err := c.readBlock(b, in.FileACL); ignoreBeyond(err) != nil {
			return err
		}
		ok = disk.DecodeXattrHeader(b).Magic == disk.XattrMagic
	}
	ok = ok && (in.FileACL == 0 || c.xattrPlace(in))
	a.Each(func(at xattr.Attr) bool {
		ok = ok && (at.Ino == 0 || c.sb.Incompat&disk.IncompatEAInode != 0)
		return true
	})
	at, _ := a.Find(disk.XattrSystem, disk.XattrSystemInline)
	x.inlineSound, x.inlineSize = ok, disk.InodeBlockSize+uint64(at.Size)
	if !ok {
		x.found(InlineNoXattr, "inode %d has the flag of inline data, but not the attribute", in.ino)
	}
	return nil
}

// indexRoot examines the head of an indexed directory.
func (x *examination) indexRoot() error {
	c, in := x.c, x.in
	if in.is(disk.FlagInlineData) {
		return nil
	}
	first, err := c.firstBlock(in)
	if err != nil {
		return err
	}
	invalid := func() error {
		x.found(IndexRootInvalid, "indexed directory inode %d has an invalid root node", in.ino)
		x.fact &^= factIndexed
		return nil
	}
	b := make([]byte, c.geo.BlockSize)
	if first == 0 {
		return invalid()
	}
	if err := c.readBlock(b, first); err != nil {
		if err == errBeyond {
			return invalid()
		}
		return err
	}
	const info = 0x18 // behind the records of "." and ".."
	version, length, levels, flags := b[info+4], b[info+5], b[info+6], b[info+7]
	// One more than there may be, as for e2fsck: that is for pass 2.
	maxLevels := uint8(2)
	if c.sb.Incompat&disk.IncompatLargeDir != 0 {
		maxLevels = 3
	}
	switch {
	case le32(b[info:]) != 0 || length < 8:
		return invalid()
	case version > uint8(disk.HashTEA) && version != uint8(disk.HashSipHash):
		x.found(IndexHashVersion, "indexed directory inode %d has an unsupported hash version (%d)", in.ino, version)
	case flags&1 != 0:
		x.found(IndexFlags, "indexed directory inode %d has incompatible flags", in.ino)
	case levels > maxLevels:
		x.found(IndexTooDeep, "indexed directory inode %d has a tree depth (%d) which is too big", in.ino, levels)
	default:
		return nil
	}
	x.fact &^= factIndexed
	return nil
}

// symlink examines the target of a symbolic link, and notes if it cannot be one.
func (x *examination) symlink() error {
	c, in := x.c, x.in
	if !in.IsSymlink() || in.is(disk.FlagEncrypt) {
		return nil
	}
	size, limit := in.Size, uint64(c.geo.BlockSize)
	ok := true
	switch {
	case size == 0 || size >= limit:
		ok = false
	case in.is(disk.FlagInlineData):
	case in.fastSymlink():
		ok = uint64(bytes.IndexByte(append(bytes.Clone(in.Block[:]), 0), 0)) == size && size < disk.InodeBlockSize
	default:
		first, err := c.firstBlock(in)
		if err != nil {
			return err
		}
		if first == 0 || x.illegal > 0 {
			ok = false
			break
		}
		b := make([]byte, c.geo.BlockSize)
		if err := c.readBlock(b, first); err != nil {
			return ignoreBeyond(err)
		}
		ok = uint64(max(bytes.IndexByte(b, 0), 0)) == size
	}
	if !ok {
		x.fact |= factBad
	}
	return nil
}

// sizes compares size and count of blocks with the map.
func (x *examination) sizes() {
	c, in, g := x.c, x.in, &x.c.geo
	size := in.Size
	bad, should := false, uint64(0)
	switch {
	case in.is(disk.FlagInlineData) && in.IsDir():
		if should = x.inlineSize; size != should && x.inlineSound {
			bad = true
		}
	case in.IsDir():
		blocks := size >> g.BlockBits
		if size&uint64(g.BlockSize-1) != 0 || blocks != x.last {
			bad, should = x.illegal == 0 || blocks != x.last, x.last<<g.BlockBits
		}
	case in.IsReg() || x.reserved() || disk.FileType(in.Mode) == disk.FTUnknown:
		should = x.last << g.BlockBits
		switch {
		case x.lastInit > 0 && size < (x.lastInit-1)<<g.BlockBits && x.c.sb.ROCompat&disk.ROCompatVerity == 0,
			x.lastInit > 0 && size < (x.lastInit-1)<<g.BlockBits && !in.is(disk.FlagVerity):
			bad = true
		case in.is(disk.FlagExtents):
			bad = size > 1<<(32+g.BlockBits)-1
		default:
			bad = size > maxPointed(g.BlockSize)
		}
	}
	if bad {
		x.found(InodeSize, "inode %d has the size %d, should be %d", in.ino, size, should)
	}
	if x.hasXattrs {
		x.blocks += 1 << g.ClusterBits
	}
	huge := c.sb.ROCompat&disk.ROCompatHugeFile != 0
	want := x.blocks << (g.BlockBits - 9)
	if huge && in.is(disk.FlagHugeFile) {
		want = x.blocks
	}
	have := in.Blocks
	if !huge {
		have &= 0xFFFFFFFF
	}
	if have != want {
		x.found(InodeBlocks, "inode %d has i_blocks %d, should be %d", in.ino, have, want)
	}
}

// maxPointed is the largest size of a file with a block map, in bytes.
func maxPointed(blockSize uint32) uint64 {
	per := uint64(blockSize / 4)
	n := 12 + per + per*per + per*per*per
	return min(n, 1<<32) * uint64(blockSize)
}
