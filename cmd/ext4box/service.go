package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"ext4box/blockdev"
	"ext4box/fuse"
	"ext4box/mount"
	"ext4box/mount/fuseservice"
	"ext4box/sandbox"
)

// serviceMount has a service mount an image, by the option "service".
func serviceMount(cmd *cobra.Command, source, path string, target *mount.Target, o *mountOptions, opts mount.Options, warn func(error)) error {
	for what, given := range map[string]bool{"--foreground": o.foreground, "--log": o.log != ""} {
		if given {
			return &mount.Error{Status: mount.StatusUsage, Err: fmt.Errorf("%s is not for a mount by a service, which systemd runs and keeps the log of", what)}
		}
	}
	if opts.Iomap == mount.IomapOn {
		return &mount.Error{Status: mount.StatusUsage, Err: errServiceIomap}
	}
	if opts.Sandbox != "" {
		return &mount.Error{Status: mount.StatusUsage, Err: errServiceSandbox}
	}
	path = sourceName(path, 0)
	m := mount.ServiceMount{
		Socket: opts.Service, Target: target, Source: source, Options: opts, Warn: warn,
		Files: []string{path}, Lists: append(o.options, o.image.list()),
	}
	if o.readOnly {
		m.Lists = append(m.Lists, "ro")
	}
	if o.debug {
		m.Lists = append(m.Lists, "debug")
	}
	if o.image.Journal != "" {
		journal, partition := blockdev.ParseSpec(o.image.Journal)
		m.Files = append(m.Files, sourceName(journal, 0))
		m.Lists = append(m.Lists, "journal_path="+mount.EscapeOption(sourceName(journal, partition)))
	}
	if o.sloppy {
		m.Args = append(m.Args, "-s")
	}
	if o.fake {
		return nil
	}
	if err := mount.MountService(m); err != nil {
		return err
	}
	if o.verbose {
		fmt.Fprintf(cmd.OutOrStdout(), "ext4box: %s mounted on %s by the service %s\n", source, target.Path, opts.Service)
	}
	return nil
}

var errServiceIomap = errors.New("mount option \"iomap=on\": a service cannot have the kernel move file data")

var errServiceSandbox = errors.New("mount option \"sandbox=\": the box of a service is for its unit to say, ext4box@.service")

// list are the flags of the command line as a list of mount options.
func (o *imageOptions) list() string {
	var list []string
	for _, n := range []struct {
		name  string
		value int64
	}{{"offset", int64(o.Offset)}, {"sizelimit", int64(o.SizeLimit)}, {"sb", o.Superblock}} {
		if n.value != 0 {
			list = append(list, fmt.Sprintf("%s=%d", n.name, n.value))
		}
	}
	if o.NoRecovery {
		list = append(list, "norecovery")
	}
	return strings.Join(list, ",")
}

// activation is a server that systemd starts for one mount, and a mount helper that does for
// it what it has no rights for.
type activation struct {
	service bool
	options []string // in front of those that the helper sends
	sandbox string

	helper  *fuseservice.Server
	box     *sandbox.Box
	image   imageOptions
	request mount.Request
	kernel  string // options for it
	table   string // options for the list of mounts
	block   bool   // the kernel is to hold the device
}

func (a *activation) addFlags(f *pflag.FlagSet) {
	f.BoolVar(&a.service, "service", false, "")
	f.StringArrayVarP(&a.options, "options", "o", nil, "")
	f.StringVar(&a.sandbox, "sandbox", string(sandbox.Enforce), "")
}

// run is the whole life of the server. Its log is standard error.
func (a *activation) run() error {
	socket, err := fuseservice.Activated()
	switch {
	case err != nil:
		return err
	case socket == nil:
		return errors.New("this is for systemd to start, for a connection to ext4box.socket: see ext4box(1)")
	}
	if a.helper, err = fuseservice.NewServer(socket); err != nil {
		return err
	}
	if err := a.helper.Greet(); err != nil {
		a.helper.Close()
		return err
	}
	c, fs, err := a.mount()
	if err != nil {
		// The helper tells whoever wants to mount to look at the log, which has err.
		_ = a.helper.Bye(uint32(mount.ExitStatus(err)))
		a.helper.Fuse.Close()
		if fs != nil {
			err = errors.Join(err, fs.Close())
		}
		return err
	}
	if err := a.serve(c, fs); err != nil {
		err = fmt.Errorf("%s: the mount ended: %w", a.request.Source, err)
		return errors.Join(err, fs.Close())
	}
	return fs.Close()
}

// mount makes the mount, and returns what is to be served. On error the file system, if it is
// open, is for the caller to close.
func (a *activation) mount() (c mount.Connection, fs mount.Service, err error) {
	box, err := a.boxed()
	if err != nil {
		return c, nil, err
	}
	image, dir, err := a.parse(a.helper.Args)
	if err != nil {
		return c, nil, err
	}
	files, claim, err := a.openFiles(image)
	if err != nil {
		return c, nil, err
	}
	if err := a.helper.RefuseFiles(); err != nil {
		return c, nil, err
	}
	log := a.request.NewLogger()
	_, _ = time.Now().Zone() // the time zone is read from a file
	if limit := a.request.Options.MemLimit; limit != 0 && (box.Memory == 0 || limit < box.Memory) {
		box.Memory = limit // callers can lower it
	}
	box.FileSize = mount.LongestFile(files)
	var missing []*sandbox.Missing
	if a.box, missing, err = sandbox.Enter(box); err != nil {
		return c, nil, err
	}
	for _, m := range missing {
		log.Warn(m.Error())
	}
	// From here on this process reads the image, and is not trusted any more.
	if fs, err = openService(&a.request, files); err != nil {
		return c, nil, err
	}
	o := &a.request.Options
	if why := fs.ReadOnly(); why != "" && !o.ReadOnly() {
		log.Warn("mounted read-only: "+why, "source", a.request.Source)
		o.Flags |= unix.MS_RDONLY
	}
	if err := a.ask(dir, claim); err != nil {
		return c, fs, err
	}
	if !a.block {
		c.Claim = claim
	}
	c.Fuse, c.RootNode = a.helper.Fuse, 1
	if err := a.helper.Bye(0); err != nil {
		log.Debug(err.Error()) // it has mounted, or the connection will tell
	}
	a.request.AttachRings(c.Fuse)
	return c, fs, a.box.Seal()
}

// boxed is the box as the unit has it, of which callers can take nothing away.
func (a *activation) boxed() (sandbox.Options, error) {
	mode, err := sandbox.ParseMode(a.sandbox)
	if err != nil {
		return sandbox.Options{}, err
	}
	o, err := mount.ParseOptions(a.options, false)
	if err != nil {
		return sandbox.Options{}, err
	}
	if o.Sandbox != "" {
		mode = o.Sandbox
	}
	return sandbox.Options{Mode: mode, Service: true, Memory: o.MemLimit}, nil
}

// parse understands the helper's arguments, behind those of this process.
func (a *activation) parse(args []string) (image, dir string, err error) {
	var sloppy, readOnly, debug, ignored bool
	var given []string
	f := pflag.NewFlagSet(args[0], pflag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.StringArrayVarP(&given, "options", "o", nil, "")
	f.BoolVarP(&readOnly, "read-only", "r", false, "")
	f.BoolVarP(&sloppy, "sloppy", "s", false, "")
	f.BoolVarP(&debug, "debug", "d", false, "")
	for _, name := range []string{"n", "v", "w"} { // for mount(8) itself
		f.BoolVarP(&ignored, "ignored-"+name, name, false, "")
	}
	a.image.addFlags(f)
	usage := func(err error) (string, string, error) {
		return "", "", &mount.Error{Status: mount.StatusUsage, Err: err}
	}
	if err := f.Parse(args[1:]); err != nil {
		return usage(err)
	}
	if o, err := mount.ParseOptions(given, true); err == nil && o.Sandbox != "" {
		return usage(errServiceSandbox)
	}
	a.options = append(a.options, given...)
	if f.NArg() != 2 || f.Arg(0) == "" || f.Arg(1) == "" {
		return usage(fmt.Errorf("the arguments %q are not those of a mount: IMAGE DIR -o OPTIONS", args[1:]))
	}
	image, dir = f.Arg(0), f.Arg(1)
	o, err := mount.ParseOptions(a.options, sloppy)
	if err != nil {
		return "", "", err
	}
	o.Debug = o.Debug || debug
	if readOnly {
		o.Flags |= unix.MS_RDONLY
	}
	if o.Owners.Override() != "" {
		o.Flags |= unix.MS_NOSUID | unix.MS_NODEV // whoever the helper mounts for: see Options.Permit
	}
	uid, gid, known := a.helper.Peer()
	switch {
	case o.DataJournal && !o.ReadOnly():
		return usage(errDataJournal)
	case o.Iomap == mount.IomapOn:
		return usage(errServiceIomap)
	case o.AllowOther && a.helper.Flags&fuseservice.HelloAllowOther == 0:
		return usage(errors.New("mount option \"allow_other\": the mount helper does not allow it to this user"))
	case o.BlkDev == "on" && a.helper.Flags&fuseservice.HelloBlock == 0:
		return usage(errors.New("mount option \"blkdev=on\": the mount helper does not allow it to this user"))
	case o.Owners.Fakeroot && !known:
		return usage(errors.New("mount option \"fakeroot\": a service in a user namespace does not know who mounts; use uid= and gid="))
	}
	a.image.merge(&o)
	_, a.image.Partition = blockdev.ParseSpec(image)
	if filepath.IsAbs(dir) {
		a.image.MountPoint = dir
	}
	a.image.Iomap = iomapOptions{Mode: o.Iomap, Why: "a service cannot have the kernel move file data"}
	a.table = tableOptions(a.options)
	a.request = mount.Request{Source: image, Options: o, Log: mount.LogText, Foreground: true, Owner: uid, Group: gid, MaxPages: fuse.KernelMaxPages()}
	a.offerUring()
	if o.Transport == mount.TransportUring && a.request.NoUring != "" {
		return usage(fmt.Errorf("mount option \"transport=uring\": %s", a.request.NoUring))
	}
	return image, dir, nil
}

// offerUring has rings made if requests could come by io_uring: for a service that is for others to allow.
func (a *activation) offerUring() {
	r := &a.request
	if r.Options.Transport == mount.TransportDev {
		r.NoUring = "transport=dev"
		return
	}
	if r.NoUring, _ = mount.AskUring(); r.NoUring != "" {
		return
	}
	cpus, err := fuse.FindCPUs()
	if err != nil {
		r.NoUring = err.Error()
		return
	}
	r.CPUs = &cpus
	r.MakeRings()
}

// tableOptions are the options that are for the list of mounts.
func tableOptions(lists []string) string {
	var out []string
	for _, list := range lists {
		items, _ := mount.SplitOptions(list)
		for _, item := range items {
			if strings.HasPrefix(item, "user=") || strings.HasPrefix(item, "x-") {
				out = append(out, mount.EscapeOption(item))
			}
		}
	}
	return strings.Join(out, ",")
}

// openFiles has the helper open the image and, if there is one, its external journal, locks
// them, and says in a.image whether they can be written. claim keeps others off a device that
// is read through another descriptor.
func (a *activation) openFiles(spec string) (files []*os.File, claim *os.File, err error) {
	o := &a.request.Options
	path, _ := blockdev.ParseSpec(spec)
	a.image.Writable = !o.ReadOnly()
	image, block, err := a.openFile(path)
	if a.image.Writable && (errors.Is(err, unix.EROFS) || errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM)) {
		a.request.NewLogger().Warn("mounted read-only: the image is write-protected", "source", spec, "error", err)
		a.image.Writable = false
		o.Flags |= unix.MS_RDONLY
		image, block, err = a.openFile(path)
	}
	if err != nil {
		a.tell(path, err)
		return nil, nil, mountError(err)
	}
	files = []*os.File{image}
	hold := o.BlkDev == "on" || o.FSName == "" && o.BlkDev != "off"
	switch {
	case o.BlkDev == "on" && !block:
		return nil, nil, &mount.Error{Status: mount.StatusUsage, Err: errors.New("mount option \"blkdev=on\": a service has no loop devices; name a block device")}
	case block && hold && a.helper.Flags&fuseservice.HelloBlock != 0:
		// The kernel claims the device, when the claim here is given up.
		a.block, claim = true, image
		if files[0], err = a.helper.Open(a.openRequest(path, true, 0)); err != nil {
			return nil, nil, mountError(err)
		}
	}
	if a.image.Journal != "" {
		name, _ := blockdev.ParseSpec(a.image.Journal)
		journal, _, err := a.openFile(name)
		if err != nil {
			a.tell(name, err)
			return nil, nil, mountError(fmt.Errorf("external journal: %w", err))
		}
		files = append(files, journal)
	}
	a.kernel = o.KernelOptions(a.block)
	a.request.Config, err = json.Marshal(a.image)
	return files, claim, err
}

func (a *activation) openRequest(path string, block bool, request fuseservice.OpenFlags) fuseservice.OpenRequest {
	r := fuseservice.OpenRequest{Path: path, Block: block, Flags: unix.O_RDONLY, Request: request}
	if a.image.Writable {
		r.Flags = unix.O_RDWR
	}
	return r
}

// busyPause is how long to wait between two attempts to claim a device, which udev may be
// looking at.
const busyPause = 50 * time.Millisecond

// openFile has a file opened and locks it. It is not known before whether it is a device.
func (a *activation) openFile(path string) (f *os.File, block bool, err error) {
	r := a.openRequest(path, true, fuseservice.OpenQuiet)
	r.Flags |= unix.O_EXCL
	for deadline := time.Now().Add(blockdev.DefaultLockWait); ; time.Sleep(busyPause) {
		if f, err = a.helper.Open(r); !errors.Is(err, unix.EBUSY) || time.Now().After(deadline) {
			break
		}
	}
	block = err == nil
	if errors.Is(err, unix.ENOTBLK) {
		f, err = a.helper.Open(a.openRequest(path, false, fuseservice.OpenQuiet))
	}
	if err != nil {
		return nil, block, err
	}
	if err := blockdev.LockFile(f, blockdev.Options{Lock: a.image.lock()}); err != nil {
		f.Close()
		return nil, block, err
	}
	return f, block, nil
}

// tell has the helper say why it could not open a file, which it was not to say while
// something else could be tried.
func (a *activation) tell(path string, err error) {
	var refusal *fuseservice.Refusal
	if errors.As(err, &refusal) {
		if f, err := a.helper.Open(a.openRequest(path, false, 0)); err == nil {
			f.Close()
		}
	}
}

// ask gives the helper all it needs to mount, and has it mount.
func (a *activation) ask(dir string, claim *os.File) error {
	o, h := &a.request.Options, a.helper
	source := o.FSName
	if source == "" {
		source = a.request.Source
	}
	if a.block {
		source, _ = blockdev.ParseSpec(a.request.Source)
	}
	if err := h.FSOpen(a.block); err != nil {
		return err
	}
	if err := h.Source(source); err != nil {
		return err
	}
	if err := h.MountPoint(dir, unix.S_IFDIR); err != nil {
		return err
	}
	if a.kernel != "" {
		if err := h.Options(a.kernel); err != nil {
			return err
		}
	}
	var refusal *fuseservice.Refusal
	if a.table != "" {
		if err := h.TableOptions(a.table); err != nil && !errors.As(err, &refusal) {
			return err
		}
	}
	if a.block {
		claim.Close()
	}
	err := h.Mount(uint32(o.Flags))
	if errors.Is(err, fuseservice.ErrLost) {
		return nil // if there is no mount, the connection cannot be read
	}
	return err
}

// serve serves until the mount is gone, or systemd ends the process. It cannot unmount.
func (a *activation) serve(c mount.Connection, fs mount.Service) error {
	log := a.request.NewLogger()
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT, unix.SIGHUP)
	defer stop()
	err := fs.Serve(ctx, c, func(p mount.DataPath) {
		log.Info("mounted; file data goes "+p.Text+", requests come "+p.Requests, "source", a.request.Source)
	})
	if ctx.Err() != nil {
		log.Warn("told to end: what is mounted answers nothing any more, unmount it", "source", a.request.Source)
		return nil
	}
	return err
}
