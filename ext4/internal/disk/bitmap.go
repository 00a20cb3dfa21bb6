package disk

import (
	"encoding/binary"
	"math/bits"
)

// Bitmap is a block or inode bitmap as it is stored: bit i is bit i%8 of byte
// i/8. Positions passed to its methods must lie inside the bitmap.
type Bitmap []byte

// Test tells whether bit i is set.
func (m Bitmap) Test(i uint32) bool { return m[i/8]>>(i%8)&1 != 0 }

// SetRange sets the n bits from i on.
func (m Bitmap) SetRange(i, n uint32) {
	m.fill(i, n, func(b *byte, mask byte) { *b |= mask }, 0xFF)
}

// ClearRange clears the n bits from i on.
func (m Bitmap) ClearRange(i, n uint32) {
	m.fill(i, n, func(b *byte, mask byte) { *b &^= mask }, 0)
}

// fill applies part to the bytes of [i, i+n) that belong to it partly and
// stores whole in the others.
func (m Bitmap) fill(i, n uint32, part func(b *byte, mask byte), whole byte) {
	if n == 0 {
		return
	}
	first, last := i/8, (i+n-1)/8
	head, tail := byte(0xFF)<<(i%8), byte(0xFF)>>(7-(i+n-1)%8)
	if first == last {
		part(&m[first], head&tail)
		return
	}
	part(&m[first], head)
	for b := first + 1; b < last; b++ {
		m[b] = whole
	}
	part(&m[last], tail)
}

// NextClear is the position of the first clear bit in [from, end), or end.
func (m Bitmap) NextClear(from, end uint32) uint32 { return m.next(from, end, ^uint64(0)) }

// NextSet is the position of the first set bit in [from, end), or end.
func (m Bitmap) NextSet(from, end uint32) uint32 { return m.next(from, end, 0) }

func (m Bitmap) next(from, end uint32, flip uint64) uint32 {
	if from >= end {
		return end
	}
	keep := ^uint64(0) << (from % 64)
	for w := from / 64; w <= (end-1)/64; w++ {
		if word := (m.word(w) ^ flip) & keep; word != 0 {
			return min(w*64+uint32(bits.TrailingZeros64(word)), end)
		}
		keep = ^uint64(0)
	}
	return end
}

// ClearStart is the start of the run of clear bits that ends right before end,
// at least low. It is end when the bit before is set.
func (m Bitmap) ClearStart(low, end uint32) uint32 {
	for end > low {
		w := (end - 1) / 64
		// The word's bits at end and above do not count.
		word := m.word(w) & (^uint64(0) >> (63 - (end-1)%64))
		if word != 0 {
			return max(w*64+uint32(64-bits.LeadingZeros64(word)), low)
		}
		end = w * 64
	}
	return max(end, low)
}

// CountClear is the number of clear bits in [from, end).
func (m Bitmap) CountClear(from, end uint32) uint32 {
	if from >= end {
		return 0
	}
	set := 0
	keep := ^uint64(0) << (from % 64)
	for w := from / 64; w <= (end-1)/64; w++ {
		if w == (end-1)/64 {
			keep &= ^uint64(0) >> (63 - (end-1)%64)
		}
		set += bits.OnesCount64(m.word(w) & keep)
		keep = ^uint64(0)
	}
	return end - from - uint32(set)
}

// word is the w-th group of 64 bits, with zeros behind the end of the bitmap.
func (m Bitmap) word(w uint32) uint64 {
	if b := m[w*8:]; len(b) >= 8 {
		return binary.LittleEndian.Uint64(b)
	}
	var b [8]byte
	copy(b[:], m[w*8:])
	return binary.LittleEndian.Uint64(b[:])
}
