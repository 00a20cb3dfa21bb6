package disk

import "encoding/binary"

const (
	dirRecLenWhole = 65535 // the record length of 65536 bytes
	dxInfoLen      = 8     // the length of a root's own header
)

// DxMaxBlocks is the number of directory blocks that an index can point to.
const DxMaxBlocks = 1 << 28

// DirEntrySize is the length of the shortest record for a name of n bytes.
func DirEntrySize(n int) int { return (DirEntryHeader + n + 3) &^ 3 }

// EncodeDirEntry stores e at off of a block or another area that entries tile;
// it is the inverse of [DecodeDirEntry]. The record must fit, be a multiple of
// 4 and be long enough for the name. What is left of it is not touched.
func EncodeDirEntry(b []byte, off int, e *DirEntry, filetype bool) {
	binary.LittleEndian.PutUint32(b[off:], e.Inode)
	SetDirRecLen(b, off, e.RecLen)
	b[off+6], b[off+7] = byte(len(e.Name)), 0
	if filetype {
		b[off+7] = e.FileType
	}
	copy(b[off+DirEntryHeader:off+e.RecLen], e.Name)
}

// SetDirRecLen stores the length of the record at off of an area of entries.
func SetDirRecLen(b []byte, off, n int) {
	v := uint16(n)
	if n > dirRecLenWhole {
		v = dirRecLenWhole
	}
	binary.LittleEndian.PutUint16(b[off+4:], v)
}

// SetDirInode makes the entry at off of an area of entries refer to an inode.
func SetDirInode(b []byte, off int, ino uint32, fileType uint8, filetype bool) {
	binary.LittleEndian.PutUint32(b[off:], ino)
	if filetype {
		b[off+7] = fileType
	}
}

// InitDirLeaf makes b a leaf block without entries: one unused record and, with
// csum, room for the checksum behind it.
func InitDirLeaf(b []byte, csum bool) {
	clear(b)
	end := len(b)
	if csum {
		end -= DirTailSize
		binary.LittleEndian.PutUint16(b[end+4:], DirTailSize)
		b[end+7] = dirTailType
	}
	SetDirRecLen(b, 0, end)
}

// SealDirLeaf stores the checksum of a leaf block that has room for it. seed is
// the inode's.
func SealDirLeaf(seed uint32, b []byte) {
	binary.LittleEndian.PutUint32(b[len(b)-4:], DirLeafChecksum(seed, b))
}

// InitDxRoot makes b, which begins with the records of "." and "..", the root of
// an index with one entry, which leads to block. csum says whether entries leave
// room for a checksum.
func InitDxRoot(b []byte, version HashVersion, block uint32, csum bool) {
	SetDirRecLen(b, dxRootInfo-12, len(b)-12)
	clear(b[dxRootInfo:])
	b[dxRootInfo+4], b[dxRootInfo+5] = byte(version), dxInfoLen
	initDxEntries(b[dxRootEntries:], block, csum)
}

// SetDxLevels stores the number of levels below the root of an index.
func SetDxLevels(b []byte, levels uint8) { b[dxRootInfo+6] = levels }

// InitDxNode makes b an inner block of an index with one entry, which leads to
// block, and returns its entries.
func InitDxNode(b []byte, block uint32, csum bool) DxNode {
	clear(b)
	SetDirRecLen(b, 0, len(b))
	return initDxEntries(b[dxNodeEntries:], block, csum)
}

func initDxEntries(b []byte, block uint32, csum bool) DxNode {
	room := len(b)
	if csum {
		room -= DxTailSize
	}
	n := DxNode{b: b, Limit: room / DxEntrySize}
	binary.LittleEndian.PutUint16(b, uint16(n.Limit))
	n.setCount(1)
	n.setBlock(0, block)
	return n
}

// SealDx stores the checksum of an index block that was made with csum, or that
// passed its decoder with it.
func SealDx(seed uint32, b []byte, root bool) {
	off := dxNodeEntries
	if root {
		off = dxRootEntries
	}
	if _, sum, ok := DxChecksum(seed, b, root); ok {
		tail := off + DxEntrySize*int(binary.LittleEndian.Uint16(b[off:]))
		binary.LittleEndian.PutUint32(b[tail+4:], sum)
	}
}

func (n *DxNode) setCount(count int) {
	n.Count = count
	binary.LittleEndian.PutUint16(n.b[2:], uint16(count))
}

func (n *DxNode) setBlock(i int, block uint32) {
	binary.LittleEndian.PutUint32(n.b[i*DxEntrySize+4:], block)
}

// Full tells whether there is no room for another entry.
func (n *DxNode) Full() bool { return n.Count >= n.Limit }

// Insert puts an entry at place i, which is at least 1. The node must not be
// full.
func (n *DxNode) Insert(i int, hash, block uint32) {
	at, end := i*DxEntrySize, n.Count*DxEntrySize
	copy(n.b[at+DxEntrySize:end+DxEntrySize], n.b[at:end])
	binary.LittleEndian.PutUint32(n.b[at:], hash)
	n.setBlock(i, block)
	n.setCount(n.Count + 1)
}

// MoveTail moves the entries from i on, which is at least 1 and below Count, to
// another node in place of what it has. It returns the hash from which on that
// node then covers.
func (n *DxNode) MoveTail(i int, to *DxNode) (hash uint32) {
	hash = n.Hash(i)
	n.copyTail(i, to)
	clear(n.b[i*DxEntrySize : n.Count*DxEntrySize])
	n.setCount(i)
	return hash
}

// PushDown moves all entries to another node in place of what it has. One entry
// remains, which leads to that node's block.
func (n *DxNode) PushDown(to *DxNode, block uint32) {
	n.copyTail(0, to)
	clear(n.b[DxEntrySize : n.Count*DxEntrySize])
	n.setCount(1)
	n.setBlock(0, block)
}

func (n *DxNode) copyTail(i int, to *DxNode) {
	// The first four bytes of a node are its counts, where others have a hash.
	copy(to.b[4:], n.b[i*DxEntrySize+4:n.Count*DxEntrySize])
	to.setCount(n.Count - i)
}
