package main

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"ext4box/cmd/ext4box/internal/tree"
	"ext4box/ext4"
)

type lsOptions struct {
	image     imageOptions
	long      bool
	recursive bool
	all       bool
	directory bool
	inode     bool
	unsorted  bool
	json      bool
}

func newLsCommand() *cobra.Command {
	var o lsOptions
	cmd := &cobra.Command{
		Use:   "ls IMAGE [PATH...]",
		Short: "List directories of an image",
		Example: `  ext4box ls disk.img
  ext4box ls -lR disk.img@p2 /etc
  ext4box ls --json disk.img / | jq -r '.[].path'`,
		Args: argCount(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error { return ls(cmd, args[0], args[1:], o) },
	}
	f := cmd.Flags()
	f.BoolVarP(&o.long, "long", "l", false, "show mode, links, owner, size and time")
	f.BoolVarP(&o.recursive, "recursive", "R", false, "list the directories below as well")
	f.BoolVarP(&o.all, "all", "a", false, "show . and .. as well")
	f.BoolVarP(&o.directory, "directory", "d", false, "show directories themselves, not what is in them")
	f.BoolVarP(&o.inode, "inode", "i", false, "show inode numbers")
	f.BoolVarP(&o.unsorted, "unsorted", "U", false, "keep the order of the directory")
	f.BoolVar(&o.json, "json", false, "write a JSON array")
	o.image.addFlags(f)
	return cmd
}

// listed is a file in a listing.
type listed struct {
	name   string // of an argument all of its path
	in     string // path of the directory, which all that is in it share; "" for an argument
	ino    ext4.Ino
	dir    bool
	stat   ext4.Stat // for -l and --json
	target string
}

// path is the file's path, in the image as the arguments are.
func (e *listed) path() string {
	if e.in == "" {
		return e.name
	}
	return strings.TrimSuffix(e.in, "/") + "/" + e.name
}

type lister struct {
	fs      *ext4.FS
	o       lsOptions
	out     *bufio.Writer
	array   *jsonArray
	stderr  io.Writer
	show    func(string) string
	failed  bool
	started bool // something was printed, so a heading needs a blank line
	seen    map[ext4.Ino]struct{}
}

func ls(cmd *cobra.Command, image string, paths []string, o lsOptions) error {
	if len(paths) == 0 {
		paths = []string{"/"}
	}
	return withImage(image, o.image, func(fs *ext4.FS) error {
		l := &lister{fs: fs, o: o, out: bufio.NewWriter(cmd.OutOrStdout()), stderr: cmd.ErrOrStderr(),
			show: func(s string) string { return s }, seen: make(map[ext4.Ino]struct{})}
		if isTerminal(cmd.OutOrStdout()) {
			l.show = printable
		}
		l.array = &jsonArray{w: l.out}
		if err := l.paths(paths); err != nil {
			return err
		}
		if o.json {
			if err := l.array.end(); err != nil {
				return err
			}
		}
		if err := l.out.Flush(); err != nil {
			return err
		}
		if l.failed {
			return errSilent
		}
		return nil
	})
}

// problem reports what could not be listed; the rest still is.
func (l *lister) problem(path string, err error) {
	l.failed = true
	warn(l.stderr, pathError(path, err))
}

// paths lists the arguments: first the files, then what is in the directories, as
// ls(1) does, so that no file seems to be in a directory.
func (l *lister) paths(paths []string) error {
	resolve := l.fs.ResolveFollow
	if l.o.long || l.o.directory {
		resolve = l.fs.Resolve
	}
	var files, dirs []listed
	for _, path := range paths {
		e := listed{name: path}
		var err error
		if e.ino, err = resolve(path); err == nil {
			err = l.fill(&e, true)
		}
		switch {
		case err != nil:
			l.problem(path, err)
		case l.o.directory || !e.dir:
			files = append(files, e)
		default:
			dirs = append(dirs, e)
		}
	}
	if len(files) > 0 {
		if err := l.print(files); err != nil {
			return err
		}
	}
	for _, d := range dirs {
		if err := l.tree(d, len(paths) > 1 || l.o.recursive); err != nil {
			return err
		}
	}
	return nil
}

// tree lists a directory and, if asked, those below it. The stack holds the
// directories still to be listed, so that no depth is too deep.
func (l *lister) tree(top listed, heading bool) error {
	for stack := []listed{top}; len(stack) > 0; {
		dir := stack[len(stack)-1]
		path := dir.path()
		stack = stack[:len(stack)-1]
		if len(path) > tree.MaxPath {
			l.problem(path, tree.TooDeep())
			continue
		}
		if l.o.recursive {
			if _, again := l.seen[dir.ino]; again {
				l.problem(path, fmt.Errorf("directory inode %d was listed before and is left out", dir.ino))
				continue
			}
			l.seen[dir.ino] = struct{}{}
		}
		entries := l.read(path, dir.ino)
		if heading && !l.o.json {
			blank := ""
			if l.started {
				blank = "\n"
			}
			fmt.Fprintf(l.out, "%s%s:\n", blank, l.show(path))
		}
		if err := l.print(entries); err != nil {
			return err
		}
		if !l.o.recursive {
			continue
		}
		for _, e := range slices.Backward(entries) {
			if e.dir && e.name != "." && e.name != ".." {
				stack = append(stack, e)
			}
		}
	}
	return nil
}

// read reads a directory, as much of it as can be read.
func (l *lister) read(path string, dir ext4.Ino) []listed {
	var entries []listed
	err := l.fs.ReadDir(dir, 0, func(d ext4.Dirent) bool {
		name := string(d.Name)
		if l.o.all || name != "." && name != ".." {
			entries = append(entries, listed{name: name, in: path, ino: d.Ino})
		}
		return true
	})
	if err != nil {
		l.problem(path, err)
	}
	if !l.o.unsorted {
		slices.SortFunc(entries, func(a, b listed) int { return cmp.Compare(a.name, b.name) })
	}
	if l.o.long || l.o.json || l.o.recursive {
		good := entries[:0]
		for _, e := range entries {
			if err := l.fill(&e, l.o.long || l.o.json); err != nil {
				l.problem(e.path(), err)
				continue
			}
			good = append(good, e)
		}
		entries = good
	}
	return entries
}

// fill looks at the inode, and at what a link points to.
func (l *lister) fill(e *listed, target bool) (err error) {
	if e.stat, err = l.fs.Stat(e.ino); err != nil {
		return err
	}
	e.dir = e.stat.IsDir()
	if target && e.stat.IsSymlink() {
		e.target, err = l.fs.Readlink(e.ino)
	}
	return err
}

func (l *lister) print(entries []listed) error {
	l.started = true
	switch {
	case l.o.json:
		for i := range entries {
			if err := l.array.add(newFileJSON(&entries[i])); err != nil {
				return err
			}
		}
	case l.o.long:
		l.printLong(entries)
	default:
		for _, e := range entries {
			if l.o.inode {
				fmt.Fprintf(l.out, "%d ", e.ino)
			}
			fmt.Fprintln(l.out, l.show(e.name))
		}
	}
	return l.out.Flush()
}

func (l *lister) printLong(entries []listed) {
	rows := make([][5]string, len(entries))
	var width [5]int
	for i := range entries {
		st := &entries[i].stat
		size := fmt.Sprint(st.Size)
		if hasDevice(st) {
			size = fmt.Sprintf("%d, %d", st.RdevMajor, st.RdevMinor)
		}
		rows[i] = [5]string{fmt.Sprint(st.Ino), fmt.Sprint(st.Nlink), fmt.Sprint(st.UID), fmt.Sprint(st.GID), size}
		for c, s := range rows[i] {
			width[c] = max(width[c], len(s))
		}
	}
	for i, e := range entries {
		r := rows[i]
		if l.o.inode {
			fmt.Fprintf(l.out, "%*s ", width[0], r[0])
		}
		fmt.Fprintf(l.out, "%s %*s %*s %*s %*s %s %s", modeString(e.stat.Mode),
			width[1], r[1], width[2], r[2], width[3], r[3], width[4], r[4],
			e.stat.Mtime.Format("2006-01-02 15:04"), l.show(e.name))
		if e.stat.IsSymlink() {
			fmt.Fprintf(l.out, " -> %s", l.show(e.target))
		}
		fmt.Fprintln(l.out)
	}
}

// fileJSON is a file for scripts: of ls and of stat.
type fileJSON struct {
	Path        string `json:"path"`
	PathBytes   []byte `json:"path_bytes,omitempty"` // when path is not Unicode
	Type        string `json:"type"`
	Target      string `json:"target,omitempty"`
	TargetBytes []byte `json:"target_bytes,omitempty"`
	ext4.Stat
}

func newFileJSON(e *listed) fileJSON {
	p, t := newName(e.path()), newName(e.target)
	return fileJSON{p.Text, p.Bytes, typeWord(e.stat.Mode), t.Text, t.Bytes, e.stat}
}
