package ext4

import (
	"errors"
	"syscall"
	"time"

	"ext4box/ext4/internal/disk"
)

const (
	// maxRetries bounds how often an operation waits for space, which others may
	// take as it becomes free.
	maxRetries = 3
	// reapWait is how long it waits for what was unlinked to be let go: the
	// kernel tells a FUSE server of that only after it has returned to the caller.
	reapWait = 100 * time.Millisecond
)

// retrying runs an operation that may find the filesystem full, and runs it again
// when there is more room for it: when a commit makes free what was freed before
// it, an inode without a name is deleted, or what was reserved ahead of writes is
// given back. The operation has no handle open between its runs, and a failed run
// has changed nothing.
func (fs *FS) retrying(op func() error) error { return fs.retryingFor(0, op) }

// retryingFor is retrying for an operation that maps something of an inode.
func (fs *FS) retryingFor(ino Ino, op func() error) error {
	for i := 0; ; i++ {
		err := fs.awaiting(op)
		if !isFull(err) || i == maxRetries || !fs.askBack(ino) {
			return err
		}
	}
}

func isFull(err error) bool { return errors.Is(err, syscall.ENOSPC) }

// awaiting is the part of retrying that waits for what is going to be free anyway.
func (fs *FS) awaiting(op func() error) error {
	if fs.w == nil {
		return op()
	}
	for i := 0; ; i++ {
		reaped := fs.w.reaped.Load()
		err := op()
		if !isFull(err) || i == maxRetries {
			return err
		}
		if fs.w.groups.Waiting() == 0 && !fs.awaitReap(reaped) {
			return err
		}
		if fs.w.groups.Waiting() > 0 {
			if e := fs.w.log.Sync(); e != nil {
				return errors.Join(err, e)
			}
		}
	}
}

// retryingOutside is retrying for operations on files that are moved outside, in
// which those for which retrying does the same do not wait: they have the inode
// locked, and what the kernel tells of its data meanwhile has to come through.
func (fs *FS) retryingOutside(op func() error) error {
	if fs.outside == nil {
		return op()
	}
	return fs.retrying(op)
}

// retryingInside is retrying for operations on an inode that is locked, where its
// data is not moved outside.
func (fs *FS) retryingInside(op func() error) error {
	if fs.outside != nil {
		return op()
	}
	return fs.retrying(op)
}

// awaitReap waits, not for long, until more inodes were deleted than before, if
// any are about to be.
func (fs *FS) awaitReap(before uint64) bool {
	const step = time.Millisecond
	for waited := time.Duration(0); fs.w.reaped.Load() == before; waited += step {
		if waited >= reapWait || !fs.reapable() {
			// It may have been the last one, just now.
			return fs.w.reaped.Load() != before
		}
		time.Sleep(step)
	}
	return true
}

// reapable tells whether there are inodes to be deleted, or on the way: one that is
// being deleted is no orphan any more before its number is free.
func (fs *FS) reapable() bool {
	return !fs.w.orphans.empty() || !fs.w.orphanFile.empty() || fs.w.reaping.Load() > 0
}

// privileged tells whether the blocks of an inode may come from those that are
// reserved. That is for its owner, as the kernel's question is for the caller:
// who called is not known when a cache is written back.
func (fs *FS) privileged(in *disk.Inode) bool {
	uid, gid := fs.sb.DefResUID, fs.sb.DefResGID
	if fs.opts.ReservedUID != nil {
		uid = *fs.opts.ReservedUID
	}
	if fs.opts.ReservedGID != nil {
		gid = *fs.opts.ReservedGID
	}
	return in.UID == 0 || in.UID == uid || gid != 0 && in.GID == gid
}

// parentGroup tells whether new files get the group of their directory.
func (fs *FS) parentGroup() bool {
	if fs.opts.ParentGroup != nil {
		return *fs.opts.ParentGroup
	}
	return fs.sb.DefaultMountOpts&disk.DefMountBSDGroups != 0
}
