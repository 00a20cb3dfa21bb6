package extract

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"ext4box/cmd/ext4box/internal/tree"
)

// makeFile makes anything but a directory.
func (x *extractor) makeFile(n *tree.Node, name string) error {
	if name == "" {
		return errors.New("the image's root is not a directory")
	}
	if n.Stat.Nlink > 1 && x.linkToCopy(n, name) {
		return nil
	}
	if err := x.remove(name); err != nil {
		return fmt.Errorf("replace the file at the destination: %w", err)
	}
	t, err := x.create(n, name)
	if err != nil {
		return err
	}
	defer t.close()
	if n.Stat.IsRegular() {
		if err := x.copyData(n, t.fd); err != nil {
			// Half a file under its name would pass for a whole one.
			unix.Unlinkat(x.dir, name, 0)
			return err
		}
	}
	if err := x.setMetadata(n, t); err != nil {
		return err
	}
	if n.Stat.Nlink > 1 {
		var st unix.Stat_t
		if unix.Fstatat(x.dir, name, &st, unix.AT_SYMLINK_NOFOLLOW) == nil {
			id, path := fileID{st.Dev, st.Ino}, x.hostPath(n)
			if x.links.bytes += len(path); x.links.bytes <= maxLinkBytes {
				x.links.first[n.Stat.Ino] = link{path, id}
				x.links.made[id] = n.Stat.Ino
			}
		}
	}
	return nil
}

// remove takes away what the destination has under name, if anything.
func (x *extractor) remove(name string) error {
	var st unix.Stat_t
	if unix.Fstatat(x.dir, name, &st, unix.AT_SYMLINK_NOFOLLOW) == nil {
		id := fileID{st.Dev, st.Ino}
		for _, p := range x.o.Protected {
			if s, ok := p.Sys().(*syscall.Stat_t); ok && (fileID{s.Dev, s.Ino}) == id {
				return errors.New("it is the image itself")
			}
		}
		// When this is an earlier copy, the host may give its inode number to
		// the next file: it can be linked to no more.
		if ino, ok := x.links.made[id]; ok {
			delete(x.links.first, ino)
			delete(x.links.made, id)
		}
	}
	if err := unix.Unlinkat(x.dir, name, 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	return nil
}

// create makes an empty file of the node's type.
func (x *extractor) create(n *tree.Node, name string) (target, error) {
	t := target{fd: -1, dir: x.dir, name: name}
	var err error
	switch kind := n.Stat.Mode & unix.S_IFMT; kind {
	case unix.S_IFREG:
		const flags = unix.O_WRONLY | unix.O_CREAT | unix.O_EXCL | unix.O_NOFOLLOW | unix.O_CLOEXEC
		t.fd, err = unix.Openat(x.dir, name, flags, 0o600)
	case unix.S_IFLNK:
		var to string
		if to, err = x.src.Readlink(n.Stat.Ino); err != nil {
			return t, err
		}
		if strings.IndexByte(to, 0) >= 0 {
			return t, errors.New("the symbolic link's target holds a zero byte")
		}
		t.symlink = true
		err = unix.Symlinkat(to, x.dir, name)
	case unix.S_IFCHR, unix.S_IFBLK:
		if !x.o.Owner {
			if os.Geteuid() == 0 {
				return t, errors.New("device files belong to root; it is left out")
			}
			return t, errors.New("only root can make device files; it is left out")
		}
		err = unix.Mknodat(x.dir, name, kind|0o600, int(unix.Mkdev(n.Stat.RdevMajor, n.Stat.RdevMinor)))
	case unix.S_IFIFO, unix.S_IFSOCK:
		err = unix.Mknodat(x.dir, name, kind|0o600, 0)
	default:
		return t, fmt.Errorf("the file type in mode %#o is unknown", n.Stat.Mode)
	}
	if err != nil {
		return t, fmt.Errorf("create the file: %w", err)
	}
	return t, nil
}

// linkToCopy links name to the earlier copy of the same inode, if there is one
// and it is still what was made of it.
func (x *extractor) linkToCopy(n *tree.Node, name string) bool {
	l, ok := x.links.first[n.Stat.Ino]
	if !ok {
		return false
	}
	dir, last, err := x.descend(l.path)
	if err != nil {
		return false
	}
	defer unix.Close(dir)
	var st unix.Stat_t
	if err := unix.Fstatat(dir, last, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil ||
		(fileID{st.Dev, st.Ino}) != l.id {
		return false
	}
	if x.remove(name) != nil {
		return false
	}
	// Where the host cannot link, a copy of its own is better than nothing.
	return unix.Linkat(dir, last, x.dir, name, 0) == nil
}

// descend opens the directory of a path below base, following no link.
func (x *extractor) descend(path string) (dir int, last string, err error) {
	dir, err = unix.FcntlInt(uintptr(x.base), unix.F_DUPFD_CLOEXEC, 0)
	for err == nil {
		name, rest, more := strings.Cut(path, "/")
		if !more {
			return dir, name, nil
		}
		var next int
		next, err = unix.Openat(dir, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		unix.Close(dir)
		dir, path = next, rest
	}
	return -1, "", err
}

// copyData copies what the file holds and leaves its holes out.
func (x *extractor) copyData(n *tree.Node, fd int) error {
	const seekData, seekHole = 3, 4
	ino, size := n.Stat.Ino, n.Stat.Size
	// Set before the data: a host that cannot hold it says so at once.
	if err := unix.Ftruncate(fd, size); err != nil {
		return fmt.Errorf("make the file %d bytes long: %w", size, err)
	}
	for off := int64(0); off < size; {
		data, err := x.src.Seek(ino, off, seekData)
		if errors.Is(err, unix.ENXIO) {
			return nil // only a hole is left
		}
		if err != nil {
			return err
		}
		hole, err := x.src.Seek(ino, data, seekHole)
		if err != nil {
			return err
		}
		if data < off || hole <= data {
			return fmt.Errorf("the map of data and holes does not advance at offset %d", off)
		}
		if err := x.copyRange(n, fd, data, min(hole, size)); err != nil {
			return err
		}
		off = hole
	}
	return nil
}

func (x *extractor) copyRange(n *tree.Node, fd int, off, end int64) error {
	for off < end {
		if x.Ctx.Err() != nil {
			return context.Cause(x.Ctx)
		}
		p := x.buf[:min(int64(len(x.buf)), end-off)]
		got, err := x.src.ReadAt(n.Stat.Ino, p, off)
		if got == 0 {
			if err == nil || errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
		for p = p[:got]; len(p) > 0; {
			put, err := unix.Pwrite(fd, p, off)
			if errors.Is(err, unix.EINTR) {
				continue
			}
			if err != nil {
				return fmt.Errorf("write at offset %d: %w", off, err)
			}
			p, off = p[put:], off+int64(put)
		}
		x.Progress(0, int64(got))
	}
	return nil
}

// target is a file of the host: open, or named in an open directory.
type target struct {
	fd      int // -1 when it cannot be opened without an effect
	dir     int
	name    string
	symlink bool
}

func (t *target) close() {
	if t.fd >= 0 {
		unix.Close(t.fd)
	}
}

// setMetadata sets owner, attributes, mode and times, in this order: a change of
// owner drops set-user-ID and capabilities, and a file made read-only takes no
// attributes any more.
func (x *extractor) setMetadata(n *tree.Node, t target) error {
	st := &n.Stat
	mode := st.Mode & 0o7777
	if x.o.Owner {
		to := Owner{st.UID, st.GID}
		if x.o.GiveTo != nil {
			to = *x.o.GiveTo
		}
		var err error
		if t.fd >= 0 {
			err = unix.Fchown(t.fd, int(to.UID), int(to.GID))
		} else {
			err = unix.Fchownat(t.dir, t.name, int(to.UID), int(to.GID), unix.AT_SYMLINK_NOFOLLOW)
		}
		if err != nil {
			return fmt.Errorf("set owner %d and group %d: %w", to.UID, to.GID, err)
		}
	} else {
		// The file is the user's now: another's set-user-ID is not for it.
		mode &^= unix.S_ISUID | unix.S_ISGID
	}
	if x.o.Xattrs {
		x.setXattrs(n, t)
	}
	var err error
	switch {
	case t.fd >= 0:
		err = unix.Fchmod(t.fd, mode)
	case !t.symlink:
		// Not a link: this process made it a moment ago.
		err = unix.Fchmodat(t.dir, t.name, mode, 0)
	}
	if err != nil {
		return fmt.Errorf("set mode %#o: %w", mode, err)
	}
	times := []unix.Timespec{
		{Sec: st.Atime.Unix(), Nsec: int64(st.Atime.Nanosecond())},
		{Sec: st.Mtime.Unix(), Nsec: int64(st.Mtime.Nanosecond())},
	}
	if t.fd >= 0 {
		err = utimensFd(t.fd, times)
	} else {
		err = unix.UtimesNanoAt(t.dir, t.name, times, unix.AT_SYMLINK_NOFOLLOW)
	}
	if err != nil {
		return fmt.Errorf("set the times: %w", err)
	}
	return nil
}

// utimensFd sets the times of an open file through its magic link.
func utimensFd(fd int, times []unix.Timespec) error {
	return unix.UtimesNanoAt(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), times, 0)
}

// setXattrs sets what the host takes. What it does not take is counted: an
// ordinary user cannot set security.* and trusted.*, and tmpfs knows no user.*
// on old kernels; that is no reason to fail.
func (x *extractor) setXattrs(n *tree.Node, t target) {
	lost := func(err error) {
		x.Result.Lost++
		if x.Result.XattrError == nil {
			x.Result.XattrError = err
		}
	}
	names, err := x.src.Listxattr(n.Stat.Ino)
	if err != nil {
		lost(fmt.Errorf("%q: %w", n.Path, err))
		return
	}
	for _, name := range names {
		value, err := x.src.Getxattr(n.Stat.Ino, name)
		if err == nil {
			if t.fd >= 0 {
				err = unix.Fsetxattr(t.fd, name, value, 0)
			} else {
				path := fmt.Sprintf("/proc/self/fd/%d/%s", t.dir, t.name)
				err = unix.Lsetxattr(path, name, value, 0)
			}
		}
		if err != nil {
			lost(fmt.Errorf("%q, attribute %q: %w", n.Path, name, err))
		}
	}
}
