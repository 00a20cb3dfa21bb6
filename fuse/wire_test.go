package fuse

import (
	"testing"
	"unsafe"
)

// TestWireSizes compares every structure with the byte count of its C counterpart.
func TestWireSizes(t *testing.T) {
	for _, c := range []struct {
		name string
		got  uintptr
		want uintptr
	}{
		{"fuse_in_header", unsafe.Sizeof(InHeader{}), 40},
		{"fuse_out_header", unsafe.Sizeof(OutHeader{}), 16},
		{"fuse_init_in", unsafe.Sizeof(InitIn{}), 64},
		{"fuse_init_out", unsafe.Sizeof(InitOut{}), 64},
		{"fuse_attr", unsafe.Sizeof(Attr{}), 88},
		{"fuse_entry_out", unsafe.Sizeof(EntryOut{}), 128},
		{"fuse_getattr_in", unsafe.Sizeof(GetattrIn{}), 16},
		{"fuse_attr_out", unsafe.Sizeof(AttrOut{}), 104},
		{"fuse_setattr_in", unsafe.Sizeof(SetattrIn{}), 88},
		{"fuse_sx_time", unsafe.Sizeof(SxTime{}), 16},
		{"fuse_statx_in", unsafe.Sizeof(StatxIn{}), 24},
		{"fuse_statx", unsafe.Sizeof(Statx{}), 256},
		{"fuse_statx_out", unsafe.Sizeof(StatxOut{}), 288},
		{"fuse_statfs_out", unsafe.Sizeof(StatfsOut{}), 80},
		{"fuse_forget_in", unsafe.Sizeof(ForgetIn{}), 8},
		{"fuse_forget_one", unsafe.Sizeof(ForgetOne{}), 16},
		{"fuse_batch_forget_in", unsafe.Sizeof(BatchForgetIn{}), 8},
		{"fuse_mknod_in", unsafe.Sizeof(MknodIn{}), 16},
		{"fuse_mkdir_in", unsafe.Sizeof(MkdirIn{}), 8},
		{"fuse_rename_in", unsafe.Sizeof(renameIn{}), 8},
		{"fuse_rename2_in", unsafe.Sizeof(RenameIn{}), 16},
		{"fuse_link_in", unsafe.Sizeof(LinkIn{}), 8},
		{"fuse_create_in", unsafe.Sizeof(CreateIn{}), 16},
		{"fuse_open_in", unsafe.Sizeof(OpenIn{}), 8},
		{"fuse_open_out", unsafe.Sizeof(OpenOut{}), 16},
		{"fuse_release_in", unsafe.Sizeof(ReleaseIn{}), 24},
		{"fuse_flush_in", unsafe.Sizeof(FlushIn{}), 24},
		{"fuse_read_in", unsafe.Sizeof(ReadIn{}), 40},
		{"fuse_write_in", unsafe.Sizeof(WriteIn{}), 40},
		{"fuse_write_out", unsafe.Sizeof(writeOut{}), 8},
		{"fuse_fsync_in", unsafe.Sizeof(FsyncIn{}), 16},
		{"fuse_access_in", unsafe.Sizeof(AccessIn{}), 8},
		{"fuse_bmap_in", unsafe.Sizeof(BmapIn{}), 16},
		{"fuse_bmap_out", unsafe.Sizeof(BmapOut{}), 8},
		{"fuse_fallocate_in", unsafe.Sizeof(FallocateIn{}), 32},
		{"fuse_lseek_in", unsafe.Sizeof(LseekIn{}), 24},
		{"fuse_lseek_out", unsafe.Sizeof(LseekOut{}), 8},
		{"fuse_copy_file_range_in", unsafe.Sizeof(CopyFileRangeIn{}), 56},
		{"fuse_copy_file_range_out", unsafe.Sizeof(copyFileRangeOut{}), 8},
		{"fuse_syncfs_in", unsafe.Sizeof(syncfsIn{}), 8},
		{"fuse_file_lock", unsafe.Sizeof(FileLock{}), 24},
		{"fuse_lk_in", unsafe.Sizeof(LkIn{}), 48},
		{"fuse_lk_out", unsafe.Sizeof(LkOut{}), 24},
		{"fuse_setxattr_in", unsafe.Sizeof(SetxattrIn{}), 16},
		{"fuse_getxattr_in", unsafe.Sizeof(getxattrIn{}), 8},
		{"fuse_getxattr_out", unsafe.Sizeof(getxattrOut{}), 8},
		{"fuse_dirent", unsafe.Sizeof(direntHeader{}), 24},
		{"fuse_direntplus", unsafe.Sizeof(direntPlusHeader{}), 152},
		{"fuse_ioctl_in", unsafe.Sizeof(IoctlIn{}), 32},
		{"fuse_ioctl_out", unsafe.Sizeof(IoctlOut{}), 16},
		{"fuse_ioctl_iovec", unsafe.Sizeof(IoctlIovec{}), 16},
		{"fuse_poll_in", unsafe.Sizeof(PollIn{}), 24},
		{"fuse_poll_out", unsafe.Sizeof(PollOut{}), 8},
		{"fuse_setupmapping_in", unsafe.Sizeof(SetupmappingIn{}), 40},
		{"fuse_removemapping_in", unsafe.Sizeof(removemappingIn{}), 4},
		{"fuse_removemapping_one", unsafe.Sizeof(RemovemappingOne{}), 16},
		{"fuse_interrupt_in", unsafe.Sizeof(interruptIn{}), 8},
		{"fuse_notify_retrieve_in", unsafe.Sizeof(NotifyRetrieveIn{}), 40},
		{"fuse_notify_poll_wakeup_out", unsafe.Sizeof(notifyPollWakeupOut{}), 8},
		{"fuse_notify_inval_inode_out", unsafe.Sizeof(notifyInvalInodeOut{}), 24},
		{"fuse_notify_inval_entry_out", unsafe.Sizeof(notifyInvalEntryOut{}), 16},
		{"fuse_notify_delete_out", unsafe.Sizeof(notifyDeleteOut{}), 24},
		{"fuse_notify_store_out", unsafe.Sizeof(notifyStoreOut{}), 24},
		{"fuse_notify_retrieve_out", unsafe.Sizeof(notifyRetrieveOut{}), 32},
		{"fuse_notify_prune_out", unsafe.Sizeof(notifyPruneOut{}), 16},
		{"fuse_ext_header", unsafe.Sizeof(extHeader{}), 8},
		{"fuse_secctx", unsafe.Sizeof(secctx{}), 8},
	} {
		if c.got != c.want {
			t.Errorf("%s has %d bytes, want %d", c.name, c.got, c.want)
		}
	}
}

// TestWireOffsets pins fields that a size alone would not.
func TestWireOffsets(t *testing.T) {
	for _, c := range []struct {
		name string
		got  uintptr
		want uintptr
	}{
		{"in_header.nodeid", unsafe.Offsetof(InHeader{}.NodeID), 16},
		{"in_header.total_extlen", unsafe.Offsetof(InHeader{}.TotalExtLen), 36},
		{"init_in.flags2", unsafe.Offsetof(InitIn{}.Flags2), 16},
		{"init_out.max_write", unsafe.Offsetof(InitOut{}.MaxWrite), 20},
		{"init_out.max_pages", unsafe.Offsetof(InitOut{}.MaxPages), 28},
		{"init_out.flags2", unsafe.Offsetof(InitOut{}.Flags2), 32},
		{"init_out.max_stack_depth", unsafe.Offsetof(InitOut{}.MaxStackDepth), 36},
		{"init_out.request_timeout", unsafe.Offsetof(InitOut{}.RequestTimeout), 40},
		{"attr.mode", unsafe.Offsetof(Attr{}.Mode), 60},
		{"attr.flags", unsafe.Offsetof(Attr{}.Flags), 84},
		{"entry_out.attr", unsafe.Offsetof(EntryOut{}.Attr), 40},
		{"attr_out.attr", unsafe.Offsetof(AttrOut{}.Attr), 16},
		{"setattr_in.mode", unsafe.Offsetof(SetattrIn{}.Mode), 68},
		{"setattr_in.uid", unsafe.Offsetof(SetattrIn{}.UID), 76},
		{"statx.ino", unsafe.Offsetof(Statx{}.Ino), 32},
		{"statx.atime", unsafe.Offsetof(Statx{}.Atime), 64},
		{"statx.btime", unsafe.Offsetof(Statx{}.Btime), 80},
		{"statx.dev_minor", unsafe.Offsetof(Statx{}.DevMinor), 140},
		{"statfs.namelen", unsafe.Offsetof(StatfsOut{}.Namelen), 44},
		{"read_in.size", unsafe.Offsetof(ReadIn{}.Size), 16},
		{"write_in.lock_owner", unsafe.Offsetof(WriteIn{}.LockOwner), 24},
		{"lk_in.lk_flags", unsafe.Offsetof(LkIn{}.Flags), 40},
		{"ioctl_in.out_size", unsafe.Offsetof(IoctlIn{}.OutSize), 28},
		{"notify_retrieve_in.size", unsafe.Offsetof(NotifyRetrieveIn{}.Size), 16},
	} {
		if c.got != c.want {
			t.Errorf("%s is at %d, want %d", c.name, c.got, c.want)
		}
	}
}

// TestRequestHeadIsThatOfWrite: the buffer layout relies on it, and so do the notifications, whose
// structure has the size of fuse_write_in for the same reason in the kernel.
func TestRequestHeadIsThatOfWrite(t *testing.T) {
	if requestHead != 80 {
		t.Errorf("requestHead = %d, want 80", requestHead)
	}
	if a, b := unsafe.Sizeof(NotifyRetrieveIn{}), unsafe.Sizeof(WriteIn{}); a != b {
		t.Errorf("NotifyRetrieveIn has %d bytes, WriteIn %d", a, b)
	}
}

func TestOpcodeTable(t *testing.T) {
	// 7 and 19 were never used.
	for op := Opcode(1); op <= 53; op++ {
		if want := op != 7 && op != 19; op.Known() != want {
			t.Errorf("opcode %d known: %v, want %v", op, op.Known(), want)
		}
	}
	for _, op := range []Opcode{0, 7, 19, 54, 4088, 4096, 1 << 31} {
		if op.Known() {
			t.Errorf("opcode %d is known", op)
		}
		if !op.HasReply() {
			t.Errorf("opcode %d would get no answer", op)
		}
	}
	for op := range Opcode(60) {
		none := op == OpForget || op == OpBatchForget || op == OpNotifyReply
		if op.HasReply() == none {
			t.Errorf("%v has a reply: %v", op, op.HasReply())
		}
		if n := op.InSize(&Protocol{}); n > int(unsafe.Sizeof(Worker{}.in)) {
			t.Errorf("%v does not fit the scratch: %d bytes", op, n)
		}
	}
	if got := OpSetxattr.InSize(&Protocol{}); got != 8 {
		t.Errorf("SETXATTR has %d bytes without the extension, want 8", got)
	}
	ext := &Protocol{Params: Params{Flags: InitSetxattrExt}}
	if got := OpSetxattr.InSize(ext); got != 16 {
		t.Errorf("SETXATTR has %d bytes with the extension, want 16", got)
	}
}

func TestDeviceNumbers(t *testing.T) {
	for _, c := range []struct{ major, minor, dev uint32 }{
		{0, 0, 0}, {8, 1, 0x801}, {259, 5, 0x10305}, {10, 229, 0xAE5}, {1, 0x12345, 0x12300145}, {0xFFF, 0xFFFFF, 0xFFFFFFFF},
	} {
		if got := EncodeDev(c.major, c.minor); got != c.dev {
			t.Errorf("EncodeDev(%d, %d) = %#x, want %#x", c.major, c.minor, got, c.dev)
		}
		if ma, mi := DecodeDev(c.dev); ma != c.major || mi != c.minor {
			t.Errorf("DecodeDev(%#x) = %d, %d, want %d, %d", c.dev, ma, mi, c.major, c.minor)
		}
	}
}

func TestInitFlagNames(t *testing.T) {
	for f, want := range map[InitFlags]string{
		0:                               "0",
		InitAsyncRead:                   "ASYNC_READ",
		InitWritebackCache | InitExt:    "WRITEBACK_CACHE|INIT_EXT",
		InitRequestTimeout | 1<<43:      "REQUEST_TIMEOUT|BIT_43",
		InitSecurityCtx | InitPosixACL:  "POSIX_ACL|SECURITY_CTX",
		InitOverIOUring | InitHasResend: "HAS_RESEND|OVER_IO_URING",
	} {
		if got := f.String(); got != want {
			t.Errorf("%#x is %q, want %q", uint64(f), got, want)
		}
	}
}
