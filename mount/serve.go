package mount

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"slices"

	"golang.org/x/sys/unix"
)

// Service is a file system that was opened and can be served. Its methods are
// called once each, in the order of their declaration.
type Service interface {
	// ReadOnly says why the file system cannot be written, or nothing.
	ReadOnly() string
	// NoIomap says why the kernel cannot move the data of its files itself, as far as that
	// is known before there is a mount, or nothing.
	NoIomap() string
	// Serve answers the requests on the connection until the file system is unmounted
	// (nil), ctx is done, or the connection fails. It calls ready when the
	// mount answers.
	Serve(ctx context.Context, c Connection, ready func(DataPath)) error
	// Close closes the image.
	Close() error
}

// Connection is what a server is given to serve.
type Connection struct {
	Fuse     *os.File // /dev/fuse, mounted or about to be
	RootNode uint64   // the nodeid of the root directory
	// Claim keeps others off the image's device, if that is not the kernel's part; else nil.
	// The service closes it when it has closed the image.
	Claim *os.File
}

// DataPath says which way the data of files goes.
type DataPath struct {
	Iomap bool   `json:"iomap"` // the kernel moves it itself
	Text  string `json:"text"`  // in words, with the reason
}

// Opener opens what the request names. It owns the files.
type Opener func(r *Request, files []*os.File) (Service, error)

// Serve is the server's side of [Launch]. It returns when the mount is gone, or
// was never made; in either case the image is closed. Errors have been reported
// to whoever was there to hear them.
//
// SIGINT, SIGTERM and SIGHUP unmount. A mount that is in use is detached from the
// tree and served until its last user is gone; a second signal ends it at once,
// and what is still open then fails with ENOTCONN.
func Serve(ctl *os.File, open Opener) error {
	s := &service{ctl: &control{int(ctl.Fd())}}
	err := s.run(open)
	switch {
	case !s.background && err != nil:
		s.ctl.send(failure(err))
	case !s.background:
		s.ctl.send(message{Step: stepEnded})
	case err != nil:
		s.request.NewLogger().Error("the mount ended", "source", s.request.Source, "err", err)
	}
	return err
}

type service struct {
	ctl        *control
	request    *Request
	log        *os.File
	mount      mountRecord // as far as it is known
	mounted    bool        // it is
	iomap      bool        // the kernel should be able to move file data itself
	path       DataPath    // once the mount answers
	background bool
	state      *State
	claim      *os.File
}

func (s *service) run(open Opener) (err error) {
	start, err := s.receive(stepStart)
	if err != nil {
		return err
	}
	s.request = start.Request
	if s.request == nil {
		return errors.New("the launcher sent no request")
	}
	files := start.files
	if n := len(files); !s.request.Foreground && n > 0 {
		s.log, files = files[n-1], files[:n-1]
	}
	fs, err := open(s.request, files)
	if err != nil {
		return err
	}
	// The image is closed before the state file's lock goes: that is what the
	// lock stands for.
	defer func() {
		if cerr := fs.Close(); err == nil && cerr != nil {
			err = fmt.Errorf("close the image: %w", cerr)
		}
		if s.claim != nil {
			s.claim.Close()
		}
		s.state.remove()
		s.state.Close()
	}()
	if err := s.ctl.send(message{Step: stepOpened, Text: fs.ReadOnly(), NoIomap: fs.NoIomap()}); err != nil {
		return err
	}
	m, err := s.receive(stepConnected, stepMounted)
	if err != nil {
		return err
	}
	if m.Connection == nil || len(m.files) < 1 {
		closeAll(m.files)
		return errors.New("the launcher sent no connection")
	}
	c := Connection{Fuse: m.files[0], RootNode: m.Connection.RootNode}
	m.files = m.files[1:]
	if n := len(m.files); m.Connection.Claimed && n > 0 {
		c.Claim = m.files[n-1]
		s.claim = c.Claim
		m.files = m.files[:n-1]
	}
	s.iomap = m.Connection.Iomap
	s.placed(m)
	return s.serve(fs, c)
}

// placed takes over where the mount is, if the message says so.
func (s *service) placed(m message) {
	if m.Step != stepMounted || m.Mount == nil {
		closeAll(m.files)
		return
	}
	s.mount, s.mounted = *m.Mount, true
	if len(m.files) > 0 {
		s.state = &State{file: m.files[0], path: s.mount.StatePath}
	}
}

func (s *service) receive(want ...step) (message, error) {
	m, err := s.ctl.receive()
	if err != nil {
		return m, fmt.Errorf("the launcher is gone: %w", err)
	}
	if !slices.Contains(want, m.Step) {
		closeAll(m.files)
		return m, fmt.Errorf("the launcher says %q instead of %q", m.Step, want[0])
	}
	return m, nil
}

// serve runs the session and everything that can end it.
func (s *service) serve(fs Service, c Connection) error {
	defer c.Fuse.Close()
	ctx, abort := context.WithCancel(context.Background())
	defer abort()
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	defer signal.Stop(signals)

	ready, ended := make(chan DataPath, 1), make(chan error, 1)
	go func() { ended <- fs.Serve(ctx, c, func(p DataPath) { ready <- p }) }()
	said := s.watchLauncher()
	launcher := said

	stop := stopper{mount: &s.mount, abort: abort}
	for {
		select {
		case err := <-ended:
			if stop.asked && errors.Is(err, context.Canceled) {
				return nil
			}
			if err == nil && !s.mounted {
				// Somebody was faster than the launcher, or it could not go through with it.
				for m := range said {
					if s.placed(m); s.mounted {
						break
					}
				}
			}
			return err
		case s.path = <-ready:
			if s.request.Foreground {
				s.logPath()
			}
			if s.ctl.send(message{Step: stepServing, Path: s.path}) != nil {
				stop.now() // the launcher is gone, and nobody has seen the mount
			}
		case m, ok := <-launcher:
			switch {
			case !ok:
				launcher = nil
				stop.now()
			case m.Step == stepMounted:
				s.placed(m)
			case !s.request.Foreground:
				launcher = nil
				s.leave()
				s.logPath()
			}
		case <-signals:
			stop.now()
		}
	}
}

// logPath tells the log which way data goes. On a kernel that knows only one there is nothing
// to tell, unless somebody wants to know everything.
func (s *service) logPath() {
	level := slog.LevelDebug
	switch {
	case s.path.Iomap:
		level = slog.LevelInfo
	case s.iomap:
		level = slog.LevelWarn
	}
	s.request.NewLogger().Log(context.Background(), level, "file data goes "+s.path.Text, "source", s.request.Source)
}

// watchLauncher passes on what the launcher says, until it has confirmed the mount or is
// gone. A launcher that stays in the foreground is watched further: when it is
// killed the server ends too.
func (s *service) watchLauncher() <-chan message {
	told := make(chan message, 2)
	go func() {
		defer close(told)
		for {
			m, err := s.ctl.receive()
			switch {
			case err != nil:
				return
			case m.Step == stepMounted:
				told <- m
			case m.Step == stepConfirmed:
				told <- m
				if !s.request.Foreground {
					return
				}
			default:
				closeAll(m.files)
				return
			}
		}
	}()
	return told
}

// leave turns the server into a background process: whoever started it must not
// wait for it on any descriptor.
func (s *service) leave() {
	s.background = true
	if s.log != nil {
		unix.Dup3(int(s.log.Fd()), 2, 0)
		s.log.Close()
	}
	if null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0); err == nil {
		unix.Dup3(int(null.Fd()), 1, 0)
		unix.Dup3(int(null.Fd()), 0, 0) // the control socket: tells the launcher
		null.Close()
	}
}

// stopper ends a mount: politely the first time, then at once.
type stopper struct {
	mount *mountRecord
	abort context.CancelFunc
	asked bool
}

// now returns before the mount has ended; unmounting needs the server, which
// must not wait for it.
func (s *stopper) now() {
	first := !s.asked
	s.asked = true
	if !first || s.mount.Dir == "" {
		s.abort()
		return
	}
	go func() {
		if !detachDevice(s.mount.Dev, s.mount.Source) {
			s.abort() // out of reach, in another namespace: stop answering
		}
	}()
}
