package ext4

import "ext4box/internal/spin"

import "sync"

// numbers orders the reading of inodes with the making and deleting of inodes of the
// same number. Whoever has the number of an inode that is gone, as from a handle, may
// ask for it at any time, and must not bring the old one back into the cache, nor
// the new one before it is complete: there is one inode in memory for a number. The
// zero value is ready.
//
// Its lock is a leaf. Whoever changes a number may hold anything while it waits for
// those who read, for these read only blocks.
type numbers struct {
	mu       spin.Mutex
	read     sync.Cond // somebody has read one
	reading  map[Ino]int
	changing map[Ino]int // one is given up while the next one is made
}

// startRead tells whether the inode can be read; endRead must follow then. If not, it
// is being made or deleted.
func (n *numbers) startRead(ino Ino) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.changing[ino] > 0 {
		return false
	}
	if n.reading == nil {
		n.reading = make(map[Ino]int)
	}
	n.reading[ino]++
	return true
}

func (n *numbers) endRead(ino Ino) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.reading[ino]--; n.reading[ino] == 0 {
		delete(n.reading, ino)
		if n.read.L != nil {
			n.read.Broadcast()
		}
	}
}

// startChange waits until nobody reads the inode, which nobody can then until
// endChange.
func (n *numbers) startChange(ino Ino) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.changing == nil {
		n.changing = make(map[Ino]int)
		n.read.L = &n.mu
	}
	n.changing[ino]++
	for n.reading[ino] > 0 {
		n.read.Wait()
	}
}

func (n *numbers) endChange(ino Ino) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.changing[ino]--; n.changing[ino] == 0 {
		delete(n.changing, ino)
	}
}
