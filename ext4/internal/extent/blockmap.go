package extent

import (
	"encoding/binary"

	"ext4box/ext4/internal/buffer"
	"ext4box/ext4/internal/disk"
)

const (
	directBlocks = 12 // pointers to data in the inode; three to trees follow
	maxLevels    = 3
)

// MaxPointed is the number of blocks that a file without extents can have on a
// filesystem with the given block size, in bytes, when the file, with the blocks
// of pointers that lead there, can occupy at most room blocks.
func MaxPointed(blockSize uint32, room uint64) uint64 {
	perBlock := uint64(blockSize / 4)
	data, pointers, span := uint64(directBlocks), uint64(0), uint64(1)
	for range maxLevels {
		span *= perBlock
		// A full tree has 1 + perBlock + ... + span/perBlock blocks of pointers.
		tree := (span - 1) / (perBlock - 1)
		if data+span+pointers+tree > room {
			// A part of it, less the pointers to so much.
			for n := room - data; n > 1; pointers += n {
				n = (n + perBlock - 1) / perBlock
			}
			return room - pointers
		}
		data, pointers = data+span, pointers+tree
	}
	return data
}

// lookupBlockMap finds blk in a map of block pointers. A level's tree covers
// perBlock^level file blocks.
func (m *Map) lookupBlockMap(blk uint64) (Run, error) {
	if blk < directBlocks {
		r := runAt(m.Root[:4*directBlocks], 0, blk, 1)
		// The inode's own pointers are not behind a cached check.
		if r.State != Hole && !m.mayHave(r.Start, r.Len) {
			return Run{}, disk.Corruptf(disk.InodeName(m.Ino), "block pointers to %d+%d, which are not for files", r.Start, r.Len)
		}
		return r, nil
	}
	perBlock := uint64(m.Geo.BlockSize / 4)
	first, span := uint64(directBlocks), perBlock
	for level := 1; level <= maxLevels; level++ {
		if blk-first < span {
			p := pointer(m.Root, directBlocks+level-1)
			return m.lookupIndirect(uint64(p), level, first, span, blk)
		}
		first += span
		span *= perBlock
	}
	// Nothing can be mapped behind the triple-indirect tree.
	return Run{Block: first, Len: MaxBlocks - first}, nil
}

// lookupIndirect descends the tree of the given level at device block p, which
// covers the file blocks [first, first+span).
func (m *Map) lookupIndirect(p uint64, level int, first, span, blk uint64) (Run, error) {
	perBlock := uint64(m.Geo.BlockSize / 4)
	for {
		if p == 0 {
			r := Run{Block: first, Len: span}
			r.Clip(0, MaxBlocks)
			return r, nil
		}
		if !m.mayHave(p, 1) {
			return Run{}, disk.Corruptf(disk.InodeName(m.Ino), "indirect block %d is not for files", p)
		}
		b, err := m.indirect(p)
		if err != nil {
			return Run{}, err
		}
		span /= perBlock
		if level == 1 {
			return runAt(b.Data, first, blk, 1), nil
		}
		i := (blk - first) / span
		if pointer(b.Data, int(i)) == 0 {
			// Neighbouring absent subtrees make one hole.
			r := runAt(b.Data, first, blk, span)
			r.Clip(0, MaxBlocks)
			return r, nil
		}
		first += i * span
		p = uint64(pointer(b.Data, int(i)))
		level--
	}
}

// indirect returns a checked block of pointers.
func (m *Map) indirect(blk uint64) (*buffer.Buffer, error) {
	return m.Cache.Read(blk, m.indirectTag(), func(b []byte) error {
		for i := 0; i < len(b)/4; {
			p, j := pointer(b, i), i+1
			for ; p != 0 && j < len(b)/4 && uint64(pointer(b, j)) == uint64(p)+uint64(j-i); j++ {
			}
			if p != 0 && !m.mayHave(uint64(p), uint64(j-i)) {
				return disk.Corruptf(m.what("indirect block", blk), "pointers %d+%d are to %d, which is not for files", i, j-i, p)
			}
			i = j
		}
		return nil
	})
}

func (m *Map) indirectTag() buffer.Tag { return buffer.Tag{Kind: buffer.Indirect, Owner: m.Ino} }

// runAt is the run around blk in an array of pointers, the first of which is
// for file block first and each of which covers span blocks. With a span above
// one the pointer of blk must be zero.
func runAt(ptrs []byte, first, blk, span uint64) Run {
	n := len(ptrs) / 4
	i := int((blk - first) / span)
	start := pointer(ptrs, i)
	lo, hi := i, i+1
	if start == 0 {
		// Two at a time: a hostile image can make that all the work there is.
		for lo > 1 && binary.LittleEndian.Uint64(ptrs[4*(lo-2):]) == 0 {
			lo -= 2
		}
		for hi < n-1 && binary.LittleEndian.Uint64(ptrs[4*hi:]) == 0 {
			hi += 2
		}
	}
	same := func(j int) bool {
		p := pointer(ptrs, j)
		if start == 0 {
			return p == 0
		}
		return p != 0 && int64(p)-int64(start) == int64(j-i)
	}
	for lo > 0 && same(lo-1) {
		lo--
	}
	for hi < n && same(hi) {
		hi++
	}
	r := Run{Block: first + uint64(lo)*span, Len: uint64(hi-lo) * span}
	if start != 0 {
		r.State = Written
		r.Start = uint64(start) - uint64(i-lo)
	}
	return r
}

func pointer(b []byte, i int) uint32 { return binary.LittleEndian.Uint32(b[4*i:]) }
