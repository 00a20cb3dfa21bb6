package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"ext4box/blockdev"
	"ext4box/cmd/ext4box/internal/clone"
	"ext4box/cmd/ext4box/internal/edit"
	"ext4box/ext4"
)

// editOptions are what every verb that changes an image has.
type editOptions struct {
	image  imageOptions
	output string
	quiet  bool
}

func (o *editOptions) addFlags(f *pflag.FlagSet) {
	f.StringVar(&o.output, "output", "", "leave IMAGE alone, and write what becomes of it to the file `COPY`")
	f.BoolVarP(&o.quiet, "quiet", "q", false, "show no progress")
	o.image.addFlags(f)
}

// newEditCommands are the verbs that change an image.
func newEditCommands() []*cobra.Command {
	verbs := []*cobra.Command{newEditCommand(), newReplayCommand()}
	for _, c := range edit.Commands() {
		verbs = append(verbs, newEditVerb(c))
	}
	for _, v := range verbs {
		v.GroupID = groupEdit
	}
	return verbs
}

// newEditVerb makes a verb of a command of scripts.
func newEditVerb(c edit.Command) *cobra.Command {
	var o editOptions
	cmd := &cobra.Command{
		Use:   c.Name + " IMAGE " + c.Args,
		Short: c.Short,
		Args:  argCount(1+c.Min, -1),
	}
	f := cmd.Flags()
	action := c.Options(f)
	o.addFlags(f)
	if f.ShorthandLookup("h") != nil {
		f.Bool("help", false, "help for "+c.Name) // cobra's would be -h
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := c.Check(args[1:]); err != nil {
			return err
		}
		if path, _ := blockdev.ParseSpec(args[0]); missing(path) {
			return fmt.Errorf("%s: no such image; the image comes first: 'ext4box %s'", args[0], cmd.Use)
		}
		return editImage(cmd, args[0], o, "changed", func(ctx context.Context, fs *ext4.FS) error {
			return action(newEditor(ctx, cmd, fs), args[1:])
		})
	}
	return cmd
}

func missing(path string) bool {
	_, err := os.Stat(path)
	return errors.Is(err, os.ErrNotExist)
}

func newEditor(ctx context.Context, cmd *cobra.Command, fs *ext4.FS) *edit.Editor {
	return &edit.Editor{Ctx: ctx, FS: fs, Warn: func(err error) { warn(cmd.ErrOrStderr(), err) }}
}

func newEditCommand() *cobra.Command {
	var o editOptions
	var asJSON bool
	var lines []string
	var names []string
	for _, c := range scriptCommands(nil) {
		names = append(names, c.Name)
	}
	cmd := &cobra.Command{
		Use:   "edit IMAGE [SCRIPT]",
		Short: "Run a script of commands that change an image",
		Long: `Run a script of commands that change an image: one a line, with the options of the
verbs of the same name, without IMAGE. Words are quoted as in a shell; what
follows a # is a comment. A SCRIPT of - is standard input.

The commands are:

    ` + strings.Join(names, " ") + `

cp copies into the image, in which paths begin with a colon:

    cp ./fstab :/etc/fstab

It stops at the first command that fails. What was done before stays; with
--output, nothing does.`,
		Example: `  ext4box edit disk.img -e 'mkdir -p /srv/www' -e 'chown 33:33 /srv/www'
  ext4box edit --output new.img disk.img script`,
		Args: argCount(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			name, script, closeScript, err := openScript(args[1:], lines)
			if err != nil {
				return err
			}
			defer closeScript()
			done := 0
			err = editImage(cmd, args[0], o, "changed", func(ctx context.Context, fs *ext4.FS) (err error) {
				t := &target{cmd: cmd, ctx: ctx, fs: fs, spec: args[0], quiet: o.quiet, stdin: name != "standard input"}
				done, err = newEditor(ctx, cmd, fs).Script(name, script, scriptCommands(t))
				return err
			})
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), struct {
					Commands int `json:"commands"`
				}{done})
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringArrayVarP(&lines, "expression", "e", nil, "run this `COMMAND` instead of a script; may be repeated")
	f.BoolVar(&asJSON, "json", false, "write a JSON object")
	o.addFlags(f)
	return cmd
}

// scriptCommands are the commands that a script can have. The target is not used
// before one is run.
func scriptCommands(t *target) []edit.Command {
	return append(edit.Commands(), cpScriptCommand(t))
}

// openScript is the script of a file, of standard input or of options.
func openScript(args, lines []string) (name string, script io.Reader, closeScript func(), err error) {
	nothing := func() {}
	switch {
	case (len(args) > 0) == (len(lines) > 0):
		return "", nil, nil, errors.New("name one SCRIPT, or give commands with -e")
	case len(lines) > 0:
		for _, l := range lines {
			if strings.Contains(l, "\n") {
				return "", nil, nil, errors.New("a command of -e is one line")
			}
		}
		return "-e", strings.NewReader(strings.Join(lines, "\n")), nothing, nil
	case args[0] == "-":
		return "standard input", os.Stdin, nothing, nil
	}
	f, err := os.Open(args[0])
	if err != nil {
		return "", nil, nil, err
	}
	return args[0], f, func() { f.Close() }, nil
}

// editImage opens an image for writing, or a copy of it, calls fn and closes it.
// done says what could not be, if the image cannot be written.
func editImage(cmd *cobra.Command, spec string, o editOptions, done string, fn func(ctx context.Context, fs *ext4.FS) error) (err error) {
	ctx, stop := interruptible()
	defer stop()
	path, partition := blockdev.ParseSpec(spec)
	o.image.Partition, o.image.Writable, o.image.buffered = partition, true, true
	run := func(path string) (err error) {
		fs, err := openFile(path, spec, o.image, blockdev.LockExclusive)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, fs.Close()) }()
		if reason := fs.ReadOnlyReason(); reason != "" {
			return fmt.Errorf("%s: cannot be %s: %s", spec, done, reason)
		}
		return fn(ctx, fs)
	}
	switch {
	case o.output == "":
		return run(path)
	case o.image.Journal != "":
		return errors.New("with --output the external journal would be changed nevertheless: copy image and journal first, and change the copies")
	}
	src, err := blockdev.OpenFile(path, blockdev.Options{ReadOnly: true, Lock: blockdev.LockShared})
	if err != nil {
		return err
	}
	defer src.Close()
	p := progress{w: cmd.ErrOrStderr(), on: !o.quiet && isTerminal(cmd.ErrOrStderr())}
	err = clone.Replace(ctx, o.output, src, func(bytes int64) { p.copied(1, bytes) }, func(tmp string) error {
		p.clear()
		return run(tmp)
	})
	p.clear()
	return err
}

// interruptible is a context that SIGINT, SIGTERM and SIGHUP end. The second of
// them ends the program at once.
func interruptible() (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(context.Background())
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	go func() {
		select {
		case s := <-signals:
			signal.Stop(signals)
			cancel(interruptError{s.(syscall.Signal)})
		case <-ctx.Done():
		}
	}()
	return ctx, func() {
		signal.Stop(signals)
		cancel(nil)
	}
}

// interruptError ends what was told to end.
type interruptError struct{ signal syscall.Signal }

func (e interruptError) Error() string {
	return fmt.Sprintf("%v: the work is incomplete", e.signal)
}
