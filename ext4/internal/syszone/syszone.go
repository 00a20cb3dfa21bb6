package syszone

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"sort"
	"sync"
	"sync/atomic"
	"syscall"

	"ext4box/ext4/internal/disk"
)

const (
	// maxHome bounds the groups of a home, and slots how many homes are kept.
	// Together they bound the memory, at 12 MiB for the worst of images.
	maxHome = 512
	slots   = 512

	// minHomeBlocks keeps small groups together, so that an extent does not
	// span many homes.
	minHomeBlocks = 32768

	// maxStrays bounds the ranges kept of structures outside their homes, and with
	// that the time for keeping them in order, of which one request can cause all.
	maxStrays = 1 << 16
)

// Run is a range of blocks.
type Run struct{ Start, Len uint64 }

// span is the blocks [start, end).
type span struct{ start, end uint64 }

// Zones answers which blocks belong to the filesystem itself. Its methods may be
// called concurrently.
type Zones struct {
	geo     *disk.Geometry
	desc    func(group uint32) (disk.GroupDesc, error)
	perHome uint32 // groups; a power of two
	fixed   []span

	homes  [slots]atomic.Pointer[home]
	strays strays
}

// home is what lies in groups [index*perHome, (index+1)*perHome).
type home struct {
	index uint32
	spans []span
}

// New returns the zones of a filesystem. flex is the number of groups in a
// flexible group, a power of two, or 1; desc returns the checked descriptor of a
// group, with an error that is EUCLEAN where it is corrupt; superBlock is the
// block of the superblock in use. Nothing is read.
func New(geo *disk.Geometry, flex uint32, superBlock uint64, desc func(group uint32) (disk.GroupDesc, error)) *Zones {
	z := &Zones{geo: geo, desc: desc, perHome: min(max(flex, 1), maxHome)}
	for z.perHome < maxHome && uint64(z.perHome)*uint64(geo.BlocksPerGroup) < minHomeBlocks {
		z.perHome *= 2
	}
	// The table in use, which in a hostile image is longer than its group.
	z.Protect([]Run{{superBlock, 1 + uint64(geo.ClassicDescBlocks())}})
	return z
}

// Protect adds blocks that belong to the filesystem itself. It must not be
// called when others use the zones already.
func (z *Zones) Protect(runs []Run) {
	for _, r := range runs {
		z.fixed = append(z.fixed, span{r.Start, r.Start + r.Len})
	}
	z.fixed = merge(z.fixed)
}

// Free tells whether the blocks [start, start+n), which must lie inside the
// filesystem, are free of its own structures.
func (z *Zones) Free(start, n uint64) bool {
	r := span{start, start + n}
	if hits(z.fixed, r) || start < uint64(z.geo.FirstDataBlock) {
		return false
	}
	for i := z.geo.GroupOf(start) / z.perHome; i <= z.geo.GroupOf(r.end-1)/z.perHome; i++ {
		if hits(z.home(i), r) {
			return false
		}
	}
	return !z.strays.hit(r)
}

// Strays tells whether there are structures that Free may not have known of
// when it was asked before.
func (z *Zones) Strays() bool { return z.strays.any.Load() }

// Changes is how often that has become more.
func (z *Zones) Changes() uint64 { return z.strays.changes.Load() }

// Note is told of the descriptor of each group that is used. Its structures are
// known to Free from then on.
func (z *Zones) Note(group uint32, d *disk.GroupDesc) error {
	lo, hi := z.bounds(group / z.perHome)
	for _, s := range z.structures(d) {
		if (s.start < lo || s.end > hi) && !z.strays.add(s) {
			return disk.Corruptf(fmt.Sprintf("group %d descriptor", group), "one of too many whose structures lie elsewhere")
		}
	}
	return nil
}

// structures are the bitmaps and the inode table of a group.
func (z *Zones) structures(d *disk.GroupDesc) [3]span {
	return [3]span{
		{d.BlockBitmap, d.BlockBitmap + 1},
		{d.InodeBitmap, d.InodeBitmap + 1},
		{d.InodeTable, d.InodeTable + uint64(z.geo.InodeTableBlocks)},
	}
}

// bounds are the blocks of a home.
func (z *Zones) bounds(index uint32) (lo, hi uint64) {
	first := uint64(index) * uint64(z.perHome)
	next := min(first+uint64(z.perHome), uint64(z.geo.Groups))
	return z.geo.GroupFirstBlock(uint32(first)), min(z.geo.GroupFirstBlock(uint32(next-1))+uint64(z.geo.BlocksPerGroup), z.geo.BlocksCount)
}

// home returns what lies in a home.
func (z *Zones) home(index uint32) []span {
	slot := &z.homes[index%slots]
	if h := slot.Load(); h != nil && h.index == index {
		return h.spans
	}
	h := &home{index: index}
	complete := true
	lo, hi := z.bounds(index)
	first := index * z.perHome
	for i := range z.perHome {
		group := first + i
		if group >= z.geo.Groups {
			break
		}
		base := z.geo.GroupFirstBlock(group)
		h.spans = append(h.spans, span{base, base + uint64(z.geo.BaseMeta(group))})
		d, err := z.desc(group)
		if err != nil {
			// Nobody can use the group. That may change if it was the device.
			complete = complete && errors.Is(err, syscall.EUCLEAN)
			continue
		}
		for _, s := range z.structures(&d) {
			if s.start >= lo && s.end <= hi {
				h.spans = append(h.spans, s)
			} else {
				z.strays.add(s)
			}
		}
	}
	h.spans = slices.Clip(merge(h.spans))
	if complete {
		slot.Store(h)
	}
	return h.spans
}

// merge sorts ranges and joins those that touch.
func merge(spans []span) []span {
	slices.SortFunc(spans, func(a, b span) int { return cmp.Compare(a.start, b.start) })
	out := spans[:0]
	for _, s := range spans {
		switch n := len(out); {
		case s.start == s.end:
		case n > 0 && s.start <= out[n-1].end:
			out[n-1].end = max(out[n-1].end, s.end)
		default:
			out = append(out, s)
		}
	}
	return out
}

// hits tells whether a range overlaps with one of those, which are sorted.
func hits(spans []span, r span) bool {
	i := sort.Search(len(spans), func(i int) bool { return spans[i].end > r.start })
	return i < len(spans) && spans[i].start < r.end
}

// strays are the structures outside of their homes.
type strays struct {
	any     atomic.Bool
	changes atomic.Uint64
	mu      sync.RWMutex
	spans   []span // sorted, apart
}

func (s *strays) hit(r span) bool {
	if !s.any.Load() {
		return false
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	return hits(s.spans, r)
}

// add tells whether there was room.
func (s *strays) add(r span) bool {
	s.mu.RLock()
	known := contains(s.spans, r)
	s.mu.RUnlock()
	if known || r.start == r.end {
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	lo := sort.Search(len(s.spans), func(i int) bool { return s.spans[i].end >= r.start })
	hi := lo
	for hi < len(s.spans) && s.spans[hi].start <= r.end {
		r.start, r.end = min(r.start, s.spans[hi].start), max(r.end, s.spans[hi].end)
		hi++
	}
	if lo == hi && len(s.spans) >= maxStrays {
		return false
	}
	s.spans = slices.Replace(s.spans, lo, hi, r)
	s.any.Store(true)
	s.changes.Add(1)
	return true
}

func contains(spans []span, r span) bool {
	i := sort.Search(len(spans), func(i int) bool { return spans[i].end >= r.end })
	return i < len(spans) && spans[i].start <= r.start
}
