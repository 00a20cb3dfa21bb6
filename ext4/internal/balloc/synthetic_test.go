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
