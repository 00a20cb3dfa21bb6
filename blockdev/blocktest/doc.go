// Package blocktest has block devices for tests: one in memory ([Mem]), one
// that counts ([Counting]), one that fails ([Failing]), and one that records
// every write and flush ([Recording]), from which a [History] materialises the
// images that a power cut could have left ([Crash]).
//
// They are wrappers and can be stacked. A Recording is its own storage, so it
// is at the bottom of a stack.
//
// It knows package blockdev and nothing of what is stored on the devices. Only
// tests call it.
//
// # The model of a power cut
//
// A device has a volatile cache. A write that completed before a successful
// flush began is on stable storage when that flush has completed. Every other
// write that began before the cut may be there or not, as a whole or torn:
// sectors of 512 bytes are atomic, and any set of the sectors of a write may
// have arrived. Writes arrive in any order, except that of two writes to the
// same sector, one of which completed before the other began, the later one
// wins if both arrive. Reads never see anything but the latest content: only the
// cut reveals the cache.
//
// Time is counted in ticks of a [Clock]: every request begins at one tick and
// ends at a later one. A cut at tick t has seen the ticks before t. Devices that
// share a clock, such as a filesystem and its external journal, can be cut at
// the same instant; a flush covers its own device only.
//
// # Lock order
//
// Recording.mu, then Mem.mu. Clock is a leaf without locks.
package blocktest
