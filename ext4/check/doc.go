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
// What there is to read is bounded by the device: where group descriptors have more
// blocks of bitmaps and inode tables than it, the check ends there.
//
// # Memory
//
// [Options.Memory] bounds what is remembered, half of it for facts on inodes (three
// bytes each, in groups that have any in use) and directories, a quarter for the
// blocks that are claimed, as ranges or a bitmap of the group where that is smaller,
// and the rest for smaller tables. Some 32 MiB for buffers and findings come on top.
// When the claims outgrow their part, those of the highest groups are dropped, and
// made up for by further scans, each for as many groups as fit; inodes or directories
// that do not fit end the check with an error. What is dropped for good, or not looked
// at since it is shared too often, is in [Report.Warnings]. Findings are kept up to
// [Options.Findings] and counted beyond.
//
// # Agreement
//
// e2fsck 1.47.0 agrees on every image of the test matrix, and on mutants, of seeds
// that had not been looked at before, on clean or not of 98 in 100, and on the class
// of the first problem of 97. Where the two differ, it is mostly that
//
//   - e2fsck -n calls an image clean (status 0) whose superblock or descriptors are
//     replaced by their copies, or that is longer than its device: here these are errors,
//     as for the kernel. The tests count them as differences on clean or not.
//   - e2fsck does not see an extent node that tells a wrong depth, nor a journal
//     superblock whose log begins where it cannot. The kernel refuses both.
//   - e2fsck also says of the extent blocks of an inode with a wrong checksum that
//     theirs are wrong.
//   - With an error recorded in the journal e2fsck 1.47.0 sometimes stops reading inodes.
//   - Of the shape of tiny extent trees in a circle it complains in another order.
//   - Not examined are: lists of orphans, which e2fsck -n does not walk either,
//     policies of encryption, and the copies of superblock and descriptors where the
//     primary ones are sound.
//
// # Concurrency and order
//
// A pass is cut into units, groups or ranges of inodes, which workers examine side
// by side. What they find is merged in the order of units: the report does not
// depend on the number of workers. Shared state is the table of facts on inodes
// (each entry is written by one worker, or atomically) and the claims (locked by
// range of groups).
package check
