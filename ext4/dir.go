package ext4

import (
	"bytes"
	"fmt"
	"syscall"

	"ext4box/ext4/internal/dirent"
	"ext4box/ext4/internal/disk"
	"ext4box/ext4/internal/fastcommit"
)

// Dirent is one entry of a directory.
type Dirent struct {
	Ino  Ino
	Type uint8  // DT_* of getdents(2); DTUnknown on filesystems that do not record it
	Name []byte // valid until the callback returns
	Next int64  // position behind the entry, for ReadDir
}

// Values of Dirent.Type.
const (
	DTUnknown = 0
	DTFifo    = 1
	DTChar    = 2
	DTDir     = 4
	DTBlock   = 6
	DTReg     = 8
	DTLink    = 10
	DTSocket  = 12
)

var direntTypes = [...]uint8{
	disk.FTUnknown: DTUnknown,
	disk.FTReg:     DTReg,
	disk.FTDir:     DTDir,
	disk.FTChar:    DTChar,
	disk.FTBlock:   DTBlock,
	disk.FTFifo:    DTFifo,
	disk.FTSocket:  DTSocket,
	disk.FTSymlink: DTLink,
}

// directory is what dirent.Dir and dirent.Inline have in common.
type directory interface {
	Lookup(name string) (uint32, error)
	Read(pos int64, fn func(dirent.Entry) bool) error
}

// dir returns the inode of a directory.
func (fs *FS) dir(ino Ino) (*inode, error) {
	in, err := fs.iget(ino)
	if err != nil {
		return nil, err
	}
	if !in.IsDir() {
		return nil, syscall.ENOTDIR
	}
	return in, nil
}

// entries opens a directory for reading.
func (fs *FS) entries(in *inode) (directory, error) {
	casefold := in.Flags&disk.FlagCasefold != 0
	if !in.inline() {
		return &dirent.Dir{
			Format:   &fs.dirFormat,
			Map:      fs.blockMap(in),
			Size:     in.size,
			Indexed:  in.Flags&disk.FlagIndex != 0 && fs.sb.Compat&disk.CompatDirIndex != 0,
			Casefold: casefold,
			RawNames: in.encrypted(),
			Distinct: &in.distinct,
		}, nil
	}
	d := &dirent.Inline{Format: &fs.dirFormat, Ino: uint32(in.ino), Casefold: casefold, RawNames: in.encrypted()}
	d.Head = in.Block[:min(in.size, disk.InodeBlockSize)]
	if in.size > disk.InodeBlockSize {
		tail, err := fs.inlineTail(in)
		if err != nil {
			return nil, err
		}
		d.Tail = tail[:min(uint64(len(tail)), in.size-disk.InodeBlockSize)]
	}
	return d, nil
}

// Lookup finds the inode number of a name in a directory; "." and ".." are
// names like others. Errors: ENOENT, ENOTDIR, ENAMETOOLONG, EUCLEAN.
func (fs *FS) Lookup(dir Ino, name string) (Ino, error) {
	ino, _, err := fs.lookup(dir, name)
	return ino, err
}

// lookup is Lookup, which also tells how many bytes of entries it went through
// for want of an index.
func (fs *FS) lookup(dir Ino, name string) (ino Ino, read uint64, err error) {
	in, err := fs.dir(dir)
	if err != nil {
		return 0, 0, err
	}
	if len(name) > NameMax {
		return 0, 0, syscall.ENAMETOOLONG
	}
	if in.encrypted() {
		ino, err := fs.lookupEncrypted(in, name)
		return ino, in.size, err
	}
	if fd := fs.fastDir(dir); fd != nil {
		if ino, decided := fastLookup(fd, dir, name, fs.nameKey(in, []byte(name))); decided {
			if ino == 0 {
				return 0, 0, syscall.ENOENT
			}
			return ino, 0, nil
		}
	}
	d, err := fs.entries(in)
	if err != nil {
		return 0, 0, err
	}
	found, err := d.Lookup(name)
	return Ino(found), fs.scanned(d), err
}

// scanned is the number of bytes that were read of a directory, weighed by the
// work of comparing its names.
func (fs *FS) scanned(d directory) uint64 {
	b, ok := d.(*dirent.Dir)
	if !ok {
		return 0
	}
	if b.Casefold {
		return b.Scanned << fs.geo.BlockBits * 8
	}
	return b.Scanned << fs.geo.BlockBits
}

// fastLookup finds a name in what fast commits changed in a directory. decided
// is false if that says nothing about the name.
func fastLookup(fd *fastcommit.Dir, dir Ino, name string, key []byte) (ino Ino, decided bool) {
	if fd.Made {
		switch name {
		case ".":
			return dir, true
		case "..":
			return Ino(fd.Parent), true
		}
	}
	e, found := fd.Lookup(key)
	return Ino(e.Ino), found || fd.Made
}

// fastEntries is where the positions of names that fast commits added start:
// behind all positions inside a directory.
const fastEntries = 1 << 62

// ReadDir calls fn for the entries of a directory, "." and ".." included, from
// position pos on until fn returns false. Position 0 is the beginning; others
// are what Dirent.Next said. The order is that of the directory's blocks.
func (fs *FS) ReadDir(dir Ino, pos int64, fn func(Dirent) bool) error {
	in, err := fs.dir(dir)
	if err != nil {
		return err
	}
	d, err := fs.entries(in)
	if err != nil {
		return err
	}
	if in.encrypted() {
		fn = fs.encodeNames(in, fn)
	}
	fd := fs.fastDir(dir)
	if fd != nil && fd.Made {
		d = madeDir{dir, Ino(fd.Parent)}
	}
	stopped := false
	if pos < fastEntries {
		err := d.Read(pos, func(e dirent.Entry) bool {
			if fd != nil {
				if _, changed := fd.Lookup(fs.nameKey(in, e.Name)); changed {
					return true
				}
			}
			out := Dirent{Ino: Ino(e.Ino), Name: e.Name, Next: e.Next}
			if int(e.Type) < len(direntTypes) {
				out.Type = direntTypes[e.Type]
			}
			stopped = !fn(out)
			return !stopped
		})
		if err != nil || stopped {
			return err
		}
		pos = fastEntries
	}
	if fd == nil {
		return nil
	}
	list := fd.Entries()
	for i := min(pos-fastEntries, int64(len(list))); i < int64(len(list)); i++ {
		e := &list[i]
		if e.Ino == 0 {
			continue
		}
		if !in.encrypted() && bytes.ContainsAny(e.Name, "/\x00") {
			return disk.Corruptf(disk.InodeName(uint32(dir)), "a fast commit adds the impossible name %q", e.Name)
		}
		if !fn(Dirent{Ino: Ino(e.Ino), Type: fs.fastType(Ino(e.Ino)), Name: e.Name, Next: fastEntries + i + 1}) {
			break
		}
	}
	return nil
}

// madeDir is a directory that a fast commit made: of its entries only these are
// not in the fast commits themselves.
type madeDir struct{ self, parent Ino }

func (d madeDir) Lookup(string) (uint32, error) { return 0, dirent.NotFound }

func (d madeDir) Read(pos int64, fn func(dirent.Entry) bool) error {
	if pos <= 0 && !fn(dirent.Entry{Ino: uint32(d.self), Type: disk.FTDir, Name: []byte("."), Next: 1}) {
		return nil
	}
	if pos <= 1 {
		fn(dirent.Entry{Ino: uint32(d.parent), Type: disk.FTDir, Name: []byte(".."), Next: 2})
	}
	return nil
}

// Readlink returns the target of a symbolic link. EINVAL: not one.
func (fs *FS) Readlink(ino Ino) (string, error) {
	in, err := fs.iget(ino)
	if err != nil {
		return "", err
	}
	if !in.IsSymlink() {
		return "", syscall.EINVAL
	}
	what := "symbolic link " + disk.InodeName(uint32(ino))
	if in.size == 0 || in.size >= uint64(fs.geo.BlockSize) && in.size > 4096 {
		return "", disk.Corruptf(what, "target of %d bytes is impossible", in.size)
	}
	var target []byte
	if in.fastSymlink() {
		target = in.Block[:in.size]
	} else if target, err = fs.readAll(in, in.size); err != nil {
		return "", fmt.Errorf("%s: %w", what, err)
	}
	if in.encrypted() {
		return encodeEncryptedTarget(what, target)
	}
	// Some writers store the terminating NUL, or pad with them.
	s := disk.CString(target)
	if s == "" {
		return "", disk.Corruptf(what, "target is empty")
	}
	return s, nil
}
