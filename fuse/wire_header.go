package fuse

// Sizes of the headers, in bytes. Every request begins with an InHeader, every reply and
// notification with an OutHeader.
const (
	InHeaderSize  = 40
	OutHeaderSize = 16
)

// Bits of InHeader.Unique.
const (
	// uniqueInterrupt is set in the unique of an INTERRUPT request; the other bits are those of the
	// request it interrupts.
	uniqueInterrupt = 1 << 0
	// uniqueResend marks a request that the kernel sends again after NotifyResend (7.40).
	uniqueResend = 1 << 63
)

// InvalidID stands in InHeader.UID and InHeader.GID where the kernel could or would not map the
// caller's ids (idmapped mounts). It must never be compared with an owner.
const InvalidID = 0xFFFFFFFF

// InHeader is struct fuse_in_header (40 bytes), the head of each request.
type InHeader struct {
	Len         uint32 // 0x00: length of the whole request, header included
	Opcode      Opcode // 0x04
	Unique      uint64 // 0x08: identifies the request; repeated in the reply
	NodeID      uint64 // 0x10: the inode it is about; 0 where there is none
	UID         uint32 // 0x18: filesystem uid of the caller
	GID         uint32 // 0x1C: filesystem gid of the caller
	PID         uint32 // 0x20: process of the caller as seen by the server, 0 if not visible
	TotalExtLen uint16 // 0x24: length of the extensions at the end of the request, in 8-byte units
	_           uint16 // 0x26
}

// OutHeader is struct fuse_out_header (16 bytes), the head of each reply and notification.
type OutHeader struct {
	Len    uint32 // 0x00: length of the whole message, header included
	Error  int32  // 0x04: 0, a negative errno, or the code of a notification
	Unique uint64 // 0x08: of the request; 0 for a notification
}
