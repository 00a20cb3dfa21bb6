package fusetest

import (
	"encoding/binary"
	"fmt"
	"syscall"

	"ext4box/fuse"
)

// Init sends INIT and notes the answer.
func (k *Kernel) Init() error {
	in := fuse.InitIn{
		Major: k.cfg.Major, Minor: k.cfg.Minor, MaxReadahead: k.cfg.MaxReadahead, Flags: uint32(k.cfg.Flags),
	}
	body := Bytes(&in)
	if k.cfg.Minor < 36 && k.cfg.Major == fuse.Major {
		body = body[:16]
	} else {
		in.Flags |= uint32(fuse.InitExt)
		in.Flags2 = uint32(k.cfg.Flags >> 32)
	}
	r := k.Do(fuse.OpInit, 0, body)
	if err := r.Err(); err != nil {
		return fmt.Errorf("INIT: %w", err)
	}
	k.Protocol = Value[fuse.InitOut](r.Payload)
	return nil
}

// call does a request whose reply is an Out.
func call[Out any](k *Kernel, op fuse.Opcode, nodeid uint64, parts ...[]byte) (Out, error) {
	var out Out
	r := k.Do(op, nodeid, parts...)
	if err := r.Err(); err != nil {
		return out, err
	}
	if len(r.Payload) != len(Bytes(&out)) {
		return out, fmt.Errorf("%v: reply of %d bytes: %w", op, len(r.Payload), syscall.EPROTO)
	}
	return Value[Out](r.Payload), nil
}

// Lookup resolves a name.
func (k *Kernel) Lookup(parent uint64, name string) (fuse.EntryOut, error) {
	return call[fuse.EntryOut](k, fuse.OpLookup, parent, CString(name))
}

// Getattr gets attributes.
func (k *Kernel) Getattr(nodeid uint64) (fuse.AttrOut, error) {
	return call[fuse.AttrOut](k, fuse.OpGetattr, nodeid, Bytes(&fuse.GetattrIn{}))
}

// Setattr sets attributes.
func (k *Kernel) Setattr(nodeid uint64, in fuse.SetattrIn) (fuse.AttrOut, error) {
	return call[fuse.AttrOut](k, fuse.OpSetattr, nodeid, Bytes(&in))
}

// Statx gets attributes with the time of birth.
func (k *Kernel) Statx(nodeid uint64, mask uint32) (fuse.StatxOut, error) {
	return call[fuse.StatxOut](k, fuse.OpStatx, nodeid, Bytes(&fuse.StatxIn{SxMask: mask}))
}

// Statfs gets the figures of the filesystem.
func (k *Kernel) Statfs() (fuse.StatfsOut, error) {
	return call[fuse.StatfsOut](k, fuse.OpStatfs, 1)
}

// Open opens a file.
func (k *Kernel) Open(nodeid uint64, flags uint32) (fuse.OpenOut, error) {
	return call[fuse.OpenOut](k, fuse.OpOpen, nodeid, Bytes(&fuse.OpenIn{Flags: flags}))
}

// Opendir opens a directory.
func (k *Kernel) Opendir(nodeid uint64) (fuse.OpenOut, error) {
	return call[fuse.OpenOut](k, fuse.OpOpendir, nodeid, Bytes(&fuse.OpenIn{}))
}

// Create makes and opens a file.
func (k *Kernel) Create(parent uint64, name string, in fuse.CreateIn) (fuse.EntryOut, fuse.OpenOut, error) {
	out, err := call[struct {
		Entry fuse.EntryOut
		Open  fuse.OpenOut
	}](k, fuse.OpCreate, parent, Bytes(&in), CString(name))
	return out.Entry, out.Open, err
}

// Mkdir makes a directory.
func (k *Kernel) Mkdir(parent uint64, name string, mode uint32) (fuse.EntryOut, error) {
	return call[fuse.EntryOut](k, fuse.OpMkdir, parent, Bytes(&fuse.MkdirIn{Mode: mode}), CString(name))
}

// Unlink removes a name.
func (k *Kernel) Unlink(parent uint64, name string) error {
	return k.Do(fuse.OpUnlink, parent, CString(name)).Err()
}

// Rename renames with flags.
func (k *Kernel) Rename(dir uint64, name string, newDir uint64, newName string, flags uint32) error {
	in := fuse.RenameIn{NewDir: newDir, Flags: flags}
	return k.Do(fuse.OpRename2, dir, Bytes(&in), CString(name), CString(newName)).Err()
}

// Readlink reads a symbolic link.
func (k *Kernel) Readlink(nodeid uint64) (string, error) {
	r := k.Do(fuse.OpReadlink, nodeid)
	return string(r.Payload), r.Err()
}

// Read reads with one request.
func (k *Kernel) Read(nodeid, off uint64, size uint32) ([]byte, error) {
	r := k.Do(fuse.OpRead, nodeid, Bytes(&fuse.ReadIn{Offset: off, Size: size}))
	if err := r.Err(); err != nil {
		return nil, err
	}
	if uint64(len(r.Payload)) > uint64(size) {
		return nil, fmt.Errorf("READ: reply longer than asked for: %w", syscall.EPROTO)
	}
	return r.Payload, nil
}

// Write writes with one request.
func (k *Kernel) Write(nodeid, off uint64, data []byte) (int, error) {
	in := fuse.WriteIn{Offset: off, Size: uint32(len(data))}
	out, err := call[struct{ Size, _ uint32 }](k, fuse.OpWrite, nodeid, Bytes(&in), data)
	return int(out.Size), err
}

// Dirent is an entry of a directory. Entry is zero for Readdir.
type Dirent struct {
	Ino, Next uint64
	Type      uint32
	Name      string
	Entry     fuse.EntryOut
}

// Readdir reads entries from a position on, with one request.
func (k *Kernel) Readdir(nodeid, pos uint64, size uint32) ([]Dirent, error) {
	r := k.Do(fuse.OpReaddir, nodeid, Bytes(&fuse.ReadIn{Offset: pos, Size: size}))
	if err := r.Err(); err != nil {
		return nil, err
	}
	return ParseDirents(r.Payload, false)
}

// Readdirplus does so with attributes.
func (k *Kernel) Readdirplus(nodeid, pos uint64, size uint32) ([]Dirent, error) {
	r := k.Do(fuse.OpReaddirplus, nodeid, Bytes(&fuse.ReadIn{Offset: pos, Size: size}))
	if err := r.Err(); err != nil {
		return nil, err
	}
	return ParseDirents(r.Payload, true)
}

// ParseDirents decodes the reply to READDIR or READDIRPLUS. It is as strict as the kernel, and more: the
// kernel ignores a rest that is no entry.
func ParseDirents(b []byte, plus bool) ([]Dirent, error) {
	const head = 24
	var list []Dirent
	for len(b) > 0 {
		var d Dirent
		fixed := head
		if plus {
			d.Entry = Value[fuse.EntryOut](b)
			fixed += len(Bytes(&d.Entry))
		}
		if len(b) < fixed {
			return nil, fmt.Errorf("directory entry cut off: %w", syscall.EPROTO)
		}
		h := b[fixed-head:]
		d.Ino, d.Next = binary.NativeEndian.Uint64(h), binary.NativeEndian.Uint64(h[8:])
		n := int(binary.NativeEndian.Uint32(h[16:]))
		d.Type = binary.NativeEndian.Uint32(h[20:])
		size := (fixed + n + 7) &^ 7
		if n == 0 || n > 1024 || size > len(b) {
			return nil, fmt.Errorf("directory entry with a name of %d bytes: %w", n, syscall.EPROTO)
		}
		d.Name = string(b[fixed : fixed+n])
		list = append(list, d)
		b = b[size:]
	}
	return list, nil
}

// Getxattr gets a value with room for size bytes.
func (k *Kernel) Getxattr(nodeid uint64, name string, size uint32) ([]byte, error) {
	r := k.Do(fuse.OpGetxattr, nodeid, Bytes(&[2]uint32{size}), CString(name))
	return r.Payload, r.Err()
}

// Setxattr sets a value.
func (k *Kernel) Setxattr(nodeid uint64, name string, value []byte, flags uint32) error {
	in := fuse.SetxattrIn{Size: uint32(len(value)), Flags: flags}
	head := Bytes(&in)
	if k.Protocol.InitFlags()&fuse.InitSetxattrExt == 0 {
		head = head[:8]
	}
	return k.Do(fuse.OpSetxattr, nodeid, head, CString(name), value).Err()
}

// IomapConfig asks for the geometry. The reply may be shorter than the structure.
func (k *Kernel) IomapConfig(in fuse.IomapConfigIn) (fuse.IomapConfigOut, error) {
	r := k.Do(fuse.OpIomapConfig, 0, Bytes(&in))
	if err := r.Err(); err != nil {
		return fuse.IomapConfigOut{}, err
	}
	if len(r.Payload) > len(Bytes(&fuse.IomapConfigOut{})) {
		return fuse.IomapConfigOut{}, fmt.Errorf("IOMAP_CONFIG: reply of %d bytes: %w", len(r.Payload), syscall.EPROTO)
	}
	return Value[fuse.IomapConfigOut](r.Payload), nil
}

// IomapBegin asks for mappings.
func (k *Kernel) IomapBegin(nodeid uint64, in fuse.IomapBeginIn) (fuse.IomapBeginOut, error) {
	return call[fuse.IomapBeginOut](k, fuse.OpIomapBegin, nodeid, Bytes(&in))
}

// IomapEnd says that an operation on a mapping is over.
func (k *Kernel) IomapEnd(nodeid uint64, in fuse.IomapEndIn) error {
	return k.Do(fuse.OpIomapEnd, nodeid, Bytes(&in)).Err()
}

// IomapIoend says that data was written.
func (k *Kernel) IomapIoend(nodeid uint64, in fuse.IomapIoendIn) (fuse.IomapIoendOut, error) {
	return call[fuse.IomapIoendOut](k, fuse.OpIomapIoend, nodeid, Bytes(&in))
}

// Forget takes back lookups of one inode, BatchForget of several.
func (k *Kernel) Forget(nodeid, nlookup uint64) error {
	return k.Tell(fuse.OpForget, nodeid, Bytes(&fuse.ForgetIn{Nlookup: nlookup}))
}

// BatchForget takes back lookups of several inodes.
func (k *Kernel) BatchForget(list ...fuse.ForgetOne) error {
	in := fuse.BatchForgetIn{Count: uint32(len(list))}
	parts := [][]byte{Bytes(&in)}
	for i := range list {
		parts = append(parts, Bytes(&list[i]))
	}
	return k.Tell(fuse.OpBatchForget, 0, parts...)
}

// Interrupt interrupts a request. Like the kernel it does not wait for an answer.
func (k *Kernel) Interrupt(unique uint64) error {
	return k.link.send(k.Message(fuse.OpInterrupt, 0, unique|1, Bytes(&unique)))
}

// InterruptReply interrupts a request and waits for the answer that a server gives if it does not
// know the request.
func (k *Kernel) InterruptReply(unique uint64) Reply {
	return k.GoRaw(unique|1, k.Message(fuse.OpInterrupt, 0, unique|1, Bytes(&unique))).Wait()
}

// Destroy sends DESTROY.
func (k *Kernel) Destroy() error { return k.Do(fuse.OpDestroy, 0).Err() }
