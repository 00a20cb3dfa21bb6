package journal

import "ext4box/ext4/internal/disk"

// crc32Table is for the CRC-32 of v1 checksums: the polynomial of Ethernet, but
// with the most significant bit first, which hash/crc32 does not have.
var crc32Table = func() (t [256]uint32) {
	const polynomial = 0x04C11DB7
	for i := range t {
		c := uint32(i) << 24
		for range 8 {
			carry := c >> 31
			c = c<<1 ^ carry*polynomial
		}
		t[i] = c
	}
	return t
}()

// crc32BE continues the checksum of a transaction over p. It starts with all
// bits set and is not inverted at the end.
func crc32BE(sum uint32, p []byte) uint32 {
	for _, c := range p {
		sum = sum<<8 ^ crc32Table[byte(sum>>24)^c]
	}
	return sum
}

var zeros [64 << 10]byte

// sumWithout is the CRC-32C of b with the four bytes at off taken as zero.
func sumWithout(seed uint32, b []byte, off int) uint32 {
	sum := disk.CRC32C(seed, b[:off])
	sum = disk.CRC32C(sum, zeros[:4])
	return disk.CRC32C(sum, b[off+4:])
}

// checkTail verifies the checksum at the end of a descriptor or revoke block.
func (l *layout) checkTail(b []byte) bool {
	if !l.perBlock() {
		return true
	}
	off := len(b) - BlockTailSize
	return sumWithout(l.seed, b, off) == be.Uint32(b[off:])
}

// checkCommit verifies a commit block's own checksum. Of a commit block that
// was torn in a power cut the first sector is enough, for there is nothing in
// the rest of it; what the disk has there instead does not matter.
func (l *layout) checkCommit(b []byte, c *Commit) bool {
	if !l.perBlock() {
		return true
	}
	if sumWithout(l.seed, b, commitChecksumOff) == c.Checksum {
		return true
	}
	sum := sumWithout(l.seed, b[:CommitSize], commitChecksumOff)
	return disk.CRC32C(sum, zeros[:len(b)-CommitSize]) == c.Checksum
}

// checkLogged verifies a logged block, as it is in the log, by its tag.
func (l *layout) checkLogged(b []byte, tid, want uint32) bool {
	var seq [4]byte
	be.PutUint32(seq[:], tid)
	sum := disk.CRC32C(disk.CRC32C(l.seed, seq[:]), b)
	switch l.checksum {
	case ChecksumV3:
		return sum == want
	case ChecksumV2:
		return sum&0xFFFF == want
	}
	return true
}
