package mount

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"
)

// Service is a file system that was opened and can be served. Its methods are
// called once each, in the order of their declaration.
type Service interface {
	// Serve answers the requests on dev until the file system is unmounted
	// (nil), ctx is done, or the connection fails. It calls ready when the
	// mount answers.
	Serve(ctx context.Context, dev *os.File, ready func()) error
	// ReadOnly says why the file system cannot be written, or nothing.
	ReadOnly() string
	// Close closes the image.
	Close() error
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
	mount      mountRecord
	background bool
	state      *State
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
		s.state.remove()
		s.state.Close()
	}()
	if err := s.ctl.send(message{Step: stepOpened, Text: fs.ReadOnly()}); err != nil {
		return err
	}
	mounted, err := s.receive(stepMounted)
	if err != nil {
		return err
	}
	if mounted.Mount == nil || len(mounted.files) < 1 {
		return errors.New("the launcher sent no connection")
	}
	s.mount = *mounted.Mount
	if n := len(mounted.files); s.mount.Claimed && n > 1 {
		claim := mounted.files[n-1]
		mounted.files = mounted.files[:n-1]
		defer claim.Close()
	}
	if len(mounted.files) > 1 {
		s.state = &State{file: mounted.files[1], path: s.mount.StatePath}
	}
	return s.serve(fs, mounted.files[0])
}

func (s *service) receive(want step) (message, error) {
	m, err := s.ctl.receive()
	if err != nil {
		return m, fmt.Errorf("the launcher is gone: %w", err)
	}
	if m.Step != want {
		closeAll(m.files)
		return m, fmt.Errorf("the launcher says %q instead of %q", m.Step, want)
	}
	return m, nil
}

// serve runs the session and everything that can end it.
func (s *service) serve(fs Service, dev *os.File) error {
	defer dev.Close()
	ctx, abort := context.WithCancel(context.Background())
	defer abort()
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	defer signal.Stop(signals)

	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- fs.Serve(ctx, dev, func() { close(ready) }) }()
	launcher := s.watchLauncher()

	stop := stopper{mount: s.mount, abort: abort}
	for {
		select {
		case err := <-ended:
			if stop.asked && errors.Is(err, context.Canceled) {
				return nil
			}
			return err
		case <-ready:
			ready = nil
			if s.ctl.send(message{Step: stepServing}) != nil {
				stop.now() // the launcher is gone, and nobody has seen the mount
			}
		case confirmed := <-launcher:
			launcher = nil
			if confirmed {
				s.leave()
			} else {
				stop.now()
			}
		case <-signals:
			stop.now()
		}
	}
}

// watchLauncher tells whether the launcher confirmed the mount, or went away
// without. A launcher that stays in the foreground is watched further: when it is
// killed the server ends too.
func (s *service) watchLauncher() <-chan bool {
	told := make(chan bool, 1)
	go func() {
		m, err := s.ctl.receive()
		closeAll(m.files)
		confirmed := err == nil && m.Step == stepConfirmed
		if confirmed && s.request.Foreground {
			s.ctl.receive()
			confirmed = false
		}
		told <- confirmed
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
	mount mountRecord
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
