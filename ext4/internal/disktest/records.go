package disktest

import (
	"encoding/binary"

	"ext4box/ext4/internal/disk"
)

var le = binary.LittleEndian

// Extent is an entry of an extent tree: a leaf's, or of an inner node where
// only Block and Start count.
type Extent struct {
	Block     uint32
	Len       uint32
	Start     uint64
	Unwritten bool
}

// Written is a leaf entry, or with n of 0 an inner one.
func Written(block, n uint32, start uint64) Extent {
	return Extent{Block: block, Len: n, Start: start}
}

// Unwritten is a leaf entry of allocated blocks without data.
func Unwritten(block, n uint32, start uint64) Extent {
	return Extent{Block: block, Len: n, Start: start, Unwritten: true}
}

// RootSize is the room for an extent tree node in an inode.
const RootSize = disk.InodeBlockSize

// ExtentNode puts an extent tree node of size bytes together; its capacity is
// what the size allows, with room for a checksum in a block.
func ExtentNode(size, depth int, entries ...Extent) []byte {
	b := make([]byte, size)
	le.PutUint16(b[0:], disk.ExtentMagic)
	le.PutUint16(b[2:], uint16(len(entries)))
	le.PutUint16(b[4:], uint16((size-disk.ExtentHeaderSize)/disk.ExtentEntrySize))
	le.PutUint16(b[6:], uint16(depth))
	for i, e := range entries {
		p := b[disk.ExtentHeaderSize+i*disk.ExtentEntrySize:]
		le.PutUint32(p[0:], e.Block)
		if depth > 0 {
			le.PutUint32(p[4:], uint32(e.Start))
			le.PutUint16(p[8:], uint16(e.Start>>32))
			continue
		}
		n := e.Len
		if e.Unwritten {
			n += disk.ExtentMaxLen
		}
		le.PutUint16(p[4:], uint16(n))
		le.PutUint16(p[6:], uint16(e.Start>>32))
		le.PutUint32(p[8:], uint32(e.Start))
	}
	return b
}

// SealExtentNode stores the checksum of a node that is a whole block.
func SealExtentNode(seed uint32, b []byte) {
	tail := disk.ExtentHeaderSize + disk.ExtentEntrySize*int(le.Uint16(b[4:]))
	le.PutUint32(b[tail:], disk.CRC32C(seed, b[:tail]))
}

// Entry is an entry of a directory block. A RecLen of 0 takes what the name
// needs, or for the last one what is left.
type Entry struct {
	Ino    uint32
	Type   uint8
	Name   string
	RecLen int
}

// Need is the shortest record for a name.
func Need(name string) int { return (disk.DirEntryHeader + len(name) + 3) &^ 3 }

// DirBlock puts entries into a directory block of size bytes; with tail its
// end is left for the checksum, which SealDirLeaf stores.
func DirBlock(size int, tail bool, entries ...Entry) []byte {
	b := make([]byte, size)
	end := size
	if tail {
		end -= disk.DirTailSize
		le.PutUint16(b[end+4:], disk.DirTailSize)
		b[end+7] = 0xDE
	}
	off := 0
	for i, e := range entries {
		n := e.RecLen
		if n == 0 {
			n = Need(e.Name)
			if i == len(entries)-1 {
				n = end - off
			}
		}
		PutEntry(b, off, n, e)
		off += n
	}
	if len(entries) == 0 {
		PutEntry(b, 0, end, Entry{})
	}
	return b
}

// PutEntry writes one entry with the given record length.
func PutEntry(b []byte, off, recLen int, e Entry) {
	le.PutUint32(b[off:], e.Ino)
	PutRecLen(b, off, recLen)
	b[off+6], b[off+7] = byte(len(e.Name)), e.Type
	copy(b[off+disk.DirEntryHeader:], e.Name)
}

// PutRecLen writes a record length as the kernel does, also in blocks of
// 64 KiB.
func PutRecLen(b []byte, off, n int) {
	v := uint16(n)
	if n >= 65536 {
		v = 65535
	}
	le.PutUint16(b[off+4:], v)
}

// SealDirLeaf stores the checksum of a leaf that was made with a tail.
func SealDirLeaf(seed uint32, b []byte) {
	le.PutUint32(b[len(b)-4:], disk.CRC32C(seed, b[:len(b)-disk.DirTailSize]))
}

// DxEntry is an entry of a directory index. The hash of the first one of a
// node is not stored.
type DxEntry struct{ Hash, Block uint32 }

const (
	dxRootAt = 32
	dxNodeAt = 8
	dxTail   = 8
)

// DxRoot puts block 0 of an indexed directory together.
func DxRoot(size int, csum bool, self, parent uint32, version, levels uint8, entries ...DxEntry) []byte {
	b := make([]byte, size)
	PutEntry(b, 0, 12, Entry{Ino: self, Type: disk.FTDir, Name: "."})
	PutEntry(b, 12, size-12, Entry{Ino: parent, Type: disk.FTDir, Name: ".."})
	b[28], b[29], b[30] = version, 8, levels
	putDxEntries(b, dxRootAt, csum, entries)
	return b
}

// DxNode puts an inner block of a directory index together.
func DxNode(size int, csum bool, entries ...DxEntry) []byte {
	b := make([]byte, size)
	PutRecLen(b, 0, size)
	putDxEntries(b, dxNodeAt, csum, entries)
	return b
}

// DxLimit is the number of entries for which a root or a node has room.
func DxLimit(size int, root, csum bool) int {
	room := size - dxNodeAt
	if root {
		room = size - dxRootAt
	}
	if csum {
		room -= dxTail
	}
	return room / disk.DxEntrySize
}

func putDxEntries(b []byte, off int, csum bool, entries []DxEntry) {
	for i, e := range entries {
		le.PutUint32(b[off+8*i:], e.Hash)
		le.PutUint32(b[off+8*i+4:], e.Block)
	}
	// Limit and count are in the place of the first hash.
	le.PutUint16(b[off:], uint16(DxLimit(len(b), off == dxRootAt, csum)))
	le.PutUint16(b[off+2:], uint16(len(entries)))
}

// SealDx stores the checksum of an index block that was made with csum.
func SealDx(seed uint32, b []byte, root bool) {
	off := dxNodeAt
	if root {
		off = dxRootAt
	}
	tail := off + disk.DxEntrySize*int(le.Uint16(b[off:]))
	sum := disk.CRC32C(seed, b[:off+disk.DxEntrySize*int(le.Uint16(b[off+2:]))])
	sum = disk.CRC32C(sum, b[tail:tail+4])
	le.PutUint32(b[tail+4:], disk.CRC32C(sum, make([]byte, 4)))
}

// Attr is an extended attribute.
type Attr struct {
	Index uint8
	Name  string
	Value string
	Ino   uint32 // of the value; Value then gives only its length
}

// XattrBlock puts an attribute block together.
func XattrBlock(size int, attrs ...Attr) []byte {
	b := make([]byte, size)
	le.PutUint32(b[0:], disk.XattrMagic)
	le.PutUint32(b[4:], 1)
	le.PutUint32(b[8:], 1)
	putAttrs(b, disk.XattrHeaderSize, 0, attrs)
	return b
}

// InodeAttrs puts attributes behind the extra fields of a raw inode.
func InodeAttrs(raw []byte, extraIsize int, attrs ...Attr) {
	off := disk.InodeSizeOld + extraIsize
	le.PutUint32(raw[off:], disk.XattrMagic)
	putAttrs(raw, off+4, off+4, attrs)
}

// putAttrs writes the entries from off on and the values from the end down;
// value offsets count from base.
func putAttrs(b []byte, off, base int, attrs []Attr) {
	end := len(b)
	for _, a := range attrs {
		b[off], b[off+1] = byte(len(a.Name)), a.Index
		le.PutUint32(b[off+4:], a.Ino)
		le.PutUint32(b[off+8:], uint32(len(a.Value)))
		copy(b[off+disk.XattrEntrySize:], a.Name)
		if a.Ino == 0 && a.Value != "" {
			end -= (len(a.Value) + 3) &^ 3
			copy(b[end:], a.Value)
			le.PutUint16(b[off+2:], uint16(end-base))
		}
		off += (disk.XattrEntrySize + len(a.Name) + 3) &^ 3
	}
}
