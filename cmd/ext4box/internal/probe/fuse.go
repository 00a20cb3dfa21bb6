package probe

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"ext4box/mount"
)

func devFuse() Check {
	const name = "dev-fuse"
	c := devFuseAnswer(name)
	c.Needed = true
	return c
}

func devFuseAnswer(name string) Check {
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	switch {
	case err == nil:
		unix.Close(fd)
		return yes(name, "/dev/fuse can be opened by this user")
	case errors.Is(err, unix.ENOENT):
		return no(name, "there is no /dev/fuse",
			"modprobe fuse; for a container: --device /dev/fuse")
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return no(name, "/dev/fuse is not open to this user",
			"chmod 666 /dev/fuse as root, or run as root")
	default:
		return no(name, fmt.Sprintf("/dev/fuse: %v", err), "modprobe fuse")
	}
}

func fusermount() Check {
	const name = "fusermount3"
	path, err := mount.Fusermount()
	if err != nil {
		return no(name, "fusermount3 is not installed; only root can mount", "apt-get install fuse3")
	}
	version := ""
	if out, err := exec.Command(path, "-V").CombinedOutput(); err == nil {
		version = lastField(string(out))
	}
	st, err := os.Stat(path)
	if err == nil && st.Mode()&os.ModeSetuid == 0 {
		return no(name, fmt.Sprintf("%s %s is not set-user-ID root; only root can mount", path, version),
			"apt-get install --reinstall fuse3")
	}
	return yes(name, strings.TrimSpace(path+" "+version))
}

func lastField(s string) string {
	if f := strings.Fields(s); len(f) > 0 {
		return f[len(f)-1]
	}
	return ""
}

func allowOther() Check {
	const name = "allow-other"
	if os.Geteuid() == 0 {
		return yes(name, "root may use the option allow_other")
	}
	text, _ := os.ReadFile("/etc/fuse.conf")
	for line := range strings.Lines(string(text)) {
		if strings.TrimSpace(line) == "user_allow_other" {
			return yes(name, "/etc/fuse.conf has user_allow_other")
		}
	}
	return no(name, "/etc/fuse.conf does not have user_allow_other",
		"only if others shall see a user's mounts: add the line user_allow_other to /etc/fuse.conf")
}

// service looks for the socket of the system service.
func service() Check {
	const name = "service"
	st, err := os.Stat(mount.ServiceSocket)
	if err == nil && st.Mode().Type() == os.ModeSocket {
		return yes(name, mount.ServiceSocket+" is there, for 'ext4box mount --service'")
	}
	return no(name, "there is no socket "+mount.ServiceSocket,
		"only for mounts by a system service: systemctl enable --now ext4box.socket")
}

// Flags of FUSE_INIT that the kernel offers.
const (
	flagPassthrough = 1 << 37
	flagOverUring   = 1 << 41
)

// kernelFUSE is the kernel's half of the INIT negotiation.
type kernelFUSE struct {
	Major, Minor uint32
	Flags        uint64
	Err          string // why it could not be asked
}

// askFUSE asks the kernel, itself or through a child in a user namespace.
func askFUSE(child []string) kernelFUSE {
	k, err := readInit()
	if errors.Is(err, unix.EPERM) && child != nil {
		k, err = askChild(child)
	}
	if err != nil {
		return kernelFUSE{Err: err.Error()}
	}
	return k
}

// readInit makes a FUSE mount that is attached nowhere and reads the first
// request on it, which is INIT. Closing the descriptors takes all of it away.
func readInit() (kernelFUSE, error) {
	var k kernelFUSE
	dev, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return k, fmt.Errorf("open /dev/fuse: %w", err)
	}
	defer unix.Close(dev)
	fs, err := unix.Fsopen("fuse", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return k, fmt.Errorf("fsopen: %w", err)
	}
	defer unix.Close(fs)
	for _, p := range [][2]string{
		{"source", "ext4box-doctor"}, {"fd", fmt.Sprint(dev)}, {"rootmode", "40000"},
		{"user_id", fmt.Sprint(os.Geteuid())}, {"group_id", fmt.Sprint(os.Getegid())},
	} {
		if err := unix.FsconfigSetString(fs, p[0], p[1]); err != nil {
			return k, fmt.Errorf("fsconfig %s: %w", p[0], err)
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return k, fmt.Errorf("fsconfig: %w", err)
	}
	mnt, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV)
	if err != nil {
		return k, fmt.Errorf("fsmount: %w", err)
	}
	defer unix.Close(mnt)
	buf := make([]byte, 64<<10)
	n, err := unix.Read(dev, buf)
	if err != nil {
		return k, fmt.Errorf("read INIT: %w", err)
	}
	return decodeInit(buf[:n])
}

// decodeInit reads the INIT request of <linux/fuse.h>: a header of 40 bytes, then
// major, minor, max_readahead, flags and flags2.
func decodeInit(b []byte) (kernelFUSE, error) {
	const header, opInit = 40, 26
	if len(b) < header+16 || binary.NativeEndian.Uint32(b[4:]) != opInit {
		return kernelFUSE{}, errors.New("the kernel's first request is not INIT")
	}
	body := b[header:]
	k := kernelFUSE{
		Major: binary.NativeEndian.Uint32(body[0:]),
		Minor: binary.NativeEndian.Uint32(body[4:]),
		Flags: uint64(binary.NativeEndian.Uint32(body[12:])),
	}
	const flagInitExt = 1 << 30
	if k.Flags&flagInitExt != 0 && len(body) >= 20 {
		k.Flags |= uint64(binary.NativeEndian.Uint32(body[16:])) << 32
	}
	return k, nil
}

// askChild has a child in a new user and mount namespace call readInit, in which
// any user may.
func askChild(child []string) (kernelFUSE, error) {
	var k kernelFUSE
	out, err := inNamespace(child)
	if err != nil {
		return k, fmt.Errorf("in a user namespace: %w", err)
	}
	if err := json.Unmarshal(out, &k); err != nil {
		return k, err
	}
	if k.Err != "" {
		return k, errors.New(k.Err)
	}
	return k, nil
}

// Child is what the process started by [Options.Child] does: it writes what
// readInit found, for its parent.
func Child(w io.Writer) error {
	k, err := readInit()
	if err != nil {
		k.Err = err.Error()
	}
	return json.NewEncoder(w).Encode(k)
}

// inNamespace runs this binary as root of new user and mount namespaces.
func inNamespace(args []string) ([]byte, error) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = args
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}},
	}
	out, err := cmd.Output()
	if failed, ok := errors.AsType[*os.PathError](err); ok {
		err = failed.Err // that of clone(2), not the program's
	}
	return out, err
}

func (k kernelFUSE) version() Check {
	const name = "fuse-protocol"
	if k.Err != "" {
		return Check{Name: name, Answer: Unknown, Detail: k.Err,
			Advice: "run as root, or with user namespaces and access to /dev/fuse"}
	}
	v := fmt.Sprintf("the kernel speaks %d.%d; ext4box needs 7.31 and knows up to 7.46, and 7.99 for fuse-iomap", k.Major, k.Minor)
	if k.Major != 7 || k.Minor < 31 {
		return no(name, v, "use Linux 5.4 or newer")
	}
	return yes(name, v)
}

func (k kernelFUSE) feature(name string, flag uint64, since, advice string) Check {
	switch {
	case k.Err != "":
		return Check{Name: name, Answer: Unknown, Detail: "the kernel could not be asked"}
	case k.Flags&flag != 0:
		return yes(name, "offered by the kernel")
	default:
		return no(name, "not offered by the kernel: needs "+since, advice)
	}
}

// mountLimits tells whether mounts can be given more than the kernel gives a server at first.
func mountLimits() Check {
	const name = "mount-limits"
	if err := mount.MayLoosen(); err != nil {
		return no(name, fmt.Sprintf("how far the kernel reads ahead and how much it keeps to be written cannot be set: %v", err),
			"mount as root, with /sys, for faster streams")
	}
	return yes(name, "reading ahead and dirty pages can be set")
}

func (k kernelFUSE) overUring() Check {
	const name = "fuse-io-uring"
	if why, advice := mount.AskUring(); why != "" {
		return no(name, why+"; requests come by /dev/fuse", advice)
	}
	value, err := os.ReadFile(mount.UringParameter)
	if err == nil && strings.TrimSpace(string(value)) != "Y" {
		return yes(name, "switched off, but mounts switch it on for themselves: requests come by io_uring")
	}
	return k.feature(name, flagOverUring, "Linux 6.14", "")
}
