package iomap

// Ino is the inode number of the file that a mapping belongs to.
type Ino uint32

// Type says what backs a range of a file.
type Type uint16

// The numeric values are those of the fuse-iomap protocol.
const (
	Hole      Type = 0 // nothing: reads as zeros
	Delalloc  Type = 1 // space is reserved but not placed yet
	Mapped    Type = 2 // device blocks that hold the data
	Unwritten Type = 3 // device blocks that read as zeros until written
	Inline    Type = 4 // the data sits inside the inode, in Mapping.Inline
)

// Flags qualify a Mapping.
type Flags uint16

const (
	New    Flags = 1 << 0 // blocks were allocated by this Begin
	Dirty  Flags = 1 << 1 // metadata needs a commit before fsync may return
	Shared Flags = 1 << 2 // blocks are shared with another file
	Merged Flags = 1 << 3 // several on-disk extents were merged
)

// Op is the purpose a mapping is asked for.
type Op uint32

const (
	Read      Op = 0
	Write     Op = 1 << 0
	Zero      Op = 1 << 1
	Report    Op = 1 << 2 // FIEMAP, SEEK_DATA: looks, moves nothing
	Fault     Op = 1 << 3
	Direct    Op = 1 << 4
	NoWait    Op = 1 << 5
	Writeback Op = 1 << 31
)

// NullAddr is the Addr of a mapping that has no place on a device.
const NullAddr = ^uint64(0)

// Mapping says what backs the file range [Offset, Offset+Length).
//
// All values are bytes. Offset and Length are block aligned, except for Inline
// mappings, whose Length is that of the stored data.
type Mapping struct {
	Offset uint64
	Length uint64
	Addr   uint64 // device offset of the first byte, or NullAddr
	Type   Type
	Flags  Flags
	Dev    uint32 // which registered device; 0 is the filesystem's own
	Cookie uint64 // the file's mapping sequence number when this was read
	Inline []byte // the data of an Inline mapping; not to be modified
}

// Contains tells whether the mapping covers the byte at off.
func (m *Mapping) Contains(off uint64) bool {
	return off >= m.Offset && off-m.Offset < m.Length
}

// Mapper answers mappings. The engine implements it. All methods may be called
// concurrently.
type Mapper interface {
	// Begin maps the start of the file range [off, off+n): the result covers
	// off, and ends where the backing changes or later than off+n.
	Begin(ino Ino, off, n uint64, op Op) (Mapping, error)

	// FileSize is the length of a file in bytes.
	FileSize(ino Ino) (uint64, error)
}
