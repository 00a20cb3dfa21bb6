package fuse

// AttrFlags are the flags of Attr. The kernel looks at them when it first sees the inode.
type AttrFlags uint32

// Flags of Attr.
const (
	AttrSubmount AttrFlags = 1 << 0 // the root of a submount
	AttrDAX      AttrFlags = 1 << 1 // DAX on
)

// GetattrFlags are the flags of GETATTR and STATX.
type GetattrFlags uint32

// GetattrFh: Fh is valid.
const GetattrFh GetattrFlags = 1 << 0

// SetattrValid says which fields of SetattrIn count.
type SetattrValid uint32

// Bits of SetattrValid.
const (
	SetattrMode        SetattrValid = 1 << 0
	SetattrUID         SetattrValid = 1 << 1
	SetattrGID         SetattrValid = 1 << 2
	SetattrSize        SetattrValid = 1 << 3
	SetattrAtime       SetattrValid = 1 << 4
	SetattrMtime       SetattrValid = 1 << 5
	SetattrFh          SetattrValid = 1 << 6 // Fh is valid
	SetattrAtimeNow    SetattrValid = 1 << 7 // Atime is to be the time of now
	SetattrMtimeNow    SetattrValid = 1 << 8
	SetattrLockOwner   SetattrValid = 1 << 9 // LockOwner is valid
	SetattrCtime       SetattrValid = 1 << 10
	SetattrKillSuidgid SetattrValid = 1 << 11 // clear suid and sgid (InitHandleKillprivV2)
)

// OpenInFlags are the flags of OPEN, OPENDIR, CREATE and TMPFILE beside O_*.
type OpenInFlags uint32

// OpenKillSuidgid: clear suid and sgid when truncating (InitHandleKillprivV2).
const OpenKillSuidgid OpenInFlags = 1 << 0

// OpenFlags are the flags of OpenOut (FOPEN_*).
type OpenFlags uint32

// Flags of OpenOut.
const (
	OpenDirectIO             OpenFlags = 1 << 0 // bypass the page cache
	OpenKeepCache            OpenFlags = 1 << 1 // do not drop cached pages
	OpenNonseekable          OpenFlags = 1 << 2
	OpenCacheDir             OpenFlags = 1 << 3 // cache the entries of the directory
	OpenStream               OpenFlags = 1 << 4 // no file position
	OpenNoflush              OpenFlags = 1 << 5 // no FLUSH on close
	OpenParallelDirectWrites OpenFlags = 1 << 6 // with OpenDirectIO
	OpenPassthrough          OpenFlags = 1 << 7 // data goes to OpenOut.BackingID (7.40)
	OpenIOUringZeroCopy      OpenFlags = 1 << 8 // 7.46
)

// ReleaseFlags are the flags of RELEASE.
type ReleaseFlags uint32

// Flags of RELEASE.
const (
	ReleaseFlush       ReleaseFlags = 1 << 0
	ReleaseFlockUnlock ReleaseFlags = 1 << 1 // drop the flock locks of LockOwner
)

// ReadFlags are the flags of READ.
type ReadFlags uint32

// ReadLockOwner: LockOwner is valid.
const ReadLockOwner ReadFlags = 1 << 1

// WriteFlags are the flags of WRITE.
type WriteFlags uint32

// Flags of WRITE.
const (
	WriteCache       WriteFlags = 1 << 0 // written back from the page cache; Fh is a guess
	WriteLockOwner   WriteFlags = 1 << 1 // LockOwner is valid
	WriteKillSuidgid WriteFlags = 1 << 2 // clear suid and sgid (InitHandleKillprivV2)
)

// FsyncFlags are the flags of FSYNC and FSYNCDIR.
type FsyncFlags uint32

// FsyncDatasync: only what is needed to read the data back.
const FsyncDatasync FsyncFlags = 1 << 0

// LkFlags are the flags of GETLK, SETLK and SETLKW.
type LkFlags uint32

// LkFlock: flock(2), not fcntl(2).
const LkFlock LkFlags = 1 << 0

// SetxattrFlags are the flags of SETXATTR beside XATTR_*.
type SetxattrFlags uint32

// SetxattrACLKillSgid: clear sgid while storing system.posix_acl_access.
const SetxattrACLKillSgid SetxattrFlags = 1 << 0

// IoctlFlags are the flags of IOCTL.
type IoctlFlags uint32

// Flags of IOCTL.
const (
	IoctlCompat       IoctlFlags = 1 << 0 // 32-bit caller on a 64-bit machine
	IoctlUnrestricted IoctlFlags = 1 << 1 // CUSE only
	IoctlRetry        IoctlFlags = 1 << 2 // in the reply: again, with these iovecs
	Ioctl32bit        IoctlFlags = 1 << 3
	IoctlDir          IoctlFlags = 1 << 4 // on a directory
	IoctlCompatX32    IoctlFlags = 1 << 5 // x32 caller, 64-bit time_t
)

// IoctlMaxIov is the largest number of iovecs, both ways together, in a reply with IoctlRetry.
const IoctlMaxIov = 256

// PollFlags are the flags of POLL.
type PollFlags uint32

// PollScheduleNotify: send a NotifyPollWakeup when the state changes.
const PollScheduleNotify PollFlags = 1 << 0
