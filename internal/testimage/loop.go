package testimage

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// RequireRoot skips tests that need loop devices, mounts or the like.
func RequireRoot(tb testing.TB) {
	tb.Helper()
	if os.Geteuid() != 0 {
		tb.Skip("needs root for loop mounts")
	}
	if _, err := os.Stat("/dev/loop-control"); err != nil {
		tb.Skip("needs loop devices: /dev/loop-control is missing")
	}
}

// A loop is a loop device attached to an image.
type loop struct {
	path string
	file *os.File
	once sync.Once
}

// newLoop puts a part of the image, from offset to its end, on a free loop
// device. The device goes away with its last user.
func newLoop(image string, offset int64, readOnly bool) (*loop, error) {
	mode := os.O_RDWR
	var flags uint32 = unix.LO_FLAGS_AUTOCLEAR
	if readOnly {
		mode = os.O_RDONLY
		flags |= unix.LO_FLAGS_READ_ONLY
	}
	backing, err := os.OpenFile(image, mode, 0)
	if err != nil {
		return nil, err
	}
	defer backing.Close()
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer control.Close()
	// Others take devices too: the free one we are told of may be gone when
	// we configure it.
	for range 100 {
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, fmt.Errorf("LOOP_CTL_GET_FREE: %w", err)
		}
		path := "/dev/loop" + strconv.Itoa(n)
		dev, err := os.OpenFile(path, mode, 0)
		if err != nil {
			return nil, err
		}
		config := unix.LoopConfig{Fd: uint32(backing.Fd())}
		config.Info.Flags = flags
		config.Info.Offset = uint64(offset)
		err = unix.IoctlLoopConfigure(int(dev.Fd()), &config)
		if err == nil {
			return &loop{path: path, file: dev}, nil
		}
		dev.Close()
		if !errors.Is(err, unix.EBUSY) {
			return nil, fmt.Errorf("LOOP_CONFIGURE %s: %w", path, err)
		}
		time.Sleep(time.Millisecond)
	}
	return nil, errors.New("no free loop device")
}

func (l *loop) detach() { l.once.Do(func() { l.file.Close() }) }

// Attach puts an image on a loop device until the test ends and returns its
// path.
func Attach(tb testing.TB, image string, readOnly bool) string {
	tb.Helper()
	RequireRoot(tb)
	l, err := newLoop(image, 0, readOnly)
	if err != nil {
		tb.Fatalf("testimage: attaching %s: %v", image, err)
	}
	tb.Cleanup(l.detach)
	return l.path
}

// A Mount is an image mounted by the kernel.
type Mount struct {
	Dir     string
	Device  string // the block device, /dev/loopN
	loops   []*loop
	mounted bool
}

// MountRO mounts the image by the kernel from a device that cannot be
// written. Options are ext4's own, comma separated.
func MountRO(tb testing.TB, img *Image, options string) *Mount {
	tb.Helper()
	return mountImage(tb, img, unix.MS_RDONLY|unix.MS_NOATIME, true, options)
}

// MountRW mounts the image for filling it.
func MountRW(tb testing.TB, img *Image, options string) *Mount {
	tb.Helper()
	return mountImage(tb, img, unix.MS_NOATIME, false, options)
}

func mountImage(tb testing.TB, img *Image, flags uintptr, readOnly bool, options string) *Mount {
	tb.Helper()
	m, err := tryMount(tb, img, flags, readOnly, options)
	if err != nil {
		tb.Fatalf("testimage: %v", err)
	}
	return m
}

func tryMount(tb testing.TB, img *Image, flags uintptr, readOnly bool, options string) (*Mount, error) {
	tb.Helper()
	RequireRoot(tb)
	m := &Mount{Dir: tb.TempDir()}
	dev, err := newLoop(img.Path, 0, readOnly)
	if err != nil {
		return nil, fmt.Errorf("attaching %s: %w", img.Path, err)
	}
	m.loops = append(m.loops, dev)
	tb.Cleanup(func() {
		if err := m.Unmount(); err != nil {
			tb.Errorf("testimage: %v", err)
		}
	})
	if img.Journal != "" {
		journal, err := newLoop(img.Journal, 0, readOnly)
		if err != nil {
			return nil, fmt.Errorf("attaching %s: %w", img.Journal, err)
		}
		m.loops = append(m.loops, journal)
		options = strings.TrimPrefix(options+",journal_path="+journal.path, ",")
	}
	err = unix.Mount(dev.path, m.Dir, "ext4", flags, options)
	for i := 0; errors.Is(err, unix.EBUSY) && i < 100; i++ {
		time.Sleep(10 * time.Millisecond) // somebody looks at the new device
		err = unix.Mount(dev.path, m.Dir, "ext4", flags, options)
	}
	if err != nil {
		return nil, fmt.Errorf("the kernel does not mount %s (%s): %w", img.Path, options, err)
	}
	m.mounted, m.Device = true, dev.path
	return m, nil
}

// Unmount unmounts and detaches. It may be called again.
func (m *Mount) Unmount() error {
	var err error
	if m.mounted {
		err = unix.Unmount(m.Dir, 0)
		for i := 0; errors.Is(err, unix.EBUSY) && i < 100; i++ {
			time.Sleep(10 * time.Millisecond) // a just closed file may linger
			err = unix.Unmount(m.Dir, 0)
		}
		if err != nil {
			err = fmt.Errorf("unmounting %s: %w", m.Dir, err)
			_ = unix.Unmount(m.Dir, unix.MNT_DETACH)
		}
		m.mounted = false
		m.awaitGone()
	}
	for _, l := range m.loops {
		l.detach()
	}
	return err
}

// awaitGone waits, not for ever, until nobody has the filesystem mounted: a mount namespace that was made
// meanwhile, by a process in a box, has a copy of the mount for a while, and until that is gone not everything has
// reached the image.
func (m *Mount) awaitGone() {
	for range 500 {
		f, err := os.OpenFile(m.Device, os.O_RDONLY|unix.O_EXCL, 0)
		if err == nil {
			f.Close()
		}
		if !errors.Is(err, unix.EBUSY) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// Shutdown stops the filesystem where it stands, as a power cut would: nothing
// more reaches the image, not even when it is unmounted.
func (m *Mount) Shutdown() error {
	const (
		ioctlShutdown = 0x8004587d // EXT4_IOC_SHUTDOWN, _IOR('X', 125, __u32)
		noLogFlush    = 2
	)
	how := uint32(noLogFlush)
	return ioctlPath(m.Dir, ioctlShutdown, unsafe.Pointer(&how))
}

func ioctlPath(path string, req uintptr, arg unsafe.Pointer) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, f.Fd(), req, uintptr(arg)); e != 0 {
		return e
	}
	return nil
}
