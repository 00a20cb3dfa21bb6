package fuse

// setxattrCompatSize is the size of fuse_setxattr_in without InitSetxattrExt.
const setxattrCompatSize = 8

// SetxattrIn is struct fuse_setxattr_in (16 bytes; 8 without InitSetxattrExt).
type SetxattrIn struct {
	Size          uint32        // 0x00: length of the value
	Flags         uint32        // 0x04: XATTR_CREATE, XATTR_REPLACE
	SetxattrFlags SetxattrFlags // 0x08: 0 without InitSetxattrExt
	_             uint32        // 0x0C
}

// getxattrIn is struct fuse_getxattr_in (8 bytes), for GETXATTR and LISTXATTR.
type getxattrIn struct {
	Size uint32 // 0x00: 0 asks for the length
	_    uint32 // 0x04
}

// getxattrOut is struct fuse_getxattr_out (8 bytes), the reply where the length was asked for.
type getxattrOut struct {
	Size uint32 // 0x00
	_    uint32 // 0x04
}
