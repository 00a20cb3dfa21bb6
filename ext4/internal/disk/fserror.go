package disk

import (
	"errors"
	"syscall"
)

// Values of Superblock.Errors.
const (
	OnErrorContinue = 1
	OnErrorReadOnly = 2
	OnErrorPanic    = 3
)

// errorCodes are the numbers that stand in the superblock for errors, which are
// ext4's own so that they mean the same on every architecture.
var errorCodes = []struct {
	errno syscall.Errno
	code  uint8
	name  string
}{
	{0, 1, "UNKNOWN"},
	{syscall.EIO, 2, "EIO"},
	{syscall.ENOMEM, 3, "ENOMEM"},
	{syscall.EBADMSG, 4, "EFSBADCRC"},
	{syscall.EUCLEAN, 5, "EFSCORRUPTED"},
	{syscall.ENOSPC, 6, "ENOSPC"},
	{syscall.ENOKEY, 7, "ENOKEY"},
	{syscall.EROFS, 8, "EROFS"},
	{syscall.EFBIG, 9, "EFBIG"},
	{syscall.EEXIST, 10, "EEXIST"},
	{syscall.ERANGE, 11, "ERANGE"},
	{syscall.EOVERFLOW, 12, "EOVERFLOW"},
	{syscall.EBUSY, 13, "EBUSY"},
	{syscall.ENOTDIR, 14, "ENOTDIR"},
	{syscall.ENOTEMPTY, 15, "ENOTEMPTY"},
	{syscall.ESHUTDOWN, 16, "ESHUTDOWN"},
	{syscall.EFAULT, 17, "EFAULT"},
}

// ErrorCode is the number by which the superblock names an error.
func ErrorCode(err error) uint8 {
	var errno syscall.Errno
	errors.As(err, &errno)
	for _, c := range errorCodes {
		if c.errno == errno {
			return c.code
		}
	}
	return errorCodes[0].code
}

// ErrorName is the name of a code in the superblock, as dumpe2fs(8) has it; empty
// where none is recorded.
func ErrorName(code uint8) string {
	for _, c := range errorCodes {
		if c.code == code {
			return c.name
		}
	}
	return ""
}

// FSError is an error that a driver came across, for the superblock.
type FSError struct {
	Time  int64 // seconds
	Ino   uint32
	Block uint64
	Where string // 31 bytes of it are kept
	Code  uint8
}

// RecordError counts an error, keeps it as the last one, and as the first one if
// there was none, and marks the filesystem as one with errors.
func (sb *Superblock) RecordError(e FSError) {
	sb.State |= StateErrors
	if sb.ErrorCount < 1<<32-1 {
		sb.ErrorCount++
	}
	var where [32]byte
	copy(where[:31], e.Where)
	if sb.FirstErrorTime == 0 {
		sb.FirstErrorTime, sb.FirstErrorIno, sb.FirstErrorBlock = e.Time, e.Ino, e.Block
		sb.FirstErrorFunc, sb.FirstErrorLine, sb.FirstErrorCode = where, 0, e.Code
	}
	sb.LastErrorTime, sb.LastErrorIno, sb.LastErrorBlock = e.Time, e.Ino, e.Block
	sb.LastErrorFunc, sb.LastErrorLine, sb.LastErrorCode = where, 0, e.Code
}

// CopyErrors makes sb say of errors what from says. That a filesystem has errors
// is not taken back.
func (sb *Superblock) CopyErrors(from *Superblock) {
	sb.State |= from.State & StateErrors
	sb.ErrorCount = from.ErrorCount
	sb.FirstErrorTime, sb.FirstErrorIno, sb.FirstErrorBlock = from.FirstErrorTime, from.FirstErrorIno, from.FirstErrorBlock
	sb.FirstErrorFunc, sb.FirstErrorLine, sb.FirstErrorCode = from.FirstErrorFunc, from.FirstErrorLine, from.FirstErrorCode
	sb.LastErrorTime, sb.LastErrorIno, sb.LastErrorBlock = from.LastErrorTime, from.LastErrorIno, from.LastErrorBlock
	sb.LastErrorFunc, sb.LastErrorLine, sb.LastErrorCode = from.LastErrorFunc, from.LastErrorLine, from.LastErrorCode
}
