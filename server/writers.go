package server

import (
	"sync"

	"ext4box/ext4"
	"ext4box/fuse"
)

// maxFlushes bounds how many requests at a time wait for the kernel to write
// back, which takes others that handle what it writes: it is less than the
// smallest number of workers.
const maxFlushes = 4

// writers counts, for each file, those who have it open for writing. Of a file
// that nobody does the kernel has nothing to write back: it does that before it
// releases the last of them. That takes a kernel that tells of each file that it opens.
type writers struct {
	mu       *sync.Mutex
	count    map[ext4.Ino]int
	flushing chan struct{}
}

func newWriters() writers {
	return writers{mu: new(sync.Mutex), count: make(map[ext4.Ino]int), flushing: make(chan struct{}, maxFlushes)}
}

func (w *writers) add(ino ext4.Ino) {
	w.mu.Lock()
	w.count[ino]++
	w.mu.Unlock()
}

func (w *writers) remove(ino ext4.Ino) {
	w.mu.Lock()
	if w.count[ino]--; w.count[ino] <= 0 {
		delete(w.count, ino)
	}
	w.mu.Unlock()
}

func (w *writers) any(ino ext4.Ino) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.count[ino] > 0
}

// flush makes the kernel write back what it has of the file that r is about, and
// returns when that is done; false says that too many wait already. r must be a
// request that the kernel sends without holding pages of the file.
func (w *writers) flush(r *fuse.Request) bool {
	select {
	case w.flushing <- struct{}{}:
		defer func() { <-w.flushing }()
	default:
		return false
	}
	return r.InvalData() == nil
}
