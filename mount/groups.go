package mount

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strconv"
)

// inGroup tells whether a process, by its number here, is a member of a group as one of those
// that requests do not tell. Where /proc does not show the process it is in none. If owner is not
// nil the mount is for that user alone, and nothing is told of the processes of others: the server
// may be asking about those that never came near it.
func inGroup(pid, gid uint32, owner *uint32) bool {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	return err == nil && answer(status, gid, owner)
}

// answer looks into the text of /proc/PID/status.
func answer(status []byte, gid uint32, owner *uint32) bool {
	if owner != nil {
		// As the kernel does: all of real, effective, saved user.
		uids := numbers(status, "Uid")
		if len(uids) == 0 || slices.ContainsFunc(uids, func(uid uint32) bool { return uid != *owner }) {
			return false
		}
	}
	return slices.Contains(numbers(status, "Groups"), gid)
}

// numbers are those of one line.
func numbers(status []byte, key string) (all []uint32) {
	_, line, _ := bytes.Cut(status, []byte("\n"+key+":"))
	line, _, _ = bytes.Cut(line, []byte("\n"))
	for _, field := range bytes.Fields(line) {
		if n, err := strconv.ParseUint(string(field), 10, 32); err == nil {
			all = append(all, uint32(n))
		}
	}
	return all
}
