package sandbox

import (
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The securebits: being root gives no capabilities, not even over exec, and nothing of that
// can be changed. From <linux/securebits.h>.
const (
	secNoRoot              = 1 << 0
	secNoRootLocked        = 1 << 1
	secNoFixupLocked       = 1 << 3
	secKeepCapsLocked      = 1 << 5
	secNoAmbient           = 1 << 6
	secNoAmbientLocked     = 1 << 7
	lockedSecurebits       = secNoRoot | secNoRootLocked | secNoFixupLocked | secKeepCapsLocked | secNoAmbient | secNoAmbientLocked
	noCapability       int = -1
)

// narrow empties the bounding set and locks the securebits, which takes CAP_SETPCAP.
func narrow() error {
	for c := uintptr(0); ; c++ {
		if err := prctl(unix.PR_CAPBSET_DROP, c); errors.Is(err, unix.EINVAL) {
			break // the kernel has no more
		} else if err != nil {
			return fmt.Errorf("drop capability %d from the bounding set: %w", c, err)
		}
	}
	if err := prctl(unix.PR_SET_SECUREBITS, lockedSecurebits); err != nil {
		return fmt.Errorf("lock the securebits: %w", err)
	}
	return nil
}

// dropCapabilities takes the process's own ones away.
func dropCapabilities() error {
	// EINVAL: a kernel without ambient ones.
	if err := prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL); err != nil && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("drop the ambient capabilities: %w", err)
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	var pin runtime.Pinner // other threads read them
	pin.Pin(&header)
	pin.Pin(&data)
	defer pin.Unpin()
	if err := allThreads(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&data))); err != nil {
		return fmt.Errorf("capset: %w", err)
	}
	return nil
}

// hasCapabilities says which capability the process still could have, or noCapability.
func hasCapabilities() (int, error) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return noCapability, fmt.Errorf("capget: %w", err)
	}
	for c := range 64 {
		d := data[c/32]
		if (d.Effective|d.Permitted|d.Inheritable)>>(c%32)&1 != 0 {
			return c, nil
		}
	}
	return noCapability, nil
}
