package balloc

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"syscall"
	"testing"

	"pgregory.net/rapid"

	"ext4box/blockdev/blocktest"
	"ext4box/ext4/internal/buffer"
	"ext4box/ext4/internal/buffer/buffertest"
	"ext4box/ext4/internal/disk"
)

// What the model knows of a cluster or an inode.
type state uint8

const (
	isFree state = iota
	isPending
	isUsed
	isWaiting // freed and not committed
)

// model is a naive allocator's view: a state for every block and inode.
type model struct {
	blocks []state
	free   int    // isFree blocks
	inodes []bool // in use
	ifree  int
}

func (f *fixture) model() *model {
	m := &model{blocks: make([]state, f.geo.BlocksCount), inodes: make([]bool, f.geo.InodesCount+1)}
	free := f.dumpe2fs()
	for b := range m.blocks {
		m.blocks[b] = isUsed
		if free.blocks.Test(uint32(b)) {
			m.blocks[b] = isFree
			m.free++
		}
	}
	for i := range m.inodes { // number 0 is not free either
		if m.inodes[i] = !free.inodes.Test(uint32(i)); !m.inodes[i] {
			m.ifree++
		}
	}
	return m
}

func (m *model) move(r Run, from, to state) error {
	for b := r.Start; b < r.End(); b++ {
		if m.blocks[b] != from {
			return fmt.Errorf("block %d of %+v is in state %d, not %d", b, r, m.blocks[b], from)
		}
		m.blocks[b] = to
	}
	if from == isFree {
		m.free -= int(r.Len)
	}
	if to == isFree {
		m.free += int(r.Len)
	}
	return nil
}

// TestAgainstModel runs random operations, on small filesystems that fill up,
// beside the model.
func TestAgainstModel(t *testing.T) {
	bases := []*blocktest.Mem{
		mkfs(t, layout{"", 6 * mib, []string{"-b", "1024", "-g", "256", "-N", "1024", "-O", "^resize_inode"}}).mem(t),
		mkfs(t, layout{"", 16 * mib, []string{"-b", "1024", "-g", "2048", "-N", "256", "-G", "4", "-m", "0"}}).mem(t),
		mkfs(t, layout{"", 64 * mib, []string{"-O", "bigalloc", "-C", "65536", "-b", "1024"}}).mem(t),
	}
	starts := make([]*model, len(bases))
	for i, b := range bases {
		starts[i] = open(t, b, nil).model()
	}
	rapid.Check(t, func(rt *rapid.T) {
		which := rapid.IntRange(0, len(bases)-1).Draw(rt, "image")
		f := open(t, bases[which].Clone(), func(c *Config) { c.MemoryBytes = 1 })
		m := &model{blocks: append([]state(nil), starts[which].blocks...), free: starts[which].free, inodes: append([]bool(nil), starts[which].inodes...), ifree: starts[which].ifree}
		var pending, used, waiting []Run
		var inodes []uint32
		must := func(err error) {
			if err != nil {
				rt.Fatal(err)
			}
		}
		pick := func(s *[]Run) (Run, bool) {
			if len(*s) == 0 {
				return Run{}, false
			}
			i := rapid.IntRange(0, len(*s)-1).Draw(rt, "i")
			r := (*s)[i]
			(*s)[i] = (*s)[len(*s)-1]
			*s = (*s)[:len(*s)-1]
			// Sometimes only its first half.
			if ratio := uint32(1) << f.geo.ClusterBits; r.Len >= 2*ratio && rapid.Bool().Draw(rt, "half") {
				n := r.Len / 2 / ratio * ratio
				*s = append(*s, Run{r.Start + uint64(n), r.Len - n})
				r.Len = n
			}
			return r, true
		}
		windows := make([]Prealloc, 4)
		rt.Repeat(map[string]func(*rapid.T){
			"reserve": func(rt *rapid.T) {
				most := rapid.SampledFrom([]uint32{1, 16, 300, 5000}).Draw(rt, "most")
				want := rapid.Uint32Range(1, most).Draw(rt, "want")
				least := rapid.SampledFrom([]uint32{1, 1, want/2 + 1, want}).Draw(rt, "min")
				least = min(least, f.geo.ClustersPerGroup<<f.geo.ClusterBits)
				want = min(want, f.geo.ClustersPerGroup<<f.geo.ClusterBits)
				r, err := f.gs.Reserve(Request{
					Want: want, Min: least, Root: true,
					Goal:     rapid.Uint64Range(0, f.geo.BlocksCount).Draw(rt, "goal"),
					Merge:    rapid.Bool().Draw(rt, "merge"),
					Metadata: rapid.Bool().Draw(rt, "meta"),
				})
				if errors.Is(err, syscall.ENOSPC) {
					if m.free > 0 && int(least) <= 1 {
						rt.Fatalf("ENOSPC with %d blocks free", m.free)
					}
					if n := m.longestInGroup(f); n >= int(least) {
						rt.Fatalf("ENOSPC for %d blocks with a run of %d", least, n)
					}
					return
				}
				must(err)
				if r.Len < least || r.Len > f.gs.toClusters(want)<<f.geo.ClusterBits {
					rt.Fatalf("%+v for %d to %d", r, least, want)
				}
				must(m.move(r, isFree, isPending))
				pending = append(pending, r)
			},
			"fill": func(rt *rapid.T) {
				// Down to the last few, so that the end is met often.
				for m.free > 100 {
					r, err := f.gs.Reserve(Request{Want: uint32(m.free - 50), Root: true})
					if errors.Is(err, syscall.ENOSPC) {
						rt.Fatalf("ENOSPC with %d blocks free", m.free)
					}
					must(err)
					must(m.move(r, isFree, isPending))
					pending = append(pending, r)
				}
				for m.ifree > 10 {
					ino, err := f.gs.AllocInode(f.tx, InodeRequest{Parent: 2})
					must(err)
					if m.inodes[ino] {
						rt.Fatalf("inode %d is in use", ino)
					}
					m.inodes[ino] = true
					m.ifree--
					inodes = append(inodes, ino)
				}
			},
			"claim": func(rt *rapid.T) {
				if r, ok := pick(&pending); ok {
					must(f.gs.Claim(f.tx, r))
					must(m.move(r, isPending, isUsed))
					used = append(used, r)
				}
			},
			"release": func(rt *rapid.T) {
				if r, ok := pick(&pending); ok {
					must(f.gs.Release(r))
					must(m.move(r, isPending, isFree))
				}
			},
			"free": func(rt *rapid.T) {
				if r, ok := pick(&used); ok {
					must(f.gs.Free(f.tx, r.Start, uint64(r.Len), 0))
					must(m.move(r, isUsed, isWaiting))
					waiting = append(waiting, r)
				}
			},
			"commit": func(rt *rapid.T) {
				must(f.tx.Commit(f.dev))
				for _, r := range waiting {
					must(m.move(r, isWaiting, isFree))
				}
				waiting = nil
			},
			"window": func(rt *rapid.T) {
				p := &windows[rapid.IntRange(0, 3).Draw(rt, "w")]
				r, err := p.Reserve(f.gs, Request{Want: rapid.Uint32Range(1, 40).Draw(rt, "want"), Append: true, Goal: p.run.Start, Root: true})
				if errors.Is(err, syscall.ENOSPC) {
					if m.free > 0 {
						rt.Fatalf("ENOSPC with %d blocks free", m.free)
					}
					return
				}
				must(err)
				must(m.move(r, isFree, isPending))
				pending = append(pending, r)
			},
			"discard": func(rt *rapid.T) { windows[rapid.IntRange(0, 3).Draw(rt, "w")].Discard(f.gs) },
			"alloc inode": func(rt *rapid.T) {
				ino, err := f.gs.AllocInode(f.tx, InodeRequest{Parent: rapid.Uint32Range(1, f.geo.InodesCount).Draw(rt, "parent")})
				if errors.Is(err, syscall.ENOSPC) {
					if m.ifree > 0 {
						rt.Fatalf("ENOSPC with %d inodes free", m.ifree)
					}
					return
				}
				must(err)
				if m.inodes[ino] || ino < f.geo.FirstIno {
					rt.Fatalf("inode %d is in use", ino)
				}
				m.inodes[ino] = true
				m.ifree--
				inodes = append(inodes, ino)
			},
			"free inode": func(rt *rapid.T) {
				if n := len(inodes); n > 0 {
					i := rapid.IntRange(0, n-1).Draw(rt, "i")
					must(f.gs.FreeInode(f.tx, inodes[i], false))
					m.inodes[inodes[i]] = false
					m.ifree++
					inodes[i] = inodes[n-1]
					inodes = inodes[:n-1]
				}
			},
			"": func(rt *rapid.T) {
				if len(f.corrupt) > 0 {
					rt.Fatalf("set aside: %v", f.corrupt)
				}
				inWindows := 0
				for i := range windows {
					inWindows += int(windows[i].run.Len)
				}
				total, err := f.gs.Totals()
				must(err)
				waits := 0
				for _, r := range waiting {
					waits += int(r.Len)
				}
				if got := int(total.Usable) << f.geo.ClusterBits; got != m.free+waits-inWindows {
					rt.Fatalf("%d usable blocks, the model has %d free and %d waiting, %d in windows", got, m.free, waits, inWindows)
				}
				if f.gs.Waiting() != uint64(waits) {
					rt.Fatalf("%d waiting, want %d", f.gs.Waiting(), waits)
				}
				if int(total.FreeInodes) != m.ifree {
					rt.Fatalf("%d free inodes, want %d", total.FreeInodes, m.ifree)
				}
			},
		})
	})
}

// longestInGroup is the longest free run that does not cross groups.
func (m *model) longestInGroup(f *fixture) (best int) {
	n := 0
	for b, s := range m.blocks {
		if uint64(b) < uint64(f.geo.FirstDataBlock) {
			continue
		}
		if (uint64(b)-uint64(f.geo.FirstDataBlock))%uint64(f.geo.BlocksPerGroup) == 0 {
			n = 0
		}
		if n++; s != isFree {
			n = 0
		}
		best = max(best, n)
	}
	return best
}

// sharedTx is a transaction that several goroutines use, each as a handle:
// commits wait for open handles.
type sharedTx struct {
	handles sync.RWMutex
	mu      sync.Mutex
	tx      *buffertest.Tx
}

func (s *sharedTx) Modify(b *buffer.Buffer) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tx.Modify(b)
}

func (s *sharedTx) New(blk uint64, tag buffer.Tag) (*buffer.Buffer, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tx.New(blk, tag)
}

func (s *sharedTx) Forget(blk uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tx.Forget(blk)
}

func (s *sharedTx) OnCommit(fn func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tx.OnCommit(fn)
}

func (s *sharedTx) TID() uint32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tx.TID()
}

// TestConcurrent has many goroutines allocate and free, with groups going in
// and out of memory and the metadata cache too small, while others trim, commit
// and count. No two may ever have the same block or inode.
func TestConcurrent(t *testing.T) {
	f := open(t, mkfs(t, layout{"", 24 * mib, []string{"-b", "1024", "-g", "512", "-N", "2048", "-O", "^resize_inode"}}), func(c *Config) { c.MemoryBytes = 1 })
	f.gs.Cache = buffer.New(f.dev, 1024, 64*1024)
	tx := &sharedTx{tx: buffertest.New(f.gs.Cache)}
	start := f.totals()
	owners := make([]sync.Mutex, f.geo.BlocksCount) // locked: owned
	inos := make([]sync.Mutex, f.geo.InodesCount+1)
	own := func(r Run) {
		for b := r.Start; b < r.End(); b++ {
			if !owners[b].TryLock() {
				t.Errorf("block %d is given out twice", b)
			}
		}
	}
	disown := func(r Run) {
		for b := r.Start; b < r.End(); b++ {
			owners[b].Unlock()
		}
	}
	var workers sync.WaitGroup
	for id := range uint64(8) {
		workers.Go(func() {
			rng := rand.New(rand.NewPCG(id, 3))
			var window Prealloc
			var runs []Run
			var inodes []uint32
			next := uint64(0)
			for range 500 {
				tx.handles.RLock()
				switch rng.IntN(5) {
				case 0, 1:
					r, err := window.Reserve(f.gs, Request{Want: 1 + rng.Uint32N(60), Goal: next, Append: rng.IntN(3) > 0, Root: true})
					if err != nil {
						if !errors.Is(err, syscall.ENOSPC) {
							t.Error(err)
						}
						break
					}
					own(r)
					next = r.End()
					if rng.IntN(4) == 0 {
						disown(r)
						if err := f.gs.Release(r); err != nil {
							t.Error(err)
						}
						break
					}
					if err := f.gs.Claim(tx, r); err != nil {
						t.Error(err)
					}
					runs = append(runs, r)
				case 2:
					if n := len(runs); n > 0 {
						r := runs[n-1]
						runs = runs[:n-1]
						disown(r)
						if err := f.gs.Free(tx, r.Start, uint64(r.Len), 0); err != nil {
							t.Error(err)
						}
					}
				case 3:
					ino, err := f.gs.AllocInode(tx, InodeRequest{Parent: 2})
					if err != nil {
						if !errors.Is(err, syscall.ENOSPC) {
							t.Error(err)
						}
						break
					}
					if !inos[ino].TryLock() {
						t.Errorf("inode %d is given out twice", ino)
					}
					inodes = append(inodes, ino)
				case 4:
					if n := len(inodes); n > 0 {
						inos[inodes[n-1]].Unlock()
						if err := f.gs.FreeInode(tx, inodes[n-1], false); err != nil {
							t.Error(err)
						}
						inodes = inodes[:n-1]
					}
				}
				tx.handles.RUnlock()
			}
			tx.handles.RLock()
			defer tx.handles.RUnlock()
			window.Discard(f.gs)
			for _, r := range runs {
				disown(r)
				if err := f.gs.Free(tx, r.Start, uint64(r.Len), 0); err != nil {
					t.Error(err)
				}
			}
			for _, ino := range inodes {
				inos[ino].Unlock()
				if err := f.gs.FreeInode(tx, ino, false); err != nil {
					t.Error(err)
				}
			}
		})
	}
	stop := make(chan struct{})
	var others sync.WaitGroup
	commit := func() {
		tx.handles.Lock()
		defer tx.handles.Unlock()
		if err := tx.tx.Commit(f.dev); err != nil {
			t.Error(err)
		}
	}
	others.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				commit()
			}
		}
	})
	others.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if _, err := f.gs.Trim(0, f.geo.BlocksCount, 20, nil, func(start, n uint64) error {
				own(Run{start, uint32(n)})
				disown(Run{start, uint32(n)})
				return nil
			}); err != nil {
				t.Error(err)
			}
			if _, err := f.gs.Totals(); err != nil {
				t.Error(err)
			}
		}
	})
	workers.Wait()
	close(stop)
	others.Wait()
	commit()
	f.sound()
	if end := f.totals(); end != start {
		t.Errorf("totals %+v at the end, %+v at the start", end, start)
	}
	f.sync()
	f.fsck()
}

// TestZeroesInodeTables makes a filesystem on a device full of garbage, whose
// inode tables are not zeroed: e2fsck must find no garbage among the inodes.
func TestZeroesInodeTables(t *testing.T) {
	base := mkfs(t, layout{"", 32 * mib, []string{"-b", "1024"}})
	f := open(t, base, nil)
	garbage := make([]byte, f.geo.BlockSize)
	for i := range garbage {
		garbage[i] = 0xA5
	}
	touched := 0
	for num := range f.geo.Groups {
		g := f.gs.lock(num)
		if err := f.gs.loadDesc(g); err != nil {
			t.Fatal(err)
		}
		if g.desc.Flags&disk.GroupZeroed == 0 {
			touched++
			per := f.geo.BlockSize / f.geo.InodeSize
			for i := (f.gs.tableUsed(&g.desc) + per - 1) / per; i < f.geo.InodeTableBlocks; i++ {
				if _, err := f.dev.WriteAt(garbage, int64(g.desc.InodeTable+uint64(i))*int64(f.geo.BlockSize)); err != nil {
					t.Fatal(err)
				}
			}
		}
		f.gs.unlock(g)
	}
	if touched == 0 {
		t.Fatal("mke2fs has zeroed all inode tables")
	}
	var inodes []uint32
	for num := range f.geo.Groups {
		for range 1 + 7*num {
			ino, err := f.gs.allocInGroup(f.tx, num, false)
			if err != nil || ino == 0 {
				t.Fatal(ino, err)
			}
			inodes = append(inodes, ino)
		}
	}
	for _, ino := range inodes {
		f.freeInode(ino, false)
	}
	f.sync()
	f.fsck()
}

// TestDirectoriesSpread puts those at the top far apart, others near.
func TestDirectoriesSpread(t *testing.T) {
	f := open(t, mkfs(t, layout{"", 512 * mib, []string{"-b", "1024", "-G", "4"}}), nil)
	seen := make(map[uint32]int)
	var top []uint32
	for range 16 {
		ino, err := f.gs.AllocInode(f.tx, InodeRequest{Parent: 2, Dir: true})
		if err != nil {
			t.Fatal(err)
		}
		num, _ := f.geo.InodeGroup(ino)
		seen[num/4]++
		top = append(top, ino)
	}
	if len(seen) < 12 {
		t.Errorf("16 directories are in %d flexible groups of 16", len(seen))
	}
	for _, dir := range top {
		home, _ := f.geo.InodeGroup(dir)
		for i := range 50 {
			ino, err := f.gs.AllocInode(f.tx, InodeRequest{Parent: dir, Dir: i%5 == 0})
			if err != nil {
				t.Fatal(err)
			}
			if num, _ := f.geo.InodeGroup(ino); num/4 != home/4 {
				t.Errorf("inode %d in group %d, its parent in %d", ino, num, home)
			}
		}
	}
	if n := len(f.tx.Modified()); n == 0 {
		t.Error("nothing was written")
	}
}
