package ext4_test

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"syscall"
	"testing"
	"time"

	"ext4box/blockdev"
	"ext4box/blockdev/blocktest"
	"ext4box/ext4"
)

// failRun is one run of a workload on a device that fails.
type failRun struct {
	dev, log blockdev.Device // as the filesystem gets them
	actor    *crashActor
	err      error // what ended the workload
}

// run works until something fails, and verifies what happens then. It returns
// an error if the filesystem behaves otherwise than it must.
func (f *failRun) run(operations int) error {
	o := ext4.Options{CommitInterval: time.Hour}
	if f.log != nil {
		o.JournalDevice = f.log
	}
	var fs *ext4.FS
	if fs, f.err = ext4.Open(f.dev, o); f.err != nil {
		return isIO(f.err)
	}
	if f.actor, f.err = newCrashActor(fs, engineOps{fs}, new(blocktest.Clock), "actor", 5); f.err != nil {
		f.actor = nil
	}
	for i := 0; i < operations && f.err == nil; i++ {
		f.err = f.actor.random()
	}
	if f.err != nil {
		if err := isIO(f.err); err != nil {
			return errors.Join(err, fs.Close())
		}
	}
	// Either all goes on, or nothing does any longer.
	broken := fs.Sync()
	_, err := fs.Create(ext4.RootIno, "afterwards", ext4.NewNode{Mode: syscall.S_IFREG | 0o600})
	if again := fs.ReadDir(ext4.RootIno, 0, func(ext4.Dirent) bool { return true }); again != nil {
		return errors.Join(fmt.Errorf("reading after the failure: %w", again), fs.Close())
	}
	if broken != nil {
		if err == nil {
			return errors.Join(fmt.Errorf("a file was created after %w", broken), fs.Close())
		}
		if err := errors.Join(isIO(broken), isIO(err)); err != nil {
			return errors.Join(err, fs.Close())
		}
		if fs.Close() == nil {
			return errors.New("closing said nothing of the failure")
		}
		return nil
	}
	if err != nil {
		return errors.Join(err, fs.Close())
	}
	return isIO(fs.Close())
}

// isIO verifies that an error says that the device failed.
func isIO(err error) error {
	if err == nil || errors.Is(err, syscall.EIO) || errors.Is(err, syscall.EROFS) {
		return nil
	}
	return fmt.Errorf("neither EIO nor EROFS: %w", err)
}

// TestCrashFailingDevice makes each write and flush of a workload fail in turn, once
// or from then on: nothing hangs, callers are told, and what is on the device
// can be recovered.
func TestCrashFailingDevice(t *testing.T) {
	const operations = 120
	for _, c := range crashConfigs {
		if !slices.Contains([]string{"ext4", "1k", "ext3", "external", "quota-1k", "bigalloc-1k"}, c.name) {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := newCrashRig(t, c)
			image := func(dev *blocktest.Recording) *blocktest.Mem {
				if dev == nil {
					return nil
				}
				return dev.Mem.Clone()
			}
			counting := blocktest.NewCounting(image(r.dev), 4096)
			clean := failRun{dev: counting, log: clone(image(r.log))}
			if err := clean.run(operations); err != nil {
				t.Fatal(err)
			}
			n := counting.Counts()
			step := 1
			if crashPoints(0) == 0 {
				step = (n.Writes + n.Flushes) / 12
			}
			tried, aborted, lost := 0, 0, 0
			for _, what := range []struct {
				op    blocktest.Op
				count int
				times int
			}{{blocktest.Write, n.Writes, 1}, {blocktest.Flush, n.Flushes, 1}, {blocktest.Write | blocktest.Flush, n.Writes + n.Flushes, 0}} {
				for nth := 1; nth <= what.count; nth += max(step, 1) {
					mem, journal := image(r.dev), image(r.log)
					failing := blocktest.NewFailing(mem)
					failing.Add(blocktest.Rule{Ops: what.op, Skip: nth - 1, Times: what.times})
					run := failRun{dev: failing, log: clone(journal)}
					tried++
					done := make(chan error, 1)
					go func() { done <- run.run(operations) }()
					var err error
					select {
					case err = <-done:
					case <-time.After(2 * time.Minute): // a hang, not slowness
						t.Fatalf("%v number %d failing hangs", what.op, nth)
					}
					if run.err != nil {
						aborted++
					}
					if err == nil {
						err = r.afterFailure(&run, mem, run.log)
					}
					if err != nil {
						lost++
						t.Errorf("%v number %d of %d failing, %d times: %v; the workload ended with: %v", what.op, nth, what.count, what.times, err, run.err)
					}
					if lost > 3 {
						t.FailNow()
					}
				}
			}
			t.Logf("%s: %d failures tried, %d seen by the workload, %d lost", c.name, tried, aborted, lost)
		})
	}
}

// afterFailure recovers what a run left.
func (r *crashRig) afterFailure(run *failRun, mem *blocktest.Mem, journal blockdev.Device) error {
	judge := func(dev *blocktest.Mem, o ext4.Options) error {
		fs, err := r.open(dev, journal, o)
		if err != nil {
			return fmt.Errorf("open after the failure: %w", err)
		}
		if run.actor == nil {
			return fs.Close()
		}
		return errors.Join(run.actor.judge(fs, math.MaxInt64), fs.Close())
	}
	if err := judge(mem.Clone(), ext4.Options{ReadOnly: true}); err != nil {
		return fmt.Errorf("recovered in memory: %w", err)
	}
	if err := judge(mem, ext4.Options{}); err != nil {
		return fmt.Errorf("recovered: %w", err)
	}
	path, args, err := r.dump(mem, journal)
	if err != nil {
		return err
	}
	return runFsck(path, append(args, "-fn")...)
}
