package fuse

import (
	"syscall"
	"testing"
)

// still answers the operations of the hot paths and does nothing else.
type still struct{ Unimplemented }

func (still) Lookup(r *Request, name string, out *EntryOut) syscall.Errno {
	out.NodeID = uint64(len(name))
	out.SetEntryValid(Forever)
	return 0
}
func (still) Getattr(r *Request, in *GetattrIn, out *AttrOut) syscall.Errno   { return 0 }
func (still) Read(r *Request, in *ReadIn, buf []byte) (int, syscall.Errno)    { return len(buf), 0 }
func (still) Write(r *Request, in *WriteIn, data []byte) (int, syscall.Errno) { return len(data), 0 }
func (still) Forget(nodeid, n uint64)                                         {}
func (still) Getxattr(r *Request, n string, b []byte) (int, syscall.Errno)    { return len(n), 0 }
func (still) Readdirplus(r *Request, in *ReadIn, d *DirBuffer) syscall.Errno {
	for i := uint64(1); ; i++ {
		out := d.AppendPlus(i, i, 8, entryName)
		if out == nil {
			return 0
		}
		out.NodeID = i
	}
}

var entryName = []byte("an-entry-name.txt")

var hot = []struct {
	name string
	msg  []byte
}{
	{"LOOKUP", message(OpLookup, 1, str("a-name.txt"))},
	{"GETATTR", message(OpGetattr, 1, raw(&GetattrIn{}))},
	{"READ", message(OpRead, 1, raw(&ReadIn{Size: 4096}))},
	{"WRITE", message(OpWrite, 1, raw(&WriteIn{Size: 4096}), make([]byte, 4096))},
	{"READDIRPLUS", message(OpReaddirplus, 1, raw(&ReadIn{Size: 4096}))},
	{"GETXATTR", message(OpGetxattr, 1, raw(&getxattrIn{Size: 64}), str("security.capability"))},
	{"FORGET", message(OpForget, 1, raw(&ForgetIn{Nlookup: 1}))},
}

func TestNoAllocations(t *testing.T) {
	r := startRig(t, still{}, 0)
	req, reply := r.buf.request(), r.buf.reply()
	for _, c := range hot {
		allocs := testing.AllocsPerRun(100, func() {
			n := copy(req, c.msg)
			if _, ok := r.w.Handle(req[:n], reply); ok && load[OutHeader](reply.Header).Error != 0 {
				t.Fatalf("%s failed", c.name)
			}
		})
		if allocs != 0 {
			t.Errorf("%s: %v allocations per request", c.name, allocs)
		}
	}
}

func BenchmarkHandle(b *testing.B) {
	r := startRig(b, still{}, 0)
	req, reply := r.buf.request(), r.buf.reply()
	for _, c := range hot {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				n := copy(req, c.msg)
				r.w.Handle(req[:n], reply)
			}
		})
	}
}
