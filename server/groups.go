package server

import (
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
// Options.InGroup does, of a process that is in the namespace of the mount.
func (s *Server) inGroup(r *fuse.Request, gid uint32) bool {
	if s.privileged(r) || r.GID == gid && gid != fuse.InvalidID {
		return true
	}
	return r.PID != 0 && s.groups != nil && s.groups(r.PID, gid)
}
