package fuse

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The ioctls of /dev/fuse, as encoded on machines where a read direction is 2 and a write direction 1
// (all that this package is built for).
const (
	devIocClone    = 0x8004E500 // _IOR(229, 0, uint32)
	devIocSyncInit = 0x0000E503 // _IO(229, 3); 7.45
)

// DevicePath is where the FUSE device is.
const DevicePath = "/dev/fuse"

// DeviceOptions configure a Device.
type DeviceOptions struct {
	// Readers is the largest number of requests handled at once; with fuse-iomap twice as many, if
	// all readers are busy. Default: DefaultReaders.
	Readers int
	// Spare are descriptors of DevicePath, opened for reading and writing, that are not attached to a
	// mount. Readers clone the connection onto them; a server that cannot open files any more is
	// handed Readers-1 of them. When they are used up, or there are none, the reader opens
	// DevicePath itself, and where it cannot, it uses that of the first. The Device closes them.
	Spare []*os.File
	// Sealed says that this process can have no more descriptors when Serve is called. Beyond
	// Spare, readers use that of the first without trying.
	Sealed bool
	// Rings, attached to the same connection, are how requests come if the kernel offers that and
	// fuse-iomap is not in use. The Device closes them.
	Rings *Rings
}

// DefaultReaders is the number of readers that a Device starts at most: two for each processor, since
// a reader spends about half of its time waiting for the device, but at least 16, the usual depth of
// a queue of direct I/O, and at most 32, which bounds the memory to about 32 MiB. They are started as
// requests come in at the same time, so an idle mount has two or so.
func DefaultReaders() int { return min(max(16, 2*runtime.GOMAXPROCS(0)), 32) }

// Device is the classic transport: read(2) and write(2) on /dev/fuse. Several readers, each on a
// descriptor of its own, handle requests on the goroutine that read them.
//
// An operation that blocks occupies its reader. If all do, nobody is left to read the INTERRUPT that
// would free one; operations that may wait for long, such as Setlk, have to bound that. With fuse-iomap
// somebody is left: see "Readers" in the package comment.
type Device struct {
	conn    syscall.RawConn // of shared; nil if that is closed, or no file
	readers int

	sealed bool
	shared shared
	rings  *Rings

	mu     sync.Mutex
	spare  []*os.File
	closed bool
}

// shared is the connection's descriptor, that of the first reader and of those that have none of their own.
// A reader may be left behind in read(2), so it lasts until the last one has returned, or its number could
// become another file. It is not duplicated, which a sealed process could not do.
type shared struct {
	f *os.File

	mu    sync.Mutex
	users int // with the Device, until that is closed; then f is closed too
}

// use is the descriptor for one more reader, which calls done in the end.
func (s *shared) use() (f *os.File, done func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.users == 0 {
		return nil, nil, os.ErrClosed
	}
	s.users++
	return s.f, func() { _ = s.release() }, nil
}

func (s *shared) release() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.users--; s.users == 0 {
		return s.f.Close()
	}
	return nil
}

var _ Controller = (*Device)(nil)

// NewDevice takes over f, a descriptor of DevicePath that is, or is about to be, mounted.
func NewDevice(f *os.File, o DeviceOptions) *Device {
	d := &Device{readers: o.Readers, spare: o.Spare, sealed: o.Sealed, rings: o.Rings}
	d.conn, _ = f.SyscallConn()
	d.shared = shared{f: f, users: 1}
	if d.readers <= 0 {
		d.readers = DefaultReaders()
	}
	return d
}

// maxThreads is how many threads count, which bounds what the runtime has for each.
const maxThreads = 64

// Threads is how many threads can be in system calls at once, waiting for requests or handling them.
func (d *Device) Threads() int {
	n := d.readers
	if d.rings != nil {
		n += len(d.rings.threads)
	}
	return min(n, maxThreads)
}

// SetSyncInit makes mount(2), or fsconfig(2), wait for INIT and fail if that fails. It must be called
// before mounting, and Serve must be running while mounting. ENOTTY means that the kernel is older
// than 7.45 and nothing has changed.
func (d *Device) SetSyncInit() error {
	return d.control(func(fd int) error { return unix.IoctlSetInt(fd, devIocSyncInit, 0) })
}

// Close gives up the descriptors. The connection ends when the last one is closed; readers that Serve
// had to leave behind have some.
func (d *Device) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, f := range d.spare {
		_ = f.Close()
	}
	d.spare = nil
	if d.closed {
		return os.ErrClosed
	}
	d.closed = true
	if d.rings != nil {
		d.rings.Close()
	}
	return d.shared.release()
}

// Notify implements Transport.
func (d *Device) Notify(parts ...[]byte) error {
	if d.conn == nil {
		return os.ErrInvalid
	}
	w := deviceWrites.Get().(*deviceWrite)
	defer deviceWrites.Put(w)
	w.parts = parts
	err := d.conn.Control(w.do)
	if err == nil {
		err = w.err
	}
	w.parts, w.err = nil, nil
	return err
}

// deviceWrite is what Notify needs to call RawConn.Control without an allocation.
type deviceWrite struct {
	parts [][]byte
	err   error
	do    func(fd uintptr)
}

var deviceWrites = sync.Pool{New: func() any {
	w := new(deviceWrite)
	w.do = func(fd uintptr) { _, w.err = unix.Writev(int(fd), w.parts) }
	return w
}}

// Control implements Controller.
func (d *Device) Control(cmd uint32, arg []byte) (n int, err error) {
	err = d.control(func(fd int) (err error) {
		n, err = ioctl(fd, cmd, arg)
		return err
	})
	return n, err
}

// ioctl issues an ioctl whose argument is a pointer to arg, or 0 if there is none.
func ioctl(fd int, cmd uint32, arg []byte) (int, error) {
	n, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(cmd), uintptr(unsafe.Pointer(unsafe.SliceData(arg))))
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// control calls f with the descriptor, which stays open meanwhile.
func (d *Device) control(f func(fd int) error) error {
	if d.conn == nil {
		return os.ErrInvalid
	}
	var ferr error
	if err := d.conn.Control(func(fd uintptr) { ferr = f(int(fd)) }); err != nil {
		return err
	}
	return ferr
}

// clone returns another descriptor of the connection.
func (d *Device) clone() (*os.File, error) {
	d.mu.Lock()
	var f *os.File
	if n := len(d.spare); n > 0 {
		f, d.spare = d.spare[n-1], d.spare[:n-1]
	}
	d.mu.Unlock()
	if f == nil && d.sealed {
		return nil, unix.EMFILE
	}
	if f == nil {
		fd, err := unix.Open(DevicePath, unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, fmt.Errorf("open %s: %w", DevicePath, err)
		}
		f = os.NewFile(uintptr(fd), DevicePath)
	}
	err := d.control(func(fd int) error { return unix.IoctlSetPointerInt(int(f.Fd()), devIocClone, fd) })
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("clone a FUSE connection: %w", err)
	}
	return f, nil
}

// Serve implements Transport.
func (d *Device) Serve(ctx context.Context, s *Session) error {
	// Reads are meant to block: polling costs two more system calls per request, and wakes all.
	if err := d.control(func(fd int) error { return unix.SetNonblock(fd, false) }); err != nil {
		return err
	}
	p := &readers{d: d, s: s, max: d.readers, done: make(chan struct{})}
	p.overflow.init(p)
	f, done, err := d.shared.use()
	if err != nil {
		return err
	}
	if err := p.start(f, done); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { p.finish(ctx.Err()) })
	defer stop()
	<-p.done
	return p.err
}
