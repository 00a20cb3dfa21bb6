package ext4

import (
	"errors"
	"slices"
	"syscall"

	"ext4box/ext4/internal/disk"
	"ext4box/ext4/internal/journal"
)

// Link gives an inode another name. Errors: EEXIST, EPERM for directories,
// EMLINK, ENOENT for an inode that has no name and did not come from Tmpfile,
// EXDEV for one of another project than the directory hands down.
func (fs *FS) Link(ino, dir Ino, name string) error { return fs.LinkAs(ino, dir, name, false) }

// LinkAs is Link by somebody for whom, if limited, limits of quota hold: EDQUOT.
func (fs *FS) LinkAs(ino, dir Ino, name string, limited bool) error {
	if err := checkName(name); err != nil {
		return err
	}
	return fs.retrying(func() error { return fs.link(ino, dir, name, limited) })
}

func (fs *FS) link(ino, dir Ino, name string, limited bool) error {
	locked, err := fs.wlockAll(dir, ino)
	if err != nil {
		return err
	}
	defer locked.unlock()
	d, in := locked.get(dir), locked.get(ino)
	switch _, err := fs.lookup(d, name); {
	case !d.IsDir():
		return syscall.ENOTDIR
	case err == nil:
		return syscall.EEXIST
	case !errors.Is(err, syscall.ENOENT):
		return err
	case in.IsDir(), in.Flags&(disk.FlagImmutable|disk.FlagAppend) != 0, d.Flags&disk.FlagImmutable != 0:
		return syscall.EPERM
	case in.Links >= maxFileLinks:
		return syscall.EMLINK
	case d.Flags&disk.FlagProjInherit != 0 && d.ProjectID != in.ProjectID:
		return syscall.EXDEV
	case d.Links == 0:
		return syscall.ENOENT
	case d.encrypted():
		return syscall.ENOKEY
	}
	d.quota.limited = limited
	credits, revokes := fs.creditsAdd(d)
	return fs.transact(credits+1+creditsOrphan, revokes, func(tx *journal.Handle) error {
		if err := fs.addName(tx, d, name, in); err != nil {
			return err
		}
		if in.Links == 0 {
			if err := fs.removeOrphan(tx, in, 0); err != nil {
				return err
			}
		}
		in.Links++
		fs.touch(in, false)
		fs.touch(d, true)
		return errors.Join(fs.store(tx, in), fs.store(tx, d))
	})
}

// Unlink removes a name of anything but a directory. Errors: ENOENT, EISDIR,
// EPERM.
func (fs *FS) Unlink(dir Ino, name string) error { return fs.remove(dir, name, false) }

// Rmdir removes an empty directory. Errors: ENOENT, ENOTDIR, ENOTEMPTY, EPERM.
func (fs *FS) Rmdir(dir Ino, name string) error { return fs.remove(dir, name, true) }

func (fs *FS) remove(dir Ino, name string, wantDir bool) error {
	switch {
	case len(name) > NameMax:
		return syscall.ENAMETOOLONG
	case name == ".":
		return syscall.EINVAL
	case name == "..":
		return syscall.ENOTEMPTY
	}
	for {
		f, err := fs.find(dir, name)
		if err != nil {
			return err
		}
		if f.ino == 0 {
			return syscall.ENOENT
		}
		err = fs.removeFound(dir, name, f, wantDir)
		if !errors.Is(err, errMoved) {
			return err
		}
	}
}

// errMoved says that between looking a name up and locking what it led to it
// was made to lead elsewhere.
var errMoved = errors.New("the name leads elsewhere by now")

func (fs *FS) removeFound(dir Ino, name string, f found, wantDir bool) error {
	locked, err := fs.wlockAll(dir, f.ino)
	if err != nil {
		return err
	}
	d, in := locked.get(dir), locked.get(f.ino)
	if err = fs.still(d, name, f); err == nil {
		err = fs.removeLocked(d, name, in, wantDir)
	}
	gone := err == nil && in.Links == 0
	locked.unlock()
	if gone && !fs.w.holds.held(f.ino) {
		return fs.reapOnceThawed(f.ino)
	}
	return err
}

func (fs *FS) removeLocked(d *inode, name string, in *inode, wantDir bool) error {
	if err := fs.checkRemove(d, in, wantDir); err != nil {
		return err
	}
	stored, err := fs.storedName(d, name)
	if err != nil {
		return err
	}
	return fs.transact(fs.openDir(d).ChangeCredits()+2+creditsOrphan, 0, func(tx *journal.Handle) error {
		if err := fs.removeName(tx, d, stored); err != nil {
			return err
		}
		if in.IsDir() {
			removeSubdirLink(d)
		}
		fs.touch(d, true)
		return errors.Join(fs.dropLink(tx, in), fs.store(tx, d))
	})
}

// checkRemove verifies that a name of an inode can be removed from a directory.
func (fs *FS) checkRemove(d, in *inode, wantDir bool) error {
	switch {
	case d.Flags&(disk.FlagImmutable|disk.FlagAppend) != 0, in.Flags&(disk.FlagImmutable|disk.FlagAppend) != 0:
		return syscall.EPERM
	case wantDir && !in.IsDir():
		return syscall.ENOTDIR
	case !wantDir && in.IsDir():
		return syscall.EISDIR
	case in.Links == 0:
		return disk.Corruptf(disk.InodeName(uint32(in.ino)), "is deleted and has a name")
	}
	if !wantDir {
		return nil
	}
	if in.ino == RootIno {
		return syscall.EBUSY
	}
	switch empty, err := fs.emptyDir(in); {
	case err != nil:
		return err
	case !empty:
		return syscall.ENOTEMPTY
	}
	return nil
}

// dropLink takes one name from an inode, a directory its only one, and makes it
// an orphan with the last.
func (fs *FS) dropLink(tx *journal.Handle, in *inode) error {
	in.Links--
	if in.IsDir() {
		in.Links = 0
	}
	fs.touch(in, false)
	if err := fs.store(tx, in); err != nil || in.Links > 0 {
		return err
	}
	return fs.addOrphan(tx, in)
}

// locked is a set of inodes locked for writing.
type locked struct {
	inodes [maxLocked]*inode
	n      int
}

// maxLocked is the most inodes that an operation locks: a rename of one into the place of another.
const maxLocked = 4

// wlockAll locks inodes for writing, in the order of their numbers, each once. The numbers
// are put in order in place.
func (fs *FS) wlockAll(inos ...Ino) (l locked, err error) {
	slices.Sort(inos)
	for _, ino := range slices.Compact(inos) {
		in, err := fs.wlock(ino)
		if err != nil {
			l.unlock()
			return locked{}, err
		}
		l.inodes[l.n] = in
		l.n++
	}
	return l, nil
}

func (l *locked) get(ino Ino) *inode {
	for _, in := range l.inodes[:l.n] {
		if in.ino == ino {
			return in
		}
	}
	return nil
}

func (l *locked) unlock() {
	for i := l.n - 1; i >= 0; i-- {
		l.inodes[i].wunlock()
	}
}
