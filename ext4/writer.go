package ext4

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"ext4box/ext4/internal/balloc"
	"ext4box/ext4/internal/buffer"
	"ext4box/ext4/internal/disk"
	"ext4box/ext4/internal/extent"
	"ext4box/ext4/internal/journal"
	"ext4box/ext4/internal/quota"
)

// writer is what a filesystem that is open for writing has beside what reading
// needs.
type writer struct {
	log      *journal.Log
	groups   *balloc.Groups
	discards *discards // nil: the device is not told of what is freed

	// moveDir is held by a rename that moves a directory, so that no two of
	// them can together make a circle.
	moveDir sync.Mutex

	super      superblock
	damage     damage
	times      accessTimes
	written    atomic.Uint64 // bytes of file data
	converted  atomic.Int64  // steps in which unwritten blocks became written ones
	orphans    orphanList
	orphanFile *orphanFile
	holds      holds
	numbers    numbers
	reaped     atomic.Uint64 // inodes deleted since the filesystem was opened
	reaping    atomic.Int32  // inodes that are being deleted
	freeze     freeze

	renames atomic.Uint64 // see FS.renamed

	hasXattrs atomic.Bool // the feature ext_attr was set

	// sharedXattrs guards the reference counts of attribute blocks, which inodes
	// share.
	sharedXattrs sync.Mutex

	ahead aheads       // what is reserved ahead of writes
	asked atomic.Int64 // blocks that are pending because they were asked for

	reserved    atomic.Int64 // runs that are pending
	maxReserved int64

	quotas       [quota.Kinds]*quotaFile // nil: not kept
	quotaCredits int                     // for what any operation charges
	enforcing    bool                    // some of the limits
}

// superblock is the superblock as it changes. fs.sb keeps what it was when the
// filesystem was opened, for all that does not change.
type superblock struct {
	mu  sync.Mutex
	sb  disk.Superblock
	buf *buffer.Buffer // pinned
	off int            // of the superblock in its block
}

// Now is the present time, as what is made and changed has it. It is by a clock that
// only ticks, the one of the kernel, which keeps some of the times of files itself:
// by a finer one a file could be born after its first change.
func (fs *FS) Now() time.Time {
	t := time.Now()
	var ts unix.Timespec
	// It does not wait, so the scheduler need not know.
	_, _, errno := unix.RawSyscall(unix.SYS_CLOCK_GETTIME, unix.CLOCK_REALTIME_COARSE, uintptr(unsafe.Pointer(&ts)), 0)
	if errno == 0 {
		// It is behind, unless time is not the real one, as in tests.
		if coarse := time.Unix(ts.Unix()); coarse.Before(t) {
			return coarse
		}
	}
	return t
}

// now is the present time as inodes hold it.
func (fs *FS) now() disk.Timestamp {
	t := fs.Now()
	return disk.Timestamp{Sec: t.Unix(), Nsec: uint32(t.Nanosecond())}
}

// begin opens a handle of the journal. The inodes that the operation changes
// must be locked already.
func (fs *FS) begin(blocks, revokes int) (*journal.Handle, error) {
	if fs.w == nil {
		return nil, syscall.EROFS
	}
	return fs.w.log.Begin(journal.Credits{Blocks: blocks + fs.w.quotaCredits, Revokes: revokes})
}

// transact runs fn in a handle. Of what fn did before an error it must have
// taken back everything that the error leaves half done; except when the error
// is damage or a failing device. These abort the journal if anything has been
// changed, so that nothing of the transaction is ever seen, and from then on the
// filesystem is read-only; see [OnError] for what follows otherwise.
func (fs *FS) transact(blocks, revokes int, fn func(tx *journal.Handle) error) error {
	tx, err := fs.begin(blocks, revokes)
	if err != nil {
		return err
	}
	err = fn(tx)
	if errors.Is(err, syscall.EUCLEAN) || errors.Is(err, syscall.EIO) {
		fs.ReportError(0, err)
		if tx.Changed() {
			fs.w.log.Abort(err)
		}
	}
	return errors.Join(err, tx.End())
}

// wlock returns an inode locked for writing; wunlock is the inverse.
func (fs *FS) wlock(ino Ino) (*inode, error) { return fs.wlockIf(ino, false) }

// wlockIf is wlock. With try it fails with EAGAIN if the inode is locked.
func (fs *FS) wlockIf(ino Ino, try bool) (*inode, error) {
	if fs.w == nil {
		return nil, syscall.EROFS
	}
	if uint32(ino) == fs.sb.JournalIno { // which tune2fs makes a file with a name
		return nil, fmt.Errorf("inode %d is the journal: %w", ino, syscall.EPERM)
	}
	if fs.down.Load() {
		return nil, errShutdown
	}
	if err := fs.w.log.Usable(); err != nil {
		return nil, err
	}
	in, err := fs.iget(ino)
	if err != nil {
		return nil, err
	}
	if !try {
		in.mu.Lock()
	} else if !in.mu.TryLock() {
		in.put()
		return nil, syscall.EAGAIN
	}
	if in.deleted {
		in.wunlock()
		return nil, fmt.Errorf("inode %d is not in use: %w", ino, syscall.ESTALE)
	}
	if err := fs.attach(in); err != nil {
		in.wunlock()
		return nil, err
	}
	return in, nil
}

func (in *inode) wunlock() {
	in.detach()
	in.mu.Unlock()
	in.put()
}

// slot returns the block of the inode table that an inode is in, pinned, and the
// inode's place there.
func (fs *FS) slot(ino Ino) (*buffer.Buffer, uint32, error) {
	group, index := fs.geo.InodeGroup(uint32(ino))
	table, err := fs.inodeTable(group)
	if err != nil {
		return nil, 0, err
	}
	perBlock := fs.geo.BlockSize / fs.geo.InodeSize
	b, err := fs.blks.ReadPinned(table+uint64(index/perBlock), inodeTableTag, noCheck)
	return b, index % perBlock * fs.geo.InodeSize, err
}

// editRaw changes the raw inode in a transaction and renews its checksum. It
// takes one credit.
func (fs *FS) editRaw(tx buffer.Tx, ino Ino, seed uint32, edit func(raw []byte)) error {
	return fs.editSlot(tx, ino, func(raw []byte) {
		edit(raw)
		if fs.sums.Metadata {
			disk.SealInode(seed, raw)
		}
	})
}

// editInode is editRaw for an inode that is locked, or is being made.
func (fs *FS) editInode(tx buffer.Tx, in *inode, edit func(raw []byte)) error {
	return fs.editRaw(tx, in.ino, in.seed, func(raw []byte) {
		if in.fresh {
			clear(raw)
			in.fresh = false
		}
		edit(raw)
	})
}

// editSlot changes an inode's place in the inode table. It takes one credit.
func (fs *FS) editSlot(tx buffer.Tx, ino Ino, edit func(raw []byte)) error {
	b, off, err := fs.slot(ino)
	if err != nil {
		return err
	}
	defer b.Unpin()
	if err := tx.Modify(b); err != nil {
		return err
	}
	b.Lock()
	defer b.Unlock()
	edit(b.Data[off : off+fs.geo.InodeSize])
	return nil
}

// store writes the inode, which is locked, to the inode table, and charges its
// owners for what it occupies. It takes one credit.
func (fs *FS) store(tx buffer.Tx, in *inode) error {
	in.Inode.Size = in.size
	in.Version++
	if fs.geo.InodeSize == disk.InodeSizeOld { // has whole seconds
		in.Atime.Nsec, in.Mtime.Nsec, in.Ctime.Nsec = 0, 0, 0
	}
	in.tid, in.dirty, in.accessed = tx.TID(), true, false
	if err := fs.charge(tx, in); err != nil {
		return err
	}
	return fs.editInode(tx, in, func(raw []byte) {
		disk.EncodeInode(raw, &in.Inode, fs.sb.CreatorOS == disk.CreatorHurd)
	})
}

// touch sets the times that a change of the inode sets.
func (fs *FS) touch(in *inode, mtime bool) {
	t := fs.now()
	in.Ctime = t
	if mtime {
		in.Mtime = t
	}
}

func (fs *FS) hugeFile() bool { return fs.sb.ROCompat&disk.ROCompatHugeFile != 0 }

// addBlocks changes the space that an inode occupies, by blocks.
func (fs *FS) addBlocks(in *inode, blocks int64) error {
	sectors := int64(in.Sectors(fs.hugeFile(), fs.geo.BlockBits)) + blocks<<(fs.geo.BlockBits-9)
	if sectors < 0 {
		return disk.Corruptf(disk.InodeName(uint32(in.ino)), "frees more blocks than it has")
	}
	if !in.SetSectors(uint64(sectors), fs.hugeFile(), fs.geo.BlockBits) {
		return syscall.EFBIG
	}
	return nil
}

// editSuper changes the superblock in a transaction. It takes one credit.
func (fs *FS) editSuper(tx *journal.Handle, edit func(sb *disk.Superblock)) error {
	s := &fs.w.super
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := tx.Modify(s.buf); err != nil {
		return err
	}
	edit(&s.sb)
	s.buf.Lock()
	defer s.buf.Unlock()
	fs.encodeSuper()
	return nil
}

// encodeSuper brings the superblock's buffer up to date. Superblock and buffer
// are locked.
func (fs *FS) encodeSuper() {
	s := &fs.w.super
	raw := s.buf.Data[s.off : s.off+disk.SuperblockSize]
	disk.EncodeSuperblock(raw, &s.sb)
	fs.sums.SealSuperblock(raw)
}

// writeSuper changes the superblock outside of the journal, durably. The
// journal must not have it.
func (fs *FS) writeSuper(edit func(sb *disk.Superblock)) error {
	s := &fs.w.super
	s.mu.Lock()
	defer s.mu.Unlock()
	edit(&s.sb)
	s.buf.Lock()
	fs.encodeSuper()
	raw := append([]byte(nil), s.buf.Data[s.off:s.off+disk.SuperblockSize]...)
	s.buf.Unlock()
	if _, err := fs.base.WriteAt(raw, int64(s.buf.Block)<<fs.geo.BlockBits+int64(s.off)); err != nil {
		return fmt.Errorf("write the superblock: %w", err)
	}
	return fs.base.Flush()
}

// nodes allocates the nodes of an inode's block map.
type nodeAllocator struct {
	fs *FS
	in *inode
}

var _ extent.Allocator = nodeAllocator{}

// AllocNode takes one block for metadata of the inode.
func (a nodeAllocator) AllocNode(tx buffer.Tx, goal uint64) (uint64, error) {
	r := balloc.Request{Goal: goal, Want: 1, Metadata: true, Pool: true, Promised: a.in.promise.nodes > 0}
	run, err := a.fs.w.groups.Allocate(tx, r)
	if err != nil {
		return 0, err
	}
	if r.Promised {
		a.in.promise.nodes--
	}
	return run.Start, a.fs.addBlocks(a.in, int64(run.Len))
}

// FreeNode gives a block of metadata back.
func (a nodeAllocator) FreeNode(tx buffer.Tx, blk uint64) error {
	if err := a.fs.freeMeta(tx, blk); err != nil {
		return err
	}
	return a.fs.addBlocks(a.in, -int64(a.fs.perCluster()))
}

// goal is where a block of the inode is best put: behind the block before it,
// or in the group of the inode.
func (fs *FS) goal(in *inode, blk uint64) (goal uint64, merge bool) {
	if blk > 0 && !in.inline() {
		if at, err := fs.implied(in, blk-1); err == nil && at != 0 {
			return at + 1, true
		}
	}
	group, _ := fs.geo.InodeGroup(uint32(in.ino))
	return fs.geo.GroupFirstBlock(group), false
}
