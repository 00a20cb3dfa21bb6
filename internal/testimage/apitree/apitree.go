// Package apitree makes the manifest of an image through the project's Go
// library, package ext4, for tests that compare it with what the kernel or
// debugfs say. It uses nothing but the library's exported functions, and it
// checks on the way that they agree with each other: each name that ReadDir
// lists is found by Lookup.
package apitree

import (
	"fmt"
	"io"
	"syscall"

	"ext4box/ext4"
	"ext4box/internal/testimage"
)

// Walk makes the manifest.
func Walk(fs *ext4.FS) (testimage.Manifest, error) {
	w := &walker{fs: fs, manifest: testimage.Manifest{}, seen: map[ext4.Ino]testimage.Record{}}
	root, err := w.record(ext4.RootIno)
	if err != nil {
		return nil, fmt.Errorf("the root: %w", err)
	}
	root.Generation = 0 // as in testimage.Walk
	w.manifest[""] = root
	type dir struct {
		path string
		ino  ext4.Ino
	}
	todo := []dir{{"", ext4.RootIno}}
	for len(todo) > 0 {
		d := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		subdirs, err := w.walkDir(d.path, d.ino)
		if err != nil {
			return nil, fmt.Errorf("walking /%.200s: %w", d.path, err)
		}
		for path, ino := range subdirs {
			todo = append(todo, dir{path, ino})
		}
	}
	return w.manifest, nil
}

type walker struct {
	fs       *ext4.FS
	manifest testimage.Manifest
	seen     map[ext4.Ino]testimage.Record
}

type entry struct {
	name string
	typ  uint8
	ino  ext4.Ino
}

func (w *walker) walkDir(path string, ino ext4.Ino) (map[string]ext4.Ino, error) {
	var list []entry
	dots, last := 0, int64(0)
	err := w.fs.ReadDir(ino, 0, func(e ext4.Dirent) bool {
		last = e.Next
		if name := string(e.Name); name == "." || name == ".." {
			dots++
		} else {
			list = append(list, entry{name, e.Type, e.Ino})
		}
		return true
	})
	if err != nil {
		return nil, err
	}
	if dots != 2 {
		return nil, fmt.Errorf(". and .. are listed %d times", dots)
	}
	if err := w.fs.ReadDir(ino, last, func(ext4.Dirent) bool { dots++; return true }); err != nil || dots != 2 {
		return nil, fmt.Errorf("something is listed after the last position %d (error %w)", last, err)
	}
	subdirs := map[string]ext4.Ino{}
	for _, e := range list {
		found, err := w.fs.Lookup(ino, e.name)
		if err != nil || found != e.ino {
			return nil, fmt.Errorf("lookup of %q gives inode %d, %v; ReadDir gives %d", e.name, found, err, e.ino)
		}
		name := e.name
		if path != "" {
			name = path + "/" + name
		}
		if _, twice := w.manifest[name]; twice {
			return nil, fmt.Errorf("%q is listed twice", e.name)
		}
		rec, err := w.record(e.ino)
		if err != nil {
			return nil, fmt.Errorf("%q (inode %d): %w", e.name, e.ino, err)
		}
		rec.DirentType, rec.DirentIno = e.typ, uint64(e.ino)
		w.manifest[name] = rec
		if rec.Mode&syscall.S_IFMT == syscall.S_IFDIR {
			subdirs[name] = e.ino
		}
	}
	return subdirs, nil
}

func (w *walker) record(ino ext4.Ino) (testimage.Record, error) {
	if rec, ok := w.seen[ino]; ok {
		return rec, nil
	}
	st, err := w.fs.Stat(ino)
	if err != nil {
		return testimage.Record{}, err
	}
	rec := testimage.Record{
		Mode: st.Mode, UID: st.UID, GID: st.GID, Nlink: st.Nlink, Ino: uint64(st.Ino), Size: st.Size,
		Blocks: st.Blocks, Major: st.RdevMajor, Minor: st.RdevMinor, Generation: st.Generation,
		Atime: testimage.TimeOf(st.Atime), Mtime: testimage.TimeOf(st.Mtime),
		Ctime: testimage.TimeOf(st.Ctime), Btime: testimage.TimeOf(st.Btime),
	}
	names, err := w.fs.Listxattr(ino)
	if err != nil {
		return rec, fmt.Errorf("attributes: %w", err)
	}
	for _, name := range names {
		value, err := w.fs.Getxattr(ino, name)
		if err != nil {
			return rec, fmt.Errorf("attribute %q: %w", name, err)
		}
		if rec.Xattrs == nil {
			rec.Xattrs = map[string]string{}
		}
		if _, twice := rec.Xattrs[name]; twice {
			return rec, fmt.Errorf("attribute %q is listed twice", name)
		}
		rec.Xattrs[name] = testimage.EncodeValue(value)
	}
	switch st.Mode & syscall.S_IFMT {
	case syscall.S_IFLNK:
		rec.Link, err = w.fs.Readlink(ino)
	case syscall.S_IFDIR:
		rec.Flags, rec.Project = st.Flags, st.ProjectID
	case syscall.S_IFREG:
		rec.Flags, rec.Project = st.Flags, st.ProjectID
		err = w.content(ino, &rec)
	}
	if rec.Nlink > 1 {
		w.seen[ino] = rec
	}
	return rec, err
}

func (w *walker) content(ino ext4.Ino, rec *testimage.Record) error {
	ranges, err := testimage.SeekMap(rec.Size, func(off int64, whence int) (int64, error) {
		return w.fs.Seek(ino, off, whence)
	})
	if err != nil {
		return err
	}
	rec.Map = testimage.EncodeMap(ranges, rec.Size)
	rec.Sum, err = testimage.ContentSum(file{w.fs, ino}, rec.Size, ranges)
	return err
}

// file is the io.ReaderAt of one inode.
type file struct {
	fs  *ext4.FS
	ino ext4.Ino
}

var _ io.ReaderAt = file{}

func (f file) ReadAt(p []byte, off int64) (int, error) { return f.fs.ReadAt(f.ino, p, off) }
