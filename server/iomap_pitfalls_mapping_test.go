package server_test

import (
	"syscall"

	"golang.org/x/sys/unix"

	"ext4box/ext4"
	"ext4box/fuse"
	"ext4box/fuse/fusetest/vfs"
	"ext4box/iomap"
	"ext4box/server"
)

// smallBlocks is a filesystem whose blocks are not the pages of the kernel.
var smallBlocks = modelConfig{mke2fs: images["small"]}

// writeFile makes a file and reads it again, from the device.
func writeFile(p *probe) {
	f := p.create("f", 0)
	defer f.Close()
	p.write(f, xs(10000), 0)
	p.must(f.Fsync())
	f.DontNeed()
	p.content(f, xs(10000))
}

var negotiationPitfalls = []pitfall{{
	name: "1 bit 43 of another kernel",
	modelConfig: modelConfig{
		Config: vfs.Config{Classic: true}, options: func(o *server.Options) { o.Iomap.Mode = server.IomapAuto },
	},
	tamper: edited(func(o *fuse.InitOut) { o.Flags2 |= 1 << 11 }, fuse.OpInit),
	use:    writeFile,
	found:  "bit 43",
}, {
	name:        "10 the kernel is not told the block size",
	modelConfig: smallBlocks,
	tamper:      edited(func(o *fuse.IomapConfigOut) { o.Flags &^= fuse.IomapConfigBlocksize }, fuse.OpIomapConfig),
	use:         writeFile,
	found:       "not aligned to blocks of 4096",
}, {
	name:        "10 the device is not told the block size",
	modelConfig: smallBlocks,
	tamper:      func(m *vfs.Message) bool { return m.Ioctl != fuse.DevIocIomapSetBlocksize },
	use:         writeFile,
	found:       "would mix data with metadata",
}, {
	name: "15 DESTROY is answered before the filesystem is closed",
	build: func(_ *mounted, ops fuse.Operations) fuse.Operations {
		return &faulty{Operations: ops, destroy: func() {}}
	},
	use:   writeFile,
	found: "needs_recovery",
}}

var mappingPitfalls = []pitfall{{
	name:        "7 allocating for who only looks",
	modelConfig: modelConfig{prepare: holding("sparse", xs(5000), 1<<20)},
	build: func(_ *mounted, ops fuse.Operations) fuse.Operations {
		return &faulty{Operations: ops, begin: func(r *fuse.Request, in *fuse.IomapBeginIn, out *fuse.IomapBeginOut) syscall.Errno {
			greedy := *in
			if !in.Op.Stores() {
				greedy.Op = iomap.Write
			}
			return ops.IomapBegin(r, &greedy, out)
		}}
	},
	use: func(p *probe) {
		before, err := p.m.Statfs()
		p.must(err)
		f := p.open("sparse", syscall.O_RDWR)
		defer f.Close()
		_, err = f.ReadAt(make([]byte, 1<<20), 0)
		p.must(err)
		_, err = f.Fiemap(0, 1<<20, false)
		p.must(err)
		p.must(f.Truncate(2 << 20)) // which zeroes
		after, err := p.m.Statfs()
		p.must(err)
		if after.Bfree != before.Bfree {
			p.Errorf("%d blocks are used by looking", before.Bfree-after.Bfree)
		}
	},
	found: "used by looking",
}, {
	name: "8 a hole for WRITEBACK",
	build: func(_ *mounted, ops fuse.Operations) fuse.Operations {
		return &faulty{Operations: ops, begin: func(r *fuse.Request, in *fuse.IomapBeginIn, out *fuse.IomapBeginOut) syscall.Errno {
			if in.Op&iomap.Writeback == 0 {
				return ops.IomapBegin(r, in, out)
			}
			out.Read = fuse.IomapIO{Offset: in.Pos, Length: 4096, Addr: fuse.IomapNullAddr, Type: iomap.Hole}
			out.Write = fuse.IomapIO{Offset: in.Pos, Length: 4096, Addr: fuse.IomapNullAddr, Type: fuse.IomapPureOverwrite}
			return 0
		}}
	},
	use: func(p *probe) {
		f := p.create("f", 0)
		defer f.Close()
		p.write(f, xs(4096), 0)
		// The kernel has forgotten the mapping by the time that it writes back.
		p.must(p.m.Session().InvalMappings(&fuse.IomapInvalMappings{
			NodeID: f.NodeID(), Ino: f.NodeID(), Read: fuse.IomapRange{Length: fuse.IomapInvalToEOF},
		}))
		p.must(f.Fsync())
		f.DontNeed()
		p.content(f, xs(4096))
	},
	found: "a hole in answer to WRITEBACK",
}, {
	name:   "11 a write slot without a range",
	tamper: edited(func(o *fuse.IomapBeginOut) { o.Write.Offset, o.Write.Length = 0, 0 }, fuse.OpIomapBegin),
	use:    writeFile,
	found:  "write slot",
}, {
	name: "11 RETRY_CACHE without a range",
	tamper: edited(func(o *fuse.IomapBeginOut) {
		if o.Read.Type == fuse.IomapRetryCache {
			o.Read.Offset, o.Read.Length = 0, 0
		}
	}, fuse.OpIomapBegin),
	use:   writeFile,
	found: "read slot",
}, {
	name:   "12 RETRY_CACHE with nothing in the cache",
	tamper: func(m *vfs.Message) bool { return m.Code != fuse.NotifyIomapUpsertMappings },
	use:    writeFile,
	found:  "nothing was ever pushed",
}, {
	name: "13 mappings of what is not mapped",
	build: func(_ *mounted, ops fuse.Operations) fuse.Operations {
		return &faulty{Operations: ops, readdir: func(r *fuse.Request) {
			hole := fuse.IomapIO{Length: 4096, Addr: fuse.IomapNullAddr, Type: iomap.Hole}
			none := fuse.IomapIO{Length: 4096, Addr: fuse.IomapNullAddr, Type: fuse.IomapNoCache}
			_ = r.Session().UpsertMappings(&fuse.IomapUpsertMappings{NodeID: r.NodeID, Ino: r.NodeID, Read: hole, Write: none})
		}}
	},
	use: func(p *probe) {
		p.must(p.m.Mkdir("dir", 0o755))
		_, err := p.m.ReadDir("dir")
		p.must(err)
	},
	found: "does not go by mappings",
}, {
	name: "9 two nodeids for one inode",
	modelConfig: modelConfig{prepare: func(fs *ext4.FS) {
		holding("f", xs(100), 100)(fs)
		ino, err := fs.Lookup(ext4.RootIno, "f")
		if err == nil {
			err = fs.Link(ino, ext4.RootIno, "second")
		}
		if err != nil {
			panic(err)
		}
	}},
	tamper: func(m *vfs.Message) bool {
		if string(m.Request) == "second\x00" {
			return edited(func(e *fuse.EntryOut) { e.NodeID |= 1 << 40 }, fuse.OpLookup)(m)
		}
		return true
	},
	use: func(p *probe) {
		f := p.open("f", syscall.O_RDWR)
		defer f.Close()
		st, err := p.m.Statx("second", unix.STATX_BASIC_STATS)
		p.must(err)
		if st.Nlink != 2 {
			p.Errorf("%d links", st.Nlink)
		}
	},
	found: "are the same inode",
}}
