package server_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"strings"
	"syscall"
	"testing"

	"ext4box/ext4"
	"ext4box/fuse"
	"ext4box/fuse/fusetest"
	"ext4box/iomap"
	"ext4box/server"
)

// images are the filesystems on which data can be in different places.
var images = map[string][]string{
	"extents":  {"-t", "ext4", "-b", "4096"},
	"small":    {"-t", "ext4", "-b", "1024"},
	"indirect": {"-t", "ext3", "-b", "4096"},
	"inline":   {"-t", "ext4", "-b", "4096", "-O", "inline_data", "-I", "256"},
	"clusters": {"-t", "ext4", "-b", "4096", "-O", "bigalloc", "-C", "16384"},
}

// TestIomapBegin asks for what is there, with a kernel that keeps mappings and with one that does not.
func TestIomapBegin(t *testing.T) {
	for name, mke2fs := range images {
		for _, refuse := range []syscall.Errno{0, syscall.ENOMEM} {
			t.Run(fmt.Sprintf("%s/%d", name, refuse), func(t *testing.T) {
				b := serveBare(t, bareConfig{mke2fs: mke2fs, prepare: someFiles})
				b.refuse = refuse
				testBegin(t, b, name)
				b.finish(t)
			})
		}
	}
}

func testBegin(t *testing.T, b *bare, image string) {
	bs := uint64(b.cfg.Blocksize)
	keeps := b.refuse == 0
	file := b.node("file").NodeID
	free := func() uint64 {
		st, err := b.fs.Statfs()
		if err != nil {
			t.Fatal(err)
		}
		return st.BlocksFree
	}
	before := free()
	// What is there, for whatever purpose; and that it is the data.
	for _, op := range []iomap.Op{
		iomap.Read, iomap.Write, iomap.Write | iomap.Fault, iomap.Zero, iomap.Direct, iomap.Write | iomap.Direct, iomap.Writeback, iomap.Write | iomap.NoWait,
		iomap.Write | iomap.Unshare, iomap.Write | iomap.DontCache, iomap.Op(1 << 20),
	} {
		for _, pos := range []uint64{0, 1, bs, 9999} {
			m, cached, err := b.begin(file, pos, 10, op)
			if err != nil || m.Type != iomap.Mapped || cached != keeps {
				t.Errorf("BEGIN %#x at %d: %+v, kept %t, %v", op, pos, m, cached, err)
				continue
			}
			got := make([]byte, 1)
			if _, err := b.dev.ReadAt(got, int64(m.Addr-backingOffset+pos-m.Offset)); err != nil || got[0] != 'x' {
				t.Errorf("BEGIN %#x at %d leads to %q, %v", op, pos, got, err)
			}
		}
	}
	m, cached, err := b.begin(file, 0, 10000, iomap.Report)
	if err != nil || m.Type != iomap.Mapped || cached {
		t.Errorf("REPORT: %+v, kept %t, %v", m, cached, err)
	}
	m, cached, err = b.begin(file, bs, bs, iomap.Write|iomap.Direct|iomap.Atomic)
	if err != nil || m.Type != iomap.Mapped || m.Flags&iomap.AtomicBIO == 0 || cached {
		t.Errorf("ATOMIC: %+v, kept %t, %v", m, cached, err)
	}
	m, cached, err = b.begin(file, 0, 10000, iomap.Report|iomap.SwapFile)
	if err != nil || m.Type != iomap.Mapped || cached {
		t.Errorf("SWAPFILE: %+v, kept %t, %v", m, cached, err)
	}
	if _, err := b.Setattr(file, fuse.SetattrIn{Valid: fuse.SetattrSize}); err != syscall.ETXTBSY {
		t.Errorf("truncate of a swap file: %v", err)
	}
	if size := b.ioend(file, 0, 0, fuse.IoendSwapoff); size != 10000 {
		t.Errorf("SWAPOFF: size %d", size)
	}

	// A hole stays one, unless there is to be data.
	sparse := b.node("sparse").NodeID
	for _, op := range []iomap.Op{iomap.Read, iomap.Zero, iomap.Direct, iomap.Report} {
		for _, pos := range []uint64{0, 5000, 1<<20 + 4096, 2<<20 - 1} {
			m, _, err := b.begin(sparse, pos, 1, op)
			if err != nil || m.Type != iomap.Hole || m.Offset < 1<<20 && m.Offset+m.Length > 1<<20 {
				t.Errorf("BEGIN %#x of a hole at %d: %+v, %v", op, pos, m, err)
			}
		}
		if m, _, err := b.begin(sparse, 1<<20, 4096, op); err != nil || m.Type != iomap.Mapped || m.Offset > 1<<20 || m.Offset+m.Length < 1<<20+4096 && image != "small" {
			t.Errorf("BEGIN %#x of data: %+v, %v", op, m, err)
		}
	}
	if after := free(); after != before {
		t.Errorf("looking changes free space from %d to %d", before, after)
	}
	m, _, err = b.begin(sparse, 64<<10, 8192, iomap.Write)
	if err != nil || m.Type != iomap.Unwritten || m.Flags&iomap.Dirty == 0 || m.Offset > 64<<10 || m.Offset+m.Length < 72<<10 {
		t.Errorf("a write into a hole: %+v, %v", m, err)
	}
	// It is what writeback finds, and the data is not read before it is written.
	w, _, err := b.begin(sparse, 64<<10, 4096, iomap.Writeback)
	if err != nil || w.Type != iomap.Unwritten || w.Addr-w.Offset != m.Addr-m.Offset {
		t.Errorf("writeback: %+v, %v", w, err)
	}
	if size := b.ioend(sparse, 64<<10, 8192, fuse.IoendUnwritten|fuse.IoendWriteback); size != 2<<20 {
		t.Errorf("IOEND says the size is %d", size)
	}
	if r, _, err := b.begin(sparse, 64<<10, 4096, iomap.Read); err != nil || r.Type != iomap.Mapped || r.Addr-r.Offset != m.Addr-m.Offset {
		t.Errorf("after IOEND: %+v, %v", r, err)
	}

	if image != "indirect" {
		un := b.node("unwritten").NodeID
		for _, op := range []iomap.Op{iomap.Read, iomap.Write, iomap.Zero, iomap.Report, iomap.Writeback} {
			if m, _, err := b.begin(un, 8192, 4096, op); err != nil || m.Type != iomap.Unwritten {
				t.Errorf("BEGIN %#x of preallocated space: %+v, %v", op, m, err)
			}
		}
		if size := b.ioend(un, 8192, 100, fuse.IoendUnwritten|fuse.IoendDirect); size != 64<<10 {
			t.Errorf("IOEND in preallocated space says the size is %d", size)
		}
		m, _, err := b.begin(un, 8192, 4096, iomap.Read)
		if n, _, e := b.begin(un, 8192+4096, 4096, iomap.Read); err != nil || m.Type != iomap.Mapped || e != nil || n.Type != iomap.Unwritten && image != "small" {
			t.Errorf("after IOEND: %+v, %v; behind it %+v, %v", m, err, n, e)
		}
	}

	// Appending: the size that is recorded is that of the data that is there.
	if m, _, err = b.begin(file, 10000, 5000, iomap.Write); err != nil || m.Type != iomap.Mapped {
		t.Errorf("append: %+v, %v", m, err)
	}
	if m, _, err = b.begin(file, 12288, 2712, iomap.Write); err != nil || m.Type != iomap.Unwritten {
		t.Errorf("append: %+v, %v", m, err)
	}
	if a, err := b.Getattr(file); err != nil || a.Attr.Size != 10000 {
		t.Errorf("before IOEND the size is %d, %v", a.Attr.Size, err)
	}
	if size := b.ioend(file, 8192, 4096, fuse.IoendAppend|fuse.IoendWriteback); size != 12288 {
		t.Errorf("size %d", size)
	}
	if size := b.ioend(file, 12288, 2712, fuse.IoendUnwritten|fuse.IoendAppend|fuse.IoendWriteback); size != 15000 {
		t.Errorf("size %d", size)
	}
	if size := b.ioend(file, 0, 4096, fuse.IoendWriteback); size != 15000 {
		t.Errorf("size %d after an overwrite", size)
	}
}

// TestIomapInline is about content that is in inodes, which comes by READ and WRITE.
func TestIomapInline(t *testing.T) {
	b := serveBare(t, bareConfig{mke2fs: images["inline"], prepare: someFiles})
	small := b.node("small").NodeID
	want := fuse.IomapIO{Length: 4096, Addr: fuse.IomapNullAddr, Type: iomap.Inline}
	for _, op := range []iomap.Op{iomap.Read, iomap.Write, iomap.Report, iomap.Direct} {
		if m, cached, err := b.begin(small, 3, 10, op); err != nil || m != want || cached {
			t.Errorf("BEGIN %#x: %+v, kept %t, %v", op, m, cached, err)
		}
	}
	for _, op := range []iomap.Op{iomap.Read, iomap.Report, iomap.Zero} {
		if m, _, err := b.begin(small, 5000, 10, op); err != nil || m.Type != iomap.Hole {
			t.Errorf("BEGIN %#x behind the content: %+v, %v", op, m, err)
		}
	}
	// Clearing is about what is behind the content, where there is nothing.
	if m, cached, err := b.begin(small, 20, 4076, iomap.Zero); err != nil || m.Type != iomap.Hole || cached {
		t.Errorf("BEGIN ZERO: %+v, kept %t, %v", m, cached, err)
	}
	full := append(bytes.Repeat([]byte{'x'}, 20), make([]byte, 4076)...)
	for _, c := range []struct {
		off  uint64
		n    uint32
		want []byte
	}{{0, 4096, full}, {0, 20, full[:20]}, {10, 100, full[10:110]}, {20, 5, full[20:25]}, {4000, 96, full[4000:]}} {
		if got, err := b.Read(small, c.off, c.n); err != nil || !bytes.Equal(got, c.want) {
			t.Errorf("READ %d+%d: %d bytes, %v", c.off, c.n, len(got), err)
		}
	}
	if n, err := b.Write(small, 15, []byte("0123456789")); n != 10 || err != nil {
		t.Errorf("WRITE: %d, %v", n, err)
	}
	if a, err := b.Getattr(small); err != nil || a.Attr.Size != 25 {
		t.Errorf("size %d, %v", a.Attr.Size, err)
	}
	if got, err := b.Read(small, 0, 30); err != nil || string(got) != strings.Repeat("x", 15)+"0123456789\x00\x00\x00\x00\x00" {
		t.Errorf("READ: %q, %v", got, err)
	}
	// What writes to a hole of the file that is all it has, and what no file of the kind can be asked.
	empty := b.node("empty").NodeID
	if m, _, err := b.begin(empty, 0, 30, iomap.Write); err != nil || m != want {
		t.Errorf("the first write: %+v, %v", m, err)
	}
	if n, err := b.Write(empty, 0, []byte("first")); n != 5 || err != nil {
		t.Errorf("the first WRITE: %d, %v", n, err)
	}
	// It outgrows the inode, with what it had.
	m, _, err := b.begin(small, 25, 4000, iomap.Write)
	if err != nil || m.Type != iomap.Mapped || m.Offset != 0 {
		t.Fatalf("a write that does not fit: %+v, %v", m, err)
	}
	got := make([]byte, 4096)
	if _, err := b.dev.ReadAt(got, int64(m.Addr-backingOffset)); err != nil || string(got[:25]) != strings.Repeat("x", 15)+"0123456789" || !bytes.Equal(got[25:], make([]byte, 4071)) {
		t.Errorf("the block has %q, %v", got[:40], err)
	}
	if a, err := b.Getattr(small); err != nil || a.Attr.Size != 25 {
		t.Errorf("size %d, %v", a.Attr.Size, err)
	}
	if size := b.ioend(small, 0, 4025, fuse.IoendAppend|fuse.IoendWriteback); size != 4025 {
		t.Errorf("IOEND: size %d", size)
	}
	// A page that is stored to, and writeback, have blocks.
	if m, _, err := b.begin(empty, 0, 4096, iomap.Write|iomap.Fault); err != nil || m.Type != iomap.Mapped && m.Type != iomap.Unwritten {
		t.Errorf("FAULT: %+v, %v", m, err)
	}
	b.finish(t)
}

// TestIomapStrayData: nothing but inline data goes by the server.
func TestIomapStrayData(t *testing.T) {
	b := serveBare(t, bareConfig{prepare: someFiles})
	file := b.node("file").NodeID
	for range 2 {
		if _, err := b.Read(file, 4096, 4096); err != syscall.EIO {
			t.Errorf("READ: %v", err)
		}
		if _, err := b.Write(file, 0, []byte("stray")); err != syscall.EIO {
			t.Errorf("WRITE: %v", err)
		}
		if _, err := b.Write(file, 1<<63-1, []byte("stray")); err != syscall.EIO {
			t.Errorf("WRITE: %v", err)
		}
	}
	if n := countLines(b.log.String(), "told once"); n != 1 {
		t.Errorf("logged %d times: %s", n, b.log)
	}
	b.finish(t)
}

// TestIomapIoend: what fails, and what cannot be.
func TestIomapIoend(t *testing.T) {
	b := serveBare(t, bareConfig{prepare: someFiles})
	sparse := b.node("sparse").NodeID
	if m, _, err := b.begin(sparse, 0, 4096, iomap.Write|iomap.Direct); err != nil || m.Type != iomap.Unwritten {
		t.Fatalf("%+v, %v", m, err)
	}
	// The data did not get there: nothing has become of it.
	for _, flags := range []fuse.IoendFlags{fuse.IoendUnwritten | fuse.IoendDirect, 0} {
		_, err := b.IomapIoend(sparse, fuse.IomapIoendIn{Flags: flags, Error: -int32(syscall.ENOSPC), Ino: sparse, Written: 4096})
		if err != syscall.ENOSPC {
			t.Errorf("flags %#x: %v", flags, err)
		}
	}
	if m, _, err := b.begin(sparse, 0, 4096, iomap.Read); err != nil || m.Type == iomap.Mapped {
		t.Errorf("after an error: %+v, %v", m, err)
	}
	if _, err := b.IomapIoend(sparse, fuse.IomapIoendIn{Flags: fuse.IoendShared, Ino: sparse, Written: 4096}); err != syscall.EUCLEAN {
		t.Errorf("SHARED: %v", err)
	}
	// More than 4 GiB in one piece, of which there is one block: the others are left alone.
	before, err := b.fs.Stat(ext4.Ino(sparse))
	if err != nil {
		t.Fatal(err)
	}
	out, err := b.IomapIoend(sparse, fuse.IomapIoendIn{Flags: fuse.IoendUnwritten | fuse.IoendAppend | fuse.IoendWriteback, Ino: sparse, Pos: 1 << 20, Written: 5 << 30})
	if err != nil || out.Newsize != 1<<20+5<<30 {
		t.Errorf("a long IOEND: size %d, %v", out.Newsize, err)
	}
	if st, err := b.fs.Stat(ext4.Ino(sparse)); err != nil || st.Blocks != before.Blocks {
		t.Errorf("it allocates: %d blocks, before %d, %v", st.Blocks, before.Blocks, err)
	}
}

// TestIomapFallocate: what is preallocated beyond the end counts at once, unless it is not to: nothing follows by
// which it could.
func TestIomapFallocate(t *testing.T) {
	b := serveBare(t, bareConfig{prepare: someFiles})
	file := b.node("file").NodeID
	allocate := func(mode uint32, off, n uint64) {
		t.Helper()
		if err := b.Do(fuse.OpFallocate, file, fusetest.Bytes(&fuse.FallocateIn{Offset: off, Length: n, Mode: mode})).Err(); err != nil {
			t.Fatalf("mode %#x: %v", mode, err)
		}
	}
	before, err := b.Getattr(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		mode         uint32
		off, n, size uint64
	}{
		{ext4.FallocKeepSize, 0, 100000, 10000}, {0, 0, 50001, 50001}, {ext4.FallocZeroRange | ext4.FallocKeepSize, 50000, 50000, 50001},
		{ext4.FallocZeroRange, 1000, 60000, 61000}, {ext4.FallocPunchHole | ext4.FallocKeepSize, 1000, 10000, 61000},
	} {
		allocate(c.mode, c.off, c.n)
		a, err := b.Getattr(file)
		if err != nil || a.Attr.Size != c.size {
			t.Errorf("mode %#x %d+%d: size %d, %v; want %d", c.mode, c.off, c.n, a.Attr.Size, err, c.size)
		}
		if a.Attr.Mtime != before.Attr.Mtime || a.Attr.MtimeNsec != before.Attr.MtimeNsec || a.Attr.Ctime != before.Attr.Ctime || a.Attr.CtimeNsec != before.Attr.CtimeNsec {
			t.Errorf("mode %#x changes the times", c.mode)
		}
	}
	// The blocks at the edges, of which a part was punched out, are for the kernel to clear.
	if m, _, err := b.begin(file, 0, 1, iomap.Read); err != nil || m.Type != iomap.Mapped {
		t.Errorf("the first block: %+v, %v", m, err)
	} else if got := make([]byte, 4096); true {
		if _, err := b.dev.ReadAt(got, int64(m.Addr-backingOffset)); err != nil || !bytes.Equal(got, bytes.Repeat([]byte{'x'}, 4096)) {
			t.Error("it was cleared, which is the kernel's part")
		}
	}
	if m, _, err := b.begin(file, 4096, 1, iomap.Read); err != nil || m.Type != iomap.Hole {
		t.Errorf("the second block: %+v, %v", m, err)
	}
	b.finish(t)
}

// TestIomapHostile: whatever the kernel sends, there is an errno for it.
func TestIomapHostile(t *testing.T) {
	b := serveBare(t, bareConfig{prepare: someFiles})
	file := b.node("file").NodeID
	ops := []iomap.Op{
		iomap.Read, iomap.Write, iomap.Zero, iomap.Report, iomap.Writeback, iomap.Write | iomap.Direct, iomap.Report | iomap.SwapFile,
		iomap.Write | iomap.Direct | iomap.Atomic, iomap.DAX, iomap.OverwriteOnly | iomap.Write, iomap.Write | iomap.Unshare, 1 << 20, math.MaxUint32,
	}
	numbers := []uint64{
		0, 1, 4095, 4096, 9999, 1 << 31, 1<<32 - 1, 1 << 32, 1<<44 - 4096, 1 << 44, 1<<62 - 1, 1<<63 - 4096, 1<<63 - 1, 1 << 63, 1<<63 + 1, math.MaxUint64 - 4095, math.MaxUint64,
	}
	for _, op := range ops {
		for _, pos := range numbers {
			for _, n := range numbers {
				out, err := b.IomapBegin(file, fuse.IomapBeginIn{Op: op, Ino: file, Pos: pos, Count: n})
				if err != nil {
					continue
				}
				if n == 0 || pos >= 1<<63 {
					t.Errorf("BEGIN %#x %d+%d: %+v", op, pos, n, out)
				}
				if pos < uint64(b.cfg.Maxbytes) {
					b.check(&out.Read, fmt.Sprintf("BEGIN %#x %d+%d", op, pos, n))
					b.check(&out.Write, fmt.Sprintf("BEGIN %#x %d+%d", op, pos, n))
				}
			}
		}
	}
	for _, pos := range []uint64{uint64(b.cfg.Maxbytes), 1<<63 - 1, 1 << 63, math.MaxUint64} {
		if _, err := b.IomapBegin(file, fuse.IomapBeginIn{Op: iomap.Write, Ino: file, Pos: pos, Count: 1}); err != syscall.EFBIG {
			t.Errorf("a write at %#x: %v", pos, err)
		}
	}
	if _, err := b.IomapBegin(file, fuse.IomapBeginIn{Ino: file, Pos: 1 << 63, Count: 1}); err != syscall.EINVAL {
		t.Errorf("a read at 1<<63: %v", err)
	}
	b.ioend(file, 0, 0, fuse.IoendSwapoff)
	for _, flags := range []fuse.IoendFlags{0, fuse.IoendUnwritten, fuse.IoendAppend, fuse.IoendShared, fuse.IoendDirect | fuse.IoendBoundary, 1 << 20} {
		for _, pos := range numbers {
			for _, n := range numbers {
				for _, e := range []int32{0, -5, -100000, 1, math.MaxInt32, math.MinInt32} {
					if pos < 1<<40 && n < 1<<40 && e == 0 {
						continue // is true, for all we know
					}
					if out, err := b.IomapIoend(file, fuse.IomapIoendIn{Flags: flags, Error: e, Ino: file, Pos: pos, Written: n}); err == nil {
						if n > 0 && (pos >= 1<<44 || n > 1<<44) {
							t.Errorf("IOEND %#x %d+%d error %d: %+v", flags, pos, n, e, out)
						}
					}
				}
			}
		}
	}
	// Not that inode, or none.
	dir := b.node("dir").NodeID
	for _, c := range []struct{ node, ino uint64 }{
		{file, file + 1}, {file, 0}, {file, math.MaxUint64}, {file, file + 1<<32}, {0, 0}, {1, 1}, {2, 2}, {3, 3}, {8, 8}, {1 << 31, 1 << 31}, {1<<32 + file, 1<<32 + file},
		{math.MaxUint64, math.MaxUint64}, {dir, dir}, {1, 2},
	} {
		for _, op := range ops {
			if out, err := b.IomapBegin(c.node, fuse.IomapBeginIn{Op: op, Ino: c.ino, Count: 4096}); err == nil {
				t.Errorf("BEGIN %#x of node %d, inode %d: %+v", op, c.node, c.ino, out)
			}
		}
		if out, err := b.IomapIoend(c.node, fuse.IomapIoendIn{Ino: c.ino, Written: 4096}); err == nil {
			t.Errorf("IOEND of node %d, inode %d: %+v", c.node, c.ino, out)
		}
	}
	if _, err := b.IomapBegin(file, fuse.IomapBeginIn{Ino: file + 1, Count: 1}); err != syscall.ESTALE {
		t.Errorf("another inode: %v", err)
	}
	for _, mode := range []uint32{0, ext4.FallocKeepSize, ext4.FallocPunchHole, ext4.FallocPunchHole | ext4.FallocKeepSize, ext4.FallocZeroRange, ext4.FallocCollapseRange,
		ext4.FallocInsertRange, 0x40, math.MaxUint32} {
		for _, off := range numbers {
			for _, n := range numbers {
				if off < 1<<31 && n < 1<<33 && mode < ext4.FallocPunchHole {
					continue // only fills the filesystem
				}
				in := fuse.FallocateIn{Offset: off, Length: n, Mode: mode}
				if err := b.Do(fuse.OpFallocate, file, fusetest.Bytes(&in)).Err(); err == nil && (n == 0 || off+n < off && mode&ext4.FallocPunchHole == 0) {
					t.Errorf("FALLOCATE %#x %d+%d", mode, off, n)
				}
			}
		}
	}
	if e, err := b.Getattr(file); err != nil || e.Attr.Size > uint64(b.cfg.Maxbytes) {
		t.Errorf("%+v, %v", e, err)
	}
	if strings.Contains(b.log.String(), "panic") {
		t.Error(b.log)
	}
}

// TestIomapFsync reaches the device however little the server has to write: data went there past it.
func TestIomapFsync(t *testing.T) {
	b := serveBare(t, bareConfig{prepare: someFiles})
	file := b.node("file").NodeID
	for _, c := range []struct {
		op   fuse.Opcode
		node uint64
		in   []byte
	}{
		{fuse.OpFsyncdir, b.node("lost+found").NodeID, fusetest.Bytes(&fuse.FsyncIn{})}, // which nobody has changed
		{fuse.OpFsync, file, fusetest.Bytes(&fuse.FsyncIn{})}, {fuse.OpFsyncdir, 1, fusetest.Bytes(&fuse.FsyncIn{})}, {fuse.OpSyncfs, 1, make([]byte, 8)},
		{fuse.OpFsync, file, fusetest.Bytes(&fuse.FsyncIn{Flags: 1})}, {fuse.OpFsync, file, fusetest.Bytes(&fuse.FsyncIn{})},
	} {
		before := b.dev.Counts().Flushes
		if err := b.Do(c.op, c.node, c.in).Err(); err != nil {
			t.Errorf("%v: %v", c.op, err)
		}
		if b.dev.Counts().Flushes == before {
			t.Errorf("%v does not flush", c.op)
		}
	}
}

// TestIomapFreeze: what was done is on the device, and nothing follows it until the end of the freeze.
func TestIomapFreeze(t *testing.T) {
	b := serveBare(t, bareConfig{prepare: someFiles})
	file := b.node("file").NodeID
	if _, err := b.Setattr(file, fuse.SetattrIn{Valid: fuse.SetattrMode, Mode: 0o600}); err != nil {
		t.Fatal(err)
	}
	// While somebody has a file open that has no name any more, a copy of the image is not clean.
	for _, unlinked := range []uint64{1, 0} {
		if err := b.Do(fuse.OpFreezeFS, 1, fusetest.Bytes(&fuse.FreezeFSIn{Unlinked: unlinked})).Err(); err != nil {
			t.Fatal(err)
		}
		incompat := make([]byte, 4)
		if _, err := b.dev.ReadAt(incompat, 1024+0x60); err != nil {
			t.Fatal(err)
		}
		const recover = 4
		if clean := binary.LittleEndian.Uint32(incompat)&recover == 0; clean != (unlinked == 0) {
			t.Errorf("with %d files without a name the image is clean: %t", unlinked, clean)
		}
		if err := b.Do(fuse.OpUnfreezeFS, 1).Err(); err != nil {
			t.Fatal(err)
		}
	}
	before := b.dev.Counts().Flushes
	if err := b.Do(fuse.OpFreezeFS, 1, fusetest.Bytes(&fuse.FreezeFSIn{})).Err(); err != nil {
		t.Fatal(err)
	}
	if b.dev.Counts().Flushes == before {
		t.Error("FREEZE does not flush")
	}
	if a, err := b.Getattr(file); err != nil || a.Attr.Mode&0o777 != 0o600 {
		t.Errorf("while frozen: %+v, %v", a, err)
	}
	if err := b.Do(fuse.OpUnfreezeFS, 1).Err(); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Setattr(file, fuse.SetattrIn{Valid: fuse.SetattrMode, Mode: 0o644}); err != nil {
		t.Errorf("after the freeze: %v", err)
	}
	b.finish(t)
}

func TestIomapShutdown(t *testing.T) {
	b := serveBare(t, bareConfig{prepare: someFiles})
	file := b.node("file").NodeID
	if err := b.Do(fuse.OpShutdownFS, 1, fusetest.Bytes(&fuse.ShutdownFSIn{})).Err(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := b.begin(file, 0, 1, iomap.Read); err != syscall.EIO {
		t.Errorf("BEGIN: %v", err)
	}
	if _, err := b.IomapIoend(file, fuse.IomapIoendIn{Ino: file, Flags: fuse.IoendUnwritten, Written: 1}); err == nil {
		t.Error("IOEND of a filesystem that is shut down")
	}
}

// TestIomapDestroy: by the time of the answer the filesystem is closed.
func TestIomapDestroy(t *testing.T) {
	var b *bare
	closed := false
	b = serveBare(t, bareConfig{prepare: someFiles, options: func(o *server.Options) { o.Destroy = func() { closed = b.fs.Close() == nil } }})
	if m, _, err := b.begin(b.node("sparse").NodeID, 0, 4096, iomap.Write); err != nil || m.Type != iomap.Unwritten {
		t.Errorf("%+v, %v", m, err)
	}
	if err := b.Destroy(); err != nil || !closed {
		t.Errorf("DESTROY: %v, closed %t", err, closed)
	}
	b.finish(t) // with what was reserved for data that never came
}
