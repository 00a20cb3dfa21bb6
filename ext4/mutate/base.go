package mutate

import (
	"encoding/binary"
	"fmt"
	"os"
	"slices"

	"ext4box/ext4/internal/disk"
)

var (
	le = binary.LittleEndian
	be = binary.BigEndian
)

// A site is the place of one structure.
type site struct {
	kind  kind
	off   int64 // bytes, on the device
	size  int
	owner uint32 // inode, 0 for none
	group uint32 // of descriptors, bitmaps and backups
}

// kind is that of a structure.
type kind string

const (
	kindSuper       kind = "superblock"
	kindBackup      kind = "backup superblock"
	kindDesc        kind = "group descriptor"
	kindBackupDesc  kind = "backup group descriptors"
	kindBlockBitmap kind = "block bitmap"
	kindInodeBitmap kind = "inode bitmap"
	kindInode       kind = "inode"
	kindExtents     kind = "extent node"
	kindIndirect    kind = "indirect block"
	kindDir         kind = "directory block"
	kindDxRoot      kind = "index root"
	kindDxNode      kind = "index node"
	kindXattr       kind = "attribute block"
	kindValue       kind = "attribute value"
	kindLink        kind = "link target"
	kindJournal     kind = "journal superblock"
	kindLog         kind = "journal block"
	kindOrphan      kind = "orphan file block"
	kindQuota       kind = "quota block"
	kindMMP         kind = "MMP block"
)

// Base is a sound image that mutants are made of.
type Base struct {
	data  []byte
	sb    disk.Superblock
	geo   disk.Geometry
	sums  disk.Checksums
	sites []site
	kinds []kind // that there are, sorted
	of    map[kind][]int
	owned map[uint32][]int // sites by inode
	used  []uint32         // inodes in use
	dirs  []uint32
	files []uint32 // regular ones that users see
	log   []uint64 // the blocks of the journal, in its order
	free  []uint64 // blocks that nothing uses
}

// Load reads the image at path.
func Load(path string) (*Base, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return New(data)
}

// New looks around in a sound image, which it keeps and which must not change.
func New(image []byte) (*Base, error) {
	b := &Base{data: image, of: make(map[kind][]int), owned: make(map[uint32][]int)}
	if len(image) < 2*disk.SuperblockOffset {
		return nil, fmt.Errorf("mutate: an image of %d bytes has no superblock", len(image))
	}
	b.sb = disk.DecodeSuperblock(image[disk.SuperblockOffset:])
	b.sums = b.sb.Checksums()
	var err error
	if b.geo, err = b.sb.Geometry(); err != nil {
		return nil, err
	}
	if b.geo.BlocksCount<<b.geo.BlockBits > uint64(len(image)) {
		return nil, fmt.Errorf("mutate: the image is shorter than its %d blocks", b.geo.BlocksCount)
	}
	b.scan()
	return b, nil
}

func (b *Base) add(s site) {
	i := len(b.sites)
	b.sites = append(b.sites, s)
	b.of[s.kind] = append(b.of[s.kind], i)
	if s.owner != 0 {
		b.owned[s.owner] = append(b.owned[s.owner], i)
	}
}

func (b *Base) at(blk uint64) int64 { return int64(blk) << b.geo.BlockBits }

func (b *Base) block(blk uint64) []byte {
	if blk >= b.geo.BlocksCount {
		return make([]byte, b.geo.BlockSize)
	}
	return b.data[b.at(blk):][:b.geo.BlockSize]
}

func (b *Base) super() uint64 { return disk.SuperblockOffset >> b.geo.BlockBits }

func (b *Base) descAt(group uint32) int64 {
	return b.at(b.geo.DescBlock(b.super(), group/b.geo.DescPerBlock)) + int64(group%b.geo.DescPerBlock)*int64(b.geo.DescSize)
}

func (b *Base) desc(group uint32) disk.GroupDesc {
	return disk.DecodeGroupDesc(b.data[b.descAt(group):][:b.geo.DescSize])
}

func (b *Base) inodeAt(ino uint32) int64 {
	group, index := b.geo.InodeGroup(ino)
	d := b.desc(group)
	return b.at(d.InodeTable) + int64(index)*int64(b.geo.InodeSize)
}

// scan finds the structures.
func (b *Base) scan() {
	bs := int(b.geo.BlockSize)
	b.add(site{kind: kindSuper, off: disk.SuperblockOffset, size: disk.SuperblockSize})
	for g := range b.geo.Groups {
		d := b.desc(g)
		b.add(site{kind: kindDesc, off: b.descAt(g), size: int(b.geo.DescSize), group: g})
		if d.Flags&disk.GroupBlockUninit == 0 {
			b.add(site{kind: kindBlockBitmap, off: b.at(d.BlockBitmap), size: bs, group: g})
			b.findFree(g, b.block(d.BlockBitmap))
		}
		if d.Flags&disk.GroupInodeUninit == 0 {
			b.add(site{kind: kindInodeBitmap, off: b.at(d.InodeBitmap), size: bs, group: g})
		}
		if g > 0 && b.geo.HasSuper(g) {
			at := b.at(b.geo.GroupFirstBlock(g))
			b.add(site{kind: kindBackup, off: at, size: disk.SuperblockSize, group: g})
			if b.geo.BaseMeta(g) > 1 {
				b.add(site{kind: kindBackupDesc, off: at + int64(bs), size: bs, group: g})
			}
		}
	}
	for ino := uint32(1); ino <= b.geo.InodesCount; ino++ {
		group, index := b.geo.InodeGroup(ino)
		d := b.desc(group)
		if d.Flags&disk.GroupInodeUninit != 0 || ino > disk.InoReplica && !disk.Bitmap(b.block(d.InodeBitmap)).Test(index) {
			continue
		}
		at := b.inodeAt(ino)
		in := disk.DecodeInode(b.data[at:][:b.geo.InodeSize], false)
		if in.Mode == 0 && in.Links == 0 {
			continue
		}
		b.used = append(b.used, ino)
		switch {
		case in.IsDir():
			b.dirs = append(b.dirs, ino)
		case in.IsReg() && ino >= b.geo.FirstIno && in.Flags&disk.FlagEAInode == 0:
			b.files = append(b.files, ino)
		}
		b.add(site{kind: kindInode, off: at, size: int(b.geo.InodeSize), owner: ino})
		b.scanInode(ino, &in)
	}
	if b.sb.Incompat&disk.IncompatMMP != 0 && b.sb.MMPBlock < b.geo.BlocksCount {
		b.add(site{kind: kindMMP, off: b.at(b.sb.MMPBlock), size: disk.MMPSize})
	}
	for k := range b.of {
		b.kinds = append(b.kinds, k)
	}
	slices.Sort(b.kinds)
}

// findFree remembers some free blocks of a group, for structures that a mutant adds.
func (b *Base) findFree(group uint32, bitmap []byte) {
	first := b.geo.GroupFirstBlock(group)
	for i := b.geo.GroupBlocks(group); i > 0 && len(b.free) < 256; i-- {
		if !disk.Bitmap(bitmap).Test((i - 1) >> b.geo.ClusterBits) {
			b.free = append(b.free, first+uint64(i-1))
		}
	}
}

// maxSites bounds the blocks of one inode that become sites.
const maxSites = 300

// scanInode finds what belongs to an inode.
func (b *Base) scanInode(ino uint32, in *disk.Inode) {
	bs := int(b.geo.BlockSize)
	whole := func(k kind, blk uint64) {
		b.add(site{kind: k, off: b.at(blk), size: bs, owner: ino})
	}
	if in.FileACL != 0 && in.FileACL < b.geo.BlocksCount {
		whole(kindXattr, in.FileACL)
	}
	leaf := kind("")
	switch {
	case ino == b.sb.JournalIno && b.sb.Compat&disk.CompatHasJournal != 0:
		leaf = kindLog
	case ino == b.sb.UserQuotaIno || ino == b.sb.GroupQuotaIno || ino == b.sb.ProjectQuotaIno:
		leaf = kindQuota
	case ino == b.sb.OrphanFileIno && b.sb.Compat&disk.CompatOrphanFile != 0:
		leaf = kindOrphan
	case in.Flags&disk.FlagEAInode != 0:
		leaf = kindValue
	case in.IsDir():
		leaf = kindDir
	case in.IsSymlink():
		leaf = kindLink
	case in.Type() == disk.ModeReg || ino < b.geo.FirstIno:
	default:
		return
	}
	if in.Flags&disk.FlagInlineData != 0 || in.IsSymlink() && in.Size < disk.InodeBlockSize {
		return
	}
	n := 0
	w := walker{block: b.block, blocks: b.geo.BlocksCount, budget: 1 << 16}
	w.inode(in, func(logical uint32, blk uint64, level int) {
		switch {
		case level > 0 && in.Flags&disk.FlagExtents != 0:
			whole(kindExtents, blk)
		case level > 0:
			whole(kindIndirect, blk)
		case leaf == kindLog:
			if len(b.log) == 0 {
				b.add(site{kind: kindJournal, off: b.at(blk), size: disk.SuperblockSize, owner: ino})
			} else if n < 64 && be.Uint32(b.block(blk)) == journalMagic {
				n++
				whole(kindLog, blk)
			}
			b.log = append(b.log, blk)
		case leaf == kindDir && in.Flags&disk.FlagIndex != 0 && logical == 0:
			whole(kindDxRoot, blk)
		case leaf == kindDir && in.Flags&disk.FlagIndex != 0 && disk.IsDxNode(b.block(blk)):
			whole(kindDxNode, blk)
		case leaf != "" && n < maxSites:
			n++
			whole(leaf, blk)
		}
	})
}

// A walker follows the block map of an inode.
type walker struct {
	block  func(blk uint64) []byte
	blocks uint64 // in the filesystem
	budget int    // nodes and blocks that may still be shown
}

// inode calls fn for the blocks of an inode: those of its map with their level
// above the data, which has level 0.
func (w *walker) inode(in *disk.Inode, fn func(logical uint32, blk uint64, level int)) {
	if in.Flags&disk.FlagExtents != 0 {
		w.extents(in.Block[:], 6, fn)
		return
	}
	logical := uint32(0)
	for i := range 15 {
		w.indirect(uint64(le.Uint32(in.Block[4*i:])), max(0, i-11), &logical, fn)
	}
}

func (w *walker) spend() bool {
	w.budget--
	return w.budget >= 0
}

func (w *walker) extents(node []byte, maxDepth int, fn func(uint32, uint64, int)) {
	h := disk.DecodeExtentHeader(node)
	if h.Magic != disk.ExtentMagic || int(h.Depth) >= maxDepth {
		return
	}
	for i := range int(h.Entries) {
		at := disk.ExtentHeaderSize + i*disk.ExtentEntrySize
		if at+disk.ExtentEntrySize > len(node) {
			return
		}
		if h.Depth > 0 {
			x := disk.DecodeExtentIndex(node[at:])
			if x.Leaf < w.blocks && w.spend() {
				fn(x.Block, x.Leaf, int(h.Depth))
				w.extents(w.block(x.Leaf), int(h.Depth), fn)
			}
			continue
		}
		x := disk.DecodeExtent(node[at:])
		for j := range uint64(x.Len) {
			if x.Start+j >= w.blocks || !w.spend() {
				break
			}
			fn(x.Block+uint32(j), x.Start+j, 0)
		}
	}
}

func (w *walker) indirect(blk uint64, level int, logical *uint32, fn func(uint32, uint64, int)) {
	if blk == 0 || blk >= w.blocks || !w.spend() {
		if n := uint32(1); blk == 0 || blk >= w.blocks {
			for range level {
				n *= uint32(len(w.block(0)) / 4)
			}
			*logical += n
		}
		return
	}
	fn(*logical, blk, level)
	if level == 0 {
		*logical++
		return
	}
	for b := w.block(blk); len(b) > 0 && w.budget > 0; b = b[4:] {
		w.indirect(uint64(le.Uint32(b)), level-1, logical, fn)
	}
}
