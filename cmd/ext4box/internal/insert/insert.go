package insert

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"syscall"

	"ext4box/blockdev"
	"ext4box/cmd/ext4box/internal/extract"
	"ext4box/cmd/ext4box/internal/tree"
	"ext4box/ext4"
)

// Source is what to copy from: an image, or a tree of the host.
type Source = extract.Source

// Options say what to keep, and who is told.
type Options struct {
	Owner  *Owner // everything belongs to it; nil: to whom it belonged
	Xattrs bool   // set extended attributes and ACLs
	// Links are shared by copies from the same source, so that hard links among
	// them stay. Nil: each copy is on its own.
	Links *Links
	// Problem is told of each file that could not be copied, with its path
	// below what is copied.
	Problem func(path string, err error)
	// Progress is told of each file that was begun, and of data as it is
	// written.
	Progress func(files, bytes int64)
}

// Owner is to whom copies belong.
type Owner struct {
	UID, GID uint32
	// DropSetID: programs lose set-user-ID and set-group-ID, which another's
	// meant otherwise.
	DropSetID bool
}

// Links remembers the copies of files with several links.
type Links struct {
	made  map[ext4.Ino]copied
	count int
}

// copied is an inode; its number alone could have been given to another since.
type copied struct {
	ino        ext4.Ino
	generation uint32
}

// maxLinks bounds Links. What is not remembered is copied again.
const maxLinks = 16 << 20

// NewLinks returns an empty memory.
func NewLinks() *Links { return &Links{made: make(map[ext4.Ino]copied)} }

// copyChunk is the most that is read and written at a time, in bytes.
const copyChunk = 1 << 20

var buffers blockdev.BufferPool

// Copy copies the file at start, and all that is below it, to dest in the image:
// into dest under its own name where that leads to a directory, as dest
// otherwise. name is that name; with an empty one the content of the directory
// start goes directly into dest. fsys and dst may be the same.
//
// What dest holds already stays, except files that are replaced; a symbolic link
// is a file. The error is one that prevented everything, or the cause of ctx's
// end, at which no half file is left; others are counted and told to o.Problem.
func Copy(ctx context.Context, fsys Source, start ext4.Ino, name string, dst *ext4.FS, dest string, o Options) (tree.Result, error) {
	if o.Links == nil {
		o.Links = NewLinks()
	}
	x := &inserter{Copy: tree.Copy{Ctx: ctx, OnProblem: o.Problem, OnProgress: o.Progress}, src: fsys, dst: dst, same: fsys == Source(dst), o: o, buf: buffers.Get(copyChunk)}
	defer buffers.Put(x.buf)
	st, err := fsys.Stat(start)
	if err != nil {
		x.Problem("", err)
		return x.Result, nil
	}
	if err := x.openDest(name, dest, st.IsDir()); err != nil {
		return x.Result, fmt.Errorf("destination %q: %w", dest, err)
	}
	if x.same && st.IsDir() {
		if err := x.checkInside(start); err != nil {
			return x.Result, fmt.Errorf("destination %q: %w", dest, err)
		}
	}
	err = tree.Walk(fsys, start, x)
	return x.Result, err
}

type inserter struct {
	tree.Copy
	src  Source
	dst  *ext4.FS
	same bool // src is dst
	o    Options

	into  string   // name of the start in the first directory; "": it is that
	dir   ext4.Ino // the directory that is being filled
	above []level
	buf   []byte
}

// level is a directory that was entered.
type level struct {
	dir ext4.Ino // the one above
	new bool     // it was made
}

// openDest finds out what dest means. Here, and only here, symbolic links are
// followed: the user wrote this path.
func (x *inserter) openDest(name, dest string, isDir bool) error {
	ino, err := x.dst.ResolveFollow(dest)
	if err == nil {
		st, err := x.dst.Stat(ino)
		if err != nil {
			return err
		}
		if st.IsDir() {
			x.dir, x.into = ino, name
			if name == "" && !isDir {
				return errors.New("the copy needs a name there")
			}
			return nil
		}
	} else if !errors.Is(err, syscall.ENOENT) && !errors.Is(err, syscall.ELOOP) {
		return err
	}
	if strings.HasSuffix(dest, "/") && !isDir {
		return syscall.ENOTDIR
	}
	x.dir, x.into, err = x.dst.ResolveParent(dest)
	return err
}

// checkInside refuses to copy a directory into itself.
func (x *inserter) checkInside(start ext4.Ino) error {
	seen := make(map[ext4.Ino]bool)
	for at := x.dir; !seen[at]; {
		if at == start {
			return errors.New("a directory cannot be copied into itself")
		}
		seen[at] = true
		up, err := x.dst.Lookup(at, "..")
		if err != nil {
			return err
		}
		at = up
	}
	return nil
}

// name is a node's name in the directory that is being filled.
func (x *inserter) name(n *tree.Node) string {
	if n.Path == "" {
		return x.into
	}
	return n.Name
}

// Enter implements [tree.Visitor]: it makes the file.
func (x *inserter) Enter(n *tree.Node) error {
	name := x.name(n)
	return x.Visit(n, func() error { return x.enterDir(n, name) }, func() error { return x.makeFile(n, name) })
}

// existing looks at what has a name already: zero where there is nothing.
func (x *inserter) existing(n *tree.Node, name string) (st ext4.Stat, err error) {
	ino, err := x.dst.Lookup(x.dir, name)
	if errors.Is(err, syscall.ENOENT) {
		return st, nil
	}
	if err == nil && x.same && ino == n.Stat.Ino {
		err = errors.New("source and destination are the same file")
	}
	if err != nil {
		return st, err
	}
	return x.dst.Stat(ino)
}

// enterDir makes the directory name if need be and goes into it.
func (x *inserter) enterDir(n *tree.Node, name string) error {
	l := level{dir: x.dir}
	if name != "" {
		old, err := x.existing(n, name)
		switch {
		case err != nil:
			return err
		case old.Ino == 0:
			// With its own mode once it is filled.
			node := x.node(n)
			node.Mode = syscall.S_IFDIR | 0o700
			if x.dir, err = x.dst.Create(x.dir, name, node); err != nil {
				x.dir = l.dir
				return fmt.Errorf("create the directory: %w", err)
			}
			l.new = true
		case !old.IsDir():
			return errors.New("the destination has a file of that name that is not a directory")
		default:
			x.dir = old.Ino
		}
	}
	x.above = append(x.above, l)
	return nil
}

// Leave implements [tree.Visitor]: the directory gets its metadata now that
// nothing changes in it any more.
func (x *inserter) Leave(n *tree.Node) error {
	l := x.above[len(x.above)-1]
	x.above = x.above[:len(x.above)-1]
	err := x.setMetadata(n, x.dir, l.new)
	x.dir = l.dir
	if err != nil {
		return x.Problem(n.Path, err)
	}
	return nil
}

// node is what to make of a file.
func (x *inserter) node(n *tree.Node) ext4.NewNode {
	st := &n.Stat
	node := ext4.NewNode{Mode: st.Mode, UID: st.UID, GID: st.GID, RdevMajor: st.RdevMajor, RdevMinor: st.RdevMinor}
	if o := x.o.Owner; o != nil {
		node.UID, node.GID = o.UID, o.GID
		if o.DropSetID && !st.IsDir() {
			node.Mode &^= syscall.S_ISUID | syscall.S_ISGID
		}
	}
	return node
}

// makeFile makes anything but a directory.
func (x *inserter) makeFile(n *tree.Node, name string) error {
	if name == "" {
		return errors.New("it is no directory, and needs a name")
	}
	old, err := x.existing(n, name)
	if err != nil {
		return err
	}
	if old.IsDir() {
		return errors.New("the destination has a directory of that name")
	}
	if n.Stat.Nlink > 1 {
		if done, err := x.linkToCopy(n, name, old); done || err != nil {
			return err
		}
	}
	var ino ext4.Ino
	if n.Stat.IsRegular() {
		ino, err = x.makeRegular(n, name, old)
	} else {
		ino, err = x.makeSpecial(n, name, old)
	}
	if err != nil || n.Stat.Nlink < 2 || x.o.Links.count >= maxLinks {
		return err
	}
	st, err := x.dst.Stat(ino)
	if err != nil {
		return err
	}
	x.o.Links.count++
	x.o.Links.made[n.Stat.Ino] = copied{ino, st.Generation}
	return nil
}

// linkToCopy links name to the earlier copy of the same inode, if there is one
// and it is still what was made of it.
func (x *inserter) linkToCopy(n *tree.Node, name string, old ext4.Stat) (done bool, err error) {
	c, ok := x.o.Links.made[n.Stat.Ino]
	if !ok {
		return false, nil
	}
	st, err := x.dst.Stat(c.ino)
	if err != nil || st.Generation != c.generation || st.Nlink == 0 {
		return false, nil
	}
	if old.Ino == c.ino {
		return true, nil
	}
	err = x.place(name, old, func(name string) error { return x.dst.Link(c.ino, x.dir, name) })
	if errors.Is(err, syscall.EMLINK) {
		return false, nil // another copy, then
	}
	return true, err
}

// place gives something a name with create, replacing what has that name.
func (x *inserter) place(name string, old ext4.Stat, create func(name string) error) error {
	if old.Ino == 0 {
		return create(name)
	}
	return Replace(x.dst, x.dir, name, create)
}

// makeRegular copies a regular file. It has no name until it is complete.
func (x *inserter) makeRegular(n *tree.Node, name string, old ext4.Stat) (_ ext4.Ino, err error) {
	node := x.node(n)
	node.Mode = syscall.S_IFREG | 0o600
	ino, err := x.dst.Tmpfile(x.dir, node)
	if err != nil {
		return 0, fmt.Errorf("create the file: %w", err)
	}
	defer func() { err = errors.Join(err, x.dst.Unhold(ino, 1)) }()
	if err := x.copyData(n, ino); err != nil {
		return 0, err
	}
	if err := x.setMetadata(n, ino, true); err != nil {
		return 0, err
	}
	return ino, x.place(name, old, func(name string) error { return x.dst.Link(ino, x.dir, name) })
}

// makeSpecial makes what has no data: a link, a device, a fifo, a socket.
func (x *inserter) makeSpecial(n *tree.Node, name string, old ext4.Stat) (ino ext4.Ino, err error) {
	node := x.node(n)
	switch node.Mode & syscall.S_IFMT {
	case syscall.S_IFLNK:
		if node.Target, err = x.src.Readlink(n.Stat.Ino); err != nil {
			return 0, err
		}
	case syscall.S_IFCHR, syscall.S_IFBLK, syscall.S_IFIFO, syscall.S_IFSOCK:
	default:
		return 0, fmt.Errorf("the file type in mode %#o is unknown", node.Mode)
	}
	err = x.place(name, old, func(name string) error {
		if ino, err = x.dst.Create(x.dir, name, node); err != nil {
			return fmt.Errorf("create the file: %w", err)
		}
		return x.setMetadata(n, ino, true)
	})
	if err != nil && ino != 0 && old.Ino == 0 {
		err = errors.Join(err, x.dst.Unlink(x.dir, name))
	}
	return ino, err
}

// copyData copies what the file holds and leaves its holes out.
func (x *inserter) copyData(n *tree.Node, ino ext4.Ino) error {
	size, end := n.Stat.Size, int64(0)
	for off := int64(0); off < size; {
		data, err := x.src.Seek(n.Stat.Ino, off, ext4.SeekData)
		if errors.Is(err, syscall.ENXIO) {
			break // only a hole is left
		}
		if err != nil {
			return err
		}
		hole, err := x.src.Seek(n.Stat.Ino, data, ext4.SeekHole)
		if err != nil {
			return err
		}
		if data < off || hole <= data {
			return fmt.Errorf("the map of data and holes does not advance at offset %d", off)
		}
		if data >= size {
			break
		}
		end = min(hole, size)
		if err := x.copyRange(n, ino, data, end); err != nil {
			return err
		}
		off = end
	}
	if end < size {
		return x.dst.Truncate(ino, uint64(size))
	}
	return nil
}

func (x *inserter) copyRange(n *tree.Node, ino ext4.Ino, off, end int64) error {
	for off < end {
		if x.Ctx.Err() != nil {
			return context.Cause(x.Ctx)
		}
		p := x.buf[:min(int64(len(x.buf)), end-off)]
		got, err := x.src.ReadAt(n.Stat.Ino, p, off)
		if got == 0 {
			if err == nil || errors.Is(err, io.EOF) {
				err = errors.New("it became shorter while it was copied")
			}
			return err
		}
		if _, err := x.dst.WriteAt(ino, p[:got], off); err != nil {
			return fmt.Errorf("write at offset %d: %w", off, err)
		}
		off += int64(got)
		x.Progress(0, int64(got))
	}
	return nil
}

// setMetadata sets attributes, and then owner, mode and times.
func (x *inserter) setMetadata(n *tree.Node, ino ext4.Ino, isNew bool) error {
	if x.o.Xattrs {
		if err := x.setXattrs(n, ino, isNew); err != nil {
			return err
		}
	}
	node := x.node(n)
	a := ext4.Attr{UID: &node.UID, GID: &node.GID, Atime: &n.Stat.Atime, Mtime: &n.Stat.Mtime}
	if !n.Stat.IsSymlink() {
		a.Mode = &node.Mode
	}
	if err := x.dst.SetAttr(ino, a); err != nil {
		return fmt.Errorf("set owner, mode and times: %w", err)
	}
	return nil
}

// setXattrs sets what ext4 takes. Other attributes of the host, such as those of
// its own file system, are counted.
func (x *inserter) setXattrs(n *tree.Node, ino ext4.Ino, isNew bool) error {
	names, err := x.src.Listxattr(n.Stat.Ino)
	if err != nil {
		return fmt.Errorf("list the attributes: %w", err)
	}
	if isNew { // the directory's default ACL is none of the source's
		inherited, err := x.dst.Listxattr(ino)
		if err != nil {
			return err
		}
		for _, name := range inherited {
			if !slices.Contains(names, name) {
				if err := x.dst.Removexattr(ino, name); err != nil {
					return err
				}
			}
		}
	}
	for _, name := range names {
		value, err := x.src.Getxattr(n.Stat.Ino, name)
		if err == nil {
			err = x.dst.Setxattr(ino, name, value, 0)
		}
		switch {
		case errors.Is(err, syscall.EOPNOTSUPP):
			x.Result.Lost++
			if x.Result.XattrError == nil {
				x.Result.XattrError = fmt.Errorf("%q, attribute %q: %w", n.Path, name, err)
			}
		case err != nil:
			return fmt.Errorf("attribute %q: %w", name, err)
		}
	}
	return nil
}

// Stream copies all that r has into a regular file at dest, which is replaced if
// it exists: then mode, owner and attributes stay, where o names no owner. A new
// one belongs to root and has mode 0644.
func Stream(ctx context.Context, r io.Reader, dst *ext4.FS, dest string, o Options) (result tree.Result, err error) {
	x := &inserter{Copy: tree.Copy{Ctx: ctx, OnProblem: o.Problem, OnProgress: o.Progress}, dst: dst, o: o, buf: buffers.Get(copyChunk)}
	defer buffers.Put(x.buf)
	if err := x.openDest("", dest, false); err != nil {
		return x.Result, fmt.Errorf("destination %q: %w", dest, err)
	}
	node := ext4.NewNode{Mode: syscall.S_IFREG | 0o644}
	old, err := x.existing(&tree.Node{}, x.into)
	if err != nil {
		return x.Result, fmt.Errorf("destination %q: %w", dest, err)
	}
	if old.IsRegular() {
		node.Mode, node.UID, node.GID = old.Mode, old.UID, old.GID
	}
	if o.Owner != nil {
		node.UID, node.GID = o.Owner.UID, o.Owner.GID
	}
	ino, err := dst.Tmpfile(x.dir, node)
	if err != nil {
		return x.Result, fmt.Errorf("create %q: %w", dest, err)
	}
	defer func() { err = errors.Join(err, dst.Unhold(ino, 1)) }()
	x.Progress(1, 0)
	for end := false; !end; {
		if ctx.Err() != nil {
			return x.Result, context.Cause(ctx)
		}
		n, err := io.ReadFull(r, x.buf)
		if end = errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF); err != nil && !end {
			return x.Result, fmt.Errorf("read the input: %w", err)
		}
		if n > 0 {
			if _, err := dst.WriteAt(ino, x.buf[:n], x.Result.Bytes); err != nil {
				return x.Result, fmt.Errorf("write %q: %w", dest, err)
			}
			x.Progress(0, int64(n))
		}
	}
	if old.IsRegular() {
		if err := x.keepAttributes(old, ino, node); err != nil {
			return x.Result, fmt.Errorf("attributes of %q: %w", dest, err)
		}
	}
	if err := x.place(x.into, old, func(name string) error { return dst.Link(ino, x.dir, name) }); err != nil {
		return x.Result, fmt.Errorf("create %q: %w", dest, err)
	}
	return x.Result, nil
}

// keepAttributes gives the new version of a file the attributes of the old one.
func (x *inserter) keepAttributes(old ext4.Stat, ino ext4.Ino, node ext4.NewNode) error {
	x.src = x.dst
	if err := x.setXattrs(&tree.Node{Stat: old}, ino, true); err != nil {
		return err
	}
	return x.dst.SetAttr(ino, ext4.Attr{Mode: &node.Mode, UID: &node.UID, GID: &node.GID})
}

// Replace puts in the place of a name what create makes under another name, with a
// rename: after a crash the name leads to the old file or to the new one.
func Replace(fsys *ext4.FS, dir ext4.Ino, name string, create func(name string) error) error {
	for {
		tmp := fmt.Sprintf(".ext4box-%08x", rand.Uint32())
		err := create(tmp)
		if errors.Is(err, syscall.EEXIST) {
			continue
		}
		if err == nil {
			err = fsys.Rename(dir, tmp, dir, name, 0)
		}
		if err != nil {
			if e := fsys.Unlink(dir, tmp); e != nil && !errors.Is(e, syscall.ENOENT) {
				err = errors.Join(err, e)
			}
		}
		return err
	}
}
