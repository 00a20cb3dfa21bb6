package mmp

import (
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"ext4box/blockdev/blocktest"
	"ext4box/ext4/internal/disk"
)

// fakeClock passes as fast as somebody waits for it: a call of After moves it.
type fakeClock struct {
	mu    sync.Mutex
	now   time.Time
	waits []time.Duration
	hook  func(n int)   // called before the n-th wait, from 0 on
	step  chan struct{} // if not nil, each wait takes one
}

func (c *fakeClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// waited waits for n waits to have begun, and returns them.
func (c *fakeClock) waited(n int) []time.Duration {
	for {
		c.mu.Lock()
		waits := slices.Clone(c.waits)
		c.mu.Unlock()
		if len(waits) >= n {
			return waits
		}
		time.Sleep(time.Millisecond)
	}
}

func (c *fakeClock) After(d time.Duration) <-chan time.Time {
	c.mu.Lock()
	n := len(c.waits)
	c.waits = append(c.waits, d)
	c.mu.Unlock()
	if c.hook != nil {
		c.hook(n)
	}
	done := make(chan time.Time, 1)
	pass := func() {
		c.mu.Lock()
		c.now = c.now.Add(d)
		done <- c.now
		c.mu.Unlock()
	}
	if c.step == nil {
		pass()
		return done
	}
	go func() {
		<-c.step
		pass()
	}()
	return done
}

const testBlock = 3

var sums = disk.Checksums{Metadata: true, Seed: 7}

// device has a record in block testBlock.
func device(rec disk.MMP) *blocktest.Mem {
	dev := blocktest.NewMem(16 << 10)
	put(dev, rec)
	return dev
}

func put(dev *blocktest.Mem, rec disk.MMP) {
	raw := make([]byte, 1024)
	rec.Magic = disk.MMPMagic
	disk.EncodeMMP(&sums, raw, &rec)
	dev.WriteAt(raw, testBlock<<10)
}

func get(t *testing.T, dev *blocktest.Mem) disk.MMP {
	t.Helper()
	raw := make([]byte, 1024)
	dev.ReadAt(raw, testBlock<<10)
	rec, err := disk.DecodeMMP(&sums, raw)
	if err != nil {
		t.Fatal(err)
	}
	return rec
}

func config(dev *blocktest.Mem, clock Clock) Config {
	return Config{Device: dev, Block: testBlock, BlockSize: 1024, Sums: &sums, Update: 5, Logger: slog.New(slog.DiscardHandler), Clock: clock}
}

func name(s string) (b [64]byte) { copy(b[:], s); return b }

func TestClean(t *testing.T) {
	dev := device(disk.MMP{Seq: disk.MMPSeqClean})
	clock := &fakeClock{now: time.Unix(1e9, 0), step: make(chan struct{})}
	go func() { clock.step <- struct{}{} }() // the wait of no time before the second look
	g, err := Start(config(dev, clock))
	if err != nil {
		t.Fatal(err)
	}
	first := get(t, dev)
	if first.Seq == 0 || first.Seq > seqMax || first.Interval != 10 || first.Time != 1e9 || disk.CString(first.NodeName[:]) == "" {
		t.Errorf("record %+v", first)
	}
	clock.step <- struct{}{}
	clock.waited(3) // the next one begins behind the update
	if rec := get(t, dev); rec.Seq == first.Seq || rec.Time != 1e9+5 {
		t.Errorf("after 5 s: %+v", rec)
	}
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
	if rec := get(t, dev); rec.Seq != disk.MMPSeqClean {
		t.Errorf("closed: %+v", rec)
	}
	if clock.waited(1)[0] != 0 {
		t.Errorf("waited %v for nobody", clock.waited(1)[0])
	}
}

func TestInUse(t *testing.T) {
	for _, c := range []struct {
		what string
		rec  disk.MMP
		hook func(dev *blocktest.Mem, n int)
		want string
		wait time.Duration // of the first wait
	}{
		{"e2fsck", disk.MMP{Seq: disk.MMPSeqFsck, NodeName: name("checker")}, nil, `e2fsck is at work on node "checker"`, 0},
		{"alive", disk.MMP{Seq: 5, NodeName: name("other\nnode"), Interval: 10}, func(dev *blocktest.Mem, n int) {
			if n == 0 {
				put(dev, disk.MMP{Seq: 6, NodeName: name("other\nnode")})
			}
		}, `node "other\nnode"`, 21 * time.Second},
		{"same time", disk.MMP{Seq: 5}, func(dev *blocktest.Mem, n int) {
			if n == 1 {
				put(dev, disk.MMP{Seq: 77, NodeName: name("rival")})
			}
		}, `node "rival"`, 11 * time.Second},
		{"forever", disk.MMP{Seq: 5, Interval: 65535}, func(dev *blocktest.Mem, n int) {
			put(dev, disk.MMP{Seq: 6})
		}, "in use", 360 * time.Second},
	} {
		t.Run(c.what, func(t *testing.T) {
			dev := device(c.rec)
			clock := &fakeClock{now: time.Unix(1e9, 0)}
			if c.hook != nil {
				clock.hook = func(n int) { c.hook(dev, n) }
			}
			_, err := Start(config(dev, clock))
			if !errors.Is(err, syscall.EBUSY) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v", err)
			}
			if c.wait > 0 && clock.waits[0] != c.wait {
				t.Errorf("waited %v", clock.waits)
			}
		})
	}
	dev := device(disk.MMP{Seq: 5})
	dev.WriteAt([]byte{1}, testBlock<<10+500)
	if _, err := Start(config(dev, &fakeClock{})); !errors.Is(err, syscall.EUCLEAN) {
		t.Errorf("wrong checksum: %v", err)
	}
}

// TestAbandoned: after a crash nobody changes the number, and who waits gets in.
func TestAbandoned(t *testing.T) {
	dev := device(disk.MMP{Seq: 5})
	clock := &fakeClock{now: time.Unix(1e9, 0), step: make(chan struct{}, 2)}
	clock.step <- struct{}{}
	clock.step <- struct{}{}
	g, err := Start(config(dev, clock))
	if err != nil {
		t.Fatal(err)
	}
	if waits := clock.waited(2); waits[0] != 11*time.Second || waits[1] != 11*time.Second {
		t.Errorf("waited %v", waits)
	}
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestStolen: somebody else writes the block.
func TestStolen(t *testing.T) {
	dev := device(disk.MMP{Seq: disk.MMPSeqClean})
	clock := &fakeClock{now: time.Unix(1e9, 0)}
	clock.hook = func(n int) {
		if n == 3 {
			put(dev, disk.MMP{Seq: 99, NodeName: name("thief")})
		}
	}
	g, err := Start(config(dev, clock))
	if err != nil {
		t.Fatal(err)
	}
	<-g.Lost()
	err = g.Close()
	if !errors.Is(err, syscall.EBUSY) || !errors.Is(err, syscall.ESHUTDOWN) || !strings.Contains(err.Error(), "thief") {
		t.Errorf("close: %v", err)
	}
	if rec := get(t, dev); rec.Seq != 99 {
		t.Errorf("the thief's record was overwritten: %+v", rec)
	}
}

// TestSlowAndFailing: a device that is slow makes others wait longer, one that
// fails is lost when they no longer would.
func TestSlowAndFailing(t *testing.T) {
	mem := device(disk.MMP{Seq: disk.MMPSeqClean})
	dev := blocktest.NewFailing(mem)
	clock := &fakeClock{now: time.Unix(1e9, 0)}
	longest := uint16(0)
	clock.hook = func(n int) {
		if n == 2 { // the device takes its time
			clock.mu.Lock()
			clock.now = clock.now.Add(40 * time.Second)
			clock.mu.Unlock()
		}
		longest = max(longest, get(t, mem).Interval)
		switch n {
		case 5:
			dev.FailNth(blocktest.Write, 1, syscall.EIO) // once: no harm
		case 10:
			dev.FailRange(testBlock<<10, 1024, syscall.EIO)
		}
	}
	c := config(mem, clock)
	c.Device = dev
	g, err := Start(c)
	if err != nil {
		t.Fatal(err)
	}
	<-g.Lost()
	if longest < 80 || longest > 100 {
		t.Errorf("interval %d after a cycle of 45 s", longest)
	}
	if n := len(clock.waited(0)); n < 15 {
		t.Errorf("lost after %d waits", n)
	}
	if err := g.Close(); !errors.Is(err, syscall.EIO) || !errors.Is(err, syscall.ESHUTDOWN) {
		t.Errorf("close: %v", err)
	}
	if rec := get(t, mem); rec.Seq == disk.MMPSeqClean {
		t.Error("the record says that nobody has the filesystem open")
	}
}
