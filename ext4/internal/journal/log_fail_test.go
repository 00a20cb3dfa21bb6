package journal

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"ext4box/blockdev"
	"ext4box/blockdev/blocktest"
	"ext4box/ext4/internal/buffer"
	"ext4box/ext4/internal/disk"
)

// Every write and flush of a workload fails once. What was acknowledged stays,
// nothing is half there, and everybody is told.
func TestLogFailingDevice(t *testing.T) {
	for _, op := range []blocktest.Op{blocktest.Write, blocktest.Flush} {
		for _, external := range []bool{false, true} {
			for _, ofLog := range []bool{false, true} {
				if ofLog && !external {
					continue
				}
				t.Run(fmt.Sprintf("%v,external=%v,log=%v", op, external, ofLog), func(t *testing.T) {
					aborted, noted := 0, 0
					for n := 1; ; n++ {
						r := newRig(20, external, func(lb *logBuilder) { lb.maxLen = 50 })
						home := blocktest.NewFailing(r.home)
						var ext blockdev.Device
						failing := home
						if external {
							log := blocktest.NewFailing(r.ext)
							ext = log
							if ofLog {
								failing = log
							}
						}
						failing.FailNth(op, n, nil)
						d := newDriverOn(t, r, home, ext, WriterOptions{Strict: true}, seeded(7))
						for range 120 {
							if !d.step() {
								break
							}
						}
						if d.failed != nil && d.log.Err() == nil {
							t.Fatalf("an error without an abort: %v", d.failed)
						}
						err := d.log.Close()
						if (err == nil) != (d.log.Err() == nil) {
							t.Fatalf("Close: %v after the abort: %v", err, d.log.Err())
						}
						if err != nil {
							aborted++
							if checkAborted(t, d) {
								noted++
							}
						}
						d.checkAll(3, 0, uint64(n))
						if failing.Fired() == 0 {
							break // beyond the last request
						}
					}
					if aborted < 20 || noted < aborted*9/10 {
						t.Errorf("%d aborts, %d noted in the superblock", aborted, noted)
					}
				})
			}
		}
	}
}

// checkAborted ends an aborted run, and tells whether the superblock says so.
func checkAborted(t *testing.T, d *driver) bool {
	t.Helper()
	if !errors.Is(d.log.Err(), syscall.EIO) {
		t.Fatalf("aborted by %v", d.log.Err())
	}
	if _, err := d.log.Begin(Credits{Blocks: 1}); !errors.Is(err, syscall.EROFS) || errors.Is(err, syscall.EIO) {
		t.Fatalf("Begin: %v", err)
	}
	var abort *AbortError
	if err := d.log.Sync(); !errors.Is(err, syscall.EIO) || !errors.As(err, &abort) {
		t.Fatalf("Sync: %v", err)
	}
	if err := d.log.Commit(d.log.running.Load().tid); !errors.Is(err, syscall.EIO) {
		t.Fatalf("Commit: %v", err)
	}
	select {
	case <-d.log.Aborted():
	default:
		t.Fatal("nobody is told of the abort")
	}
	events := len(d.home.History().Events())
	if err := d.log.Close(); err != d.log.Err() || len(d.home.History().Events()) != events {
		t.Fatalf("Close after Close: %v", err)
	}
	var ext blockdev.Device
	if d.external {
		ext = d.ext
	}
	j, _, err := d.load(d.home, ext)
	if err != nil {
		t.Fatal(err)
	}
	return j.Errno() == int(syscall.EIO)
}

func TestLogAbort(t *testing.T) {
	r := newRig(20, false)
	l, cache := r.start(t, r.home, nil, WriterOptions{})
	logSome(t, l, cache, 0, 3)
	h, err := l.Begin(Credits{Blocks: 2})
	if err != nil {
		t.Fatal(err)
	}
	tid := h.TID()
	if err := h.Modify(read(t, cache, 7)); err != nil {
		t.Fatal(err)
	}
	h.OnCommit(func() { t.Error("a callback of an aborted transaction runs") })
	waiting := make(chan error, 1)
	go func() { waiting <- l.Commit(tid) }()
	l.Abort(&disk.CorruptError{What: "inode 12", Detail: "wrong"})
	l.Abort(syscall.ENOMEM) // the first cause stays
	if err := <-waiting; !errors.Is(err, syscall.EIO) {
		t.Errorf("Commit: %v", err)
	}
	if err := h.Modify(read(t, cache, 8)); !errors.Is(err, syscall.EROFS) {
		t.Errorf("Modify: %v", err)
	}
	if _, err := h.New(9, tagOf(0)); !errors.Is(err, syscall.EROFS) {
		t.Errorf("New: %v", err)
	}
	if err := h.End(); !errors.Is(err, syscall.EROFS) || !strings.Contains(err.Error(), "inode 12: wrong") {
		t.Errorf("End: %v", err)
	}
	if err := l.Close(); !errors.Is(err, syscall.EUCLEAN) {
		t.Errorf("Close: %v", err)
	}
	j, log, err := r.load(r.home, nil)
	if err != nil || j.Errno() != int(syscall.EUCLEAN) || j.Clean() {
		t.Fatalf("%v, %+v", err, j)
	}
	rec, err := j.Recover()
	if err != nil || rec.Len() != 3 {
		t.Fatalf("%v, %+v", err, rec)
	}
	if err := errors.Join(rec.WriteHome(r.home), j.Reset(log, rec), j.ClearErrno(log)); err != nil {
		t.Fatal(err)
	}
	if j, _, err = r.load(r.home, nil); err != nil || !j.Clean() || j.Errno() != 0 {
		t.Errorf("%v, %+v", err, j)
	}
}

func TestLogShutdownIsNotNoted(t *testing.T) {
	r := newRig(20, false)
	l, _ := r.start(t, r.home, nil, WriterOptions{})
	l.Abort(syscall.ESHUTDOWN)
	if err := l.Close(); !errors.Is(err, syscall.ESHUTDOWN) {
		t.Error(err)
	}
	if n := len(r.home.History().Events()); n != 0 {
		t.Errorf("%d requests", n)
	}
}

func TestUnloggedFailingDevice(t *testing.T) {
	for n := 1; n <= 4; n++ {
		mem := blocktest.NewMem(1 << 20)
		dev := blocktest.NewFailing(mem)
		cache := buffer.New(dev, 1024, 1<<20)
		l := NewUnlogged(dev, cache, WriterOptions{Interval: -1})
		dev.FailNth(blocktest.Write|blocktest.Flush, n, nil)
		h, err := l.Begin(Credits{Blocks: 2})
		if err != nil {
			t.Fatal(err)
		}
		for _, blk := range []uint64{3, 5} {
			if _, err := h.New(blk, tagOf(0)); err != nil {
				t.Fatal(err)
			}
		}
		tid := h.TID()
		if err := h.End(); err != nil {
			t.Fatal(err)
		}
		if err := l.Commit(tid); !errors.Is(err, syscall.EIO) {
			t.Errorf("request %d: %v", n, err)
		}
		if _, err := l.Begin(Credits{}); !errors.Is(err, syscall.EROFS) {
			t.Errorf("request %d: %v", n, err)
		}
		if err := l.Close(); !errors.Is(err, syscall.EIO) {
			t.Errorf("request %d: %v", n, err)
		}
	}
}
