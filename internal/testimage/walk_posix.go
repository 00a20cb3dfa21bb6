package testimage

import (
	"fmt"

	"golang.org/x/sys/unix"

	"ext4box/internal/posixfs"
)

// WalkFS makes the manifest of a directory of a filesystem that may be none of the operating system's.
// Generations, which only handles of the system have, are missing.
func WalkFS(fs posixfs.FS, root string) (Manifest, error) {
	w := &fsWalker{fs: fs, manifest: Manifest{}, seen: map[uint64]Record{}}
	rec, err := w.record(root)
	if err != nil {
		return nil, fmt.Errorf("the root: %w", err)
	}
	w.manifest[""] = rec
	return w.manifest, w.walk(root, "")
}

type fsWalker struct {
	fs       posixfs.FS
	manifest Manifest
	seen     map[uint64]Record // inodes with several links
}

// walk records what is in a directory, which the manifest has as name.
func (w *fsWalker) walk(dir, name string) error {
	entries, err := w.fs.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("listing %s: %w", show(name), err)
	}
	dots := 0
	for _, e := range entries {
		if e.Name == "." || e.Name == ".." {
			dots++
			continue
		}
		path, sub := dir+"/"+e.Name, e.Name
		if name != "" {
			sub = name + "/" + e.Name
		}
		if _, twice := w.manifest[sub]; twice {
			return fmt.Errorf("%s is listed twice", show(sub))
		}
		rec, err := w.record(path)
		if err != nil {
			return fmt.Errorf("%s: %w", show(sub), err)
		}
		rec.DirentType, rec.DirentIno = e.Type, e.Ino
		w.manifest[sub] = rec
		if rec.Mode&unix.S_IFMT == unix.S_IFDIR {
			if err := w.walk(path, sub); err != nil {
				return err
			}
		}
	}
	if dots != 2 {
		return fmt.Errorf(". and .. are listed %d times in %s", dots, show(name))
	}
	return nil
}

func (w *fsWalker) record(path string) (rec Record, err error) {
	st, err := w.fs.Statx(path, unix.STATX_BASIC_STATS|unix.STATX_BTIME)
	if err != nil {
		return rec, fmt.Errorf("statx: %w", err)
	}
	rec = statxRecord(&st)
	typ := rec.Mode & unix.S_IFMT
	if typ != unix.S_IFDIR && rec.Nlink > 1 {
		if first, ok := w.seen[rec.Ino]; ok {
			rec.CopyContent(first)
			return rec, nil
		}
		defer func() { w.seen[rec.Ino] = rec }()
	}
	names, err := w.fs.Listxattr(path)
	if err != nil {
		return rec, fmt.Errorf("listxattr: %w", err)
	}
	for _, name := range names {
		value, err := w.fs.Getxattr(path, name)
		if err != nil {
			return rec, fmt.Errorf("getxattr %q: %w", name, err)
		}
		if rec.Xattrs == nil {
			rec.Xattrs = map[string]string{}
		}
		if _, twice := rec.Xattrs[name]; twice {
			return rec, fmt.Errorf("attribute %q is listed twice", name)
		}
		rec.Xattrs[name] = EncodeValue(value)
	}
	switch typ {
	case unix.S_IFLNK:
		rec.Link, err = w.fs.Readlink(path)
	case unix.S_IFDIR, unix.S_IFREG:
		err = w.content(path, &rec)
	}
	return rec, err
}

// content adds what only an open file tells.
func (w *fsWalker) content(path string, rec *Record) error {
	f, err := w.fs.Open(path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NOATIME, 0)
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	defer f.Close()
	rec.Flags, err = f.Flags()
	if err == nil {
		rec.Project, err = f.Project()
	}
	if err != nil {
		return fmt.Errorf("flags: %w", err)
	}
	if rec.Mode&unix.S_IFMT == unix.S_IFDIR {
		return nil
	}
	ranges, err := SeekMap(rec.Size, f.Seek)
	if err != nil {
		return err
	}
	rec.Map = EncodeMap(ranges, rec.Size)
	rec.Sum, err = ContentSum(posixfs.Reader(f), rec.Size, ranges)
	return err
}
