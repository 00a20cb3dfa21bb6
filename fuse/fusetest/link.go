package fusetest

import (
	"context"
	"os"
	"sync"
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
type socketLink struct {
	*fuse.Device
	k    *Kernel
	peer *os.File
	once sync.Once
	read sync.WaitGroup
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
			return
		}
		l.k.deliver(buf[:n])
	}
}

func (l *socketLink) send(msg []byte) error {
	c, err := l.peer.SyscallConn()
	if err != nil {
		return err
	}
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
