package ext4

import (
	"errors"
	"slices"

	"ext4box/ext4/internal/balloc"
	"ext4box/ext4/internal/dirent"
	"ext4box/ext4/internal/disk"
	"ext4box/ext4/internal/journal"
)

// What follows changes directories, wherever they keep their entries. The
// directory is locked, and the caller stores it.

// renamed notes that the names of a directory, which is locked, are about to change, or
// may have: it gives them a number that they have not had before. Who has looked something
// up need not look again as long as the number is the same.
func (fs *FS) renamed(d *inode) { d.entries = fs.w.renames.Add(1) }

// inlineDir is a directory whose entries are inline.
func (fs *FS) inlineDir(in *inode) (*dirent.Inline, error) {
	d, err := fs.entries(in)
	if err != nil {
		return nil, err
	}
	return d.(*dirent.Inline), nil
}

// putInlineDir stores what became of inline entries.
func (fs *FS) putInlineDir(tx *journal.Handle, in *inode, d *dirent.Inline) error {
	if err := fs.putInlineTail(tx, in, d.Tail); err != nil {
		return err
	}
	copy(in.Block[:], d.Head)
	in.size = uint64(len(d.Head) + len(d.Tail))
	return nil
}

// initDir makes a new inode an empty directory.
func (fs *FS) initDir(tx *journal.Handle, in *inode, parent Ino) error {
	fs.renamed(in)
	if in.inline() {
		dirent.InitInline(in.Block[:], uint32(parent))
		in.size = disk.InodeBlockSize
		return nil
	}
	d := fs.openDir(in)
	if err := d.Init(tx, fs.growDir(tx, in, d), uint32(parent)); err != nil {
		return err
	}
	in.size = d.Size
	return nil
}

// addName puts a name for an inode into a directory.
func (fs *FS) addName(tx *journal.Handle, d *inode, name string, in *inode) error {
	fs.renamed(d)
	if d.inline() {
		err := fs.addInline(tx, d, name, in)
		if !errors.Is(err, dirent.ErrNoRoom) {
			return err
		}
		if err := fs.convertDir(tx, d); err != nil {
			return err
		}
	}
	dir := fs.openDir(d)
	err := dir.Add(tx, fs.growDir(tx, d, dir), name, uint32(in.ino), disk.FileType(in.Mode))
	// Also when it fails: a directory that grew has grown.
	d.size = dir.Size
	d.Flags &^= disk.FlagIndex
	if dir.Indexed {
		d.Flags |= disk.FlagIndex
	}
	if err != nil {
		return errors.Join(err, fs.store(tx, d))
	}
	return nil
}

// addInline is addName where the entries are inline; dirent.ErrNoRoom says that
// they cannot stay so.
func (fs *FS) addInline(tx *journal.Handle, d *inode, name string, in *inode) error {
	room, err := fs.inlineRoom(d)
	if err != nil {
		return err
	}
	dir, err := fs.inlineDir(d)
	if err != nil {
		return err
	}
	tail := int(room) - min(int(room), disk.InodeBlockSize)
	if err := dir.Add(name, uint32(in.ino), disk.FileType(in.Mode), tail); err != nil {
		return err
	}
	return fs.putInlineDir(tx, d, dir)
}

// convertDir moves inline entries into a block.
func (fs *FS) convertDir(tx *journal.Handle, d *inode) error {
	from, err := fs.inlineDir(d)
	if err != nil {
		return err
	}
	from.Head = slices.Clone(from.Head) // it is where the map will be
	block, flags, size := d.Block, d.Flags, d.size
	fs.initMap(d)
	d.size = 0
	to := fs.openDir(d)
	if err := from.Convert(tx, to, fs.growDir(tx, d, to)); err != nil {
		d.Block, d.Flags, d.size = block, flags, size
		return err
	}
	d.size = to.Size
	d.seq++
	return fs.putInlineTail(tx, d, nil)
}

// removeName takes a name out of a directory.
func (fs *FS) removeName(tx *journal.Handle, d *inode, name string) error {
	fs.renamed(d)
	if !d.inline() {
		_, err := fs.openDir(d).Remove(tx, name)
		return err
	}
	dir, err := fs.inlineDir(d)
	if err != nil {
		return err
	}
	if _, err := dir.Remove(name); err != nil {
		return err
	}
	return fs.putInlineDir(tx, d, dir)
}

// replaceName makes a name, which may be "..", lead to another inode.
func (fs *FS) replaceName(tx *journal.Handle, d *inode, name string, ino Ino, ftype uint8) error {
	fs.renamed(d)
	if !d.inline() {
		_, err := fs.openDir(d).Replace(tx, name, uint32(ino), ftype)
		return err
	}
	dir, err := fs.inlineDir(d)
	if err != nil {
		return err
	}
	if _, err := dir.Replace(name, uint32(ino), ftype); err != nil {
		return err
	}
	return fs.putInlineDir(tx, d, dir)
}

// emptyDir tells whether a directory has no entries but "." and "..".
func (fs *FS) emptyDir(d *inode) (bool, error) {
	if !d.inline() {
		return fs.openDir(d).Empty()
	}
	dir, err := fs.inlineDir(d)
	if err != nil {
		return false, err
	}
	return dir.Empty()
}

// creditsAdd is what adding a name to a directory takes, the directory's inode
// included.
func (fs *FS) creditsAdd(d *inode) (credits, revokes int) {
	dir := fs.openDir(d)
	if d.inline() { // it may move into a block, which then is too small
		var empty [disk.InodeBlockSize]byte
		dir.Size, dir.Indexed = 0, false
		dir.Map.Root = empty[:]
		dir.Map.Init(fs.sb.Incompat&disk.IncompatExtents != 0)
	}
	blocks, grows := dir.AddCredits()
	if d.inline() {
		blocks, grows = blocks+1, grows+1
	}
	blk := dir.Size >> fs.geo.BlockBits
	c := dir.Map.InsertCredits(grows, blk, blk+uint64(grows))
	credits, revokes = fs.creditsEdit(c)
	return credits + blocks + 1 + grows*balloc.CreditsClaim, revokes
}
