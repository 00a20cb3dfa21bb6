package vfs

import (
	"cmp"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"ext4box/fuse"
)

// inodeFlags are what the attribute flags of the reply that introduced an inode made of it.
type inodeFlags struct {
	exclusive, iomap, atomic bool
}

// inode is an inode that the kernel has in memory.
type inode struct {
	fs         *FS
	nodeid     uint64
	generation uint64
	typ        uint32 // S_IFMT of the mode
	flags      inodeFlags

	rwsem      sync.RWMutex // i_rwsem
	invalidate sync.RWMutex // invalidate_lock of the page cache
	flushing   sync.Mutex   // I_SYNC: held by who sends times, inside of all other locks
	mappings   mappingCache
	pages      pageCache
	freeing    atomic.Int32 // requests under way that free blocks, whose mappings are still cached
	writeback  writeback

	// Under fs.mu.
	refs    int           // dentries, open files and calls that use it
	nlookup uint64        // to be taken back by FORGET
	freed   chan struct{} // closed when it is gone; not nil while it is being evicted

	mu        sync.Mutex
	ino       uint64    // Attr.Ino; 0 is not known yet (root)
	attr      fuse.Attr // Size is not kept up to date
	expires   time.Time // of attr
	version   uint64    // of what the server has recorded as size; see sizeKnown
	isize     uint64
	disksize  uint64 // what the kernel believes the server has recorded
	known     sizeKnown
	setattrs  setattrs
	timesOut  bool // times of attr are newer than the server's
	immutable bool
	appendTo  bool
	syncing   bool // the SYNC flag: writes are synchronous
	bad       bool
	nosec     bool // there is no capability to be removed at a write
	swap      bool // is a swap file
	linkable  bool // has no name, and may get one
	dead      bool // a directory that was removed
	acls      [2]cachedACL
	target    string // of a link, if known
	bornKnown bool
	btime     fuse.SxTime
}

// setattrs are the SETATTR of an inode: how many were sent, and how many are under way.
type setattrs struct{ sent, flying int }

// sizeKnown are the bounds of the size that the server can have recorded: at least what it has
// confirmed, at most what it was told.
type sizeKnown struct{ min, max uint64 }

// newInode makes an inode that is in no table yet.
func (fs *FS) newInode(nodeid, generation uint64, mode uint32, flags fuse.AttrFlags) *inode {
	in := &inode{fs: fs, nodeid: nodeid, generation: generation, typ: mode & syscall.S_IFMT}
	if fs.iomap && fs.init.Minor >= fuse.IomapMinor && flags&fuse.AttrExclusive != 0 {
		in.flags.exclusive = true
		in.flags.iomap = flags&fuse.AttrIomap != 0
		in.flags.atomic = in.flags.iomap && in.regular() && flags&fuse.AttrAtomic != 0
		in.immutable = flags&fuse.AttrImmutable != 0
		in.appendTo = flags&fuse.AttrAppend != 0
		in.syncing = flags&fuse.AttrSync != 0
	}
	in.mappings.init()
	in.pages.init()
	return in
}

func (in *inode) regular() bool { return in.typ == syscall.S_IFREG }

// mapped tells whether data goes by mappings.
func (in *inode) mapped() bool { return in.flags.iomap && in.regular() }

// ownsTimes tells whether the kernel keeps size and times, whatever the server says.
func (in *inode) ownsTimes() bool {
	return in.mapped() || in.regular() && in.fs.flags&fuse.InitWritebackCache != 0
}

// iget returns the inode of a reply that introduces or repeats it, with a reference for the caller, and
// counts the lookup. version is that of the inode, if it was known, when the request was sent; a
// reply that a change of size has overtaken says nothing about it.
func (fs *FS) iget(e *fuse.EntryOut, sent sentAt) (*inode, syscall.Errno) {
	if e.NodeID == 0 || e.NodeID == fs.cfg.RootNodeID || e.Attr.Mode&syscall.S_IFMT == 0 {
		fs.violate("an entry has nodeid %d, mode %o", e.NodeID, e.Attr.Mode)
		return nil, syscall.EIO
	}
	for {
		in, wait := fs.igetNow(e)
		if wait != nil {
			<-wait
			continue
		}
		in.applyAttr(&e.Attr, e.AttrValid, e.AttrValidNsec, sent)
		if in.isBad() {
			fs.iput(in)
			return nil, syscall.EIO
		}
		return in, 0
	}
}

// igetNow does so under the lock of the table. It returns a channel to wait for if an inode with that
// nodeid is being evicted.
func (fs *FS) igetNow(e *fuse.EntryOut) (in *inode, wait chan struct{}) {
	fs.mu.Lock()
	in = fs.inodes[e.NodeID]
	var complaint string
	switch {
	case in == nil:
	case in.freed != nil:
		fs.mu.Unlock()
		return nil, in.freed
	case in.generation != e.Generation:
		complaint = "the generation of node %d is %d, but it was %d"
	case in.typ != e.Attr.Mode&syscall.S_IFMT:
		complaint = "node %d (generation %d, was %d) has become a file of another type"
	}
	old := in
	if complaint != "" {
		// The kernel makes the old one useless and takes it out of the table.
		delete(fs.inodes, e.NodeID)
		in = nil
	}
	other := uint64(0)
	if in == nil {
		in = fs.newInode(e.NodeID, e.Generation, e.Attr.Mode, e.Attr.Flags)
		fs.inodes[e.NodeID] = in
		if have, ok := fs.inos[e.Attr.Ino]; ok && have != e.NodeID {
			other = have
		}
		fs.inos[e.Attr.Ino] = e.NodeID
		in.instantiate(&e.Attr)
	}
	in.refs++
	in.nlookup++
	fs.mu.Unlock()
	if complaint != "" {
		old.makeBad()
		fs.violate(complaint, e.NodeID, e.Generation, old.generation)
	}
	if other != 0 {
		fs.violate("nodes %d and %d are the same inode %d: two page caches for the same blocks", other, e.NodeID, e.Attr.Ino)
	}
	return in, nil
}

// instantiate takes over the attributes that the kernel owns from then on.
func (in *inode) instantiate(a *fuse.Attr) {
	in.ino, in.attr = a.Ino, *a
	in.isize, in.disksize = a.Size, a.Size
	in.known = sizeKnown{a.Size, a.Size}
}

// sentAt is what was known of sizes when a request was sent whose reply carries attributes: it cannot
// tell less, but a change of size may have overtaken it.
type sentAt map[*inode]sizeAt

type sizeAt struct{ version, min uint64 }

// sent notes the state of inodes before a request.
func sent(list ...*inode) sentAt {
	s := sentAt{}
	for _, in := range list {
		if in != nil {
			in.mu.Lock()
			s[in] = sizeAt{in.version, in.known.min}
			in.mu.Unlock()
		}
	}
	return s
}

// sentBefore is sent for a request whose reply tells which inode it is about: before is FS.sizes when it
// was sent. If anything has changed meanwhile, nothing is known.
func (fs *FS) sentBefore(before, nodeid uint64) sentAt {
	s := sent(fs.peek(nodeid))
	if fs.sizes.Load() != before {
		return nil
	}
	return s
}

// sizeChanged says that what was known of the recorded size no longer holds; mu is held.
func (in *inode) sizeChanged() {
	in.version++
	in.fs.sizes.Add(1)
}

// confirmed says that the server has recorded a size of at least n; mu is held.
func (in *inode) confirmed(n uint64) {
	if n > in.known.min {
		in.known.min = n
		in.fs.sizes.Add(1)
	}
}

// applyAttr takes over attributes of a reply by the rules for the inode.
func (in *inode) applyAttr(a *fuse.Attr, valid uint64, nsec uint32, at sentAt) {
	in.mu.Lock()
	complaint, bad := "", []any(nil)
	if in.ino == 0 {
		in.ino = a.Ino
	}
	if a.Ino != in.ino {
		complaint, bad = "the inode number of node %d has changed from %d to %d", []any{in.nodeid, in.ino, a.Ino}
	}
	then, tracked := at[in]
	current := tracked && then.version == in.version
	old := in.attr
	in.attr = *a
	in.attr.Flags = old.Flags
	if in.ownsTimes() {
		in.attr.Atime, in.attr.AtimeNsec = old.Atime, old.AtimeNsec
		in.attr.Mtime, in.attr.MtimeNsec = old.Mtime, old.MtimeNsec
		in.attr.Ctime, in.attr.CtimeNsec = old.Ctime, old.CtimeNsec
	}
	switch {
	case in.mapped():
		if current {
			if a.Size < then.min || a.Size > in.known.max {
				complaint = "node %d: attributes say that a size of %d is recorded, it must be between %d and %d"
				bad = []any{in.nodeid, a.Size, then.min, in.known.max}
			}
			if a.Size >= in.known.min || a.Size < then.min {
				in.disksize = a.Size
			}
		}
	case in.ownsTimes():
	default:
		in.isize = a.Size
	}
	in.expires = expiry(valid, nsec)
	in.nosec = false
	in.mu.Unlock()
	if complaint != "" {
		in.fs.violate(complaint, bad...)
	}
}

// expiry is the end of a time to live.
func expiry(sec uint64, nsec uint32) time.Time {
	if sec > 1<<32 {
		sec = 1 << 32
	}
	return time.Now().Add(time.Duration(sec)*time.Second + time.Duration(nsec))
}

// invalidateAttr makes the next stat(2) ask the server.
func (in *inode) invalidateAttr() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.expires = time.Time{}
}

// fresh tells whether the attributes may still be used.
func (in *inode) fresh() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return time.Now().Before(in.expires)
}

func (in *inode) isBad() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.bad
}

func (in *inode) makeBad() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.bad = true
}

// size is i_size.
func (in *inode) size() uint64 {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.isize
}

// setSize sets i_size.
func (in *inode) setSize(n uint64) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.isize = n
}

// grow raises i_size and tells whether it did.
func (in *inode) grow(n uint64) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	if n <= in.isize {
		return false
	}
	in.isize = n
	return true
}

// number is the inode number.
func (in *inode) number() uint64 {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.ino
}

// nlink is the number of names that the kernel knows of.
func (in *inode) nlink() uint32 {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.attr.Nlink
}

// ilookup returns an inode with a reference, nil if the kernel does not have it.
func (fs *FS) ilookup(nodeid uint64) *inode {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	in := fs.inodes[nodeid]
	if in == nil || in.freed != nil {
		return nil
	}
	in.refs++
	return in
}

// igrab takes another reference.
func (fs *FS) igrab(in *inode) *inode {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	in.refs++
	return in
}

// iput gives a reference back. The last one of an inode without names evicts it; others stay in
// memory until DropCaches.
func (fs *FS) iput(in *inode) {
	fs.mu.Lock()
	in.refs--
	gone := in.refs == 0 && in.freed == nil && (in.nlink() == 0 || in.isBad())
	if gone {
		in.freed = make(chan struct{})
	}
	fs.mu.Unlock()
	if gone {
		fs.evict(in)
	}
}

// reclaim evicts an inode with names if nobody uses it.
func (fs *FS) reclaim(in *inode) {
	fs.mu.Lock()
	gone := in.refs == 0 && in.freed == nil && in != fs.root
	if gone {
		in.freed = make(chan struct{})
	}
	fs.mu.Unlock()
	if gone {
		fs.evict(in)
	}
}

// evict takes an inode out of memory: first its pages, which must be clean if it has names, then
// FORGET.
func (fs *FS) evict(in *inode) {
	in.evictPages()
	in.forget()
	ino := in.number()
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if fs.inodes[in.nodeid] == in {
		delete(fs.inodes, in.nodeid)
	}
	if fs.inos[ino] == in.nodeid && fs.inodes[in.nodeid] == nil {
		delete(fs.inos, ino)
	}
	close(in.freed)
}

// forget takes the lookups of an inode back.
func (in *inode) forget() {
	in.fs.mu.Lock()
	n := in.nlookup
	in.nlookup = 0
	in.fs.mu.Unlock()
	if n > 0 && in != in.fs.root {
		in.fs.tell(fuse.OpForget, in.nodeid, structure(&fuse.ForgetIn{Nlookup: n}))
	}
}

// all returns every inode with a reference for each.
func (fs *FS) all() []*inode {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	var list []*inode
	for _, in := range fs.inodes {
		if in.freed == nil {
			in.refs++
			list = append(list, in)
		}
	}
	slices.SortFunc(list, func(a, b *inode) int { return cmp.Compare(a.nodeid, b.nodeid) })
	return list
}

// DropCaches writes back what is dirty and lets go of all pages and of every inode that is not in use,
// which sends FORGET.
func (fs *FS) DropCaches() {
	fs.releaseNames()
	for _, in := range fs.all() {
		_ = in.writeInode()
		in.dropPages(0, toEOF)
		fs.iput(in)
		fs.reclaim(in)
	}
}

// evictAll evicts every inode, with references or not, for the end of the mount.
func (fs *FS) evictAll() {
	for _, in := range fs.all() {
		fs.mu.Lock()
		gone := in != fs.root && in.freed == nil
		if gone {
			in.freed = make(chan struct{})
		}
		fs.mu.Unlock()
		if gone {
			fs.evict(in)
		}
	}
}

// errnoIn finds the errno in an error, EIO if it has none.
func errnoIn(err error) syscall.Errno {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return syscall.EIO
}
