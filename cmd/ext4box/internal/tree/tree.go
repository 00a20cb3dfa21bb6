package tree

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"

	"ext4box/ext4"
)

// FS is what a walk needs of an image. *ext4.FS implements it.
type FS interface {
	Stat(ino ext4.Ino) (ext4.Stat, error)
	ReadDir(dir ext4.Ino, pos int64, fn func(ext4.Dirent) bool) error
}

// Node is a file that a walk has come to.
type Node struct {
	Path string // from the walk's start, slash-separated; "" for the start
	Name string // the last component; "" for the start
	Stat ext4.Stat
}

// Visitor is told of each file. It decides what an error means: the walk goes on
// unless a method returns one.
type Visitor interface {
	// Enter is called for each file, before what is in it. It may return
	// fs.SkipDir to leave a directory alone; Leave is not called then.
	Enter(n *Node) error
	// Leave is called for each directory, after what is in it.
	Leave(n *Node) error
	// Problem is called for what cannot be visited. path is that of the file,
	// or of the directory that could not be read to its end.
	Problem(path string, err error) error
}

// MaxPath is the longest path that a walk goes to, in bytes. It is four times what
// a system call takes at once; without an end, directories in directories would
// need memory for the square of their number.
const MaxPath = 16 << 10

// TooDeep is the problem of a path that is longer than MaxPath.
func TooDeep() error {
	return &entryError{fmt.Sprintf("its path is longer than %d bytes; it is left out", MaxPath)}
}

// batchSize is the number of names that are read ahead in each directory on the
// way down.
const batchSize = 128

type entry struct {
	ino  ext4.Ino
	name string
}

type frame struct {
	node  Node
	batch []entry // not visited yet, in reverse
	next  int64   // position after the batch
	end   bool    // there is nothing after the batch
}

type walk struct {
	fs    FS
	v     Visitor
	seen  map[ext4.Ino]struct{} // directories
	stack []frame
}

// Walk visits start and everything below it, a directory before its content, in
// the order of the directories.
func Walk(fsys FS, start ext4.Ino, v Visitor) error {
	st, err := fsys.Stat(start)
	if err != nil {
		return v.Problem("", err)
	}
	w := &walk{fs: fsys, v: v, seen: make(map[ext4.Ino]struct{})}
	if err := w.enter(Node{Stat: st}); err != nil {
		return err
	}
	for len(w.stack) > 0 {
		if err := w.step(); err != nil {
			return err
		}
	}
	return nil
}

// step visits one entry of the innermost directory, or leaves it.
func (w *walk) step() error {
	top := &w.stack[len(w.stack)-1]
	if len(top.batch) == 0 && !top.end {
		if err := w.fill(top); err != nil {
			return err
		}
	}
	if len(top.batch) == 0 {
		node := top.node
		w.stack = w.stack[:len(w.stack)-1]
		return w.v.Leave(&node)
	}
	e := top.batch[len(top.batch)-1]
	top.batch = top.batch[:len(top.batch)-1]
	path := e.name
	if top.node.Path != "" {
		path = top.node.Path + "/" + e.name
	}
	if len(path) > MaxPath {
		return w.v.Problem(path, TooDeep())
	}
	st, err := w.fs.Stat(e.ino)
	if err != nil {
		return w.v.Problem(path, err)
	}
	return w.enter(Node{Path: path, Name: e.name, Stat: st})
}

func (w *walk) enter(n Node) error {
	if n.Stat.IsDir() {
		if _, again := w.seen[n.Stat.Ino]; again {
			return w.v.Problem(n.Path, &entryError{
				fmt.Sprintf("directory inode %d is in more than one place; this one is left out", n.Stat.Ino)})
		}
		w.seen[n.Stat.Ino] = struct{}{}
	}
	switch err := w.v.Enter(&n); {
	case errors.Is(err, fs.SkipDir):
		return nil
	case err != nil:
		return err
	}
	if n.Stat.IsDir() {
		w.stack = append(w.stack, frame{node: n})
	}
	return nil
}

// fill reads the next names of a directory.
func (w *walk) fill(f *frame) error {
	var bad []string
	before := f.next
	f.end = true
	err := w.fs.ReadDir(f.node.Stat.Ino, f.next, func(d ext4.Dirent) bool {
		f.next = d.Next
		name := string(d.Name)
		switch {
		case name == "." || name == "..":
		case CheckName(name) != nil:
			bad = append(bad, name)
		default:
			f.batch = append(f.batch, entry{d.Ino, name})
		}
		f.end = len(f.batch)+len(bad) < batchSize
		return f.end
	})
	for i, j := 0, len(f.batch)-1; i < j; i, j = i+1, j-1 {
		f.batch[i], f.batch[j] = f.batch[j], f.batch[i]
	}
	for _, name := range bad {
		if err := w.v.Problem(f.node.Path, CheckName(name)); err != nil {
			return err
		}
	}
	if err == nil && !f.end && f.next == before {
		err = &entryError{"the directory does not advance"}
	}
	if err != nil {
		f.end = true
		return w.v.Problem(f.node.Path, err)
	}
	return nil
}

// CheckName refuses what is not one component of a path: such a name, taken from
// an image, would lead out of the directory it is used in.
func CheckName(name string) error {
	if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
		return &entryError{fmt.Sprintf("the name %q is impossible for a file; it is left out", name)}
	}
	return nil
}

// entryError is corruption that shows in a walk only.
type entryError struct{ text string }

func (e *entryError) Error() string { return e.text }
func (e *entryError) Unwrap() error { return syscall.EUCLEAN }
