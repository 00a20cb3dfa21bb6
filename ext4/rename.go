package ext4

import (
	"cmp"
	"errors"
	"slices"
	"syscall"

	"ext4box/ext4/internal/balloc"
	"ext4box/ext4/internal/disk"
	"ext4box/ext4/internal/journal"
	"ext4box/ext4/internal/xattr"
)

// Flags of Rename, as renameat2(2) has them.
const (
	RenameNoReplace = 1
	RenameExchange  = 2
	RenameWhiteout  = 4
)

// Rename moves a name, in one transaction: after a crash it is wholly done or
// not at all. Errors: ENOENT, EEXIST, EISDIR, ENOTDIR, ENOTEMPTY, EINVAL for a
// directory into itself, EMLINK, ENOSPC. A whiteout belongs to root.
func (fs *FS) Rename(oldDir Ino, oldName string, newDir Ino, newName string, flags uint32) error {
	return fs.RenameAs(oldDir, oldName, newDir, newName, flags, NewNode{})
}

// RenameAs is Rename by somebody. Of whiteout, owner and Limited count.
func (fs *FS) RenameAs(oldDir Ino, oldName string, newDir Ino, newName string, flags uint32, whiteout NewNode) error {
	for _, name := range []string{oldName, newName} {
		switch err := checkName(name); {
		case errors.Is(err, syscall.EEXIST):
			return syscall.EBUSY // "." and ".."
		case err != nil:
			return err
		}
	}
	if flags&^(RenameNoReplace|RenameExchange|RenameWhiteout) != 0 || flags&RenameExchange != 0 && flags != RenameExchange {
		return syscall.EINVAL
	}
	if fs.w == nil {
		return syscall.EROFS
	}
	whiteout.Mode = disk.ModeChar
	for {
		err := fs.retrying(func() error {
			return fs.tryRename(oldDir, oldName, newDir, newName, flags, whiteout)
		})
		if !errors.Is(err, errMoved) {
			return err
		}
	}
}

// tryRename fails with errMoved when a name changes before everything is locked.
func (fs *FS) tryRename(oldDir Ino, oldName string, newDir Ino, newName string, flags uint32, whiteout NewNode) error {
	from, err := fs.find(oldDir, oldName)
	if err != nil {
		return err
	}
	ino := from.ino
	if ino == 0 {
		return syscall.ENOENT
	}
	to, err := fs.find(newDir, newName)
	if err != nil {
		return err
	}
	victim := to.ino
	moves := false // a directory, to another one
	if oldDir != newDir {
		st, err := fs.Stat(ino)
		if err != nil {
			return err
		}
		moves = st.IsDir() || flags&RenameExchange != 0
	}
	if moves {
		fs.w.moveDir.Lock()
		defer fs.w.moveDir.Unlock()
		if err := fs.checkCircle(ino, newDir); err != nil {
			return err
		}
		if victim != 0 && flags&RenameExchange != 0 {
			if err := fs.checkCircle(victim, oldDir); err != nil {
				return err
			}
		}
	}
	inos := [maxLocked]Ino{oldDir, newDir, ino, victim}
	n := maxLocked
	if victim == 0 {
		n--
	}
	locked, err := fs.wlockAll(inos[:n]...)
	if err != nil {
		return err
	}
	r := rename{
		fs: fs, oldDir: locked.get(oldDir), newDir: locked.get(newDir), oldName: oldName, newName: newName, from: from, to: to,
		in: locked.get(ino), victim: locked.get(victim), whiteout: whiteout,
	}
	err = r.run(flags)
	gone := err == nil && r.victim != nil && r.victim.Links == 0
	locked.unlock()
	if gone && !fs.w.holds.held(victim) {
		return fs.reapOnceThawed(victim)
	}
	return err
}

// checkCircle verifies that directory dir is not inside of inode ino.
func (fs *FS) checkCircle(ino, dir Ino) error {
	// A circle leads back to the directory that was remembered last, which is
	// another one at each power of two: that takes no longer than the circle is.
	passed, at := Ino(0), dir
	for steps := uint64(1); ; steps++ {
		switch at {
		case ino:
			return syscall.EINVAL
		case RootIno:
			return nil
		case passed:
			return disk.Corruptf(disk.InodeName(uint32(dir)), "is in a circle of directories")
		}
		if steps&(steps-1) == 0 {
			passed = at
		}
		up, err := fs.Lookup(at, "..")
		if err != nil {
			return err
		}
		at = up
	}
}

// rename is a rename with everything locked.
type rename struct {
	fs               *FS
	oldDir, newDir   *inode
	oldName, newName string
	from, to         found  // what the names led to before everything was locked
	in, victim       *inode // victim is nil where the new name is free
	whiteout         NewNode

	left      *inode // the whiteout
	leftAttrs []xattr.Attr
}

func (r *rename) run(flags uint32) error {
	if err := r.check(flags); err != nil {
		return err
	}
	if r.in == r.victim {
		return nil // two names of one inode: nothing happens
	}
	fs := r.fs
	credits, revokes := fs.creditsAdd(r.newDir)
	// The other directory, both "..", four inodes, an orphan and a whiteout.
	credits += fs.openDir(r.oldDir).ChangeCredits() + 2 + 4 + creditsOrphan + balloc.CreditsAllocInode + 1
	if flags&RenameWhiteout != 0 {
		credits += creditsSetXattrs // it inherits ACLs
		r.left = &inode{}
		defer r.left.detach()
		var err error
		if r.leftAttrs, err = fs.prepare(r.left, r.oldDir, r.whiteout); err != nil {
			return err
		}
		if err := fs.chargeNew(r.left, r.whiteout.Limited); err != nil {
			return err
		}
	}
	r.oldDir.quota.limited, r.newDir.quota.limited = r.whiteout.Limited, r.whiteout.Limited
	return fs.transact(credits, revokes, func(tx *journal.Handle) error {
		if flags&RenameExchange != 0 {
			return r.exchange(tx)
		}
		return r.move(tx, flags)
	})
}

// check looks at the names again, now that nobody can change them, and at
// whether the rename may be done.
func (r *rename) check(flags uint32) error {
	fs := r.fs
	if err := cmp.Or(fs.still(r.oldDir, r.oldName, r.from), fs.still(r.newDir, r.newName, r.to)); err != nil {
		return err
	}
	protected := disk.FlagImmutable | disk.FlagAppend
	switch {
	case r.victim == nil && flags&RenameExchange != 0:
		return syscall.ENOENT
	case r.victim != nil && flags&RenameNoReplace != 0:
		return syscall.EEXIST
	case r.newDir.Links == 0:
		return syscall.ENOENT
	case r.oldDir.Flags&protected != 0, r.newDir.Flags&disk.FlagImmutable != 0, r.in.Flags&protected != 0,
		r.victim != nil && (r.victim.Flags|r.newDir.Flags)&protected != 0:
		return syscall.EPERM
	case r.needsKey() && r.in != r.victim && (r.victim == nil || flags&RenameExchange != 0 || r.victim.IsDir() == r.in.IsDir()):
		return syscall.ENOKEY
	case r.newDir.Flags&disk.FlagProjInherit != 0 && r.newDir.ProjectID != r.in.ProjectID:
		return syscall.EXDEV
	case flags&RenameExchange != 0 && r.oldDir.Flags&disk.FlagProjInherit != 0 && r.oldDir.ProjectID != r.victim.ProjectID:
		return syscall.EXDEV
	}
	if flags&RenameExchange != 0 || r.victim == nil {
		if r.victim == nil && r.in.IsDir() && r.oldDir != r.newDir && !fs.mayAddDir(r.newDir) {
			return syscall.EMLINK
		}
		return nil
	}
	switch {
	case r.in == r.victim:
		return nil
	case r.victim.IsDir() && !r.in.IsDir():
		return syscall.EISDIR
	case !r.victim.IsDir() && r.in.IsDir():
		return syscall.ENOTDIR
	case !r.victim.IsDir():
		return nil
	}
	if r.victim == r.oldDir {
		return syscall.ENOTEMPTY
	}
	switch empty, err := fs.emptyDir(r.victim); {
	case err != nil:
		return err
	case !empty:
		return syscall.ENOTEMPTY
	}
	return nil
}

// needsKey tells whether one of the names is encrypted.
func (r *rename) needsKey() bool { return r.oldDir.encrypted() || r.newDir.encrypted() }

// move makes the new name lead to the inode and removes the old one.
func (r *rename) move(tx *journal.Handle, flags uint32) error {
	fs := r.fs
	if r.victim == nil {
		if err := fs.addName(tx, r.newDir, r.newName, r.in); err != nil {
			return err
		}
	} else if err := fs.replaceName(tx, r.newDir, r.newName, r.in.ino, disk.FileType(r.in.Mode)); err != nil {
		return err
	}
	if err := r.leave(tx, flags); err != nil {
		return err
	}
	if r.in.IsDir() {
		if r.oldDir != r.newDir {
			if err := fs.replaceName(tx, r.in, "..", r.newDir.ino, disk.FTDir); err != nil {
				return err
			}
		}
		removeSubdirLink(r.oldDir)
		if r.victim == nil {
			addSubdirLink(r.newDir) // else one left and one came
		}
	}
	if r.victim != nil {
		if err := fs.dropLink(tx, r.victim); err != nil {
			return err
		}
	}
	return r.store(tx, r.oldDir, r.newDir, r.in)
}

// leave removes the old name, or makes it lead to a whiteout, by which an
// overlay knows that the name is gone.
func (r *rename) leave(tx *journal.Handle, flags uint32) error {
	fs := r.fs
	if flags&RenameWhiteout == 0 {
		return fs.removeName(tx, r.oldDir, r.oldName)
	}
	w, attrs := r.left, r.leftAttrs
	ino, err := fs.allocInode(tx, balloc.InodeRequest{Parent: uint32(r.oldDir.ino)})
	if err != nil {
		return err
	}
	w.ino, w.seed = Ino(ino), fs.sums.InodeSeed(ino, w.Generation)
	w.fresh = true
	w.bare.Store(true)
	if len(attrs) > 0 {
		if _, err := fs.putXattrs(tx, w, attrs); err != nil {
			return err
		}
	}
	if err := fs.store(tx, w); err != nil {
		return err
	}
	return fs.replaceName(tx, r.oldDir, r.oldName, w.ino, disk.FTChar)
}

// exchange makes each of the two names lead to the other's inode.
func (r *rename) exchange(tx *journal.Handle) error {
	fs := r.fs
	swap := []struct {
		dir  *inode
		name string
		in   *inode
	}{{r.newDir, r.newName, r.in}, {r.oldDir, r.oldName, r.victim}}
	for _, s := range swap {
		if err := fs.replaceName(tx, s.dir, s.name, s.in.ino, disk.FileType(s.in.Mode)); err != nil {
			return err
		}
		if s.in.IsDir() && r.oldDir != r.newDir {
			if err := fs.replaceName(tx, s.in, "..", s.dir.ino, disk.FTDir); err != nil {
				return err
			}
		}
	}
	if r.oldDir != r.newDir && r.in.IsDir() != r.victim.IsDir() {
		from, to := r.oldDir, r.newDir
		if r.victim.IsDir() {
			from, to = to, from
		}
		removeSubdirLink(from)
		addSubdirLink(to)
	}
	return r.store(tx, r.oldDir, r.newDir, r.in, r.victim)
}

// store writes the inodes, directories with new times for their content.
func (r *rename) store(tx *journal.Handle, inodes ...*inode) error {
	for i, in := range inodes {
		if slices.Contains(inodes[:i], in) {
			continue
		}
		r.fs.touch(in, in == r.oldDir || in == r.newDir)
		if err := r.fs.store(tx, in); err != nil {
			return err
		}
	}
	return nil
}
