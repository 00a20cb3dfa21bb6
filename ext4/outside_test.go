package ext4_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"ext4box/blockdev"
	"ext4box/ext4"
	"ext4box/internal/e2test"
	"ext4box/iomap"
)

// outsideShapes are filesystems on which data is moved outside.
var outsideShapes = []struct{ name, args string }{
	{"4k", "-t ext4 -b 4096"},
	{"1k", "-t ext4 -b 1024"},
	{"indirect", "-t ext4 -b 1024 -O ^extents,^64bit"},
	{"no journal", "-t ext2 -b 4096"},
	{"clusters", "-t ext4 -b 1024 -O bigalloc -C 8192 -J size=1"},
	{"large clusters", "-t ext4 -b 4096 -O bigalloc -C 65536 -J size=4"},
	{"inline", "-t ext4 -b 1024 -I 512 -O inline_data"},
}

// TestOutside does what programs and the kernel do to a few files, and has e2fsck and
// the kernel judge what that comes to.
func TestOutside(t *testing.T) {
	for _, s := range outsideShapes {
		t.Run(s.name, func(t *testing.T) {
			r := newOutsideRig(t, 48<<20, s.args, ext4.Options{})
			rng := rand.New(rand.NewPCG(uint64(len(s.name)), 7))
			var inos []ext4.Ino
			for i := range 4 {
				inos = append(inos, r.create(fmt.Sprint("file", i)))
			}
			random := func(n uint64) []byte {
				p := make([]byte, n)
				for i := range p {
					p[i] = byte(rng.Uint32())
				}
				return p
			}
			place := func() uint64 { return rng.Uint64N(1 << (4 + rng.UintN(18))) }
			for range 400 {
				ino := inos[rng.IntN(len(inos))]
				f := r.file(ino)
				switch rng.IntN(8) {
				case 0, 1:
					r.must(r.write(ino, random(1+place()>>3), place()))
				case 2, 3:
					r.must(r.write(ino, random(1+place()>>3), f.size))
				case 4:
					r.must(r.writeBack(ino))
					off := place() &^ (r.bs - 1)
					r.must(r.direct(ino, random((place()>>3+r.bs)&^(r.bs-1)), off))
				case 5:
					r.must(r.writeBack(ino))
				case 6:
					r.truncate(ino, place())
				case 7:
					r.must(r.fs.Fsync(ino))
				}
				if rng.IntN(40) == 0 {
					r.check()
				}
			}
			r.finish()
			if r.begins == 0 || r.ioends == 0 {
				t.Error("nothing was mapped")
			}
		})
	}
}

// TestOutsideQuestions counts what sequential writes ask for.
func TestOutsideQuestions(t *testing.T) {
	img := e2test.Image(t, 4<<30, "-t", "ext4", "-b", "4096")
	dev, err := blockdev.Open(img, blockdev.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		op          iomap.Op
		step, total uint64
		most        int
	}{
		{iomap.Write, 4 << 10, 4 << 20, 4},
		{iomap.Write | iomap.Direct, 4 << 10, 4 << 20, 4},
		{iomap.Write, 1 << 20, 1 << 30, 16},
		{iomap.Write, 64 << 10, 64 << 10, 1},
	} {
		r := &outsideRig{t: t, img: img, dev: dev, files: map[ext4.Ino]*outsideFile{}}
		r.start(ext4.Options{})
		ino := r.create(fmt.Sprintf("%d of %d, %#x", c.step, c.total, c.op))
		for off := uint64(0); off < c.total; {
			m, err := r.lookup(ino, off, c.step, c.op)
			r.must(err)
			n := min(c.step, m.Offset+m.Length-off)
			if c.op&iomap.Direct != 0 {
				r.ioEnd(ino, off, n)
			}
			off += n
		}
		if c.op&iomap.Direct == 0 {
			r.ioEnd(ino, 0, c.total)
		}
		if r.begins > c.most {
			t.Errorf("op %#x: %d KiB in steps of %d asked for %d mappings, should for %d", c.op, c.total>>10, c.step>>10, r.begins, c.most)
		}
		st, err := r.fs.Stat(ino)
		r.must(err)
		if asked, _, _ := r.fs.Reserved(ino); asked != 0 || uint64(st.Size) != c.total || st.Blocks < c.total>>9 {
			t.Errorf("after %d KiB there are %+v, and %d blocks are asked for", c.total>>10, st, asked)
		}
		r.must(r.fs.Unhold(ino, 1))
		if asked, ahead, nodes := r.fs.Reserved(ino); asked != 0 || ahead != 0 || nodes != 0 {
			t.Errorf("a file that was forgotten has %d blocks, %d ahead and %d nodes", asked, ahead, nodes)
		}
		r.must(r.fs.Unlink(ext4.RootIno, r.file(ino).name))
		r.must(r.fs.Sync())
		r.must(r.fs.Close())
		r.must(runFsck(img, "-fn"))
		if dev, err = blockdev.Open(img, blockdev.Options{}); err != nil {
			t.Fatal(err)
		}
	}
	dev.Close()
}

// ioEnd says that a range was written, and what follows from that.
func (r *outsideRig) ioEnd(ino ext4.Ino, off, n uint64) {
	r.t.Helper()
	size, err := r.fs.IOEndOutside(ino, off, n, 0)
	r.must(err)
	f := r.file(ino)
	f.disk = size
	r.must(r.cache.Drop(ino, off&^(r.bs-1), (off+n+r.bs-1)&^(r.bs-1)-off&^(r.bs-1)))
}

// TestOutsideMappings asks for what is on the edges of the protocol.
func TestOutsideMappings(t *testing.T) {
	r := newOutsideRig(t, 64<<20, "-t ext4 -b 4096", ext4.Options{})
	const block = 4096
	ino := r.create("f")
	// Blocks 4 to 7 are written, 16 to 23 are preallocated, of which 18 is written.
	r.must(r.direct(ino, make([]byte, 4*block), 4*block))
	r.must(r.fs.Fallocate(ino, ext4.FallocKeepSize, 16*block, 8*block))
	r.must(r.direct(ino, make([]byte, block), 18*block))
	r.must(r.fs.Fsync(ino))
	size := uint64(19 * block)

	type want struct {
		typ      iomap.Type
		from, to uint64 // blocks
		flags    iomap.Flags
		kept     bool
		err      syscall.Errno
	}
	hole := func(from, to uint64, kept bool) want { return want{iomap.Hole, from, to, 0, kept, 0} }
	unwritten := func(from, to uint64, f iomap.Flags, kept bool) want {
		return want{iomap.Unwritten, from, to, f, kept, 0}
	}
	cases := []struct {
		name   string
		op     iomap.Op
		off, n uint64
		want   want
	}{
		{"read a hole", iomap.Read, 100, 10, hole(0, 4, true)},
		{"read an extent", iomap.Read, 5 * block, 10, want{iomap.Mapped, 4, 8, 0, true, 0}},
		{"read between", iomap.Read, 9 * block, 1, hole(8, 16, true)},
		{"read unwritten", iomap.Direct, 17 * block, block, unwritten(16, 18, iomap.Dirty, true)},
		{"read behind all", iomap.Read, 24*block + 5, 10, hole(24, 25, true)},
		{"read far behind all", iomap.Read, 30 * block, 3 * block, hole(24, 33, true)},
		{"report", iomap.Report, 0, 64 * block, hole(0, 4, false)},
		{"report behind the end", iomap.Report, 24 * block, 1, hole(24, 25, false)},
		{"report data", iomap.Report, 4 * block, 1, want{iomap.Mapped, 4, 8, 0, false, 0}},
		{"zero a hole", iomap.Zero, 9 * block, 3 * block, hole(8, 16, true)},
		{"zero preallocated blocks", iomap.Zero, 20 * block, block, unwritten(19, 24, iomap.Dirty, true)},
		{"overwrite only", iomap.Write | iomap.OverwriteOnly, 4 * block, block, want{iomap.Mapped, 4, 8, 0, true, 0}},
		{"overwrite only, where nothing is", iomap.Write | iomap.Direct | iomap.OverwriteOnly, 9 * block, block, want{err: syscall.EAGAIN}},
		{"write that need not wait", iomap.Write | iomap.NoWait, 5 * block, block, want{iomap.Mapped, 4, 8, 0, true, 0}},
		{"swap on a hole", iomap.Report | iomap.SwapFile, 0, size, want{err: syscall.EINVAL}},
		{"swap", iomap.Report | iomap.SwapFile, 4 * block, size, want{iomap.Mapped, 4, 8, 0, false, 0}},
		{"swap on preallocated blocks", iomap.Report | iomap.SwapFile, 16 * block, size, unwritten(16, 18, 0, false)},
		{"beyond all files", iomap.Write, 1 << 60, 1, want{err: syscall.EFBIG}},
		{"untorn, two blocks", iomap.Write | iomap.Direct | iomap.Atomic, 0, 2 * block, want{err: syscall.EINVAL}},
		{"untorn, not a block", iomap.Write | iomap.Direct | iomap.Atomic, 512, block, want{err: syscall.EINVAL}},
		{"untorn", iomap.Write | iomap.Direct | iomap.Atomic, 5 * block, block, want{iomap.Mapped, 5, 6, iomap.AtomicBIO, false, 0}},
		// From here on blocks are reserved, so that what comes first changes what follows.
		{"untorn, in a hole", iomap.Write | iomap.Direct | iomap.Atomic, 2 * block, block, unwritten(2, 3, iomap.AtomicBIO|iomap.Dirty, false)},
		{"write", iomap.Write, 9*block + 1, block, unwritten(9, 11, iomap.Dirty, true)},
		{"write what is reserved", iomap.Write, 10 * block, 2 * block, unwritten(9, 11, iomap.Dirty, true)},
		{"read what is reserved", iomap.Read, 10 * block, 9, unwritten(9, 11, iomap.Dirty, true)},
		{"read before it", iomap.Read, 8 * block, 5 * block, hole(8, 9, true)},
		{"read behind it", iomap.Read, 12 * block, 1, hole(11, 16, true)},
		{"report what is reserved", iomap.Report, 10 * block, 9, unwritten(9, 11, iomap.Dirty, false)},
		{"swap on what is reserved", iomap.Report | iomap.SwapFile, 9 * block, size, want{err: syscall.EINVAL}},
		{"write back", iomap.Writeback, 12 * block, block, unwritten(12, 13, iomap.Dirty, true)},
		{"fault", iomap.Write | iomap.Fault, 14 * block, block, unwritten(14, 15, iomap.Dirty, true)},
		{"something new", 1 << 20, 0, block, unwritten(0, 1, iomap.Dirty, true)},
		{"write preallocated blocks", iomap.Write | iomap.Direct, 16 * block, block, unwritten(16, 18, iomap.Dirty, true)},
	}
	for _, c := range cases {
		before := r.cache.stored
		m, kept, err := r.fs.MapOutside(ino, c.off, c.n, c.op, false)
		if c.want.err != 0 || err != nil {
			if !errors.Is(err, c.want.err) || err == nil {
				t.Errorf("%s: %v, want %v", c.name, err, c.want.err)
			}
			continue
		}
		got := want{m.Type, m.Offset / block, (m.Offset + m.Length) / block, m.Flags, kept, 0}
		if got != c.want {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
		}
		if err := r.cache.check(&m); err != nil || !m.Contains(c.off) {
			t.Errorf("%s: %+v: %v", c.name, m, err)
		}
		if kept != (r.cache.stored > before) {
			t.Errorf("%s: %d mappings were stored", c.name, r.cache.stored-before)
		}
		if in, ok := r.cache.find(ino, c.off, c.op); kept && (!ok || in.Type != m.Type || in.Offset != m.Offset || in.Addr != m.Addr) {
			t.Errorf("%s: the cache has %+v instead of %+v", c.name, in, m)
		}
	}
	// A cache that takes nothing gets what was asked for, and nothing beyond.
	r.cache.refuse = syscall.ENOMEM
	m, kept, err := r.fs.MapOutside(ino, 5*block+7, 10, iomap.Write, false)
	if err != nil || kept || m.Offset != 5*block || m.Length != block || m.Type != iomap.Mapped {
		t.Errorf("without a cache: %+v, kept %v, %v", m, kept, err)
	}
	// Uncommitted changes are told, to those who read as well: who writes finds what was stored for them.
	r.cache.refuse = nil
	mode := uint32(0o600)
	r.must(r.fs.SetAttr(ino, ext4.Attr{Mode: &mode}))
	if m, _, err := r.fs.MapOutside(ino, 4*block, 1, iomap.Read, false); err != nil || m.Flags != iomap.Dirty {
		t.Errorf("with a change that is not durable: %+v, %v", m, err)
	}
	for _, err := range []error{
		func() error { _, _, err := r.fs.MapOutside(ext4.RootIno, 0, 1, iomap.Write, false); return err }(),
		func() error { _, _, err := r.fs.MapOutside(4000, 0, 1, iomap.Read, false); return err }(),
		func() error { _, err := r.fs.IOEndOutside(4000, 0, 1, 0); return err }(),
	} {
		if !errors.Is(err, syscall.EISDIR) && !errors.Is(err, syscall.ESTALE) {
			t.Errorf("of what is no file: %v", err)
		}
	}
	r.must(r.fs.Close())
}

// TestOutsideManyPieces maps a file in many pieces for somebody who reads it all.
func TestOutsideManyPieces(t *testing.T) {
	r := newOutsideRig(t, 64<<20, "-t ext4 -b 4096", ext4.Options{})
	ino := r.create("f")
	for i := range uint64(200) {
		r.must(r.direct(ino, make([]byte, 4096), i*8192))
	}
	before := r.cache.stored
	_, kept, err := r.fs.MapOutside(ino, 0, 1<<20, iomap.Read, false)
	if n := r.cache.stored - before; err != nil || !kept || n < 2 || n > 8 {
		t.Errorf("%d mappings were stored for one question, %v", n, err)
	}
	r.finish()
}

// TestOutsideEnd looks at what the end of a write changes.
func TestOutsideEnd(t *testing.T) {
	r := newOutsideRig(t, 64<<20, "-t ext4 -b 4096", ext4.Options{})
	const block = 4096
	ino := r.create("f")
	// ends tells how often the end of a write changes the inode, and what the size is.
	ends := func(off, n uint64) (stores, size uint64) {
		t.Helper()
		before := r.fs.Stores(ino)
		size, err := r.fs.IOEndOutside(ino, off, n, 0)
		r.must(err)
		return r.fs.Stores(ino) - before, size
	}
	maps := func(off, n uint64) {
		t.Helper()
		_, _, err := r.fs.MapOutside(ino, off, n, iomap.Write, false)
		r.must(err)
	}
	step := func(what string, off, n, wantStores, wantSize uint64) {
		t.Helper()
		if stores, size := ends(off, n); stores != wantStores || size != wantSize {
			t.Errorf("%s: %d changes and %d bytes, want %d and %d", what, stores, size, wantStores, wantSize)
		}
	}
	maps(0, 100*block)
	seq := r.fs.Sequence(ino)
	step("the start, up to the middle of a block", 0, 2*block+5, 1, 2*block+5)
	if r.fs.Sequence(ino) == seq {
		t.Error("the map has changed, its number has not")
	}
	step("the same", 0, 2*block+5, 0, 2*block+5)
	step("inside of the same blocks", block, block, 0, 2*block+5)
	step("what is written, longer", 2*block, block, 1, 3*block)
	step("something behind, before what is in between", 50*block, 10*block, 1, 60*block)
	step("all of it, some of which is written", 0, 100*block, 2, 100*block)
	step("what is not there", 200*block, 3*block, 1, 203*block)
	step("nothing", 300*block, 0, 0, 203*block)
	if got := extentsOf(r, ino); got != "0-99" {
		t.Errorf("extents %s", got)
	}
	// What is preallocated is written, and becomes one extent.
	r.must(r.fs.Fallocate(ino, ext4.FallocKeepSize, 100*block, 20*block))
	maps(100*block, 20*block)
	step("preallocated blocks in the middle", 105*block, 5*block, 1, 203*block)
	if got := extentsOf(r, ino); got != "0-99 100-104u 105-109 110-119u" {
		t.Errorf("extents %s", got)
	}
	step("all of them, in two pieces", 100*block, 20*block, 2, 203*block)
	if got := extentsOf(r, ino); got != "0-99 100-119" {
		t.Errorf("extents %s", got)
	}
	// A write that failed changes nothing, and can be done again.
	maps(130*block, block)
	before := r.fs.Stores(ino)
	if size, err := r.fs.IOEndOutside(ino, 130*block, block, syscall.EIO); size != 0 || err != syscall.EIO {
		t.Errorf("a write that failed: %d, %v", size, err)
	}
	if asked, _, _ := r.fs.Reserved(ino); asked != 1 || r.fs.Stores(ino) != before {
		t.Errorf("a write that failed leaves %d blocks reserved", asked)
	}
	step("the same again", 130*block, block, 1, 203*block)
	if _, err := r.fs.IOEndOutside(ino, 1<<63, 1<<63, 0); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("a range that wraps: %v", err)
	}
	// More than 4 GiB at once.
	step("a range beyond 32 bits", 1<<33, 5<<30, 1, 13<<30)
	r.must(r.fs.Truncate(ino, 1<<20))
	r.must(r.fs.Close())
}

// extentsOf lists what backs a file, in blocks.
func extentsOf(r *outsideRig, ino ext4.Ino) string {
	r.t.Helper()
	var list []string
	for off := uint64(0); ; {
		m, _, err := r.fs.MapOutside(ino, off, 1, iomap.Report, false)
		r.must(err)
		off = m.Offset + m.Length
		mark := ""
		switch {
		case m.Type == iomap.Hole && off >= 128*r.bs:
			return strings.Join(list, " ")
		case m.Type == iomap.Hole:
			continue
		case m.Type == iomap.Unwritten:
			mark = "u"
		}
		list = append(list, fmt.Sprintf("%d-%d%s", m.Offset/r.bs, off/r.bs-1, mark))
	}
}

// TestOutsideInlineMappings looks at mappings of files that are inline, and what makes them
// get blocks.
func TestOutsideInlineMappings(t *testing.T) {
	r := newOutsideRig(t, 32<<20, "-t ext4 -b 4096 -I 512 -O inline_data", ext4.Options{})
	for i, c := range []struct {
		off, n uint64
		op     iomap.Op
		typ    iomap.Type
	}{
		{0, 50, iomap.Write, iomap.Inline},
		{10, 50, iomap.Write | iomap.Direct, iomap.Inline},
		{0, 50, iomap.Read, iomap.Inline},
		{0, 1, iomap.Report, iomap.Inline},
		{0, 50, iomap.Zero, iomap.Hole},
		{5000, 50, iomap.Read, iomap.Hole},
		{0, 3000, iomap.Write, iomap.Mapped},
		{5000, 1, iomap.Write, iomap.Unwritten},
		{0, 4096, iomap.Write | iomap.Fault, iomap.Mapped},
		{0, 4096, iomap.Writeback, iomap.Mapped},
		{0, 4096, iomap.Write | iomap.Direct | iomap.Atomic, iomap.Mapped},
	} {
		ino := r.create(fmt.Sprint("f", i))
		data := []byte("inline data, not much of it")
		r.must(r.write(ino, data, 0))
		m, kept, err := r.fs.MapOutside(ino, c.off, c.n, c.op, false)
		r.must(err)
		if m.Type != c.typ || m.Type == iomap.Inline && (m.Offset != 0 || m.Length != 4096 || kept) || !m.Contains(c.off) {
			t.Errorf("op %#x at %d+%d: %+v, kept %v", c.op, c.off, c.n, m, kept)
		}
		if c.typ == iomap.Mapped {
			got := make([]byte, len(data))
			if _, err := r.dev.ReadAt(got, int64(m.Addr)); err != nil || string(got) != string(data) {
				t.Errorf("op %#x at %d+%d: the block has %q, %v", c.op, c.off, c.n, got, err)
			}
		}
		if _, err := r.fs.IOEndOutside(ino, 0, 10, 0); err != nil {
			t.Errorf("the end of a write: %v", err)
		}
	}
	r.finish()
}

// TestOutsideNoWait asks while the inode is locked.
func TestOutsideNoWait(t *testing.T) {
	r := newOutsideRig(t, 32<<20, "-t ext4 -b 4096", ext4.Options{})
	ino := r.create("f")
	r.must(r.direct(ino, make([]byte, 4096), 0))
	for _, op := range []iomap.Op{iomap.NoWait, iomap.NoWait | iomap.Write, iomap.NoWait | iomap.Report} {
		unlock := r.fs.Lock(ino)
		if _, _, err := r.fs.MapOutside(ino, 0, 1, op, false); err != syscall.EAGAIN {
			t.Errorf("op %#x while the inode is locked: %v", op, err)
		}
		unlock()
		if _, _, err := r.fs.MapOutside(ino, 0, 1, op, false); err != nil {
			t.Errorf("op %#x: %v", op, err)
		}
	}
	r.finish()
}

// TestOutsideConcurrent maps, ends, truncates, reports and forgets at the same time.
func TestOutsideConcurrent(t *testing.T) {
	r := newOutsideRig(t, 24<<20, "-t ext4 -b 1024 -J size=1", ext4.Options{CommitInterval: 10 * time.Millisecond})
	ino, other := r.create("f"), r.create("g")
	r.cache.letGo = func(inos []ext4.Ino) error {
		for _, ino := range inos {
			if _, err := r.fs.IOEndOutside(ino, 0, 1<<20, 0); err != nil {
				return err
			}
		}
		return nil
	}
	var wg sync.WaitGroup
	for i := range 6 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(i), 1))
			for range 600 {
				ino := []ext4.Ino{ino, other}[rng.IntN(2)]
				off, n := rng.Uint64N(4<<20), 1+rng.Uint64N(64<<10)
				var err error
				switch rng.IntN(10) {
				case 0, 1, 2:
					op := []iomap.Op{iomap.Write, iomap.Write | iomap.Direct, iomap.Writeback, iomap.Write | iomap.NoWait}[rng.IntN(4)]
					_, _, err = r.fs.MapOutside(ino, off, n, op, false)
				case 3, 4:
					_, _, err = r.fs.MapOutside(ino, off, n, []iomap.Op{iomap.Read, iomap.Report, iomap.Zero}[rng.IntN(3)], false)
				case 5, 6, 7:
					_, err = r.fs.IOEndOutside(ino, off, n, 0)
				case 8:
					if rng.IntN(8) == 0 {
						err = r.fs.Truncate(ino, off)
					} else {
						_, err = r.fs.Stat(ino)
					}
				case 9:
					r.fs.Hold(ino)
					err = r.fs.Unhold(ino, 1)
				}
				if err != nil && !errors.Is(err, syscall.ENOSPC) && !errors.Is(err, syscall.EAGAIN) {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	r.must(r.fs.Unhold(ino, 1))
	r.must(r.fs.Unhold(other, 1))
	for _, ino := range []ext4.Ino{ino, other} {
		if asked, ahead, nodes := r.fs.Reserved(ino); asked+ahead != 0 || nodes != 0 {
			t.Errorf("%d blocks, %d ahead and %d nodes are still reserved", asked, ahead, nodes)
		}
	}
	r.files = nil
	r.close()
}
