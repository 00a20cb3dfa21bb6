package disk

import "encoding/binary"

const (
	// MMPMagic is the value of MMP.Magic.
	MMPMagic = 0x004D4D50
	// MMPSize is the length of the multiple mount protection record.
	MMPSize = 1024
	// MMPSeqClean says that nobody has the filesystem mounted.
	MMPSeqClean = 0xFF4D4D50
	// MMPSeqFsck says that e2fsck is at work.
	MMPSeqFsck = 0xE24D4D50
)

// MMP is the record by which hosts that share a device tell each other that
// it is mounted.
type MMP struct {
	Magic    uint32   // 0x00
	Seq      uint32   // 0x04; changes while somebody has the filesystem mounted
	Time     uint64   // 0x08; of the last update, seconds
	NodeName [64]byte // 0x10
	BdevName [32]byte // 0x50
	Interval uint16   // 0x70; seconds
	Checksum uint32   // 0x3FC
}

// DecodeMMP reads a record from b, which must hold MMPSize bytes, and checks
// its magic and, with c.Metadata, its checksum.
func DecodeMMP(c *Checksums, b []byte) (m MMP, err error) {
	_ = b[MMPSize-1]
	le := binary.LittleEndian
	m.Magic = le.Uint32(b[0x00:])
	m.Seq = le.Uint32(b[0x04:])
	m.Time = le.Uint64(b[0x08:])
	copy(m.NodeName[:], b[0x10:])
	copy(m.BdevName[:], b[0x50:])
	m.Interval = le.Uint16(b[0x70:])
	m.Checksum = le.Uint32(b[0x3FC:])
	if m.Magic != MMPMagic {
		return m, Corruptf("multiple mount protection block", "magic number is %#x", m.Magic)
	}
	if sum := CRC32C(c.Seed, b[:0x3FC]); c.Metadata && sum != m.Checksum {
		return m, Corruptf("multiple mount protection block", "checksum is %#x instead of %#x", m.Checksum, sum)
	}
	return m, nil
}

// EncodeMMP stores a record in b, which must hold MMPSize bytes, with its
// checksum where there are any. Bytes that no field stands for are left as they
// are.
func EncodeMMP(c *Checksums, b []byte, m *MMP) {
	_ = b[MMPSize-1]
	le := binary.LittleEndian
	le.PutUint32(b[0x00:], m.Magic)
	le.PutUint32(b[0x04:], m.Seq)
	le.PutUint64(b[0x08:], m.Time)
	copy(b[0x10:], m.NodeName[:])
	copy(b[0x50:], m.BdevName[:])
	le.PutUint16(b[0x70:], m.Interval)
	if c.Metadata {
		le.PutUint32(b[0x3FC:], CRC32C(c.Seed, b[:0x3FC]))
	}
}
