// Package fastcommit reads the fast commits that may stand behind the last full
// transaction of a journal, and folds them into a state to be laid over the
// filesystem.
//
// A fast commit says what an fsync had to make durable as a list of small
// records (tags) instead of whole blocks: an inode's new image, mappings added
// and removed, names linked and unlinked. The kernel replays them by running
// the filesystem's own code; this package writes nothing, and answers for each
// inode and directory what that would have led to. [State] has the rules.
//
// The package knows the format of the area and the kernel's rules. It must not
// know how inodes, directories or extents are found on the disk: what it needs
// to ask about the filesystem under the fast commits it asks through [Base],
// and the engine lays the answers over what it reads from the disk, or makes
// them true there.
//
// # The area
//
// The area is a sequence of blocks of tags, each with a type, a length and a
// value, little-endian, in contrast to the rest of the journal. A tag does not
// cross the end of a block. Each fast commit ends with a TAIL tag, which has
// the number of the transaction that it belongs to and the CRC-32C, beginning
// with 0, of everything since the tail before, up to and with that number. The
// first one begins with a HEAD tag.
//
//	| HEAD INODE CREAT ... INODE TAIL | DEL_RANGE INODE TAIL | (stale)
//
// Fast commits count if the journal was dirty and their transaction is the one
// that would have come next in the log. A later full commit makes all of them
// void.
//
// # Trust
//
// The area is hostile. Time and memory are bounded by its size; there is no
// recursion deeper than the logarithm of the number of tags. Reading ends in
// front of the first fast commit that is not whole, be it torn in a power cut
// or damaged. (The kernel refuses to mount where that is the very first one.
// As nothing can have depended on a commit that never finished, this package
// does not.) Where whole, checksummed fast commits contradict themselves the
// error is a [disk.CorruptError].
//
// # Concurrency
//
// Load belongs to one goroutine and calls its Base from there. A State is
// immutable. There are no locks.
package fastcommit
