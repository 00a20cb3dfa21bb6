package test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ext4box/ext4"
	"ext4box/internal/testimage"
)

// bothWays calls what on an ext4box mount and on a kernel mount of images that
// are made alike, and wants the same report. again, if any, is called after both
// were mounted anew. ext4box mounts with options.
func bothWays(t *testing.T, size int64, args []string, what, again func(t *testing.T, dir string) string, options ...string) {
	t.Helper()
	requireMounting(t)
	dir := t.TempDir()
	var reports [2]string
	for i, name := range []string{"ext4box", "kernel"} {
		img := &testimage.Image{Path: filepath.Join(dir, name+".img")}
		if err := testimage.Mke2fs(img.Path, size, args...); err != nil {
			t.Fatal(err)
		}
		for _, f := range []func(*testing.T, string) string{what, again} {
			if f == nil {
				continue
			}
			if name == "kernel" {
				m := testimage.MountRW(t, img, "")
				reports[i] += f(t, m.Dir)
				if err := m.Unmount(); err != nil {
					t.Fatal(err)
				}
			} else {
				m := mountRW(t, img.Path, append(options, "allow_other")...)
				reports[i] += f(t, m)
				umount(t, m)
			}
		}
		if err := testimage.Run("e2fsck", "-fn", img.Path); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if reports[0] != reports[1] {
		got, want := strings.Split(reports[0], "\n"), strings.Split(reports[1], "\n")
		for i := range max(len(got), len(want)) {
			g, w := "-", "-"
			if i < len(got) {
				g = got[i]
			}
			if i < len(want) {
				w = want[i]
			}
			if g != w {
				t.Errorf("ext4box: %s\nkernel:  %s", g, w)
			}
		}
	}
}

var plainExt4 = []string{"-t", "ext4", "-b", "4096"}

// TestWriteStripsPrivilege compares with the kernel what becomes of the bits and
// capabilities that lend privilege when a file is changed.
func TestWriteStripsPrivilege(t *testing.T) {
	const capability = "security.capability"
	capValue := []byte{1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	ways := []struct{ name, script string }{
		{"write", "echo hello >>F"},
		{"overwrite", "dd if=/dev/zero of=F bs=100 count=1 conv=notrunc status=none"},
		{"open truncating", ": >F"},
		{"truncate", "truncate -s 10 F"},
		{"grow", "truncate -s 100000 F"},
		{"direct write", "dd if=/dev/zero of=F bs=4096 count=1 conv=notrunc oflag=direct status=none"},
		{"sync write", "dd if=/dev/zero of=F bs=4096 count=1 conv=notrunc oflag=sync status=none"},
		{"allocate", "fallocate -l 65536 F"},
		{"punch", "fallocate -p -o 0 -l 4096 F"},
		{"chown", "chown $(id -u) F"},
		{"chgrp", "chgrp $(id -g) F"},
		{"chmod", "chmod u+x F"},
		{"touch", "touch F"},
	}
	bothWays(t, 32<<20, plainExt4, func(t *testing.T, dir string) string {
		var b strings.Builder
		if err := os.Chmod(dir, 0o777); err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, way := range ways {
			for _, mode := range []uint32{0o6777, 0o2767, 0o4766, 0o777} {
				for _, uid := range []uint32{0, 12345} {
					n++
					path := filepath.Join(dir, fmt.Sprint("file-", n))
					owner := 12345
					if err := errors.Join(os.WriteFile(path, make([]byte, 5000), 0o666), os.Chown(path, owner, owner),
						unix.Chmod(path, mode), unix.Setxattr(path, capability, capValue, 0)); err != nil {
						t.Fatal(err)
					}
					cmd := exec.Command("sh", "-c", strings.ReplaceAll(way.script, "F", path))
					if uid != 0 {
						cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
					}
					err := cmd.Run()
					var st unix.Stat_t
					if err := unix.Stat(path, &st); err != nil {
						t.Fatal(err)
					}
					_, capErr := unix.Getxattr(path, capability, make([]byte, 100))
					fmt.Fprintf(&b, "%d: %s by %d of %#o: %v, mode %#o, capability %v\n", n, way.name, uid, mode, err, st.Mode, capErr)
				}
			}
		}
		return b.String()
	}, func(t *testing.T, dir string) string {
		var b strings.Builder
		for n := 1; ; n++ {
			path := filepath.Join(dir, fmt.Sprint("file-", n))
			var st unix.Stat_t
			if err := unix.Stat(path, &st); err != nil {
				return b.String()
			}
			_, err := unix.Getxattr(path, capability, make([]byte, 100))
			fmt.Fprintf(&b, "%d anew: mode %#o, size %d, capability %v\n", n, st.Mode, st.Size, err)
		}
	})
}

// A timeStep is a change of a file and which times it sets.
type timeStep struct {
	name string
	do   func(f *os.File, path string) error
}

func utimes(path string, sec int64) error {
	ts := unix.Timespec{Sec: sec, Nsec: 123456789}
	return unix.UtimesNano(path, []unix.Timespec{ts, ts})
}

func timeSteps() []timeStep {
	write := func(n int, off int64) func(*os.File, string) error {
		return func(f *os.File, _ string) error {
			_, err := f.WriteAt(make([]byte, n), off)
			return err
		}
	}
	stamp := func(_ *os.File, path string) error { return utimes(path, 1e9) }
	chain := func(fs ...func(*os.File, string) error) func(*os.File, string) error {
		return func(f *os.File, path string) error {
			for _, do := range fs {
				if err := do(f, path); err != nil {
					return err
				}
			}
			return nil
		}
	}
	fsync := func(f *os.File, _ string) error { return f.Sync() }
	store := func(f *os.File, _ string) error {
		m, err := unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		if err != nil {
			return err
		}
		m[17]++
		return errors.Join(unix.Msync(m, unix.MS_SYNC), unix.Munmap(m))
	}
	fallocate := func(mode uint32, off, n int64) func(*os.File, string) error {
		return func(f *os.File, _ string) error { return unix.Fallocate(int(f.Fd()), mode, off, n) }
	}
	return []timeStep{
		{"write, utimes", chain(write(100000, 0), stamp)},
		{"write, fsync, utimes", chain(write(100000, 0), fsync, stamp)},
		{"utimes, write", chain(stamp, write(100, 50))},
		{"utimes, write, fsync", chain(stamp, write(100, 50), fsync)},
		{"utimes, extend", chain(stamp, write(100000, 3000))},
		{"utimes, extend, fsync", chain(stamp, write(100000, 3000), fsync)},
		{"extend, utimes", chain(write(100000, 3000), stamp)},
		{"mmap, utimes", chain(store, stamp)},
		{"utimes, mmap", chain(stamp, store)},
		{"utimes, truncate", chain(stamp, func(f *os.File, _ string) error { return f.Truncate(17) })},
		{"utimes, truncate by path", chain(stamp, func(_ *os.File, p string) error { return os.Truncate(p, 17) })},
		{"utimes, grow", chain(stamp, func(_ *os.File, p string) error { return os.Truncate(p, 17000) })},
		{"utimes, ftruncate to the same", chain(stamp, func(f *os.File, _ string) error { return f.Truncate(5000) })},
		{"utimes, chmod", chain(stamp, func(_ *os.File, p string) error { return os.Chmod(p, 0o600) })},
		{"utimes, allocate", chain(stamp, fallocate(0, 0, 100000))},
		{"utimes, allocate what is there", chain(stamp, fallocate(0, 0, 5000))},
		{"utimes, keep size", chain(stamp, fallocate(1, 0, 100000))},
		{"utimes, punch", chain(stamp, fallocate(3, 0, 4096))},
		{"utimes, zero", chain(stamp, fallocate(0x10, 0, 4096))},
		{"allocate, utimes", chain(fallocate(0, 0, 100000), stamp)},
		{"punch, utimes", chain(fallocate(3, 0, 4096), stamp)},
		{"write, rename, utimes", chain(write(100000, 0), func(_ *os.File, p string) error {
			return errors.Join(os.Rename(p, p+"x"), os.Rename(p+"x", p))
		}, stamp)},
		{"utimes, O_TRUNC", chain(stamp, func(_ *os.File, p string) error { return os.WriteFile(p, nil, 0o600) })},
	}
}

// TestWriteTimes compares with the kernel which times a change sets, at once and
// as they are found when the image is mounted again.
func TestWriteTimes(t *testing.T) {
	const old = 1_000_000_000
	var before map[string]unix.Stat_t
	describe := func(st *unix.Stat_t) string {
		word := func(ts unix.Timespec) string {
			if ts.Sec == old {
				return fmt.Sprint("set ", ts.Nsec)
			}
			return "now"
		}
		return fmt.Sprintf("size %d, mtime %s, ctime %s", st.Size, word(st.Mtim), word(st.Ctim))
	}
	bothWays(t, 32<<20, plainExt4, func(t *testing.T, dir string) string {
		before = map[string]unix.Stat_t{}
		var b strings.Builder
		for i, s := range timeSteps() {
			path := filepath.Join(dir, fmt.Sprint("file-", i))
			if err := os.WriteFile(path, make([]byte, 5000), 0o666); err != nil {
				t.Fatal(err)
			}
			f, err := os.OpenFile(path, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(5 * time.Millisecond)
			if err := s.do(f, path); err != nil {
				t.Errorf("%s: %v", s.name, err)
			}
			f.Close()
			var st unix.Stat_t
			if err := unix.Stat(path, &st); err != nil {
				t.Fatal(err)
			}
			before[filepath.Base(path)] = st
			fmt.Fprintf(&b, "%s: %s, %d blocks\n", s.name, describe(&st), st.Blocks)
		}
		return b.String()
	}, func(t *testing.T, dir string) string {
		var b strings.Builder
		for i, s := range timeSteps() {
			name := fmt.Sprint("file-", i)
			var st unix.Stat_t
			if err := unix.Stat(filepath.Join(dir, name), &st); err != nil {
				t.Fatal(err)
			}
			was := before[name]
			fmt.Fprintf(&b, "%s, mounted anew: same mtime %v, same ctime %v, same size %v\n", s.name, st.Mtim == was.Mtim, st.Ctim == was.Ctim, st.Size == was.Size)
			if st.Mtim != was.Mtim || st.Ctim != was.Ctim {
				t.Logf("%s: mtime %v ctime %v, was %v %v", s.name, st.Mtim, st.Ctim, was.Mtim, was.Ctim)
			}
		}
		return b.String()
	})
}

// TestWriteSpace compares with the kernel the space that files take and leave.
func TestWriteSpace(t *testing.T) {
	bothWays(t, 64<<20, plainExt4, func(t *testing.T, dir string) string {
		var b strings.Builder
		free := func() int64 {
			var st unix.Statfs_t
			if err := unix.Statfs(dir, &st); err != nil {
				t.Fatal(err)
			}
			return int64(st.Bfree)
		}
		start := free()
		path := filepath.Join(dir, "sparse")
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		say := func(what string) {
			if err := f.Sync(); err != nil {
				t.Fatal(err)
			}
			var st unix.Stat_t
			if err := unix.Fstat(int(f.Fd()), &st); err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(&b, "%s: size %d, %d sectors, %d blocks fewer free\n", what, st.Size, st.Blocks, start-free())
		}
		say("new")
		must := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		_, err = f.WriteAt(make([]byte, 4096), 10<<20)
		must(err)
		say("one block far out")
		_, err = f.WriteAt(make([]byte, 1), 0)
		must(err)
		say("one byte at the start")
		_, err = f.WriteAt(make([]byte, 1<<20), 1<<20)
		must(err)
		say("a MiB")
		must(unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 1<<20, 512<<10))
		say("half of it punched")
		must(unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, 20<<20, 1<<20))
		say("allocated beyond")
		must(f.Truncate(10<<20 + 4096))
		say("truncated to the same")
		must(f.Truncate(0))
		say("emptied")
		_, err = f.WriteAt(make([]byte, 100000), 0)
		must(err)
		must(os.Remove(path))
		_, err = f.WriteAt(make([]byte, 100000), 100000)
		must(err)
		got := make([]byte, 200000)
		n, err := f.ReadAt(got, 0)
		fmt.Fprintf(&b, "without a name: read %d, %v\n", n, err)
		say("without a name")
		return b.String()
	}, func(t *testing.T, dir string) string {
		var st unix.Statfs_t
		if err := unix.Statfs(dir, &st); err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf("anew: %d blocks, %d free, %d inodes free\n", st.Blocks, st.Bfree, st.Ffree)
	})
}

// TestWriteFull fills a filesystem through the kernel's cache, which learns only
// when it writes back that there is no room: what fsync or close answered for
// must be there, and what is not there must have been reported.
func TestWriteFull(t *testing.T) {
	requireMounting(t)
	img := &testimage.Image{Path: filepath.Join(t.TempDir(), "full.img")}
	if err := testimage.Mke2fs(img.Path, 16<<20, "-t", "ext4", "-b", "1024"); err != nil {
		t.Fatal(err)
	}
	dir := mountRW(t, img.Path)
	content := func(i, n int) []byte {
		p := make([]byte, n)
		for j := range p {
			p[j] = byte(i*31 + j*7 + j>>8 + 1)
		}
		return p
	}
	sizes := []int{3 << 20, 700_001, 1_300_000}
	good := map[string][]byte{}
	bad := 0
	for i := 0; bad < 6; i++ {
		if i > 200 {
			t.Fatal("it does not get full")
		}
		path := filepath.Join(dir, fmt.Sprint("file-", i))
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		p := content(i, sizes[i%len(sizes)])
		_, errWrite := f.Write(p)
		var errSync error
		if i%2 == 0 {
			errSync = f.Sync()
		}
		err = errors.Join(errWrite, errSync, f.Close())
		if err == nil {
			good[filepath.Base(path)] = p
			continue
		}
		if !errors.Is(err, unix.ENOSPC) {
			t.Errorf("file %d: %v, want ENOSPC", i, err)
		}
		bad++
	}
	check := func(dir string) {
		t.Helper()
		for name, want := range good {
			if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil {
				t.Error(err)
			} else if d := differs(want, got, 0); d != nil {
				t.Errorf("%s, which was written without an error: %v", name, d)
			}
		}
	}
	check(dir)
	umount(t, dir)
	if err := testimage.Run("e2fsck", "-fn", img.Path); err != nil {
		t.Error(err)
	}
	check(testimage.MountRO(t, img, "").Dir)
}

// TestWriteBackKeepsCapability sets a capability on a file whose data the kernel
// has not written back yet, which is no reason to take it away.
func TestWriteBackKeepsCapability(t *testing.T) {
	const capability = "security.capability"
	value := []byte{1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	bothWays(t, 32<<20, plainExt4, func(t *testing.T, dir string) string {
		path := filepath.Join(dir, "program")
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		_, err = f.Write(make([]byte, 100000))
		if err := errors.Join(err, unix.Fsetxattr(int(f.Fd()), capability, value, 0), f.Close()); err != nil {
			t.Fatal(err)
		}
		n, err := unix.Getxattr(path, capability, make([]byte, 100))
		return fmt.Sprintln(n, err)
	}, func(t *testing.T, dir string) string {
		n, err := unix.Getxattr(filepath.Join(dir, "program"), capability, make([]byte, 100))
		return fmt.Sprintln("anew", n, err)
	})
}

// TestBlocksOfOpenFiles: what the kernel writes back of its own accord is to be seen
// in st_blocks before the file is closed.
func TestBlocksOfOpenFiles(t *testing.T) {
	img := makeImage(t, 64<<20)
	dir := mountRW(t, img.Path)
	f, err := os.Create(filepath.Join(dir, "file"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var st unix.Stat_t
	for i := range 3 {
		const n = 4 << 20
		if _, err := f.Write(make([]byte, n)); err != nil {
			t.Fatal(err)
		}
		if err := unix.SyncFileRange(int(f.Fd()), 0, 0, unix.SYNC_FILE_RANGE_WAIT_BEFORE|unix.SYNC_FILE_RANGE_WRITE|unix.SYNC_FILE_RANGE_WAIT_AFTER); err != nil {
			t.Fatal(err)
		}
		want := int64(i+1) * n / 512
		for end := time.Now().Add(patience); st.Blocks < want && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
			if err := unix.Fstat(int(f.Fd()), &st); err != nil {
				t.Fatal(err)
			}
		}
		if st.Blocks < want || st.Size != int64(i+1)*n {
			t.Fatalf("%d blocks, want %d; size %d", st.Blocks, want, st.Size)
		}
	}
}

// TestWriteSync takes copies of the image right after writes that return only
// when they are durable, and wants to find what was written when the copies are
// recovered.
func TestWriteSync(t *testing.T) {
	requireMounting(t)
	img := &testimage.Image{Path: filepath.Join(t.TempDir(), "sync.img")}
	if err := testimage.Mke2fs(img.Path, 16<<20, plainExt4...); err != nil {
		t.Fatal(err)
	}
	dir := mountRW(t, img.Path, "commit=900")
	for i, way := range []struct {
		name  string
		flags int
		after func(fd int) error
	}{
		{"O_SYNC", unix.O_SYNC, nil},
		{"O_DSYNC", unix.O_DSYNC, nil},
		{"O_SYNC|O_DIRECT", unix.O_SYNC | unix.O_DIRECT, nil},
		{"fsync", 0, unix.Fsync},
		{"fdatasync", 0, unix.Fdatasync},
		{"msync", 0, nil},
	} {
		path := filepath.Join(dir, fmt.Sprint("file-", i))
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|way.flags, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		for round, off := range []int64{0, 4096, 100 << 10, 4096} { // new, appended, behind a hole, overwritten
			want := alignedBuffer(8192)
			for j := range want {
				want[j] = byte(j + i*7 + round*31 + 1)
			}
			if way.name == "msync" {
				err = syncThroughMapping(f, want, off)
			} else if _, err = f.WriteAt(want, off); err == nil && way.after != nil {
				err = way.after(int(f.Fd()))
			}
			if err != nil {
				t.Fatalf("%s: %v", way.name, err)
			}
			fs := openImage(t, copyImage(t, img, fmt.Sprint(".", i, ".", round)), ext4.Options{})
			got, err := fs.FS().ReadFile(filepath.Base(path))
			if err != nil {
				t.Errorf("%s, round %d: %v", way.name, round, err)
			} else if d := differs(want, got[min(off, int64(len(got))):min(off+8192, int64(len(got)))], off); d != nil {
				t.Errorf("%s, round %d: %v", way.name, round, d)
			}
		}
	}
}

// syncThroughMapping writes through a mapping of the file, and makes that
// durable.
func syncThroughMapping(f *os.File, p []byte, off int64) error {
	st, err := f.Stat()
	if err == nil && st.Size() < off+int64(len(p)) {
		err = f.Truncate(off + int64(len(p)))
	}
	if err != nil {
		return err
	}
	m, err := unix.Mmap(int(f.Fd()), off, len(p), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	copy(m, p)
	return errors.Join(unix.Msync(m, unix.MS_SYNC), unix.Munmap(m))
}

// TestCopyInterrupted copies while signals arrive, which must not look like the
// end of the file.
func TestCopyInterrupted(t *testing.T) {
	requireMounting(t)
	img := &testimage.Image{Path: filepath.Join(t.TempDir(), "copy.img")}
	if err := testimage.Mke2fs(img.Path, 16<<20, plainExt4...); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(mountRW(t, img.Path), "file"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	thread, stop, stopped := unix.Gettid(), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				_ = unix.Tgkill(os.Getpid(), thread, unix.SIGURG) // the Go runtime's own, which is no trouble
			}
		}
	}()
	defer func() { close(stop); <-stopped }()
	for range 1000 {
		src, dst := int64(0), int64(2<<20)
		n, err := unix.CopyFileRange(int(f.Fd()), &src, int(f.Fd()), &dst, 64<<10, 0)
		if err == nil && n == 0 {
			t.Fatal("nothing was copied")
		}
		if err != nil && !errors.Is(err, unix.EINTR) {
			t.Fatal(err)
		}
	}
}

// TestWriteImmutable writes to an immutable file, which must fail no later than
// when the data is to become durable, and leave the file as it is.
func TestWriteImmutable(t *testing.T) {
	requireMounting(t)
	img := &testimage.Image{Path: filepath.Join(t.TempDir(), "immutable.img")}
	if err := testimage.Mke2fs(img.Path, 16<<20, plainExt4...); err != nil {
		t.Fatal(err)
	}
	m := testimage.MountRW(t, img, "")
	const content = "not to be changed"
	if err := os.WriteFile(filepath.Join(m.Dir, "file"), []byte(content), 0o666); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(exec.Command("chattr", "+i", filepath.Join(m.Dir, "file")).Run(), m.Unmount()); err != nil {
		t.Fatal(err)
	}
	dir := mountRW(t, img.Path)
	for _, flags := range []int{0, os.O_APPEND, os.O_TRUNC, unix.O_DIRECT, os.O_SYNC} {
		f, err := os.OpenFile(filepath.Join(dir, "file"), os.O_WRONLY|flags, 0)
		if err == nil {
			_, err = f.Write(make([]byte, 4096))
			err = errors.Join(err, f.Sync(), f.Close())
		}
		if err == nil {
			t.Errorf("open flags %#x: writing succeeded", flags)
		}
	}
	umount(t, dir)
	if got, err := openImage(t, img, ext4.Options{}).FS().ReadFile("file"); err != nil || string(got) != content {
		t.Errorf("%q, %v", got, err)
	}
}
