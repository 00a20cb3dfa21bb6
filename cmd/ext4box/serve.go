package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
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
	return &cobra.Command{
		Use: "serve IMAGE DIR", Hidden: true, Args: argCount(2, 2),
		RunE: func(*cobra.Command, []string) error {
			if mount.Serve(os.Stdin, openService) != nil {
				return errSilent // the launcher, or the log, has been told
			}
			return nil
		},
	}
}

// service is an open image on its way to be served. It implements
// [mount.Service].
type service struct {
	fs      *ext4.FS
	request *mount.Request
	close   func() error // closes fs, once
}

// openService opens the image, and its external journal, from the descriptors
// that the launcher opened and locked.
func openService(r *mount.Request, files []*os.File) (mount.Service, error) {
	var o imageOptions
	if err := json.Unmarshal(r.Config, &o); err != nil {
		return nil, err
	}
	if len(files) == 0 {
		return nil, errors.New("the launcher sent no image")
	}
	options := o.device(o.lock())
	options.Name, _ = blockdev.ParseSpec(r.Source)
	dev, err := blockdev.NewFile(files[0], options)
	if err != nil {
		return nil, mountError(err)
	}
	var journal blockdev.Device
	if len(files) > 1 {
		name, partition := blockdev.ParseSpec(o.Journal)
		journal, err = blockdev.NewFile(files[1], blockdev.Options{ReadOnly: !o.Writable, Lock: o.lock(), Partition: partition, Name: name})
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
	return &service{fs, r, sync.OnceValue(fs.Close)}, nil
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

func (s *service) Serve(ctx context.Context, dev *os.File, ready func()) error {
	log := s.request.NewLogger()
	flags := s.request.Options.Flags
	srv := server.New(s.fs, server.Options{
		Logger: log, Owner: uint32(os.Geteuid()), Destroy: func() { _ = s.close() }, // Close tells the error
		Sync: flags&unix.MS_SYNCHRONOUS != 0, DirSync: flags&unix.MS_DIRSYNC != 0,
	})
	params := srv.Params()
	if s.request.Options.Ext4.NoACL {
		params.Flags &^= fuse.InitPosixACL
	}
	transport := fuse.NewDevice(dev, fuse.DeviceOptions{})
	defer transport.Close()
	session, err := fuse.NewSession(srv, transport, fuse.Options{
		Params: params, Logger: log, Trace: s.request.Options.Debug,
	})
	if err != nil {
		return err
	}
	ended := make(chan struct{})
	defer close(ended)
	go func() {
		select {
		case <-session.Ready():
			ready()
		case <-ended:
		}
	}()
	return session.Serve(ctx)
}

func (s *service) ReadOnly() string { return s.fs.ReadOnlyReason() }

func (s *service) Close() error { return s.close() }
