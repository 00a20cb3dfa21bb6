// Package dirent reads directories: linear ones, hashed ones (htree) and those
// inside an inode.
//
// It knows entries, blocks of entries and the hash index. It does not know
// inodes beyond their numbers; the engine hands it a [Dir] that says where the
// directory's blocks are, and turns what it finds into inodes.
//
// Reading goes through the blocks in their order and ignores the index, whose
// blocks look like empty leaves; a position is the byte offset of an entry, and
// a position that is none, as lseek(2) can produce, continues with the first
// entry behind it.
//
// # Trust
//
// A leaf is checked when it enters the cache: its entries tile the block, names
// are non-empty and free of '/' and NUL, inode numbers exist. An index is walked
// to a depth that the root states and the features bound. The size of a
// directory must fit into the filesystem, which bounds every scan.
package dirent
