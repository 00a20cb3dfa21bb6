package disk_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"ext4box/ext4/internal/disk"
	"ext4box/ext4/internal/disktest"
)

// TestEncodeDirEntry decodes what was encoded.
func TestEncodeDirEntry(t *testing.T) {
	for _, size := range []int{1024, 65536} {
		for _, n := range []int{1, 3, 4, 5, 254, 255} {
			for _, recLen := range []int{disk.DirEntrySize(n), 512, size} {
				for _, filetype := range []bool{true, false} {
					b := bytes.Repeat([]byte{0xAA}, size)
					e := disk.DirEntry{Inode: 0x12345678, RecLen: recLen, FileType: disk.FTSymlink, Name: []byte(strings.Repeat("n", n))}
					disk.EncodeDirEntry(b, 0, &e, filetype)
					if !filetype {
						e.FileType = disk.FTUnknown
					}
					got, problem := disk.DecodeDirEntry(b, 0, filetype)
					if problem != "" || fmt.Sprint(got) != fmt.Sprint(e) {
						t.Errorf("%+v becomes %+v, %s", e, got, problem)
					}
					if rest := b[disk.DirEntryHeader+n:]; !bytes.Equal(rest, bytes.Repeat([]byte{0xAA}, len(rest))) {
						t.Errorf("what is behind a name of %d bytes is written to", n)
					}
					disk.SetDirInode(b, 0, 7, disk.FTDir, filetype)
					again, _ := disk.DecodeDirEntry(b, 0, filetype)
					if again.Inode != 7 || filetype && again.FileType != disk.FTDir || !bytes.Equal(again.Name, e.Name) {
						t.Errorf("%+v with another inode is %+v", e, again)
					}
				}
			}
		}
	}
	for n, want := range map[int]int{0: 8, 1: 12, 4: 12, 5: 16, 255: 264} {
		if got := disk.DirEntrySize(n); got != want {
			t.Errorf("a name of %d bytes takes %d", n, got)
		}
	}
}

// TestEncodeRecLen stores every length that a block of 64 KiB can have.
func TestEncodeRecLen(t *testing.T) {
	b := make([]byte, 65536)
	for n := 12; n <= 65536; n += 4 {
		disk.SetDirRecLen(b, 0, n)
		if e, problem := disk.DecodeDirEntry(b, 0, true); problem != "" || e.RecLen != n {
			t.Fatalf("%d becomes %d, %s", n, e.RecLen, problem)
		}
	}
}

// TestInitDirBlocks compares with blocks that were put together in another way.
func TestInitDirBlocks(t *testing.T) {
	for _, size := range []int{1024, 4096, 65536} {
		for _, csum := range []bool{false, true} {
			b := bytes.Repeat([]byte{0xAA}, size)
			disk.InitDirLeaf(b, csum)
			want := disktest.DirBlock(size, csum)
			if csum {
				disk.SealDirLeaf(9, b)
				disktest.SealDirLeaf(9, want)
			}
			if !bytes.Equal(b, want) {
				t.Errorf("leaf of %d bytes, csum %v", size, csum)
			}

			b = bytes.Repeat([]byte{0xAA}, size)
			disktest.PutEntry(b, 0, 12, disktest.Entry{Ino: 12, Type: disk.FTDir, Name: "."})
			disktest.PutEntry(b, 12, 12, disktest.Entry{Ino: 2, Type: disk.FTDir, Name: ".."})
			clear(b[8+1 : 12])
			clear(b[20+2 : 24])
			disk.InitDxRoot(b, disk.HashTEA, 5, csum)
			disk.SetDxLevels(b, 2)
			want = disktest.DxRoot(size, csum, 12, 2, 2, 2, dx(0, 5)...)
			if csum {
				disk.SealDx(9, b, true)
				disktest.SealDx(9, want, true)
			}
			if !bytes.Equal(b, want) {
				t.Errorf("root of %d bytes, csum %v", size, csum)
			}
		}
	}
}

// TestEditDxNode inserts, splits and pushes down, and compares.
func TestEditDxNode(t *testing.T) {
	for _, csum := range []bool{false, true} {
		expect := func(what string, b []byte, root bool, pairs ...uint32) {
			t.Helper()
			want := disktest.DxNode(1024, csum, dx(pairs...)...)
			if root {
				want = disktest.DxRoot(1024, csum, 12, 2, 1, 0, dx(pairs...)...)
			}
			if csum {
				disk.SealDx(9, b, root)
				disktest.SealDx(9, want, root)
			}
			if !bytes.Equal(b, want) {
				t.Errorf("%s, csum %v:\n%x\n%x", what, csum, b[:100], want[:100])
			}
		}
		b := bytes.Repeat([]byte{0xAA}, 1024)
		n := disk.InitDxNode(b, 1, csum)
		expect("new", b, false, 0, 1)
		n.Insert(1, 0x40, 2)
		n.Insert(1, 0x20, 3)
		n.Insert(3, 0x60, 4)
		n.Insert(2, 0x21, 5)
		expect("inserted", b, false, 0, 1, 0x20, 3, 0x21, 5, 0x40, 2, 0x60, 4)

		o := bytes.Repeat([]byte{0xAA}, 1024)
		other := disk.InitDxNode(o, 0, csum)
		if hash := n.MoveTail(2, &other); hash != 0x21 {
			t.Errorf("the other node covers what follows %x", hash)
		}
		expect("split, first half", b, false, 0, 1, 0x20, 3)
		expect("split, second half", o, false, 0, 5, 0x40, 2, 0x60, 4)
		if n.Count != 2 || other.Count != 3 || other.Block(0) != 5 || other.Hash(1) != 0x40 {
			t.Errorf("%+v, %+v", n, other)
		}

		r := disktest.DxRoot(1024, csum, 12, 2, 1, 0, dx(0, 7, 8, 9)...)
		_, root, err := disk.DecodeDxRoot("root", r, 2, csum)
		if err != nil {
			t.Fatal(err)
		}
		other = disk.InitDxNode(o, 0, csum)
		root.PushDown(&other, 33)
		expect("pushed down, root", r, true, 0, 33)
		expect("pushed down, node", o, false, 0, 7, 8, 9)

		for i := 2; !other.Full(); i++ {
			other.Insert(i, uint32(i)<<8, uint32(i))
		}
		if other.Count != disktest.DxLimit(1024, false, csum) {
			t.Errorf("full with %d entries", other.Count)
		}
		if csum {
			disk.SealDx(9, o, false)
		}
		if again, err := disk.DecodeDxNode("node", slices.Clone(o), csum); err != nil || again.Count != other.Count {
			t.Errorf("a full node: %v", err)
		}
		if csum {
			if stored, sum, ok := disk.DxChecksum(9, o, false); !ok || stored != sum {
				t.Errorf("checksum of a full node")
			}
		}
	}
	// A block that only looks like an index block has no place for a checksum.
	b := bytes.Repeat([]byte{0xAA}, 1024)
	disk.SealDx(9, b, true)
	if !bytes.Equal(b, bytes.Repeat([]byte{0xAA}, 1024)) {
		t.Error("a checksum is written into something else")
	}
}

// TestFindDirEntry compares what is made for speed with what decodes every entry.
func TestFindDirEntry(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 9))
	for round := range 2000 {
		size := []int{1024, 4096, 65536}[round%3]
		area := make([]byte, size)
		var names []string
		for off := 0; off < size; {
			e := disk.DirEntry{Inode: uint32(r.IntN(3)), Name: []byte(fmt.Sprint("name", r.IntN(99)))[:1+r.IntN(5)]}
			e.RecLen = min(disk.DirEntrySize(len(e.Name))+4*r.IntN(4), size-off)
			if size-off-e.RecLen < 20 {
				e.RecLen = size - off
			}
			names = append(names, string(e.Name))
			disk.EncodeDirEntry(area, off, &e, true)
			off += e.RecLen
		}
		if round%5 == 0 { // something malformed
			area[r.IntN(size-8)&^3+4] = byte(r.IntN(256))
		}
		name, need := names[r.IntN(len(names))], 12+4*r.IntN(8)
		if r.IntN(4) == 0 {
			name = "absent"
		}
		var ino, roomOff, roomSize, used int
		at, before, prev, sound := 0, -1, -1, true
		for off := 0; off < size; {
			e, problem := disk.DecodeDirEntry(area, off, true)
			if problem != "" {
				sound = false
				break
			}
			if e.Inode != 0 && string(e.Name) == name && ino == 0 {
				ino, at, before = int(e.Inode), off, prev
			}
			n := 0
			if e.Inode != 0 {
				n = disk.DirEntrySize(len(e.Name))
			}
			if e.RecLen-n >= need && roomSize == 0 {
				roomOff, roomSize, used = off, e.RecLen, n
			}
			prev = off
			off += e.RecLen
		}
		gotIno, gotAt, gotPrev := disk.FindDirEntry(area, name)
		if sound && (int(gotIno) != ino || gotAt != at || gotPrev != before) {
			t.Fatalf("%q is inode %d at %d behind %d instead of %d, %d, %d", name, gotIno, gotAt, gotPrev, ino, at, before)
		}
		off, length, n, ok := disk.DirRoom(area, need)
		if ok != (sound || roomSize > 0) || ok && (off != roomOff || length != roomSize || n != used) {
			t.Fatalf("room for %d bytes is at %d, %d of %d bytes, %v, instead of %d, %d, %d, %v", need, off, n, length, ok, roomOff, used, roomSize, sound)
		}
	}
}
