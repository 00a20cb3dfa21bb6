package posixfs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Mounted is the filesystem, or a part of one, that the operating system shows at a directory. To be somebody
// else takes root.
func Mounted(dir string) FS { return mounted{dir: dir} }

type mounted struct {
	dir string
	who Cred
}

func (m mounted) As(c Cred) FS { m.who = c; return m }

func (m mounted) path(rel string) string { return m.dir + "/" + rel }

// do makes a system call, again if a signal of the runtime comes between.
func (c Cred) do(call func() error) error {
	if c.UID != 0 {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		_ = unix.Setfsgid(int(c.GID))
		_ = unix.Setfsuid(int(c.UID))
		defer func() {
			_ = unix.Setfsuid(0)
			_ = unix.Setfsgid(0)
		}()
	}
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// count is do of a call that says how much it did.
func (c Cred) count(call func() (int, error)) (n int, err error) {
	err = c.do(func() error {
		n, err = call()
		return err
	})
	return max(n, 0), err
}

func (m mounted) Open(path string, flags int, mode uint32) (f File, err error) {
	err = m.who.do(func() error {
		fd, err := unix.Open(m.path(path), flags|unix.O_CLOEXEC, mode)
		f = &file{fs: m, fd: fd}
		return err
	})
	if err != nil {
		return nil, err
	}
	return f, nil
}

func (m mounted) Mkdir(path string, mode uint32) error {
	return m.who.do(func() error { return unix.Mkdir(m.path(path), mode) })
}

func (m mounted) Mknod(path string, mode uint32, dev uint64) error {
	return m.who.do(func() error { return unix.Mknod(m.path(path), mode, int(dev)) })
}

func (m mounted) Symlink(target, path string) error {
	return m.who.do(func() error { return unix.Symlink(target, m.path(path)) })
}

func (m mounted) Readlink(path string) (string, error) {
	buf := make([]byte, 5000)
	n, err := m.who.count(func() (int, error) { return unix.Readlink(m.path(path), buf) })
	return string(buf[:n]), err
}

func (m mounted) Link(path, to string) error {
	return m.who.do(func() error { return unix.Link(m.path(path), m.path(to)) })
}

func (m mounted) Unlink(path string) error {
	return m.who.do(func() error { return unix.Unlink(m.path(path)) })
}

func (m mounted) Rmdir(path string) error {
	return m.who.do(func() error { return unix.Rmdir(m.path(path)) })
}

func (m mounted) Rename(path, to string, flags uint) error {
	return m.who.do(func() error {
		return unix.Renameat2(unix.AT_FDCWD, m.path(path), unix.AT_FDCWD, m.path(to), flags)
	})
}

func (m mounted) ReadDir(path string) ([]Dirent, error) {
	var list []Dirent
	err := m.who.do(func() error {
		fd, err := unix.Open(m.path(path), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		buf := make([]byte, 64<<10)
		list = nil
		for {
			n, err := unix.Getdents(fd, buf)
			if n <= 0 || err != nil {
				return err
			}
			for b := buf[:n]; len(b) > 0; {
				length := binary.NativeEndian.Uint16(b[16:])
				list = append(list, Dirent{unix.ByteSliceToString(b[19:length]), b[18], binary.NativeEndian.Uint64(b)})
				b = b[length:]
			}
		}
	})
	return list, err
}

func (m mounted) Statx(path string, mask int) (st unix.Statx_t, err error) {
	err = m.who.do(func() error {
		return unix.Statx(unix.AT_FDCWD, m.path(path), unix.AT_SYMLINK_NOFOLLOW|unix.AT_STATX_SYNC_AS_STAT, mask, &st)
	})
	return st, err
}

func (m mounted) Truncate(path string, size int64) error {
	return m.who.do(func() error { return unix.Truncate(m.path(path), size) })
}

func (m mounted) Chmod(path string, mode uint32) error {
	return m.who.do(func() error { return unix.Chmod(m.path(path), mode) })
}

func (m mounted) Chown(path string, uid, gid int) error {
	return m.who.do(func() error { return unix.Lchown(m.path(path), uid, gid) })
}

func (m mounted) Utimes(path string, times [2]unix.Timespec, follow bool) error {
	flags := unix.AT_SYMLINK_NOFOLLOW
	if follow {
		flags = 0
	}
	return m.who.do(func() error { return unix.UtimesNanoAt(unix.AT_FDCWD, m.path(path), times[:], flags) })
}

func (m mounted) Setxattr(path, name string, value []byte, flags int) error {
	return m.who.do(func() error { return unix.Lsetxattr(m.path(path), name, value, flags) })
}

// maxAttributes is more than a value, or the names of a file, can have.
const maxAttributes = 70000

func (m mounted) Getxattr(path, name string) ([]byte, error) {
	buf := make([]byte, maxAttributes)
	n, err := m.who.count(func() (int, error) { return unix.Lgetxattr(m.path(path), name, buf) })
	return buf[:n], err
}

func (m mounted) Listxattr(path string) ([]string, error) {
	buf := make([]byte, maxAttributes)
	n, err := m.who.count(func() (int, error) { return unix.Llistxattr(m.path(path), buf) })
	if n == 0 || err != nil {
		return nil, err
	}
	return strings.Split(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00"), nil
}

func (m mounted) Removexattr(path, name string) error {
	return m.who.do(func() error { return unix.Lremovexattr(m.path(path), name) })
}

func (m mounted) Sync() error {
	f, err := m.Open("", unix.O_RDONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	return m.who.do(func() error { return unix.Syncfs(f.(*file).fd) })
}

type file struct {
	fs mounted // who uses it
	fd int
}

func (f *file) As(c Cred) File {
	g := *f
	g.fs.who = c
	return &g
}

func (f *file) Close() error { return unix.Close(f.fd) }

func (f *file) Pread(p []byte, off int64) (int, error) {
	return f.fs.who.count(func() (int, error) { return unix.Pread(f.fd, p, off) })
}

func (f *file) Pwrite(p []byte, off int64) (int, error) {
	return f.fs.who.count(func() (int, error) { return unix.Pwrite(f.fd, p, off) })
}

func (f *file) CopyRange(off int64, to File, toOff int64, n int) (int, error) {
	t, ok := to.(*file)
	if !ok {
		return 0, unix.EXDEV
	}
	return f.fs.who.count(func() (int, error) { return unix.CopyFileRange(f.fd, &off, t.fd, &toOff, n, 0) })
}

func (f *file) Truncate(size int64) error {
	return f.fs.who.do(func() error { return unix.Ftruncate(f.fd, size) })
}

func (f *file) Fallocate(mode uint32, off, n int64) error {
	return f.fs.who.do(func() error { return unix.Fallocate(f.fd, mode, off, n) })
}

func (f *file) Fsync() error { return f.fs.who.do(func() error { return unix.Fsync(f.fd) }) }

func (f *file) Fdatasync() error { return f.fs.who.do(func() error { return unix.Fdatasync(f.fd) }) }

func (f *file) Drop() error {
	return f.fs.who.do(func() error { return unix.Fadvise(f.fd, 0, 0, unix.FADV_DONTNEED) })
}

func (f *file) Seek(off int64, whence int) (at int64, err error) {
	err = f.fs.who.do(func() error {
		at, err = unix.Seek(f.fd, off, whence)
		return err
	})
	return at, err
}

func (f *file) Statx(mask int) (st unix.Statx_t, err error) {
	err = f.fs.who.do(func() error {
		return unix.Statx(f.fd, "", unix.AT_EMPTY_PATH|unix.AT_STATX_SYNC_AS_STAT, mask, &st)
	})
	return st, err
}

func (f *file) Chmod(mode uint32) error {
	return f.fs.who.do(func() error { return unix.Fchmod(f.fd, mode) })
}

func (f *file) Link(path string) error {
	return f.fs.who.do(func() error {
		return unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", f.fd), unix.AT_FDCWD, f.fs.path(path), unix.AT_SYMLINK_FOLLOW)
	})
}

func (f *file) ioctl(cmd uintptr, arg []byte) error {
	return f.fs.who.do(func() error {
		_, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(f.fd), cmd, uintptr(unsafe.Pointer(&arg[0])))
		if e != 0 {
			return e
		}
		return nil
	})
}

func (f *file) Flags() (uint32, error) {
	arg := make([]byte, 8)
	err := f.ioctl(unix.FS_IOC_GETFLAGS, arg)
	return binary.NativeEndian.Uint32(arg), err
}

func (f *file) SetFlags(flags uint32) error {
	arg := make([]byte, 8)
	binary.NativeEndian.PutUint32(arg, flags)
	return f.ioctl(unix.FS_IOC_SETFLAGS, arg)
}

func (f *file) Project() (uint32, error) {
	const fsIocFSGetXattr = 0x801C581F
	arg := make([]byte, 28)
	err := f.ioctl(fsIocFSGetXattr, arg)
	return binary.NativeEndian.Uint32(arg[12:]), err
}

func (f *file) Map(off int64, n int, write bool) (Mapping, error) {
	prot := unix.PROT_READ
	if write {
		prot |= unix.PROT_WRITE
	}
	m, err := unix.Mmap(f.fd, off, n, prot, unix.MAP_SHARED)
	if err != nil {
		return nil, err
	}
	return mapping(m), nil
}

type mapping []byte

func (m mapping) Load(p []byte, off int) error {
	copy(p, m[off:off+len(p)])
	return nil
}

func (m mapping) Store(p []byte, off int) error {
	copy(m[off:off+len(p)], p)
	return nil
}

func (m mapping) Sync() error  { return unix.Msync(m, unix.MS_SYNC) }
func (m mapping) Unmap() error { return unix.Munmap(m) }
