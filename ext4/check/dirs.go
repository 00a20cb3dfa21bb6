package check

import (
	"fmt"
	"slices"
	"sync/atomic"
)

// dirTable has the directories that pass 1 found, and what pass 2 learns of how
// they hang together. Pass 2 may use it from several goroutines.
type dirTable struct {
	inos    []uint32 // ascending; what follows is by place in it
	dotdot  []uint32 // inode number of ".."; 0: there is none
	parents []uint32 // a directory with an entry for it; 0: there is none
	shared  []uint32 // bitmap: several entries lead to it
	any     atomic.Bool
}

// bytesPerDir is what a directory needs in the table and in pass 3.
const bytesPerDir = 3*4 + 1

// list makes the table.
func (t *dirTable) list(c *checker) error {
	each := func(fn func(ino uint32)) {
		for group := range c.geo.Groups {
			c.inodes.each(group, func(ino uint32, f fact) bool {
				if f.isDir() {
					fn(ino)
				}
				return true
			})
		}
	}
	n := 0
	each(func(uint32) { n++ })
	if need := int64(n) * bytesPerDir; need > c.opt.Memory/2-c.inodes.memory.Load() {
		return fmt.Errorf("%d directories need %d MiB of memory, more than what the inodes leave of half of what the check may use: allow more",
			n, need>>20)
	}
	t.inos = make([]uint32, 0, n)
	t.dotdot, t.parents = make([]uint32, n), make([]uint32, n)
	t.shared = make([]uint32, (n+31)/32)
	each(func(ino uint32) { t.inos = append(t.inos, ino) })
	return nil
}

// place finds a directory.
func (t *dirTable) place(ino uint32) (int, bool) { return slices.BinarySearch(t.inos, ino) }

// setDotdot notes the ".." of a directory.
func (t *dirTable) setDotdot(ino, parent uint32) {
	if i, ok := t.place(ino); ok {
		t.dotdot[i] = parent
	}
}

// setParent notes that a directory has an entry for another one. Which of several
// is kept is decided when all are known.
func (t *dirTable) setParent(ino, parent uint32) {
	i, ok := t.place(ino)
	if !ok || atomic.CompareAndSwapUint32(&t.parents[i], 0, parent) {
		return
	}
	atomic.OrUint32(&t.shared[i/32], 1<<(i%32))
	t.any.Store(true)
}

func (t *dirTable) isShared(i int) bool { return t.shared[i/32]>>(i%32)&1 != 0 }
