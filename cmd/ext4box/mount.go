package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"ext4box/blockdev"
	"ext4box/mount"
	"ext4box/sandbox"
)

type mountOptions struct {
	image      imageOptions
	options    []string // -o
	readOnly   bool
	foreground bool
	debug      bool
	verbose    bool
	log        string
	sandbox    string
	service    string

	sloppy    bool // of mount(8)'s helpers
	fake      bool
	namespace string
}

// askIomap is the seam at which tests put a kernel that says it had fuse-iomap.
var askIomap = (*mount.Target).AskIomap

func newMountCommand() *cobra.Command {
	var o mountOptions
	cmd := &cobra.Command{
		Use:   "mount IMAGE DIR",
		Short: "Mount an image on a directory",
		Long: `Mount an image or a block device on a directory, and return when the mount
answers. Root mounts directly, other users through fusermount3 (package fuse3).

It is mounted for writing unless ro is asked for, the image is write-protected,
or its file system cannot be written yet; then it says why it is not. DIR may
be /dev/fd/N, an open /dev/fuse that somebody else mounts.

Where the kernel can move the data of files itself (fuse-iomap), it does; see the
mount option iomap= in ext4box(1).`,
		Example: `  ext4box mount disk.img /mnt
  ext4box mount -o ro,allow_other,noexec disk.img@p2 /mnt
  mount -t fuse.ext4box disk.img /mnt`,
		Args: argCount(2, 2),
		RunE: func(cmd *cobra.Command, args []string) error { return mountImage(cmd, args[0], args[1], o) },
	}
	f := cmd.Flags()
	f.StringArrayVarP(&o.options, "options", "o", nil, "mount `OPTIONS`, separated by commas: see ext4box(1)")
	f.BoolVarP(&o.readOnly, "read-only", "r", false, "the same as -o ro")
	f.BoolVarP(&o.foreground, "foreground", "f", false, "stay until it is unmounted")
	f.BoolVarP(&o.debug, "debug", "d", false, "log more; the same as -o debug")
	f.BoolVarP(&o.verbose, "verbose", "v", false, "say what was mounted")
	f.StringVar(&o.sandbox, "sandbox", "", "how much of its box the server must have: `on`, best-effort or off; the same as -o sandbox=")
	f.StringVar(&o.log, "log", "", "log to `FILE`, or syslog; syslog by default, standard error with -f")
	f.StringVar(&o.service, "service", "", "have the service at `SOCKET` mount it; the same as -o service")
	f.Lookup("service").NoOptDefVal = mount.ServiceSocket
	o.image.addFlags(f)
	return cmd
}

// newMountHelperCommand is what mount(8) calls: mount.fuse.ext4box IMAGE DIR
// [-sfnv] [-N NAMESPACE] [-o OPTIONS] [-t TYPE].
func newMountHelperCommand() *cobra.Command {
	var o mountOptions
	cmd := &cobra.Command{
		Use: "mount.fuse.ext4box IMAGE DIR", Hidden: true, Args: argCount(2, 2),
		RunE: func(cmd *cobra.Command, args []string) error { return mountImage(cmd, args[0], args[1], o) },
	}
	f := cmd.Flags()
	f.StringArrayVarP(&o.options, "options", "o", nil, "")
	f.BoolVarP(&o.readOnly, "read-only", "r", false, "")
	f.BoolVarP(&o.sloppy, "sloppy", "s", false, "")
	f.BoolVarP(&o.fake, "fake", "f", false, "")
	f.BoolVarP(&o.verbose, "verbose", "v", false, "")
	f.StringVarP(&o.namespace, "namespace", "N", "", "")
	ignoreFlags(cmd, "nw", "t")
	return cmd
}

var errDataJournal = errors.New("mount option \"data=journal\": file data is not written through the journal; use data=ordered, which is the default")

// mountImage is the unboxed half of a mount: it opens, mounts and hands over, and
// reads nothing of the image. In the background another process does that.
func mountImage(cmd *cobra.Command, image, dir string, o mountOptions) error {
	if err := mount.NeedProc(); err != nil {
		return err
	}
	var front *mount.Front
	if !o.foreground && !o.fake {
		var err error
		if front, err = mount.Background(); front == nil {
			return err
		}
	}
	warn := func(err error) { fmt.Fprintf(cmd.ErrOrStderr(), "ext4box: warning: %v\n", err) }
	if o.namespace != "" {
		return errNamespace
	}
	opts, err := mount.ParseOptions(o.options, o.sloppy)
	if err != nil {
		return err
	}
	opts.Debug = opts.Debug || o.debug
	if o.sandbox != "" {
		if opts.Sandbox, err = sandbox.ParseMode(o.sandbox); err != nil {
			return &mount.Error{Status: mount.StatusUsage, Err: err}
		}
	}
	if o.readOnly {
		opts.Flags |= unix.MS_RDONLY
	}
	if opts.DataJournal && !opts.ReadOnly() {
		return &mount.Error{Status: mount.StatusUsage, Err: errDataJournal}
	}
	o.image.merge(&opts)

	target, err := mount.OpenTarget(dir)
	if err != nil {
		return err
	}
	defer target.Close()
	if err := opts.Permit(target, warn); err != nil {
		return err
	}
	path, partition := blockdev.ParseSpec(image)
	o.image.Partition, o.image.MountPoint = partition, target.Path
	source := sourceName(path, partition)
	named := opts.FSName != ""
	if !named {
		opts.FSName = source
	}
	if err := target.Check(opts.FSName); err != nil {
		return err
	}
	if o.service != "" {
		opts.Service = o.service
	}
	if opts.Service != "" {
		return serviceMount(cmd, source, path, target, &o, opts, warn)
	}
	if err := o.offerIomap(target, &opts); err != nil {
		return err
	}
	files, err := openFiles(path, &o.image, !opts.ReadOnly())
	if err != nil {
		return err
	}
	launched := false
	defer func() {
		if launched {
			return // Launch closes them
		}
		for _, f := range files {
			f.Close()
		}
	}()
	if !o.image.Writable && !opts.ReadOnly() {
		warn(fmt.Errorf("%s is write-protected, mounting read-only", source))
		opts.Flags |= unix.MS_RDONLY
	}
	if o.fake {
		return nil
	}
	launch := mount.LaunchConfig{
		Command: []string{"ext4box", "serve", source, dir},
		Front:   front, Target: target, Files: files, Warn: warn,
		Request: mount.Request{Source: source, Options: opts, Log: mount.LogText,
			Owner: uint32(os.Geteuid()), Group: uint32(os.Getegid())},
	}
	if !o.foreground || o.log != "" {
		if launch.Log, launch.Request.Log, err = mount.OpenLog(o.log); err != nil {
			return err
		}
	}
	hold := opts.BlkDev == "on" || !named && opts.BlkDev != "off"
	if launch.Block, err = wantDevice(target, files, &o.image, &opts, hold, warn); err != nil {
		return err
	}
	launch.Iomap = o.image.Iomap.Why == ""
	if o.image.Writable && !launch.Iomap {
		if behind, err := blockdev.Reopen(files[0]); err == nil { // or all data is written directly
			files, o.image.Behind = append(files, behind), true
			launch.Files = files
		}
	}
	if launch.Request.Config, err = json.Marshal(o.image); err != nil {
		return err
	}
	if o.verbose && !o.foreground {
		launch.Ready = func(r mount.Ready) {
			fmt.Fprintf(cmd.OutOrStdout(), "ext4box: %s mounted on %s\n", source, dir)
			fmt.Fprintf(cmd.OutOrStdout(), "ext4box: file data goes %s\n", r.Data.Text)
			fmt.Fprintf(cmd.OutOrStdout(), "ext4box: requests come %s\n", r.Data.Requests)
			fmt.Fprintf(cmd.OutOrStdout(), "ext4box: the box of the server: %s\n", r.Box)
		}
	}
	launched = true
	return mount.Launch(launch)
}

// offerIomap finds out whether the kernel can move file data itself, if it is to.
func (o *mountOptions) offerIomap(target *mount.Target, opts *mount.Options) error {
	o.image.Iomap.Mode = opts.Iomap
	if opts.Iomap == mount.IomapOff {
		o.image.Iomap.Why = "iomap=off"
		return nil
	}
	if opts.Transport == mount.TransportUring {
		o.image.Iomap.Why = "transport=uring"
		if opts.Iomap == mount.IomapOn {
			return &mount.Error{Status: mount.StatusUsage, Err: errors.New("mount option \"iomap=on\": with fuse-iomap requests do not come by io_uring (transport=uring)")}
		}
		return nil
	}
	if by := opts.Owners.Override(); by != "" {
		o.image.Iomap.Why = "owners or permissions are not shown as they are stored (" + by + ")"
		if opts.Iomap == mount.IomapOn {
			return &mount.Error{Status: mount.StatusUsage, Err: fmt.Errorf("mount option \"iomap=on\": %s", o.image.Iomap.Why)}
		}
		return nil
	}
	kernel := askIomap(target)
	o.image.Iomap.Why = kernel.Why
	if opts.Iomap == mount.IomapOn {
		return kernel.Refusal()
	}
	return nil
}

// merge takes over what was asked for by -o. Flags of the command line win.
func (o *imageOptions) merge(opts *mount.Options) {
	e := &opts.Ext4
	o.Memory = int64(opts.MemLimit)
	if o.Offset == 0 {
		o.Offset = byteCount(e.Offset)
	}
	if o.SizeLimit == 0 {
		o.SizeLimit = byteCount(e.SizeLimit)
	}
	if o.Journal == "" {
		o.Journal = e.JournalPath
	}
	if o.Superblock == 0 {
		o.Superblock = e.Superblock
	}
	o.NoRecovery = o.NoRecovery || e.NoRecovery
	o.Mount = *e
}

// sourceName is what the list of mounts shows: the image without symbolic links,
// and its partition.
func sourceName(path string, partition int) string {
	if abs, err := filepath.Abs(path); err == nil {
		path = abs
	}
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	if partition != 0 {
		path += "@p" + strconv.Itoa(partition)
	}
	return path
}

// openFiles opens and locks the image and, if there is one, its external journal:
// for writing if that is wanted and allowed, which o.Writable then says.
func openFiles(path string, o *imageOptions, write bool) ([]*os.File, error) {
	o.Writable = write
	image, err := blockdev.OpenFile(path, o.device(o.lock()))
	if write && (errors.Is(err, unix.EROFS) || errors.Is(err, unix.EACCES)) {
		o.Writable = false
		image, err = blockdev.OpenFile(path, o.device(o.lock()))
	}
	if err != nil {
		return nil, mountError(err)
	}
	files := []*os.File{image}
	if o.Journal != "" {
		path, _ := blockdev.ParseSpec(o.Journal)
		journal, err := blockdev.OpenFile(path, blockdev.Options{ReadOnly: !o.Writable, Lock: o.lock()})
		if err != nil {
			image.Close()
			return nil, mountError(fmt.Errorf("external journal: %w", err))
		}
		files = append(files, journal)
	}
	return files, nil
}

// mountError gives an error of another floor the status that mount(8) has for it.
func mountError(err error) error {
	status := mount.StatusFailed
	if errors.Is(err, os.ErrPermission) {
		status = mount.StatusUsage
	}
	return &mount.Error{Status: status, Err: err}
}
