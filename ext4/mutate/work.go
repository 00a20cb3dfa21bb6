package mutate

import (
	"fmt"
	"math"
	"math/rand/v2"

	"ext4box/ext4/internal/disk"
	"ext4box/ext4/internal/xattr"
)

// pageSize is the grain in which a mutant differs from its base. It divides all block sizes.
const pageSize = 1024

// work is a mutant in the making.
type work struct {
	b     *Base
	rng   *rand.Rand
	pages map[int64][]byte // by page number
	what  []string
	size  int64
	// stale are the sites whose checksums are to be put right, adopted the owners by whose seed that is done where
	// it is not the owner's in the base.
	stale   []int
	isStale map[int]bool
	adopted map[int]uint32
}

func newWork(b *Base, rng *rand.Rand) *work {
	return &work{b: b, rng: rng, pages: make(map[int64][]byte), isStale: make(map[int]bool), adopted: make(map[int]uint32), size: int64(len(b.data))}
}

func (w *work) note(format string, args ...any) {
	w.what = append(w.what, fmt.Sprintf(format, args...))
}

// read returns a copy of the current content.
func (w *work) read(off int64, n int) []byte {
	p := make([]byte, n)
	for done := 0; done < n; {
		at := off + int64(done)
		m := min(n-done, pageSize-int(at%pageSize))
		if page, ok := w.pages[at/pageSize]; ok {
			copy(p[done:done+m], page[at%pageSize:])
		} else if at < int64(len(w.b.data)) {
			copy(p[done:done+m], w.b.data[at:])
		}
		done += m
	}
	return p
}

func (w *work) write(off int64, p []byte) {
	for done := 0; done < len(p); {
		at := off + int64(done)
		m := min(len(p)-done, pageSize-int(at%pageSize))
		page, ok := w.pages[at/pageSize]
		if !ok {
			page = make([]byte, pageSize)
			if first := at / pageSize * pageSize; first < int64(len(w.b.data)) {
				copy(page, w.b.data[first:])
			}
			w.pages[at/pageSize] = page
		}
		copy(page[at%pageSize:], p[done:done+m])
		done += m
	}
}

func (w *work) block(blk uint64) []byte {
	if blk >= w.b.geo.BlocksCount {
		return make([]byte, w.b.geo.BlockSize)
	}
	return w.read(w.b.at(blk), int(w.b.geo.BlockSize))
}

func pick[T any](w *work, list []T) T { return list[w.rng.IntN(len(list))] }

func (w *work) chance(one, of int) bool { return w.rng.IntN(of) < one }

// site picks one of a kind; ok is false where the base has none.
func (w *work) site(k kind) (i int, ok bool) {
	list := w.b.of[k]
	if len(list) == 0 {
		return 0, false
	}
	return pick(w, list), true
}

// anySite gives each kind the same chance, however many there are of it, but for those
// that are all about names and blocks.
func (w *work) anySite() int {
	k := pick(w, w.b.kinds)
	switch w.rng.IntN(6) {
	case 0:
		k = kindInode
	case 1:
		k = kindDir
	}
	if i, ok := w.site(k); ok {
		return i
	}
	return 0
}

// change applies fn to the content of a site.
func (w *work) change(i int, fn func(b []byte)) {
	s := &w.b.sites[i]
	b := w.read(s.off, s.size)
	gen := uint32(0)
	if s.kind == kindInode {
		gen = le.Uint32(b[0x64:])
	}
	fn(b)
	w.write(s.off, b)
	w.touch(i)
	if s.kind == kindInode && le.Uint32(b[0x64:]) != gen { // the seed of everything
		for _, j := range w.b.owned[s.owner] {
			w.touch(j)
		}
	}
}

// touch has the checksum of a site put right at the end.
func (w *work) touch(i int) {
	if !w.isStale[i] {
		w.isStale[i] = true
		w.stale = append(w.stale, i)
	}
}

// name says which structure it is.
func (w *work) name(s *site) string {
	switch s.kind {
	case kindSuper:
		return string(s.kind)
	case kindInode:
		return fmt.Sprintf("inode %d", s.owner)
	case kindDesc:
		return fmt.Sprintf("descriptor of group %d", s.group)
	case kindBlockBitmap, kindInodeBitmap, kindBackup, kindBackupDesc:
		return fmt.Sprintf("%s of group %d (block %d)", s.kind, s.group, s.off>>w.b.geo.BlockBits)
	}
	if s.owner != 0 {
		return fmt.Sprintf("%s %d of inode %d", s.kind, s.off>>w.b.geo.BlockBits, s.owner)
	}
	return fmt.Sprintf("%s %d", s.kind, s.off>>w.b.geo.BlockBits)
}

// blockOf is the block at which a site is, or begins.
func (w *work) blockOf(i int) uint64 { return uint64(w.b.sites[i].off) >> w.b.geo.BlockBits }

// anyBlock is the address of another structure, of data, or none.
func (w *work) anyBlock() uint64 {
	switch w.rng.IntN(8) {
	case 0:
		return w.b.geo.BlocksCount - w.rng.Uint64N(3)
	case 1:
		return w.b.geo.BlocksCount + w.rng.Uint64N(1<<20)
	case 2:
		return w.rng.Uint64N(w.b.geo.BlocksCount)
	case 3:
		if len(w.b.free) > 0 {
			return pick(w, w.b.free)
		}
	case 4:
		if len(w.b.log) > 0 {
			return pick(w, w.b.log)
		}
	}
	return w.blockOf(w.anySite())
}

func (w *work) anyInode() uint32 {
	switch w.rng.IntN(8) {
	case 0:
		return uint32(w.rng.IntN(12))
	case 1:
		return w.b.geo.InodesCount - 1 + uint32(w.rng.IntN(3))
	case 2:
		return 1 + w.rng.Uint32N(w.b.geo.InodesCount)
	case 3:
		if len(w.b.dirs) > 0 {
			return pick(w, w.b.dirs)
		}
	}
	return pick(w, w.b.used)
}

// value is an interesting one for a field of a site.
func (w *work) value(s *site, f *field, old uint64) uint64 {
	top := uint64(1)<<(8*f.width-1) - 1 + 1<<(8*f.width-1)
	if f.width == 8 {
		top = math.MaxUint64
	}
	common := func() uint64 {
		switch w.rng.IntN(10) {
		case 0:
			return 0
		case 1:
			return 1
		case 2:
			return 2
		case 3:
			return top
		case 4:
			return top - 1
		case 5:
			return top/2 + w.rng.Uint64N(2)
		case 6:
			return old + 1
		case 7:
			return old - 1
		case 8:
			return old ^ 1<<w.rng.IntN(8*f.width)
		}
		return w.rng.Uint64() >> w.rng.IntN(64)
	}
	if w.chance(1, 3) {
		return common()
	}
	switch f.class {
	case isBlock:
		if w.chance(1, 6) {
			return uint64(s.off) >> w.b.geo.BlockBits // itself
		}
		return w.anyBlock()
	case isInode:
		if s.owner != 0 && w.chance(1, 6) {
			return uint64(s.owner)
		}
		return uint64(w.anyInode())
	case isFlags:
		return old ^ 1<<w.rng.IntN(8*f.width)
	case isCount:
		return pick(w, []uint64{old * 2, old / 2, old + 4, old - 4, old + 8, uint64(w.b.geo.BlockSize), uint64(w.b.geo.BlockSize) - 1,
			old + uint64(w.b.geo.BlockSize), 32768, 32769, 255, 8, 12, uint64(s.size), w.b.geo.BlocksCount, 340, 4096})
	case isLogical:
		return pick(w, []uint64{0, 1, old + 1, old - 1, 1 << 28, 1<<32 - 1, 1<<32 - 2, old + 340, w.rng.Uint64N(64)})
	case isName:
		return pick(w, []uint64{0, '/', '.', 0xff, 0x80, '\n', 27})
	}
	return common()
}

// setField changes a field of a site.
func (w *work) setField(i int, f *field, v uint64) {
	s := &w.b.sites[i]
	w.change(i, func(b []byte) {
		if f.off+f.width > len(b) {
			return
		}
		old := f.get(b)
		f.put(b, v)
		w.note("%s: %s %#x -> %#x", w.name(s), f.name, old, f.get(b))
	})
	if f.class == isBlock {
		w.adopt(v, s.owner)
	}
}

// adopt may give what is in a block the checksum that it needs as one of another inode.
func (w *work) adopt(blk uint64, ino uint32) {
	if ino == 0 || w.chance(1, 2) {
		return
	}
	for _, k := range []kind{kindDir, kindDxRoot, kindDxNode, kindExtents} {
		for _, i := range w.b.of[k] {
			if w.blockOf(i) == blk {
				w.adopted[i] = ino
				w.touch(i)
				return
			}
		}
	}
}

// seal puts checksums right, those of what others are in the checksum of first.
func (w *work) seal() {
	for _, k := range []kind{kindExtents, kindDir, kindDxRoot, kindDxNode, kindXattr, kindLog, kindOrphan, kindInode, kindBlockBitmap, kindInodeBitmap,
		kindDesc, kindJournal, kindMMP, kindBackup, kindSuper} {
		for n := 0; n < len(w.stale); n++ { // the list may grow
			if i := w.stale[n]; w.b.sites[i].kind == k {
				w.sealSite(i)
			}
		}
	}
}

// seed is that of everything of an inode.
func (w *work) seed(ino uint32) uint32 {
	if ino == 0 || ino > w.b.geo.InodesCount {
		return w.b.sums.Seed
	}
	return w.b.sums.InodeSeed(ino, le.Uint32(w.read(w.b.inodeAt(ino)+0x64, 4)))
}

func (w *work) sealSite(i int) {
	s := &w.b.sites[i]
	b := w.read(s.off, s.size)
	sums := &w.b.sums
	owner := s.owner
	if o, ok := w.adopted[i]; ok {
		owner = o
	}
	switch s.kind {
	case kindBlockBitmap, kindInodeBitmap:
		if !sums.Metadata {
			return
		}
		raw := w.read(w.b.descAt(s.group), int(w.b.geo.DescSize))
		d := disk.DecodeGroupDesc(raw)
		if s.kind == kindBlockBitmap {
			d.BlockBitmapCsum = sums.Bitmap(b, w.b.geo.ClustersPerGroup)
		} else {
			d.InodeBitmapCsum = sums.Bitmap(b, w.b.geo.InodesPerGroup)
		}
		disk.EncodeGroupDesc(raw, &d)
		w.write(w.b.descAt(s.group), raw)
		w.touch(w.b.of[kindDesc][s.group])
		return
	case kindDesc:
		sums.SealGroupDesc(s.group, b)
	case kindJournal, kindLog:
		w.sealLog(s.kind, b)
	default:
		if !sums.Metadata {
			return
		}
		switch s.kind {
		case kindSuper, kindBackup:
			sums.SealSuperblock(b)
		case kindInode:
			disk.SealInode(w.seed(owner), b)
		case kindExtents:
			sums.SealExtentNode(w.seed(owner), b)
		case kindDir:
			disk.SealDirLeaf(w.seed(owner), b)
		case kindDxRoot, kindDxNode:
			disk.SealDx(w.seed(owner), b, s.kind == kindDxRoot)
		case kindXattr:
			xattr.SealBlock(sums, uint64(s.off)>>w.b.geo.BlockBits, b)
		case kindOrphan:
			disk.SealOrphanBlock(sums, w.seed(owner), uint64(s.off)>>w.b.geo.BlockBits, b)
		case kindMMP:
			le.PutUint32(b[0x3FC:], disk.CRC32C(sums.Seed, b[:0x3FC]))
		}
	}
	w.write(s.off, b)
}
