package fuse

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"syscall"
	"testing"
)

// iomapTransport is noTransport on a kernel with fuse-iomap.
type iomapTransport struct{ noTransport }

func (iomapTransport) Control(cmd uint32, arg []byte) (int, error) {
	if cmd != DevIocIomapSupport {
		return 0, syscall.ENOTTY
	}
	store(arg, &IomapSupport{Flags: IomapSupportFileIO})
	return 0, nil
}

// startIomapRig is a rig with fuse-iomap on which IOMAP_CONFIG has been answered, or, late, not yet.
func startIomapRig(tb testing.TB, ops Operations, late bool) *rig {
	tb.Helper()
	r := newRig(tb, ops, Options{Params: Params{Flags: InitSetxattrExt, Iomap: true}})
	r.s.t = iomapTransport{}
	in := InitIn{Major: 7, Minor: 99, Flags: math.MaxUint32, Flags2: math.MaxUint32}
	if h, _, _ := r.do(message(OpInit, 0, raw(&in))); h.Error != 0 || !r.s.Protocol().Iomap {
		tb.Fatalf("INIT: %+v, %+v", h, r.s.Protocol())
	}
	if late {
		return r
	}
	if h, _, _ := r.do(message(OpIomapConfig, 0, raw(&IomapConfigIn{}))); h.Error != 0 {
		tb.Fatalf("IOMAP_CONFIG: %+v", h)
	}
	return r
}

func iomapSamples() []sample {
	io := IomapIO{Offset: 1, Length: 2, Addr: 3, Type: 4, Flags: 5, Dev: 6}
	return []sample{
		{OpIomapConfig, [][]byte{raw(&IomapConfigIn{Flags: 0x7F, Maxbytes: 3, CacheMaxbytes: 4})}, "config 0 0x7f 3 4", 104},
		{OpIomapBegin, [][]byte{raw(&IomapBeginIn{Op: 1 << 31, Ino: 2, Pos: 3, Count: 4})}, "begin 5 0x80000000 2 3+4", 64},
		{OpIomapEnd, [][]byte{raw(&IomapEndIn{Op: 1, Ino: 2, Pos: 3, Count: 4, Written: -5, Map: io})}, "end 5 0x1 2 3+4 -5 {1 2 3 4 5 6}", 0},
		{OpIomapIoend, [][]byte{raw(&IomapIoendIn{Flags: 1, Error: -5, Ino: 2, Pos: 3, NewAddr: 0x10, Written: 4 << 32, Dev: 6})}, "ioend 5 0x1 -5 2 3+17179869184 0x10 6", 8},
		{OpFreezeFS, [][]byte{raw(&FreezeFSIn{Unlinked: 4})}, "freeze 4", 0},
		{OpUnfreezeFS, nil, "unfreeze", 0},
		{OpShutdownFS, [][]byte{raw(&ShutdownFSIn{Flags: 3})}, "shutdown 3", 0},
	}
}

func (c sample) iomapNode() uint64 {
	if c.op == OpIomapConfig {
		return 0
	}
	return 5
}

func TestEveryIomapOperation(t *testing.T) {
	e := &echo{}
	r := startIomapRig(t, e, true)
	seen := 0
	for _, c := range iomapSamples() {
		seen++
		h, payload, ok := r.do(message(c.op, c.iomapNode(), c.body...))
		if call := e.take(); call != c.call {
			t.Errorf("%v: called %q, want %q", c.op, call, c.call)
		}
		if !ok || h.Error != 0 || h.Unique != testUnique || len(payload) != c.reply {
			t.Errorf("%v: %+v and %d bytes, want %d", c.op, h, len(payload), c.reply)
		}
		switch c.op {
		case OpIomapConfig:
			if out := load[IomapConfigOut](payload); out.CacheMaxbytes != 5 || out.Flags != IomapConfigBlocksize {
				t.Errorf("%v: %+v", c.op, out)
			}
		case OpIomapBegin:
			if out := load[IomapBeginOut](payload); out.Write.Dev != 7 {
				t.Errorf("%v: %+v", c.op, out)
			}
		case OpIomapIoend:
			if out := load[IomapIoendOut](payload); out.Newsize != 3+4<<32 {
				t.Errorf("%v: %+v", c.op, out)
			}
		}
	}
	if want := opCount - iomapOpsIndex; seen != want {
		t.Errorf("%d of %d operations", seen, want)
	}
	if st := r.s.Stats(); st.Malformed != 0 || st.Panics != 0 {
		t.Errorf("%+v", st)
	}
}

// TestIomapOperationsAllocate: no operation of the extension costs an allocation.
func TestIomapOperationsAllocate(t *testing.T) {
	r := startIomapRig(t, silent{}, false)
	for _, c := range iomapSamples()[1:] {
		msg := message(c.op, 5, c.body...)
		if n := testing.AllocsPerRun(100, func() { r.do(msg) }); n != 0 {
			t.Errorf("%v: %v allocations", c.op, n)
		}
	}
}

// TestUpsertAllocates: neither does what goes with nearly every BEGIN.
func TestUpsertAllocates(t *testing.T) {
	f, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	d := NewDevice(f, DeviceOptions{})
	defer d.Close()
	r := startIomapRig(t, silent{}, false)
	r.s.t = d
	if n := testing.AllocsPerRun(1000, func() {
		if err := r.s.UpsertMappings(&IomapUpsertMappings{NodeID: 5}); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// silent answers what is asked most with nothing.
type silent struct{ Unimplemented }

func (silent) IomapConfig(*Request, *IomapConfigIn, *IomapConfigOut) syscall.Errno {
	return 0
}
func (silent) IomapBegin(*Request, *IomapBeginIn, *IomapBeginOut) syscall.Errno { return 0 }
func (silent) IomapIoend(*Request, *IomapIoendIn, *IomapIoendOut) syscall.Errno { return 0 }

// TestIomapWrongSizes: a request that is not as long as it must be is refused, with the extension; without
// it, it is unknown, whatever its length. Neither reaches the operations.
func TestIomapWrongSizes(t *testing.T) {
	for _, with := range []bool{true, false} {
		e := &echo{}
		want := -int32(syscall.ENOSYS)
		r := (*rig)(nil)
		if with {
			r, want = startIomapRig(t, e, false), -int32(syscall.EIO)
		} else {
			r = startRig(t, e, 0)
		}
		e.take()
		for _, c := range iomapSamples() {
			body := bytes.Join(c.body, nil)
			for n := range len(body) + 100 {
				if with && n == len(body) {
					continue // what is right
				}
				h, _, ok := r.do(message(c.op, c.iomapNode(), append(body[:min(n, len(body))], make([]byte, max(0, n-len(body)))...)))
				if !ok || h.Error != want {
					t.Errorf("%v of %d bytes: %+v, want %d", c.op, n, h, want)
				}
				if call := e.take(); call != "" {
					t.Errorf("%v of %d bytes: called %q", c.op, n, call)
				}
			}
			// A length that contradicts the message.
			msg := message(c.op, c.iomapNode(), c.body...)
			for _, n := range []uint32{0, 1, uint32(len(msg)) - 1, uint32(len(msg)) + 1, 1 << 31, math.MaxUint32} {
				binary.NativeEndian.PutUint32(msg, n)
				if h, _, ok := r.do(msg); !ok || h.Error != -int32(syscall.EIO) {
					t.Errorf("%v that says %d bytes: %+v", c.op, n, h)
				}
			}
			e.take()
		}
	}
}

// TestIomapRanges: numbers reach the operations as they were sent, also those that no kernel should send.
func TestIomapRanges(t *testing.T) {
	e := &echo{}
	r := startIomapRig(t, e, false)
	e.take()
	for _, pos := range []uint64{0, math.MaxInt64, 1 << 63, math.MaxUint64} {
		for _, n := range []uint64{0, math.MaxUint32, 1 << 63, math.MaxUint64} {
			for _, c := range []struct {
				op   Opcode
				body []byte
				want string
			}{
				{OpIomapBegin, raw(&IomapBeginIn{Pos: pos, Count: n}), fmt.Sprintf("begin 5 0x0 0 %d+%d", pos, n)},
				{OpIomapEnd, raw(&IomapEndIn{Pos: pos, Count: n, Written: math.MinInt64}), fmt.Sprintf("end 5 0x0 0 %d+%d %d {0 0 0 0 0 0}", pos, n, math.MinInt64)},
				{OpIomapIoend, raw(&IomapIoendIn{Pos: pos, Written: n, Error: math.MinInt32}), fmt.Sprintf("ioend 5 0x0 %d 0 %d+%d 0x0 0", math.MinInt32, pos, n)},
			} {
				h, _, _ := r.do(message(c.op, 5, c.body))
				if call := e.take(); h.Error != 0 || call != c.want {
					t.Errorf("%v: %d, called %q, want %q", c.op, h.Error, call, c.want)
				}
			}
		}
	}
}

// TestIomapUnknownOpcodes: around those of the extension there are none.
func TestIomapUnknownOpcodes(t *testing.T) {
	e := &echo{}
	r := startIomapRig(t, e, false)
	e.take()
	for op := Opcode(4080); op <= 4100; op++ {
		if op.Known() {
			continue
		}
		for _, n := range []int{0, 8, 32, 64, 4096} {
			if h, _, ok := r.do(message(op, 5, make([]byte, n))); !ok || h.Error != -int32(syscall.ENOSYS) {
				t.Errorf("%v of %d bytes: %+v", op, n, h)
			}
		}
	}
	if call := e.take(); call != "" {
		t.Errorf("called %q", call)
	}
}

// TestIomapHostileKernel throws what it can think of at a session: each message gets at most one answer,
// with an errno that the kernel takes, nothing panics, and then the session still works.
func TestIomapHostileKernel(t *testing.T) {
	e := &echo{}
	r := startIomapRig(t, e, false)
	rng := rand.New(rand.NewPCG(4, 4))
	edges := []uint64{0, 1, 2, 5, 4095, 4096, math.MaxInt32, math.MaxUint32, 1 << 32, math.MaxInt64 - 4095, math.MaxInt64, 1 << 63, math.MaxUint64 - 1, math.MaxUint64}
	number := func() uint64 {
		if rng.IntN(4) == 0 {
			return rng.Uint64()
		}
		return edges[rng.IntN(len(edges))]
	}
	list := append(iomapSamples(), samples()...)
	for range 100_000 {
		op := Opcode(4080 + rng.IntN(21))
		if rng.IntN(4) == 0 {
			op = list[rng.IntN(len(list))].op
		}
		size := op.InSize(r.s.Protocol())
		switch rng.IntN(8) {
		case 0:
			size = rng.IntN(120)
		case 1:
			size += rng.IntN(9)
		}
		body := make([]byte, size+8)
		for i := 0; i < size; i += 8 {
			binary.NativeEndian.PutUint64(body[i:], number())
		}
		msg := message(op, number(), body[:size])
		if rng.IntN(16) == 0 {
			binary.NativeEndian.PutUint32(msg, uint32(number()))
		}
		h, payload, ok := r.do(msg)
		if ok && (h.Unique != testUnique || h.Error > 0 || h.Error <= -maxErrno || h.Error != 0 && len(payload) != 0) {
			t.Fatalf("%v with %x: %+v and %d bytes", op, body[:size], h, len(payload))
		}
		if ok != (op.HasReply()) {
			t.Fatalf("%v with %x: answered %v", op, body[:size], ok)
		}
		e.calls = e.calls[:0]
	}
	if st := r.s.Stats(); st.Panics != 0 || st.Malformed == 0 {
		t.Errorf("%d panics, %d malformed", st.Panics, st.Malformed)
	}
	if err := r.s.Err(); err != nil {
		t.Errorf("the session has ended: %v", err)
	}
	for _, c := range append(iomapSamples()[1:], samples()...) {
		_, _, _ = r.do(message(c.op, 5, c.body...))
		if call := e.take(); call != c.call {
			t.Errorf("%v afterwards: called %q, want %q", c.op, call, c.call)
		}
	}
}

func FuzzIomap(f *testing.F) {
	for _, c := range append(iomapSamples(), samples()...) {
		f.Add(message(c.op, c.iomapNode(), c.body...))
	}
	e := &echo{}
	r := startIomapRig(f, e, false)
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
		if h, _, ok := r.do(msg); ok && (h.Error > 0 || h.Error <= -maxErrno) {
			t.Fatalf("%+v", h)
		}
		e.take()
		if r.s.Stats().Panics != 0 {
			t.Fatal("panic")
		}
	})
}
