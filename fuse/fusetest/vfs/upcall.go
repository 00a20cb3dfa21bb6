package vfs

import (
	"fmt"
	"strings"
	"syscall"
	"unsafe"

	"ext4box/fuse"
	"ext4box/fuse/fusetest"
)

// caller is on whose behalf a request is sent.
type caller struct {
	uid, gid, pid uint32
	cred          *Cred // the rest of his rights; nil: none
}

// kernelTask is the caller of requests that no program causes.
var kernelTask = caller{}

func (fs *FS) caller() caller { return fs.Task.caller() }

// task is who makes a system call, by what its requests say.
func (fs *FS) task(c caller) *Task {
	if c.cred != nil {
		return fs.As(*c.cred)
	}
	return fs.As(Cred{UID: c.uid, GID: c.gid})
}

// request sends a request and waits for its reply. It is where requests are held, counted and
// traced. Operations that were answered with ENOSYS before are sent all the same; see unsupported.
func (fs *FS) request(c caller, op fuse.Opcode, nodeid uint64, parts ...[]byte) ([]byte, syscall.Errno) {
	return fs.send(c, op, nodeid, join(parts), nil)
}

// send is request. detached is called if the request or its reply is held.
func (fs *FS) send(c caller, op fuse.Opcode, nodeid uint64, body []byte, detached func()) ([]byte, syscall.Errno) {
	if fs.dead.Load() {
		return nil, syscall.ECONNREFUSED
	}
	e := &Event{Stage: Sent, Op: op, NodeID: nodeid}
	e.decode(body)
	fs.hold(e, detached)
	line := fs.trace.begin(op, describe(op, nodeid, body, fs.cfg.RootNodeID))
	unique := fs.k.NextUnique()
	msg := fs.k.Message(op, nodeid, unique, body)
	h := (*fuse.InHeader)(unsafe.Pointer(unsafe.SliceData(msg)))
	h.UID, h.GID, h.PID = c.uid, c.gid, c.pid
	r := fs.k.GoRaw(unique, msg).Wait()
	said := &Message{Op: op, NodeID: nodeid, Request: body, Payload: r.Payload, Errno: errnoOf(r.Err())}
	fs.tamper(said)
	payload, errno := said.Payload, said.Errno
	if want, fixed := replySize[op]; errno == 0 && fixed && len(payload) != want {
		fs.violate("%v of node %d: a reply of %d bytes, want %d", op, nodeid, len(payload), want)
		payload, errno = nil, syscall.EIO
	}
	fs.trace.end(line, errno, outcome(op, payload))
	d := &Event{Stage: Replied, Op: op, NodeID: nodeid, Errno: errno}
	d.decode(body)
	fs.hold(d, detached)
	return payload, errno
}

// replySize are the sizes of replies that have exactly one.
var replySize = map[fuse.Opcode]int{
	fuse.OpLookup:      int(unsafe.Sizeof(fuse.EntryOut{})),
	fuse.OpMknod:       int(unsafe.Sizeof(fuse.EntryOut{})),
	fuse.OpMkdir:       int(unsafe.Sizeof(fuse.EntryOut{})),
	fuse.OpSymlink:     int(unsafe.Sizeof(fuse.EntryOut{})),
	fuse.OpLink:        int(unsafe.Sizeof(fuse.EntryOut{})),
	fuse.OpCreate:      int(unsafe.Sizeof(fuse.EntryOut{}) + unsafe.Sizeof(fuse.OpenOut{})),
	fuse.OpTmpfile:     int(unsafe.Sizeof(fuse.EntryOut{}) + unsafe.Sizeof(fuse.OpenOut{})),
	fuse.OpGetattr:     int(unsafe.Sizeof(fuse.AttrOut{})),
	fuse.OpSetattr:     int(unsafe.Sizeof(fuse.AttrOut{})),
	fuse.OpStatx:       int(unsafe.Sizeof(fuse.StatxOut{})),
	fuse.OpStatfs:      int(unsafe.Sizeof(fuse.StatfsOut{})),
	fuse.OpOpen:        int(unsafe.Sizeof(fuse.OpenOut{})),
	fuse.OpOpendir:     int(unsafe.Sizeof(fuse.OpenOut{})),
	fuse.OpLseek:       int(unsafe.Sizeof(fuse.LseekOut{})),
	fuse.OpBmap:        int(unsafe.Sizeof(fuse.BmapOut{})),
	fuse.OpIomapBegin:  64,
	fuse.OpIomapIoend:  8,
	fuse.OpIomapEnd:    0,
	fuse.OpFsync:       0,
	fuse.OpFsyncdir:    0,
	fuse.OpFlush:       0,
	fuse.OpRelease:     0,
	fuse.OpReleasedir:  0,
	fuse.OpFallocate:   0,
	fuse.OpSyncfs:      0,
	fuse.OpFreezeFS:    0,
	fuse.OpUnfreezeFS:  0,
	fuse.OpShutdownFS:  0,
	fuse.OpUnlink:      0,
	fuse.OpRmdir:       0,
	fuse.OpRename:      0,
	fuse.OpRename2:     0,
	fuse.OpSetxattr:    0,
	fuse.OpRemovexattr: 0,
	fuse.OpAccess:      0,
	fuse.OpDestroy:     0,
}

// unsupported tells whether op was answered with ENOSYS before, after which the kernel does not ask
// again. without says so.
func (fs *FS) unsupported(op fuse.Opcode) bool {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	return fs.nosys[op]
}

func (fs *FS) without(op fuse.Opcode) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.nosys[op] = true
}

// optional sends a request that the server need not know: ENOSYS is remembered and is success.
func (fs *FS) optional(c caller, op fuse.Opcode, nodeid uint64, parts ...[]byte) syscall.Errno {
	if fs.unsupported(op) {
		return 0
	}
	_, errno := fs.request(c, op, nodeid, parts...)
	if errno == syscall.ENOSYS {
		fs.without(op)
		errno = 0
	}
	return errno
}

// tell sends a request that has no reply.
func (fs *FS) tell(op fuse.Opcode, nodeid uint64, parts ...[]byte) {
	if fs.dead.Load() {
		return
	}
	body := join(parts)
	e := &Event{Stage: Sent, Op: op, NodeID: nodeid}
	e.decode(body)
	fs.hold(e, nil)
	fs.trace.begin(op, describe(op, nodeid, body, fs.cfg.RootNodeID))
	_ = fs.k.Tell(op, nodeid, body)
}

// errnoOf returns the errno of a reply.
func errnoOf(err error) syscall.Errno {
	if err == nil {
		return 0
	}
	if errno, ok := err.(syscall.Errno); ok {
		return errno
	}
	return syscall.ENOTCONN
}

// fail turns an errno into the error of a system call.
func fail(errno syscall.Errno) error {
	if errno == 0 {
		return nil
	}
	return errno
}

// violate records that the server broke the protocol.
func (fs *FS) violate(format string, args ...any) {
	msg := fmt.Sprintf(format, args...)
	fs.mu.Lock()
	fs.violations = append(fs.violations, msg)
	expected, over := false, fs.over
	for _, e := range fs.expected {
		if strings.Contains(msg, e.part) {
			e.met, expected = true, true
		}
	}
	fs.mu.Unlock()
	if !expected && !over {
		fs.tb.Errorf("the server broke the protocol: %s", msg)
	}
}

// expectation is a violation that does not fail the test.
type expectation struct {
	part string
	met  bool
}

// Expect says that violations whose message contains part do not fail the test. One that does not
// come by the time of Unmount does.
func (fs *FS) Expect(part string) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.expected = append(fs.expected, &expectation{part: part})
}

// Violations returns what the server did against the protocol, expected or not, since the last call.
func (fs *FS) Violations() []string {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	v := fs.violations
	fs.violations = nil
	return v
}

func join(parts [][]byte) []byte {
	if len(parts) == 1 {
		return parts[0]
	}
	var b []byte
	for _, p := range parts {
		b = append(b, p...)
	}
	return b
}

// structure is a wire structure as part of a request.
func structure[T any](p *T) []byte { return fusetest.Bytes(p) }

// decode is a wire structure from a reply.
func decode[T any](b []byte) T { return fusetest.Value[T](b) }
