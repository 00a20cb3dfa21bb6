package fuse

import "syscall"

// dispatchIomap serves the operations of fuse-iomap, where it is in use.
func (w *Worker) dispatchIomap(r *Request, payload []byte) (int, syscall.Errno) {
	ops := w.s.ops
	switch r.Opcode {
	case OpIomapConfig:
		return w.configure(r, payload)
	case OpIomapBegin:
		out := output[IomapBeginOut](w)
		return fixed(payload, out, ops.IomapBegin(r, input[IomapBeginIn](w), out))
	case OpIomapEnd:
		return 0, ops.IomapEnd(r, input[IomapEndIn](w))
	case OpIomapIoend:
		out := output[IomapIoendOut](w)
		return fixed(payload, out, ops.IomapIoend(r, input[IomapIoendIn](w), out))
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
