package fuse

import (
	"strconv"
	"strings"
)

// InitFlags is the set of features that INIT negotiates: flags in the low and flags2 in the high
// half.
type InitFlags uint64

// Features, in order of their bits, with the minor version that introduced the younger ones.
const (
	InitAsyncRead         InitFlags = 1 << 0  // several readahead requests at once
	InitPosixLocks        InitFlags = 1 << 1  // fcntl locks are sent to the server
	InitFileOps           InitFlags = 1 << 2  // obsolete
	InitAtomicOTrunc      InitFlags = 1 << 3  // OPEN handles O_TRUNC
	InitExportSupport     InitFlags = 1 << 4  // LOOKUP of "." and ".." works on any nodeid
	InitBigWrites         InitFlags = 1 << 5  // writes larger than a page
	InitDontMask          InitFlags = 1 << 6  // the server applies the umask
	InitSpliceWrite       InitFlags = 1 << 7  // splice(2) to the device
	InitSpliceMove        InitFlags = 1 << 8  // splice may move pages
	InitSpliceRead        InitFlags = 1 << 9  // splice(2) from the device
	InitFlockLocks        InitFlags = 1 << 10 // flock locks are sent to the server
	InitHasIoctlDir       InitFlags = 1 << 11 // ioctl on directories
	InitAutoInvalData     InitFlags = 1 << 12 // drop cached pages when mtime or size change
	InitDoReaddirplus     InitFlags = 1 << 13 // READDIRPLUS instead of READDIR
	InitReaddirplusAuto   InitFlags = 1 << 14 // ... only where it seems useful
	InitAsyncDIO          InitFlags = 1 << 15 // direct I/O is sent asynchronously
	InitWritebackCache    InitFlags = 1 << 16 // the kernel owns size and times of regular files
	InitNoOpenSupport     InitFlags = 1 << 17 // ENOSYS to OPEN means no more OPEN
	InitParallelDirops    InitFlags = 1 << 18 // LOOKUP and READDIR in one directory run in parallel
	InitHandleKillpriv    InitFlags = 1 << 19 // the server clears suid, sgid and capabilities
	InitPosixACL          InitFlags = 1 << 20 // the kernel checks ACLs; implies default_permissions
	InitAbortError        InitFlags = 1 << 21 // reads after an abort fail with ECONNABORTED
	InitMaxPages          InitFlags = 1 << 22 // InitOut.MaxPages is valid
	InitCacheSymlinks     InitFlags = 1 << 23 // READLINK replies are cached
	InitNoOpendirSupport  InitFlags = 1 << 24 // ENOSYS to OPENDIR means no more OPENDIR
	InitExplicitInvalData InitFlags = 1 << 25 // drop cached pages only when told; AutoInvalData wins
	InitMapAlignment      InitFlags = 1 << 26 // InitOut.MapAlignment is valid (DAX)
	InitSubmounts         InitFlags = 1 << 27 // AttrSubmount is understood
	InitHandleKillprivV2  InitFlags = 1 << 28 // the server clears suid and sgid only when told
	InitSetxattrExt       InitFlags = 1 << 29 // SetxattrIn has 16 bytes (7.33)
	InitExt               InitFlags = 1 << 30 // flags2 is valid (7.36)
	initReserved          InitFlags = 1 << 31 // must never be used
	InitSecurityCtx       InitFlags = 1 << 32 // security contexts come with new inodes (7.36)
	InitHasInodeDAX       InitFlags = 1 << 33 // DAX per inode (7.36)
	InitCreateSuppGroup   InitFlags = 1 << 34 // a supplementary group comes with new inodes (7.38)
	InitHasExpireOnly     InitFlags = 1 << 35 // NotifyExpireEntry works (7.38)
	InitDirectIOAllowMmap InitFlags = 1 << 36 // shared mmap of files opened with OpenDirectIO (7.39)
	InitPassthrough       InitFlags = 1 << 37 // OpenPassthrough works (7.40)
	InitNoExportSupport   InitFlags = 1 << 38 // no file handles (7.40)
	InitHasResend         InitFlags = 1 << 39 // NotifyResend works (7.40)
	InitAllowIdmap        InitFlags = 1 << 40 // idmapped mounts; needs default_permissions (7.41)
	InitOverIOUring       InitFlags = 1 << 41 // requests come by io_uring (7.42)
	InitRequestTimeout    InitFlags = 1 << 42 // InitOut.RequestTimeout is valid (7.43)
)

// initBit43 means three different things in three trees: io_uring buffer pools in 7.46 (to be looked
// at, not answered), iomap in 7.99, and syncfs in a draft. Whoever echoes it blindly may opt in to
// something he does not speak.
const initBit43 InitFlags = 1 << 43

// InitIOUringBufpool says that io_uring buffer pools are there, when offered by minor 46 to 98. It is
// never part of an answer.
const InitIOUringBufpool = initBit43

var initFlagNames = [...]string{
	"ASYNC_READ", "POSIX_LOCKS", "FILE_OPS", "ATOMIC_O_TRUNC", "EXPORT_SUPPORT", "BIG_WRITES", "DONT_MASK",
	"SPLICE_WRITE", "SPLICE_MOVE", "SPLICE_READ", "FLOCK_LOCKS", "HAS_IOCTL_DIR", "AUTO_INVAL_DATA",
	"DO_READDIRPLUS", "READDIRPLUS_AUTO", "ASYNC_DIO", "WRITEBACK_CACHE", "NO_OPEN_SUPPORT", "PARALLEL_DIROPS",
	"HANDLE_KILLPRIV", "POSIX_ACL", "ABORT_ERROR", "MAX_PAGES", "CACHE_SYMLINKS", "NO_OPENDIR_SUPPORT",
	"EXPLICIT_INVAL_DATA", "MAP_ALIGNMENT", "SUBMOUNTS", "HANDLE_KILLPRIV_V2", "SETXATTR_EXT", "INIT_EXT",
	"RESERVED", "SECURITY_CTX", "HAS_INODE_DAX", "CREATE_SUPP_GROUP", "HAS_EXPIRE_ONLY", "DIRECT_IO_ALLOW_MMAP",
	"PASSTHROUGH", "NO_EXPORT_SUPPORT", "HAS_RESEND", "ALLOW_IDMAP", "OVER_IO_URING", "REQUEST_TIMEOUT",
}

// String names the flags as <linux/fuse.h> does, joined by "|".
func (f InitFlags) String() string {
	if f == 0 {
		return "0"
	}
	var b strings.Builder
	for bit := range 64 {
		if f&(1<<bit) == 0 {
			continue
		}
		if b.Len() > 0 {
			b.WriteByte('|')
		}
		if bit < len(initFlagNames) {
			b.WriteString(initFlagNames[bit])
		} else {
			b.WriteString("BIT_" + strconv.Itoa(bit))
		}
	}
	return b.String()
}
