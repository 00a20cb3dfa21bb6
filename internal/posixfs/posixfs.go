package posixfs

import (
	"io"

	"golang.org/x/sys/unix"
)

// Cred says who makes a system call. UID 0 is root as the process is it, whatever the group. Anybody else
// is so for permissions alone, as after setfsuid(2): capabilities that are not about files stay with him.
type Cred struct{ UID, GID uint32 }

// FS is a filesystem. Unless it is said otherwise a path that ends in a symbolic link means the link.
type FS interface {
	// As is the same filesystem, used by somebody else.
	As(Cred) FS

	// Open opens a file; flags and mode are those of open(2).
	Open(path string, flags int, mode uint32) (File, error)
	Mkdir(path string, mode uint32) error
	// Mknod makes a file of any type but a directory or a link; dev is as unix.Mkdev has it.
	Mknod(path string, mode uint32, dev uint64) error
	Symlink(target, path string) error
	Readlink(path string) (string, error)
	Link(path, to string) error
	Unlink(path string) error
	Rmdir(path string) error
	// Rename takes the flags of renameat2(2).
	Rename(path, to string, flags uint) error
	// ReadDir lists a directory, "." and ".." included, in its order.
	ReadDir(path string) ([]Dirent, error)

	// Statx returns what the mask asks for, at least.
	Statx(path string, mask int) (unix.Statx_t, error)
	Truncate(path string, size int64) error // follows links
	Chmod(path string, mode uint32) error   // follows links
	Chown(path string, uid, gid int) error
	// Utimes sets atime and mtime; see utimensat(2).
	Utimes(path string, times [2]unix.Timespec, follow bool) error

	Setxattr(path, name string, value []byte, flags int) error
	Getxattr(path, name string) ([]byte, error)
	Listxattr(path string) ([]string, error)
	Removexattr(path, name string) error

	// Sync makes everything durable.
	Sync() error
}

// Dirent is an entry of a directory.
type Dirent struct {
	Name string
	Type uint8 // DT_*
	Ino  uint64
}

// File is an open file.
type File interface {
	// As is the same open file, used by somebody else. Only one of them is to be closed.
	As(Cred) File

	// Pread and Pwrite are one system call each, which may do less than it is asked to. What was opened
	// with O_APPEND is written to at its end, wherever off is.
	Pread(p []byte, off int64) (int, error)
	Pwrite(p []byte, off int64) (int, error)
	// Map maps a range of whole pages, shared with everybody.
	Map(off int64, n int, write bool) (Mapping, error)
	// CopyRange is one copy_file_range(2) to a file of the same filesystem.
	CopyRange(off int64, to File, toOff int64, n int) (int, error)

	Truncate(size int64) error
	Fallocate(mode uint32, off, n int64) error
	Fsync() error
	Fdatasync() error
	// Drop lets go of what the cache has of the file and does not need to write back.
	Drop() error
	// Seek finds data and holes: SEEK_DATA or SEEK_HOLE.
	Seek(off int64, whence int) (int64, error)

	Statx(mask int) (unix.Statx_t, error)
	Chmod(mode uint32) error
	// Link gives the file a name.
	Link(path string) error
	// Flags are those of lsattr(1).
	Flags() (uint32, error)
	SetFlags(flags uint32) error
	// Project is the project that the file belongs to.
	Project() (uint32, error)

	Close() error
}

// Mapping is a part of a file in memory. Offsets are relative to its beginning. Where the system would send a
// signal Load and Store may return an error.
type Mapping interface {
	Load(p []byte, off int) error
	Store(p []byte, off int) error
	// Sync waits until what was stored is durable.
	Sync() error
	Unmap() error
}

// ReadFull reads until p is full, or the file ends, which is io.EOF.
func ReadFull(f File, p []byte, off int64) (n int, err error) {
	for n < len(p) {
		m, err := f.Pread(p[n:], off+int64(n))
		n += m
		if err != nil {
			return n, err
		}
		if m == 0 {
			return n, io.EOF
		}
	}
	return n, nil
}

// WriteFull writes all of p.
func WriteFull(f File, p []byte, off int64) (n int, err error) {
	for n < len(p) {
		m, err := f.Pwrite(p[n:], off+int64(n))
		n += m
		if err != nil {
			return n, err
		}
		if m == 0 {
			return n, io.ErrShortWrite
		}
	}
	return n, nil
}

// Reader makes an io.ReaderAt of a file.
func Reader(f File) io.ReaderAt { return reader{f} }

type reader struct{ f File }

func (r reader) ReadAt(p []byte, off int64) (int, error) { return ReadFull(r.f, p, off) }
