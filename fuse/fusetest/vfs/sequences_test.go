package vfs

import (
	"syscall"
	"testing"

	"ext4box/blockdev/blocktest"
	"ext4box/fuse"
)

// mountWith mounts a server with one file f of the given content.
func mountWith(t *testing.T, s *server, cfg Config, data []byte) (*FS, *blocktest.Mem) {
	t.Helper()
	fs, dev := mountOn(t, s, cfg)
	s.put("f", dev, data)
	return fs, dev
}

// The sequences of the protocol's worked examples, line by line.

// TestSequenceHole: a buffered write into a hole, and fsync.
func TestSequenceHole(t *testing.T) {
	for _, direct := range []bool{false, true} {
		s := newServer()
		s.direct = direct
		fs, _ := mountOn(t, s, Config{})
		f := mustCreate(t, fs, "f")
		must(t, f.Truncate(1<<20))
		must(t, f.Fsync())
		fs.ResetTrace()
		mustWrite(t, f, pattern(1, 8192), 65536)
		must(t, f.Fsync())
		begin := []string{
			"IOMAP_BEGIN 11 op=WRITE pos=65536 count=8192 -> read=65536+8192:RETRY_CACHE write=65536+8192:PURE_OVERWRITE",
			"notify UPSERT_MAPPINGS 11 read=65536+8192:UNWRITTEN|DIRTY@1:1048576 write=65536+8192:NOCACHE",
		}
		if direct {
			begin = []string{
				"IOMAP_BEGIN 11 op=WRITE pos=65536 count=8192 -> read=65536+8192:UNWRITTEN|DIRTY@1:1048576 write=65536+8192:PURE_OVERWRITE",
				"IOMAP_BEGIN 11 op=WRITEBACK pos=65536 count=4096 -> read=65536+8192:UNWRITTEN|DIRTY@1:1048576 write=65536+8192:PURE_OVERWRITE",
			}
		}
		begin = append([]string{"GETXATTR 11 \"security.capability\" -> ENODATA"}, begin...)
		wantTrace(t, fs, append(begin,
			"IOMAP_IOEND 11 flags=UNWRITTEN|WRITEBACK pos=65536 written=8192 dev=1 -> newsize=1048576",
			"SETATTR 11 ATIME|MTIME|CTIME -> size=1048576",
			"FSYNC 11")...)
		must(t, f.Close())
	}
}

// TestSequenceDirect: direct overwrites and writes into unwritten blocks.
func TestSequenceDirect(t *testing.T) {
	s := newServer()
	fs, _ := mountWith(t, s, Config{}, pattern(1, 16384))
	f := mustOpen(t, fs, "f", syscall.O_RDWR|syscall.O_DIRECT)
	mustWrite(t, f, pattern(2, 512), 0) // asks for the capability and for the mapping
	fs.ResetTrace()
	mustWrite(t, f, pattern(2, 4096), 4096)
	wantTrace(t, fs) // the mapping is in the cache
	mustWrite(t, f, pattern(3, 4096), 4096)
	wantTrace(t, fs,
		"IOMAP_BEGIN 11 op=WRITE|DIRECT pos=4096 count=4096 -> read=4096+12288:RETRY_CACHE write=4096+12288:PURE_OVERWRITE",
		"notify UPSERT_MAPPINGS 11 read=4096+12288:MAPPED@1:1052672 write=4096+12288:NOCACHE")
	fs.ResetTrace()
	mustWrite(t, f, pattern(4, 4096), 16384)
	wantTrace(t, fs,
		"IOMAP_BEGIN 11 op=WRITE|DIRECT pos=16384 count=4096 -> read=16384+4096:RETRY_CACHE write=16384+4096:PURE_OVERWRITE",
		"notify UPSERT_MAPPINGS 11 read=16384+4096:UNWRITTEN|DIRTY@1:1064960 write=16384+4096:NOCACHE",
		"IOMAP_IOEND 11 flags=UNWRITTEN|DIRECT|APPEND pos=16384 written=4096 dev=0 -> newsize=20480")
	must(t, f.Truncate(65536))
	must(t, f.Fallocate(1, 40960, 4096))
	fs.ResetTrace()
	mustWrite(t, f, pattern(4, 4096), 40960)
	wantTrace(t, fs,
		"IOMAP_BEGIN 11 op=WRITE|DIRECT pos=40960 count=4096 -> read=40960+4096:RETRY_CACHE write=40960+4096:PURE_OVERWRITE",
		"notify UPSERT_MAPPINGS 11 read=40960+4096:UNWRITTEN|DIRTY@1:1069056 write=40960+4096:NOCACHE",
		"IOMAP_IOEND 11 flags=UNWRITTEN|DIRECT pos=40960 written=4096 dev=0 -> newsize=65536")
	must(t, f.Close())
}

// TestSequenceDsync: FSYNC after a synchronous overwrite, unless the device wrote through and nothing
// has to be committed.
func TestSequenceDsync(t *testing.T) {
	for _, c := range []struct {
		flags  RWFlags
		nofua  bool
		dirty  bool
		fsyncs int
	}{{RWFDsync, false, false, 0}, {RWFDsync, true, false, 1}, {RWFDsync, false, true, 1}, {RWFSync, false, false, 1}} {
		s := newServer()
		if c.dirty {
			s.direct = true
			s.begin = func(in *fuse.IomapBeginIn, out *fuse.IomapBeginOut) syscall.Errno {
				out.Read.Flags |= 1 << 1
				return 0
			}
		}
		fs, _ := mountWith(t, s, Config{NoDeviceFUA: c.nofua}, pattern(1, 16384))
		f := mustOpen(t, fs, "f", syscall.O_RDWR|syscall.O_DIRECT)
		if _, err := f.Pwritev2(pattern(2, 4096), 0, c.flags); err != nil {
			t.Fatal(err)
		}
		if n := fs.Count(fuse.OpFsync); n != c.fsyncs {
			t.Errorf("%+v: %d FSYNC, want %d", c, n, c.fsyncs)
		}
		must(t, f.Close())
	}
}

// TestSequenceAppend: a buffered append that begins in the last block. END comes once if it is answered
// with ENOSYS.
func TestSequenceAppend(t *testing.T) {
	s := newServer()
	fs, dev := mountWith(t, s, Config{}, pattern(1, 100))
	f := mustOpen(t, fs, "f", syscall.O_RDWR)
	s.end = func(in *fuse.IomapEndIn) syscall.Errno { return 0 }
	s.next = 8 << 20 // so that the blocks are not contiguous
	fs.ResetTrace()
	mustWrite(t, f, pattern(2, 5000), 100)
	must(t, f.Fsync())
	wantTrace(t, fs,
		"GETXATTR 11 \"security.capability\" -> ENODATA",
		"IOMAP_BEGIN 11 op=WRITE pos=100 count=5000 -> read=0+4096:RETRY_CACHE write=0+4096:PURE_OVERWRITE",
		"notify UPSERT_MAPPINGS 11 read=0+4096:MAPPED@1:1048576 write=0+4096:NOCACHE",
		"IOMAP_END 11 op=WRITE pos=100 count=3996 written=3996 map=0+4096:MAPPED|SIZE_CHANGED@1:1048576",
		"IOMAP_BEGIN 11 op=WRITE pos=4096 count=1004 -> read=4096+4096:RETRY_CACHE write=4096+4096:PURE_OVERWRITE",
		"notify UPSERT_MAPPINGS 11 read=4096+4096:UNWRITTEN|DIRTY@1:8388608 write=4096+4096:NOCACHE",
		"IOMAP_END 11 op=WRITE pos=4096 count=1004 written=1004 map=4096+4096:UNWRITTEN|DIRTY|SIZE_CHANGED@1:8388608",
		"IOMAP_IOEND 11 flags=APPEND|WRITEBACK pos=0 written=4096 dev=1 -> newsize=4096",
		"IOMAP_IOEND 11 flags=UNWRITTEN|APPEND|WRITEBACK pos=4096 written=1004 dev=1 -> newsize=5100",
		"SETATTR 11 ATIME|MTIME|CTIME -> size=5100",
		"FSYNC 11")
	if got := len(s.stored("f", dev)); got != 5100 {
		t.Errorf("%d bytes are recorded", got)
	}
	s.end = nil
	fs.ResetTrace()
	mustWrite(t, f, pattern(3, 10), 5100)
	mustWrite(t, f, pattern(3, 10), 5110)
	if n := fs.Count(fuse.OpIomapEnd); n != 1 {
		t.Errorf("%d END, the first of which is answered with ENOSYS", n)
	}
	must(t, f.Close())
}

// TestSequenceTruncate: to shorter, to longer.
func TestSequenceTruncate(t *testing.T) {
	s := newServer()
	fs, dev := mountWith(t, s, Config{}, pattern(1, 10000))
	f := mustOpen(t, fs, "f", syscall.O_RDWR)
	fs.ResetTrace()
	must(t, f.Truncate(5000))
	wantTrace(t, fs,
		"GETXATTR 11 \"security.capability\" -> ENODATA",
		"IOMAP_BEGIN 11 op=ZERO pos=5000 count=3192 -> read=4096+8192:RETRY_CACHE write=4096+8192:PURE_OVERWRITE",
		"notify UPSERT_MAPPINGS 11 read=4096+8192:MAPPED@1:1052672 write=4096+8192:NOCACHE",
		"SETATTR 11 SIZE=5000|MTIME|CTIME -> size=5000")
	fs.ResetTrace()
	must(t, f.Truncate(20000))
	wantTrace(t, fs,
		"GETXATTR 11 \"security.capability\" -> ENODATA",
		"IOMAP_BEGIN 11 op=ZERO pos=5000 count=15000 -> read=4096+4096:RETRY_CACHE write=4096+4096:PURE_OVERWRITE",
		"notify UPSERT_MAPPINGS 11 read=4096+4096:MAPPED@1:1052672 write=4096+4096:NOCACHE",
		"IOMAP_BEGIN 11 op=ZERO pos=8192 count=11808 -> read=8192+12288:RETRY_CACHE write=8192+12288:PURE_OVERWRITE",
		"notify UPSERT_MAPPINGS 11 read=8192+12288:HOLE write=8192+12288:NOCACHE",
		"IOMAP_IOEND 11 flags=APPEND|WRITEBACK pos=4096 written=4096 dev=1 -> newsize=8192",
		"SETATTR 11 SIZE=20000|MTIME|CTIME -> size=20000")
	must(t, f.Close())
	want := append(pattern(1, 10000)[:5000:5000], make([]byte, 15000)...)
	if got := s.stored("f", dev); difference(got, want) != 20000 {
		t.Errorf("first difference at %d", difference(got, want))
	}
}

// TestSequenceReread: a mapping in the cache answers everything until it is dropped.
func TestSequenceReread(t *testing.T) {
	s := newServer()
	fs, _ := mountWith(t, s, Config{}, pattern(1, 65536))
	f := mustOpen(t, fs, "f", syscall.O_RDWR)
	fs.ResetTrace()
	wantRead(t, f, 0, pattern(1, 65536)[:8192])
	wantTrace(t, fs,
		"IOMAP_BEGIN 11 op=READ pos=0 count=8192 -> read=0+65536:RETRY_CACHE write=0+65536:PURE_OVERWRITE",
		"notify UPSERT_MAPPINGS 11 read=0+65536:MAPPED@1:1048576 write=0+65536:NOCACHE")
	fs.ResetTrace()
	d := mustOpen(t, fs, "f", syscall.O_RDWR|syscall.O_DIRECT)
	wantRead(t, f, 20000, pattern(1, 65536)[20000:30000])
	wantRead(t, d, 32768, pattern(1, 65536)[32768:40960])
	if n := fs.Count(fuse.OpIomapBegin); n != 0 {
		t.Errorf("%d BEGIN with the mapping in the cache", n)
	}
	mustWrite(t, d, pattern(2, 4096), 32768)
	wantRead(t, d, 32768, pattern(2, 4096))
	if n := fs.Count(fuse.OpIomapBegin); n != 1 {
		t.Errorf("%d BEGIN after a write of the range was over, want 1", n)
	}
	must(t, d.Close())
	must(t, f.Close())
}

// TestSequenceUnmount: data, times, SYNCFS, FORGET, DESTROY.
func TestSequenceUnmount(t *testing.T) {
	s := newServer()
	s.opens = true
	fs, dev := mountOn(t, s, Config{})
	f := mustCreate(t, fs, "f")
	must(t, f.Close())
	f = mustOpen(t, fs, "f", syscall.O_RDWR)
	m, err := f.Mmap()
	must(t, err)
	mustWrite(t, f, make([]byte, 4096), 0)
	must(t, f.Close())
	must(t, m.Store([]byte{5}, 0))
	m.Unmap()
	fs.ResetTrace()
	must(t, fs.Unmount())
	wantTrace(t, fs,
		"SETATTR 11 ATIME|MTIME|CTIME -> size=4096",
		"SYNCFS root",
		"FORGET 11 n=1",
		"DESTROY")
	if got := s.stored("f", dev); got[0] != 5 {
		t.Error("what was stored to memory is not on the device")
	}
	if s.forgets[11] != 1 {
		t.Errorf("forgotten: %v", s.forgets)
	}
}

// TestSequenceClose: what close(2) of a new file costs.
func TestSequenceClose(t *testing.T) {
	s := newServer()
	fs, _ := mountOn(t, s, Config{})
	_, err := fs.Open("none", syscall.O_RDONLY, 0)
	wantErrno(t, "open of nothing", err, syscall.ENOENT)
	fs.ResetTrace()
	f := mustCreate(t, fs, "f")
	mustWrite(t, f, pattern(1, 1000), 0)
	must(t, f.Close())
	wantTrace(t, fs,
		"LOOKUP root \"f\" -> ENOENT",
		"CREATE root \"f\" mode=100644 -> 11",
		"GETXATTR 11 \"security.capability\" -> ENODATA",
		"IOMAP_BEGIN 11 op=WRITE pos=0 count=1000 -> read=0+4096:RETRY_CACHE write=0+4096:PURE_OVERWRITE",
		"notify UPSERT_MAPPINGS 11 read=0+4096:UNWRITTEN|DIRTY@1:1048576 write=0+4096:NOCACHE",
		"IOMAP_END 11 op=WRITE pos=0 count=1000 written=1000 map=0+4096:UNWRITTEN|DIRTY|SIZE_CHANGED@1:1048576 -> ENOSYS",
		"IOMAP_IOEND 11 flags=UNWRITTEN|APPEND|WRITEBACK pos=0 written=1000 dev=1 -> newsize=1000",
		"SETATTR 11 ATIME|MTIME|CTIME -> size=1000",
		"FLUSH 11 -> ENOSYS",
		"RELEASE 11")
	fs.ResetTrace()
	f = mustOpen(t, fs, "f", syscall.O_RDONLY)
	wantRead(t, f, 0, pattern(1, 1000))
	must(t, f.Close())
	wantTrace(t, fs,
		"GETATTR root -> size=0",
		"OPEN 11 O_RDONLY -> ENOSYS",
		"SETATTR 11 ATIME|MTIME|CTIME -> size=1000")
	fs.ResetTrace()
	f = mustOpen(t, fs, "f", syscall.O_RDONLY)
	must(t, f.Close())
	wantTrace(t, fs)
}

// TestMountSequence is what happens at a mount.
func TestMountSequence(t *testing.T) {
	fs, _ := mountOn(t, newServer(), Config{})
	wantTrace(t, fs,
		"IOMAP_CONFIG",
		"ioctl BACKING_OPEN fd=7 type=1 -> 1",
		"ioctl SET_BLOCKSIZE dev=1 size=4096")
}
