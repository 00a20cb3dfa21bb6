// Package journal is jbd2, the journal of ext3 and ext4: the format of the log,
// its recovery and its writer.
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
// be used concurrently. There are no locks in the recovery.
//
// # Writing
//
// [Journal.Start] makes a [Log] of a journal that is clean. The engine changes
// metadata through handles ([Log.Begin], [Handle.End]), which join the running
// transaction with credits, an upper bound of what they are going to change.
// A goroutine commits: it closes the running transaction to new handles (the
// barrier), waits for the open ones to end, copies the content of all blocks
// of the transaction, and opens the barrier for the next transaction; only
// then does it write. So what is written does not change any longer, and
// handles wait for a copy, not for the device. Another goroutine checkpoints:
// it writes committed blocks home, from their buffers, and moves the tail of
// the log, long before the log is full. Transactions without changes are not
// written and use up no number.
//
// A block is at any time in the running transaction, in the committing one, and
// behind a committed one, which means that home does not have its last
// committed version: in any combination. It is behind the youngest only; older
// versions in the log have lost their meaning.
//
// # Why a crash leaves whole transactions
//
// Every arrow is a flush, or an order of requests that a flush makes certain:
//
//   - file data, log blocks → commit block. A transaction that has a commit
//     block is complete, and what it points to is there. If the log is empty,
//     the superblock that says where it begins goes with the log blocks.
//   - commit block → callbacks, return of Commit. What is promised is durable;
//     what a transaction frees is used again only after that.
//   - commit block → home. A block goes home only from a buffer whose changes
//     are all committed. Where a younger transaction has it, that one's commit
//     is waited for; afterwards the old version need not go home.
//   - home → superblock with the new tail. What leaves the log is at home, or in
//     a younger, durable transaction.
//   - superblock with the new tail → new blocks in the space behind it. A
//     recovery that starts at the old tail finds there what was there.
//
// A freed block (Forget) gets a revoke record, so that no older version in the
// log is replayed over what uses it next; creating it again in the same
// transaction takes the record back, since a record holds for its own
// transaction too. Until the freeing transaction is durable the block is still
// metadata after a crash: its last version stays in the log, and keeps the
// tail. A write home that is under way when the block is freed is waited for
// before the callbacks run.
//
// Any error of a write or flush that durability depends on aborts the journal.
// Nothing goes home any longer, what was acknowledged is in the log, and the
// next recovery brings it back. There is no second try: after a failed flush
// nobody knows what the device has dropped.
//
// # Locks and goroutines of a Log
//
// From the outside in: Log.checkpointing, homeMu, superMu, a shard's mutex,
// Log.mu. A transaction's callbackMu is a leaf. Opening a handle takes none of
// them, but for waiting; modifying a block takes that of its shard. No I/O
// happens under Log.mu or a shard's mutex, and under homeMu only one batch of
// writes.
//
// What waits for what: Begin, outside of any handle, for commits and
// checkpoints; a checkpoint for commits; a commit for open handles and for a
// batch on its way home. An open handle waits for nothing of the journal, and
// its owner must wait for nobody who might be in Begin, Commit, Sync or
// Checkpoint. A Log has two goroutines, which end with Close.
//
// The format is described in the kernel's documentation of ext4, "Journal
// (jbd2)". All integers of the journal are big-endian.
package journal
