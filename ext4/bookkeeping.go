package ext4

import (
	"time"

	"ext4box/ext4/internal/disk"
)

// defaultMaxMountCount is what the kernel puts in place of a maximum of zero.
const defaultMaxMountCount = 20

// noteOpened makes the superblock say that the filesystem is being written from
// now on, as the kernel does when it mounts.
func (fs *FS) noteOpened(sb *disk.Superblock) {
	sb.MountCount++
	if sb.MaxMountCount == 0 {
		sb.MaxMountCount = defaultMaxMountCount
	}
	sb.MountTime = time.Now().Unix()
	sb.WriteTime = sb.MountTime
	if path := fs.opts.MountPoint; path != "" && len(path) < len(sb.LastMounted) {
		clear(sb.LastMounted[:])
		copy(sb.LastMounted[:], path)
	}
	fs.noteInUse(sb)
}

// noteInUse makes the superblock say that not everything is at home.
func (fs *FS) noteInUse(sb *disk.Superblock) {
	if sb.Compat&disk.CompatHasJournal != 0 {
		sb.Incompat |= disk.IncompatRecover
	} else {
		sb.State &^= disk.StateValid
	}
	if fs.w.orphanFile != nil {
		sb.ROCompat |= disk.ROCompatOrphanPresent
	}
}

// noteClosed is the inverse: everything is at home. What was not clean when it
// was opened, and what errors were found in, is still not.
func (fs *FS) noteClosed(sb *disk.Superblock) {
	sb.WriteTime = time.Now().Unix()
	sb.Incompat &^= disk.IncompatRecover
	sb.State = fs.sb.State
	fs.w.damage.apply(sb)
	stats := fs.w.log.Stats()
	metadata := uint64(stats.Blocks+stats.BlocksHome) << fs.geo.BlockBits
	sb.KBytesWritten = fs.sb.KBytesWritten + (metadata+fs.w.written.Load())>>10
}

// warnUnchecked tells the log, as the kernel does, that somebody should run
// e2fsck.
func (fs *FS) warnUnchecked() {
	sb := &fs.sb
	why := ""
	switch {
	case sb.State&disk.StateValid == 0:
		why = "it was not closed properly"
	case sb.State&disk.StateErrors != 0:
		why = "errors were found in it"
	case sb.MaxMountCount > 0 && sb.MountCount >= uint16(sb.MaxMountCount):
		why = "it has been mounted as often as it should be without a check"
	case sb.CheckInterval > 0 && sb.LastCheck+int64(sb.CheckInterval) <= time.Now().Unix():
		why = "the time of its check has come"
	default:
		return
	}
	fs.log.Warn("the filesystem should be checked; run e2fsck", "because", why)
}
