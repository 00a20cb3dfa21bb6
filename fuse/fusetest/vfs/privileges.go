package vfs

import (
	"encoding/binary"
	"syscall"

	"ext4box/fuse"
)

// dropSGID says whether chown(2) and writing take set-group-id away.
func (t *Task) dropSGID(in *inode) uint32 {
	a := in.attributes()
	if a.Mode&syscall.S_ISGID != 0 && (a.Mode&syscall.S_IXGRP != 0 || !t.inGroupOrCapable(a.GID)) {
		return attrKillSGID
	}
	return 0
}

// privileges says what a file loses when the task changes its content, and asks the server for
// capabilities if the kernel does not know that there are none.
func (t *Task) privileges(in *inode) (kill uint32, _ syscall.Errno) {
	in.mu.Lock()
	nosec := in.nosec
	in.mu.Unlock()
	if nosec {
		return 0, 0
	}
	if in.attributes().Mode&syscall.S_ISUID != 0 {
		kill = attrKillSUID
	}
	kill |= t.dropSGID(in)
	if t.privileged() || !in.regular() {
		kill = 0
	}
	const capability = "security.capability"
	value, errno := in.getxattr(t.caller(), capability, 0)
	switch {
	case errno == 0 && len(value) >= 4 && binary.NativeEndian.Uint32(value) > 0:
		kill |= attrKillPriv
	case errno == 0 || errno == syscall.ENODATA || errno == syscall.EOPNOTSUPP:
	default:
		return 0, errno
	}
	return kill, 0
}

// removePrivileges is what writing to a file, which is locked exclusively, does before anything else. The
// server does it where it has promised to.
func (t *Task) removePrivileges(in *inode) syscall.Errno {
	kill, errno := t.privileges(in)
	if errno != 0 {
		return errno
	}
	if kill != 0 {
		if errno := t.notifyChange(in, &iattr{valid: kill | attrForce}); errno != 0 {
			return errno
		}
	}
	const set = syscall.S_ISUID | syscall.S_ISGID
	if t.fs.flags&fuse.InitHandleKillprivV2 != 0 && in.attributes().Mode&set == 0 {
		in.mu.Lock()
		defer in.mu.Unlock()
		in.nosec = true
	}
	return 0
}
