package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// flatWithin is what an operation may cost more where there is most, against where there is least.
const flatWithin = 0.25

// patience is how long one size of a scaling job may be expected to take without --scale.
const patience = 100 * time.Second

// scaler measures the same operations on more and more.
type scaler struct {
	name   string
	image  string
	unit   string  // of the size
	sizes  []int64 // with --scale
	judged bool    // the target is that it is flat
	always int     // sizes that are run however long they take
	cost   float64 // seconds that the sizes which are always run take
	// run returns the seconds that each of its operations takes, and the size that it was,
	// when that is not the one that was asked for.
	run func(e *env, dir string, size int64) (ops map[string]float64, real int64, err error)
}

func scalers() []scaler {
	files := []int64{1_000, 10_000, 100_000, 1_000_000}
	many := func(dirs func(n int64) int) func(e *env, dir string, n int64) (map[string]float64, int64, error) {
		return func(e *env, dir string, n int64) (map[string]float64, int64, error) {
			return scaleNames(e, dir, n, dirs(n))
		}
	}
	return []scaler{
		{name: "files in one directory", image: imageMany, unit: "files", sizes: files, judged: true, always: 3, cost: 55,
			run: many(func(int64) int { return 1 })},
		{name: "files in directories of 100", image: imageMany, unit: "files", sizes: files, judged: true, always: 3, cost: 55,
			run: many(func(n int64) int { return int(n / 100) })},
		{name: "a sparse file, 4 KiB of data in each MiB", image: imageMany, unit: "GiB", sizes: []int64{1, 10, 100}, always: 2, cost: 15, run: scaleSparse},
		{name: "a fragmented file of 48 MiB", image: imageFrag, unit: "extents", sizes: []int64{1, 12288}, always: 2, cost: 12, run: scaleFragments},
	}
}

// grow runs a scaler.
func (b *bench) grow(s *scaler) []growth {
	var all []growth
	at := func(op, system string) *growth {
		for i := range all {
			if all[i].Op == op && all[i].System == system {
				return &all[i]
			}
		}
		all = append(all, growth{Name: s.name, Op: op, System: system, Unit: s.unit, Judged: s.judged})
		return &all[len(all)-1]
	}
	failed := map[string]bool{}
	var took time.Duration
	for i, size := range s.sizes {
		if b.env.quick && i >= 2 || !b.scale && i >= s.always && took*time.Duration(size/s.sizes[i-1]) > patience {
			b.say("%s: %d %s left out", s.name, size, s.unit)
			break
		}
		start := time.Now()
		for k := range b.systems {
			if i%2 == 1 {
				k = len(b.systems) - 1 - k
			}
			sys := b.systems[k]
			if sys.name == nameFuse2fs || failed[sys.name] || b.env.ctx.Err() != nil {
				continue
			}
			b.line("%s: %d %s on %s", s.name, size, s.unit, sys.name)
			ops, real, err := b.growOnce(s, sys, size)
			if err != nil {
				b.say("%s: %s: %v", sys.name, s.name, err)
				failed[sys.name] = true
				continue
			}
			for _, op := range slices.Sorted(maps.Keys(ops)) {
				g := at(op, sys.name)
				g.Points = append(g.Points, point{real, ops[op]})
			}
		}
		took = time.Since(start)
	}
	judge(all)
	return all
}

func (b *bench) growOnce(s *scaler, sys *system, size int64) (ops map[string]float64, real int64, err error) {
	if err := errors.Join(b.use(sys, s.image), sys.mount()); err != nil {
		return nil, 0, err
	}
	dir := filepath.Join(sys.dir, "scaling")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, 0, err
	}
	ops, real, err = s.run(b.on(sys), dir, size)
	if err != nil {
		return nil, 0, errors.Join(err, sys.rescue())
	}
	sys.look()
	return ops, real, errors.Join(os.RemoveAll(dir), b.on(sys).shell("sync -f $2", sys.dir))
}

// scaleNames makes, looks at, renames and removes n files. Few are done several times, of
// which the median counts.
func scaleNames(e *env, dir string, n int64, dirs int) (map[string]float64, int64, error) {
	rounds := map[string][]float64{}
	for range max(1, min(9, 20_000/n)) {
		if err := errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o755), makeDirs(dir, dirs)); err != nil {
			return nil, 0, err
		}
		for _, op := range nameOps {
			if op.warm {
				if err := e.shell("find $2 -printf '%s' >/dev/null", dir); err != nil {
					return nil, 0, err
				}
			}
			if err := e.shell("sync -f $2", e.system.dir); err != nil {
				return nil, 0, err
			}
			took, err := timed(func() error { return op.run(e, dir, int(n), dirs) })
			if err != nil {
				return nil, 0, err
			}
			rounds[op.name] = append(rounds[op.name], took/float64(int(n)*op.passes))
		}
	}
	ops := map[string]float64{}
	for op, r := range rounds {
		ops[op] = median(r)
	}
	return ops, n, nil
}

// scaleSparse reads a file of some GiB, of which there is a block in each MiB.
func scaleSparse(e *env, dir string, gib int64) (map[string]float64, int64, error) {
	const step = 1 << 20
	path := filepath.Join(dir, "sparse")
	err := filled(path, func(f *os.File) error {
		block := make([]byte, 4096)
		return e.each(int(gib<<30/step), func(i int) error {
			_, err := f.WriteAt(block, int64(i)*step)
			return err
		})
	})
	if err != nil {
		return nil, 0, err
	}
	return reads(e, path, step)
}

// scaleFragments reads a file in one piece, or one that had to go into free space of single
// blocks.
func scaleFragments(e *env, dir string, pieces int64) (map[string]float64, int64, error) {
	const size = 48 << 20
	if pieces > 1 {
		if err := fragment(filepath.Join(dir, "filler"), size*5/4); err != nil {
			return nil, 0, err
		}
		if err := e.shell("sync -f $2", e.system.dir); err != nil {
			return nil, 0, err
		}
	}
	path := filepath.Join(dir, "file")
	err := filled(path, func(f *os.File) error {
		b := make([]byte, 1<<20)
		return e.each(size/len(b), func(i int) error { _, err := f.WriteAt(b, int64(i*len(b))); return err })
	})
	if err != nil {
		return nil, 0, err
	}
	ops, _, err := reads(e, path, 4096)
	if err != nil {
		return nil, 0, err
	}
	// How many pieces there are is asked of the image.
	if err := e.system.unmount(); err != nil {
		return nil, 0, err
	}
	inode := strings.TrimPrefix(path, e.system.dir)
	list, err := command("debugfs", "-R", "dump_extents -l "+inode, e.system.image)
	return ops, int64(max(1, strings.Count(list, "\n")-1)), errors.Join(err, e.system.mount())
}

// fragment leaves free only single blocks, of so many bytes in all.
func fragment(filler string, free int64) error {
	f, err := os.Create(filler)
	if err != nil {
		return err
	}
	defer f.Close()
	// All there is, in ever smaller pieces.
	var at int64
	for piece := int64(64 << 20); piece >= 4096; {
		switch err := unix.Fallocate(int(f.Fd()), 0, at, piece); err {
		case nil:
			at += piece
		case unix.ENOSPC:
			piece /= 2
		default:
			return fmt.Errorf("fallocate: %w", err)
		}
	}
	for off := int64(0); off < min(at, 2*free); off += 8192 {
		if err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, 4096); err != nil {
			return fmt.Errorf("punching holes: %w", err)
		}
	}
	return f.Sync()
}

func filled(path string, fill func(f *os.File) error) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(fill(f), f.Sync(), f.Close())
}

// reads measures reading 4 KiB at random multiples of step, and up to 256 MiB from the
// beginning, by MiB, both past the cache and with the metadata known; and the latter from
// a new mount, through the cache.
func reads(e *env, path string, step int64) (map[string]float64, int64, error) {
	b, err := aligned(1 << 20)
	if err != nil {
		return nil, 0, err
	}
	defer unix.Munmap(b)
	ops := map[string]float64{}
	var size int64
	measure := func(op string, flags, passes int, read func(f *os.File) (n int, err error)) error {
		f, err := os.OpenFile(path, os.O_RDONLY|flags, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			return err
		}
		size = info.Size()
		for range passes { // what the last one takes counts
			var n int
			took, err := timed(func() (err error) { n, err = read(f); return err })
			if err != nil {
				return fmt.Errorf("%s: %w", op, err)
			}
			ops[op] = took / float64(n)
		}
		return nil
	}
	sequential := func(f *os.File) (int, error) {
		n := int(min(256, size>>20))
		return n, e.each(n, func(i int) error {
			_, err := f.ReadAt(b, int64(i)<<20)
			if err == io.EOF {
				err = nil
			}
			return err
		})
	}
	if err := e.system.remount(); err != nil {
		return nil, 0, err
	}
	err = measure("read 1 MiB, in order, buffered, cold", 0, 1, sequential)
	if err == nil {
		err = measure("read 1 MiB, in order, direct", unix.O_DIRECT, 2, sequential)
	}
	if err == nil {
		err = measure("read 4 KiB, random, direct", unix.O_DIRECT, 2, func(f *os.File) (int, error) {
			const n = 5000
			random := rand.New(rand.NewPCG(1, 2))
			return n, e.each(n, func(int) error {
				_, err := f.ReadAt(b[:4096], random.Int64N(size/step)*step)
				return err
			})
		})
	}
	return ops, (size + 1<<30 - 1) >> 30, err
}
