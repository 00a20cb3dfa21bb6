package xattr

import "encoding/binary"

// Formats of a POSIX ACL: the one on disk (version 1: entries of four bytes, or
// eight where an id is needed) and the one of the xattr system calls (version 2:
// all entries of eight bytes).
const (
	aclDiskVersion = 1
	aclWireVersion = 2
	aclHeader      = 4
	aclShort       = 4
	aclLong        = 8
	aclNoID        = ^uint32(0)
)

// Tags of ACL entries.
const (
	aclUserObj  = 0x01
	aclUser     = 0x02
	aclGroupObj = 0x04
	aclGroup    = 0x08
	aclMask     = 0x10
	aclOther    = 0x20
)

// ACLToWire converts an ACL from the disk's format to that of getxattr(2). ok
// is false if the stored ACL is malformed.
func ACLToWire(stored []byte) (wire []byte, ok bool) {
	le := binary.LittleEndian
	if len(stored) < aclHeader || le.Uint32(stored) != aclDiskVersion {
		return nil, false
	}
	wire = le.AppendUint32(make([]byte, 0, aclHeader+len(stored)/aclShort*aclLong), aclWireVersion)
	for b := stored[aclHeader:]; len(b) > 0; {
		if len(b) < aclShort {
			return nil, false
		}
		tag, id := le.Uint16(b), aclNoID
		wire = append(wire, b[:aclShort]...)
		switch tag {
		case aclUserObj, aclGroupObj, aclMask, aclOther:
			b = b[aclShort:]
		case aclUser, aclGroup:
			if len(b) < aclLong {
				return nil, false
			}
			id = le.Uint32(b[aclShort:])
			b = b[aclLong:]
		default:
			return nil, false
		}
		wire = le.AppendUint32(wire, id)
	}
	return wire, true
}
