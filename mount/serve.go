package mount

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"ext4box/sandbox"
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
	// Spare are descriptors of /dev/fuse that are attached to nothing, for the service to
	// clone the connection onto and to close. It cannot open any, nor duplicate those it has.
	Spare []*os.File
	// Claim keeps others off the image's device, if that is not the kernel's part; else nil.
	// The service closes it when it has closed the image.
	Claim *os.File
	// InGroup tells whether a process, by the number that requests have, is a member of a
	// group beside its first one.
	InGroup func(pid, gid uint32) bool
}

// DataPath says which way the data of files goes, and requests.
type DataPath struct {
	Iomap bool   `json:"iomap"` // the kernel moves it itself
	Text  string `json:"text"`  // in words, with the reason

	Rings    bool   `json:"rings"`    // requests come by io_uring
	Requests string `json:"requests"` // which way they come, in words, with the reason
}

// Opener opens what the request names. It owns the files.
type Opener func(r *Request, files []*os.File) (Service, error)

// Serve is the server's side of [Launch]. It returns when the mount is gone, or
// was never made; in either case the image is closed. Errors have been reported
// to whoever was there to hear them.
//
// SIGINT, SIGTERM and SIGHUP have the keeper unmount. A mount that is in use is detached from the
// tree and served until its last user is gone; a second signal ends it at once,
// and what is still open then fails with ENOTCONN. So does the first one if there is no
// keeper any more.
func Serve(ctl *os.File, open Opener) error {
	signal.Ignore(unix.SIGPIPE) // of a log whose keeper is gone
	s := &service{ctl: &control{int(ctl.Fd())}}
	err := s.run(open)
	if err != nil && s.request != nil && !s.request.Foreground && s.confirmed {
		s.request.NewLogger().Error("the mount ended", "source", s.request.Source, "err", err)
	}
	report := message{Step: stepEnded}
	if err != nil {
		report = failure(err)
	}
	s.ctl.tell(report)
	return err
}

type service struct {
	ctl       *control
	request   *Request
	box       *sandbox.Box
	iomap     bool // the kernel should be able to move file data itself
	confirmed bool // the keeper is content, and somebody uses the mount
	keeper    keeperLink
}

func (s *service) run(open Opener) (err error) {
	start, err := s.ctl.receive()
	if err != nil {
		return fmt.Errorf("the keeper is gone: %w", err)
	}
	s.request = start.Request
	if start.Step != stepStart || s.request == nil || len(start.files) < s.request.spares() {
		closeAll(start.files)
		return errors.New("the keeper sent no request")
	}
	s.request.MakeRings()
	files, spare, state := s.request.split(start.files)
	missing, err := s.enter(files)
	if err != nil {
		closeAll(start.files)
		return err
	}
	// The state file's lock is there until the image is closed: that is what the lock
	// stands for.
	defer closeAll(state)
	fs, err := open(s.request, files)
	if err != nil {
		closeAll(spare)
		return err
	}
	c := Connection{Spare: spare, InGroup: s.keeper.inGroup}
	defer func() {
		if cerr := fs.Close(); err == nil && cerr != nil {
			err = fmt.Errorf("close the image: %w", cerr)
		}
		if c.Claim != nil {
			c.Claim.Close()
		}
	}()
	if err := s.ctl.tell(message{Step: stepOpened, Text: plain(fs.ReadOnly()), NoIomap: plain(fs.NoIomap()), NoUring: plain(s.request.NoUring), Missing: missing}); err != nil {
		return err
	}
	m, err := s.ctl.receive()
	if err != nil {
		closeAll(spare)
		return fmt.Errorf("the keeper is gone: %w", err)
	}
	if m.Connection == nil || len(m.files) < 1 || m.Connection.Claimed && len(m.files) < 2 {
		closeAll(m.files)
		closeAll(spare)
		return fmt.Errorf("the keeper says %q and sends no connection", m.Step)
	}
	c.Fuse, c.RootNode = m.files[0], m.Connection.RootNode
	if m.Connection.Claimed {
		c.Claim = m.files[1]
	}
	s.iomap = m.Connection.Iomap
	s.request.AttachRings(c.Fuse)
	if err := s.box.Seal(); err != nil {
		c.Fuse.Close()
		closeAll(spare)
		return err
	}
	return s.serve(fs, c)
}

// enter goes into the box, before anything of the image is read. What is looked up in files
// by the runtime is looked up before.
func (s *service) enter(image []*os.File) (missing []string, err error) {
	_, _ = time.Now().Zone()
	nameProcess()
	var lacks []*sandbox.Missing
	o := s.request.Sandbox
	o.FileSize = LongestFile(image)
	if s.box, lacks, err = sandbox.Enter(o); err != nil {
		return nil, boxError(err)
	}
	for _, m := range lacks {
		missing = append(missing, plain(m.Error()))
	}
	return missing, nil
}

// LongestFile is the length of the longest file, in bytes, for a box in which none becomes longer; 0
// if none has a length, as devices.
func LongestFile(files []*os.File) (longest uint64) {
	for _, f := range files {
		var st unix.Stat_t
		if unix.Fstat(int(f.Fd()), &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFREG {
			longest = max(longest, uint64(st.Size))
		}
	}
	return longest
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
	told := s.keeper.listen(s.ctl)
	go func() { ended <- fs.Serve(ctx, c, func(p DataPath) { ready <- p }) }()

	asked, aborted := false, false
	end := func() { aborted = true; abort() }
	for {
		select {
		case err := <-ended:
			if aborted && errors.Is(err, context.Canceled) {
				return nil
			}
			return err
		case path := <-ready:
			s.logPath(path)
			if s.ctl.tell(message{Step: stepServing, Path: path}) != nil {
				end() // the keeper is gone, and nobody has seen the mount
			}
		case m, ok := <-told:
			switch {
			case !ok:
				told = nil
				if !s.confirmed || s.request.Foreground {
					end()
				}
			case m.Step == stepConfirmed:
				s.confirmed = true
			case m.Step == stepEnd:
				end()
			}
		case <-signals:
			// Unmounting is not to be had in here, and needs the server to answer meanwhile.
			if asked || s.ctl.tell(message{Step: stepUnmount}) != nil {
				end()
			}
			asked = true
		}
	}
}

// logPath tells the log which way data goes. On a kernel that knows only one there is nothing
// to tell, unless somebody wants to know everything.
func (s *service) logPath(path DataPath) {
	level := slog.LevelDebug
	switch {
	case path.Iomap:
		level = slog.LevelInfo
	case s.iomap:
		level = slog.LevelWarn
	}
	log := s.request.NewLogger()
	log.Log(context.Background(), level, "file data goes "+path.Text, "source", s.request.Source)
	log.Info("requests come "+path.Requests, "source", s.request.Source)
}

// keeperLink is how the server asks the keeper. The zero value is one to nobody.
type keeperLink struct {
	mu      sync.Mutex // one question at a time
	ctl     *control
	seq     uint32
	answers chan message
	gone    chan struct{}
}

// answerPatience is how long somebody who writes to a file is held up by a keeper that is
// stopped.
const answerPatience = 2 * time.Second

// listen passes on what the keeper says, and is closed when it is gone.
func (k *keeperLink) listen(ctl *control) <-chan message {
	answers, gone, told := make(chan message, 1), make(chan struct{}), make(chan message, 2)
	k.mu.Lock()
	k.ctl, k.answers, k.gone = ctl, answers, gone
	k.mu.Unlock()
	go func() {
		defer close(told)
		defer close(gone)
		buf := make([]byte, maxMessage)
		for {
			m, err := ctl.hear(buf)
			if err != nil {
				return
			}
			if m.Step != stepMember {
				told <- m
				continue
			}
			select {
			case answers <- m:
			default: // nobody waits for it any more
			}
		}
	}()
	return told
}

// inGroup is [Connection].InGroup. Without an answer it is no.
func (k *keeperLink) inGroup(pid, gid uint32) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.seq++
	if k.ctl == nil || k.ctl.tell(message{Step: stepGroup, Seq: k.seq, PID: pid, GID: gid}) != nil {
		return false
	}
	patience := time.NewTimer(answerPatience)
	defer patience.Stop()
	for {
		select {
		case m := <-k.answers:
			if m.Seq == k.seq {
				return m.Member
			}
		case <-k.gone:
			return false
		case <-patience.C:
			return false
		}
	}
}
