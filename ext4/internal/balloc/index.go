package balloc

import (
	"math/bits"

	"ext4box/internal/spin"
)

// class says in one byte what is known of a group's free space: nothing, that
// there is none, that the group is set aside, or the order of magnitude (the
// binary logarithm) of its longest free run, either exactly or as a bound from
// above.
type class uint8

const (
	unknown class = 0
	full    class = 1
	bad     class = 2
	// exact and bound are added to an order, which is at most maxOrder.
	exact class = 8
	bound class = 32

	maxOrder = 20
)

// classOf is the class of a group whose longest free run is n, or at most n.
func classOf(n uint32, isExact bool) class {
	switch {
	case n == 0:
		return full
	case isExact:
		return exact + class(floorLog2(n))
	}
	return bound + class(floorLog2(n))
}

func floorLog2(n uint32) int { return bits.Len32(n) - 1 }
func ceilLog2(n uint32) int  { return bits.Len32(n - 1) }

// A set of classes, as a mask.
type classes uint64

func only(c class) classes { return 1 << c }

// ofOrder are the groups whose longest free run is exactly known to have at
// least the given order, and may have it.
func exactFrom(order int) classes { return (1<<(maxOrder+1) - 1) >> order << order << exact }
func boundFrom(order int) classes { return (1<<(maxOrder+1) - 1) >> order << order << bound }

const (
	fanoutBits = 6
	fanout     = 1 << fanoutBits
)

// index maps every group to its class and finds the next group of a set of
// classes in logarithmic time. It is a radix tree in which a missing part means
// unknown, so it takes memory only for groups that were looked at. Its lock is
// a leaf.
type index struct {
	mu     spin.RWMutex
	groups uint64
	levels int // below the root; a leaf is at level 0
	root   *node
}

type node struct {
	mask    classes
	kids    *[fanout]*node // above level 0
	classes *[fanout]class // at level 0
}

func newIndex(groups uint32) *index {
	x := &index{groups: uint64(groups)}
	for span := uint64(fanout); span < x.groups; span <<= fanoutBits {
		x.levels++
	}
	return x
}

// get is the class of a group.
func (x *index) get(group uint32) class {
	x.mu.RLock()
	defer x.mu.RUnlock()
	n := x.root
	for level := x.levels; n != nil; level-- {
		at := group >> (fanoutBits * level) % fanout
		if level == 0 {
			return n.classes[at]
		}
		n = n.kids[at]
	}
	return unknown
}

// set changes the class of a group, unless the group is set aside, which is
// final, or c is a first guess and something is known already.
func (x *index) set(group uint32, c class, guess bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.root = x.root.set(x.levels, group, c, guess)
}

func (n *node) set(level int, group uint32, c class, guess bool) *node {
	at := group >> (fanoutBits * level) % fanout
	if n == nil {
		n = &node{mask: only(unknown)}
		if level == 0 {
			n.classes = new([fanout]class)
		} else {
			n.kids = new([fanout]*node)
		}
	}
	var mask classes
	if level == 0 {
		old := n.classes[at]
		if old == bad || guess && old != unknown {
			return n
		}
		n.classes[at] = c
		for _, c := range n.classes {
			mask |= only(c)
		}
	} else {
		n.kids[at] = n.kids[at].set(level-1, group, c, guess)
		for _, k := range n.kids {
			mask |= k.has()
		}
	}
	n.mask = mask
	return n
}

// has are the classes that occur below n.
func (n *node) has() classes {
	if n == nil {
		return only(unknown)
	}
	return n.mask
}

// next finds the first group in [from, to) whose class is in want.
func (x *index) next(from, to uint32, want classes) (group uint32, c class, ok bool) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	end := min(uint64(to), x.groups)
	g, c, ok := x.root.next(x.levels, 0, uint64(from), end, want)
	return uint32(g), c, ok
}

// next searches [from, to) in the subtree n that starts at group base.
func (n *node) next(level int, base, from, to uint64, want classes) (uint64, class, bool) {
	from = max(from, base)
	if from >= to || n.has()&want == 0 {
		return 0, 0, false
	}
	if n == nil {
		return from, unknown, true
	}
	span := uint64(1) << (fanoutBits * level)
	for at := (from - base) / span; at < fanout && base+at*span < to; at++ {
		if level == 0 {
			if c := n.classes[at]; only(c)&want != 0 {
				return base + at, c, true
			}
			continue
		}
		if g, c, ok := n.kids[at].next(level-1, base+at*span, from, to, want); ok {
			return g, c, true
		}
	}
	return 0, 0, false
}
