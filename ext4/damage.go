package ext4

import (
	"errors"
	"fmt"
	"sync"
	"syscall"
	"time"

	"ext4box/ext4/internal/buffer"
	"ext4box/ext4/internal/disk"
	"ext4box/ext4/internal/journal"
)

// OnError says what follows when a filesystem that is open for writing turns out
// to be damaged, or its metadata cannot be read.
type OnError uint8

// The values of OnError. With each of them the error is recorded in the
// superblock.
const (
	// OnErrorDefault is what the superblock says.
	OnErrorDefault OnError = iota
	// OnErrorContinue fails only the operation, unless that was in the middle of
	// a change: then the filesystem becomes read-only.
	OnErrorContinue
	// OnErrorReadOnly makes the filesystem read-only.
	OnErrorReadOnly
	// OnErrorPanic makes the filesystem read-only and calls Options.Panic.
	OnErrorPanic
)

// damageInterval is the least time between two writes of the superblock for the
// sake of errors, after the first. Those that are found meanwhile are counted in
// memory.
const damageInterval = 5 * time.Second

// damage is what was found to be wrong. Its mutex is a leaf: errors are found
// with any lock held. So a goroutine of its own writes them down; or, after an
// abort of the journal, that which commits.
type damage struct {
	policy OnError

	mu      sync.Mutex
	sb      disk.Superblock    // of which the fields about errors count
	last    *disk.CorruptError // the last one found, since the same passes by several times
	cause   error              // what the journal was aborted for, if it was because of policy
	dirty   bool               // the superblock on disk lacks something
	timer   *time.Timer        // a write is due; nil: none is
	written time.Time
	closed  bool
	writes  sync.WaitGroup // also of what else follows an abort
}

// startDamage must come before anything is changed.
func (fs *FS) startDamage() {
	d := &fs.w.damage
	d.sb.CopyErrors(&fs.sb)
	d.policy = fs.opts.Errors
	if d.policy == OnErrorDefault {
		switch fs.sb.Errors {
		case disk.OnErrorContinue:
			d.policy = OnErrorContinue
		case disk.OnErrorPanic:
			d.policy = OnErrorPanic
		default:
			d.policy = OnErrorReadOnly
		}
	}
}

// ReportError records damage that a caller has found in what he was given, or
// been told of. It does nothing for errors of another kind, for errors that are
// recorded already, and on a filesystem that is open only for reading.
func (fs *FS) ReportError(ino Ino, err error) {
	if errors.Is(err, syscall.EUCLEAN) {
		fs.found("request", ino, 0, err)
	}
}

// foundInBlock is found for a block that could not be read, or is not what it
// should be.
func (fs *FS) foundInBlock(blk uint64, tag buffer.Tag, err error) {
	fs.found(tag.Kind.String(), Ino(tag.Owner), blk, err)
}

// found records an error and does what the policy says. where is a word for the
// superblock; ino and block are 0 where they are not known. It may be called with
// any lock held.
func (fs *FS) found(where string, ino Ino, block uint64, err error) {
	w := fs.w
	if w == nil || !errors.Is(err, syscall.EUCLEAN) && !errors.Is(err, syscall.EIO) {
		return
	}
	if aborted := (*journal.AbortError)(nil); errors.As(err, &aborted) {
		return // that has been recorded
	}
	d := &w.damage
	d.mu.Lock()
	defer d.mu.Unlock()
	if corrupt := (*disk.CorruptError)(nil); errors.As(err, &corrupt) {
		if corrupt == d.last {
			return
		}
		d.last = corrupt
	}
	d.record(where, ino, block, err)
	if d.policy == OnErrorContinue {
		d.schedule(fs)
		return
	}
	if d.cause == nil {
		d.cause = err
		w.log.Abort(err)
	}
}

// record notes an error in memory. d is locked.
func (d *damage) record(where string, ino Ino, block uint64, err error) {
	d.sb.RecordError(disk.FSError{
		Time: time.Now().Unix(), Ino: uint32(ino), Block: block, Where: where, Code: disk.ErrorCode(err),
	})
	d.dirty = true
}

// schedule has the errors written soon. d is locked.
func (d *damage) schedule(fs *FS) {
	if d.timer != nil || d.closed {
		return
	}
	wait := max(0, damageInterval-time.Since(d.written))
	d.writes.Add(1)
	d.timer = time.AfterFunc(wait, func() {
		defer d.writes.Done()
		fs.writeDamage()
	})
}

// writeDamage brings the errors into the superblock through the journal. If that
// is not possible any longer, they have been written by abortDamage, or will be
// by closeWriter.
func (fs *FS) writeDamage() {
	d := &fs.w.damage
	d.mu.Lock()
	d.timer, d.written = nil, time.Now()
	d.mu.Unlock()
	tx, err := fs.begin(1, 0)
	if err != nil {
		return
	}
	err = fs.editSuper(tx, d.apply)
	tid := tx.TID()
	if err = errors.Join(err, tx.End()); err == nil {
		err = fs.w.log.Commit(tid)
	}
	if err != nil {
		fs.log.Error("record an error in the superblock", "error", err)
	}
}

// resume is for when the filesystem can be written again.
func (d *damage) resume(fs *FS) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.dirty && d.policy == OnErrorContinue {
		d.schedule(fs)
	}
}

// apply makes a superblock say what was found.
func (d *damage) apply(sb *disk.Superblock) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.dirty {
		sb.CopyErrors(&d.sb)
	}
}

// stop is for when the filesystem is closed: afterwards nobody writes any longer.
func (d *damage) stop() {
	d.mu.Lock()
	d.closed = true
	if d.timer != nil && d.timer.Stop() {
		d.timer = nil
		d.writes.Done()
	}
	d.mu.Unlock()
	d.writes.Wait()
}

// abortDamage runs when the journal has been aborted, once nothing is written
// home any longer. It records why, past the journal: what the superblock has on
// disk stays as it is but for the errors.
func (fs *FS) abortDamage(cause error) {
	d := &fs.w.damage
	d.mu.Lock()
	if d.cause == nil {
		d.cause = cause
		d.record("journal", 0, 0, cause)
	}
	cause = d.cause
	d.mu.Unlock()
	fs.log.Error("the filesystem is read-only from now on; run e2fsck", "error", cause)
	err := fs.patchSuper(func(sb *disk.Superblock) {
		sb.WriteTime = time.Now().Unix()
		d.apply(sb)
	})
	if err != nil {
		fs.log.Error("record an error in the superblock", "error", err)
	}
	d.recall(fs)
	if d.policy == OnErrorPanic && fs.opts.Panic != nil {
		fs.opts.Panic(cause)
	}
}

// recall has mappings taken back, which may have to wait for locks that are not to be waited for here.
func (d *damage) recall(fs *FS) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.closed {
		d.writes.Go(fs.recall)
	}
}

// patchSuper changes the superblock as it is on disk, durably, which may be older
// than what the journal has of it.
func (fs *FS) patchSuper(edit func(sb *disk.Superblock)) error {
	raw := make([]byte, disk.SuperblockSize)
	if err := readFull(fs.base, raw, disk.SuperblockOffset); err != nil {
		return fmt.Errorf("read the superblock: %w", err)
	}
	sb := disk.DecodeSuperblock(raw)
	edit(&sb)
	disk.EncodeSuperblock(raw, &sb)
	fs.sums.SealSuperblock(raw)
	if _, err := fs.base.WriteAt(raw, disk.SuperblockOffset); err != nil {
		return fmt.Errorf("write the superblock: %w", err)
	}
	return fs.base.Flush()
}
