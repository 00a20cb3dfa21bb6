package fuseservice

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// silence is how long a server may take from one command to the next. It may have to
// recover a journal meanwhile.
var silence = 10 * time.Minute

// maxCommands is how many commands a conversation may have.
const maxCommands = 1000

// Executor does what a server asks for. Errors are told to the server by their errno. The
// order of commands has been checked, and that each is given once where that is the rule.
type Executor interface {
	// Open opens a file, which the helper sends and closes.
	Open(OpenRequest) (*os.File, error)
	FSOpen(block bool) error
	Source(name string) error
	// MountPoint says where; format is S_IFDIR, S_IFREG or 0.
	MountPoint(path string, format uint16) error
	Options(list string) error
	TableOptions(list string) error
	// Mount mounts, with flags of mount(2).
	Mount(flags uint32) error
}

// ErrNoService means that nobody listens: there are other ways of mounting.
var ErrNoService = errors.New("no service listens")

// Helper is the helper's end of a conversation. One goroutine uses it.
type Helper struct{ conn *conn }

// Dial connects to the service at a path. The error is [ErrNoService] if there is none.
func Dial(path string) (*Helper, error) {
	if len(path) >= len(unix.RawSockaddrUnix{}.Path) {
		return nil, fmt.Errorf("%s: the path of a socket has less than %d bytes", path, len(unix.RawSockaddrUnix{}.Path))
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), path)
	tv := unix.NsecToTimeval(int64(Patience)) // of a listener whose queue is full
	if err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &tv); err == nil {
		err = connect(fd, path)
	}
	if err != nil {
		f.Close()
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ECONNREFUSED) {
			return nil, fmt.Errorf("%w on %s (%v)", ErrNoService, path, err)
		}
		return nil, fmt.Errorf("connect to the service %s: %w", path, err)
	}
	h, err := NewHelper(f)
	if err != nil {
		f.Close()
	}
	return h, err
}

func connect(fd int, path string) error {
	for {
		err := unix.Connect(fd, &unix.SockaddrUnix{Name: path})
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// NewHelper takes over f, a connected socket.
func NewHelper(f *os.File) (*Helper, error) {
	c, err := newConn(f)
	if errors.Is(err, unix.ENOBUFS) {
		return nil, fmt.Errorf("%w that can be spoken to: %v", ErrNoService, err)
	}
	if err != nil {
		return nil, fmt.Errorf("the socket to the server: %w", err)
	}
	if err := c.refuseFiles(); err != nil && !errors.Is(err, unix.ENOPROTOOPT) {
		return nil, fmt.Errorf("the socket to the server: %w", err)
	}
	return &Helper{c}, nil
}

// Greet agrees on a version and hands over the arguments, of which the first is the subtype,
// and dev, an open /dev/fuse.
func (h *Helper) Greet(flags HelloFlags, args []string, dev *os.File) error {
	return explain(h.greet(flags, args, dev))
}

func (h *Helper) greet(flags HelloFlags, args []string, dev *os.File) error {
	argv, err := argsMemfd(args)
	if err != nil {
		return err
	}
	defer argv.Close()
	if err := h.conn.send(hello{Version, Version, flags}.encode(), nil); err != nil {
		return err
	}
	b, err := h.receive()
	if err != nil {
		return err
	}
	if err := decodeHelloReply(b); err != nil {
		return err
	}
	if err := h.conn.send(encodeOpenReply(0, "argv"), argv); err != nil {
		return err
	}
	return h.conn.send(encodeOpenReply(0, "fusedev"), dev)
}

// Run does what the server asks for until it says goodbye, and returns the code that it says
// it with. All else is an error.
func (h *Helper) Run(e Executor) (code uint32, err error) {
	if err := h.conn.patience(silence); err != nil {
		return 0, explain(err)
	}
	done := make(map[magic]bool)
	for range maxCommands {
		b, err := h.receive()
		if err != nil {
			return 0, explain(err)
		}
		c, bad := decodeCommand(b)
		switch c.magic {
		case 0:
			return 0, explain(bad)
		case byeCmd:
			return c.value, explain(bad)
		case openCmd, openBdevCmd:
			err = h.open(e, c.open, bad, done[mountCmd])
		default:
			if bad == nil {
				bad = inOrder(c.magic, done)
			}
			if bad == nil {
				bad = run(e, c)
			} else {
				bad = unix.EINVAL
			}
			done[c.magic] = done[c.magic] || bad == nil
			err = h.conn.send(encodeSimpleReply(errnoOf(bad)), nil)
		}
		if err != nil {
			return 0, explain(err)
		}
	}
	return 0, explain(malformedf("more than %d commands", maxCommands))
}

// inOrder says whether a command may be given now.
func inOrder(m magic, done map[magic]bool) error {
	if done[m] || done[mountCmd] || m == mountCmd && !(done[sourceCmd] && done[mntptCmd]) {
		return unix.EINVAL
	}
	return nil
}

func run(e Executor, c command) error {
	switch c.magic {
	case fsopenCmd:
		return e.FSOpen(c.value&fsopenBlock != 0)
	case sourceCmd:
		return e.Source(c.text)
	case mntptCmd:
		return e.MountPoint(c.text, uint16(c.value))
	case mntoptsCmd:
		return e.Options(c.text)
	case mtaboptsCmd:
		return e.TableOptions(c.text)
	}
	return e.Mount(c.value)
}

// open answers a command that asks for a file. bad says what is wrong with it.
func (h *Helper) open(e Executor, r OpenRequest, bad error, mounted bool) error {
	if bad != nil {
		return h.conn.send(encodeOpenReply(unix.EINVAL, "?"), nil)
	}
	if mounted {
		return h.conn.send(encodeOpenReply(unix.EINVAL, r.Path), nil)
	}
	f, err := e.Open(r)
	if err != nil {
		return h.conn.send(encodeOpenReply(errnoOf(err), r.Path), nil)
	}
	defer f.Close()
	return h.conn.send(encodeOpenReply(0, r.Path), f)
}

// receive returns what the server says. It has no descriptors to give.
func (h *Helper) receive() ([]byte, error) {
	b, fd, err := h.conn.receive()
	if fd != none {
		discard(fd)
		return nil, malformedf("a descriptor")
	}
	return b, err
}

// Close ends the conversation.
func (h *Helper) Close() { h.conn.close() }

// errnoOf is how the server is told of an error.
func errnoOf(err error) syscall.Errno {
	if err == nil {
		return 0
	}
	var errno syscall.Errno
	if errors.As(err, &errno) && errno != 0 && errno <= maxErrno {
		return errno
	}
	return unix.EIO
}

func explain(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, io.EOF), errors.Is(err, unix.EPIPE):
		return fmt.Errorf("the server ended without saying goodbye: look at its log")
	}
	return fmt.Errorf("the server: %w", err)
}
