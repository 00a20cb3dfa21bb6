package ext4

import (
	"strings"
	"syscall"

	"ext4box/ext4/internal/disk"
	"ext4box/ext4/internal/journal"
)

// LabelMax is the longest label, in bytes.
const LabelMax = 16

// Label returns the name of the filesystem.
func (fs *FS) Label() string {
	if fs.w == nil {
		return disk.CString(fs.sb.VolumeName[:])
	}
	s := &fs.w.super
	s.mu.Lock()
	defer s.mu.Unlock()
	return disk.CString(s.sb.VolumeName[:])
}

// SetLabel changes the name of the filesystem in its superblock and returns when
// that is durable. The backups keep the old one. EINVAL: it is longer than
// LabelMax.
func (fs *FS) SetLabel(label string) error {
	if len(label) > LabelMax || strings.IndexByte(label, 0) >= 0 {
		return syscall.EINVAL
	}
	err := fs.transact(1, 0, func(tx *journal.Handle) error {
		return fs.editSuper(tx, func(sb *disk.Superblock) {
			clear(sb.VolumeName[:])
			copy(sb.VolumeName[:], label)
		})
	})
	if err != nil {
		return err
	}
	return fs.Sync()
}
