package vfs

import (
	"bytes"
	"strings"
	"syscall"
	"testing"
	"time"

	"ext4box/fuse"
	"ext4box/iomap"
)

// later runs f beside the test. The channel gets its result.
func later(f func() error) chan error {
	c := make(chan error, 1)
	go func() { c <- f() }()
	return c
}

// waits tells that f has not come to its end. It cannot prove it, but whoever does not wait is likely to be
// through by then; what must hold is checked by the order in the trace.
func waits(t *testing.T, c chan error, what string) {
	t.Helper()
	select {
	case err := <-c:
		t.Errorf("%s did not wait: %v", what, err)
	case <-time.After(2 * time.Millisecond):
	}
}

// order checks that lines with these parts come in this order.
func order(t *testing.T, fs *FS, parts ...string) {
	t.Helper()
	trace := fs.Trace()
	i := 0
	for _, l := range trace {
		if i < len(parts) && strings.Contains(l, parts[i]) {
			i++
		}
	}
	if i < len(parts) {
		t.Errorf("no %q in its place:\n\t%s", parts[i], strings.Join(trace, "\n\t"))
	}
}

// TestRaceOverwrite: data is overwritten while it is on its way to the device. Both get there.
func TestRaceOverwrite(t *testing.T) {
	s := newServer()
	fs, dev := mountOn(t, s, Config{})
	f := mustCreate(t, fs, "f")
	mustWrite(t, f, pattern(1, 4096), 0)
	held := fs.Hold(At(DeviceWrite))
	sync := later(f.in.fs.Sync)
	held.Wait()
	mustWrite(t, f, pattern(2, 4096), 0) // does not wait for it
	held.Release()
	must(t, <-sync)
	if got := s.stored("f", dev); !bytes.Equal(got, pattern(1, 4096)) {
		t.Error("the first data is not what was written first")
	}
	must(t, f.Fsync())
	if got := s.stored("f", dev); !bytes.Equal(got, pattern(2, 4096)) {
		t.Error("the second data was not written")
	}
	must(t, f.Close())
}

// TestRaceTruncate: a truncation waits for the IOEND of what is being written.
func TestRaceTruncate(t *testing.T) {
	s := newServer()
	fs, dev := mountOn(t, s, Config{})
	f := mustCreate(t, fs, "f")
	mustWrite(t, f, pattern(1, 8192), 0)
	held := fs.Hold(RequestOf(fuse.OpIomapIoend))
	sync := later(fs.Sync)
	held.Wait()
	trunc := later(func() error { return f.Truncate(100) })
	waits(t, trunc, "truncation")
	held.Release()
	must(t, <-trunc)
	must(t, <-sync)
	order(t, fs, "IOMAP_IOEND 11 flags=UNWRITTEN|APPEND|WRITEBACK pos=0 written=8192", "SIZE=100")
	must(t, f.Close())
	if got := s.stored("f", dev); !bytes.Equal(got, pattern(1, 8192)[:100]) {
		t.Errorf("stored: %d bytes", len(got))
	}
}

// TestRacePunch: a hole waits for readers that fill the page cache, and they see it afterwards.
func TestRacePunch(t *testing.T) {
	s := newServer()
	fs, _ := mountWith(t, s, Config{}, pattern(1, 16384))
	f := mustOpen(t, fs, "f", syscall.O_RDWR)
	held := fs.Hold(At(DeviceRead))
	read := later(func() error { _, err := f.ReadAt(make([]byte, 16384), 0); return err })
	held.Wait()
	punch := later(func() error { return f.Fallocate(3, 4096, 4096) })
	waits(t, punch, "punching")
	held.Release()
	must(t, <-read)
	must(t, <-punch)
	want := pattern(1, 16384)
	clear(want[4096:8192])
	wantRead(t, f, 0, want)
	must(t, f.Close())
}

// TestRaceUnlink: a file loses its last name and its last user while it is being written. FORGET
// comes when that is over.
func TestRaceUnlink(t *testing.T) {
	s := newServer()
	fs, _ := mountOn(t, s, Config{})
	f := mustCreate(t, fs, "f")
	must(t, f.Truncate(8192))
	mem, err := f.Mmap()
	must(t, err)
	must(t, f.Close())
	must(t, mem.Store([]byte{1}, 0))
	held := fs.Hold(At(DeviceDone))
	in := mem.in
	written := later(func() error { in.writePages(0, toEOF); return nil }) // reclaim: has no reference
	held.Wait()
	must(t, fs.Unlink("f"))
	end := later(func() error { mem.Unmap(); return nil })
	waits(t, end, "the end of an inode")
	held.Release()
	must(t, <-written)
	must(t, <-end)
	order(t, fs, "UNLINK", "IOMAP_IOEND 11 flags=UNWRITTEN|WRITEBACK", "FORGET 11")
	if s.forgets[11] != 1 {
		t.Errorf("forgotten: %v", s.forgets)
	}
}

// TestEvictWaits: who evicts an inode waits for what is being written of it, and throws away the rest.
func TestEvictWaits(t *testing.T) {
	s := newServer()
	fs, dev := mountOn(t, s, Config{})
	f := mustCreate(t, fs, "f")
	mustWrite(t, f, pattern(1, 8192), 0)
	held := fs.Hold(At(DeviceDone))
	sync := later(func() error { f.in.writePages(0, 4096); return nil })
	held.Wait()
	evicted := later(func() error { f.in.evictPages(); return nil })
	waits(t, evicted, "eviction")
	held.Release()
	must(t, <-evicted)
	must(t, <-sync)
	if got := s.stored("f", dev); !bytes.Equal(got, pattern(1, 8192)[:4096]) {
		t.Errorf("stored: %d bytes", len(got))
	}
	if f.in.dirtyIn(0, toEOF) {
		t.Error("something is left")
	}
	must(t, f.Close())
}

// TestRaceAppend: an append waits for fsync, whose FSYNC comes when all IOENDs are answered.
func TestRaceAppend(t *testing.T) {
	s := newServer()
	fs, _ := mountOn(t, s, Config{})
	f := mustCreate(t, fs, "f")
	mustWrite(t, f, pattern(1, 8192), 0)
	held := fs.Hold(ReplyTo(fuse.OpIomapIoend))
	sync := later(f.Fsync)
	held.Wait()
	if n := fs.Count(fuse.OpFsync); n != 0 {
		t.Error("FSYNC before the reply to IOEND")
	}
	appended := later(func() error { _, err := f.Append(pattern(2, 100)); return err })
	waits(t, appended, "append")
	held.Release()
	must(t, <-sync)
	must(t, <-appended)
	wantRead(t, f, 8192, pattern(2, 100))
	must(t, f.Close())
}

// TestRaceBegins: several BEGIN for one file at the same time, and notifications from within them.
func TestRaceBegins(t *testing.T) {
	s := newServer()
	fs, _ := mountWith(t, s, Config{}, pattern(1, 65536))
	f := mustOpen(t, fs, "f", syscall.O_RDWR)
	a := fs.Hold(func(e *Event) bool { return e.Stage == Sent && e.Op == fuse.OpIomapBegin && e.Pos == 0 })
	b := fs.Hold(func(e *Event) bool { return e.Stage == Notified && e.NodeID == 11 })
	first := later(func() error { _, err := f.ReadAt(make([]byte, 4096), 0); return err })
	a.Wait()
	second := later(func() error { _, err := f.ReadAt(make([]byte, 4096), 32768); return err })
	if e := b.Wait(); e.Code != fuse.NotifyIomapUpsertMappings {
		t.Errorf("%+v", e)
	}
	waits(t, second, "who waits for a notification")
	b.Release()
	must(t, <-second)
	waits(t, first, "who waits for BEGIN")
	a.Release()
	must(t, <-first)
	must(t, f.Close())
}

// TestRaceStale: a mapping is dropped after a write has got it: it is asked for again, and the copy goes
// where it is then.
func TestRaceStale(t *testing.T) {
	s := newServer()
	s.end = func(in *fuse.IomapEndIn) syscall.Errno { return 0 }
	fs, dev := mountWith(t, s, Config{}, pattern(1, 8192))
	f := mustOpen(t, fs, "f", syscall.O_RDWR)
	held := fs.Hold(func(e *Event) bool { return e.Stage == MappingFound && e.Iomap == iomap.Write })
	write := later(func() error { _, err := f.WriteAt(pattern(2, 4096), 0); return err })
	held.Wait()
	must(t, s.s.InvalMappings(&fuse.IomapInvalMappings{NodeID: 11, Ino: 11, Read: fuse.IomapRange{Length: fuse.IomapInvalToEOF}}))
	held.Release()
	must(t, <-write)
	order(t, fs, "IOMAP_BEGIN 11 op=WRITE", "notify INVAL_MAPPINGS 11 read=0+EOF", "IOMAP_END 11 op=WRITE pos=0 count=4096 written=0 map=0+8192:MAPPED|STALE", "IOMAP_BEGIN 11 op=WRITE")
	must(t, f.Fsync())
	if got := s.stored("f", dev); !bytes.Equal(got[:4096], pattern(2, 4096)) {
		t.Error("not written")
	}
	must(t, f.Close())
}

// TestRaceRelease: a RELEASE that the server has not answered when it is unmounted.
func TestRaceRelease(t *testing.T) {
	s := newServer()
	s.opens = true
	fs, _ := mountOn(t, s, Config{})
	f := mustCreate(t, fs, "f")
	held := fs.Hold(RequestOf(fuse.OpRelease))
	must(t, f.Close())
	held.Wait()
	if n := fs.Count(fuse.OpRelease); n != 0 {
		t.Errorf("%d RELEASE sent", n)
	}
	held.Release()
	must(t, fs.Unmount())
	order(t, fs, "RELEASE 11", "DESTROY")
}

// TestFreeze: nothing is changed while frozen.
func TestFreeze(t *testing.T) {
	s := newServer()
	fs, _ := mountOn(t, s, Config{})
	f := mustCreate(t, fs, "f")
	mustWrite(t, f, pattern(1, 4096), 0)
	must(t, fs.Unlink("f"))
	fs.ResetTrace()
	must(t, fs.Freeze())
	order(t, fs, "IOMAP_IOEND", "SYNCFS root", "FREEZE_FS root unlinked=1")
	write := later(func() error { _, err := f.WriteAt([]byte{1}, 0); return err })
	trunc := later(func() error { return f.Truncate(0) })
	waits(t, write, "write")
	waits(t, trunc, "truncate")
	wantRead(t, f, 0, pattern(1, 4096))
	must(t, fs.Thaw())
	must(t, <-write)
	must(t, <-trunc)
	order(t, fs, "FREEZE_FS", "UNFREEZE_FS root", "SIZE=0")
	fs.Shutdown()
	order(t, fs, "SHUTDOWN_FS root")
	must(t, f.Close())
}
