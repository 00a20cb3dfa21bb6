package extract

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"ext4box/cmd/ext4box/internal/tree"
	"ext4box/ext4"
)

// Source is the image to copy from. *ext4.FS implements it.
type Source interface {
	tree.FS
	Readlink(ino ext4.Ino) (string, error)
	Getxattr(ino ext4.Ino, name string) ([]byte, error)
	Listxattr(ino ext4.Ino) ([]string, error)
	ReadAt(ino ext4.Ino, p []byte, off int64) (int, error)
	Seek(ino ext4.Ino, off int64, whence int) (int64, error)
}

// Options say what to keep, and who is told.
type Options struct {
	Owner bool // set owner and group; needs root
	// GiveTo is to whom everything belongs, if Owner says so; nil: to whom it
	// belonged.
	GiveTo *Owner
	Xattrs bool // set extended attributes and ACLs

	// Protected are files of the host that are not replaced: the image itself.
	Protected []fs.FileInfo
	// Links are shared by copies to the same directory, so that hard links
	// among them stay. Nil: each copy is on its own.
	Links *Links

	// Problem is told of each file that could not be copied, with its path in
	// the image.
	Problem func(path string, err error)
	// Progress is told of each file that was begun, and of data as it is
	// written.
	Progress func(files, bytes int64)
}

// Owner is a user and a group.
type Owner struct{ UID, GID uint32 }

// Links remembers the copies of files with several links.
type Links struct {
	first map[ext4.Ino]link   // first copies of files with several links
	made  map[fileID]ext4.Ino // the inverse
	bytes int                 // of the paths in first, about
}

// maxLinkBytes bounds Links.bytes. What is not remembered is copied again.
const maxLinkBytes = 256 << 20

// NewLinks returns an empty memory.
func NewLinks() *Links {
	return &Links{first: make(map[ext4.Ino]link), made: make(map[fileID]ext4.Ino)}
}

// Copy copies the file at src, and all that is below it, to dest: into dest under
// its own name where that is a directory, as dest otherwise. name is the last
// component of src's path, empty for the root directory, whose content goes
// directly into dest.
//
// What dest holds already stays, except files that are replaced. The error is one
// that prevented everything, or the cause of ctx's end, at which no half file is
// left; others are counted and told to o.Problem.
func Copy(ctx context.Context, fsys Source, src ext4.Ino, name, dest string, o Options) (tree.Result, error) {
	if o.Links == nil {
		o.Links = NewLinks()
	}
	x := &extractor{Copy: tree.Copy{Ctx: ctx, OnProblem: o.Problem, OnProgress: o.Progress}, src: fsys, o: o, links: o.Links, buf: make([]byte, copyChunk)}
	if err := x.openDest(name, dest); err != nil {
		return tree.Result{}, err
	}
	defer func() { unix.Close(x.base); unix.Close(x.dir) }()
	err := tree.Walk(fsys, src, x)
	return x.Result, err
}

// copyChunk is the most that is read and written at a time, in bytes.
const copyChunk = 1 << 20

type extractor struct {
	tree.Copy
	src Source
	o   Options

	base  int    // the directory everything goes into
	into  string // name of the start in it; "" when base itself is the start
	dir   int    // the directory that is being filled
	above []fileID
	buf   []byte

	links *Links
}

// fileID identifies a file of the host.
type fileID struct{ dev, ino uint64 }

// link is where a file with several links was copied to first.
type link struct {
	path string
	id   fileID
}

// openDest finds out what dest means. Here, and only here, symbolic links are
// followed: the user wrote this path.
func (x *extractor) openDest(name, dest string) error {
	const flags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC
	x.into = name
	var st unix.Stat_t
	if unix.Stat(dest, &st) == nil {
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFCHR, unix.S_IFBLK, unix.S_IFIFO, unix.S_IFSOCK:
			// Replacing /dev/null by a copy would break the machine.
			return fmt.Errorf("destination %s is a device, a pipe or a socket: name a file or a directory", dest)
		}
	}
	fd, err := unix.Open(dest, flags, 0)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) && !strings.HasSuffix(dest, "/") {
		clean := filepath.Clean(dest)
		dest, x.into = filepath.Dir(clean), filepath.Base(clean)
		fd, err = unix.Open(dest, flags, 0)
	}
	if err != nil {
		return fmt.Errorf("destination %s: %w", dest, err)
	}
	x.base = fd
	if x.dir, err = unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0); err != nil {
		unix.Close(fd)
		return fmt.Errorf("destination %s: %w", dest, err)
	}
	return nil
}

// hostName is the name of a node in the directory that is being filled.
func (x *extractor) hostName(n *tree.Node) string {
	if n.Path == "" {
		return x.into
	}
	return n.Name
}

// hostPath is the path of a node from base.
func (x *extractor) hostPath(n *tree.Node) string {
	if x.into == "" || n.Path == "" {
		return x.into + n.Path
	}
	return x.into + "/" + n.Path
}

// Enter implements [tree.Visitor]: it makes the file.
func (x *extractor) Enter(n *tree.Node) error {
	name := x.hostName(n)
	return x.Visit(n, func() error { return x.enterDir(name) }, func() error { return x.makeFile(n, name) })
}

// enterDir makes the directory name if need be and goes into it.
func (x *extractor) enterDir(name string) error {
	up, err := identify(x.dir)
	if err != nil {
		return err
	}
	if name == "" { // the root of the image becomes base itself
		x.above = append(x.above, up)
		return nil
	}
	// Private until it is filled: nobody else gets at what is not yet
	// protected by its own mode.
	if err := unix.Mkdirat(x.dir, name, 0o700); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("create the directory: %w", err)
	}
	fd, err := unix.Openat(x.dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		return errors.New("the destination has a file of that name that is not a directory")
	}
	if err != nil {
		return fmt.Errorf("enter the directory: %w", err)
	}
	unix.Close(x.dir)
	x.dir = fd
	x.above = append(x.above, up)
	return nil
}

// Leave implements [tree.Visitor]: the directory gets its metadata now that
// nothing changes in it any more.
func (x *extractor) Leave(n *tree.Node) error {
	want := x.above[len(x.above)-1]
	x.above = x.above[:len(x.above)-1]
	if x.hostName(n) == "" {
		return x.finishDir(n)
	}
	// Before the mode is set, which may forbid it.
	up, err := unix.Openat(x.dir, "..", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("go back from %q: %w", n.Path, err)
	}
	if err := x.finishDir(n); err != nil {
		return err
	}
	unix.Close(x.dir)
	x.dir = up
	if got, err := identify(up); err != nil || got != want {
		return fmt.Errorf("the destination directory of %q was moved during the copy", n.Path)
	}
	return nil
}

func (x *extractor) finishDir(n *tree.Node) error {
	if err := x.setMetadata(n, target{fd: x.dir}); err != nil {
		return x.Problem(n.Path, err)
	}
	return nil
}

func identify(fd int) (fileID, error) {
	var st unix.Stat_t
	err := unix.Fstat(fd, &st)
	return fileID{st.Dev, st.Ino}, err
}
