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

// step names a message of the handshake; see the package comment.
type step string

const (
	stepStart     step = "start"     // launcher: read the image
	stepOpened    step = "opened"    // server: the image is good
	stepConnected step = "connected" // launcher: serve this connection, which is about to be mounted
	stepMounted   step = "mounted"   // launcher: this is where; serve this connection, if not yet
	stepServing   step = "serving"   // server: INIT is answered
	stepConfirmed step = "confirmed" // launcher: the mount answers
	stepEnded     step = "ended"     // server, in the foreground: orderly end
	stepFailed    step = "failed"    // server: why not
)

// message is one packet between launcher and server.
type message struct {
	Step    step         `json:"step"`
	Request *Request     `json:"request,omitempty"` // start
	Mount   *mountRecord `json:"mount,omitempty"`   // mounted
	Status  int          `json:"status,omitempty"`  // failed
	Text    string       `json:"text,omitempty"`    // failed; opened: why it is read-only

	Connection *connectionRecord `json:"connection,omitempty"` // connected, or mounted
	NoIomap    string            `json:"noIomap,omitempty"`    // opened: why the kernel cannot move its data
	Path       DataPath          `json:"path,omitzero"`        // serving

	files []*os.File
}

type mountRecord struct {
	Source    string `json:"source"`
	Dir       string `json:"dir"`
	Dev       Dev    `json:"dev"`
	StatePath string `json:"statePath"`
}

// connectionRecord describes the first descriptor.
type connectionRecord struct {
	RootNode uint64 `json:"rootNode"`
	Iomap    bool   `json:"iomap"`   // the kernel should be able to move file data itself
	Claimed  bool   `json:"claimed"` // the last descriptor keeps others off the device
}

const (
	maxMessage = 128 << 10 // bytes; a request holds a few paths
	maxFiles   = 8         // descriptors with one message
	maxText    = 4 << 10   // bytes of a sentence from the server
)

// control is one end of the socket between launcher and server. One goroutine
// sends, one receives.
type control struct{ fd int }

// newControl makes a connected pair; the second end is to be inherited.
func newControl() (*control, *os.File, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	return &control{pair[0]}, os.NewFile(uintptr(pair[1]), "control"), nil
}

func (c *control) send(m message) error {
	data, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if len(data) > maxMessage {
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
	return unix.Sendmsg(c.fd, data, oob, nil, unix.MSG_NOSIGNAL)
}

// receive returns the next message, io.EOF when the other side is gone.
func (c *control) receive() (message, error) {
	var m message
	data, oob := make([]byte, maxMessage), make([]byte, unix.CmsgSpace(4*maxFiles))
	n, oobn, flags, err := c.recvmsg(data, oob)
	if errors.Is(err, unix.ECONNRESET) {
		// The other side ended without having read everything. That comes before what it
		// sent, which is still there.
		n, oobn, flags, err = c.recvmsg(data, oob)
	}
	switch {
	case errors.Is(err, unix.ECONNRESET):
		return m, io.EOF
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
	return message{Step: stepFailed, Status: ExitStatus(err), Text: err.Error()}
}

// plain is text from the server, which has read a hostile image: it is shown as plain
// text of bounded length.
func plain(text string) string {
	if len(text) > maxText {
		text = text[:maxText] + " ..."
	}
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
