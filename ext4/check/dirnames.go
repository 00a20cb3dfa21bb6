package check

import "hash/maphash"

// nameSet finds names that are in several blocks of a directory without an index;
// e2fsck looks only inside of each block. (In an index, equal names are in the same
// block, unless hashes are where they should not be.) It remembers hashes. When there
// are too many, it keeps those of a part of the names, a half, a quarter and so on, and
// the directory is read again for the other parts.
type nameSet struct {
	on        bool
	seed      maphash.Seed
	limit     int
	parts     uint64 // a power of two
	part      uint64
	hashes    map[uint64]struct{}
	suspected map[uint64]struct{} // hashes that occurred twice
	names     map[string]uint64   // of suspected ones: the block they were in first
}

const (
	bytesPerHash = 32 // in a map
	maxNameParts = 64
)

// reset begins a directory; on says whether to look at all.
func (n *nameSet) reset(on bool, memory int64) {
	n.on = on
	if !on {
		return
	}
	n.seed, n.limit = maphash.MakeSeed(), int(max(memory/bytesPerHash, 1<<10))
	n.parts, n.part = 1, 0
	n.hashes, n.suspected, n.names = map[uint64]struct{}{}, map[uint64]struct{}{}, nil
}

// add takes a name. In the last reading, that of suspected ones, it tells whether
// the name was there before, and in which block.
func (n *nameSet) add(name []byte, blk uint64) (first uint64, again bool) {
	h := maphash.Bytes(n.seed, name)
	if n.names != nil {
		if _, ok := n.suspected[h]; !ok {
			return 0, false
		}
		if first, again = n.names[string(name)]; !again && len(n.names) < n.limit {
			n.names[string(name)] = blk
		}
		return first, again && first != blk
	}
	if h%n.parts != n.part {
		return 0, false
	}
	if _, ok := n.hashes[h]; ok {
		if len(n.suspected) < n.limit {
			n.suspected[h] = struct{}{}
		}
		return 0, false
	}
	n.hashes[h] = struct{}{}
	for n.part == 0 && len(n.hashes) > n.limit && n.parts < maxNameParts {
		n.parts *= 2
		for h := range n.hashes {
			if h%n.parts != 0 {
				delete(n.hashes, h)
			}
		}
	}
	if len(n.hashes) > 2*n.limit {
		clear(n.hashes) // enough is enough: what repeats far apart is not found
	}
	return 0, false
}

// finish reads the directory again, for the other parts of its names and for those
// that may be duplicates.
func (n *nameSet) finish(s *dirScan) error {
	if !n.on {
		return nil
	}
	for n.part+1 < n.parts {
		n.part++
		clear(n.hashes)
		if err := s.again(); err != nil {
			return err
		}
	}
	n.hashes = nil
	if len(n.suspected) == 0 {
		return nil
	}
	n.names = map[string]uint64{}
	return s.again()
}
