package extent_test

import (
	"encoding/binary"
	"errors"
	"strings"
	"syscall"
	"testing"

	"ext4box/ext4/internal/disk"
	"ext4box/ext4/internal/extent"
)

const perBlock = 256 // pointers in a block of 1 KiB

// The first file block of each tree, with blocks of 1 KiB.
const (
	firstSingle = 12
	firstDouble = firstSingle + perBlock
	firstTriple = firstDouble + perBlock*perBlock
	firstNone   = firstTriple + perBlock*perBlock*perBlock
)

// pointers puts pointers at their places in n bytes.
func pointers(n int, at map[int]uint64) []byte {
	b := make([]byte, n)
	for i, p := range at {
		binary.LittleEndian.PutUint32(b[4*i:], uint32(p))
	}
	return b
}

func (d *device) indirect(at map[int]uint64) uint64 {
	return d.put(pointers(int(d.geo.BlockSize), at))
}

func inodePointers(at map[int]uint64) []byte { return pointers(disk.InodeBlockSize, at) }

func TestDirectBlocks(t *testing.T) {
	m := newDevice(t, 1024, 1000).openMap(inodePointers(map[int]uint64{0: 100, 1: 101, 2: 103, 5: 50, 11: 999}), false)
	if err := m.CheckRoot(); err != nil {
		t.Fatal(err)
	}
	for blk, want := range map[uint64]extent.Run{
		0: written(0, 2, 100), 1: written(0, 2, 100), 2: written(2, 1, 103), 3: hole(3, 5), 4: hole(3, 5), 5: written(5, 1, 50),
		6: hole(6, 11), 11: written(11, 1, 999),
	} {
		lookup(t, m, blk, want)
	}
}

// TestIndirectBlocks has data at the first and last block of every tree and
// nothing between.
func TestIndirectBlocks(t *testing.T) {
	d := newDevice(t, 1024, 100000)
	single := d.indirect(map[int]uint64{0: 500, 1: 501, perBlock - 1: 600})
	double := d.indirect(map[int]uint64{
		0:            d.indirect(map[int]uint64{0: 700}),
		3:            d.indirect(map[int]uint64{7: 710, 8: 711, 9: 712}),
		perBlock - 1: d.indirect(map[int]uint64{perBlock - 1: 720}),
	})
	triple := d.indirect(map[int]uint64{
		0:            d.indirect(map[int]uint64{0: d.indirect(map[int]uint64{0: 800})}),
		5:            d.indirect(map[int]uint64{6: d.indirect(map[int]uint64{7: 810})}),
		perBlock - 1: d.indirect(map[int]uint64{perBlock - 1: d.indirect(map[int]uint64{perBlock - 1: 99999})}),
	})
	m := d.openMap(inodePointers(map[int]uint64{12: single, 13: double, 14: triple}), false)
	for blk, want := range map[uint64]extent.Run{
		firstSingle:                         written(firstSingle, 2, 500),
		firstSingle + 2:                     hole(firstSingle+2, firstDouble-1),
		firstDouble - 1:                     written(firstDouble-1, 1, 600),
		firstDouble:                         written(firstDouble, 1, 700),
		firstDouble + 1:                     hole(firstDouble+1, firstDouble+perBlock),
		firstDouble + perBlock:              hole(firstDouble+perBlock, firstDouble+3*perBlock), // two absent subtrees
		firstDouble + 3*perBlock + 8:        written(firstDouble+3*perBlock+7, 3, 710),
		firstTriple - 1:                     written(firstTriple-1, 1, 720),
		firstTriple:                         written(firstTriple, 1, 800),
		firstTriple + perBlock + 1:          hole(firstTriple+perBlock, firstTriple+perBlock*perBlock),
		firstTriple + perBlock*perBlock + 9: hole(firstTriple+perBlock*perBlock, firstTriple+5*perBlock*perBlock),
		firstTriple + 5*perBlock*perBlock + 6*perBlock + 7: written(firstTriple+5*perBlock*perBlock+6*perBlock+7, 1, 810),
		firstNone - 1:        written(firstNone-1, 1, 99999),
		firstNone:            hole(firstNone, extent.MaxBlocks),
		extent.MaxBlocks - 1: hole(firstNone, extent.MaxBlocks),
	} {
		lookup(t, m, blk, want)
	}
}

// TestAbsentTrees has none of the three trees.
func TestAbsentTrees(t *testing.T) {
	m := newDevice(t, 1024, 1000).openMap(inodePointers(nil), false)
	for blk, want := range map[uint64]extent.Run{
		0: hole(0, 12), 12: hole(firstSingle, firstDouble), firstDouble: hole(firstDouble, firstTriple), firstTriple: hole(firstTriple, firstNone),
	} {
		lookup(t, m, blk, want)
	}
	// With blocks of 64 KiB the third tree would reach beyond the largest file.
	big := newDevice(t, 65536, 1000).openMap(inodePointers(nil), false)
	lookup(t, big, extent.MaxBlocks-1, hole(12+16384+16384*16384, extent.MaxBlocks))
}

func TestDamagedBlockMaps(t *testing.T) {
	for name, c := range map[string]struct {
		build func(d *device) []byte
		blk   uint64
	}{
		"direct pointer behind the device": {func(d *device) []byte { return inodePointers(map[int]uint64{3: 1000}) }, 3},
		"direct pointer to block 1":        {func(d *device) []byte { return inodePointers(map[int]uint64{3: 1}) }, 3},
		"a neighbour behind the device":    {func(d *device) []byte { return inodePointers(map[int]uint64{3: 999, 4: 1000}) }, 3},
		"single behind the device":         {func(d *device) []byte { return inodePointers(map[int]uint64{12: 1000}) }, 12},
		"triple behind the device":         {func(d *device) []byte { return inodePointers(map[int]uint64{14: 1<<32 - 1}) }, firstTriple},
		"pointer in the single tree": {func(d *device) []byte {
			return inodePointers(map[int]uint64{12: d.indirect(map[int]uint64{200: 1000})})
		}, 12},
		"pointer in the double tree": {func(d *device) []byte {
			return inodePointers(map[int]uint64{13: d.indirect(map[int]uint64{1: 1<<32 - 1})})
		}, firstDouble + perBlock},
		"pointer at the end of the double tree": {func(d *device) []byte {
			return inodePointers(map[int]uint64{13: d.indirect(map[int]uint64{1: d.indirect(map[int]uint64{0: 1})})})
		}, firstDouble + perBlock},
	} {
		d := newDevice(t, 1024, 1000)
		m := d.openMap(c.build(d), false)
		_, err := m.Lookup(c.blk)
		var corrupt *disk.CorruptError
		if !errors.As(err, &corrupt) || !strings.Contains(err.Error(), "inode 12") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestIndirectCycle has an indirect block that points to itself: every way
// through it ends after three steps.
func TestIndirectCycle(t *testing.T) {
	d := newDevice(t, 1024, 1000)
	self := d.next
	d.indirect(map[int]uint64{0: self, 1: self, 255: self})
	m := d.openMap(inodePointers(map[int]uint64{14: self}), false)
	lookup(t, m, firstTriple, written(firstTriple, 1, self))
	lookup(t, m, firstTriple+2, hole(firstTriple+2, firstTriple+255))
}

func TestDeviceFailure(t *testing.T) {
	d := newDevice(t, 1024, 1000)
	for name, m := range map[string]*extent.Map{
		"single": d.openMap(inodePointers(map[int]uint64{12: 900}), false),
	} {
		if _, err := m.Lookup(12); !errors.Is(err, syscall.EIO) {
			t.Errorf("%s behind what can be read: %v", name, err)
		}
	}
}
