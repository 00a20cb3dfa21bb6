package mount

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"ext4box/mount/fuseservice"
)

// ServiceSocket is where the service listens, unless it is told otherwise.
const ServiceSocket = "/run/filesystems/" + Subtype

// ServiceMount says what a service is to mount, and what of this machine it may have for it.
type ServiceMount struct {
	Socket string
	Target *Target
	Source string // the image, as an argument of the server
	// Files are what the server may have opened, by the names that it will use.
	Files []string
	// Lists are the option lists, as arguments of the server, and Options what they mean. The
	// server cannot have a mount that allows more than they do.
	Lists   []string
	Options Options
	Args    []string // more arguments of the server

	Warn func(error)
}

// MountService is the mount helper of the fuse-service protocol: it has a service mount an
// image, opens files and mounts for it, and returns when the mount is there. It has the
// caller's rights, and must not be set-user-ID.
func MountService(m ServiceMount) error {
	if m.Target.dir == nil {
		return usagef("a service mounts on a directory, not on a connection")
	}
	root := os.Getuid() == 0
	if !mayMount() {
		return usagef("only root can mount with the help of a service: leave out the option service, or use fuservicemount3")
	}
	conf := readFuseConf(fuseConf)
	var flags fuseservice.HelloFlags
	if root || conf.allowOther {
		flags |= fuseservice.HelloAllowOther
	}
	if m.Options.AllowOther && flags&fuseservice.HelloAllowOther == 0 {
		return checkFuseConf(fuseConf)
	}
	if root && machineUsers() {
		flags |= fuseservice.HelloBlock
	}
	h, err := fuseservice.Dial(m.Socket)
	if errors.Is(err, fuseservice.ErrNoService) {
		return failedf("%w: start it with 'systemctl enable --now ext4box.socket', or leave out the option service", err)
	}
	if err != nil {
		return systemf("%w", err)
	}
	defer h.Close()
	dev, err := openFuse()
	if err != nil {
		return err
	}
	defer dev.Close()
	e := &serviceMounter{want: m, dev: dev, user: !root, conf: conf, flags: flags}
	args := []string{Subtype, m.Source, m.Target.Path}
	for _, list := range m.Lists {
		args = append(args, "-o", list)
	}
	args = append(args, m.Args...)
	if err := h.Greet(flags, args, dev); err != nil {
		return failedf("%w", err)
	}
	code, err := h.Run(e)
	switch {
	case err != nil && e.mounted:
		m.Warn(err) // all is done
		return nil
	case err != nil:
		return failedf("%s", plain(err.Error()))
	case code != 0:
		if code > 255 {
			code = StatusFailed
		}
		return &Error{int(code), fmt.Errorf("the service could not mount %s: look at its log (journalctl -t ext4box)", m.Source)}
	case !e.mounted:
		return failedf("the service has ended, and mounted nothing: look at its log")
	}
	return nil
}

// serviceMounter does what a server asks for, as far as that is what the caller asked for.
// It implements [fuseservice.Executor].
type serviceMounter struct {
	want  ServiceMount
	dev   *os.File
	user  bool // not root
	conf  conf
	flags fuseservice.HelloFlags

	block   bool
	source  string
	options Options // for the kernel, as far as the server has a say in them
	mounted bool
}

// serviceOpenFlags are the flags of open(2) that a server may want.
const serviceOpenFlags = unix.O_ACCMODE | unix.O_EXCL | unix.O_CLOEXEC | unix.O_NOCTTY | unix.O_NOFOLLOW |
	unix.O_DIRECT | unix.O_DSYNC | unix.O_SYNC | unix.O_NONBLOCK | openLargeFile

const openLargeFile = 0x8000 // O_LARGEFILE, which is 0 in package unix

// Open opens the image or its journal, and nothing else.
func (e *serviceMounter) Open(r fuseservice.OpenRequest) (f *os.File, err error) {
	defer func() {
		if err != nil && r.Request&fuseservice.OpenQuiet == 0 && !errors.Is(err, unix.EBUSY) {
			e.want.Warn(fmt.Errorf("open %s: %w", plain(r.Path), err))
		}
	}()
	switch {
	case !slices.Contains(e.want.Files, r.Path):
		return nil, fmt.Errorf("nobody asked for this file: %w", unix.EPERM)
	case r.Flags&^serviceOpenFlags != 0:
		return nil, unix.EINVAL
	case e.want.Options.ReadOnly() && r.Flags&unix.O_ACCMODE != unix.O_RDONLY:
		return nil, unix.EROFS
	}
	// Opening a fifo waits, and other devices do things: the kind comes first.
	var st unix.Stat_t
	if err := unix.Stat(r.Path, &st); err != nil {
		return nil, err
	}
	if err := serviceKind(&st, r.Block); err != nil {
		return nil, err
	}
	fd, err := unix.Open(r.Path, int(r.Flags)|unix.O_CLOEXEC|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	f = os.NewFile(uintptr(fd), r.Path)
	if err = unix.Fstat(fd, &st); err == nil {
		err = serviceKind(&st, r.Block)
	}
	if err == nil && r.BlockSize != 0 {
		err = unix.IoctlSetPointerInt(fd, unix.BLKBSZSET, int(r.BlockSize))
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func serviceKind(st *unix.Stat_t, block bool) error {
	switch kind := st.Mode & unix.S_IFMT; {
	case kind == unix.S_IFBLK:
		return nil
	case block:
		return unix.ENOTBLK
	case kind == unix.S_IFREG:
		return nil
	}
	return fmt.Errorf("it is neither a file nor a block device: %w", unix.EINVAL)
}

func (e *serviceMounter) FSOpen(block bool) error {
	if block && e.flags&fuseservice.HelloBlock == 0 {
		return unix.EPERM
	}
	e.block = block
	return nil
}

// Source takes only names that the caller knows: the list of mounts is read by others.
func (e *serviceMounter) Source(name string) error {
	if name != e.want.Source && name != e.want.Options.FSName && !slices.Contains(e.want.Files, name) {
		return unix.EPERM
	}
	e.source = name
	return nil
}

func (e *serviceMounter) MountPoint(path string, format uint16) error {
	switch {
	case path != e.want.Target.Path:
		return unix.EINVAL
	case format == unix.S_IFREG:
		return unix.EISDIR
	case e.user:
		return e.mayCover()
	}
	return nil
}

// Options takes those options of the kernel's FUSE that the caller could have meant.
func (e *serviceMounter) Options(list string) error {
	items, err := SplitOptions(list)
	if err != nil {
		return unix.EINVAL
	}
	o := &e.options
	for _, item := range items {
		switch name, value, _ := strings.Cut(item, "="); name {
		case "default_permissions": // as the caller's options have it
		case "allow_other":
			if !e.want.Options.AllowOther || e.flags&fuseservice.HelloAllowOther == 0 {
				return unix.EPERM
			}
			o.AllowOther = true
		case "max_read":
			n, err := strconv.ParseUint(value, 10, 32)
			if err != nil {
				return unix.EINVAL
			}
			o.MaxRead = uint32(n)
		case "blksize":
			if value != strconv.Itoa(blockSize) {
				return unix.EINVAL
			}
		default:
			e.want.Warn(fmt.Errorf("the service wants the mount option %q, which is not for it to have", plain(item)))
			return unix.EINVAL
		}
	}
	return nil
}

// TableOptions are for a list of mounts that this helper does not keep.
func (e *serviceMounter) TableOptions(string) error { return nil }

// Flags of mount(2) that a server may set, and those that it cannot leave out.
const (
	serviceFlags = unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_SYNCHRONOUS |
		unix.MS_DIRSYNC | unix.MS_NOATIME | unix.MS_NODIRATIME | unix.MS_RELATIME | unix.MS_STRICTATIME |
		unix.MS_LAZYTIME | unix.MS_NOSYMFOLLOW | unix.MS_SILENT
	safetyFlags = unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_NOSYMFOLLOW
)

func (e *serviceMounter) Mount(flags uint32) error {
	if flags&^uint32(serviceFlags) != 0 {
		return unix.EINVAL
	}
	if e.block && !slices.Contains(e.want.Files, e.source) {
		return unix.EPERM // the kernel would open it
	}
	o := e.want.Options
	o.AllowOther, o.MaxRead = e.options.AllowOther, e.options.MaxRead
	o.Flags = uintptr(flags) | o.Flags&safetyFlags
	if e.user {
		if missing := (unix.MS_NOSUID | unix.MS_NODEV) &^ o.Flags; missing != 0 {
			o.Flags |= missing
			e.want.Warn(errors.New("mounting with nosuid,nodev: only root can do without"))
		}
		if err := e.mayMountMore(); err != nil {
			return err
		}
		if err := e.mayCover(); err != nil {
			return err
		}
	}
	err := mountKernel(e.dev, e.want.Target.dir, e.source, &o, e.block)
	if err != nil {
		e.want.Warn(fmt.Errorf("mount on %s: %w", e.want.Target.Path, err))
		return err
	}
	e.mounted = true
	return nil
}

// mayCover says whether a user may mount on the target, whose content he then replaces.
func (e *serviceMounter) mayCover() error {
	refuse := func(errno unix.Errno, why string) error {
		e.want.Warn(fmt.Errorf("mount on %s: %s", e.want.Target.Path, why))
		return errno
	}
	fd := int(e.want.Target.dir.Fd())
	var fs unix.Statfs_t
	if err := unix.Fstatfs(fd, &fs); err != nil {
		return err
	}
	if !coverable[int64(fs.Type)] {
		return refuse(unix.EPERM, "a user cannot mount on this type of file system")
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	// By its magic link, for a descriptor of O_PATH cannot be asked everywhere.
	if err := unix.Access(fmt.Sprintf("/proc/self/fd/%d", fd), unix.W_OK); err != nil {
		return refuse(unix.EPERM, "the user cannot write to it")
	}
	if st.Mode&unix.S_ISVTX != 0 && st.Uid != uint32(os.Getuid()) {
		return refuse(unix.EPERM, "it is sticky and belongs to somebody else")
	}
	return nil
}

// mayMountMore says whether a user has as many mounts as he may.
func (e *serviceMounter) mayMountMore() error {
	if e.conf.mountMax < 0 {
		return nil
	}
	mounts, err := Mounts()
	if err != nil {
		return err
	}
	n := 0
	for i := range mounts {
		if strings.HasPrefix(mounts[i].Type, "fuse") {
			n++
		}
	}
	if n >= e.conf.mountMax {
		e.want.Warn(fmt.Errorf("there are %d FUSE mounts; more than that are for root", n))
		return unix.EUSERS
	}
	return nil
}

// coverable are the types of file systems that hold users' files, by statfs(2). On others,
// such as proc, a mount could mislead programs of the system.
var coverable = map[int64]bool{
	unix.EXT4_SUPER_MAGIC: true, unix.XFS_SUPER_MAGIC: true, unix.BTRFS_SUPER_MAGIC: true,
	unix.TMPFS_MAGIC: true, unix.RAMFS_MAGIC: true, unix.OVERLAYFS_SUPER_MAGIC: true,
	unix.F2FS_SUPER_MAGIC: true, unix.FUSE_SUPER_MAGIC: true, unix.NFS_SUPER_MAGIC: true,
	unix.MSDOS_SUPER_MAGIC: true, unix.EXFAT_SUPER_MAGIC: true, unix.REISERFS_SUPER_MAGIC: true,
	unix.NILFS_SUPER_MAGIC: true, unix.AUTOFS_SUPER_MAGIC: true, unix.CIFS_SUPER_MAGIC: true, unix.SMB2_SUPER_MAGIC: true,
	unix.CEPH_SUPER_MAGIC: true, unix.ECRYPTFS_SUPER_MAGIC: true,
	0x2FC12FC1: true, // zfs
	0x3153464A: true, // jfs
	0x7366746E: true, // ntfs3
	0x24051905: true, // ubifs
	0xCA451A4E: true, // bcachefs
}

// conf is what root allows users in fuse.conf.
type conf struct {
	allowOther bool
	mountMax   int // negative: no limit
}

func readFuseConf(path string) conf {
	text, err := os.ReadFile(path)
	if err != nil {
		return conf{mountMax: defaultMountMax}
	}
	return conf{allowsOther(bytes.NewReader(text)), mountMax(string(text))}
}

const defaultMountMax = 1000

// mountMax reads how many mounts a fuse.conf allows.
func mountMax(text string) int {
	most := defaultMountMax
	for line := range strings.Lines(text) {
		line, _, _ := strings.Cut(line, "#")
		name, value, _ := strings.Cut(line, "=")
		n, err := strconv.ParseInt(strings.TrimSpace(value), 10, 32)
		if strings.TrimSpace(name) == "mount_max" && err == nil && n >= -1 {
			most = int(n)
		}
	}
	return most
}
