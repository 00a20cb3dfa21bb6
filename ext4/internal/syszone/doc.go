// Package syszone knows which blocks hold the filesystem's own structures:
// copies of the superblock and of group descriptors with the room reserved for
// more of them, bitmaps, inode tables, and what it is told of beside (the
// journal, the MMP block). No file may have such a block, or writing the file's
// data would change the filesystem.
//
// It knows the layout of groups and nothing of files. The engine asks it about
// each run of blocks that an inode claims, once, when the inode or the node of
// its block map is checked.
//
// # Without looking at everything
//
// Nothing is read in advance. The groups are divided into homes, each a
// flexible group or a part of a large one, inside which a group's structures
// normally lie. The first question about a home reads the descriptors of its
// groups, and the answer is kept in a table of fixed size.
//
// With flex_bg a descriptor may point anywhere: resize2fs leaves such. Those
// that point out of their home are strays, and become known when their home is
// asked about or, at the latest, when the group is used ([Zones.Note]). Since
// runs may have been approved before, users of a run have to ask again where
// [Zones.Strays] says that there are any. So at the time a bitmap or an inode
// table is used, no file is given its blocks.
package syszone
