package server_test

import (
	"bytes"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"ext4box/blockdev"
	"ext4box/blockdev/blocktest"
	"ext4box/ext4"
	"ext4box/fuse"
	"ext4box/fuse/fusetest/vfs"
	"ext4box/internal/e2test"
	"ext4box/server"
)

// mounted is a filesystem that a modelled kernel has mounted, with its data on the device that the engine
// has its metadata on.
type mounted struct {
	*vfs.FS
	fs       *ext4.FS
	dev      blockdev.Device
	path     string
	contents []func() // to be looked at when it is unmounted
}

// modelConfig says what is mounted, and how.
type modelConfig struct {
	vfs.Config
	size    int64 // of the image; 0: 64 MiB
	mke2fs  []string
	prepare func(*ext4.FS) // makes files
	open    ext4.Options   // for mounting it
	options func(*server.Options)
	device  func(*blocktest.Mem) blockdev.Device            // what it is on, instead
	data    func(blockdev.Device) blockdev.Device           // what the kernel sees of that
	engine  func(blockdev.Device) blockdev.Device           // what the engine does
	wrap    func(*mounted, fuse.Operations) fuse.Operations // what the kernel sees of the server
	tb      testing.TB                                      // who is told of what the server does wrong, instead of the test
	lenient bool                                            // the check of the image is left to the test
}

func mountModel(t *testing.T, g vfs.Generation, prepare func(*ext4.FS)) *mounted {
	t.Helper()
	return mountModelWith(t, modelConfig{Config: vfs.Config{Generation: g}, prepare: prepare})
}

func mountModelWith(t *testing.T, c modelConfig) *mounted {
	t.Helper()
	if c.mke2fs == nil {
		c.mke2fs = images["extents"]
	}
	if c.size == 0 {
		c.size = 64 << 20
	}
	m := &mounted{path: e2test.Image(t, c.size, c.mke2fs...)}
	mem, err := blocktest.LoadMem(m.path)
	if err != nil {
		t.Fatal(err)
	}
	if c.prepare != nil {
		fs, err := ext4.Open(mem, ext4.Options{})
		if err != nil {
			t.Fatal(err)
		}
		c.prepare(fs)
		if err := fs.Close(); err != nil {
			t.Fatal(err)
		}
	}
	m.dev = mem
	if c.device != nil {
		m.dev = c.device(mem)
	}
	meta := m.dev
	if c.engine != nil {
		meta = c.engine(m.dev)
	}
	if m.fs, err = ext4.Open(meta, c.open); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if c.lenient {
			return
		}
		if err := blocktest.Dump(m.dev, m.dev.Size(), m.path); err != nil {
			t.Fatal(err)
		}
		e2test.Output(t, "e2fsck", "-fn", m.path)
		for _, check := range m.contents {
			check()
		}
	})
	o := server.Options{
		Iomap:    server.Iomap{Mode: server.IomapOn, Device: backingFD, Name: "loop7", SectorSize: 512, AtomicMin: 512, AtomicMax: 65536},
		RootNode: c.RootNodeID,
		Destroy:  func() { m.fs.Close() },
	}
	if c.options != nil {
		c.options(&o)
	}
	s := server.New(m.fs, o)
	c.Devices, c.Options = map[int]blockdev.Device{backingFD: m.dev}, fuse.Options{Params: s.Params()}
	if c.data != nil {
		c.Devices[backingFD] = c.data(m.dev)
	}
	var ops fuse.Operations = s
	if c.wrap != nil {
		ops = c.wrap(m, s)
	}
	if c.tb == nil {
		c.tb = t
	}
	m.FS = vfs.Mount(c.tb, ops, c.Config)
	return m
}

// place is an address on the device, which is the allocator's business.
var place = regexp.MustCompile(`@1:\d+`)

// did compares the messages since the last call with those of the sequence. "D" stands for any address.
func (m *mounted) did(t *testing.T, step string, want ...string) {
	t.Helper()
	got := m.Trace()
	m.ResetTrace()
	for i := range got {
		got[i] = place.ReplaceAllString(got[i], "@1:D")
	}
	if !slices.Equal(got, want) {
		t.Errorf("%s:\n\t%s\nwant:\n\t%s", step, strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
}

// open opens a file in the root directory, with what comes only at first left behind.
func (m *mounted) open(t *testing.T, name string, flags int) *vfs.File {
	t.Helper()
	f, err := m.Open(name, flags, 0)
	if err != nil {
		t.Fatal(err)
	}
	m.ResetTrace()
	return f
}

// content reads what the image has of a file, as e2fsprogs see it.
func (m *mounted) content(t *testing.T, name string, want []byte) {
	t.Helper()
	m.contents = append(m.contents, func() {
		if got := e2test.Debugfs(t, m.path, "cat "+name); got != string(want) {
			t.Errorf("%s: the image has %d bytes, not the %d that were written", name, len(got), len(want))
		}
	})
}

func generations(t *testing.T, test func(t *testing.T, g vfs.Generation)) {
	for _, g := range []vfs.Generation{vfs.V7, vfs.Later} {
		t.Run(g.String(), func(t *testing.T) { test(t, g) })
	}
}

// file makes a file with content, and a size that may be larger.
func file(t *testing.T, fs *ext4.FS, name string, content []byte, size uint64) {
	t.Helper()
	ino, err := fs.Create(ext4.RootIno, name, ext4.NewNode{Mode: syscall.S_IFREG | 0o644})
	if err == nil {
		_, err = fs.WriteAt(ino, content, 0)
	}
	if err == nil {
		err = fs.Truncate(ino, size)
	}
	if err == nil {
		err = fs.Sync()
	}
	if err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, f *vfs.File, p []byte, off int64) {
	t.Helper()
	if n, err := f.WriteAt(p, off); n != len(p) || err != nil {
		t.Fatalf("write of %d bytes at %d: %d, %v", len(p), off, n, err)
	}
}

func xs(n int) []byte { return bytes.Repeat([]byte{'x'}, n) }

// The sequences are those by which the protocol is explained, in its order. Where mappings are longer than
// what was asked for, and more of them are handed out, there are fewer questions.

func TestSequenceBufferedWriteIntoHole(t *testing.T) {
	generations(t, func(t *testing.T, g vfs.Generation) {
		m := mountModel(t, g, func(fs *ext4.FS) { file(t, fs, "f", nil, 1<<20) })
		f := m.open(t, "f", syscall.O_RDWR)
		write(t, f, xs(8192), 65536)
		m.did(t, "write",
			`GETXATTR 12 "security.capability" -> ENODATA`,
			"IOMAP_BEGIN 12 op=WRITE pos=65536 count=8192 -> read=65536+8192:RETRY_CACHE write=65536+8192:PURE_OVERWRITE",
			"notify UPSERT_MAPPINGS 12 read=65536+8192:UNWRITTEN|DIRTY@1:D write=65536+8192:NOCACHE")
		if err := f.Fsync(); err != nil {
			t.Fatal(err)
		}
		m.did(t, "fsync",
			"IOMAP_IOEND 12 flags=UNWRITTEN|WRITEBACK pos=65536 written=8192 dev=1 -> newsize=1048576",
			"SETATTR 12 ATIME|MTIME|CTIME -> size=1048576",
			"FSYNC 12")
		f.Close()
		m.content(t, "f", slices.Concat(make([]byte, 65536), xs(8192), make([]byte, 1<<20-65536-8192)))
	})
}

func TestSequenceDirectOverwrite(t *testing.T) {
	generations(t, func(t *testing.T, g vfs.Generation) {
		m := mountModel(t, g, func(fs *ext4.FS) { file(t, fs, "f", make([]byte, 65536), 65536) })
		f := m.open(t, "f", syscall.O_RDWR|syscall.O_DIRECT)
		write(t, f, xs(4096), 0)
		m.did(t, "overwrite",
			`GETXATTR 12 "security.capability" -> ENODATA`,
			"IOMAP_BEGIN 12 op=WRITE|DIRECT pos=0 count=4096 -> read=0+65536:RETRY_CACHE write=0+65536:PURE_OVERWRITE",
			"notify UPSERT_MAPPINGS 12 read=0+65536:MAPPED@1:D write=0+65536:NOCACHE")
		write(t, f, xs(4096), 8192)
		m.did(t, "overwrite with a warm cache")
		f.Close()
		m.content(t, "f", slices.Concat(xs(4096), make([]byte, 4096), xs(4096), make([]byte, 65536-12288)))
	})
}

func TestSequenceDirectWriteIntoUnwritten(t *testing.T) {
	generations(t, func(t *testing.T, g vfs.Generation) {
		m := mountModel(t, g, func(fs *ext4.FS) {
			file(t, fs, "f", nil, 4096)
			ino, err := fs.Lookup(ext4.RootIno, "f")
			if err == nil {
				err = fs.Fallocate(ino, ext4.FallocKeepSize, 0, 65536)
			}
			if err != nil {
				t.Fatal(err)
			}
			file(t, fs, "hole", nil, 8192)
		})
		f := m.open(t, "f", syscall.O_RDWR|syscall.O_DIRECT)
		write(t, f, xs(4096), 0)
		m.did(t, "write",
			`GETXATTR 12 "security.capability" -> ENODATA`,
			"IOMAP_BEGIN 12 op=WRITE|DIRECT pos=0 count=4096 -> read=0+65536:RETRY_CACHE write=0+65536:PURE_OVERWRITE",
			"notify UPSERT_MAPPINGS 12 read=0+65536:UNWRITTEN|DIRTY@1:D write=0+65536:NOCACHE",
			"IOMAP_IOEND 12 flags=UNWRITTEN|DIRECT pos=0 written=4096 dev=0 -> newsize=4096")
		write(t, f, xs(4096), 4096)
		m.did(t, "write that extends the file",
			"IOMAP_IOEND 12 flags=UNWRITTEN|DIRECT|APPEND pos=4096 written=4096 dev=0 -> newsize=8192")
		f.Close()
		m.content(t, "f", xs(8192))
		h := m.open(t, "hole", syscall.O_RDWR|syscall.O_DIRECT)
		write(t, h, xs(4096), 4096)
		m.did(t, "write into a hole",
			`GETXATTR 13 "security.capability" -> ENODATA`,
			"IOMAP_BEGIN 13 op=WRITE|DIRECT pos=4096 count=4096 -> read=4096+4096:RETRY_CACHE write=4096+4096:PURE_OVERWRITE",
			"notify UPSERT_MAPPINGS 13 read=4096+4096:UNWRITTEN|DIRTY@1:D write=4096+4096:NOCACHE",
			"IOMAP_IOEND 13 flags=UNWRITTEN|DIRECT pos=4096 written=4096 dev=0 -> newsize=8192")
		h.Close()
		m.content(t, "hole", append(make([]byte, 4096), xs(4096)...))
	})
}

func TestSequenceAppend(t *testing.T) {
	generations(t, func(t *testing.T, g vfs.Generation) {
		m := mountModel(t, g, func(fs *ext4.FS) { file(t, fs, "f", xs(100), 100) })
		f := m.open(t, "f", syscall.O_RDWR)
		write(t, f, xs(5000), 100)
		m.did(t, "append",
			`GETXATTR 12 "security.capability" -> ENODATA`,
			"IOMAP_BEGIN 12 op=WRITE pos=100 count=5000 -> read=0+4096:RETRY_CACHE write=0+4096:PURE_OVERWRITE",
			"notify UPSERT_MAPPINGS 12 read=0+4096:MAPPED@1:D write=0+4096:NOCACHE",
			"IOMAP_END 12 op=WRITE pos=100 count=3996 written=3996 map=0+4096:MAPPED|SIZE_CHANGED@1:D -> ENOSYS",
			"IOMAP_BEGIN 12 op=WRITE pos=4096 count=1004 -> read=4096+4096:RETRY_CACHE write=4096+4096:PURE_OVERWRITE",
			"notify UPSERT_MAPPINGS 12 read=4096+4096:UNWRITTEN|DIRTY@1:D write=4096+4096:NOCACHE")
		if st, err := m.fs.Stat(ext4.Ino(f.NodeID())); err != nil || st.Size != 100 {
			t.Errorf("before writeback the size on disk is %d, %v", st.Size, err)
		}
		if err := f.Fsync(); err != nil {
			t.Fatal(err)
		}
		m.did(t, "fsync",
			"IOMAP_IOEND 12 flags=APPEND|WRITEBACK pos=0 written=4096 dev=1 -> newsize=4096",
			"IOMAP_IOEND 12 flags=UNWRITTEN|APPEND|WRITEBACK pos=4096 written=1004 dev=1 -> newsize=5100",
			"SETATTR 12 ATIME|MTIME|CTIME -> size=5100",
			"FSYNC 12")
		f.Close()
		m.content(t, "f", xs(5100))
	})
}

func TestSequenceTruncate(t *testing.T) {
	generations(t, func(t *testing.T, g vfs.Generation) {
		m := mountModel(t, g, func(fs *ext4.FS) { file(t, fs, "f", xs(10000), 10000) })
		f := m.open(t, "f", syscall.O_RDWR)
		if err := f.Truncate(5000); err != nil {
			t.Fatal(err)
		}
		m.did(t, "truncate to 5000",
			`GETXATTR 12 "security.capability" -> ENODATA`,
			"IOMAP_BEGIN 12 op=ZERO pos=5000 count=3192 -> read=0+12288:RETRY_CACHE write=0+12288:PURE_OVERWRITE",
			"notify UPSERT_MAPPINGS 12 read=0+12288:MAPPED@1:D write=0+12288:NOCACHE",
			"SETATTR 12 SIZE=5000|MTIME|CTIME -> size=5000")
		if err := f.Truncate(20000); err != nil {
			t.Fatal(err)
		}
		m.did(t, "truncate to 20000",
			`GETXATTR 12 "security.capability" -> ENODATA`,
			"IOMAP_BEGIN 12 op=ZERO pos=5000 count=15000 -> read=0+8192:RETRY_CACHE write=0+8192:PURE_OVERWRITE",
			"notify UPSERT_MAPPINGS 12 read=0+8192:MAPPED|DIRTY@1:D write=0+8192:NOCACHE",
			"notify UPSERT_MAPPINGS 12 read=8192+12288:HOLE write=8192+12288:NOCACHE",
			"IOMAP_IOEND 12 flags=APPEND|WRITEBACK pos=4096 written=4096 dev=1 -> newsize=8192",
			"SETATTR 12 SIZE=20000|MTIME|CTIME -> size=20000")
		f.Close()
		m.content(t, "f", append(xs(5000), make([]byte, 15000)...))
	})
}

func TestSequenceReadAgain(t *testing.T) {
	generations(t, func(t *testing.T, g vfs.Generation) {
		const size = 16 << 20
		m := mountModel(t, g, func(fs *ext4.FS) { file(t, fs, "f", xs(size), size) })
		f := m.open(t, "f", syscall.O_RDWR)
		p := make([]byte, 65536)
		if _, err := f.ReadAt(p, 0); err != nil || !bytes.Equal(p, xs(65536)) {
			t.Fatal(err)
		}
		m.did(t, "the first read",
			"IOMAP_BEGIN 12 op=READ pos=0 count=65536 -> read=0+16777216:RETRY_CACHE write=0+16777216:PURE_OVERWRITE",
			"notify UPSERT_MAPPINGS 12 read=0+16777216:MAPPED@1:D write=0+16777216:NOCACHE")
		m.DropCaches()
		m.ResetTrace()
		for off := int64(0); off < size; off += 65536 {
			if _, err := f.ReadAt(p, off); err != nil || !bytes.Equal(p, xs(65536)) {
				t.Fatal(err)
			}
		}
		m.did(t, "reading it all")
		write(t, f, bytes.Repeat([]byte{'y'}, 65536), 0)
		m.did(t, "overwriting", `GETXATTR 12 "security.capability" -> ENODATA`)
		f.Close()
		m.content(t, "f", append(bytes.Repeat([]byte{'y'}, 65536), xs(size-65536)...))
	})
}

func TestSequenceUnmount(t *testing.T) {
	generations(t, func(t *testing.T, g vfs.Generation) {
		m := mountModel(t, g, func(fs *ext4.FS) { file(t, fs, "f", nil, 4096) })
		f := m.open(t, "f", syscall.O_RDWR)
		write(t, f, xs(4096), 0)
		m.ResetTrace()
		f.Close()
		if err := m.Unmount(); err != nil {
			t.Fatal(err)
		}
		m.did(t, "close and unmount",
			"IOMAP_IOEND 12 flags=UNWRITTEN|WRITEBACK pos=0 written=4096 dev=1 -> newsize=4096",
			"SETATTR 12 ATIME|MTIME|CTIME -> size=4096",
			"FLUSH 12 -> ENOSYS",
			"SYNCFS root",
			"FORGET 12 n=1",
			"DESTROY")
		m.content(t, "f", xs(4096))
	})
}

// TestSmallFile: what a new file costs, once the kernel knows that nobody wants to hear of opening and closing.
func TestSmallFile(t *testing.T) {
	generations(t, func(t *testing.T, g vfs.Generation) {
		m := mountModel(t, g, func(fs *ext4.FS) { file(t, fs, "f", nil, 0) })
		m.open(t, "f", syscall.O_RDWR).Close()
		if err := m.Mkdir("d", 0o755); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"d/first", "d/second"} {
			m.ResetTrace()
			f, err := m.Open(name, syscall.O_RDWR|syscall.O_CREAT, 0o644)
			if err != nil {
				t.Fatal(err)
			}
			write(t, f, xs(1000), 0)
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
			m.content(t, name, xs(1000))
		}
		m.did(t, "create, write and close",
			`LOOKUP 13 "second" -> 0`,
			`CREATE 13 "second" mode=100644 -> 15`,
			`GETXATTR 15 "security.capability" -> ENODATA`,
			"IOMAP_BEGIN 15 op=WRITE pos=0 count=1000 -> read=0+4096:RETRY_CACHE write=0+4096:PURE_OVERWRITE",
			"notify UPSERT_MAPPINGS 15 read=0+4096:UNWRITTEN|DIRTY@1:D write=0+4096:NOCACHE",
			"IOMAP_IOEND 15 flags=UNWRITTEN|APPEND|WRITEBACK pos=0 written=1000 dev=1 -> newsize=1000",
			"SETATTR 15 ATIME|MTIME|CTIME -> size=1000")
	})
}
