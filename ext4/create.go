package ext4

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"syscall"

	"ext4box/ext4/internal/balloc"
	"ext4box/ext4/internal/buffer"
	"ext4box/ext4/internal/dirent"
	"ext4box/ext4/internal/disk"
	"ext4box/ext4/internal/extent"
	"ext4box/ext4/internal/journal"
	"ext4box/ext4/internal/xattr"
)

// NewNode says what Create makes.
type NewNode struct {
	Mode                 uint32 // file type and permission bits, before the umask
	Umask                uint32 // applies unless the directory has a default ACL
	UID, GID             uint32
	RdevMajor, RdevMinor uint32
	Target               string // of a symbolic link
	Limited              bool   // limits of quota hold for the caller

	// Final says that neither umask nor default ACL apply any longer: the kernel
	// has seen to both, and sets the inherited ACLs by SetxattrVerbatim. Group and
	// set-group-id of the directory are inherited as ever.
	Final bool
}

// maxFileLinks is the number of names that a file can have.
const maxFileLinks = 65000

// inheritedFlags go from a directory to what is made in it.
const inheritedFlags = disk.FlagSecrm | disk.FlagUnrm | disk.FlagCompr | disk.FlagSync | disk.FlagNodump |
	disk.FlagNoatime | disk.FlagJournalData | disk.FlagNotail | disk.FlagDirsync | disk.FlagProjInherit | disk.FlagCasefold

// Create makes an inode of any type with a name in a directory. Permission is
// the caller's to check. Errors: EEXIST, ENOTDIR, ENAMETOOLONG, EINVAL, EMLINK,
// ENOSPC.
func (fs *FS) Create(dir Ino, name string, n NewNode) (Ino, error) {
	if err := checkName(name); err != nil {
		return 0, err
	}
	d, err := fs.wlockDir(dir)
	if err != nil {
		return 0, err
	}
	defer d.wunlock()
	switch _, err := fs.lookup(d, name); {
	case err == nil:
		return 0, syscall.EEXIST
	case !errors.Is(err, syscall.ENOENT):
		return 0, err
	}
	if isDir := n.Mode&disk.ModeFmt == disk.ModeDir; isDir && !fs.mayAddDir(d) {
		return 0, syscall.EMLINK
	}
	d.quota.limited = n.Limited
	return fs.create(d, name, n)
}

// Tmpfile makes a regular file without a name. It is held once; see [FS.Hold].
func (fs *FS) Tmpfile(dir Ino, n NewNode) (Ino, error) {
	d, err := fs.wlockDir(dir)
	if err != nil {
		return 0, err
	}
	defer d.wunlock()
	n.Mode = n.Mode&^disk.ModeFmt | disk.ModeReg
	return fs.create(d, "", n)
}

// wlockDir returns a directory locked for a change of its entries.
func (fs *FS) wlockDir(ino Ino) (*inode, error) {
	d, err := fs.wlock(ino)
	if err != nil {
		return nil, err
	}
	switch {
	case !d.IsDir():
		err = syscall.ENOTDIR
	case d.Links == 0:
		err = syscall.ENOENT
	case d.Flags&disk.FlagImmutable != 0:
		err = syscall.EPERM
	}
	if err != nil {
		d.wunlock()
		return nil, err
	}
	return d, nil
}

// checkName verifies a name that is to be made.
func checkName(name string) error {
	if len(name) > NameMax {
		return syscall.ENAMETOOLONG
	}
	if name == "" {
		return syscall.ENOENT
	}
	if dotName([]byte(name)) {
		return syscall.EEXIST
	}
	for i := range len(name) {
		if name[i] == '/' || name[i] == 0 {
			return syscall.EINVAL
		}
	}
	return nil
}

// mayAddDir tells whether a directory can have another subdirectory.
func (fs *FS) mayAddDir(d *inode) bool {
	if fs.sb.ROCompat&disk.ROCompatDirNlink != 0 && d.Flags&disk.FlagIndex != 0 {
		return true
	}
	return d.Links < maxFileLinks
}

// addSubdirLink counts a new subdirectory. With dir_nlink a count that is too
// large to be stored is 1, and stays so.
func addSubdirLink(d *inode) {
	if d.Links == 1 {
		return
	}
	if d.Links++; d.Links > maxFileLinks {
		d.Links = 1
	}
}

// removeSubdirLink is the inverse of addSubdirLink.
func removeSubdirLink(d *inode) {
	if d.Links > 2 {
		d.Links--
	}
}

// create makes an inode, and its name unless that is empty, in directory d, which
// is locked.
func (fs *FS) create(d *inode, name string, n NewNode) (ino Ino, err error) {
	err = fs.retrying(func() error {
		ino, err = fs.tryCreate(d, name, n)
		return err
	})
	return ino, err
}

func (fs *FS) tryCreate(d *inode, name string, n NewNode) (Ino, error) {
	if d.encrypted() {
		return 0, syscall.ENOKEY
	}
	in := &inode{seed: rand.Uint32()}
	attrs, err := fs.prepare(in, d, n)
	if err != nil {
		return 0, err
	}
	if err := fs.chargeNew(in, n.Limited); err != nil {
		in.detach()
		return 0, err
	}
	credits, revokes := fs.creditsAdd(d)
	first, more := fs.creditsGrow(in, 0) // of a directory or a link
	credits += first + balloc.CreditsAllocInode + 2 + creditsSetXattrs + creditsOrphan
	defer func() {
		if in.ino != 0 {
			fs.w.numbers.endChange(in.ino)
		}
	}()
	err = fs.transact(credits, revokes+more+1, func(tx *journal.Handle) error {
		isDir := in.IsDir()
		ino, err := fs.allocInode(tx, balloc.InodeRequest{
			Parent: uint32(d.ino), Dir: isDir, Spread: isDir && (d.ino == RootIno || d.Flags&disk.FlagTopdir != 0),
		})
		if err != nil {
			return err
		}
		in.ino = Ino(ino)
		fs.w.numbers.startChange(in.ino)
		in.seed = fs.sums.InodeSeed(ino, in.Generation)
		// From here on everything that fails is undone: the inode exists on
		// disk, and nothing leads to it.
		if err := fs.fill(tx, in, d, name, n, attrs); err != nil {
			return errors.Join(err, fs.abandon(tx, in))
		}
		return nil
	})
	in.detach() // before others can have it
	if err != nil {
		return 0, err
	}
	fs.nodes.Remove(uint64(in.ino))
	fs.nodes.Add(uint64(in.ino), in).put()
	if name == "" {
		fs.Hold(in.ino)
	}
	return in.ino, nil
}

// allocInode takes the number of a free inode. One that is somebody's, whatever
// the bitmap says, must not be given out: the two would know nothing of each
// other's locks.
func (fs *FS) allocInode(tx *journal.Handle, r balloc.InodeRequest) (uint32, error) {
	ino, err := fs.w.groups.AllocInode(tx, r)
	if err != nil {
		return 0, err
	}
	in := fs.nodes.Get(uint64(ino))
	if in != nil {
		in.put()
	}
	if in != nil || fs.ownInode(Ino(ino)) {
		return 0, disk.Corruptf(disk.InodeName(ino), "is in use and is marked free")
	}
	return ino, nil
}

// prepare sets the fields of a new inode, and returns the attributes that it
// inherits.
func (fs *FS) prepare(in, d *inode, n NewNode) ([]xattr.Attr, error) {
	in.Mode = uint16(n.Mode)
	in.UID, in.GID = n.UID, n.GID
	if fs.parentGroup() {
		in.GID = d.GID
	} else if d.Mode&syscall.S_ISGID != 0 {
		in.GID = d.GID
		if in.IsDir() {
			in.Mode |= syscall.S_ISGID
		}
	}
	in.Generation = rand.Uint32()
	in.Atime = fs.now()
	in.Mtime, in.Ctime, in.Crtime = in.Atime, in.Atime, in.Atime
	fs.initExtra(in)
	in.Flags = d.Flags & inheritedFlags
	switch in.Type() {
	case disk.ModeDir:
	case disk.ModeReg:
		in.Flags &^= disk.FlagDirsync | disk.FlagTopdir | disk.FlagCasefold | disk.FlagProjInherit
	default:
		in.Flags &= disk.FlagNodump | disk.FlagNoatime
	}
	if d.Flags&disk.FlagProjInherit != 0 && fs.sb.ROCompat&disk.ROCompatProject != 0 {
		in.ProjectID = d.ProjectID
	}
	switch in.Type() {
	case disk.ModeChar, disk.ModeBlock:
		in.SetRdev(n.RdevMajor, n.RdevMinor)
	case disk.ModeLink:
		if len(n.Target) == 0 {
			return nil, syscall.ENOENT
		}
		if len(n.Target) >= int(min(fs.geo.BlockSize, 4096)) {
			return nil, syscall.ENAMETOOLONG
		}
		in.size = uint64(len(n.Target))
		if in.size < disk.InodeBlockSize {
			copy(in.Block[:], n.Target)
			break
		}
		fallthrough
	case disk.ModeReg, disk.ModeDir:
		m := fs.blockMap(in)
		m.Init(fs.sb.Incompat&disk.IncompatExtents != 0)
		if m.Tree {
			in.Flags |= disk.FlagExtents
		}
	}
	in.Links = 1
	if in.IsDir() {
		in.Links = 2
	}
	var attrs []xattr.Attr
	var err error
	if !n.Final {
		attrs, err = fs.inheritACL(in, d, n.Umask)
	}
	fs.startInline(in, attrs)
	return attrs, err
}

// initExtra sizes the fields behind the old ones of a new inode.
func (fs *FS) initExtra(in *inode) {
	if fs.geo.InodeSize > disk.InodeSizeOld {
		in.ExtraIsize = max(fs.sb.WantExtraIsize, fs.sb.MinExtraIsize, 32)
		if int(in.ExtraIsize) > int(fs.geo.InodeSize)-disk.InodeSizeOld {
			in.ExtraIsize = 32
		}
		in.HasCrtime, in.HasHiCsum = true, true
	}
}

// inheritACL derives ACLs and mode of a new inode from the default ACL of its
// directory, or applies the umask where there is none.
func (fs *FS) inheritACL(in, d *inode, umask uint32) ([]xattr.Attr, error) {
	if in.IsSymlink() {
		return nil, nil
	}
	areas, err := fs.xattrAreas(d)
	if err != nil {
		return nil, err
	}
	for _, a := range areas {
		def, ok := a.Find(disk.XattrACLDefault, "")
		if !ok {
			continue
		}
		value, err := fs.xattrValue(d, &def)
		if err != nil {
			return nil, err
		}
		acl, mode, minimal, ok := xattr.InheritACL(value, in.Mode)
		if !ok {
			return nil, disk.Corruptf(disk.InodeName(uint32(d.ino)), "default ACL is malformed")
		}
		in.Mode = mode
		var attrs []xattr.Attr
		if !minimal {
			attrs = append(attrs, xattr.Attr{Index: disk.XattrACLAccess, Value: acl, Size: uint32(len(acl))})
		}
		if in.IsDir() {
			attrs = append(attrs, xattr.Attr{Index: disk.XattrACLDefault, Value: value, Size: uint32(len(value))})
		}
		return attrs, nil
	}
	in.Mode &^= uint16(umask & 0o777)
	return nil, nil
}

// fill writes a new inode, what it contains, and its name.
func (fs *FS) fill(tx *journal.Handle, in, d *inode, name string, n NewNode, attrs []xattr.Attr) error {
	in.fresh = true
	in.bare.Store(true)
	switch {
	case in.IsDir():
		if err := fs.initDir(tx, in, d.ino); err != nil {
			return err
		}
	case in.IsSymlink() && !in.fastSymlink():
		if err := fs.fillSymlink(tx, in, n.Target); err != nil {
			return err
		}
	}
	if len(attrs) > 0 || in.inline() {
		if _, err := fs.putXattrs(tx, in, attrs); err != nil {
			return err
		}
	}
	if name == "" {
		in.Links = 0
		if err := fs.store(tx, in); err != nil {
			return err
		}
		return fs.addOrphan(tx, in)
	}
	if err := fs.addName(tx, d, name, in); err != nil {
		return err
	}
	if in.IsDir() {
		addSubdirLink(d)
	}
	fs.touch(d, true)
	return errors.Join(fs.store(tx, in), fs.store(tx, d))
}

// abandon takes back an inode that could not be completed.
func (fs *FS) abandon(tx *journal.Handle, in *inode) error {
	var err error
	for run := (extent.Run{}); in.hasBlockMap() && err == nil; {
		if run, err = fs.firstMapped(in, 0, extent.MaxBlocks); err != nil || run.State == extent.Hole {
			break
		}
		_, err = fs.unmap(tx, in, run.Block, run.End(), run)
	}
	err = errors.Join(err, fs.dropXattrBlock(tx, in, valueRefs{}))
	err = errors.Join(err, fs.discharge(tx, in))
	// Without a checksum, as mke2fs leaves an inode that was never in use.
	err = errors.Join(err, fs.editSlot(tx, in.ino, func(raw []byte) { clear(raw) }))
	return errors.Join(err, fs.w.groups.FreeInode(tx, uint32(in.ino), in.IsDir()))
}

// openDir is the directory of an inode for changing it.
func (fs *FS) openDir(in *inode) *dirent.Dir {
	return &dirent.Dir{
		Format:   &fs.dirFormat,
		Map:      fs.blockMap(in),
		Size:     in.size,
		Indexed:  in.Flags&disk.FlagIndex != 0,
		Casefold: in.Flags&disk.FlagCasefold != 0,
		RawNames: in.encrypted(),
		Distinct: &in.distinct,
	}
}

// growDir appends blocks to a directory.
func (fs *FS) growDir(tx *journal.Handle, in *inode, d *dirent.Dir) dirent.Grow {
	return func() (blk, phys uint64, err error) {
		blk = d.Size >> fs.geo.BlockBits
		if limit := fs.opts.MaxDirSize; limit > 0 && (blk+1)<<fs.geo.BlockBits > limit {
			return 0, 0, fmt.Errorf("directory %d is as large as directories may be: %w", in.ino, syscall.ENOSPC)
		}
		phys, err = fs.allocMapped(tx, in, &d.Map, blk)
		return blk, phys, err
	}
}

// allocMapped allocates one block of metadata and maps it in the inode.
func (fs *FS) allocMapped(tx buffer.Tx, in *inode, m *extent.Map, blk uint64) (uint64, error) {
	at, err := fs.implied(in, blk)
	if err != nil {
		return 0, err
	}
	var run balloc.Run
	if at == 0 {
		if _, err := fs.afford(in, fs.perCluster(), 0); err != nil {
			return 0, err
		}
		first := fs.clusterStart(blk)
		goal, merge := fs.goal(in, first)
		run, err = fs.w.groups.Allocate(tx, balloc.Request{
			Goal: goal, Merge: merge, Want: 1, Metadata: true, Root: fs.privileged(&in.Inode), Pool: in.quota.exempt,
		})
		if err != nil {
			fs.settle(in)
			return 0, err
		}
		at = run.Start + blk - first
	}
	err = m.Insert(tx, nodeAllocator{fs, in}, extent.Run{Block: blk, Len: 1, Start: at, State: extent.Written})
	if err != nil {
		if run.Len > 0 {
			err = errors.Join(err, fs.w.groups.Free(tx, run.Start, uint64(run.Len), 0))
		}
		return 0, err
	}
	return at, fs.addBlocks(in, int64(run.Len))
}

// fillSymlink writes a target that is too long for the inode. It is metadata: it
// goes through the journal.
func (fs *FS) fillSymlink(tx *journal.Handle, in *inode, target string) error {
	m := fs.blockMap(in)
	phys, err := fs.allocMapped(tx, in, &m, 0)
	if err != nil {
		return err
	}
	b, err := tx.New(phys, symlinkTag)
	if err != nil {
		return err
	}
	copy(b.Data, target)
	return nil
}

// creditsGrow is what mapping one block of metadata takes.
func (fs *FS) creditsGrow(in *inode, blk uint64) (credits, revokes int) {
	m := fs.blockMap(in)
	credits, revokes = fs.creditsEdit(m.InsertCredits(1, blk, blk+1))
	return credits + balloc.CreditsClaim + 1, revokes
}
