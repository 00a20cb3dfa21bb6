package fusetest

import (
	"bytes"
	"context"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"ext4box/fuse"
)

// directLink calls the session on the goroutine that sends.
type directLink struct {
	k     *Kernel
	ready chan struct{} // closed when Serve has begun
	down  chan struct{}
	once  sync.Once

	mu      sync.Mutex
	s       *fuse.Session
	idle    []*station
	running sync.WaitGroup
	closed  bool
}

// station is a worker with its buffer.
type station struct {
	w   *fuse.Worker
	buf []byte // a page-aligned region whose first page ends with the head of the reply
}

func newDirectLink(k *Kernel) *directLink {
	return &directLink{k: k, ready: make(chan struct{}), down: make(chan struct{})}
}

// Serve implements fuse.Transport.
func (l *directLink) Serve(ctx context.Context, s *fuse.Session) error {
	l.mu.Lock()
	l.s = s
	l.mu.Unlock()
	close(l.ready)
	var err error
	select {
	case <-l.down:
	case <-ctx.Done():
		err = ctx.Err()
	}
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.running.Wait()
	return err
}

// Notify implements fuse.Transport.
func (l *directLink) Notify(parts ...[]byte) error {
	var msg []byte
	for _, p := range parts {
		msg = append(msg, p...)
	}
	if errno := l.k.deliver(msg); errno != 0 {
		return errno
	}
	return nil
}

// Control implements fuse.Controller.
func (l *directLink) Control(cmd uint32, arg []byte) (int, error) { return l.k.ioctl(cmd, arg) }

func (l *directLink) hangup() { l.once.Do(func() { close(l.down) }) }

func (l *directLink) send(msg []byte) error {
	<-l.ready
	st, err := l.take()
	if err != nil {
		return err
	}
	defer l.put(st)
	page := os.Getpagesize()
	reply := fuse.Reply{Header: st.buf[page-fuse.OutHeaderSize : page], Payload: st.buf[page:]}
	n, ok := st.w.Handle(msg, reply)
	if ok {
		l.k.deliver(st.buf[page-fuse.OutHeaderSize : page+n])
	}
	if l.s.Err() != nil {
		l.hangup()
	}
	return nil
}

func (l *directLink) take() (*station, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, errLinkDown
	}
	l.running.Add(1)
	if n := len(l.idle); n > 0 {
		st := l.idle[n-1]
		l.idle = l.idle[:n-1]
		return st, nil
	}
	page := os.Getpagesize()
	raw := make([]byte, 2*page+l.s.PayloadSize())
	skip := page - int(uintptr(unsafe.Pointer(&raw[0]))%uintptr(page))
	return &station{w: l.s.NewWorker(), buf: raw[skip:]}, nil
}

func (l *directLink) put(st *station) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.idle = append(l.idle, st)
	l.running.Done()
}

// socketLink is a fuse.Device on one end of a socket pair. A packet is a message, as on the device.
//
// A notification goes through the socket like a reply, so that it stays behind the replies that were
// written before it, and Notify waits for the verdict as write(2) on the device does.
type socketLink struct {
	*fuse.Device
	k    *Kernel
	peer *os.File
	once sync.Once
	read sync.WaitGroup

	// sent counts requests. The race detector does not see that a socket orders what is before it
	// with what is behind: what calls back to the kernel looks here.
	sent atomic.Uint64

	writing  sync.Mutex // held while a notification is written, so that verdicts has their order
	mu       sync.Mutex // of what follows
	verdicts []chan syscall.Errno
	down     bool // nothing is read any more
}

func newSocketLink(k *Kernel, o fuse.DeviceOptions) (*socketLink, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	for _, fd := range fds {
		// Room for the largest message. Without privileges the limit of the system has to do.
		const room = 8 << 20
		if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, room) != nil {
			_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, room)
		}
	}
	l := &socketLink{
		Device: fuse.NewDevice(os.NewFile(uintptr(fds[0]), "fuse"), o),
		k:      k,
		peer:   os.NewFile(uintptr(fds[1]), "kernel"),
	}
	l.read.Go(l.receive)
	return l, nil
}

// Serve implements fuse.Transport.
func (l *socketLink) Serve(ctx context.Context, s *fuse.Session) error {
	err := l.Device.Serve(ctx, s)
	_ = l.Close()
	l.hangup()
	l.read.Wait()
	_ = l.peer.Close()
	return err
}

func (l *socketLink) receive() {
	fd := int(l.peer.Fd())
	buf := make([]byte, 4<<20)
	for {
		n, err := unix.Read(fd, buf)
		if err == unix.EINTR {
			continue
		}
		if n <= 0 || err != nil {
			l.k.abandon()
			l.close()
			return
		}
		if h := Value[fuse.OutHeader](buf[:n]); n >= fuse.OutHeaderSize && h.Unique == 0 && h.Error > 0 {
			// It may take as long as replies to other requests, which this loop has to read.
			msg, verdict := bytes.Clone(buf[:n]), l.expected()
			go func() { verdict <- l.k.deliver(msg) }()
			continue
		}
		l.k.deliver(buf[:n])
	}
}

// Notify implements fuse.Transport.
func (l *socketLink) Notify(parts ...[]byte) error {
	l.sent.Load()
	verdict, err := l.write(parts)
	if err != nil {
		return err
	}
	if errno := <-verdict; errno != 0 {
		return errno
	}
	return nil
}

// write writes a notification and returns where the verdict on it will come.
func (l *socketLink) write(parts [][]byte) (<-chan syscall.Errno, error) {
	l.writing.Lock()
	defer l.writing.Unlock()
	verdict := make(chan syscall.Errno, 1)
	l.mu.Lock()
	down := l.down
	if !down {
		l.verdicts = append(l.verdicts, verdict)
	}
	l.mu.Unlock()
	if down {
		return nil, syscall.ENOTCONN
	}
	if err := l.Device.Notify(parts...); err != nil {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.verdicts = slices.DeleteFunc(l.verdicts, func(c chan syscall.Errno) bool { return c == verdict })
		return nil, err
	}
	return verdict, nil
}

// Control implements fuse.Controller.
func (l *socketLink) Control(cmd uint32, arg []byte) (int, error) {
	l.sent.Load()
	return l.k.ioctl(cmd, arg)
}

// expected returns who waits for the verdict on the notification that was just read.
func (l *socketLink) expected() chan<- syscall.Errno {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.verdicts) == 0 {
		return make(chan syscall.Errno, 1) // written by a reader as a reply
	}
	c := l.verdicts[0]
	l.verdicts = l.verdicts[1:]
	return c
}

// close answers the notifications that will not be read any more.
func (l *socketLink) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.down = true
	for _, c := range l.verdicts {
		c <- syscall.ENOTCONN
	}
	l.verdicts = nil
}

func (l *socketLink) send(msg []byte) error {
	c, err := l.peer.SyscallConn()
	if err != nil {
		return err
	}
	l.sent.Add(1)
	werr := error(syscall.ENOTCONN)
	err = c.Control(func(fd uintptr) {
		werr = unix.Sendto(int(fd), msg, unix.MSG_NOSIGNAL, nil)
	})
	if err != nil {
		return errLinkDown
	}
	return werr
}

func (l *socketLink) hangup() {
	l.once.Do(func() { _ = unix.Shutdown(int(l.peer.Fd()), unix.SHUT_WR) })
}
