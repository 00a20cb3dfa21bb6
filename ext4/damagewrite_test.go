package ext4_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"ext4box/blockdev"
	"ext4box/blockdev/blocktest"
	"ext4box/ext4"
	"ext4box/ext4/internal/disk"
	"ext4box/internal/testimage"
	"ext4box/iomap"
)

// damageShapes are the kinds of filesystem that TestDamageWritten damages.
var damageShapes = []struct {
	name, args string
	oracle     testimage.Oracle // who fills it
}{
	{"crashed", "-t ext4 -b 1024 -J size=1 -N 1024 -O ^metadata_csum,^64bit", testimage.Kernel},
	{"crashed-orphanfile", "-t ext4 -b 1024 -J size=1 -N 1024 -O orphan_file,quota,^metadata_csum -E orphan_file_size=4", testimage.Debugfs},
	{"ext4", "-t ext4 -b 4096 -J size=4 -N 1024", testimage.Kernel},
	{"nocsum", "-t ext4 -b 1024 -J size=1 -N 1024 -O ^metadata_csum,^64bit", testimage.Kernel},
	{"nojournal", "-t ext4 -b 1024 -N 1024 -O ^has_journal,^metadata_csum,large_dir", testimage.Kernel},
	{"ext3", "-t ext3 -b 1024 -J size=1 -N 1024", testimage.Kernel},
	{"inline", "-t ext4 -b 1024 -I 256 -J size=1 -N 1024 -O inline_data,^metadata_csum", testimage.Kernel},
	{"inline-csum", "-t ext4 -b 1024 -I 512 -J size=1 -N 1024 -O inline_data", testimage.Kernel},
	{"quota", "-t ext4 -b 1024 -J size=1 -N 1024 -O quota,project,^metadata_csum -E quotatype=usrquota:grpquota:prjquota", testimage.Debugfs},
	{"orphanfile", "-t ext4 -b 1024 -J size=1 -N 1024 -O orphan_file,^metadata_csum -E orphan_file_size=4", testimage.Kernel},
	{"orphanfile-csum", "-t ext4 -b 1024 -J size=1 -N 1024 -O orphan_file,quota -E orphan_file_size=4", testimage.Debugfs},
	{"casefold", "-t ext4 -b 1024 -J size=1 -N 1024 -O casefold,encrypt,^metadata_csum", testimage.Debugfs},
	{"ea_inode", "-t ext4 -b 1024 -J size=1 -N 1024 -O ea_inode,^metadata_csum", testimage.Kernel},
	{"bigalloc", "-t ext4 -b 1024 -C 4096 -J size=1 -N 1024 -O bigalloc,^metadata_csum", testimage.Kernel},
}

// TestDamageWritten damages small rich images in several places at a time, with
// checksums that are right, and works on what is left as if it were sound, from
// two sides at once. Nothing may panic, take long or much memory, or fail without
// an errno; data does not go where the filesystem keeps its own.
//
// EXT4BOX_DAMAGE is the number of images of each shape, EXT4BOX_DAMAGE_SEED the
// seed of the first; EXT4BOX_DAMAGE_TRACE prints each before it is opened.
func TestDamageWritten(t *testing.T) {
	if testing.Short() {
		// That a block of two owners is changed by one while the other reads it is
		// no fault here, and one for the race detector.
		t.Skip("not under the race detector")
	}
	eachVictim(t, 25, func(t *testing.T, v *victim, count int, seed uint64) {
		seeds := make(chan uint64)
		var sum damageSum
		var wg sync.WaitGroup
		for range runtime.GOMAXPROCS(0) {
			wg.Go(func() {
				for n := range seeds {
					attack(t, v, n, &sum)
				}
			})
		}
		for i := range count {
			if t.Failed() {
				break
			}
			seeds <- seed + uint64(i)
		}
		close(seeds)
		wg.Wait()
		t.Logf("%d images from seed %d on: %d not opened, %d opened for reading only, %d operations done, %d refused; longest %v (seed %d)",
			count, seed, sum.closed.Load(), sum.readOnly.Load(), sum.done.Load(), sum.failed.Load(), time.Duration(sum.longest), sum.slowest)
		if sum.done.Load() == 0 || sum.failed.Load() == 0 {
			t.Error("this tests nothing")
		}
	})
}

// eachVictim builds an image of each shape and has do damage copies of it, as many as the
// variable says, or else count, from a seed on.
func eachVictim(t *testing.T, count int, do func(t *testing.T, v *victim, count int, seed uint64)) {
	seed := uint64(1)
	if n, err := strconv.Atoi(os.Getenv("EXT4BOX_DAMAGE")); err == nil {
		count = n
	}
	if n, err := strconv.ParseUint(os.Getenv("EXT4BOX_DAMAGE_SEED"), 10, 64); err == nil {
		seed = n
	}
	for _, s := range damageShapes {
		t.Run(s.name, func(t *testing.T) {
			img := testimage.Build(t, t.TempDir(), testimage.Config{
				Name: s.name, Size: 12 << 20, Args: strings.Fields(s.args), Level: testimage.Small, Oracle: s.oracle})
			v := newVictim(t, img)
			if len(v.inodes) < 50 || len(v.blocks["directory"]) < 5 {
				t.Fatalf("%d inodes in use, %d blocks of directories", len(v.inodes), len(v.blocks["directory"]))
			}
			if strings.HasPrefix(s.name, "crashed") {
				v.crash(t)
			}
			stop := watchHeap(t)
			defer stop()
			do(t, v, count, seed)
		})
	}
}

// damageSum adds up what became of damaged images.
type damageSum struct {
	closed, readOnly, done, failed atomic.Int64

	mu      sync.Mutex
	longest int64
	slowest uint64
}

// Limits for one image. The machine may be busy with other things as well.
const (
	damageTime = 40 * time.Second
	damageHeap = 512 << 20
)

// attack damages the image as the seed says and works on it.
func attack(t *testing.T, v *victim, seed uint64, sum *damageSum) {
	rng := rand.New(rand.NewPCG(seed, 77))
	dev := v.device()
	var what []string
	fixed := false
	for range 1 + rng.IntN(3) {
		w, f := v.damage(rng, dev)
		what = append(what, w)
		fixed = fixed || f
	}
	if rng.IntN(8) > 0 {
		v.seal(dev)
	}
	name := fmt.Sprintf("%s, seed %d (%s)", t.Name(), seed, strings.Join(what, "; "))
	if os.Getenv("EXT4BOX_DAMAGE_TRACE") != "" {
		fmt.Fprintln(os.Stderr, name)
	}
	watched := &watchedDevice{Mem: dev}
	if !fixed {
		watched.fixed, watched.bits = v.fixed, v.geo.BlockBits
	}
	start := time.Now()
	finished := make(chan error, 1)
	go func() {
		defer func() {
			if p := recover(); p != nil {
				finished <- fmt.Errorf("panic: %v\n%s", p, debug.Stack())
			}
		}()
		finished <- workOn(watched, v, rng, sum)
	}()
	select {
	case err := <-finished:
		if err = errors.Join(err, watched.wrong()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	case <-time.After(damageTime):
		stacks := make([]byte, 1<<20)
		panic(fmt.Sprintf("%s: does not end\n%s", name, stacks[:runtime.Stack(stacks, true)]))
	}
	sum.mu.Lock()
	defer sum.mu.Unlock()
	if took := int64(time.Since(start)); took > sum.longest {
		sum.longest, sum.slowest = took, seed
	}
}

// watchHeap fails the test when the heap grows beyond the limit.
func watchHeap(t *testing.T) (stop func()) {
	quit, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			var m runtime.MemStats
			if runtime.ReadMemStats(&m); m.HeapAlloc > damageHeap {
				stacks := make([]byte, 1<<20)
				panic(fmt.Sprintf("%s: %d MiB of heap\n%s", t.Name(), m.HeapAlloc>>20, stacks[:runtime.Stack(stacks, true)]))
			}
			select {
			case <-quit:
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	}()
	return func() { close(quit); <-ended }
}

// attackData is written to files, and attackValue to attributes.
var (
	attackData  = bytes.Repeat([]byte("ATTACK! "), 4096)
	attackValue = bytes.Repeat([]byte("VALUE "), 4096)
)

// watchedDevice remembers writes that should not have been.
type watchedDevice struct {
	*blocktest.Mem
	fixed map[int64]bool // blocks that no data may be written to
	bits  uint
	mu    sync.Mutex
	err   error
}

var _ blockdev.Device = (*watchedDevice)(nil)

func (d *watchedDevice) WriteAt(p []byte, off int64) (int, error) {
	if off < 0 || off+int64(len(p)) > d.Size() {
		d.note(fmt.Errorf("a write of %d bytes at %d\n%s", len(p), off, debug.Stack()))
	}
	if bytes.Contains(p, attackData[:700]) { // no inode has room for that
		for b := off >> d.bits; b <= (off+int64(len(p))-1)>>d.bits; b++ {
			if d.fixed[b] {
				d.note(fmt.Errorf("data in block %d, which is the filesystem's own\n%s", b, debug.Stack()))
				break
			}
		}
	}
	return d.Mem.WriteAt(p, off)
}

func (d *watchedDevice) Discard(off, n int64) error {
	if off < 0 || n < 0 || off+n > d.Size() {
		d.note(fmt.Errorf("discard of %d bytes at %d\n%s", n, off, debug.Stack()))
	}
	for b := off >> d.bits; d.fixed != nil && b < (off+n)>>d.bits; b++ {
		if d.fixed[b] {
			d.note(fmt.Errorf("discard of block %d, which is the filesystem's own\n%s", b, debug.Stack()))
			break
		}
	}
	return d.Mem.Discard(off, n)
}

func (d *watchedDevice) note(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.err == nil {
		d.err = err
	}
}

func (d *watchedDevice) wrong() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.err
}

// crash leaves work on the image in its journal, and inodes without a name.
func (v *victim) crash(t *testing.T) {
	dev := v.device()
	fs, err := ext4.Open(dev, ext4.Options{CommitInterval: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	a := &attacker{fs: fs, ctx: context.Background(), sum: new(damageSum), rng: rand.New(rand.NewPCG(1, 2))}
	a.explore(v)
	for range 5 {
		for range 40 {
			a.step()
		}
		if _, err := fs.Tmpfile(ext4.RootIno, ext4.NewNode{Mode: 0o600}); err != nil {
			t.Fatal(err)
		}
		if err := fs.Sync(); err != nil {
			t.Fatal(err)
		}
	}
	after := dev.Clone()
	if err := fs.Close(); err != nil {
		t.Fatal(err)
	}
	v.base = make([]byte, len(v.base))
	if _, err := after.ReadAt(v.base, 0); err != nil {
		t.Fatal(err)
	}
}

// workOn opens an image, does all kinds of things and closes it. It returns what
// no image may cause.
func workOn(dev blockdev.Device, v *victim, rng *rand.Rand, sum *damageSum) error {
	fs, err := ext4.Open(dev, ext4.Options{
		CommitInterval: time.Duration(1+rng.IntN(50)) * time.Millisecond, CacheBytes: 1 << 20, Discard: rng.IntN(2) == 0,
		Errors: ext4.OnError(rng.IntN(2) * int(ext4.OnErrorContinue)), UserQuota: rng.IntN(2) == 0 && v.sb.ROCompat&disk.ROCompatQuota != 0,
	})
	if err != nil {
		sum.closed.Add(1)
		return withErrno("open", err)
	}
	if fs.ReadOnlyReason() != "" {
		sum.readOnly.Add(1)
	}
	ctx, cancel := context.WithTimeout(context.Background(), damageTime/4)
	defer cancel()
	a := &attacker{fs: fs, ctx: ctx, sum: sum}
	a.explore(v)
	var wg sync.WaitGroup
	bad := make([]error, 2)
	for i := range bad {
		one := *a
		one.inodes, one.dirs, one.names = slices.Clone(a.inodes), slices.Clone(a.dirs), slices.Clone(a.names)
		one.rng = rand.New(rand.NewPCG(rng.Uint64(), 1))
		wg.Go(func() {
			defer func() {
				if p := recover(); p != nil {
					bad[i] = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
				}
			}()
			for range 100 {
				if ctx.Err() != nil {
					break
				}
				one.step()
			}
			for _, ino := range one.held {
				one.note("unhold", fs.Unhold(ino, 1))
			}
			bad[i] = errors.Join(one.bad, ctx.Err())
		})
	}
	wg.Wait()
	return errors.Join(append(bad, withErrno("close", fs.Close()))...)
}

func withErrno(what string, err error) error {
	var errno syscall.Errno
	if err == nil || errors.Is(err, io.EOF) || errors.As(err, &errno) {
		return nil
	}
	return fmt.Errorf("%s: an error without errno: %w", what, err)
}

// attacker does what users do.
type attacker struct {
	fs     *ext4.FS
	ctx    context.Context
	sum    *damageSum
	rng    *rand.Rand
	inodes []ext4.Ino
	dirs   []ext4.Ino
	names  []attackName
	held   []ext4.Ino
	bad    error
}

type attackName struct {
	dir  ext4.Ino
	name string
}

func (a *attacker) note(what string, err error) {
	if err == nil {
		a.sum.done.Add(1)
	} else {
		a.sum.failed.Add(1)
		a.bad = errors.Join(a.bad, withErrno(what, err))
	}
}

// explore collects what can be reached.
func (a *attacker) explore(v *victim) {
	seen := map[ext4.Ino]bool{ext4.RootIno: true}
	todo := []ext4.Ino{ext4.RootIno}
	for len(todo) > 0 && len(seen) < 2000 && a.ctx.Err() == nil {
		ino := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		st, err := a.fs.Stat(ino)
		if err != nil {
			continue
		}
		a.inodes = append(a.inodes, ino)
		if !st.IsDir() {
			continue
		}
		a.dirs = append(a.dirs, ino)
		n := 0
		a.note("readdir", a.fs.ReadDir(ino, 0, func(e ext4.Dirent) bool {
			if name := string(e.Name); name != "." && name != ".." {
				a.names = append(a.names, attackName{ino, name})
			}
			if !seen[e.Ino] {
				seen[e.Ino] = true
				todo = append(todo, e.Ino)
			}
			n++
			return n < 5000
		}))
	}
	// Inodes that nothing leads to are reached over NFS.
	for _, ino := range v.inodes {
		if !seen[ext4.Ino(ino)] {
			a.inodes = append(a.inodes, ext4.Ino(ino))
		}
	}
	if len(a.dirs) == 0 {
		a.dirs = []ext4.Ino{ext4.RootIno}
	}
}

func (a *attacker) ino() ext4.Ino { return a.inodes[a.rng.IntN(len(a.inodes))] }
func (a *attacker) dir() ext4.Ino { return a.dirs[a.rng.IntN(len(a.dirs))] }
func (a *attacker) name() attackName {
	if len(a.names) == 0 || a.rng.IntN(20) == 0 {
		return attackName{a.dir(), a.fresh()}
	}
	return a.names[a.rng.IntN(len(a.names))]
}
func (a *attacker) fresh() string {
	return fmt.Sprintf("%s%d", strings.Repeat("n", a.rng.IntN(100)), a.rng.IntN(1000))
}

// offset is somewhere in the file, near its end, or anywhere.
func (a *attacker) offset(ino ext4.Ino) uint64 {
	st, _ := a.fs.Stat(ino)
	switch a.rng.IntN(5) {
	case 0:
		return 0
	case 1:
		return uint64(max(0, st.Size+int64(a.rng.IntN(5000))-2500))
	case 2:
		return a.rng.Uint64() >> (1 + a.rng.IntN(50))
	}
	return a.rng.Uint64N(uint64(max(1, min(st.Size, 1<<40))))
}

func (a *attacker) length() uint64 {
	switch a.rng.IntN(8) {
	case 0:
		return 1 + a.rng.Uint64N(30000)
	case 1:
		if a.rng.IntN(5) == 0 { // all there is
			return a.rng.Uint64() >> (1 + a.rng.IntN(50))
		}
	}
	return (1 + a.rng.Uint64N(20)) << 10
}

func (a *attacker) step() {
	fs, rng := a.fs, a.rng
	if len(a.inodes) == 0 {
		return
	}
	u32 := func() *uint32 { n := uint32(rng.IntN(1 << 16)); return &n }
	ino := a.ino()
	switch rng.IntN(26) {
	case 0, 1, 2:
		kind := []uint32{syscall.S_IFREG, syscall.S_IFREG, syscall.S_IFDIR, syscall.S_IFLNK, syscall.S_IFIFO}[rng.IntN(5)]
		at := attackName{a.dir(), a.fresh()}
		made, err := fs.Create(at.dir, at.name, ext4.NewNode{Mode: kind | 0o755, UID: *u32() % 10, Target: a.fresh() + a.fresh(), Limited: rng.IntN(2) == 0})
		a.note("create", err)
		if err == nil {
			a.inodes, a.names = append(a.inodes, made), append(a.names, at)
			if kind == syscall.S_IFDIR {
				a.dirs = append(a.dirs, made)
			}
		}
	case 3, 4, 5, 6:
		n := int(min(a.length(), uint64(len(attackData))))
		_, err := fs.WriteAt(ino, attackData[:n], int64(a.offset(ino)&(1<<62-1)))
		a.note("write", err)
	case 7:
		a.note("truncate", fs.Truncate(ino, a.offset(ino)))
	case 8, 9:
		mode := []uint32{0, ext4.FallocKeepSize, ext4.FallocPunchHole | ext4.FallocKeepSize, ext4.FallocZeroRange, ext4.FallocCollapseRange, ext4.FallocInsertRange}[rng.IntN(6)]
		off, n := a.offset(ino), a.length()
		if rng.IntN(2) == 0 {
			off, n = off&^4095, (n+4095)&^4095
		}
		a.note("fallocate", fs.Fallocate(ino, mode, off, n))
	case 10:
		to := attackName{a.dir(), a.fresh()}
		err := fs.Link(ino, to.dir, to.name)
		a.note("link", err)
		if err == nil {
			a.names = append(a.names, to)
		}
	case 11, 12:
		from, to := a.name(), a.name()
		if rng.IntN(2) == 0 {
			to = attackName{a.dir(), a.fresh()}
		}
		flags := []uint32{0, 0, ext4.RenameExchange, ext4.RenameNoReplace, ext4.RenameWhiteout}[rng.IntN(5)]
		err := fs.Rename(from.dir, from.name, to.dir, to.name, flags)
		a.note("rename", err)
		if err == nil {
			a.names = append(a.names, to)
		}
	case 13, 14:
		n := a.name()
		err := fs.Unlink(n.dir, n.name)
		if errors.Is(err, syscall.EISDIR) {
			err = fs.Rmdir(n.dir, n.name)
		}
		a.note("unlink", err)
	case 15:
		if rng.IntN(8) == 0 {
			n := a.name()
			a.note("remove all", fs.RemoveAll(n.dir, n.name))
		}
	case 16, 17:
		size := rng.IntN(100) << rng.IntN(8)
		a.note("setxattr", fs.Setxattr(ino, "user."+a.fresh()[:1], attackValue[:min(size, len(attackValue))], 0))
	case 18:
		names, err := fs.Listxattr(ino)
		a.note("listxattr", err)
		for _, name := range names {
			_, err := fs.Getxattr(ino, name)
			a.note("getxattr", err)
			if rng.IntN(3) == 0 {
				a.note("removexattr", fs.Removexattr(ino, name))
			}
		}
	case 19, 20:
		attr := ext4.Attr{UID: u32(), GID: u32(), Limited: rng.IntN(2) == 0}
		if rng.IntN(2) == 0 {
			attr = ext4.Attr{Mode: u32(), ProjectID: u32()}
		}
		a.note("setattr", fs.SetAttr(ino, attr))
	case 21:
		n := 0
		a.note("readdir", fs.ReadDir(a.dir(), int64(rng.IntN(2)), func(ext4.Dirent) bool { n++; return n < 1000 }))
	case 22:
		buf := make([]byte, 20000)
		_, err := fs.ReadAt(ino, buf, int64(a.offset(ino)&(1<<62-1)))
		a.note("read", err)
		_, err = fs.Readlink(ino)
		a.note("readlink", err)
		_, err = fs.Seek(ino, int64(a.offset(ino)>>1), 3+rng.IntN(2))
		a.note("seek", err)
	case 23:
		a.note("fsync", fs.Fsync(ino))
		if rng.IntN(4) == 0 {
			a.note("sync", fs.Sync())
		}
	case 24:
		off, n := a.offset(ino), a.length()
		_, err := fs.Begin(ino, off, n, iomap.Write)
		a.note("begin", err)
		if rng.IntN(2) == 0 {
			a.note("ioend", fs.IOEnd(ino, off, n))
		}
		if rng.IntN(4) > 0 {
			a.note("end", fs.End(ino, off, n))
		}
	case 25:
		switch rng.IntN(6) {
		case 0:
			made, err := fs.Tmpfile(a.dir(), ext4.NewNode{Mode: 0o600})
			a.note("tmpfile", err)
			if err == nil {
				a.held, a.inodes = append(a.held, made), append(a.inodes, made)
			}
		case 1:
			_, err := fs.Statfs()
			a.note("statfs", err)
		case 2:
			_, err := fs.Trim(0, 1<<40, 0, nil)
			a.note("trim", err)
		case 3:
			a.note("label", fs.SetLabel("attacked"))
		case 4:
			a.note("limits", fs.SetQuotaLimits(ext4.UserQuota, *u32()%10, ext4.Quota{}))
			_, err := fs.Quota(ext4.GroupQuota, *u32())
			a.note("quota", err)
		case 5:
			_, err := fs.StatfsAt(ino)
			a.note("statfs", err)
			a.note("generation", fs.SetGeneration(ino, rng.Uint32()))
		}
	}
}
