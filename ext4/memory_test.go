package ext4_test

import (
	"errors"
	"math/rand/v2"
	"runtime"
	"syscall"
	"testing"

	"ext4box/ext4"
	"ext4box/ext4/internal/disk"
	"ext4box/ext4/internal/disktest"
	"ext4box/internal/e2test"
)

// liveHeap is what is in memory after all that can be was collected, in bytes.
func liveHeap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// TestMemoryHeld: what an inode that the kernel holds costs is what the documentation says.
func TestMemoryHeld(t *testing.T) {
	if testing.Short() {
		t.Skip("measured without the race detector")
	}
	const many, perInode = 1 << 20, 32
	fs := openRW(t, e2test.Image(t, 16*mib, "-t", "ext4"))
	before := liveHeap()
	rng := rand.New(rand.NewPCG(1, 2))
	for range many {
		fs.Hold(ext4.Ino(rng.Uint32())) // also such as do not exist
	}
	each := float64(liveHeap()-before) / many
	t.Logf("%.1f bytes for each", each)
	if each > perInode {
		t.Errorf("%.1f bytes for each inode that is held, not %d", each, perInode)
	}
	if err := fs.Close(); err != nil {
		t.Error(err)
	}
}

// TestMemoryBudget reads and makes more than fits into a small budget: caches stay within it.
func TestMemoryBudget(t *testing.T) {
	if testing.Short() {
		t.Skip("measured without the race detector")
	}
	const budget, files = 8 << 20, 20000
	fs := openRWWith(t, e2test.Image(t, 64*mib, "-t", "ext4", "-N", "30000"), ext4.Options{Memory: budget})
	before := liveHeap()
	dir, err := fs.Create(ext4.RootIno, "dir", ext4.NewNode{Mode: syscall.S_IFDIR | 0o755})
	if err != nil {
		t.Fatal(err)
	}
	most := int64(0)
	for i := range files {
		name := string(rune('a'+i%26)) + string(rune('a'+i/26%26)) + string(rune('a'+i/676%26)) + string(rune('a'+i/17576))
		if _, err := fs.Create(dir, name, ext4.NewNode{Mode: syscall.S_IFREG | 0o644}); err != nil && !errors.Is(err, syscall.ENOSPC) {
			t.Fatal(err)
		}
		if i%4000 == 3999 {
			most = max(most, liveHeap()-before)
		}
	}
	t.Logf("%d KiB at most, of %d", most>>10, budget>>10)
	if most > budget {
		t.Errorf("%d bytes in memory, of %d", most, budget)
	}
	if err := fs.Close(); err != nil {
		t.Error(err)
	}
}

// TestMemoryUnnamed: what an open file without a name costs, beyond its place among those
// that are held, is what the documentation says.
func TestMemoryUnnamed(t *testing.T) {
	if testing.Short() {
		t.Skip("measured without the race detector")
	}
	const many, perInode = 50000, 32 + 150
	for _, features := range []string{"^orphan_file", "orphan_file"} {
		fs := openRWWith(t, e2test.Image(t, 64*mib, "-t", "ext4", "-N", "60000", "-O", features), ext4.Options{Memory: 8 << 20})
		before := liveHeap()
		var held []ext4.Ino
		for range many {
			ino, err := fs.Tmpfile(ext4.RootIno, ext4.NewNode{Mode: syscall.S_IFREG | 0o600})
			if err != nil {
				t.Fatal(err)
			}
			held = append(held, ino)
		}
		grown := liveHeap() - before - 4*many
		t.Logf("%s: %.1f bytes for each, with what is cached", features, float64(grown)/many)
		if grown > 8<<20+many*perInode {
			t.Errorf("%s: %d bytes for %d files", features, grown, many)
		}
		for _, ino := range held {
			if err := fs.Unhold(ino, 1); err != nil {
				t.Fatal(err)
			}
		}
		if left := liveHeap() - before - 4*many; left > 8<<20 {
			t.Errorf("%s: %d bytes are left when all are let go", features, left)
		}
		runtime.KeepAlive(held)
		if err := fs.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestMemoryRevokes recovers a log of millions of records that revoke, each another block,
// and of one block: what is kept of them is bounded by the blocks.
func TestMemoryRevokes(t *testing.T) {
	const blocks, perBlock, limit = 3000, (4096 - 16) / 4, 8 << 20
	e := newEvil(t, 4096, 1<<24)
	at := e.next
	e.block(e.journaled(blocks+4, 1)) // with records that revoke
	e.block(be(journalMagic, 1, 1, 1<<23, 8|2))
	e.block(make([]byte, 4096))
	for i := range uint32(blocks) {
		b := be(journalMagic, 5, 1, 4096)
		for j := range uint32(perBlock) {
			b = append(b, be(1<<22+i*perBlock+j)...)
		}
		e.block(b)
	}
	e.block(be(journalMagic, 2, 1))
	e.inode(8, disk.ModeReg|0o600, 1, (blocks+4)*4096, disk.FlagExtents, disktest.ExtentNode(60, 0, disktest.Written(0, blocks+4, at)))
	dev := e.device()
	before := liveHeap()
	var m0, m1 runtime.MemStats
	runtime.ReadMemStats(&m0)
	fs, err := ext4.Open(dev, ext4.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&m1)
	allocated, kept := int64(m1.TotalAlloc-m0.TotalAlloc), liveHeap()-before
	t.Logf("%d records: %d KiB allocated, %d kept", blocks*perBlock, allocated>>10, kept>>10)
	if allocated > limit || kept > limit {
		t.Errorf("%d records: %d bytes allocated, %d kept", blocks*perBlock, allocated, kept)
	}
	if n := fs.Recovery().Blocks; n != 1 {
		t.Errorf("%d blocks recovered", n)
	}
	if err := fs.Close(); err != nil {
		t.Error(err)
	}
	runtime.KeepAlive(dev)
}
