package buffertest

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	"ext4box/blockdev/blocktest"
	"ext4box/ext4/internal/buffer"
)

var tag = buffer.Tag{Kind: buffer.DirLeaf, Owner: 12}

func read(t *testing.T, c *buffer.Cache, blk uint64) *buffer.Buffer {
	t.Helper()
	b, err := c.Read(blk, tag, func([]byte) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestTxWritesHomeWhatIsLeft(t *testing.T) {
	dev := blocktest.NewCounting(blocktest.NewMem(1<<20), 1024)
	cache := buffer.New(dev, 1024, 1<<20)
	tx := New(cache)
	for _, blk := range []uint64{9, 3, 3} {
		b := read(t, cache, blk)
		if err := tx.Modify(b); err != nil {
			t.Fatal(err)
		}
		b.Data[0] = byte(blk)
	}
	b, err := tx.New(7, tag)
	if err != nil {
		t.Fatal(err)
	}
	b.Data[0] = 7
	tx.Forget(9)
	order := ""
	tx.OnCommit(func() { order += "a" })
	tx.OnCommit(func() { order += "b" })

	if got := tx.Modified(); !slices.Equal(got, []uint64{3, 7}) {
		t.Errorf("modified %v", got)
	}
	if got := tx.Forgotten(); !slices.Equal(got, []uint64{9}) || cache.Has(9) {
		t.Errorf("forgotten %v", got)
	}
	if _, ok := tx.Created(7); !ok || tx.Most() != 3 || tx.Pending() != 2 || tx.TID() != 1 {
		t.Errorf("%+v", tx)
	}
	if err := tx.Commit(dev); err != nil {
		t.Fatal(err)
	}
	if order != "ab" || len(tx.Modified()) != 0 || len(tx.Forgotten()) != 0 || tx.TID() != 2 {
		t.Errorf("after the commit: %+v, order %q", tx, order)
	}
	for blk, want := range map[int64]byte{3: 3, 7: 7, 9: 0} {
		p := make([]byte, 1024)
		if _, err := dev.ReadAt(p, blk*1024); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(p[:2], []byte{want, 0}) {
			t.Errorf("block %d begins with %x", blk, p[:2])
		}
	}
	if n := dev.Counts().Writes; n != 2 {
		t.Errorf("%d writes", n)
	}
}

func TestTxAbortForgetsChanges(t *testing.T) {
	dev := blocktest.NewMem(1 << 20)
	cache := buffer.New(dev, 1024, 1<<20)
	tx := New(cache)
	b := read(t, cache, 5)
	if err := tx.Modify(b); err != nil {
		t.Fatal(err)
	}
	b.Data[0] = 1
	tx.OnCommit(func() { t.Error("a callback of an aborted transaction runs") })
	tx.Abort()
	if read(t, cache, 5).Data[0] != 0 {
		t.Error("the change is still there")
	}
	if err := tx.Commit(dev); err != nil {
		t.Fatal(err)
	}
}

func TestTxNoticesAStaleBuffer(t *testing.T) {
	cache := buffer.New(blocktest.NewMem(1<<20), 1024, 1<<20)
	tx := New(cache)
	stale := read(t, cache, 5)
	cache.Drop(5)
	if err := tx.Modify(read(t, cache, 5)); err != nil {
		t.Fatal(err)
	}
	if err := tx.Modify(stale); err == nil {
		t.Error("two buffers of one block in a transaction")
	}
	tx.Err = errors.New("injected")
	if err := tx.Modify(read(t, cache, 5)); err != tx.Err {
		t.Errorf("%v", err)
	}
	if _, err := tx.New(6, tag); err != tx.Err {
		t.Errorf("%v", err)
	}
}
