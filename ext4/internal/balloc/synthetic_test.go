package balloc

import (
	"errors"
	"io"
	"math/rand/v2"
	"sync/atomic"
	"syscall"
	"testing"

	"ext4box/blockdev/blocktest"
	"ext4box/ext4/internal/disk"
)

// synthetic is the content of a filesystem of 16 TiB that is computed when it is
// read. Its groups are full but for single blocks in one group of every 64,
// 0.1% in all.
type synthetic struct {
	geo            disk.Geometry
	raw            [disk.SuperblockSize]byte
	descs, bitmaps atomic.Int64 // reads
	lies           bool         // no bitmap has what the descriptors say
}

const (
	synBlock  = 4096
	synSparse = 64   // one group of this many has free blocks
	synFree   = 2048 // that many
)

func newSynthetic(t testing.TB) *synthetic {
	t.Helper()
	const groups = 131072
	sb := disk.Superblock{
		Magic: disk.SuperMagic, RevLevel: disk.RevDynamic, LogBlockSize: 2, LogClusterSize: 2,
		BlocksCount: groups * 32768, InodesCount: groups * 128, InodesPerGroup: 128,
		BlocksPerGroup: 32768, ClustersPerGroup: 32768, FirstIno: 11, InodeSize: 256, DescSize: 64,
		Incompat: disk.Incompat64Bit | disk.IncompatExtents, ROCompat: disk.ROCompatSparseSuper,
	}
	s := &synthetic{}
	var err error
	if s.geo, err = sb.Geometry(); err != nil {
		t.Fatal(err)
	}
	disk.EncodeSuperblock(s.raw[:], &sb)
	return s
}

func (s *synthetic) size() int64 { return int64(s.geo.BlocksCount) * synBlock }

// ReadAt implements io.ReaderAt.
func (s *synthetic) ReadAt(p []byte, off int64) (int, error) {
	for done := 0; done < len(p); {
		var b [synBlock]byte
		s.block(b[:], uint64(off+int64(done))/synBlock)
		done += copy(p[done:], b[(off+int64(done))%synBlock:])
	}
	if off >= s.size() {
		return 0, io.EOF
	}
	return len(p), nil
}

func (s *synthetic) block(b []byte, blk uint64) {
	if blk == 0 {
		copy(b[disk.SuperblockOffset:], s.raw[:])
		return
	}
	if blk <= uint64(s.geo.DescBlocks) {
		s.descs.Add(1)
		for i := range s.geo.DescPerBlock {
			d := s.desc(uint32(blk-1)*s.geo.DescPerBlock + i)
			disk.EncodeGroupDesc(b[i*64:i*64+64], &d)
		}
		return
	}
	num := s.geo.GroupOf(blk)
	if d := s.desc(num); blk == d.BlockBitmap {
		s.bitmaps.Add(1)
		m := disk.Bitmap(b)
		m.SetRange(0, 32768)
		if s.lies {
			return
		}
		for i := range d.FreeBlocks {
			m.ClearRange(8000+i*8, 1)
		}
	}
}

func (s *synthetic) desc(num uint32) disk.GroupDesc {
	at := s.geo.GroupFirstBlock(num) + uint64(s.geo.BaseMeta(num))
	d := disk.GroupDesc{BlockBitmap: at, InodeBitmap: at + 1, InodeTable: at + 2, FreeInodes: 128}
	if num%synSparse == 17 {
		d.FreeBlocks = synFree
	}
	return d
}

// TestNearlyFullGiant allocates on 16 TiB that are 99.9% full: the number of
// bitmaps read must not depend on the number of groups.
func TestNearlyFullGiant(t *testing.T) {
	s := newSynthetic(t)
	f := open(t, blocktest.NewOverlay(s, s.size()), nil)
	rng := rand.New(rand.NewPCG(1, 2))
	candidates := int64(s.geo.Groups / synSparse)
	for i := range 3000 {
		before := s.bitmaps.Load()
		r, err := f.gs.Reserve(Request{Goal: rng.Uint64N(s.geo.BlocksCount), Want: 64})
		if err != nil || r.Len != 1 {
			t.Fatalf("%v, %v", r, err)
		}
		if err := f.gs.Claim(f.tx, r); err != nil {
			t.Fatal(err)
		}
		if n := s.bitmaps.Load() - before; n > searchBitmaps+2 {
			t.Fatalf("allocation %d read %d bitmaps", i, n)
		}
		if i%100 == 0 {
			f.commit()
		}
	}
	t.Logf("3000 allocations: %d bitmaps and %d descriptor blocks of %d read", s.bitmaps.Load(), s.descs.Load(), s.geo.DescBlocks)
	if n := s.bitmaps.Load(); n > candidates+100 {
		t.Errorf("%d bitmaps read, with %d groups that have space", n, candidates)
	}
	if n := s.descs.Load(); n > int64(s.geo.DescBlocks)*11/10 {
		t.Errorf("%d descriptor blocks read of %d", n, s.geo.DescBlocks)
	}
	f.sound()

	// A run that does not exist is sought once, in all groups, not every time.
	for range 2 {
		before := s.bitmaps.Load()
		if r, err := f.gs.Reserve(Request{Want: 64, Min: 64}); !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("%v, %v", r, err)
		}
		t.Logf("search for what is not there: %d bitmaps read", s.bitmaps.Load()-before)
	}
	before := s.bitmaps.Load()
	if _, err := f.gs.Reserve(Request{Want: 64, Min: 64}); !errors.Is(err, syscall.ENOSPC) || s.bitmaps.Load() != before {
		t.Errorf("the index has forgotten: %v, %d bitmaps read", err, s.bitmaps.Load()-before)
	}
}

// TestNoScanAtStart allocates a block and an inode on an empty giant.
func TestNoScanAtStart(t *testing.T) {
	s := newSynthetic(t)
	f := open(t, blocktest.NewOverlay(s, s.size()), nil)
	if n := s.descs.Load() + s.bitmaps.Load(); n != 0 {
		t.Errorf("New read %d blocks", n)
	}
	if _, err := f.gs.Reserve(Request{Want: 1, Goal: s.geo.GroupFirstBlock(17)}); err != nil {
		t.Fatal(err)
	}
	if n := s.descs.Load(); n > 2 {
		t.Errorf("the first allocation read %d descriptor blocks", n)
	}
	if n := s.bitmaps.Load(); n != 1 {
		t.Errorf("the first allocation read %d bitmaps", n)
	}
}

// inMemory is how many groups there are in the table.
func (gs *Groups) inMemory() (n int) {
	for i := range gs.table.shard {
		n += len(gs.table.shard[i].ring)
	}
	return n
}

// TestPendingInManyGroups reserves a run in as many groups as there are, of which all stay
// in memory while something is pending there.
func TestPendingInManyGroups(t *testing.T) {
	const limit = 512
	s := newSynthetic(t)
	f := open(t, blocktest.NewOverlay(s, s.size()), func(c *Config) { c.MemoryBytes = limit * (synBlock + 512) })
	var runs []Run
	for num := uint32(17); num < s.geo.Groups; num += synSparse {
		r, err := f.gs.Reserve(Request{Goal: s.geo.GroupFirstBlock(num), Want: 1})
		if err != nil {
			t.Fatal(err)
		}
		runs = append(runs, r)
	}
	seen := make(map[uint32]bool)
	for _, r := range runs {
		seen[s.geo.GroupOf(r.Start)] = true
	}
	if n := f.gs.inMemory(); len(seen) != limit || n > limit+tableShards*4 {
		t.Errorf("%d runs are in %d groups, of which %d are in memory, with a limit of %d", len(runs), len(seen), n, limit)
	}
	// What is used at once needs no place in memory for longer.
	goal := s.geo.GroupFirstBlock(s.geo.Groups - synSparse + 17)
	if r, err := f.gs.Allocate(f.tx, Request{Goal: goal, Want: 1}); err != nil || s.geo.GroupOf(r.Start) != s.geo.GroupOf(goal) {
		t.Errorf("%v, %v", r, err)
	}
	for i, r := range runs {
		if i%2 == 0 {
			f.claim(r)
		} else if err := f.gs.Release(r); err != nil {
			t.Fatal(err)
		}
	}
	if n := f.gs.pending.Load(); n != 0 {
		t.Errorf("%d groups with something pending", n)
	}
	if r := f.reserve(Request{Goal: goal, Want: 1}); s.geo.GroupOf(r.Start) != s.geo.GroupOf(goal) {
		t.Errorf("%v is not near the goal", r)
	}
	f.commit()
	f.sound()
}

// TestFreedInPieces frees every other block of some groups: what waits for the commit takes
// no more memory than the bitmaps, and comes back in whole.
func TestFreedInPieces(t *testing.T) {
	const groups = 12
	s := newSynthetic(t)
	freed := uint64(0)
	f := open(t, blocktest.NewOverlay(s, s.size()), func(c *Config) { c.Freed = func(_, n uint64) { freed += n } })
	before, most := f.totals().Usable, uint64(0)
	for num := range uint32(groups) {
		num += 100
		if num%synSparse == 17 {
			continue
		}
		// From the end on, as files are truncated.
		for at := uint32(32767); at > 4000; at -= 2 {
			f.freeRun(Run{s.geo.GroupFirstBlock(num) + uint64(at), 1})
			most++
		}
	}
	bytes := 0
	for _, b := range f.gs.freed.byTID {
		for _, c := range b {
			bytes += cap(c.spans)*8 + cap(c.bits)
		}
	}
	if limit := groups * synBlock; bytes > limit {
		t.Errorf("%d blocks that are to be free take %d bytes, more than %d", most, bytes, limit)
	}
	if n := f.totals().Usable - f.gs.Waiting(); n != before || f.gs.Waiting() != most {
		t.Errorf("%d blocks can be had before the commit, not %d; %d wait, not %d", n, before, f.gs.Waiting(), most)
	}
	f.commit()
	if n := f.totals().Usable; n != before+most || freed != most {
		t.Errorf("%d blocks can be had after the commit, and %d were told of, not %d", n-before, freed, most)
	}
	f.sound()
}

// TestSearchAmongCorrupt looks for space where all groups that should have some turn out to
// be corrupt: each request comes to its end, and the next one goes on.
func TestSearchAmongCorrupt(t *testing.T) {
	s := newSynthetic(t)
	s.lies = true
	f := open(t, blocktest.NewOverlay(s, s.size()), nil)
	candidates := int(s.geo.Groups / synSparse)
	for i := range candidates/searchCorrupt + 2 {
		before := s.bitmaps.Load()
		if r, err := f.gs.Reserve(Request{Want: 1}); !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("%v, %v", r, err)
		}
		n := s.bitmaps.Load() - before
		if n > searchCorrupt+1 || (n == 0) != (i >= candidates/searchCorrupt) {
			t.Errorf("search %d read %d bitmaps", i, n)
		}
	}
	if len(f.corrupt) != candidates {
		t.Errorf("%d groups are set aside, not %d", len(f.corrupt), candidates)
	}
}

// TestTrimStops asks before each group, also before those with nothing to discard.
func TestTrimStops(t *testing.T) {
	s := newSynthetic(t)
	f := open(t, blocktest.NewOverlay(s, s.size()), nil)
	asked := 0
	_, err := f.gs.Trim(0, s.geo.BlocksCount, 64, func() bool { asked++; return asked > 100 }, func(uint64, uint64) error {
		t.Error("there is nothing to discard")
		return nil
	})
	if !errors.Is(err, syscall.EINTR) || asked != 101 || s.bitmaps.Load() > 100 {
		t.Errorf("%v, asked %d times, %d bitmaps read", err, asked, s.bitmaps.Load())
	}
}
