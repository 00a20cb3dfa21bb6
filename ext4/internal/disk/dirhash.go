package disk

import (
	"fmt"
	"math/bits"
	"syscall"
)

// HashVersion selects the function that hashes the names of an indexed
// directory. Values below [HashLegacyUnsigned] are stored on disk, in the root
// of the index (dx_root, offset 0x1C) and in the superblock
// (s_def_hash_version); the unsigned ones are the stored value plus
// [HashUnsignedOffset] when the superblock says that names are hashed as
// unsigned characters (s_flags, EXT2_FLAGS_UNSIGNED_HASH).
type HashVersion uint8

// The hash versions, with the kernel's numbers.
const (
	HashLegacy          HashVersion = 0
	HashHalfMD4         HashVersion = 1
	HashTEA             HashVersion = 2
	HashLegacyUnsigned  HashVersion = 3
	HashHalfMD4Unsigned HashVersion = 4
	HashTEAUnsigned     HashVersion = 5
	HashSipHash         HashVersion = 6
)

// HashUnsignedOffset is what the unsigned variant of a version adds to it.
const HashUnsignedOffset = HashLegacyUnsigned - HashLegacy

const (
	htreeEOF  uint32 = 0x7FFFFFFF // the hash, halved, that means "end of directory"
	halfMD4K2 uint32 = 0x5A827999
	halfMD4K3 uint32 = 0x6ED9EBA1
	teaDelta  uint32 = 0x9E3779B9
)

var errSipHash = fmt.Errorf("directory hash: siphash needs the directory's encryption key: %w", syscall.EOPNOTSUPP)

// Unsigned returns the variant of v that takes characters as unsigned.
func (v HashVersion) Unsigned() HashVersion {
	if v <= HashTEA {
		return v + HashUnsignedOffset
	}
	return v
}

// String is the name that debugfs and tune2fs use.
func (v HashVersion) String() string {
	names := [...]string{
		"legacy", "half_md4", "tea", "legacy_unsigned", "half_md4_unsigned", "tea_unsigned", "siphash",
	}
	if int(v) < len(names) {
		return names[v]
	}
	return fmt.Sprintf("hash version %d", uint8(v))
}

// DirHash hashes a directory entry's name as ext4's indexed directories do. In
// a casefolded directory the name must be folded first.
//
// The lowest bit of major is always clear, for the index uses it to mark a hash
// that continues into the next block, and the value that means "end of
// directory" never comes out. An unknown version is a [CorruptError]; siphash
// is EOPNOTSUPP, because its key is the directory's encryption key. DirHash
// does not allocate, unless it fails.
func DirHash(v HashVersion, seed [4]uint32, name []byte) (major, minor uint32, err error) {
	state := [4]uint32{0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476}
	if seed != [4]uint32{} {
		state = seed
	}
	signed := v <= HashTEA
	switch v {
	case HashLegacy, HashLegacyUnsigned:
		major = legacyHash(name, signed)
	case HashHalfMD4, HashHalfMD4Unsigned:
		var in [8]uint32
		for rest := name; len(rest) > 0; rest = rest[min(len(rest), 32):] {
			packName(in[:], rest, signed)
			halfMD4(&state, &in)
		}
		major, minor = state[1], state[2]
	case HashTEA, HashTEAUnsigned:
		var in [4]uint32
		for rest := name; len(rest) > 0; rest = rest[min(len(rest), 16):] {
			packName(in[:], rest, signed)
			tea(&state, &in)
		}
		major, minor = state[0], state[1]
	case HashSipHash:
		return 0, 0, errSipHash
	default:
		return 0, 0, Corruptf("directory index", "unknown %v", v)
	}
	major &^= 1
	if major == htreeEOF<<1 {
		major = (htreeEOF - 1) << 1
	}
	return major, minor, nil
}

// char widens a name's byte as the C type char did on the machine that chose
// the signedness.
func char(c byte, signed bool) uint32 {
	if signed {
		return uint32(int32(int8(c)))
	}
	return uint32(c)
}

// legacyHash is the hash of the first indexed directories.
func legacyHash(name []byte, signed bool) uint32 {
	h0, h1 := uint32(0x12A3FE2D), uint32(0x37ABE8F9)
	for _, c := range name {
		h := h1 + (h0 ^ char(c, signed)*7152373)
		if h&0x80000000 != 0 {
			h -= 0x7FFFFFFF
		}
		h0, h1 = h, h0
	}
	return h0 << 1
}

// packName fills in with the next bytes of a name, four to a word and the
// first in the highest place; what the name does not fill is padded with
// the length of all that is left of the name.
func packName(in []uint32, rest []byte, signed bool) {
	n := uint32(len(rest))
	pad := n | n<<8
	pad |= pad << 16
	for i := range in {
		word := pad
		for _, c := range rest[:min(len(rest), 4)] {
			word = word<<8 + char(c, signed)
		}
		rest = rest[min(len(rest), 4):]
		in[i] = word
	}
}

// halfMD4 mixes eight words into the state with three rounds of MD4, each cut
// to half its length.
func halfMD4(state *[4]uint32, in *[8]uint32) {
	a, b, c, d := state[0], state[1], state[2], state[3]

	choose := func(x, y, z uint32) uint32 { return z ^ x&(y^z) }
	for i := 0; i < 8; i += 4 {
		a = bits.RotateLeft32(a+choose(b, c, d)+in[i], 3)
		d = bits.RotateLeft32(d+choose(a, b, c)+in[i+1], 7)
		c = bits.RotateLeft32(c+choose(d, a, b)+in[i+2], 11)
		b = bits.RotateLeft32(b+choose(c, d, a)+in[i+3], 19)
	}
	majority := func(x, y, z uint32) uint32 { return x&y + (x^y)&z }
	for i := 1; i >= 0; i-- {
		a = bits.RotateLeft32(a+majority(b, c, d)+in[i]+halfMD4K2, 3)
		d = bits.RotateLeft32(d+majority(a, b, c)+in[i+2]+halfMD4K2, 5)
		c = bits.RotateLeft32(c+majority(d, a, b)+in[i+4]+halfMD4K2, 9)
		b = bits.RotateLeft32(b+majority(c, d, a)+in[i+6]+halfMD4K2, 13)
	}
	for i := 3; i >= 1; i -= 2 {
		// The third round takes the words 3, 7, 2, 6 and then 1, 5, 0, 4.
		a = bits.RotateLeft32(a+(b^c^d)+in[i]+halfMD4K3, 3)
		d = bits.RotateLeft32(d+(a^b^c)+in[i+4]+halfMD4K3, 9)
		c = bits.RotateLeft32(c+(d^a^b)+in[i-1]+halfMD4K3, 11)
		b = bits.RotateLeft32(b+(c^d^a)+in[i+3]+halfMD4K3, 15)
	}
	state[0] += a
	state[1] += b
	state[2] += c
	state[3] += d
}

// tea mixes four words, as the key, into the first two words of the state with
// sixteen cycles of the Tiny Encryption Algorithm.
func tea(state, key *[4]uint32) {
	x, y, sum := state[0], state[1], uint32(0)
	for range 16 {
		sum += teaDelta
		x += (y<<4 + key[0]) ^ (y + sum) ^ (y>>5 + key[1])
		y += (x<<4 + key[2]) ^ (x + sum) ^ (x>>5 + key[3])
	}
	state[0] += x
	state[1] += y
}
