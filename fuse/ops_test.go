package fuse

import (
	"fmt"
	"slices"
	"strings"
	"syscall"
)

// echo answers every operation with success and notes what it was asked. It is used by one goroutine.
type echo struct {
	Unimplemented
	calls []string
	hook  func(r *Request)
}

func (e *echo) note(r *Request, format string, args ...any) syscall.Errno {
	if e.hook != nil {
		e.hook(r)
	}
	e.calls = append(e.calls, strings.Clone(fmt.Sprintf(format, args...)))
	return 0
}

func (e *echo) take() string {
	s := strings.Join(e.calls, ";")
	e.calls = nil
	return s
}

func (e *echo) Init(r *Request, p *Protocol) syscall.Errno { return 0 }
func (e *echo) Destroy()                                   { e.calls = append(e.calls, "destroy") }
func (e *echo) Forget(nodeid, n uint64) {
	e.calls = append(e.calls, fmt.Sprintf("forget %d %d", nodeid, n))
}

func (e *echo) Lookup(r *Request, name string, out *EntryOut) syscall.Errno {
	out.NodeID, out.Generation = 77, 3
	return e.note(r, "lookup %d %s", r.NodeID, name)
}
func (e *echo) Getattr(r *Request, in *GetattrIn, out *AttrOut) syscall.Errno {
	out.Attr.Ino = r.NodeID
	return e.note(r, "getattr %d fh %d", r.NodeID, in.Fh)
}
func (e *echo) Setattr(r *Request, in *SetattrIn, out *AttrOut) syscall.Errno {
	return e.note(r, "setattr %d", in.Valid)
}
func (e *echo) Statx(r *Request, in *StatxIn, out *StatxOut) syscall.Errno {
	return e.note(r, "statx %#x", in.SxMask)
}
func (e *echo) Statfs(r *Request, out *StatfsOut) syscall.Errno { return e.note(r, "statfs") }
func (e *echo) Access(r *Request, in *AccessIn) syscall.Errno   { return e.note(r, "access %d", in.Mask) }
func (e *echo) Readlink(r *Request, buf []byte) (int, syscall.Errno) {
	return copy(buf, "the/target"), e.note(r, "readlink")
}
func (e *echo) Symlink(r *Request, name, target string, out *EntryOut) syscall.Errno {
	return e.note(r, "symlink %s %s", name, target)
}
func (e *echo) Mknod(r *Request, in *MknodIn, name string, out *EntryOut) syscall.Errno {
	return e.note(r, "mknod %o %d %s", in.Mode, in.Rdev, name)
}
func (e *echo) Mkdir(r *Request, in *MkdirIn, name string, out *EntryOut) syscall.Errno {
	var ext []string
	for name, value := range r.SecurityContexts() {
		ext = append(ext, fmt.Sprintf("%s=%s", name, value))
	}
	if groups := slices.Collect(r.SupplementaryGroups()); groups != nil {
		ext = append(ext, fmt.Sprint(groups))
	}
	return e.note(r, "mkdir %o %s %s", in.Mode, name, strings.Join(ext, ","))
}
func (e *echo) Create(r *Request, in *CreateIn, name string, out *EntryOut, open *OpenOut) syscall.Errno {
	out.NodeID, open.Fh = 78, 5
	return e.note(r, "create %o %s", in.Mode, name)
}
func (e *echo) Tmpfile(r *Request, in *CreateIn, name string, out *EntryOut, open *OpenOut) syscall.Errno {
	return e.note(r, "tmpfile %o %s", in.Mode, name)
}
func (e *echo) Link(r *Request, in *LinkIn, name string, out *EntryOut) syscall.Errno {
	return e.note(r, "link %d %s", in.OldNodeID, name)
}
func (e *echo) Unlink(r *Request, name string) syscall.Errno { return e.note(r, "unlink %s", name) }
func (e *echo) Rmdir(r *Request, name string) syscall.Errno  { return e.note(r, "rmdir %s", name) }
func (e *echo) Rename(r *Request, in *RenameIn, from, to string) syscall.Errno {
	return e.note(r, "rename %s %d %s %d", from, in.NewDir, to, in.Flags)
}
func (e *echo) Open(r *Request, in *OpenIn, out *OpenOut) syscall.Errno {
	return e.note(r, "open %d", in.Flags)
}
func (e *echo) Read(r *Request, in *ReadIn, buf []byte) (int, syscall.Errno) {
	for i := range buf {
		buf[i] = byte(in.Offset) + byte(i)
	}
	return len(buf), e.note(r, "read %d %d", in.Offset, len(buf))
}
func (e *echo) Write(r *Request, in *WriteIn, data []byte) (int, syscall.Errno) {
	return len(data), e.note(r, "write %d %s", in.Offset, data)
}
func (e *echo) Lseek(r *Request, in *LseekIn, out *LseekOut) syscall.Errno {
	out.Offset = in.Offset + 1
	return e.note(r, "lseek %d %d", in.Offset, in.Whence)
}
func (e *echo) Fallocate(r *Request, in *FallocateIn) syscall.Errno {
	return e.note(r, "fallocate %d %d", in.Offset, in.Length)
}
func (e *echo) CopyFileRange(r *Request, in *CopyFileRangeIn) (uint64, syscall.Errno) {
	return in.Len, e.note(r, "copy %d", in.Len)
}
func (e *echo) Flush(r *Request, in *FlushIn) syscall.Errno { return e.note(r, "flush %d", in.Fh) }
func (e *echo) Fsync(r *Request, in *FsyncIn) syscall.Errno { return e.note(r, "fsync %d", in.Flags) }
func (e *echo) Release(r *Request, in *ReleaseIn) syscall.Errno {
	return e.note(r, "release %d", in.Fh)
}
func (e *echo) Opendir(r *Request, in *OpenIn, out *OpenOut) syscall.Errno {
	return e.note(r, "opendir")
}
func (e *echo) Readdir(r *Request, in *ReadIn, d *DirBuffer) syscall.Errno {
	for i := in.Offset; i < 1000; i++ {
		if !d.Append(i+1, i+1, 8, fmt.Appendf(nil, "entry-%d", i)) {
			break
		}
	}
	return e.note(r, "readdir %d", in.Offset)
}
func (e *echo) Readdirplus(r *Request, in *ReadIn, d *DirBuffer) syscall.Errno {
	for i := in.Offset; i < 1000; i++ {
		out := d.AppendPlus(i+1, i+1, 8, fmt.Appendf(nil, "entry-%d", i))
		if out == nil {
			break
		}
		out.NodeID = i + 100
	}
	return e.note(r, "readdirplus %d", in.Offset)
}
func (e *echo) Fsyncdir(r *Request, in *FsyncIn) syscall.Errno     { return e.note(r, "fsyncdir") }
func (e *echo) Releasedir(r *Request, in *ReleaseIn) syscall.Errno { return e.note(r, "releasedir") }
func (e *echo) Setxattr(r *Request, in *SetxattrIn, name string, value []byte) syscall.Errno {
	return e.note(r, "setxattr %s %s %d", name, value, in.SetxattrFlags)
}
func (e *echo) Getxattr(r *Request, name string, buf []byte) (int, syscall.Errno) {
	// The value is written before the name is read: they must not overlap.
	const value = "this is a value that is long enough to cover the name if they shared memory"
	copy(buf, value)
	return len(value), e.note(r, "getxattr %s", name)
}
func (e *echo) Listxattr(r *Request, buf []byte) (int, syscall.Errno) {
	const list = "user.a\x00user.b\x00"
	copy(buf, list)
	return len(list), e.note(r, "listxattr")
}
func (e *echo) Removexattr(r *Request, name string) syscall.Errno {
	return e.note(r, "removexattr %s", name)
}
func (e *echo) Getlk(r *Request, in *LkIn, out *LkOut) syscall.Errno {
	out.Lk = in.Lk
	return e.note(r, "getlk %d", in.Owner)
}
func (e *echo) Setlk(r *Request, in *LkIn, wait bool) syscall.Errno {
	return e.note(r, "setlk %v", wait)
}
func (e *echo) Bmap(r *Request, in *BmapIn, out *BmapOut) syscall.Errno {
	out.Block = in.Block
	return e.note(r, "bmap %d", in.Block)
}
func (e *echo) Ioctl(r *Request, in *IoctlIn, data []byte, out *IoctlOut, buf []byte) (int, syscall.Errno) {
	clear(buf)
	out.Result = 9
	return copy(buf, data), e.note(r, "ioctl %#x %s", in.Cmd, data)
}
func (e *echo) Poll(r *Request, in *PollIn, out *PollOut) syscall.Errno {
	out.Revents = in.Events
	return e.note(r, "poll %d", in.Events)
}
func (e *echo) Syncfs(r *Request) syscall.Errno { return e.note(r, "syncfs") }
func (e *echo) NotifyReply(r *Request, in *NotifyRetrieveIn, data []byte) {
	e.note(r, "notifyreply %d %s", r.Unique, data)
}
func (e *echo) Setupmapping(r *Request, in *SetupmappingIn) syscall.Errno {
	return e.note(r, "setupmapping %d", in.Foffset)
}
func (e *echo) Removemapping(r *Request, ranges []RemovemappingOne) syscall.Errno {
	return e.note(r, "removemapping %v", ranges)
}

func (e *echo) IomapConfig(r *Request, in *IomapConfigIn, out *IomapConfigOut) syscall.Errno {
	out.Flags, out.CacheMaxbytes = IomapConfigBlocksize, 5
	return e.note(r, "config %d %#x %d %d", r.NodeID, in.Flags, in.Maxbytes, in.CacheMaxbytes)
}
func (e *echo) IomapBegin(r *Request, in *IomapBeginIn, out *IomapBeginOut) syscall.Errno {
	out.Write.Dev = 7
	return e.note(r, "begin %d %#x %d %d+%d", r.NodeID, in.Op, in.Ino, in.Pos, in.Count)
}
func (e *echo) IomapEnd(r *Request, in *IomapEndIn) syscall.Errno {
	return e.note(r, "end %d %#x %d %d+%d %d %v", r.NodeID, in.Op, in.Ino, in.Pos, in.Count, in.Written, in.Map)
}
func (e *echo) IomapIoend(r *Request, in *IomapIoendIn, out *IomapIoendOut) syscall.Errno {
	out.Newsize = in.Pos + in.Written
	return e.note(r, "ioend %d %#x %d %d %d+%d %#x %d", r.NodeID, in.Flags, in.Error, in.Ino, in.Pos, in.Written, in.NewAddr, in.Dev)
}
func (e *echo) FreezeFS(r *Request, in *FreezeFSIn) syscall.Errno {
	return e.note(r, "freeze %d", in.Unlinked)
}
func (e *echo) UnfreezeFS(r *Request) syscall.Errno { return e.note(r, "unfreeze") }
func (e *echo) ShutdownFS(r *Request, in *ShutdownFSIn) syscall.Errno {
	return e.note(r, "shutdown %d", in.Flags)
}
