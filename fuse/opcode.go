package fuse

import (
	"strconv"
	"unsafe"
)

// Opcode says what a request asks for.
type Opcode uint32

// The operations of the protocol up to 7.46.
const (
	OpLookup          Opcode = 1
	OpForget          Opcode = 2 // no reply
	OpGetattr         Opcode = 3
	OpSetattr         Opcode = 4
	OpReadlink        Opcode = 5
	OpSymlink         Opcode = 6
	OpMknod           Opcode = 8
	OpMkdir           Opcode = 9
	OpUnlink          Opcode = 10
	OpRmdir           Opcode = 11
	OpRename          Opcode = 12
	OpLink            Opcode = 13
	OpOpen            Opcode = 14
	OpRead            Opcode = 15
	OpWrite           Opcode = 16
	OpStatfs          Opcode = 17
	OpRelease         Opcode = 18
	OpFsync           Opcode = 20
	OpSetxattr        Opcode = 21
	OpGetxattr        Opcode = 22
	OpListxattr       Opcode = 23
	OpRemovexattr     Opcode = 24
	OpFlush           Opcode = 25
	OpInit            Opcode = 26
	OpOpendir         Opcode = 27
	OpReaddir         Opcode = 28
	OpReleasedir      Opcode = 29
	OpFsyncdir        Opcode = 30
	OpGetlk           Opcode = 31
	OpSetlk           Opcode = 32
	OpSetlkw          Opcode = 33
	OpAccess          Opcode = 34
	OpCreate          Opcode = 35
	OpInterrupt       Opcode = 36 // a reply only to say "ask again"
	OpBmap            Opcode = 37
	OpDestroy         Opcode = 38
	OpIoctl           Opcode = 39
	OpPoll            Opcode = 40
	OpNotifyReply     Opcode = 41 // no reply
	OpBatchForget     Opcode = 42 // no reply
	OpFallocate       Opcode = 43
	OpReaddirplus     Opcode = 44
	OpRename2         Opcode = 45
	OpLseek           Opcode = 46
	OpCopyFileRange   Opcode = 47
	OpSetupmapping    Opcode = 48
	OpRemovemapping   Opcode = 49
	OpSyncfs          Opcode = 50
	OpTmpfile         Opcode = 51
	OpStatx           Opcode = 52 // 7.39
	OpCopyFileRange64 Opcode = 53 // 7.45
)

// The opcodes of the protocol proper end at lastOpcode; those of fuse-iomap are far behind.
const (
	lastOpcode    = OpCopyFileRange64
	firstIomapOp  = OpFreezeFS
	lastIomapOp   = OpIomapEnd
	iomapOpsIndex = int(lastOpcode) + 1 // of the first of them in opTable
	opCount       = iomapOpsIndex + int(lastIomapOp-firstIomapOp) + 1
)

// index is the place of an opcode in tables of opCount entries, 0 for those that do not exist.
func (op Opcode) index() int {
	switch {
	case op <= lastOpcode:
		return int(op)
	case op >= firstIomapOp && op <= lastIomapOp:
		return iomapOpsIndex + int(op-firstIomapOp)
	}
	return 0
}

// opcodeAt is the inverse of index.
func opcodeAt(i int) Opcode {
	if i < iomapOpsIndex {
		return Opcode(i)
	}
	return firstIomapOp + Opcode(i-iomapOpsIndex)
}

// opInfo describes the shape of a request.
type opInfo struct {
	name    string
	in      uintptr // size of the fixed structure that follows the header
	exact   bool    // nothing may follow the fixed structure
	noReply bool    // the kernel does not expect an answer
}

// opTable is indexed by Opcode.index; an empty name is an opcode that does not exist.
var opTable = [opCount]opInfo{
	OpLookup:          {name: "LOOKUP"},
	OpForget:          {name: "FORGET", in: unsafe.Sizeof(ForgetIn{}), exact: true, noReply: true},
	OpGetattr:         {name: "GETATTR", in: unsafe.Sizeof(GetattrIn{}), exact: true},
	OpSetattr:         {name: "SETATTR", in: unsafe.Sizeof(SetattrIn{}), exact: true},
	OpReadlink:        {name: "READLINK", exact: true},
	OpSymlink:         {name: "SYMLINK"},
	OpMknod:           {name: "MKNOD", in: unsafe.Sizeof(MknodIn{})},
	OpMkdir:           {name: "MKDIR", in: unsafe.Sizeof(MkdirIn{})},
	OpUnlink:          {name: "UNLINK"},
	OpRmdir:           {name: "RMDIR"},
	OpRename:          {name: "RENAME", in: unsafe.Sizeof(renameIn{})},
	OpLink:            {name: "LINK", in: unsafe.Sizeof(LinkIn{})},
	OpOpen:            {name: "OPEN", in: unsafe.Sizeof(OpenIn{}), exact: true},
	OpRead:            {name: "READ", in: unsafe.Sizeof(ReadIn{}), exact: true},
	OpWrite:           {name: "WRITE", in: unsafe.Sizeof(WriteIn{})},
	OpStatfs:          {name: "STATFS", exact: true},
	OpRelease:         {name: "RELEASE", in: unsafe.Sizeof(ReleaseIn{}), exact: true},
	OpFsync:           {name: "FSYNC", in: unsafe.Sizeof(FsyncIn{}), exact: true},
	OpSetxattr:        {name: "SETXATTR", in: unsafe.Sizeof(SetxattrIn{})},
	OpGetxattr:        {name: "GETXATTR", in: unsafe.Sizeof(getxattrIn{})},
	OpListxattr:       {name: "LISTXATTR", in: unsafe.Sizeof(getxattrIn{}), exact: true},
	OpRemovexattr:     {name: "REMOVEXATTR"},
	OpFlush:           {name: "FLUSH", in: unsafe.Sizeof(FlushIn{}), exact: true},
	OpInit:            {name: "INIT", in: initInCompatSize},
	OpOpendir:         {name: "OPENDIR", in: unsafe.Sizeof(OpenIn{}), exact: true},
	OpReaddir:         {name: "READDIR", in: unsafe.Sizeof(ReadIn{}), exact: true},
	OpReleasedir:      {name: "RELEASEDIR", in: unsafe.Sizeof(ReleaseIn{}), exact: true},
	OpFsyncdir:        {name: "FSYNCDIR", in: unsafe.Sizeof(FsyncIn{}), exact: true},
	OpGetlk:           {name: "GETLK", in: unsafe.Sizeof(LkIn{}), exact: true},
	OpSetlk:           {name: "SETLK", in: unsafe.Sizeof(LkIn{}), exact: true},
	OpSetlkw:          {name: "SETLKW", in: unsafe.Sizeof(LkIn{}), exact: true},
	OpAccess:          {name: "ACCESS", in: unsafe.Sizeof(AccessIn{}), exact: true},
	OpCreate:          {name: "CREATE", in: unsafe.Sizeof(CreateIn{})},
	OpInterrupt:       {name: "INTERRUPT", in: unsafe.Sizeof(interruptIn{}), exact: true},
	OpBmap:            {name: "BMAP", in: unsafe.Sizeof(BmapIn{}), exact: true},
	OpDestroy:         {name: "DESTROY", exact: true},
	OpIoctl:           {name: "IOCTL", in: unsafe.Sizeof(IoctlIn{})},
	OpPoll:            {name: "POLL", in: unsafe.Sizeof(PollIn{}), exact: true},
	OpNotifyReply:     {name: "NOTIFY_REPLY", in: unsafe.Sizeof(NotifyRetrieveIn{}), noReply: true},
	OpBatchForget:     {name: "BATCH_FORGET", in: unsafe.Sizeof(BatchForgetIn{}), noReply: true},
	OpFallocate:       {name: "FALLOCATE", in: unsafe.Sizeof(FallocateIn{}), exact: true},
	OpReaddirplus:     {name: "READDIRPLUS", in: unsafe.Sizeof(ReadIn{}), exact: true},
	OpRename2:         {name: "RENAME2", in: unsafe.Sizeof(RenameIn{})},
	OpLseek:           {name: "LSEEK", in: unsafe.Sizeof(LseekIn{}), exact: true},
	OpCopyFileRange:   {name: "COPY_FILE_RANGE", in: unsafe.Sizeof(CopyFileRangeIn{}), exact: true},
	OpSetupmapping:    {name: "SETUPMAPPING", in: unsafe.Sizeof(SetupmappingIn{}), exact: true},
	OpRemovemapping:   {name: "REMOVEMAPPING", in: unsafe.Sizeof(removemappingIn{})},
	OpSyncfs:          {name: "SYNCFS", in: unsafe.Sizeof(syncfsIn{}), exact: true},
	OpTmpfile:         {name: "TMPFILE", in: unsafe.Sizeof(CreateIn{})},
	OpStatx:           {name: "STATX", in: unsafe.Sizeof(StatxIn{}), exact: true},
	OpCopyFileRange64: {name: "COPY_FILE_RANGE_64", in: unsafe.Sizeof(CopyFileRangeIn{}), exact: true},

	iomapOpsIndex + int(OpFreezeFS-firstIomapOp):    {name: "FREEZE_FS", in: unsafe.Sizeof(FreezeFSIn{}), exact: true},
	iomapOpsIndex + int(OpUnfreezeFS-firstIomapOp):  {name: "UNFREEZE_FS", exact: true},
	iomapOpsIndex + int(OpShutdownFS-firstIomapOp):  {name: "SHUTDOWN_FS", in: unsafe.Sizeof(ShutdownFSIn{}), exact: true},
	iomapOpsIndex + int(OpIomapConfig-firstIomapOp): {name: "IOMAP_CONFIG", in: unsafe.Sizeof(IomapConfigIn{}), exact: true},
	iomapOpsIndex + int(OpIomapIoend-firstIomapOp):  {name: "IOMAP_IOEND", in: unsafe.Sizeof(IomapIoendIn{}), exact: true},
	iomapOpsIndex + int(OpIomapBegin-firstIomapOp):  {name: "IOMAP_BEGIN", in: unsafe.Sizeof(IomapBeginIn{}), exact: true},
	iomapOpsIndex + int(OpIomapEnd-firstIomapOp):    {name: "IOMAP_END", in: unsafe.Sizeof(IomapEndIn{}), exact: true},
}

// Known reports whether the protocol has this operation.
func (op Opcode) Known() bool { return opTable[op.index()].name != "" }

// spoken reports whether the opcode means under the terms of p what it is known for. Those of
// fuse-iomap are beyond all others and may one day be something else where it is not in use.
func (op Opcode) spoken(p *Protocol) bool { return op.index() < iomapOpsIndex || p.Iomap }

// HasReply reports whether the kernel waits for an answer. It does for opcodes that this package
// does not know: they are answered with ENOSYS.
func (op Opcode) HasReply() bool { return !opTable[op.index()].noReply }

// InSize returns the size of the fixed structure that follows the header of a request under the
// terms of p, 0 if it has none.
func (op Opcode) InSize(p *Protocol) int {
	if op == OpSetxattr && !p.Has(InitSetxattrExt) {
		return setxattrCompatSize
	}
	if !op.spoken(p) {
		return 0
	}
	return int(opTable[op.index()].in)
}

// String names the operation as <linux/fuse.h> does.
func (op Opcode) String() string {
	if op.Known() {
		return opTable[op.index()].name
	}
	return "OPCODE_" + strconv.FormatUint(uint64(op), 10)
}
