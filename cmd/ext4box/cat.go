package main

import (
	"errors"
	"fmt"
	"io"
	"syscall"

	"github.com/spf13/cobra"

	"ext4box/ext4"
)

func newCatCommand() *cobra.Command {
	var o imageOptions
	cmd := &cobra.Command{
		Use:     "cat IMAGE PATH...",
		Short:   "Write files of an image to standard output",
		Example: `  ext4box cat disk.img /etc/fstab`,
		Args:    argCount(2, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return withImage(args[0], o, func(fs *ext4.FS) error {
				failed := false
				for _, p := range args[1:] {
					switch err := cat(cmd.OutOrStdout(), fs, p); {
					case errors.As(err, new(writeError)):
						return err
					case err != nil:
						failed = true
						warn(cmd.ErrOrStderr(), pathError(p, err))
					}
				}
				if failed {
					return errSilent
				}
				return nil
			})
		},
	}
	o.addFlags(cmd.Flags())
	return cmd
}

// writeError is a failure of the output, which ends everything.
type writeError struct{ error }

func (e writeError) Unwrap() error { return e.error }

func cat(w io.Writer, fs *ext4.FS, path string) error {
	ino, err := fs.ResolveFollow(path)
	if err != nil {
		return err
	}
	st, err := fs.Stat(ino)
	if err != nil {
		return err
	}
	switch {
	case st.IsDir():
		return syscall.EISDIR
	case !st.IsRegular():
		return fmt.Errorf("a %s has no content", typeWord(st.Mode))
	}
	buf := make([]byte, 1<<20)
	for off := int64(0); ; {
		n, err := fs.ReadAt(ino, buf, off)
		if _, werr := w.Write(buf[:n]); werr != nil {
			return writeError{werr}
		}
		off += int64(n)
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		case n == 0:
			return io.ErrNoProgress
		}
	}
}
