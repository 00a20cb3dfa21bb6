// Package mmp is multiple mount protection: a block by which hosts that share a
// device tell each other that they have its filesystem open for writing.
//
// Whoever has it open writes another sequence number into the block every few
// seconds. Whoever wants to open it waits long enough to see the number change.
// At the end the number is one that stands for nobody.
//
// It knows the block and when to read and to write it, past all caches and
// journals. It does not know what is being protected: the engine starts a
// [Guard] before it writes anything, stops writing when the guard is lost, and
// closes it behind everything else.
//
// # Trust
//
// The block is hostile. Its magic number and checksum are verified, the
// intervals it names are bounded, and its names are quoted. The caller has
// verified that the block is one that it may write.
package mmp
