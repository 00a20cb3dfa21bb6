package fusetest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"unsafe"

	"ext4box/fuse"
)

// AllFlags is every feature that a kernel of version 7.46 offers, or, with fuse-iomap, of 7.99.
const AllFlags = fuse.InitFlags(1<<44-1) &^ (1 << 31)

// Config says what kernel to be.
type Config struct {
	Major, Minor uint32         // default 7.46; a Minor alone goes with 7
	Flags        fuse.InitFlags // offered; default AllFlags
	MaxReadahead uint32         // offered; default 128 KiB
	Socket       bool           // use a socket pair and a fuse.Device instead of calling the session
	Device       fuse.DeviceOptions
	Options      fuse.Options // of the session
	UID, GID     uint32       // of the caller in each request
	NoInit       bool         // leave INIT to the test
	// OnNotify sees each notification and answers it, which is what the server gets. It is called on
	// a goroutine on which it may wait for replies. Default: success. A RETRIEVE is answered with no
	// data whatever OnNotify says, if it says success.
	OnNotify func(code int32, payload []byte) syscall.Errno
	// IomapSupport makes this a kernel with fuse-iomap: it is the answer to DevIocIomapSupport. It
	// goes with the Minor fuse.IomapMinor, and with the flag fuse.InitIomap, which is in AllFlags.
	IomapSupport uint64
	// OnIoctl answers the other ioctls of the device: arg is what comes in and takes what goes out.
	// It is called on the goroutine, and thread, of the caller. Default: ENOTTY for all.
	OnIoctl func(cmd uint32, arg []byte) (int, syscall.Errno)
}

// Kernel is the kernel's side of a connection.
type Kernel struct {
	Session *fuse.Session
	// Protocol is the answer to INIT.
	Protocol fuse.InitOut

	cfg    Config
	link   link
	unique atomic.Uint64
	cancel context.CancelFunc
	served chan struct{}
	err    error // of Serve, once served is closed

	mu      sync.Mutex
	pending map[uint64]chan Reply
}

// link carries messages to the server; replies come back by Kernel.deliver.
type link interface {
	fuse.Controller
	send(msg []byte) error
	hangup()
}

// errLinkDown is returned for requests after the connection has ended.
var errLinkDown = fmt.Errorf("the server has ended the connection: %w", syscall.ENOTCONN)

// Connect starts a session for ops and negotiates.
func Connect(ops fuse.Operations, cfg Config) (*Kernel, error) {
	if cfg.Major == 0 {
		cfg.Major = fuse.Major
		if cfg.Minor == 0 {
			cfg.Minor = fuse.MaxMinor
		}
	}
	if cfg.Flags == 0 {
		cfg.Flags = AllFlags
	}
	if cfg.MaxReadahead == 0 {
		cfg.MaxReadahead = 128 << 10
	}
	k := &Kernel{cfg: cfg, served: make(chan struct{}), pending: map[uint64]chan Reply{}}
	var err error
	if cfg.Socket {
		k.link, err = newSocketLink(k, cfg.Device)
	} else {
		k.link = newDirectLink(k)
	}
	if err != nil {
		return nil, err
	}
	if k.Session, err = fuse.NewSession(ops, k.link, cfg.Options); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	k.cancel = cancel
	go func() {
		k.err = k.Session.Serve(ctx)
		k.abandon()
		close(k.served)
	}()
	if cfg.NoInit {
		return k, nil
	}
	if err := k.Init(); err != nil {
		return nil, errors.Join(err, k.Unmount())
	}
	return k, nil
}

// Start is Connect for tests: failure ends the test, and its end unmounts.
func Start(tb testing.TB, ops fuse.Operations, cfg Config) *Kernel {
	tb.Helper()
	k, err := Connect(ops, cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := k.Unmount(); err != nil {
			tb.Errorf("the session ended with %v", err)
		}
	})
	return k
}

// Unmount ends the connection as umount(8) does and returns the result of Session.Serve.
func (k *Kernel) Unmount() error {
	k.link.hangup()
	return k.Wait()
}

// Cancel ends the context of Session.Serve.
func (k *Kernel) Cancel() { k.cancel() }

// Wait waits for Session.Serve and returns its result.
func (k *Kernel) Wait() error {
	<-k.served
	k.cancel()
	return k.err
}

// Reply is an answer of the server.
type Reply struct {
	Header  fuse.OutHeader
	Payload []byte
	lost    bool // the connection ended before it came
}

// Err returns the errno of the reply, nil for success.
func (r Reply) Err() error {
	switch {
	case r.lost:
		return errLinkDown
	case r.Header.Error != 0:
		return syscall.Errno(-r.Header.Error)
	}
	return nil
}

// Call is a request that waits for its reply.
type Call struct {
	Unique uint64
	reply  chan Reply
}

// Wait returns the reply.
func (c *Call) Wait() Reply { return <-c.reply }

// NextUnique returns an identifier for a request.
func (k *Kernel) NextUnique() uint64 { return 2 * k.unique.Add(1) }

// Message puts a request together.
func (k *Kernel) Message(op fuse.Opcode, nodeid, unique uint64, parts ...[]byte) []byte {
	h := fuse.InHeader{
		Len: fuse.InHeaderSize, Opcode: op, Unique: unique, NodeID: nodeid,
		UID: k.cfg.UID, GID: k.cfg.GID, PID: uint32(os.Getpid()),
	}
	for _, p := range parts {
		h.Len += uint32(len(p))
	}
	msg := append(make([]byte, 0, h.Len), Bytes(&h)...)
	for _, p := range parts {
		msg = append(msg, p...)
	}
	return msg
}

// Go sends a request whose body is given in parts and does not wait for the reply.
func (k *Kernel) Go(op fuse.Opcode, nodeid uint64, parts ...[]byte) *Call {
	unique := k.NextUnique()
	return k.GoRaw(unique, k.Message(op, nodeid, unique, parts...))
}

// GoRaw sends any bytes and waits for a reply to unique.
func (k *Kernel) GoRaw(unique uint64, msg []byte) *Call {
	c := k.expect(unique)
	go k.post(unique, msg)
	return c
}

// Post is Go for tests of order: over a socket the request is in the queue of the device when Post
// returns, behind those that were posted before. The direct link handles it meanwhile.
func (k *Kernel) Post(op fuse.Opcode, nodeid uint64, parts ...[]byte) *Call {
	unique := k.NextUnique()
	c := k.expect(unique)
	k.post(unique, k.Message(op, nodeid, unique, parts...))
	return c
}

func (k *Kernel) expect(unique uint64) *Call {
	c := &Call{Unique: unique, reply: make(chan Reply, 1)}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.pending[unique] = c.reply
	return c
}

func (k *Kernel) post(unique uint64, msg []byte) {
	if err := k.link.send(msg); err != nil {
		k.drop(unique)
	}
}

// Do sends a request and waits for the reply.
func (k *Kernel) Do(op fuse.Opcode, nodeid uint64, parts ...[]byte) Reply {
	return k.Go(op, nodeid, parts...).Wait()
}

// Tell sends a request that has no reply.
func (k *Kernel) Tell(op fuse.Opcode, nodeid uint64, parts ...[]byte) error {
	return k.link.send(k.Message(op, nodeid, k.NextUnique(), parts...))
}

// Raw sends any bytes.
func (k *Kernel) Raw(msg []byte) error { return k.link.send(msg) }

// deliver takes a message of the server. Its errors are those of write(2) on the device.
func (k *Kernel) deliver(msg []byte) syscall.Errno {
	if len(msg) < fuse.OutHeaderSize {
		return syscall.EINVAL
	}
	h := Value[fuse.OutHeader](msg)
	payload := append([]byte(nil), msg[fuse.OutHeaderSize:]...)
	if int64(h.Len) != int64(len(msg)) {
		return syscall.EINVAL
	}
	if h.Unique == 0 {
		return k.notified(h.Error, payload)
	}
	if h.Error > 0 || h.Error <= -512 || h.Error != 0 && len(payload) > 0 {
		return syscall.EINVAL
	}
	k.mu.Lock()
	c := k.pending[h.Unique]
	delete(k.pending, h.Unique)
	k.mu.Unlock()
	if c == nil {
		return syscall.ENOENT
	}
	c <- Reply{Header: h, Payload: payload}
	return 0
}

// notifyRetrieve is the code of the notification that asks for cached data.
const notifyRetrieve = 5

func (k *Kernel) notified(code int32, payload []byte) syscall.Errno {
	if k.cfg.OnNotify != nil {
		if errno := k.cfg.OnNotify(code, payload); errno != 0 {
			return errno
		}
	}
	if code == notifyRetrieve && len(payload) >= 32 {
		unique, nodeid := Value[uint64](payload), Value[uint64](payload[8:])
		msg := k.Message(fuse.OpNotifyReply, nodeid, unique, Bytes(&fuse.NotifyRetrieveIn{Offset: Value[uint64](payload[16:])}))
		go func() { _ = k.link.send(msg) }()
	}
	return 0
}

// ioctl answers an ioctl on the device.
func (k *Kernel) ioctl(cmd uint32, arg []byte) (int, error) {
	if cmd == fuse.DevIocIomapSupport && k.cfg.IomapSupport != 0 {
		copy(arg, Bytes(&fuse.IomapSupport{Flags: k.cfg.IomapSupport}))
		return 0, nil
	}
	if k.cfg.OnIoctl == nil {
		return 0, syscall.ENOTTY
	}
	n, errno := k.cfg.OnIoctl(cmd, arg)
	if errno != 0 {
		return 0, errno
	}
	return n, nil
}

// drop gives up waiting for one reply, abandon for all.
func (k *Kernel) drop(unique uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if c := k.pending[unique]; c != nil {
		delete(k.pending, unique)
		c <- Reply{lost: true}
	}
}

func (k *Kernel) abandon() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for unique, c := range k.pending {
		delete(k.pending, unique)
		c <- Reply{lost: true}
	}
}

// Bytes views a wire structure as bytes.
func Bytes[T any](p *T) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(p)), unsafe.Sizeof(*p))
}

// Value copies a wire structure from b; what b lacks is zero.
func Value[T any](b []byte) (v T) {
	copy(Bytes(&v), b)
	return v
}

// CString is s with a NUL at its end.
func CString(s string) []byte { return append([]byte(s), 0) }
