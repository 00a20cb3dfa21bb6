package fuse

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"
	"unsafe"
)

// noTransport is for tests that hand messages to a worker themselves.
type noTransport struct{}

func (noTransport) Serve(ctx context.Context, s *Session) error { return nil }
func (noTransport) Notify(parts ...[]byte) error                { return nil }

// rig is a session with one worker on one buffer, used as a reader would.
type rig struct {
	s   *Session
	w   *Worker
	buf buffer
}

func newRig(tb testing.TB, ops Operations, o Options) *rig {
	tb.Helper()
	s, err := NewSession(ops, noTransport{}, o)
	if err != nil {
		tb.Fatal(err)
	}
	buf, err := newBuffer(s.PayloadSize())
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(buf.free)
	return &rig{s: s, w: s.NewWorker(), buf: buf}
}

// startRig is newRig with INIT done.
func startRig(tb testing.TB, ops Operations, flags InitFlags) *rig {
	tb.Helper()
	r := newRig(tb, ops, Options{Params: Params{Flags: flags}})
	offer := answerable
	in := InitIn{Major: 7, Minor: 46, Flags: uint32(offer), Flags2: uint32(offer >> 32)}
	if h, _, ok := r.do(message(OpInit, 0, raw(&in))); !ok || h.Error != 0 {
		tb.Fatalf("INIT: %+v", h)
	}
	return r
}

// do handles a message in the way of a reader: the request lies in the buffer of the reply.
func (r *rig) do(msg []byte) (OutHeader, []byte, bool) {
	req := r.buf.request()
	n := copy(req, msg)
	n, ok := r.w.Handle(req[:n], r.buf.reply())
	if !ok {
		return OutHeader{}, nil, false
	}
	out := r.buf.message(n)
	h := load[OutHeader](out)
	if int(h.Len) != len(out) {
		panic(fmt.Sprintf("reply of %d bytes says %d", len(out), h.Len))
	}
	return h, out[OutHeaderSize:], true
}

const testUnique = 4242

func message(op Opcode, nodeid uint64, parts ...[]byte) []byte {
	return extended(op, nodeid, 0, parts...)
}

func extended(op Opcode, nodeid uint64, extUnits uint16, parts ...[]byte) []byte {
	h := InHeader{Opcode: op, Unique: testUnique, NodeID: nodeid, UID: 1000, GID: 1000, PID: 1, TotalExtLen: extUnits}
	body := bytes.Join(parts, nil)
	h.Len = uint32(InHeaderSize + len(body))
	return append(append([]byte(nil), raw(&h)...), body...)
}

func str(s ...string) []byte { return []byte(strings.Join(s, "\x00") + "\x00") }

// sample is a valid request for each opcode and what must become of it.
type sample struct {
	op    Opcode
	body  [][]byte
	call  string
	reply int // bytes of payload
}

func samples() []sample {
	lk := LkIn{Owner: 6, Lk: FileLock{End: 9}}
	return []sample{
		{OpLookup, [][]byte{str("name")}, "lookup 5 name", 128},
		{OpLookup, [][]byte{str("..")}, "lookup 5 ..", 128},
		{OpForget, [][]byte{raw(&ForgetIn{Nlookup: 2})}, "forget 5 2", -1},
		{OpGetattr, [][]byte{raw(&GetattrIn{Fh: 1})}, "getattr 5 fh 1", 104},
		{OpSetattr, [][]byte{raw(&SetattrIn{Valid: SetattrSize})}, "setattr 8", 104},
		{OpReadlink, nil, "readlink", 10},
		{OpSymlink, [][]byte{str("name", "../a/b")}, "symlink name ../a/b", 128},
		{OpMknod, [][]byte{raw(&MknodIn{Mode: 0o600, Rdev: 4}), str("dev")}, "mknod 600 4 dev", 128},
		{OpMkdir, [][]byte{raw(&MkdirIn{Mode: 0o700}), str("dir")}, "mkdir 700 dir ", 128},
		{OpUnlink, [][]byte{str("name")}, "unlink name", 0},
		{OpRmdir, [][]byte{str("name")}, "rmdir name", 0},
		{OpRename, [][]byte{raw(&renameIn{NewDir: 8}), str("a", "b")}, "rename a 8 b 0", 0},
		{OpLink, [][]byte{raw(&LinkIn{OldNodeID: 12}), str("name")}, "link 12 name", 128},
		{OpOpen, [][]byte{raw(&OpenIn{Flags: 2})}, "open 2", 16},
		{OpRead, [][]byte{raw(&ReadIn{Offset: 3, Size: 4096})}, "read 3 4096", 4096},
		{OpWrite, [][]byte{raw(&WriteIn{Offset: 3, Size: 4}), []byte("data")}, "write 3 data", 8},
		{OpStatfs, nil, "statfs", 80},
		{OpRelease, [][]byte{raw(&ReleaseIn{Fh: 4})}, "release 4", 0},
		{OpFsync, [][]byte{raw(&FsyncIn{Flags: 1})}, "fsync 1", 0},
		{OpSetxattr, [][]byte{raw(&SetxattrIn{Size: 5}), str("user.x"), []byte("value")}, "setxattr user.x value 0", 0},
		{OpGetxattr, [][]byte{raw(&getxattrIn{}), str("user.x")}, "getxattr user.x", 8},
		{OpGetxattr, [][]byte{raw(&getxattrIn{Size: 4096}), str("user.x")}, "getxattr user.x", 75},
		{OpListxattr, [][]byte{raw(&getxattrIn{Size: 100})}, "listxattr", 14},
		{OpListxattr, [][]byte{raw(&getxattrIn{})}, "listxattr", 8},
		{OpRemovexattr, [][]byte{str("user.x")}, "removexattr user.x", 0},
		{OpFlush, [][]byte{raw(&FlushIn{Fh: 4})}, "flush 4", 0},
		{OpOpendir, [][]byte{raw(&OpenIn{})}, "opendir", 16},
		{OpReaddir, [][]byte{raw(&ReadIn{Size: 4096})}, "readdir 0", 4096},
		{OpReleasedir, [][]byte{raw(&ReleaseIn{})}, "releasedir", 0},
		{OpFsyncdir, [][]byte{raw(&FsyncIn{})}, "fsyncdir", 0},
		{OpGetlk, [][]byte{raw(&lk)}, "getlk 6", 24},
		{OpSetlk, [][]byte{raw(&lk)}, "setlk false", 0},
		{OpSetlkw, [][]byte{raw(&lk)}, "setlk true", 0},
		{OpAccess, [][]byte{raw(&AccessIn{Mask: 4})}, "access 4", 0},
		{OpCreate, [][]byte{raw(&CreateIn{Mode: 0o640}), str("name")}, "create 640 name", 144},
		{OpBmap, [][]byte{raw(&BmapIn{Block: 3})}, "bmap 3", 8},
		{OpIoctl, [][]byte{raw(&IoctlIn{Cmd: 0x12, InSize: 36, OutSize: 64}), []byte("input that reaches into the payload.")},
			"ioctl 0x12 input that reaches into the payload.", 52},
		{OpPoll, [][]byte{raw(&PollIn{Events: 5})}, "poll 5", 8},
		{OpNotifyReply, [][]byte{raw(&NotifyRetrieveIn{Size: 4}), []byte("page")}, "notifyreply 4242 page", -1},
		{OpBatchForget, [][]byte{raw(&BatchForgetIn{Count: 2}), raw(&[2]ForgetOne{{1, 2}, {3, 4}})}, "forget 1 2;forget 3 4", -1},
		{OpFallocate, [][]byte{raw(&FallocateIn{Offset: 1, Length: 2})}, "fallocate 1 2", 0},
		{OpReaddirplus, [][]byte{raw(&ReadIn{Size: 4096, Offset: 1000})}, "readdirplus 1000", 0},
		{OpRename2, [][]byte{raw(&RenameIn{NewDir: 8, Flags: 1}), str("a", "b")}, "rename a 8 b 1", 0},
		{OpLseek, [][]byte{raw(&LseekIn{Offset: 1, Whence: 3})}, "lseek 1 3", 8},
		{OpCopyFileRange, [][]byte{raw(&CopyFileRangeIn{Len: 1 << 40})}, "copy 4294901760", 8},
		{OpSetupmapping, [][]byte{raw(&SetupmappingIn{Foffset: 7})}, "setupmapping 7", 0},
		{OpRemovemapping, [][]byte{raw(&removemappingIn{Count: 1}), raw(&RemovemappingOne{1, 2})}, "removemapping [{1 2}]", 0},
		{OpSyncfs, [][]byte{raw(&syncfsIn{})}, "syncfs", 0},
		{OpTmpfile, [][]byte{raw(&CreateIn{Mode: 0o600}), str("/")}, "tmpfile 600 /", 144},
		{OpStatx, [][]byte{raw(&StatxIn{SxMask: 0xFFF})}, "statx 0xfff", 288},
		{OpCopyFileRange64, [][]byte{raw(&CopyFileRangeIn{Len: 1 << 40})}, "copy 1099511627776", 8},
	}
}

func TestEveryOperation(t *testing.T) {
	e := &echo{}
	r := startRig(t, e, InitSetxattrExt)
	seen := map[Opcode]bool{OpInit: true, OpInterrupt: true, OpDestroy: true}
	for _, c := range samples() {
		seen[c.op] = true
		h, payload, ok := r.do(message(c.op, 5, c.body...))
		if call := e.take(); call != c.call {
			t.Errorf("%v: called %q, want %q", c.op, call, c.call)
		}
		if ok != (c.reply >= 0) {
			t.Errorf("%v: replied: %v", c.op, ok)
			continue
		}
		if !ok {
			continue
		}
		if h.Error != 0 || h.Unique != testUnique {
			t.Errorf("%v: %+v", c.op, h)
		}
		if len(payload) != c.reply && (c.op != OpReaddir || len(payload) < c.reply-64) {
			t.Errorf("%v: reply of %d bytes, want %d", c.op, len(payload), c.reply)
		}
	}
	for op := range lastOpcode {
		if op.Known() && !seen[op] {
			t.Errorf("%v is not tested", op)
		}
	}
	if st := r.s.Stats(); st.Malformed != 0 || len(st.Ops) != len(seen)-2 {
		t.Errorf("malformed %d, %d kinds of requests, want 0 and %d", st.Malformed, len(st.Ops), len(seen)-2)
	}
}

// TestUnimplemented checks that everything has an answer without an implementation, too.
func TestUnimplemented(t *testing.T) {
	r := startRig(t, Unimplemented{}, InitSetxattrExt)
	for _, c := range samples() {
		h, payload, ok := r.do(message(c.op, 5, c.body...))
		if ok != c.op.HasReply() || ok && (h.Error != -int32(syscall.ENOSYS) || len(payload) != 0) {
			t.Errorf("%v: %+v", c.op, h)
		}
	}
}

// TestTruncated cuts each request at each length, with a header that tells the truth about it and with
// one that does not.
func TestTruncated(t *testing.T) {
	e := &echo{}
	r := startRig(t, e, InitSetxattrExt)
	for _, c := range samples() {
		whole := message(c.op, 5, c.body...)
		for n := range len(whole) {
			for _, honest := range []bool{true, false} {
				msg := bytes.Clone(whole[:n])
				if honest && n >= 4 {
					binary.NativeEndian.PutUint32(msg, uint32(n))
				}
				h, payload, ok := r.do(msg)
				if call := e.take(); call != "" {
					t.Fatalf("%v cut to %d bytes (honest: %v): called %q", c.op, n, honest, call)
				}
				if n < InHeaderSize && ok {
					t.Fatalf("%v cut to %d bytes: answered %+v", c.op, n, h)
				}
				if ok && (h.Error >= 0 || len(payload) != 0) {
					t.Fatalf("%v cut to %d bytes: %+v, %d bytes", c.op, n, h, len(payload))
				}
			}
		}
		// One byte too many.
		h, _, ok := r.do(message(c.op, 5, append(c.body, []byte{0})...))
		if call := e.take(); call != "" || ok && h.Error != -int32(syscall.EIO) {
			t.Errorf("%v and a byte: called %q, %+v", c.op, call, h)
		}
	}
}

func TestNames(t *testing.T) {
	e := &echo{}
	r := startRig(t, e, 0)
	build := map[Opcode]func(name string) [][]byte{
		OpLookup:  func(n string) [][]byte { return [][]byte{str(n)} },
		OpUnlink:  func(n string) [][]byte { return [][]byte{str(n)} },
		OpRmdir:   func(n string) [][]byte { return [][]byte{str(n)} },
		OpSymlink: func(n string) [][]byte { return [][]byte{str(n, "target")} },
		OpMknod:   func(n string) [][]byte { return [][]byte{raw(&MknodIn{}), str(n)} },
		OpMkdir:   func(n string) [][]byte { return [][]byte{raw(&MkdirIn{}), str(n)} },
		OpCreate:  func(n string) [][]byte { return [][]byte{raw(&CreateIn{}), str(n)} },
		OpLink:    func(n string) [][]byte { return [][]byte{raw(&LinkIn{}), str(n)} },
		OpRename:  func(n string) [][]byte { return [][]byte{raw(&renameIn{}), str(n, "b")} },
		OpRename2: func(n string) [][]byte { return [][]byte{raw(&RenameIn{}), str("a", n)} },
	}
	for op, body := range build {
		for _, name := range []string{"", "/", "a/b", "a/", "/a", ".", ".."} {
			want := -int32(syscall.EINVAL)
			if op == OpLookup && strings.Trim(name, ".") == "" && name != "" {
				want = 0
			}
			if h, _, _ := r.do(message(op, 5, body(name)...)); h.Error != want {
				t.Errorf("%v of %q: %d, want %d", op, name, h.Error, want)
			}
			if call := e.take(); (call == "") != (want != 0) {
				t.Errorf("%v of %q: called %q", op, name, call)
			}
		}
		for _, name := range []string{"...", "a", ".a", strings.Repeat("n", 255), "\xff\xfe", "a b\n"} {
			if h, _, _ := r.do(message(op, 5, body(name)...)); h.Error != 0 {
				t.Errorf("%v of %q: %d", op, name, h.Error)
			}
		}
		e.take()
	}
	for _, op := range []Opcode{OpSetxattr, OpGetxattr, OpRemovexattr} {
		head := map[Opcode][]byte{OpSetxattr: make([]byte, 8), OpGetxattr: make([]byte, 8)}[op]
		if h, _, _ := r.do(message(op, 5, head, str(""))); h.Error != -int32(syscall.EINVAL) {
			t.Errorf("%v of an empty name: %d", op, h.Error)
		}
	}
}

func TestUnknownOpcodes(t *testing.T) {
	e := &echo{}
	r := startRig(t, e, 0)
	for _, op := range []Opcode{0, 7, 19, 54, 100, 4089, 4092, 4095, 4096, 1 << 20, 1<<32 - 1} {
		for _, body := range [][]byte{nil, make([]byte, 8), make([]byte, 4096)} {
			if h, _, ok := r.do(message(op, 5, body)); !ok || h.Error != -int32(syscall.ENOSYS) {
				t.Errorf("%v: %+v", op, h)
			}
		}
	}
	if h, _, _ := r.do(message(OpGetattr, 5, raw(&GetattrIn{}))); h.Error != 0 {
		t.Errorf("the session did not go on: %+v", h)
	}
}

func TestBeforeInit(t *testing.T) {
	e := &echo{}
	r := newRig(t, e, Options{})
	for _, c := range samples() {
		h, _, ok := r.do(message(c.op, 5, c.body...))
		if call := e.take(); call != "" || ok != c.op.HasReply() || ok && h.Error != -int32(syscall.EIO) {
			t.Errorf("%v before INIT: called %q, %+v", c.op, call, h)
		}
	}
	if h, _, _ := r.do(message(OpInit, 0, raw(&InitIn{Major: 8, Minor: 1}))); h.Error != 0 || r.s.Protocol() != nil {
		t.Fatalf("INIT of major 8: %+v", h)
	}
	if h, _, _ := r.do(message(OpInit, 0, raw(&InitIn{Major: 7, Minor: 31})[:16])); h.Error != 0 {
		t.Fatalf("INIT of 7.31: %+v", h)
	}
	if p := r.s.Protocol(); p.Minor != 31 || p.String() != "7.31" {
		t.Errorf("negotiated %v", p)
	}
	if h, _, _ := r.do(message(OpInit, 0, raw(&InitIn{Major: 7, Minor: 31}))); h.Error != -int32(syscall.EIO) {
		t.Errorf("second INIT: %+v", h)
	}
	if err := r.s.Err(); err != nil {
		t.Error(err)
	}
}

func TestWrongResults(t *testing.T) {
	r := startRig(t, wrong{}, 0)
	for _, c := range []sample{
		{op: OpRead, body: [][]byte{raw(&ReadIn{Size: 100})}},
		{op: OpWrite, body: [][]byte{raw(&WriteIn{Size: 3}), []byte("abc")}},
		{op: OpReadlink},
		{op: OpGetxattr, body: [][]byte{raw(&getxattrIn{Size: 10}), str("user.x")}},
		{op: OpIoctl, body: [][]byte{raw(&IoctlIn{OutSize: 10})}},
		{op: OpCopyFileRange64, body: [][]byte{raw(&CopyFileRangeIn{Len: 10})}},
		{op: OpGetattr, body: [][]byte{raw(&GetattrIn{})}},
	} {
		if h, payload, _ := r.do(message(c.op, 5, c.body...)); h.Error != -int32(syscall.EIO) || len(payload) != 0 {
			t.Errorf("%v: %+v", c.op, h)
		}
	}
	// A value that grew since its length was asked for is the caller's business.
	body := [][]byte{raw(&getxattrIn{Size: 10}), nil}
	if h, _, _ := r.do(message(OpListxattr, 5, body...)); h.Error != -int32(syscall.ERANGE) {
		t.Errorf("LISTXATTR: %+v", h)
	}
	if st := r.s.Stats(); st.Malformed != 0 {
		t.Errorf("%d requests count as malformed", st.Malformed)
	}
}

// wrong returns what an implementation must not.
type wrong struct{ Unimplemented }

func (wrong) Read(r *Request, in *ReadIn, buf []byte) (int, syscall.Errno)          { return len(buf) + 1, 0 }
func (wrong) Write(r *Request, in *WriteIn, data []byte) (int, syscall.Errno)       { return 4, 0 }
func (wrong) Readlink(r *Request, buf []byte) (int, syscall.Errno)                  { return -1, 0 }
func (wrong) Getxattr(r *Request, name string, buf []byte) (int, syscall.Errno)     { return -1, 0 }
func (wrong) Listxattr(r *Request, buf []byte) (int, syscall.Errno)                 { return 11, 0 }
func (wrong) CopyFileRange(r *Request, in *CopyFileRangeIn) (uint64, syscall.Errno) { return 11, 0 }
func (wrong) Ioctl(r *Request, in *IoctlIn, data []byte, out *IoctlOut, buf []byte) (int, syscall.Errno) {
	return 11, 0
}
func (wrong) Getattr(r *Request, in *GetattrIn, out *AttrOut) syscall.Errno { return 512 }

func TestReadSizes(t *testing.T) {
	r := startRig(t, &echo{}, 0)
	room := uint32(r.s.PayloadSize())
	for size, want := range map[uint32]int32{0: 0, 1: 0, room: 0, room + 1: -int32(syscall.EIO), 1<<32 - 1: -int32(syscall.EIO)} {
		for _, op := range []Opcode{OpRead, OpReaddir, OpReaddirplus} {
			h, payload, _ := r.do(message(op, 5, raw(&ReadIn{Size: size})))
			if h.Error != want || op == OpRead && want == 0 && len(payload) != int(size) {
				t.Errorf("%v of %d bytes: %+v", op, size, h)
			}
		}
	}
}

func TestPanic(t *testing.T) {
	e := &echo{hook: func(*Request) { panic("on purpose") }}
	r := startRig(t, e, 0)
	for range 3 {
		if h, _, _ := r.do(message(OpLookup, 1, str("name"))); h.Error != -int32(syscall.EIO) {
			t.Fatalf("%+v", h)
		}
	}
	e.hook = nil
	if h, _, _ := r.do(message(OpLookup, 1, str("name"))); h.Error != 0 {
		t.Fatalf("the session did not go on: %+v", h)
	}
	if st := r.s.Stats(); st.Panics != 3 {
		t.Errorf("%d panics counted, want 3", st.Panics)
	}
}

func TestDestroy(t *testing.T) {
	e := &echo{}
	r := startRig(t, e, 0)
	if h, _, ok := r.do(message(OpDestroy, 0)); !ok || h.Error != 0 || e.take() != "destroy" {
		t.Fatalf("DESTROY: %+v", h)
	}
	for _, c := range samples() {
		h, _, ok := r.do(message(c.op, 5, c.body...))
		late := c.op == OpRelease || c.op == OpReleasedir
		if ok && (h.Error == 0) != late {
			t.Errorf("%v after DESTROY: %+v", c.op, h)
		}
	}
	if h, _, _ := r.do(message(OpDestroy, 0)); h.Error != 0 {
		t.Errorf("second DESTROY: %+v", h)
	}
	if err := r.s.Serve(t.Context()); err != nil {
		t.Error(err)
	}
	if call := e.take(); call != "" {
		t.Errorf("called after DESTROY: %q", call)
	}
}

// TestServedOut: once Serve has returned nothing begins, not even with INIT.
func TestServedOut(t *testing.T) {
	e := &echo{}
	r := newRig(t, e, Options{})
	if err := r.s.Serve(t.Context()); err != nil {
		t.Error(err)
	}
	if h, _, _ := r.do(message(OpInit, 0, raw(&InitIn{Major: 7, Minor: 46}))); h.Error != -int32(syscall.EIO) || r.s.Protocol() != nil {
		t.Errorf("INIT: %+v", h)
	}
	if call := e.take(); call != "" {
		t.Errorf("called %q", call)
	}
}

// TestAligned: data of READ and WRITE is ready for direct I/O.
func TestAligned(t *testing.T) {
	r := startRig(t, aligned{t: t}, 0)
	for _, msg := range [][]byte{
		message(OpRead, 5, raw(&ReadIn{Size: 8192})),
		message(OpWrite, 5, raw(&WriteIn{Size: 4096}), make([]byte, 4096)),
	} {
		if h, _, _ := r.do(msg); h.Error != 0 {
			t.Errorf("%+v", h)
		}
	}
	if n := len(r.buf.request()); n < requestHead+r.s.PayloadSize() {
		t.Errorf("room for a request of %d bytes", n)
	}
}

type aligned struct {
	Unimplemented
	t *testing.T
}

func (a aligned) Read(r *Request, in *ReadIn, buf []byte) (int, syscall.Errno) { return a.check(buf) }

func (a aligned) Write(r *Request, in *WriteIn, data []byte) (int, syscall.Errno) {
	return a.check(data)
}

func (a aligned) check(b []byte) (int, syscall.Errno) {
	if addr := uintptr(unsafe.Pointer(unsafe.SliceData(b))); addr%uintptr(pageSize) != 0 {
		a.t.Errorf("data is at %#x", addr)
	}
	return len(b), 0
}

func TestExtensions(t *testing.T) {
	ctx := func(n uint32, pairs ...string) []byte {
		var b []byte
		for i := 0; i < len(pairs); i += 2 {
			b = append(b, raw(&secctx{Size: uint32(len(pairs[i+1]))})...)
			b = append(b, str(pairs[i])...)
			b = append(b, pairs[i+1]...)
			for len(b)%8 != 0 {
				b = append(b, 0)
			}
		}
		return append(raw(&extHeader{Size: uint32(8 + len(b)), Type: n}), b...)
	}
	groups := func(n uint32, gids ...uint32) []byte {
		b := binary.NativeEndian.AppendUint32(nil, n)
		for _, g := range gids {
			b = binary.NativeEndian.AppendUint32(b, g)
		}
		for len(b)%8 != 0 {
			b = append(b, 0)
		}
		return append(raw(&extHeader{Size: uint32(8 + len(b)), Type: extGroups}), b...)
	}
	selinux := ctx(1, "security.selinux", "user_u:object_r")
	for _, c := range []struct {
		name string
		ext  []byte
		want string // of the call; empty for EIO
	}{
		{"none", nil, "mkdir 0 d "},
		{"empty context", ctx(0), "mkdir 0 d "},
		{"context", selinux, "mkdir 0 d security.selinux=user_u:object_r"},
		{"two contexts", ctx(2, "a", "1", "bc", "22"), "mkdir 0 d a=1,bc=22"},
		{"groups", groups(1, 100), "mkdir 0 d [100]"},
		{"both", append(bytes.Clone(selinux), groups(1, 7)...), "mkdir 0 d security.selinux=user_u:object_r,[7]"},
		{"both, other order", append(groups(2, 7, 8), selinux...), "mkdir 0 d security.selinux=user_u:object_r,[7 8]"},
		{"unknown type", append(raw(&extHeader{Size: 16, Type: 99}), make([]byte, 8)...), "mkdir 0 d "},
		{"size 0", raw(&extHeader{Type: 99}), ""},
		{"size too large", raw(&extHeader{Size: 16, Type: 99}), ""},
		{"more contexts than there are", ctx(2, "a", "1"), ""},
		{"value too large", append(raw(&extHeader{Size: 24, Type: 1}), append(raw(&secctx{Size: 99}), str("abcdefg")...)...), ""},
		{"name without end", append(raw(&extHeader{Size: 24, Type: 1}), append(raw(&secctx{}), "abcdefgh"...)...), ""},
		{"context without name", append(raw(&extHeader{Size: 24, Type: 1}), append(raw(&secctx{}), make([]byte, 8)...)...), ""},
		{"two blocks of contexts", append(bytes.Clone(selinux), selinux...), ""},
		{"two blocks of groups", append(groups(1, 1), groups(1, 1)...), ""},
		{"more groups than there are", groups(1<<30, 1), ""},
		{"groups without count", raw(&extHeader{Size: 8, Type: extGroups}), ""},
	} {
		e := &echo{}
		r := startRig(t, e, 0)
		h, _, _ := r.do(extended(OpMkdir, 5, uint16(len(c.ext)/8), raw(&MkdirIn{}), str("d"), c.ext))
		if call := e.take(); call != c.want || (h.Error == 0) != (c.want != "") {
			t.Errorf("%s: called %q, %+v", c.name, call, h)
		}
	}
	e := &echo{}
	r := startRig(t, e, 0)
	if h, _, _ := r.do(extended(OpMkdir, 5, 0xFFFF, raw(&MkdirIn{}), str("d"))); h.Error != -int32(syscall.EIO) {
		t.Errorf("extensions longer than the request: %+v", h)
	}
}

// TestSplit feeds the same requests in three pieces, with rubbish behind the fixed structure.
func TestSplit(t *testing.T) {
	e := &echo{}
	r := startRig(t, e, InitSetxattrExt)
	for _, c := range samples() {
		msg := message(c.op, 5, c.body...)
		size := c.op.InSize(r.s.Protocol())
		fixed := append(bytes.Clone(msg[InHeaderSize:InHeaderSize+size]), bytes.Repeat([]byte{0xAA}, 128-size)...)
		// As in io_uring the payload of request and reply share their memory.
		reply := r.buf.reply()
		body := reply.Payload[:copy(reply.Payload, msg[InHeaderSize+size:])]
		n, ok := r.w.HandleSplit(msg[:InHeaderSize], fixed, body, reply)
		if call := e.take(); call != c.call {
			t.Errorf("%v: called %q, want %q", c.op, call, c.call)
		}
		if ok != (c.reply >= 0) || ok && n != c.reply && c.op != OpReaddir {
			t.Errorf("%v: reply of %d bytes (%v), want %d", c.op, n, ok, c.reply)
		}
		if _, ok := r.w.HandleSplit(msg[:InHeaderSize], fixed, append(bytes.Clone(body), 0), reply); ok {
			if h := load[OutHeader](reply.Header); h.Error != -int32(syscall.EIO) {
				t.Errorf("%v and a byte: %+v", c.op, h)
			}
		}
		e.take()
	}
}

// TestGarbage sends random bodies under every opcode.
func TestGarbage(t *testing.T) {
	e := &echo{}
	r := startRig(t, e, InitSetxattrExt)
	rng := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		for op := Opcode(1); op <= lastOpcode+1; op++ {
			if op == OpDestroy {
				continue
			}
			body := make([]byte, rng.IntN(200))
			for i := range body {
				if rng.IntN(3) > 0 {
					body[i] = byte(rng.Uint32())
				}
			}
			r.do(extended(op, rng.Uint64(), uint16(rng.IntN(3)), body))
		}
		e.take()
	}
	if h, _, _ := r.do(message(OpGetattr, 5, raw(&GetattrIn{}))); h.Error != 0 {
		t.Errorf("the session did not go on: %+v", h)
	}
	if st := r.s.Stats(); st.Panics != 0 || st.Malformed == 0 {
		t.Errorf("%d panics, %d malformed", st.Panics, st.Malformed)
	}
}

// FuzzHandle sends any bytes after INIT. A panic inside the session itself would be counted as one of
// an operation, so it checks the count.
func FuzzHandle(f *testing.F) {
	for _, c := range samples() {
		f.Add(message(c.op, 5, c.body...))
	}
	e := &echo{}
	r := startRig(f, e, InitSetxattrExt)
	f.Fuzz(func(t *testing.T, msg []byte) {
		if len(msg) > len(r.buf.request()) {
			return
		}
		if len(msg) >= InHeaderSize {
			binary.NativeEndian.PutUint32(msg, uint32(len(msg)))
			if load[InHeader](msg).Opcode == OpDestroy {
				return
			}
		}
		r.do(msg)
		e.take()
		if r.s.Stats().Panics != 0 {
			t.Fatal("panic")
		}
	})
}
