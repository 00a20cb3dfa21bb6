// Package quota is the format of a quota file: how much space and how many
// inodes each user, group or project has, and may have.
//
// It knows version 2, revision 1 ("vfsv1"), which is the only one that the quota
// feature has: blocks of 1 KiB, of which the first is a header, the second the
// root of a tree over the 32 bits of an id, eight for each of its four levels,
// and the others are tree blocks, blocks of records, or free. It does not know
// who is charged for what, nor where the file is; the engine calls it, and
// answers where a block is and makes the file longer.
//
// # Trust
//
// Nothing is read in advance. Each block is checked for what it is used as each
// time: references lie in the file, the records in a block are as many as it
// says. A walk has as many steps as the tree has levels, so a circle ends it
// with a record that is not there. What a damaged file can spoil is itself.
//
// # Concurrency
//
// Find, Insert and Remove of one File must not run at the same time. Write may,
// beside all of them, for different records.
package quota
