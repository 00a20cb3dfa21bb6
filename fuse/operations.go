package fuse

import "syscall"

// Operations is what a file server implements: one method per operation. Embed Unimplemented to
// answer ENOSYS to everything else.
//
// Methods are called concurrently, on the goroutine that read the request. They return 0 for
// success or an errno. What they are handed (requests, names, buffers, in and out structures) belongs
// to the session and is valid only until they return; names alias the request buffer, so keep a copy
// (strings.Clone), never the string. Out structures come zeroed and are ignored on error.
//
// Names are never empty and contain neither '/' nor NUL; only Lookup sees "." and "..".
//
// Several operations are never asked for again once they were answered with ENOSYS, and programs see
// success or a fallback instead. That is wanted for OPEN, OPENDIR, FLUSH and ACCESS. It is dangerous
// for FSYNC: fsync(2) then succeeds without reaching the server.
type Operations interface {
	// Init ends the negotiation. p holds the terms about to be sent to the kernel; Init may give up
	// features or lower limits in p.Params, but not add to them. An error refuses the mount.
	Init(r *Request, p *Protocol) syscall.Errno
	// Destroy is called once after a successful Init, when every other method has returned and none
	// will be called again: on DESTROY, or before Session.Serve returns. RELEASE and FORGET that
	// come later are swallowed, so whatever is still open or looked up at this point no longer is.
	Destroy()

	// Lookup resolves a name in the directory r.NodeID. With InitExportSupport "." and ".." come
	// with any nodeid, also a forgotten one.
	Lookup(r *Request, name string, out *EntryOut) syscall.Errno
	// Forget takes back lookups of an inode. There is no reply.
	Forget(nodeid, nlookup uint64)
	Getattr(r *Request, in *GetattrIn, out *AttrOut) syscall.Errno
	Setattr(r *Request, in *SetattrIn, out *AttrOut) syscall.Errno
	Statx(r *Request, in *StatxIn, out *StatxOut) syscall.Errno
	Statfs(r *Request, out *StatfsOut) syscall.Errno
	Access(r *Request, in *AccessIn) syscall.Errno
	// Readlink puts the target into buf, which has room for one page less one byte, and returns its
	// length.
	Readlink(r *Request, buf []byte) (int, syscall.Errno)

	// The operations that make or remove names in the directory r.NodeID. Symlink, Mknod, Mkdir,
	// Create and Tmpfile may carry a security context and a supplementary group; see Request.
	Symlink(r *Request, name, target string, out *EntryOut) syscall.Errno
	Mknod(r *Request, in *MknodIn, name string, out *EntryOut) syscall.Errno
	Mkdir(r *Request, in *MkdirIn, name string, out *EntryOut) syscall.Errno
	Create(r *Request, in *CreateIn, name string, out *EntryOut, open *OpenOut) syscall.Errno
	// Tmpfile makes a file without a name; name is a hint of the kernel without meaning.
	Tmpfile(r *Request, in *CreateIn, name string, out *EntryOut, open *OpenOut) syscall.Errno
	Link(r *Request, in *LinkIn, name string, out *EntryOut) syscall.Errno
	Unlink(r *Request, name string) syscall.Errno
	Rmdir(r *Request, name string) syscall.Errno
	// Rename serves RENAME and RENAME2.
	Rename(r *Request, in *RenameIn, oldName, newName string) syscall.Errno

	Open(r *Request, in *OpenIn, out *OpenOut) syscall.Errno
	// Read fills buf and returns how many bytes it filled; less than len(buf) means end of file. buf
	// is page aligned and has the length asked for.
	Read(r *Request, in *ReadIn, buf []byte) (int, syscall.Errno)
	// Write returns how many bytes of data it wrote. data is page aligned on every transport
	// of this package.
	Write(r *Request, in *WriteIn, data []byte) (int, syscall.Errno)
	Lseek(r *Request, in *LseekIn, out *LseekOut) syscall.Errno
	Fallocate(r *Request, in *FallocateIn) syscall.Errno
	// CopyFileRange serves COPY_FILE_RANGE, with Len clamped to what its 32-bit reply can express,
	// and COPY_FILE_RANGE_64.
	CopyFileRange(r *Request, in *CopyFileRangeIn) (uint64, syscall.Errno)
	Flush(r *Request, in *FlushIn) syscall.Errno
	Fsync(r *Request, in *FsyncIn) syscall.Errno
	Release(r *Request, in *ReleaseIn) syscall.Errno

	Opendir(r *Request, in *OpenIn, out *OpenOut) syscall.Errno
	// Readdir adds the entries from position in.Offset on until d is full. No entry added means the
	// end of the directory.
	Readdir(r *Request, in *ReadIn, d *DirBuffer) syscall.Errno
	// Readdirplus does so with attributes. Each entry whose EntryOut.NodeID is set counts as one
	// lookup, except "." and "..", and only if the method returns 0.
	Readdirplus(r *Request, in *ReadIn, d *DirBuffer) syscall.Errno
	Fsyncdir(r *Request, in *FsyncIn) syscall.Errno
	Releasedir(r *Request, in *ReleaseIn) syscall.Errno

	// Setxattr stores a value; it is valid only during the call.
	Setxattr(r *Request, in *SetxattrIn, name string, value []byte) syscall.Errno
	// Getxattr puts the value into buf if it fits, and returns its full length in either case. An
	// empty buf asks for the length; for one that is too short the session answers ERANGE.
	Getxattr(r *Request, name string, buf []byte) (int, syscall.Errno)
	// Listxattr does the same with the names, each followed by a NUL.
	Listxattr(r *Request, buf []byte) (int, syscall.Errno)
	Removexattr(r *Request, name string) syscall.Errno

	Getlk(r *Request, in *LkIn, out *LkOut) syscall.Errno
	// Setlk serves SETLK and, with wait, SETLKW.
	Setlk(r *Request, in *LkIn, wait bool) syscall.Errno
	Bmap(r *Request, in *BmapIn, out *BmapOut) syscall.Errno
	// Ioctl reads data, fills buf (in.OutSize bytes) and returns how many bytes it filled.
	Ioctl(r *Request, in *IoctlIn, data []byte, out *IoctlOut, buf []byte) (int, syscall.Errno)
	Poll(r *Request, in *PollIn, out *PollOut) syscall.Errno
	Syncfs(r *Request) syscall.Errno

	// NotifyReply brings the data that Session.NotifyRetrieve asked for; r.Unique is the number that
	// was given there. There is no reply.
	NotifyReply(r *Request, in *NotifyRetrieveIn, data []byte)

	// The operations of fuse-iomap, which come only where Protocol.Iomap says so. What is in their
	// requests is passed on unchecked: it may be beyond any file, and wrap around.

	// IomapConfig comes once, right behind Init and before anything else, with the nodeid 0: time to
	// register devices (Session.OpenBacking) and to tell the geometry. ENOSYS is fine, any other
	// error ends the mount.
	IomapConfig(r *Request, in *IomapConfigIn, out *IomapConfigOut) syscall.Errno
	// IomapBegin answers what backs in.Pos; both slots must contain it. Several come at once for the
	// same file, with pages of it locked: nothing may be done that touches its page cache, or that
	// waits for another request on it.
	IomapBegin(r *Request, in *IomapBeginIn, out *IomapBeginOut) syscall.Errno
	// IomapEnd says that an operation on a mapping is over. ENOSYS: never ask again.
	IomapEnd(r *Request, in *IomapEndIn) syscall.Errno
	// IomapIoend says that data is on the device, or could not be brought there. Others wait for it,
	// so it must not wait for any request, and neither must IomapBegin for writeback.
	IomapIoend(r *Request, in *IomapIoendIn, out *IomapIoendOut) syscall.Errno
	// FreezeFS makes the filesystem durable and still, until UnfreezeFS.
	FreezeFS(r *Request, in *FreezeFSIn) syscall.Errno
	UnfreezeFS(r *Request) syscall.Errno
	// ShutdownFS says that the device is gone.
	ShutdownFS(r *Request, in *ShutdownFSIn) syscall.Errno

	// Setupmapping and Removemapping manage a DAX window; only virtiofs has one.
	Setupmapping(r *Request, in *SetupmappingIn) syscall.Errno
	Removemapping(r *Request, ranges []RemovemappingOne) syscall.Errno
}
