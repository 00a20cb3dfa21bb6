package fuseservice

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Patience is how long the other end may take to answer, or to take a message.
const Patience = time.Minute

// minBuffer is what a socket has to be able to send: the longest OPEN_CMD, in bytes.
const minBuffer = openHead + unix.PathMax + 1

// maxFiles is the number of descriptors for which there is room in a message, to see that
// there are too many and close them.
const maxFiles = 16

// conn is a connected socket. One goroutine uses it.
type conn struct{ file *os.File }

// newConn takes over f, which is connected.
func newConn(f *os.File) (*conn, error) {
	fd := int(f.Fd())
	if typ, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE); err != nil {
		return nil, err
	} else if typ != unix.SOCK_SEQPACKET {
		return nil, fmt.Errorf("the socket is none of packets (SOCK_SEQPACKET): %w", unix.EPROTOTYPE)
	}
	size, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF)
	if err != nil {
		return nil, err
	}
	if size < minBuffer {
		return nil, fmt.Errorf("the socket's buffer of %d bytes is too small: %w", size, unix.ENOBUFS)
	}
	c := &conn{f}
	if err := unix.SetNonblock(fd, false); err != nil {
		return nil, err
	}
	tv := unix.NsecToTimeval(int64(Patience))
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &tv); err != nil {
		return nil, err
	}
	return c, c.patience(Patience)
}

// patience sets how long receive waits.
func (c *conn) patience(d time.Duration) error {
	tv := unix.NsecToTimeval(int64(d))
	return unix.SetsockoptTimeval(int(c.file.Fd()), unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv)
}

// refuseFiles has the kernel keep the other end from sending descriptors.
// ENOPROTOOPT: the kernel cannot (before Linux 6.16).
func (c *conn) refuseFiles() error {
	return unix.SetsockoptInt(int(c.file.Fd()), unix.SOL_SOCKET, unix.SO_PASSRIGHTS, 0)
}

// send sends a message, and f with it if that is not nil.
func (c *conn) send(b []byte, f *os.File) error {
	var oob []byte
	if f != nil {
		oob = unix.UnixRights(int(f.Fd()))
	}
	for {
		err := unix.Sendmsg(int(c.file.Fd()), b, oob, nil, unix.MSG_EOR|unix.MSG_NOSIGNAL)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN):
			return errSilent
		}
		return err
	}
}

// errSilent is the end of Patience.
var errSilent = &Error{"it does not answer", unix.ETIMEDOUT}

// none is no descriptor.
const none = -1

// receive returns the next message, and the descriptor that came with it, or none. At the end
// of the conversation the error is io.EOF.
func (c *conn) receive() ([]byte, int, error) {
	b, oob := make([]byte, maxMessage), make([]byte, unix.CmsgSpace(4*maxFiles))
	n, oobn, flags, err := c.recvmsg(b, oob)
	if errors.Is(err, unix.ECONNRESET) {
		// The other end is gone and has not read everything. This comes before what it sent.
		n, oobn, flags, err = c.recvmsg(b, oob)
	}
	switch {
	case errors.Is(err, unix.ECONNRESET):
		return nil, none, io.EOF
	case errors.Is(err, unix.EAGAIN):
		return nil, none, errSilent
	case err != nil:
		return nil, none, err
	}
	fd, err := oneFile(oob[:oobn])
	switch {
	case flags&unix.MSG_CTRUNC != 0:
		err = &Error{"a descriptor that it sent has been taken away on its way", unix.EBADMSG}
	case err == nil && flags&unix.MSG_TRUNC != 0:
		err = malformedf("more than %d bytes", maxMessage)
	case err == nil && n == 0 && oobn == 0:
		err = io.EOF
	}
	if err != nil {
		discard(fd)
		return nil, none, err
	}
	return b[:n], fd, nil
}

// discard closes a descriptor that nobody has asked for.
func discard(fd int) {
	if fd != none {
		unix.Close(fd)
	}
}

func (c *conn) recvmsg(b, oob []byte) (n, oobn, flags int, err error) {
	for {
		n, oobn, flags, _, err = unix.Recvmsg(int(c.file.Fd()), b, oob, unix.MSG_CMSG_CLOEXEC)
		if !errors.Is(err, unix.EINTR) {
			return n, oobn, flags, err
		}
	}
}

// oneFile is the descriptor in control messages that hold one, or none if there are no
// messages. All others are closed.
func oneFile(oob []byte) (int, error) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return none, malformedf("%v", err)
	}
	var fds []int
	good := len(messages) <= 1
	for i := range messages {
		got, err := unix.ParseUnixRights(&messages[i])
		good = good && err == nil && len(got) == 1
		fds = append(fds, got...)
	}
	if good && len(fds) == 1 {
		return fds[0], nil
	}
	for _, fd := range fds {
		unix.Close(fd)
	}
	if !good {
		return none, malformedf("%d control messages, %d descriptors", len(messages), len(fds))
	}
	return none, nil
}

func (c *conn) close() {
	unix.Shutdown(int(c.file.Fd()), unix.SHUT_RDWR)
	c.file.Close()
}
