package balloc

import (
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"ext4box/ext4/internal/disk"
)

// held is what a test has allocated.
type held struct {
	runs   []Run
	inodes []uint32
	dirs   map[uint32]bool
}

// churn allocates and frees at random.
func (f *fixture) churn(rng *rand.Rand, steps int) held {
	f.t.Helper()
	h := held{dirs: make(map[uint32]bool)}
	for range steps {
		switch rng.IntN(10) {
		case 0, 1, 2, 3:
			r, err := f.gs.Reserve(Request{Goal: rng.Uint64N(f.geo.BlocksCount), Want: 1 + rng.Uint32N(600), Metadata: rng.IntN(4) == 0})
			if errors.Is(err, syscall.ENOSPC) {
				continue
			}
			if err != nil {
				f.t.Fatal(err)
			}
			if rng.IntN(5) == 0 {
				if err := f.gs.Release(r); err != nil {
					f.t.Fatal(err)
				}
				continue
			}
			if err := f.gs.Claim(f.tx, r); err != nil {
				f.t.Fatal(err)
			}
			h.runs = append(h.runs, r)
		case 4, 5, 6:
			parent := uint32(2)
			if n := len(h.inodes); n > 0 && rng.IntN(4) > 0 {
				parent = h.inodes[rng.IntN(n)]
			}
			dir := rng.IntN(3) == 0
			ino, err := f.gs.AllocInode(f.tx, InodeRequest{Parent: parent, Dir: dir})
			if errors.Is(err, syscall.ENOSPC) {
				continue
			}
			if err != nil {
				f.t.Fatal(err)
			}
			h.inodes = append(h.inodes, ino)
			h.dirs[ino] = dir
		case 7:
			if n := len(h.runs); n > 0 {
				i := rng.IntN(n)
				f.freeRun(h.runs[i])
				h.runs[i] = h.runs[n-1]
				h.runs = h.runs[:n-1]
			}
		case 8:
			if n := len(h.inodes); n > 0 {
				i := rng.IntN(n)
				f.freeInode(h.inodes[i], h.dirs[h.inodes[i]])
				h.inodes[i] = h.inodes[n-1]
				h.inodes = h.inodes[:n-1]
			}
		case 9:
			f.commit()
		}
	}
	return h
}

func (f *fixture) freeRun(r Run) {
	f.t.Helper()
	if err := f.gs.Free(f.tx, r.Start, uint64(r.Len), 0); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) freeInode(ino uint32, dir bool) {
	f.t.Helper()
	if err := f.gs.FreeInode(f.tx, ino, dir); err != nil {
		f.t.Fatal(err)
	}
}

// TestOnRealImages allocates at random on every layout. dumpe2fs must see
// exactly that, and e2fsck nothing wrong once all is free again.
func TestOnRealImages(t *testing.T) {
	for i, l := range layouts {
		t.Run(l.name, func(t *testing.T) {
			t.Parallel()
			f := open(t, mkfs(t, l), nil)
			before := f.dumpe2fs()
			start, err := f.gs.Totals()
			if err != nil {
				t.Fatal(err)
			}
			sbClusters := f.super.FreeBlocks
			if sbClusters != start.FreeClusters && sbClusters != start.FreeClusters<<f.geo.ClusterBits || uint64(f.super.FreeInodes) != start.FreeInodes {
				t.Fatalf("Totals %+v, superblock %d and %d", start, sbClusters, f.super.FreeInodes)
			}
			h := f.churn(rand.New(rand.NewPCG(uint64(i), 1)), 600)
			f.sync()
			f.sound()

			want := before
			for _, r := range h.runs {
				for b := r.Start; b < r.End(); b++ {
					if !want.blocks.Test(uint32(b)) {
						t.Fatalf("block %d of %v was not free", b, r)
					}
					want.blocks.ClearRange(uint32(b), 1)
				}
			}
			for _, ino := range h.inodes {
				if !want.inodes.Test(ino) || ino < f.geo.FirstIno {
					t.Fatalf("inode %d was not free", ino)
				}
				want.inodes.ClearRange(ino, 1)
				if h.dirs[ino] {
					want.dirs++
				}
			}
			got := f.dumpe2fs()
			if string(got.blocks) != string(want.blocks) {
				t.Error("dumpe2fs sees other free blocks than the model")
			}
			if string(got.inodes) != string(want.inodes) {
				t.Error("dumpe2fs sees other free inodes than the model")
			}
			if got.dirs != want.dirs {
				t.Errorf("%d directories, want %d", got.dirs, want.dirs)
			}
			f.onlyDifferences()

			for _, r := range h.runs {
				f.freeRun(r)
			}
			for _, ino := range h.inodes {
				f.freeInode(ino, h.dirs[ino])
			}
			f.sync()
			f.sound()
			end, err := f.gs.Totals()
			if err != nil {
				t.Fatal(err)
			}
			if end != start {
				t.Errorf("totals %+v at the end, %+v at the start", end, start)
			}
			f.fsck()
			g := open(t, f.dev, nil)
			if again, err := g.gs.Totals(); err != nil || again != start {
				t.Errorf("totals when opened again: %+v, %v; want %+v", again, err, start)
			}
		})
	}
}

// onlyDifferences checks that e2fsck complains of nothing but blocks and inodes
// in use to which nothing refers.
func (f *fixture) onlyDifferences() {
	f.t.Helper()
	path := f.path()
	out, _ := exec.Command("e2fsck", "-fn", path).CombinedOutput()
	for line := range strings.Lines(string(out)) {
		l := strings.ToLower(strings.ReplaceAll(line, path, ""))
		if strings.Contains(l, "checksum") || strings.Contains(l, "uninit") || strings.Contains(l, "padding") || strings.Contains(l, "unused inode") {
			f.t.Errorf("e2fsck: %s", line)
		}
	}
}

// TestInitialisesBitmaps uses a block and an inode in every group, so that all
// bitmaps exist on disk, and lets e2fsck compare them with its own.
func TestInitialisesBitmaps(t *testing.T) {
	for _, l := range layouts {
		t.Run(l.name, func(t *testing.T) {
			t.Parallel()
			f := open(t, mkfs(t, l), nil)
			uninit := 0
			for num := range f.geo.Groups {
				g := f.gs.lock(num)
				if err := f.gs.loadDesc(g); err != nil {
					t.Fatal(err)
				}
				if g.desc.Flags&(disk.GroupBlockUninit|disk.GroupInodeUninit) != 0 {
					uninit++
				}
				f.gs.unlock(g)
			}
			if uninit == 0 && f.gs.hasDescSums() && f.geo.Groups > 1 {
				t.Error("mke2fs has initialised all groups")
			}
			for num := range f.geo.Groups {
				r, err := f.gs.Reserve(Request{Goal: f.geo.GroupFirstBlock(num), Want: 1})
				if err != nil {
					t.Fatal(err)
				}
				if got := f.geo.GroupOf(r.Start); got != num && f.gs.blocks.get(num) != full {
					t.Errorf("block for group %d is in group %d", num, got)
				}
				if err := f.gs.Claim(f.tx, r); err != nil {
					t.Fatal(err)
				}
				f.freeRun(r)
				ino, err := f.gs.allocInGroup(f.tx, num, num%2 == 0)
				if err != nil || ino == 0 {
					t.Fatalf("no inode in group %d: %v", num, err)
				}
				f.freeInode(ino, num%2 == 0)
			}
			f.sync()
			f.sound()
			for num := range f.geo.Groups {
				g := f.gs.lock(num)
				if g.desc.Flags&(disk.GroupBlockUninit|disk.GroupInodeUninit) != 0 && f.gs.blocks.get(num) != full {
					t.Errorf("group %d has flags %#x", num, g.desc.Flags)
				}
				f.gs.unlock(g)
			}
			f.fsck()
		})
	}
}

// TestKernelGoesOn has the kernel use a filesystem after us, with half of its
// bitmaps initialised by us.
func TestKernelGoesOn(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	f := open(t, mkfs(t, layout{"", 128 * mib, []string{"-b", "1024"}}), nil)
	h := f.churn(rand.New(rand.NewPCG(9, 9)), 400)
	for _, r := range h.runs {
		f.freeRun(r)
	}
	for _, ino := range h.inodes {
		f.freeInode(ino, h.dirs[ino])
	}
	f.sync()
	path, dir := f.path(), t.TempDir()
	if out, err := exec.Command("mount", "-t", "ext4", path, dir).CombinedOutput(); err != nil {
		t.Skipf("this kernel does not mount the image: %s", out)
	}
	var err error
	for i := 0; i < 2000 && err == nil; i++ {
		sub := filepath.Join(dir, strconv.Itoa(i%40))
		if i < 40 {
			err = os.Mkdir(sub, 0o755)
		} else {
			err = os.WriteFile(filepath.Join(sub, strconv.Itoa(i)), make([]byte, i*10), 0o644)
		}
	}
	if err != nil {
		t.Error(err)
	}
	if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
		t.Fatalf("umount: %v\n%s", err, out)
	}
	if out, err := exec.Command("e2fsck", "-fn", path).CombinedOutput(); err != nil {
		t.Fatalf("e2fsck: %v\n%s", err, cut(out))
	}
	// And back: what the kernel has made loads here.
	f = open(t, f.dev, nil)
	f.churn(rand.New(rand.NewPCG(9, 10)), 400)
	f.sync()
	f.sound()
}
