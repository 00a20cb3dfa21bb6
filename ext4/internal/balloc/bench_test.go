package balloc

import (
	"testing"

	"ext4box/blockdev/blocktest"
)

// BenchmarkReserve reserves and releases 16 blocks at a goal that is free.
func BenchmarkReserve(b *testing.B) {
	f := open(b, mkfs(b, layout{"", 512 * mib, []string{"-b", "4096"}}), nil)
	goal := f.geo.GroupFirstBlock(2) + 5000
	b.ReportAllocs()
	for b.Loop() {
		r, err := f.gs.Reserve(Request{Goal: goal, Want: 16})
		if err != nil {
			b.Fatal(err)
		}
		if err := f.gs.Release(r); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkNearlyFull does so on 16 TiB that are 99.9% full, at changing goals.
func BenchmarkNearlyFull(b *testing.B) {
	s := newSynthetic(b)
	f := open(b, blocktest.NewOverlay(s, s.size()), nil)
	goal := uint64(0)
	step := func() {
		goal = (goal + 0x9E3779B97F) % s.geo.BlocksCount
		r, err := f.gs.Reserve(Request{Goal: goal, Want: 16})
		if err != nil {
			b.Fatal(err)
		}
		if err := f.gs.Release(r); err != nil {
			b.Fatal(err)
		}
	}
	for range 3000 {
		step()
	}
	b.ReportAllocs()
	for b.Loop() {
		step()
	}
}

// BenchmarkClaim reserves, claims and frees 16 blocks, with a commit for every
// 100 of them.
func BenchmarkClaim(b *testing.B) {
	f := open(b, mkfs(b, layout{"", 512 * mib, []string{"-b", "4096"}}), nil)
	goal := f.geo.GroupFirstBlock(2) + 5000
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		r, err := f.gs.Allocate(f.tx, Request{Goal: goal, Want: 16})
		if err != nil {
			b.Fatal(err)
		}
		if err := f.gs.Free(f.tx, r.Start, uint64(r.Len), 0); err != nil {
			b.Fatal(err)
		}
		if n++; n%100 == 0 {
			f.commit()
		}
	}
}
