package vfs

import (
	"syscall"
	"testing"

	"ext4box/blockdev"
	"ext4box/blockdev/blocktest"
	"ext4box/fuse"
	"ext4box/iomap"
)

const null = fuse.IomapNullAddr

// TestBeginReplies: each rule for replies to IOMAP_BEGIN, with the errno that the operation gets. 0 is a
// reply that is taken.
func TestBeginReplies(t *testing.T) {
	const badType, badPos = "unknown type", "does not contain"
	ok := fuse.IomapIO{Length: 16384, Addr: 1 << 20, Type: iomap.Mapped, Dev: 1}
	with := func(change func(*fuse.IomapIO)) fuse.IomapIO {
		m := ok
		change(&m)
		return m
	}
	overwrite := filler(ok, fuse.IomapPureOverwrite)
	for _, c := range []struct {
		name        string
		read, write fuse.IomapIO
		v7, later   syscall.Errno
		why         string
	}{
		{"good", ok, overwrite, 0, 0, ""},
		{"type unknown", with(func(m *fuse.IomapIO) { m.Type = 5 }), overwrite, efscorrupted, efscorrupted, badType},
		{"type unknown in the write slot", ok, fuse.IomapIO{Length: 16384, Addr: null, Type: 77}, efscorrupted, efscorrupted, badType},
		{"NOCACHE", filler(ok, fuse.IomapNoCache), overwrite, efscorrupted, efscorrupted, "NOCACHE"},
		{"NOCACHE in the write slot", ok, filler(ok, fuse.IomapNoCache), efscorrupted, efscorrupted, "NOCACHE"},
		{"PURE_OVERWRITE in the read slot", overwrite, overwrite, efscorrupted, efscorrupted, "PURE_OVERWRITE in the read slot"},
		{"flags for END", with(func(m *fuse.IomapIO) { m.Flags = iomap.SizeChanged }), overwrite, efscorrupted, efscorrupted, "flags SIZE_CHANGED"},
		{"flags unknown", with(func(m *fuse.IomapIO) { m.Flags = 1 << 12 }), overwrite, efscorrupted, efscorrupted, "flags BIT_12"},
		{"no length", with(func(m *fuse.IomapIO) { m.Length = 0 }), overwrite, efscorrupted, efscorrupted, "length 0"},
		{"length of a part of a block", with(func(m *fuse.IomapIO) { m.Length = 5000 }), overwrite, efscorrupted, efscorrupted, "aligned"},
		{"offset in a block", with(func(m *fuse.IomapIO) { m.Offset = 512 }), overwrite, efscorrupted, efscorrupted, "aligned"},
		{"too long", with(func(m *fuse.IomapIO) { m.Offset, m.Length = 4096, 1<<64-4096 }), overwrite, efscorrupted, efscorrupted, "slot: 4096+18446744073709547520 overflows"},
		{"behind the largest file", with(func(m *fuse.IomapIO) { m.Offset = 1 << 40 }), overwrite, efscorrupted, efscorrupted, "behind the largest file"},
		{"no device", with(func(m *fuse.IomapIO) { m.Dev = 0 }), overwrite, efscorrupted, efscorrupted, "not registered"},
		{"unknown device", with(func(m *fuse.IomapIO) { m.Dev = 2 }), overwrite, efscorrupted, efscorrupted, "not registered"},
		{"unwritten on an unknown device", with(func(m *fuse.IomapIO) { m.Dev, m.Type = 9, iomap.Unwritten }), overwrite, efscorrupted, efscorrupted, "not registered"},
		{"no address", with(func(m *fuse.IomapIO) { m.Addr = null }), overwrite, efscorrupted, efscorrupted, "no address"},
		{"address overflows", with(func(m *fuse.IomapIO) { m.Addr = null - 4096 }), overwrite, efscorrupted, efscorrupted, "overflows"},
		{"hole with a device", fuse.IomapIO{Length: 16384, Addr: null, Dev: 1}, overwrite, efscorrupted, efscorrupted, "HOLE with"},
		{"hole with an address", fuse.IomapIO{Length: 16384}, overwrite, efscorrupted, efscorrupted, "HOLE with"},
		{"delalloc with a device", fuse.IomapIO{Length: 16384, Addr: null, Dev: 1, Type: iomap.Delalloc}, overwrite, efscorrupted, efscorrupted, "DELALLOC with"},
		{"inline with an address", fuse.IomapIO{Length: 4096, Type: iomap.Inline}, overwrite, efscorrupted, efscorrupted, "INLINE with"},
		{"inline not at the beginning", fuse.IomapIO{Offset: 4096, Length: 4096, Addr: null, Type: iomap.Inline}, overwrite, efscorrupted, efscorrupted, "INLINE at"},
		{"inline of two blocks", fuse.IomapIO{Length: 8192, Addr: null, Type: iomap.Inline}, overwrite, syscall.ENOMEM, syscall.ENOMEM, "INLINE mapping of 8192"},
		{"elsewhere", with(func(m *fuse.IomapIO) { m.Offset = 16384 }), overwrite, efscorrupted, efscorrupted, badPos},
		{"write slot elsewhere", ok, filler(fuse.IomapIO{Offset: 16384, Length: 4096}, fuse.IomapPureOverwrite), efscorrupted, efscorrupted, badPos},
		{"write slot left empty", ok, fuse.IomapIO{}, efscorrupted, efscorrupted, "length 0"},
		{"PURE_OVERWRITE with a device", ok, fuse.IomapIO{Length: 16384, Addr: null, Type: fuse.IomapPureOverwrite, Dev: 1}, 0, efscorrupted, "PURE_OVERWRITE with"},
		{"PURE_OVERWRITE with an address", ok, fuse.IomapIO{Length: 16384, Type: fuse.IomapPureOverwrite}, 0, efscorrupted, "PURE_OVERWRITE with"},
		{"PURE_OVERWRITE with flags", ok, fuse.IomapIO{Length: 16384, Addr: null, Type: fuse.IomapPureOverwrite, Flags: 1}, 0, efscorrupted, "PURE_OVERWRITE with"},
		{"RETRY_CACHE before anything was pushed", filler(ok, fuse.IomapRetryCache), overwrite, efscorrupted, efscorrupted, "nothing was ever pushed"},
		{"behind the end of the device", with(func(m *fuse.IomapIO) { m.Addr = 1 << 40 }), overwrite, syscall.EIO, syscall.EIO, "behind its end"},
	} {
		t.Run(c.name, func(t *testing.T) {
			both(t, func(t *testing.T, gen Generation) {
				s := newServer()
				s.direct = true
				s.config = func(out *fuse.IomapConfigOut) {
					out.Flags |= fuse.IomapConfigMaxbytes
					out.Maxbytes = 1 << 40
				}
				fs, _ := mountWith(t, s, Config{Generation: gen}, pattern(1, 16384))
				f := mustOpen(t, fs, "f", syscall.O_RDWR)
				defer func() { must(t, f.Close()) }()
				want, why := c.v7, c.why
				if gen == Later {
					want = c.later
				}
				if want == 0 {
					why = ""
				} else {
					fs.Expect(why)
				}
				s.begin = func(in *fuse.IomapBeginIn, out *fuse.IomapBeginOut) syscall.Errno {
					out.Read, out.Write = c.read, c.write
					return 0
				}
				_, err := f.ReadAt(make([]byte, 4096), 0)
				wantErrno(t, "read", err, want)
				wantViolation(t, fs, why)
			})
		})
	}
}

// TestRetryReplies: where RETRY_CACHE may stand, and what beside it.
func TestRetryReplies(t *testing.T) {
	retry := fuse.IomapIO{Length: 16384, Addr: null, Type: fuse.IomapRetryCache}
	for _, c := range []struct {
		name        string
		read, write func(m fuse.IomapIO) fuse.IomapIO
		v7, later   syscall.Errno
		why         string
	}{
		{"good", func(fuse.IomapIO) fuse.IomapIO { return retry }, nil, 0, 0, ""},
		{"with flags", func(m fuse.IomapIO) fuse.IomapIO { r := retry; r.Flags = 2; return r }, nil, 0, efscorrupted, "RETRY_CACHE with"},
		{"with a device", func(m fuse.IomapIO) fuse.IomapIO { r := retry; r.Dev = 1; return r }, nil, 0, efscorrupted, "RETRY_CACHE with"},
		{"with an address", func(m fuse.IomapIO) fuse.IomapIO { r := retry; r.Addr = 0; return r }, nil, 0, efscorrupted, "RETRY_CACHE with"},
		{"not aligned", func(m fuse.IomapIO) fuse.IomapIO { r := retry; r.Length = 5; return r }, nil, 0, efscorrupted, "aligned"},
		{"without a range", func(m fuse.IomapIO) fuse.IomapIO { r := retry; r.Length = 0; return r }, nil, efscorrupted, efscorrupted, ""},
		{"elsewhere", func(m fuse.IomapIO) fuse.IomapIO { r := retry; r.Offset = 32768; return r }, nil, efscorrupted, efscorrupted, "does not contain"},
		{"in the write slot", func(m fuse.IomapIO) fuse.IomapIO { return m }, func(m fuse.IomapIO) fuse.IomapIO { return retry }, efscorrupted, 0, "RETRY_CACHE in the write slot"},
	} {
		t.Run(c.name, func(t *testing.T) {
			both(t, func(t *testing.T, gen Generation) {
				s := newServer()
				fs, _ := mountWith(t, s, Config{Generation: gen}, pattern(1, 16384))
				f := mustOpen(t, fs, "f", syscall.O_RDWR)
				defer func() { must(t, f.Close()) }()
				want, why := c.v7, c.why
				if gen == Later {
					want = c.later
				}
				if want != 0 {
					fs.Expect(why)
				}
				s.begin = func(in *fuse.IomapBeginIn, out *fuse.IomapBeginOut) syscall.Errno {
					real := s.mapping(s.files[11], in.Pos, in.Pos+in.Count)
					out.Read = c.read(real)
					if c.write != nil {
						out.Write = c.write(real)
					}
					return 0
				}
				_, err := f.ReadAt(make([]byte, 4096), 0)
				wantErrno(t, "read", err, want)
			})
		})
	}
}

// TestRetryLoop: a server that asks to look again, but has pushed nothing that helps.
func TestRetryLoop(t *testing.T) {
	for _, c := range []struct {
		name   string
		op     func(f *File) error
		pushed fuse.IomapIO
	}{
		{"elsewhere", func(f *File) error { _, err := f.ReadAt(make([]byte, 10), 0); return err },
			fuse.IomapIO{Offset: 8192, Length: 4096, Addr: 1 << 20, Type: iomap.Mapped, Dev: 1}},
		{"hole for a write", func(f *File) error { _, err := f.WriteAt(make([]byte, 10), 0); return err },
			fuse.IomapIO{Length: 4096, Addr: null}},
	} {
		both(t, func(t *testing.T, gen Generation) {
			s := newServer()
			fs, _ := mountWith(t, s, Config{Generation: gen}, pattern(1, 16384))
			f := mustOpen(t, fs, "f", syscall.O_RDWR)
			s.direct = true
			s.begin = func(in *fuse.IomapBeginIn, out *fuse.IomapBeginOut) syscall.Errno {
				up := fuse.IomapUpsertMappings{NodeID: 11, Ino: 11, Read: c.pushed, Write: filler(c.pushed, fuse.IomapNoCache)}
				if err := s.s.UpsertMappings(&up); err != nil {
					t.Error(err)
				}
				out.Read = filler(out.Read, fuse.IomapRetryCache)
				return 0
			}
			fs.Expect("RETRY_CACHE without end")
			wantErrno(t, c.name, c.op(f), syscall.EIO)
			must(t, f.Close())
		})
	}
}

// TestUpserts: each rule for IOMAP_UPSERT_MAPPINGS.
func TestUpserts(t *testing.T) {
	ok := fuse.IomapIO{Length: 16384, Addr: 1 << 20, Type: iomap.Mapped, Dev: 1}
	with := func(change func(*fuse.IomapIO)) fuse.IomapIO {
		m := ok
		change(&m)
		return m
	}
	nocache := filler(ok, fuse.IomapNoCache)
	empty := fuse.IomapIO{Type: fuse.IomapNoCache}
	for _, c := range []struct {
		name        string
		nodeid, ino uint64
		read, write fuse.IomapIO
		v7, later   syscall.Errno
		why         string
	}{
		{"good", 11, 11, ok, nocache, 0, 0, ""},
		{"both forks", 11, 11, ok, ok, 0, 0, ""},
		{"neither", 11, 11, nocache, nocache, 0, 0, ""},
		{"PURE_OVERWRITE", 11, 11, ok, filler(ok, fuse.IomapPureOverwrite), 0, 0, ""},
		{"inode that is not there", 99, 99, ok, nocache, syscall.ESTALE, syscall.ESTALE, ""},
		{"inode number", 11, 12, ok, nocache, syscall.EINVAL, syscall.EINVAL, "is inode 11, not 12"},
		{"root", 1, 2, ok, nocache, syscall.EINVAL, syscall.EINVAL, "does not go by mappings"},
		{"RETRY_CACHE", 11, 11, filler(ok, fuse.IomapRetryCache), nocache, efscorrupted, efscorrupted, "cannot be cached"},
		{"unknown type", 11, 11, with(func(m *fuse.IomapIO) { m.Type = 6 }), nocache, efscorrupted, efscorrupted, "unknown type"},
		{"not aligned", 11, 11, with(func(m *fuse.IomapIO) { m.Length = 100 }), nocache, efscorrupted, efscorrupted, "aligned"},
		{"no device", 11, 11, with(func(m *fuse.IomapIO) { m.Dev = 0 }), nocache, efscorrupted, efscorrupted, "not registered"},
		{"behind the device", 11, 11, with(func(m *fuse.IomapIO) { m.Addr = 64 << 20 }), nocache, efscorrupted, efscorrupted, "behind the end"},
		{"over the end of the device", 11, 11, with(func(m *fuse.IomapIO) { m.Addr = 64<<20 - 4096 }), nocache, efscorrupted, efscorrupted, "behind the end"},
		{"empty filler", 11, 11, ok, empty, 0, efscorrupted, "length 0"},
		{"filler with a device", 11, 11, ok, fuse.IomapIO{Length: 4096, Addr: null, Type: fuse.IomapNoCache, Dev: 1}, 0, efscorrupted, "NOCACHE with"},
		{"bad write slot", 11, 11, ok, fuse.IomapIO{Length: 4096, Type: iomap.Mapped, Dev: 3}, efscorrupted, efscorrupted, "write slot"},
	} {
		t.Run(c.name, func(t *testing.T) {
			both(t, func(t *testing.T, gen Generation) {
				s := newServer()
				fs, _ := mountWith(t, s, Config{Generation: gen}, pattern(1, 16384))
				if _, err := fs.Statx("/", 0); err != nil {
					t.Fatal(err)
				}
				f := mustOpen(t, fs, "f", syscall.O_RDWR)
				defer func() { must(t, f.Close()) }()
				want, why := c.v7, c.why
				if gen == Later {
					want = c.later
				}
				if want == 0 {
					why = ""
				} else if why != "" {
					fs.Expect(why)
				}
				up := fuse.IomapUpsertMappings{NodeID: c.nodeid, Ino: c.ino, Read: c.read, Write: c.write}
				wantErrno(t, "upsert", s.s.UpsertMappings(&up), want)
				wantViolation(t, fs, why)
			})
		})
	}
}

// TestInvalidations: INVAL_MAPPINGS and DEV_INVAL.
func TestInvalidations(t *testing.T) {
	both(t, func(t *testing.T, gen Generation) {
		s := newServer()
		fs, _ := mountWith(t, s, Config{Generation: gen}, pattern(1, 65536))
		f := mustOpen(t, fs, "f", syscall.O_RDWR|syscall.O_DIRECT)
		read := func(off int64, begins int) {
			t.Helper()
			fs.ResetTrace()
			if _, err := f.ReadAt(make([]byte, 4096), off); err != nil {
				t.Fatal(err)
			}
			if n := fs.Count(fuse.OpIomapBegin); n != begins {
				t.Errorf("read at %d: %d BEGIN, want %d", off, n, begins)
			}
		}
		inval := func(off, n uint64) error {
			return s.s.InvalMappings(&fuse.IomapInvalMappings{NodeID: 11, Ino: 11, Read: fuse.IomapRange{Offset: off, Length: n}})
		}
		must(t, inval(0, fuse.IomapInvalToEOF)) // nothing is cached: fine
		read(0, 1)
		read(60000/4096*4096, 0)
		must(t, inval(8192, 4096))
		read(4096, 0)
		read(12288, 0)
		read(8192, 1)
		must(t, inval(16384, 0)) // nothing
		read(16384, 0)
		must(t, inval(32768, fuse.IomapInvalToEOF))
		read(28672, 0)
		read(61440, 1)
		fs.Expect("range 100+4096")
		wantErrno(t, "offset", inval(100, 4096), syscall.EINVAL)
		fs.Expect("range 0+100")
		wantErrno(t, "length", inval(0, 100), syscall.EINVAL)

		dev := func(id uint32, off, n uint64) error {
			return s.s.InvalDevice(&fuse.IomapDevInval{Dev: id, Range: fuse.IomapRange{Offset: off, Length: n}})
		}
		must(t, dev(1, 4096, 4096))
		must(t, dev(1, 0, 1<<40)) // clipped
		fs.Expect("DEV_INVAL")
		wantErrno(t, "device 0", dev(0, 0, 4096), syscall.EINVAL)
		wantErrno(t, "device 2", dev(2, 0, 4096), syscall.ENODEV)
		wantErrno(t, "behind the end", dev(1, 64<<20, 4096), syscall.EINVAL)
		want := syscall.EINVAL
		if gen == Later {
			want = 0
		}
		wantErrno(t, "no length", dev(1, 0, 0), want)
		must(t, f.Close())
	})
}

// TestConfigReplies: what IOMAP_CONFIG may answer.
func TestConfigReplies(t *testing.T) {
	for _, c := range []struct {
		name      string
		change    func(*fuse.IomapConfigOut)
		errno     syscall.Errno // of the reply
		v7, later bool          // refused
		why       string
	}{
		{"good", func(out *fuse.IomapConfigOut) {}, 0, false, false, ""},
		{"not known", nil, syscall.ENOSYS, false, false, ""},
		{"error", nil, syscall.EIO, true, true, ""},
		{"unknown flags", func(out *fuse.IomapConfigOut) { out.Flags |= 1 << 7 }, 0, true, true, "unknown flags"},
		{"UUID", func(out *fuse.IomapConfigOut) { out.UUIDLen = 17 }, 0, true, true, "a UUID of 17"},
		{"block size", func(out *fuse.IomapConfigOut) { out.Blocksize = 3000 }, 0, true, true, "blocks of 3000"},
		{"granularity 0", func(out *fuse.IomapConfigOut) { out.Flags |= fuse.IomapConfigTime }, 0, false, true, "granularity"},
		{"granularity of two seconds", func(out *fuse.IomapConfigOut) { out.Flags |= fuse.IomapConfigTime; out.TimeGran = 2e9 }, 0, false, true, "granularity"},
		{"negative size", func(out *fuse.IomapConfigOut) { out.Flags |= fuse.IomapConfigMaxbytes; out.Maxbytes = -1 }, 0, false, true, "a largest file"},
		{"device with another block size", func(out *fuse.IomapConfigOut) { out.Blocksize = 1024 }, 0, false, false, "its page cache would mix"},
	} {
		t.Run(c.name, func(t *testing.T) {
			both(t, func(t *testing.T, gen Generation) {
				s := newServer()
				s.config, s.fail[fuse.OpIomapConfig] = c.change, c.errno
				cfg := Config{Generation: gen}
				cfg.Options.Iomap = true
				refused := c.v7
				if gen == Later {
					refused = c.later
				}
				if c.why != "" && (refused || !c.v7 && !c.later) {
					cfg.Expect = []string{c.why}
				}
				cfg.Devices = map[int]blockdev.Device{devFD: blocktest.NewMem(64 << 20)}
				if _, err := TryMount(t, s, cfg); (err != nil) != refused {
					t.Errorf("mount: %v, refused: %v", err, refused)
				}
			})
		})
	}
}

// TestOwner: two files with the same blocks, unless those of the other were dropped before.
func TestOwner(t *testing.T) {
	for _, direct := range []bool{false, true} {
		s := newServer()
		fs, dev := mountWith(t, s, Config{}, pattern(1, 16384))
		s.put("g", dev, pattern(2, 4096))
		f, g := mustOpen(t, fs, "f", syscall.O_RDWR), mustOpen(t, fs, "g", syscall.O_RDWR)
		wantRead(t, f, 0, pattern(1, 16384))
		s.files[12].blocks[0] = s.files[11].blocks[3]
		fs.Expect("node 12 is given")
		s.direct = direct
		wantRead(t, g, 0, pattern(1, 16384)[12288:])
		wantViolation(t, fs, "which node 11 has as 0+16384:MAPPED@1:1048576")
		s.direct = false
		must(t, f.Truncate(8192)) // gives them back
		must(t, s.s.InvalMappings(&fuse.IomapInvalMappings{NodeID: 12, Ino: 12, Read: fuse.IomapRange{Length: toEOF}}))
		fs.DropCaches()
		wantRead(t, g, 0, pattern(1, 16384)[12288:])
		wantViolation(t, fs, "")
		must(t, f.Close())
		must(t, g.Close())
	}
}
