// Package buffer is the metadata block cache: whole blocks of the device, each
// read once and verified once.
//
// It knows blocks and what they were verified as. It does not know any format:
// the caller passes the check. The engine's format packages (extent, dirent,
// xattr ...) and the journal call it.
//
// # Trust
//
// A block that [Cache.Read] returns has passed the check for the tag it was
// asked with, so code that holds it may trust what the check established. The
// tag binds the check to its context, the kind of structure and the inode that
// owns it: when an image makes two owners point to one block, the block is
// checked again for each, since a checksum is seeded by its owner.
//
// # Changing blocks
//
// Metadata is changed in place, by the holder of the lock of the structure that
// the block belongs to, and only inside a [Tx], which the journal implements. A
// block that a transaction has, or that waits to be written home, is pinned.
package buffer
