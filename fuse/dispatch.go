package fuse

import (
	"syscall"
	"unsafe"
)

// badRequest, together with EIO, marks a request that the kernel should not have sent, as opposed to
// an operation that failed with EIO.
const badRequest = -1

// dispatch decodes the parts of a request behind its fixed structure, calls the operation and puts
// its reply into payload. Names and data in body alias the request.
func (w *Worker) dispatch(r *Request, body, payload []byte) (int, syscall.Errno) {
	ops := w.s.ops
	switch r.Opcode {
	case OpGetattr:
		out := output[AttrOut](w)
		return fixed(payload, out, ops.Getattr(r, input[GetattrIn](w), out))
	case OpSetattr:
		out := output[AttrOut](w)
		return fixed(payload, out, ops.Setattr(r, input[SetattrIn](w), out))
	case OpStatx:
		out := output[StatxOut](w)
		return fixed(payload, out, ops.Statx(r, input[StatxIn](w), out))
	case OpStatfs:
		out := output[StatfsOut](w)
		return fixed(payload, out, ops.Statfs(r, out))
	case OpAccess:
		return 0, ops.Access(r, input[AccessIn](w))
	case OpOpen:
		out := output[OpenOut](w)
		return fixed(payload, out, ops.Open(r, input[OpenIn](w), out))
	case OpOpendir:
		out := output[OpenOut](w)
		return fixed(payload, out, ops.Opendir(r, input[OpenIn](w), out))
	case OpRead:
		return w.read(r, payload)
	case OpWrite:
		return w.write(r, body, payload)
	case OpReaddir, OpReaddirplus:
		return w.readdir(r, payload)
	case OpReadlink:
		buf := payload[:min(pageSize-1, len(payload))]
		n, errno := ops.Readlink(r, buf)
		return filled(n, errno, len(buf))
	case OpLseek:
		out := output[LseekOut](w)
		return fixed(payload, out, ops.Lseek(r, input[LseekIn](w), out))
	case OpFallocate:
		return 0, ops.Fallocate(r, input[FallocateIn](w))
	case OpCopyFileRange, OpCopyFileRange64:
		return w.copyFileRange(r, payload)
	case OpFlush:
		return 0, ops.Flush(r, input[FlushIn](w))
	case OpFsync:
		return 0, ops.Fsync(r, input[FsyncIn](w))
	case OpFsyncdir:
		return 0, ops.Fsyncdir(r, input[FsyncIn](w))
	case OpRelease:
		return 0, ops.Release(r, input[ReleaseIn](w))
	case OpReleasedir:
		return 0, ops.Releasedir(r, input[ReleaseIn](w))
	case OpSetxattr, OpGetxattr, OpListxattr, OpRemovexattr:
		return w.dispatchXattr(r, body, payload)
	case OpGetlk:
		out := output[LkOut](w)
		return fixed(payload, out, ops.Getlk(r, input[LkIn](w), out))
	case OpSetlk, OpSetlkw:
		return 0, ops.Setlk(r, input[LkIn](w), r.Opcode == OpSetlkw)
	case OpBmap:
		out := output[BmapOut](w)
		return fixed(payload, out, ops.Bmap(r, input[BmapIn](w), out))
	case OpIoctl:
		return w.ioctl(r, body, payload)
	case OpPoll:
		out := output[PollOut](w)
		return fixed(payload, out, ops.Poll(r, input[PollIn](w), out))
	case OpSyncfs:
		return 0, ops.Syncfs(r)
	case OpSetupmapping:
		return 0, ops.Setupmapping(r, input[SetupmappingIn](w))
	case OpRemovemapping:
		return w.removemapping(r, body)
	case OpIomapConfig, OpIomapBegin, OpIomapEnd, OpIomapIoend, OpFreezeFS, OpUnfreezeFS, OpShutdownFS:
		return w.dispatchIomap(r, payload)
	}
	return w.dispatchName(r, body, payload)
}

// fixed copies a reply of fixed size to its place.
func fixed[T any](payload []byte, out *T, errno syscall.Errno) (int, syscall.Errno) {
	if errno != 0 {
		return 0, errno
	}
	if len(payload) < int(unsafe.Sizeof(*out)) {
		return 0, syscall.EIO
	}
	return copy(payload, raw(out)), 0
}

// filled checks what an operation says it has filled of the room it was given.
func filled(n int, errno syscall.Errno, room int) (int, syscall.Errno) {
	if errno == 0 && (n < 0 || n > room) {
		return 0, syscall.EIO
	}
	return max(n, 0), errno
}

func (w *Worker) read(r *Request, payload []byte) (int, syscall.Errno) {
	in := input[ReadIn](w)
	if uint64(in.Size) > uint64(len(payload)) {
		return badRequest, syscall.EIO
	}
	buf := payload[:in.Size:in.Size]
	n, errno := w.s.ops.Read(r, in, buf)
	return filled(n, errno, len(buf))
}

func (w *Worker) write(r *Request, body, payload []byte) (int, syscall.Errno) {
	in := input[WriteIn](w)
	if uint64(in.Size) != uint64(len(body)) {
		return badRequest, syscall.EIO
	}
	n, errno := w.s.ops.Write(r, in, body)
	if n, errno = filled(n, errno, len(body)); errno != 0 {
		return 0, errno
	}
	out := output[writeOut](w)
	out.Size = uint32(n)
	return fixed(payload, out, 0)
}

func (w *Worker) readdir(r *Request, payload []byte) (int, syscall.Errno) {
	in := input[ReadIn](w)
	size := uint64(in.Size)
	if size > uint64(len(payload)) {
		return badRequest, syscall.EIO
	}
	w.dir = DirBuffer{buf: payload[:size:size]}
	var errno syscall.Errno
	if r.Opcode == OpReaddir {
		errno = w.s.ops.Readdir(r, in, &w.dir)
	} else {
		errno = w.s.ops.Readdirplus(r, in, &w.dir)
	}
	return w.dir.n, errno
}

func (w *Worker) copyFileRange(r *Request, payload []byte) (int, syscall.Errno) {
	// What COPY_FILE_RANGE can report: 32 bits, and a whole number of any block.
	const limit = 1<<32 - 1<<16
	in := input[CopyFileRangeIn](w)
	if r.Opcode == OpCopyFileRange {
		in.Len = min(in.Len, limit)
	}
	n, errno := w.s.ops.CopyFileRange(r, in)
	if errno == 0 && n > in.Len {
		errno = syscall.EIO
	}
	if errno != 0 {
		return 0, errno
	}
	if r.Opcode == OpCopyFileRange {
		out := output[writeOut](w)
		out.Size = uint32(n)
		return fixed(payload, out, 0)
	}
	out := output[copyFileRangeOut](w)
	out.BytesCopied = n
	return fixed(payload, out, 0)
}

func (w *Worker) ioctl(r *Request, data, payload []byte) (int, syscall.Errno) {
	in := input[IoctlIn](w)
	if uint64(in.InSize) != uint64(len(data)) || len(payload) < ioctlOutSize ||
		uint64(in.OutSize) > uint64(len(payload)-ioctlOutSize) {
		return badRequest, syscall.EIO
	}
	end := ioctlOutSize + int(in.OutSize)
	buf := payload[ioctlOutSize:end:end]
	if overlaps(data, payload) {
		data = append([]byte(nil), data...)
	}
	out := output[IoctlOut](w)
	n, errno := w.s.ops.Ioctl(r, in, data, out, buf)
	if n, errno = filled(n, errno, len(buf)); errno != 0 {
		return 0, errno
	}
	copy(payload, raw(out))
	return ioctlOutSize + n, 0
}

func (w *Worker) removemapping(r *Request, body []byte) (int, syscall.Errno) {
	count := input[removemappingIn](w).Count
	if uint64(count)*uint64(removeOneSize) != uint64(len(body)) {
		return badRequest, syscall.EIO
	}
	ranges := make([]RemovemappingOne, 0, count)
	for ; len(body) > 0; body = body[removeOneSize:] {
		ranges = append(ranges, load[RemovemappingOne](body))
	}
	return 0, w.s.ops.Removemapping(r, ranges)
}
