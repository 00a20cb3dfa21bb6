// Package extent finds and changes where the blocks of a file are: in extent
// trees and in the block maps (direct, indirect, double, triple) of ext2 and
// ext3.
//
// It knows the two kinds of trees and the block cache. It does not know file
// sizes, inline data, what a mapping is used for or where free blocks come from;
// the engine calls it under the inode's lock (shared to look up, exclusive to
// edit) and translates its runs to iomap mappings.
//
// # Trust
//
// A node is checked when it enters the cache: header, order, overlap, range and
// checksum, and its depth is bound to its place in the tree, so that a walk
// takes at most [disk.ExtentMaxDepth] steps and a cycle cannot be entered. What
// one node cannot show, that a child keeps to the range its parent gives it,
// holds because every answer is clipped to the parent's range. An edit is
// stricter: it checks this on its way down, and refuses to go on where it does
// not hold.
//
// # Editing
//
// All edits of a tree come down to one: some entries of one leaf give way to
// others. What this takes, nodes to be split, created or given up and keys to be
// changed on the way to the root, is worked out first; then the new nodes are
// allocated and every block that is going to change is put into the transaction;
// only then the tree changes, which cannot fail. So a lack of space, or a
// journal that has been aborted, leaves the map as it was. Indirect blocks are
// treated alike. Each node gets its checksum once per change of a leaf.
//
// What is freed, data or node, is unlinked from the map before. When that fails
// half way it is lost to the filesystem, which fsck can mend, instead of being in
// use and free at once, which nothing can.
//
// Edits of a long range, such as a truncate, do not fit into one transaction.
// They have steps that work on one leaf each, whose [Credits] are known
// beforehand, and between which the map is sound.
package extent
