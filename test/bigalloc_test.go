package test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"ext4box/blockdev"
	"ext4box/ext4"
	"ext4box/internal/posixfs"
	"ext4box/internal/testimage"
)

// clustered are the shapes of bigalloc on which ext4box and the kernel take turns.
var clustered = []struct {
	name           string
	args           []string
	block, cluster int64
}{
	{"4k of 64k", []string{"-t", "ext4", "-b", "4096", "-O", "bigalloc"}, 4 << 10, 64 << 10},
	{"1k of 4k", []string{"-t", "ext4", "-b", "1024", "-O", "bigalloc", "-C", "4096"}, 1 << 10, 4 << 10},
	{"1k of 16k", []string{"-t", "ext4", "-b", "1024", "-O", "bigalloc,^64bit,^metadata_csum", "-C", "16384"}, 1 << 10, 16 << 10},
	{"no journal", []string{"-t", "ext4", "-b", "4096", "-O", "bigalloc,^has_journal", "-C", "16384"}, 4 << 10, 16 << 10},
}

// TestBigallocSpace compares with the kernel the space that parts of clusters,
// attributes, directories, links and nodes of extent trees take and leave. The
// kernel keeps a node that it once needed, so files here have few extents or many.
func TestBigallocSpace(t *testing.T) {
	for _, c := range clustered {
		t.Run(c.name, func(t *testing.T) {
			bs, cs := c.block, c.cluster
			bothWays(t, 64<<20, c.args, func(t *testing.T, dir string) string {
				var b strings.Builder
				must := func(err error) {
					t.Helper()
					if err != nil {
						t.Fatal(err)
					}
				}
				free := func() int64 {
					var st unix.Statfs_t
					must(unix.Statfs(dir, &st))
					return int64(st.Bfree)
				}
				f, err := os.Create(filepath.Join(dir, "file"))
				must(err)
				defer f.Close()
				start := free()
				say := func(what string) {
					t.Helper()
					must(f.Sync())
					var st unix.Stat_t
					must(unix.Fstat(int(f.Fd()), &st))
					fmt.Fprintf(&b, "%s: size %d, %d sectors, %d blocks fewer free\n", what, st.Size, st.Blocks, start-free())
				}
				write := func(off, n int64) {
					t.Helper()
					_, err := f.WriteAt(make([]byte, n), off)
					must(err)
				}
				fallocate := func(mode uint32, off, n int64) error { return unix.Fallocate(int(f.Fd()), mode, off, n) }
				const keep, punch, zero = unix.FALLOC_FL_KEEP_SIZE, unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE, unix.FALLOC_FL_ZERO_RANGE

				write(cs+bs, 1)
				say("a byte in the second block of the second cluster")
				write(cs+2*bs, bs)
				say("another block of that cluster")
				must(fallocate(0, cs, cs))
				say("all of that cluster")
				must(fallocate(punch, cs, 3*bs))
				say("the start of the second cluster punched")
				must(fallocate(keep, 5*cs-bs, 2*bs))
				say("allocated over the edge of two")
				write(5*cs, 1)
				say("one of them written")
				must(fallocate(punch, 5*cs-bs, bs))
				say("the other punched")
				must(fallocate(punch, cs+bs, cs-bs))
				say("the rest of the second cluster punched")
				must(f.Truncate(0))
				write(0, 4*cs)
				say("four clusters")
				must(fallocate(punch, bs/2, 3*cs))
				say("punched to the fourth")
				must(fallocate(zero, 2*cs-bs, cs+2*bs))
				say("zeroed in the middle")
				must(f.Truncate(2*cs + bs + 1))
				say("truncated to the second block of the third")
				must(f.Truncate(2 * cs))
				say("truncated to two")
				must(f.Truncate(bs))
				say("truncated to a block")
				must(f.Truncate(2*bs + 3))
				say("longer")
				must(f.Truncate(0))
				say("emptied")
				must(unix.Fsetxattr(int(f.Fd()), "user.large", make([]byte, 800), 0))
				say("with attributes in a block")
				must(unix.Fremovexattr(int(f.Fd()), "user.large"))
				say("without")
				for i := range int64(40) { // an extent each: they do not fit the inode, but one node
					must(fallocate(keep, 2*i*bs, bs))
				}
				say("forty extents")
				for i := range int64(39) {
					must(fallocate(punch, 2*i*bs, bs))
				}
				must(f.Truncate(1))
				say("none")

				stat := func(name string) string {
					var st unix.Stat_t
					must(unix.Lstat(filepath.Join(dir, name), &st))
					return fmt.Sprintf("%s: %d sectors, %d blocks fewer free\n", name, st.Blocks, start-free())
				}
				must(os.Symlink(strings.Repeat("x", 300), filepath.Join(dir, "link")))
				must(unix.Fsync(int(f.Fd())))
				b.WriteString(stat("link"))
				must(os.Mkdir(filepath.Join(dir, "dir"), 0o755))
				b.WriteString(stat("dir"))
				// More than one block of names, and less than a cluster, however they hash.
				for i := range int(bs/200) + 1 {
					must(os.WriteFile(filepath.Join(dir, "dir", fmt.Sprintf("%0180d", i)), nil, 0o644))
				}
				must(unix.Fsync(int(f.Fd())))
				b.WriteString(stat("dir"))
				must(os.RemoveAll(filepath.Join(dir, "dir")))
				must(os.Remove(filepath.Join(dir, "link")))
				must(f.Close())
				must(os.Remove(filepath.Join(dir, "file")))
				return b.String()
			}, func(t *testing.T, dir string) string {
				var st unix.Statfs_t
				if err := unix.Statfs(dir, &st); err != nil {
					t.Fatal(err)
				}
				return fmt.Sprintf("anew: %d blocks, %d free, %d available, %d inodes free\n", st.Blocks, st.Bfree, st.Bavail, st.Ffree)
			})
		})
	}
}

// TestBigallocShift compares with the kernel what ranges can be taken out of a
// file and put into it, and what it holds then. FUSE knows nothing of that, so
// the library does it.
func TestBigallocShift(t *testing.T) {
	requireMounting(t)
	for _, c := range clustered {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			ours, theirs := &testimage.Image{Path: filepath.Join(dir, "ours")}, &testimage.Image{Path: filepath.Join(dir, "theirs")}
			for _, img := range []*testimage.Image{ours, theirs} {
				if err := testimage.Mke2fs(img.Path, 64<<20, c.args...); err != nil {
					t.Fatal(err)
				}
			}
			dev, err := blockdev.Open(ours.Path, blockdev.Options{})
			if err != nil {
				t.Fatal(err)
			}
			fs, err := ext4.Open(dev, ext4.Options{})
			if err != nil {
				t.Fatal(err)
			}
			ino, err := fs.Create(ext4.RootIno, "file", ext4.NewNode{Mode: unix.S_IFREG | 0o644})
			if err != nil {
				t.Fatal(err)
			}
			m := testimage.MountRW(t, theirs, "")
			f, err := os.Create(filepath.Join(m.Dir, "file"))
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			rng := rand.New(rand.NewPCG(7, 7))
			size := int64(0)
			for i := range 300 {
				if size < 10*c.cluster {
					p := pattern(int(rng.Int64N(8*c.cluster)+1), uint64(i))
					off := rng.Int64N(12 * c.cluster)
					_, err1 := f.WriteAt(p, off)
					_, err2 := fs.WriteAt(ino, p, off)
					if err := errors.Join(err1, err2); err != nil {
						t.Fatal(err)
					}
				}
				unit := c.cluster
				if rng.IntN(4) == 0 {
					unit = c.block
				}
				off, n := rng.Int64N(12*c.cluster/unit)*unit, (1+rng.Int64N(3*c.cluster/unit))*unit
				mode := []uint32{unix.FALLOC_FL_COLLAPSE_RANGE, unix.FALLOC_FL_INSERT_RANGE, unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE, unix.FALLOC_FL_ZERO_RANGE}[rng.IntN(4)]
				want := unix.Fallocate(int(f.Fd()), mode, off, n)
				if got := fs.Fallocate(ino, mode, uint64(off), uint64(n)); !errors.Is(got, want) {
					t.Fatalf("%d: fallocate %#x %d+%d of %d: %v, the kernel says %v", i, mode, off, n, size, got, want)
				}
				st, err := f.Stat()
				if err != nil {
					t.Fatal(err)
				}
				size = st.Size()
			}
			kernel, err := os.ReadFile(f.Name())
			if err != nil {
				t.Fatal(err)
			}
			got := make([]byte, size)
			if _, err := fs.ReadAt(ino, got, 0); err != nil {
				t.Fatal(err)
			}
			if d := differs(kernel, got, 0); d != nil {
				t.Error(d)
			}
			if err := errors.Join(fs.Close(), f.Close(), m.Unmount()); err != nil {
				t.Fatal(err)
			}
			if err := testimage.Run("e2fsck", "-fn", ours.Path); err != nil {
				t.Error(err)
			}
			if got, err := os.ReadFile(filepath.Join(testimage.MountRO(t, ours, "").Dir, "file")); err != nil {
				t.Error(err)
			} else if d := differs(kernel, got, 0); d != nil {
				t.Errorf("read by the kernel: %v", d)
			}
		})
	}
}

// TestBigallocTurns has the kernel and ext4box change the same image in turns:
// each finds what the other left, and in the end all space is free again.
func TestBigallocTurns(t *testing.T) {
	requireMounting(t)
	for i, c := range clustered {
		t.Run(c.name, func(t *testing.T) {
			config := testimage.Config{Name: c.name, Size: 64 << 20, Args: c.args}
			d := newDifferential(t, config)
			img := &testimage.Image{Config: config, Path: filepath.Join(d.dir, "turns")}
			if err := testimage.CopyImage(img.Path, d.image); err != nil {
				t.Fatal(err)
			}
			var before testimage.Manifest
			turn := func(kernel bool, work func(dir string)) {
				t.Helper()
				var dir string
				var done func() error
				if kernel {
					m := testimage.MountRW(t, img, "")
					dir, done = m.Dir, m.Unmount
				} else {
					dir = mountRW(t, img.Path, "allow_other", "dev", "suid")
					done = func() error {
						umount(t, dir)
						eventually(t, "the image to be closed", func() bool { return unlocked(t, img.Path) })
						return nil
					}
				}
				look := func() testimage.Manifest {
					t.Helper()
					unix.Sync()
					tree, err := testimage.Walk(filepath.Join(dir, top))
					if err != nil && !errors.Is(err, os.ErrNotExist) {
						t.Fatal(err)
					}
					return tree
				}
				if before != nil {
					// On ext4box SEEK_HOLE may find none, and what was written to a
					// mount has the time of the write or a later one.
					if diff := before.Diff(look(), testimage.Ignore{"Map", "Atime", "Mtime", "Ctime"}); diff != "" {
						t.Errorf("kernel %v: it finds something else than the other left:\n%s", kernel, diff)
					}
				}
				work(dir)
				before = look()
				if err := done(); err != nil {
					t.Fatal(err)
				}
				if err := testimage.Run("e2fsck", "-fn", img.Path); err != nil {
					t.Fatalf("kernel %v: %v", kernel, err)
				}
			}
			for round := range 4 {
				g := &generator{Rand: rand.New(rand.NewPCG(uint64(round), uint64(i))), block: c.block}
				if round%2 == 1 {
					g.block = c.cluster
				}
				for _, kernel := range []bool{round%2 == 0, round%2 != 0} {
					turn(kernel, func(dir string) {
						p := newPlayer(posixfs.Mounted(dir), work)
						defer p.close()
						if err := os.MkdirAll(filepath.Join(dir, work), 0o777); err != nil {
							t.Fatal(err)
						}
						for _, s := range g.sequence(200) {
							p.play(s)
						}
					})
				}
			}
			turn(false, func(dir string) {
				if err := removeAll(posixfs.Mounted(dir), top); err != nil {
					t.Fatal(err)
				}
			})
			got, err := freeCounts(img.Path)
			if err != nil {
				t.Fatal(err)
			}
			want, err := freeCounts(d.image)
			if err != nil {
				t.Fatal(err)
			}
			if got != want {
				t.Errorf("after deleting everything: free are %s, want %s", got, want)
			}
		})
	}
}

// TestBigallocFull fills filesystems with clusters and wants from both the same
// number of clusters for files and the same error.
func TestBigallocFull(t *testing.T) {
	for _, c := range clustered {
		t.Run(c.name, func(t *testing.T) {
			bothWays(t, 24<<20, c.args, func(t *testing.T, dir string) string {
				var b strings.Builder
				sub := filepath.Join(dir, "sub") // how large it gets depends on hashes
				if err := os.Mkdir(sub, 0o755); err != nil {
					t.Fatal(err)
				}
				name := func(i int) string { return filepath.Join(sub, fmt.Sprint("f", i)) }
				var err error
				for n := 0; err == nil; n++ {
					var f *os.File
					if f, err = os.Create(name(n)); err != nil {
						break
					}
					// One block in each of a few clusters.
					for i := int64(0); i < 5 && err == nil; i++ {
						err = unix.Fallocate(int(f.Fd()), 0, (2*i+1)*c.cluster, c.block)
					}
					f.Close()
				}
				fmt.Fprintf(&b, "no space: %v\n", errors.Is(err, unix.ENOSPC))
				var st unix.Statfs_t
				if err := unix.Statfs(dir, &st); err != nil {
					t.Fatal(err)
				}
				fmt.Fprintf(&b, "%d available\n", st.Bavail)
				f, err := os.OpenFile(name(0), os.O_RDWR, 0)
				if err != nil {
					t.Fatal(err)
				}
				defer f.Close()
				// In a cluster that the file has already there is room.
				_, err = f.WriteAt(make([]byte, c.cluster), c.cluster)
				fmt.Fprintf(&b, "within a cluster: %v\n", errors.Join(err, f.Sync()))
				if err := os.RemoveAll(sub); err != nil {
					t.Fatal(err)
				}
				return b.String()
			}, func(t *testing.T, dir string) string {
				var st unix.Statfs_t
				if err := unix.Statfs(dir, &st); err != nil {
					t.Fatal(err)
				}
				return fmt.Sprintf("anew: %d free, %d inodes free\n", st.Bfree, st.Ffree)
			})
		})
	}
}
