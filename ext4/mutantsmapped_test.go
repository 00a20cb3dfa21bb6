package ext4_test

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"ext4box/blockdev"
	"ext4box/blockdev/blocktest"
	"ext4box/ext4"
	"ext4box/fuse"
	"ext4box/fuse/fusetest/vfs"
	"ext4box/server"
)

// TestMutantsMapped has a modelled kernel mount mutants that moves file data itself. Beside what must not be in
// TestMutants either, the server keeps to the protocol whatever the image says, and no mapping leads the kernel to
// write to what is the filesystem's own.
//
// The variables are those of TestMutants, of whose mutants a tenth is taken.
func TestMutantsMapped(t *testing.T) {
	if testing.Short() {
		t.Skip("not under the race detector: see TestMutants")
	}
	eachBase(t, 4, func(t *testing.T, run *mutantRun) {
		if run.journal != nil {
			t.Skip("the model of the kernel has one device")
		}
		count, seed := run.count, run.seed
		var sum mappedSum
		if count > 60 { // they take longer, and differ less by the image
			count /= 10
		}
		for i := range count {
			m := run.base.Mutant(seed + uint64(i))
			t.Run(fmt.Sprint(m.Seed), func(t *testing.T) {
				mapAttack(t, m.Device(), again(t, m), rand.New(rand.NewPCG(m.Seed, 78)), &sum)
			})
			if t.Failed() {
				break
			}
		}
		t.Logf("%d mutants from seed %d on: %d not opened, %d with data through the server, %d operations done, %d refused, %d writes of data",
			count, seed, sum.closed.Load(), sum.moved.Load(), sum.done.Load(), sum.failed.Load(), sum.writes.Load())
		if !t.Failed() && (sum.done.Load() == 0 || sum.failed.Load() == 0) {
			t.Error("this tests nothing")
		}
	})
}

// mappedSum adds up what became of images that a kernel mounted.
type mappedSum struct{ closed, moved, done, failed, writes atomic.Int64 }

// mapAttack mounts a damaged device, whose name it is given, and works on it.
func mapAttack(t *testing.T, dev *blocktest.Mem, name string, rng *rand.Rand, sum *mappedSum) {
	g := &guard{Mem: dev, may: allowanceOf(dev, nil)}
	err := bounded(name, func() error { return workMounted(t, g, rng, sum) })
	if err = errors.Join(err, g.wrong()); err != nil || t.Failed() {
		t.Errorf("%s\n%v", name, err)
	}
}

// workMounted serves a device to a kernel, from which users do all kinds of things with files.
func workMounted(t *testing.T, dev *guard, rng *rand.Rand, sum *mappedSum) error {
	const deviceFD = 77
	o := ext4.Options{CommitInterval: time.Duration(1+rng.IntN(50)) * time.Millisecond, CacheBytes: 1 << 20, ReadOnly: rng.IntN(4) == 0}
	if rng.IntN(2) == 0 {
		o.Errors = ext4.OnErrorContinue
	}
	fs, err := ext4.Open(dev, o)
	if err != nil {
		sum.closed.Add(1)
		return withErrno("open", err)
	}
	s := server.New(fs, server.Options{Iomap: server.Iomap{
		Mode: server.IomapAuto, Device: deviceFD, Name: "loop7", SectorSize: 512, AtomicMin: 512, AtomicMax: 65536,
	}})
	data := kernelData{dev, sum}
	image := &imageFaults{TB: t}
	m, err := vfs.TryMount(image, s, vfs.Config{
		Generation: vfs.Generation(rng.IntN(2)), Devices: map[int]blockdev.Device{deviceFD: data}, Options: fuse.Options{Params: s.Params()},
	})
	if err != nil {
		return errors.Join(fmt.Errorf("mount: %w", err), fs.Close())
	}
	if !m.Iomap() {
		sum.moved.Add(1)
	}
	u := &mountedUser{m: m, data: data, sum: sum, rng: rng, paths: new(sync.RWMutex), end: time.Now().Add(mutantTime / 4)}
	u.explore("", 0)
	var users sync.WaitGroup
	bad := make([]error, 2)
	for i := range bad {
		one := *u
		one.rng = rand.New(rand.NewPCG(rng.Uint64(), 1))
		users.Go(func() {
			defer func() {
				if p := recover(); p != nil {
					bad[i] = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
				}
			}()
			for range 60 {
				if len(one.files) == 0 || time.Now().After(one.end) {
					break
				}
				one.step()
			}
			bad[i] = one.bad
		})
	}
	users.Wait()
	if err := m.Unmount(); err != nil {
		sum.failed.Add(1)
	}
	for _, node := range image.blamed() {
		for _, line := range m.Trace() {
			if strings.Contains(line, " "+node+" ") {
				t.Log(line)
			}
		}
	}
	return errors.Join(append(bad, withErrno("close", fs.Close()))...)
}

// imageFaults lets pass what the model blames on the server, but only the image is to blame for.
type imageFaults struct {
	testing.TB
	mu    sync.Mutex
	nodes map[string]bool
}

// imageFault is about files with blocks in common, and inodes that have no room for times.
var imageFault = regexp.MustCompile(`which node \d+ has as|the reply has another [acm]time than was set`)

var blamedNode = regexp.MustCompile(`node (\d+)`)

func (f *imageFaults) Errorf(format string, args ...any) {
	msg := fmt.Sprintf(format, args...)
	if imageFault.MatchString(msg) {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if m := blamedNode.FindStringSubmatch(msg); m != nil {
		if f.nodes == nil {
			f.nodes = map[string]bool{}
		}
		f.nodes[m[1]] = true
	}
	f.TB.Error(msg)
}

// blamed are the nodes with which something was wrong.
func (f *imageFaults) blamed() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Collect(maps.Keys(f.nodes))
}

// mountedUser does with files what system calls can do.
type mountedUser struct {
	m     *vfs.FS
	data  kernelData
	sum   *mappedSum
	rng   *rand.Rand
	files []string
	end   time.Time
	bad   error
	// paths is held while a path is followed, exclusively while caches are dropped: the reply to a LOOKUP that
	// is under way then would bring an inode back as it was.
	paths *sync.RWMutex
}

func (u *mountedUser) dropCaches() {
	u.paths.Lock()
	defer u.paths.Unlock()
	u.m.DropCaches()
}

// open opens a file for writing, or for reading if that is all that can be done.
func (u *mountedUser) open(name string, flags int) (f *vfs.File, size int64, err error) {
	u.paths.RLock()
	defer u.paths.RUnlock()
	st, err := u.m.Statx(name, 0xfff)
	u.note("stat", err)
	if err != nil || st.Mode&syscall.S_IFMT != syscall.S_IFREG {
		return nil, 0, syscall.EINVAL
	}
	if f, err = u.m.Open(name, flags|syscall.O_RDWR, 0); err != nil {
		f, err = u.m.Open(name, flags, 0)
	}
	u.note("open", err)
	return f, int64(min(st.Size, 1<<63-1)), err
}

func (u *mountedUser) unlink(name string) error {
	u.paths.RLock()
	defer u.paths.RUnlock()
	return u.m.Unlink(name)
}

func (u *mountedUser) note(what string, err error) {
	if err == nil {
		u.sum.done.Add(1)
		return
	}
	u.sum.failed.Add(1)
	u.bad = errors.Join(u.bad, withErrno(what, err))
}

// explore collects the files below a directory, as far as there are not many.
func (u *mountedUser) explore(dir string, depth int) {
	list, err := u.m.ReadDir("/" + dir)
	u.note("readdir", err)
	for _, e := range list {
		name := strings.TrimPrefix(dir+"/"+e.Name, "/")
		switch {
		case len(u.files) > 300 || depth > 4 || e.Name == "." || e.Name == "..":
		case e.Type == syscall.DT_DIR:
			u.explore(name, depth+1)
		default:
			u.files = append(u.files, name)
		}
	}
}

// offset is somewhere in a file of that size, near its end, or anywhere.
func (u *mountedUser) offset(size int64) int64 {
	switch u.rng.IntN(6) {
	case 0:
		return 0
	case 1:
		return max(0, size+int64(u.rng.IntN(9000))-4500)
	case 2:
		return int64(u.rng.Uint64() >> (1 + u.rng.IntN(50)))
	case 3:
		return max(0, size) &^ 4095
	}
	return u.rng.Int64N(max(1, min(size, 1<<40)))
}

func (u *mountedUser) step() {
	rng := u.rng
	name := u.files[rng.IntN(len(u.files))]
	flags := 0
	if rng.IntN(3) == 0 {
		flags |= syscall.O_DIRECT
	}
	f, size, err := u.open(name, flags)
	if err != nil {
		return
	}
	defer func() { u.note("release", f.Close()) }()
	align := func(off int64) int64 {
		if flags&syscall.O_DIRECT != 0 {
			return off &^ 511
		}
		return off
	}
	for range 4 {
		off, n := u.offset(size), 1+rng.IntN(20000)
		// Or the kernel clears all that an image has mapped behind the end of a file, which can be much.
		off = min(off, max(size, size+8<<20))
		switch rng.IntN(12) {
		case 0, 1, 2:
			_, err := f.WriteAt(attackData[:align(int64(n))], align(off))
			u.note("write", err)
		case 3, 4:
			_, err := f.ReadAt(make([]byte, align(int64(n))), align(off))
			u.note("read", err)
		case 5:
			if off < 1<<44 {
				u.note("truncate", f.Truncate(off))
				size = off
			}
		case 6, 7:
			mode := []uint32{0, ext4.FallocKeepSize, ext4.FallocPunchHole | ext4.FallocKeepSize, ext4.FallocZeroRange}[rng.IntN(4)]
			if off < 1<<44 {
				u.note("fallocate", f.Fallocate(mode, off, int64(n)))
			}
		case 8:
			u.note("fsync", f.Fsync())
		case 9:
			mem, err := f.Mmap()
			if err == nil {
				err = mem.Store(attackData[:n], uint64(off))
				mem.Unmap()
			}
			u.note("store", err)
		case 10:
			_, err := f.Fiemap(uint64(off), 64<<10, false)
			u.note("fiemap", err)
			if size < 4<<20 {
				list, err := f.SwapOn()
				if err == nil {
					for _, e := range list {
						u.data.check("a swap file", int64(e.Addr), int64(e.Length), true)
					}
					err = f.SwapOff()
				}
				u.note("swap", err)
			}
		case 11:
			if rng.IntN(4) == 0 {
				u.note("unlink", u.unlink(name))
			} else {
				u.dropCaches()
			}
		}
	}
}
