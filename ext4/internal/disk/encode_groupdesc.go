package disk

import "encoding/binary"

// EncodeGroupDesc stores d in the raw descriptor b, the inverse of
// [DecodeGroupDesc]. Bytes that no field of GroupDesc stands for are left as
// they are, and so are the high halves in descriptors that have none: what does
// not fit the low half is lost.
func EncodeGroupDesc(b []byte, d *GroupDesc) {
	_ = b[GroupDescSizeMin-1]
	le := binary.LittleEndian
	lo16 := func(off int, v uint32) { le.PutUint16(b[off:], uint16(v)) }
	le.PutUint32(b[0x00:], uint32(d.BlockBitmap))
	le.PutUint32(b[0x04:], uint32(d.InodeBitmap))
	le.PutUint32(b[0x08:], uint32(d.InodeTable))
	lo16(0x0C, d.FreeBlocks)
	lo16(0x0E, d.FreeInodes)
	lo16(0x10, d.UsedDirs)
	le.PutUint16(b[0x12:], d.Flags)
	lo16(0x18, d.BlockBitmapCsum)
	lo16(0x1A, d.InodeBitmapCsum)
	lo16(0x1C, d.ItableUnused)
	le.PutUint16(b[0x1E:], d.Checksum)
	if len(b) < GroupDescSize64 {
		return
	}
	le.PutUint32(b[0x20:], uint32(d.BlockBitmap>>32))
	le.PutUint32(b[0x24:], uint32(d.InodeBitmap>>32))
	le.PutUint32(b[0x28:], uint32(d.InodeTable>>32))
	lo16(0x2C, d.FreeBlocks>>16)
	lo16(0x2E, d.FreeInodes>>16)
	lo16(0x30, d.UsedDirs>>16)
	lo16(0x32, d.ItableUnused>>16)
	lo16(0x38, d.BlockBitmapCsum>>16)
	lo16(0x3A, d.InodeBitmapCsum>>16)
}

// SealGroupDesc stores the checksum in the raw descriptor of a group, where the
// filesystem has them.
func (c *Checksums) SealGroupDesc(group uint32, raw []byte) {
	if c.Metadata || c.GDT {
		binary.LittleEndian.PutUint16(raw[0x1E:], c.GroupDesc(group, raw))
	}
}
