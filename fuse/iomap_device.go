package fuse

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// ErrNoIomap is what ProbeIomap and AddIomap return, with the errno ENOTTY, for a kernel that has no
// fuse-iomap.
var ErrNoIomap = fmt.Errorf("the kernel has no fuse-iomap: %w", syscall.ENOTTY)

// ProbeIomap asks what fuse-iomap a kernel has (IomapSupportFileIO, IomapSupportAtomic). f is any
// descriptor of DevicePath, mounted or not. No flags and no error is a kernel that has it but does not
// allow it here: it is switched off, or the caller lacks CAP_SYS_RAWIO and nobody called AddIomap.
func ProbeIomap(f *os.File) (flags uint64, err error) {
	var support IomapSupport
	if err := controlFile(f, "ask for fuse-iomap", DevIocIomapSupport, raw(&support)); err != nil {
		return 0, err
	}
	return support.Flags, nil
}

// AddIomap lets the connection that f, a descriptor of DevicePath that is not mounted yet, is going to
// be use fuse-iomap though whoever mounts it lacks CAP_SYS_RAWIO. The caller has it: EPERM says that
// not, or that the extension is switched off.
func AddIomap(f *os.File) error {
	return controlFile(f, "allow fuse-iomap", DevIocAddIomap, nil)
}

// controlFile issues an ioctl on a descriptor of DevicePath.
func controlFile(f *os.File, what string, cmd uint32, arg []byte) error {
	_, err := NewDevice(f, DeviceOptions{}).Control(cmd, arg)
	if errors.Is(err, syscall.ENOTTY) {
		err = ErrNoIomap
	}
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}
