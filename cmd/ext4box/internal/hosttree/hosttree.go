package hosttree

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"ext4box/ext4"
)

// Tree is files of the host and what is below them. It is used by one goroutine.
type Tree struct {
	nodes     []node
	children  map[ext4.Ino]span
	linked    map[fileID]ext4.Ino // numbers of files with several links
	protected []fileID

	dir    ext4.Ino // whose descriptor dirFD is
	dirFD  int
	file   ext4.Ino // which is open; 0: none
	fileFD int
}

// node is a file by its place. Its number is one more than its index.
type node struct {
	name   string
	parent ext4.Ino // top: the name is a path, and all of it is followed
	id     fileID
}

// fileID identifies a file of the host.
type fileID struct{ dev, ino uint64 }

// span is a range of numbers.
type span struct{ first, end ext4.Ino }

// top is no file's number.
const top ext4.Ino = 0

// New returns a tree without files. Protected files are not read.
func New(protected []fs.FileInfo) *Tree {
	t := &Tree{children: map[ext4.Ino]span{}, linked: map[fileID]ext4.Ino{}, dirFD: -1, fileFD: -1}
	for _, p := range protected {
		if s, ok := p.Sys().(*syscall.Stat_t); ok {
			t.protected = append(t.protected, fileID{s.Dev, s.Ino})
		}
	}
	return t
}

// Add adds the file of a path, and returns its number. A symbolic link is
// followed only when a slash follows it. name is what a copy is called: empty
// where the path ends with "." or "..", or is the root.
func (t *Tree) Add(path string) (start ext4.Ino, name string) {
	dir, name := filepath.Split(strings.TrimRight(path, "/"))
	last := name
	if strings.HasSuffix(path, "/") || name == "." || name == ".." {
		dir, last = path, "."
		if name == "." || name == ".." {
			name = ""
		}
	}
	if dir == "" {
		dir = "."
	}
	t.nodes = append(t.nodes, node{name: dir, parent: top})
	t.nodes = append(t.nodes, node{name: last, parent: ext4.Ino(len(t.nodes))})
	return ext4.Ino(len(t.nodes)), name
}

// Close gives the descriptors back.
func (t *Tree) Close() {
	for _, fd := range []int{t.dirFD, t.fileFD} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

func (t *Tree) node(ino ext4.Ino) *node { return &t.nodes[ino-1] }

// enter returns a descriptor of a directory, which is valid until the next call.
func (t *Tree) enter(dir ext4.Ino) (int, error) {
	if dir == t.dir && t.dirFD >= 0 {
		return t.dirFD, nil
	}
	var way []ext4.Ino
	from, owned := unix.AT_FDCWD, false
	for at := dir; at != top; at = t.node(at).parent {
		if at == t.dir && t.dirFD >= 0 {
			from = t.dirFD
			break
		}
		way = append(way, at)
	}
	for _, at := range slices.Backward(way) {
		n, flags := t.node(at), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC
		if n.parent != top {
			flags |= unix.O_NOFOLLOW
		}
		fd, err := unix.Openat(from, n.name, flags, 0)
		if owned {
			unix.Close(from)
		}
		if err != nil {
			return -1, err
		}
		from, owned = fd, true
	}
	if t.dirFD >= 0 {
		unix.Close(t.dirFD)
	}
	t.dir, t.dirFD = dir, from
	return from, nil
}

// Stat implements [tree.FS]. Files with several links have one number.
func (t *Tree) Stat(ino ext4.Ino) (ext4.Stat, error) {
	n := t.node(ino)
	dir, err := t.enter(n.parent)
	if err != nil {
		return ext4.Stat{}, err
	}
	var st unix.Stat_t
	if err := unix.Fstatat(dir, n.name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return ext4.Stat{}, err
	}
	n.id = fileID{st.Dev, st.Ino}
	if slices.Contains(t.protected, n.id) {
		return ext4.Stat{}, errors.New("it is the image itself; it is left out")
	}
	if st.Nlink > 1 && st.Mode&unix.S_IFMT != unix.S_IFDIR {
		if first, ok := t.linked[n.id]; ok {
			ino = first
		} else {
			t.linked[n.id] = ino
		}
	}
	return ext4.Stat{
		Ino: ino, Mode: st.Mode, Nlink: uint32(st.Nlink), UID: st.Uid, GID: st.Gid, Size: st.Size,
		RdevMajor: unix.Major(st.Rdev), RdevMinor: unix.Minor(st.Rdev),
		Atime: time.Unix(st.Atim.Unix()), Mtime: time.Unix(st.Mtim.Unix()), Ctime: time.Unix(st.Ctim.Unix()),
	}, nil
}

// ReadDir implements [tree.FS].
func (t *Tree) ReadDir(dir ext4.Ino, pos int64, fn func(ext4.Dirent) bool) error {
	in, ok := t.children[dir]
	if !ok {
		names, err := t.names(dir)
		if err != nil {
			return err
		}
		slices.Sort(names)
		in.first = ext4.Ino(len(t.nodes) + 1)
		for _, name := range names {
			t.nodes = append(t.nodes, node{name: name, parent: dir})
		}
		in.end = ext4.Ino(len(t.nodes) + 1)
		t.children[dir] = in
	}
	for at := in.first + ext4.Ino(pos); at < in.end; at++ {
		if pos++; !fn(ext4.Dirent{Ino: at, Name: []byte(t.node(at).name), Next: pos}) {
			break
		}
	}
	return nil
}

func (t *Tree) names(dir ext4.Ino) ([]string, error) {
	fd, err := t.open(dir, unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), t.node(dir).name)
	defer f.Close()
	return f.Readdirnames(-1)
}

// open opens a file for reading, which has to be the one that Stat has seen.
func (t *Tree) open(ino ext4.Ino, flags int) (int, error) {
	n := t.node(ino)
	dir, err := t.enter(n.parent)
	if err != nil {
		return -1, err
	}
	// O_NONBLOCK: what has become a fifo would wait for a writer.
	fd, err := unix.Openat(dir, n.name, flags|unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || (fileID{st.Dev, st.Ino}) != n.id {
		unix.Close(fd)
		return -1, errors.Join(err, errors.New("it was replaced by another file meanwhile"))
	}
	return fd, nil
}

// Readlink returns the target of a symbolic link.
func (t *Tree) Readlink(ino ext4.Ino) (string, error) {
	n := t.node(ino)
	dir, err := t.enter(n.parent)
	if err != nil {
		return "", err
	}
	buf := make([]byte, unix.PathMax)
	size, err := unix.Readlinkat(dir, n.name, buf)
	if err != nil {
		return "", err
	}
	return string(buf[:size]), nil
}

// path is a path to a file through an open directory, for system calls that take
// nothing else.
func (t *Tree) path(ino ext4.Ino) (string, error) {
	n := t.node(ino)
	dir, err := t.enter(n.parent)
	return fmt.Sprintf("/proc/self/fd/%d/%s", dir, n.name), err
}

// Listxattr returns the names of the extended attributes; none where the host's
// file system knows none.
func (t *Tree) Listxattr(ino ext4.Ino) ([]string, error) {
	path, err := t.path(ino)
	if err != nil {
		return nil, err
	}
	buf := make([]byte, ext4.MaxXattr) // XATTR_LIST_MAX
	n, err := unix.Llistxattr(path, buf)
	if errors.Is(err, unix.EOPNOTSUPP) || n == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return strings.Split(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00"), nil
}

// Getxattr returns the value of an extended attribute.
func (t *Tree) Getxattr(ino ext4.Ino, name string) ([]byte, error) {
	path, err := t.path(ino)
	if err != nil {
		return nil, err
	}
	buf := make([]byte, ext4.MaxXattr)
	n, err := unix.Lgetxattr(path, name, buf)
	if err != nil {
		return nil, err
	}
	return buf[:n], nil
}

// openFile returns a descriptor of a regular file, which is valid until the next
// call.
func (t *Tree) openFile(ino ext4.Ino) (int, error) {
	if t.file == ino {
		return t.fileFD, nil
	}
	fd, err := t.open(ino, 0)
	if err != nil {
		return -1, err
	}
	if t.fileFD >= 0 {
		unix.Close(t.fileFD)
	}
	t.file, t.fileFD = ino, fd
	return fd, nil
}

// ReadAt implements reading as [ext4.FS.ReadAt] does.
func (t *Tree) ReadAt(ino ext4.Ino, p []byte, off int64) (int, error) {
	fd, err := t.openFile(ino)
	if err != nil {
		return 0, err
	}
	for {
		n, err := unix.Pread(fd, p, off)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return 0, err
		case n == 0 && len(p) > 0:
			return 0, io.EOF
		}
		return n, nil
	}
}

// Seek finds data and holes, as [ext4.FS.Seek] does.
func (t *Tree) Seek(ino ext4.Ino, off int64, whence int) (int64, error) {
	fd, err := t.openFile(ino)
	if err != nil {
		return 0, err
	}
	return unix.Seek(fd, off, whence)
}
