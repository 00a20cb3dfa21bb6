package ext4

import (
	"errors"
	"io"
	iofs "io/fs"
	"path"
	"slices"
	"strings"
	"syscall"
	"time"

	"ext4box/ext4/internal/disk"
)

// View is a filesystem as Go's io/fs sees it: slash-separated paths relative to
// the root, symbolic links followed inside the filesystem. It implements
// [iofs.FS], [iofs.ReadDirFS], [iofs.StatFS], [iofs.ReadLinkFS] and
// [iofs.ReadFileFS]. FileInfo.Sys returns a *[Stat].
//
// Methods may be called concurrently; an open file may not.
type View struct{ fs *FS }

// FS returns the io/fs view of the filesystem.
func (fs *FS) FS() *View { return &View{fs} }

var (
	_ iofs.ReadDirFS   = (*View)(nil)
	_ iofs.StatFS      = (*View)(nil)
	_ iofs.ReadLinkFS  = (*View)(nil)
	_ iofs.ReadFileFS  = (*View)(nil)
	_ iofs.ReadDirFile = (*openDir)(nil)
	_ io.ReaderAt      = (*openFile)(nil)
	_ io.Seeker        = (*openFile)(nil)
)

// find resolves a name and wraps what goes wrong as io/fs wants it.
func (v *View) find(op, name string, follow bool) (*fileInfo, error) {
	if !iofs.ValidPath(name) {
		return nil, &iofs.PathError{Op: op, Path: name, Err: iofs.ErrInvalid}
	}
	p := name
	if p == "." {
		p = ""
	}
	ino, err := v.fs.resolve(p, follow)
	if err == nil {
		var info *fileInfo
		if info, err = v.info(path.Base(name), ino); err == nil {
			return info, nil
		}
	}
	return nil, &iofs.PathError{Op: op, Path: name, Err: err}
}

func (v *View) info(name string, ino Ino) (*fileInfo, error) {
	st, err := v.fs.Stat(ino)
	if err != nil {
		return nil, err
	}
	return &fileInfo{name: name, stat: st}, nil
}

// Open opens a file or directory. Files also implement [io.ReaderAt] and
// [io.Seeker].
func (v *View) Open(name string) (iofs.File, error) {
	info, err := v.find("open", name, true)
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		return &openDir{view: v, info: info}, nil
	}
	return &openFile{fs: v.fs, info: info}, nil
}

// Stat follows symbolic links.
func (v *View) Stat(name string) (iofs.FileInfo, error) {
	info, err := v.find("stat", name, true)
	if err != nil {
		return nil, err
	}
	return info, nil
}

// Lstat does not follow a symbolic link at the end.
func (v *View) Lstat(name string) (iofs.FileInfo, error) {
	info, err := v.find("lstat", name, false)
	if err != nil {
		return nil, err
	}
	return info, nil
}

// ReadLink returns the target of a symbolic link as it is stored.
func (v *View) ReadLink(name string) (string, error) {
	info, err := v.find("readlink", name, false)
	if err != nil {
		return "", err
	}
	target, err := v.fs.Readlink(info.stat.Ino)
	if err != nil {
		return "", &iofs.PathError{Op: "readlink", Path: name, Err: err}
	}
	return target, nil
}

// ReadFile returns the content of a file. It grows the result as it reads, so
// that a lying size costs nothing. A file longer than the filesystem, most of
// which is a hole, is an error that is EFBIG.
func (v *View) ReadFile(name string) ([]byte, error) {
	f, err := v.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if o, ok := f.(*openFile); ok && uint64(o.info.stat.Size)>>v.fs.geo.BlockBits > v.fs.geo.BlocksCount {
		return nil, &iofs.PathError{Op: "read", Path: name, Err: syscall.EFBIG}
	}
	return io.ReadAll(f)
}

// ReadDir returns the entries of a directory sorted by name, without "." and
// "..".
func (v *View) ReadDir(name string) ([]iofs.DirEntry, error) {
	f, err := v.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	d, ok := f.(*openDir)
	if !ok {
		return nil, &iofs.PathError{Op: "readdir", Path: name, Err: syscall.ENOTDIR}
	}
	list, err := d.ReadDir(-1)
	sortEntries(list)
	return list, err
}

// fileInfo implements iofs.FileInfo and iofs.DirEntry.
type fileInfo struct {
	name string
	stat Stat
}

func (i *fileInfo) Name() string                 { return i.name }
func (i *fileInfo) Size() int64                  { return i.stat.Size }
func (i *fileInfo) ModTime() time.Time           { return i.stat.Mtime }
func (i *fileInfo) IsDir() bool                  { return i.stat.IsDir() }
func (i *fileInfo) Sys() any                     { return &i.stat }
func (i *fileInfo) Mode() iofs.FileMode          { return FileMode(i.stat.Mode) }
func (i *fileInfo) Type() iofs.FileMode          { return i.Mode().Type() }
func (i *fileInfo) Info() (iofs.FileInfo, error) { return i, nil }
func (i *fileInfo) String() string               { return iofs.FormatFileInfo(i) }

// FileMode converts the st_mode of stat(2) to the mode of io/fs.
func FileMode(mode uint32) iofs.FileMode {
	m := iofs.FileMode(mode & 0o777)
	switch mode & disk.ModeFmt {
	case disk.ModeDir:
		m |= iofs.ModeDir
	case disk.ModeLink:
		m |= iofs.ModeSymlink
	case disk.ModeChar:
		m |= iofs.ModeDevice | iofs.ModeCharDevice
	case disk.ModeBlock:
		m |= iofs.ModeDevice
	case disk.ModeFifo:
		m |= iofs.ModeNamedPipe
	case disk.ModeSocket:
		m |= iofs.ModeSocket
	}
	if mode&syscall.S_ISUID != 0 {
		m |= iofs.ModeSetuid
	}
	if mode&syscall.S_ISGID != 0 {
		m |= iofs.ModeSetgid
	}
	if mode&syscall.S_ISVTX != 0 {
		m |= iofs.ModeSticky
	}
	return m
}

// openFile is an open file that is not a directory.
type openFile struct {
	fs   *FS
	info *fileInfo
	pos  int64
}

func (f *openFile) Stat() (iofs.FileInfo, error) { return f.info, nil }
func (f *openFile) Close() error                 { return nil }

func (f *openFile) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	n, err := f.ReadAt(p, f.pos)
	f.pos += int64(n)
	if n > 0 && errors.Is(err, io.EOF) {
		err = nil
	}
	return n, err
}

func (f *openFile) ReadAt(p []byte, off int64) (int, error) {
	n, err := f.fs.ReadAt(f.info.stat.Ino, p, off)
	if err != nil && err != io.EOF {
		err = &iofs.PathError{Op: "read", Path: f.info.name, Err: err}
	}
	return n, err
}

func (f *openFile) Seek(off int64, whence int) (int64, error) {
	switch whence {
	case io.SeekStart:
	case io.SeekCurrent:
		off += f.pos
	case io.SeekEnd:
		off += f.info.stat.Size
	case SeekData, SeekHole:
		var err error
		if off, err = f.fs.Seek(f.info.stat.Ino, off, whence); err != nil {
			return 0, &iofs.PathError{Op: "seek", Path: f.info.name, Err: err}
		}
	default:
		off = -1
	}
	if off < 0 {
		return 0, &iofs.PathError{Op: "seek", Path: f.info.name, Err: syscall.EINVAL}
	}
	f.pos = off
	return off, nil
}

// openDir is an open directory.
type openDir struct {
	view *View
	info *fileInfo
	pos  int64
}

func (d *openDir) Stat() (iofs.FileInfo, error) { return d.info, nil }
func (d *openDir) Close() error                 { return nil }

func (d *openDir) Read([]byte) (int, error) {
	return 0, &iofs.PathError{Op: "read", Path: d.info.name, Err: syscall.EISDIR}
}

// ReadDir returns the next n entries, or all that are left if n is not
// positive, in the order of the directory.
func (d *openDir) ReadDir(n int) ([]iofs.DirEntry, error) {
	var list []iofs.DirEntry
	var failed error
	err := d.view.fs.ReadDir(d.info.stat.Ino, d.pos, func(e Dirent) bool {
		if !dotName(e.Name) {
			var info *fileInfo
			if info, failed = d.view.info(string(e.Name), e.Ino); failed != nil {
				return false
			}
			list = append(list, info)
		}
		d.pos = e.Next
		return n <= 0 || len(list) < n
	})
	if err == nil {
		err = failed
	}
	if err != nil {
		return list, &iofs.PathError{Op: "readdir", Path: d.info.name, Err: err}
	}
	if n > 0 && len(list) == 0 {
		return nil, io.EOF
	}
	return list, nil
}

func sortEntries(list []iofs.DirEntry) {
	slices.SortFunc(list, func(a, b iofs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
}
