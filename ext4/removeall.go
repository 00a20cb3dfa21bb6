package ext4

import (
	"errors"
	iofs "io/fs"
	"strings"
	"syscall"

	"ext4box/ext4/internal/disk"
)

// removeBatch is the number of names that are read of a directory at a time.
const removeBatch = 256

// removing is a directory that is being emptied.
type removing struct {
	parent Ino
	name   string
	ino    Ino
	next   int64 // position in the directory
	failed bool  // it was not empty at the end of the last round
}

// RemoveAll removes a name of anything, of a directory with everything that is
// in it. Each file is a transaction of its own. It stops at the first error,
// which is an [iofs.PathError] with the path from name on.
func (fs *FS) RemoveAll(dir Ino, name string) error {
	switch err := fs.Unlink(dir, name); {
	case err == nil:
		return nil
	case !errors.Is(err, syscall.EISDIR):
		return removeError(nil, name, err)
	}
	ino, err := fs.Lookup(dir, name)
	if err != nil {
		return removeError(nil, name, err)
	}
	if err := fs.checkParent(ino, dir); err != nil {
		return removeError(nil, name, err)
	}
	// A directory that is inside of itself would never be empty.
	seen := map[Ino]bool{ino: true}
	stack := []removing{{parent: dir, name: name, ino: ino}}
	for len(stack) > 0 {
		top := &stack[len(stack)-1]
		sub, name, more, err := fs.removeSome(top)
		switch {
		case err != nil:
			return removeError(stack, name, err)
		case sub != 0:
			err := fs.checkParent(sub, top.ino)
			if err == nil && seen[sub] {
				err = disk.Corruptf(disk.InodeName(uint32(sub)), "is inside of itself")
			}
			if err != nil {
				return removeError(stack, name, err)
			}
			seen[sub] = true
			stack = append(stack, removing{parent: top.ino, name: name, ino: sub})
			continue
		case more:
			continue
		}
		err = fs.Rmdir(top.parent, top.name)
		if errors.Is(err, syscall.ENOTEMPTY) && !top.failed {
			top.failed, top.next = true, 0 // somebody has added to it meanwhile
			continue
		}
		if err != nil {
			return removeError(stack, "", err)
		}
		stack = stack[:len(stack)-1]
	}
	return nil
}

// checkParent verifies that a directory is where its name was found, before
// everything is deleted that is in it.
func (fs *FS) checkParent(ino, parent Ino) error {
	up, err := fs.Lookup(ino, "..")
	if err == nil && (up != parent || ino == RootIno) {
		err = disk.Corruptf(disk.InodeName(uint32(ino)), "is named in directory %d, but is in %d", parent, up)
	}
	return err
}

// removeSome removes the next files of a directory. It returns the first
// directory that it comes to, or the name that an error belongs to.
func (fs *FS) removeSome(d *removing) (sub Ino, name string, more bool, err error) {
	type entry struct {
		name string
		next int64
	}
	var batch []entry
	err = fs.ReadDir(d.ino, d.next, func(e Dirent) bool {
		if !dotName(e.Name) {
			batch = append(batch, entry{string(e.Name), e.Next})
		}
		return len(batch) < removeBatch
	})
	if err != nil {
		return 0, "", false, err
	}
	for _, e := range batch {
		switch err := fs.Unlink(d.ino, e.name); {
		case errors.Is(err, syscall.EISDIR):
			d.next = e.next
			ino, err := fs.Lookup(d.ino, e.name)
			return ino, e.name, true, err
		case err != nil && !errors.Is(err, syscall.ENOENT):
			return 0, e.name, false, err
		}
		d.next = e.next
	}
	return 0, "", len(batch) == removeBatch, nil
}

// removeError says at which path below the start it was; name may be empty.
func removeError(stack []removing, name string, err error) error {
	var names []string
	for _, d := range stack {
		names = append(names, d.name)
	}
	if name != "" {
		names = append(names, name)
	}
	return &iofs.PathError{Op: "remove", Path: strings.Join(names, "/"), Err: err}
}
