package fuse

// direntHeader is struct fuse_dirent (24 bytes) without its name. The name follows, and zeros up to
// a multiple of 8 bytes.
type direntHeader struct {
	Ino     uint64 // 0x00
	Off     uint64 // 0x08: position of the entry after this one
	Namelen uint32 // 0x10
	Type    uint32 // 0x14: DT_*
}

// direntPlusHeader is struct fuse_direntplus (152 bytes) without its name.
type direntPlusHeader struct {
	Entry  EntryOut     // 0x00
	Dirent direntHeader // 0x80
}
