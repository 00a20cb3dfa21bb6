package ext4_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"ext4box/ext4"
	"ext4box/iomap"
)

// TestOutsideFull fills the disk to the last block with scattered writes into
// holes, and then has all of them end: what their maps need must be there.
func TestOutsideFull(t *testing.T) {
	for _, s := range []struct {
		name, args string
		size       int64
		uid        uint32
	}{
		{"4k", "-t ext4 -b 4096 -J size=4", 64 << 20, 1000},
		{"1k", "-t ext4 -b 1024 -J size=1", 24 << 20, 1000},
		{"root", "-t ext4 -b 1024 -J size=1", 24 << 20, 0},
		{"indirect", "-t ext4 -b 1024 -O ^extents,^64bit -J size=1", 24 << 20, 0},
		{"indirect, far apart", "-t ext4 -b 1024 -O ^extents,^64bit -J size=1 -N 64", 8 << 20, 0},
		{"clusters", "-t ext4 -b 1024 -O bigalloc -C 4096 -J size=1", 32 << 20, 0},
	} {
		t.Run(s.name, func(t *testing.T) {
			if testing.Short() && s.size > 8<<20 {
				s.size /= 2
			}
			r := newOutsideRig(t, s.size, s.args, ext4.Options{})
			rng := rand.New(rand.NewPCG(3, 4))
			step := 2 * r.bs
			least, far := s.size/int64(step)*7/10, strings.Contains(s.name, "far apart")
			switch {
			case strings.Contains(s.args, "bigalloc"):
				step = 8192
				least = s.size / 8192
			case far:
				step = 1 << 20 // each takes an indirect block, too
				least = s.size / 1024 * 3 / 8
			}
			type write struct {
				ino ext4.Ino
				off uint64
			}
			var writes []write
			data := make([]byte, r.bs)
			full := 0
			for i := 0; full < 3; i++ {
				ino := r.createAs(fmt.Sprint("f", i), s.uid)
				for j := range uint64(3000) {
					m, err := r.lookup(ino, j*step, r.bs, iomap.Write|iomap.Direct)
					if errors.Is(err, syscall.ENOSPC) {
						full++
						break
					}
					r.must(err)
					if m.Type != iomap.Unwritten {
						t.Fatalf("block %d of a hole: %+v", j, m)
					}
					writes = append(writes, write{ino, j * step})
				}
			}
			if int64(len(writes)) < least {
				t.Errorf("only %d blocks could be written", len(writes))
			}
			rng.Shuffle(len(writes), func(i, j int) { writes[i], writes[j] = writes[j], writes[i] })
			for _, w := range writes {
				f := r.file(w.ino)
				m, ok := r.cache.find(w.ino, w.off, iomap.Write)
				if !ok {
					t.Fatalf("the mapping of %d of %s is gone", w.off, f.name)
				}
				data[0] = byte(w.off / step)
				r.must(r.store(w.ino, f, &m, data, w.off, iomap.Write))
				if !far {
					f.put(data, w.off)
				}
			}
			for ino := range r.files {
				if asked, _, nodes := r.fs.Reserved(ino); asked != 0 || nodes != 0 {
					t.Errorf("%d blocks and %d nodes are still reserved", asked, nodes)
				}
			}
			if far {
				r.files = nil // are too long to be compared
				r.close()
				return
			}
			r.finish()
		})
	}
}

// TestOutsideForget counts what is free while blocks are reserved and when they are
// given back.
func TestOutsideForget(t *testing.T) {
	r := newOutsideRig(t, 128<<20, "-t ext4 -b 4096", ext4.Options{})
	free := func() uint64 {
		s, err := r.fs.Statfs()
		r.must(err)
		return s.BlocksFree
	}
	ino := r.create("f")
	before := free()
	for off := uint64(0); off < 40<<10; off += 4096 {
		_, err := r.lookup(ino, off, 4096, iomap.Write)
		r.must(err)
	}
	asked, ahead, nodes := r.fs.Reserved(ino)
	if asked == 0 || ahead == 0 || nodes == 0 || asked > 17 {
		t.Errorf("%d blocks are asked for, %d ahead, %d nodes promised", asked, ahead, nodes)
	}
	if got := before - free(); got != uint64(asked) {
		t.Errorf("%d blocks are taken, %d were asked for", got, asked)
	}
	if st, err := r.fs.Stat(ino); err != nil || st.Blocks != uint64(asked)*8 {
		t.Errorf("%d sectors are in use, %v, %d blocks were asked for", st.Blocks, err, asked)
	}
	r.fs.Hold(ino)
	r.must(r.fs.Unhold(ino, 1))
	if a, b, _ := r.fs.Reserved(ino); a != asked || b != ahead {
		t.Errorf("with one of two lookups gone %d blocks are reserved, %d ahead", a, b)
	}
	r.fs.ForgetOutside(ino)
	if a, _, _ := r.fs.Reserved(ino); a != asked {
		t.Error("what is in use was forgotten")
	}
	r.must(r.fs.End(ino, 0, 1<<20))
	if a, b, _ := r.fs.Reserved(ino); a != asked || b != ahead {
		t.Error("the end of a write gives back what others may have mappings of")
	}
	r.must(r.fs.Unhold(ino, 1))
	if a, b, n := r.fs.Reserved(ino); a+b != 0 || n != 0 || free() != before {
		t.Errorf("after it was forgotten %d blocks are reserved, %d ahead, %d nodes; %d are free, %d were", a, b, n, free(), before)
	}
	delete(r.files, ino)
	r.finish()
}

// TestOutsideStays evicts an inode from memory, which must not lose what is
// reserved.
func TestOutsideStays(t *testing.T) {
	r := newOutsideRig(t, 256<<20, "-t ext4 -b 4096 -N 100000", ext4.Options{})
	ino := r.create("f")
	r.truncate(ino, 1<<20)
	r.must(r.write(ino, []byte("data"), 0))
	dir, err := r.fs.Create(ext4.RootIno, "d", ext4.NewNode{Mode: syscall.S_IFDIR | 0o755})
	r.must(err)
	for i := range 90000 {
		_, err := r.fs.Create(dir, fmt.Sprint(i), ext4.NewNode{Mode: syscall.S_IFREG | 0o644})
		r.must(err)
	}
	runtime.GC()
	if asked, _, _ := r.fs.Reserved(ino); asked != 1 {
		t.Errorf("of a block that is dirty %d are reserved", asked)
	}
	r.must(r.writeBack(ino))
	r.finish()
}

// streamed makes a file with blocks ahead of its end, by writing some at a time, and
// tells how many blocks that are.
func (r *outsideRig) streamed(name string, blocks uint64) (ino ext4.Ino, ahead int64) {
	r.t.Helper()
	ino = r.createAs(name, 1000)
	for j := range blocks {
		data := make([]byte, r.bs)
		data[0], data[1] = byte(ino), byte(j)
		r.must(r.write(ino, data, j*r.bs))
	}
	_, ahead, _ = r.fs.Reserved(ino)
	return ino, ahead
}

// fill writes to a new file, of somebody without privileges, until there is no space,
// and tells how many blocks that took.
func (r *outsideRig) fill(name string) (ino ext4.Ino, blocks uint64) {
	r.t.Helper()
	ino = r.createAs(name, 1000)
	for data := make([]byte, r.bs); ; blocks++ {
		data[0], data[1] = byte(blocks), byte(blocks>>8)
		err := r.write(ino, data, blocks*r.bs)
		if errors.Is(err, syscall.ENOSPC) {
			return ino, blocks
		}
		r.must(err)
	}
}

// promised is how many blocks are kept back for nodes of maps.
func (r *outsideRig) promised() (nodes uint64) {
	for ino := range r.files {
		_, _, n := r.fs.Reserved(ino)
		nodes += uint64(n)
	}
	return nodes
}

// TestOutsidePressure has files with blocks ahead of their ends while others need
// space: what nobody uses comes back, what is in use does not.
func TestOutsidePressure(t *testing.T) {
	r := newOutsideRig(t, 64<<20, "-t ext4 -b 4096 -J size=4", ext4.Options{})
	held, heldAhead := r.streamed("held", 20)
	var inos []ext4.Ino
	total := int64(0)
	for i := range 40 {
		ino, ahead := r.streamed(fmt.Sprint("f", i), 20)
		inos, total = append(inos, ino), total+ahead
		r.done(ino)
	}
	if total == 0 || heldAhead == 0 {
		t.Fatal("nothing is reserved ahead")
	}
	s, err := r.fs.Statfs()
	r.must(err)
	big, filled := r.fill("big")
	// Of what is ahead three blocks of each file were written to, which nobody could know.
	if got := filled + r.promised() + uint64(heldAhead) + 3*uint64(len(inos)); got < s.BlocksAvail {
		t.Errorf("%d blocks could be written when %d were free; %d are ahead of who uses them, %d promised", filled, s.BlocksAvail, heldAhead, r.promised())
	}
	for _, ino := range inos {
		if _, ahead, _ := r.fs.Reserved(ino); ahead != 0 {
			t.Errorf("%d blocks are ahead in a file that nobody uses", ahead)
		}
	}
	if _, ahead, _ := r.fs.Reserved(held); ahead != heldAhead {
		t.Errorf("of %d blocks ahead of who may be writing there %d are left", heldAhead, ahead)
	}
	// What nobody else can have is not free.
	if s, err = r.fs.Statfs(); err != nil || s.BlocksAvail > r.promised() {
		t.Errorf("%d blocks are free when there is no space, of which %d are promised; %v", s.BlocksAvail, r.promised(), err)
	}
	// All of them go on.
	r.truncate(big, 20<<20)
	for _, ino := range append(inos, held) {
		r.reopen(ino)
		for j := range uint64(30) {
			r.must(r.write(ino, append([]byte{byte(ino), byte(j)}, make([]byte, 4094)...), (20+j)*4096))
		}
	}
	r.finish()
}

// TestOutsideAlone: a file that is the only one that grows gets all there is, though it
// is in use all the time.
func TestOutsideAlone(t *testing.T) {
	r := newOutsideRig(t, 64<<20, "-t ext4 -b 4096 -J size=4", ext4.Options{})
	s, err := r.fs.Statfs()
	r.must(err)
	_, filled := r.fill("big")
	if filled+r.promised() < s.BlocksAvail {
		t.Errorf("%d blocks could be written when %d were free; %d are promised", filled, s.BlocksAvail, r.promised())
	}
	if s, err = r.fs.Statfs(); err != nil || s.BlocksAvail > r.promised() {
		t.Errorf("%d blocks are free, %v", s.BlocksAvail, err)
	}
	r.finish()
}

// TestOutsideAskedBack looks at what is not given back when space is short.
func TestOutsideAskedBack(t *testing.T) {
	for _, c := range []struct {
		name  string
		setup func(r *outsideRig, ino ext4.Ino)
		left  bool
		again bool // it is asked for each time
	}{
		{"nobody uses it", func(r *outsideRig, ino ext4.Ino) { r.done(ino) }, false, false},
		{"it is in use", func(*outsideRig, ext4.Ino) {}, true, true},
		{"two have looked it up", func(r *outsideRig, ino ext4.Ino) { r.fs.Hold(ino); r.done(ino) }, true, true},
		{"it cannot be asked for", func(r *outsideRig, _ ext4.Ino) {
			r.cache.letGo = func([]ext4.Ino) error { return syscall.EINVAL }
		}, true, false},
		{"asking fails", func(r *outsideRig, _ ext4.Ino) {
			r.cache.letGo = func([]ext4.Ino) error { return syscall.ENOTCONN }
		}, true, true},
		{"it takes some time", func(r *outsideRig, ino ext4.Ino) {
			r.done(ino)
			r.cache.letGo = func(inos []ext4.Ino) error {
				go func() { r.must(r.letGo(inos)) }()
				return nil
			}
		}, false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newOutsideRig(t, 32<<20, "-t ext4 -b 4096 -J size=4", ext4.Options{})
			ino, before := r.streamed("streamed", 3)
			if before == 0 {
				t.Fatal("nothing is ahead")
			}
			c.setup(r, ino)
			big, filled := r.fill("big")
			if _, ahead, _ := r.fs.Reserved(ino); (ahead > 0) != c.left {
				t.Errorf("of %d blocks ahead %d are left", before, ahead)
			}
			asked := r.cache.asked
			if err := r.write(big, make([]byte, 4096), filled*4096); !errors.Is(err, syscall.ENOSPC) {
				t.Errorf("a full filesystem: %v", err)
			}
			if asked == 0 || (r.cache.asked > asked) != c.again {
				t.Errorf("asked %d times, then %d", asked, r.cache.asked)
			}
			if c.left {
				// Who has it all needs more: that file is not asked for.
				asked = r.cache.asked
				if err := r.write(ino, make([]byte, 4096), 8<<20); !errors.Is(err, syscall.ENOSPC) || r.cache.asked != asked {
					t.Errorf("a write to the file itself: %v; asked %d times, then %d", err, asked, r.cache.asked)
				}
			}
			r.reopen(ino)
			r.finish()
		})
	}
}

// TestOutsideShares bounds what is ahead of writes, of one file and of all of them.
func TestOutsideShares(t *testing.T) {
	r := newOutsideRig(t, 256<<20, "-t ext4 -b 4096 -J size=4", ext4.Options{})
	s, err := r.fs.Statfs()
	r.must(err)
	sum := int64(0)
	for i := range 6 {
		ino := r.create(fmt.Sprint("f", i))
		ahead := int64(0)
		for off := uint64(0); off < 18<<20; {
			m, _, err := r.fs.MapOutside(ino, off, 4096, iomap.Write, false)
			r.must(err)
			off = m.Offset + m.Length
			_, ahead, _ = r.fs.Reserved(ino)
		}
		if sum += ahead; ahead > int64(s.BlocksAvail)/8 {
			t.Errorf("%d blocks of %d are ahead in one file", ahead, s.BlocksAvail)
		}
		if ahead == 0 && i < 3 {
			t.Errorf("file %d has nothing ahead", i)
		}
	}
	if sum > int64(s.BlocksAvail)/4 || sum < int64(s.BlocksAvail)/16 {
		t.Errorf("%d blocks of %d are ahead", sum, s.BlocksAvail)
	}
	r.must(r.fs.Close())
}

// TestOutsideMany has more files with blocks ahead than there may be. Those that nobody
// uses are asked for in time, so that others can have some.
func TestOutsideMany(t *testing.T) {
	const limit = 1024
	r := newOutsideRig(t, 512<<20, "-t ext4 -b 1024 -J size=4 -N 4096", ext4.Options{})
	var inos []ext4.Ino
	some := 0
	for i := range limit + 100 {
		ino, ahead := r.streamed(fmt.Sprint("f", i), 2)
		if inos = append(inos, ino); ahead > 0 {
			some++
		}
	}
	if some != limit || r.cache.asked != 0 {
		t.Errorf("%d files have blocks ahead; asked for %d times, when all were used just now", some, r.cache.asked)
	}
	for _, ino := range inos {
		r.done(ino)
	}
	r.fs.AgeAhead()
	if _, ahead := r.streamed("first", 2); ahead != 0 {
		t.Error("one more than may be")
	}
	r.fs.AwaitAsked()
	if r.cache.asked != 1 {
		t.Errorf("asked %d times", r.cache.asked)
	}
	if _, ahead := r.streamed("second", 2); ahead == 0 {
		t.Error("nothing is ahead, though nobody uses the others")
	}
	for _, ino := range inos {
		if _, ahead, _ := r.fs.Reserved(ino); ahead != 0 {
			t.Fatalf("%d blocks are ahead in a file that nobody uses", ahead)
		}
		r.reopen(ino)
	}
	r.close()
}

// TestOutsideQuota has a limit of quota bite when blocks are reserved, and nothing
// reserved beyond what is asked for.
func TestOutsideQuota(t *testing.T) {
	r := newOutsideRig(t, 64<<20, "-t ext4 -b 4096 -O quota -E quotatype=usrquota", ext4.Options{UserQuota: true})
	ino := r.createAs("f", 1000)
	r.must(r.fs.SetQuotaLimits(ext4.UserQuota, 1000, ext4.Quota{SpaceHard: 400 << 10}))
	data := make([]byte, 4096)
	got := uint64(0)
	for ; got < 200; got++ {
		_, _, err := r.fs.MapOutside(ino, got*4096, 4096, iomap.Write, true)
		if errors.Is(err, syscall.EDQUOT) {
			break
		}
		r.must(err)
		if _, ahead, _ := r.fs.Reserved(ino); ahead != 0 {
			t.Fatalf("%d blocks are reserved that count for the limit", ahead)
		}
	}
	if got != 100 {
		t.Errorf("%d blocks could be mapped", got)
	}
	// What is written back is no longer somebody's with limits.
	r.must(r.write(ino, data, got*4096))
	r.close()
}
