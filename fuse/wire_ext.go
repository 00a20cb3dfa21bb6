package fuse

// Types of extensions. Values up to extMaxSecctx are not a type but the number of security contexts
// in the block (7.38).
const (
	extMaxSecctx = 31
	extGroups    = 32
)

// extHeader is struct fuse_ext_header (8 bytes); struct fuse_secctx_header has the same shape.
type extHeader struct {
	Size uint32 // 0x00: of the extension, this header included
	Type uint32 // 0x04: for security contexts their number
}

// secctx is struct fuse_secctx (8 bytes); the name, a NUL and the value follow.
type secctx struct {
	Size uint32 // 0x00: of the value
	_    uint32 // 0x04
}
