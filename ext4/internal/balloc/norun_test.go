package balloc

import (
	"math/rand/v2"
	"testing"

	"ext4box/ext4/internal/disk"
)

// TestSearchBehind: what a group remembers of runs changes what search finds in nothing.
func TestSearchBehind(t *testing.T) {
	const clusters = 4096
	rng := rand.New(rand.NewPCG(8, 9))
	g := &group{clusters: clusters, busy: make(disk.Bitmap, clusters/8), free: clusters, longest: clusters}
	var taken []span
	skipped := 0
	for i := range 30000 {
		if len(taken) > 0 && (rng.IntN(5) == 0 || g.free < clusters/8) {
			j := rng.IntN(len(taken))
			s := taken[j]
			taken[j] = taken[len(taken)-1]
			taken = taken[:len(taken)-1]
			g.letGo(s.lo, s.hi-s.lo)
			continue
		}
		goal, want := uint32(rng.IntN(4)*1000), uint32(1+rng.IntN(20))
		fresh := &group{clusters: clusters, busy: g.busy, free: g.free, longest: g.longest, longestExact: g.longestExact}
		wantAt, wantN, wantOK := fresh.search(goal, want, 1, false)
		if r := g.noRun[runClass(want)]; r.lo <= goal && goal < r.hi && want >= r.want {
			skipped++
		}
		at, n, ok := g.search(goal, want, 1, false)
		if at != wantAt || n != wantN || ok != wantOK {
			t.Fatalf("step %d: %d from %d: %d+%d %v, want %d+%d %v", i, want, goal, at, n, ok, wantAt, wantN, wantOK)
		}
		if ok {
			g.hold(at, n)
			taken = append(taken, span{at, at + n})
		}
	}
	if skipped < 1000 {
		t.Errorf("something was remembered %d times only", skipped)
	}
}
