// Package server is the file server: it answers each FUSE request with a call
// of the engine.
//
// It knows neither the disk format nor the bytes of the protocol. Nodeids are
// inode numbers, except that the root directory, inode 2, has nodeid 1 unless the
// mount says otherwise. It holds
// no table of files or handles: everything a request needs is on the disk or in
// the request. So OPENDIR and OPEN are answered with ENOSYS and never come again, unless the mount wants
// to be asked ([Options.AskOpen]; what is counted then, who has a file open for writing, only tells
// when the kernel may have something to write back), and an NFS handle of
// inode number and generation is good as long as the inode is.
//
// The image belongs to this server alone, so the kernel may keep whatever it
// has been told: names, also absent ones, attributes, directory contents, link
// targets and file data have no expiry.
//
// # Two ways of data
//
// File data goes through the server, or, where the kernel has fuse-iomap and can use
// the device, past it: then the server only answers where data is, and is told what
// was written. Which way it is is decided once, by the answer to IOMAP_CONFIG, and
// [Server.DataPath] tells. The second way has a half of the server of its own, the
// type outside in the files iomap*.go, to which those operations go that are not the
// same: a kernel that moves data also keeps the times, the mode and the ACLs of files,
// and knows their flags, so nothing is to be found out when they are opened. Only of the root
// directory it knows nothing.
//
// # Trust
//
// The kernel checks permissions (default_permissions, POSIX ACLs) before it
// asks, by the owners and modes that it is shown, which may be others than those of the
// image ([Owners]), except for what it cannot know: reserved inodes are refused here, and
// trusted attributes are listed for root only; files that are immutable or only
// grow are refused to writers, when they are opened or what is written arrives, and ioctls that concern the whole filesystem to
// all but root and who mounted it. Lengths and offsets come from unprivileged
// callers.
//
// # Concurrency
//
// Operations run concurrently and share nothing but the engine, which takes
// concurrent calls. The engine calls back with an inode locked, to put mappings into
// the kernel's cache and to take them out of it; the kernel waits for nothing then. And
// it calls back without locks, to have inodes evicted that nobody uses, for which the
// kernel may wait for IOEND of theirs.
package server
