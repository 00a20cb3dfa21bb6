package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"ext4box/blockdev"
	"ext4box/ext4"
)

func newReplayCommand() *cobra.Command {
	var o imageOptions
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "replay IMAGE",
		Short: "Recover the journal of an image, and stop",
		Long: `Recover an image that was not unmounted: write home what its journal holds, and
finish the deletions and truncations that were interrupted. Afterwards the
image is clean, as after an unmount. It changes the image.`,
		Example: `  ext4box replay disk.img`,
		Args:    argCount(1, 1),
		RunE:    func(cmd *cobra.Command, args []string) error { return replay(cmd, args[0], o, asJSON) },
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "write a JSON object")
	o.addFlags(cmd.Flags())
	return cmd
}

// replay opens an image for writing, which recovers it, and closes it.
func replay(cmd *cobra.Command, image string, o imageOptions, asJSON bool) (err error) {
	o.Writable = true
	fs, err := openImage(image, o, blockdev.LockExclusive)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, fs.Close()) }()
	if reason := fs.ReadOnlyReason(); reason != "" {
		return fmt.Errorf("%s: cannot be recovered: %s", image, reason)
	}
	r := fs.Recovery()
	if asJSON {
		return printJSON(cmd.OutOrStdout(), r)
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
