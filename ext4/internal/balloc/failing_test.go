package balloc

import (
	"errors"
	"syscall"
	"testing"

	"ext4box/blockdev/blocktest"
	"ext4box/ext4/internal/buffer"
	"ext4box/ext4/internal/buffer/buffertest"
	"ext4box/ext4/internal/disk"
)

// TestReadErrors has every single read of a sequence fail. Errors must come out
// as EIO, set nothing aside, and leave a filesystem in which all can be freed.
func TestReadErrors(t *testing.T) {
	base := mkfs(t, layout{"", 24 * mib, []string{"-b", "1024", "-g", "512", "-N", "1024", "-O", "^resize_inode", "-G", "4"}}).mem(t)
	start := open(t, base, nil).totals()
	for n := 1; ; n++ {
		dev := blocktest.NewFailing(base.Clone())
		f := open(t, dev, func(c *Config) { c.MemoryBytes = 1 })
		f.gs.Cache = buffer.New(dev, 1024, 1)
		f.tx = buffertest.New(f.gs.Cache)
		dev.FailNth(blocktest.Read, n, syscall.EIO)
		failures := 0
		check := func(err error) bool {
			if err != nil && !errors.Is(err, syscall.EIO) {
				t.Fatalf("read %d fails: %v", n, err)
			}
			if err != nil {
				failures++
			}
			return err == nil
		}
		var runs []Run
		inodes := make(map[uint32]bool) // whether it is a directory
		for i := range uint64(20) {
			r, err := f.gs.Reserve(Request{Goal: i * 1100, Want: 200, Min: 150})
			if check(err) {
				if check(f.gs.Claim(f.tx, r)) {
					runs = append(runs, r)
				} else if err := f.gs.Release(r); err != nil {
					t.Fatal(err)
				}
			}
			ino, err := f.gs.AllocInode(f.tx, InodeRequest{Parent: 2, Dir: i%2 == 0})
			if check(err) {
				inodes[ino] = i%2 == 0
			}
			_, err = f.gs.Trim(i*1000, i*1000+3000, 10, nil, func(_, _ uint64) error { return nil })
			check(err)
			f.commit()
		}
		_, err := f.gs.Totals()
		check(err)
		done := dev.Fired() == 0
		dev.Clear()
		for _, r := range runs {
			f.freeRun(r)
		}
		for ino, dir := range inodes {
			f.freeInode(ino, dir)
		}
		f.sync()
		f.sound()
		if end := f.totals(); end != start {
			t.Fatalf("read %d fails: totals %+v, want %+v", n, end, start)
		}
		if done {
			if failures > 0 || n < 15 {
				t.Errorf("%d failures after %d reads", failures, n)
			}
			t.Logf("%d reads", n-1)
			return
		}
	}
}

// TestPinsWhatIsCached evicts a block between Read and Pin: two users of one
// block must still end up with the same buffer.
func TestPinsWhatIsCached(t *testing.T) {
	f := open(t, blocktest.NewOverlay(newSynthetic(t), 1<<30), nil)
	f.gs.Cache = buffer.New(f.dev, synBlock, 1)
	evict := true
	b, err := f.gs.pin(7, descTag, func([]byte) error {
		for blk := uint64(8); evict && blk < 500; blk++ {
			if _, err := f.gs.Cache.Read(blk, descTag, noCheck); err != nil {
				return err
			}
		}
		evict = false
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for blk := uint64(8); blk < 500; blk++ {
		if _, err := f.gs.Cache.Read(blk, descTag, noCheck); err != nil {
			t.Fatal(err)
		}
	}
	if again, err := f.gs.Cache.Read(7, descTag, noCheck); again != b || err != nil {
		t.Errorf("another buffer of the block is in the cache (%v)", err)
	}
}

func TestDeltaAndPromises(t *testing.T) {
	f := open(t, mkfs(t, layout{"", 256 * mib, []string{"-O", "bigalloc"}}), nil)
	f.claim(f.reserve(Request{Want: 100}))
	if _, err := f.gs.AllocInode(f.tx, InodeRequest{Parent: 2}); err != nil {
		t.Fatal(err)
	}
	if c, i := f.gs.Delta(); c != -7 || i != -1 {
		t.Errorf("%d clusters and %d inodes", c, i)
	}
	before := f.totals()
	if err := f.gs.ReserveSpace(17, false, false); err != nil {
		t.Fatal(err)
	}
	if got := f.totals(); got.Usable != before.Usable-2 || got.FreeClusters != before.FreeClusters {
		t.Errorf("%+v, was %+v", got, before)
	}
	f.gs.ReturnSpace(17)
	if got := f.totals(); got != before {
		t.Errorf("%+v, was %+v", got, before)
	}
	if err := f.gs.ReserveSpace(0, false, false); err != nil {
		t.Error(err)
	}
	var c *disk.CorruptError
	if errors.As(errNoSpace, &c) || !errors.Is(errNoInodes, syscall.ENOSPC) {
		t.Error("wrong kind of error")
	}
}
