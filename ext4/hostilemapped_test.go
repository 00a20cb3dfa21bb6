package ext4_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"ext4box/ext4/internal/disk"
	"ext4box/ext4/internal/disktest"
)

// TestHostileMapped mounts images that were made to have mappings lead where they must not: onto the
// filesystem's own blocks, out of the device, around the ends of all numbers, and for ever. All of a file that
// is not refused is worked on by a modelled kernel that moves file data itself.
func TestHostileMapped(t *testing.T) {
	if testing.Short() {
		t.Skip("not under the race detector: see TestMutants")
	}
	for _, bs := range []int{1024, 4096, 65536} {
		for _, cluster := range []uint32{0, 2} {
			t.Run(fmt.Sprintf("blocks of %d, clusters of %d", bs, 1<<cluster), func(t *testing.T) {
				var sum mappedSum
				for seed := range uint64(4) {
					e := newEvil(t, bs, 40000)
					e.sb.LogClusterSize += cluster
					e.sb.ClustersPerGroup >>= cluster
					if cluster > 0 {
						e.sb.ROCompat |= disk.ROCompatBigalloc
					}
					e.sb.Incompat |= disk.IncompatInlineData
					e.sb.ROCompat |= disk.ROCompatHugeFile | disk.ROCompatLargeFile
					e.sb.FreeBlocks = e.sb.BlocksCount / 2
					e.sb.Errors = disk.OnErrorContinue // or the first file would be the last
					e.mapAnywhere()
					dev := e.device()
					dev.SetReadOnly(false)
					mapAttack(t, dev, fmt.Sprint("seed ", seed), rand.New(rand.NewPCG(seed, 79)), &sum)
				}
				t.Logf("%d not opened, %d with data through the server, %d operations done, %d refused, %d writes of data",
					sum.closed.Load(), sum.moved.Load(), sum.done.Load(), sum.failed.Load(), sum.writes.Load())
				if !t.Failed() && (sum.done.Load() == 0 || sum.failed.Load() == 0 || sum.writes.Load() == 0 || sum.moved.Load() > 0) {
					t.Error("this tests nothing")
				}
			})
		}
	}
}

// mapAnywhere makes a file of each kind of map.
func (e *evil) mapAnywhere() {
	written, unwritten := disktest.Written, disktest.Unwritten
	free := e.next + 2000
	count := e.sb.BlocksCount
	const far = 1<<32 - 1
	var maps [][]disktest.Extent
	for _, x := range []func(block, n uint32, start uint64) disktest.Extent{written, unwritten} {
		maps = append(maps,
			[]disktest.Extent{x(0, 8, free), x(4, 8, free+100)},     // overlap in the file
			[]disktest.Extent{x(0, 8, free), x(8, 8, free+4)},       // and on the device
			[]disktest.Extent{x(0, 16, count-8)},                    // over the end of the device
			[]disktest.Extent{x(0, 1, count-1), x(1, 1, count)},     // and just behind it
			[]disktest.Extent{x(0, 8, 1<<48-4)},                     // where block numbers end
			[]disktest.Extent{x(0, 8, 1<<47)},                       // where they are far out
			[]disktest.Extent{x(far-3, 8, free+200)},                // over the end of the file numbers
			[]disktest.Extent{x(far-8, 8, free+300)},                // up to it
			[]disktest.Extent{x(far, 1, free+310)},                  // the last one, which no file has
			[]disktest.Extent{x(0, 0, free+400), x(0, 1, free+400)}, // nothing
			[]disktest.Extent{x(0, 1, 0)},                           // the superblock
			[]disktest.Extent{x(0, 8, e.itable-2)},                  // bitmaps and inodes
			[]disktest.Extent{x(0, 4, e.itable+e.tableBlocks()-2)},  // their end, and what follows
			[]disktest.Extent{x(3, 5, free+501)},                    // not where clusters begin
			[]disktest.Extent{x(0, 2, free+600), x(2, 2, free+602), x(4, 3, free+603)},
			[]disktest.Extent{x(0, 8, free), x(1<<20, 32767, free+700)},
		)
	}
	var names []disktest.Entry
	ino := uint32(20)
	add := func(size uint64, flags disk.InodeFlags, blk []byte) {
		e.inode(ino, disk.ModeReg|0o666, 1, size, flags, blk)
		names = append(names, disktest.Entry{Ino: ino, Type: disk.FTReg, Name: fmt.Sprint("f", ino)})
		ino++
	}
	bs := uint64(e.bs)
	for _, list := range maps {
		for _, size := range []uint64{10 * bs, 1<<63 - 1, 100} {
			add(size, disk.FlagExtents, disktest.ExtentNode(60, 0, list...))
		}
		leaf := e.block(disktest.ExtentNode(e.bs, 0, list...))
		add(64*bs, disk.FlagExtents, disktest.ExtentNode(60, 1, written(0, 0, leaf)))
		add(64*bs, disk.FlagExtents, disktest.ExtentNode(60, 1, written(0, 0, leaf), written(8, 0, leaf)))
	}
	for _, size := range []uint64{0, 59, 60, 61, 160, 5000, 1<<32 + 5, 1<<63 - 1} {
		add(size, disk.FlagInlineData, []byte("content"))
	}
	for _, blk := range []uint64{0, 1, e.itable, count - 1, count, free} {
		root := make([]byte, 60)
		for i := range 15 {
			le.PutUint32(root[4*i:], uint32(blk))
		}
		add(20*bs, 0, root)
		add(1<<40, 0, e.shared(3, blk))
	}
	// Blocks of pointers that lead to themselves and to each other.
	a, b := e.next, e.next+1
	for _, to := range []uint64{b, a} {
		p := make([]byte, e.bs)
		for i := range e.bs / 4 {
			le.PutUint32(p[4*i:], uint32(to))
		}
		e.block(p)
	}
	root := make([]byte, 60)
	for i := range 15 {
		le.PutUint32(root[4*i:], uint32(a))
	}
	add(1<<40, 0, root)
	var dirs []disktest.Entry
	for i := uint32(0); len(names) > 0; i++ {
		n := min(len(names), 40)
		e.dir(1000+i, 2, names[:n]...)
		dirs = append(dirs, disktest.Entry{Ino: 1000 + i, Type: disk.FTDir, Name: fmt.Sprint("d", i)})
		names = names[n:]
	}
	e.dir(2, 2, dirs...)
}

// tableBlocks is how long an inode table is.
func (e *evil) tableBlocks() uint64 { return uint64(e.sb.InodesPerGroup) * 256 / uint64(e.bs) }
