package fuse

import (
	"bytes"
	"context"
	"log/slog"
	"runtime/debug"
	"strings"
	"syscall"
	"unsafe"
)

// Reply is where the answer to a request goes.
//
// Header takes the OutHeaderSize bytes of the reply's head. Payload takes the rest; it begins at a
// page boundary and should have Session.PayloadSize bytes. A transport that puts Header directly in
// front of Payload can send both with one write.
//
// Both may overlap with the request: nothing is written over a part of the request that is still
// needed. So one buffer serves both ways.
type Reply struct {
	Header  []byte
	Payload []byte
}

// Handle serves a request that comes as one piece: head, fixed structure, names and data. It returns
// the number of bytes in reply.Payload, and false if no answer must be sent. It does not keep req or
// reply.
func (w *Worker) Handle(req []byte, reply Reply) (n int, ok bool) {
	if len(req) < InHeaderSize {
		w.s.malformed(&w.stats, "shorter than its header", InHeader{Len: uint32(len(req))})
		return 0, false
	}
	h := load[InHeader](req)
	body := req[InHeaderSize:]
	fixed := h.Opcode.InSize(w.protocol())
	if int64(h.Len) != int64(len(req)) || fixed > len(body) {
		return w.reject(h, reply)
	}
	return w.handle(h, body[:fixed], body[fixed:], reply)
}

// HandleSplit serves a request whose head, fixed structure, and names and data come in separate
// places, as over io_uring. fixed may be longer than the structure is, with anything behind it. How long it
// is of an operation that nobody here knows shows nowhere.
func (w *Worker) HandleSplit(head, fixed, body []byte, reply Reply) (n int, ok bool) {
	if len(head) < InHeaderSize {
		w.s.malformed(&w.stats, "shorter than its header", InHeader{Len: uint32(len(head))})
		return 0, false
	}
	h := load[InHeader](head)
	size := h.Opcode.InSize(w.protocol())
	known := h.Opcode.Known() && h.Opcode.spoken(w.protocol())
	if h.Opcode == OpNotifyReply && len(body) >= size && int64(h.Len) == int64(InHeaderSize+len(body)) {
		fixed, body = body[:size], body[size:] // of this one the kernel has the structure among the data
	}
	if size > len(fixed) || known && int64(h.Len) != int64(InHeaderSize+size+len(body)) {
		return w.reject(h, reply)
	}
	return w.handle(h, fixed[:size], body, reply)
}

// beforeInit are the terms as long as there are none.
var beforeInit Protocol

func (w *Worker) protocol() *Protocol {
	if p := w.s.proto.Load(); p != nil {
		return p
	}
	return &beforeInit
}

// reject answers a request whose lengths do not fit together.
func (w *Worker) reject(h InHeader, reply Reply) (int, bool) {
	w.stats.count(h.Opcode, true)
	w.s.malformed(&w.stats, "wrong length", h)
	return finish(h, reply, 0, syscall.EIO, h.Opcode.HasReply())
}

// handle serves a request that was cut into its parts.
func (w *Worker) handle(h InHeader, fixed, body []byte, reply Reply) (n int, ok bool) {
	w.begin(h.Unique)
	defer func() {
		if v := recover(); v != nil {
			n, ok = w.panicked(h, reply, v)
		}
		w.end()
	}()
	r := &w.req
	*r = Request{InHeader: h, Protocol: w.protocol(), w: w}
	clear(w.in[:])
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&w.in)), unsafe.Sizeof(w.in)), fixed)
	if w.s.trace {
		w.traceRequest(r, body)
	}
	var errno syscall.Errno
	n, errno, ok = w.serve(r, body, reply.Payload)
	w.stats.count(h.Opcode, errno != 0)
	if w.s.trace {
		w.traceReply(h, n, errno, ok)
	}
	return finish(h, reply, n, errno, ok)
}

// serve answers what the session itself answers and leaves the rest to dispatch.
func (w *Worker) serve(r *Request, body, payload []byte) (n int, errno syscall.Errno, ok bool) {
	s := w.s
	if len(body) != 0 && opTable[r.Opcode.index()].exact && r.Opcode.spoken(r.Protocol) {
		s.malformed(&w.stats, "wrong length", r.InHeader)
		return 0, syscall.EIO, r.Opcode.HasReply()
	}
	switch r.Opcode {
	case OpInterrupt:
		errno = s.interrupt(input[interruptIn](w).Unique)
		return 0, errno, errno != 0
	case OpInit:
		n, errno = w.initialise(r, body, payload)
		return n, errno, true
	}
	ok = r.Opcode.HasReply()
	switch {
	case s.proto.Load() == nil:
		return 0, syscall.EIO, ok
	case s.destroyed.Load():
		return 0, afterDestroy(r.Opcode), ok
	case r.Opcode == OpDestroy:
		s.destroy(w)
		return 0, 0, true
	case !ok:
		return 0, w.tell(r, body), false
	}
	switch {
	case !r.Opcode.spoken(r.Protocol):
		return 0, syscall.ENOSYS, true
	case r.Protocol.Iomap && r.Opcode != OpIomapConfig:
		if errno := w.awaitConfig(r); errno != 0 {
			return 0, errno, true
		}
	}
	n, errno = w.dispatch(r, body, payload)
	if errno == syscall.EIO && n == badRequest {
		s.malformed(&w.stats, "malformed", r.InHeader)
		n = 0
	}
	return n, errno, true
}

// afterDestroy answers requests that the kernel sent before, or beside, DESTROY. Their files are
// closed already.
func afterDestroy(op Opcode) syscall.Errno {
	switch op {
	case OpRelease, OpReleasedir, OpForget, OpBatchForget, OpNotifyReply, OpDestroy:
		return 0
	}
	return syscall.ENOTCONN
}

// tell passes on the requests without a reply. The errno only counts.
func (w *Worker) tell(r *Request, body []byte) syscall.Errno {
	ops := w.s.ops
	switch r.Opcode {
	case OpForget:
		ops.Forget(r.NodeID, input[ForgetIn](w).Nlookup)
		return 0
	case OpBatchForget:
		count := input[BatchForgetIn](w).Count
		if uint64(count)*uint64(forgetOneSize) != uint64(len(body)) {
			break
		}
		for ; len(body) > 0; body = body[forgetOneSize:] {
			one := load[ForgetOne](body)
			ops.Forget(one.NodeID, one.Nlookup)
		}
		return 0
	case OpNotifyReply:
		in := input[NotifyRetrieveIn](w)
		if uint64(in.Size) != uint64(len(body)) {
			break
		}
		ops.NotifyReply(r, in, body)
		return 0
	}
	w.s.malformed(&w.stats, "malformed", r.InHeader)
	return syscall.EIO
}

// finish encodes the head of a reply.
func finish(h InHeader, reply Reply, n int, errno syscall.Errno, ok bool) (int, bool) {
	if !ok {
		return 0, false
	}
	if errno != 0 {
		n = 0
		if errno >= maxErrno {
			errno = syscall.EIO
		}
	}
	store(reply.Header, &OutHeader{Len: uint32(OutHeaderSize + n), Error: -int32(errno), Unique: h.Unique})
	return n, true
}

// maxErrno bounds the error numbers that the kernel accepts in a reply.
const maxErrno = 512

// panicked turns a panic of an operation into EIO: the caller sees an error, everybody else goes on.
func (w *Worker) panicked(h InHeader, reply Reply, v any) (int, bool) {
	w.stats.panics.Add(1)
	w.stats.count(h.Opcode, true)
	w.s.log.Error("operation panicked", "op", h.Opcode.String(), "nodeid", h.NodeID, "panic", v,
		"stack", string(debug.Stack()))
	if h.Opcode == OpInit {
		w.s.fail(syscall.EIO)
	}
	return finish(h, reply, 0, syscall.EIO, h.Opcode.HasReply() && h.Opcode != OpInterrupt)
}

// malformed counts a request that the kernel should not have sent and logs the first of them.
func (s *Session) malformed(c *counters, what string, h InHeader) {
	c.malformed.Add(1)
	if s.complained.CompareAndSwap(false, true) {
		s.log.Warn("malformed request from the kernel", "problem", what, "op", h.Opcode.String(),
			"len", h.Len, "nodeid", h.NodeID)
	}
}

// cutString takes a string and its NUL off b. The string aliases b.
func cutString(b []byte) (s string, rest []byte, ok bool) {
	i := bytes.IndexByte(b, 0)
	if i < 0 {
		return "", nil, false
	}
	return alias(b[:i]), b[i+1:], true
}

// validName reports whether s can be the name of a new or existing directory entry.
func validName(s string) bool {
	return s != "" && s != "." && s != ".." && strings.IndexByte(s, '/') < 0
}

func (w *Worker) traceRequest(r *Request, body []byte) {
	attrs := []slog.Attr{
		slog.String("op", r.Opcode.String()), slog.Uint64("unique", r.Unique), slog.Uint64("nodeid", r.NodeID),
		slog.Uint64("uid", uint64(r.UID)), slog.Uint64("pid", uint64(r.PID)), slog.Int("body", len(body)),
	}
	if name, _, ok := cutString(body[:min(len(body), 256)]); ok && r.Opcode.takesName() {
		attrs = append(attrs, slog.String("name", strings.Clone(name)))
	}
	w.s.log.LogAttrs(context.Background(), slog.LevelDebug, "request", attrs...)
}

func (w *Worker) traceReply(h InHeader, n int, errno syscall.Errno, ok bool) {
	if !ok {
		return
	}
	attrs := []slog.Attr{
		slog.String("op", h.Opcode.String()), slog.Uint64("unique", h.Unique), slog.Int("bytes", n),
	}
	if errno != 0 {
		attrs = append(attrs, slog.String("error", errno.Error()))
	}
	w.s.log.LogAttrs(context.Background(), slog.LevelDebug, "reply", attrs...)
}
