package fuse

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"syscall"
)

// ErrAborted is returned by Session.Serve when the connection was aborted through its control file. A
// forced unmount and the kernel's request timeout abort it as well, but look like an unmount.
var ErrAborted = fmt.Errorf("the FUSE connection was aborted: %w", syscall.ECONNABORTED)

// Options configure a Session.
type Options struct {
	// Params is what the server wants of the connection.
	Params
	// Logger gets what goes wrong without a caller to tell. Default: slog.DiscardHandler.
	Logger *slog.Logger
	// KernelMaxPages is what the function of that name returns, for who cannot see /proc. 0: it is called.
	KernelMaxPages int
	// Trace logs each request and reply at level Debug. Off, it costs one predictable branch.
	Trace bool
}

// Transport moves messages between a kernel and a session.
//
// Serve makes workers with Session.NewWorker and has each handle one message at a time, until the
// connection ends, Session.Err is not nil, or ctx is done. It returns nil if the filesystem was
// unmounted, ErrAborted after an abort, otherwise what failed or ctx.Err. Workers may still be busy
// then, and what is handed to them later is refused.
//
// Notify writes one notification, given in parts, as a single message. It may be called concurrently,
// also from within operations. Its errors keep the errno.
type Transport interface {
	Serve(ctx context.Context, s *Session) error
	Notify(parts ...[]byte) error
}

// Session is one FUSE connection seen from the server: it negotiates, checks each request, calls the
// Operations and encodes what they return. All methods may be called concurrently.
type Session struct {
	ops   Operations
	t     Transport
	want  Params // normalised
	log   *slog.Logger
	trace bool

	proto      atomic.Pointer[Protocol] // nil before INIT
	ready      chan struct{}            // closed when INIT was accepted
	configures atomic.Bool              // IOMAP_CONFIG has come
	configured chan struct{}            // closed when it was answered, and by destroy
	release    func()                   // closes configured
	err        atomic.Pointer[error]    // why the session cannot go on
	destroyed  atomic.Bool              // no more calls of ops
	complained atomic.Bool              // about a malformed request

	early   earlyInterrupts
	workers atomic.Pointer[[]*Worker] // copied on write under mu
	mu      sync.Mutex
	retired counters // of workers that are gone; under mu
}

// NewSession prepares a session that serves ops over t.
func NewSession(ops Operations, t Transport, o Options) (*Session, error) {
	limit := o.KernelMaxPages
	if limit == 0 {
		limit = KernelMaxPages()
	}
	want, err := o.Params.normalise(limit)
	if err != nil {
		return nil, err
	}
	s := &Session{ops: ops, t: t, want: want, log: o.Logger, ready: make(chan struct{}), configured: make(chan struct{})}
	s.release = sync.OnceFunc(func() { close(s.configured) })
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.trace = o.Trace && s.log.Enabled(context.Background(), slog.LevelDebug)
	s.workers.Store(new([]*Worker))
	return s, nil
}

// Serve runs the session until the filesystem is unmounted (nil), the connection is aborted
// (ErrAborted), it fails, or ctx is done (its error). When it returns all operations have, and
// Destroy has been called if Init was.
//
// The orderly end is to unmount: on SIGTERM the owner of the mount unmounts it and waits for Serve.
// A done ctx ends the service of a mount that stays: programs then see ENOTCONN, while the process
// lives from the session, and later because nobody serves the connection.
func (s *Session) Serve(ctx context.Context) error {
	err := s.t.Serve(ctx, s)
	s.destroy(nil)
	if failed := s.Err(); failed != nil {
		return failed
	}
	return err
}

// Ready returns a channel that is closed when INIT has been negotiated: from then on Protocol is
// valid and the mount answers.
func (s *Session) Ready() <-chan struct{} { return s.ready }

// Protocol returns the terms of the connection, nil before Ready.
func (s *Session) Protocol() *Protocol { return s.proto.Load() }

// Err returns why the session cannot continue, nil if it can. Transports stop when it is set.
func (s *Session) Err() error {
	if p := s.err.Load(); p != nil {
		return *p
	}
	return nil
}

// PayloadSize returns the size of the largest payload of a request or reply in bytes, a multiple of
// the page size. Transports size their buffers by it.
func (s *Session) PayloadSize() int { return s.want.payloadSize() }

func (s *Session) fail(err error) { s.err.CompareAndSwap(nil, &err) }

// destroy lets the operations in flight finish, on all workers but self, and then calls Destroy once.
// DESTROY may arrive beside other requests: the kernel does not wait for their replies.
func (s *Session) destroy(self *Worker) {
	if !s.destroyed.CompareAndSwap(false, true) {
		return
	}
	s.release()
	for _, w := range *s.workers.Load() {
		if w != self {
			w.drain()
		}
	}
	if s.proto.Load() != nil {
		s.ops.Destroy()
	}
}
