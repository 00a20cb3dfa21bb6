package ext4

import (
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"syscall"
	"time"

	"ext4box/blockdev"
	"ext4box/ext4/internal/buffer"
	"ext4box/ext4/internal/cache"
	"ext4box/ext4/internal/casefold"
	"ext4box/ext4/internal/dirent"
	"ext4box/ext4/internal/disk"
	"ext4box/ext4/internal/fastcommit"
	"ext4box/ext4/internal/mmp"
	"ext4box/ext4/internal/syszone"
	"ext4box/iomap"
)

// Ino is an inode number as on disk.
type Ino = iomap.Ino

// RootIno is the inode number of the root directory.
const RootIno Ino = disk.InoRoot

// NameMax is the longest file name, in bytes.
const NameMax = disk.NameMax

// Options says how an image is opened. The zero value opens it read-only with
// recovery from its journal.
type Options struct {
	// ReadOnly opens the image for reading only: nothing is written, not even to
	// recover it. Without it the image is opened for writing where that is
	// possible, and for reading otherwise; see [FS.ReadOnlyReason].
	ReadOnly bool

	// CommitInterval is how long a change waits until it is made durable at
	// most; 0 means 5 s.
	CommitInterval time.Duration

	// NoBarrier leaves out the flushes that make changes safe against a loss of
	// power, as barrier=0 does.
	NoBarrier bool

	// Atime says when an access that [FS.Accessed] is told of changes the access
	// time; NoDirAtime excepts directories. With LazyTime access times are
	// written only with another change of the inode, by Fsync, Sync and Close, and
	// after half a day.
	Atime      AtimeMode
	NoDirAtime bool
	LazyTime   bool

	// MountPoint is the directory on which the filesystem is about to be mounted,
	// for the superblock. What has more than 63 bytes is not recorded.
	MountPoint string

	// Errors says what follows when the filesystem, open for writing, turns out to
	// be damaged. [FS.ReadOnlyReason] does not change with it.
	Errors OnError

	// Panic is called, once, after an error on a filesystem for which OnErrorPanic
	// holds, and is to end the program. The error has been recorded, the
	// filesystem is read-only.
	Panic func(cause error)

	// Discard tells the device of each range of blocks that was freed, as soon as
	// no crash can bring back what was in it. The superblock can ask for that too;
	// NoDiscard overrules it.
	Discard, NoDiscard bool

	// ParentGroup gives new files the group of their directory, whatever its mode,
	// as the mount option grpid does; nil: as the image says.
	ParentGroup *bool

	// ReservedUID and ReservedGID are the user and the group, beside root, whose files
	// may use the reserved blocks; nil: as the image says.
	ReservedUID, ReservedGID *uint32

	// MaxDirSize is the size, in bytes, beyond which no directory grows: a name
	// for which it would have to is refused with ENOSPC. 0: there is no limit.
	MaxDirSize uint64

	// NoRecovery ignores a journal that has not been replayed, as the kernel's
	// norecovery and noload options do. What is seen may be inconsistent.
	NoRecovery bool

	// JournalDevice holds the journal of a filesystem with an external one. EINVAL:
	// the journal is inside.
	// Open takes ownership as it does of the image's device.
	JournalDevice blockdev.Device

	// Superblock is the place of the superblock to use, in units of 1 KiB, as in
	// the sb= mount option; 0 is the primary one.
	Superblock int64

	// Memory bounds, in bytes, what the filesystem keeps in memory; 0 means
	// [DefaultMemory]. It does not count what the kernel makes it remember: some 20 bytes
	// for each inode that is held ([FS.Hold]).
	Memory int64

	// CacheBytes bounds the metadata block cache; 0 means its share of Memory.
	CacheBytes int64

	// MinixDF makes Statfs count the filesystem's own blocks as used space
	// instead of leaving them out of the total.
	MinixDF bool

	// UserQuota, GroupQuota and ProjectQuota enforce the limits that the quota
	// feature keeps. What is used is counted without them as well. EINVAL: it keeps
	// none of that kind.
	UserQuota, GroupQuota, ProjectQuota bool

	// Logger receives what an operator should know but no caller is told; nil
	// discards it.
	Logger *slog.Logger
}

// FS is an open filesystem.
type FS struct {
	opts Options
	log  *slog.Logger

	base  blockdev.Device // as opened
	dev   blockdev.Device // base, seen through the replayed journal
	sb    disk.Superblock
	geo   disk.Geometry
	sums  disk.Checksums
	blks  *buffer.Cache
	nodes *cache.Cache[inode]
	mover iomap.Mover
	limit iomap.Mover // mover for callers for whom limits of quota hold
	lazy  iomap.Mover // mover for data that need not have reached the device
	w     *writer     // nil: read-only

	outside iomap.Cache // who moves data instead of the movers; nil: nobody
	strayed strayed
	down    atomic.Bool // by Shutdown
	guard   *mmp.Guard  // nil: not needed

	zones      *syszone.Zones
	tables     []atomic.Uint64 // where the inode table of a group is, once its descriptor was checked
	roReason   string
	dirFormat  dirent.Format
	superBlock uint64 // block of the superblock in use
	recovery   Recovery
	journalLen uint64            // blocks of an internal journal
	fc         *fastcommit.State // nil when there are none
	orphans    map[Ino]struct{}  // nil when there are none
	free       freeSummary
}

// Recovery says what opening an image had to do to see a consistent state.
type Recovery struct {
	Needed   bool   `json:"needed"`   // the journal held transactions
	Skipped  bool   `json:"skipped"`  // ... and NoRecovery was set
	Blocks   int    `json:"blocks"`   // blocks that are read from the journal
	Fast     bool   `json:"fast"`     // fast commits were applied too
	Orphans  int    `json:"orphans"`  // inodes that were being deleted or truncated
	LastTID  uint32 `json:"last_tid"` // last transaction that counts
	External bool   `json:"external"` // the journal is on another device
}

// Open opens the filesystem on dev. It owns dev from then on, and Close closes
// it; when Open fails, dev remains the caller's.
//
// A journal that was not replayed is written home, and what was being deleted is
// deleted. With [Options.ReadOnly], or where [FS.ReadOnlyReason] says why the
// filesystem cannot be written, the journal is replayed in memory and the image is
// never written. The cost does not depend on the size of the image.
func Open(dev blockdev.Device, o Options) (*FS, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	fs, err := open(dev, o)
	var damage *notWritableError
	if !errors.As(err, &damage) {
		return fs, err
	}
	o.Logger.Warn("opened for reading only", "error", damage)
	o.ReadOnly = true
	if fs, err = open(dev, o); err == nil {
		fs.roReason = damage.Error()
	}
	return fs, err
}

func open(dev blockdev.Device, o Options) (*FS, error) {
	fs := &FS{opts: o, log: o.Logger, base: dev, dev: dev}
	err := fs.start()
	if fs.guard != nil && (err != nil || fs.w == nil) {
		err = errors.Join(err, fs.guard.Close())
	}
	if err != nil {
		return nil, err
	}
	return fs, nil
}

// start does what Open does but for what has to be undone if it fails.
func (fs *FS) start() error {
	if err := fs.load(); err != nil {
		return err
	}
	if err := fs.checkOptions(); err != nil {
		return err
	}
	if err := fs.startGuard(); err != nil {
		return err
	}
	if err := fs.recover(); err != nil {
		return err
	}
	fs.protect()
	if fs.w != nil {
		if err := fs.reapOrphans(); err != nil {
			return errors.Join(notWritable("its orphans are damaged", err), fs.closeWriter())
		}
	}
	if err := fs.checkRoot(); err != nil {
		if fs.w != nil {
			err = errors.Join(err, fs.closeWriter())
		}
		return err
	}
	return nil
}

// checkOptions refuses what was asked for and the filesystem does not have.
func (fs *FS) checkOptions() error {
	if fs.opts.JournalDevice != nil && fs.sb.Compat&disk.CompatHasJournal != 0 && fs.sb.JournalIno != 0 {
		return fmt.Errorf("the journal is in the filesystem itself, inode %d; leave the external one (journal_path= or --journal) out: %w", fs.sb.JournalIno, syscall.EINVAL)
	}
	if fs.opts.ReadOnly {
		return nil
	}
	return fs.checkQuotas()
}

func (fs *FS) checkRoot() error {
	root, err := fs.iget(RootIno)
	if errors.Is(err, syscall.ESTALE) {
		return disk.Corruptf("root directory", "inode %d is not in use", RootIno)
	}
	if err != nil {
		return fmt.Errorf("root directory: %w", err)
	}
	defer root.put()
	if !root.IsDir() || root.Links == 0 {
		return disk.Corruptf("root directory", "inode %d is not a directory", RootIno)
	}
	return nil
}

// load reads the superblock through fs.dev and sets up everything that depends
// on it. It runs again when the journal has replaced the superblock.
func (fs *FS) load() error {
	if err := fs.readSuperblock(); err != nil {
		return err
	}
	sb := &fs.sb
	fs.sums = sb.Checksums()
	fs.blks = buffer.New(fs.dev, int(fs.geo.BlockSize), fs.opts.shares().blocks)
	fs.blks.OnError = fs.foundInBlock
	fs.nodes = fs.newNodes()
	fs.mover = iomap.Mover{Mapper: fs, Dev: fs.dev, Align: uint64(fs.dev.Alignment()), Block: uint64(fs.geo.BlockSize)}
	fs.limit = fs.mover
	fs.limit.Mapper = limitedMapper{fs}
	fs.lazy = fs.mover
	fs.lazy.Behind = !fs.opts.NoBarrier // or no commit would wait for the data
	fs.dirFormat = dirent.Format{
		Index:       sb.Compat&disk.CompatDirIndex != 0,
		HashVersion: disk.HashVersion(sb.DefHashVersion),
		Filetype:    sb.Incompat&disk.IncompatFiletype != 0,
		LargeDir:    sb.Incompat&disk.IncompatLargeDir != 0,
		HashSeed:    sb.HashSeed,
		Unsigned:    sb.UnsignedHash(),
		InodesMax:   sb.InodesCount,
	}
	if sb.Incompat&disk.IncompatCasefold != 0 {
		fs.dirFormat.Fold = casefold.Fold
		fs.dirFormat.Strict = sb.EncodingFlags&disk.EncodingStrict != 0
	}
	fs.free = freeSummary{}
	fs.tables = make([]atomic.Uint64, min(fs.geo.Groups, maxTables))
	fs.zones = syszone.New(&fs.geo, sb.GroupsPerFlex(), fs.superBlock, fs.readGroup)
	return nil
}

// newNodes is an empty cache of inodes.
func (fs *FS) newNodes() *cache.Cache[inode] {
	return cache.New(atLeast(1, fs.opts.shares().inodes, inodeBytes), inodePolicy)
}

// Close releases the image and its journal device.
func (fs *FS) Close() error {
	var err error
	if fs.w != nil {
		err = fs.closeWriter()
		if fs.guard != nil {
			err = errors.Join(err, fs.guard.Close())
		}
	}
	err = errors.Join(err, fs.base.Close())
	if fs.opts.JournalDevice != nil {
		err = errors.Join(err, fs.opts.JournalDevice.Close())
	}
	return err
}

// Recovery tells what opening the image had to recover.
func (fs *FS) Recovery() Recovery { return fs.recovery }

// Device is the image as the engine sees it: with the journal replayed. It is
// what Mapping.Addr counts on.
func (fs *FS) Device() blockdev.Device { return fs.dev }
