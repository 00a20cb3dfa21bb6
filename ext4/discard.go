package ext4

import (
	"cmp"
	"errors"
	"slices"
	"sync"
	"syscall"

	"ext4box/ext4/internal/balloc"
)

// maxDiscards bounds the runs of blocks that wait to be discarded. What is beyond is
// left to Trim.
const maxDiscards = 1 << 16

// discards are runs of blocks that were freed, durably so, and can be handed out
// again. A goroutine of its own tells the device, as far as they are still free, so
// that no commit waits for that.
type discards struct {
	fs *FS

	mu     sync.Mutex
	runs   []balloc.Run
	kick   chan struct{}
	closed bool // the device cannot, or the filesystem is being closed

	working sync.Mutex // held while the device is told; comes first
	done    chan struct{}
}

func newDiscards(fs *FS) *discards {
	d := &discards{fs: fs, kick: make(chan struct{}, 1), done: make(chan struct{})}
	go d.run()
	return d
}

// add has a run discarded. It runs in a commit.
func (d *discards) add(start, n uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed || len(d.runs) == maxDiscards {
		return
	}
	d.runs = append(d.runs, balloc.Run{Start: start, Len: uint32(n)})
	select {
	case d.kick <- struct{}{}:
	default:
	}
}

func (d *discards) run() {
	defer close(d.done)
	for range d.kick {
		d.mu.Lock()
		runs := d.runs
		d.runs = nil
		d.mu.Unlock()
		slices.SortFunc(runs, func(a, b balloc.Run) int { return cmp.Compare(a.Start, b.Start) })
		for i := 0; i < len(runs); {
			start, end := runs[i].Start, runs[i].End()
			for i++; i < len(runs) && runs[i].Start <= end; i++ {
				end = max(end, runs[i].End())
			}
			d.working.Lock()
			_, err := d.fs.w.groups.Trim(start, end, 1, nil, d.fs.discard)
			d.working.Unlock()
			if err != nil && !d.goOn(err) {
				return
			}
		}
	}
}

// goOn tells whether an error leaves it sensible to try other blocks.
func (d *discards) goOn(err error) bool {
	if !errors.Is(err, syscall.EOPNOTSUPP) {
		d.fs.log.Warn("discard", "error", err)
		return true
	}
	d.fs.log.Warn("nothing is discarded", "error", err)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed, d.runs = true, nil
	return false
}

// pause returns when the device is being told nothing, which goes on until resume.
func (d *discards) pause() {
	if d != nil {
		d.working.Lock()
	}
}

func (d *discards) resume() {
	if d != nil {
		d.working.Unlock()
	}
}

// close returns when what was freed is discarded. Nothing may be freed any more.
func (d *discards) close() {
	if d == nil {
		return
	}
	d.mu.Lock()
	d.closed = true
	d.mu.Unlock()
	close(d.kick) // what is in it comes first
	<-d.done
}
