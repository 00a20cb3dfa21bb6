package sandbox

import (
	"errors"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// errNoLandlock is what a kernel without Landlock says.
var errNoLandlock = errors.New("the kernel does not have it, or not switched on; use Linux 5.13 or newer with landlock in its parameter lsm=")

const (
	landlockErrata       = 2      // LANDLOCK_CREATE_RULESET_ERRATA
	landlockSignalsFixed = 1 << 1 // of those: threads of one process may signal each other
	landlockScopeSignal  = 1 << 1
)

// landlock takes every right away that the kernel's Landlock knows, on files, on the network
// and in its scopes, from all threads. There are no exceptions. What the kernel knows is found
// out by asking, so that what comes later is taken too.
func landlock() error {
	abi, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 {
		return errNoLandlock
	}
	attr := unix.LandlockRulesetAttr{
		Handled_access_fs:  landlockKnown(func(a *unix.LandlockRulesetAttr, bits uint64) { a.Handled_access_fs = bits }),
		Handled_access_net: landlockKnown(func(a *unix.LandlockRulesetAttr, bits uint64) { a.Handled_access_net = bits }),
		Scoped:             landlockKnown(func(a *unix.LandlockRulesetAttr, bits uint64) { a.Scoped = bits }),
	}
	// Threads that enter one by one have domains of their own, and the first kernels with this
	// scope would keep the Go runtime from interrupting them.
	oneDomain := abi >= 8
	if !oneDomain {
		errata, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, landlockErrata)
		if errno != 0 || errata&landlockSignalsFixed == 0 {
			attr.Scoped &^= landlockScopeSignal
		}
	}
	fd, errno := landlockRuleset(&attr)
	if errno != 0 {
		return os.NewSyscallError("landlock_create_ruleset", errno)
	}
	defer func() { _ = unix.Close(fd) }()
	if oneDomain {
		_, _, errno = unix.Syscall(unix.SYS_LANDLOCK_RESTRICT_SELF, uintptr(fd), unix.LANDLOCK_RESTRICT_SELF_TSYNC, 0)
		if errno != 0 {
			return os.NewSyscallError("landlock_restrict_self", errno)
		}
		return nil
	}
	return os.NewSyscallError("landlock_restrict_self", allThreads(unix.SYS_LANDLOCK_RESTRICT_SELF, uintptr(fd)))
}

// landlockKnown returns the bits of a field that the kernel takes. They have no gaps.
func landlockKnown(set func(a *unix.LandlockRulesetAttr, bits uint64)) (known uint64) {
	for bit := uint64(1); bit != 0; bit <<= 1 {
		var a unix.LandlockRulesetAttr
		set(&a, bit)
		fd, errno := landlockRuleset(&a)
		if errno != 0 {
			break
		}
		_ = unix.Close(fd)
		known |= bit
	}
	return known
}

// landlockRuleset makes a ruleset. A kernel that knows less of the structure wants the rest to be 0.
func landlockRuleset(a *unix.LandlockRulesetAttr) (int, unix.Errno) {
	fd, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(a)), unsafe.Sizeof(*a), 0)
	return int(fd), errno
}
