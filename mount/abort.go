package mount

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// connections is the kernel's list of FUSE connections, in which each can be ended.
type connections struct{ fd int }

// openConnections opens the list, without mounting it anywhere.
func openConnections() (*connections, error) {
	fs, err := unix.Fsopen("fusectl", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("fsopen fusectl: %w", err)
	}
	defer unix.Close(fs)
	if err := unix.FsconfigCreate(fs); err != nil {
		return nil, fmt.Errorf("fusectl: %w", err)
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("fsmount fusectl: %w", err)
	}
	return &connections{fd}, nil
}

// abort ends the connection of dev: everybody who waits for an answer gets an error. It
// tells whether there is such a connection; one that is about to be mounted is none yet.
func (c *connections) abort(dev *os.File) bool {
	number, ok := connectionNumber(dev)
	if !ok {
		return false
	}
	fd, err := unix.Openat(c.fd, number+"/abort", unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	_, err = unix.Write(fd, []byte("1"))
	return err == nil
}

func (c *connections) close() { unix.Close(c.fd) }

// connectionNumber is the name in the list of the connection that dev, an open /dev/fuse,
// belongs to.
func connectionNumber(dev *os.File) (string, bool) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", dev.Fd()))
	if err != nil {
		return "", false
	}
	for line := range strings.Lines(string(text)) {
		if v, ok := strings.CutPrefix(line, "fuse_connection:"); ok {
			return strings.TrimSpace(v), true
		}
	}
	return "", false
}
