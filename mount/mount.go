package mount

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"ext4box/fuse"
)

// Mounted is a connection that is attached to the tree.
type Mounted struct {
	Fuse   *os.File // the connection, /dev/fuse; the caller closes it. nil: the server has it
	Source string   // as shown
	Dir    string   // where, without symbolic links; empty when not known
	Dev    Dev      // the mount's device number; zero when not known

	helper bool // fusermount3 has mounted it, and has to unmount it
}

// Target is the place a server is to be put on, looked at once: a directory, or a
// connection that somebody else has mounted or is about to.
type Target struct {
	Path string // without symbolic links; empty for a connection

	dir   *os.File // O_PATH
	fuse  *os.File
	iomap bool // connections are to have fuse-iomap
}

// OpenTarget looks at the place to mount on. "/dev/fd/N" is the open /dev/fuse
// descriptor N of this process; everything else is a directory.
//
// It fails before anything was started or opened, so the caller checks the
// target first.
func OpenTarget(path string) (*Target, error) {
	if n, ok := strings.CutPrefix(path, "/dev/fd/"); ok {
		return openConnection(path, n)
	}
	fd, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, unix.ENOENT):
		return nil, failedf("mount point %s does not exist: create the directory first", path)
	case errors.Is(err, unix.ENOTDIR):
		return nil, failedf("mount point %s is not a directory", path)
	case errors.Is(err, unix.ENOTCONN):
		return nil, deadError(path)
	case errors.Is(err, unix.EACCES):
		return nil, usagef("mount point %s cannot be reached: %w", path, err)
	case err != nil:
		return nil, failedf("mount point %s: %w", path, err)
	}
	dir := os.NewFile(uintptr(fd), path)
	real, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
	if err != nil {
		dir.Close()
		return nil, systemf("mount point %s: %w (is /proc mounted?)", path, err)
	}
	return &Target{Path: real, dir: dir}, nil
}

func openConnection(path, number string) (*Target, error) {
	fd, err := strconv.ParseUint(number, 10, 31)
	if err != nil {
		return nil, usagef("%s is not the name of an open descriptor", path)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(fd), &st); err != nil {
		return nil, usagef("%s is not open: %w", path, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != unix.Mkdev(10, 229) {
		return nil, usagef("%s is not an open /dev/fuse", path)
	}
	unix.CloseOnExec(int(fd))
	return &Target{fuse: os.NewFile(uintptr(fd), path)}, nil
}

// Close closes what the target has open, and nothing that was mounted.
func (t *Target) Close() {
	if t.dir != nil {
		t.dir.Close()
	}
}

// Check refuses a target at which source is mounted already.
func (t *Target) Check(source string) error {
	if t.dir == nil {
		return nil
	}
	mounts, err := Mounts()
	if err != nil {
		return err
	}
	i, ok := top(mounts, t.Path)
	switch {
	case !ok || !ours(i.Type):
		return nil
	case t.serverGone():
		return deadError(t.Path)
	case i.Source == source:
		return failedf("%s is already mounted on %s", source, t.Path)
	}
	return nil
}

// serverGone tells whether the mount at the target has lost its server: opening
// the directory does not show it. A server that does not answer at once is there.
func (t *Target) serverGone() bool {
	fd, err := unix.FcntlInt(t.dir.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return false
	}
	gone := make(chan bool, 1)
	go func() {
		defer unix.Close(fd)
		var st unix.Statfs_t
		err := unix.Fstatfs(fd, &st)
		gone <- errors.Is(err, unix.ENOTCONN) || errors.Is(err, unix.ECONNABORTED)
	}()
	select {
	case g := <-gone:
		return g
	case <-time.After(time.Second):
		return false
	}
}

func deadError(path string) error {
	return failedf("mount point %s holds a mount whose server is gone: "+
		"take it off with 'ext4box umount %s'", path, path)
}

// Mount attaches a new connection, shown with the given source, to the target.
//
// It mounts by itself where it may and through fusermount3 where it may not. On
// error nothing is mounted. The connection answers nothing until somebody
// serves [Mounted.Fuse].
func (t *Target) Mount(source string, o Options) (*Mounted, error) {
	if o.FSName != "" {
		source = o.FSName
	}
	if t.fuse != nil {
		return &Mounted{Fuse: t.fuse, Source: source}, nil
	}
	dev, err := t.openFuse()
	if err != nil {
		return nil, err
	}
	if mayMount() {
		err = mountKernel(dev, t.dir, source, &o, false)
	} else {
		err = unix.EPERM
	}
	helper := errors.Is(err, unix.EPERM)
	if helper {
		// In a user namespace that does not own the mount namespace, having
		// the capability is not enough.
		dev.Close()
		dev, err = mountFusermount(t.Path, source, &o)
		if err != nil {
			return nil, err
		}
	}
	if err != nil {
		dev.Close()
		return nil, failedf("mount on %s: %w", t.Path, err)
	}
	m, err := t.mounted(dev, source)
	if m != nil {
		m.helper = helper
	}
	return m, err
}

// mounted describes what was just mounted.
func (t *Target) mounted(dev *os.File, source string) (*Mounted, error) {
	m := &Mounted{Fuse: dev, Source: source, Dir: t.Path}
	var err error
	if m.Dev, err = deviceAt(t.Path); err != nil {
		if dev != nil {
			dev.Close()
		}
		detach(t.Path, unix.MNT_DETACH)
		return nil, err
	}
	return m, nil
}

// openFuse opens the FUSE device for a mount here.
func (t *Target) openFuse() (*os.File, error) {
	dev, err := openFuse()
	if err == nil && t.iomap {
		// The server has no capabilities. Where this is refused the kernel may still offer
		// fuse-iomap, for the sake of who mounts.
		_ = fuse.AddIomap(dev)
	}
	return dev, err
}

// openFuse opens the FUSE device. Not by os.Open, which makes the descriptor
// non-blocking for Go's poller, and so for whoever gets to serve it.
func openFuse() (*os.File, error) {
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return nil, failedf("this machine has no /dev/fuse: load the module with 'modprobe fuse', " +
			"or start the container with '--device /dev/fuse'")
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return nil, usagef("no permission to open /dev/fuse: run as root, or have root do 'chmod 666 /dev/fuse'")
	case err != nil:
		return nil, systemf("open /dev/fuse: %w", err)
	}
	return os.NewFile(uintptr(fd), "/dev/fuse"), nil
}

// deviceAt is the device number of the mount at dir. It asks the kernel only,
// never the server, which may not run yet.
func deviceAt(dir string) (Dev, error) {
	var st unix.Statx_t
	flags := unix.AT_STATX_DONT_SYNC | unix.AT_NO_AUTOMOUNT | unix.AT_SYMLINK_NOFOLLOW
	if err := unix.Statx(unix.AT_FDCWD, dir, flags, 0, &st); err != nil {
		return Dev{}, systemf("look at the new mount on %s: %w", dir, err)
	}
	return Dev{st.Dev_major, st.Dev_minor}, nil
}
