package extent

import (
	"cmp"
	"encoding/binary"
	"slices"
	"strconv"
	"sync"

	"ext4box/ext4/internal/buffer"
	"ext4box/ext4/internal/disk"
	"ext4box/ext4/internal/syszone"
)

// State says what backs a run of file blocks.
type State uint8

// The states of a run.
const (
	Hole State = iota
	Written
	Unwritten // allocated, reads as zeros
)

// MaxBlocks is the number of blocks that a file can have.
const MaxBlocks = 1 << 32

// Run is a stretch of file blocks that are backed alike and, unless they are a
// hole, contiguously.
type Run struct {
	Block uint64 // first file block
	Len   uint64 // blocks, at least 1
	Start uint64 // first device block; 0 for a hole
	State State
}

// End is the file block after the run.
func (r *Run) End() uint64 { return r.Block + r.Len }

// Clip cuts the run to [lo, hi), with which it must overlap.
func (r *Run) Clip(lo, hi uint64) {
	if r.Block < lo {
		d := lo - r.Block
		if r.State != Hole {
			r.Start += d
		}
		r.Block, r.Len = lo, r.Len-d
	}
	if r.End() > hi {
		r.Len = hi - r.Block
	}
}

// Map is the block map of one inode.
type Map struct {
	Cache *buffer.Cache
	Geo   *disk.Geometry
	Sums  *disk.Checksums
	Ino   uint32
	Seed  uint32 // checksum seed of the inode
	Root  []byte // the 60 bytes in the inode; checked by CheckRoot if a tree
	Tree  bool   // extent tree, otherwise a block map

	// Zones are the blocks that the map must not have; nil for the inodes that
	// have just these.
	Zones *syszone.Zones
}

// mayHave tells whether the map may have the blocks [start, start+n) of the
// device, as data or as nodes.
func (m *Map) mayHave(start, n uint64) bool {
	return m.Geo.BlocksInRange(start, n) && (m.Zones == nil || m.Zones.Free(start, n))
}

// CheckRoot verifies the node inside the inode, if the map is a tree. It must
// be called once before Lookup.
func (m *Map) CheckRoot() error {
	if !m.Tree {
		return nil
	}
	depth := int(disk.DecodeExtentHeader(m.Root).Depth)
	if depth > disk.ExtentMaxDepth {
		return disk.Corruptf(disk.InodeName(m.Ino), "extent tree of depth %d is too deep", depth)
	}
	return disk.CheckExtentNode(disk.InodeName(m.Ino), m.Root, depth, m.mayHave)
}

// Lookup returns the run that contains file block blk, which must be below
// MaxBlocks. The run may be shorter than what is contiguous on the device.
func (m *Map) Lookup(blk uint64) (r Run, err error) {
	if m.Tree {
		r, err = m.lookupTree(blk)
	} else {
		r, err = m.lookupBlockMap(blk)
	}
	if err == nil && r.State != Hole && m.Zones != nil && m.Zones.Strays() && !m.Zones.Free(r.Start, r.Len) {
		return r, disk.Corruptf(disk.InodeName(m.Ino), "blocks %d+%d hold the filesystem's own structures", r.Start, r.Len)
	}
	return r, err
}

const (
	// maxHoles is the number of holes that a file which is not data may have.
	maxHoles = 1 << 16
	// maxPieces is in how many pieces such a file may be: as many as the largest directory
	// without large_dir has blocks of 4 KiB. It bounds the memory for finding out whether
	// they are apart, 16 bytes each.
	maxPieces = 1 << 20
	// manyPieces is from how many on there is one such file in memory at a time.
	manyPieces = 1 << 14
)

// manyTurn is held while more than manyPieces are in memory. Nothing is waited for with it
// but the device.
var manyTurn sync.Mutex

// CheckDistinct verifies that the first n blocks of the file, holes aside, are as
// many blocks of the device: a few blocks of a hostile image can be mapped to
// make a file of any length. It goes through the whole map, for files that are
// not data, and returns the number of blocks that are not holes. what is the
// file's name in errors.
func (m *Map) CheckDistinct(what string, n uint64) (mapped uint64, err error) {
	type span struct{ start, end uint64 }
	var spans []span
	check := func() error {
		slices.SortFunc(spans, func(a, b span) int { return cmp.Compare(a.start, b.start) })
		for i := 1; i < len(spans); i++ {
			if spans[i].start < spans[i-1].end {
				return disk.Corruptf(what, "block %d is in it more than once", spans[i].start)
			}
		}
		return nil
	}
	// Checked each time their number has doubled, so that what is kept stays
	// within twice what there is in distinct ones.
	next, holes := 1024, 0
	turn := false
	defer func() {
		if turn {
			manyTurn.Unlock()
		}
	}()
	for blk := uint64(0); blk < n; {
		run, err := m.Lookup(blk)
		if err != nil {
			return 0, err
		}
		run.Clip(blk, n)
		if run.State == Hole {
			if holes++; holes > maxHoles {
				return 0, disk.Corruptf(what, "is nothing but holes")
			}
		} else {
			mapped += run.Len
			switch {
			case len(spans) == maxPieces:
				return 0, disk.Corruptf(what, "is in more than %d pieces", maxPieces)
			case len(spans) == manyPieces && !turn:
				manyTurn.Lock()
				turn = true
			}
			spans = append(spans, span{run.Start, run.Start + run.Len})
		}
		if len(spans) == next {
			if err := check(); err != nil {
				return 0, err
			}
			next *= 2
		}
		blk = run.End()
	}
	return mapped, check()
}

// lookupTree walks from the root to the leaf for blk, narrowing [lo, hi), the
// range that the nodes on the way leave to the answer.
func (m *Map) lookupTree(blk uint64) (Run, error) {
	lo, hi := uint64(0), uint64(MaxBlocks)
	node := m.Root
	for depth := int(disk.DecodeExtentHeader(node).Depth); depth > 0; depth-- {
		i := searchNode(node, blk)
		if end := entryBlock(node, i+1, hi); end < hi {
			hi = end
		}
		if i < 0 {
			return Run{Block: lo, Len: hi - lo}, nil
		}
		x := disk.DecodeExtentIndex(entry(node, i))
		if uint64(x.Block) > lo {
			lo = uint64(x.Block)
		}
		b, err := m.node(x.Leaf, depth-1)
		if err != nil {
			return Run{}, err
		}
		node = b.Data
	}
	i := searchNode(node, blk)
	if i >= 0 {
		r := leafRun(node, i)
		if blk < r.End() {
			r.Clip(lo, hi)
			return r, nil
		}
		if r.End() > lo {
			lo = r.End()
		}
	}
	if next := entryBlock(node, i+1, hi); next < hi {
		hi = next
	}
	return Run{Block: lo, Len: hi - lo}, nil
}

// leafRun is entry i of a leaf.
func leafRun(leaf []byte, i int) Run {
	e := disk.DecodeExtent(entry(leaf, i))
	r := Run{Block: uint64(e.Block), Len: uint64(e.Len), Start: e.Start, State: Written}
	if e.Unwritten {
		r.State = Unwritten
	}
	return r
}

// node returns the checked node block at depth levels above the leaves.
func (m *Map) node(blk uint64, depth int) (*buffer.Buffer, error) {
	return m.Cache.Read(blk, m.nodeTag(depth), func(b []byte) error {
		what := m.what("extent node", blk)
		if err := disk.CheckExtentNode(what, b, depth, m.mayHave); err != nil {
			return err
		}
		if m.Sums.Metadata {
			stored, computed, ok := disk.ExtentBlockChecksum(m.Seed, b)
			if !ok || stored != computed {
				return disk.Corruptf(what, "checksum is %#x instead of %#x", stored, computed)
			}
		}
		return nil
	})
}

// nodeTag is what a node at depth levels above the leaves is verified as.
func (m *Map) nodeTag(depth int) buffer.Tag {
	return buffer.Tag{Kind: buffer.ExtentNode + buffer.Kind(depth), Owner: m.Ino}
}

func (m *Map) what(kind string, blk uint64) string {
	return disk.InodeName(m.Ino) + " " + kind + " at block " + strconv.FormatUint(blk, 10)
}

// searchNode is the index of the last entry that starts at or before blk, or
// -1. Leaf and index entries both begin with their file block.
func searchNode(node []byte, blk uint64) int {
	lo, hi := 0, entries(node)
	for lo < hi {
		mid := int(uint(lo+hi) / 2)
		if key(node, mid) > blk {
			hi = mid
		} else {
			lo = mid + 1
		}
	}
	return lo - 1
}

// entryBlock is the file block at which entry i starts, or none when the node
// has no such entry.
func entryBlock(node []byte, i int, none uint64) uint64 {
	if i >= entries(node) {
		return none
	}
	return key(node, i)
}

// entries is the number of entries in a checked node. It never exceeds what
// fits: should a hostile image give the block to something else as well, whose
// owner changes it meanwhile, the answers are wrong but nothing worse happens.
func entries(node []byte) int {
	return min(int(disk.DecodeExtentHeader(node).Entries), disk.ExtentNodeCapacity(len(node)))
}

// entry is the place of entry i and those that follow it.
func entry(node []byte, i int) []byte {
	return node[disk.ExtentHeaderSize+i*disk.ExtentEntrySize:]
}

// key is the file block that entry i, of a leaf or an inner node, starts at.
func key(node []byte, i int) uint64 {
	return uint64(binary.LittleEndian.Uint32(entry(node, i)))
}
