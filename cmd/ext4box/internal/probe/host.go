package probe

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"ext4box/mount"
	"ext4box/sandbox"
)

// ioUring asks for io_uring itself, without which FUSE cannot use it.
func ioUring() Check {
	const name = "io-uring"
	params := make([]byte, 120) // struct io_uring_params
	fd, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, 1, uintptr(unsafe.Pointer(&params[0])), 0)
	switch {
	case errno == 0:
		unix.Close(int(fd))
		return yes(name, "io_uring can be set up by this user")
	case errno == unix.ENOSYS:
		return no(name, "the kernel has no io_uring", "")
	case errno == unix.EPERM:
		const knob = "/proc/sys/kernel/io_uring_disabled"
		if v, err := os.ReadFile(knob); err == nil && strings.TrimSpace(string(v)) != "0" {
			return no(name, "switched off by kernel.io_uring_disabled", "sysctl kernel.io_uring_disabled=0")
		}
		return no(name, "forbidden, probably by a container's seccomp filter", "allow io_uring in the container's profile")
	default:
		return no(name, fmt.Sprintf("io_uring_setup: %v", errno), "")
	}
}

func userNamespaces(child []string) Check {
	const name = "user-namespaces"
	if child == nil {
		return Check{Name: name, Answer: Unknown, Detail: "not tried"}
	}
	if _, err := inNamespace(child); err != nil {
		return no(name, fmt.Sprintf("this user cannot make one: %v", sandbox.Explain("user", err)), "")
	}
	return yes(name, "this user can make one")
}

func landlock() Check {
	const name, versionFlag = "landlock", 1
	abi, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, versionFlag)
	switch {
	case errno == 0:
		return yes(name, fmt.Sprintf("ABI %d", abi))
	case errno == unix.EOPNOTSUPP:
		return no(name, "built in but not switched on", "add landlock to the kernel parameter lsm=")
	default:
		return no(name, "the kernel does not have it: needs Linux 5.13", "")
	}
}

func seccomp() Check {
	const name, getActionAvail = "seccomp", 2
	action := uint32(unix.SECCOMP_RET_KILL_PROCESS)
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, getActionAvail, 0, uintptr(unsafe.Pointer(&action)))
	if errno != 0 {
		return no(name, fmt.Sprintf("no filters that end a process: %v", errno), "use a kernel with CONFIG_SECCOMP_FILTER")
	}
	return yes(name, "filters that end a process")
}

// procMounted is what the processes of a mount are started from.
func procMounted() Check {
	const name = "proc"
	if err := mount.NeedProc(); err != nil {
		c := no(name, "there is no /proc", "mount -t proc proc /proc")
		c.Needed = true
		return c
	}
	return yes(name, "/proc is mounted")
}

const loopControl = "/dev/loop-control"

// loopUse is what ext4box needs loop devices for.
const loopUse = "needed only with fuse-iomap, and for blkdev=on"

// loopDevices are what the kernel needs for an image file, its own ext4 as well as
// fuse-iomap.
func loopDevices() Check {
	const name, path = "loop-devices", loopControl
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	switch {
	case err == nil:
		unix.Close(fd)
		return yes(name, path+" can be opened by this user ("+loopUse+")")
	case errors.Is(err, unix.ENOENT):
		return no(name, "there is no "+path+" ("+loopUse+")", "")
	default:
		return no(name, fmt.Sprintf("%s: %v (%s)", path, err, loopUse), "")
	}
}

// directIO tries to open a file with O_DIRECT.
func directIO(o Options) Check {
	const name = "direct-io"
	path, where := o.File, o.File
	if path == "" {
		f, err := os.CreateTemp(o.Dir, ".ext4box-doctor-")
		if err != nil {
			return Check{Name: name, Answer: Unknown, Detail: err.Error(),
				Advice: "give an image: ext4box doctor IMAGE"}
		}
		f.Close()
		defer os.Remove(f.Name())
		path, where = f.Name(), "files in "+o.Dir
	}
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECT|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	switch {
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EOPNOTSUPP):
		return no(name, where+" can be read through the page cache only", "keep images on ext4, XFS, Btrfs or a block device, for higher speed")
	case err != nil:
		return Check{Name: name, Answer: Unknown, Detail: fmt.Sprintf("%s: %v", path, err)}
	}
	defer unix.Close(fd)
	var st unix.Statx_t
	err = unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_DIOALIGN, &st)
	if err == nil && st.Mask&unix.STATX_DIOALIGN != 0 && st.Dio_offset_align != 0 {
		return yes(name, fmt.Sprintf("%s, in units of %d bytes", where, st.Dio_offset_align))
	}
	return yes(name, where)
}
