package fuse

// IoctlIn is struct fuse_ioctl_in (32 bytes).
type IoctlIn struct {
	Fh      uint64     // 0x00
	Flags   IoctlFlags // 0x08
	Cmd     uint32     // 0x0C
	Arg     uint64     // 0x10: the caller's argument, an address or a number
	InSize  uint32     // 0x18: bytes of input that come with the request
	OutSize uint32     // 0x1C: bytes of output that the reply may carry
}

// IoctlOut is struct fuse_ioctl_out (16 bytes).
type IoctlOut struct {
	Result  int32      // 0x00: what ioctl(2) returns; negative is an errno
	Flags   IoctlFlags // 0x04: IoctlRetry
	InIovs  uint32     // 0x08
	OutIovs uint32     // 0x0C
}

// IoctlIovec is struct fuse_ioctl_iovec (16 bytes), in replies with IoctlRetry.
type IoctlIovec struct {
	Base uint64 // 0x00
	Len  uint64 // 0x08
}

// PollIn is struct fuse_poll_in (24 bytes).
type PollIn struct {
	Fh     uint64    // 0x00
	Kh     uint64    // 0x08: to be handed to Session.NotifyPollWakeup
	Flags  PollFlags // 0x10
	Events uint32    // 0x14: POLL* asked for
}

// PollOut is struct fuse_poll_out (8 bytes).
type PollOut struct {
	Revents uint32 // 0x00
	_       uint32 // 0x04
}
