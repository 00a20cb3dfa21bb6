package fastcommit

import "slices"

// RangeState is what a fast commit did to a range of a file.
type RangeState uint8

// The states of a range.
const (
	Removed   RangeState = iota // unmapped, a hole
	Written                     // mapped
	Unwritten                   // mapped, reads as zeros
)

// maxFileBlocks is the number of logical blocks that extents can express.
const maxFileBlocks = 1<<32 - 1

// Range is a part of a file whose mapping the fast commits decide, whatever
// the disk has there.
type Range struct {
	Start uint32 // first logical block
	Len   uint32 // blocks, not 0; Start+Len is at most 2^32-1
	Block uint64 // first physical block; 0 if removed
	State RangeState
}

// end is the logical block behind the range.
func (r *Range) end() uint32 { return r.Start + r.Len }

// clamp cuts r to what a file can have.
func (r Range) clamp() Range {
	r.Len = uint32(min(uint64(r.Len), maxFileBlocks-uint64(r.Start)))
	return r
}

// from is the part of r from the logical block start on, which is within r.
func (r Range) from(start uint32) Range {
	skip := start - r.Start
	r.Start, r.Len = start, r.Len-skip
	if r.State != Removed {
		r.Block += uint64(skip)
	}
	return r
}

// to is the part of r in front of the logical block end, which is within r.
func (r Range) to(end uint32) Range {
	r.Len = end - r.Start
	return r
}

// fold makes a sorted list of disjoint ranges of a history of changes, of which
// later ones win. It halves the history, so that the time is proportional to
// n log n whatever the history is.
func fold(history []Range) []Range {
	if len(history) <= 1 {
		return slices.Clone(history)
	}
	half := len(history) / 2
	return layOver(fold(history[:half]), fold(history[half:]))
}

// layOver merges two lists of disjoint ranges. Where both have something the
// upper one wins. It uses lower up.
func layOver(lower, upper []Range) []Range {
	out := make([]Range, 0, len(lower)+len(upper))
	for _, u := range upper {
		for len(lower) > 0 && lower[0].Start < u.Start {
			l := lower[0]
			if l.end() <= u.Start {
				out = push(out, l)
				lower = lower[1:]
				continue
			}
			out = push(out, l.to(u.Start))
			lower[0] = l.from(u.Start)
		}
		for len(lower) > 0 && lower[0].end() <= u.end() {
			lower = lower[1:] // wholly covered
		}
		if len(lower) > 0 && lower[0].Start < u.end() {
			lower[0] = lower[0].from(u.end())
		}
		out = push(out, u)
	}
	for _, l := range lower {
		out = push(out, l)
	}
	return out
}

// push appends r, as a part of the last range where it continues that.
func push(out []Range, r Range) []Range {
	if n := len(out); n > 0 {
		last := &out[n-1]
		adjacent := last.end() == r.Start && last.State == r.State
		if adjacent && (r.State == Removed || last.Block+uint64(last.Len) == r.Block) {
			last.Len += r.Len
			return out
		}
	}
	return append(out, r)
}

// find looks in a sorted list for the range that has the logical block, or the
// first one behind it.
func find(list []Range, block uint32) (i int, found bool) {
	return slices.BinarySearchFunc(list, block, func(r Range, block uint32) int {
		switch {
		case r.end() <= block:
			return -1
		case r.Start > block:
			return 1
		}
		return 0
	})
}
