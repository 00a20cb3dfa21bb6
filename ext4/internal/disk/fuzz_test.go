package disk_test

import (
	"encoding/binary"
	"errors"
	"syscall"
	"testing"

	"ext4box/ext4/internal/disk"
	"ext4box/ext4/internal/disktest"
	"ext4box/internal/e2test"
)

// sized cuts or pads fuzzed input to the length that a decoder documents.
func sized(b []byte, n int) []byte {
	return append(append([]byte{}, b[:min(n, len(b))]...), make([]byte, max(0, n-len(b)))...)
}

// blockSize makes a block size of any number.
func blockSize(n byte) int { return 1024 << (n % 7) }

// corrupt fails the test unless err is nil or says that the input is corrupt.
func corrupt(t *testing.T, err error) {
	t.Helper()
	if err != nil && !errors.Is(err, syscall.EUCLEAN) {
		t.Errorf("error %v is not EUCLEAN", err)
	}
}

func seeds(f *testing.F, b ...[]byte) {
	f.Helper()
	for _, s := range b {
		f.Add(s)
	}
}

// FuzzSuperblock takes a superblock and, if its geometry is accepted, does the
// arithmetic that the engine does with it.
func FuzzSuperblock(f *testing.F) {
	for _, s := range shapes {
		if s.size <= 64*mib {
			f.Add(e2test.Bytes(f, e2test.Image(f, s.size, s.args...), disk.SuperblockOffset, disk.SuperblockSize))
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		sb := disk.DecodeSuperblock(sized(b, disk.SuperblockSize))
		for _, names := range [][]string{sb.Compat.Names(), sb.Incompat.Names(), sb.ROCompat.Names()} {
			if len(names) > 32 {
				t.Error("more features than bits")
			}
		}
		sums := sb.Checksums()
		g, err := sb.Geometry()
		if corrupt(t, err); err != nil {
			return
		}
		if g.BlockSize != 1<<g.BlockBits || g.Groups == 0 || g.DescBlocks == 0 || g.InodeTableBlocks == 0 || g.DescPerBlock == 0 ||
			g.InodeSize > g.BlockSize || g.DescSize > g.BlockSize {
			t.Fatalf("accepted %+v", g)
		}
		if base := g.BaseMetaBlocks(); base == 0 {
			t.Errorf("no block holds the superblock")
		}
		const some = 300 // groups to look at, from each end
		for i := uint32(0); i < g.Groups; i++ {
			if i == some && g.Groups > 2*some {
				i = g.Groups - some
			}
			n := g.GroupBlocks(i)
			if n == 0 || n > g.BlocksPerGroup || g.GroupFirstBlock(i)+uint64(n) > g.BlocksCount {
				t.Fatalf("group %d has %d blocks from %d", i, n, g.GroupFirstBlock(i))
			}
			g.HasSuper(i)
			at := i / g.DescPerBlock
			if at >= g.DescBlocks {
				t.Fatalf("descriptor of group %d is in block %d of %d", i, at, g.DescBlocks)
			}
			for _, super := range []uint64{disk.SuperblockOffset >> g.BlockBits, g.GroupFirstBlock(min(1, g.Groups-1))} {
				if blk := g.DescBlock(super, at); blk <= disk.SuperblockOffset>>g.BlockBits {
					t.Fatalf("descriptor block %d of superblock %d is at %d", at, super, blk)
				}
			}
			raw := sized(b, int(g.DescSize))
			sums.GroupDesc(i, raw)
			d := disk.DecodeGroupDesc(raw)
			for _, flex := range []bool{false, true} {
				if err := d.Check(&g, i, flex); err == nil && d.InodeTable+uint64(g.InodeTableBlocks) > g.BlocksCount {
					t.Fatalf("group %d: accepted %+v", i, d)
				}
			}
		}
		for _, ino := range []uint32{1, g.InodesCount} {
			if group, index := g.InodeGroup(ino); group >= g.Groups || index >= g.InodesPerGroup {
				t.Fatalf("inode %d is number %d of group %d", ino, index, group)
			}
		}
	})
}

func FuzzGroupDesc(f *testing.F) {
	f.Add(make([]byte, 64), uint32(0), false)
	f.Fuzz(func(t *testing.T, b []byte, group uint32, flex bool) {
		sb := plausible()
		g, err := sb.Geometry()
		if err != nil {
			t.Fatal(err)
		}
		for _, size := range []int{32, 64, 128, 1024} {
			d := disk.DecodeGroupDesc(sized(b, size))
			corrupt(t, d.Check(&g, group%g.Groups, flex))
		}
	})
}

func FuzzInode(f *testing.F) {
	seeds(f, make([]byte, 128), make([]byte, 256), make([]byte, 1024))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, size := range []int{128, 256, 512, 1024, 65536} {
			raw := sized(b, size)
			in := disk.DecodeInode(raw, len(b)%2 == 1)
			disk.InodeChecksum(1, raw, in.HasHiCsum)
			for _, ts := range []disk.Timestamp{in.Atime, in.Ctime, in.Mtime, in.Crtime} {
				if ts.Sec < -1<<31 || ts.Sec >= 1<<34-1<<31 || ts.Nsec >= 1<<30 {
					t.Errorf("time %+v cannot be stored", ts)
				}
			}
			in.Rdev()
			if in.Sectors(false, 12) > 0xFFFFFFFF {
				t.Error("more sectors than 32 bits hold")
			}
		}
	})
}

func FuzzTime(f *testing.F) {
	f.Add(uint32(0x80000000), uint32(3))
	f.Fuzz(func(t *testing.T, secs, extra uint32) {
		ts := disk.DecodeTime(secs, extra)
		if uint32(ts.Sec) != secs || uint32((ts.Sec-int64(int32(secs)))>>32) != extra&3 || ts.Nsec != extra>>2 {
			t.Errorf("time %#x:%#x is %+v", secs, extra, ts)
		}
	})
}

func FuzzExtentNode(f *testing.F) {
	f.Add(disktest.ExtentNode(disktest.RootSize, 0, disktest.Extent{Block: 1, Len: 2, Start: 3}), byte(0), byte(0))
	f.Add(disktest.ExtentNode(1024, 1, disktest.Extent{Block: 1, Start: 3}, disktest.Extent{Block: 9, Start: 4}), byte(1), byte(1))
	f.Fuzz(func(t *testing.T, b []byte, size, depth byte) {
		n := blockSize(size)
		if size > 127 {
			n = disktest.RootSize
		}
		b, d := sized(b, n), int(depth%7)
		disk.ExtentBlockChecksum(0, b)
		err := disk.CheckExtentNode("node", b, d, anywhere)
		if corrupt(t, err); err != nil || d > 0 {
			return
		}
		end := uint64(0)
		for i := range int(disk.DecodeExtentHeader(b).Entries) {
			e := disk.DecodeExtent(b[disk.ExtentHeaderSize+i*disk.ExtentEntrySize:])
			if uint64(e.Block) < end || e.Len == 0 || e.End() > 1<<32 || !anywhere(e.Start, uint64(e.Len)) {
				t.Fatalf("accepted extent %d: %+v behind %d", i, e, end)
			}
			end = e.End()
		}
	})
}

func FuzzDirEntries(f *testing.F) {
	f.Add(disktest.DirBlock(1024, true, disktest.Entry{Ino: 12, Type: 1, Name: "name"}, disktest.Entry{Ino: 13, Name: "other"}), byte(0), true)
	f.Add(disktest.DirBlock(65536, false), byte(6), false)
	f.Fuzz(func(t *testing.T, b []byte, size byte, filetype bool) {
		b = sized(b, blockSize(size))
		disk.DirTail(b)
		for off := 0; off < len(b); {
			e, problem := disk.DecodeDirEntry(b, off, filetype)
			if problem != "" {
				return
			}
			if e.RecLen < 12 || off+e.RecLen > len(b) || len(e.Name) > e.RecLen-8 || len(e.Name) > disk.NameMax {
				t.Fatalf("accepted entry at %d: %+v", off, e)
			}
			off += e.RecLen
		}
	})
}

func FuzzDxNode(f *testing.F) {
	entries := []disktest.DxEntry{{Block: 1}, {Hash: 0x10, Block: 2}, {Hash: 0x11, Block: 3}}
	for size := range byte(7) {
		f.Add(disktest.DxRoot(blockSize(size), true, 2, 2, 1, 1, entries...), size, true, uint32(0x10))
		f.Add(disktest.DxNode(blockSize(size), false, entries...), size, false, uint32(0x12))
	}
	f.Fuzz(func(t *testing.T, b []byte, size byte, csum bool, hash uint32) {
		b = sized(b, blockSize(size))
		for _, root := range []bool{true, false} {
			disk.DxChecksum(1, b, root)
			var n disk.DxNode
			var err error
			if root {
				var r disk.DxRoot
				if r, n, err = disk.DecodeDxRoot("dir", b, 2, csum); err == nil && r.Levels > 2 {
					t.Errorf("accepted %d levels", r.Levels)
				}
			} else {
				n, err = disk.DecodeDxNode("dir", b, csum)
			}
			if corrupt(t, err); err != nil {
				continue
			}
			at := n.Search(hash)
			if at < 0 || at >= n.Count || at > 0 && n.Hash(at) > hash || at+1 < n.Count && n.Hash(at+1) <= hash {
				t.Errorf("hash %#x is in entry %d of %d", hash, at, n.Count)
			}
			for i := range n.Count {
				n.Block(i)
			}
		}
	})
}

func FuzzXattrEntries(f *testing.F) {
	f.Add(disktest.XattrBlock(1024, disktest.Attr{Index: 1, Name: "a", Value: "value"}, disktest.Attr{Index: 6, Name: "selinux", Value: ""}))
	f.Fuzz(func(t *testing.T, b []byte) {
		disk.DecodeXattrHeader(sized(b, disk.XattrHeaderSize))
		for off := 0; ; {
			e, next, last, problem := disk.NextXattr(b, off)
			if last || problem != "" {
				return
			}
			if next <= off || len(e.Name) > 255 {
				t.Fatalf("entry %+v at %d, next at %d", e, off, next)
			}
			off = next
		}
	})
}

func FuzzOrphanBlock(f *testing.F) {
	f.Add(binary.LittleEndian.AppendUint32(make([]byte, 1016), disk.OrphanMagic), byte(0), false)
	f.Fuzz(func(t *testing.T, b []byte, size byte, csum bool) {
		b = sized(b, blockSize(size))
		corrupt(t, disk.CheckOrphanBlock(&disk.Checksums{Metadata: csum}, 1, 2, b))
		for i := range disk.OrphanSlots(len(b)) {
			disk.OrphanSlot(b, i)
		}
	})
}

func FuzzMMP(f *testing.F) {
	f.Add(binary.LittleEndian.AppendUint32(nil, disk.MMPMagic), false)
	f.Fuzz(func(t *testing.T, b []byte, csum bool) {
		_, err := disk.DecodeMMP(&disk.Checksums{Metadata: csum}, sized(b, disk.MMPSize))
		corrupt(t, err)
	})
}
