package ext4_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"ext4box/blockdev/blocktest"
	"ext4box/ext4"
	"ext4box/ext4/internal/disk"
	"ext4box/internal/e2test"
)

// openWritable opens a device for writing without commits by the clock.
func openWritable(t *testing.T, dev *blocktest.Mem) *ext4.FS {
	t.Helper()
	fs, err := ext4.Open(dev, ext4.Options{CommitInterval: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	if why := fs.ReadOnlyReason(); why != "" {
		t.Fatalf("opened read-only because %s", why)
	}
	return fs
}

// dumpClean writes an image to a file and wants e2fsck content with it.
func dumpClean(t *testing.T, dev *blocktest.Mem) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "image")
	if err := blocktest.Dump(dev, dev.Size(), path); err != nil {
		t.Fatal(err)
	}
	fsck(t, path)
	return path
}

func superblockOf(t *testing.T, dev *blocktest.Mem) disk.Superblock {
	t.Helper()
	raw := make([]byte, disk.SuperblockSize)
	if _, err := dev.ReadAt(raw, disk.SuperblockOffset); err != nil {
		t.Fatal(err)
	}
	return disk.DecodeSuperblock(raw)
}

// orphans makes files without a name, each with some data, and holds them.
func orphans(t *testing.T, fs *ext4.FS, n int) []ext4.Ino {
	t.Helper()
	inos := make([]ext4.Ino, n)
	for i := range inos {
		ino, err := fs.Tmpfile(ext4.RootIno, ext4.NewNode{Mode: 0o100600})
		if err != nil {
			t.Fatal(err)
		}
		if i%8 == 0 {
			if _, err := fs.WriteAt(ino, []byte("orphan"), 0); err != nil {
				t.Fatal(err)
			}
		}
		inos[i] = ino
	}
	return inos
}

// TestOrphanFile has more orphans than the orphan file holds. They survive a
// crash in the file and in the list, and ext4box and the kernel clean up.
func TestOrphanFile(t *testing.T) {
	const slots, many = 4 * 254, 1500
	dev := load(t, e2test.Image(t, 32*mib, "-t", "ext4", "-b", "1024", "-N", "4000", "-O", "orphan_file", "-E", "orphan_file_size=4"))
	dev.SetReadOnly(false)
	fs := openWritable(t, dev)
	empty, err := fs.Statfs()
	if err != nil {
		t.Fatal(err)
	}
	if superblockOf(t, dev).ROCompat&disk.ROCompatOrphanPresent == 0 {
		t.Error("orphan_present is not set while the filesystem is open")
	}
	inos := orphans(t, fs, many)
	if err := fs.Sync(); err != nil {
		t.Fatal(err)
	}
	crashed := dev.Clone()

	// They leave in another order than they came.
	for i := range inos {
		if err := fs.Unhold(inos[i*7%many], 1); err != nil {
			t.Fatal(err)
		}
	}
	if st, err := fs.Statfs(); err != nil || st.FilesFree != empty.FilesFree {
		t.Errorf("%d inodes are free afterwards, %d before; %v", st.FilesFree, empty.FilesFree, err)
	}
	again := orphans(t, fs, 1) // for which there is room again
	if err := fs.Sync(); err != nil {
		t.Fatal(err)
	}
	if next := superblockOf(t, dev).LastOrphan; next != 0 {
		t.Errorf("with an empty orphan file inode %d is on the list", next)
	}
	if err := fs.Unhold(again[0], 1); err != nil {
		t.Fatal(err)
	}
	if err := fs.Close(); err != nil {
		t.Fatal(err)
	}
	if superblockOf(t, dev).ROCompat&disk.ROCompatOrphanPresent != 0 {
		t.Error("orphan_present is set in a clean filesystem")
	}
	dumpClean(t, dev)

	judge := filepath.Join(t.TempDir(), "kernel")
	if err := blocktest.Dump(crashed, crashed.Size(), judge); err != nil {
		t.Fatal(err)
	}
	fs = openWritable(t, crashed)
	if n := fs.Recovery().Orphans; n != many {
		t.Errorf("recovery found %d orphans", n)
	}
	if st, err := fs.Statfs(); err != nil || st.FilesFree != empty.FilesFree || st.BlocksFree != empty.BlocksFree {
		t.Errorf("after recovery %d inodes and %d blocks are free, %d and %d before; %v", st.FilesFree, st.BlocksFree, empty.FilesFree, empty.BlocksFree, err)
	}
	if err := fs.Close(); err != nil {
		t.Fatal(err)
	}
	dumpClean(t, crashed)
	if os.Geteuid() != 0 {
		return
	}
	// The list is longer than zero only because the file was full.
	if out, err := exec.Command("sh", "-c", `d=$(mktemp -d) && mount -o loop "$0" $d && umount $d; s=$?; rmdir $d; exit $s`, judge).CombinedOutput(); err != nil {
		t.Fatalf("mount by the kernel: %v\n%s", err, out)
	}
	fsck(t, judge)
	out, err := exec.Command("dumpe2fs", "-h", judge).CombinedOutput()
	if want := fmt.Sprint(empty.FilesFree); err != nil || !strings.Contains(string(out), want) {
		t.Errorf("after the kernel's recovery there are not %s free inodes: %v\n%s", want, err, out)
	}
}

// TestManyOrphans recovers a long list in time that grows as it does.
func TestManyOrphans(t *testing.T) {
	for _, features := range []string{"^orphan_file", "orphan_file"} {
		t.Run(features, func(t *testing.T) {
			const many = 60000
			dev := load(t, e2test.Image(t, 256*mib, "-t", "ext4", "-b", "4096", "-N", "70000", "-O", features))
			dev.SetReadOnly(false)
			fs := openWritable(t, dev)
			orphans(t, fs, many)
			if err := fs.Sync(); err != nil {
				t.Fatal(err)
			}
			crashed := dev.Clone()
			start := time.Now()
			err := within(t, func() (err error) {
				fs, err = ext4.Open(crashed, ext4.Options{})
				return err
			})
			if err != nil || fs.Recovery().Orphans != many {
				t.Fatalf("%d orphans, %v", fs.Recovery().Orphans, err)
			}
			t.Logf("%d orphans in %v", many, time.Since(start))
			if err := fs.Close(); err != nil {
				t.Fatal(err)
			}
			dumpClean(t, crashed)
		})
	}
}

// TestDamagedOrphans opens filesystems whose orphans cannot all be orphans: what
// is, is deleted or truncated, the rest is left alone, and the filesystem is
// marked as having errors, of which e2fsck then finds no others than such as
// come from inodes that were left.
func TestDamagedOrphans(t *testing.T) {
	tree := e2test.Tree(t, map[string]string{"a": strings.Repeat("a", 50000), "b": strings.Repeat("b", 50000), "c": "c", "dir/x": "x"})
	base := e2test.Image(t, 16*mib, "-t", "ext4", "-b", "1024", "-O", "orphan_file", "-E", "orphan_file_size=4", "-d", tree)
	plain := open(t, load(t, base), ext4.Options{})
	a, b, c, dir := resolve(t, plain, "a"), resolve(t, plain, "b"), resolve(t, plain, "c"), resolve(t, plain, "dir")
	deleted := func(name string, ino ext4.Ino, next any) []string {
		return []string{"unlink " + name, fmt.Sprintf("sif <%d> links_count 0", ino), fmt.Sprintf("sif <%d> dtime %v", ino, next)}
	}
	head := func(ino any) string { return fmt.Sprintf("ssv last_orphan %v", ino) }
	for _, test := range []struct {
		name    string
		change  [][]string
		orphans int
		sound   bool
	}{
		{"sound", [][]string{deleted("a", a, b), deleted("b", b, 0), {head(a)}}, 2, true},
		{"circle of deleted", [][]string{deleted("a", a, b), deleted("b", b, a), {head(a)}}, 2, false},
		{"circle of one", [][]string{deleted("a", a, a), {head(a)}}, 1, false},
		{"circle of truncated", [][]string{{fmt.Sprintf("sif a dtime %d", b), fmt.Sprintf("sif b dtime %d", a), "sif a size 100", head(a)}}, 3, true},
		{"free inode", [][]string{deleted("a", a, 4000), {head(a)}}, 1, false},
		{"inode that does not exist", [][]string{deleted("a", a, 1<<31), {head(a)}}, 0, false},
		{"journal", [][]string{deleted("a", a, 8), {head(a)}}, 1, false},
		{"root", [][]string{{head(2)}}, 0, false},
		{"orphan file itself", [][]string{deleted("a", a, "12"), {head(a)}}, 1, false},
		{"directory with links", [][]string{{fmt.Sprintf("sif <%d> dtime 0", dir), head(dir)}}, 1, true},
		{"bad checksum", [][]string{deleted("a", a, c), {fmt.Sprintf("sif <%d> checksum 1", c), head(a)}}, 1, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "image")
			if out, err := exec.Command("cp", base, path).CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			for _, requests := range test.change {
				e2test.Change(t, path, requests...)
			}
			dev := load(t, path)
			dev.SetReadOnly(false)
			var fs *ext4.FS
			err := within(t, func() (err error) {
				fs, err = ext4.Open(dev, ext4.Options{})
				return err
			})
			if err != nil || fs.ReadOnlyReason() != "" {
				t.Fatalf("%v, read-only because of %q", err, fs.ReadOnlyReason())
			}
			if n := fs.Recovery().Orphans; n != test.orphans {
				t.Errorf("%d orphans instead of %d", n, test.orphans)
			}
			if _, err := fs.Create(ext4.RootIno, "new", ext4.NewNode{Mode: 0o100644}); err != nil {
				t.Error(err)
			}
			if err := fs.Close(); err != nil {
				t.Error(err)
			}
			sb := superblockOf(t, dev)
			if sb.LastOrphan != 0 || (sb.State&disk.StateErrors == 0) != test.sound {
				t.Errorf("afterwards the list starts with %d, the state is %#x", sb.LastOrphan, sb.State)
			}
			if test.sound && test.name != "directory with links" {
				dumpClean(t, dev)
			}
		})
	}
}

// TestDamagedOrphanFile has things in the orphan file that do not belong there.
func TestDamagedOrphanFile(t *testing.T) {
	base := load(t, e2test.Image(t, 16*mib, "-t", "ext4", "-b", "1024", "-O", "orphan_file", "-E", "orphan_file_size=4"))
	base.SetReadOnly(false)
	fs := openWritable(t, base)
	inos := orphans(t, fs, 3)
	if err := fs.Sync(); err != nil {
		t.Fatal(err)
	}
	// Everything home: a copy whose orphan file can be changed.
	crashed := base.Clone()
	ro := open(t, crashed.Clone(), ext4.Options{})
	if ro.Recovery().Orphans != 3 {
		t.Fatalf("%d orphans", ro.Recovery().Orphans)
	}
	sb := superblockOf(t, crashed)
	sums := sb.Checksums()
	blk, raw := orphanBlock(t, ro, sb)
	seed := orphanSeed(t, ro, sb)
	for _, test := range []struct {
		name    string
		change  func(b []byte)
		orphans int
		sound   bool
		reason  bool
	}{
		{"unchanged", func([]byte) {}, 3, true, false},
		{"twice", func(b []byte) { disk.SetOrphanSlot(b, 100, uint32(inos[0])) }, 3, false, false},
		{"journal", func(b []byte) { disk.SetOrphanSlot(b, 100, 8) }, 3, false, false},
		{"beyond", func(b []byte) { disk.SetOrphanSlot(b, 0, 1<<31); disk.SetOrphanSlot(b, 3, 1<<31) }, 2, false, false},
		{"full", func(b []byte) {
			for i := range 250 {
				disk.SetOrphanSlot(b, 3+i, 2000)
			}
		}, 3, false, false},
		{"checksum", func(b []byte) { b[len(b)-1]++ }, 0, true, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			dev := crashed.Clone()
			b := append([]byte(nil), raw...)
			test.change(b)
			if test.name != "checksum" {
				disk.SealOrphanBlock(&sums, seed, blk, b)
			}
			// The journal would bring the block back, so it is recovered first.
			emptied := openRecoveredOnly(t, dev)
			if _, err := emptied.WriteAt(b, int64(blk)*1024); err != nil {
				t.Fatal(err)
			}
			var fs *ext4.FS
			err := within(t, func() (err error) {
				fs, err = ext4.Open(emptied, ext4.Options{})
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			if why := fs.ReadOnlyReason(); (why != "") != test.reason {
				t.Fatalf("read-only because of %q", why)
			}
			if n := fs.Recovery().Orphans; n != test.orphans {
				t.Errorf("%d orphans instead of %d", n, test.orphans)
			}
			if err := fs.Close(); err != nil || test.reason {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if sb := superblockOf(t, emptied); (sb.State&disk.StateErrors == 0) != test.sound || sb.ROCompat&disk.ROCompatOrphanPresent != 0 {
				t.Errorf("afterwards the state is %#x, features %v", sb.State, sb.ROCompat.Names())
			}
			if test.orphans == len(inos) { // else one was left to e2fsck
				dumpClean(t, emptied)
			}
		})
	}
}

// openRecoveredOnly returns the device with the journal replayed by e2fsck and
// its orphans as they were.
func openRecoveredOnly(t *testing.T, dev *blocktest.Mem) *blocktest.Mem {
	t.Helper()
	path := filepath.Join(t.TempDir(), "recovered")
	if err := blocktest.Dump(dev, dev.Size(), path); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("debugfs", "-w", "-R", "jr", path).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	m := load(t, path)
	m.SetReadOnly(false)
	return m
}

// orphanBlock finds the block of the orphan file that is not empty.
func orphanBlock(t *testing.T, fs *ext4.FS, sb disk.Superblock) (blk uint64, raw []byte) {
	t.Helper()
	raw = make([]byte, 1024)
	for blk := range uint64(16384) {
		if _, err := fs.Device().ReadAt(raw, int64(blk)*1024); err != nil {
			t.Fatal(err)
		}
		if le.Uint32(raw[1024-8:]) == disk.OrphanMagic && disk.OrphanSlot(raw, 0) != 0 {
			return blk, raw
		}
	}
	t.Fatal("no orphan in the orphan file")
	return 0, nil
}

// orphanSeed is the checksum seed of the orphan file's inode.
func orphanSeed(t *testing.T, fs *ext4.FS, sb disk.Superblock) uint32 {
	t.Helper()
	if _, err := fs.Stat(ext4.Ino(sb.OrphanFileIno)); !errors.Is(err, syscall.ESTALE) {
		t.Errorf("the orphan file can be reached: %v", err)
	}
	sums := sb.Checksums()
	return sums.InodeSeed(sb.OrphanFileIno, 0) // mke2fs gives it generation 0
}

// TestHostileRecovery opens images for writing that were made to hurt whoever
// recovers them. Each must end soon, writable or not.
func TestHostileRecovery(t *testing.T) {
	for name, build := range map[string]func(*testing.T) *evil{
		"fast commit adds ..":             fastCommitName(".."),
		"fast commit adds a zero":         fastCommitName("a\x00b"),
		"fast commit adds a name":         fastCommitName("fine"),
		"fast commits in long directory":  fastCommitsInLongDirectory,
		"orphan of shared blocks":         orphanOfSharedIndirect,
		"orphans that claim all space":    greedyOrphans,
		"orphan file of everything":       hugeOrphanFile,
		"log of one block for ever":       logOfOneBlock,
		"log in the journal's last block": logBehindTheSign,
	} {
		t.Run(name, func(t *testing.T) {
			e := build(t)
			dev := e.device()
			dev.SetReadOnly(false)
			var fs *ext4.FS
			err := within(t, func() (err error) {
				fs, err = ext4.Open(dev, ext4.Options{})
				return err
			})
			if err != nil {
				t.Logf("open: %v", err)
				return
			}
			t.Logf("%d orphans, fast commits %v, read-only because %q", fs.Recovery().Orphans, fs.Recovery().Fast, fs.ReadOnlyReason())
			if err := within(t, fs.Close); err != nil {
				t.Logf("close: %v", err)
			}
		})
	}
}

// TestOrphansTogether lets go of orphans from several sides at once, when most of
// them have left the cache: each that leaves the list changes the one before it,
// which somebody else may be loading.
func TestOrphansTogether(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a lot of inodes to fill the cache")
	}
	const many, sides = 60000, 4
	dev := load(t, e2test.Image(t, 256*mib, "-t", "ext4", "-b", "4096", "-N", "70000", "-O", "^orphan_file"))
	dev.SetReadOnly(false)
	fs := openWritable(t, dev)
	before, err := fs.Statfs()
	if err != nil {
		t.Fatal(err)
	}
	inos := orphans(t, fs, many)
	var wg sync.WaitGroup
	for side := range sides {
		wg.Go(func() {
			for i := side; i < many; i += sides {
				if err := fs.Unhold(inos[i], 1); err != nil {
					t.Errorf("inode %d: %v", inos[i], err)
				}
			}
		})
	}
	wg.Wait()
	if st, err := fs.Statfs(); err != nil || st.FilesFree != before.FilesFree {
		t.Errorf("%d inodes are free, %d were; %v", st.FilesFree, before.FilesFree, err)
	}
	if err := fs.Close(); err != nil {
		t.Fatal(err)
	}
	dumpClean(t, dev)
}
