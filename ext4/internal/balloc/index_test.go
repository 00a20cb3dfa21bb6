package balloc

import (
	"math"
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"

	"ext4box/ext4/internal/disk"
)

func TestClasses(t *testing.T) {
	if c := classOf(0, true); c != full {
		t.Errorf("no free run is class %d", c)
	}
	for order := range maxOrder {
		n := uint32(1) << order
		for _, isExact := range []bool{true, false} {
			c := classOf(n, isExact)
			if c != classOf(2*n-1, isExact) || c == classOf(2*n, isExact) {
				t.Errorf("%d has class %d", n, c)
			}
			from := boundFrom
			if isExact {
				from = exactFrom
			}
			if only(c)&from(order) == 0 || only(c)&from(order+1) != 0 || only(c)&(from(0)^from(order+1)) == 0 {
				t.Errorf("class %d is not of order %d", c, order)
			}
		}
		if exactFrom(order)&boundFrom(0) != 0 || (exactFrom(0)|boundFrom(0))&(only(full)|only(bad)|only(unknown)) != 0 {
			t.Error("classes overlap")
		}
	}
}

// TestIndex compares the tree with a map.
func TestIndex(t *testing.T) {
	all := []class{unknown, full, bad, exact, exact + 3, exact + 15, bound, bound + 19}
	rapid.Check(t, func(t *rapid.T) {
		groups := rapid.SampledFrom([]uint32{1, 63, 64, 65, 5000, 300000, math.MaxUint32}).Draw(t, "groups")
		x := newIndex(groups)
		model := map[uint32]class{}
		group := rapid.OneOf(rapid.Uint32Range(0, min(groups-1, 200)), rapid.Uint32Range(0, groups-1))
		t.Repeat(map[string]func(*rapid.T){
			"set": func(t *rapid.T) {
				g, guess := group.Draw(t, "group"), rapid.Bool().Draw(t, "guess")
				c := rapid.SampledFrom(all[1:]).Draw(t, "class")
				if old := model[g]; old != bad && (!guess || old == unknown) {
					model[g] = c
				}
				x.set(g, c, guess)
			},
			"get": func(t *rapid.T) {
				if g := group.Draw(t, "group"); x.get(g) != model[g] {
					t.Fatalf("group %d is %d, want %d", g, x.get(g), model[g])
				}
			},
			"next": func(t *rapid.T) {
				lo, hi := group.Draw(t, "from"), group.Draw(t, "to")
				want := only(rapid.SampledFrom(all).Draw(t, "a")) | only(rapid.SampledFrom(all).Draw(t, "b"))
				got, c, ok := x.next(lo, hi, want)
				for at := lo; at < hi; at++ {
					if only(model[at])&want != 0 {
						if !ok || got != at || c != model[at] {
							t.Fatalf("next(%d, %d, %#x) = %d, %d, %v; want %d", lo, hi, want, got, c, ok, at)
						}
						return
					}
					if at-lo > 10000 {
						if ok && got < at {
							t.Fatalf("next(%d, %d, %#x) = %d", lo, hi, want, got)
						}
						return // far enough
					}
				}
				if ok {
					t.Fatalf("next(%d, %d, %#x) = %d", lo, hi, want, got)
				}
			},
		})
	})
}

// TestSearch compares the search in a group with a naive one.
func TestSearch(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	for range 4000 {
		g := &group{clusters: 1 + rng.Uint32N(700)}
		g.busy = make(disk.Bitmap, (g.clusters+63)/64*8)
		for range rng.IntN(40) {
			at := rng.Uint32N(g.clusters)
			g.busy.SetRange(at, min(1+rng.Uint32N(60), g.clusters-at))
		}
		g.free = g.busy.CountClear(0, g.clusters)
		g.longest = g.clusters // an outdated bound
		best := longestRun(g.busy, g.clusters)
		goal, want, tight := rng.Uint32N(g.clusters+10), 1+rng.Uint32N(400), rng.IntN(3) == 0
		least := 1 + rng.Uint32N(want)
		at, n, ok := g.search(goal, want, least, tight)
		if ok != (best >= least) {
			t.Fatalf("found %v with a run of %d for %d", ok, best, least)
		}
		if !ok {
			continue
		}
		if n != min(want, best) || at+n > g.clusters || g.busy.NextSet(at, at+n) != at+n {
			t.Fatalf("%d+%d for %d to %d, the longest run has %d", at, n, least, want, best)
		}
		g.hold(at, n)
		g.letGo(at, n)
		if g.longest < best || g.longestExact && g.longest != best || g.held != 0 {
			t.Fatalf("longest %d (exact: %v), want %d", g.longest, g.longestExact, best)
		}
	}
}

func TestTableKeepsItsBound(t *testing.T) {
	var tab table
	tab.init(64)
	kept := tab.get(5)
	tab.put(kept)
	kept.held = 1
	used := tab.get(6)
	for num := range uint32(10000) {
		g := tab.get(num + 100)
		if g.num != num+100 {
			t.Fatalf("group %d instead of %d", g.num, num+100)
		}
		tab.put(g)
	}
	n := 0
	for i := range tab.shard {
		n += len(tab.shard[i].ring)
	}
	if n > 64+2 {
		t.Errorf("%d groups in a table of 64", n)
	}
	if tab.get(5) != kept || tab.get(6) != used {
		t.Error("a group in use was dropped")
	}
}
