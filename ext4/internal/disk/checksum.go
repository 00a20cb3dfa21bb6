package disk

import (
	"encoding/binary"
	"hash/crc32"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// CRC32C continues a CRC-32C over p. It is the raw remainder, as ext4 and jbd2
// store it: neither the seed nor the result is inverted.
func CRC32C(seed uint32, p []byte) uint32 {
	return ^crc32.Update(^seed, castagnoli, p)
}

// CRC32CUint32 continues a CRC-32C over the little-endian bytes of v.
func CRC32CUint32(seed, v uint32) uint32 {
	return CRC32CUint16(CRC32CUint16(seed, uint16(v)), uint16(v>>16))
}

// CRC32CUint16 continues a CRC-32C over the little-endian bytes of v.
func CRC32CUint16(seed uint32, v uint16) uint32 {
	seed = castagnoli[byte(seed)^byte(v)] ^ seed>>8
	return castagnoli[byte(seed)^byte(v>>8)] ^ seed>>8
}

// CRC32CUint64 continues a CRC-32C over the little-endian bytes of v.
func CRC32CUint64(seed uint32, v uint64) uint32 {
	return CRC32CUint32(CRC32CUint32(seed, uint32(v)), uint32(v>>32))
}

var crc16Table = func() (t [256]uint16) {
	for i := range t {
		c := uint16(i)
		for range 8 {
			if c&1 != 0 {
				c = c>>1 ^ 0xA001
			} else {
				c >>= 1
			}
		}
		t[i] = c
	}
	return t
}()

// CRC16 continues the CRC-16 (polynomial 0x8005, reflected) that gdt_csum uses
// for group descriptors, over p.
func CRC16(seed uint16, p []byte) uint16 {
	for _, c := range p {
		seed = crc16Table[byte(seed)^c] ^ seed>>8
	}
	return seed
}

// Checksums says how the metadata of one filesystem is checksummed.
type Checksums struct {
	Metadata bool   // metadata_csum: CRC-32C on everything
	GDT      bool   // gdt_csum (uninit_bg): CRC-16 on group descriptors only
	Seed     uint32 // CRC-32C of the UUID, or the stored seed with metadata_csum_seed
	uuid     [16]byte
}

// InodeSeed is the seed for everything that belongs to one inode: the inode
// itself, its extent blocks and its directory blocks.
func (c *Checksums) InodeSeed(ino, generation uint32) uint32 {
	return CRC32CUint32(CRC32CUint32(c.Seed, ino), generation)
}

// GroupDesc computes the checksum of the raw descriptor of a group. The result
// is meaningful only where Metadata or GDT is set.
func (c *Checksums) GroupDesc(group uint32, raw []byte) uint16 {
	const field, next = 0x1E, 0x20
	if len(raw) < next {
		return 0
	}
	if c.Metadata {
		sum := CRC32C(CRC32CUint32(c.Seed, group), raw[:field])
		sum = CRC32CUint16(sum, 0)
		return uint16(CRC32C(sum, raw[next:]))
	}
	var g [4]byte
	binary.LittleEndian.PutUint32(g[:], group)
	sum := CRC16(^uint16(0), c.uuid[:])
	sum = CRC16(sum, g[:])
	sum = CRC16(sum, raw[:field])
	return CRC16(sum, raw[next:])
}

// Bitmap computes the checksum of a block or inode bitmap: of its first bits/8
// bytes, which must not exceed the bitmap.
func (c *Checksums) Bitmap(bitmap []byte, bits uint32) uint32 {
	return CRC32C(c.Seed, bitmap[:min(int(bits/8), len(bitmap))])
}

// XattrBlock computes the checksum of an extended attribute block at device
// block number blk.
func (c *Checksums) XattrBlock(blk uint64, b []byte) uint32 {
	sum := CRC32CUint64(c.Seed, blk)
	sum = CRC32C(sum, b[:xattrCsumOff])
	sum = CRC32CUint32(sum, 0)
	return CRC32C(sum, b[xattrCsumOff+4:])
}
