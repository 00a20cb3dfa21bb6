package disk

import "encoding/binary"

const (
	// XattrMagic starts both an attribute block and the attributes in an inode.
	XattrMagic = 0xEA020000
	// XattrHeaderSize is the length of the header of an attribute block.
	XattrHeaderSize = 32
	// XattrIbodyHeaderSize is the length of the header inside an inode.
	XattrIbodyHeaderSize = 4
	// XattrEntrySize is the length of an entry before its name.
	XattrEntrySize = 16

	xattrCsumOff = 0x10
)

// XattrHeader starts an attribute block.
type XattrHeader struct {
	Magic    uint32 // 0x0
	RefCount uint32 // 0x4; inodes that share the block
	Blocks   uint32 // 0x8; always 1
	Hash     uint32 // 0xC
	Checksum uint32 // 0x10
}

// DecodeXattrHeader reads a header from the first XattrHeaderSize bytes of b.
func DecodeXattrHeader(b []byte) XattrHeader {
	_ = b[XattrHeaderSize-1]
	le := binary.LittleEndian
	return XattrHeader{
		Magic:    le.Uint32(b[0x0:]),
		RefCount: le.Uint32(b[0x4:]),
		Blocks:   le.Uint32(b[0x8:]),
		Hash:     le.Uint32(b[0xC:]),
		Checksum: le.Uint32(b[xattrCsumOff:]),
	}
}

// Name indices: the prefix of an attribute name, stored as a number.
const (
	XattrUser         = 1
	XattrACLAccess    = 2
	XattrACLDefault   = 3
	XattrTrusted      = 4
	XattrLustre       = 5
	XattrSecurity     = 6
	XattrSystem       = 7
	XattrRichACL      = 8
	XattrEncryption   = 9
	XattrHurd         = 10
	XattrSystemInline = "data" // with XattrSystem: the rest of inline data
)

// XattrEntry describes one attribute.
type XattrEntry struct {
	NameIndex uint8  // 0x1
	ValueOffs uint16 // 0x2
	ValueIno  uint32 // 0x4; inode that holds the value, or 0
	ValueSize uint32 // 0x8
	Hash      uint32 // 0xC
	Name      []byte // 0x10; without prefix; aliases the input
}

// NextXattr reads the entry at off of b and returns the offset of the next
// one. last is true, and there is no entry, at the end of the list. A problem
// is reported when the entry does not fit.
func NextXattr(b []byte, off int) (e XattrEntry, next int, last bool, problem string) {
	if off+4 > len(b) {
		return e, 0, false, "attribute list has no end"
	}
	le := binary.LittleEndian
	if le.Uint32(b[off:]) == 0 {
		return e, 0, true, ""
	}
	nameLen := int(b[off])
	if off+XattrEntrySize+nameLen > len(b) {
		return e, 0, false, "attribute name leaves its area"
	}
	e.NameIndex = b[off+1]
	e.ValueOffs = le.Uint16(b[off+2:])
	e.ValueIno = le.Uint32(b[off+4:])
	e.ValueSize = le.Uint32(b[off+8:])
	e.Hash = le.Uint32(b[off+12:])
	e.Name = b[off+XattrEntrySize : off+XattrEntrySize+nameLen]
	return e, off + (XattrEntrySize+nameLen+3)&^3, false, ""
}
