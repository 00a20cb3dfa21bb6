package fuse

// SetupmappingIn is struct fuse_setupmapping_in (40 bytes). Only virtiofs sends it.
type SetupmappingIn struct {
	Fh      uint64 // 0x00
	Foffset uint64 // 0x08: start in the file
	Len     uint64 // 0x10
	Flags   uint64 // 0x18: SetupmappingWrite, SetupmappingRead
	Moffset uint64 // 0x20: start in the memory window
}

// Flags of SetupmappingIn.
const (
	SetupmappingWrite = 1 << 0
	SetupmappingRead  = 1 << 1
)

// removemappingIn is struct fuse_removemapping_in (4 bytes); Count RemovemappingOne follow.
type removemappingIn struct {
	Count uint32 // 0x00
}

// RemovemappingOne is struct fuse_removemapping_one (16 bytes).
type RemovemappingOne struct {
	Moffset uint64 // 0x00
	Len     uint64 // 0x08
}
