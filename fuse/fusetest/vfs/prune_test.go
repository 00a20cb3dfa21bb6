package vfs

import (
	"errors"
	"fmt"
	"syscall"
	"testing"

	"ext4box/fuse"
)

// TestPrune: PRUNE evicts what nobody uses, with what is dirty written, and nothing else.
func TestPrune(t *testing.T) {
	both(t, func(t *testing.T, gen Generation) {
		s := newServer()
		fs, dev := mountOn(t, s, Config{Generation: gen})
		var ids []uint64
		data := pattern(1, 10000)
		for i := range 4 {
			f := mustCreate(t, fs, fmt.Sprint("f", i))
			mustWrite(t, f, data, 0)
			ids = append(ids, f.NodeID())
			must(t, f.Close())
		}
		open := mustOpen(t, fs, "f1", syscall.O_RDWR)
		g := mustOpen(t, fs, "f2", syscall.O_RDWR)
		mem, err := g.Mmap()
		must(t, err)
		must(t, g.Close())
		// What is stored through memory is dirty after everything was closed.
		h := mustOpen(t, fs, "f3", syscall.O_RDWR)
		stored, err := h.Mmap()
		must(t, err)
		must(t, h.Close())
		must(t, stored.Store(pattern(2, 10000), 0))
		stored.Unmap()
		fs.ResetTrace()
		must(t, fs.Session().NotifyPrune(append(ids, 4711, fs.cfg.RootNodeID)))
		if n := fs.Count(fuse.OpForget); n != 2 {
			t.Errorf("%d FORGET: %q", n, fs.Trace())
		}
		for i, want := range []bool{false, true, true, false} {
			in := fs.peek(ids[i])
			if (in != nil) != want {
				t.Errorf("f%d is in memory: %t", i, in != nil)
			}
			data := data
			if i == 3 {
				data = pattern(2, 10000)
			}
			if got := s.stored(fmt.Sprint("f", i), dev); string(got) != string(data) {
				t.Errorf("f%d: %d bytes are stored, the first difference is at %d", i, len(got), difference(got, data))
			}
		}
		// The name of what is in use stays.
		fs.ResetTrace()
		f := mustOpen(t, fs, "f1", syscall.O_RDWR)
		must(t, f.Close())
		if n := fs.Count(fuse.OpLookup); n != 0 {
			t.Errorf("%d LOOKUP of what is open", n)
		}
		f = mustOpen(t, fs, "f0", syscall.O_RDWR)
		wantRead(t, f, 0, data)
		must(t, f.Close())
		mem.Unmap()
		must(t, open.Close())
	})
	s := newServer()
	fs, _ := mountOn(t, s, Config{NoPrune: true})
	if err := fs.Session().NotifyPrune([]uint64{1}); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("a kernel that does not know it: %v", err)
	}
}
