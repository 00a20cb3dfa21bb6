package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"ext4box/blockdev"
	"ext4box/cmd/ext4box/internal/edit"
	"ext4box/mount"
)

// The groups of verbs in the help text.
const (
	groupVerbs = "verbs"
	groupEdit  = "edit"
)

// errSilent ends the program with status 1; whoever returns it has said why.
var errSilent = errors.New("")

// errSetUserID: nothing here asks what the user could do that the program can.
var errSetUserID = errors.New("this program is installed set-user-ID or set-group-ID, and would lend its rights to everybody: chmod ug-s it; users mount with the help of fusermount3")

// run is the program: it understands args, whose first is the name the program
// was called by, and returns the exit status.
func run(args []string, stdout, stderr io.Writer) int {
	if os.Getuid() != os.Geteuid() || os.Getgid() != os.Getegid() {
		warn(stderr, errSetUserID)
		return mount.StatusUsage
	}
	root := newRootCommand()
	root.SetOut(stdout)
	root.SetErr(stderr)
	words := verbFor(root, filepath.Base(args[0]), args[1:])
	if len(words) > 0 {
		words = append([]string{words[0]}, edit.Escape(words[0], words[1:])...)
	}
	root.SetArgs(words)
	err := root.Execute()
	if err == nil {
		return 0
	}
	if _, _, unknown := root.Find(words); unknown != nil {
		err = fmt.Errorf("%w; %s", unknown, rightVerb(root, words[0]))
	}
	if text := err.Error(); text != "" {
		warn(stderr, err)
	}
	if e, ok := errors.AsType[*mount.Error](err); ok {
		return e.Status
	}
	if e, ok := errors.AsType[*statusError](err); ok {
		return e.status
	}
	if e, ok := errors.AsType[interruptError](err); ok {
		return 128 + int(e.signal) // as a shell has it
	}
	return 1
}

// rightVerb says what may have been meant by a word that is no verb.
func rightVerb(root *cobra.Command, word string) string {
	if verbs := root.SuggestionsFor(word); len(verbs) > 0 {
		return "did you mean " + strings.Join(verbs, " or ") + "?"
	}
	return "see 'ext4box --help'"
}

// warn writes one error as one line, with what to do about damage. Names in it may
// come from an image, or from whoever named the image: a terminal is shown none of
// their control characters.
func warn(w io.Writer, err error) {
	text := strings.ReplaceAll(strings.TrimRight(err.Error(), "\n"), "\n", "; ")
	if errors.Is(err, unix.EUCLEAN) && !strings.Contains(text, "e2fsck") {
		text += "; the image is damaged: run e2fsck"
	}
	fmt.Fprintf(w, "ext4box: %s\n", printable(text))
}

// argCount checks the number of arguments, and that none of them is empty: an
// unset variable in a script must not be taken for the root directory. max is -1
// when there is no limit.
func argCount(min, max int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < min || max >= 0 && len(args) > max {
			what := "too few arguments"
			if len(args) >= min {
				what = "too many arguments"
			}
			use := strings.TrimSuffix(cmd.UseLine(), " [flags]")
			if isHelper(cmd) {
				return fmt.Errorf("%s: use '%s'", what, strings.TrimPrefix(use, "ext4box "))
			}
			return fmt.Errorf("%s: use '%s', or see '%s --help'", what, use, cmd.CommandPath())
		}
		if slices.Contains(args, "") {
			return errors.New("an argument is empty: name an image, a path or a directory")
		}
		return nil
	}
}

// isHelper tells whether cmd is what the links are for by which mount(8) and others call the program.
func isHelper(cmd *cobra.Command) bool { return strings.HasSuffix(cmd.Name(), ".fuse.ext4box") }

// verbFor finds out how the program was called: as a helper of mount(8) or
// umount(8), by mount.fuse3 (IMAGE DIR -o OPTIONS), or by a user, with a verb.
func verbFor(root *cobra.Command, name string, args []string) []string {
	switch name {
	case "mount.fuse.ext4box", "mount.ext4box":
		return append([]string{"mount.fuse.ext4box"}, args...)
	case "umount.fuse.ext4box", "umount.ext4box":
		return append([]string{"umount.fuse.ext4box"}, args...)
	case "fsck.fuse.ext4box", "fsck.ext4box":
		return append([]string{"fsck.fuse.ext4box"}, args...)
	}
	if len(args) < 2 || strings.HasPrefix(args[0], "-") {
		return args
	}
	isVerb := slices.ContainsFunc(root.Commands(), func(c *cobra.Command) bool {
		return c.Name() == args[0] || c.HasAlias(args[0])
	})
	// A mistyped verb is not to be taken for an image.
	if path, _ := blockdev.ParseSpec(args[0]); !isVerb && (strings.Contains(path, "/") || exists(path)) {
		return append([]string{"mount"}, args...)
	}
	return args
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func newRootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "ext4box",
		Short: "Mount, read, edit and check ext2, ext3 and ext4 images in an ordinary process",
		Long: `ext4box mounts ext2, ext3 and ext4 images and block devices through FUSE, and
reads, edits and checks them without a mount. What reads a mounted image is a
process in a box. Only mounting needs /dev/fuse; nothing needs root.

IMAGE is an image file or a block device; IMAGE@p2 or IMAGE@2 is its second
partition.`,
		Example: `  ext4box mount disk.img@p2 /mnt
  ext4box umount /mnt
  ext4box ls -l disk.img /etc
  ext4box cp disk.img /home ./home
  ext4box cp ./rootfs/. disk.img:/
  ext4box edit --output new.img disk.img script
  ext4box tar disk.img | zstd > disk.tar.zst`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Version:       version(),

		DisableSuggestions:         true, // they would be several lines
		SuggestionsMinimumDistance: 2,
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		if isHelper(cmd) {
			return fmt.Errorf("%w: %s does not know it", err, cmd.Name())
		}
		return fmt.Errorf("%w; see '%s --help'", err, cmd.CommandPath())
	})
	root.AddGroup(&cobra.Group{ID: groupVerbs, Title: "Verbs:"}, &cobra.Group{ID: groupEdit, Title: "Verbs that change an image:"})
	root.SetHelpCommandGroupID(groupVerbs)
	root.SetCompletionCommandGroupID(groupVerbs)
	root.AddCommand(
		newMountCommand(),
		newUmountCommand(),
		newInfoCommand(),
		newLsCommand(),
		newStatCommand(),
		newCatCommand(),
		newCpCommand(),
		newTarCommand(),
		newCheckCommand(),
		newDoctorCommand(),
		newVersionCommand(),
		newMountHelperCommand(),
		newUmountHelperCommand(),
		newFsckHelperCommand(),
		newServeCommand(),
		newProbeCommand(),
	)
	for _, c := range root.Commands() {
		c.GroupID = groupVerbs
	}
	root.AddCommand(newEditCommands()...)
	root.InitDefaultCompletionCmd()
	if c, _, err := root.Find([]string{"completion"}); err == nil {
		c.RunE = func(*cobra.Command, []string) error {
			return errors.New("for which shell: bash, zsh, fish or powershell?")
		}
	}
	return root
}
