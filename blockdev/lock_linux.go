package blockdev

import (
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// lockPoll is the pause between two attempts to lock.
const lockPoll = 20 * time.Millisecond

// lock locks an image file against other programs that do the same, and against
// loop devices, which do not. A block device is locked by being opened with
// O_EXCL, never by flock: udev reads a locked device's flock as a request to
// stay away, and stalls.
func lock(f *os.File, st *unix.Stat_t, o Options) error {
	if o.Lock == LockNone {
		return nil
	}
	if st.Mode&unix.S_IFMT == unix.S_IFREG {
		how := unix.LOCK_SH
		if o.Lock == LockExclusive {
			how = unix.LOCK_EX
		}
		err := retryBusy(o, func() error {
			err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
			if err == unix.EWOULDBLOCK {
				return unix.EBUSY
			}
			return err
		})
		if err != nil {
			return openError(f.Name(), err, o)
		}
	}
	// The kernel detaches a loop device a moment after its last user has gone.
	var loop string
	err := retryBusy(o, func() error {
		if loop = loopOn(st, o.Lock); loop != "" {
			return unix.EBUSY
		}
		return nil
	})
	if err != nil {
		return causef(unix.EBUSY, "%s: in use by the loop device %s; detach it first (losetup -d %[2]s)", f.Name(), loop)
	}
	return nil
}

// retryBusy calls try until it returns something else than EBUSY or EINTR, or
// o.LockWait is over.
func retryBusy(o Options, try func() error) error {
	wait := o.LockWait
	if wait == 0 {
		wait = DefaultLockWait
	}
	deadline := time.Now().Add(wait)
	for {
		err := try()
		switch {
		case err == unix.EINTR:
			continue
		case err != unix.EBUSY || !time.Now().Before(deadline):
			return err
		}
		time.Sleep(lockPoll)
	}
}

func busy(path string) error {
	return causef(unix.EBUSY, "%s: in use by another process (mounted, or another ext4box); unmount it first", path)
}

// loopOn returns the loop device that has the file or device st as its backing
// file and so may read and write it behind our back, or "". A read-only loop
// device does not get into the way of a shared lock.
//
// Where sysfs is not to be seen nothing is found: this is protection from
// mistakes, there is no defence against somebody who attaches a loop device
// later.
func loopOn(st *unix.Stat_t, l Lock) string {
	blocks, err := os.ReadDir("/sys/block")
	if err != nil {
		return ""
	}
	for _, b := range blocks {
		if !strings.HasPrefix(b.Name(), "loop") {
			continue
		}
		dir := filepath.Join("/sys/block", b.Name())
		text, err := os.ReadFile(filepath.Join(dir, "loop/backing_file"))
		if err != nil {
			continue // it has none
		}
		var backing unix.Stat_t
		if unix.Stat(strings.TrimSuffix(string(text), "\n"), &backing) != nil || !sameFile(st, &backing) {
			continue
		}
		if ro, err := os.ReadFile(filepath.Join(dir, "ro")); l == LockShared && err == nil && strings.TrimSpace(string(ro)) == "1" {
			continue
		}
		return "/dev/" + b.Name()
	}
	return ""
}

// sameFile tells whether a and b are the same file, or nodes of the same block
// device.
func sameFile(a, b *unix.Stat_t) bool {
	if a.Mode&unix.S_IFMT != b.Mode&unix.S_IFMT {
		return false
	}
	if a.Mode&unix.S_IFMT == unix.S_IFBLK {
		return a.Rdev == b.Rdev
	}
	return a.Dev == b.Dev && a.Ino == b.Ino
}
