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
		Args:    cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return withImage(args[0], o, func(fs *ext4.FS) error {
				for _, p := range args[1:] {
					if err := cat(cmd.OutOrStdout(), fs, p); err != nil {
						return pathError(p, err)
					}
				}
				return nil
			})
		},
	}
	o.addFlags(cmd.Flags())
	return cmd
}

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
			return fmt.Errorf("write: %w", werr)
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
