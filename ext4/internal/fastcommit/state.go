package fastcommit

import (
	"iter"
	"maps"
	"slices"
)

// State is what the fast commits make of the filesystem under them. The zero
// value changes nothing.
//
// These are the rules by which the kernel replays, and whose outcome the
// methods tell. Tags are taken in their order.
//
//   - INODE replaces an inode's image up to its length, except i_block, and with
//     that all attributes: size, times, owner, mode, link count, flags. i_block
//     stays as on disk, but an extent header is made where the inode uses
//     extents and has none, and the inline data of an inode that has such is
//     replaced. Bytes behind the image (in-inode xattrs) stay as on disk.
//     i_blocks is not taken from the image, but counted: all mapped blocks and
//     the blocks of the extent tree, without an xattr block. See [Inode.Patch].
//   - ADD_RANGE maps a range of a file, and DEL_RANGE unmaps one, whatever was
//     mapped there. See [Inode.Ranges].
//   - UNLINK removes a name if it is there and leads to the given inode. If the
//     name is there, also if it leads somewhere else, the link count of the
//     given inode is reduced. An inode without links is freed at once: its
//     mappings go, and a later INODE makes a new inode of it.
//   - LINK adds a name, and one to the inode's link count, unless the name is
//     there already, wherever it leads to.
//   - CREAT does the same as LINK, but first makes a directory, if the inode is
//     one, empty, and sets the link count to 1 in the end.
//   - UNLINK, LINK and ranges of an inode that does not exist are ignored, also
//     names in a directory that does not exist.
//
// The link count that counts is the last one set by INODE or CREAT, with the
// changes since. The kernel writes INODE after the names for files, but for
// directories never: so a directory made in a fast commit has one link after
// the replay, its parent has none more than before, and a removed directory
// leaves its parent's as it was. Directories have no ranges either: i_blocks
// of a new one is 0, and of an old one unchanged. Times of an inode or
// directory that has no INODE behind the last change of its names become the
// time of the replay in the kernel; here they stay as they are on disk.
type State struct {
	inodes map[uint32]*Inode
	dirs   map[uint32]*Dir
	tags   int
}

// Empty tells whether there is nothing to lay over the filesystem.
func (s *State) Empty() bool { return s.tags == 0 }

// Tags is the number of tags that count.
func (s *State) Tags() int { return s.tags }

// Inode returns what is known of an inode, or nil where the fast commits do not
// touch it.
func (s *State) Inode(ino uint32) *Inode { return s.inodes[ino] }

// Inodes lists the inodes that are touched, by ascending number.
func (s *State) Inodes() iter.Seq2[uint32, *Inode] { return ascending(s.inodes) }

// Dir returns the changes to a directory's entries, or nil where there are none.
func (s *State) Dir(ino uint32) *Dir { return s.dirs[ino] }

// Dirs lists the directories whose entries are changed, by ascending number.
func (s *State) Dirs() iter.Seq2[uint32, *Dir] { return ascending(s.dirs) }

func ascending[T any](m map[uint32]T) iter.Seq2[uint32, T] {
	return func(yield func(uint32, T) bool) {
		for _, ino := range slices.Sorted(maps.Keys(m)) {
			if !yield(ino, m[ino]) {
				return
			}
		}
	}
}

// Inode is what the fast commits make of an inode.
type Inode struct {
	// Image is the new image of the inode, of at least 128 bytes, or nil where
	// the one on disk is still valid. It is not laid over the disk's as it is,
	// but by Patch.
	Image []byte

	// Links is the link count after the replay.
	Links uint16

	// Freed says that the inode lost its last link, so it exists no more.
	Freed bool

	// Reset says that the inode was freed, even if it is in use again: of what
	// the disk maps for it nothing is left, only Ranges count.
	Reset bool

	history []Range // until Load ends
	ranges  []Range
}

// Ranges are the parts of the file whose mapping the fast commits decide: in
// ascending order, disjoint, and merged where they continue each other.
// Elsewhere the mapping in i_block after Patch is valid. Of an inode that has
// inline data the ranges mean nothing.
func (i *Inode) Ranges() []Range { return i.ranges }

// Find returns the rest of the range that the logical block is in, if its
// mapping is decided here. next is the logical block up to which the answer is
// valid: the end of the range, or else the start of the next one, or 2^32-1.
func (i *Inode) Find(block uint32) (r Range, found bool, next uint32) {
	at, found := find(i.ranges, block)
	switch {
	case found:
		r = i.ranges[at].from(block)
		return r, true, r.end()
	case at < len(i.ranges):
		return Range{}, false, i.ranges[at].Start
	}
	return Range{}, false, maxFileBlocks
}

// Offsets in an inode and values there, as far as the replay has to know them.
const (
	inodeMode       = 0x00
	inodeLinks      = 0x1A
	inodeFlags      = 0x20
	inodeBlock      = 0x28
	inodeGeneration = 0x64

	typeMask      = 0xF000
	typeDirectory = 0x4000

	flagExtents    = 0x00080000
	flagInlineData = 0x10000000

	extentMagic      = 0xF30A
	extentHeaderSize = 12
	extentSize       = 12
)

// Patch turns the inode as it is on disk, in raw, into the one after the
// replay, but for i_blocks, which is the caller's to count, and the checksum.
// The checksum of an inode that has an Image is not to be verified: neither
// that on disk, where there may never have been such an inode, nor the one
// after Patch. raw has the length of an inode on disk, at least 128 bytes.
func (i *Inode) Patch(raw []byte) {
	if i.Reset {
		clear(raw[inodeBlock:inodeGeneration])
	}
	if i.Image != nil {
		i.patchImage(raw)
	}
	le.PutUint16(raw[inodeLinks:], i.Links)
}

func (i *Inode) patchImage(raw []byte) {
	copy(raw[:inodeBlock], i.Image)
	copy(raw[inodeGeneration:], i.Image[inodeGeneration:])
	root := raw[inodeBlock:inodeGeneration]
	switch flags := le.Uint32(raw[inodeFlags:]); {
	case flags&flagExtents != 0:
		if le.Uint16(root) != extentMagic {
			// Only the header, as the kernel does: what is behind it does not count.
			clear(root[:extentHeaderSize])
			le.PutUint16(root, extentMagic)
			le.PutUint16(root[4:], uint16((len(root)-extentHeaderSize)/extentSize))
		}
	case flags&flagInlineData != 0:
		copy(root, i.Image[inodeBlock:])
	}
}

// Entry is a name that was added to a directory, or removed from it.
type Entry struct {
	Name []byte
	Ino  uint32 // 0: removed
}

// Dir is the changes to the entries of a directory. An entry on disk whose name
// is among them does not count any more; all others do.
type Dir struct {
	// Made says that the directory itself was made in a fast commit: nothing
	// on disk belongs to it, its entries are those here, "." and "..".
	Made bool

	// Parent is the inode of "..", if Made.
	Parent uint32

	entries []Entry
	byKey   map[string]int
}

// Lookup finds the change of a name by its key, see [Base].
func (d *Dir) Lookup(key []byte) (Entry, bool) {
	i, found := d.byKey[string(key)]
	if !found {
		return Entry{}, false
	}
	return d.entries[i], true
}

// Entries are all changes, each name once, in the order in which the names were
// first touched. The order, and with it the index of an entry, never changes.
func (d *Dir) Entries() []Entry { return d.entries }

func (d *Dir) set(key string, e Entry) {
	if i, found := d.byKey[key]; found {
		d.entries[i] = e
		return
	}
	if d.byKey == nil {
		d.byKey = make(map[string]int)
	}
	d.byKey[key] = len(d.entries)
	d.entries = append(d.entries, e)
}
