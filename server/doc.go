// Package server is the file server: it answers each FUSE request with a call
// of the engine.
//
// It knows neither the disk format nor the bytes of the protocol. Nodeids are
// inode numbers, except that the root directory, inode 2, has nodeid 1. It holds
// no table of files or handles: everything a request needs is on the disk or in
// the request. (What it counts, who has a file open for writing, only tells when
// the kernel may have something to write back.) So OPENDIR, and OPEN of what is
// read-only, are answered with ENOSYS and never come again, and an NFS handle of
// inode number and generation is good as long as the inode is.
//
// The image belongs to this server alone, so the kernel may keep whatever it
// has been told: names, also absent ones, attributes, directory contents, link
// targets and file data have no expiry.
//
// # Trust
//
// The kernel checks permissions (default_permissions, POSIX ACLs) before it
// asks, except for what it cannot know: reserved inodes are refused here, and
// trusted attributes are listed for root only; files that are immutable or only
// grow are refused to writers, and ioctls that concern the whole filesystem to
// all but root and who mounted it. Lengths and offsets come from unprivileged
// callers.
//
// # Concurrency
//
// Operations run concurrently and share nothing but the engine, which takes
// concurrent calls.
package server
