package vfs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"ext4box/internal/posixfs"
)

// Posix shows a filesystem to tests that also run on the operating system, with the umask and the groups
// of the process.
func (fs *FS) Posix() posixfs.FS {
	return posixFS{fs.As(posixCred(posixfs.Cred{}))}
}

// posixCred is somebody as package posixfs knows him.
func posixCred(c posixfs.Cred) Cred {
	p := processCred()
	p.UID, p.GID = c.UID, c.GID
	return p
}

// processCred is what of the process concerns new files and permissions.
var processCred = sync.OnceValue(func() Cred {
	c := Cred{Admin: os.Geteuid() == 0}
	groups, _ := os.Getgroups()
	for _, g := range groups {
		c.Groups = append(c.Groups, uint32(g))
	}
	status, _ := os.ReadFile("/proc/self/status")
	if _, line, ok := bytes.Cut(status, []byte("\nUmask:")); ok {
		_, _ = fmt.Sscanf(string(line), "%o", &c.Umask)
	}
	return c
})

type posixFS struct{ *Task }

func (p posixFS) As(c posixfs.Cred) posixfs.FS { return posixFS{p.fs.As(posixCred(c))} }

func (p posixFS) Open(path string, flags int, mode uint32) (posixfs.File, error) {
	f, err := p.Task.Open(path, flags, mode)
	if err != nil {
		return nil, err
	}
	return posixFile{f}, nil
}

func (p posixFS) ReadDir(path string) ([]posixfs.Dirent, error) {
	entries, err := p.Task.ReadDir(path)
	var list []posixfs.Dirent
	for _, e := range entries {
		list = append(list, posixfs.Dirent(e))
	}
	return list, err
}

func (p posixFS) Sync() error { return p.fs.Sync() }

type posixFile struct{ *File }

func (p posixFile) As(c posixfs.Cred) posixfs.File { return posixFile{p.File.As(posixCred(c))} }

// fd is the descriptor of the machine that stands for a device or pipe.
func (p posixFile) fd() (int, bool) {
	if p.host == nil {
		return 0, false
	}
	return int(p.host.Fd()), true
}

func (p posixFile) Pread(b []byte, off int64) (int, error) {
	if fd, ok := p.fd(); ok {
		n, err := unix.Pread(fd, b, off)
		return max(n, 0), err
	}
	n, err := p.ReadAt(b, off)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return n, err
}

func (p posixFile) Pwrite(b []byte, off int64) (int, error) {
	if fd, ok := p.fd(); ok {
		n, err := unix.Pwrite(fd, b, off)
		return max(n, 0), err
	}
	n, err := p.WriteAt(b, off)
	if n > 0 {
		err = nil
	}
	return n, err
}

func (p posixFile) CopyRange(off int64, to posixfs.File, toOff int64, n int) (int, error) {
	t, ok := to.(posixFile)
	if !ok {
		return 0, syscall.EXDEV
	}
	return p.File.CopyRange(off, t.File, toOff, n)
}

func (p posixFile) Truncate(size int64) error {
	if fd, ok := p.fd(); ok {
		return unix.Ftruncate(fd, size)
	}
	return p.File.Truncate(size)
}

func (p posixFile) Fallocate(mode uint32, off, n int64) error {
	if fd, ok := p.fd(); ok {
		return unix.Fallocate(fd, mode, off, n)
	}
	return p.File.Fallocate(mode, off, n)
}

func (p posixFile) Fsync() error {
	if fd, ok := p.fd(); ok {
		return unix.Fsync(fd)
	}
	return p.File.Fsync()
}

func (p posixFile) Fdatasync() error {
	if fd, ok := p.fd(); ok {
		return unix.Fdatasync(fd)
	}
	return p.File.Fdatasync()
}

func (p posixFile) Drop() error {
	p.DontNeed()
	return nil
}

func (p posixFile) Seek(off int64, whence int) (int64, error) {
	switch whence {
	case unix.SEEK_DATA:
		return p.SeekData(off)
	case unix.SEEK_HOLE:
		return p.SeekHole(off)
	}
	return 0, syscall.EINVAL
}

func (p posixFile) Project() (uint32, error) {
	x, err := p.Fsxattr()
	return x.Project, err
}

func (p posixFile) Map(off int64, n int, write bool) (posixfs.Mapping, error) {
	m, err := p.Mmap()
	if err != nil {
		return nil, err
	}
	return posixMapping{m, p.File, uint64(off)}, nil
}

// posixMapping is a part of a mapping of the whole file, which must stay open for Sync.
type posixMapping struct {
	m   *Memory
	f   *File
	off uint64
}

func (p posixMapping) Load(b []byte, off int) error  { return p.m.Load(b, p.off+uint64(off)) }
func (p posixMapping) Store(b []byte, off int) error { return p.m.Store(b, p.off+uint64(off)) }
func (p posixMapping) Sync() error                   { return p.f.Fsync() }

func (p posixMapping) Unmap() error {
	p.m.Unmap()
	return nil
}
