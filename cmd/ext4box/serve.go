package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"ext4box/blockdev"
	"ext4box/ext4"
	"ext4box/fuse"
	"ext4box/mount"
	"ext4box/server"
)

// newServeCommand is the server that mount starts. Its arguments are for whoever
// looks at the list of processes; what it needs comes through standard input.
func newServeCommand() *cobra.Command {
	var a activation
	cmd := &cobra.Command{
		Use: "serve IMAGE DIR", Hidden: true,
		Args: func(cmd *cobra.Command, args []string) error {
			if a.service {
				return argCount(0, 0)(cmd, args)
			}
			return argCount(2, 2)(cmd, args)
		},
		RunE: func(*cobra.Command, []string) error {
			if a.service {
				if err := a.run(); err != nil {
					warn(os.Stderr, err)
					return errSilent // systemd knows no other status than 1
				}
				return nil
			}
			if mount.Serve(os.Stdin, openService) != nil {
				return errSilent // the keeper, or the log, has been told
			}
			return nil
		},
	}
	a.addFlags(cmd.Flags())
	return cmd
}

// service is an open image on its way to be served. It implements
// [mount.Service].
type service struct {
	fs      *ext4.FS
	request *mount.Request
	iomap   server.Iomap
	noIomap string       // why the kernel cannot move file data, as far as the keeper did not know
	close   func() error // closes fs and what else belongs to the image, once
	claim   *os.File     // on the device, if it is there
}

// openService opens the image, and its external journal, from the descriptors
// that the keeper opened and locked.
func openService(r *mount.Request, files []*os.File) (mount.Service, error) {
	var o imageOptions
	if err := json.Unmarshal(r.Config, &o); err != nil {
		return nil, err
	}
	if len(files) == 0 {
		return nil, errors.New("the keeper sent no image")
	}
	collect(o.Memory)
	options := o.device(blockdev.LockNone) // whoever opened it has locked it
	if last := len(files) - 1; o.Behind && last > 0 {
		files, options.Behind = files[:last], files[last]
	}
	options.Name, _ = blockdev.ParseSpec(r.Source)
	dev, err := blockdev.NewFile(files[0], options)
	if err != nil {
		return nil, mountError(err)
	}
	var journal blockdev.Device
	if len(files) > 1 {
		name, partition := blockdev.ParseSpec(o.Journal)
		journal, err = blockdev.NewFile(files[1], blockdev.Options{ReadOnly: !o.Writable, Lock: blockdev.LockNone, Partition: partition, Name: name})
		if err != nil {
			return nil, mountError(fmt.Errorf("external journal: %w", err))
		}
	}
	opts := o.engine(journal)
	opts.Logger = r.NewLogger()
	opts.Atime = atimeMode(r.Options.Flags)
	opts.NoDirAtime = r.Options.Flags&unix.MS_NODIRATIME != 0
	opts.LazyTime = r.Options.Flags&unix.MS_LAZYTIME != 0
	opts.Panic = func(cause error) {
		opts.Logger.Error("the server ends, as errors=panic says; run e2fsck and mount again", "source", r.Source, "error", cause)
		os.Exit(mount.StatusFailed)
	}
	fs, err := ext4.Open(dev, opts)
	if err != nil {
		return nil, mountError(fmt.Errorf("%s: %w", r.Source, err))
	}
	s := &service{fs: fs, request: r, iomap: server.Iomap{Mode: iomapModes[o.Iomap.Mode], Device: -1, NoDevice: o.Iomap.Why}}
	s.close = sync.OnceValue(s.closeImage)
	if o.Iomap.Why == "" {
		s.noIomap = giveDevice(&s.iomap, o.Iomap.Device, dev, fs)
	}
	if s.noIomap != "" && o.Iomap.Mode == mount.IomapOn {
		s.close()
		return nil, mountError(fmt.Errorf("mount option \"iomap=on\": %s", s.noIomap))
	}
	return s, nil
}

// closeImage ends what is served. The claim on its device goes last.
func (s *service) closeImage() error {
	err := s.fs.Close()
	if err != nil && !s.fs.Lost() {
		err = nil // the log, and whoever wanted to write since, has been told
	}
	if s.claim != nil {
		s.claim.Close()
	}
	return err
}

// atimeMode is what mount(2) makes of its flags.
func atimeMode(flags uintptr) ext4.AtimeMode {
	switch {
	case flags&unix.MS_NOATIME != 0:
		return ext4.AtimeNever
	case flags&unix.MS_STRICTATIME != 0:
		return ext4.AtimeStrict
	}
	return ext4.AtimeRelative
}

func (s *service) Serve(ctx context.Context, c mount.Connection, ready func(mount.DataPath)) error {
	s.claim = c.Claim
	log := s.request.NewLogger()
	flags := s.request.Options.Flags
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	chosen := make(chan mount.DataPath, 1)
	s.iomap.Chosen = func(c server.Choice) {
		if c.Err != nil {
			end(c.Err) // the kernel is told, but a mount without an answer would stay
			return
		}
		chosen <- mount.DataPath{Iomap: c.Iomap, Text: c.Path}
	}
	srv := server.New(s.fs, server.Options{
		Logger: log, Owner: s.request.Owner, InGroup: c.InGroup, Owners: owners(s.request), AllowIdmap: s.request.Options.AllowIdmap, Destroy: func() { _ = s.close() }, // Close tells the error
		Sync: flags&unix.MS_SYNCHRONOUS != 0, DirSync: flags&unix.MS_DIRSYNC != 0,
		AskOpen: s.request.Options.Opens == mount.OpensServer, RootNode: c.RootNode, Iomap: s.iomap,
	})
	params := srv.Params()
	params.IomapMinor = s.request.Options.IomapMinor
	if s.request.Options.Ext4.NoACL {
		params.Flags &^= fuse.InitPosixACL
	}
	transport := fuse.NewDevice(c.Fuse, fuse.DeviceOptions{Spare: c.Spare, Sealed: true, Rings: s.request.Rings})
	defer transport.Close()
	// A thread that waits for the device keeps its processor of the runtime until somebody notices, which is
	// late and costs more than the wait, so each has one.
	runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + transport.Threads())
	session, err := fuse.NewSession(srv, transport, fuse.Options{
		Params: params, KernelMaxPages: s.request.MaxPages, Logger: log, Trace: s.request.Options.Debug,
	})
	if err != nil {
		return err
	}
	ended := make(chan struct{})
	defer close(ended)
	go func() {
		select {
		case path := <-chosen:
			select {
			case <-session.Ready():
				path.Rings, path.Requests = s.requests(session, transport)
				ready(path)
			case <-ended:
			}
		case <-ended:
		}
	}()
	if err = session.Serve(ctx); err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return err
}

// requests says which way requests come.
func (s *service) requests(session *fuse.Session, d *fuse.Device) (rings bool, text string) {
	rings, err := d.AwaitRings()
	why := s.request.NoUring
	switch {
	case rings:
		return true, "by io_uring"
	case err != nil:
		why = err.Error()
	case why == "" && session.Protocol().Iomap:
		why = "with fuse-iomap they do not come by io_uring"
	case why == "":
		why = "the kernel does not offer io_uring"
	}
	return false, "by /dev/fuse (" + why + ")"
}

// owners says whom files seem to belong to.
func owners(r *mount.Request) server.Owners {
	w := &r.Options.Owners
	if w.Fakeroot {
		return server.Owners{UID: &r.Owner, GID: &r.Group, Fakeroot: true}
	}
	return server.Owners{UID: w.UID, GID: w.GID, Umask: w.Umask, Users: idMap(w.Users), Groups: idMap(w.Groups)}
}

func idMap(ranges []mount.IDRange) (m server.IDMap) {
	for _, r := range ranges {
		m = append(m, server.IDRange{Stored: r.Image, Shown: r.Shown, Count: r.Count})
	}
	return m
}

func (s *service) ReadOnly() string { return s.fs.ReadOnlyReason() }

func (s *service) NoIomap() string { return s.noIomap }

func (s *service) Close() error { return s.close() }
