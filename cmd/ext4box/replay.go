package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"ext4box/ext4"
)

func newReplayCommand() *cobra.Command {
	var o editOptions
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "replay IMAGE",
		Short: "Recover the journal of an image, and stop",
		Long: `Recover an image that was not unmounted: write home what its journal holds, and
finish the deletions and truncations that were interrupted. Afterwards the
image is clean, as after an unmount. It changes the image, or with --output a
copy of it.`,
		Example: `  ext4box replay disk.img
  ext4box replay --output recovered.img disk.img`,
		Args: argCount(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error { return replay(cmd, args[0], o, asJSON) },
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "write a JSON object")
	o.addFlags(cmd.Flags())
	return cmd
}

// replay opens an image for writing, which recovers it, and closes it.
func replay(cmd *cobra.Command, image string, o editOptions, asJSON bool) error {
	var r ext4.Recovery
	err := editImage(cmd, image, o, "recovered", func(_ context.Context, fs *ext4.FS) error {
		r = fs.Recovery()
		return nil
	})
	if err != nil {
		return err
	}
	if asJSON {
		return printJSON(cmd.OutOrStdout(), r)
	}
	if o.output != "" {
		image = o.output
	}
	_, err = fmt.Fprintln(cmd.OutOrStdout(), recoverySentence(image, r))
	return err
}

func recoverySentence(image string, r ext4.Recovery) string {
	image = printable(image)
	switch {
	case !r.Needed && r.Orphans == 0:
		return image + ": clean, nothing to do"
	case r.Orphans == 0:
		return fmt.Sprintf("%s: recovered, %d blocks written", image, r.Blocks)
	}
	return fmt.Sprintf("%s: recovered, %d blocks written, %d interrupted deletions finished", image, r.Blocks, r.Orphans)
}
