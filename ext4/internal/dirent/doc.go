// Package dirent reads and changes directories: linear ones, hashed ones (htree)
// and those inside an inode.
//
// It knows entries, blocks of entries and the hash index. It does not know
// inodes beyond their numbers, nor how blocks are allocated; the engine hands it
// a [Dir] that says where the directory's blocks are, grows the directory when
// asked to, stores what a change leaves of the size and the index flag, and turns
// what is found into inodes. It takes no locks: the engine holds the inode's.
//
// # Positions
//
// [Dir.Read] goes through the blocks in their order and ignores the index, whose
// blocks look like empty leaves; a position is the byte offset of an entry, and
// a position that is none, as lseek(2) can produce, continues with the first
// entry behind it. Since a split moves entries to other blocks, this is for
// directories that do not change. [Dir.ReadByHash] is for those that do.
//
// # Changes
//
// A change goes step by step, a split of a block being a step. Each step first
// gets all that can fail, the transaction's consent and a new block, and then
// leaves the directory whole, so that an operation that runs out of space in
// between need not be undone. Checksums are computed once, at the end of the
// operation, for all blocks that it touched.
//
// Entries move only where positions are hashes: in leaves of an index. In a
// linear directory a new entry takes the room behind another one, or of a
// removed one, and a removed one is joined to the record before it.
//
// # Trust
//
// A leaf is checked when it enters the cache: its entries tile the block, names
// are non-empty and free of '/' and NUL, inode numbers exist. An index is walked
// to a depth that the root states and the features bound, never back to a block
// on the way. The size of a directory must fit into the filesystem, which bounds
// every scan, and a listing by the index is refused if that leads to more leaves
// than there are blocks. Before anything is written because of a record, the
// record is checked again.
package dirent
