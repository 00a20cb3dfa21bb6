package fuse

// InitIn is struct fuse_init_in (64 bytes; 16 before minor 36).
type InitIn struct {
	Major        uint32 // 0x00
	Minor        uint32 // 0x04
	MaxReadahead uint32 // 0x08: largest readahead the kernel would do, bytes
	Flags        uint32 // 0x0C: low half of the offered InitFlags
	Flags2       uint32 // 0x10: high half; valid if InitExt is in Flags
	_            [11]uint32
}

// InitFlags puts the two halves of the offer together.
func (in *InitIn) InitFlags() InitFlags { return joinInitFlags(in.Flags, in.Flags2) }

// InitOut is struct fuse_init_out (64 bytes).
type InitOut struct {
	Major               uint32 // 0x00
	Minor               uint32 // 0x04
	MaxReadahead        uint32 // 0x08
	Flags               uint32 // 0x0C
	MaxBackground       uint16 // 0x10
	CongestionThreshold uint16 // 0x12
	MaxWrite            uint32 // 0x14
	TimeGran            uint32 // 0x18
	MaxPages            uint16 // 0x1C
	MapAlignment        uint16 // 0x1E
	Flags2              uint32 // 0x20
	MaxStackDepth       uint32 // 0x24
	RequestTimeout      uint16 // 0x28
	_                   [11]uint16
}

// InitFlags puts the two halves of the answer together.
func (out *InitOut) InitFlags() InitFlags { return joinInitFlags(out.Flags, out.Flags2) }

func joinInitFlags(lo, hi uint32) InitFlags {
	f := InitFlags(lo)
	if f&InitExt != 0 {
		f |= InitFlags(hi) << 32
	}
	return f
}
