// Package balloc allocates blocks and inodes: group descriptors, bitmaps, and
// what is in memory about them.
//
// It knows the layout of block groups and where new things should go. It does
// not know files, extents or directories; what a block is allocated for is its
// caller's business. The engine and its packages for block maps, directories
// and attributes call it, inside a handle of the journal ([buffer.Tx]).
//
// # Life of a block
//
// [Groups.Reserve] makes a run of free blocks pending: in memory only, so that
// a crash leaks nothing. [Groups.Claim] marks it used on disk, in the
// transaction that makes it reachable; [Groups.Release] gives it back.
// [Groups.Free] marks blocks free on disk, in the transaction that makes them
// unreachable, and they are handed out again only once that is durable:
// otherwise new data could overwrite a file that after a crash still exists.
//
// A [Prealloc] is a window of pending blocks behind the last allocation of an
// inode, which keeps files that grow side by side in one piece each.
//
// # Cost
//
// Nothing is scanned in advance. A group's bitmap is read when the group is
// used, its descriptor when a search comes by. What was seen of a group, a
// byte, is remembered in an index, so that groups without space are not visited
// again. Bitmaps in memory are bounded; those with pending blocks stay.
//
// # Clusters
//
// With bigalloc the unit of allocation is the cluster. The interface counts
// blocks throughout: goals may be any block, lengths wanted are rounded up to
// clusters, runs handed out start and end at cluster boundaries, and what is
// claimed, released or freed must do so too, or the call fails with EINVAL.
// Which of the blocks of a cluster are in use, and thus when a cluster may be
// freed, only the caller knows.
//
// # Trust
//
// Descriptors and bitmaps are hostile until the group is loaded: descriptor
// checksum, places of the structures, overlaps among them, bitmap checksum,
// metadata marked used, padding, and the count of free bits against the
// descriptor's. A group that fails is set aside: nothing is allocated from it
// or written to its bitmap, [Config.OnCorrupt] is told, the others go on. So it
// is when a free of free blocks, or a claim of used ones, shows that its bitmap
// and the files contradict each other. Blocks of the filesystem's own
// structures, those of neighbouring flexible groups included, are never handed
// out and never freed.
//
// # Locks
//
// Prealloc.mu, and inside it the lock of the list of windows, are never held
// while a group is locked. Else the order is group.mu, of one group at a time →
// buffer lock, of one buffer at a time → the leaves: table shards, index, counters,
// batches of freed blocks.
// Descriptors are changed under the group's lock and, since many share a block,
// the buffer's. Tx.Modify and Tx.New are called with the group's lock held;
// callbacks of Tx.OnCommit take it, so Modify must not wait for them.
package balloc
