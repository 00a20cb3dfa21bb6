package ext4_test

import (
	"errors"
	"path"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ext4box/blockdev"
	"ext4box/ext4"
	"ext4box/fuse"
	"ext4box/fuse/fusetest/vfs"
	"ext4box/internal/posixfs"
	"ext4box/server"
)

// kernelOps are operations through the file server and the model of a kernel that moves the data itself. What
// is written goes through its page cache and is written back when the file is closed; what is aligned goes
// past it.
type kernelOps struct{ fs posixfs.FS }

// sector is what direct I/O is a multiple of.
const sector = 512

// with opens a file for an operation. The error of close(2), which writes back, is the operation's.
func (k kernelOps) with(p string, flags int, op func(f posixfs.File) error) error {
	f, err := k.fs.Open(p, flags, 0)
	if err != nil {
		return err
	}
	return errors.Join(op(f), f.Close())
}

// errNoOwner: system calls make files for whoever makes them.
var errNoOwner = errors.New("files for others are not made this way")

func (k kernelOps) create(p string, n ext4.NewNode) error {
	if n.UID != 0 || n.GID != 0 {
		return errNoOwner
	}
	switch n.Mode & syscall.S_IFMT {
	case syscall.S_IFDIR:
		return k.fs.Mkdir(p, n.Mode)
	case syscall.S_IFLNK:
		return k.fs.Symlink(n.Target, p)
	}
	f, err := k.fs.Open(p, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY, n.Mode&0o7777)
	if err != nil {
		return err
	}
	return f.Close()
}

func (k kernelOps) write(p string, data []byte, off int) error {
	flags := unix.O_WRONLY
	if off%sector == 0 && len(data)%sector == 0 {
		flags |= unix.O_DIRECT
	}
	return k.with(p, flags, func(f posixfs.File) error {
		_, err := posixfs.WriteFull(f, data, int64(off))
		return err
	})
}

func (k kernelOps) tmpfile(p string, data []byte) error {
	f, err := k.fs.Open(path.Dir(p), unix.O_TMPFILE|unix.O_RDWR, 0o644)
	if err != nil {
		return err
	}
	_, err = posixfs.WriteFull(f, data, 0)
	if err == nil {
		err = f.Chmod(0o644) // writes back before it gets its name
	}
	if err == nil {
		err = f.Link(p)
	}
	return errors.Join(err, f.Close())
}

func (k kernelOps) truncate(p string, size int) error { return k.fs.Truncate(p, int64(size)) }

func (k kernelOps) fallocate(p string, mode uint32, off, n int) error {
	return k.with(p, unix.O_WRONLY, func(f posixfs.File) error { return f.Fallocate(mode, int64(off), int64(n)) })
}

func (k kernelOps) unlink(p string) error   { return k.fs.Unlink(p) }
func (k kernelOps) rmdir(p string) error    { return k.fs.Rmdir(p) }
func (k kernelOps) link(p, to string) error { return k.fs.Link(p, to) }

func (k kernelOps) rename(p, to string, flags uint32) error { return k.fs.Rename(p, to, uint(flags)) }

func (k kernelOps) setxattr(p, name string, value []byte) error {
	return k.fs.Setxattr(p, name, value, 0)
}

func (k kernelOps) removexattr(p, name string) error { return k.fs.Removexattr(p, name) }

func (k kernelOps) setattr(string, crashAttrs) (bool, error) { return false, nil }

func (k kernelOps) chown(p string, uid, gid uint32) error {
	return k.fs.Chown(p, int(uid), int(gid))
}

func (k kernelOps) chmod(p string, perm uint32) error { return k.fs.Chmod(p, perm) }

func (k kernelOps) utime(p string, mtime int64) error {
	return k.fs.Utimes(p, [2]unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Sec: mtime}}, false)
}

func (k kernelOps) setProject(string, uint32) error { return errNoOwner }

func (k kernelOps) hold(p string) (func() error, error) {
	f, err := k.fs.Open(p, unix.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	return f.Close, nil
}

func (k kernelOps) fsync(p string) error {
	st, err := k.fs.Statx(p, unix.STATX_BASIC_STATS)
	if err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFLNK {
		return k.fs.Sync() // nobody can open it
	}
	return k.with(p, unix.O_RDONLY, posixfs.File.Fsync)
}

func (k kernelOps) sync() error { return k.fs.Sync() }

// crashKernels are the generations of kernels that move data themselves.
var crashKernels = []vfs.Generation{vfs.V7, vfs.Later}

// serve puts a file server and a model of the kernel over the filesystem that is being crashed. unmount ends
// both.
func (r *crashRig) serve(t *testing.T) (ops crashOps, unmount func() error) {
	t.Helper()
	const fd = 7 // stands for the descriptor of the device
	srv := server.New(r.fs, server.Options{Iomap: server.Iomap{Mode: server.IomapOn, Device: fd, Name: "model"}})
	kernel := vfs.Mount(t, srv, vfs.Config{
		Generation: *r.config.kernel, Devices: map[int]blockdev.Device{fd: r.dev}, Options: fuse.Options{Params: srv.Params()},
	})
	return kernelOps{kernel.Posix()}, sync.OnceValue(kernel.Unmount)
}

// throughKernels are the kinds of filesystem whose files belong to root, on both kernels, or in the short run on one
// or the other.
func throughKernels() (all []crashConfig) {
	for i, c := range crashConfigs {
		if c.owners {
			continue
		}
		for j, g := range crashKernels {
			if crashPoints(0) == 0 && (i+j)%len(crashKernels) != 0 {
				continue
			}
			k := c
			k.kernel, k.name = &g, c.name+"-"+g.String()
			all = append(all, k)
		}
	}
	return all
}

// TestCrashIomapRandom is TestCrashRandom where a kernel moves the data: what it wrote and what the server was told
// of it arrive on the device in any order that flushes allow.
func TestCrashIomapRandom(t *testing.T) {
	for _, c := range throughKernels() {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			crashRandomly(t, c, time.Millisecond)
		})
	}
}

// TestCrashIomapScripts is TestCrashScripts so.
func TestCrashIomapScripts(t *testing.T) {
	if testing.Short() {
		t.Skip("there is one actor; the random histories have several")
	}
	for _, c := range throughKernels() {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			crashScripted(t, c)
		})
	}
}
