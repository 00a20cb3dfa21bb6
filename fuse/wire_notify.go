package fuse

// interruptIn is struct fuse_interrupt_in (8 bytes).
type interruptIn struct {
	Unique uint64 // 0x00: of the request to interrupt
}

// NotifyRetrieveIn is struct fuse_notify_retrieve_in (40 bytes, as long as WriteIn), the head of a
// NOTIFY_REPLY.
type NotifyRetrieveIn struct {
	_      uint64 // 0x00
	Offset uint64 // 0x08: where in the file the data begins
	Size   uint32 // 0x10: bytes of data
	_      uint32 // 0x14
	_      uint64 // 0x18
	_      uint64 // 0x20
}

// notifyPollWakeupOut is struct fuse_notify_poll_wakeup_out (8 bytes).
type notifyPollWakeupOut struct {
	Kh uint64 // 0x00
}

// notifyInvalInodeOut is struct fuse_notify_inval_inode_out (24 bytes).
type notifyInvalInodeOut struct {
	NodeID uint64 // 0x00
	Off    int64  // 0x08
	Len    int64  // 0x10
}

// notifyInvalEntryOut is struct fuse_notify_inval_entry_out (16 bytes); the name and a NUL follow.
type notifyInvalEntryOut struct {
	Parent  uint64 // 0x00
	Namelen uint32 // 0x08: without the NUL
	Flags   uint32 // 0x0C: invalEntryExpireOnly
}

// notifyDeleteOut is struct fuse_notify_delete_out (24 bytes); the name and a NUL follow.
type notifyDeleteOut struct {
	Parent  uint64 // 0x00
	Child   uint64 // 0x08
	Namelen uint32 // 0x10: without the NUL
	_       uint32 // 0x14
}

// notifyStoreOut is struct fuse_notify_store_out (24 bytes); the data follows.
type notifyStoreOut struct {
	NodeID uint64 // 0x00
	Offset uint64 // 0x08
	Size   uint32 // 0x10
	_      uint32 // 0x14
}

// notifyRetrieveOut is struct fuse_notify_retrieve_out (32 bytes).
type notifyRetrieveOut struct {
	NotifyUnique uint64 // 0x00
	NodeID       uint64 // 0x08
	Offset       uint64 // 0x10
	Size         uint32 // 0x18
	_            uint32 // 0x1C
}

// notifyPruneOut is struct fuse_notify_prune_out (16 bytes); Count nodeids follow.
type notifyPruneOut struct {
	Count uint32 // 0x00
	_     uint32 // 0x04
	_     uint64 // 0x08
}
