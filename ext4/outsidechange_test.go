package ext4_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"ext4box/blockdev"
	"ext4box/blockdev/blocktest"
	"ext4box/ext4"
	"ext4box/internal/testimage"
	"ext4box/iomap"
)

// TestOutsideTruncate: blocks of which a part is beyond the end are not touched, pending
// ones below it stay where they are, others are given back, and times are somebody
// else's.
func TestOutsideTruncate(t *testing.T) {
	for name, args := range outsideKinds {
		t.Run(name, func(t *testing.T) {
			r := newChangeRig(t, 32<<20, args)
			bs := r.bs
			free := r.free()
			ino := r.create("f")
			past := time.Unix(1e9, 5)
			m := r.fill(ino, 0, 4, 'a')
			p := r.begin(ino, 4, 12)
			r.must(r.SetAttr(ino, ext4.Attr{Mtime: &past, Ctime: &past, Verbatim: true}))

			// Growing: the last block is full, and its successors are pending.
			r.must(r.Truncate(ino, 6*bs+7))
			r.size(ino, 6*bs+7)
			r.stays(ino, 4, p[:3])
			if got := r.types(ino, 16); got != "MMMMUUU---------" {
				t.Errorf("after growing the file is mapped %s", got)
			}
			// Shrinking, into a pending block and into a written one.
			r.must(r.Truncate(ino, 5*bs-1))
			r.stays(ino, 4, p[:1])
			r.put(p[0], 'b')
			if size, err := r.IOEndOutside(ino, 4*bs, bs-1, 0); err != nil || size != 5*bs-1 {
				t.Errorf("writing it: %d, %v", size, err)
			}
			r.has(p[0], strings.Repeat("b", int(bs)))
			r.must(r.Truncate(ino, 2*bs+100))
			r.has(m[2], strings.Repeat("a", int(bs)))
			if got := r.types(ino, 8); got != "MMM-----" {
				t.Errorf("the file is mapped %s", got)
			}
			r.dropsNothing()
			r.must(r.Truncate(ino, 2*bs+200))
			if d := r.cache.take(); !slices.Equal(d, []drop{{ino, 2 * bs, bs}}) {
				t.Errorf("taken back: %+v; now the block at the end needs the size to be committed", d)
			}
			r.has(m[2], strings.Repeat("a", int(bs)))
			r.size(ino, 2*bs+200)
			if st, err := r.Stat(ino); err != nil || !st.Mtime.Equal(past) || !st.Ctime.Equal(past) {
				t.Errorf("times: %+v, %v", st, err)
			}
			r.dropsNothing()
			r.must(r.Truncate(ino, 0))
			if got := r.free(); got != free {
				t.Errorf("%d blocks free with nothing in the file, %d before", got, free)
			}
			r.finish()
		})
	}
}

// TestOutsideTruncateFails: mappings are taken back when it is not known how far a
// change has got.
func TestOutsideTruncateFails(t *testing.T) {
	r := newChangeRig(t, 32<<20, "-t ext4 -b 1024")
	ino := r.create("f")
	for i := range uint64(12) {
		r.fill(ino, 2*i, 1, 'a')
	}
	r.must(r.Close())
	dev := blocktest.NewFailing(r.mem)
	fs, err := ext4.Open(dev, ext4.Options{})
	r.must(err)
	fs.MoveOutside(r.cache)
	r.cache.take()
	if _, err := fs.Stat(ino); err != nil {
		t.Fatal(err)
	}
	// The tree, which is not in the inode, cannot be read.
	dev.FailNth(blocktest.Read, 1, &blockdev.Error{Op: "read", Err: syscall.EIO})
	if err := fs.Truncate(ino, 5*1024+1); err == nil {
		t.Fatal("the tree was not read")
	}
	if d := r.cache.take(); len(d) != 1 || d[0] != (drop{ino, 5 * 1024, iomap.ToEOF}) {
		t.Errorf("taken back: %+v", d)
	}
	fs.Close()
}

// TestOutsideFallocate goes through the modes.
func TestOutsideFallocate(t *testing.T) {
	for name, args := range outsideKinds {
		t.Run(name, func(t *testing.T) {
			r := newChangeRig(t, 32<<20, args)
			bs := r.bs
			extents := name != "indirect"
			past := time.Unix(1e9, 5)
			ino := r.create("f")
			m := r.fill(ino, 0, 8, 'a')
			p := r.begin(ino, 8, 16)
			r.must(r.SetAttr(ino, ext4.Attr{Mtime: &past, Ctime: &past, Verbatim: true}))

			// A hole from the middle of a block to the middle of another, and one at what
			// is pending, of which what remains is as it was.
			r.must(r.Fallocate(ino, ext4.FallocPunchHole|ext4.FallocKeepSize, bs+1, 2*bs))
			r.has(m[1], strings.Repeat("a", int(bs)))
			r.has(m[3], strings.Repeat("a", int(bs)))
			r.must(r.Fallocate(ino, ext4.FallocPunchHole|ext4.FallocKeepSize, 10*bs-1, 2*bs+2))
			if got := r.types(ino, 24); got != "MM-MMMMMUU--UUUUUUUUUUUU" {
				t.Errorf("with holes the file is mapped %s", got)
			}
			r.stays(ino, 8, p[:2])
			r.stays(ino, 12, p[4:])
			r.size(ino, 8*bs)
			r.dropsNothing()

			// Preallocation makes pending blocks part of the file where they are.
			err := r.Fallocate(ino, 0, 8*bs+5, 10*bs)
			if !extents {
				if !errors.Is(err, syscall.EOPNOTSUPP) {
					t.Errorf("preallocation without extents: %v", err)
				}
				if err := r.Fallocate(ino, ext4.FallocZeroRange, 0, bs); !errors.Is(err, syscall.EOPNOTSUPP) {
					t.Errorf("zeroing without extents: %v", err)
				}
				r.cache.take()
				if got := r.types(ino, 8); got != "MM-MMMMM" {
					t.Errorf("the file is mapped %s", got)
				}
				r.finish()
				return
			}
			r.must(err)
			r.size(ino, 18*bs+5)
			if got := r.types(ino, 19); got != "MM-MMMMMUUUUUUUUUUU" {
				t.Errorf("the file is mapped %s", got)
			}
			r.stays(ino, 12, p[4:])
			r.put(p[5], 'b')
			if size, err := r.IOEndOutside(ino, 13*bs, bs, 0); err != nil || size != 18*bs+5 {
				t.Errorf("data that was on its way there: %d, %v", size, err)
			}
			// Zeroing keeps blocks where they are.
			r.must(r.Fallocate(ino, ext4.FallocZeroRange|ext4.FallocKeepSize, 3*bs+1, 2*bs))
			r.has(m[3], strings.Repeat("a", int(bs)))
			r.has(m[5], strings.Repeat("a", int(bs)))
			if typ, at := r.at(ino, 4); typ != iomap.Unwritten || at != m[4] {
				t.Errorf("the block that was zeroed is at %d with type %d, not at %d", at, typ, m[4])
			}
			if got := r.types(ino, 19); got != "MM-MUMMMUUUUUMUUUUU" {
				t.Errorf("the file is mapped %s", got)
			}
			// What is pending behind it stays so, and the size grows.
			r.must(r.Fallocate(ino, ext4.FallocZeroRange, 17*bs, 3*bs+1))
			r.size(ino, 20*bs+1)
			r.must(r.Fallocate(ino, ext4.FallocKeepSize, 0, 3*bs))
			if got := r.types(ino, 24); got != "MMUMUMMMUUUUUMUUUUUUUUUU" {
				t.Errorf("the file is mapped %s", got)
			}
			r.stays(ino, 21, p[13:])
			for _, mode := range []uint32{ext4.FallocCollapseRange, ext4.FallocInsertRange} {
				if err := r.Fallocate(ino, mode, 0, 16*bs); !errors.Is(err, syscall.EOPNOTSUPP) {
					t.Errorf("mode %#x: %v", mode, err)
				}
			}
			if st, err := r.Stat(ino); err != nil || !st.Mtime.Equal(past) || !st.Ctime.Equal(past) {
				t.Errorf("times: %+v, %v", st, err)
			}
			r.dropsNothing()
			r.finish()
		})
	}
}

// TestOutsideClusters frees what a file has of a cluster, all but blocks to which data is
// on its way.
func TestOutsideClusters(t *testing.T) {
	r := newChangeRig(t, 32<<20, outsideKinds["bigalloc"]) // 16 blocks in a cluster
	for name, change := range map[string]func(ino ext4.Ino) error{
		"truncate": func(ino ext4.Ino) error { return r.Truncate(ino, 19*r.bs) },
		"punch": func(ino ext4.Ino) error {
			return r.Fallocate(ino, ext4.FallocPunchHole|ext4.FallocKeepSize, 19*r.bs, 3*r.bs)
		},
		"both": func(ino ext4.Ino) error {
			return r.Fallocate(ino, ext4.FallocPunchHole|ext4.FallocKeepSize, 19*r.bs, 30*r.bs)
		},
	} {
		free := r.free()
		ino := r.create(name)
		front := r.begin(ino, 18, 1)
		r.fill(ino, 20, 1, 'a')
		behind := r.begin(ino, 22, 1)
		r.fill(ino, 50, 1, 'a')
		last := r.begin(ino, 49, 1)
		r.must(change(ino))
		r.must(r.Sync())
		r.stays(ino, 18, front)
		want := map[string]string{"truncate": "U--------------", "punch": "U---U----------", "both": "U--------------"}[name]
		if got := r.types(ino, 33)[18:]; got != want {
			t.Errorf("%s: mapped %s from block 18 on, want %s", name, got, want)
		}
		for blk, addrs := range map[uint64][]uint64{18: front, 22: behind, 49: last} {
			if typ, _ := r.at(ino, blk); typ == iomap.Hole {
				continue
			}
			r.put(addrs[0], 'b')
			if _, err := r.IOEndOutside(ino, blk*r.bs, r.bs, 0); err != nil {
				t.Errorf("%s: data on its way to block %d: %v", name, blk, err)
			}
			if typ, at := r.at(ino, blk); typ != iomap.Mapped || at != addrs[0] {
				t.Errorf("%s: block %d is at %d with type %d, not at %d", name, blk, at, typ, addrs[0])
			}
		}
		r.must(r.Sync())
		fs, err := ext4.Open(r.mem.Clone(), ext4.Options{})
		r.must(err)
		r.must(fs.Close())
		r.must(r.Truncate(ino, 0))
		if got := r.free(); got != free {
			t.Errorf("%s: %d blocks free, %d before", name, got, free)
		}
	}
	r.finish()
}

// TestOutsidePunchBeyondSize: the size on disk says nothing about what the kernel has.
func TestOutsidePunchBeyondSize(t *testing.T) {
	r := newChangeRig(t, 32<<20, "-t ext4")
	ino := r.create("f")
	r.must(r.Fallocate(ino, ext4.FallocKeepSize, 0, 8*r.bs))
	r.must(r.Fallocate(ino, ext4.FallocKeepSize|ext4.FallocPunchHole, 2*r.bs, 2*r.bs))
	if got := r.types(ino, 8); got != "UU--UUUU" {
		t.Errorf("the file is mapped %s", got)
	}
	r.finish()
}

// TestOutsideFallocateFails: what cannot be done as a whole, for lack of space, stays done in
// part, and mappings are taken back.
func TestOutsideFallocateFails(t *testing.T) {
	r := newChangeRig(t, 8<<20, "-t ext4 -b 1024")
	ino := r.create("f")
	r.fill(ino, 0, 4, 'a')
	if err := r.Fallocate(ino, 0, r.bs+1, 16<<20); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("more than there is: %v", err)
	}
	if d := r.cache.take(); len(d) == 0 || d[0] != (drop{ino, r.bs, 16<<20 + r.bs}) {
		t.Errorf("taken back: %+v", d)
	}
	r.size(ino, 4*r.bs)
	r.must(r.Truncate(ino, 4*r.bs))
	if got := r.types(ino, 6); got != "MMMM--" {
		t.Errorf("the file is mapped %s", got)
	}
	r.finish()
}

// TestOutsideFallocateCrash: what an extending preallocation says of the size is durable
// when it says so, and no crash leaves an image that e2fsck finds fault with.
func TestOutsideFallocateCrash(t *testing.T) {
	path := filepath.Join(t.TempDir(), "img")
	mke2fs(t, path, 16<<20, "-t", "ext4", "-b", "1024", "-J", "size=1")
	base, err := blocktest.LoadMem(path)
	if err != nil {
		t.Fatal(err)
	}
	dev := blocktest.NewRecording(base, base.Size(), new(blocktest.Clock))
	fs, err := ext4.Open(dev, ext4.Options{CommitInterval: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	fs.MoveOutside(&dropped{})
	ino, err := fs.Create(ext4.RootIno, "f", ext4.NewNode{Mode: syscall.S_IFREG | 0o644})
	if err == nil {
		err = fs.Sync()
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := fs.MapOutside(ino, 5000, 9000, iomap.Write, false); err != nil {
		t.Fatal(err)
	}
	if err := fs.Fallocate(ino, 0, 1000, 1<<20); err != nil {
		t.Fatal(err)
	}
	if err := fs.Fsync(ino); err != nil {
		t.Fatal(err)
	}
	certain := dev.Now()
	if err := fs.Truncate(ino, 100); err != nil {
		t.Fatal(err)
	}
	if err := fs.Fallocate(ino, ext4.FallocZeroRange, 50, 3<<20); err != nil {
		t.Fatal(err)
	}
	if err := fs.Sync(); err != nil {
		t.Fatal(err)
	}
	h := dev.History()
	sizes := map[int64]int{}
	for crash := range h.Samples(60, 7) {
		mem := crash.Image()
		again, err := ext4.Open(mem, ext4.Options{})
		if err != nil {
			t.Fatalf("%v: %v", crash, err)
		}
		found, err := again.Lookup(ext4.RootIno, "f")
		if err != nil {
			again.Close()
			continue // from before it was made
		}
		st, err := again.Stat(found)
		if err != nil || crash.Cut >= certain && st.Size != 1000+1<<20 && st.Size != 100 && st.Size != 50+3<<20 {
			t.Errorf("%v: size %d, %v", crash, st.Size, err)
		}
		sizes[st.Size]++
		if err := again.Close(); err != nil {
			t.Errorf("%v: %v", crash, err)
		}
		fsck(t, copied(t, mem))
	}
	if len(sizes) < 2 {
		t.Errorf("the crashes leave the sizes %v only", sizes)
	}
	if st, _ := fs.Stat(ino); st.Size != 50+3<<20 {
		t.Errorf("size %d", st.Size)
	}
	fs.Close()
}

// TestOutsideInline: content that is in its inode, which the kernel hands over to be
// written, and which moves to a block when it does not fit.
func TestOutsideInline(t *testing.T) {
	r := newChangeRig(t, 16<<20, "-t ext4 -O inline_data -I 256")
	ino := r.create("f")
	past := time.Unix(1e9, 5)
	r.must(r.WriteInline(ino, []byte("hello, world"), 0))
	r.size(ino, 12)
	r.must(r.SetAttr(ino, ext4.Attr{Mtime: &past, Ctime: &past, Verbatim: true}))
	content := func(want string) {
		t.Helper()
		got := make([]byte, len(want)+1)
		if n, _ := r.ReadAt(ino, got, 0); string(got[:n]) != want {
			t.Errorf("content %q, want %q", got[:n], want)
		}
	}
	r.must(r.Truncate(ino, 5))
	content("hello")
	r.must(r.Truncate(ino, 8))
	content("hello\x00\x00\x00")
	r.must(r.WriteInline(ino, []byte("!"), 5))
	content("hello!\x00\x00")
	if typ, _ := r.at(ino, 0); typ != iomap.Inline {
		t.Errorf("mapped with type %d", typ)
	}
	if st, err := r.Stat(ino); err != nil || !st.Mtime.Equal(past) || !st.Ctime.Equal(past) {
		t.Errorf("times: %+v, %v", st, err)
	}
	// Beyond the inode: the rest of the block is the kernel's to clear, and clear here.
	r.must(r.Truncate(ino, 3*r.bs))
	r.size(ino, 3*r.bs)
	if got := r.types(ino, 3); got != "M--" {
		t.Errorf("mapped %s", got)
	}
	_, addr := r.at(ino, 0)
	r.has(addr, "hello!"+strings.Repeat("\x00", int(r.bs)-6))
	if err := r.WriteInline(ino, []byte("late"), 0); !errors.Is(err, syscall.ESTALE) {
		t.Errorf("written inline: %v", err)
	}

	other := r.create("g")
	r.must(r.WriteInline(other, []byte("hello, world"), 0))
	r.must(r.Fallocate(other, ext4.FallocKeepSize, 0, 2*r.bs))
	if got := r.types(other, 2); got != "MU" {
		t.Errorf("after preallocation mapped %s", got)
	}
	r.size(other, 12)
	third := r.create("h")
	r.must(r.WriteInline(third, []byte("hello, world"), 0))
	r.must(r.Fallocate(third, ext4.FallocKeepSize|ext4.FallocPunchHole, 2, 5))
	if got := r.types(third, 1); got != "M" {
		t.Errorf("after a hole in a part mapped %s", got)
	}
	_, addr = r.at(third, 0)
	r.has(addr, "hello, world\x00")
	r.finish()
}

// TestOutsideWaitsUnlocked: an operation for which there is no room waits for what is
// being deleted, without keeping others from the file meanwhile.
func TestOutsideWaitsUnlocked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newChangeRig(t, 16<<20, "-t ext4 -b 1024 -O ^orphan_file")
		ino, victim := r.create("f"), r.create("victim")
		r.fill(ino, 0, 1, 'a')
		r.must(r.Fallocate(victim, 0, 0, 6<<20))
		r.must(r.Unlink(ext4.RootIno, "victim"))
		r.must(r.Sync())
		s, err := r.Statfs()
		r.must(err)
		done := make(chan error, 1)
		go func() { done <- r.Fallocate(ino, 0, 0, (s.BlocksAvail+1000)*r.bs) }()
		synctest.Wait() // it sleeps
		select {
		case err := <-done:
			t.Fatalf("did not wait: %v", err)
		default:
		}
		if _, err := r.IOEndOutside(ino, 0, r.bs, 0); err != nil {
			t.Error(err)
		}
		r.must(r.Unhold(victim, 1))
		if err := <-done; err != nil {
			t.Errorf("in spite of what was deleted: %v", err)
		}
		r.finish()
	})
}

// clear zeros a part of a file as the kernel does, in its page cache: only where there
// is data.
func (r *changeRig) clear(ino ext4.Ino, off, end uint64) {
	r.t.Helper()
	for off < end {
		n := min(end, off/r.bs*r.bs+r.bs) - off
		if typ, at := r.at(ino, off/r.bs); typ == iomap.Mapped {
			_, err := r.mem.WriteAt(make([]byte, n), int64(at+off%r.bs))
			r.must(err)
		}
		off += n
	}
}

// TestOutsideEqualsKernel does the same to files by the kernel's ext4, and by the engine
// with what the kernel does in its page cache added; they must come out alike.
func TestOutsideEqualsKernel(t *testing.T) {
	testimage.RequireRoot(t)
	const keep, punch, zero = ext4.FallocKeepSize, ext4.FallocPunchHole | ext4.FallocKeepSize, ext4.FallocZeroRange
	const truncate = ^uint32(0)
	type step struct {
		mode   uint32
		off, n uint64 // in bytes, with blocks of 4096
	}
	cases := [][]step{
		{{punch, 5000, 9000}},
		{{punch, 4096, 8192}, {0, 0, 40000}},
		{{punch, 4100, 10}},
		{{punch, 30000, 1 << 20}, {0, 20000, 30000}},
		{{zero, 5000, 9000}},
		{{zero, 30000, 10000}},
		{{zero | keep, 30000, 10000}, {truncate, 50000, 0}},
		{{zero, 100, 200}, {zero, 8192, 4096}},
		{{0, 100000, 5000}, {punch, 90000, 12000}, {truncate, 102000, 0}},
		{{keep, 20000, 100000}, {truncate, 60001, 0}, {truncate, 70002, 0}},
		{{keep, 20000, 100000}, {truncate, 32768, 0}},
		{{truncate, 10001, 0}, {truncate, 20002, 0}, {0, 10000, 5}},
		{{truncate, 0, 0}, {0, 1, 1}},
	}
	for name, args := range map[string]string{"extents": "-t ext4", "1k": "-t ext4 -b 1024", "bigalloc": "-t ext4 -O bigalloc"} {
		t.Run(name, func(t *testing.T) {
			r := newChangeRig(t, 64<<20, args)
			const length = 32768
			blocks := length / r.bs
			for i, steps := range cases {
				ino := r.create(fmt.Sprint("engine", i))
				r.fill(ino, 0, blocks, 'a')
				size := uint64(length)
				for _, s := range steps {
					end := s.off + s.n
					switch s.mode {
					case truncate:
						lo, hi := min(size, s.off), (max(size, s.off)+r.bs-1)/r.bs*r.bs
						r.clear(ino, lo, min(hi, (lo+r.bs-1)/r.bs*r.bs))
						r.must(r.Truncate(ino, s.off))
						size = s.off
						continue
					}
					r.must(r.Fallocate(ino, s.mode, s.off, s.n))
					if s.mode&(punch&^keep|zero) != 0 {
						r.clear(ino, s.off, min(end, (s.off+r.bs-1)/r.bs*r.bs))
						r.clear(ino, max(s.off, end/r.bs*r.bs), end)
					}
					if s.mode&keep == 0 && end > size {
						r.clear(ino, size, end)
						size = end
					}
				}
				r.size(ino, size)
			}
			r.finish()
			m := testimage.MountRW(t, &testimage.Image{Path: copied(t, r.mem)}, "")
			for i, steps := range cases {
				f, err := os.Create(filepath.Join(m.Dir, fmt.Sprint("kernel", i)))
				r.must(err)
				_, err = f.Write(bytes.Repeat([]byte("a"), length))
				r.must(errors.Join(err, f.Sync()))
				for _, s := range steps {
					if s.mode == truncate {
						r.must(f.Truncate(int64(s.off)))
					} else {
						r.must(unix.Fallocate(int(f.Fd()), s.mode, int64(s.off), int64(s.n)))
					}
				}
				r.must(errors.Join(f.Sync(), f.Close()))
				var got, want unix.Stat_t
				ours, theirs := filepath.Join(m.Dir, fmt.Sprint("engine", i)), f.Name()
				r.must(errors.Join(unix.Stat(ours, &got), unix.Stat(theirs, &want)))
				if got.Size != want.Size || got.Blocks != want.Blocks {
					t.Errorf("%v: size %d with %d sectors, the kernel has %d with %d", steps, got.Size, got.Blocks, want.Size, want.Blocks)
				}
				a, err := os.ReadFile(ours)
				r.must(err)
				b, err := os.ReadFile(theirs)
				r.must(err)
				if !bytes.Equal(a, b) {
					t.Errorf("%v: the content differs", steps)
				}
			}
			r.must(m.Unmount())
		})
	}
}
