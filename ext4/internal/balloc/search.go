package balloc

import "math/bits"

const (
	// alignFrom is the length, in clusters, from which a run is aligned to its
	// power of two, if there is room: for RAID, for large pages, and since
	// neighbouring runs then fit together.
	alignFrom = 256
	alignMax  = 2048
	// bestFitRuns is how many runs a best fit looks at.
	bestFitRuns = 128
)

// search finds free clusters in a loaded group: the first run of at least want
// from goal on, wrapping round at the end, aligned if want is large; failing
// that the longest run, if it has at least least. With tight the shortest of
// the next runs that fit is taken instead of the first.
func (g *group) search(goal, want, least uint32, tight bool) (at, n uint32, ok bool) {
	if g.free < least || g.longest < least {
		return 0, 0, false
	}
	if g.longest < want {
		want = max(g.longest, least)
	}
	align := uint32(1)
	if want >= alignFrom && !tight {
		align = min(uint32(1)<<(bits.Len32(want)-1), alignMax)
	}
	goal = min(goal, g.clusters)
	first := align == 1 && !tight
	if first {
		if at, ok := g.searchBehind(goal, want); ok {
			return at, want, true
		}
	}
	var best, longest span // first or tightest that fits; longest seen
	looked := 0
	for _, part := range [2]span{{goal, g.clusters}, {0, goal}} {
		for lo := g.busy.NextClear(part.lo, part.hi); lo < part.hi; {
			hi := g.busy.NextSet(lo, g.clusters)
			if hi-lo > longest.hi-longest.lo {
				longest = span{lo, hi}
			}
			if hi-lo >= want {
				a := (lo + align - 1) &^ (align - 1)
				switch {
				case tight && (best.hi == 0 || hi-lo < best.hi-best.lo):
					best = span{lo, hi}
				case tight:
				case a < hi && hi-a >= want:
					if first && part.lo == goal {
						g.noRun[runClass(want)] = noRun{span{goal, lo}, want}
					}
					return a, want, true
				case best.hi == 0:
					best = span{lo, hi}
				}
				if looked++; best.hi != 0 && looked >= bestFitRuns {
					return best.lo, want, true
				}
			}
			lo = g.busy.NextClear(hi, part.hi)
		}
	}
	if best.hi != 0 {
		return best.lo, want, true
	}
	// Every run was seen in full: those before goal up to their end behind it.
	g.longest, g.longestExact = longest.hi-longest.lo, true
	if g.longest < least || g.longest == 0 {
		return 0, 0, false
	}
	return longest.lo, g.longest, true
}

// noRun says that no run of at least want clusters begins in a range.
type noRun struct {
	span
	want uint32
}

// runClasses is for how many powers of two a group remembers where there is nothing.
const runClasses = 8

func runClass(want uint32) int { return min(bits.Len32(want), runClasses) - 1 }

// searchBehind finds the first run that search would, from where it found the last one of such a length: files that are
// written one after the other have the same goal, and the blocks of all those before lie behind it.
func (g *group) searchBehind(goal, want uint32) (at uint32, ok bool) {
	r := &g.noRun[runClass(want)]
	if goal < r.lo || goal >= r.hi || want < r.want {
		return 0, false
	}
	for lo := g.busy.NextClear(r.hi, g.clusters); lo < g.clusters; {
		hi := g.busy.NextSet(lo, g.clusters)
		if hi-lo >= want {
			r.hi, r.want = lo, want
			return lo, true
		}
		lo = g.busy.NextClear(hi, g.clusters)
	}
	return 0, false
}

// forgetRuns forgets what noRun says of a place where clusters have become free.
func (g *group) forgetRuns(lo uint32) {
	for i := range g.noRun {
		g.noRun[i].hi = min(g.noRun[i].hi, lo)
	}
}

// runAt is the length, up to limit, of the free run that starts at cluster at.
func (g *group) runAt(at, limit uint32) uint32 {
	if at >= g.clusters {
		return 0
	}
	return g.busy.NextSet(at, at+min(limit, g.clusters-at)) - at
}

// hold takes clusters that are free.
func (g *group) hold(at, n uint32) {
	g.busy.SetRange(at, n)
	g.free -= n
	g.held += n
	g.longestExact = false
}

// letGo makes clusters that were held free.
func (g *group) letGo(at, n uint32) {
	g.busy.ClearRange(at, n)
	g.free += n
	g.held -= n
	lo, hi := g.busy.ClearStart(0, at), g.busy.NextSet(at+n, g.clusters)
	g.forgetRuns(lo)
	if hi-lo >= g.longest {
		// An outdated bound that is not above a run that exists is exact.
		g.longest, g.longestExact = hi-lo, true
	}
}
