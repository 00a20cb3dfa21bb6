// Package check examines an ext2, ext3 or ext4 filesystem for consistency, as
// `e2fsck -fn` does: it reads everything and writes nothing.
//
// It knows the on-disk format through the decoders of ext4/internal, and e2fsck's
// passes: superblock and descriptors (0), inodes and their blocks (1), directories
// (2), connectivity (3), link counts (4), bitmaps and counts (5). It does not know
// the engine, whose caches and refusals would stand between it and the damage. The
// command line and Go programs call it; it is judged by e2fsck, whose wording of
// problems the classes of findings follow.
//
// # Trust
//
// Nothing of the image is trusted. What is wrong becomes a [Finding], never an
// error: errors are for devices that fail, contexts that end, and images that
// need more memory than allowed. Nothing read sizes an allocation or bounds a loop
// before it is compared with what the geometry, itself compared with the device,
// allows. A block of pointers that several claim is followed a bounded number of
// times in all, so that sharing cannot multiply the work.
//
// # Memory
//
// Three bytes for each inode in a group that has any in use, and of blocks the
// claimed ranges, or a bitmap of the group where that is smaller. When the claims
// outgrow their half of [Options.Memory], those of the highest groups are dropped,
// and made up for by further scans, each for as many groups as fit. Findings are
// kept up to [Options.Findings] and counted beyond.
//
// # Concurrency and order
//
// A pass is cut into units, groups or ranges of inodes, which workers examine side
// by side. What they find is merged in the order of units: the report does not
// depend on the number of workers. Shared state is the table of facts on inodes
// (each entry is written by one worker, or atomically) and the claims (locked by
// range of groups).
package check
