package extent_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"ext4box/blockdev/blocktest"
	"ext4box/ext4/internal/buffer"
	"ext4box/ext4/internal/buffer/buffertest"
	"ext4box/ext4/internal/disk"
	"ext4box/ext4/internal/disktest"
	"ext4box/ext4/internal/extent"
	"ext4box/internal/e2test"
	"ext4box/internal/testimage"
)

// imageRig edits the maps of two files of a real filesystem. Blocks go back and
// forth between them, so that the block bitmaps stay right.
type imageRig struct {
	*testing.T
	path  string
	dev   *blocktest.Mem
	sb    disk.Superblock
	geo   disk.Geometry
	sums  disk.Checksums
	cache *buffer.Cache
	tx    *buffertest.Tx
	free  []uint64 // blocks that are in neither file
	rng   *rand.Rand
}

// imageFile is a file whose map is edited.
type imageFile struct {
	rig  *imageRig
	at   int64 // of the raw inode
	raw  []byte
	m    extent.Map
	used int // blocks
	want layout
}

func openImageRig(t *testing.T, path string, seed uint64) *imageRig {
	t.Helper()
	g := &imageRig{T: t, path: path, rng: rand.New(rand.NewPCG(seed, 1))}
	var err error
	if g.dev, err = blocktest.LoadMem(path); err != nil {
		t.Fatal(err)
	}
	g.sb = disk.DecodeSuperblock(e2test.Bytes(t, path, disk.SuperblockOffset, disk.SuperblockSize))
	if g.geo, err = g.sb.Geometry(); err != nil {
		t.Fatal(err)
	}
	g.sums = g.sb.Checksums()
	g.cache = buffer.New(g.dev, int(g.geo.BlockSize), 1<<20)
	g.tx = buffertest.New(g.cache)
	return g
}

func (g *imageRig) open(name string) *imageFile {
	g.Helper()
	var num uint32
	if _, err := fmt.Sscanf(e2test.Debugfs(g.T, g.path, "stat "+name), "Inode: %d", &num); err != nil {
		g.Fatal(err)
	}
	group, index := g.geo.InodeGroup(num)
	raw := e2test.Bytes(g.T, g.path, int64(g.geo.DescBlock(disk.SuperblockOffset>>g.geo.BlockBits, 0))<<g.geo.BlockBits+int64(group*g.geo.DescSize), int(g.geo.DescSize))
	desc := disk.DecodeGroupDesc(raw)
	f := &imageFile{rig: g, at: int64(desc.InodeTable)<<g.geo.BlockBits + int64(index*g.geo.InodeSize)}
	f.raw = e2test.Bytes(g.T, g.path, f.at, int(g.geo.InodeSize))
	in := disk.DecodeInode(f.raw, false)
	f.used = int(in.Blocks * 512 / uint64(g.geo.BlockSize))
	f.m = extent.Map{Cache: g.cache, Geo: &g.geo, Sums: &g.sums, Ino: num, Seed: g.sums.InodeSeed(num, in.Generation),
		Root: f.raw[0x28 : 0x28+disk.InodeBlockSize], Tree: in.Flags&disk.FlagExtents != 0}
	if err := f.m.CheckRoot(); err != nil {
		g.Fatal(err)
	}
	f.want = f.mapped()
	return f
}

func (f *imageFile) mapped() (out layout) {
	f.rig.Helper()
	for blk := uint64(0); blk < extent.MaxBlocks; {
		r, err := f.m.Lookup(blk)
		if err != nil {
			f.rig.Fatal(err)
		}
		if r.State != extent.Hole {
			out = append(out, r)
		}
		blk = r.End()
	}
	return out.merged()
}

// store writes the inode back.
func (f *imageFile) store(size uint64) {
	g := f.rig
	le := binary.LittleEndian
	le.PutUint32(f.raw[0x04:], uint32(size))
	le.PutUint32(f.raw[0x6C:], uint32(size>>32))
	le.PutUint32(f.raw[0x1C:], uint32(f.used)*g.geo.BlockSize/512)
	if g.sums.Metadata {
		sum := disk.InodeChecksum(f.m.Seed, f.raw, true)
		le.PutUint16(f.raw[0x7C:], uint16(sum))
		le.PutUint16(f.raw[0x82:], uint16(sum>>16))
	}
	if _, err := g.dev.WriteAt(f.raw, f.at); err != nil {
		g.Fatal(err)
	}
}

func (f *imageFile) AllocNode(tx buffer.Tx, goal uint64) (uint64, error) {
	g := f.rig
	if len(g.free) == 0 {
		return 0, syscall.ENOSPC
	}
	i := g.rng.IntN(len(g.free))
	blk := g.free[i]
	g.free = slices.Delete(g.free, i, i+1)
	f.used++
	return blk, nil
}

func (f *imageFile) FreeNode(tx buffer.Tx, blk uint64) error {
	tx.Forget(blk)
	return f.freed(blk, 1)
}

func (f *imageFile) freed(start, n uint64) error {
	for i := range n {
		at, there := slices.BinarySearch(f.rig.free, start+i)
		if there {
			return fmt.Errorf("block %d is freed twice", start+i)
		}
		f.rig.free = slices.Insert(f.rig.free, at, start+i)
	}
	f.used -= int(n)
	return nil
}

// take finds up to n contiguous free blocks.
func (f *imageFile) take(n uint64) extent.Run {
	free := &f.rig.free
	i := f.rig.rng.IntN(len(*free))
	j := i + 1
	for j < len(*free) && (*free)[j] == (*free)[j-1]+1 && uint64(j-i) < n {
		j++
	}
	r := extent.Run{Start: (*free)[i], Len: uint64(j - i), State: extent.Written}
	*free = slices.Delete(*free, i, j)
	f.used += j - i
	return r
}

// edit does a random edit.
func (f *imageFile) edit(far uint64) {
	g := f.rig
	blk := g.rng.Uint64N(3000)
	if g.rng.IntN(4) == 0 {
		blk = g.rng.Uint64N(far)
	}
	n := 1 + g.rng.Uint64N(12)
	var err error
	switch op := g.rng.IntN(20); {
	case op < 13 && len(g.free) > 200:
		if slices.ContainsFunc(f.want, func(r extent.Run) bool { return r.Block < blk+n && blk < r.End() }) {
			return
		}
		r := f.take(n)
		r.Block = blk
		if f.m.Tree && op < 4 {
			r.State = extent.Unwritten
		}
		err = f.m.Insert(g.tx, f, r)
		f.want.put(r)
	case op < 16 || !f.m.Tree:
		if g.rng.IntN(10) == 0 {
			n *= 50
		}
		err = f.m.Remove(g.tx, f, blk, blk+n, f.freed)
		f.want.cut(blk, blk+n)
	case op < 18:
		to := extent.Written + extent.State(op%2)
		err = f.m.Convert(g.tx, f, blk, blk+20*n, to)
		part := f.want.cut(blk, blk+20*n)
		for i := range part {
			part[i].State = to
		}
		f.want.put(part...)
	case op < 19:
		if err = f.m.Remove(g.tx, f, blk, blk+n, f.freed); err == nil {
			err = f.m.Shift(g.tx, f, blk+n, -int64(n))
		}
		f.want.cut(blk, blk+n)
		f.shift(blk+n, -int64(n))
	default:
		err = f.m.Shift(g.tx, f, blk, int64(n))
		f.shift(blk, int64(n))
	}
	if err != nil {
		g.Fatal(err)
	}
}

func (f *imageFile) shift(from uint64, by int64) {
	moved := f.want.cut(from, extent.MaxBlocks)
	for i := range moved {
		moved[i].Block += uint64(by)
	}
	f.want.put(moved...)
}

// pattern is the content of a device block: its number.
func pattern(blk uint64, size uint32) []byte {
	return bytes.Repeat(binary.LittleEndian.AppendUint64(nil, blk|1<<63), int(size/8))
}

// TestEditsBeforeTheKernel has random edits of real files judged by e2fsck, by
// debugfs, and by the kernel, which reads them and edits them further.
func TestEditsBeforeTheKernel(t *testing.T) {
	for i, args := range []string{
		"-t ext4 -b 1024",
		"-t ext4 -b 4096",
		"-t ext4 -b 1024 -O ^metadata_csum,^64bit",
		"-t ext2 -b 1024",
		"-t ext3 -b 4096 -I 256 -O metadata_csum",
	} {
		t.Run(args, func(t *testing.T) {
			const blocks = 4000
			blockSize := 1024
			if strings.Contains(args, "4096") {
				blockSize = 4096
			}
			tree := e2test.Tree(t, map[string]string{
				"data": strings.Repeat("d", blocks*blockSize), "pool": strings.Repeat("p", blocks*blockSize)})
			path := e2test.Image(t, int64(4*blocks*blockSize), append(strings.Fields(args), "-d", tree)...)
			g := openImageRig(t, path, uint64(i))
			data, pool := g.open("data"), g.open("pool")
			if data.m.Tree != strings.Contains(args, "ext4") {
				t.Fatalf("tree is %v", data.m.Tree)
			}
			g.must(pool.m.Remove(g.tx, pool, 0, extent.MaxBlocks, pool.freed))
			g.must(data.m.Remove(g.tx, data, 2000, extent.MaxBlocks, data.freed))
			data.want.cut(2000, extent.MaxBlocks)
			for range 2 {
				for range 1500 {
					data.edit(firstTriple * 3)
				}
				g.judge(data, pool)
			}
		})
	}
}

// TestDeepTreeBeforeTheKernel has a file whose blocks lie backwards, so that each
// takes an extent of its own.
func TestDeepTreeBeforeTheKernel(t *testing.T) {
	const blocks = 30000
	tree := e2test.Tree(t, map[string]string{
		"data": strings.Repeat("d", blocks*1024), "pool": strings.Repeat("p", 1000*1024)})
	g := openImageRig(t, e2test.Image(t, 64<<20, "-t", "ext4", "-b", "1024", "-d", tree), 0)
	data, pool := g.open("data"), g.open("pool")
	g.must(pool.m.Remove(g.tx, pool, 0, extent.MaxBlocks, pool.freed))
	g.must(data.m.Remove(g.tx, data, 0, extent.MaxBlocks, data.freed))
	data.want = nil
	taken := slices.Clone(g.free[len(g.free)-blocks:])
	g.free = g.free[:len(g.free)-blocks]
	for i := range uint64(blocks) {
		r := extent.Run{Block: i, Start: taken[blocks-1-i], Len: 1, State: extent.Written}
		g.must(data.m.Insert(g.tx, data, r))
		data.used++
		data.want = append(data.want, r)
	}
	if depth := disk.DecodeExtentHeader(data.m.Root).Depth; depth != 3 {
		t.Fatalf("the tree has depth %d", depth)
	}
	g.judge(data, pool)
}

func (g *imageRig) must(err error) {
	g.Helper()
	if err != nil {
		g.Fatal(err)
	}
}

// judge writes the image with all free blocks in the pool, and has it judged.
func (g *imageRig) judge(data, pool *imageFile) {
	g.Helper()
	blk := uint64(0)
	for len(g.free) > 0 {
		// From the start on the first ones, so that some are left for nodes.
		r := extent.Run{Block: blk, Start: g.free[0], Len: 1, State: extent.Written}
		g.free = g.free[1:]
		pool.used++
		g.must(pool.m.Insert(g.tx, pool, r))
		blk++
	}
	end := data.want[len(data.want)-1].End()
	data.store(end << g.geo.BlockBits)
	pool.store(blk << g.geo.BlockBits)
	g.must(g.tx.Commit(g.dev))
	// Some data is where nodes were before.
	for _, r := range data.want {
		for blk := r.Start; blk < r.Start+r.Len; blk++ {
			_, err := g.dev.WriteAt(pattern(blk, g.geo.BlockSize), int64(blk)<<g.geo.BlockBits)
			g.must(err)
		}
	}
	out := filepath.Join(g.TempDir(), "out")
	g.must(blocktest.Dump(g.dev, g.dev.Size(), out))

	e2test.Output(g.T, "e2fsck", "-fn", out)
	var got layout
	for _, e := range disktest.Extents(g.T, out, "data") {
		r := extent.Run{Block: uint64(e.Block), Len: uint64(e.Len), Start: e.Start, State: extent.Written}
		if e.Unwritten {
			r.State = extent.Unwritten
		}
		got = append(got, r)
	}
	if want := data.want.merged(); !slices.Equal(got.merged(), want) {
		g.Fatalf("debugfs says %v, want %v", got, want)
	}
	if os.Geteuid() == 0 {
		g.kernel(out, data.want, end)
	}
	os.Remove(out)

	// On with the blocks of the pool.
	g.must(pool.m.Remove(g.tx, pool, 0, extent.MaxBlocks, pool.freed))
}

// kernel has the file read by the kernel, and edited.
func (g *imageRig) kernel(path string, want layout, end uint64) {
	g.Helper()
	mnt := testimage.MountRW(g.T, &testimage.Image{Path: path}, "")
	name := filepath.Join(mnt.Dir, "data")
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	g.must(err)
	defer f.Close()
	size := g.geo.BlockSize
	zero := make([]byte, size)
	got := make([]byte, size)
	expect := func(blk uint64, want []byte) {
		g.Helper()
		if _, err := f.ReadAt(got, int64(blk)<<g.geo.BlockBits); err != nil {
			g.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			g.Fatalf("block %d reads as %x, want %x", blk, got[:8], want[:8])
		}
	}
	last := uint64(0)
	all := func() {
		for _, r := range want {
			if r.Block > last {
				expect(r.Block-1, zero)
			}
			for i := range r.Len {
				if r.State == extent.Unwritten {
					expect(r.Block+i, zero)
				} else {
					expect(r.Block+i, pattern(r.Start+i, size))
				}
			}
			last = r.End()
		}
	}
	all()
	// The kernel fills holes, punches holes and preallocates in our tree.
	for i := range uint64(150) {
		blk := g.rng.Uint64N(3000)
		if i%3 == 0 {
			want.cut(blk, blk+3)
			g.must(unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, int64(blk)<<g.geo.BlockBits, 3<<g.geo.BlockBits))
			continue
		}
		want.cut(blk, blk+1)
		want.put(extent.Run{Block: blk, Len: 1, Start: 1<<40 + i, State: extent.Written})
		_, err := f.WriteAt(pattern(1<<40+i, size), int64(blk)<<g.geo.BlockBits)
		g.must(err)
	}
	g.must(f.Sync())
	all()
	f.Close()
	g.must(mnt.Unmount())
	e2test.Output(g.T, "e2fsck", "-fn", path)
}
