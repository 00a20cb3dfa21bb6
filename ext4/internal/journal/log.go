package journal

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"ext4box/blockdev"
	"ext4box/ext4/internal/buffer"
	"ext4box/ext4/internal/disk"
	"ext4box/internal/spin"
)

const (
	// DefaultInterval is how long a change waits for its commit at most.
	DefaultInterval = 5 * time.Second

	// DefaultMemory bounds what waits to be written home, in bytes.
	DefaultMemory = 128 << 20

	// minBlocks are used of a log in any case, if it has so many.
	minBlocks = 256
)

// WriterOptions say how a log is written. The zero value is good for most.
type WriterOptions struct {
	// Interval is the time from a transaction's first change to its commit. 0
	// means [DefaultInterval], a negative one that only size and callers matter.
	Interval time.Duration

	// NoBarrier leaves out all flushes, as the mount option barrier=0 does. A
	// crash of the machine may then do anything to the filesystem.
	NoBarrier bool

	// Memory bounds, in bytes, the blocks that are committed but not at home
	// yet, which stay in memory, and so how much of a large log is in use. A
	// transaction has up to a quarter of it, and its copy as much again while
	// it is committed. 0 means [DefaultMemory].
	Memory int64

	// Wide and ChecksumV3 turn on 64-bit block numbers and v3 checksums in a
	// journal that does not have them, as the kernel does when it mounts a
	// filesystem with 64bit and metadata_csum. Without them the log is written
	// in the format that the journal has.
	Wide, ChecksumV3 bool

	// OnAbort, if not nil, is called with the cause once the journal has been
	// aborted, for whatever reason but ESHUTDOWN, and nothing is written home any
	// longer. It runs on the journal's own goroutine, and Close waits for it.
	OnAbort func(cause error)

	// Strict makes an operation that exceeds its credits fail even if there is
	// room. Tests set it.
	Strict bool

	// anyLength allows logs that are too short for the kernel.
	anyLength bool
}

// Stats count what a [Log] has done.
type Stats struct {
	Handles     int64 // that were opened
	Commits     int64 // that wrote something
	Blocks      int64 // logged
	Revokes     int64 // records written
	Checkpoints int64
	BlocksHome  int64 // written home
	Overruns    int64 // operations that needed more than their credits and got it
}

// Log writes a journal. Its methods may be called concurrently; see the package
// comment for what waits for what.
type Log struct {
	home     blockdev.Device
	log      LogDevice // nil: there is no journal
	shared   bool      // a flush of home covers log
	cache    *buffer.Cache
	layout   layout
	uuid     [uuidSize]byte
	first    uint32 // block of the log
	last     uint32 // block behind the last one of the log
	max      int64  // cost of the largest transaction
	capacity int64  // log blocks that are used at the same time
	interval time.Duration
	barrier  bool
	strict   bool
	onAbort  func(error)

	shards  [shards]shard
	handles sync.Pool
	running atomic.Pointer[transaction]

	stopped        atomic.Pointer[stopReason]
	lost           atomic.Bool // stopped with something that was not durable
	frozen         atomic.Bool
	dead           chan struct{} // closed after an abort
	quit           chan struct{} // closed by Close
	kickCommit     chan struct{}
	kickCheckpoint chan struct{}
	wg             sync.WaitGroup
	closing        sync.Once
	closeErr       error

	mu         spin.Mutex
	room       sync.Cond      // a handle may have more luck now; on mu
	committing *transaction   // guarded by mu
	live       []*transaction // the oldest first; guarded by mu
	head       uint32         // next block to be written; guarded by mu
	used       int64          // log blocks from the tail to the head; guarded by mu
	committed  atomic.Uint32  // last tid whose commit is finished; set under mu

	checkpointing sync.Mutex

	// A batch of blocks goes home under homeMu, and a block that was freed is
	// given away only after it has been held.
	homeMu sync.Mutex

	superMu sync.Mutex
	super   Superblock // guarded by superMu
	raw     []byte     // its block; guarded by superMu
	superAt int64      // its place in the log, bytes

	lastTime time.Time // of a commit; the commit goroutine's

	opened, commits, blocks, revokes, checkpoints, blocksHome, overruns atomic.Int64
}

// stopReason is why no handle is opened any longer.
type stopReason struct {
	cause error // nil: closed
}

// Start takes over a journal that is clean, after [Replay.WriteHome] and
// [Journal.Reset] if it was not. home is the filesystem's device, and cache the
// cache of its metadata; log is the writable form of what [Load] was given.
// Nothing is written before the first commit. The Log must be closed; it does
// not close the devices.
func (j *Journal) Start(home blockdev.Device, log LogDevice, cache *buffer.Cache, o WriterOptions) (*Log, error) {
	if !j.Clean() {
		return nil, fmt.Errorf("the journal needs recovery before it can be written: %w", syscall.EBUSY)
	}
	l, err := j.newLog(home, log, cache, o)
	if err != nil {
		return nil, err
	}
	l.head = l.super.Head
	if l.head < l.first || l.head >= l.last {
		l.head = l.first
	}
	l.begin(l.super.Sequence+1, l.emptyRoom(), o)
	return l, nil
}

// Resume is Start for a journal whose log, r, has been written home, but whose
// fast commits have not. It goes on with the transaction that they belong to:
// they count until that is durable, and never again. So what makes them part of
// the filesystem must be in that one transaction. Until then the journal stays
// dirty, with a log that holds nothing.
func (j *Journal) Resume(home blockdev.Device, log LogDevice, cache *buffer.Cache, r *Replay, o WriterOptions) (*Log, error) {
	l, err := j.newLog(home, log, cache, o)
	if err != nil {
		return nil, err
	}
	l.head = r.Head
	l.super.Start, l.super.Sequence = r.Head, r.EndTID
	// The log may now have another format, so the superblock is first.
	if err := errors.Join(l.writeSuper(), log.Flush()); err != nil {
		return nil, err
	}
	l.begin(r.EndTID, l.emptyRoom(), o)
	return l, nil
}

// emptyRoom is how many blocks an empty log has. One stays free, so that a full log
// does not look like an empty one.
func (l *Log) emptyRoom() int64 { return int64(l.last-l.first) - 1 }

// newLog makes a Log that has no transaction yet.
func (j *Journal) newLog(home blockdev.Device, log LogDevice, cache *buffer.Cache, o WriterOptions) (*Log, error) {
	switch {
	case cache.BlockSize() != j.o.BlockSize:
		return nil, fmt.Errorf("the journal has blocks of %d bytes, the cache of %d: %w", j.o.BlockSize, cache.BlockSize(), syscall.EINVAL)
	case j.last-j.Superblock.First < minLogBlocks-1 && !o.anyLength:
		return nil, disk.Corruptf("journal", "a log of %d blocks is too short to be written", j.last-j.Superblock.First)
	}
	raw := make([]byte, j.o.BlockSize)
	at := int64(j.o.Superblock) * int64(j.o.BlockSize)
	if err := readFull(j.log, raw, at); err != nil {
		return nil, fmt.Errorf("journal superblock: %w", err)
	}
	s := j.Superblock
	s.upgrade(raw)
	s.Incompat |= IncompatRevoke
	s.Incompat &^= IncompatAsyncCommit
	if o.Wide || j.o.DeviceBlocks > 1<<32 {
		s.Incompat |= Incompat64Bit
	}
	if o.ChecksumV3 {
		s.Compat &^= CompatChecksum
		s.Incompat &^= IncompatChecksumV2
		s.Incompat |= IncompatChecksumV3
		s.ChecksumType = checksumCRC32C
	}
	l := makeLog(home, cache, o)
	l.log, l.shared = log, shares(log, home)
	l.super, l.raw, l.superAt = s, raw, at
	l.layout = layoutOf(&s, j.o.BlockSize)
	l.uuid, l.first, l.last = s.UUID, s.First, j.last
	return l, nil
}

// NewUnlogged returns a Log for a filesystem without a journal. It groups
// changes into transactions as one with a journal does, and a commit writes
// them home in block order, between two flushes.
//
// What it promises is less: once a commit is done its changes are durable, and
// file data written before a change gets to the device before it. A crash
// during a commit leaves some of the transaction's blocks new and some old.
func NewUnlogged(home blockdev.Device, cache *buffer.Cache, o WriterOptions) *Log {
	l := makeLog(home, cache, o)
	l.layout.blockSize = cache.BlockSize()
	l.layout.wide = true
	l.begin(1, maxLog, o)
	return l
}

func makeLog(home blockdev.Device, cache *buffer.Cache, o WriterOptions) *Log {
	l := &Log{
		home: home, cache: cache,
		interval: o.Interval, barrier: !o.NoBarrier, strict: o.Strict, onAbort: o.OnAbort,
		dead: make(chan struct{}), quit: make(chan struct{}),
		kickCommit: make(chan struct{}, 1), kickCheckpoint: make(chan struct{}, 1),
	}
	if l.interval == 0 {
		l.interval = DefaultInterval
	}
	l.room.L = &l.mu
	l.handles.New = func() any { return new(Handle) }
	for i := range l.shards {
		l.shards[i].index = make(map[uint64]*entry)
		l.shards[i].revoked = make(map[uint64]struct{})
	}
	return l
}

// begin starts the first transaction and the goroutines.
func (l *Log) begin(tid uint32, blocks int64, o WriterOptions) {
	memory := o.Memory
	if memory <= 0 {
		memory = DefaultMemory
	}
	l.capacity = min(max(memory/int64(l.layout.blockSize), minBlocks), blocks, maxLog)
	l.max = l.capacity / 4
	l.committed.Store(tid - 1)
	l.mu.Lock()
	l.open(tid)
	l.mu.Unlock()
	l.wg.Go(l.commitLoop)
	if l.log != nil {
		l.wg.Go(l.checkpointLoop)
	}
}

// open makes a new transaction the running one. mu is locked.
func (l *Log) open(tid uint32) {
	t := &transaction{log: l, tid: tid, settled: make(chan struct{}), done: make(chan struct{})}
	l.setLimits(t)
	l.running.Store(t)
	l.room.Broadcast()
}

// setLimits tells the running transaction how much of the log it may take. mu
// is locked.
func (l *Log) setLimits(t *transaction) {
	space := l.capacity - l.used
	t.space.Store(space)
	t.limit.Store(min(space, l.max))
}

// cost is how many blocks of the log a transaction takes.
func (l *Log) cost(blocks, revokes int) int64 {
	n := blocks + 1
	if l.log != nil {
		tags, records := l.layout.tagsPerBlock(), l.layout.revokesPerBlock()
		n += (blocks+tags-1)/tags + (revokes+records-1)/records
	}
	return int64(n)
}

// MaxCredits returns the greatest number of blocks that a handle may ask for,
// with a revoke for each of them.
func (l *Log) MaxCredits() int {
	n := int(l.max) - 1
	for n > 0 && l.cost(n, n) > l.max {
		n -= max(1, int(l.cost(n, n)-l.max)/2)
	}
	return max(n, 0)
}

// request has t committed soon, if it is the running one.
func (l *Log) request(t *transaction) {
	if t.requested.CompareAndSwap(false, true) {
		kick(l.kickCommit)
	}
}

func kick(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // it is awake, or about to be
	}
}

// Commit returns once transaction tid is durable, and what was written to the
// filesystem's device before its commit began. Calls that come while another
// transaction is being written share the next commit. The caller must not have
// an open handle.
func (l *Log) Commit(tid uint32) error {
	if later(l.committed.Load(), tid) {
		return nil
	}
	l.mu.Lock()
	var t *transaction
	for _, u := range []*transaction{l.committing, l.running.Load()} {
		if u != nil && u.tid == tid {
			t = u
		}
	}
	done := later(l.committed.Load(), tid)
	l.mu.Unlock()
	switch {
	case done: // while we were waiting for the lock
		return nil
	case t == nil:
		return fmt.Errorf("journal: there is no transaction %d: %w", tid, syscall.EINVAL)
	}
	l.request(t)
	return l.wait(t)
}

// Committed tells whether transaction tid is durable.
func (l *Log) Committed(tid uint32) bool { return later(l.committed.Load(), tid) }

// Latest is the last transaction in which anything may have been changed.
func (l *Log) Latest() uint32 {
	t := l.running.Load()
	if word(t.state.Load()).unused() {
		return t.tid - 1
	}
	return t.tid
}

// wait waits for the end of a commit.
func (l *Log) wait(t *transaction) error {
	select {
	case <-t.done:
		return t.err
	case <-l.dead:
	}
	select {
	case <-t.done:
		return t.err
	default:
		return l.abortErr(syscall.EIO)
	}
}

// Fsync returns once transaction tid is durable, and what was written to the
// filesystem's device before the call, which may be long after the commit.
func (l *Log) Fsync(tid uint32) error {
	if err := l.abortErr(syscall.EIO); err != nil {
		return err
	}
	running := l.running.Load()
	if err := l.Commit(tid); err != nil {
		return err
	}
	if running.tid == tid && running.flushed {
		return nil
	}
	return l.flushData()
}

// Sync makes everything durable that has been changed, through handles that
// have ended, or written to the filesystem's device.
func (l *Log) Sync() error {
	if err := l.abortErr(syscall.EIO); err != nil {
		return err
	}
	l.mu.Lock()
	committing, running := l.committing, l.running.Load()
	l.mu.Unlock()
	last := committing
	if !word(running.state.Load()).unused() {
		l.request(running)
		last = running
	}
	if last != nil {
		if err := l.wait(last); err != nil {
			return err
		}
		if last == running && last.flushed {
			return nil
		}
	}
	return l.flushData()
}

// flushData makes durable what was written to the filesystem's device. The
// device may have dropped more than that when it fails: blocks that a checkpoint
// has written and is about to flush, in vain.
func (l *Log) flushData() error {
	if err := l.flushHome(); err != nil {
		l.stop(err)
		return l.abortErr(syscall.EIO)
	}
	return nil
}

// Err returns what aborted the journal, or nil.
func (l *Log) Err() error {
	if s := l.stopped.Load(); s != nil {
		return s.cause
	}
	return nil
}

// Aborted returns a channel that is closed when the journal is aborted.
func (l *Log) Aborted() <-chan struct{} { return l.dead }

// Abort gives up: what is not durable by now never will be, nothing is written
// home any longer, handles can no longer be opened, and the cause is noted in
// the journal's superblock, unless it is ESHUTDOWN. It returns at once and may
// be called from anywhere.
func (l *Log) Abort(cause error) { l.stop(cause) }

// Close commits what there is, brings everything home, and leaves an empty log.
// After an abort it only ends the goroutines and returns the cause. There must
// be no open handles, and no other call may follow.
func (l *Log) Close() error {
	l.closing.Do(func() {
		l.closeErr = l.Checkpoint()
		l.stopped.CompareAndSwap(nil, &stopReason{})
		close(l.quit)
		l.wg.Wait()
		l.running.Load().disarm()
		l.wakeAll()
		if err := l.Err(); err != nil {
			l.closeErr = err
		}
	})
	return l.closeErr
}

// ErrFrozen is what Begin says while the log is frozen.
var ErrFrozen = fmt.Errorf("the filesystem is frozen; try again when it is not: %w", syscall.EBUSY)

// Freeze commits what there is and brings it all home. Until Thaw the log is empty,
// and marked so, and nobody can open a handle. The caller must not have one open.
func (l *Log) Freeze() error {
	l.frozen.Store(true)
	l.wakeAll()
	err := l.Checkpoint()
	if err != nil {
		l.frozen.Store(false)
	}
	return err
}

// Thaw ends what Freeze began.
func (l *Log) Thaw() { l.frozen.Store(false) }

// Stats returns what has been done so far.
func (l *Log) Stats() Stats {
	return Stats{
		Handles: l.opened.Load(), Commits: l.commits.Load(), Blocks: l.blocks.Load(), Revokes: l.revokes.Load(),
		Checkpoints: l.checkpoints.Load(), BlocksHome: l.blocksHome.Load(), Overruns: l.overruns.Load(),
	}
}
