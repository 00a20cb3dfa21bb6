package mount

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode"

	"golang.org/x/sys/unix"
)

// step names a message; see the package comment.
type step string

const (
	stepStart     step = "start"     // keeper: read the image
	stepOpened    step = "opened"    // server: the image is good
	stepConnected step = "connected" // keeper: serve this connection, which is mounted or about to be
	stepServing   step = "serving"   // server: INIT is answered
	stepConfirmed step = "confirmed" // keeper: the mount answers
	stepEnded     step = "ended"     // server: orderly end, as far as the keeper is told
	stepFailed    step = "failed"    // server: why not

	stepGroup   step = "group"   // server: is this process in that group?
	stepMember  step = "member"  // keeper: the answer
	stepUnmount step = "unmount" // server: somebody told me to end
	stepEnd     step = "end"     // keeper: end, whoever uses the mount
)

// message is one packet between keeper and server.
type message struct {
	Step    step     `json:"step"`
	Request *Request `json:"request,omitempty"` // start
	Status  int      `json:"status,omitempty"`  // failed
	Text    string   `json:"text,omitempty"`    // failed; opened: why it is read-only

	Connection *connectionRecord `json:"connection,omitempty"` // connected
	NoIomap    string            `json:"noIomap,omitempty"`    // opened: why the kernel cannot move its data
	NoUring    string            `json:"noUring,omitempty"`    // opened: why there are no rings
	Missing    []string          `json:"missing,omitempty"`    // opened: what the box lacks
	Path       DataPath          `json:"path,omitzero"`        // serving

	Seq    uint32 `json:"seq,omitempty"` // group, and its answer
	PID    uint32 `json:"pid,omitempty"` // group
	GID    uint32 `json:"gid,omitempty"` // group
	Member bool   `json:"member,omitempty"`

	files []*os.File
}

// connectionRecord describes the first descriptor.
type connectionRecord struct {
	RootNode uint64 `json:"rootNode"`
	Iomap    bool   `json:"iomap"`   // the kernel should be able to move file data itself
	Claimed  bool   `json:"claimed"` // the last descriptor keeps others off the device
}

const (
	maxRequest = 128 << 10 // bytes of the message that holds a few paths
	maxMessage = 32 << 10  // bytes of any other
	maxFiles   = 64        // descriptors with one message
	maxText    = 4 << 10   // bytes of a sentence from the server
)

// control is one end of the socket between keeper and server. Several goroutines may send,
// one receives.
type control struct{ fd int }

// newControl makes a connected pair; the second end is to be inherited.
func newControl() (*control, *os.File, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	return &control{pair[0]}, os.NewFile(uintptr(pair[1]), "control"), nil
}

// send does not wait for the other side to make room: a few messages always fit, and one that
// has filled the socket without reading has nothing to say that matters.
func (c *control) send(m message) error {
	data, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if len(data) > maxMessage && (m.Step != stepStart || len(data) > maxRequest) {
		return fmt.Errorf("a message of %d bytes is too long", len(data))
	}
	var oob []byte
	if len(m.files) > 0 {
		fds := make([]int, len(m.files))
		for i, f := range m.files {
			fds[i] = int(f.Fd())
		}
		oob = unix.UnixRights(fds...)
	}
	return unix.Sendmsg(c.fd, data, oob, nil, unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT)
}

// tell is send in the box, where there is only write(2). It waits for room.
func (c *control) tell(m message) error {
	data, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if len(data) > maxMessage {
		return fmt.Errorf("a message of %d bytes is too long", len(data))
	}
	for {
		if _, err = unix.Write(c.fd, data); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// hear returns the next message, without descriptors, io.EOF when the other side is gone. It
// takes nothing but read(2), and what was sent with the message is lost. buf limits its size. What makes
// no sense is a message without a step: whoever waits for room to say more is not to wait for ever.
func (c *control) hear(buf []byte) (message, error) {
	var m message
	n, err := c.read(buf)
	if errors.Is(err, unix.ECONNRESET) {
		// The other side ended without having read everything. That comes before what it
		// sent, which is still there.
		n, err = c.read(buf)
	}
	switch {
	case errors.Is(err, unix.ECONNRESET):
		return m, io.EOF
	case err != nil:
		return m, err
	case n == 0:
		return m, io.EOF
	}
	if json.Unmarshal(buf[:n], &m) != nil {
		return message{}, nil
	}
	return m, nil
}

func (c *control) read(buf []byte) (int, error) {
	for {
		n, err := unix.Read(c.fd, buf)
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

// receive is hear for a message with descriptors.
func (c *control) receive() (message, error) {
	var m message
	data, oob := make([]byte, maxRequest), make([]byte, unix.CmsgSpace(4*maxFiles))
	n, oobn, flags, err := c.recvmsg(data, oob)
	switch {
	case err != nil:
		return m, err
	case n == 0 && oobn == 0:
		return m, io.EOF
	}
	files, err := filesOf(oob[:oobn])
	if err != nil {
		return m, err
	}
	if flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		err = errors.New("a message was cut off")
	} else {
		err = json.Unmarshal(data[:n], &m)
	}
	if err != nil {
		closeAll(files)
		return message{}, err
	}
	m.files = files
	return m, nil
}

func (c *control) recvmsg(data, oob []byte) (n, oobn, flags int, err error) {
	for {
		n, oobn, flags, _, err = unix.Recvmsg(c.fd, data, oob, unix.MSG_CMSG_CLOEXEC)
		if !errors.Is(err, unix.EINTR) {
			return n, oobn, flags, err
		}
	}
}

// shutdown ends both directions, also for a receive that is under way.
func (c *control) shutdown() { unix.Shutdown(c.fd, unix.SHUT_RDWR) }

// failure is the message that reports err.
func failure(err error) message {
	return message{Step: stepFailed, Status: ExitStatus(err), Text: plain(err.Error())}
}

// plain is text from the server, which has read a hostile image: it is shown as plain
// text of bounded length.
func plain(text string) string {
	if len(text) > maxText {
		text = text[:maxText] + " ..."
	}
	return plainLine(text)
}

// plainLine is plain text of any length.
func plainLine(text string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, strings.ToValidUTF8(text, "?"))
}

// reported is the error of a failed message.
func (m *message) reported() error {
	text := plain(m.Text)
	status := m.Status
	switch status {
	case StatusUsage, StatusSystem, StatusInternal, StatusInterrupted:
	default:
		status = StatusFailed
	}
	return &Error{status, errors.New(text)}
}
