package balloc

import (
	"errors"
	"syscall"
	"testing"

	"ext4box/ext4/internal/disk"
)

func (f *fixture) reserve(r Request) Run {
	f.t.Helper()
	run, err := f.gs.Reserve(r)
	if err != nil {
		f.t.Fatal(err)
	}
	return run
}

func (f *fixture) claim(r Run) {
	f.t.Helper()
	if err := f.gs.Claim(f.tx, r); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) totals() Totals {
	f.t.Helper()
	total, err := f.gs.Totals()
	if err != nil {
		f.t.Fatal(err)
	}
	return total
}

// TestInterleavedAppenders grows 64 files of 1 MiB side by side, 64 KiB at a
// time, and counts their pieces.
func TestInterleavedAppenders(t *testing.T) {
	f := open(t, mkfs(t, layout{"", 512 * mib, []string{"-b", "4096"}}), nil)
	const files, step, size = 64, 16, 256
	var windows [files]Prealloc
	var last [files]uint64
	var have, pieces [files]uint32
	for done := false; !done; {
		done = true
		for i := range files {
			for want := uint32(step); want > 0 && have[i] < size; {
				done = false
				goal := last[i]
				if goal == 0 {
					goal = f.gs.InodeGoal(uint32(12+i), false)
				}
				r, err := windows[i].Reserve(f.gs, Request{Goal: goal, Want: want, Append: true, Merge: have[i] > 0})
				if err != nil {
					t.Fatal(err)
				}
				f.claim(r)
				if r.Start != last[i] {
					pieces[i]++
				}
				last[i] = r.End()
				have[i] += r.Len
				want -= min(want, r.Len)
			}
		}
	}
	worst, sum := uint32(0), uint32(0)
	for i := range files {
		worst, sum = max(worst, pieces[i]), sum+pieces[i]
		windows[i].Discard(f.gs)
	}
	t.Logf("%d files of 1 MiB: %.2f extents on average, at most %d", files, float64(sum)/files, worst)
	if worst > 4 {
		t.Errorf("a file of 1 MiB has %d extents", worst)
	}
	if total := f.totals(); total.Usable != total.FreeClusters {
		t.Errorf("windows leaked: %+v", total)
	}
}

// TestLargeRequests takes everything, in runs as long as they can be.
func TestLargeRequests(t *testing.T) {
	f := open(t, mkfs(t, layout{"", 512 * mib, []string{"-b", "1024"}}), nil)
	whole, runs, goal := 0, 0, uint64(0)
	for {
		r, err := f.gs.Reserve(Request{Goal: goal, Want: 1 << 20, Merge: goal != 0, Root: true})
		if errors.Is(err, syscall.ENOSPC) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if r.Len == f.geo.BlocksPerGroup {
			whole++
		}
		runs++
		goal = r.End()
	}
	t.Logf("512 MiB in %d groups: %d runs, %d of whole groups", f.geo.Groups, runs, whole)
	if runs > int(f.geo.Groups)+4 || whole < int(f.geo.Groups)/2 {
		t.Errorf("%d runs, %d of whole groups, in %d groups", runs, whole, f.geo.Groups)
	}
	if total := f.totals(); total.Usable != 0 {
		t.Errorf("full with %d clusters left", total.Usable)
	}
}

func TestLargeRunsAreAligned(t *testing.T) {
	f := open(t, mkfs(t, layout{"", 512 * mib, []string{"-b", "4096"}}), nil)
	for range 8 {
		f.reserve(Request{Want: 3})
		r := f.reserve(Request{Want: 512})
		if r.Len != 512 || r.Start%512 != 0 {
			t.Errorf("%+v is not aligned", r)
		}
	}
}

// TestGoal checks the order of preference: at the goal, behind it, same group.
func TestGoal(t *testing.T) {
	f := open(t, mkfs(t, layout{"", 512 * mib, []string{"-b", "4096"}}), nil)
	goal := f.geo.GroupFirstBlock(2) + 1000
	a := f.reserve(Request{Goal: goal, Want: 10})
	if a.Start != goal || a.Len != 10 {
		t.Errorf("at the goal: %+v", a)
	}
	if b := f.reserve(Request{Goal: goal, Want: 10}); b.Start != goal+10 {
		t.Errorf("behind the goal: %+v", b)
	}
	c := f.reserve(Request{Goal: goal + 100, Want: 1})
	if d := f.reserve(Request{Goal: goal + 90, Want: 50, Merge: true}); d.Start != goal+90 || d.End() != c.Start {
		t.Errorf("continuing an extent: %+v", d)
	}
	if e := f.reserve(Request{Goal: goal + 80, Want: 50}); e.Start != c.End() {
		t.Errorf("the whole length: %+v", e)
	}
	// The hole between b and d is tighter than what is before a and behind e.
	if m := f.reserve(Request{Goal: goal + 5000, Want: 10, Metadata: true}); m.Start != goal+20 {
		t.Errorf("metadata at %+v", m)
	}
}

// TestFreedSpaceWaits must not hand out freed blocks before the commit.
func TestFreedSpaceWaits(t *testing.T) {
	var freed []Run
	f := open(t, mkfs(t, layout{"", 64 * mib, []string{"-b", "4096"}}), func(c *Config) {
		c.Freed = func(start, n uint64) { freed = append(freed, Run{start, uint32(n)}) }
	})
	var runs []Run
	for {
		r, err := f.gs.Reserve(Request{Want: 4096, Root: true})
		if err != nil {
			break
		}
		f.claim(r)
		runs = append(runs, r)
	}
	f.commit()
	victim := Run{runs[0].Start, 8}
	f.freeRun(Run{victim.Start, 4})
	f.freeRun(Run{victim.Start + 4, 4})
	if total := f.totals(); total.Usable != 8 || f.gs.Waiting() != 8 {
		t.Errorf("%+v, %d waiting", total, f.gs.Waiting())
	}
	if r, err := f.gs.Reserve(Request{Want: 1, Root: true}); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("got %v (%v) before the commit", r, err)
	}
	if f.tx.Pending() != 1 || len(freed) != 0 {
		t.Errorf("%d callbacks, told of %v", f.tx.Pending(), freed)
	}
	f.commit()
	if len(freed) != 1 || freed[0] != victim {
		t.Errorf("told of %v, want %v", freed, victim)
	}
	if r := f.reserve(Request{Want: 8, Root: true}); r != victim || f.gs.Waiting() != 0 {
		t.Errorf("%v after the commit, want %v", r, victim)
	}
}

// TestReserves keeps the blocks for root, the pool and promises apart.
func TestReserves(t *testing.T) {
	const pool, promise = 100, 50
	f := open(t, mkfs(t, layout{"", 64 * mib, []string{"-b", "4096"}}), func(c *Config) { c.Pool = pool })
	free := f.totals().FreeClusters
	root := f.super.ReservedBlocks
	if root == 0 {
		t.Fatal("nothing is reserved for root")
	}
	if err := f.gs.ReserveSpace(promise, false, false); err != nil {
		t.Fatal(err)
	}
	use := func(r Request) (n uint64) {
		for {
			r.Want = 64
			run, err := f.gs.Reserve(r)
			if errors.Is(err, syscall.ENOSPC) {
				return n
			}
			if err != nil {
				t.Fatal(err)
			}
			n += uint64(run.Len)
		}
	}
	if n := use(Request{}); n != free-root-pool-promise {
		t.Errorf("users got %d of %d blocks, with %d for root, %d in the pool, %d promised", n, free, root, pool, promise)
	}
	if err := f.gs.ReserveSpace(1, false, false); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("a promise that cannot be kept: %v", err)
	}
	if n := use(Request{Root: true}); n != root {
		t.Errorf("root got %d of %d", n, root)
	}
	if n := use(Request{Pool: true}); n != pool {
		t.Errorf("the pool had %d of %d", n, pool)
	}
	for range promise {
		if _, err := f.gs.Reserve(Request{Want: 1, Promised: true}); err != nil {
			t.Fatalf("a broken promise: %v", err)
		}
	}
	if total := f.totals(); total.Usable != 0 {
		t.Errorf("%d left", total.Usable)
	}
}

// TestWindowsYield takes windows away from others when nothing else is left.
func TestWindowsYield(t *testing.T) {
	f := open(t, mkfs(t, layout{"", 64 * mib, []string{"-b", "4096"}}), nil)
	var windows [10]Prealloc
	taken := uint64(0)
	for i := range windows {
		r, err := windows[i].Reserve(f.gs, Request{Want: 16, Append: true})
		if err != nil {
			t.Fatal(err)
		}
		taken += uint64(r.Len)
	}
	total := f.totals()
	if total.Usable >= total.FreeClusters-taken {
		t.Error("there are no windows")
	}
	for taken < total.FreeClusters {
		taken += uint64(f.reserve(Request{Want: 1000, Root: true}).Len)
	}
	if _, err := f.gs.Reserve(Request{Want: 1, Root: true}); !errors.Is(err, syscall.ENOSPC) {
		t.Error(err)
	}
	for i := range windows {
		windows[i].Discard(f.gs)
	}
	if usable := f.totals().Usable; usable != 0 || taken != total.FreeClusters {
		t.Errorf("%d blocks twice", usable)
	}
}

func TestRefusesNonsense(t *testing.T) {
	f := open(t, mkfs(t, layout{"", 256 * mib, []string{"-O", "bigalloc"}}), nil)
	r := f.reserve(Request{Want: 17})
	if r.Len != 32 || r.Start%16 != 0 {
		t.Errorf("17 blocks in clusters of 16: %+v", r)
	}
	bad := []Run{{r.Start, 0}, {r.Start + 1, 16}, {r.Start, 17}, {r.Start, 48}, {f.geo.BlocksCount, 16}, {r.End() + 1600, 16}, {f.geo.BlocksCount - 16, 32}}
	for _, b := range bad {
		if err := f.gs.Claim(f.tx, b); !errors.Is(err, syscall.EINVAL) {
			t.Errorf("Claim(%+v) = %v", b, err)
		}
		if err := f.gs.Release(b); !errors.Is(err, syscall.EINVAL) {
			t.Errorf("Release(%+v) = %v", b, err)
		}
	}
	for _, want := range []Request{{}, {Want: 1, Min: 17}} {
		if r, err := f.gs.Reserve(want); !errors.Is(err, syscall.EINVAL) {
			t.Errorf("Reserve(%+v) = %+v, %v", want, r, err)
		}
	}
	if len(f.tx.Modified()) != 0 {
		t.Errorf("blocks %v were changed", f.tx.Modified())
	}
	if err := f.gs.Free(f.tx, 1<<60, 1, 0); !errors.Is(err, syscall.EUCLEAN) {
		t.Error(err)
	}
	if _, err := f.gs.AllocInode(f.tx, InodeRequest{Parent: f.geo.InodesCount + 1}); !errors.Is(err, syscall.EINVAL) {
		t.Error(err)
	}
	for _, ino := range []uint32{0, 2, 8, f.geo.InodesCount + 1} {
		if err := f.gs.FreeInode(f.tx, ino, false); !errors.Is(err, syscall.EINVAL) {
			t.Errorf("FreeInode(%d) = %v", ino, err)
		}
	}
	f.sound()
}

// TestErrorsChangeNothing has the transaction fail in every operation.
func TestErrorsChangeNothing(t *testing.T) {
	f := open(t, mkfs(t, layout{"", 64 * mib, []string{"-b", "1024"}}), nil)
	r := f.reserve(Request{Want: 20})
	keep := f.reserve(Request{Want: 20, Goal: f.geo.GroupFirstBlock(3)})
	f.claim(keep)
	ino, err := f.gs.AllocInode(f.tx, InodeRequest{Parent: 2})
	if err != nil {
		t.Fatal(err)
	}
	f.commit()
	before := f.totals()
	f.tx.Err = syscall.EROFS
	if err := f.gs.Claim(f.tx, r); err != syscall.EROFS {
		t.Error(err)
	}
	if err := f.gs.Free(f.tx, keep.Start, 20, FreeForget); err != syscall.EROFS {
		t.Error(err)
	}
	if _, err := f.gs.AllocInode(f.tx, InodeRequest{Parent: 2}); err != syscall.EROFS {
		t.Error(err)
	}
	if err := f.gs.FreeInode(f.tx, ino, false); err != syscall.EROFS {
		t.Error(err)
	}
	if after := f.totals(); after != before {
		t.Errorf("%+v, was %+v", after, before)
	}
	f.tx.Err = nil
	f.claim(r)
	f.freeRun(r)
	f.freeRun(keep)
	f.freeInode(ino, false)
	f.sync()
	f.sound()
	f.fsck()
}

func TestForgetsMetadata(t *testing.T) {
	f := open(t, mkfs(t, layout{"", 64 * mib, []string{"-b", "1024"}}), nil)
	r, err := f.gs.Allocate(f.tx, Request{Want: 3, Metadata: true})
	if err != nil {
		t.Fatal(err)
	}
	if n := len(f.tx.Modified()); n > CreditsClaim {
		t.Errorf("%d blocks for %d credits", n, CreditsClaim)
	}
	if err := f.gs.Free(f.tx, r.Start, 3, FreeForget); err != nil {
		t.Fatal(err)
	}
	if got := f.tx.Forgotten(); len(got) != 3 || got[0] != r.Start {
		t.Errorf("forgotten %v of %v", got, r)
	}
}

// TestTrim offers every free run that is long enough once, and nothing else.
func TestTrim(t *testing.T) {
	f := open(t, mkfs(t, layout{"", 128 * mib, []string{"-b", "1024"}}), nil)
	pending := f.reserve(Request{Want: 700, Goal: 30000})
	gone := f.reserve(Request{Want: 100, Goal: 50000})
	f.claim(gone)
	f.freeRun(gone) // not committed
	seen := make(disk.Bitmap, f.geo.BlocksCount/8+1)
	const least = 64
	total, err := f.gs.Trim(0, 1<<62, least, nil, func(start, n uint64) error {
		if n < least {
			t.Errorf("%d blocks at %d", n, start)
		}
		if seen.NextSet(uint32(start), uint32(start+n)) != uint32(start+n) {
			t.Errorf("%d+%d again", start, n)
		}
		seen.SetRange(uint32(start), uint32(n))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range []Run{pending, gone} {
		if seen.NextSet(uint32(r.Start), uint32(r.End())) != uint32(r.End()) {
			t.Errorf("blocks of %+v were discarded", r)
		}
	}
	free := f.dumpe2fs().blocks
	for b := range uint32(f.geo.BlocksCount) {
		if seen.Test(b) && !free.Test(b) {
			t.Fatalf("block %d is in use and was discarded", b)
		}
	}
	usable := f.totals().Usable - uint64(gone.Len)
	if slack := usable - total; slack > least*uint64(f.geo.Groups) {
		t.Errorf("%d of %d free blocks discarded", total, usable)
	}
	n, err := f.gs.Trim(60000, 60010, 0, nil, func(start, n uint64) error {
		if start < 60000 || start+n > 60010 {
			t.Errorf("%d+%d", start, n)
		}
		return nil
	})
	if n != 10 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	if _, err := f.gs.Trim(f.geo.BlocksCount, 1<<62, 0, nil, nil); !errors.Is(err, syscall.EINVAL) {
		t.Error(err)
	}
	if _, err := f.gs.Trim(0, 1<<62, 1, nil, func(uint64, uint64) error { return syscall.EIO }); err != syscall.EIO {
		t.Error(err)
	}
	if got := f.totals().Usable - uint64(gone.Len); got != usable {
		t.Errorf("%d usable after trimming, %d before", got, usable)
	}
}
