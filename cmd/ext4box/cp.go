package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"ext4box/blockdev"
	"ext4box/cmd/ext4box/internal/edit"
	"ext4box/cmd/ext4box/internal/extract"
	"ext4box/cmd/ext4box/internal/hosttree"
	"ext4box/cmd/ext4box/internal/insert"
	"ext4box/cmd/ext4box/internal/tree"
	"ext4box/ext4"
)

type cpOptions struct {
	editOptions
	noOwner  bool
	noXattrs bool
	owner    string
	json     bool
}

func (o *cpOptions) addFlags(f *pflag.FlagSet) {
	f.BoolVar(&o.noOwner, "no-owner", false, "the copies belong to this user, also as root, and there are no devices; in an image, they belong to its root")
	f.BoolVar(&o.noXattrs, "no-xattrs", false, "leave extended attributes and ACLs out")
	f.StringVar(&o.owner, "owner", "", "the copies belong to these `UID:GID`")
	f.BoolP("archive", "a", false, "keep everything, directories included, as always")
	f.BoolP("recursive", "r", false, "copy directories, as always")
}

func newCpCommand() *cobra.Command {
	var o cpOptions
	cmd := &cobra.Command{
		Use:   "cp SOURCE... DEST",
		Short: "Copy files out of an image, into one, or between images",
		Long: `Copy files and whole directories out of an image, into one, or from one to
another, with mode, owner, times, extended attributes, hard links and holes. A
file in an image is written IMAGE:/PATH. Out of a single image they are also
written 'cp IMAGE PATH... DEST'.

DEST is a directory to copy into, or the name of the copy. The content of a
directory goes directly into DEST when its path ends in /. or is the root. A
SOURCE of - is standard input, for one file in an image.

Copied to the host, only root's copies keep owners and devices. Nothing outside
DEST is written, whatever links the image holds; files in the way are replaced,
each when its copy is complete.`,
		Example: `  ext4box cp disk.img:/etc/fstab .
  ext4box cp disk.img / ./everything
  ext4box cp --owner 0:0 ./rootfs/. disk.img:/
  ext4box cp old.img:/home new.img@p2:/
  echo demo | ext4box cp - disk.img:/etc/hostname`,
		Args: argCount(2, -1),
		RunE: func(cmd *cobra.Command, args []string) error { return cp(cmd, args, o) },
	}
	f := cmd.Flags()
	o.addFlags(f)
	f.BoolVar(&o.json, "json", false, "write a JSON object")
	o.editOptions.addFlags(f)
	return cmd
}

// operand is a file that cp copies, or copies to.
type operand struct {
	image string // empty: of the host; ":" for the image that a script edits
	path  string
}

// stdin is the operand of standard input.
var stdin = operand{path: "-"}

// parseOperand splits IMAGE:/PATH. That is a file of the host when there is a
// directory "IMAGE:".
func parseOperand(arg string) operand {
	i := strings.Index(arg, ":/")
	if i == 0 {
		return operand{":", arg[1:]}
	}
	if i > 0 {
		if st, err := os.Stat(arg[:i+1]); err != nil || !st.IsDir() {
			return operand{arg[:i], arg[i+1:]}
		}
	}
	return operand{path: arg}
}

// parseOperands understands all arguments of cp.
func parseOperands(args []string) (sources []operand, dest operand, err error) {
	inImage := 0
	for _, a := range args {
		o := parseOperand(a)
		sources = append(sources, o)
		if o.image == ":" {
			return nil, dest, fmt.Errorf("%q names no image: write IMAGE:/PATH", a)
		}
		if o.image != "" {
			inImage++
		}
	}
	last := len(args) - 1
	if inImage > 0 {
		sources, dest = sources[:last], sources[last]
		for _, s := range sources {
			if s.image == "" && dest.image == "" {
				return nil, dest, fmt.Errorf("%q and %q are both on the host: use cp(1)", s.path, dest.path)
			}
		}
		return sources, dest, nil
	}
	if last < 2 {
		return nil, dest, errors.New("no operand is in an image: write IMAGE:/PATH, or 'ext4box cp IMAGE PATH... DEST'")
	}
	sources = sources[1:last]
	for i, a := range args[1:last] {
		sources[i] = operand{args[0], a}
	}
	return sources, operand{path: args[last]}, nil
}

// cpJSON is what cp --json says.
type cpJSON struct {
	Files    int64 `json:"files"`
	Bytes    int64 `json:"bytes"`
	Problems int64 `json:"problems"`
	Lost     int64 `json:"lost_xattrs"`
}

func cp(cmd *cobra.Command, args []string, o cpOptions) (err error) {
	sources, dest, err := parseOperands(args)
	if err != nil {
		return err
	}
	owner, err := o.parseOwner()
	if err != nil {
		return err
	}
	stderr := cmd.ErrOrStderr()
	c := &copier{cmd: cmd, o: o, owner: owner, images: make(map[string]*sourceImage), warn: func(err error) { warn(stderr, err) }}
	defer func() { err = errors.Join(err, c.close()) }()
	if dest.image == "" {
		if o.output != "" {
			return errors.New("--output is for copies into an image")
		}
		ctx, stop := interruptible()
		defer stop()
		c.ctx = ctx
		err = c.copyOut(sources, dest.path)
	} else {
		err = editImage(cmd, dest.image, o.editOptions, "changed", func(ctx context.Context, fs *ext4.FS) error {
			c.ctx, c.dst, c.dstSpec = ctx, fs, dest.image
			return c.copyIn(sources, dest.path)
		})
	}
	if o.json && (err == nil || errors.Is(err, errSilent)) {
		if err := printJSON(cmd.OutOrStdout(), cpJSON{c.total.Files, c.total.Bytes, c.total.Problems, c.total.Lost}); err != nil {
			return err
		}
	}
	return err
}

// parseOwner understands --owner and --no-owner; nil keeps owners.
func (o *cpOptions) parseOwner() (*insert.Owner, error) {
	switch {
	case o.owner != "" && o.noOwner:
		return nil, errors.New("--owner and --no-owner exclude each other")
	case o.noOwner:
		return &insert.Owner{DropSetID: true}, nil
	case o.owner == "":
		return nil, nil
	}
	user, group, ok := strings.Cut(o.owner, ":")
	uid, uerr := edit.ParseID(user)
	gid, gerr := edit.ParseID(group)
	if !ok || uerr != nil || gerr != nil {
		return nil, fmt.Errorf("--owner %q is not UID:GID, two numbers", o.owner)
	}
	return &insert.Owner{UID: uid, GID: gid}, nil
}

// copier is one copying of several sources.
type copier struct {
	cmd    *cobra.Command
	ctx    context.Context
	o      cpOptions
	owner  *insert.Owner
	images map[string]*sourceImage // sources by their specs
	total  tree.Result
	warn   func(error)

	dst     *ext4.FS // of copies into an image
	dstSpec string
	noStdin bool // it is being read already
}

// sourceImage is an image to copy from, and what of it was copied already.
type sourceImage struct {
	fs      *ext4.FS
	shared  bool // it is that to copy to, and not to be closed
	inserts *insert.Links
}

func (c *copier) close() (err error) {
	for _, i := range c.images {
		if !i.shared {
			err = errors.Join(err, i.fs.Close())
		}
	}
	return err
}

// source opens an image to copy from, once.
func (c *copier) source(spec string) (*sourceImage, error) {
	if i := c.images[spec]; i != nil {
		return i, nil
	}
	i := &sourceImage{inserts: insert.NewLinks()}
	sameFile, same := false, spec == ":"
	if c.dst != nil && !same {
		sameFile, same = sameImage(spec, c.dstSpec)
	}
	if same {
		i.fs, i.shared = c.dst, true
	} else {
		o, lock := c.o.image, blockdev.LockShared
		if c.dst != nil {
			o = imageOptions{} // they say what of the destination to use
		}
		if sameFile {
			lock = blockdev.LockNone // this process has it
		}
		fs, err := openImage(spec, o, lock)
		if err != nil {
			return nil, err
		}
		i.fs = fs
	}
	c.images[spec] = i
	return i, nil
}

// sameImage tells whether two specs are the same file, and the same file system
// in it.
func sameImage(a, b string) (file, image bool) {
	pathA, partA := blockdev.ParseSpec(a)
	pathB, partB := blockdev.ParseSpec(b)
	stA, errA := os.Stat(pathA)
	stB, errB := os.Stat(pathB)
	file = errA == nil && errB == nil && os.SameFile(stA, stB)
	return file, file && partA == partB
}

// copyOut copies files of images to the host.
func (c *copier) copyOut(sources []operand, dest string) error {
	if st, err := os.Stat(dest); len(sources) > 1 && (err != nil || !st.IsDir()) {
		return fmt.Errorf("destination %s is not a directory; several files need one", dest)
	}
	asRoot := os.Geteuid() == 0
	if c.owner != nil && !c.o.noOwner && !asRoot {
		return errors.New("only root can give files away: leave --owner out")
	}
	links := make(map[string]*extract.Links)
	return c.each(sources, func(src operand, problem func(string, error), progress func(int64, int64)) (r tree.Result, err error) {
		i, err := c.source(src.image)
		if err != nil {
			return r, err
		}
		ino, err := i.fs.Resolve(src.path)
		if err != nil {
			problem("", err)
			return tree.Result{Problems: 1}, nil
		}
		if links[src.image] == nil {
			links[src.image] = extract.NewLinks()
		}
		o := extract.Options{
			Owner: asRoot && !c.o.noOwner, Xattrs: !c.o.noXattrs,
			Protected: imageFiles(src.image, c.o.image), Links: links[src.image], Problem: problem, Progress: progress,
		}
		if o.Owner && c.owner != nil {
			o.GiveTo = &extract.Owner{UID: c.owner.UID, GID: c.owner.GID}
		}
		return extract.Copy(c.ctx, i.fs, ino, copyName(src.path), dest, o)
	})
}

// copyIn copies files of the host and of images into an image.
func (c *copier) copyIn(sources []operand, dest string) error {
	if len(sources) > 1 {
		ino, err := c.dst.ResolveFollow(dest)
		if err == nil {
			var st ext4.Stat
			if st, err = c.dst.Stat(ino); err == nil && !st.IsDir() {
				err = syscall.ENOTDIR
			}
		}
		if err != nil {
			return pathError(dest, fmt.Errorf("%w; several files need a directory", err))
		}
	}
	host := hosttree.New(imageFiles(c.dstSpec, c.o.image))
	defer host.Close()
	hostLinks := insert.NewLinks()
	return c.each(sources, func(src operand, problem func(string, error), progress func(int64, int64)) (r tree.Result, err error) {
		o := insert.Options{Owner: c.owner, Xattrs: !c.o.noXattrs, Problem: problem, Progress: progress}
		switch {
		case src == stdin:
			if c.noStdin {
				return r, errors.New("standard input is read already")
			}
			c.noStdin = true
			return insert.Stream(c.ctx, c.cmd.InOrStdin(), c.dst, dest, o)
		case src.image == "":
			start, name := host.Add(src.path)
			o.Links = hostLinks
			return insert.Copy(c.ctx, host, start, name, c.dst, dest, o)
		}
		i, err := c.source(src.image)
		if err != nil {
			return r, err
		}
		ino, err := i.fs.Resolve(src.path)
		if err != nil {
			problem("", err)
			return tree.Result{Problems: 1}, nil
		}
		o.Links = i.inserts
		return insert.Copy(c.ctx, i.fs, ino, copyName(src.path), c.dst, dest, o)
	})
}

// each copies one source after the other, and reports.
func (c *copier) each(sources []operand, one func(src operand, problem func(sub string, err error), progress func(files, bytes int64)) (tree.Result, error)) error {
	stderr := c.cmd.ErrOrStderr()
	p := progress{w: stderr, on: !c.o.quiet && isTerminal(stderr)}
	for _, src := range sources {
		name := src.path
		before := c.total
		r, err := one(src,
			func(sub string, err error) {
				p.clear()
				c.warn(pathError(path.Join(name, sub), err))
			},
			func(files, bytes int64) { p.copied(before.Files+files, before.Bytes+bytes) })
		p.clear()
		c.total.Files += r.Files
		c.total.Bytes += r.Bytes
		c.total.Problems += r.Problems
		c.total.Lost += r.Lost
		if err != nil {
			return err
		}
		if r.Lost > 0 {
			c.warn(fmt.Errorf("warning: %d extended attributes were not set, the first: %w", r.Lost, r.XattrError))
		}
	}
	if c.total.Problems > 0 {
		return errSilent
	}
	return nil
}

// target is the image that a script edits.
type target struct {
	cmd   *cobra.Command
	ctx   context.Context
	fs    *ext4.FS
	spec  string
	quiet bool
	stdin bool // it can be copied from
}

// cpScriptCommand is cp as scripts have it.
func cpScriptCommand(t *target) edit.Command {
	return edit.Command{
		Name: "cp", Args: "SOURCE... :/DEST", Min: 2, Max: -1,
		Options: func(f *pflag.FlagSet) edit.Action {
			var o cpOptions
			o.addFlags(f)
			return func(e *edit.Editor, args []string) (err error) {
				var operands []operand
				for _, a := range args {
					operands = append(operands, parseOperand(a))
				}
				last := len(args) - 1
				if operands[last].image != ":" {
					return fmt.Errorf("%q is not in the image: write :/PATH", args[last])
				}
				c := &copier{cmd: t.cmd, ctx: t.ctx, o: o, images: make(map[string]*sourceImage), dst: t.fs, dstSpec: t.spec, noStdin: !t.stdin, warn: e.Warn}
				c.o.quiet = t.quiet
				if c.owner, err = o.parseOwner(); err != nil {
					return err
				}
				defer func() { err = errors.Join(err, c.close()) }()
				if err := c.copyIn(operands[:last], operands[last].path); !errors.Is(err, errSilent) {
					return err
				}
				return edit.ErrReported
			}
		},
	}
}

// imageFiles are the files that a verb must not write to: the image, and its
// external journal.
func imageFiles(image string, o imageOptions) (files []fs.FileInfo) {
	for _, spec := range []string{image, o.Journal} {
		path, _ := blockdev.ParseSpec(spec)
		if st, err := os.Stat(path); err == nil {
			files = append(files, st)
		}
	}
	return files
}

// copyName is the name that the copy of a path in an image gets; empty where what
// is in the directory goes directly into the destination.
func copyName(p string) string {
	if b := path.Base(p); b != "/" && b != "." && b != ".." {
		return b
	}
	return ""
}
