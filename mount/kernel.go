package mount

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// mountKernel attaches the connection behind dev, an open /dev/fuse, to the
// directory that the O_PATH descriptor dir refers to. It needs CAP_SYS_ADMIN over
// the mount namespace. block says that source is a device, to be held by the kernel.
//
// The interface of fsopen(2) is tried first because it tells what it does not
// like; a kernel or a seccomp filter without it gets mount(2).
func mountKernel(dev, dir *os.File, source string, o *Options, block bool) error {
	err := fsopenMount(dev, dir, source, o, block)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EOPNOTSUPP),
		errors.Is(err, unix.EINVAL), errors.Is(err, unix.EPERM):
		old := legacyMount(dev, dir, source, o, block)
		if old == nil {
			return nil
		}
		if _, told := errors.AsType[*contextError](err); !told {
			return old
		}
	}
	return err
}

// contextError is a failure of the new mount interface for which the kernel gave
// a reason.
type contextError struct {
	step string
	log  string
	err  error
}

func (e *contextError) Error() string { return fmt.Sprintf("%s: %s (%v)", e.step, e.log, e.err) }
func (e *contextError) Unwrap() error { return e.err }

func fsopenMount(dev, dir *os.File, source string, o *Options, block bool) error {
	c, err := configure(dev, source, o, block)
	if err != nil {
		return err
	}
	defer c.close()
	return c.attach(dir, o.Flags)
}

// fsContext is a mount that the kernel has been told everything of and that is not made
// yet.
type fsContext struct{ fd int }

// configure tells the kernel what to mount. Nobody is asked, and nothing mounted.
func configure(dev *os.File, source string, o *Options, block bool) (*fsContext, error) {
	typ := "fuse"
	if block {
		typ = "fuseblk"
	}
	fd, err := unix.Fsopen(typ, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("fsopen: %w", err)
	}
	c := &fsContext{fd}
	for _, p := range fuseParams(dev, source, o, block) {
		if err := c.set(p); err != nil {
			c.close()
			return nil, err
		}
	}
	return c, nil
}

// set sets an option. The context stays good when the kernel does not take it.
func (c *fsContext) set(p param) error {
	var err error
	if p.value == "" {
		err = unix.FsconfigSetFlag(c.fd, p.name)
	} else {
		err = unix.FsconfigSetString(c.fd, p.name, p.value)
	}
	return c.explain("mount option "+p.name, err)
}

// attach makes the mount, and puts it on the directory.
func (c *fsContext) attach(dir *os.File, flags uintptr) error {
	if err := unix.FsconfigCreate(c.fd); err != nil {
		return c.explain("create the mount", err)
	}
	mnt, err := unix.Fsmount(c.fd, unix.FSMOUNT_CLOEXEC, mountAttrs(flags))
	if err != nil {
		return c.explain("fsmount", err)
	}
	defer unix.Close(mnt)
	err = unix.MoveMount(mnt, "", int(dir.Fd()), "",
		unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
	return c.explain("attach the mount", err)
}

// explain adds what the kernel has to say about an error.
func (c *fsContext) explain(step string, err error) error {
	if err == nil {
		return nil
	}
	if log := readLog(c.fd); log != "" {
		return &contextError{step, log, err}
	}
	return fmt.Errorf("%s: %w", step, err)
}

func (c *fsContext) close() { unix.Close(c.fd) }

type param struct{ name, value string }

// fuseParams is what fsconfig(2) is told. Paths go through it as they are, commas
// and all.
func fuseParams(dev *os.File, source string, o *Options, block bool) []param {
	p := append([]param{{"source", source}, {"subtype", Subtype}}, fuseOptions(dev, o, block)...)
	for _, f := range superFlags {
		if o.Flags&f.bit != 0 {
			p = append(p, param{name: f.name})
		}
	}
	return p
}

// fuseOptions are the options of the kernel's FUSE itself.
func fuseOptions(dev *os.File, o *Options, block bool) []param {
	p := []param{
		{"fd", fmt.Sprint(dev.Fd())},
		{"rootmode", fmt.Sprintf("%o", unix.S_IFDIR)},
		{"user_id", fmt.Sprint(os.Geteuid())},
		{"group_id", fmt.Sprint(os.Getegid())},
	}
	return append(p, o.kernelParams(block)...)
}

// KernelOptions are the options of the kernel's FUSE that whoever serves decides on, as a list.
func (o *Options) KernelOptions(block bool) string {
	var list []string
	for _, p := range o.kernelParams(block) {
		if p.value != "" {
			p.name += "=" + p.value
		}
		list = append(list, p.name)
	}
	return strings.Join(list, ",")
}

func (o *Options) kernelParams(block bool) (p []param) {
	if !o.Owners.Fakeroot {
		p = append(p, param{"default_permissions", ""})
	}
	if block {
		p = append(p, param{"blksize", fmt.Sprint(blockSize)})
	}
	if o.AllowOther {
		p = append(p, param{"allow_other", ""})
	}
	if o.MaxRead != 0 {
		p = append(p, param{"max_read", fmt.Sprint(o.MaxRead)})
	}
	return p
}

// superFlags are the generic flags that belong to the superblock; the others
// belong to the place in the tree.
var superFlags = []struct {
	bit  uintptr
	name string
}{
	{unix.MS_RDONLY, "ro"},
	{unix.MS_SYNCHRONOUS, "sync"},
	{unix.MS_DIRSYNC, "dirsync"},
	{unix.MS_LAZYTIME, "lazytime"},
}

var attrFlags = []struct {
	bit  uintptr
	attr int
}{
	{unix.MS_RDONLY, unix.MOUNT_ATTR_RDONLY},
	{unix.MS_NOSUID, unix.MOUNT_ATTR_NOSUID},
	{unix.MS_NODEV, unix.MOUNT_ATTR_NODEV},
	{unix.MS_NOEXEC, unix.MOUNT_ATTR_NOEXEC},
	{unix.MS_NODIRATIME, unix.MOUNT_ATTR_NODIRATIME},
	{unix.MS_NOATIME, unix.MOUNT_ATTR_NOATIME},
	{unix.MS_STRICTATIME, unix.MOUNT_ATTR_STRICTATIME},
	{unix.MS_NOSYMFOLLOW, unix.MOUNT_ATTR_NOSYMFOLLOW},
}

func mountAttrs(flags uintptr) int {
	attrs := 0
	for _, f := range attrFlags {
		if flags&f.bit != 0 {
			attrs |= f.attr
		}
	}
	return attrs
}

// readLog reads what the kernel had to say about a file system context. Each
// read gives one message, marked e, w or i.
func readLog(fs int) string {
	var lines []string
	buf := make([]byte, 1024)
	for range 16 {
		n, err := unix.Read(fs, buf)
		if err != nil || n == 0 {
			break
		}
		line := strings.TrimSpace(string(buf[:n]))
		if _, text, ok := strings.Cut(line, " "); ok {
			line = text
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "; ")
}

func legacyMount(dev, dir *os.File, source string, o *Options, block bool) error {
	var data strings.Builder
	for i, p := range fuseOptions(dev, o, block) {
		if i > 0 {
			data.WriteByte(',')
		}
		data.WriteString(p.name)
		if p.value != "" {
			data.WriteString("=" + p.value)
		}
	}
	// The descriptor's magic link keeps the directory that was checked, where
	// its path might lead elsewhere by now.
	target := fmt.Sprintf("/proc/self/fd/%d", dir.Fd())
	typ := FSType
	if block {
		typ = BlockType
	}
	if err := unix.Mount(source, target, typ, o.Flags, data.String()); err != nil {
		return fmt.Errorf("mount: %w", err)
	}
	return nil
}

// mayMount tells whether this process has CAP_SYS_ADMIN in its user namespace.
// Whether that namespace owns the mount namespace shows only when trying.
func mayMount() bool {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return false
	}
	return data[0].Effective&(1<<unix.CAP_SYS_ADMIN) != 0
}
