// Package vfs is a model of the Linux kernel's side of fuse-iomap, in the process of the test: the part
// of the VFS, of the page cache and of iomap that decides which requests a server sees, in which order
// and under which locks, and what it does with the answers. It runs on package fusetest, needs no
// mount and no privileges, and moves file data between its page cache and the devices that the server
// registered, exactly where mappings say.
//
// Mount mounts a server. The FS it returns has system calls: on paths, and on the File that Open
// returns. What the server does against the protocol fails the test, unless the test expects it
// (FS.Expect); the model then goes on as the kernel would.
//
// # What is modelled
//
// The protocol as version 7.99 describes it, in two generations (Config.Generation): V7, the seventh
// posting, and Later, the state of the implementation after it. Where the two differ in what they
// accept, each does what it does, and what either refuses is a violation there.
//
//   - Names (path.go, namespace.go, rename.go, open.go, dir.go): lookups with cached names, and permissions,
//     ACLs and attributes (perm.go, acl.go, attr.go, setattr.go, xattr.go) as a kernel checks and sends them.
//   - Inodes (inode.go): one for each nodeid, attribute flags taken at instantiation only, lookup counts, FORGET at
//     eviction. Two nodeids with one inode number, and numbers that change, are violations.
//   - Mappings (mapping.go, validate.go): the cache with two forks, its sequence number, its limit,
//     its lookup rules and everything that invalidates it.
//   - Page cache (pagecache.go, folio.go, read.go, write.go, writeback.go, mmap.go): folios of a page,
//     or of a block if that is larger, with the state of each block; writeback gathers them into
//     ioends, which are sorted and merged when the device is done, and reported if they have to be.
//   - Direct I/O, truncation, preallocation, inline data, reports (FIEMAP, SEEK, BMAP), swap files, untorn
//     writes, freezing.
//   - Size: i_size, what the kernel believes the server has recorded (i_disk_size), and, beyond what a
//     kernel knows, the bounds between which the recorded size can be. An attribute or an IOEND reply
//     outside of them is a violation: it would lose data at the next crash.
//
// Beside what the kernel refuses, what it swallows with loss of data counts as a violation too: a
// hole in answer to WRITEBACK, a hole as the target of a write, RETRY_CACHE without end, blocks that two
// files have at the same time, a reply to SETATTR that has not what was set, ATOMIC_O_TRUNC from a
// server that does not want to see OPEN. Config.Tamper changes what a server says on its way, so that a
// test can make sure that a mistake would be found.
//
// # Locks
//
// As in the kernel, from the outside to the inside:
//
//	FS.writers (freeze protection) > FS.renames (s_vfs_rename_mutex) > inode.rwsem (i_rwsem; of
//	directories first) > inode.invalidate > folio lock > inode.flushing (I_SYNC)
//
// Requests are sent with all of them held that the kernel holds at that point. The folio lock
// (lockFolio) and the writeback state are bits under pageCache.mu, with a condition to wait for, so
// that a holder can send requests and ends of writes can come from elsewhere. Nobody holds a folio
// and locks one before it. The others are never held while a request is under way:
//
//	dentries.mu > FS.mu (tables) > inode.mu (attributes, sizes)
//	writeback.mu > openFile.mu
//	mappingCache.mu, pageCache.mu, folio.mu (bytes and the state of blocks), trace.mu, holds.mu: alone
//
// Notifications about mappings take FS.mu, inode.mu and mappingCache.mu only, so a server may send
// them from anywhere. INVAL_INODE and PRUNE write back, with all that this takes.
//
// # Determinism
//
// Nothing happens by itself: there is no flusher, no readahead beyond the read's own pages, no
// reclaim. FS.WriteBack, FS.Sync and FS.DropCaches are what a timer or pressure would do. What races
// in the kernel is provoked with Hold, which stops one request, reply, notification or device
// write until it is released. Trace has one line for each message, in the order of sending.
//
// # What is left out
//
// Signals, NOWAIT but for the flag of a call, locks, DAX, zoned devices, quota, idmapped mounts. The
// strict dirty limits of a mount and dirty throttling. Direct I/O is synchronous. Files
// without iomap are read and written through, without a page cache.
package vfs
