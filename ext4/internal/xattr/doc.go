// Package xattr reads and lays out extended attributes where ext4 keeps them: behind the
// fields of an inode, in a block that inodes may share, and (by reference) in
// inodes of their own. It also knows the names behind the stored name numbers
// and the two formats of POSIX ACLs.
//
// It knows bytes that the caller has read. It does not know inodes, and follows
// no reference. The engine calls it.
//
// # Trust
//
// An [Area] exists only after every entry and every value range in it has been
// checked, so that its methods need no further checks.
package xattr
