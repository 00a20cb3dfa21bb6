package extent

import (
	"strconv"

	"ext4box/ext4/internal/buffer"
	"ext4box/ext4/internal/disk"
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
	return disk.CheckExtentNode(disk.InodeName(m.Ino), m.Root, depth, m.Geo.BlocksInRange)
}

// Lookup returns the run that contains file block blk, which must be below
// MaxBlocks. The run may be shorter than what is contiguous on the device.
func (m *Map) Lookup(blk uint64) (Run, error) {
	if m.Tree {
		return m.lookupTree(blk)
	}
	return m.lookupBlockMap(blk)
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
		x := disk.DecodeExtentIndex(node[disk.ExtentHeaderSize+i*disk.ExtentEntrySize:])
		if uint64(x.Block) > lo {
			lo = uint64(x.Block)
		}
		var err error
		if node, err = m.node(x.Leaf, depth-1); err != nil {
			return Run{}, err
		}
	}
	i := searchNode(node, blk)
	if i >= 0 {
		e := disk.DecodeExtent(node[disk.ExtentHeaderSize+i*disk.ExtentEntrySize:])
		if blk < e.End() {
			r := Run{Block: uint64(e.Block), Len: uint64(e.Len), Start: e.Start, State: Written}
			if e.Unwritten {
				r.State = Unwritten
			}
			r.Clip(lo, hi)
			return r, nil
		}
		if e.End() > lo {
			lo = e.End()
		}
	}
	if next := entryBlock(node, i+1, hi); next < hi {
		hi = next
	}
	return Run{Block: lo, Len: hi - lo}, nil
}

// node returns the checked node block at depth levels above the leaves.
func (m *Map) node(blk uint64, depth int) ([]byte, error) {
	tag := buffer.Tag{Kind: buffer.ExtentNode + buffer.Kind(depth), Owner: m.Ino}
	b, err := m.Cache.Read(blk, tag, func(b []byte) error {
		what := m.what("extent node", blk)
		if err := disk.CheckExtentNode(what, b, depth, m.Geo.BlocksInRange); err != nil {
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
	if err != nil {
		return nil, err
	}
	return b.Data, nil
}

func (m *Map) what(kind string, blk uint64) string {
	return disk.InodeName(m.Ino) + " " + kind + " at block " + strconv.FormatUint(blk, 10)
}

// searchNode is the index of the last entry that starts at or before blk, or
// -1. Leaf and index entries both begin with their file block.
func searchNode(node []byte, blk uint64) int {
	lo, hi := 0, int(disk.DecodeExtentHeader(node).Entries)
	for lo < hi {
		mid := int(uint(lo+hi) / 2)
		if entryBlock(node, mid, 0) > blk {
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
	if i >= int(disk.DecodeExtentHeader(node).Entries) {
		return none
	}
	return uint64(disk.DecodeExtentIndex(node[disk.ExtentHeaderSize+i*disk.ExtentEntrySize:]).Block)
}
