package disk

import "strconv"

// InodeName names an inode in errors.
func InodeName(ino uint32) string { return "inode " + strconv.FormatUint(uint64(ino), 10) }

// BlockName names a device block in errors.
func BlockName(blk uint64) string { return "block " + strconv.FormatUint(blk, 10) }

func groupCorruptf(group uint32, format string, args ...any) error {
	return Corruptf("group "+strconv.FormatUint(uint64(group), 10)+" descriptor", format, args...)
}
