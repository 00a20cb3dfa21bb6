package testimage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Walk makes the manifest of a mounted tree by system calls: the kernel's own
// mount of an image or any other. It needs root for trusted attributes and
// foreign files. What it reads changes no access time on a mount that keeps
// none, so it should be one of those.
func Walk(root string) (Manifest, error) {
	rootFD, err := unix.Open(root, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: root, Err: err}
	}
	defer unix.Close(rootFD)
	w := &walker{root: rootFD, manifest: Manifest{}, seen: map[uint64]Record{}}
	w.todo = []string{""}
	rec, err := w.record(rootFD, ".", dirent{})
	if err != nil {
		return nil, fmt.Errorf("the root: %w", err)
	}
	rec.Generation = 0 // a root's handle is not its inode's on every filesystem
	w.manifest[""] = rec
	for len(w.todo) > 0 {
		dir := w.todo[len(w.todo)-1]
		w.todo = w.todo[:len(w.todo)-1]
		if err := w.walkDir(dir); err != nil {
			return nil, fmt.Errorf("walking %s: %w", show(dir), err)
		}
	}
	return w.manifest, nil
}

type walker struct {
	root     int
	manifest Manifest
	todo     []string
	seen     map[uint64]Record // inodes with several links
	buf      [64 << 10]byte
}

type dirent struct {
	name string
	typ  uint8
	ino  uint64
}

// walkDir records the entries of one directory and puts its subdirectories on
// the list.
func (w *walker) walkDir(dir string) error {
	fd, err := openDeep(w.root, dir)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	entries, err := w.readDir(fd)
	if err != nil {
		return err
	}
	for _, e := range entries {
		path := e.name
		if dir != "" {
			path = dir + "/" + e.name
		}
		if _, twice := w.manifest[path]; twice {
			return fmt.Errorf("%q is listed twice", e.name)
		}
		rec, err := w.record(fd, e.name, e)
		if err != nil {
			return fmt.Errorf("%q: %w", e.name, err)
		}
		w.manifest[path] = rec
		if rec.Mode&unix.S_IFMT == unix.S_IFDIR {
			w.todo = append(w.todo, path)
		}
	}
	return nil
}

// openDeep opens a directory that may lie deeper than a path name can say.
func openDeep(root int, path string) (int, error) {
	fd, err := unix.Openat(root, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	for err == nil && path != "" {
		part := path
		if len(part) > 3000 {
			part = part[:strings.LastIndexByte(part[:3000], '/')]
		}
		path = strings.TrimPrefix(path[len(part):], "/")
		var next int
		next, err = unix.Openat(fd, part, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
		_ = unix.Close(fd)
		fd = next
	}
	return fd, err
}

// readDir reads a whole directory with getdents64.
func (w *walker) readDir(fd int) ([]dirent, error) {
	var list []dirent
	dots := 0
	for {
		n, err := unix.Getdents(fd, w.buf[:])
		if err != nil {
			return nil, fmt.Errorf("getdents64: %w", err)
		}
		if n == 0 {
			break
		}
		for b := w.buf[:n]; len(b) > 0; {
			length := binary.NativeEndian.Uint16(b[16:])
			e := dirent{name: unix.ByteSliceToString(b[19:length]), typ: b[18], ino: binary.NativeEndian.Uint64(b)}
			b = b[length:]
			if e.name == "." || e.name == ".." {
				dots++
				continue
			}
			list = append(list, e)
		}
	}
	if dots != 2 {
		return nil, fmt.Errorf(". and .. are listed %d times", dots)
	}
	return list, nil
}

// record collects everything about one entry, the attributes that reading may
// disturb first.
func (w *walker) record(dir int, name string, e dirent) (rec Record, err error) {
	var st unix.Statx_t
	const flags = unix.AT_SYMLINK_NOFOLLOW | unix.AT_STATX_SYNC_AS_STAT
	if err := unix.Statx(dir, name, flags, unix.STATX_BASIC_STATS|unix.STATX_BTIME, &st); err != nil {
		return Record{}, fmt.Errorf("statx: %w", err)
	}
	rec = statxRecord(&st)
	rec.DirentType, rec.DirentIno = e.typ, e.ino
	typ := rec.Mode & unix.S_IFMT
	if typ != unix.S_IFDIR && rec.Nlink > 1 {
		if first, ok := w.seen[rec.Ino]; ok {
			rec.CopyContent(first)
			return rec, nil
		}
		defer func() { w.seen[rec.Ino] = rec }()
	}
	if h, _, herr := unix.NameToHandleAt(dir, name, 0); herr == nil {
		rec.Generation = handleGeneration(h)
	}
	proc := "/proc/self/fd/" + strconv.Itoa(dir) + "/" + name
	if rec.Xattrs, err = readXattrs(proc); err != nil {
		return rec, err
	}
	switch typ {
	case unix.S_IFLNK:
		rec.Link, err = readlinkAt(dir, name)
	case unix.S_IFDIR:
		err = w.openRecord(dir, name, &rec, unix.O_DIRECTORY)
	case unix.S_IFREG:
		err = w.openRecord(dir, name, &rec, 0)
	}
	return rec, err
}

// openRecord adds what only an open file tells.
func (w *walker) openRecord(dir int, name string, rec *Record, flag int) error {
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_NOATIME|flag, 0)
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	if rec.Flags, rec.Project, err = fileAttr(fd); err != nil {
		return err
	}
	if flag != 0 {
		return nil
	}
	// The map before the content: pages in the cache count as data.
	ranges, err := seekMap(f, rec.Size)
	if err != nil {
		return err
	}
	rec.Map = EncodeMap(ranges, rec.Size)
	rec.Sum, err = ContentSum(f, rec.Size, ranges)
	return err
}

// fileAttr reads chattr flags and project id. A filesystem that has no such
// calls gives zeros.
func fileAttr(fd int) (flags, project uint32, err error) {
	n, err := unix.IoctlGetInt(fd, unix.FS_IOC_GETFLAGS)
	if errors.Is(err, unix.ENOTTY) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EOPNOTSUPP) {
		return 0, 0, nil
	}
	if err != nil {
		return 0, 0, fmt.Errorf("FS_IOC_GETFLAGS: %w", err)
	}
	const ioctlGetXattr = 0x801c581f // FS_IOC_FSGETXATTR
	var attr [28]byte
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), ioctlGetXattr, uintptr(unsafe.Pointer(&attr))); e == 0 {
		project = binary.NativeEndian.Uint32(attr[12:])
	}
	return uint32(n), project, nil
}

// statxRecord is what statx(2) tells of a file.
func statxRecord(st *unix.Statx_t) Record {
	rec := Record{
		Mode: uint32(st.Mode), UID: st.Uid, GID: st.Gid, Nlink: st.Nlink, Ino: st.Ino,
		Size: int64(st.Size), Blocks: st.Blocks, Major: st.Rdev_major, Minor: st.Rdev_minor,
		Atime: statxTime(st.Atime), Mtime: statxTime(st.Mtime), Ctime: statxTime(st.Ctime),
	}
	if st.Mask&unix.STATX_BTIME != 0 {
		rec.Btime = statxTime(st.Btime)
	}
	return rec
}

func statxTime(t unix.StatxTimestamp) Time { return Time{true, t.Sec, t.Nsec} }

// handleGeneration takes the generation out of the file handles of ext4
// (FILEID_INO32_GEN) and of FUSE.
func handleGeneration(h unix.FileHandle) uint32 {
	b := h.Bytes()
	switch {
	case h.Type() == 1 && len(b) == 8:
		return binary.NativeEndian.Uint32(b[4:])
	case h.Type() == 0x81 && len(b) == 12:
		return binary.NativeEndian.Uint32(b[8:])
	}
	return 0
}

func readXattrs(path string) (map[string]string, error) {
	list := make([]byte, 64<<10)
	n, err := unix.Llistxattr(path, list)
	if errors.Is(err, unix.EOPNOTSUPP) || n == 0 && err == nil {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("listxattr: %w", err)
	}
	attrs := map[string]string{}
	value := make([]byte, 64<<10)
	for name := range strings.SplitSeq(strings.TrimSuffix(string(list[:n]), "\x00"), "\x00") {
		n, err := unix.Lgetxattr(path, name, value)
		if err != nil {
			return nil, fmt.Errorf("getxattr %q: %w", name, err)
		}
		if _, twice := attrs[name]; twice {
			return nil, fmt.Errorf("attribute %q is listed twice", name)
		}
		attrs[name] = EncodeValue(value[:n])
	}
	return attrs, nil
}

func readlinkAt(dir int, name string) (string, error) {
	buf := make([]byte, 4097)
	n, err := unix.Readlinkat(dir, name, buf)
	if err != nil {
		return "", fmt.Errorf("readlink: %w", err)
	}
	return string(buf[:n]), nil
}
