// Package journal is jbd2, the journal of ext3 and ext4: the format of the log
// and its recovery.
//
// It knows the log: superblock, descriptor, revoke and commit blocks in all
// variants, sequence numbers, checksums. It must not know what the logged
// blocks mean: inodes, directories and bitmaps are just block numbers and
// bytes here, and fast commits are left to package fastcommit. The engine
// calls it at mount, before it believes a byte of any other metadata.
//
// # Recovery without writing
//
// [Load] checks the journal's superblock, [Journal.Recover] finds out which
// blocks of the log the kernel would copy home, and [NewOverlay] is a view of
// the device in which they are home already. Nothing is written: a [Replay] is
// a table of redirections, sorted by block.
//
// A log is a sequence of transactions in a circular area, each of which is any
// number of descriptor blocks, with the logged blocks that they describe
// behind them, and of revoke blocks, and one commit block at the end:
//
//	| D b b b b | D b b | R | C |  D b b b | C | (stale blocks)
//
// All its own blocks begin with the same magic number and the transaction's
// number (tid); a logged block that begins with the magic number is stored
// with zeros there, and its tag says so. The log ends where the next block is
// not one of the journal's own or has another tid than expected, and only what
// has its commit block counts. A revoke record forbids the replay of a block
// from its own and from earlier transactions.
//
// # Trust
//
// A log is hostile. Recovery reads each log block a fixed number of times and
// keeps at most one entry for each log block, whatever the log says: lists
// that run in circles end after one round, and of the revoke records only
// those are kept whose block is going to be replayed. Findings that contradict
// the format are [disk.CorruptError], also checksums; that is the one
// difference to the kernel, which has EFSBADCRC for those.
//
// # Concurrency
//
// A Journal belongs to one goroutine. A Replay is immutable, and an overlay may
// be used concurrently. There are no locks.
//
// The format is described in the kernel's documentation of ext4, "Journal
// (jbd2)". All integers of the journal are big-endian.
package journal
