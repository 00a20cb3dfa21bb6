// Package extent finds where the blocks of a file are: in extent trees and in
// the block maps (direct, indirect, double, triple) of ext2 and ext3.
//
// It knows the two kinds of trees and the block cache. It does not know file
// sizes, inline data or what a mapping is used for; the engine calls it under
// the inode's protection and translates its runs to iomap mappings.
//
// # Trust
//
// A node is checked when it enters the cache: header, order, overlap, range and
// checksum, and its depth is bound to its place in the tree, so that a walk
// takes at most [disk.ExtentMaxDepth] steps and a cycle cannot be entered. What
// one node cannot show, that a child keeps to the range its parent gives it,
// holds because every answer is clipped to the parent's range.
package extent
