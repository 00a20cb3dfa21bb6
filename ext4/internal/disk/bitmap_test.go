package disk

import (
	"math/rand/v2"
	"os"
	"testing"
)

func createSparse(t *testing.T, path string, size int64) *os.File {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	return f
}

// checkBitmap compares the operations with bit by bit ones on [a, a+n).
func checkBitmap(t *testing.T, m Bitmap, a, n uint32) {
	end := a + n
	next := func(set bool) uint32 {
		for i := a; i < end; i++ {
			if m.Test(i) == set {
				return i
			}
		}
		return end
	}
	if got := m.NextSet(a, end); got != next(true) {
		t.Fatalf("NextSet(%d, %d) = %d, want %d in %x", a, end, got, next(true), m)
	}
	if got := m.NextClear(a, end); got != next(false) {
		t.Fatalf("NextClear(%d, %d) = %d, want %d in %x", a, end, got, next(false), m)
	}
	start, clear := end, uint32(0)
	for start > a && !m.Test(start-1) {
		start--
	}
	for i := a; i < end; i++ {
		if !m.Test(i) {
			clear++
		}
	}
	if got := m.ClearStart(a, end); got != start {
		t.Fatalf("ClearStart(%d, %d) = %d, want %d in %x", a, end, got, start, m)
	}
	if got := m.CountClear(a, end); got != clear {
		t.Fatalf("CountClear(%d, %d) = %d, want %d in %x", a, end, got, clear, m)
	}
	for _, set := range []bool{true, false} {
		c := append(Bitmap(nil), m...)
		if set {
			c.SetRange(a, n)
		} else {
			c.ClearRange(a, n)
		}
		for i := range uint32(len(m)) * 8 {
			want := m.Test(i)
			if i >= a && i < end {
				want = set
			}
			if c.Test(i) != want {
				t.Fatalf("changing %d+%d to %v: bit %d of %x became wrong in %x", a, n, set, i, m, c)
			}
		}
	}
}

func TestBitmap(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 3000 {
		m := make(Bitmap, 1+rng.IntN(40))
		switch rng.IntN(3) {
		case 0:
			noise(m, rng.Uint64())
		case 1:
			m.SetRange(0, uint32(len(m))*8)
		}
		m.ClearRange(0, rng.Uint32N(uint32(len(m))*8))
		a := rng.Uint32N(uint32(len(m)) * 8)
		checkBitmap(t, m, a, rng.Uint32N(uint32(len(m))*8-a+1))
	}
}

func FuzzBitmap(f *testing.F) {
	f.Add([]byte{0xFF, 0, 0, 0, 0, 0, 0, 0, 1, 0x80}, uint16(3), uint16(70))
	f.Fuzz(func(t *testing.T, m []byte, a, n uint16) {
		if len(m) == 0 || len(m) > 200 {
			return
		}
		at := uint32(a) % (uint32(len(m)) * 8)
		checkBitmap(t, m, at, uint32(n)%(uint32(len(m))*8-at+1))
	})
}

// TestBaseMeta compares the sum over the groups with the closed form, which
// the kernel's statfs has confirmed.
func TestBaseMeta(t *testing.T) {
	for _, sparse := range []bool{true, false} {
		for _, meta := range []int{-1, 0, 1, 3} {
			for _, groups := range []uint64{1, 2, 15, 16, 17, 18, 32, 33, 130, 1000} {
				sb := Superblock{
					Magic: SuperMagic, RevLevel: RevDynamic, FirstDataBlock: 1, FirstIno: 11, InodeSize: 128,
					BlocksPerGroup: 8192, ClustersPerGroup: 8192, InodesPerGroup: 8, Incompat: Incompat64Bit, DescSize: 64,
					BlocksCount: 1 + groups*8192, InodesCount: uint32(groups) * 8,
				}
				if sparse {
					sb.ROCompat = ROCompatSparseSuper
				}
				if meta >= 0 {
					sb.Incompat |= IncompatMetaBG
					sb.FirstMetaBG = uint32(meta)
				} else {
					sb.Compat |= CompatResizeInode
					sb.ReservedGDT = 20
				}
				g, err := sb.Geometry()
				if err != nil {
					continue // fewer descriptor blocks than meta block groups start at
				}
				sum := uint64(0)
				for i := range g.Groups {
					sum += uint64(g.BaseMeta(i))
				}
				if sum != g.BaseMetaBlocks() {
					t.Errorf("sparse %v, meta_bg from %d, %d groups: %d blocks, want %d", sparse, meta, groups, sum, g.BaseMetaBlocks())
				}
			}
		}
	}
}
