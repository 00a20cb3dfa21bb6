package main

import (
	"errors"
	"time"

	"github.com/spf13/cobra"

	"ext4box/mount"
)

// umountTimeout is how long umount waits for the image to be closed.
const umountTimeout = time.Minute

func newUmountCommand() *cobra.Command {
	o := mount.UnmountOptions{Timeout: umountTimeout}
	cmd := &cobra.Command{
		Use:   "umount DIR|IMAGE...",
		Short: "Unmount, and return when the image is closed",
		Long: `Unmount, and return when the server has closed the image: from then on it can be
copied, changed or mounted again.`,
		Example: `  ext4box umount /mnt`,
		Args:    argCount(1, -1),
		RunE:    func(_ *cobra.Command, args []string) error { return umount(args, o) },
	}
	f := cmd.Flags()
	f.BoolVarP(&o.Lazy, "lazy", "l", false, "take it out of the tree now; the server ends with its last user")
	f.BoolVarP(&o.Force, "force", "f", false, "abort requests that are not answered")
	f.DurationVar(&o.Timeout, "timeout", umountTimeout, "how long to wait for the image to be closed, a `TIME` like 90s or 5m; 0 is for ever")
	return cmd
}

// newUmountHelperCommand is what umount(8) calls: umount.fuse.ext4box DIR
// [-flnrv] [-N NAMESPACE] [-t TYPE].
func newUmountHelperCommand() *cobra.Command {
	o := mount.UnmountOptions{Timeout: umountTimeout}
	var namespace string
	cmd := &cobra.Command{
		Use: "umount.fuse.ext4box DIR", Hidden: true, Args: argCount(1, 1),
		RunE: func(_ *cobra.Command, args []string) error {
			if namespace != "" {
				return errNamespace
			}
			return umount(args, o)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&o.Lazy, "lazy", "l", false, "")
	f.BoolVarP(&o.Force, "force", "f", false, "")
	f.StringVarP(&namespace, "namespace", "N", "", "")
	ignoreFlags(cmd, "nrv", "t")
	return cmd
}

// errNamespace refuses mount(8)'s -N.
var errNamespace error = &mount.Error{Status: mount.StatusUsage,
	Err: errors.New("option -N cannot be done by a helper: use nsenter(1)")}

func umount(targets []string, o mount.UnmountOptions) error {
	var errs []error
	for _, t := range targets {
		errs = append(errs, mount.Unmount(t, o))
	}
	return errors.Join(errs...)
}

// ignoreFlags accepts flags that change nothing: one-letter switches, and
// one-letter flags with a value.
func ignoreFlags(cmd *cobra.Command, switches, valued string) {
	for _, c := range switches {
		cmd.Flags().BoolP("ignored-"+string(c), string(c), false, "")
	}
	for _, c := range valued {
		cmd.Flags().StringP("ignored-"+string(c), string(c), "", "")
	}
}
