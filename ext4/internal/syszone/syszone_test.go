package syszone

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"syscall"
	"testing"

	"ext4box/ext4/internal/disk"
	"ext4box/internal/e2test"
)

const mib = 1 << 20

// image is what the zones need of an image made by mke2fs.
type image struct {
	path string
	geo  disk.Geometry
	sb   disk.Superblock
}

func load(t *testing.T, path string) *image {
	t.Helper()
	im := &image{path: path, sb: disk.DecodeSuperblock(e2test.Bytes(t, path, disk.SuperblockOffset, disk.SuperblockSize))}
	var err error
	if im.geo, err = im.sb.Geometry(); err != nil {
		t.Fatal(err)
	}
	return im
}

func (im *image) super() uint64 { return disk.SuperblockOffset >> im.geo.BlockBits }

func (im *image) zones(t *testing.T) *Zones {
	return New(&im.geo, im.sb.GroupsPerFlex(), im.super(), func(group uint32) (disk.GroupDesc, error) {
		at := int64(im.geo.DescBlock(im.super(), group/im.geo.DescPerBlock))<<im.geo.BlockBits + int64(group%im.geo.DescPerBlock*im.geo.DescSize)
		return disk.DecodeGroupDesc(e2test.Bytes(t, im.path, at, int(im.geo.DescSize))), nil
	})
}

// TestZonesAreWhatDumpe2fsShows asks about every block of images of many
// layouts, in an order that has no end of a home come first.
func TestZonesAreWhatDumpe2fsShows(t *testing.T) {
	for _, args := range []string{
		"", "-b 1024", "-b 1024 -G 2", "-b 1024 -g 256", "-O ^flex_bg -b 1024", "-O meta_bg,^resize_inode -b 1024", "-E packed_meta_blocks=1 -b 1024",
		"-O sparse_super2 -b 1024", "-O ^sparse_super,^resize_inode -b 1024", "-O bigalloc", "-O ^64bit,^resize_inode -b 1024", "-b 1024 -i 1024", "-T small -b 1024",
		"-b 1024 -G 2 -i 1024",
	} {
		t.Run(args, func(t *testing.T) {
			path := e2test.Image(t, 48*mib, append([]string{"-t", "ext4"}, strings.Fields(args)...)...)
			im := load(t, path)
			z := im.zones(t)
			taken := make([]bool, im.geo.BlocksCount)
			mark := func(first, last uint64) {
				for ; first <= last; first++ {
					taken[first] = true
				}
			}
			for _, g := range e2test.Dumpe2fs(t, path).Groups {
				if g.HasSuper {
					mark(g.Super, g.Super)
				}
				if g.DescLast > 0 {
					mark(g.DescFirst, g.DescLast+g.ReservedGDT)
				}
				mark(g.BlockBitmap, g.BlockBitmap)
				mark(g.InodeBitmap, g.InodeBitmap)
				mark(g.TableFirst, g.TableLast)
			}
			for i := range taken { // the boot block, which dumpe2fs does not mention
				if uint64(i) < im.super() {
					taken[i] = true
				}
			}
			rng := rand.New(rand.NewPCG(1, 1))
			for _, blk := range rng.Perm(len(taken)) {
				if z.Free(uint64(blk), 1) == taken[blk] {
					t.Fatalf("block %d: taken is %v", blk, taken[blk])
				}
			}
			for range 2000 {
				start := rng.IntN(len(taken))
				n := 1 + rng.IntN(min(40000, len(taken)-start))
				want := true
				for _, b := range taken[start : start+n] {
					want = want && !b
				}
				if z.Free(uint64(start), uint64(n)) != want {
					t.Fatalf("blocks %d+%d: free is %v", start, n, want)
				}
			}
		})
	}
}

// synthetic are zones of groups of 8192 blocks of 1 KiB whose descriptors are
// made up; with strays, that of group i points to group far(i).
func synthetic(groups uint32, far func(uint32) uint32) (*disk.Geometry, func(uint32) (disk.GroupDesc, error)) {
	sb := disk.Superblock{
		Magic: disk.SuperMagic, RevLevel: disk.RevDynamic, BlocksCount: uint64(groups)*8192 + 1, FirstDataBlock: 1,
		BlocksPerGroup: 8192, ClustersPerGroup: 8192, InodesPerGroup: 64, InodesCount: groups * 64, FirstIno: 11, InodeSize: 256,
		Incompat: disk.IncompatFlexBG, ROCompat: disk.ROCompatSparseSuper,
	}
	geo, err := sb.Geometry()
	if err != nil {
		panic(err)
	}
	return &geo, func(group uint32) (disk.GroupDesc, error) {
		at := geo.GroupFirstBlock(far(group)) + 4000 + uint64(group%16)*32
		return disk.GroupDesc{BlockBitmap: at, InodeBitmap: at + 2, InodeTable: at + 4}, nil
	}
}

func TestStraysAreKnownOnceUsed(t *testing.T) {
	const groups = 100
	geo, desc := synthetic(groups, func(g uint32) uint32 { return (g + 50) % groups })
	z := New(geo, 4, 1, desc)
	d, _ := desc(80)
	if !z.Free(d.InodeTable, 1) {
		t.Fatal("the home of group 30 knows of group 80")
	}
	if err := z.Note(80, &d); err != nil {
		t.Fatal(err)
	}
	if !z.Strays() {
		t.Error("Strays is false")
	}
	for _, blk := range []uint64{d.BlockBitmap, d.InodeBitmap, d.InodeTable, d.InodeTable + uint64(geo.InodeTableBlocks) - 1} {
		if z.Free(blk, 1) || z.Free(blk-1, 5) {
			t.Errorf("block %d is free", blk)
		}
	}
	if !z.Free(d.InodeTable+uint64(geo.InodeTableBlocks), 1) || !z.Free(d.BlockBitmap+1, 1) || !z.Free(d.BlockBitmap-1, 1) {
		t.Error("the neighbours are not free")
	}
}

// TestEverybodyIsFound notes all groups from several goroutines, which ask
// meanwhile; afterwards each structure is known.
func TestEverybodyIsFound(t *testing.T) {
	const groups = 1000
	geo, desc := synthetic(groups, func(g uint32) uint32 { return (g * 7) % groups })
	z := New(geo, 16, 1, desc)
	var wg sync.WaitGroup
	for i := range uint32(4) {
		wg.Go(func() {
			for g := range uint32(groups) {
				g = (g + i*251) % groups
				d, _ := desc(g)
				if err := z.Note(g, &d); err != nil {
					t.Error(err)
				}
				if z.Free(d.InodeTable, 1) {
					t.Errorf("the inode table of group %d is free", g)
				}
			}
		})
	}
	wg.Wait()
	for g := range uint32(groups) {
		d, _ := desc(g)
		if z.Free(d.BlockBitmap, 1) || z.Free(d.InodeBitmap, 1) || z.Free(d.InodeTable, uint64(geo.InodeTableBlocks)) {
			t.Errorf("group %d has free blocks", g)
		}
	}
}

// TestFailedDescriptorsAreReadAgain: a corrupt group has nothing, but one that
// the device did not give is asked for again.
func TestFailedDescriptorsAreReadAgain(t *testing.T) {
	for _, errno := range []syscall.Errno{syscall.EIO, syscall.EUCLEAN} {
		geo, desc := synthetic(8, func(g uint32) uint32 { return g })
		fail := true
		z := New(geo, 1, 1, func(group uint32) (disk.GroupDesc, error) {
			if fail && group == 3 {
				return disk.GroupDesc{}, fmt.Errorf("read: %w", errno)
			}
			return desc(group)
		})
		d, _ := desc(3)
		if !z.Free(d.InodeTable, 1) {
			t.Fatal("known without having been read")
		}
		fail = false
		if free := z.Free(d.InodeTable, 1); free != (errno == syscall.EUCLEAN) {
			t.Errorf("%v: free is %v", errno, free)
		}
	}
}

func TestProtect(t *testing.T) {
	geo, desc := synthetic(4, func(g uint32) uint32 { return g })
	z := New(geo, 1, 1, desc)
	z.Protect([]Run{{7000, 10}, {6990, 10}, {30000, 1}})
	for blk, free := range map[uint64]bool{6989: true, 6990: false, 7009: false, 7010: true, 30000: false, 30001: true, 1: false, 2: false} {
		if z.Free(blk, 1) != free {
			t.Errorf("block %d: free is %v", blk, !free)
		}
	}
}

func BenchmarkFree(b *testing.B) {
	geo, desc := synthetic(10000, func(g uint32) uint32 { return g })
	z := New(geo, 16, 1, desc)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		z.Free(uint64(i%500)*8192*16+7000, 100)
	}
}
