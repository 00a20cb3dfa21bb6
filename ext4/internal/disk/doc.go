// Package disk is the on-disk format of ext2, ext3 and ext4: a struct for each
// record, decoders, structural checks, checksums and the feature masks.
//
// It knows bytes and nothing else: no I/O, no locks, no caches, no idea of what
// an operation is. Every other package of the engine imports it; it imports
// none of them.
//
// # Trust
//
// The input of every decoder is hostile. A decoder never allocates, never
// panics on any input of the documented length, and returns values as stored;
// whatever is used as a size, a count or a position has a Check method or
// function beside it that must be called first. Numbers that fail a check are
// reported as a [CorruptError].
//
// All multi-byte fields are little-endian unless a comment says otherwise.
// Offsets in field comments are hexadecimal and count from the start of the
// record. The format is described in the kernel's
// Documentation/filesystems/ext4 and in e2fsprogs' ext2_fs.h.
package disk
