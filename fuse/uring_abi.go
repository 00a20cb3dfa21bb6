package fuse

import "unsafe"

// This file has the numbers and structures of FUSE over io_uring (7.42), and what there is to say of
// io_uring itself for that.

// The commands of IORING_OP_URING_CMD on the device.
const (
	ringRegister = 1 // an entry is there, with its two buffers
	ringCommit   = 2 // the answer to its request is, and it waits for the next one
)

// ringEntryHead is what precedes the payload of an entry: struct fuse_uring_req_header. The head of a request
// is replaced by that of its reply.
type ringEntryHead struct {
	InOut       [128]byte
	OpIn        [128]byte // the fixed structure of a request, if it has one; else what was there before
	Flags       uint64
	CommitID    uint64
	PayloadSize uint32
	Padding     uint32
	Reserved    uint64
}

// ringSQE is an entry of the submission queue of a ring with IORING_SETUP_SQE128, as it is for
// IORING_OP_URING_CMD, with struct fuse_uring_cmd_req in it.
type ringSQE struct {
	Opcode   uint8
	Flags    uint8
	Ioprio   uint16
	FD       int32 // number of the registered file
	CmdOp    uint32
	Pad      uint32
	Addr     uint64 // ringRegister: of two iovecs
	Len      uint32 // ringRegister: their number
	CmdFlags uint32
	UserData uint64
	_        [8]byte
	ReqFlags uint64
	CommitID uint64
	QID      uint16
	_        [6]byte
	_        [56]byte
}

// ringCQE is an entry of the completion queue.
type ringCQE struct {
	UserData uint64
	Res      int32
	Flags    uint32
}

// ringParams is struct io_uring_params.
type ringParams struct {
	SQEntries, CQEntries, Flags, SQThreadCPU, SQThreadIdle, Features, WqFD uint32
	_                                                                      [3]uint32

	SQHead, SQTail, SQMask, SQRingEntries, SQFlags, SQDropped, SQArray, _ uint32
	_                                                                     uint64

	CQHead, CQTail, CQMask, CQRingEntries, CQOverflow, CQEs, CQFlags, _ uint32
	_                                                                   uint64
}

// ringIovec is struct iovec.
type ringIovec struct{ Base, Len uint64 }

// ringWait is struct io_uring_getevents_arg.
type ringWait struct {
	Sigmask   uint64
	SigmaskSz uint32
	MinWait   uint32
	Timeout   uint64 // the address of two int64
}

// ringRestriction is struct io_uring_restriction.
type ringRestriction struct {
	Opcode uint16
	Arg    uint8
	_      uint8
	_      [3]uint32
}

const (
	setupDisabled     = 1 << 6  // IORING_SETUP_R_DISABLED
	setupSubmitAll    = 1 << 7  // IORING_SETUP_SUBMIT_ALL
	setupTaskrunFlag  = 1 << 9  // IORING_SETUP_TASKRUN_FLAG
	setupSQE128       = 1 << 10 // IORING_SETUP_SQE128
	setupSingleIssuer = 1 << 12 // IORING_SETUP_SINGLE_ISSUER
	setupDeferTaskrun = 1 << 13 // IORING_SETUP_DEFER_TASKRUN
	sqTaskrun         = 1 << 2  // IORING_SQ_TASKRUN
	setupNoSQArray    = 1 << 16 // IORING_SETUP_NO_SQARRAY

	enterGetevents = 1 << 0 // IORING_ENTER_GETEVENTS
	enterExtArg    = 1 << 3 // IORING_ENTER_EXT_ARG

	ringOffQueues = 0          // IORING_OFF_SQ_RING: both queues
	ringOffSQEs   = 0x10000000 // IORING_OFF_SQES

	registerFiles        = 2  // IORING_REGISTER_FILES
	registerRestrictions = 11 // IORING_REGISTER_RESTRICTIONS
	registerEnable       = 12 // IORING_REGISTER_ENABLE_RINGS

	restrictRegisterOp    = 0 // IORING_RESTRICTION_REGISTER_OP
	restrictSQEOp         = 1 // IORING_RESTRICTION_SQE_OP
	restrictFlagsAllowed  = 2 // IORING_RESTRICTION_SQE_FLAGS_ALLOWED
	restrictFlagsRequired = 3 // IORING_RESTRICTION_SQE_FLAGS_REQUIRED

	opUringCmd   = 46 // IORING_OP_URING_CMD
	sqeFixedFile = 1  // IOSQE_FIXED_FILE
)

const (
	ringHeadSize = int(unsafe.Sizeof(ringEntryHead{}))
	ringSQESize  = int(unsafe.Sizeof(ringSQE{}))
	ringCQESize  = int(unsafe.Sizeof(ringCQE{}))
)
