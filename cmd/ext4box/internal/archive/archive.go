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
	held   int                 // bytes of these names
	buf    []byte
}

const (
	copyChunk = 1 << 20
	// maxLinkBytes bounds the memory for names of files with several. A file
	// that is not remembered is in the archive again.
	maxLinkBytes = 256 << 20
	// maxRecords is the length of a file's attributes in the archive. Readers
	// take 1 MiB of records before a file, names included.
	maxRecords = 1<<20 - 128<<10
	// maxHoles is the length of the holes of one file, which are zeros in the
	// archive: more of them than this is not meant to be there.
	maxHoles = 1 << 40
)

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
		if err := w.checkHoles(st); err != nil {
			return nil, err
		}
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
		if w.held += len(name); w.held <= maxLinkBytes {
			w.links[st.Ino] = name
		}
	}
	return h, nil
}

// checkHoles refuses a file that would fill any disk with zeros: its size is
// whatever the image says.
func (w *Writer) checkHoles(st *ext4.Stat) error {
	s, ok := w.src.(interface {
		Seek(ino ext4.Ino, off int64, whence int) (int64, error)
	})
	if !ok || st.Size <= maxHoles {
		return nil
	}
	holes := int64(0)
	for off, pieces := int64(0), 0; off < st.Size && pieces < 1<<16; pieces++ {
		data, err := s.Seek(st.Ino, off, ext4.SeekData)
		if errors.Is(err, unix.ENXIO) {
			data, err = st.Size, nil
		}
		if err != nil {
			return err
		}
		if holes += data - off; holes > maxHoles {
			return fmt.Errorf("of its %d bytes more than %d are holes, which tar would hold as zeros; it is left out", st.Size, int64(maxHoles))
		}
		if off = data; off < st.Size {
			if off, err = s.Seek(st.Ino, data, ext4.SeekHole); err != nil {
				return err
			}
		}
	}
	return nil
}

// addXattrs adds the attributes as the records that GNU tar, bsdtar and star read
// back.
func (w *Writer) addXattrs(n *tree.Node, h *tar.Header) {
	names, err := w.src.Listxattr(n.Stat.Ino)
	if err != nil {
		w.problem(n.Path, err)
		return
	}
	room := maxRecords
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
		if room -= len(name) + len(value) + 32; room < 0 {
			w.problem(n.Path, fmt.Errorf("all attributes together are too long for tar; %q and what follows is left out", name))
			return
		}
		if h.PAXRecords == nil {
			h.PAXRecords = make(map[string]string, len(names))
		}
		h.PAXRecords["SCHILY.xattr."+name] = string(value)
		if key, ok := aclKeys[name]; ok {
			if text, ok := aclText(value); ok {
				room -= len(text) + 32
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
