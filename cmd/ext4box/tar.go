package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path"

	"github.com/spf13/cobra"

	"ext4box/cmd/ext4box/internal/archive"
	"ext4box/ext4"
)

type tarOptions struct {
	image imageOptions
	file  string
}

func newTarCommand() *cobra.Command {
	var o tarOptions
	cmd := &cobra.Command{
		Use:   "tar IMAGE [PATH...]",
		Short: "Write files of an image as a tar archive",
		Long: `Write files and whole directories of an image as a tar archive in PAX format,
with nanoseconds, extended attributes, ACLs, hard links and devices.`,
		Example: `  ext4box tar disk.img | zstd > disk.tar.zst
  ext4box tar -f etc.tar disk.img@p2 /etc`,
		Args: argCount(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error { return tarOut(cmd, args[0], args[1:], o) },
	}
	cmd.Flags().StringVarP(&o.file, "file", "f", "-", "write to `FILE`; - is standard output")
	o.image.addFlags(cmd.Flags())
	return cmd
}

func tarOut(cmd *cobra.Command, image string, paths []string, o tarOptions) error {
	if len(paths) == 0 {
		paths = []string{"/"}
	}
	if o.file == "-" && isTerminal(cmd.OutOrStdout()) {
		return errors.New("refusing to write an archive to a terminal: use -f FILE or a pipe")
	}
	return withImage(image, o.image, func(fs *ext4.FS) error {
		out := cmd.OutOrStdout()
		var file *os.File
		if o.file != "-" {
			if st, err := os.Stat(o.file); err == nil {
				for _, i := range imageFiles(image, o.image) {
					if os.SameFile(st, i) {
						return fmt.Errorf("%s is the image itself: write the archive to another file", o.file)
					}
				}
			}
			f, err := os.Create(o.file)
			if err != nil {
				return err
			}
			defer f.Close()
			out, file = f, f
		}
		complete, err := writeTar(out, cmd.ErrOrStderr(), fs, paths)
		if err == nil && file != nil {
			err = file.Close()
		}
		if err == nil && !complete {
			err = errSilent
		}
		return err
	})
}

// writeTar writes the archive and tells whether everything is in it.
func writeTar(out, stderr io.Writer, fs *ext4.FS, paths []string) (complete bool, err error) {
	complete = true
	current := ""
	buffered := bufio.NewWriterSize(out, 1<<20)
	w := archive.NewWriter(buffered, fs, func(sub string, err error) {
		if errors.Is(err, archive.ErrSocket) {
			err = fmt.Errorf("warning: %w", err)
		} else {
			complete = false
		}
		warn(stderr, pathError(path.Join(current, sub), err))
	})
	for _, current = range paths {
		ino, err := fs.Resolve(current)
		if err != nil {
			complete = false
			warn(stderr, pathError(current, err))
			continue
		}
		if err := w.Add(ino, path.Clean("/"+current)); err != nil {
			return false, err
		}
	}
	if err := w.Close(); err != nil {
		return false, fmt.Errorf("write the archive: %w", err)
	}
	if err := buffered.Flush(); err != nil {
		return false, fmt.Errorf("write the archive: %w", err)
	}
	return complete, nil
}
