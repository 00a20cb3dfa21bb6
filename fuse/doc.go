// Package fuse is the server's side of the low-level FUSE protocol of Linux, versions 7.31 to 7.46.
//
// It knows the wire format, the negotiation in INIT, and how requests are read from and replies
// written to the kernel. It must not know what a filesystem is made of: files, paths and handles mean
// nothing to it, nodeids are numbers. Package server implements Operations on top of it, package mount
// makes the descriptor that a Device works on, and fuse/fusetest plays the kernel in tests.
//
// # Layers
//
// A Transport moves messages. It has Workers, one for each request that it may have in hand at a
// time, and calls Worker.Handle with the bytes of a request and the memory for the reply. The Session
// behind the workers checks the request, calls one of the Operations, and encodes the result. Neither
// knows a descriptor, so the same code serves /dev/fuse (Device), tests, and other transports, whether
// they deliver a request in one piece or, as io_uring does, in three (Worker.HandleSplit). Payloads are
// never copied: READ fills the memory from which the reply is sent, WRITE gets the memory into which
// the request was read, and both are page aligned, ready for direct I/O.
//
// Wire structures have the names and field order of <linux/fuse.h>, in files by theme (wire_*.go).
// They are in the byte order of the host.
//
// # Trust
//
// The kernel is trusted: what it says about who calls is true, and it is not out to harm the server.
// The programs that cause the requests are not trusted, and the kernel passes on their names, offsets,
// sizes and flags. Therefore, and because a kernel of tomorrow may send what is not known today, no
// request, whatever its bytes, may end the session or touch memory outside its buffer: lengths are
// checked before use, names are checked for what the VFS guarantees (not empty, no '/', no NUL),
// unknown operations get ENOSYS, malformed ones EIO, and an operation that panics costs one EIO.
// Replies come from our own code, but results that would overrun the reply become EIO too.
//
// # Locks
//
// Nothing on the path of a request is shared between workers but read-only state, and the count of
// idle readers while their number still grows. The order of locks is
//
//	Worker.busy > Session.mu
//	Worker.busy > Worker.mu
//	readers.mu, Device.mu: alone
//
// Worker.busy is held while an operation runs. DESTROY and the end of Serve take the busy locks of
// the other workers one after the other to wait for them; only one goroutine ever does. INTERRUPT
// takes Worker.mu of the worker whose request it is, and only to close a channel. Notifications take
// no lock here, but the kernel takes its own: see each of them for what must not be held.
package fuse
