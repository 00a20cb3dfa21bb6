package ext4

import (
	"bytes"
	"errors"
	"fmt"
	"syscall"

	"ext4box/ext4/internal/dirent"
	"ext4box/ext4/internal/disk"
	"ext4box/ext4/internal/extent"
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

// rlockDir returns a directory locked for reading.
func (fs *FS) rlockDir(ino Ino) (*inode, error) {
	in, err := fs.rlock(ino)
	if err != nil {
		return nil, err
	}
	if !in.IsDir() {
		in.runlock()
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
// names like others. Errors: ENOENT, ENOTDIR, ENAMETOOLONG, EUCLEAN,
// EINVAL where the encoding of names is strict and this one is not valid.
func (fs *FS) Lookup(dir Ino, name string) (Ino, error) {
	ino, _, err := fs.lookupIn(dir, name)
	return ino, err
}

// lookupIn is Lookup, which also tells how many bytes of entries it went through
// for want of an index.
func (fs *FS) lookupIn(dir Ino, name string) (ino Ino, read uint64, err error) {
	in, err := fs.rlockDir(dir)
	if err != nil {
		return 0, 0, err
	}
	defer in.runlock()
	return fs.search(in, name)
}

// found is what a name led to, and among which names: see FS.renamed. ino is 0 where there
// was no such name.
type found struct {
	ino     Ino
	entries uint64
}

// find is Lookup for who is going to lock the directory and to change what the name leads to.
// That there is no such name is no error.
func (fs *FS) find(dir Ino, name string) (f found, err error) {
	in, err := fs.rlockDir(dir)
	if err != nil {
		return found{}, err
	}
	defer in.runlock()
	f.entries = in.entries
	f.ino, err = fs.lookupAny(in, name)
	return f, err
}

// lookupAny is lookup in a directory that is locked, and 0 where there is no such name.
func (fs *FS) lookupAny(d *inode, name string) (Ino, error) {
	ino, err := fs.lookup(d, name)
	if errors.Is(err, syscall.ENOENT) {
		return 0, nil
	}
	return ino, err
}

// still verifies that what was found in a directory, which now is locked, is what the name
// leads to. errMoved: it is not.
func (fs *FS) still(d *inode, name string, f found) error {
	if !d.IsDir() {
		return syscall.ENOTDIR
	}
	if d.entries == f.entries {
		return nil
	}
	ino, err := fs.lookupAny(d, name)
	if err == nil && ino != f.ino {
		err = errMoved
	}
	return err
}

// lookup is Lookup in a directory that is locked.
func (fs *FS) lookup(in *inode, name string) (Ino, error) {
	ino, _, err := fs.search(in, name)
	return ino, err
}

// search is lookupIn in a directory that is locked.
func (fs *FS) search(in *inode, name string) (ino Ino, read uint64, err error) {
	if len(name) > NameMax {
		return 0, 0, syscall.ENAMETOOLONG
	}
	if in.encrypted() {
		ino, _, read, err := fs.findEncrypted(in, name)
		return ino, read, err
	}
	if fs.dirFormat.Strict && in.Flags&disk.FlagCasefold != 0 {
		if _, err := fs.dirFormat.Fold(nil, []byte(name)); err != nil {
			return 0, 0, fmt.Errorf("%w: %w", err, syscall.EINVAL)
		}
	}
	if fd := fs.fastDir(in.ino); fd != nil {
		if ino, decided := fastLookup(fd, in.ino, name, fs.nameKey(in, []byte(name))); decided {
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

// listBatch is the number of entries that are read from a directory at once
// where it can change.
const listBatch = 64

// ReadDir calls fn for the entries of a directory, "." and ".." included, from
// position pos on until fn returns false. Position 0 is the beginning; others
// are what Dirent.Next said. On a filesystem open for writing fn sees each name
// that was there throughout exactly once; it may change the directory.
func (fs *FS) ReadDir(dir Ino, pos int64, fn func(Dirent) bool) error {
	if fs.w == nil {
		in, err := fs.rlockDir(dir)
		if err != nil {
			return err
		}
		defer in.runlock()
		return fs.list(in, pos, fn)
	}
	// fn looks at the inodes of the entries, so the directory must not be locked
	// while it runs.
	batch := make([]Dirent, 0, listBatch)
	names := make([]byte, 0, 4096)
	for {
		batch, names = batch[:0], names[:0]
		in, err := fs.rlockDir(dir)
		if err != nil {
			return err
		}
		err = fs.list(in, pos, func(e Dirent) bool {
			names = append(names, e.Name...)
			e.Name = names[len(names)-len(e.Name):]
			batch = append(batch, e)
			return len(batch) < listBatch
		})
		in.runlock()
		for _, e := range batch {
			if !fn(e) {
				return nil
			}
			pos = e.Next
		}
		if err != nil || len(batch) < listBatch {
			return err
		}
	}
}

// list is ReadDir of a directory that is locked.
func (fs *FS) list(in *inode, pos int64, fn func(Dirent) bool) error {
	d, err := fs.entries(in)
	if err != nil {
		return err
	}
	if in.encrypted() {
		fn = fs.encodeNames(in, fn)
	}
	fd := fs.fastDir(in.ino)
	if fd != nil && fd.Made {
		d = madeDir{in.ino, Ino(fd.Parent)}
	}
	read := d.Read
	if s, ok := d.(stable); ok && fs.w != nil {
		read = s.ReadByHash
	}
	stopped := false
	if pos < fastEntries || fd == nil {
		err := read(pos, func(e dirent.Entry) bool {
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
			return disk.Corruptf(disk.InodeName(uint32(in.ino)), "a fast commit adds the impossible name %q", e.Name)
		}
		if !fn(Dirent{Ino: Ino(e.Ino), Type: fs.fastType(Ino(e.Ino)), Name: e.Name, Next: fastEntries + i + 1}) {
			break
		}
	}
	return nil
}

// stable is a directory that can be read while it changes.
type stable interface {
	ReadByHash(pos int64, fn func(dirent.Entry) bool) error
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
	in, err := fs.rlock(ino)
	if err != nil {
		return "", err
	}
	defer in.runlock()
	return fs.readlink(in)
}

// readlink is Readlink of an inode that is locked.
func (fs *FS) readlink(in *inode) (string, error) {
	if !in.IsSymlink() {
		return "", syscall.EINVAL
	}
	what := "symbolic link " + disk.InodeName(uint32(in.ino))
	if in.size == 0 || in.size > uint64(fs.geo.BlockSize) {
		return "", disk.Corruptf(what, "target of %d bytes is impossible", in.size)
	}
	var target []byte
	var err error
	if in.fastSymlink() {
		target = in.Block[:in.size]
	} else if target, err = fs.slowTarget(in); err != nil {
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

// slowTarget is the target of a symbolic link that has a block for it, or more
// inline data than fits the block area. It goes through the cache, for it is
// journaled like other metadata.
func (fs *FS) slowTarget(in *inode) ([]byte, error) {
	if in.inline() {
		return fs.inlineData(in)
	}
	run, err := fs.run(in, 0)
	if err != nil {
		return nil, err
	}
	if run.State != extent.Written {
		return nil, disk.Corruptf("symbolic link "+disk.InodeName(uint32(in.ino)), "has no block for its target")
	}
	b, err := fs.blks.Read(run.Start-run.Block, symlinkTag, noCheck)
	if err != nil {
		return nil, err
	}
	return b.Data[:in.size], nil
}

// Casefolds tells whether there can be directories in which names that differ
// only in case are the same.
func (fs *FS) Casefolds() bool { return fs.dirFormat.Fold != nil }
