// Package fuse is the server's side of the low-level FUSE protocol of Linux, versions 7.31 to 7.46, and of
// its experimental extension fuse-iomap, which calls itself 7.99.
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
// # fuse-iomap
//
// With the extension the kernel moves the data of files itself, along mappings that the server answers.
// All numbers and structures of it are in iomap_abi.go. It is in use only where the server asks for it
// (Params.Iomap) and the kernel says four things: that it speaks 7.99, or a later version that somebody
// vouched for (Params.IomapMinor); that it offers the feature, by a bit that other versions use for
// something else; that it knows the ioctl that asks what it can do; and that it can move file data.
// Protocol.NoIomap tells which of them it did not say. Elsewhere nothing changes: the version that is
// answered stays below, and the operations of the extension are unknown ones.
//
// IOMAP_CONFIG comes before everything else, with the nodeid 0. The kernel holds requests back until it
// is answered, and so does the session, should one come earlier.
//
// # Readers
//
// A reader handles what it has read, so that nothing is handed between threads, and another one reads
// meanwhile. Their number is bounded, and when all of them are busy the next request waits in the kernel.
// With the extension that can be for ever: an operation may wait for space, space for data to be
// written back, and writeback for the answers to BEGIN and IOEND. Nobody can choose what to read. So
// somebody always reads: the last reader that could gives the request it got away, to goroutines
// that exist for that, and where those are busy it parks it, a few bytes each, until one of them, or
// another reader, is free. What others may be waiting for it handles itself: IOEND, BEGIN for writeback
// (or for what is not known), and INTERRUPT. These must never wait for another request.
//
// DESTROY always goes to those goroutines, behind what is parked: the reader that got it would wait for
// others and not read. What was read before is through before Operations.Destroy is called, but for a
// request that its reader has only just taken from the kernel, which nobody can see. That one, and what
// comes later, is answered and has no effect: RELEASE and FORGET with success, everything else with
// ENOTCONN. The server frees, when it is destroyed, what nobody released.
//
// The threads of all of them are marked so that the kernel does not write back files of this mount, and
// wait for that, when one of them asks for memory.
//
// # Rings
//
// Over io_uring (7.42) the kernel puts a request into an entry of the queue of the processor on which the caller
// runs. Rings have, for each processor, threads with a ring and one entry each, which handle what is put
// there and, in one system call, commit the answer and wait for the next. A thread that blocks has no entry
// that is free, so the next request goes to another; of those that are free the kernel takes the one that was
// used last. Threads run on the processor of their queue as long as requests come one at a time (ringThread.follow):
// the kernel then switches between caller and thread and wakes no other processor. Where it would move the caller to
// one that sleeps, a thread does not go to sleep at once (ringThread.note). Queues of processors
// that are not there must have entries too; they share a thread.
//
// Readers of the device stay, for INIT, FORGET, INTERRUPT, and everything if registering fails. They let FORGETs gather for
// a moment, and with them INTERRUPTs. FORGET and INTERRUPT
// may overtake, or be overtaken by, requests that come by a ring: see earlyInterrupts. A signal to who waits
// for a free entry is no INTERRUPT: the kernel does not look for one when it finds an entry.
//
// Requests are bound to their queue. So a queue all of whose entries wait for requests from its own
// processor would wait for ever. Only Request.InvalData waits for others; whoever calls it must see to it that
// fewer do at once than a queue has threads (minQueueThreads), and the thread of absent processors is
// refused. Everything else that an operation waits for (devices, locks, commits) goes on without more requests.
//
// With fuse-iomap there are no rings: there the last reader has duties that no ring can have.
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
//	overflow.mu > Session.mu
//	readers.mu, Device.mu: alone
//
// Worker.busy is held while an operation runs. DESTROY and the end of Serve take the busy locks of
// the other workers one after the other to wait for them; only one goroutine ever does. INTERRUPT
// takes Worker.mu of the worker whose request it is, and only to close a channel. Notifications take
// no lock here, but the kernel takes its own: see each of them for what must not be held.
//
// While BEGIN, END and IOEND are being answered the kernel does not hold the lock of its cache of
// mappings, so that UpsertMappings and InvalMappings may be called from them, under whatever lock orders
// the answers. But it holds pages of the file locked while BEGIN is for reading, a fault or writeback:
// there nothing may be called that touches its page cache, such as NotifyInvalInode with a range.
package fuse
