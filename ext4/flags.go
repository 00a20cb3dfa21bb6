package ext4

import (
	"syscall"

	"ext4box/ext4/internal/disk"
	"ext4box/ext4/internal/journal"
)

const (
	// settableFlags are the inode flags that can be changed from outside without
	// changing how the inode is stored.
	settableFlags = disk.FlagSecrm | disk.FlagUnrm | disk.FlagCompr | disk.FlagSync | disk.FlagImmutable | disk.FlagAppend |
		disk.FlagNodump | disk.FlagNoatime | disk.FlagNotail | disk.FlagDirsync | disk.FlagTopdir | disk.FlagDAX |
		disk.FlagEOFBlocks | disk.FlagProjInherit | disk.FlagCasefold

	// modifiableFlags are those that SetAttr does not pass over in silence: of
	// the others, as chattr(1) hands back what it got, a change means nothing.
	modifiableFlags = settableFlags | disk.FlagJournalData | disk.FlagExtents

	dirOnlyFlags = disk.FlagDirsync | disk.FlagTopdir | disk.FlagProjInherit | disk.FlagCasefold
	// anyTypeFlags are what inodes without content of their own can have.
	anyTypeFlags = disk.FlagNodump | disk.FlagNoatime
)

// checkFlags verifies that the flags of an inode, which is locked, can become
// flags, and a new project. Errors: EOPNOTSUPP for flags that ext4, or its type of
// inode, does not know, or that would change how the file is stored; EPERM for
// other changes of what stays immutable; ENOTDIR and ENOTEMPTY for casefold.
func (fs *FS) checkFlags(in *inode, flags disk.InodeFlags, project *uint32) error {
	if flags&^disk.FlagsUserVisible != 0 {
		return syscall.EOPNOTSUPP
	}
	flags &= modifiableFlags
	switch {
	case in.IsDir():
	case in.IsReg() && flags&dirOnlyFlags != 0, !in.IsReg() && flags&^anyTypeFlags != 0:
		return syscall.EOPNOTSUPP
	}
	if in.Flags&flags&disk.FlagImmutable != 0 {
		if in.Flags != flags || project != nil && *project != in.ProjectID && fs.sb.ROCompat&disk.ROCompatProject != 0 {
			return syscall.EPERM
		}
	}
	switch changed := (in.Flags ^ flags) & modifiableFlags; {
	case changed&(disk.FlagExtents|disk.FlagJournalData) != 0,
		changed&flags&disk.FlagDAX != 0 && in.Flags&(disk.FlagEncrypt|disk.FlagVerity|disk.FlagJournalData|disk.FlagInlineData) != 0:
		return syscall.EOPNOTSUPP
	case changed&disk.FlagCasefold == 0:
		return nil
	case fs.sb.Incompat&disk.IncompatCasefold == 0:
		return syscall.EOPNOTSUPP
	case !in.IsDir():
		return syscall.ENOTDIR
	}
	switch empty, err := fs.emptyDir(in); {
	case err != nil:
		return err
	case !empty:
		return syscall.ENOTEMPTY
	}
	return nil
}

// checkProject verifies that the project of an inode, which is locked, can become
// id. EOPNOTSUPP: the filesystem has no projects, or the inode no room for one.
func (fs *FS) checkProject(in *inode, id uint32) error {
	const fieldEnd = 0x9C + 4
	if id != in.ProjectID && (fs.sb.ROCompat&disk.ROCompatProject == 0 || !fs.fits(in, fieldEnd)) {
		return syscall.EOPNOTSUPP
	}
	return nil
}

// protects tells whether the flags of an inode forbid a change. Only the clock may
// change the times of a file that can be appended to.
func (a *Attr) protects(flags disk.InodeFlags) bool {
	set := a.Mode != nil || a.UID != nil || a.GID != nil
	switch {
	case a.Verbatim:
		return set && flags&(disk.FlagImmutable|disk.FlagAppend) != 0
	case flags&disk.FlagImmutable != 0:
		return set || a.Atime != nil || !a.WrittenBack && (a.Mtime != nil || a.Ctime != nil)
	case flags&disk.FlagAppend != 0:
		return set || !a.WrittenBack && !a.Touch && (a.Atime != nil || a.Mtime != nil)
	}
	return false
}

// OpenForWriting verifies that the flags of a file allow opening it for writing.
// appending means that all writes go to its end. sync tells that each of them is to
// be durable when it returns. Errors: EPERM.
func (fs *FS) OpenForWriting(ino Ino, appending bool) (sync bool, err error) {
	in, err := fs.rlock(ino)
	if err != nil {
		return false, err
	}
	defer in.runlock()
	if in.IsReg() && (in.Flags&(disk.FlagImmutable|disk.FlagVerity) != 0 || in.Flags&disk.FlagAppend != 0 && !appending) {
		return false, syscall.EPERM
	}
	return in.Flags&disk.FlagSync != 0, nil
}

// Protection tells what protects an inode from being written to, for those who ask at each write: its
// flags, and its size, below which nothing may change where the flag is to append.
func (fs *FS) Protection(ino Ino) (flags uint32, size int64, err error) {
	in, err := fs.rlock(ino)
	if err != nil {
		return 0, 0, err
	}
	defer in.runlock()
	return uint32(in.Flags), int64(in.size), nil
}

// SyncFlagged is Fsync of an inode whose flags ask for that: S, and D of a
// directory. files and dirs say that all inodes of that kind count as flagged.
func (fs *FS) SyncFlagged(ino Ino, files, dirs bool) error {
	in, err := fs.rlock(ino)
	if err != nil {
		return err
	}
	sync := in.Flags&disk.FlagSync != 0 || files
	if in.IsDir() {
		sync = sync || in.Flags&disk.FlagDirsync != 0 || dirs
	}
	in.runlock()
	if !sync {
		return nil
	}
	return fs.Fsync(ino)
}

// SetGeneration changes the number that tells the inode from earlier ones with its
// number. ENOTTY: the metadata has checksums, which depend on it.
func (fs *FS) SetGeneration(ino Ino, generation uint32) error {
	in, err := fs.wlock(ino)
	if err != nil {
		return err
	}
	defer in.wunlock()
	switch {
	case fs.sums.Metadata:
		return syscall.ENOTTY
	case in.Flags&disk.FlagImmutable != 0:
		return syscall.EPERM
	}
	return fs.transact(1, 0, func(tx *journal.Handle) error {
		in.Generation = generation
		fs.touch(in, false)
		return fs.store(tx, in)
	})
}

// checkWrite verifies that the flags of a file allow a write at off.
func (fs *FS) checkWrite(ino Ino, off int64) error {
	in, err := fs.rlock(ino)
	if err != nil {
		return err
	}
	defer in.runlock()
	if in.Flags&disk.FlagImmutable != 0 || in.Flags&disk.FlagAppend != 0 && uint64(off) < in.size {
		return syscall.EPERM
	}
	return nil
}
