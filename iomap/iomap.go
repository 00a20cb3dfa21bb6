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
	New         Flags = 1 << 0 // blocks were allocated by this Begin
	Dirty       Flags = 1 << 1 // metadata needs a commit before fsync may return
	Shared      Flags = 1 << 2 // blocks are shared with another file
	Merged      Flags = 1 << 3 // several on-disk extents were merged
	Boundary    Flags = 1 << 4 // not to be merged with what precedes it
	AnonWrite   Flags = 1 << 5 // the place is not known before data is there
	AtomicBIO   Flags = 1 << 6 // can be written untorn, as a whole
	WantEnd     Flags = 1 << 7 // End must follow
	SizeChanged Flags = 1 << 8 // in End: the write moved the end of the file
	Stale       Flags = 1 << 9 // in End: the mapping was out of date
)

// Op is the purpose a mapping is asked for.
type Op uint32

const (
	Read          Op = 0
	Write         Op = 1 << 0
	Zero          Op = 1 << 1  // clears what has data, and leaves holes alone
	Report        Op = 1 << 2  // FIEMAP, SEEK_DATA: looks, moves nothing
	Fault         Op = 1 << 3  // a page that is mapped into memory
	Direct        Op = 1 << 4  // past the page cache
	NoWait        Op = 1 << 5  // EAGAIN rather than waiting
	OverwriteOnly Op = 1 << 6  // nothing may be allocated
	Unshare       Op = 1 << 7  // write what is shared with other files to a place of its own
	DAX           Op = 1 << 8  // the device is memory
	Atomic        Op = 1 << 9  // untorn
	DontCache     Op = 1 << 10 // drop from the page cache when written
	SwapFile      Op = 1 << 30 // with Report: the file is about to be swap space
	Writeback     Op = 1 << 31 // from the page cache
)

// known are the operations above.
const known = Write | Zero | Report | Fault | Direct | NoWait | OverwriteOnly | Unshare | DAX | Atomic | DontCache | SwapFile | Writeback

// Stores tells whether data may go where the mapping says, so that a hole will not do. Operations that
// are not known are taken for such: what one of a later kernel writes to a hole would be lost.
func (op Op) Stores() bool {
	if op&^known != 0 {
		return true
	}
	return op&(Write|Writeback) != 0 && op&Report == 0
}

// WritesBack tells whether this is, or may be, the page cache being written back, for which others may be
// waiting. Operations that are not known are taken for such: the protocol is not settled, and the bit for it has
// moved before.
func (op Op) WritesBack() bool { return op&Writeback != 0 || op&^known != 0 }

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

// ToEOF is the length of a range that ends where the file does, wherever that is.
const ToEOF = ^uint64(0)

// Cache is whoever moves data on its own, and remembers the mappings that it was given: the kernel,
// where it speaks fuse-iomap. Store and Drop are called with the inode locked, so that they arrive in
// the order in which its mappings change; they do not wait for other requests.
type Cache interface {
	// Store hands out a mapping. After an error it is not remembered.
	Store(ino Ino, m Mapping) error
	// Drop takes back what was handed out of the range [off, off+n) of a file. Both are multiples of the
	// block size, but n may be ToEOF.
	Drop(ino Ino, off, n uint64) error
	// LetGo asks for inodes that nobody uses to be let go of: what is dirty is written, all mappings are
	// forgotten, and then that is told, as whenever an inode is let go of. It need not have been told when
	// LetGo returns, and of inodes that are in use never is. It is called without locks. EINVAL, ENOSYS or
	// EOPNOTSUPP: this cannot be asked for.
	LetGo(inos []Ino) error
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
