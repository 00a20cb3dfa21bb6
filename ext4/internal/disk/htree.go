package disk

import "encoding/binary"

const (
	// dxRootInfo is where the root's own header sits: behind "." and "..".
	dxRootInfo = 24
	// dxRootEntries is where the entries of a root start.
	dxRootEntries = dxRootInfo + 8
	// dxNodeEntries is where the entries of an inner node start: behind one
	// unused entry that makes the block look empty to code without the index.
	dxNodeEntries = 8
	// DxEntrySize is the length of an index entry.
	DxEntrySize = 8
	// DxTailSize is the length of the checksum behind the last entry.
	DxTailSize = 8
)

// DxRoot is the header of a directory index.
type DxRoot struct {
	HashVersion HashVersion // 0x1C
	Levels      uint8       // 0x1E; inner levels below the root
}

// DxNode is a checked view of the entries of one block of a directory index.
// Entry 0 has no hash of its own: it covers everything below entry 1.
type DxNode struct {
	b     []byte // from the first entry on
	Count int
	Limit int
}

// Hash is the smallest hash that entry i covers; the lowest bit says that the
// entry continues the hash of the one before.
func (n *DxNode) Hash(i int) uint32 {
	if i == 0 {
		return 0
	}
	return binary.LittleEndian.Uint32(n.b[i*DxEntrySize:])
}

// Block is the directory block that entry i points to.
func (n *DxNode) Block(i int) uint32 {
	return binary.LittleEndian.Uint32(n.b[i*DxEntrySize+4:]) & 0x0FFFFFFF
}

// Search is the index of the last entry whose hash is at most hash.
func (n *DxNode) Search(hash uint32) int {
	lo, hi := 1, n.Count
	for lo < hi {
		mid := int(uint(lo+hi) / 2)
		if n.Hash(mid) > hash {
			hi = mid
		} else {
			lo = mid + 1
		}
	}
	return lo - 1
}

// DecodeDxRoot reads and checks block 0 of an indexed directory. maxLevels is
// the deepest index that the filesystem's features allow, csum says whether
// entries leave room for a checksum.
func DecodeDxRoot(what string, b []byte, maxLevels int, csum bool) (DxRoot, DxNode, error) {
	root, n, err := ViewDxRoot(what, b, maxLevels, csum)
	if err == nil {
		err = n.checkOrder(what)
	}
	return root, n, err
}

// ViewDxRoot is [DecodeDxRoot] without a look at the order of the entries, for a
// block that has passed that and has not changed since.
func ViewDxRoot(what string, b []byte, maxLevels int, csum bool) (DxRoot, DxNode, error) {
	le := binary.LittleEndian
	root := DxRoot{HashVersion: HashVersion(b[dxRootInfo+4]), Levels: b[dxRootInfo+6]}
	infoLen := b[dxRootInfo+5]
	switch {
	case le.Uint16(b[4:]) != 12 || recLen(le.Uint16(b[16:]), len(b)) != len(b)-12:
		return root, DxNode{}, Corruptf(what, "index root does not start with . and ..")
	case le.Uint32(b[dxRootInfo:]) != 0 || infoLen != 8:
		return root, DxNode{}, Corruptf(what, "index root has an entry of %d bytes and reserved field %#x instead of 8 and 0", infoLen, le.Uint32(b[dxRootInfo:]))
	case b[dxRootInfo+7]&1 != 0:
		return root, DxNode{}, Corruptf(what, "index root has unknown flags %#x", b[dxRootInfo+7])
	case int(root.Levels) > maxLevels:
		return root, DxNode{}, Corruptf(what, "index of %d levels is too deep", root.Levels)
	}
	n, err := decodeDxEntries(what, b, dxRootEntries, csum)
	return root, n, err
}

// DecodeDxNode reads and checks an inner block of a directory index.
func DecodeDxNode(what string, b []byte, csum bool) (DxNode, error) {
	n, err := ViewDxNode(what, b, csum)
	if err == nil {
		err = n.checkOrder(what)
	}
	return n, err
}

// ViewDxNode is to [DecodeDxNode] what [ViewDxRoot] is to [DecodeDxRoot].
func ViewDxNode(what string, b []byte, csum bool) (DxNode, error) {
	if !IsDxNode(b) {
		return DxNode{}, Corruptf(what, "index points here, and it is no index node")
	}
	return decodeDxEntries(what, b, dxNodeEntries, csum)
}

// IsDxNode tells whether a directory block has the shape of an inner index
// block: one unused entry that spans it.
func IsDxNode(b []byte) bool {
	le := binary.LittleEndian
	return le.Uint32(b) == 0 && b[6] == 0 && recLen(le.Uint16(b[4:]), len(b)) == len(b)
}

func decodeDxEntries(what string, b []byte, off int, csum bool) (DxNode, error) {
	le := binary.LittleEndian
	room := (len(b) - off) / DxEntrySize
	if csum {
		room = (len(b) - off - DxTailSize) / DxEntrySize
	}
	n := DxNode{b: b[off:], Limit: int(le.Uint16(b[off:])), Count: int(le.Uint16(b[off+2:]))}
	if n.Limit != room {
		return n, Corruptf(what, "index node claims room for %d entries, it has %d", n.Limit, room)
	}
	if n.Count == 0 || n.Count > n.Limit {
		return n, Corruptf(what, "index node claims %d entries of %d", n.Count, n.Limit)
	}
	return n, nil
}

func (n *DxNode) checkOrder(what string) error {
	for i := 2; i < n.Count; i++ {
		if n.Hash(i) < n.Hash(i-1) {
			return Corruptf(what, "index entry %d is out of order", i)
		}
	}
	return nil
}

// DxChecksum returns the stored and the computed checksum of an index block
// that passed its decoder with csum set. root tells block 0 from inner blocks;
// seed is the inode's.
func DxChecksum(seed uint32, b []byte, root bool) (stored, computed uint32, ok bool) {
	if root {
		return DxChecksumAt(seed, b, dxRootEntries)
	}
	return DxChecksumAt(seed, b, dxNodeEntries)
}

// DxChecksumAt is [DxChecksum] for an index block whose entries begin at off, which
// nobody has checked. ok is false if it has no place for a checksum.
func DxChecksumAt(seed uint32, b []byte, off int) (stored, computed uint32, ok bool) {
	le := binary.LittleEndian
	if off+DxEntrySize > len(b) {
		return 0, 0, false
	}
	limit, count := int(le.Uint16(b[off:])), int(le.Uint16(b[off+2:]))
	tail := off + limit*DxEntrySize
	if count > limit || tail+DxTailSize > len(b) {
		return 0, 0, false
	}
	sum := CRC32C(seed, b[:off+count*DxEntrySize])
	sum = CRC32C(sum, b[tail:tail+4])
	return le.Uint32(b[tail+4:]), CRC32CUint32(sum, 0), true
}
