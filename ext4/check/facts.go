package check

import (
	"sync"
	"sync/atomic"

	"ext4box/ext4/internal/disk"
)

// fact is what pass 1 leaves behind about an inode.
type fact uint8

const (
	factType     fact = 0x07 // file type as directory entries have it, disk.FTReg...
	factUsed     fact = 0x08 // pass 1 found it in use
	factIndexed  fact = 0x10 // a directory with an index, as its flags go
	factBad      fact = 0x20 // its mode or other fields make no sense; e2fsck offers to clear it in pass 2
	factNoBlocks fact = 0x40 // its block map is damaged: what it leads to was not followed
	factEA       fact = 0x80 // holds the value of an attribute
)

func (f fact) used() bool      { return f&factUsed != 0 }
func (f fact) fileType() uint8 { return uint8(f & factType) }
func (f fact) isDir() bool     { return f.used() && f&factType == disk.FTDir }

// inodeTable has a fact, the stored links and the counted links of each inode, in
// pages that exist for block groups that have an inode in use.
//
// Pass 1 calls set, for each inode from the one worker that has its group. Later
// passes may read and count from several goroutines.
type inodeTable struct {
	perGroup uint32
	chunks   []atomic.Pointer[pageChunk]
	memory   atomic.Int64 // bytes in use
	links    largeCounts
	refs     largeCounts
}

const pagesPerChunk = 1024

type pageChunk [pagesPerChunk]atomic.Pointer[inodePage]

type inodePage struct {
	facts []fact
	links []uint8
	refs  []uint32 // four counts in each
}

// large stands for a count that is in the table of large ones.
const large = 255

// largeCounts has the counts that do not fit a byte.
type largeCounts struct {
	mu     sync.Mutex
	m      map[uint32]uint32
	memory *atomic.Int64
}

// largeBytes is what an entry of the map needs, with the room that the map keeps.
const largeBytes = 40

func (l *largeCounts) add(ino, n uint32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.m == nil {
		l.m = map[uint32]uint32{}
	}
	if _, ok := l.m[ino]; !ok {
		l.memory.Add(largeBytes)
	}
	l.m[ino] += n
}

func (l *largeCounts) get(ino uint32) uint32 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.m[ino]
}

func (t *inodeTable) init(g *disk.Geometry) {
	t.perGroup = g.InodesPerGroup
	t.links.memory, t.refs.memory = &t.memory, &t.memory
	t.chunks = make([]atomic.Pointer[pageChunk], (uint64(g.Groups)+pagesPerChunk-1)/pagesPerChunk)
}

// page returns the page of an inode, which must be in 1..InodesCount, or nil, and
// the inode's place in it.
func (t *inodeTable) page(ino uint32) (*inodePage, uint32) {
	group, i := (ino-1)/t.perGroup, (ino-1)%t.perGroup
	if chunk := t.chunks[group/pagesPerChunk].Load(); chunk != nil {
		return chunk[group%pagesPerChunk].Load(), i
	}
	return nil, i
}

// make returns the page of an inode and makes it if there is none.
func (t *inodeTable) make(ino uint32) (*inodePage, uint32) {
	p, i := t.page(ino)
	if p != nil {
		return p, i
	}
	group := (ino - 1) / t.perGroup
	slot := &t.chunks[group/pagesPerChunk]
	if slot.Load() == nil && slot.CompareAndSwap(nil, new(pageChunk)) {
		t.memory.Add(8 * pagesPerChunk)
	}
	p = &inodePage{
		facts: make([]fact, t.perGroup),
		links: make([]uint8, t.perGroup),
		refs:  make([]uint32, (t.perGroup+3)/4),
	}
	t.memory.Add(3*int64(t.perGroup) + 96)
	slot.Load()[group%pagesPerChunk].Store(p)
	return p, i
}

// set stores what pass 1 knows of an inode that is in use.
func (t *inodeTable) set(ino uint32, f fact, links uint16) {
	p, i := t.make(ino)
	p.facts[i] = f
	if p.links[i] = uint8(min(links, large)); links >= large {
		t.links.add(ino, uint32(links))
	}
}

// fact returns what is known about an inode, which must be in 1..InodesCount.
func (t *inodeTable) fact(ino uint32) fact {
	if p, i := t.page(ino); p != nil {
		return p.facts[i]
	}
	return 0
}

// stored is the link count that the inode has.
func (t *inodeTable) stored(ino uint32) uint32 {
	p, i := t.page(ino)
	switch {
	case p == nil:
		return 0
	case p.links[i] == large:
		return t.links.get(ino)
	}
	return uint32(p.links[i])
}

// count counts one link to an inode, which must be in use.
func (t *inodeTable) count(ino uint32) {
	p, i := t.page(ino)
	if p == nil {
		return
	}
	word, shift := &p.refs[i/4], 8*(i%4)
	for {
		old := atomic.LoadUint32(word)
		if old>>shift&0xFF == large {
			t.refs.add(ino, 1)
			return
		}
		if atomic.CompareAndSwapUint32(word, old, old+1<<shift) {
			return
		}
	}
}

// counted is the number of links that were counted.
func (t *inodeTable) counted(ino uint32) uint32 {
	p, i := t.page(ino)
	if p == nil {
		return 0
	}
	n := atomic.LoadUint32(&p.refs[i/4]) >> (8 * (i % 4)) & 0xFF
	if n == large {
		n += t.refs.get(ino)
	}
	return n
}

// each calls fn for the inodes of a group that are in use, in ascending order,
// until it returns false.
func (t *inodeTable) each(group uint32, fn func(ino uint32, f fact) bool) {
	first := group*t.perGroup + 1
	p, _ := t.page(first)
	if p == nil {
		return
	}
	for i, f := range p.facts {
		if f.used() && !fn(first+uint32(i), f) {
			return
		}
	}
}
