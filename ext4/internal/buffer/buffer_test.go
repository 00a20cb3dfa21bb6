package buffer_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"ext4box/blockdev/blocktest"
	"ext4box/ext4/internal/buffer"
)

const blockSize = 1024

// counted counts the reads of a device.
type counted struct {
	io.ReaderAt
	reads atomic.Int32
}

func (c *counted) ReadAt(p []byte, off int64) (int, error) {
	c.reads.Add(1)
	return c.ReaderAt.ReadAt(p, off)
}

// device has n blocks; each is full of its number.
func device(n int) *counted {
	var b bytes.Buffer
	for i := range n {
		b.Write(bytes.Repeat([]byte{byte(i)}, blockSize))
	}
	return &counted{ReaderAt: bytes.NewReader(b.Bytes())}
}

func accept([]byte) error { return nil }

var leaf = buffer.Tag{Kind: buffer.DirLeaf, Owner: 12}

func TestReadsAndChecksOnce(t *testing.T) {
	dev := device(8)
	c := buffer.New(dev, blockSize, 1<<20)
	checks := 0
	for range 3 {
		b, err := c.Read(5, leaf, func(b []byte) error {
			checks++
			if len(b) != blockSize || b[0] != 5 {
				t.Errorf("checked block is %d bytes of %d", len(b), b[0])
			}
			return nil
		})
		if err != nil || b.Block != 5 || b.Data[blockSize-1] != 5 {
			t.Fatalf("block 5: %v", err)
		}
	}
	if checks != 1 || dev.reads.Load() != 1 {
		t.Errorf("%d checks, %d reads", checks, dev.reads.Load())
	}
}

// TestChecksForEachTag has two owners of one block, and one owner of two kinds.
func TestChecksForEachTag(t *testing.T) {
	dev := device(8)
	c := buffer.New(dev, blockSize, 1<<20)
	var checked []buffer.Tag
	for _, tag := range []buffer.Tag{leaf, {Kind: buffer.DirLeaf, Owner: 13}, {Kind: buffer.Indirect, Owner: 13}, leaf, leaf} {
		if _, err := c.Read(1, tag, func([]byte) error { checked = append(checked, tag); return nil }); err != nil {
			t.Fatal(err)
		}
	}
	if len(checked) != 4 || dev.reads.Load() != 1 {
		t.Errorf("checked for %v with %d reads", checked, dev.reads.Load())
	}
	// What one owner may trust, another must not.
	bad := errors.New("not mine")
	if _, err := c.Read(1, buffer.Tag{Kind: buffer.DirLeaf, Owner: 14}, func([]byte) error { return bad }); err != bad {
		t.Errorf("error %v", err)
	}
	if _, err := c.Read(1, leaf, func([]byte) error { return bad }); err != nil {
		t.Errorf("the failure for one owner is that of another: %v", err)
	}
}

// TestFailedCheckReadsAgain repairs a block behind the cache's back.
func TestFailedCheckReadsAgain(t *testing.T) {
	mem := blocktest.NewMem(8 * blockSize)
	c := buffer.New(mem, blockSize, 1<<20)
	damaged := errors.New("damaged")
	check := func(b []byte) error {
		if b[0] != 7 {
			return damaged
		}
		return nil
	}
	for range 2 {
		if _, err := c.Read(3, leaf, check); err != damaged {
			t.Fatalf("error %v", err)
		}
	}
	if _, err := mem.WriteAt([]byte{7}, 3*blockSize); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(3, leaf, check); err != nil {
		t.Errorf("the repaired block: %v", err)
	}
}

func TestDeviceErrors(t *testing.T) {
	failing := blocktest.NewFailing(blocktest.NewMem(8*blockSize + 100))
	c := buffer.New(failing, blockSize, 1<<20)
	failing.FailNth(blocktest.Read, 1, nil)
	if _, err := c.Read(2, leaf, accept); !errors.Is(err, syscall.EIO) {
		t.Errorf("failed read: %v", err)
	}
	if _, err := c.Read(2, leaf, accept); err != nil {
		t.Errorf("second try: %v", err)
	}
	for _, blk := range []uint64{8, 9, 1 << 60} {
		var errno syscall.Errno
		if _, err := c.Read(blk, leaf, accept); !errors.As(err, &errno) {
			t.Errorf("block %d behind the end: %v", blk, err)
		}
	}
}

func TestPrefetch(t *testing.T) {
	dev := device(32)
	c := buffer.New(dev, blockSize, 1<<20)
	c.Prefetch(8, 8)
	if c.Has(7) || !c.Has(8) || !c.Has(15) || c.Has(16) {
		t.Error("other blocks than those asked for were brought in")
	}
	for blk := range uint64(8) {
		b, err := c.Read(8+blk, leaf, accept)
		if err != nil || b.Data[0] != byte(8+blk) || len(b.Data) != blockSize || cap(b.Data) != blockSize {
			t.Fatalf("block %d: %v", 8+blk, err)
		}
	}
	if n := dev.reads.Load(); n != 1 {
		t.Errorf("%d reads", n)
	}
	c.Prefetch(30, 8) // reaches past the end: nothing happens
	if _, err := c.Read(31, leaf, accept); err != nil {
		t.Error(err)
	}
}

// TestPrefetchKeepsVerified sees that a block in use is not replaced.
func TestPrefetchKeepsVerified(t *testing.T) {
	c := buffer.New(device(32), blockSize, 1<<20)
	a, err := c.Read(9, leaf, accept)
	if err != nil {
		t.Fatal(err)
	}
	data := &a.Data[0]
	c.Prefetch(8, 8)
	b, err := c.Read(9, leaf, func([]byte) error { t.Error("checked again"); return nil })
	if err != nil || &b.Data[0] != data {
		t.Errorf("the buffer was replaced: %v", err)
	}
}

// TestConcurrentReaders has many readers of few blocks in a cache of one block a
// shard, with tags that come and go.
func TestConcurrentReaders(t *testing.T) {
	dev := device(200)
	c := buffer.New(dev, blockSize, 1)
	var group sync.WaitGroup
	for worker := range uint64(8) {
		group.Go(func() {
			r := rand.New(rand.NewPCG(1, worker))
			for range 3000 {
				blk := r.Uint64N(200)
				if r.IntN(8) == 0 {
					c.Prefetch(blk, 4)
				}
				tag := buffer.Tag{Kind: buffer.DirLeaf, Owner: r.Uint32N(3)}
				b, err := c.Read(blk, tag, func(b []byte) error {
					if b[0] != byte(blk) || b[blockSize-1] != byte(blk) {
						return errors.New("wrong content")
					}
					return nil
				})
				if err != nil || b.Data[1] != byte(blk) {
					t.Errorf("block %d: %v", blk, err)
					return
				}
			}
		})
	}
	group.Wait()
}

// TestConcurrentReadersShareIO has many readers of one block that is not there
// yet.
func TestConcurrentReadersShareIO(t *testing.T) {
	dev := device(8)
	c := buffer.New(dev, blockSize, 1<<20)
	var group sync.WaitGroup
	var checks atomic.Int32
	for range 16 {
		group.Go(func() {
			if _, err := c.Read(3, leaf, func([]byte) error { checks.Add(1); return nil }); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if dev.reads.Load() != 1 || checks.Load() != 1 {
		t.Errorf("%d reads, %d checks", dev.reads.Load(), checks.Load())
	}
}

func TestNewBlockIsNotRead(t *testing.T) {
	dev := device(8)
	c := buffer.New(dev, blockSize, 1<<20)
	if _, err := c.Read(4, leaf, accept); err != nil {
		t.Fatal(err)
	}
	c.New(4, leaf)
	b, err := c.Read(4, leaf, func([]byte) error { t.Error("a new block is checked"); return nil })
	if err != nil || !bytes.Equal(b.Data, make([]byte, blockSize)) || dev.reads.Load() != 1 {
		t.Errorf("new block: %v after %d reads", err, dev.reads.Load())
	}
	c.Drop(4)
	if c.Has(4) {
		t.Error("a dropped block is still there")
	}
	if b, err := c.Read(4, leaf, accept); err != nil || b.Data[0] != 4 {
		t.Errorf("a dropped block is not read again: %v", err)
	}
}

// TestPinnedBlocksStay fills a cache of one block a shard.
func TestPinnedBlocksStay(t *testing.T) {
	c := buffer.New(device(256), blockSize, 1)
	pinned, err := c.Read(7, leaf, accept)
	if err != nil {
		t.Fatal(err)
	}
	pinned.Pin()
	fill := func() {
		for blk := range uint64(256) {
			if blk != 7 {
				if _, err := c.Read(blk, leaf, accept); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	fill()
	if !c.Has(7) {
		t.Error("a pinned block was evicted")
	}
	pinned.Unpin()
	fill()
	runtime.GC() // until then the cache can still find it
	if c.Has(7) {
		t.Error("a block that is no longer pinned stays for ever")
	}
}

// TestNotes notes things about blocks, which hold for one tag until they are taken back.
func TestNotes(t *testing.T) {
	c := buffer.New(device(8), blockSize, 1<<20)
	b, err := c.Read(5, leaf, accept)
	if err != nil {
		t.Fatal(err)
	}
	const one, two buffer.Note = 1, 2
	other := buffer.Tag{Kind: buffer.DirLeaf, Owner: 13}
	b.SetNote(other, one)
	if b.Noted(leaf, one) || b.Noted(other, one) {
		t.Error("a note sticks to a block that is something else")
	}
	b.SetNote(leaf, one)
	if !b.Noted(leaf, one) || b.Noted(leaf, two) || b.Noted(leaf, one|two) || b.Noted(other, one) {
		t.Error("a note is not what was noted")
	}
	checks := 0
	count := func([]byte) error { checks++; return nil }
	if _, err := c.Read(5, leaf, count); err != nil || checks != 0 || !b.Noted(leaf, one) {
		t.Errorf("a block with a note was checked %d times, %v", checks, err)
	}
	b.Unnote()
	if _, err := c.Read(5, leaf, count); err != nil || checks != 0 || b.Noted(leaf, one) {
		t.Errorf("without the note the block was checked %d times, %v", checks, err)
	}
	b.SetNote(leaf, two)
	for _, tag := range []buffer.Tag{other, leaf} {
		if _, err := c.Read(5, tag, count); err != nil || b.Noted(leaf, two) {
			t.Errorf("a note survives that the block became something else, %v", err)
		}
	}
}
