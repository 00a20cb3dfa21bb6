package ext4_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"testing"

	"ext4box/blockdev/blocktest"
	"ext4box/ext4/internal/disk"
	"ext4box/ext4/internal/xattr"
	"ext4box/internal/testimage"
)

// victim is an image that an attacker knows well enough to damage it where it
// hurts, and to have all checksums right afterwards.
type victim struct {
	base   []byte
	sb     disk.Superblock
	geo    disk.Geometry
	sums   disk.Checksums
	inodes []uint32           // in use
	kinds  []string           // of metadata
	blocks map[string][]int64 // metadata by kind
	fixed  map[int64]bool     // superblocks, descriptors, bitmaps, inode tables, journal
}

// newVictim looks around in a sound image.
func newVictim(t *testing.T, img *testimage.Image) *victim {
	t.Helper()
	v := &victim{blocks: make(map[string][]int64), fixed: make(map[int64]bool)}
	var err error
	if v.base, err = os.ReadFile(img.Path); err != nil {
		t.Fatal(err)
	}
	v.sb = disk.DecodeSuperblock(v.base[disk.SuperblockOffset:])
	v.sums = v.sb.Checksums()
	if v.geo, err = v.sb.Geometry(); err != nil {
		t.Fatal(err)
	}
	content, err := testimage.ContentBlocks(img.Path, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	dev := v.device()
	known := make(map[int64]bool)
	add := func(kind string, blk uint64) {
		if b := int64(blk); !known[b] {
			known[b] = true
			v.blocks[kind] = append(v.blocks[kind], b)
		}
	}
	super := disk.SuperblockOffset >> v.geo.BlockBits
	add("superblock", uint64(super))
	for i := range (uint64(v.geo.Groups)*uint64(v.geo.DescSize) + uint64(v.geo.BlockSize) - 1) >> v.geo.BlockBits {
		add("descriptors", uint64(super)+1+i)
	}
	for g := range v.geo.Groups {
		d := v.desc(dev, g)
		add("bitmap", d.BlockBitmap)
		add("bitmap", d.InodeBitmap)
		for i := range uint64(v.geo.InodeTableBlocks) {
			if i < 16 {
				add("inodes", d.InodeTable+i)
			}
			known[int64(d.InodeTable+i)] = true
			v.fixed[int64(d.InodeTable+i)] = true
		}
	}
	for ino := uint32(1); ino <= v.geo.InodesCount; ino++ {
		raw := v.rawInode(dev, ino)
		in := disk.DecodeInode(raw, false)
		if in.Mode == 0 && in.Links == 0 {
			continue
		}
		v.inodes = append(v.inodes, ino)
		v.walk(dev, ino, &in, func(kind string, blk uint64, b []byte) {
			switch {
			case ino == v.sb.JournalIno && kind == "data" && len(v.blocks["journal"]) > 100:
				known[int64(blk)], v.fixed[int64(blk)] = true, true
			case ino == v.sb.JournalIno:
				add("journal", blk)
			case ino == v.sb.UserQuotaIno || ino == v.sb.GroupQuotaIno || ino == v.sb.ProjectQuotaIno:
				add("quota", blk)
			case v.sb.Compat&disk.CompatOrphanFile != 0 && ino == v.sb.OrphanFileIno:
				add("orphan", blk)
			case kind != "data":
				add(kind, blk)
			}
		})
	}
	for _, kind := range []string{"superblock", "descriptors", "bitmap", "journal"} {
		for _, b := range v.blocks[kind] {
			v.fixed[b] = true
		}
	}
	// What is left: symbolic links, values of attributes, backups.
	zero := make([]byte, v.geo.BlockSize)
	for b := range int64(len(v.base)) >> v.geo.BlockBits {
		at := b << v.geo.BlockBits
		if !known[b] && !content[at>>10] && !bytes.Equal(v.base[at:][:len(zero)], zero) {
			add("other", uint64(b))
		}
	}
	for kind := range v.blocks {
		v.kinds = append(v.kinds, kind)
	}
	slices.Sort(v.kinds)
	return v
}

func (v *victim) device() *blocktest.Mem {
	return blocktest.NewOverlay(bytes.NewReader(v.base), int64(len(v.base)))
}

func (v *victim) read(dev *blocktest.Mem, blk uint64) []byte {
	b := make([]byte, v.geo.BlockSize)
	if blk < v.geo.BlocksCount {
		dev.ReadAt(b, int64(blk)<<v.geo.BlockBits)
	}
	return b
}

func (v *victim) descAt(group uint32) int64 {
	super := int64(disk.SuperblockOffset >> v.geo.BlockBits)
	return (super+1)<<v.geo.BlockBits + int64(group)*int64(v.geo.DescSize)
}

func (v *victim) desc(dev *blocktest.Mem, group uint32) disk.GroupDesc {
	raw := make([]byte, v.geo.DescSize)
	dev.ReadAt(raw, v.descAt(group))
	return disk.DecodeGroupDesc(raw)
}

func (v *victim) inodeAt(dev *blocktest.Mem, ino uint32) int64 {
	group, index := v.geo.InodeGroup(ino)
	d := v.desc(dev, group)
	return int64(min(d.InodeTable, v.geo.BlocksCount-uint64(v.geo.InodeTableBlocks)))<<v.geo.BlockBits + int64(index)*int64(v.geo.InodeSize)
}

func (v *victim) rawInode(dev *blocktest.Mem, ino uint32) []byte {
	raw := make([]byte, v.geo.InodeSize)
	dev.ReadAt(raw, v.inodeAt(dev, ino))
	return raw
}

// walk shows the blocks of an inode, as far as a thousand of them.
func (v *victim) walk(dev *blocktest.Mem, ino uint32, in *disk.Inode, fn func(kind string, blk uint64, b []byte)) {
	if in.FileACL != 0 {
		fn("xattr", in.FileACL, v.read(dev, in.FileACL))
	}
	mode := in.Mode & disk.ModeFmt
	if in.Flags&disk.FlagInlineData != 0 || ino > disk.InoJournal && mode != disk.ModeReg && mode != disk.ModeDir && mode != disk.ModeLink ||
		mode == disk.ModeLink && in.Size < disk.InodeBlockSize {
		return
	}
	leaf := "data"
	if in.IsDir() {
		leaf = "directory"
	}
	budget := 1000
	show := func(kind string, blk uint64) []byte {
		if budget--; budget < 0 {
			return nil
		}
		b := v.read(dev, blk)
		fn(kind, blk, b)
		return b
	}
	if in.Flags&disk.FlagExtents == 0 {
		var indirect func(blk uint64, level int)
		indirect = func(blk uint64, level int) {
			if blk == 0 || budget < 0 {
				return
			}
			if level == 0 {
				show(leaf, blk)
				return
			}
			for b := show("map", blk); len(b) > 0; b = b[4:] {
				indirect(uint64(le.Uint32(b)), level-1)
			}
		}
		for i := range 15 {
			indirect(uint64(le.Uint32(in.Block[4*i:])), max(0, i-11))
		}
		return
	}
	var node func(b []byte, depth int)
	node = func(b []byte, depth int) {
		h := disk.DecodeExtentHeader(b)
		for i := range int(h.Entries) {
			at := disk.ExtentHeaderSize + i*disk.ExtentEntrySize
			if at+disk.ExtentEntrySize > len(b) || budget < 0 {
				return
			}
			if h.Depth == 0 {
				x := disk.DecodeExtent(b[at:])
				for j := range uint64(x.Len) {
					if show(leaf, x.Start+j) == nil {
						return
					}
				}
			} else if depth < 5 {
				x := disk.DecodeExtentIndex(b[at:])
				if c := show("map", x.Leaf); c != nil {
					node(c, depth+1)
				}
			}
		}
	}
	node(in.Block[:], 0)
}

// seal makes all checksums right.
func (v *victim) seal(dev *blocktest.Mem) {
	if !v.sums.Metadata {
		return
	}
	write := func(blk uint64, b []byte) {
		if blk > 0 && blk < v.geo.BlocksCount && !v.fixed[int64(blk)] {
			dev.WriteAt(b, int64(blk)<<v.geo.BlockBits)
		}
	}
	for _, ino := range v.inodes {
		raw := v.rawInode(dev, ino)
		in := disk.DecodeInode(raw, false)
		seed := v.sums.InodeSeed(ino, in.Generation)
		disk.SealInode(seed, raw)
		dev.WriteAt(raw, v.inodeAt(dev, ino))
		first := true
		v.walk(dev, ino, &in, func(kind string, blk uint64, b []byte) {
			switch {
			case kind == "xattr":
				xattr.SealBlock(&v.sums, blk, b)
				write(blk, b)
			case kind == "map" && in.Flags&disk.FlagExtents != 0:
				v.sums.SealExtentNode(seed, b)
				write(blk, b)
			case kind == "directory":
				root := first && in.Flags&disk.FlagIndex != 0
				if inner := le.Uint32(b) == 0 && le.Uint16(b[4:]) == uint16(len(b)); root || inner && in.Flags&disk.FlagIndex != 0 {
					disk.SealDx(seed, b, root)
				} else {
					disk.SealDirLeaf(seed, b)
				}
				first = false
				write(blk, b)
			case v.sb.Compat&disk.CompatOrphanFile != 0 && ino == v.sb.OrphanFileIno:
				disk.SealOrphanBlock(&v.sums, seed, blk, b)
				write(blk, b)
			}
		})
	}
	for g := range v.geo.Groups {
		raw := make([]byte, v.geo.DescSize)
		dev.ReadAt(raw, v.descAt(g))
		d := disk.DecodeGroupDesc(raw)
		d.BlockBitmapCsum = v.sums.Bitmap(v.read(dev, d.BlockBitmap), v.geo.ClustersPerGroup)
		d.InodeBitmapCsum = v.sums.Bitmap(v.read(dev, d.InodeBitmap), v.geo.InodesPerGroup)
		disk.EncodeGroupDesc(raw, &d)
		v.sums.SealGroupDesc(g, raw)
		dev.WriteAt(raw, v.descAt(g))
	}
	raw := make([]byte, disk.SuperblockSize)
	dev.ReadAt(raw, disk.SuperblockOffset)
	v.sums.SealSuperblock(raw)
	dev.WriteAt(raw, disk.SuperblockOffset)
}

var extremes = []uint32{0, 1, 2, 3, 7, 8, 11, 0x7fffffff, 0x80000000, 0xffffffff, 0xfffffffe, 0xffff0000, 0x0000ffff, 0x10000000, 0x00080000}

// damage changes something in one place, and says what. fixed tells whether it
// may have changed where the fixed structures are.
func (v *victim) damage(rng *rand.Rand, dev *blocktest.Mem) (what string, fixed bool) {
	word := func() uint32 {
		switch rng.IntN(4) {
		case 0:
			return v.inodes[rng.IntN(len(v.inodes))]
		case 1:
			return uint32(v.anyBlock(rng, v.kinds[rng.IntN(len(v.kinds))]))
		case 2:
			return rng.Uint32N(uint32(v.geo.BlocksCount))
		}
		return extremes[rng.IntN(len(extremes))]
	}
	switch n := rng.IntN(10); {
	case n < 3:
		ino := v.inodes[rng.IntN(len(v.inodes))]
		raw := v.rawInode(dev, ino)
		what, fixed = v.damageInode(rng, raw, word)
		dev.WriteAt(raw, v.inodeAt(dev, ino))
		return fmt.Sprintf("inode %d: %s", ino, what), fixed || ino == v.sb.JournalIno
	case n < 4:
		off := []int64{0x00, 0x04, 0x08, 0x0C, 0x10, 0x14, 0x20, 0x28, 0x3A, 0x4C, 0x54, 0x58, 0x5C, 0x60, 0x64, 0xCC, 0xE0,
			0xE8, 0xFC, 0x100, 0x104, 0x150, 0x154, 0x158, 0x15C, 0x160, 0x168, 0x174, 0x194, 0x240, 0x244, 0x24C, 0x26C, 0x27C, 0x280}[rng.IntN(35)]
		b := make([]byte, 4)
		dev.ReadAt(b, disk.SuperblockOffset+off)
		w := word()
		if rng.IntN(2) == 0 {
			w = le.Uint32(b) ^ 1<<rng.IntN(32)
		}
		if off == 0x60 {
			w &^= uint32(disk.IncompatMMP) // waits, as it should
		}
		le.PutUint32(b, w)
		dev.WriteAt(b, disk.SuperblockOffset+off)
		return fmt.Sprintf("superblock: word %#x is %#x", off, w), true
	case n < 5: // an orphan
		ino := v.inodes[rng.IntN(len(v.inodes))]
		raw := v.rawInode(dev, ino)
		le.PutUint32(raw[0x14:], word())
		if rng.IntN(2) == 0 {
			le.PutUint16(raw[0x1A:], 0)
		}
		dev.WriteAt(raw, v.inodeAt(dev, ino))
		b := make([]byte, 4)
		le.PutUint32(b, ino)
		if list := v.blocks["orphan"]; len(list) > 0 {
			le.PutUint32(b, ino)
			dev.WriteAt(b, list[rng.IntN(len(list))]<<v.geo.BlockBits+4*int64(rng.IntN(20)))
			dev.ReadAt(b, disk.SuperblockOffset+0x64)
			le.PutUint32(b, le.Uint32(b)|uint32(disk.ROCompatOrphanPresent))
			dev.WriteAt(b, disk.SuperblockOffset+0x64)
			return fmt.Sprintf("inode %d is in the orphan file", ino), false
		}
		dev.WriteAt(b, disk.SuperblockOffset+0xE8)
		return fmt.Sprintf("inode %d is on the orphan list", ino), false
	}
	if rng.IntN(12) == 0 && len(v.blocks["journal"]) > 0 {
		blk, off := v.blocks["journal"][0], int64(0x0C+4*rng.IntN(18))
		b := make([]byte, 4)
		w := []uint32{0, 1, 2, 3, 5, 10, 20, 40, 100, 200, 1 << 10, 1 << 20, 1 << 31, math.MaxUint32}[rng.IntN(14)]
		binary.BigEndian.PutUint32(b, w)
		dev.WriteAt(b, blk<<v.geo.BlockBits+off)
		return fmt.Sprintf("journal superblock: word %#x is %d", off, w), true
	}
	kind := v.kinds[rng.IntN(len(v.kinds))]
	if rng.IntN(4) == 0 && len(v.blocks["directory"]) > 0 {
		kind = "directory"
	}
	blk := v.anyBlock(rng, kind)
	b := v.read(dev, uint64(blk))
	what, fixed = "", kind == "superblock" || kind == "descriptors" || kind == "journal"
	if kind == "superblock" {
		b = b[disk.SuperblockOffset&(v.geo.BlockSize-1):]
	}
	if kind == "directory" && rng.IntN(3) > 0 {
		what = damageDir(rng, b, word)
	} else {
		what = v.damageBlock(rng, b, word)
	}
	if kind == "superblock" && len(b) >= 0x64 {
		le.PutUint32(b[0x60:], le.Uint32(b[0x60:])&^uint32(disk.IncompatMMP))
	}
	off := int64(v.geo.BlockSize) - int64(len(b))
	dev.WriteAt(b, blk<<v.geo.BlockBits+off)
	return fmt.Sprintf("%s block %d: %s", kind, blk, what), fixed
}

func (v *victim) anyBlock(rng *rand.Rand, kind string) int64 {
	return v.blocks[kind][rng.IntN(len(v.blocks[kind]))]
}

// damageInode changes a field or two of an inode.
func (v *victim) damageInode(rng *rand.Rand, raw []byte, word func() uint32) (what string, fixed bool) {
	for range 1 + rng.IntN(2) {
		switch rng.IntN(7) {
		case 6: // the attributes of another one
			other := v.rawInode(v.device(), v.inodes[rng.IntN(len(v.inodes))])
			if blk := v.blocks["xattr"]; rng.IntN(2) == 0 && len(blk) > 0 {
				le.PutUint32(other[0x68:], uint32(blk[rng.IntN(len(blk))]))
			}
			copy(raw[0x68:0x6C], other[0x68:])
			copy(raw[min(0x80, len(raw)):], other[min(0x80, len(raw)):])
			what += fmt.Sprintf("another one's attributes (block %d); ", le.Uint32(raw[0x68:]))
		case 0: // the flags that change how everything else is read
			flags := []disk.InodeFlags{disk.FlagExtents, disk.FlagInlineData, disk.FlagIndex, disk.FlagEncrypt, disk.FlagVerity,
				disk.FlagCasefold, disk.FlagEAInode, disk.FlagHugeFile, disk.FlagAppend, disk.FlagJournalData}
			f := flags[rng.IntN(len(flags))]
			le.PutUint32(raw[0x20:], le.Uint32(raw[0x20:])^uint32(f))
			what += fmt.Sprintf("flag %#x changed; ", uint32(f))
		case 1: // another type
			m := uint16(rng.IntN(16)) << 12
			le.PutUint16(raw[0:], le.Uint16(raw[0:])&0xFFF|m)
			what += fmt.Sprintf("type %#o; ", m)
		case 2: // the block map
			off := 0x28 + 4*rng.IntN(15)
			w := word()
			if rng.IntN(2) == 0 { // where the first block is
				w = uint32(v.anyBlock(rng, v.kinds[rng.IntN(len(v.kinds))]))
				if off = 0x28; le.Uint32(raw[0x20:])&uint32(disk.FlagExtents) != 0 {
					off += disk.ExtentHeaderSize + 8
				}
			}
			le.PutUint32(raw[off:], w)
			what += fmt.Sprintf("word %#x is %#x; ", off, w)
		case 3: // that of another block map, blocks and all
			other := v.rawInode(v.device(), v.inodes[rng.IntN(len(v.inodes))])
			copy(raw[0x28:0x64], other[0x28:0x64])
			what += "another one's blocks; "
		default:
			offs := []int{0x00, 0x04, 0x0C, 0x14, 0x18, 0x1A, 0x1C, 0x20, 0x64, 0x68, 0x6C, 0x74, 0x76, 0x80, 0x9C}
			off := min(offs[rng.IntN(len(offs))], len(raw)-4)
			w := word()
			if rng.IntN(2) == 0 {
				le.PutUint16(raw[off:], uint16(w))
			} else {
				le.PutUint32(raw[off:], w)
			}
			what += fmt.Sprintf("word %#x is %#x; ", off, w)
		}
	}
	return what, false
}

// damageDir changes an entry of a directory block.
func damageDir(rng *rand.Rand, b []byte, word func() uint32) string {
	var at []int
	for off := 0; off+8 <= len(b); {
		at = append(at, off)
		n := int(le.Uint16(b[off+4:]))
		if n < 8 || n%4 != 0 {
			break
		}
		off += n
	}
	off := at[rng.IntN(min(len(at), 1+rng.IntN(len(at))))]
	switch rng.IntN(6) {
	case 0:
		le.PutUint16(b[off+4:], uint16(word()))
		return fmt.Sprintf("entry at %d: record length %d", off, le.Uint16(b[off+4:]))
	case 1:
		b[off+6] = byte(word())
		return fmt.Sprintf("entry at %d: name length %d", off, b[off+6])
	case 2:
		b[off+7] = byte(rng.IntN(9))
		return fmt.Sprintf("entry at %d: type %d", off, b[off+7])
	case 3:
		if off+16 < len(b) {
			b[off+8+rng.IntN(8)] = byte(rng.Uint32())
		}
		return fmt.Sprintf("entry at %d: another name", off)
	}
	w := word()
	le.PutUint32(b[off:], w)
	return fmt.Sprintf("entry at %d: inode %d", off, w)
}

// damageBlock changes any block.
func (v *victim) damageBlock(rng *rand.Rand, b []byte, word func() uint32) string {
	switch rng.IntN(12) {
	case 0:
		clear(b)
		return "zeros"
	case 1:
		for i := range b {
			b[i] = 0xff
		}
		return "ones"
	case 2:
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		return "noise"
	case 3:
		kind := v.kinds[rng.IntN(len(v.kinds))]
		blk := v.anyBlock(rng, kind)
		copy(b, v.base[blk<<v.geo.BlockBits:][:v.geo.BlockSize])
		return fmt.Sprintf("that of %s block %d", kind, blk)
	case 4, 5:
		n := 1 + rng.IntN(8)
		for range n {
			bit := rng.IntN(8 * len(b))
			b[bit/8] ^= 1 << (bit % 8)
		}
		return fmt.Sprintf("%d bits flipped", n)
	case 6:
		at := rng.IntN(len(b))
		n := min(1+rng.IntN(64), len(b)-at)
		fill := []byte{0, 0xff}[rng.IntN(2)]
		for i := range n {
			b[at+i] = fill
		}
		return fmt.Sprintf("%d bytes of %#x at %#x", n, fill, at)
	case 7:
		at, from := rng.IntN(len(b)/4)*4, rng.IntN(len(b)/4)*4
		copy(b[at:at+4], b[from:from+4])
		return fmt.Sprintf("word %#x is that at %#x", at, from)
	case 8: // a word that is not zero
		for range 50 {
			at := rng.IntN(len(b)/4) * 4
			if le.Uint32(b[at:]) != 0 {
				w := word()
				le.PutUint32(b[at:], w)
				return fmt.Sprintf("word %#x is %#x", at, w)
			}
		}
	}
	// Fields are at the front of blocks more often than not.
	at, w := rng.IntN(len(b)/4)*4>>rng.IntN(7)&^3, word()
	le.PutUint32(b[at:], w)
	return fmt.Sprintf("word %#x is %#x", at, w)
}
