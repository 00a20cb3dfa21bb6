package archive

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"strings"

	"golang.org/x/sys/unix"

	"ext4box/cmd/ext4box/internal/tree"
	"ext4box/ext4"
)

// Source is the image to read. *ext4.FS implements it.
type Source interface {
	tree.FS
	Readlink(ino ext4.Ino) (string, error)
	Getxattr(ino ext4.Ino, name string) ([]byte, error)
	Listxattr(ino ext4.Ino) ([]string, error)
	ReadAt(ino ext4.Ino, p []byte, off int64) (int, error)
}

// Writer writes an archive.
type Writer struct {
	src     Source
	tw      *tar.Writer
	problem func(path string, err error)

	prefix string
	links  map[ext4.Ino]string // first name of files with several
	buf    []byte
}

const copyChunk = 1 << 20

// ErrSocket is the problem of a socket, which an archive cannot hold. Sockets mean
// nothing without the process that made them: the archive is complete without.
var ErrSocket = errors.New("tar has no sockets; it is left out")

// NewWriter writes to w. problem is told of each file that is missing from the
// archive, or is incomplete in it.
func NewWriter(w io.Writer, src Source, problem func(path string, err error)) *Writer {
	return &Writer{src: src, tw: tar.NewWriter(w), problem: problem,
		links: make(map[ext4.Ino]string), buf: make([]byte, copyChunk)}
}

// Add writes the file start, under the name given (a slash path without "..",
// empty for the root), and everything below it. The error is one of writing.
func (w *Writer) Add(start ext4.Ino, name string) error {
	w.prefix = strings.Trim(name, "/")
	return tree.Walk(w.src, start, w)
}

// Close finishes the archive.
func (w *Writer) Close() error { return w.tw.Close() }

// Problem implements [tree.Visitor].
func (w *Writer) Problem(path string, err error) error {
	w.problem(path, err)
	return nil
}

// Leave implements [tree.Visitor].
func (w *Writer) Leave(*tree.Node) error { return nil }

// Enter implements [tree.Visitor]: it writes the file.
func (w *Writer) Enter(n *tree.Node) error {
	name := w.name(n)
	h, err := w.header(n, name)
	if err != nil {
		return w.Problem(n.Path, err)
	}
	if err := w.tw.WriteHeader(h); err != nil {
		if h.Typeflag == tar.TypeLink || !errors.Is(err, tar.ErrHeader) {
			return fmt.Errorf("write the archive: %w", err)
		}
		return w.Problem(n.Path, err)
	}
	if h.Typeflag == tar.TypeReg {
		return w.copyData(n)
	}
	return nil
}

// name is the node's name in the archive.
func (w *Writer) name(n *tree.Node) string {
	name := w.prefix
	if name != "" && n.Path != "" {
		name += "/"
	}
	name += n.Path
	switch {
	case name == "":
		return "./"
	case n.Stat.IsDir():
		return name + "/"
	}
	return name
}

func (w *Writer) header(n *tree.Node, name string) (*tar.Header, error) {
	st := &n.Stat
	h := &tar.Header{
		Name: name, Mode: int64(st.Mode & 0o7777), Uid: int(st.UID), Gid: int(st.GID),
		ModTime: st.Mtime, Format: tar.FormatPAX,
	}
	if !st.IsDir() && st.Nlink > 1 {
		if first, ok := w.links[st.Ino]; ok {
			h.Typeflag, h.Linkname = tar.TypeLink, first
			return h, nil
		}
	}
	var err error
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		h.Typeflag, h.Size = tar.TypeReg, st.Size
	case unix.S_IFDIR:
		h.Typeflag = tar.TypeDir
	case unix.S_IFLNK:
		h.Typeflag = tar.TypeSymlink
		if h.Linkname, err = w.src.Readlink(st.Ino); err != nil {
			return nil, err
		}
	case unix.S_IFCHR:
		h.Typeflag, h.Devmajor, h.Devminor = tar.TypeChar, int64(st.RdevMajor), int64(st.RdevMinor)
	case unix.S_IFBLK:
		h.Typeflag, h.Devmajor, h.Devminor = tar.TypeBlock, int64(st.RdevMajor), int64(st.RdevMinor)
	case unix.S_IFIFO:
		h.Typeflag = tar.TypeFifo
	case unix.S_IFSOCK:
		return nil, ErrSocket
	default:
		return nil, fmt.Errorf("the file type in mode %#o is unknown", st.Mode)
	}
	w.addXattrs(n, h)
	if !st.IsDir() && st.Nlink > 1 {
		w.links[st.Ino] = name
	}
	return h, nil
}

// addXattrs adds the attributes as the records that GNU tar, bsdtar and star read
// back.
func (w *Writer) addXattrs(n *tree.Node, h *tar.Header) {
	names, err := w.src.Listxattr(n.Stat.Ino)
	if err != nil {
		w.problem(n.Path, err)
		return
	}
	for _, name := range names {
		if strings.ContainsAny(name, "=\x00") {
			w.problem(n.Path, fmt.Errorf("tar cannot hold an attribute of the name %q; it is left out", name))
			continue
		}
		value, err := w.src.Getxattr(n.Stat.Ino, name)
		if err != nil {
			w.problem(n.Path, fmt.Errorf("attribute %q: %w", name, err))
			continue
		}
		if h.PAXRecords == nil {
			h.PAXRecords = make(map[string]string, len(names))
		}
		h.PAXRecords["SCHILY.xattr."+name] = string(value)
		if key, ok := aclKeys[name]; ok {
			if text, ok := aclText(value); ok {
				h.PAXRecords[key] = text
			}
		}
	}
}

// copyData writes a file's data, zeros where it has holes and where it cannot be
// read.
func (w *Writer) copyData(n *tree.Node) error {
	told := false
	for off := int64(0); off < n.Stat.Size; {
		p := w.buf[:min(int64(len(w.buf)), n.Stat.Size-off)]
		got, err := w.src.ReadAt(n.Stat.Ino, p, off)
		if got < len(p) {
			if !told {
				if err == nil || errors.Is(err, io.EOF) {
					err = io.ErrUnexpectedEOF
				}
				w.problem(n.Path, fmt.Errorf("unreadable data became zeros: %w", err))
				told = true
			}
			clear(p[got:])
		}
		if _, err := w.tw.Write(p); err != nil {
			return fmt.Errorf("write the archive: %w", err)
		}
		off += int64(len(p))
	}
	return nil
}
