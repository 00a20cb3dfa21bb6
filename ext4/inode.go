package ext4

import (
	"errors"
	"fmt"
	"sync/atomic"
	"syscall"

	"ext4box/ext4/internal/balloc"
	"ext4box/ext4/internal/buffer"
	"ext4box/ext4/internal/cache"
	"ext4box/ext4/internal/disk"
	"ext4box/ext4/internal/extent"
	"ext4box/ext4/internal/fastcommit"
	"ext4box/ext4/internal/xattr"
	"ext4box/internal/spin"
)

// Tags of blocks whose parts are checked one by one as they are used.
var (
	groupDescTag  = buffer.Tag{Kind: buffer.GroupDescs}
	inodeTableTag = buffer.Tag{Kind: buffer.InodeTable}
	symlinkTag    = buffer.Tag{Kind: buffer.Symlink}
	superblockTag = buffer.Tag{Kind: buffer.Superblock}
)

// usualInode is the size of inodes on most filesystems.
const usualInode = 256

func noCheck([]byte) error { return nil }

// inodeReadAhead is the number of inode table blocks that are read together,
// since neighbours in a directory are mostly neighbours in the table; and
// inodeReadAheadBytes bounds it where blocks are large.
const (
	inodeReadAhead      = 8
	inodeReadAheadBytes = 64 << 10
)

// inode is an inode in memory. There is one for each number at a time, and it
// stays in the cache while somebody uses it.
//
// mu guards what the inode says, and the blocks that belong to it alone:
// directory, extent tree and indirect blocks, and a private attribute block. io
// is held, shared, while data moves to or from blocks that a mapping gave, and
// exclusively by whoever takes blocks away. The package comment has the order of
// locks.
type inode struct {
	ino  Ino
	refs atomic.Int32
	io   spin.RWMutex

	mu spin.RWMutex
	disk.Inode
	seed    uint32 // of its checksums
	fresh   bool   // its place in the inode table has what an earlier inode left there
	size    uint64 // as this type of inode counts it
	deleted bool   // the number may belong to another inode by now

	entries  uint64      // of a directory that can change: which names it has; see FS.renamed
	distinct atomic.Bool // of a directory: no block is in it twice
	bare     atomic.Bool // there are no attributes behind its fields in the inode table

	// What only a writable filesystem uses; under mu.
	pending       []reserved // for writes that have not ended
	pendingBlocks int64      // in pending
	aheadBlocks   int64      // of those nobody has asked for
	streak        streak
	promise       promise
	pinned        atomic.Bool // there is something pending or promised
	prealloc      balloc.Prealloc
	mayInline     bool   // of a new file: has no blocks, and its first data may be inline
	seq           uint64 // of the mapping
	tid           uint32 // last transaction that may have changed the inode
	dirty         bool   // tid says something
	accessed      bool   // Atime is not on disk yet
	swap          bool   // its blocks must stay where they are
	quota         charges
}

// put ends the use of an inode that iget returned.
func (in *inode) put() { in.refs.Add(-1) }

// inodePolicy keeps inodes in the cache while they are used, or hold space that
// only memory knows of.
var inodePolicy = cache.Policy[inode]{
	Acquire: func(in *inode) { in.refs.Add(1) },
	Pinned:  func(in *inode) bool { return in.refs.Load() > 0 || in.pinned.Load() },
	Exact:   true,
}

func (in *inode) inline() bool    { return in.Flags&disk.FlagInlineData != 0 }
func (in *inode) verity() bool    { return in.Flags&disk.FlagVerity != 0 }
func (in *inode) encrypted() bool { return in.Flags&disk.FlagEncrypt != 0 }

// blockMap is the inode's map, for inodes that have one.
func (fs *FS) blockMap(in *inode) extent.Map {
	return extent.Map{
		Cache: fs.blks,
		Geo:   &fs.geo,
		Sums:  &fs.sums,
		Ino:   uint32(in.ino),
		Seed:  in.seed,
		Root:  in.Block[:],
		Tree:  in.Flags&disk.FlagExtents != 0,
		Zones: fs.zonesFor(in.ino),
	}
}

// iget returns an inode that is reachable by name: not one of the reserved
// ones, nor one that the filesystem keeps for itself. The caller must put it.
func (fs *FS) iget(ino Ino) (*inode, error) {
	if fs.down.Load() {
		return nil, errShutdown
	}
	if in := fs.nodes.Get(uint64(ino)); in != nil {
		return in, nil
	}
	if fs.private(ino) {
		return nil, fmt.Errorf("inode %d is reserved: %w", ino, syscall.ESTALE)
	}
	if fs.w != nil {
		if !fs.w.numbers.startRead(ino) {
			if in := fs.nodes.Get(uint64(ino)); in != nil {
				return in, nil
			}
			return nil, fmt.Errorf("inode %d is not in use: %w", ino, syscall.ESTALE)
		}
		defer fs.w.numbers.endRead(ino)
	}
	in, err := fs.loadInode(ino)
	if err != nil {
		if errors.Is(err, syscall.EUCLEAN) {
			fs.found("inode", ino, 0, err)
		}
		return nil, err
	}
	if in.Flags&disk.FlagEAInode != 0 {
		return nil, disk.Corruptf(disk.InodeName(uint32(ino)), "an extended attribute value is used as a file")
	}
	if in.Links == 0 && fs.w != nil && !fs.w.orphans.has(ino) && !fs.w.orphanFile.has(ino) {
		if in := fs.nodes.Get(uint64(ino)); in != nil {
			return in, nil // which has just got a name
		}
		return nil, fmt.Errorf("inode %d is deleted: %w", ino, syscall.ESTALE)
	}
	if fs.w != nil {
		// It may have changed before it was last evicted.
		in.tid = fs.w.log.Latest()
	}
	return fs.nodes.Add(uint64(ino), in), nil
}

// rlock returns an inode locked for reading; runlock is the inverse.
func (fs *FS) rlock(ino Ino) (*inode, error) { return fs.rlockIf(ino, false) }

// rlockIf is rlock. With try it fails with EAGAIN if somebody is changing the
// inode.
func (fs *FS) rlockIf(ino Ino, try bool) (*inode, error) {
	in, err := fs.iget(ino)
	if err != nil {
		return nil, err
	}
	if !try {
		in.mu.RLock()
	} else if !in.mu.TryRLock() {
		in.put()
		return nil, syscall.EAGAIN
	}
	if in.deleted {
		in.runlock()
		return nil, fmt.Errorf("inode %d is not in use: %w", ino, syscall.ESTALE)
	}
	return in, nil
}

func (in *inode) runlock() {
	in.mu.RUnlock()
	in.put()
}

// current returns an error if an inode, whose io is locked, no longer is the one of its
// number. While io is locked it stays that: only reap deletes.
func (in *inode) current() error {
	in.mu.RLock()
	defer in.mu.RUnlock()
	if in.deleted {
		return fmt.Errorf("inode %d is not in use: %w", in.ino, syscall.ESTALE)
	}
	return nil
}

// private tells whether an inode belongs to the filesystem itself.
func (fs *FS) private(ino Ino) bool {
	n := uint32(ino)
	return n == 0 || n < fs.geo.FirstIno && n != disk.InoRoot ||
		n == fs.sb.UserQuotaIno || n == fs.sb.GroupQuotaIno || n == fs.sb.ProjectQuotaIno ||
		fs.sb.Compat&disk.CompatOrphanFile != 0 && n == fs.sb.OrphanFileIno
}

// ownInode tells whether an inode is the filesystem's own: private, or the journal, which tune2fs makes a file
// with a name. That can be read, and is never changed, deleted or used for something else.
func (fs *FS) ownInode(ino Ino) bool { return fs.private(ino) || uint32(ino) == fs.sb.JournalIno }

// rawInode returns the bytes of an inode, with fast commits applied. They may be
// a part of a cached block and must not be modified.
func (fs *FS) rawInode(ino Ino) ([]byte, error) {
	raw, err := fs.storedInode(ino, nil)
	if err != nil {
		return nil, err
	}
	return patched(raw, fs.fastInode(ino)), nil
}

// patched is an inode as a fast commit left it, if there is one.
func patched(raw []byte, fi *fastcommit.Inode) []byte {
	if fi == nil {
		return raw
	}
	raw = append([]byte(nil), raw...)
	fi.Patch(raw)
	return raw
}

// storedInode returns the bytes of an inode as they are on disk, copied into buf where
// they can change, which grows if it has to.
func (fs *FS) storedInode(ino Ino, buf []byte) ([]byte, error) {
	if ino == 0 || uint32(ino) > fs.geo.InodesCount {
		return nil, fmt.Errorf("inode %d does not exist: %w", ino, syscall.ESTALE)
	}
	group, index := fs.geo.InodeGroup(uint32(ino))
	table, err := fs.inodeTable(group)
	if err != nil {
		return nil, err
	}
	perBlock := fs.geo.BlockSize / fs.geo.InodeSize
	at := index / perBlock
	blk := table + uint64(at)
	if !fs.blks.Has(blk) {
		ahead := min(inodeReadAhead, inodeReadAheadBytes/fs.geo.BlockSize)
		first := at &^ (ahead - 1)
		fs.blks.Prefetch(table+uint64(first), int(min(ahead, fs.geo.InodeTableBlocks-first)))
	}
	b, err := fs.blks.Read(blk, inodeTableTag, noCheck)
	if err != nil {
		return nil, err
	}
	off := index % perBlock * fs.geo.InodeSize
	raw := b.Data[off : off+fs.geo.InodeSize]
	if fs.w != nil {
		// The orphan list changes inodes that others are about to read.
		b.RLock()
		defer b.RUnlock()
		raw = append(buf[:0], raw...)
	}
	return raw, nil
}

// systemInode is an inode that the superblock names for a purpose of the filesystem's own, and
// that therefore has to be there.
func (fs *FS) systemInode(what string, ino uint32) (*inode, error) {
	in, err := fs.loadInode(Ino(ino))
	if errors.Is(err, syscall.ESTALE) {
		return nil, disk.Corruptf(what, "its inode %d does not exist or is not in use", ino)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	return in, nil
}

// loadInode reads and checks any inode, also a private one.
func (fs *FS) loadInode(ino Ino) (*inode, error) {
	// Once: the next time the orphan list may have changed it.
	var buf [usualInode]byte
	stored, err := fs.storedInode(ino, buf[:])
	if err != nil {
		return nil, err
	}
	fi := fs.fastInode(ino)
	if fi != nil && fi.Freed {
		return nil, fmt.Errorf("inode %d is not in use: %w", ino, syscall.ESTALE)
	}
	raw := patched(stored, fi)
	in := &inode{ino: ino, Inode: disk.DecodeInode(raw, fs.sb.CreatorOS == disk.CreatorHurd)}
	if in.Mode == 0 && in.Links == 0 {
		return nil, fmt.Errorf("inode %d is not in use: %w", ino, syscall.ESTALE)
	}
	in.seed = fs.sums.InodeSeed(uint32(ino), in.Generation)
	// An image from a fast commit has no checksum that could be right.
	if fs.sums.Metadata && (fi == nil || fi.Image == nil) {
		// A fast commit may have changed the link count.
		sum := disk.InodeChecksum(in.seed, stored, in.HasHiCsum)
		if sum != in.Checksum {
			return nil, in.corrupt("checksum is %#x instead of %#x", in.Checksum, sum)
		}
	}
	if extra := int(in.ExtraIsize); disk.InodeSizeOld+extra > int(fs.geo.InodeSize) || extra%4 != 0 {
		return nil, in.corrupt("extra size %d is impossible", extra)
	}
	in.size = in.Size
	if !in.IsReg() && fs.sb.Incompat&disk.IncompatLargeDir == 0 {
		in.size &= 0xFFFFFFFF // the high half is another field
	}
	if in.size >= 1<<63 {
		return nil, in.corrupt("size %d is impossible", in.size)
	}
	if in.FileACL != 0 && !fs.mayHave(in.FileACL, 1) {
		return nil, in.corrupt("attribute block %d is not for files", in.FileACL)
	}
	in.quota.booked = fs.usageOf(in)
	if fs.w != nil && in.IsDir() {
		fs.renamed(in)
	}
	in.bare.Store(!xattr.InInode(raw, in.ExtraIsize))
	return in, fs.checkContent(in)
}

// corrupt is an error about what the inode says.
func (in *inode) corrupt(format string, args ...any) error {
	return disk.Corruptf(disk.InodeName(uint32(in.ino)), format, args...)
}

// checkContent verifies what the type of the inode says about its block area.
func (fs *FS) checkContent(in *inode) error {
	if in.inline() {
		switch in.Type() {
		case disk.ModeReg, disk.ModeDir, disk.ModeLink:
		default:
			return in.corrupt("has inline data, its type %#o cannot", in.Type())
		}
		if in.Flags&disk.FlagExtents != 0 {
			return in.corrupt("has both inline data and extents")
		}
		if fs.sb.Incompat&disk.IncompatInlineData == 0 {
			return in.corrupt("has inline data without the filesystem having the feature")
		}
		return fs.checkInline(in, disk.InodeName(uint32(in.ino)))
	}
	switch in.Type() {
	case disk.ModeReg, disk.ModeDir:
		m := fs.blockMap(in)
		return m.CheckRoot()
	case disk.ModeLink:
		if in.fastSymlink() {
			return nil
		}
		m := fs.blockMap(in)
		return m.CheckRoot()
	case disk.ModeChar, disk.ModeBlock, disk.ModeFifo, disk.ModeSocket:
		return nil
	}
	return in.corrupt("file type %#o is unknown", in.Type())
}

// fastSymlink tells whether the target of a symbolic link is in the inode's
// block area. The block count does not tell, since attributes add to it.
func (in *inode) fastSymlink() bool {
	return in.IsSymlink() && !in.inline() && in.size < disk.InodeBlockSize && in.Flags&disk.FlagExtents == 0
}
