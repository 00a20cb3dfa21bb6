package vfs

import (
	"bytes"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"ext4box/blockdev"
	"ext4box/blockdev/blocktest"
	"ext4box/fuse"
	"ext4box/iomap"
)

// TestInline: inline data is read with READ and written with WRITE, at once, with fh 0 and without END.
func TestInline(t *testing.T) {
	both(t, func(t *testing.T, gen Generation) {
		s := newServer()
		fs, _ := mountOn(t, s, Config{Generation: gen})
		f := mustCreate(t, fs, "f")
		s.files[11].inline = []byte{}
		mustWrite(t, f, []byte("hello"), 0)
		mustWrite(t, f, []byte("world"), 7)
		order(t, fs, "BEGIN 11 op=WRITE", "WRITE 11 pos=0 count=5", "WRITE 11 pos=7 count=5")
		for _, op := range []fuse.Opcode{fuse.OpIomapEnd, fuse.OpIomapIoend} {
			if n := fs.Count(op); n != 0 {
				t.Errorf("%d %v", n, op)
			}
		}
		if got := string(s.files[11].inline); got != "hello\x00\x00world" {
			t.Errorf("the server has %q", got)
		}
		// A mapping in the cache is good for one write.
		m := fuse.IomapIO{Length: 4096, Addr: null, Type: iomap.Inline}
		must(t, s.s.UpsertMappings(&fuse.IomapUpsertMappings{NodeID: 11, Ino: 11, Read: m, Write: filler(m, none)}))
		for _, want := range []int{0, 1} {
			fs.ResetTrace()
			mustWrite(t, f, []byte("h"), 0)
			if n := fs.Count(fuse.OpIomapBegin); n != want {
				t.Errorf("%d BEGIN, want %d", n, want)
			}
		}
		must(t, f.Fsync())
		fs.DropCaches()
		fs.ResetTrace()
		wantRead(t, f, 0, []byte("hello\x00\x00world"))
		order(t, fs, "READ 11 pos=0 count=4096")
		d := mustOpen(t, fs, "f", syscall.O_RDWR|syscall.O_DIRECT)
		fs.ResetTrace()
		got := make([]byte, 512)
		if n, _ := d.ReadAt(got, 0); string(got[:n]) != "hello\x00\x00world" {
			t.Errorf("direct: %q", got[:n])
		}
		want := "READ 11 pos=0 count=12" // what is asked for
		if gen == Later {
			want = "READ 11 pos=0 count=4096" // all of it
		}
		order(t, fs, want)
		_, err := f.WriteAt(make([]byte, 100), 0)
		wantErrno(t, "what does not fit", err, syscall.ENOSPC)
		must(t, d.Close())
		must(t, f.Close())
	})
}

// shortInline writes a byte at a time, or reads nothing.
type shortInline struct {
	*server
	none bool
}

func (s shortInline) Write(r *fuse.Request, in *fuse.WriteIn, data []byte) (int, syscall.Errno) {
	return s.server.Write(r, in, data[:1])
}

func (s shortInline) Read(r *fuse.Request, in *fuse.ReadIn, buf []byte) (int, syscall.Errno) {
	n, errno := s.server.Read(r, in, buf)
	if s.none {
		n = 0
	}
	return min(n, 1000), errno
}

// TestInlineShort: short writes go on later, short reads always do, and no data at all is an error.
func TestInlineShort(t *testing.T) {
	both(t, func(t *testing.T, gen Generation) {
		s := &shortInline{server: newServer()}
		mem := blocktest.NewMem(64 << 20)
		cfg := Config{Generation: gen, Devices: map[int]blockdev.Device{devFD: mem}}
		cfg.Options.Iomap = true
		fs := Mount(t, s, cfg)
		f := mustCreate(t, fs, "f")
		s.files[11].inline = []byte{}
		if gen == V7 {
			fs.Expect("took 1 of 5 bytes")
		}
		_, err := f.WriteAt([]byte("hello"), 0)
		wantErrno(t, "short write", err, map[Generation]syscall.Errno{V7: syscall.EIO}[gen])
		if gen == V7 {
			mustWrite(t, f, []byte("h"), 0)
		}
		fs.DropCaches()
		wantRead(t, f, 0, []byte("h"))
		fs.DropCaches()
		s.none = true
		fs.Expect("READ of inline data ends")
		_, err = f.ReadAt(make([]byte, 1), 0)
		wantErrno(t, "no data", err, syscall.EIO)
		s.none = false
		must(t, f.Close())
	})
}

// TestAtomic: who may write untorn, and what the server has to answer.
func TestAtomic(t *testing.T) {
	both(t, func(t *testing.T, gen Generation) {
		s := newServer()
		s.flags |= fuse.AttrAtomic
		fs, dev := mountWith(t, s, Config{Generation: gen}, pattern(1, 16384))
		b := mustOpen(t, fs, "f", syscall.O_RDWR)
		d := mustOpen(t, fs, "f", syscall.O_RDWR|syscall.O_DIRECT)
		try := func(f *File, off int64, n int) error {
			_, err := f.Pwritev2(pattern(2, n), off, RWFAtomic)
			return err
		}
		wantErrno(t, "buffered", try(b, 0, 4096), map[Generation]syscall.Errno{V7: syscall.EINVAL, Later: syscall.EOPNOTSUPP}[gen])
		wantErrno(t, "two blocks", try(d, 0, 8192), syscall.EINVAL)
		wantErrno(t, "half a block", try(d, 0, 2048), syscall.EINVAL)
		wantErrno(t, "not aligned", try(d, 2048, 4096), syscall.EINVAL)
		must(t, try(d, 4096, 4096))
		order(t, fs, "IOMAP_BEGIN 11 op=WRITE|DIRECT|ATOMIC pos=4096 count=4096 -> read=4096+12288:MAPPED|ATOMIC_BIO")
		if got := s.stored("f", dev); !bytes.Equal(got[4096:8192], pattern(2, 4096)) {
			t.Error("not written")
		}
		s.begin = func(in *fuse.IomapBeginIn, out *fuse.IomapBeginOut) syscall.Errno {
			out.Read.Flags &^= iomap.AtomicBIO
			return 0
		}
		if gen == Later {
			fs.Expect("ATOMIC_BIO")
		}
		wantErrno(t, "without ATOMIC_BIO", try(d, 0, 4096), map[Generation]syscall.Errno{Later: syscall.EIO}[gen])
		if gen == Later {
			s.begin = func(in *fuse.IomapBeginIn, out *fuse.IomapBeginOut) syscall.Errno {
				out.Read = filler(out.Read, fuse.IomapRetryCache)
				return 0
			}
			_, err := d.ReadAt(make([]byte, 4096), 0) // so that something is cached
			must(t, err)
			fs.Expect("does not use the cache")
			wantErrno(t, "RETRY_CACHE", try(d, 0, 4096), efscorrupted)
		}
		// Of any other direct write the flag makes a failure.
		s.begin = func(in *fuse.IomapBeginIn, out *fuse.IomapBeginOut) syscall.Errno {
			out.Read = at(0, 4096, s.files[11].blocks[0].addr, iomap.Mapped)
			out.Read.Flags = iomap.AtomicBIO
			return 0
		}
		must(t, s.s.InvalMappings(&fuse.IomapInvalMappings{NodeID: 11, Ino: 11, Read: fuse.IomapRange{Length: toEOF}}))
		fs.Expect("does not cover the direct write")
		_, err := d.WriteAt(pattern(3, 8192), 0)
		wantErrno(t, "larger than the mapping", err, syscall.EINVAL)
		s.begin = nil
		must(t, b.Close())
		must(t, d.Close())
	})
}

// TestDirectFallback: ENOSYS or ENOTBLK to a direct BEGIN mean the page cache, and the device all the same.
func TestDirectFallback(t *testing.T) {
	for _, errno := range []syscall.Errno{syscall.ENOSYS, syscall.ENOTBLK} {
		for _, always := range []bool{false, true} {
			s := newServer()
			s.opens = always
			s.open = fuse.OpenDirectIO
			fs, dev := mountWith(t, s, Config{}, pattern(1, 8192))
			s.begin = func(in *fuse.IomapBeginIn, out *fuse.IomapBeginOut) syscall.Errno {
				if in.Op&iomap.Direct != 0 {
					return errno
				}
				return 0
			}
			s.direct = true
			f := mustOpen(t, fs, "f", syscall.O_RDWR|syscall.O_DIRECT)
			want := syscall.Errno(0)
			if always {
				want = syscall.EIO
			}
			_, err := f.WriteAt(pattern(2, 4096), 0)
			wantErrno(t, "write", err, want)
			_, err = f.ReadAt(make([]byte, 4096), 0)
			wantErrno(t, "read", err, want)
			if !always {
				if got := s.stored("f", dev); !bytes.Equal(got[:4096], pattern(2, 4096)) || fs.Count(fuse.OpFsync) != 1 {
					t.Error("not synced")
				}
			}
			must(t, f.Close())
		}
	}
}

// TestHoleForWrite: a hole as the target of a write.
func TestHoleForWrite(t *testing.T) {
	hole := func(in *fuse.IomapBeginIn, out *fuse.IomapBeginOut) syscall.Errno {
		out.Read = at(0, 4096, 0, iomap.Hole)
		return 0
	}
	s := newServer()
	s.direct = true
	fs, _ := mountWith(t, s, Config{}, pattern(1, 4096))
	f := mustOpen(t, fs, "f", syscall.O_RDWR)
	d := mustOpen(t, fs, "f", syscall.O_RDWR|syscall.O_DIRECT)
	mem, err := f.Mmap()
	must(t, err)
	s.begin = hole
	fs.Expect("HOLE as the target of a direct write")
	_, err = d.WriteAt(pattern(2, 4096), 0)
	wantErrno(t, "direct", err, syscall.EIO)
	fs.Expect("HOLE in answer to a write fault")
	wantErrno(t, "fault", mem.Store([]byte{1}, 0), syscall.EFAULT)
	fs.Expect("a hole in answer to WRITE at 0: what is written there is lost")
	mustWrite(t, f, pattern(2, 4096), 0)
	s.begin = nil
	mem.Unmap()
	must(t, d.Close())
	must(t, f.Close())
}

// TestEnd: when END comes, and that its error is the caller's.
func TestEnd(t *testing.T) {
	both(t, func(t *testing.T, gen Generation) {
		s := newServer()
		s.direct = true
		fs, _ := mountWith(t, s, Config{Generation: gen}, pattern(1, 8192))
		f := mustOpen(t, fs, "f", syscall.O_RDWR)
		var flags iomap.Flags
		s.begin = func(in *fuse.IomapBeginIn, out *fuse.IomapBeginOut) syscall.Errno {
			out.Read.Flags |= flags
			return 0
		}
		s.end = func(in *fuse.IomapEndIn) syscall.Errno { return 0 }
		for _, c := range []struct {
			flags     iomap.Flags
			v7, later int
		}{{0, 0, 0}, {iomap.WantEnd, 0, 1}, {iomap.AnonWrite, 1, 0}} {
			flags = c.flags
			fs.ResetTrace()
			mustWrite(t, f, pattern(2, 100), 0)
			want := c.v7
			if gen == Later {
				want = c.later
			}
			if n := fs.Count(fuse.OpIomapEnd); n != want {
				t.Errorf("%s: %d END, want %d", flagsString(c.flags), n, want)
			}
		}
		flags = 0
		s.end = func(in *fuse.IomapEndIn) syscall.Errno { return syscall.EDQUOT }
		n, err := f.WriteAt(pattern(2, 100), 8192)
		if n != 100 {
			wantErrno(t, "write", err, syscall.EDQUOT)
		}
		if fs.Count(fuse.OpIomapEnd) == 0 {
			t.Error("no END for a write that has extended the file")
		}
		s.end = nil
		must(t, f.Close())
	})
}

// TestReport: FIEMAP, SEEK_DATA, SEEK_HOLE, FIBMAP.
func TestReport(t *testing.T) {
	s := newServer()
	fs, _ := mountOn(t, s, Config{Fuseblk: true})
	f := mustCreate(t, fs, "f")
	mustWrite(t, f, pattern(1, 4096), 8192)
	must(t, f.Fallocate(0, 16384, 8192))
	must(t, f.Fsync())
	s.begin = func(in *fuse.IomapBeginIn, out *fuse.IomapBeginOut) syscall.Errno {
		if in.Op != iomap.Report {
			t.Errorf("BEGIN with %s", opString(in.Op))
		}
		return 0
	}
	fs.DropCaches()
	list, err := f.Fiemap(0, 1<<20, false)
	must(t, err)
	want := "[{8192 4096 1048576 1 2 false false} {16384 8192 1052672 1 3 false false}]"
	if got := fmt.Sprint(list); got != want {
		t.Errorf("%s, want %s", got, want)
	}
	seek := func(data bool, off, want int64, errno syscall.Errno) {
		t.Helper()
		call := f.SeekHole
		if data {
			call = f.SeekData
		}
		got, err := call(off)
		wantErrno(t, "seek", err, errno)
		if got != want {
			t.Errorf("seek from %d: %d, want %d", off, got, want)
		}
	}
	seek(true, 0, 8192, 0)
	seek(true, 9000, 9000, 0)
	seek(false, 8192, 12288, 0)
	seek(false, 0, 0, 0)
	seek(true, 12288, 0, syscall.ENXIO)
	seek(true, 24576, 0, syscall.ENXIO)
	seek(false, 24576, 0, syscall.ENXIO)
	b, err := f.Bmap(2)
	if b != 256 || err != nil {
		t.Errorf("block 2 is %d, %v", b, err)
	}
	if b, err = f.Bmap(0); b != 0 || err != nil {
		t.Errorf("block 0 is %d, %v", b, err)
	}
	s.begin = nil
	mustWrite(t, f, []byte{1}, 20480)
	seek(true, 12288, 20480, 0) // cached over unwritten blocks
	s.begin = func(in *fuse.IomapBeginIn, out *fuse.IomapBeginOut) syscall.Errno { return syscall.ENOSYS }
	must(t, s.s.InvalMappings(&fuse.IomapInvalMappings{NodeID: 11, Ino: 11, Read: fuse.IomapRange{Length: toEOF}}))
	fs.ResetTrace()
	_, err = f.SeekData(0)
	wantErrno(t, "LSEEK", err, syscall.ENOSYS)
	order(t, fs, "IOMAP_BEGIN 11 op=REPORT", "LSEEK 11 pos=0 whence=3")
	s.begin = nil
	must(t, f.Close())
}

// TestSwapRefused: what cannot be swap space, of which the server is told.
func TestSwapRefused(t *testing.T) {
	for name, change := range map[string]func(*fuse.IomapIO){
		"hole":   func(m *fuse.IomapIO) { *m = at(m.Offset, m.Length, 0, iomap.Hole) },
		"shared": func(m *fuse.IomapIO) { m.Flags = iomap.Shared },
		"inline": func(m *fuse.IomapIO) { *m = fuse.IomapIO{Length: 4096, Addr: null, Type: iomap.Inline} },
		"error":  nil,
	} {
		s := newServer()
		fs, _ := mountWith(t, s, Config{}, pattern(1, 65536))
		f := mustOpen(t, fs, "f", syscall.O_RDWR)
		want := syscall.EINVAL
		s.begin = func(in *fuse.IomapBeginIn, out *fuse.IomapBeginOut) syscall.Errno {
			if change == nil {
				return syscall.EPERM
			}
			change(&out.Read)
			return 0
		}
		if change == nil {
			want = syscall.EPERM
		}
		_, err := f.SwapOn()
		wantErrno(t, name, err, want)
		order(t, fs, "FSYNC 11", "IOMAP_BEGIN 11 op=REPORT|SWAPFILE pos=0 count=65536", "IOMAP_IOEND 11 flags=SWAPOFF")
		s.begin = nil
		mustWrite(t, f, []byte{1}, 0)
		must(t, f.Close())
	}
}

// TestFallocateModes: what reaches the server.
func TestFallocateModes(t *testing.T) {
	s := newServer()
	fs, dev := mountWith(t, s, Config{}, pattern(1, 20000))
	f := mustOpen(t, fs, "f", syscall.O_RDWR)
	for _, mode := range []uint32{0x08, 0x20, 0x40, 0x04, 0x02, 0x80, 0x13} {
		wantErrno(t, fmt.Sprintf("mode %#x", mode), f.Fallocate(mode, 0, 4096), syscall.EOPNOTSUPP)
	}
	if n := fs.Count(fuse.OpFallocate); n != 0 {
		t.Errorf("%d FALLOCATE", n)
	}
	want := pattern(1, 20000)
	fs.ResetTrace()
	must(t, f.Fallocate(3, 100, 200)) // inside a block: the server has nothing to do
	clear(want[100:300])
	order(t, fs, "FALLOCATE 11 mode=0x3 pos=100 count=200", "IOMAP_BEGIN 11 op=ZERO pos=100 count=200")
	fs.ResetTrace()
	must(t, f.Fallocate(0x10, 5000, 25000)) // beyond the end
	clear(want[5000:])
	want = append(want, make([]byte, 10000)...)
	order(t, fs, "FALLOCATE 11 mode=0x10 pos=5000 count=25000", "IOMAP_BEGIN 11 op=ZERO pos=5000 count=3192", "IOMAP_BEGIN 11 op=ZERO pos=20000 count=10000")
	wantRead(t, f, 0, want)
	if f.in.disksize != 30000 {
		t.Errorf("i_disk_size is %d", f.in.disksize)
	}
	must(t, f.Close())
	if got := s.stored("f", dev); !bytes.Equal(got, want) {
		t.Errorf("stored: %d bytes, first difference at %d", len(got), difference(got, want))
	}
	// A server that does not record the size loses it at the next mount.
	g := mustOpen(t, fs, "f", syscall.O_RDWR)
	s.attr = func(a *fuse.Attr) { a.Size = 30000 }
	must(t, g.Fallocate(0, 30000, 30000))
	fs.Expect("must be between 60000 and 60000")
	must(t, g.Chmod(0o600))
	s.attr = nil
	must(t, g.Close())
}

// TestOpenReplies: flags that OPEN must not answer for a file with mappings.
func TestOpenReplies(t *testing.T) {
	for _, flag := range []fuse.OpenFlags{fuse.OpenPassthrough, fuse.OpenStream, fuse.OpenNonseekable} {
		s := newServer()
		s.opens, s.open = true, flag
		fs, _ := mountWith(t, s, Config{Expect: []string{"whose data goes by mappings"}}, pattern(1, 100))
		_, err := fs.Open("f", syscall.O_RDONLY, 0)
		wantErrno(t, "open", err, syscall.EINVAL)
	}
}

// TestTruncateAtOpen: by the server, if it has promised so, or by SETATTR. It must not promise and then not
// want to hear of OPEN.
func TestTruncateAtOpen(t *testing.T) {
	for _, atomic := range []bool{false, true} {
		for _, opens := range []bool{false, true} {
			s := newServer()
			s.opens = opens
			cfg := Config{}
			cfg.Options.Flags = fuse.InitNoOpenSupport
			if atomic {
				cfg.Options.Flags |= fuse.InitAtomicOTrunc
			}
			fs, dev := mountWith(t, s, cfg, pattern(1, 10000))
			if atomic && !opens {
				fs.Expect("OPEN with O_TRUNC of node 11 is not sent")
				fs.Expect("a size of 10000 is recorded")
			}
			f := mustOpen(t, fs, "f", syscall.O_RDONLY)
			wantRead(t, f, 0, pattern(1, 10000))
			must(t, f.Close())
			fs.ResetTrace()
			f = mustOpen(t, fs, "f", syscall.O_RDWR|syscall.O_TRUNC)
			if n := len(lines(fs, "SIZE=0")); (n == 0) != atomic {
				t.Errorf("atomic %v: %d SETATTR", atomic, n)
			}
			if n := len(lines(fs, "O_TRUNC")); n == 1 != (atomic && opens) {
				t.Errorf("atomic %v, opens %v: %d OPEN with O_TRUNC", atomic, opens, n)
			}
			if f.in.size() != 0 || f.in.disksize != 0 {
				t.Errorf("size %d, on disk %d", f.in.size(), f.in.disksize)
			}
			if !atomic || opens {
				mustWrite(t, f, pattern(2, 10), 0)
				must(t, f.Close())
				if got := s.stored("f", dev); !bytes.Equal(got, pattern(2, 10)) {
					t.Errorf("stored: %d bytes", len(got))
				}
			} else {
				must(t, f.Close())
			}
		}
	}
}

// TestClassic: files without mappings, on a mount that has them, and on kernels that do not know them.
func TestClassic(t *testing.T) {
	for name, cfg := range map[string]Config{"mount with iomap": {}, "kernel without": {NoIomap: true}, "released kernel": {Classic: true}} {
		t.Run(name, func(t *testing.T) {
			s := newServer()
			s.flags = 0
			fs, _ := mountOn(t, s, cfg)
			if fs.Iomap() != (name == "mount with iomap") {
				t.Errorf("iomap: %v", fs.Iomap())
			}
			f := mustCreate(t, fs, "f")
			s.files[11].inline = []byte{}
			mustWrite(t, f, []byte("hello"), 0)
			if f.in.size() != 5 || string(s.files[11].inline) != "hello" {
				t.Errorf("%q", s.files[11].inline)
			}
			must(t, f.Close())
			for _, l := range fs.Trace() {
				if strings.HasPrefix(l, "IOMAP_") && !strings.HasPrefix(l, "IOMAP_CONFIG") {
					t.Error(l)
				}
			}
		})
	}
}

// TestIoctls: registering devices.
func TestIoctls(t *testing.T) {
	both(t, func(t *testing.T, gen Generation) {
		s := newServer()
		fs, _ := mountOn(t, s, Config{Generation: gen, Expect: []string{"SET_BLOCKSIZE of device 5", "SET_BLOCKSIZE to 1000"}})
		_, err := s.s.OpenBacking(99)
		wantErrno(t, "not a device", err, syscall.ENODEV)
		wantErrno(t, "block size of a device that is not there", s.s.SetBackingBlocksize(5, 4096), syscall.ENOENT)
		wantErrno(t, "block size", s.s.SetBackingBlocksize(1, 1000), syscall.EINVAL)
		wantViolation(t, fs, "SET_BLOCKSIZE of device 5")
	})
}

// TestReadOnlyDevice: writes to a device that was opened for reading.
func TestReadOnlyDevice(t *testing.T) {
	both(t, func(t *testing.T, gen Generation) {
		s := newServer()
		fs, dev := mountWith(t, s, Config{Generation: gen}, pattern(1, 4096))
		f := mustOpen(t, fs, "f", syscall.O_RDWR|syscall.O_DIRECT)
		dev.SetReadOnly(true)
		s.direct = true
		want := syscall.EIO // of the device
		if gen == Later {
			want = syscall.EACCES
			fs.Expect("opened for reading only")
		}
		_, err := f.WriteAt(pattern(2, 4096), 0)
		wantErrno(t, "write", err, want)
		must(t, f.Close())
	})
}

// TestNoWait: a miss of the cache is an upcall in the seventh posting, EAGAIN later.
func TestNoWait(t *testing.T) {
	both(t, func(t *testing.T, gen Generation) {
		s := newServer()
		fs, _ := mountWith(t, s, Config{Generation: gen}, pattern(1, 8192))
		f := mustOpen(t, fs, "f", syscall.O_RDWR|syscall.O_DIRECT)
		_, err := f.Preadv2(make([]byte, 4096), 0, RWFNoWait)
		wantErrno(t, "read", err, map[Generation]syscall.Errno{Later: syscall.EAGAIN}[gen])
		if n := len(lines(fs, "op=DIRECT|NOWAIT")); (n == 1) != (gen == V7) {
			t.Errorf("%d BEGIN", n)
		}
		must(t, f.Close())
	})
}

// TestKill: what the devices have when the server dies is what it has recorded, and no more.
func TestKill(t *testing.T) {
	s := newServer()
	fs, dev := mountOn(t, s, Config{})
	f := mustCreate(t, fs, "f")
	mustWrite(t, f, pattern(1, 4096), 0)
	must(t, f.Fsync())
	mustWrite(t, f, pattern(2, 8192), 0)
	fs.Kill()
	wantErrno(t, "fsync", f.Fsync(), syscall.EIO)
	if got := s.stored("f", dev); !bytes.Equal(got, pattern(1, 4096)) {
		t.Errorf("stored: %d bytes", len(got))
	}
}
