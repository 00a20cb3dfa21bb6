package fuse

import (
	"syscall"
)

// dispatchName serves the operations on names in a directory, and what nobody knows.
func (w *Worker) dispatchName(r *Request, body, payload []byte) (int, syscall.Errno) {
	ops := w.s.ops
	switch r.Opcode {
	case OpLookup:
		name, ok := oneString(body)
		if !ok {
			return badRequest, syscall.EIO
		}
		if !validName(name) && name != "." && name != ".." {
			return 0, syscall.EINVAL
		}
		out := output[EntryOut](w)
		return fixed(payload, out, ops.Lookup(r, name, out))
	case OpUnlink, OpRmdir, OpLink:
		name, ok := oneString(body)
		if !ok {
			return badRequest, syscall.EIO
		}
		if !validName(name) {
			return 0, syscall.EINVAL
		}
		switch r.Opcode {
		case OpUnlink:
			return 0, ops.Unlink(r, name)
		case OpRmdir:
			return 0, ops.Rmdir(r, name)
		}
		out := output[EntryOut](w)
		return fixed(payload, out, ops.Link(r, input[LinkIn](w), name, out))
	case OpRename, OpRename2:
		from, rest, ok1 := cutString(body)
		to, ok2 := oneString(rest)
		if !ok1 || !ok2 {
			return badRequest, syscall.EIO
		}
		if !validName(from) || !validName(to) {
			return 0, syscall.EINVAL
		}
		// renameIn is the beginning of RenameIn, and the rest of the scratch is zero.
		return 0, ops.Rename(r, input[RenameIn](w), from, to)
	case OpMknod, OpMkdir, OpSymlink, OpCreate, OpTmpfile:
		return w.dispatchNew(r, body, payload)
	}
	return 0, syscall.ENOSYS
}

// dispatchNew serves the operations that make an inode; they may carry extensions.
func (w *Worker) dispatchNew(r *Request, body, payload []byte) (int, syscall.Errno) {
	ops := w.s.ops
	body, ext, ok := splitExtensions(body, r.TotalExtLen)
	if !ok {
		return badRequest, syscall.EIO
	}
	r.ext = ext
	name, rest, ok := cutString(body)
	if !ok {
		return badRequest, syscall.EIO
	}
	var target string
	if r.Opcode == OpSymlink {
		if target, rest, ok = cutString(rest); !ok {
			return badRequest, syscall.EIO
		}
		if target == "" {
			return 0, syscall.EINVAL
		}
	}
	if len(rest) != 0 {
		return badRequest, syscall.EIO
	}
	// A temporary file has no name; what the kernel sends in its place is "/".
	if r.Opcode != OpTmpfile && !validName(name) {
		return 0, syscall.EINVAL
	}
	switch r.Opcode {
	case OpMknod:
		out := output[EntryOut](w)
		return fixed(payload, out, ops.Mknod(r, input[MknodIn](w), name, out))
	case OpMkdir:
		out := output[EntryOut](w)
		return fixed(payload, out, ops.Mkdir(r, input[MkdirIn](w), name, out))
	case OpSymlink:
		out := output[EntryOut](w)
		return fixed(payload, out, ops.Symlink(r, name, target, out))
	}
	out := output[createOut](w)
	if r.Opcode == OpCreate {
		return fixed(payload, out, ops.Create(r, input[CreateIn](w), name, &out.Entry, &out.Open))
	}
	return fixed(payload, out, ops.Tmpfile(r, input[CreateIn](w), name, &out.Entry, &out.Open))
}

// dispatchXattr serves the operations on extended attributes.
func (w *Worker) dispatchXattr(r *Request, body, payload []byte) (int, syscall.Errno) {
	ops := w.s.ops
	switch r.Opcode {
	case OpSetxattr:
		in := input[SetxattrIn](w)
		name, value, ok := cutString(body)
		if !ok || uint64(len(value)) != uint64(in.Size) {
			return badRequest, syscall.EIO
		}
		if name == "" {
			return 0, syscall.EINVAL
		}
		return 0, ops.Setxattr(r, in, name, value)
	case OpRemovexattr:
		name, ok := oneString(body)
		if !ok {
			return badRequest, syscall.EIO
		}
		if name == "" {
			return 0, syscall.EINVAL
		}
		return 0, ops.Removexattr(r, name)
	}
	size := int(min(uint64(input[getxattrIn](w).Size), uint64(len(payload))))
	buf := payload[:size:size]
	var n int
	var errno syscall.Errno
	if r.Opcode == OpListxattr {
		n, errno = ops.Listxattr(r, buf)
	} else {
		name, ok := oneString(body)
		if !ok {
			return badRequest, syscall.EIO
		}
		if name == "" {
			return 0, syscall.EINVAL
		}
		if overlaps(body, buf) {
			name = w.keep(name)
		}
		n, errno = ops.Getxattr(r, name, buf)
	}
	switch {
	case errno != 0:
		return 0, errno
	case n < 0:
		return 0, syscall.EIO
	case size == 0:
		out := output[getxattrOut](w)
		out.Size = uint32(n)
		return fixed(payload, out, 0)
	case n > size:
		return 0, syscall.ERANGE
	}
	return n, 0
}

// createOut is the reply to CREATE and TMPFILE.
type createOut struct {
	Entry EntryOut
	Open  OpenOut
}

// oneString is cutString where nothing may follow.
func oneString(b []byte) (string, bool) {
	s, rest, ok := cutString(b)
	return s, ok && len(rest) == 0
}

// keep copies a name out of the way of a reply. Names of attributes fit the scratch; where the kernel
// sends a longer one, it costs an allocation.
func (w *Worker) keep(name string) string {
	if len(name) > len(w.name) {
		return string(append([]byte(nil), name...))
	}
	return alias(w.name[:copy(w.name[:], name)])
}

// takesName reports whether a request begins, behind its fixed structure, with a name.
func (op Opcode) takesName() bool {
	switch op {
	case OpLookup, OpSymlink, OpMknod, OpMkdir, OpUnlink, OpRmdir, OpRename, OpRename2, OpLink, OpCreate,
		OpTmpfile, OpSetxattr, OpGetxattr, OpRemovexattr:
		return true
	}
	return false
}
