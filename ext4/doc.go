// Package ext4 is the filesystem engine and the public Go library: it opens
// ext2, ext3 and ext4 images and answers operations on inode numbers, in the
// manner of the kernel's VFS, and mappings of file data.
//
// It knows the filesystem. It does not know FUSE, mounts or processes; it
// reaches the image only through a [blockdev.Device] and never copies file data
// itself: [FS.Begin] answers where data lies, and the [iomap.Mover] inside
// [FS.ReadAt] is one of those who fetch it. Package server calls it for mounts,
// the command line and other Go programs call it directly:
//
//	dev, err := blockdev.Open("disk.img", blockdev.Options{ReadOnly: true})
//	...
//	fsys, err := ext4.Open(dev, ext4.Options{ReadOnly: true})
//	...
//	defer fsys.Close()
//	data, err := fs.ReadFile(fsys.FS(), "etc/hostname")
//
// Opened without ReadOnly, [View] changes files by their paths too, as [os.Root]
// does.
//
// # Layers
//
// The format is in internal/disk. Above it, each concept has a package of its
// own: internal/journal (recovery and the writer) and internal/fastcommit,
// internal/buffer (the metadata block cache), internal/balloc (free blocks and
// inodes), internal/extent (block maps), internal/dirent (directories),
// internal/xattr, internal/casefold, internal/quota (the format of quota files),
// internal/syszone (the filesystem's own blocks) and internal/mmp (multiple mount
// protection). This package joins them.
//
// # Concurrency
//
// Every method of [FS] may be called concurrently, except that nothing may be
// called after Close. Locks, outer to inner:
//
//	freeze.turn       one Freeze or Thaw at a time
//	discards.working  while the device is told of free blocks, or the filesystem is frozen
//	writer.moveDir    a rename that moves a directory
//	inode.io          shared while data moves, exclusive while blocks go away
//	inode.mu          by ascending number where several are needed
//	quotaFile.mu      what a quota file consists of
//	a journal handle  from begin to End
//	dquot.mu          the record of one user, group or project
//	writer.sharedXattrs, orphanList.mu, superblock.mu
//	balloc's groups
//	buffer.Buffer     blocks that several structures share
//
// Leaves, under which none of these is taken: orphanFile.mu, quotaFile.idleMu,
// holds.mu, numbers.mu, aheads.mu, accessTimes.mu and in it freeze.mu, discards.mu and
// damage.mu. The last is taken with any lock held, for damage is found anywhere.
// So is strayed.mu, and in it holds.mu. journal and balloc have their own below.
//
// No inode is locked while a handle is open, for a commit waits for handles, and
// no data is moved. Callbacks of ReadDir run without locks where the filesystem
// is open for writing.
//
// Where data is moved outside ([FS.MoveOutside]) no operation waits, with an inode
// locked, for anything but the device and the journal.
//
// # Writing
//
// Each operation is one transaction, or, where it may be large (truncating,
// preallocating), a series of them that leaves a sound filesystem after each,
// with the inode on the orphan list until the last. Data is on the device before
// the transaction that makes it reachable; see the comment of write.go.
//
// Where data is moved outside, by a kernel that keeps mappings, it also keeps times
// and ACLs of files, clears parts of blocks, and tells what it has done: sizes by
// [FS.IOEndOutside], [FS.Truncate] and [FS.Fallocate], times and modes by [FS.SetAttr]
// with Verbatim, inherited ACLs by [FS.SetxattrVerbatim]. All these do what they say,
// and nothing that follows from it elsewhere.
//
// What was reserved for a write stays reserved, in memory, until [FS.IOEndOutside] or
// until the inode is let go, and so do blocks ahead of it and nodes for its map; see
// the comments of ahead.go and promise.go. No block for which there may be a mapping is
// given to another file before: who moves data can be asked to let go of what nobody
// uses, no more. For lack of space an operation fails when it asks for a mapping, never
// when the data has been written.
//
// A filesystem that is open for writing can be made, for a while, what it is after
// Close; see [FS.Freeze].
//
// # Errors
//
// Every error carries a [syscall.Errno] for errors.As: ENOENT, ENOTDIR and the
// like for what POSIX says, EUCLEAN for an image that contradicts itself (the
// message names the inode or block), EOPNOTSUPP for features that are not
// supported, ESTALE for an inode number without an inode, EIO for the device.
//
// # Trust
//
// Everything read from the image is hostile until it has been checked, which
// happens once, when a block enters the cache or an inode is loaded. No image
// makes a method panic, run forever or allocate without bound.
package ext4
