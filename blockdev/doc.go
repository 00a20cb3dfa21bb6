// Package blockdev is the lowest floor of the house: random access to the
// bytes of an image file, a block device, or a partition or range of either.
//
// # What it knows
//
// How Linux opens, locks, reads, writes, flushes and discards files and block
// devices, with direct I/O where the host allows it; and the partition tables
// (GPT and MBR) that say where on a disk a filesystem lies. It knows no
// filesystem: to it the content of a device is bytes.
//
// # Who calls it
//
// The program opens devices with [Open], or in two steps across a privilege
// boundary: [OpenFile] opens and locks and reads nothing, [NewFile] works on
// the descriptor it is given and needs no path. The metadata cache, the journal
// and the data mover use the resulting [Device]. Package blocktest has the
// devices that tests use: in memory, counting, failing, recording.
//
// # Direct I/O
//
// A [File] uses direct I/O unless the host refuses it, because the layers
// above cache what is worth caching and a second copy in the page cache only
// costs memory. Three cases are buffered: a host filesystem without direct
// I/O, or one that lives in memory anyway; a window that does not start on the
// host's alignment, where every request would have to be copied; and a
// writable window that ends inside an alignment unit, where writing that last
// unit would change bytes that are not ours or make the file longer.
//
// The first of them can turn out late, when the host refuses a request. Where the
// kernel moves file data past the page cache of the same block device that would be
// dangerous: a block of metadata that was read or written through the cache stays there
// when it is freed, and becomes somebody's data. [File.KeepDirect] is for that: it
// makes sure that nothing goes through the cache, for ever. The partition table is
// read through it before, but never written.
//
// Requests that direct I/O cannot take are copied through aligned pooled
// buffers. A write that covers only a part of a sector reads the sector,
// changes it and writes it back.
//
// The image is never mapped into memory: a file that somebody truncates under
// us is an EIO with an offset, not a SIGBUS.
//
// # Lock order
//
// File.stripes guard read-modify-write cycles: a write takes the stripes of
// the range it touches in ascending index order, shared when it covers whole
// sectors and exclusively when it has to read first. File.degrading is taken
// inside them. BufferPool takes no locks that its callers could see.
//
// # Trust
//
// Partition tables come from the image and are hostile. Their decoders are
// pure functions over byte slices; sizes and counts are bounded before they
// are used, chains of logical partitions are bounded in length and cannot
// loop. The content of the device is handed on without being looked at. Paths
// and options come from the user and are trusted.
package blockdev
