package mount

import (
	"errors"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"ext4box/fuse"
)

// defaultRootNode is the nodeid that the kernel gives the root directory, rootInode the one
// that makes every nodeid an inode number.
const (
	defaultRootNode = 1
	rootInode       = 2
)

// syncMount is a mount that is prepared in the way of fuse-iomap: the kernel will ask the
// server for the terms while it mounts, so that what fails then fails the mount.
type syncMount struct {
	dev         *os.File
	context     *fsContext
	connections *connections
	rootNode    uint64
}

// prepareSync does everything but mount. It fails where the kernel, or who may do what in
// this container, does not allow to mount in this way; nothing has happened then.
func (t *Target) prepareSync(source string, o *Options) (_ *syncMount, err error) {
	m := &syncMount{rootNode: defaultRootNode}
	defer func() {
		if err != nil {
			m.close()
		}
	}()
	if m.dev, err = t.openFuse(); err != nil {
		return nil, err
	}
	// Whoever waits in mount(2) for a server that has died waits for ever, unless somebody
	// ends the connection.
	if m.connections, err = openConnections(); err != nil {
		return nil, err
	}
	if m.context, err = configure(m.dev, source, o, false); err != nil {
		return nil, err
	}
	if m.context.set(param{"root_nodeid", strconv.Itoa(rootInode)}) == nil {
		m.rootNode = rootInode
	}
	if err = syncInit(m.dev); err != nil {
		return nil, err
	}
	return m, nil
}

// syncInit has mounting wait for the server's answer to INIT.
func syncInit(dev *os.File) error {
	fd, err := unix.FcntlInt(dev.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return err
	}
	d := fuse.NewDevice(os.NewFile(uintptr(fd), dev.Name()), fuse.DeviceOptions{})
	defer d.Close()
	return d.SetSyncInit()
}

func (m *syncMount) close() {
	if m.context != nil {
		m.context.close()
	}
	if m.connections != nil {
		m.connections.close()
	}
	if m.dev != nil {
		m.dev.Close()
	}
}

// abortPause is the time between two attempts to end a connection that is not there yet.
const abortPause = 10 * time.Millisecond

// mountSync mounts with the server reading already.
func (l *launcher) mountSync(m *syncMount) error {
	defer m.close()
	fd, err := unix.FcntlInt(m.dev.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return systemf("hand the connection to the server: %w", err)
	}
	theirs := os.NewFile(uintptr(fd), m.dev.Name())
	if err := l.connect(theirs, &connectionRecord{RootNode: m.rootNode, Iomap: true}); err != nil {
		return err
	}
	l.connected = true
	done := make(chan error, 1)
	go func() { done <- m.context.attach(l.Target.dir, l.Request.Options.Flags) }()
	failed, err := l.awaitMount(m, done)
	if err == nil || failed {
		mounted, merr := l.Target.mounted(nil, l.source())
		l.mounted = mounted
		err = errors.Join(err, merr)
	}
	return err
}

// awaitMount waits until the kernel has mounted. A server that fails, and a user who
// interrupts, end that. undo says that it is mounted although there is an error.
func (l *launcher) awaitMount(m *syncMount, done <-chan error) (undo bool, cause error) {
	incoming, signals := l.incoming, l.signals
	for {
		var again <-chan time.Time
		if cause != nil {
			m.connections.abort(m.dev)
			incoming, signals, again = nil, nil, time.After(abortPause)
		}
		select {
		case err := <-done:
			switch {
			case cause == errTakenOff && err != nil:
				return false, failedf("mount on %s: %w", l.Target.Path, err)
			case cause != nil:
				return err == nil, cause
			case err != nil:
				return false, l.serverKnows(failedf("mount on %s: %w", l.Target.Path, err))
			}
			return false, nil
		case msg, ok := <-incoming:
			switch {
			case !ok:
				cause = l.died()
			case msg.Step == stepServing:
				l.serving = &msg
			case msg.Step == stepFailed:
				cause = msg.reported()
			default:
				cause = errTakenOff
			}
		case s := <-signals:
			cause = interrupted(s)
		case <-again:
		}
	}
}

// serverKnows prefers what the server has to say about a failure.
func (l *launcher) serverKnows(err error) error {
	for {
		select {
		case m, ok := <-l.incoming:
			switch {
			case !ok:
				return err
			case m.Step == stepFailed:
				return m.reported()
			case m.Step == stepEnded && l.mounted != nil:
				return errTakenOff
			case m.Step == stepEnded:
				return err
			}
		case <-time.After(time.Second):
			return err
		}
	}
}
