package check

import (
	"encoding/binary"

	"ext4box/ext4/internal/casefold"
	"ext4box/ext4/internal/disk"
)

// blockKind is what a block of a directory is.
type blockKind uint8

const (
	kindLeaf blockKind = iota
	kindRoot
	kindNode
)

const (
	rootInfo    = 24 // where the header of an index begins in its root
	maxIndexMem = 8  // the part of the memory that one index may use, as a divisor
)

// index is what is known of the index of a directory while its blocks are read,
// in whatever order they are in.
type index struct {
	on      bool
	tooBig  bool
	blocks  []indexBlock // by their number in the directory
	version disk.HashVersion
	levels  int // of inner nodes below the root
	entries int // offset of the root's
	hashOff bool
}

// indexBlock is a block of an indexed directory.
type indexBlock struct {
	kind     blockKind
	there    bool
	refs     uint8 // from nodes, up to 2
	first    bool  // its node's first entry leads to it
	last     bool
	parent   uint32 // node that leads to it
	lo, hi   uint32 // hashes that it may have, as that says
	min, max uint32 // hashes that it has; min > max: none
}

func (x *index) reset(on bool) {
	*x = index{on: on, blocks: x.blocks[:0]}
	if cap(x.blocks) > 1<<16 {
		x.blocks = nil
	}
}

// at returns the place of a block, or nil if there are too many.
func (x *index) at(s *dirScan, blk uint64) *indexBlock {
	if x.tooBig || blk >= uint64(max(s.c.opt.Memory/maxIndexMem/32, 1<<10)) {
		if !x.tooBig {
			x.tooBig = true
			ino := s.in.ino
			s.b.later(func() {
				s.c.warn("the index of directory inode %d was not examined as a whole: that needs more memory", ino)
			})
		}
		return nil
	}
	for uint64(len(x.blocks)) <= blk {
		x.blocks = append(x.blocks, indexBlock{min: ^uint32(0)})
	}
	return &x.blocks[blk]
}

// kind tells what a block is, and reads the header of the root.
func (x *index) kind(s *dirScan, p place, b []byte) blockKind {
	if !x.on {
		return kindLeaf
	}
	kind := kindLeaf
	if p.block == 0 {
		kind = kindRoot
		x.root(s, p, b)
	} else if disk.IsDxNode(b) && int(binary.LittleEndian.Uint16(b[8:])) == s.indexRoom(len(b)-8) {
		kind = kindNode
	}
	if e := x.at(s, p.block); e != nil {
		e.kind, e.there = kind, true
	}
	return kind
}

// indexRoom is the number of entries for which n bytes have room.
func (s *dirScan) indexRoom(n int) int {
	if s.csum {
		n -= disk.DxTailSize
	}
	return n / disk.DxEntrySize
}

// root reads the header of an index.
func (x *index) root(s *dirScan, p place, b []byte) {
	h := b[rootInfo:]
	x.version = disk.HashVersion(h[4])
	if s.c.sb.UnsignedHash() {
		x.version = x.version.Unsigned()
	}
	x.levels, x.entries = int(h[6]), rootInfo+int(h[5])
	if le32(h) != 0 || h[5] < 8 || x.levels > s.maxLevels() {
		s.add(IndexRootInvalid, p, "the root of the index of directory inode %d is invalid", s.in.ino)
	}
	x.levels = min(x.levels, 3)
	x.hashOff = x.version > disk.HashSipHash || x.version == disk.HashSipHash && !(s.raw && s.fold)
}

func (s *dirScan) maxLevels() int {
	if s.c.sb.Incompat&disk.IncompatLargeDir != 0 {
		return 2
	}
	return 1
}

// node examines the root or a node, behind its entries for those who do not know
// of indexes.
func (x *index) node(s *dirScan, p place, kind blockKind, b []byte) {
	off := 8
	if kind == kindRoot {
		off = x.entries
	}
	if off+disk.DxEntrySize > len(b) {
		return
	}
	limit, count := int(binary.LittleEndian.Uint16(b[off:])), int(binary.LittleEndian.Uint16(b[off+2:]))
	room := s.indexRoom(len(b) - off)
	if s.csum {
		if stored, computed, ok := disk.DxChecksumAt(s.in.seed, b, off); !ok || stored != computed {
			s.add(IndexChecksum, p, "the checksum of the index at block #%d of directory inode %d is wrong", p.block, s.in.ino)
		}
	}
	if limit != room {
		s.add(IndexLimit, p, "the index at block #%d of directory inode %d has the limit %d instead of %d", p.block, s.in.ino, limit, room)
	}
	if count > room {
		s.add(IndexCount, p, "the index at block #%d of directory inode %d has %d entries, more than fit", p.block, s.in.ino, count)
		count = room
	}
	blocks := uint64(s.in.Size) >> s.c.geo.BlockBits
	prev, ordered := uint32(0), true
	for i := range count {
		entry := b[off+i*disk.DxEntrySize:]
		hash, blk := uint32(0), le32(entry[4:])&0x0FFFFFFF
		if i > 0 {
			hash = le32(entry)
		}
		if uint64(blk) >= blocks {
			s.add(IndexBlockNumber, p, "the index at block #%d of directory inode %d leads to block #%d of %d", p.block, s.in.ino, blk, blocks)
			continue
		}
		if hash < prev && ordered {
			s.add(IndexOrder, p, "the index at block #%d of directory inode %d is not in the order of hashes", p.block, s.in.ino)
			ordered = false
		}
		prev = hash
		child := x.at(s, uint64(blk))
		if child == nil {
			continue
		}
		child.refs = min(child.refs+1, 2)
		child.parent, child.first, child.last = uint32(p.block), i == 0, i == count-1
		child.lo = hash &^ 1
		if !child.last {
			child.hi = le32(b[off+(i+1)*disk.DxEntrySize:]) &^ 1
		}
	}
}

// leafEntry notes the hash of an entry of a leaf.
func (x *index) leafEntry(s *dirScan, p place, b []byte, off int, e *disk.DirEntry) {
	if !x.on || x.hashOff {
		return
	}
	l := x.at(s, p.block)
	if l == nil {
		return
	}
	var hash uint32
	switch {
	case s.raw && s.fold:
		at := off + disk.DirEntrySize(len(e.Name))
		if at+disk.DirHashSize > off+e.RecLen {
			return
		}
		hash = le32(b[at:]) &^ 1
	default:
		name := e.Name
		if s.fold && !s.raw {
			if f, err := casefold.Fold(s.folded[:0], name); err == nil {
				s.folded, name = f, f
			}
		}
		var err error
		if hash, _, err = disk.DirHash(x.version, s.c.sb.HashSeed, name); err != nil {
			return
		}
	}
	l.min, l.max = min(l.min, hash), max(l.max, hash)
}

// finish compares what the nodes say with what the blocks are, when all have been
// read.
func (x *index) finish(s *dirScan) {
	if !x.on || x.tooBig {
		return
	}
	for i := range x.blocks {
		l := &x.blocks[i]
		if !l.there {
			continue
		}
		p := place{stage: stageIndex, at: uint64(s.in.ino), block: uint64(i)}
		if i == 0 {
			if l.refs > 0 {
				s.add(IndexMismatch, p, "the index of directory inode %d leads to its root", s.in.ino)
			}
			continue
		}
		switch {
		case l.refs == 0:
			s.add(IndexMismatch, p, "the index of directory inode %d does not lead to block #%d", s.in.ino, i)
			continue
		case l.refs > 1:
			s.add(IndexMismatch, p, "the index of directory inode %d leads to block #%d twice", s.in.ino, i)
		}
		if l.kind == kindNode {
			continue
		}
		lo, hi, depth := x.bounds(l)
		if depth != x.levels {
			s.add(IndexMismatch, p, "the index of directory inode %d leads to block #%d over %d levels instead of %d", s.in.ino, i, depth, x.levels)
		}
		if l.min <= l.max && (l.min < lo || l.max > hi) {
			s.add(IndexMismatch, p, "block #%d of directory inode %d has names with hashes %#x to %#x, the index has %#x to %#x for it",
				i, s.in.ino, l.min, l.max, lo, hi)
		}
	}
}

// bounds returns the hashes that a leaf may have, and on which level it is.
func (x *index) bounds(l *indexBlock) (lo, hi uint32, depth int) {
	lo, hi = l.lo, ^uint32(0)
	needLo, needHi := l.first, true
	for n := l; ; {
		if needHi && !n.last {
			hi, needHi = n.hi, false
		}
		if needLo {
			if lo = n.lo; !n.first {
				needLo = false
			}
		}
		if n.parent == 0 || depth > 3 {
			return lo, hi, depth
		}
		n = &x.blocks[n.parent]
		depth++
	}
}
