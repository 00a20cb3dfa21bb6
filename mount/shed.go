package mount

import (
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// keeperCapabilities are what a keeper that is root still does: it unmounts, by paths that lead
// through other users' directories, and it ends a server that is another user by now.
const keeperCapabilities = 1<<unix.CAP_SYS_ADMIN | 1<<unix.CAP_DAC_READ_SEARCH | 1<<unix.CAP_KILL

// shed gives up what the keeper does not need once there is a mount. An ordinary user has nothing
// but what fusermount3 gives him, which no_new_privs would take. What cannot be given up, as in
// a program with cgo, is kept: the keeper reads nothing of the image.
func (l *launcher) shed() {
	_ = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
	if os.Geteuid() != 0 || l.mounted.helper {
		return
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var now, want [2]unix.CapUserData
	if unix.Capget(&header, &now[0]) != nil {
		return
	}
	for i, word := range []uint32{keeperCapabilities & (1<<32 - 1), keeperCapabilities >> 32} {
		want[i] = unix.CapUserData{Effective: now[i].Effective & word, Permitted: now[i].Permitted & word}
	}
	_, _, _ = syscall.AllThreadsSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&want)), 0)
	_, _, _ = syscall.AllThreadsSyscall6(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0)
}
