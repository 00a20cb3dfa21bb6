package edit

import (
	"errors"
	"fmt"
	"path"
	"strings"
	"syscall"

	"github.com/spf13/pflag"

	"ext4box/cmd/ext4box/internal/insert"
	"ext4box/ext4"
)

var rmCommand = Command{
	Name: "rm", Args: "PATH...", Min: 1, Max: -1,
	Short: "Remove files",
	Options: func(f *pflag.FlagSet) Action {
		recursive := f.BoolP("recursive", "r", false, "remove directories with everything in them")
		f.BoolVarP(recursive, "Recursive", "R", false, "the same as -r")
		_ = f.MarkHidden("Recursive")
		force := f.BoolP("force", "f", false, "what does not exist is no error")
		return func(e *Editor, args []string) error {
			return e.each(args, func(p string) error {
				err := e.remove(p, *recursive)
				if *force && errors.Is(err, syscall.ENOENT) {
					err = nil
				}
				return err
			})
		}
	},
}

var errUndying = errors.New("the root directory, and . and .. of any, cannot be removed")

func (e *Editor) remove(p string, recursive bool) error {
	dir, name, err := e.FS.ResolveParent(p)
	if errors.Is(err, syscall.EINVAL) {
		return errUndying
	}
	if err == nil && strings.HasSuffix(p, "/") {
		_, err = e.FS.Resolve(p) // it has to be a directory
	}
	switch {
	case err != nil:
		return err
	case recursive:
		return e.FS.RemoveAll(dir, name)
	}
	if err = e.FS.Unlink(dir, name); errors.Is(err, syscall.EISDIR) {
		err = fmt.Errorf("%w; -r removes it with everything in it", err)
	}
	return err
}

var rmdirCommand = Command{
	Name: "rmdir", Args: "DIR...", Min: 1, Max: -1,
	Short: "Remove empty directories",
	Options: func(f *pflag.FlagSet) Action {
		return func(e *Editor, args []string) error {
			return e.each(args, func(p string) error {
				dir, name, err := e.FS.ResolveParent(p)
				switch {
				case errors.Is(err, syscall.EINVAL):
					return errUndying
				case err != nil:
					return err
				}
				return e.FS.Rmdir(dir, name)
			})
		}
	},
}

var mvCommand = Command{
	Name: "mv", Args: "SOURCE... DEST", Min: 2, Max: -1,
	Short: "Move or rename files",
	Options: func(f *pflag.FlagSet) Action {
		noClobber := f.BoolP("no-clobber", "n", false, "do not replace anything")
		exact := f.BoolP("no-target-directory", "T", false, "DEST is the new name, also when it is a directory")
		f.BoolP("force", "f", false, "replace what is there, as always")
		return func(e *Editor, args []string) error {
			return e.into(args, !*exact, func(src, dst string) error { return e.move(src, dst, *noClobber) })
		}
	},
}

// into calls fn for each operand but the last, with the path that it is to get:
// the last operand, or a name in it if it is a directory and that is wanted.
func (e *Editor) into(args []string, wantDir bool, fn func(src, dst string) error) error {
	last := len(args) - 1
	dest := args[last]
	inside := wantDir && e.isDir(dest)
	if last > 1 && !inside {
		return PathError(dest, fmt.Errorf("%w; several files need one", syscall.ENOTDIR))
	}
	return e.each(args[:last], func(src string) error {
		if inside {
			return fn(src, path.Join(dest, path.Base(src)))
		}
		return fn(src, dest)
	})
}

func (e *Editor) move(src, dst string, noClobber bool) error {
	oldDir, oldName, err := e.FS.ResolveParent(src)
	if err != nil {
		return err
	}
	ino, err := e.FS.Resolve(src)
	if err != nil {
		return err
	}
	st, err := e.FS.Stat(ino)
	if err != nil {
		return err
	}
	newDir, newName, err := e.FS.ResolveParent(dst)
	if err == nil && strings.HasSuffix(dst, "/") && !st.IsDir() {
		err = syscall.ENOTDIR
	}
	if err != nil {
		return fmt.Errorf("move to %q: %w", dst, err)
	}
	if oldDir == newDir && oldName == newName {
		return errors.New("source and destination are the same file")
	}
	var flags uint32
	if noClobber {
		flags = ext4.RenameNoReplace
	}
	switch err = e.FS.Rename(oldDir, oldName, newDir, newName, flags); {
	case noClobber && errors.Is(err, syscall.EEXIST):
		return nil
	case errors.Is(err, syscall.EINVAL):
		return fmt.Errorf("move to %q: a directory cannot be moved into itself", dst)
	case err != nil:
		return fmt.Errorf("move to %q: %w", dst, err)
	}
	// Of two names of one inode a rename leaves both.
	if left, err := e.FS.Lookup(oldDir, oldName); err == nil && left == ino && !st.IsDir() {
		return e.FS.Unlink(oldDir, oldName)
	}
	return nil
}

var lnCommand = Command{
	Name: "ln", Args: "TARGET... LINK|DIR", Min: 2, Max: -1,
	Short: "Make links, hard or symbolic",
	Options: func(f *pflag.FlagSet) Action {
		symbolic := f.BoolP("symbolic", "s", false, "make symbolic links, whose targets need not exist")
		force := f.BoolP("force", "f", false, "replace what is there")
		exact := f.BoolP("no-target-directory", "T", false, "the last operand is the link, also when it is a directory")
		noDeref := f.BoolP("no-dereference", "n", false, "the last operand is the link, also when it is a link to a directory")
		return func(e *Editor, args []string) error {
			wantDir := !*exact
			if *noDeref {
				ino, err := e.FS.Resolve(args[len(args)-1])
				st, serr := e.FS.Stat(ino)
				wantDir = wantDir && !(err == nil && serr == nil && st.IsSymlink())
			}
			return e.into(args, wantDir, func(src, dst string) error {
				if err := e.link(src, dst, *symbolic, *force); err != nil {
					return fmt.Errorf("link as %q: %w", dst, err)
				}
				return nil
			})
		}
	},
}

func (e *Editor) link(target, name string, symbolic, force bool) error {
	dir, base, err := e.newName(name)
	if err != nil {
		return err
	}
	makeLink := func(name string) error {
		_, err := e.FS.Create(dir, name, ext4.NewNode{Mode: syscall.S_IFLNK | 0o777, Target: target})
		return err
	}
	if !symbolic {
		ino, err := e.FS.Resolve(target)
		if err != nil {
			return err
		}
		st, err := e.FS.Stat(ino)
		if err != nil {
			return err
		}
		if st.IsDir() {
			return errors.New("directories have no hard links")
		}
		if at, err := e.FS.Lookup(dir, base); err == nil && at == ino && force {
			return nil
		}
		makeLink = func(name string) error { return e.FS.Link(ino, dir, name) }
	}
	if force {
		return insert.Replace(e.FS, dir, base, makeLink)
	}
	return makeLink(base)
}

// newName is ResolveParent for a name that is to be made, and not of a directory.
func (e *Editor) newName(p string) (ext4.Ino, string, error) {
	dir, base, err := e.FS.ResolveParent(p)
	switch {
	case errors.Is(err, syscall.EINVAL):
		err = syscall.EEXIST
	case err == nil && strings.HasSuffix(p, "/"):
		err = syscall.EISDIR
	}
	return dir, base, err
}

// open is the inode of a regular file, which is made if it does not exist and
// create says so. It is 0 where there is none.
func (e *Editor) open(p string, create bool) (ext4.Ino, error) {
	ino, err := e.FS.ResolveFollow(p)
	switch {
	case !errors.Is(err, syscall.ENOENT):
		return ino, err
	case !create:
		return 0, nil
	}
	dir, base, err := e.newName(p)
	if err != nil {
		return 0, err
	}
	return e.FS.Create(dir, base, ext4.NewNode{Mode: syscall.S_IFREG | 0o666, Umask: umask})
}
