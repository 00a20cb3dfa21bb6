package check

import (
	"math/rand/v2"
	"sync"
	"testing"

	"ext4box/ext4/internal/disk"
)

func testGeometry(groups uint32) *disk.Geometry {
	return &disk.Geometry{BlockSize: 1024, BlockBits: 10, FirstDataBlock: 1, ClustersPerGroup: 1000, BlocksPerGroup: 1000,
		InodesPerGroup: 16, InodesCount: 16 * groups, Groups: groups, BlocksCount: 1 + uint64(groups)*1000}
}

// TestBlockSet compares a set with a plain one.
func TestBlockSet(t *testing.T) {
	const groups = 100
	s := newBlockSet(testGeometry(groups), 1<<30)
	rng := rand.New(rand.NewPCG(1, 2))
	model := make([]bool, 1+groups*1000)
	for range 20_000 {
		start := 1 + rng.Uint64N(groups*1000)
		n := 1 + rng.Uint64N(min(uint64(len(model))-start, 1+rng.Uint64N(1+rng.Uint64N(1500))))
		wantAny, again := false, map[uint64]bool{}
		for i := range n {
			wantAny = wantAny || model[start+i]
		}
		if s.has(start, n) != wantAny {
			t.Fatalf("has(%d, %d) = %v", start, n, !wantAny)
		}
		if rng.IntN(4) > 0 {
			continue
		}
		s.add(start, n, func(start, n uint64) {
			for i := range n {
				again[start+i] = true
			}
		})
		for i := range n {
			if model[start+i] != again[start+i] {
				t.Fatalf("add(%d, %d): block %d was there: %v", start, n, start+i, model[start+i])
			}
			model[start+i] = true
		}
	}
	for group := range uint64(groups) {
		bits := make(disk.Bitmap, 1024)
		s.bitmap(group, bits)
		for i := range uint32(1000) {
			if bits.Test(i) != model[1+group*1000+uint64(i)] {
				t.Fatalf("bit %d of group %d is %v", i, group, bits.Test(i))
			}
		}
	}
}

// TestBlockSetShrinks: a set that outgrows its budget covers less, and is right
// about that.
func TestBlockSetShrinks(t *testing.T) {
	const groups = 6400
	s := newBlockSet(testGeometry(groups), 200<<10)
	for group := uint64(groups); group > 0; group-- {
		for i := uint64(0); i < 1000; i += 2 {
			s.add(1+(group-1)*1000+i, 1, nil)
		}
	}
	_, to := s.window()
	if got := s.memory.Load(); got > 200<<10 || to == 0 || to == groups {
		t.Fatalf("%d bytes in use, groups below %d covered", got, to)
	}
	if !s.has(to*1000-1, 1) || s.has(to*1000, 1) || s.has(to*1000+1, 1) {
		t.Error("wrong at the limit")
	}
	s.reset(to, groups)
	s.add(1, to*1000+5, nil)
	if s.has(1, to*1000) || !s.has(to*1000+1, 1) {
		t.Error("wrong in the next window")
	}
}

func TestInodeTable(t *testing.T) {
	var tab inodeTable
	tab.init(testGeometry(3000))
	tab.set(17, factUsed|disk.FTDir, 300)
	tab.set(2999*16+5, factUsed|disk.FTReg, 1)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 1000 {
				tab.count(17)
				tab.count(2999*16 + 5)
				tab.count(2999*16 + 6)
			}
		})
	}
	wg.Wait()
	for ino, want := range map[uint32]uint32{17: 4000, 2999*16 + 5: 4000, 18: 0, 500: 0} {
		if got := tab.counted(ino); got != want {
			t.Errorf("inode %d: %d links, want %d", ino, got, want)
		}
	}
	if tab.stored(17) != 300 || tab.stored(2999*16+5) != 1 || tab.stored(500) != 0 {
		t.Error("the stored counts are wrong")
	}
	if !tab.fact(17).isDir() || tab.fact(18).used() || tab.fact(2999*16+5).fileType() != disk.FTReg {
		t.Error("the facts are wrong")
	}
	n := 0
	tab.each(1, func(ino uint32, f fact) bool { n++; return ino == 17 && f.isDir() })
	tab.each(2, func(uint32, fact) bool { n++; return true })
	if n != 1 {
		t.Errorf("%d inodes in use", n)
	}
}
