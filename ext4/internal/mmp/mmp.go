package mmp

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"ext4box/blockdev"
	"ext4box/ext4/internal/disk"
)

// Times in seconds, as the kernel has them.
const (
	defaultUpdate = 5
	maxUpdate     = 300
	minCheck      = 5
	maxCheck      = 300
	longWait      = 20 * time.Second // is worth telling

	// seqMax is the largest number of somebody who has the filesystem open.
	seqMax = 0xE24D4D4F
)

// Clock is the time, which tests make pass as they like.
type Clock interface {
	Now() time.Time
	After(d time.Duration) <-chan time.Time
}

type realClock struct{}

func (realClock) Now() time.Time                         { return time.Now() }
func (realClock) After(d time.Duration) <-chan time.Time { return time.After(d) }

// Config says what is guarded.
type Config struct {
	Device    blockdev.Device
	Block     uint64
	BlockSize int
	Sums      *disk.Checksums
	Update    uint16 // seconds between two updates, as the superblock has it
	Logger    *slog.Logger
	Clock     Clock // nil: the real one
}

// InUseError says that somebody else has the filesystem open. It unwraps to
// EBUSY.
type InUseError struct {
	What         string // what is going on
	Node, Device string // where
	Updated      time.Time
}

func (e *InUseError) Error() string {
	return fmt.Sprintf("%s on node %q, device %q, last heard of at %s; end that first (if it was a crash, tune2fs -f -E clear_mmp)",
		e.What, e.Node, e.Device, e.Updated.Format(time.DateTime))
}

// Unwrap makes errors.Is(err, syscall.EBUSY) true.
func (e *InUseError) Unwrap() error { return syscall.EBUSY }

// LostError says that the filesystem, which was guarded, is or may be open
// elsewhere by now, so that nothing at all may be written to it any longer. It
// unwraps to the reason and to ESHUTDOWN.
type LostError struct{ Err error }

func (e *LostError) Error() string {
	return fmt.Sprintf("multiple mount protection: %v; nothing is written any longer", e.Err)
}

// Unwrap makes errors.Is true for the reason and for syscall.ESHUTDOWN.
func (e *LostError) Unwrap() []error { return []error{e.Err, syscall.ESHUTDOWN} }

// Guard keeps others away. It has a goroutine until Close.
type Guard struct {
	c    Config
	raw  []byte   // the block
	rec  disk.MMP // what was written last
	seen uint32   // the number that was read last; a write that fails may leave it
	last time.Time

	quit   chan struct{}
	ended  chan struct{}
	lost   chan struct{}
	err    error // why it is lost; set before lost is closed
	closed sync.Once
	result error
}

// Start makes sure that nobody has the filesystem open and says from then on that
// somebody has. It returns an [InUseError] if somebody has. If it was not closed
// properly it takes until the other one would have shown a sign of life.
func Start(c Config) (*Guard, error) {
	if c.Clock == nil {
		c.Clock = realClock{}
	}
	c.Update = min(cmp.Or(c.Update, defaultUpdate), maxUpdate)
	g := &Guard{
		c: c, raw: make([]byte, c.BlockSize),
		quit: make(chan struct{}), ended: make(chan struct{}), lost: make(chan struct{}),
	}
	rec, err := g.read()
	if err != nil {
		return nil, err
	}
	wait := time.Duration(0)
	switch rec.Seq {
	case disk.MMPSeqClean:
	case disk.MMPSeqFsck:
		return nil, inUse("e2fsck is at work", rec)
	default:
		check := min(max(rec.Interval, c.Update, minCheck), maxCheck)
		wait = time.Duration(min(2*check+1, check+60)) * time.Second
		if wait > longWait {
			c.Logger.Warn("the filesystem was not closed; waiting whether somebody has it open", "node", text(rec.NodeName[:]), "seconds", 2*wait.Seconds())
		}
		<-c.Clock.After(wait)
		again, err := g.read()
		if err != nil {
			return nil, err
		}
		if again.Seq != rec.Seq {
			return nil, inUse("the filesystem is in use", again)
		}
	}
	g.rec.Magic, g.rec.Seq = disk.MMPMagic, 1+rand.Uint32N(seqMax)
	g.seen = g.rec.Seq
	g.rec.Interval = max(2*c.Update, minCheck)
	if node, err := os.Hostname(); err == nil {
		copy(g.rec.NodeName[:len(g.rec.NodeName)-1], node)
	}
	copy(g.rec.BdevName[:len(g.rec.BdevName)-1], filepath.Base(blockdev.Name(c.Device)))
	if err := g.write(); err != nil {
		return nil, err
	}
	// Two who came at the same time both saw nobody: the last one to write wins.
	<-c.Clock.After(wait)
	if rec, err = g.read(); err != nil {
		return nil, err
	}
	if !g.mine(rec) {
		return nil, inUse("the filesystem is in use", rec)
	}
	go g.run()
	return g, nil
}

func inUse(what string, rec disk.MMP) error {
	updated := time.Unix(int64(min(rec.Time, 1<<40)), 0)
	return &InUseError{What: what, Node: text(rec.NodeName[:]), Device: text(rec.BdevName[:]), Updated: updated}
}

func text(field []byte) string { return disk.CString(field) }

// Lost is closed when the protection is lost, for which Err has the reason, a
// [LostError]. Nothing may be written then.
func (g *Guard) Lost() <-chan struct{} { return g.lost }

// Err is why the protection was lost, and nil as long as it is not.
func (g *Guard) Err() error {
	select {
	case <-g.lost:
		return g.err
	default:
		return nil
	}
}

// Ended is closed when Close has been called, or the protection was lost.
func (g *Guard) Ended() <-chan struct{} { return g.ended }

// Close says that nobody has the filesystem open any longer, unless the
// protection was lost: then it returns why.
func (g *Guard) Close() error {
	g.closed.Do(func() {
		close(g.quit)
		<-g.ended
		if g.result = g.Err(); g.result != nil {
			return
		}
		g.rec.Seq = disk.MMPSeqClean
		g.result = errors.Join(g.write(), g.c.Device.Flush())
	})
	return g.result
}

// run updates the block until the end.
func (g *Guard) run() {
	defer close(g.ended)
	update := time.Duration(g.c.Update) * time.Second
	failed := 0
	for {
		began := g.last
		select {
		case <-g.quit:
			return
		case <-g.c.Clock.After(max(0, update-g.c.Clock.Now().Sub(began))):
		}
		err := g.renew()
		elapsed := g.c.Clock.Now().Sub(began)
		switch {
		case err == nil:
			failed = 0
			// Whoever comes has to wait as long as it takes us.
			g.rec.Interval = uint16(min(max(2*elapsed/time.Second, minCheck), maxCheck))
		case errors.Is(err, syscall.EBUSY), elapsed > time.Duration(g.rec.Interval)*time.Second:
			g.err = &LostError{err}
			g.c.Logger.Error("the filesystem is read-only from now on", "error", g.err)
			close(g.lost)
			return
		default:
			if failed%60 == 0 {
				g.c.Logger.Error("update the multiple mount protection block", "error", err)
			}
			failed++
			select {
			case <-g.quit:
				return
			case <-g.c.Clock.After(time.Second):
			}
		}
	}
}

// renew makes sure that the block is as it was written, and writes it with the
// next number.
func (g *Guard) renew() error {
	rec, err := g.read()
	if err != nil {
		return err
	}
	if !g.mine(rec) {
		return inUse("the filesystem is in use as well", rec)
	}
	g.seen = rec.Seq
	if g.rec.Seq++; g.rec.Seq > seqMax {
		g.rec.Seq = 1
	}
	return g.write()
}

// mine tells whether a record is the one that was written last, or the one
// before, for a write that failed may have been done or not.
func (g *Guard) mine(rec disk.MMP) bool {
	return (rec.Seq == g.rec.Seq || rec.Seq == g.seen) && rec.NodeName == g.rec.NodeName && rec.BdevName == g.rec.BdevName
}

func (g *Guard) offset() int64 { return int64(g.c.Block) * int64(g.c.BlockSize) }

// read reads and verifies the block.
func (g *Guard) read() (disk.MMP, error) {
	n, err := g.c.Device.ReadAt(g.raw, g.offset())
	if n < len(g.raw) {
		if err == nil || err == io.EOF {
			err = fmt.Errorf("the device is too short: %w", syscall.EIO)
		}
		return disk.MMP{}, fmt.Errorf("read the multiple mount protection block: %w", err)
	}
	return disk.DecodeMMP(g.c.Sums, g.raw)
}

// write writes the record, durably, as of now.
func (g *Guard) write() error {
	now := g.c.Clock.Now()
	g.rec.Time = uint64(max(now.Unix(), 0))
	disk.EncodeMMP(g.c.Sums, g.raw, &g.rec)
	if _, err := g.c.Device.WriteAt(g.raw, g.offset()); err != nil {
		return fmt.Errorf("write the multiple mount protection block: %w", err)
	}
	g.last = now
	return nil
}
