package vfs

import (
	"bytes"
	"strings"
	"syscall"
	"testing"

	"ext4box/blockdev"
	"ext4box/blockdev/blocktest"
	"ext4box/fuse"
	"ext4box/iomap"
)

// lines are those of the trace with a part.
func lines(fs *FS, part string) []string {
	var out []string
	for _, l := range fs.Trace() {
		if strings.Contains(l, part) {
			out = append(out, l)
		}
	}
	return out
}

// TestIoendConditions: when IOEND is sent, with which flags, and what is merged.
func TestIoendConditions(t *testing.T) {
	s := newServer()
	fs, _ := mountWith(t, s, Config{}, pattern(1, 32768))
	f := mustOpen(t, fs, "f", syscall.O_RDWR)
	check := func(what string, want ...string) {
		t.Helper()
		got := lines(fs, "IOEND")
		if strings.Join(got, "\n") != strings.Join(want, "\n") {
			t.Errorf("%s: %s, want %s", what, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		fs.ResetTrace()
	}
	fs.ResetTrace()
	mustWrite(t, f, pattern(2, 8192), 4096)
	must(t, f.Fsync())
	check("overwrite")
	mustWrite(t, f, pattern(3, 12288), 28672)
	must(t, f.Fsync())
	check("overwrite and append",
		"IOMAP_IOEND 11 flags=UNWRITTEN|APPEND|WRITEBACK pos=32768 written=8192 dev=1 -> newsize=40960")
	must(t, f.Truncate(1<<20))
	fs.ResetTrace()
	// Written out of order, contiguous in the file, but not on the device.
	mustWrite(t, f, pattern(4, 4096), 69632)
	mustWrite(t, f, pattern(5, 4096), 65536)
	must(t, f.Fsync())
	check("not contiguous on the device",
		"IOMAP_IOEND 11 flags=UNWRITTEN|WRITEBACK pos=65536 written=4096 dev=1 -> newsize=1048576",
		"IOMAP_IOEND 11 flags=UNWRITTEN|WRITEBACK pos=69632 written=4096 dev=1 -> newsize=1048576")
	mustWrite(t, f, pattern(4, 4096), 131072)
	mustWrite(t, f, pattern(5, 4096), 135168)
	must(t, f.Fsync())
	check("contiguous", "IOMAP_IOEND 11 flags=UNWRITTEN|WRITEBACK pos=131072 written=8192 dev=1 -> newsize=1048576")
	must(t, f.Close())
}

// TestMerge joins what is contiguous in every respect.
func TestMerge(t *testing.T) {
	base := func() []*ioend {
		return []*ioend{{pos: 4096, size: 4096, written: 100, addr: 8192, dev: 1}, {pos: 0, size: 4096, written: 4096, addr: 4096, dev: 1}}
	}
	for name, c := range map[string]struct {
		change func(a, b *ioend)
		want   int
	}{
		"contiguous":      {func(b, a *ioend) {}, 1},
		"address":         {func(b, a *ioend) { b.addr += 4096 }, 2},
		"device":          {func(b, a *ioend) { b.dev = 2 }, 2},
		"flags":           {func(b, a *ioend) { b.flags = fuse.IoendUnwritten }, 2},
		"error":           {func(b, a *ioend) { b.errno = syscall.EIO }, 2},
		"boundary":        {func(b, a *ioend) { b.flags = fuse.IoendBoundary }, 2},
		"boundary before": {func(b, a *ioend) { a.flags = fuse.IoendBoundary }, 1},
		"end of file":     {func(b, a *ioend) { a.written = 100 }, 2},
		"gap":             {func(b, a *ioend) { b.pos += 4096; b.addr += 4096 }, 2},
	} {
		l := base()
		c.change(l[0], l[1])
		got := merge(l)
		if len(got) != c.want {
			t.Errorf("%s: %d, want %d", name, len(got), c.want)
		}
		if got[0].pos != 0 || len(got) == 1 && (got[0].written != 4196 || got[0].size != 8192) {
			t.Errorf("%s: %+v", name, got[0])
		}
	}
}

// TestNewsize: a server that records the wrong size is caught, in IOEND and in attributes.
func TestNewsize(t *testing.T) {
	for _, wrong := range []int64{-1, 1} {
		both(t, func(t *testing.T, gen Generation) {
			s := newServer()
			fs, _ := mountOn(t, s, Config{Generation: gen})
			f := mustCreate(t, fs, "f")
			mustWrite(t, f, pattern(1, 5000), 0)
			s.ioend = func(in *fuse.IomapIoendIn, out *fuse.IomapIoendOut) syscall.Errno {
				out.Newsize += uint64(wrong)
				return 0
			}
			fs.Expect("must be between 5000 and 5000")
			must(t, f.Fsync())
			wantViolation(t, fs, "IOMAP_IOEND of node 11")
			s.ioend = nil
			s.attr = func(a *fuse.Attr) { a.Size += uint64(wrong) }
			must(t, f.Chmod(0o600))
			wantViolation(t, fs, "attributes say")
			s.attr = nil
			must(t, f.Close())
		})
	}
	// In the seventh posting the kernel believes what it is told; later it does not go back.
	both(t, func(t *testing.T, gen Generation) {
		s := newServer()
		fs, _ := mountOn(t, s, Config{Generation: gen, Expect: []string{"newsize"}})
		f := mustCreate(t, fs, "f")
		mustWrite(t, f, pattern(1, 8192), 0)
		must(t, f.Fsync())
		mustWrite(t, f, pattern(1, 100), 0)
		mustWrite(t, f, pattern(1, 4096), 8192)
		s.ioend = func(in *fuse.IomapIoendIn, out *fuse.IomapIoendOut) syscall.Errno {
			out.Newsize = 1
			return 0
		}
		f.in.writePages(0, toEOF)
		if low := f.in.disksize < 8192; low != (gen == V7) {
			t.Errorf("i_disk_size is %d", f.in.disksize)
		}
		s.ioend = nil
		must(t, f.Close())
	})
}

// TestWritebackReplies: what may not be answered to WRITEBACK, and what becomes of the data.
func TestWritebackReplies(t *testing.T) {
	for _, c := range []struct {
		name  string
		reply fuse.IomapIO
		errno syscall.Errno // of the reply
		why   string
		want  syscall.Errno // of fsync
		ioend string
	}{
		{"hole", at(0, 4096, 0, 0), 0, "a hole in answer to WRITEBACK", 0, ""},
		{"inline", fuse.IomapIO{Length: 4096, Addr: null, Type: iomap.Inline}, 0, "INLINE in answer to WRITEBACK", syscall.EIO, "flags=0 pos=0 written=4096 dev=0 error=EIO"},
		{"delalloc", at(0, 4096, 0, 1), 0, "DELALLOC in answer to WRITEBACK", syscall.EIO, "flags=0 pos=0 written=4096 dev=0 error=EIO"},
		{"error", at(0, 4096, 0, 0), syscall.ENOSPC, "", syscall.ENOSPC, "flags=0 pos=0 written=4096 dev=0 error=ENOSPC"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newServer()
			s.direct = true
			fs, _ := mountOn(t, s, Config{})
			if c.why != "" {
				fs.Expect(c.why)
			}
			f := mustCreate(t, fs, "f")
			mustWrite(t, f, pattern(1, 4096), 0)
			s.begin = func(in *fuse.IomapBeginIn, out *fuse.IomapBeginOut) syscall.Errno {
				if in.Op == iomap.Writeback {
					out.Read = c.reply
					return c.errno
				}
				return 0
			}
			fs.ResetTrace()
			wantErrno(t, "fsync", f.Fsync(), c.want)
			wantErrno(t, "second fsync", f.Fsync(), 0) // an error is told once
			wantViolation(t, fs, c.why)
			got := lines(fs, "IOEND")
			if c.ioend == "" && len(got) != 0 || c.ioend != "" && (len(got) != 1 || !strings.Contains(got[0], c.ioend)) {
				t.Errorf("%q, want %q", got, c.ioend)
			}
			if f.in.dirtyIn(0, toEOF) {
				t.Error("still dirty")
			}
			must(t, f.Close())
		})
	}
}

// TestDeviceErrors: a write that the device refuses is told to the server and to fsync, and who reads
// still has the data.
func TestDeviceErrors(t *testing.T) {
	for _, flags := range []int{syscall.O_RDWR, syscall.O_RDWR | syscall.O_DIRECT} {
		s := newServer()
		failing := &blocktest.Failing{Device: blocktest.NewMem(64 << 20)}
		fs, _ := mountOn(t, s, Config{Devices: map[int]blockdev.Device{devFD: failing}})
		must(t, mustCreate(t, fs, "f").Close())
		f := mustOpen(t, fs, "f", flags)
		failing.Add(blocktest.Rule{Ops: blocktest.Write, Times: 1})
		fs.ResetTrace()
		n, err := f.WriteAt(pattern(1, 8192), 0)
		flag := "DIRECT"
		if flags&syscall.O_DIRECT == 0 {
			flag = "WRITEBACK"
			must(t, err)
			err = f.Fsync()
		} else if n != 0 {
			t.Errorf("%d bytes written", n)
		}
		wantErrno(t, flag, err, syscall.EIO)
		got := lines(fs, "IOEND")
		if len(got) != 1 || !strings.Contains(got[0], "flags=UNWRITTEN|"+flag+" pos=0 written=8192") || !strings.Contains(got[0], "error=EIO -> EIO") {
			t.Errorf("%q", got)
		}
		if size := len(s.stored("f", failing)); size != 0 {
			t.Errorf("a size of %d is recorded", size)
		}
		mustWrite(t, f, pattern(2, 8192), 0)
		must(t, f.Fsync())
		if got := s.stored("f", failing); !bytes.Equal(got, pattern(2, 8192)) {
			t.Error("written again, it is not there")
		}
		must(t, f.Close())
	}
}

// TestIoendNotKnown: a server without IOEND, and swap files.
func TestIoendNotKnown(t *testing.T) {
	both(t, func(t *testing.T, gen Generation) {
		s := newServer()
		fs, dev := mountWith(t, s, Config{Generation: gen}, pattern(1, 8192))
		s.ioend = func(in *fuse.IomapIoendIn, out *fuse.IomapIoendOut) syscall.Errno { return syscall.ENOSYS }
		f := mustOpen(t, fs, "f", syscall.O_RDWR)
		mustWrite(t, f, pattern(2, 4096), 8192)
		must(t, f.Fsync())
		mustWrite(t, f, pattern(2, 4096), 12288)
		must(t, f.Fsync())
		if n := fs.Count(fuse.OpIomapIoend); n != 1 {
			t.Errorf("%d IOEND, the first of which was answered with ENOSYS", n)
		}
		s.ioend = nil
		s.put("swap", dev, pattern(1, 65536))
		w := mustOpen(t, fs, "swap", syscall.O_RDWR)
		fs.ResetTrace()
		ext, err := w.SwapOn()
		if err != nil || len(ext) != 1 || ext[0].Length != 65536 {
			t.Errorf("%+v, %v", ext, err)
		}
		_, err = w.WriteAt([]byte{1}, 0)
		wantErrno(t, "write to swap space", err, syscall.ETXTBSY)
		wantErrno(t, "truncate swap space", w.Truncate(0), syscall.ETXTBSY)
		wantErrno(t, "punch swap space", w.Fallocate(3, 0, 4096), syscall.ETXTBSY)
		must(t, w.SwapOff())
		want := 0
		if gen == Later {
			want = 1
		}
		if got := len(lines(fs, "IOMAP_IOEND 12 flags=SWAPOFF pos=0 written=0 dev=0")); got != want {
			t.Errorf("%d IOEND(SWAPOFF), want %d:\n%s", got, want, strings.Join(fs.Trace(), "\n"))
		}
		must(t, w.Close())
		must(t, f.Close())
	})
}

// TestRevalidation: a mapping in hand is not used for the next folio when the cache has changed.
func TestRevalidation(t *testing.T) {
	for _, drop := range []bool{false, true} {
		s := newServer()
		fs, _ := mountOn(t, s, Config{})
		f := mustCreate(t, fs, "f")
		mustWrite(t, f, pattern(1, 8192), 0)
		fs.ResetTrace()
		held := fs.Hold(func(e *Event) bool { return e.Stage == MappingFound && e.Iomap == iomap.Writeback })
		sync := later(fs.Sync)
		held.Wait()
		want := 0
		if drop {
			must(t, s.s.InvalMappings(&fuse.IomapInvalMappings{NodeID: 11, Ino: 11, Read: fuse.IomapRange{Length: toEOF}}))
			want = 1
		}
		held.Release()
		must(t, <-sync)
		if got := lines(fs, "op=WRITEBACK pos=4096 count=4096"); len(got) != want {
			t.Errorf("%d BEGIN for the second page, want %d", len(got), want)
		}
		must(t, f.Close())
	}
}

// TestTail: nothing of what lies behind the end of a file comes to light: not what a program stored
// there, nor what the device had.
func TestTail(t *testing.T) {
	s := newServer()
	fs, dev := mountWith(t, s, Config{}, pattern(1, 100))
	addr := int64(s.files[11].blocks[0].addr)
	if _, err := dev.WriteAt(pattern(9, 4096-100), addr+100); err != nil {
		t.Fatal(err)
	}
	f := mustOpen(t, fs, "f", syscall.O_RDWR)
	mustWrite(t, f, []byte{1}, 8192)
	want := append(pattern(1, 100), make([]byte, 8093)...)
	want[8192] = 1
	wantRead(t, f, 0, want)

	mem, err := f.Mmap()
	must(t, err)
	must(t, mem.Store([]byte("garbage"), 8200))
	must(t, f.Fsync())
	block := make([]byte, 4096)
	if _, err := dev.ReadAt(block, int64(s.files[11].blocks[2].addr)); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(block[1:], make([]byte, 4095)) {
		t.Error("what was stored behind the end is on the device")
	}
	// The same over a block that is unwritten: what is cached has to be written before it can be told
	// that there is nothing to zero.
	must(t, f.Truncate(0))
	must(t, f.Fallocate(1, 0, 4096))
	mustWrite(t, f, []byte{1}, 0)
	must(t, mem.Store([]byte("garbage"), 200))
	mustWrite(t, f, []byte{2}, 5000)
	wantRead(t, f, 0, append([]byte{1}, make([]byte, 4999)...))
	mem.Unmap()
	must(t, f.Close())
}

// TestVerbatim: what is set has to be there as it was set.
func TestVerbatim(t *testing.T) {
	s := newServer()
	fs, _ := mountWith(t, s, Config{}, nil)
	f := mustOpen(t, fs, "f", syscall.O_RDWR)
	for what, change := range map[string]func(a *fuse.Attr){
		"mode":  func(a *fuse.Attr) { a.Mode &^= 0o100 },
		"ctime": func(a *fuse.Attr) { a.CtimeNsec++ },
	} {
		must(t, f.Chmod(0o755))
		wantViolation(t, fs, "")
		s.attr = change
		fs.Expect("another " + what)
		must(t, f.Chmod(0o711))
		wantViolation(t, fs, "SETATTR of node 11")
		s.attr = nil
	}
	mustWrite(t, f, []byte{1}, 0)
	for what, change := range map[string]func(a *fuse.Attr){
		"atime": func(a *fuse.Attr) { a.Atime++ }, "mtime": func(a *fuse.Attr) { a.Mtime++ },
	} {
		mustWrite(t, f, []byte{1}, 0)
		s.attr = change
		fs.Expect("another " + what)
		must(t, f.Fsync())
		s.attr = nil
	}
	must(t, f.Close())
}
