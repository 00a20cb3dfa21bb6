package ext4

import "time"

// Reserved tells what memory holds for a file: blocks that were asked for and blocks
// ahead of them, and nodes of its map.
func (fs *FS) Reserved(ino Ino) (asked, ahead int64, nodes int) {
	in, err := fs.rlock(ino)
	if err != nil {
		return 0, 0, 0
	}
	defer in.runlock()
	return in.pendingBlocks - in.aheadBlocks, in.aheadBlocks, int(in.promise.nodes)
}

// Stores is how often an inode has been stored.
func (fs *FS) Stores(ino Ino) uint64 {
	in, err := fs.rlock(ino)
	if err != nil {
		return 0
	}
	defer in.runlock()
	return in.Version
}

// Sequence is the sequence number of the mapping of a file.
func (fs *FS) Sequence(ino Ino) uint64 {
	in, err := fs.rlock(ino)
	if err != nil {
		return 0
	}
	defer in.runlock()
	return in.seq
}

// Lock locks an inode, as an operation does that takes long.
func (fs *FS) Lock(ino Ino) (unlock func()) {
	in, err := fs.iget(ino)
	if err != nil {
		return func() {}
	}
	in.mu.Lock()
	return func() {
		in.mu.Unlock()
		in.put()
	}
}

// LockShared locks an inode, as an operation does that only looks.
func (fs *FS) LockShared(ino Ino) (unlock func()) {
	in, err := fs.rlock(ino)
	if err != nil {
		return func() {}
	}
	return in.runlock
}

// BreakPromise takes back the nodes that are promised for the map of a file.
func (fs *FS) BreakPromise(ino Ino) {
	in, err := fs.wlock(ino)
	if err != nil {
		return
	}
	defer in.wunlock()
	fs.w.groups.ReturnSpace(in.promise.nodes << fs.geo.ClusterBits)
	in.promise.nodes = 0
}

// TakeSpace takes all space that is left, with what is kept back for root and for metadata.
func (fs *FS) TakeSpace() (giveBack func()) {
	n := uint32(0)
	for fs.w.groups.ReserveSpace(1<<fs.geo.ClusterBits, true, true) == nil {
		n += 1 << fs.geo.ClusterBits
	}
	return func() { fs.w.groups.ReturnSpace(n) }
}

// AgeAhead makes all that is ahead of writes seem to have been of no use for long.
func (fs *FS) AgeAhead() {
	a := &fs.w.ahead
	a.mu.Lock()
	defer a.mu.Unlock()
	a.next = time.Time{}
	for in, of := range a.inodes {
		of.at = of.at.Add(-time.Hour)
		a.inodes[in] = of
	}
}

// AwaitAsked waits until nothing is being asked for.
func (fs *FS) AwaitAsked() {
	a := &fs.w.ahead
	a.mu.Lock()
	asking := a.asking
	a.mu.Unlock()
	if asking != nil {
		<-asking
	}
}

// LimitReserved has a filesystem hold no more than so many runs of blocks that are
// pending. It returns how many there are.
func (fs *FS) LimitReserved(n int64) int64 {
	fs.w.maxReserved = n
	return fs.w.reserved.Load()
}

// ErrMoved is errMoved.
var ErrMoved = errMoved

// Still finds a name, calls change, and tells whether the name leads to the same as before.
func (fs *FS) Still(dir Ino, name string, change func()) error {
	f, err := fs.find(dir, name)
	if err != nil {
		return err
	}
	change()
	d, err := fs.wlock(dir)
	if err != nil {
		return err
	}
	defer d.wunlock()
	return fs.still(d, name, f)
}
