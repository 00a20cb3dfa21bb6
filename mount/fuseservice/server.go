package fuseservice

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// firstFile is the descriptor that a process started by socket activation has.
const firstFile = 3

// Activated is the socket that systemd has started this process for, or nil if it has not.
// The variables that say so are for nobody else, and are removed.
func Activated() (*os.File, error) {
	pid, files := os.Getenv("LISTEN_PID"), os.Getenv("LISTEN_FDS")
	for _, name := range []string{"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID"} {
		os.Unsetenv(name)
	}
	if pid != strconv.Itoa(os.Getpid()) || files == "" {
		return nil, nil
	}
	switch n, err := strconv.Atoi(files); {
	case err != nil || n < 1:
		return nil, fmt.Errorf("LISTEN_FDS=%q is no number of descriptors", files)
	case n > 1:
		return nil, fmt.Errorf("%d sockets where there should be one: %w", n, unix.E2BIG)
	}
	var st unix.Stat_t
	if err := unix.Fstat(firstFile, &st); err != nil {
		return nil, fmt.Errorf("descriptor %d: %w", firstFile, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFSOCK {
		return nil, fmt.Errorf("descriptor %d: %w", firstFile, unix.ENOTSOCK)
	}
	family, err := unix.GetsockoptInt(firstFile, unix.SOL_SOCKET, unix.SO_DOMAIN)
	if err != nil {
		return nil, fmt.Errorf("descriptor %d: %w", firstFile, err)
	}
	if family != unix.AF_UNIX {
		return nil, fmt.Errorf("descriptor %d is a socket of another family: %w", firstFile, unix.EAFNOSUPPORT)
	}
	unix.CloseOnExec(firstFile)
	return os.NewFile(firstFile, "helper"), nil
}

// Server is the server's end of a conversation: [Server.Greet] first, then any of the others.
// An error that is a [Refusal] is the helper's answer, and the conversation goes on; all others
// end it. One goroutine uses it.
type Server struct {
	conn *conn

	Flags HelloFlags // what the helper would do
	Args  []string   // the subtype, and the arguments of the helper
	Fuse  *os.File   // /dev/fuse, not mounted yet
}

// Refusal is what the helper could, or would, not do.
type Refusal struct {
	What  string
	Errno syscall.Errno
}

func (r *Refusal) Error() string { return fmt.Sprintf("%s: %v", r.What, r.Errno) }
func (r *Refusal) Unwrap() error { return r.Errno }

// NewServer takes over f, a connected socket.
func NewServer(f *os.File) (*Server, error) {
	c, err := newConn(f)
	if err != nil {
		return nil, fmt.Errorf("the socket to the mount helper: %w", err)
	}
	return &Server{conn: c}, nil
}

// Greet agrees on a version, and receives what the helper sends unasked: Args and Fuse,
// which are the caller's then.
func (s *Server) Greet() error { return s.explain(s.greet()) }

func (s *Server) greet() error {
	b, fd, err := s.conn.receive()
	if err != nil {
		return err
	}
	if fd != none {
		discard(fd)
		return malformedf("a descriptor with the greeting")
	}
	h, err := decodeHello(b)
	if err != nil {
		return err
	}
	s.Flags = h.flags
	if err := s.conn.send(encodeHelloReply(Version), nil); err != nil {
		return err
	}
	args, err := s.file("argv")
	if err != nil {
		return err
	}
	defer args.Close()
	if s.Args, err = readArgs(args); err != nil {
		return err
	}
	dev, err := s.file("fusedev")
	if err != nil {
		return err
	}
	var st unix.Stat_t
	if err = unix.Fstat(int(dev.Fd()), &st); err == nil && (st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != unix.Mkdev(10, 229)) {
		err = malformedf("something else than /dev/fuse")
	}
	if err != nil {
		dev.Close()
		return err
	}
	s.Fuse = dev
	return nil
}

// file receives a file that has a name. A refusal of it is one.
func (s *Server) file(name string) (*os.File, error) {
	b, fd, err := s.conn.receive()
	if err != nil {
		return nil, err
	}
	errno, path, err := decodeOpenReply(b)
	switch {
	case err != nil:
	case path != name:
		err = malformedf("an answer about %q instead of %q", path, name)
	case errno == 0 && fd == none:
		err = malformedf("no descriptor of %q", name)
	case errno != 0 && fd != none:
		err = malformedf("a descriptor with an error")
	case errno != 0:
		err = &Refusal{"open " + name, errno}
	}
	if err != nil {
		discard(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

// Open has the helper open a file, which the caller closes.
func (s *Server) Open(r OpenRequest) (*os.File, error) {
	if err := s.conn.send(r.encode(), nil); err != nil {
		return nil, s.explain(err)
	}
	f, err := s.file(r.Path)
	if err != nil {
		return nil, s.explain(err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil || r.Block && st.Mode&unix.S_IFMT != unix.S_IFBLK {
		f.Close()
		return nil, s.explain(malformedf("something else than a block device"))
	}
	return f, nil
}

// Peer is who has connected. known is false where that is not to be seen, in another user
// namespace; then it is root that is returned.
func (s *Server) Peer() (uid, gid uint32, known bool) {
	c, err := unix.GetsockoptUcred(int(s.conn.file.Fd()), unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil || c.Uid == overflowID || c.Gid == overflowID {
		return 0, 0, false
	}
	return c.Uid, c.Gid, true
}

// overflowID stands for every id that a user namespace does not have.
const overflowID = 65534

// RefuseFiles says that all files are there: from now on none can be sent, as far as the
// kernel knows how to prevent it.
func (s *Server) RefuseFiles() error {
	if err := s.conn.refuseFiles(); err != nil && !errors.Is(err, unix.ENOPROTOOPT) {
		return fmt.Errorf("the socket to the mount helper: %w", err)
	}
	return nil
}

// FSOpen begins a mount, of the type fuseblk if block is set.
func (s *Server) FSOpen(block bool) error {
	flags := uint32(0)
	if block {
		flags = fsopenBlock
	}
	return s.ask("begin the mount", encodeNumber(fsopenCmd, flags))
}

// Source says what the list of mounts shows.
func (s *Server) Source(name string) error {
	return s.ask("name the source", encodeString(sourceCmd, name))
}

// MountPoint says where, in the words of the helper's arguments. format is S_IFDIR, S_IFREG
// or 0 for either.
func (s *Server) MountPoint(path string, format uint16) error {
	return s.ask("mount on "+path, encodeMountPoint(path, format))
}

// Options are mount options for the kernel.
func (s *Server) Options(list string) error {
	return s.ask("set the mount options "+list, encodeString(mntoptsCmd, list))
}

// TableOptions are mount options for the list that mount(8) keeps.
func (s *Server) TableOptions(list string) error {
	return s.ask("set the mount options "+list, encodeString(mtaboptsCmd, list))
}

// ErrLost is an end of the conversation while the helper was mounting: there may be a mount.
var ErrLost = errors.New("the mount helper is gone, and has not said whether it mounted")

// Mount mounts, with flags of mount(2). After [ErrLost] the connection tells whether it did.
func (s *Server) Mount(flags uint32) error {
	err := s.ask("mount", encodeNumber(mountCmd, flags))
	if errors.Is(err, io.EOF) {
		return ErrLost
	}
	return err
}

// Bye ends the conversation. A code other than 0 is that of a failure, with which the helper
// ends, too.
func (s *Server) Bye(code uint32) error {
	err := s.conn.send(encodeNumber(byeCmd, code), nil)
	s.Close()
	return s.explain(err)
}

// Close ends the conversation without a word.
func (s *Server) Close() { s.conn.close() }

// ask sends a command that is answered with an error or none.
func (s *Server) ask(what string, command []byte) error {
	if len(command) > maxMessage {
		return &Refusal{what, unix.E2BIG} // as the helper would say
	}
	if err := s.conn.send(command, nil); err != nil {
		if errors.Is(err, unix.EPIPE) {
			err = io.EOF
		}
		return s.explain(err)
	}
	b, fd, err := s.conn.receive()
	if err != nil {
		return s.explain(err)
	}
	if fd != none {
		discard(fd)
		return s.explain(malformedf("a descriptor with an answer that has none"))
	}
	errno, err := decodeSimpleReply(b)
	if err == nil && errno != 0 {
		err = &Refusal{what, errno}
	}
	return s.explain(err)
}

func (s *Server) explain(err error) error {
	var refusal *Refusal
	switch {
	case err == nil:
		return nil
	case errors.As(err, &refusal):
		return fmt.Errorf("the mount helper cannot %w", err)
	case errors.Is(err, io.EOF), errors.Is(err, unix.EPIPE):
		return fmt.Errorf("the mount helper is gone: %w", err)
	}
	return fmt.Errorf("the mount helper: %w", err)
}
