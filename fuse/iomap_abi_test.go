package fuse

import (
	"testing"
	"unsafe"

	"ext4box/iomap"
)

// TestIomapSizes compares the structures of the extension with the byte counts of its specification.
func TestIomapSizes(t *testing.T) {
	for _, c := range []struct {
		name      string
		got, want uintptr
	}{
		{"fuse_iomap_config_in", unsafe.Sizeof(IomapConfigIn{}), 64},
		{"fuse_iomap_config_out", unsafe.Sizeof(IomapConfigOut{}), 104},
		{"fuse_iomap_io", unsafe.Sizeof(IomapIO{}), 32},
		{"fuse_iomap_begin_in", unsafe.Sizeof(IomapBeginIn{}), 32},
		{"fuse_iomap_begin_out", unsafe.Sizeof(IomapBeginOut{}), 64},
		{"fuse_iomap_end_in", unsafe.Sizeof(IomapEndIn{}), 72},
		{"fuse_iomap_ioend_in", unsafe.Sizeof(IomapIoendIn{}), 48},
		{"fuse_iomap_ioend_out", unsafe.Sizeof(IomapIoendOut{}), 8},
		{"fuse_freezefs_in", unsafe.Sizeof(FreezeFSIn{}), 8},
		{"fuse_shutdownfs_in", unsafe.Sizeof(ShutdownFSIn{}), 8},
		{"fuse_range", unsafe.Sizeof(IomapRange{}), 16},
		{"fuse_iomap_dev_inval_out", unsafe.Sizeof(IomapDevInval{}), 24},
		{"fuse_iomap_inval_mappings_out", unsafe.Sizeof(IomapInvalMappings{}), 48},
		{"fuse_iomap_upsert_mappings_out", unsafe.Sizeof(IomapUpsertMappings{}), 80},
		{"fuse_backing_map", unsafe.Sizeof(BackingMap{}), 16},
		{"fuse_iomap_support", unsafe.Sizeof(IomapSupport{}), 16},
		{"fuse_iomap_backing_info", unsafe.Sizeof(IomapBackingInfo{}), 8},
		{"tail of fuse_statx", unsafe.Sizeof(StatxIomap{}), 112},
	} {
		if c.got != c.want {
			t.Errorf("%s has %d bytes, want %d", c.name, c.got, c.want)
		}
	}
}

// TestIomapOffsets pins every field.
func TestIomapOffsets(t *testing.T) {
	for _, c := range []struct {
		name      string
		got, want uintptr
	}{
		{"config_in.flags", unsafe.Offsetof(IomapConfigIn{}.Flags), 0},
		{"config_in.maxbytes", unsafe.Offsetof(IomapConfigIn{}.Maxbytes), 8},
		{"config_in.cache_maxbytes", unsafe.Offsetof(IomapConfigIn{}.CacheMaxbytes), 16},
		{"config_out.flags", unsafe.Offsetof(IomapConfigOut{}.Flags), 0},
		{"config_out.s_id", unsafe.Offsetof(IomapConfigOut{}.SID), 8},
		{"config_out.s_uuid", unsafe.Offsetof(IomapConfigOut{}.UUID), 40},
		{"config_out.s_uuid_len", unsafe.Offsetof(IomapConfigOut{}.UUIDLen), 56},
		{"config_out.s_blocksize", unsafe.Offsetof(IomapConfigOut{}.Blocksize), 60},
		{"config_out.s_max_links", unsafe.Offsetof(IomapConfigOut{}.MaxLinks), 64},
		{"config_out.s_time_gran", unsafe.Offsetof(IomapConfigOut{}.TimeGran), 68},
		{"config_out.s_time_min", unsafe.Offsetof(IomapConfigOut{}.TimeMin), 72},
		{"config_out.s_time_max", unsafe.Offsetof(IomapConfigOut{}.TimeMax), 80},
		{"config_out.s_maxbytes", unsafe.Offsetof(IomapConfigOut{}.Maxbytes), 88},
		{"config_out.cache_maxbytes", unsafe.Offsetof(IomapConfigOut{}.CacheMaxbytes), 96},
		{"io.offset", unsafe.Offsetof(IomapIO{}.Offset), 0},
		{"io.length", unsafe.Offsetof(IomapIO{}.Length), 8},
		{"io.addr", unsafe.Offsetof(IomapIO{}.Addr), 16},
		{"io.type", unsafe.Offsetof(IomapIO{}.Type), 24},
		{"io.flags", unsafe.Offsetof(IomapIO{}.Flags), 26},
		{"io.dev", unsafe.Offsetof(IomapIO{}.Dev), 28},
		{"begin_in.opflags", unsafe.Offsetof(IomapBeginIn{}.Op), 0},
		{"begin_in.attr_ino", unsafe.Offsetof(IomapBeginIn{}.Ino), 8},
		{"begin_in.pos", unsafe.Offsetof(IomapBeginIn{}.Pos), 16},
		{"begin_in.count", unsafe.Offsetof(IomapBeginIn{}.Count), 24},
		{"begin_out.read", unsafe.Offsetof(IomapBeginOut{}.Read), 0},
		{"begin_out.write", unsafe.Offsetof(IomapBeginOut{}.Write), 32},
		{"end_in.opflags", unsafe.Offsetof(IomapEndIn{}.Op), 0},
		{"end_in.attr_ino", unsafe.Offsetof(IomapEndIn{}.Ino), 8},
		{"end_in.pos", unsafe.Offsetof(IomapEndIn{}.Pos), 16},
		{"end_in.count", unsafe.Offsetof(IomapEndIn{}.Count), 24},
		{"end_in.written", unsafe.Offsetof(IomapEndIn{}.Written), 32},
		{"end_in.map", unsafe.Offsetof(IomapEndIn{}.Map), 40},
		{"ioend_in.flags", unsafe.Offsetof(IomapIoendIn{}.Flags), 0},
		{"ioend_in.error", unsafe.Offsetof(IomapIoendIn{}.Error), 4},
		{"ioend_in.attr_ino", unsafe.Offsetof(IomapIoendIn{}.Ino), 8},
		{"ioend_in.pos", unsafe.Offsetof(IomapIoendIn{}.Pos), 16},
		{"ioend_in.new_addr", unsafe.Offsetof(IomapIoendIn{}.NewAddr), 24},
		{"ioend_in.written", unsafe.Offsetof(IomapIoendIn{}.Written), 32},
		{"ioend_in.dev", unsafe.Offsetof(IomapIoendIn{}.Dev), 40},
		{"range.offset", unsafe.Offsetof(IomapRange{}.Offset), 0},
		{"range.length", unsafe.Offsetof(IomapRange{}.Length), 8},
		{"dev_inval.dev", unsafe.Offsetof(IomapDevInval{}.Dev), 0},
		{"dev_inval.range", unsafe.Offsetof(IomapDevInval{}.Range), 8},
		{"inval_mappings.nodeid", unsafe.Offsetof(IomapInvalMappings{}.NodeID), 0},
		{"inval_mappings.attr_ino", unsafe.Offsetof(IomapInvalMappings{}.Ino), 8},
		{"inval_mappings.read", unsafe.Offsetof(IomapInvalMappings{}.Read), 16},
		{"inval_mappings.write", unsafe.Offsetof(IomapInvalMappings{}.Write), 32},
		{"upsert_mappings.nodeid", unsafe.Offsetof(IomapUpsertMappings{}.NodeID), 0},
		{"upsert_mappings.attr_ino", unsafe.Offsetof(IomapUpsertMappings{}.Ino), 8},
		{"upsert_mappings.read", unsafe.Offsetof(IomapUpsertMappings{}.Read), 16},
		{"upsert_mappings.write", unsafe.Offsetof(IomapUpsertMappings{}.Write), 48},
		{"backing_map.fd", unsafe.Offsetof(BackingMap{}.FD), 0},
		{"backing_map.flags", unsafe.Offsetof(BackingMap{}.Flags), 4},
		{"support.flags", unsafe.Offsetof(IomapSupport{}.Flags), 0},
		{"backing_info.backing_id", unsafe.Offsetof(IomapBackingInfo{}.ID), 0},
		{"backing_info.blocksize", unsafe.Offsetof(IomapBackingInfo{}.Blocksize), 4},
		{"freezefs_in.unlinked", unsafe.Offsetof(FreezeFSIn{}.Unlinked), 0},
		{"shutdownfs_in.flags", unsafe.Offsetof(ShutdownFSIn{}.Flags), 0},
		{"statx.mnt_id", statxTail(unsafe.Offsetof(StatxIomap{}.MntID)), 144},
		{"statx.dio_mem_align", statxTail(unsafe.Offsetof(StatxIomap{}.DioMemAlign)), 152},
		{"statx.dio_offset_align", statxTail(unsafe.Offsetof(StatxIomap{}.DioOffsetAlign)), 156},
		{"statx.subvol", statxTail(unsafe.Offsetof(StatxIomap{}.Subvol)), 160},
		{"statx.atomic_write_unit_min", statxTail(unsafe.Offsetof(StatxIomap{}.AtomicWriteUnitMin)), 168},
		{"statx.atomic_write_unit_max", statxTail(unsafe.Offsetof(StatxIomap{}.AtomicWriteUnitMax)), 172},
		{"statx.atomic_write_segments_max", statxTail(unsafe.Offsetof(StatxIomap{}.AtomicWriteSegmentsMax)), 176},
		{"statx.dio_read_offset_align", statxTail(unsafe.Offsetof(StatxIomap{}.DioReadOffsetAlign)), 180},
		{"statx.atomic_write_unit_max_opt", statxTail(unsafe.Offsetof(StatxIomap{}.AtomicWriteUnitMaxOpt)), 184},
	} {
		if c.got != c.want {
			t.Errorf("%s is at %d, want %d", c.name, c.got, c.want)
		}
	}
}

func statxTail(off uintptr) uintptr { return unsafe.Offsetof(Statx{}.StatxIomap) + off }

// TestIomapIoctlNumbers puts the numbers together from what they are made of.
func TestIomapIoctlNumbers(t *testing.T) {
	const none, write, read = 0, 1, 2
	for _, c := range []struct {
		name    string
		got     uint32
		dir, nr uint32
		size    uintptr
	}{
		{"CLONE", devIocClone, read, 0, 4},
		{"BACKING_OPEN", DevIocBackingOpen, write, 1, unsafe.Sizeof(BackingMap{})},
		{"BACKING_CLOSE", DevIocBackingClose, write, 2, 4},
		{"SYNC_INIT", devIocSyncInit, none, 3, 0},
		{"IOMAP_SUPPORT", DevIocIomapSupport, read, 99, unsafe.Sizeof(IomapSupport{})},
		{"SET_NOFS", DevIocSetNofs, write, 100, 4},
		{"ADD_IOMAP", DevIocAddIomap, none, 101, 0},
		{"IOMAP_SET_BLOCKSIZE", DevIocIomapSetBlocksize, write, 102, unsafe.Sizeof(IomapBackingInfo{})},
	} {
		if want := c.dir<<30 | uint32(c.size)<<16 | 229<<8 | c.nr; c.got != want {
			t.Errorf("%s is %#x, want %#x", c.name, c.got, want)
		}
	}
}

// TestIomapNumbers compares every other number with the table of the protocol.
func TestIomapNumbers(t *testing.T) {
	for _, c := range []struct {
		name      string
		got, want uint64
	}{
		{"minor", IomapMinor, 99},
		{"INIT flag", uint64(InitIomap), 1 << 43},
		{"FREEZE_FS", uint64(OpFreezeFS), 4089},
		{"UNFREEZE_FS", uint64(OpUnfreezeFS), 4090},
		{"SHUTDOWN_FS", uint64(OpShutdownFS), 4091},
		{"IOMAP_CONFIG", uint64(OpIomapConfig), 4092},
		{"IOMAP_IOEND", uint64(OpIomapIoend), 4093},
		{"IOMAP_BEGIN", uint64(OpIomapBegin), 4094},
		{"IOMAP_END", uint64(OpIomapEnd), 4095},
		{"NOTIFY_DEV_INVAL", NotifyIomapDevInval, 99},
		{"NOTIFY_UPSERT", NotifyIomapUpsertMappings, 100},
		{"NOTIFY_INVAL", NotifyIomapInvalMappings, 101},
		{"BACKING_TYPE_IOMAP", uint64(BackingIomap), 1},
		{"SUPPORT_FILEIO", IomapSupportFileIO, 1},
		{"SUPPORT_ATOMIC", IomapSupportAtomic, 2},
		{"ATTR_SUBMOUNT", uint64(AttrSubmount), 1 << 0},
		{"ATTR_DAX", uint64(AttrDAX), 1 << 1},
		{"ATTR_EXCLUSIVE", uint64(AttrExclusive), 1 << 2},
		{"ATTR_IOMAP", uint64(AttrIomap), 1 << 3},
		{"ATTR_ATOMIC", uint64(AttrAtomic), 1 << 4},
		{"ATTR_SYNC", uint64(AttrSync), 1 << 5},
		{"ATTR_IMMUTABLE", uint64(AttrImmutable), 1 << 6},
		{"ATTR_APPEND", uint64(AttrAppend), 1 << 7},
		{"HOLE", uint64(iomap.Hole), 0},
		{"DELALLOC", uint64(iomap.Delalloc), 1},
		{"MAPPED", uint64(iomap.Mapped), 2},
		{"UNWRITTEN", uint64(iomap.Unwritten), 3},
		{"INLINE", uint64(iomap.Inline), 4},
		{"NOCACHE", uint64(IomapNoCache), 253},
		{"RETRY_CACHE", uint64(IomapRetryCache), 254},
		{"PURE_OVERWRITE", uint64(IomapPureOverwrite), 255},
		{"F_NEW", uint64(iomap.New), 1 << 0},
		{"F_DIRTY", uint64(iomap.Dirty), 1 << 1},
		{"F_SHARED", uint64(iomap.Shared), 1 << 2},
		{"F_MERGED", uint64(iomap.Merged), 1 << 3},
		{"F_BOUNDARY", uint64(iomap.Boundary), 1 << 4},
		{"F_ANON_WRITE", uint64(iomap.AnonWrite), 1 << 5},
		{"F_ATOMIC_BIO", uint64(iomap.AtomicBIO), 1 << 6},
		{"F_WANT_IOMAP_END", uint64(iomap.WantEnd), 1 << 7},
		{"F_SIZE_CHANGED", uint64(iomap.SizeChanged), 1 << 8},
		{"F_STALE", uint64(iomap.Stale), 1 << 9},
		{"OP_WRITE", uint64(iomap.Write), 1 << 0},
		{"OP_ZERO", uint64(iomap.Zero), 1 << 1},
		{"OP_REPORT", uint64(iomap.Report), 1 << 2},
		{"OP_FAULT", uint64(iomap.Fault), 1 << 3},
		{"OP_DIRECT", uint64(iomap.Direct), 1 << 4},
		{"OP_NOWAIT", uint64(iomap.NoWait), 1 << 5},
		{"OP_OVERWRITE_ONLY", uint64(iomap.OverwriteOnly), 1 << 6},
		{"OP_UNSHARE", uint64(iomap.Unshare), 1 << 7},
		{"OP_DAX", uint64(iomap.DAX), 1 << 8},
		{"OP_ATOMIC", uint64(iomap.Atomic), 1 << 9},
		{"OP_DONTCACHE", uint64(iomap.DontCache), 1 << 10},
		{"OP_SWAPFILE", uint64(iomap.SwapFile), 1 << 30},
		{"OP_WRITEBACK", uint64(iomap.Writeback), 1 << 31},
		{"IOEND_SHARED", uint64(IoendShared), 1 << 0},
		{"IOEND_UNWRITTEN", uint64(IoendUnwritten), 1 << 1},
		{"IOEND_BOUNDARY", uint64(IoendBoundary), 1 << 2},
		{"IOEND_DIRECT", uint64(IoendDirect), 1 << 3},
		{"IOEND_APPEND", uint64(IoendAppend), 1 << 4},
		{"IOEND_WRITEBACK", uint64(IoendWriteback), 1 << 5},
		{"IOEND_SWAPOFF", uint64(IoendSwapoff), 1 << 6},
		{"CONFIG_SID", uint64(IomapConfigSID), 1 << 0},
		{"CONFIG_UUID", uint64(IomapConfigUUID), 1 << 1},
		{"CONFIG_BLOCKSIZE", uint64(IomapConfigBlocksize), 1 << 2},
		{"CONFIG_MAX_LINKS", uint64(IomapConfigMaxLinks), 1 << 3},
		{"CONFIG_TIME", uint64(IomapConfigTime), 1 << 4},
		{"CONFIG_MAXBYTES", uint64(IomapConfigMaxbytes), 1 << 5},
		{"CONFIG_CACHE_MAXBYTES", uint64(IomapConfigCacheMaxbytes), 1 << 6},
		{"DEV_NULL", uint64(IomapDevNull), 0},
		{"NULL_ADDR", IomapNullAddr, 0xFFFFFFFFFFFFFFFF},
		{"INVAL_TO_EOF", IomapInvalToEOF, 0xFFFFFFFFFFFFFFFF},
	} {
		if c.got != c.want {
			t.Errorf("%s is %#x, want %#x", c.name, c.got, c.want)
		}
	}
}

// TestIomapOpcodes: each operation has the name, the request and the reply that the protocol says,
// where the extension is in use; elsewhere its number means nothing.
func TestIomapOpcodes(t *testing.T) {
	with := &Protocol{Params: Params{Iomap: true}}
	for op, want := range map[Opcode]struct {
		name string
		in   int
	}{
		OpFreezeFS: {"FREEZE_FS", 8}, OpUnfreezeFS: {"UNFREEZE_FS", 0}, OpShutdownFS: {"SHUTDOWN_FS", 8},
		OpIomapConfig: {"IOMAP_CONFIG", 64}, OpIomapIoend: {"IOMAP_IOEND", 48},
		OpIomapBegin: {"IOMAP_BEGIN", 32}, OpIomapEnd: {"IOMAP_END", 72},
	} {
		if !op.Known() || !op.HasReply() || op.String() != want.name || op.InSize(with) != want.in {
			t.Errorf("%v: known %v, %d bytes; want %+v", op, op.Known(), op.InSize(with), want)
		}
		if n := op.InSize(&Protocol{}); n != 0 {
			t.Errorf("%v has %d bytes where it means nothing", op, n)
		}
		if opcodeAt(op.index()) != op {
			t.Errorf("%v comes back as %v", op, opcodeAt(op.index()))
		}
		if n := op.InSize(with); n > int(unsafe.Sizeof(Worker{}.in)) {
			t.Errorf("%v does not fit the scratch: %d bytes", op, n)
		}
	}
	if n := unsafe.Sizeof(IomapConfigOut{}); n > unsafe.Sizeof(Worker{}.out) {
		t.Errorf("the largest reply does not fit the scratch: %d bytes", n)
	}
	for _, op := range []Opcode{4088, 4096} {
		if op.Known() || op.index() != 0 {
			t.Errorf("opcode %d is known", op)
		}
	}
}
