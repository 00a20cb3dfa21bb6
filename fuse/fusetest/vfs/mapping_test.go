package vfs

import (
	"fmt"
	"strings"
	"syscall"
	"testing"

	"ext4box/fuse"
	"ext4box/iomap"
)

// String is for tests of the cache.
func (f *fork) String() string {
	var s []string
	for _, m := range f.list {
		s = append(s, ioString(m.wire()))
	}
	return strings.Join(s, " ")
}

func at(off, n, addr uint64, typ iomap.Type) fuse.IomapIO {
	m := fuse.IomapIO{Offset: off, Length: n, Addr: addr, Type: typ, Dev: 1}
	if typ == iomap.Hole || typ == iomap.Delalloc || typ > iomap.Inline {
		m.Addr, m.Dev = null, 0
	}
	return m
}

const none = fuse.IomapNoCache

// TestFork: inserting splits and merges, and forgets everything when it gets too much.
func TestFork(t *testing.T) {
	for _, c := range []struct {
		name  string
		limit uint32
		list  []fuse.IomapIO
		want  string
	}{
		{"merge", 320, []fuse.IomapIO{at(0, 10, 100, 2), at(20, 10, 120, 2), at(10, 10, 110, 2)}, "0+30:MAPPED@1:100"},
		{"other address", 320, []fuse.IomapIO{at(0, 10, 100, 2), at(10, 10, 111, 2)}, "0+10:MAPPED@1:100 10+10:MAPPED@1:111"},
		{"other type", 320, []fuse.IomapIO{at(0, 10, 100, 2), at(10, 10, 110, 3)}, "0+10:MAPPED@1:100 10+10:UNWRITTEN@1:110"},
		{"holes", 320, []fuse.IomapIO{at(0, 10, 0, 0), at(10, 10, 0, 0)}, "0+20:HOLE"},
		{"split", 320, []fuse.IomapIO{at(0, 30, 100, 3), at(10, 10, 110, 2)}, "0+10:UNWRITTEN@1:100 10+10:MAPPED@1:110 20+10:UNWRITTEN@1:120"},
		{"heal", 320, []fuse.IomapIO{at(0, 30, 100, 3), at(10, 10, 110, 2), at(10, 10, 110, 3)}, "0+30:UNWRITTEN@1:100"},
		{"cover", 320, []fuse.IomapIO{at(0, 10, 100, 2), at(20, 10, 500, 2), at(0, 40, 0, 0)}, "0+40:HOLE"},
		{"too many", 64, []fuse.IomapIO{at(0, 10, 100, 2), at(20, 10, 300, 2), at(40, 10, 500, 2)}, "40+10:MAPPED@1:500"},
	} {
		var mc mappingCache
		mc.init()
		for _, m := range c.list {
			seq := mc.seq
			mc.upsert(m, at(0, 0, 0, none), c.limit)
			if mc.seq == seq {
				t.Errorf("%s: the sequence number did not change", c.name)
			}
		}
		if got := mc.read.String(); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

// TestLookup: what the cache answers, by operation.
func TestLookup(t *testing.T) {
	cow := at(0, 4096, 1<<20, 2)
	for _, c := range []struct {
		name      string
		read      fuse.IomapIO
		write     fuse.IomapIO
		op        iomap.Op
		pos       uint64
		v7, later bool
	}{
		{"read", at(0, 4096, 0, 2), at(0, 0, 0, none), 0, 0, true, true},
		{"gap", at(0, 4096, 0, 2), at(0, 0, 0, none), 0, 4096, false, false},
		{"untorn", at(0, 4096, 0, 2), at(0, 0, 0, none), iomap.Write | iomap.Direct | iomap.Atomic, 0, false, false},
		{"swap", at(0, 4096, 0, 2), at(0, 0, 0, none), iomap.Report | iomap.SwapFile, 0, false, false},
		{"hole read", at(0, 4096, 0, 0), at(0, 0, 0, none), 0, 0, true, true},
		{"hole reported", at(0, 4096, 0, 0), at(0, 0, 0, none), iomap.Report, 0, true, true},
		{"hole written", at(0, 4096, 0, 0), at(0, 0, 0, none), iomap.Write, 0, false, false},
		{"hole at writeback", at(0, 4096, 0, 0), at(0, 0, 0, none), iomap.Writeback, 0, false, false},
		{"hole zeroed", at(0, 4096, 0, 0), at(0, 0, 0, none), iomap.Zero, 0, true, true},
		{"hole unshared", at(0, 4096, 0, 0), at(0, 0, 0, none), iomap.Write | iomap.Unshare, 0, true, true},
		{"delalloc", at(0, 4096, 0, 1), at(0, 0, 0, none), iomap.Write, 0, true, true},
		{"delalloc direct", at(0, 4096, 0, 1), at(0, 0, 0, none), iomap.Direct, 0, false, false},
		{"delalloc at writeback", at(0, 4096, 0, 1), at(0, 0, 0, none), iomap.Writeback, 0, true, false},
		{"write fork", at(0, 4096, 0, 2), cow, iomap.Write, 0, true, true},
		{"gap in the write fork", at(0, 8192, 0, 2), cow, iomap.Write, 4096, false, false},
		{"gap in the write fork, read", at(0, 8192, 0, 2), cow, 0, 4096, true, true},
		{"pure overwrite without a write fork", at(0, 8192, 0, 2), at(0, 4096, 0, fuse.IomapPureOverwrite), iomap.Write, 4096, true, true},
	} {
		for _, gen := range []Generation{V7, Later} {
			var mc mappingCache
			mc.init()
			mc.upsert(c.read, c.write, 1<<20)
			f, ok := mc.lookup(gen, c.pos, c.op)
			want := c.v7
			if gen == Later {
				want = c.later
			}
			if ok != want {
				t.Errorf("%s, %v: %v, want %v", c.name, gen, ok, want)
			}
			if ok && (!f.target.contains(c.pos) || f.target.cookie != mc.seq) {
				t.Errorf("%s, %v: %+v", c.name, gen, f.target)
			}
			if ok && c.write == cow && isFileWrite(c.op) && (f.target.addr != 1<<20 || f.source.addr != 0) {
				t.Errorf("%s, %v: target %+v source %+v", c.name, gen, f.target, f.source)
			}
		}
	}
	// PURE_OVERWRITE in a write fork that exists: as the read fork says, but only for its range.
	var mc mappingCache
	mc.init()
	mc.upsert(at(0, 16384, 0, 2), at(0, 4096, 1<<20, 2), 1<<20)
	mc.upsert(at(0, 0, 0, none), at(8192, 4096, 0, fuse.IomapPureOverwrite), 1<<20)
	f, ok := mc.lookup(V7, 8192, iomap.Write)
	if !ok || ioString(f.target.wire()) != "8192+4096:MAPPED@1:8192" {
		t.Errorf("%v %s", ok, ioString(f.target.wire()))
	}
}

// TestCookieRace: between the mapping that a buffered write has got, unwritten, and its use, the range is
// written back and converted. Of a mapping from the cache the kernel notices; of one that came with the
// reply it does not, and zeroes what was written around the new data.
func TestCookieRace(t *testing.T) {
	for _, direct := range []bool{false, true} {
		t.Run(fmt.Sprint("direct reply ", direct), func(t *testing.T) {
			s := newServer()
			s.direct = direct
			fs, dev := mountOn(t, s, Config{})
			f := mustCreate(t, fs, "f")
			must(t, f.Fallocate(0, 0, 4096))
			mem, err := f.Mmap()
			must(t, err)
			must(t, mem.Store([]byte("old"), 0))

			held := fs.Hold(func(e *Event) bool { return e.Stage == MappingFound && e.Iomap == iomap.Write })
			done := make(chan error)
			go func() {
				_, err := f.WriteAt([]byte("new"), 100)
				done <- err
			}()
			held.Wait()
			fs.WriteBack()
			f.in.dropPages(0, toEOF) // reclaim, which takes no lock of the file
			held.Release()
			must(t, <-done)
			got := make([]byte, 3)
			if _, err := f.ReadAt(got, 0); err != nil {
				t.Fatal(err)
			}
			if lost := string(got) != "old"; lost != direct {
				t.Errorf("%q is what was written before", got)
			}
			mem.Unmap()
			must(t, f.Close())
			_ = dev
		})
	}
}

// TestCacheLimit: IOMAP_CONFIG bounds the cache.
func TestCacheLimit(t *testing.T) {
	for limit, want := range map[uint32]uint32{1: 256, 4096: 4096, 1 << 30: 2 << 20, 0: 256 << 10} {
		s := newServer()
		s.config = func(out *fuse.IomapConfigOut) {
			out.Flags |= fuse.IomapConfigCacheMaxbytes
			out.CacheMaxbytes = limit
		}
		fs, _ := mountOn(t, s, Config{})
		if got := fs.cacheLimit.Load(); got != want {
			t.Errorf("%d bytes: %d, want %d", limit, got, want)
		}
	}
}

// TestIdentity: nodeids, inode numbers, generations.
func TestIdentity(t *testing.T) {
	s := newServer()
	fs, dev := mountWith(t, s, Config{}, nil)
	s.put("g", dev, nil)
	s.files[12].attr.Ino = 11
	f := mustOpen(t, fs, "f", syscall.O_RDWR)
	fs.Expect("nodes 11 and 12 are the same inode 11")
	g := mustOpen(t, fs, "g", syscall.O_RDWR)
	must(t, g.Close())

	fs.Expect("inode number of node 11 has changed from 11 to 5")
	s.attr = func(a *fuse.Attr) { a.Ino = 5 }
	must(t, f.Truncate(100))
	s.attr = nil
	must(t, f.Close())
}

// TestFlagsAtInstantiation: the flags of attributes count when the inode becomes known, and not for
// what is exclusive only in part.
func TestFlagsAtInstantiation(t *testing.T) {
	for flags, want := range map[fuse.AttrFlags]inodeFlags{
		0:                                        {},
		fuse.AttrIomap:                           {},
		fuse.AttrExclusive:                       {exclusive: true},
		fuse.AttrExclusive | fuse.AttrAtomic:     {exclusive: true},
		fuse.AttrExclusive | fuse.AttrIomap:      {exclusive: true, iomap: true},
		fuse.AttrExclusive | fuse.AttrIomap | 16: {exclusive: true, iomap: true, atomic: true},
	} {
		s := newServer()
		s.flags = flags
		fs, _ := mountWith(t, s, Config{}, nil)
		f := mustOpen(t, fs, "f", syscall.O_RDWR)
		if f.in.flags != want {
			t.Errorf("%#x: %+v, want %+v", uint32(flags), f.in.flags, want)
		}
		s.files[11].attr.Flags = fuse.AttrExclusive | fuse.AttrIomap
		must(t, f.Truncate(10))
		if f.in.flags != want {
			t.Errorf("%#x: the flags have changed to %+v", uint32(flags), f.in.flags)
		}
		must(t, f.Close())
	}
}
