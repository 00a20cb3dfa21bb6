package server

import (
	"bytes"
	"fmt"
	"os"
	"strconv"

	"ext4box/ext4"
	"ext4box/fuse"
)

// killPriv takes away what a file loses when r writes to it; see
// [ext4.FS.KillPriv].
func (s *Server) killPriv(r *fuse.Request, ino ext4.Ino, bits bool) error {
	return s.fs.KillPriv(ino, bits, func(gid uint32) bool { return s.inGroup(r, s.owners.shownGID(gid)) })
}

// inGroup tells whether who sent the request is a member of a group, or root, for
// whom that makes no difference. Requests do not tell the supplementary groups;
// /proc does, where it can be seen and the process is in our namespace. Else only
// the first group counts.
func (s *Server) inGroup(r *fuse.Request, gid uint32) bool {
	if s.privileged(r) || r.GID == gid && gid != fuse.InvalidID {
		return true
	}
	if r.PID == 0 {
		return false
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", r.PID))
	if err != nil {
		return false
	}
	const key = "\nGroups:"
	_, line, _ := bytes.Cut(status, []byte(key))
	line, _, _ = bytes.Cut(line, []byte("\n"))
	for _, field := range bytes.Fields(line) {
		if n, err := strconv.ParseUint(string(field), 10, 32); err == nil && uint32(n) == gid {
			return true
		}
	}
	return false
}
