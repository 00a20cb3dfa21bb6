package disk_test

import (
	"errors"
	"math"
	"strings"
	"syscall"
	"testing"

	"ext4box/ext4/internal/disk"
	"ext4box/internal/e2test"
)

// TestLayoutEqualsDumpe2fs compares where things are, and every descriptor,
// with what dumpe2fs says.
func TestLayoutEqualsDumpe2fs(t *testing.T) {
	for _, s := range shapes {
		t.Run(s.name, func(t *testing.T) {
			compareLayout(t, e2test.Image(t, s.size, s.args...))
		})
	}
	t.Run("first_meta_bg", func(t *testing.T) {
		path := e2test.Image(t, 96*mib, "-t", "ext2", "-b", "1024", "-g", "256", "-O", "meta_bg,^resize_inode")
		e2test.Change(t, path, "ssv first_meta_bg 1")
		compareLayout(t, path)
	})
}

func compareLayout(t *testing.T, path string) {
	sb, g := open(t, path)
	sums := sb.Checksums()
	dump := e2test.Dumpe2fs(t, path)
	if int(g.Groups) != len(dump.Groups) {
		t.Fatalf("%d groups, dumpe2fs says %d", g.Groups, len(dump.Groups))
	}
	metaBG := sb.Incompat&disk.IncompatMetaBG != 0
	base := uint64(0)
	backup := uint64(0)
	for i := range g.Groups {
		want := &dump.Groups[i]
		if first, last := g.GroupFirstBlock(i), g.GroupFirstBlock(i)+uint64(g.GroupBlocks(i))-1; first != want.First || last != want.Last {
			t.Errorf("group %d spans blocks %d-%d, dumpe2fs says %d-%d", i, first, last, want.First, want.Last)
		}
		if g.HasSuper(i) != want.HasSuper {
			t.Errorf("group %d has a superblock: %v, dumpe2fs says %v", i, g.HasSuper(i), want.HasSuper)
		}
		if want.HasSuper {
			base++
			if i > 0 && backup == 0 {
				backup = want.Super
			}
		}
		if want.DescFirst != 0 {
			base += want.DescLast - want.DescFirst + 1
		}
		base += want.ReservedGDT

		at := i / g.DescPerBlock
		place := dump.Groups[0].DescFirst + uint64(at)
		if metaBG && at >= sb.FirstMetaBG {
			place = dump.Groups[at*g.DescPerBlock].DescFirst
		}
		primary := uint64(disk.SuperblockOffset) >> g.BlockBits
		if got := g.DescBlock(primary, at); got != place && i%g.DescPerBlock == 0 {
			t.Errorf("descriptor block %d is at %d, dumpe2fs says %d", at, got, place)
		}
		raw := e2test.Bytes(t, path, int64(place)<<g.BlockBits+int64(i%g.DescPerBlock*g.DescSize), int(g.DescSize))
		compareDesc(t, &sb, &g, i, raw, want)
		if sums.Metadata || sums.GDT {
			if sum := sums.GroupDesc(i, raw); sum != want.Checksum {
				t.Errorf("group %d has checksum %#x, dumpe2fs says %#x", i, sum, want.Checksum)
			}
		}
	}
	if got := g.BaseMetaBlocks(); got != base {
		t.Errorf("%d blocks are copies of superblock and descriptors, dumpe2fs shows %d", got, base)
	}
	if backup != 0 && sb.FirstMetaBG == 0 {
		compareBackup(t, path, &g, backup)
	}
}

func compareDesc(t *testing.T, sb *disk.Superblock, g *disk.Geometry, group uint32, raw []byte, want *e2test.Group) {
	t.Helper()
	d := disk.DecodeGroupDesc(raw)
	if err := d.Check(g, group, sb.Incompat&disk.IncompatFlexBG != 0); err != nil {
		t.Error(err)
	}
	var flags []string
	for bit, name := range []string{"INODE_UNINIT", "BLOCK_UNINIT", "ITABLE_ZEROED"} {
		if d.Flags&(1<<bit) != 0 {
			flags = append(flags, name)
		}
	}
	got := e2test.Group{
		First: want.First, Last: want.Last, Checksum: d.Checksum, Flags: strings.Join(flags, ", "),
		HasSuper: want.HasSuper, Super: want.Super, DescFirst: want.DescFirst, DescLast: want.DescLast, ReservedGDT: want.ReservedGDT,
		BlockBitmap: d.BlockBitmap, InodeBitmap: d.InodeBitmap, BlockBitmapCsum: d.BlockBitmapCsum, InodeBitmapCsum: d.InodeBitmapCsum,
		TableFirst: d.InodeTable, TableLast: d.InodeTable + uint64(g.InodeTableBlocks) - 1,
		FreeBlocks: d.FreeBlocks, FreeInodes: d.FreeInodes, Directories: d.UsedDirs, Unused: d.ItableUnused,
	}
	if sums := sb.Checksums(); !sums.Metadata && !sums.GDT {
		got.Flags, got.Unused = "", 0 // dumpe2fs shows them where checksums guard them
	}
	if got != *want {
		t.Errorf("group %d:\n%+v, dumpe2fs says\n%+v", group, got, *want)
	}
}

// compareBackup checks that the copy of the descriptors that belongs to a
// backup superblock is found.
func compareBackup(t *testing.T, path string, g *disk.Geometry, backup uint64) {
	t.Helper()
	primary := uint64(disk.SuperblockOffset) >> g.BlockBits
	for at := range g.DescBlocks {
		from := g.DescBlock(backup, at)
		if from == g.DescBlock(primary, at) && g.Groups > at*g.DescPerBlock+1 {
			t.Errorf("descriptor block %d: the backup is the primary at %d", at, from)
		}
		n := int(min(g.DescPerBlock, g.Groups-at*g.DescPerBlock) * g.DescSize)
		copied := e2test.Bytes(t, path, int64(from)<<g.BlockBits, n)
		origin := e2test.Bytes(t, path, int64(g.DescBlock(primary, at))<<g.BlockBits, n)
		for off := 0; off < n; off += int(g.DescSize) {
			a, b := disk.DecodeGroupDesc(copied[off:off+int(g.DescSize)]), disk.DecodeGroupDesc(origin[off:off+int(g.DescSize)])
			if a.InodeTable != b.InodeTable || a.BlockBitmap != b.BlockBitmap || a.InodeTable == 0 {
				t.Fatalf("descriptor block %d: copy at %d has an inode table at %d instead of %d", at, from, a.InodeTable, b.InodeTable)
			}
		}
	}
}

// plausible is a superblock with a geometry that works.
func plausible() disk.Superblock {
	return disk.Superblock{
		Magic: disk.SuperMagic, RevLevel: disk.RevDynamic, InodesCount: 4 * 8192, BlocksCount: 4*32768 - 5, LogBlockSize: 2, LogClusterSize: 2,
		BlocksPerGroup: 32768, ClustersPerGroup: 32768, InodesPerGroup: 8192, FirstIno: 11, InodeSize: 256, DescSize: 64,
		Compat: disk.CompatResizeInode, Incompat: disk.Incompat64Bit | disk.IncompatExtents, ROCompat: disk.ROCompatSparseSuper,
	}
}

// TestGeometryRefuses drives each field of the superblock to what cannot be.
func TestGeometryRefuses(t *testing.T) {
	if sb := plausible(); true {
		if _, err := sb.Geometry(); err != nil {
			t.Fatalf("the plausible superblock: %v", err)
		}
	}
	type change = func(sb *disk.Superblock)
	bigalloc := func(sb *disk.Superblock) {
		sb.ROCompat |= disk.ROCompatBigalloc
		sb.LogClusterSize, sb.ClustersPerGroup = 6, 32768/16
	}
	if sb := plausible(); true {
		if bigalloc(&sb); true {
			if g, err := sb.Geometry(); err != nil || g.ClusterBits != 4 {
				t.Fatalf("the plausible superblock with bigalloc: %v, %d cluster bits", err, g.ClusterBits)
			}
		}
	}
	oneK := func(sb *disk.Superblock) {
		sb.LogBlockSize, sb.LogClusterSize, sb.BlocksPerGroup, sb.ClustersPerGroup = 0, 0, 8192, 8192
		sb.FirstDataBlock, sb.BlocksCount, sb.InodesCount, sb.InodesPerGroup = 1, 4*8192, 4*2048, 2048
	}
	if sb := plausible(); true {
		oneK(&sb)
		if _, err := sb.Geometry(); err != nil {
			t.Fatalf("the plausible superblock with 1 KiB blocks: %v", err)
		}
	}
	for _, c := range []struct {
		name  string
		names string // what the error must name
		do    change
	}{
		{"magic 0", "magic", func(sb *disk.Superblock) { sb.Magic = 0 }},
		{"block size 128 KiB", "block size", func(sb *disk.Superblock) { sb.LogBlockSize = 7 }},
		{"block size overflow", "block size", func(sb *disk.Superblock) { sb.LogBlockSize = math.MaxUint32 }},
		{"block size shift 54", "block size", func(sb *disk.Superblock) { sb.LogBlockSize = 54 }},
		{"no blocks per group", "blocks per group", func(sb *disk.Superblock) { sb.BlocksPerGroup = 0; sb.ClustersPerGroup = 0 }},
		{"blocks per group beyond the bitmap", "blocks per group", func(sb *disk.Superblock) { sb.BlocksPerGroup += 8 }},
		{"blocks per group 2^32-8", "blocks per group", func(sb *disk.Superblock) { sb.BlocksPerGroup = math.MaxUint32 - 7 }},
		{"inode size 0", "inode size", func(sb *disk.Superblock) { sb.InodeSize = 0 }},
		{"inode size 64", "inode size", func(sb *disk.Superblock) { sb.InodeSize = 64 }},
		{"inode size 192", "inode size", func(sb *disk.Superblock) { sb.InodeSize = 192 }},
		{"inode size above the block size", "inode size", func(sb *disk.Superblock) { sb.InodeSize = 8192 }},
		{"inode size 65535", "inode size", func(sb *disk.Superblock) { sb.InodeSize = 65535 }},
		{"first inode 0", "first inode", func(sb *disk.Superblock) { sb.FirstIno = 0 }},
		{"first inode 10", "first inode", func(sb *disk.Superblock) { sb.FirstIno = 10 }},
		{"no inodes per group", "inodes per group", func(sb *disk.Superblock) { sb.InodesPerGroup = 0; sb.InodesCount = 0 }},
		{"inodes per group below a block", "inodes per group", func(sb *disk.Superblock) { sb.InodesPerGroup = 15 }},
		{"inodes per group beyond the bitmap", "inodes per group", func(sb *disk.Superblock) { sb.InodesPerGroup = 32769 }},
		{"inodes per group 2^32-1", "inodes per group", func(sb *disk.Superblock) { sb.InodesPerGroup = math.MaxUint32 }},
		{"descriptor size 0", "descriptor size", func(sb *disk.Superblock) { sb.DescSize = 0 }},
		{"descriptor size 32 with 64bit", "descriptor size", func(sb *disk.Superblock) { sb.DescSize = 32 }},
		{"descriptor size 96", "descriptor size", func(sb *disk.Superblock) { sb.DescSize = 96 }},
		{"descriptor size 2048", "descriptor size", func(sb *disk.Superblock) { sb.DescSize = 2048 }},
		{"descriptor size 65535", "descriptor size", func(sb *disk.Superblock) { sb.DescSize = 65535 }},
		{"no blocks", "first data block", func(sb *disk.Superblock) { sb.BlocksCount = 0 }},
		{"first data block behind the end", "first data block", func(sb *disk.Superblock) { sb.FirstDataBlock = math.MaxUint32 }},
		{"first data block 1 with 4 KiB", "first data block", func(sb *disk.Superblock) { sb.FirstDataBlock = 1 }},
		{"first data block 0 with 1 KiB", "first data block", func(sb *disk.Superblock) { oneK(sb); sb.FirstDataBlock = 0 }},
		{"first data block 2", "first data block", func(sb *disk.Superblock) { oneK(sb); sb.FirstDataBlock = 2 }},
		{"2^64-1 blocks", "blocks", func(sb *disk.Superblock) { sb.BlocksCount = math.MaxUint64 }},
		{"2^48+1 blocks", "blocks", func(sb *disk.Superblock) { sb.BlocksCount = 1<<48 + 1 }},
		{"2^40 blocks", "inodes", func(sb *disk.Superblock) { sb.BlocksCount = 1 << 40 }},
		{"2^48 blocks in groups of 8", "groups", func(sb *disk.Superblock) {
			sb.BlocksCount, sb.BlocksPerGroup, sb.ClustersPerGroup = 1<<48, 8, 8
		}},
		{"one inode too many", "inodes", func(sb *disk.Superblock) { sb.InodesCount++ }},
		{"no inodes", "inodes", func(sb *disk.Superblock) { sb.InodesCount = 0 }},
		{"first meta group behind the end", "meta", func(sb *disk.Superblock) { sb.Incompat |= disk.IncompatMetaBG; sb.FirstMetaBG = 2 }},
		{"first meta group 2^32-1", "meta", func(sb *disk.Superblock) {
			sb.Incompat |= disk.IncompatMetaBG
			sb.FirstMetaBG = math.MaxUint32
		}},
		{"cluster smaller than block", "cluster size", func(sb *disk.Superblock) { bigalloc(sb); sb.LogClusterSize = 1 }},
		{"cluster 2 GiB", "cluster size", func(sb *disk.Superblock) { bigalloc(sb); sb.LogClusterSize = 21 }},
		{"cluster overflow", "cluster size", func(sb *disk.Superblock) { bigalloc(sb); sb.LogClusterSize = math.MaxUint32 }},
		{"no clusters", "clusters", func(sb *disk.Superblock) { bigalloc(sb); sb.ClustersPerGroup = 0 }},
		{"clusters beyond the bitmap", "clusters", func(sb *disk.Superblock) { bigalloc(sb); sb.ClustersPerGroup = 32769 }},
		{"clusters do not make the blocks", "clusters", func(sb *disk.Superblock) { bigalloc(sb); sb.ClustersPerGroup /= 2 }},
		{"cluster product overflows", "clusters", func(sb *disk.Superblock) {
			bigalloc(sb)
			sb.LogClusterSize, sb.ClustersPerGroup, sb.BlocksPerGroup = 20, 1<<14, 0
		}},
	} {
		sb := plausible()
		c.do(&sb)
		g, err := sb.Geometry()
		var corrupt *disk.CorruptError
		switch {
		case err == nil:
			t.Errorf("%s: accepted as %+v", c.name, g)
		case !errors.As(err, &corrupt) || !errors.Is(err, syscall.EUCLEAN) || corrupt.What != "superblock":
			t.Errorf("%s: error %v is no CorruptError of the superblock", c.name, err)
		case !strings.Contains(err.Error(), c.names):
			t.Errorf("%s: error %q does not name the %s", c.name, err, c.names)
		}
	}
}

// TestGeometryBounds checks what is accepted at the edges.
func TestGeometryBounds(t *testing.T) {
	for _, c := range []struct {
		name string
		do   func(sb *disk.Superblock)
		want func(g *disk.Geometry) bool
	}{
		{"64 KiB blocks", func(sb *disk.Superblock) { sb.LogBlockSize = 6 },
			func(g *disk.Geometry) bool { return g.BlockSize == disk.MaxBlockSize && g.DescPerBlock == 1024 }},
		{"32-byte descriptors", func(sb *disk.Superblock) { sb.Incompat = 0; sb.DescSize = 9 },
			func(g *disk.Geometry) bool { return g.DescSize == 32 && g.DescPerBlock == 128 }},
		{"1024-byte descriptors", func(sb *disk.Superblock) { sb.DescSize = 1024 },
			func(g *disk.Geometry) bool { return g.DescPerBlock == 4 && g.DescBlocks == 1 }},
		{"inodes of a block", func(sb *disk.Superblock) { sb.InodeSize = 4096 },
			func(g *disk.Geometry) bool { return g.InodeTableBlocks == 8192 }},
		{"a group of one block", func(sb *disk.Superblock) { sb.BlocksCount = 3*32768 + 1 },
			func(g *disk.Geometry) bool { return g.Groups == 4 && g.GroupBlocks(3) == 1 }},
		{"inode table not a whole block", func(sb *disk.Superblock) { sb.InodesPerGroup, sb.InodesCount = 17, 4*17 },
			func(g *disk.Geometry) bool { return g.InodeTableBlocks == 2 }},
	} {
		sb := plausible()
		c.do(&sb)
		if g, err := sb.Geometry(); err != nil || !c.want(&g) {
			t.Errorf("%s: %+v, %v", c.name, g, err)
		}
	}
}

func TestInodeGroup(t *testing.T) {
	sb := plausible()
	g, _ := sb.Geometry()
	for ino, want := range map[uint32][2]uint32{1: {0, 0}, 8192: {0, 8191}, 8193: {1, 0}, 4 * 8192: {3, 8191}} {
		if group, index := g.InodeGroup(ino); group != want[0] || index != want[1] {
			t.Errorf("inode %d is number %d of group %d", ino, index, group)
		}
	}
}

func TestBlocksInRange(t *testing.T) {
	sb := plausible()
	g, _ := sb.Geometry()
	end := g.BlocksCount
	for _, c := range []struct {
		start, n uint64
		want     bool
	}{
		{0, 1, false}, {1, 1, true}, {end - 1, 1, true}, {end - 1, 2, false}, {end, 0, false}, {1, end - 1, true}, {1, end, false},
		{2, math.MaxUint64, false}, {math.MaxUint64, 2, false},
	} {
		if got := g.BlocksInRange(c.start, c.n); got != c.want {
			t.Errorf("blocks %d+%d in range: %v", c.start, c.n, got)
		}
	}
}

// TestGroupDescCheck moves each structure of a group to where it cannot be.
func TestGroupDescCheck(t *testing.T) {
	sb := plausible()
	g, _ := sb.Geometry()
	const group = 3 // the short one
	lo, hi := g.GroupFirstBlock(group), g.BlocksCount
	good := disk.GroupDesc{BlockBitmap: lo, InodeBitmap: lo + 1, InodeTable: hi - uint64(g.InodeTableBlocks), ItableUnused: g.InodesPerGroup}
	if err := good.Check(&g, group, false); err != nil {
		t.Fatal(err)
	}
	for name, do := range map[string]func(d *disk.GroupDesc){
		"block bitmap":  func(d *disk.GroupDesc) { d.BlockBitmap = hi },
		"inode bitmap":  func(d *disk.GroupDesc) { d.InodeBitmap = math.MaxUint64 },
		"inode table":   func(d *disk.GroupDesc) { d.InodeTable++ },
		"unused inodes": func(d *disk.GroupDesc) { d.ItableUnused++ },
	} {
		for _, flexBG := range []bool{false, true} {
			d := good
			do(&d)
			if err := d.Check(&g, group, flexBG); !errors.Is(err, syscall.EUCLEAN) || !strings.Contains(err.Error(), name) ||
				!strings.Contains(err.Error(), "group 3") {
				t.Errorf("%s is wrong (flex_bg %v): %v", name, flexBG, err)
			}
		}
	}
	elsewhere := good
	elsewhere.BlockBitmap = lo - 1
	if elsewhere.Check(&g, group, false) == nil {
		t.Error("a bitmap in another group is accepted without flex_bg")
	}
	if err := elsewhere.Check(&g, group, true); err != nil {
		t.Errorf("a bitmap in another group is refused with flex_bg: %v", err)
	}
	zero := disk.GroupDesc{}
	if zero.Check(&g, 0, true) == nil || zero.Check(&g, 0, false) == nil {
		t.Error("a descriptor of zeros is accepted")
	}
}
