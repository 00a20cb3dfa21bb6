package ext4_test

import (
	"errors"
	"path"
	"time"

	"ext4box/ext4"
)

// crashOps is what a crashActor does, to paths below the root of a filesystem, and whichever way it goes. When an
// operation returns, data that it wrote is on the device, and only what fsync and sync promise is durable.
type crashOps interface {
	create(p string, n ext4.NewNode) error
	write(p string, data []byte, off int) error
	// tmpfile makes a file with content and only then a name for it.
	tmpfile(p string, data []byte) error
	truncate(p string, size int) error
	fallocate(p string, mode uint32, off, n int) error
	unlink(p string) error
	rmdir(p string) error
	link(p, to string) error
	rename(p, to string, flags uint32) error
	setxattr(p, name string, value []byte) error
	removexattr(p, name string) error
	// setattr changes what at says, all at once if it can; else it does nothing but tell so.
	setattr(p string, at crashAttrs) (atOnce bool, err error)
	// chown, chmod and utime are the parts of it.
	chown(p string, uid, gid uint32) error
	chmod(p string, perm uint32) error
	utime(p string, mtime int64) error
	setProject(p string, id uint32) error
	// hold keeps a file that is about to lose its name, until release.
	hold(p string) (release func() error, err error)
	fsync(p string) error
	sync() error
}

// engineOps are the operations of the engine itself, whose own mover moves the data.
type engineOps struct{ fs *ext4.FS }

// at calls an operation with the inode of a path.
func (e engineOps) at(p string, op func(ino ext4.Ino) error) error {
	ino, err := e.fs.Resolve(p)
	if err != nil {
		return err
	}
	return op(ino)
}

// in calls one with the directory of a path and the name.
func (e engineOps) in(p string, op func(dir ext4.Ino, name string) error) error {
	return e.at(path.Dir("/"+p), func(dir ext4.Ino) error { return op(dir, path.Base(p)) })
}

func (e engineOps) create(p string, n ext4.NewNode) error {
	return e.in(p, func(dir ext4.Ino, name string) error {
		_, err := e.fs.Create(dir, name, n)
		return err
	})
}

func (e engineOps) write(p string, data []byte, off int) error {
	return e.at(p, func(ino ext4.Ino) error {
		_, err := e.fs.WriteAt(ino, data, int64(off))
		return err
	})
}

func (e engineOps) tmpfile(p string, data []byte) error {
	return e.in(p, func(dir ext4.Ino, name string) error {
		ino, err := e.fs.Tmpfile(dir, ext4.NewNode{Mode: 0o644})
		if err != nil {
			return err
		}
		if _, err := e.fs.WriteAt(ino, data, 0); err != nil {
			return errors.Join(err, e.fs.Unhold(ino, 1))
		}
		return errors.Join(e.fs.Link(ino, dir, name), e.fs.Unhold(ino, 1))
	})
}

func (e engineOps) truncate(p string, size int) error {
	return e.at(p, func(ino ext4.Ino) error { return e.fs.Truncate(ino, uint64(size)) })
}

func (e engineOps) fallocate(p string, mode uint32, off, n int) error {
	return e.at(p, func(ino ext4.Ino) error { return e.fs.Fallocate(ino, mode, uint64(off), uint64(n)) })
}

func (e engineOps) unlink(p string) error { return e.in(p, e.fs.Unlink) }

func (e engineOps) rmdir(p string) error { return e.in(p, e.fs.Rmdir) }

func (e engineOps) link(p, to string) error {
	return e.at(p, func(ino ext4.Ino) error {
		return e.in(to, func(dir ext4.Ino, name string) error { return e.fs.Link(ino, dir, name) })
	})
}

func (e engineOps) rename(p, to string, flags uint32) error {
	return e.in(p, func(dir ext4.Ino, name string) error {
		return e.in(to, func(newDir ext4.Ino, newName string) error { return e.fs.Rename(dir, name, newDir, newName, flags) })
	})
}

func (e engineOps) setxattr(p, name string, value []byte) error {
	return e.at(p, func(ino ext4.Ino) error { return e.fs.Setxattr(ino, name, value, 0) })
}

func (e engineOps) removexattr(p, name string) error {
	return e.at(p, func(ino ext4.Ino) error { return e.fs.Removexattr(ino, name) })
}

func (e engineOps) setattr(p string, at crashAttrs) (bool, error) {
	mtime := time.Unix(at.mtime, 0)
	return true, e.change(p, ext4.Attr{Mode: &at.perm, UID: &at.uid, GID: &at.gid, Mtime: &mtime})
}

func (e engineOps) change(p string, a ext4.Attr) error {
	return e.at(p, func(ino ext4.Ino) error { return e.fs.SetAttr(ino, a) })
}

func (e engineOps) chown(p string, uid, gid uint32) error {
	return e.change(p, ext4.Attr{UID: &uid, GID: &gid})
}

func (e engineOps) chmod(p string, perm uint32) error { return e.change(p, ext4.Attr{Mode: &perm}) }

func (e engineOps) utime(p string, mtime int64) error {
	t := time.Unix(mtime, 0)
	return e.change(p, ext4.Attr{Mtime: &t})
}

func (e engineOps) setProject(p string, id uint32) error {
	return e.at(p, func(ino ext4.Ino) error { return e.fs.SetProject(ino, id) })
}

func (e engineOps) hold(p string) (release func() error, err error) {
	err = e.at(p, func(ino ext4.Ino) error {
		e.fs.Hold(ino)
		release = func() error { return e.fs.Unhold(ino, 1) }
		return nil
	})
	return release, err
}

func (e engineOps) fsync(p string) error { return e.at(p, e.fs.Fsync) }

func (e engineOps) sync() error { return e.fs.Sync() }

var _ crashOps = engineOps{}
