package fuse

import (
	"math"
	"syscall"
)

// dispatchIomap serves the operations of fuse-iomap, where it is in use. No offset in them is behind the
// largest that files can have, which the kernel's own type of offsets has room for: handlers may add
// up what they are given.
func (w *Worker) dispatchIomap(r *Request, payload []byte) (int, syscall.Errno) {
	ops := w.s.ops
	switch r.Opcode {
	case OpIomapConfig:
		return w.configure(r, payload)
	case OpIomapBegin:
		in := input[IomapBeginIn](w)
		if in.Pos > math.MaxInt64 {
			return badRequest, syscall.EIO
		}
		in.Count = min(in.Count, math.MaxInt64-in.Pos)
		out := output[IomapBeginOut](w)
		return fixed(payload, out, ops.IomapBegin(r, in, out))
	case OpIomapEnd:
		in := input[IomapEndIn](w)
		if in.Pos > math.MaxInt64 {
			return badRequest, syscall.EIO
		}
		in.Count = min(in.Count, math.MaxInt64-in.Pos)
		return 0, ops.IomapEnd(r, in)
	case OpIomapIoend:
		in := input[IomapIoendIn](w)
		if in.Pos > math.MaxInt64 || in.Written > math.MaxInt64-in.Pos || in.Error > 0 {
			return badRequest, syscall.EIO
		}
		out := output[IomapIoendOut](w)
		return fixed(payload, out, ops.IomapIoend(r, in, out))
	case OpFreezeFS:
		return 0, ops.FreezeFS(r, input[FreezeFSIn](w))
	case OpUnfreezeFS:
		return 0, ops.UnfreezeFS(r)
	}
	return 0, ops.ShutdownFS(r, input[ShutdownFSIn](w))
}

// configure answers IOMAP_CONFIG, which comes once.
func (w *Worker) configure(r *Request, payload []byte) (int, syscall.Errno) {
	if !w.s.configures.CompareAndSwap(false, true) {
		return 0, syscall.EBUSY
	}
	defer w.s.release()
	out := output[IomapConfigOut](w)
	return fixed(payload, out, w.s.ops.IomapConfig(r, input[IomapConfigIn](w), out))
}

// awaitConfig waits until IOMAP_CONFIG was answered: before, an operation would not know how files are
// to be served. The kernel holds requests back until then, so that this is for one that does not.
func (w *Worker) awaitConfig(r *Request) syscall.Errno {
	select {
	case <-w.s.configured:
		return 0
	default:
	}
	select {
	case <-w.s.configured:
	case <-r.Done():
		return syscall.EINTR
	}
	if w.s.destroyed.Load() {
		return afterDestroy(r.Opcode)
	}
	return 0
}
