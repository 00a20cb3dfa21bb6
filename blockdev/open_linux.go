package blockdev

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// OpenFile opens and locks the image file or block device at path and reads
// nothing of it. It is the half of [Open] that needs privilege and the path; the
// descriptor may be handed to another process for [NewFile]. Of the options it
// uses ReadOnly, Lock and LockWait.
func OpenFile(path string, o Options) (*os.File, error) {
	// Opening alone has effects on other kinds of file: a fifo blocks, a tape
	// rewinds. So the kind is checked before, and again on what was opened.
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return nil, openError(path, err, o)
	}
	if err := checkKind(path, &st); err != nil {
		return nil, err
	}
	flags := unix.O_RDWR | unix.O_CLOEXEC | unix.O_NOCTTY
	if o.ReadOnly {
		flags = unix.O_RDONLY | unix.O_CLOEXEC | unix.O_NOCTTY
	}
	block := st.Mode&unix.S_IFMT == unix.S_IFBLK
	if block && o.Lock != LockNone {
		flags |= unix.O_EXCL
	}
	var fd int
	open := func() (err error) {
		fd, err = unix.Open(path, flags, 0)
		return err
	}
	err := open()
	if block && err == unix.EBUSY {
		err = retryBusy(o, open)
	}
	if err != nil {
		return nil, openError(path, err, o)
	}
	f := os.NewFile(uintptr(fd), path)
	if err := checkOpened(f, o, block); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// checkOpened does on the open file what could not be done on the path.
func checkOpened(f *os.File, o Options, block bool) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return openError(f.Name(), err, o)
	}
	if err := checkKind(f.Name(), &st); err != nil {
		return err
	}
	if isBlock := st.Mode&unix.S_IFMT == unix.S_IFBLK; isBlock != block {
		return causef(unix.EBUSY, "%s: was replaced while it was being opened; try again", f.Name())
	}
	return lock(f, &st, o)
}

// Reopen opens a file again as it is open, but with neither O_EXCL nor direct I/O.
func Reopen(f *os.File) (*os.File, error) {
	flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFL, 0)
	if err != nil {
		return nil, err
	}
	fd, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), flags&unix.O_ACCMODE|unix.O_CLOEXEC|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s again: %w", f.Name(), err)
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// LockFile locks a file that somebody else has opened, as [OpenFile] would. Of the options it
// uses Lock and LockWait.
func LockFile(f *os.File, o Options) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return openError(f.Name(), err, o)
	}
	if err := checkKind(f.Name(), &st); err != nil {
		return err
	}
	return lock(f, &st, o)
}

// NewFile makes a device of an open image file or block device. On success the
// device owns f and closes it; on failure f stays the caller's.
//
// The lock of an image file belongs to the open file: it is taken here if
// o.Lock asks for one, and is harmless to take twice. That of a block device is
// taken with O_EXCL when it is opened, so it is the opener's business. NewFile
// reads the partition table, if o.Partition asks for it. It switches the direct
// I/O flag of f, which descriptors duplicated from f share.
func NewFile(f *os.File, o Options) (*File, error) {
	name := o.Name
	if name == "" {
		name = f.Name()
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, openError(name, err, o)
	}
	if err := checkKind(name, &st); err != nil {
		return nil, err
	}
	block := st.Mode&unix.S_IFMT == unix.S_IFBLK
	if err := checkMode(f, o, block); err != nil {
		return nil, err
	}
	if err := lock(f, &st, o); err != nil {
		return nil, err
	}
	h := newOSHandle(f, block)
	g, err := h.probe(&st, o.Buffered)
	if err != nil {
		return nil, openError(name, err, o)
	}
	dev, err := newFile(h, name, g, o)
	if err != nil {
		return nil, err
	}
	if o.Behind != nil {
		dev.behind = newOSHandle(o.Behind, block)
	}
	return dev, nil
}

// checkMode refuses descriptors that cannot do what the device will ask.
func checkMode(f *os.File, o Options, block bool) error {
	flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFL, 0)
	if err != nil {
		return openError(f.Name(), err, o)
	}
	mode := flags & unix.O_ACCMODE
	switch {
	case flags&unix.O_PATH != 0 || mode == unix.O_WRONLY:
		return causef(unix.EBADF, "%s: the descriptor is not open for reading", f.Name())
	case !o.ReadOnly && mode == unix.O_RDONLY:
		return causef(unix.EROFS, "%s: the descriptor is open for reading only; ask for a read-only device", f.Name())
	case flags&unix.O_APPEND != 0:
		// Linux appends even when pwrite names an offset.
		return causef(unix.EINVAL, "%s: the descriptor is open for appending; open it without O_APPEND", f.Name())
	}
	if block && !o.ReadOnly {
		// Linux lets a write-protected device be opened for writing.
		if ro, err := unix.IoctlGetInt(int(f.Fd()), unix.BLKROGET); err == nil && ro != 0 {
			return causef(unix.EROFS, "%s: is write-protected; open it read-only", f.Name())
		}
	}
	return nil
}

// checkKind refuses everything but image files and block devices.
func checkKind(path string, st *unix.Stat_t) error {
	var kind string
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG, unix.S_IFBLK:
		return nil
	case unix.S_IFDIR:
		return causef(unix.EISDIR, "%s: is a directory; name an image file or a block device", path)
	case unix.S_IFIFO:
		kind = "a fifo or pipe"
	case unix.S_IFSOCK:
		kind = "a socket"
	case unix.S_IFCHR:
		kind = "a character device"
	default:
		kind = "neither a file nor a device"
	}
	return causef(unix.EINVAL, "%s: is %s; name an image file or a block device", path, kind)
}

// openError says what to do about an error of open.
func openError(path string, err error, o Options) error {
	var errno unix.Errno
	if !errors.As(err, &errno) {
		return fmt.Errorf("%s: %w", path, err)
	}
	remedy := ""
	switch {
	case errno == unix.EBUSY:
		return busy(path)
	case errno == unix.ENOENT || errno == unix.ENOTDIR:
		remedy = "check the path"
	case errno == unix.EACCES && !o.ReadOnly:
		remedy = "it cannot be opened for writing; open it read-only, or as a user who may write it"
	case errno == unix.EACCES || errno == unix.EPERM:
		remedy = "open it as a user who may read it"
	case errno == unix.EROFS:
		remedy = "open it read-only"
	case errno == unix.ETXTBSY:
		remedy = "it is in use for swapping or being executed"
	case errno == unix.ENXIO || errno == unix.ENODEV || errno == unix.ENOMEDIUM:
		remedy = "nothing is attached to the device"
	default:
		return fmt.Errorf("%s: %w", path, err)
	}
	return fmt.Errorf("%s: %w; %s", path, err, remedy)
}
