package ext4

import (
	"errors"
	"io"
	iofs "io/fs"
	"os"
	"path"
	"sync"
	"syscall"
	"time"

	"ext4box/ext4/internal/disk"
)

// The methods of View that change the filesystem are those of [os.Root]: the same
// names, the same meaning. What they make belongs to root, with the mode given:
// there is no umask. Each is one transaction where the engine's operation is one;
// it is durable after [FS.Sync], [File.Sync] or [FS.Close].

// File is a regular file that is open for reading and writing. Its methods may
// not be called concurrently.
type File struct {
	openFile
	flag   int
	closed sync.Once
}

var (
	_ iofs.File   = (*File)(nil)
	_ io.WriterAt = (*File)(nil)
	_ io.Writer   = (*File)(nil)
)

// Create makes an empty file with mode 0666, or empties the one that there is.
func (v *View) Create(name string) (*File, error) {
	return v.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o666)
}

// OpenFile opens a regular file with the flags of [os.OpenFile], of which
// O_CREATE, O_EXCL, O_TRUNC and O_APPEND mean something here. The file lives
// until Close, also when its name is removed.
func (v *View) OpenFile(name string, flag int, perm iofs.FileMode) (*File, error) {
	ino, err := v.openIno(name, flag, perm)
	if err != nil {
		return nil, &iofs.PathError{Op: "open", Path: name, Err: err}
	}
	v.fs.Hold(ino)
	f := &File{openFile: openFile{fs: v.fs}, flag: flag}
	if f.info, err = v.info(path.Base(name), ino); err == nil {
		switch st := &f.info.stat; {
		case st.IsDir():
			err = syscall.EISDIR
		case !st.IsRegular():
			err = syscall.EINVAL
		default:
			err = v.openFlags(st, flag)
		}
	}
	if err != nil {
		return nil, &iofs.PathError{Op: "open", Path: name, Err: errors.Join(err, v.fs.Unhold(ino, 1))}
	}
	return f, nil
}

// openFlags does what the flags of an open ask for.
func (v *View) openFlags(st *Stat, flag int) error {
	if flag&(os.O_WRONLY|os.O_RDWR|os.O_TRUNC) == 0 {
		return nil
	}
	if _, err := v.fs.OpenForWriting(st.Ino, flag&os.O_APPEND != 0); err != nil {
		return err
	}
	if flag&os.O_TRUNC != 0 && st.Size > 0 {
		return v.fs.Truncate(st.Ino, 0)
	}
	return nil
}

func (v *View) openIno(name string, flag int, perm iofs.FileMode) (Ino, error) {
	if !iofs.ValidPath(name) {
		return 0, iofs.ErrInvalid
	}
	if flag&os.O_CREATE != 0 {
		dir, base, err := v.fs.ResolveParent(name)
		if err != nil {
			return 0, err
		}
		ino, err := v.fs.Create(dir, base, NewNode{Mode: disk.ModeReg | modeBits(perm)})
		if !errors.Is(err, syscall.EEXIST) || flag&os.O_EXCL != 0 {
			return ino, err
		}
	}
	return v.fs.ResolveFollow(name)
}

// modeBits are permission bits as the format has them.
func modeBits(m iofs.FileMode) uint32 {
	bits := uint32(m.Perm())
	if m&iofs.ModeSetuid != 0 {
		bits |= syscall.S_ISUID
	}
	if m&iofs.ModeSetgid != 0 {
		bits |= syscall.S_ISGID
	}
	if m&iofs.ModeSticky != 0 {
		bits |= syscall.S_ISVTX
	}
	return bits
}

func (f *File) fail(op string, err error) error {
	if err == nil {
		return nil
	}
	return &iofs.PathError{Op: op, Path: f.info.name, Err: err}
}

// Stat returns the attributes as they are now.
func (f *File) Stat() (iofs.FileInfo, error) {
	st, err := f.fs.Stat(f.info.stat.Ino)
	if err != nil {
		return nil, f.fail("stat", err)
	}
	f.info = &fileInfo{f.info.name, st}
	return f.info, nil
}

// Seek implements [io.Seeker]; it knows [SeekData] and [SeekHole] too.
func (f *File) Seek(off int64, whence int) (int64, error) {
	if whence == io.SeekEnd {
		if _, err := f.Stat(); err != nil {
			return 0, err
		}
	}
	return f.openFile.Seek(off, whence)
}

// Write writes at the file's position, or at its end with O_APPEND.
func (f *File) Write(p []byte) (int, error) {
	if f.flag&os.O_APPEND != 0 {
		if _, err := f.Seek(0, io.SeekEnd); err != nil {
			return 0, err
		}
	}
	n, err := f.WriteAt(p, f.pos)
	f.pos += int64(n)
	return n, err
}

// WriteAt writes at an offset, beyond the end as well: what is between is a hole.
func (f *File) WriteAt(p []byte, off int64) (int, error) {
	n, err := f.fs.WriteAt(f.info.stat.Ino, p, off)
	return n, f.fail("write", err)
}

// Truncate sets the size.
func (f *File) Truncate(size int64) error {
	if size < 0 {
		return f.fail("truncate", syscall.EINVAL)
	}
	return f.fail("truncate", f.fs.Truncate(f.info.stat.Ino, uint64(size)))
}

// Sync makes the file durable, with its name.
func (f *File) Sync() error { return f.fail("sync", f.fs.Fsync(f.info.stat.Ino)) }

// Close ends the use of the file. It makes nothing durable.
func (f *File) Close() error {
	err := error(&iofs.PathError{Op: "close", Path: f.info.name, Err: iofs.ErrClosed})
	f.closed.Do(func() { err = f.fail("close", f.fs.Unhold(f.info.stat.Ino, 1)) })
	return err
}

// WriteFile makes a file with this content, or replaces the content of the one
// that there is. It is not atomic: who needs that writes another file and
// renames it.
func (v *View) WriteFile(name string, data []byte, perm iofs.FileMode) error {
	f, err := v.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, perm)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Close())
}

// parent is ResolveParent, of names as io/fs has them.
func (v *View) parent(name string) (Ino, string, error) {
	if !iofs.ValidPath(name) {
		return 0, "", iofs.ErrInvalid
	}
	return v.fs.ResolveParent(name)
}

// at calls fn with the directory and the last component of a name.
func (v *View) at(op, name string, fn func(dir Ino, base string) error) error {
	dir, base, err := v.parent(name)
	if err == nil {
		err = fn(dir, base)
	}
	if err != nil {
		return &iofs.PathError{Op: op, Path: name, Err: err}
	}
	return nil
}

// change calls fn with the inode of a name.
func (v *View) change(op, name string, follow bool, fn func(Ino) error) error {
	info, err := v.find(op, name, follow)
	if err != nil {
		return err
	}
	if err := fn(info.stat.Ino); err != nil {
		return &iofs.PathError{Op: op, Path: name, Err: err}
	}
	return nil
}

// Mkdir makes a directory.
func (v *View) Mkdir(name string, perm iofs.FileMode) error {
	return v.at("mkdir", name, func(dir Ino, base string) error {
		_, err := v.fs.Create(dir, base, NewNode{Mode: disk.ModeDir | modeBits(perm)})
		return err
	})
}

// MkdirAll makes a directory and those above it, as far as they are missing.
func (v *View) MkdirAll(name string, perm iofs.FileMode) error {
	info, err := v.find("mkdir", name, true)
	switch {
	case err == nil && info.IsDir():
		return nil
	case err == nil:
		return &iofs.PathError{Op: "mkdir", Path: name, Err: syscall.EEXIST}
	case !errors.Is(err, iofs.ErrNotExist):
		return err
	}
	for i := 0; i <= len(name); i++ {
		if i < len(name) && name[i] != '/' {
			continue
		}
		if info, err := v.find("mkdir", name[:i], true); err == nil && info.IsDir() {
			continue
		}
		if err := v.Mkdir(name[:i], perm); err != nil {
			return err
		}
	}
	return nil
}

// Symlink makes a symbolic link to target.
func (v *View) Symlink(target, name string) error {
	return v.at("symlink", name, func(dir Ino, base string) error {
		_, err := v.fs.Create(dir, base, NewNode{Mode: disk.ModeLink | 0o777, Target: target})
		return err
	})
}

// Link gives a file another name. A symbolic link is not followed.
func (v *View) Link(oldname, newname string) error {
	return v.change("link", oldname, false, func(ino Ino) error {
		return v.at("link", newname, func(dir Ino, base string) error { return v.fs.Link(ino, dir, base) })
	})
}

// Rename moves a file or a directory. What has the new name is replaced,
// atomically.
func (v *View) Rename(oldname, newname string) error {
	return v.at("rename", oldname, func(from Ino, old string) error {
		return v.at("rename", newname, func(to Ino, base string) error { return v.fs.Rename(from, old, to, base, 0) })
	})
}

// Remove removes a file or an empty directory.
func (v *View) Remove(name string) error {
	return v.at("remove", name, func(dir Ino, base string) error {
		err := v.fs.Unlink(dir, base)
		if errors.Is(err, syscall.EISDIR) {
			err = v.fs.Rmdir(dir, base)
		}
		return err
	})
}

// RemoveAll removes a file, or a directory with everything in it. That there is
// none is no error. It stops at the first error, of which it tells the path.
func (v *View) RemoveAll(name string) error {
	dir, base, err := v.parent(name)
	if err == nil {
		err = v.fs.RemoveAll(dir, base)
	}
	switch e, ok := errors.AsType[*iofs.PathError](err); {
	case errors.Is(err, iofs.ErrNotExist):
		return nil
	case ok:
		return &iofs.PathError{Op: "removeall", Path: path.Join(path.Dir(name), e.Path), Err: e.Err}
	case err != nil:
		return &iofs.PathError{Op: "removeall", Path: name, Err: err}
	}
	return nil
}

// Chmod sets the permission bits of what a name leads to.
func (v *View) Chmod(name string, mode iofs.FileMode) error {
	bits := modeBits(mode)
	return v.change("chmod", name, true, func(ino Ino) error { return v.fs.SetAttr(ino, Attr{Mode: &bits}) })
}

// Chown sets owner and group of what a name leads to; -1 leaves one as it is.
func (v *View) Chown(name string, uid, gid int) error { return v.chown(name, uid, gid, true) }

// Lchown is Chown, but does not follow a symbolic link at the end.
func (v *View) Lchown(name string, uid, gid int) error { return v.chown(name, uid, gid, false) }

func (v *View) chown(name string, uid, gid int, follow bool) error {
	return v.change("chown", name, follow, func(ino Ino) error {
		return v.fs.SetAttr(ino, Attr{UID: id(uid), GID: id(gid)})
	})
}

func id(n int) *uint32 {
	if n == -1 {
		return nil
	}
	v := uint32(n)
	return &v
}

// Chtimes sets the times of access and modification of what a name leads to; a
// zero time leaves one as it is.
func (v *View) Chtimes(name string, atime, mtime time.Time) error {
	var a Attr
	if !atime.IsZero() {
		a.Atime = &atime
	}
	if !mtime.IsZero() {
		a.Mtime = &mtime
	}
	return v.change("chtimes", name, true, func(ino Ino) error { return v.fs.SetAttr(ino, a) })
}
