package server_test

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"ext4box/blockdev/blocktest"
	"ext4box/fuse"
	"ext4box/fuse/fusetest/vfs"
	"ext4box/internal/e2test"
)

// ticking is the kernel's clock, to which the server has to keep.
func ticking() time.Time {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_REALTIME_COARSE, &ts); err != nil {
		panic(err)
	}
	return time.Unix(ts.Unix())
}

var attributePitfalls = []pitfall{{
	name:   "2 IOMAP without EXCLUSIVE",
	tamper: edited(func(e *fuse.EntryOut) { e.Attr.Flags &^= fuse.AttrExclusive }, fuse.OpLookup, fuse.OpCreate),
	use:    writeFile,
	found:  "input/output error",
}, {
	name:        "17 a clock that is finer than the kernel's",
	modelConfig: modelConfig{Config: vfs.Config{Now: ticking}},
	build: func(_ *mounted, ops fuse.Operations) fuse.Operations {
		var mu sync.Mutex
		born := map[uint64]time.Time{}
		return &faulty{
			Operations: ops,
			create: func(r *fuse.Request, in *fuse.CreateIn, name string, out *fuse.EntryOut, open *fuse.OpenOut) syscall.Errno {
				errno := ops.Create(r, in, name, out, open)
				mu.Lock()
				defer mu.Unlock()
				born[out.NodeID] = time.Now()
				return errno
			},
			statx: func(r *fuse.Request, in *fuse.StatxIn, out *fuse.StatxOut) syscall.Errno {
				errno := ops.Statx(r, in, out)
				mu.Lock()
				defer mu.Unlock()
				out.Stat.Btime.Set(born[r.NodeID])
				return errno
			},
		}
	},
	use: func(p *probe) {
		for i := range 50 {
			f := p.create(fmt.Sprint(i), 0)
			p.write(f, xs(1), 0)
			st, err := f.Statx(unix.STATX_BASIC_STATS | unix.STATX_BTIME)
			p.must(err)
			p.must(f.Close())
			if time.Unix(st.Btime.Sec, int64(st.Btime.Nsec)).After(time.Unix(st.Ctime.Sec, int64(st.Ctime.Nsec))) {
				p.Errorf("a file was born after its last change")
			}
		}
	},
	found: "born after its last change",
}, {
	name: "22 attributes of files with mappings that do not last",
	tamper: func(m *vfs.Message) bool {
		edited(func(e *fuse.EntryOut) { e.AttrValid, e.AttrValidNsec = 0, 0 }, fuse.OpLookup, fuse.OpCreate)(m)
		return edited(func(a *fuse.AttrOut) { a.AttrValid, a.AttrValidNsec = 0, 0 }, fuse.OpGetattr, fuse.OpSetattr)(m)
	},
	use: func(p *probe) {
		f := p.create("f", 0)
		defer f.Close()
		p.write(f, xs(5000), 0)
		p.must(f.Fsync())
		for i := range 10 {
			_, err := p.m.Statx("f", unix.STATX_BASIC_STATS)
			p.must(err)
			if i == 0 {
				p.m.ResetTrace()
			}
		}
		if n := p.m.Count(fuse.OpGetattr) + p.m.Count(fuse.OpStatx); n > 0 {
			p.Errorf("%d times GETATTR", n)
		}
	},
	found: "times GETATTR",
}, {
	name: "23 a filesystem that is clean while files without a name are open",
	build: func(m *mounted, ops fuse.Operations) fuse.Operations {
		return &faulty{Operations: ops, freeze: func(r *fuse.Request, in *fuse.FreezeFSIn) syscall.Errno {
			if errno := ops.FreezeFS(r, in); errno != 0 {
				return errno
			}
			if err := markClean(m); err != nil {
				return syscall.EIO
			}
			return 0
		}}
	},
	use: func(p *probe) {
		f := p.create("f", 0)
		defer f.Close()
		p.write(f, xs(5000), 0)
		p.must(p.m.Unlink("f"))
		p.must(p.m.Freeze())
		if err := blocktest.Dump(p.m.dev, p.m.dev.Size(), p.m.path); err != nil {
			p.Fatal(err)
		}
		if !strings.Contains(e2test.Dumpe2fs(p, p.m.path).Header["Filesystem features"], "needs_recovery") {
			p.Errorf("the frozen image is marked clean")
		}
		p.must(p.m.Thaw())
	},
	found: "marked clean",
}, {
	name:   "26 a size in attributes that is not recorded",
	tamper: edited(func(a *fuse.AttrOut) { a.Attr.Size += 4096 }, fuse.OpGetattr, fuse.OpSetattr),
	use: func(p *probe) {
		f := p.create("f", 0)
		defer f.Close()
		p.write(f, xs(5000), 0)
		_, err := f.Statx(unix.STATX_BASIC_STATS)
		p.must(err)
	},
	found: "is recorded, it must be",
}, {
	name: "27 a server that applies umask where the kernel has done so",
	build: func(_ *mounted, ops fuse.Operations) fuse.Operations {
		return &faulty{Operations: ops, create: func(r *fuse.Request, in *fuse.CreateIn, name string, out *fuse.EntryOut, open *fuse.OpenOut) syscall.Errno {
			masked := *in
			if r.NodeID != 1 {
				masked.Mode &^= in.Umask
			}
			return ops.Create(r, &masked, name, out, open)
		}}
	},
	use:   inherit,
	found: "mode",
}, {
	name: "27 a server that leaves the root directory to the kernel",
	build: func(_ *mounted, ops fuse.Operations) fuse.Operations {
		return &faulty{Operations: ops, create: func(r *fuse.Request, in *fuse.CreateIn, name string, out *fuse.EntryOut, open *fuse.OpenOut) syscall.Errno {
			free := *in
			free.Umask = 0
			return ops.Create(r, &free, name, out, open)
		}}
	},
	use:   inherit,
	found: "mode",
}}

// inherit makes files in the root directory and in another one, with and without a default ACL.
func inherit(p *probe) {
	p.must(p.m.Mkdir("dir", 0o755))
	who := p.m.As(vfs.Cred{Umask: 0o077})
	made := 0
	for _, withACL := range []bool{false, true} {
		var modes []uint16
		for _, dir := range []string{".", "dir"} {
			if withACL {
				p.must(p.m.Setxattr(dir, "system.posix_acl_default", someACL, 0))
			}
			made++
			path := fmt.Sprintf("%s/f%d", dir, made)
			f, err := who.Open(path, syscall.O_RDWR|syscall.O_CREAT|syscall.O_EXCL, 0o666)
			p.must(err)
			p.must(f.Close())
			st, err := p.m.Statx(path, unix.STATX_BASIC_STATS)
			p.must(err)
			modes = append(modes, st.Mode&0o777)
		}
		if modes[0] != modes[1] || !withACL && modes[0] != 0o600 {
			p.Errorf("mode %#o in the root directory and %#o in another one", modes[0], modes[1])
		}
	}
}

// markClean makes the superblock of a frozen filesystem say that there is nothing to recover.
func markClean(m *mounted) error {
	const (
		incompat, recover    = 0x60, 0x4
		readOnly, orphans    = 0x64, 0x10000
		checksum, superblock = 0x3FC, 1024
	)
	sb := make([]byte, 1024)
	if _, err := m.dev.ReadAt(sb, superblock); err != nil {
		return err
	}
	clear := func(at int, bit uint32) {
		binary.LittleEndian.PutUint32(sb[at:], binary.LittleEndian.Uint32(sb[at:])&^bit)
	}
	clear(incompat, recover)
	clear(readOnly, orphans)
	binary.LittleEndian.PutUint32(sb[checksum:], ^crc32.Checksum(sb[:checksum], crc32.MakeTable(crc32.Castagnoli)))
	_, err := m.dev.WriteAt(sb, superblock)
	return err
}
