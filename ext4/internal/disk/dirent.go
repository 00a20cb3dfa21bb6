package disk

import "encoding/binary"

const (
	// NameMax is the longest file name, in bytes.
	NameMax = 255
	// DirEntryHeader is the length of a directory entry before its name.
	DirEntryHeader = 8
	// DirTailSize is the length of the checksum entry at the end of a leaf.
	DirTailSize = 12
	// dirTailType is the file type that marks the checksum entry.
	dirTailType = 0xDE
	// DirHashSize is what an encrypted and casefolded name is followed by.
	DirHashSize = 8
)

// File types of directory entries, with the filetype feature.
const (
	FTUnknown = 0
	FTReg     = 1
	FTDir     = 2
	FTChar    = 3
	FTBlock   = 4
	FTFifo    = 5
	FTSocket  = 6
	FTSymlink = 7
)

// FileType is the type of an inode of this mode as directory entries have it.
func FileType(mode uint16) uint8 {
	switch mode & ModeFmt {
	case ModeReg:
		return FTReg
	case ModeDir:
		return FTDir
	case ModeChar:
		return FTChar
	case ModeBlock:
		return FTBlock
	case ModeFifo:
		return FTFifo
	case ModeSocket:
		return FTSocket
	case ModeLink:
		return FTSymlink
	}
	return FTUnknown
}

// DirEntry is one entry of a directory block.
type DirEntry struct {
	Inode    uint32 // 0x0; 0 is an unused entry
	RecLen   int    // 0x4; distance to the next entry
	FileType uint8  // 0x7; FTUnknown without the filetype feature
	Name     []byte // 0x8; aliases the block
}

// DecodeDirEntry reads the entry at off of a directory block and checks that
// it and its name stay inside the block. filetype says whether the filesystem
// has that feature. Without it the byte of the type is the high one of the name
// length and always zero, but for the checksum entry; like the kernel, nobody
// looks at it.
func DecodeDirEntry(b []byte, off int, filetype bool) (e DirEntry, problem string) {
	if off < 0 || off+DirEntryHeader > len(b) {
		return e, "entry starts too close to the end of the block"
	}
	le := binary.LittleEndian
	e.Inode = le.Uint32(b[off:])
	e.RecLen = recLen(le.Uint16(b[off+4:]), len(b))
	nameLen := int(b[off+6])
	if filetype {
		e.FileType = b[off+7]
	}
	switch {
	case e.RecLen < DirEntryHeader+4:
		return e, "record is shorter than the shortest entry"
	case e.RecLen%4 != 0:
		return e, "record length is not a multiple of 4"
	case e.RecLen > len(b)-off:
		return e, "record crosses the end of the block"
	case DirEntryHeader+nameLen > e.RecLen:
		return e, "name is longer than its record"
	}
	e.Name = b[off+DirEntryHeader : off+DirEntryHeader+nameLen]
	return e, ""
}

// FindDirEntry is the inode number of a name in a checked block of entries, the
// offset of its record, and that of the record before it or -1. Without the name
// ino is 0. It is what lookups do most, and compares no more than it must.
func FindDirEntry(b []byte, name string) (ino uint32, off, prev int) {
	le := binary.LittleEndian
	n, prev := len(name), -1
	if n == 0 || n > NameMax {
		return 0, 0, -1
	}
	last := name[n-1] // names in one directory differ more at their ends
	for off+DirEntryHeader+n <= len(b) {
		if e := b[off:]; int(e[6]) == n && e[DirEntryHeader+n-1] == last && string(e[DirEntryHeader:DirEntryHeader+n]) == name {
			if ino := le.Uint32(e); ino != 0 {
				return ino, off, prev
			}
		}
		size := recLen(le.Uint16(b[off+4:]), len(b))
		if size < DirEntryHeader {
			break // cannot be: the block is checked
		}
		prev = off
		off += size
	}
	return 0, 0, -1
}

// DirRoom finds the first record of an area of entries that has room for another
// entry of need bytes, of which it has used by its own. size is 0 if there is
// none. Each record on the way is checked as [DecodeDirEntry] does; ok is false
// if one is malformed.
func DirRoom(b []byte, need int) (off, size, used int, ok bool) {
	le := binary.LittleEndian
	for off < len(b) {
		if off+DirEntryHeader > len(b) {
			return 0, 0, 0, false
		}
		e := b[off:]
		size, n := recLen(le.Uint16(e[4:]), len(b)), int(e[6])
		if size < DirEntryHeader+4 || size%4 != 0 || size > len(e) || DirEntryHeader+n > size {
			return 0, 0, 0, false
		}
		used := 0
		if le.Uint32(e) != 0 {
			used = DirEntrySize(n)
		}
		if size-used >= need {
			return off, size, used, true
		}
		off += size
	}
	return 0, 0, 0, true
}

// DirRecLen is the length of the record at off of a directory block, of which at
// least the header must be inside, unchecked.
func DirRecLen(b []byte, off int) int {
	return recLen(binary.LittleEndian.Uint16(b[off+4:]), len(b))
}

// recLen decodes a record length, which has 16 bits while a block can have
// 64 KiB: the two low bits, always zero in a length, then carry bits 16 and 17.
func recLen(v uint16, blockSize int) int {
	if blockSize < MaxBlockSize {
		return int(v)
	}
	if v == 65535 || v == 0 {
		return blockSize
	}
	return int(v&^3) | int(v&3)<<16
}

// DirTail returns the stored checksum of a leaf block, and false if the block
// does not end in a checksum entry.
func DirTail(b []byte) (sum uint32, ok bool) {
	t := b[len(b)-DirTailSize:]
	le := binary.LittleEndian
	if le.Uint32(t) != 0 || le.Uint16(t[4:]) != DirTailSize || t[6] != 0 || t[7] != dirTailType {
		return 0, false
	}
	return le.Uint32(t[8:]), true
}

// DirLeafChecksum computes the checksum of a leaf block that has a checksum
// entry. seed is the inode's.
func DirLeafChecksum(seed uint32, b []byte) uint32 {
	return CRC32C(seed, b[:len(b)-DirTailSize])
}
