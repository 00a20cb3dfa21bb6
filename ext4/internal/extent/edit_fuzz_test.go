package extent_test

import (
	"encoding/binary"
	"errors"
	"syscall"
	"testing"

	"ext4box/blockdev/blocktest"
	"ext4box/ext4/internal/buffer"
	"ext4box/ext4/internal/buffer/buffertest"
	"ext4box/ext4/internal/disk"
	"ext4box/ext4/internal/disktest"
	"ext4box/ext4/internal/extent"
)

// FuzzEdits does the edits that the input chooses and compares with the model.
func FuzzEdits(f *testing.F) {
	geo := disktest.Geometry(f, 1024, editBlocks)
	for kind := range byte(3) {
		f.Add(kind, []byte("\x01\x02\x03\x04\x05\x06\x07\x08 several edits: insert, remove, convert and shift"))
	}
	f.Fuzz(func(t *testing.T, kind byte, input []byte) {
		g := newRig(t, geo, kind%3 != 0, kind%2 == 0)
		if kind%3 == 1 && len(input) >= 8 {
			g.small(drawn(binary.LittleEndian.Uint64(input), 0))
			input = input[8:]
		}
		for ; len(input) >= 4 && len(g.want) < 500; input = input[4:] {
			g.random(drawn(uint64(binary.LittleEndian.Uint32(input)), 1))
		}
	})
}

// onceFreed is an allocator over a device on which all is in use, as far as it
// has not been freed.
type onceFreed map[uint64]bool

func (p onceFreed) AllocNode(buffer.Tx, uint64) (uint64, error) {
	for blk := range p {
		delete(p, blk)
		return blk, nil
	}
	return 0, syscall.ENOSPC
}

func (p onceFreed) FreeNode(tx buffer.Tx, blk uint64) error {
	tx.Forget(blk)
	return p.free(blk, 1)
}

func (p onceFreed) free(start, n uint64) error {
	for blk := start; blk < start+n; blk++ {
		if p[blk] {
			return disk.Corruptf(disk.BlockName(blk), "it is freed twice")
		}
		p[blk] = true
	}
	return nil
}

// FuzzEditDamaged edits whatever the root and a few blocks hold. It ends, with
// an error that callers expect.
func FuzzEditDamaged(f *testing.F) {
	le := binary.LittleEndian
	node := func(depth int, entries ...disktest.Extent) []byte {
		return disktest.ExtentNode(1024, depth, entries...)
	}
	ops := []byte{0, 1, 0, 5, 1, 2, 0, 9, 2, 3, 0, 7, 3, 1, 0, 4, 4, 9, 0, 2, 0, 20, 0, 1, 1, 0, 0, 255}
	f.Add(disktest.ExtentNode(disktest.RootSize, 2, disktest.Written(0, 0, 2)),
		append(node(1, disktest.Written(0, 0, 3)), node(0, disktest.Written(0, 5, 900), disktest.Unwritten(7, 2, 800))...), ops, true, false)
	f.Add(disktest.ExtentNode(disktest.RootSize, 1, disktest.Written(0, 0, 2), disktest.Written(9, 0, 2)),
		node(0, disktest.Written(0, 5, 900)), ops, true, false)
	f.Add(inodePointers(map[int]uint64{0: 7, 12: 2, 13: 3, 14: 3}),
		append(pointers(1024, map[int]uint64{0: 5, 1: 6, 9: 900}), pointers(1024, map[int]uint64{0: 2, 1: 3, 2: 3, 255: 3})...), ops, false, false)
	geo := disktest.Geometry(f, 1024, 1000)
	f.Fuzz(func(t *testing.T, root, blocks, ops []byte, tree, sums bool) {
		dev := blocktest.NewMem(1000 * 1024)
		blocks = blocks[:min(len(blocks), 8*1024)]
		for at := 0; at < len(blocks); at += 1024 {
			b := append(append([]byte{}, blocks[at:min(at+1024, len(blocks))]...), make([]byte, 1024)...)[:1024]
			if sums && le.Uint16(b[4:]) == 84 {
				disktest.SealExtentNode(seed, b) // so that some get past the checksum
			}
			if _, err := dev.WriteAt(b, int64(2048+at)); err != nil {
				t.Fatal(err)
			}
		}
		cache := buffer.New(dev, 1024, 1<<20)
		m := &extent.Map{Cache: cache, Geo: geo, Sums: &disk.Checksums{Metadata: sums}, Ino: ino, Seed: seed, Tree: tree,
			Root: append(append([]byte{}, root[:min(len(root), 60)]...), make([]byte, 60-min(len(root), 60))...)}
		if m.CheckRoot() != nil {
			return
		}
		tx := buffertest.New(cache)
		free := onceFreed{}
		for blk := uint64(500); blk < 520; blk++ {
			free[blk] = true
		}
		for range 200 {
			if len(ops) < 4 {
				return
			}
			blk, n := uint64(le.Uint16(ops[1:])), uint64(ops[3])
			if ops[0]&0x80 != 0 {
				blk *= 65537
			}
			if ops[0]&0x40 != 0 {
				n <<= 24
			}
			var err error
			switch ops[0] & 0x3F % 6 {
			case 0:
				err = m.Insert(tx, free, extent.Run{Block: blk, Len: n % 20, Start: 600 + blk%300, State: extent.Written})
			case 1:
				err = m.Remove(tx, free, blk, blk+n, free.free)
			case 2:
				err = m.Convert(tx, free, blk, blk+n, extent.Written+extent.State(blk&1))
			case 3:
				err = m.Shift(tx, free, blk, int64(n))
			case 4:
				err = m.Shift(tx, free, blk, -int64(n))
			case 5:
				_, err = m.Lookup(blk)
			}
			var errno syscall.Errno
			if err != nil && !errors.As(err, &errno) {
				t.Fatalf("error %v has no errno", err)
			}
			if err := m.CheckRoot(); err != nil {
				t.Fatal(err)
			}
			ops = ops[4:]
		}
	})
}
