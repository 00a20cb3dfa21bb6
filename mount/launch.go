package mount

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"ext4box/fuse"
)

// Request is what the launcher asks the server to do. The image and everything
// else the server needs open travel beside it, as descriptors.
type Request struct {
	Source     string          `json:"source"`     // the image, in words
	Options    Options         `json:"options"`    //
	Config     json.RawMessage `json:"config"`     // for the caller's own use
	Log        LogKind         `json:"log"`        // what standard error will be
	Foreground bool            `json:"foreground"` // stay with the launcher
	Owner      uint32          `json:"owner"`      // who mounts: what else only root may do, he may
	Group      uint32          `json:"group"`      // and his group
}

// LaunchConfig says what to start and where to put it.
type LaunchConfig struct {
	// Command is the argument list that makes this binary a server; its
	// standard input is the control socket that Serve expects.
	Command []string
	// Env is added to the server's environment.
	Env []string

	Target  *Target
	Request Request
	// Files are handed to the server, in order. Launch closes them.
	Files []*os.File
	// Block, if not nil, is the device to mount, where that is possible; the first
	// of Files is the same. Launch closes its claim.
	Block *BlockDevice
	// Log is the server's standard error: in the background from the moment it
	// leaves the terminal, /dev/null when nil; in the foreground from the
	// start, the launcher's own when nil. Launch closes it.
	Log *os.File

	// Iomap says that the kernel can move file data itself, and may: see AskIomap. The mount
	// is then made in the way that this takes, and never with the type fuseblk unless Block
	// insists on it.
	Iomap bool
	// Serving, if not nil, is told when the mount answers.
	Serving func(DataPath)

	// Warn is told what is worth a line and no reason to fail.
	Warn func(error)
}

// stopPatience is how long a server that was told to end may take before it is
// killed. It ends at once unless it is broken.
const stopPatience = 5 * time.Second

// Launch starts a server, mounts it and returns when the mount answers. In the
// foreground it returns when the server has ended.
//
// On error nothing is mounted and no server runs. Interrupt signals during the
// call have the same effect, and [StatusInterrupted].
func Launch(c LaunchConfig) error {
	l := &launcher{LaunchConfig: c}
	err := l.run()
	if err != nil {
		l.undo()
	}
	if err == errTakenOff && c.Request.Foreground {
		return nil // that is what it stayed for
	}
	return err
}

type launcher struct {
	LaunchConfig

	ctl      *control
	server   *exec.Cmd
	incoming chan message  // closed at end of file
	exited   chan struct{} // closed when the server was waited for
	signals  chan os.Signal
	mounted  *Mounted

	connected bool     // the server has a connection that is not mounted yet
	serving   *message // that the mount answers, if the server has said so
}

func (l *launcher) run() error {
	l.signals = make(chan os.Signal, 8)
	signal.Notify(l.signals, unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	defer signal.Stop(l.signals)

	if err := l.startServer(); err != nil {
		return err
	}
	request := l.Request
	files := l.Files
	if !request.Foreground {
		if l.Log == nil {
			null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
			if err != nil {
				return systemf("%w", err)
			}
			l.Log = null
		}
		files = append(files, l.Log)
	}
	err := l.ctl.send(message{Step: stepStart, Request: &request, files: files})
	closeAll(files)
	if l.Log != nil {
		l.Log.Close() // in the background, a second time
	}
	if err != nil {
		return systemf("hand the image to the server: %w", err)
	}
	opened, err := l.expect(stepOpened)
	if err != nil {
		return err
	}
	if opened.Text != "" && !l.Request.Options.ReadOnly() {
		l.Request.Options.Flags |= unix.MS_RDONLY
		l.Warn(fmt.Errorf("%s is mounted read-only: %s", l.Request.Source, opened.Text))
	}
	if l.Iomap && opened.NoIomap != "" {
		l.Iomap = false
		l.Warn(fmt.Errorf("%s: file data goes through the server: %s", l.Request.Source, plain(opened.NoIomap)))
	}
	if err := l.mount(); err != nil {
		return err
	}
	if err := l.handOver(); err != nil {
		return err
	}
	if err := l.awaitServing(); err != nil {
		return err
	}
	if err := l.tryRoot(); err != nil {
		return err
	}
	err = l.ctl.send(message{Step: stepConfirmed})
	// Whoever saw the mount may have taken it off again by now.
	gone := errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET)
	if err != nil && !gone {
		return systemf("leave the server alone: %w", err)
	}
	return l.leave(gone)
}

// awaitServing returns when the kernel and the server have agreed.
func (l *launcher) awaitServing() error {
	if l.serving == nil {
		m, err := l.expect(stepServing)
		if err != nil {
			return err
		}
		l.serving = &m
	}
	path := l.serving.Path
	path.Text = plain(path.Text)
	if !path.Iomap && l.Request.Options.Iomap == IomapOn {
		return failedf("mount option \"iomap=on\": file data would go %s", path.Text)
	}
	// A server that logs to the same terminal has said so.
	if l.Iomap && !path.Iomap && (!l.Request.Foreground || l.Log != nil) {
		l.Warn(fmt.Errorf("%s: file data goes %s", l.Request.Source, path.Text))
	}
	if l.LaunchConfig.Serving != nil {
		l.LaunchConfig.Serving(path)
	}
	return nil
}

// startServer starts this binary again, in a session of its own so that the
// terminal's signals reach the launcher only, which passes on what is meant for
// the server.
func (l *launcher) startServer() error {
	ctl, theirs, err := newControl()
	if err != nil {
		return systemf("start the server: %w", err)
	}
	defer theirs.Close()
	l.ctl = ctl
	// /proc/self/exe is this binary even when its file was replaced meanwhile.
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = l.Command
	cmd.Env = append(os.Environ(), l.Env...)
	cmd.Dir = "/"
	cmd.Stdin, cmd.Stdout, cmd.Stderr = theirs, os.Stdout, os.Stderr
	if l.Request.Foreground && l.Log != nil {
		cmd.Stderr = l.Log
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	start := cmd.Start
	if l.Iomap {
		// The kernel waits for this process while it writes files back to the device.
		start = func() error { return fuse.WithoutReclaim(cmd.Start) }
	}
	if err := start(); err != nil {
		return systemf("start the server: %w", err)
	}
	l.server, l.exited, l.incoming = cmd, make(chan struct{}), make(chan message, 4)
	go func() {
		defer close(l.incoming)
		for {
			m, err := ctl.receive()
			if err != nil {
				return
			}
			closeAll(m.files) // the server has nothing to give us
			l.incoming <- m
		}
	}()
	go func() {
		l.server.Wait()
		close(l.exited)
	}()
	return nil
}

// errTakenOff is an orderly end before the launcher was done.
var errTakenOff = failedf("the mount was taken off before it was ready")

// expect waits for the server's next message, which is to be want.
func (l *launcher) expect(want step) (message, error) {
	select {
	case m, ok := <-l.incoming:
		switch {
		case !ok:
			return m, l.died()
		case m.Step == stepFailed:
			return m, m.reported()
		case m.Step == stepEnded:
			return m, errTakenOff
		case m.Step != want:
			return m, &Error{StatusInternal, fmt.Errorf("the server says %q instead of %q", m.Step, want)}
		}
		return m, nil
	case s := <-l.signals:
		return message{}, interrupted(s)
	}
}

func interrupted(s os.Signal) error {
	return &Error{StatusInterrupted, fmt.Errorf("%v: nothing was mounted", s)}
}

func (l *launcher) died() error {
	select {
	case <-l.exited:
		return &Error{StatusInternal, fmt.Errorf("the server ended unexpectedly (%v)", l.server.ProcessState)}
	case <-time.After(stopPatience):
		return &Error{StatusInternal, errors.New("the server closed its control socket unexpectedly")}
	}
}

// handOver gives the connection and the state file to the server and keeps
// neither: a launcher that stays in the foreground must not keep the mount or
// its lock alive.
func (l *launcher) handOver() error {
	m := l.mounted
	msg := message{Step: stepMounted, Mount: &mountRecord{Source: m.Source, Dir: m.Dir, Dev: m.Dev}}
	if !l.connected {
		msg.Connection = &connectionRecord{RootNode: defaultRootNode, Iomap: l.Iomap}
		msg.files = append(msg.files, m.Fuse)
	}
	if m.Dir != "" {
		state, err := createState(m.Dev, StateRecord{PID: l.server.Process.Pid, Image: l.Request.Source, Dir: m.Dir})
		if err != nil {
			l.Warn(fmt.Errorf("'ext4box umount' will not know when the image is closed: %w", err))
		} else {
			msg.Mount.StatePath = state.path
			msg.files = append(msg.files, state.file)
		}
	}
	if claim := l.takeClaim(); claim != nil {
		msg.Connection.Claimed = true
		msg.files = append(msg.files, claim)
	}
	err := l.ctl.send(msg)
	closeAll(msg.files)
	if err != nil {
		return systemf("hand the mount to the server: %w", err)
	}
	return nil
}

// takeClaim returns what keeps others off the device, if the kernel does not, for the
// caller to close.
func (l *launcher) takeClaim() *os.File {
	if l.Block == nil {
		return nil
	}
	claim := l.Block.Claim
	l.Block.Claim = nil
	return claim
}

// tryRoot asks the mount for its root, as the first user will.
func (l *launcher) tryRoot() error {
	if l.mounted.Dir == "" {
		return nil // whoever mounted it knows where
	}
	done := make(chan error, 1)
	go func() {
		var st unix.Stat_t
		err := unix.Lstat(l.mounted.Dir, &st)
		if err == nil && st.Mode&unix.S_IFMT != unix.S_IFDIR {
			err = unix.ENOTDIR
		}
		done <- err
	}()
	select {
	case err := <-done:
		if err == nil {
			return nil
		}
		return l.serverKnows(failedf("the new mount on %s does not answer: %w", l.mounted.Dir, err))
	case s := <-l.signals:
		return interrupted(s)
	}
}

// leave returns when the server has left the terminal, or, in the foreground,
// has ended. gone tells that it has ended already.
func (l *launcher) leave(gone bool) error {
	for {
		select {
		case m, ok := <-l.incoming:
			switch {
			case ok && m.Step == stepFailed:
				return m.reported()
			case ok && m.Step == stepEnded:
				<-l.exited
				return nil
			case !ok && (gone || l.Request.Foreground):
				return l.died()
			case !ok:
				return nil
			}
		case s := <-l.signals:
			if !l.Request.Foreground {
				continue // too late: the mount is there
			}
			l.server.Process.Signal(s)
		}
	}
}

// undo takes back whatever run has done when it failed.
func (l *launcher) undo() {
	closeAll(l.Files)
	if l.Block != nil && l.Block.Claim != nil {
		l.Block.Claim.Close()
	}
	if l.Log != nil {
		l.Log.Close()
	}
	if l.mounted != nil {
		if l.mounted.Dir != "" {
			detachDevice(l.mounted.Dev, l.mounted.Source)
		}
		if l.mounted.Fuse != nil {
			l.mounted.Fuse.Close()
		}
	}
	if l.ctl == nil {
		return
	}
	l.ctl.shutdown()
	if l.server == nil || l.server.Process == nil {
		return
	}
	patience := stopPatience
	if l.mounted == nil && !l.connected {
		patience = 0 // it only reads, and may be at it for long
	}
	select {
	case <-l.exited:
	case <-time.After(patience):
		l.server.Process.Kill()
		<-l.exited
	}
}
