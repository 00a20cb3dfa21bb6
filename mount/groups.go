package mount

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
)

// inGroup tells whether a process, by its number here, is a member of a group as one of those
// that requests do not tell. Where /proc does not show the process it is in none.
func inGroup(pid, gid uint32) bool {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	return err == nil && listsGroup(status, gid)
}

// listsGroup looks into the text of /proc/PID/status.
func listsGroup(status []byte, gid uint32) bool {
	_, line, _ := bytes.Cut(status, []byte("\nGroups:"))
	line, _, _ = bytes.Cut(line, []byte("\n"))
	for _, field := range bytes.Fields(line) {
		if n, err := strconv.ParseUint(string(field), 10, 32); err == nil && uint32(n) == gid {
			return true
		}
	}
	return false
}
