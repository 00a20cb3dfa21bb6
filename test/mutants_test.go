package test

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ext4box/ext4/mutate"
	"ext4box/internal/testimage"
)

// mutantTime is how long everything with one mutant may take; the machine may be busy with
// other things as well.
const mutantTime = 30 * time.Second

// mutantMemory is what a server may take, in KiB.
const mutantMemory = 400 << 10

// TestMutantsMounted mounts mutants with the program, uses them by system calls, and unmounts them. Whatever the
// mutant is, either mount says in one sentence why not, or there is a server until the end, of bounded memory. What is
// right about the answers is for the tests of package ext4.
//
// EXT4BOX_MUTANTS is a hundred times the number of mutants of each image; see TestMutants.
func TestMutantsMounted(t *testing.T) {
	requireMounting(t)
	if testing.Short() {
		t.Skip("other processes are not under the race detector")
	}
	count, seed := 3, uint64(1)
	if n, err := strconv.Atoi(os.Getenv("EXT4BOX_MUTANTS")); err == nil {
		count = max(1, n/100)
	}
	if n, err := strconv.ParseUint(os.Getenv("EXT4BOX_MUTANTS_SEED"), 10, 64); err == nil {
		seed = n
	}
	of := regexp.MustCompile(os.Getenv("EXT4BOX_MUTANTS_OF"))
	for _, name := range []string{"1k", "ext3", "inlinedata-1k-inode1024", "eainode-1k", "orphanfile", "quota"} {
		c, ok := testimage.Find(name)
		if !ok {
			t.Fatalf("no configuration %s", name)
		}
		if !of.MatchString(name) {
			continue
		}
		c.Size, c.Level, c.BigDir, c.Args = 12<<20, testimage.Small, 0, append(slices.Clone(c.Args), "-N", "1024")
		t.Run(name, func(t *testing.T) {
			base, err := mutate.Load(testimage.Build(t, t.TempDir(), c).Path)
			if err != nil {
				t.Fatal(err)
			}
			var sum mountedSum
			for i := range count {
				m := base.Mutant(seed + uint64(i))
				useMutant(t, m, &sum)
				if t.Failed() {
					t.Logf("%v\nagain: EXT4BOX_MUTANTS=1 EXT4BOX_MUTANTS_SEED=%d EXT4BOX_MUTANTS_OF='^%s$' go test -run '^TestMutantsMounted$' ./test", m, m.Seed, name)
					break
				}
			}
			t.Logf("%d mutants from seed %d on: %d not mounted, %d calls done, %d refused, at most %d KiB of memory", count, seed, sum.closed, sum.done, sum.failed, sum.memory)
		})
	}
}

type mountedSum struct {
	closed, done, failed int
	memory               int64
}

func useMutant(t *testing.T, m *mutate.Mutant, sum *mountedSum) {
	path, dir := filepath.Join(t.TempDir(), "mutant"), t.TempDir()
	if err := m.WriteFile(path); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(path)
	start := time.Now()
	r := runMount(t, "-o", "rw,errors=continue", path, dir)
	if strings.Contains(r.stderr, "panic") || strings.Contains(r.stderr, "goroutine ") {
		t.Errorf("mounting: %s", r.stderr)
		return
	}
	if r.status != 0 {
		if sum.closed++; len(strings.TrimSpace(r.stderr)) == 0 {
			t.Errorf("mounting: status %d, and not a word", r.status)
		}
		return
	}
	defer func() {
		if mounted(dir) { // before what is in it would be removed with it
			_ = unix.Unmount(dir, unix.MNT_DETACH)
		}
	}()
	pids := servers(t, path)
	u := &systemCalls{dir: "/", end: start.Add(mutantTime / 3), rng: rand.New(rand.NewPCG(m.Seed, 80))}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := inside(dir, u.use); err != nil {
			t.Error(err)
		}
	}()
	select {
	case <-done:
	case <-time.After(mutantTime):
		t.Error("a system call does not end")
		for _, pid := range pids { // with which it does
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		<-done
	}
	sum.done, sum.failed = sum.done+u.done, sum.failed+u.failed
	if u.gone != nil {
		t.Errorf("the server is gone: %v", u.gone)
	}
	for _, pid := range pids {
		if n := peakMemory(pid); n > mutantMemory {
			t.Errorf("the server takes %d KiB", n)
		} else {
			sum.memory = max(sum.memory, n)
		}
	}
	// What is lost is said, but the mount goes in any case.
	if r := run(t, "umount", dir); mounted(dir) || r.status != 0 && !strings.Contains(r.stderr, "is unmounted") {
		t.Errorf("unmounting: status %d: %s", r.status, r.stderr)
	}
	if took := time.Since(start); took > mutantTime {
		t.Errorf("took %v", took)
	}
}

// inside runs fn on a thread for which dir is the root directory: where a hostile image has links for
// directories no path leads out of it.
func inside(dir string, fn func()) error {
	runtime.LockOSThread() // and not unlocked: the thread ends with the goroutine
	root, err := os.Open("/")
	if err != nil {
		return err
	}
	defer root.Close()
	if err := errors.Join(unix.Unshare(unix.CLONE_FS), unix.Chdir(dir)); err != nil {
		return err
	}
	if err := unix.Chroot("."); err != nil {
		return err
	}
	fn()
	if err := unix.Fchdir(int(root.Fd())); err != nil { // or the thread keeps the mount busy
		return err
	}
	return unix.Chroot(".")
}

// peakMemory is the most that a process had in memory, in KiB, or 0 where that is not to be had.
func peakMemory(pid int) (n int64) {
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if _, rest, ok := strings.Cut(string(status), "VmHWM:"); ok {
		_, _ = fmt.Sscan(rest, &n)
	}
	return n
}

// systemCalls are made on a mount.
type systemCalls struct {
	dir          string
	end          time.Time
	rng          *rand.Rand
	dirs, files  []string
	done, failed int
	gone         error // that no server answers
}

func (u *systemCalls) note(err error) {
	if err == nil || errors.Is(err, io.EOF) {
		u.done++
		return
	}
	u.failed++
	if errors.Is(err, syscall.ENOTCONN) || errors.Is(err, syscall.ECONNABORTED) || errors.Is(err, syscall.ECANCELED) {
		u.gone = err
	}
}

func (u *systemCalls) over() bool { return time.Now().After(u.end) || u.gone != nil }

// use walks, reads everything, and changes something of everything.
func (u *systemCalls) use() {
	_ = filepath.WalkDir(u.dir, func(path string, d fs.DirEntry, err error) error {
		if u.note(err); u.over() || len(u.files)+len(u.dirs) > 1000 || strings.Count(path, "/") > 30 {
			return fs.SkipAll
		}
		switch {
		case d == nil:
		case d.IsDir():
			u.dirs = append(u.dirs, path)
		default:
			u.files = append(u.files, path)
		}
		return nil
	})
	for _, path := range u.files {
		if !u.over() {
			u.read(path)
		}
	}
	if len(u.dirs) == 0 {
		return
	}
	for range 150 {
		if !u.over() {
			u.change()
		}
	}
}

func (u *systemCalls) read(path string) {
	names := make([]byte, 64<<10)
	n, err := unix.Llistxattr(path, names)
	u.note(err)
	for _, name := range strings.Split(string(names[:max(n, 0)]), "\x00") {
		if name != "" {
			_, err := unix.Lgetxattr(path, name, make([]byte, 64<<10))
			u.note(err)
		}
	}
	st, err := os.Lstat(path)
	if u.note(err); err != nil {
		return
	}
	switch st.Mode().Type() {
	case fs.ModeSymlink:
		_, err := os.Readlink(path)
		u.note(err)
	case 0:
		f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW, 0)
		if u.note(err); err != nil {
			return
		}
		defer f.Close()
		for off, n := int64(0), 0; n < 20; n++ {
			if off, err = unix.Seek(int(f.Fd()), off, unix.SEEK_DATA); err != nil {
				break
			}
			m, err := f.ReadAt(make([]byte, 64<<10), off)
			u.note(err)
			off += int64(max(m, 1))
		}
	}
}

func (u *systemCalls) any(list []string) string { return list[u.rng.IntN(len(list))] }

func (u *systemCalls) change() {
	fresh := filepath.Join(u.any(u.dirs), fmt.Sprint("new", u.rng.IntN(1000)))
	old := fresh
	if len(u.files) > 0 {
		old = u.any(u.files)
	}
	switch u.rng.IntN(8) {
	case 0:
		u.note(os.Mkdir(fresh, 0o755))
	case 1:
		u.note(os.Rename(old, fresh))
	case 2:
		u.note(os.Remove(old))
	case 3:
		u.note(unix.Lsetxattr(old, "user.new", make([]byte, u.rng.IntN(3000)), 0))
	case 4:
		u.note(os.Link(old, fresh))
	case 5:
		f, err := os.OpenFile(fresh, os.O_WRONLY|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
		if u.note(err); err == nil {
			_, err = f.Write(make([]byte, u.rng.IntN(50_000)))
			u.note(errors.Join(err, f.Close()))
		}
	default:
		st, err := os.Lstat(old)
		if u.note(err); err != nil || !st.Mode().IsRegular() {
			return
		}
		f, err := os.OpenFile(old, os.O_RDWR|unix.O_NOFOLLOW, 0)
		if u.note(err); err != nil {
			return
		}
		off := u.rng.Int64N(max(1, min(st.Size(), 1<<30)))
		_, err = f.WriteAt(make([]byte, u.rng.IntN(20_000)), off)
		u.note(err)
		u.note(unix.Fallocate(int(f.Fd()), []uint32{0, unix.FALLOC_FL_KEEP_SIZE, unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE}[u.rng.IntN(3)], off, 1+u.rng.Int64N(30_000)))
		if u.rng.IntN(3) == 0 {
			u.note(f.Truncate(off))
		}
		u.note(f.Sync())
		u.note(f.Close())
	}
}
