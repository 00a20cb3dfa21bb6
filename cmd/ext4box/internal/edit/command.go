package edit

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"syscall"

	"github.com/spf13/pflag"

	"ext4box/cmd/ext4box/internal/tree"
	"ext4box/ext4"
)

// umask is that of whoever edits an image.
const umask = 0o022

// Editor is an image that is being edited. It is used by one goroutine.
type Editor struct {
	Ctx  context.Context // when it ends, so does the editing, between two files
	FS   *ext4.FS
	Warn func(err error) // is told of each file with which something went wrong
}

// Command is a command, and the verb of the same name.
type Command struct {
	Name    string
	Args    string // the operands, as in a usage line
	Short   string // one sentence
	Min     int    // operands at least
	Max     int    // and at most; -1: no limit
	Options func(f *pflag.FlagSet) Action
}

// Action is what a command does once its options are known.
type Action func(e *Editor, args []string) error

// ErrReported is the result of a command that has told [Editor.Warn] why it
// failed.
var ErrReported = errors.New("")

// Commands are all commands, in the order in which they are shown.
func Commands() []Command {
	return []Command{
		mkdirCommand, rmCommand, rmdirCommand, mvCommand, lnCommand, mknodCommand, touchCommand, truncateCommand,
		chmodCommand, chownCommand, chattrCommand, setfattrCommand,
	}
}

// Escape marks the first operand that looks like an option and is none, such as
// the -w of "chmod -w FILE": the options end before it.
func Escape(name string, args []string) []string {
	var letters string
	switch name {
	case "chmod":
		letters = "rwxXstugo,+=01234567"
	case "chattr":
		letters = "aAcCdDeEFiIjmNPsStTuxV+="
	default:
		return args
	}
	for i, a := range args {
		if a == "--" {
			break
		}
		if len(a) > 1 && a[0] == '-' && strings.Trim(a[1:], letters+"-") == "" && a[1] != '-' {
			return append(append(append([]string(nil), args[:i]...), "--"), args[i:]...)
		}
	}
	return args
}

// Run runs a command with the words that follow its name.
func (c *Command) Run(e *Editor, args []string) error {
	f := pflag.NewFlagSet(c.Name, pflag.ContinueOnError)
	f.Usage = func() {}
	action := c.Options(f)
	if err := f.Parse(Escape(c.Name, args)); err != nil {
		return err
	}
	if err := c.Check(f.Args()); err != nil {
		return err
	}
	return action(e, f.Args())
}

// Check verifies the number of operands, and that none is empty: an unset
// variable must not be taken for the root directory.
func (c *Command) Check(args []string) error {
	what := ""
	switch {
	case len(args) < c.Min:
		what = "too few operands"
	case c.Max >= 0 && len(args) > c.Max:
		what = "too many operands"
	}
	if what != "" {
		return fmt.Errorf("%s: use '%s %s'", what, c.Name, c.Args)
	}
	for _, a := range args {
		if a == "" {
			return errors.New("an operand is empty")
		}
	}
	return nil
}

// PathError is err, said of a path in the image.
func PathError(p string, err error) error {
	if e, ok := errors.AsType[*fs.PathError](err); ok && e.Op == "remove" { // of RemoveAll
		p, err = path.Join(path.Dir(path.Clean(p)), e.Path), e.Err
	}
	if errors.Is(err, syscall.EPERM) {
		err = fmt.Errorf("%w: the file, or its directory, is immutable or append-only; chattr -i or chattr -a takes that off", err)
	}
	return fmt.Errorf("%q: %w", p, err)
}

// each calls fn for each path, and goes on when it fails.
func (e *Editor) each(paths []string, fn func(path string) error) error {
	failed := false
	for _, p := range paths {
		if e.Ctx.Err() != nil {
			return context.Cause(e.Ctx)
		}
		err := fn(p)
		if err != nil && !errors.Is(err, ErrReported) {
			e.Warn(PathError(p, err))
		}
		failed = failed || err != nil
	}
	if failed {
		return ErrReported
	}
	return nil
}

// eachFile calls fn for what each path leads to, following symbolic links if
// asked; and, recursively if asked, for all files below, symbolic links not
// followed.
func (e *Editor) eachFile(paths []string, follow, recursive bool, fn func(st *ext4.Stat) error) error {
	return e.each(paths, func(p string) error {
		resolve := e.FS.Resolve
		if follow {
			resolve = e.FS.ResolveFollow
		}
		ino, err := resolve(p)
		if err != nil {
			return err
		}
		if recursive {
			w := &walker{e: e, top: p, fn: fn}
			if err := tree.Walk(e.FS, ino, w); err != nil {
				return err
			}
			if w.failed {
				return ErrReported
			}
			return nil
		}
		st, err := e.FS.Stat(ino)
		if err != nil {
			return err
		}
		return fn(&st)
	})
}

// walker calls fn for each file of a tree.
type walker struct {
	e      *Editor
	top    string
	fn     func(st *ext4.Stat) error
	failed bool
}

func (w *walker) Enter(n *tree.Node) error {
	if w.e.Ctx.Err() != nil {
		return context.Cause(w.e.Ctx)
	}
	if err := w.fn(&n.Stat); err != nil {
		return w.Problem(n.Path, err)
	}
	return nil
}

func (w *walker) Leave(*tree.Node) error { return nil }

func (w *walker) Problem(sub string, err error) error {
	w.failed = true
	w.e.Warn(PathError(path.Join(w.top, sub), err))
	return nil
}

// isDir tells whether a path leads to a directory.
func (e *Editor) isDir(p string) bool {
	ino, err := e.FS.ResolveFollow(p)
	if err != nil {
		return false
	}
	st, err := e.FS.Stat(ino)
	return err == nil && st.IsDir()
}
