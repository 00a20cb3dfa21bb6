package ext4

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"syscall"

	"ext4box/ext4/internal/balloc"
	"ext4box/ext4/internal/buffer"
	"ext4box/ext4/internal/disk"
	"ext4box/ext4/internal/extent"
	"ext4box/ext4/internal/journal"
	"ext4box/ext4/internal/xattr"
)

// With the feature ea_inode, a value that is too long for an attribute block, or
// finds no room in it, has an inode of its own, which no name leads to. The
// inode counts the entries that refer to it: each one in an inode, and each one
// in an attribute block, however many inodes share that. Its content is metadata
// and goes through the journal. With the last entry it becomes an orphan in the
// same transaction, and is deleted after it.

var valueTag = buffer.Tag{Kind: buffer.XattrValue}

// valueBatch is how many values a deleted inode lets go of in one transaction.
const valueBatch = 16

func (fs *FS) hasValues() bool { return fs.sb.Incompat&disk.IncompatEAInode != 0 }

// journaled tells whether the content of an inode is metadata.
func (in *inode) journaled() bool { return !in.IsReg() || in.Flags&disk.FlagEAInode != 0 }

// valueRefs says by how much the count of references to values changes.
type valueRefs map[Ino]int

func (r valueRefs) count(attrs []xattr.Attr, by int) {
	for i := range attrs {
		if attrs[i].Ino != 0 {
			r[Ino(attrs[i].Ino)] += by
		}
	}
}

// valueBlocks is what values in other inodes add to the blocks of the one whose
// attributes they are: whole clusters.
func (fs *FS) valueBlocks(attrs []xattr.Attr) (blocks int64) {
	for i := range attrs {
		if attrs[i].Ino != 0 {
			blocks += int64(fs.clusterEnd(fs.roundUp(uint64(attrs[i].Size)) >> fs.geo.BlockBits))
		}
	}
	return blocks
}

// loadValue returns an inode that holds an attribute value. It is never in the
// cache of inodes.
func (fs *FS) loadValue(ino Ino) (*inode, error) {
	what := "attribute value " + disk.InodeName(uint32(ino))
	if fs.ownInode(ino) {
		return nil, disk.Corruptf(what, "is the filesystem's own")
	}
	ea, err := fs.loadInode(ino)
	switch {
	case err != nil:
		return nil, fmt.Errorf("%s: %w", what, err)
	case ea.Flags&disk.FlagEAInode == 0 || !ea.IsReg():
		return nil, disk.Corruptf(what, "is not one")
	case ea.inline():
		return nil, disk.Corruptf(what, "has inline data")
	}
	return ea, nil
}

// lustre tells whether a value was written by the first variant of the feature.
// It has no hash and no count; it names its only owner instead.
func (ea *inode) lustre(owner *inode) bool {
	return uint32(ea.Mtime.Sec) == uint32(owner.ino) && ea.Generation == owner.Generation
}

// readValue reads the content of a value, which like other metadata is not to be
// read past the cache.
func (fs *FS) readValue(ea *inode) ([]byte, error) {
	value := make([]byte, fs.roundUp(ea.size))
	blocks := uint64(len(value)) >> fs.geo.BlockBits
	for blk := uint64(0); blk < blocks; {
		run, err := fs.run(ea, blk)
		if err != nil {
			return nil, err
		}
		run.Clip(blk, min(run.End(), blocks))
		if run.State == extent.Written {
			fs.blks.Prefetch(run.Start, int(run.Len))
			for i := range run.Len {
				b, err := fs.blks.Read(run.Start+i, valueTag, noCheck)
				if err != nil {
					return nil, err
				}
				copy(value[(blk+i)<<fs.geo.BlockBits:], b.Data)
			}
		}
		blk = run.End()
	}
	return value[:ea.size], nil
}

// putValue stores an inode that holds a value. Its version and its time of
// change are the count, and must not change as those of others do.
func (fs *FS) putValue(tx *journal.Handle, ea *inode) error {
	ea.Inode.Size = ea.size
	return fs.editRaw(tx, ea.ino, ea.seed, func(raw []byte) {
		disk.EncodeInode(raw, &ea.Inode, fs.sb.CreatorOS == disk.CreatorHurd)
	})
}

// countValues changes the counts of values of the inode in. It returns those
// that no entry refers to any longer, which are orphans then. There is nothing
// to count in a value that is damaged.
func (fs *FS) countValues(tx *journal.Handle, in *inode, refs valueRefs) (gone []Ino, err error) {
	if !fs.hasValues() || len(refs) == 0 {
		return nil, nil
	}
	fs.w.sharedXattrs.Lock()
	defer fs.w.sharedXattrs.Unlock()
	for _, ino := range slices.Sorted(maps.Keys(refs)) {
		if refs[ino] == 0 {
			continue
		}
		ea, err := fs.loadValue(ino)
		if err != nil {
			fs.ReportError(in.ino, err)
			continue
		}
		n := int64(uint32(ea.Ctime.Sec))<<32 | int64(uint32(ea.Version))
		if ea.lustre(in) {
			n = 1
		}
		if n += int64(refs[ino]); n < 0 || n < int64(refs[ino]) {
			fs.ReportError(in.ino, disk.Corruptf("attribute value "+disk.InodeName(uint32(ino)), "has more references than it counts"))
			continue
		}
		ea.Ctime = disk.Timestamp{Sec: int64(int32(n >> 32))}
		ea.Version = uint64(uint32(n))
		if n == 0 {
			ea.Links = 0
		}
		if err := fs.putValue(tx, ea); err != nil {
			return gone, err
		}
		if n == 0 {
			if err := fs.addOrphan(tx, ea); err != nil {
				return gone, err
			}
			gone = append(gone, ino)
		}
	}
	return gone, nil
}

// reapValues deletes values without references. Those that it cannot delete
// remain orphans.
func (fs *FS) reapValues(inos []Ino) {
	for _, ino := range inos {
		if err := fs.reapValue(ino); err != nil {
			fs.log.Error("delete an attribute value", "inode", ino, "error", err)
		}
	}
}

func (fs *FS) reapValue(ino Ino) error {
	ea, err := fs.loadValue(ino)
	if err != nil || ea.Links > 0 {
		return err
	}
	if err := fs.freeFrom(ea, 0); err != nil {
		return err
	}
	return fs.deleteInode(ea)
}

// finishValue finishes what a crash interrupted, if the orphan is a value.
func (fs *FS) finishValue(ino Ino) (was bool, err error) {
	in, err := fs.loadInode(ino)
	if err != nil || in.Flags&disk.FlagEAInode == 0 {
		return false, nil // others see to it, and to the error
	}
	if in.Links == 0 {
		return true, fs.reapValue(ino)
	}
	return true, fs.transact(creditsOrphan, 0, func(tx *journal.Handle) error { return fs.removeOrphan(tx, in, 0) })
}

// dropValues takes from an inode that is being deleted the attributes whose
// values are elsewhere.
func (fs *FS) dropValues(in *inode) error {
	if !fs.hasValues() {
		return nil
	}
	for {
		attrs, err := fs.allXattrs(in)
		if err != nil {
			return err
		}
		n := 0
		attrs = slices.DeleteFunc(attrs, func(at xattr.Attr) bool {
			if at.Ino == 0 || n == valueBatch {
				return false
			}
			n++
			return true
		})
		if n == 0 {
			return nil
		}
		shared, err := fs.sharesXattrs(in)
		if err != nil {
			return err
		}
		if shared { // what the others keep is not to be copied first
			err = fs.leaveXattrBlock(in)
		} else {
			err = fs.replaceXattrs(in, attrs, -1, func(*journal.Handle) error { return nil })
		}
		if err != nil {
			return err
		}
	}
}

// leaveXattrBlock takes back an inode's reference to the attribute block that it
// shares.
func (fs *FS) leaveXattrBlock(in *inode) error {
	areas, err := fs.xattrAreas(in)
	if err != nil {
		return err
	}
	old := areas[1].All()
	values := fs.valueBlocks(old)
	var gone []Ino
	err = fs.transact(creditsDropXattrs+1+len(old)+creditsOrphan, 1, func(tx *journal.Handle) (err error) {
		refs := valueRefs{}
		if err := fs.dropXattrBlock(tx, in, refs); err != nil {
			return err
		}
		if err := fs.addBlocks(in, -values); err != nil {
			return err
		}
		if gone, err = fs.countValues(tx, in, refs); err != nil {
			return err
		}
		return fs.store(tx, in)
	})
	fs.reapValues(gone)
	return err
}

// newValue is a value that gets an inode.
type newValue struct {
	at   int          // of which of the attributes
	runs []balloc.Run // reserved, whole clusters
}

// xattrPlan is a change of the attributes of an inode, which is locked, from
// before its transaction until after it.
type xattrPlan struct {
	fs     *FS
	in     *inode
	attrs  []xattr.Attr
	values []newValue
	gone   []Ino

	credits, revokes int // the inode included
}

// largeValue is the length from which on a value gets an inode in any case: it
// would fit into no attribute block.
func (fs *FS) largeValue() int {
	at := xattr.Attr{Name: []byte("abc")}
	return xattr.BlockRoom(int(fs.geo.BlockSize)) - xattr.ListEnd - xattr.Size(&at)
}

// crowds tells whether a value, in the attribute block with these others, would
// leave too little room for more entries.
func (fs *FS) crowds(attrs []xattr.Attr, at *xattr.Attr) bool {
	left, in := int(fs.geo.BlockSize), false
	for i := range attrs {
		left -= (len(attrs[i].Value) + 3) &^ 3
		in = in || attrs[i].Index == at.Index && bytes.Equal(attrs[i].Name, at.Name)
	}
	return in && left < min(int(fs.geo.BlockSize)/8, 1024)
}

// planXattrs prepares to give an inode these attributes, of which one, or none
// if the index is negative, may get an inode for its value for want of room. The
// plan must be done. Errors: ENOSPC.
func (fs *FS) planXattrs(in *inode, attrs []xattr.Attr, changed int) (*xattrPlan, error) {
	p := &xattrPlan{fs: fs, in: in, attrs: slices.Clone(attrs), credits: creditsSetXattrs, revokes: 1}
	if !fs.hasValues() {
		return p, nil
	}
	for i := range attrs {
		if (len(attrs[i].Value)+3)&^3 > fs.largeValue() {
			p.values = append(p.values, newValue{at: i})
		}
	}
	if len(p.values) == 0 && changed >= 0 && len(attrs[changed].Value) > 0 {
		_, outside, err := fs.placeXattrs(in, attrs)
		if err != nil {
			return nil, err
		}
		if !fs.fitsXattrBlock(outside) || fs.crowds(outside, &attrs[changed]) {
			p.values = append(p.values, newValue{at: changed})
		}
	}
	areas, err := fs.xattrAreas(in)
	if err != nil {
		return nil, err
	}
	refs := valueRefs{}
	for _, list := range [][]xattr.Attr{attrs, areas[0].All(), areas[1].All()} {
		refs.count(list, 1)
	}
	if len(refs) > 0 {
		p.credits += len(refs) + creditsOrphan
	}
	for i := range p.values {
		if err := p.reserve(&p.values[i]); err != nil {
			p.done()
			return nil, err
		}
	}
	return p, nil
}

// reserve reserves the blocks of a value, and computes what writing it takes.
func (p *xattrPlan) reserve(v *newValue) error {
	fs := p.fs
	blocks := fs.roundUp(uint64(len(p.attrs[v.at].Value))) >> fs.geo.BlockBits
	space := fs.clusterEnd(blocks)
	switch room, err := fs.afford(p.in, space, 1); {
	case err != nil:
		return err
	case room < space:
		return syscall.EDQUOT
	}
	p.credits += int(blocks)
	goal, merge := fs.goal(p.in, 0)
	for left := uint32(space); left > 0; {
		run, err := fs.w.groups.Reserve(balloc.Request{Goal: goal, Merge: merge, Want: left, Metadata: true, Root: fs.privileged(&p.in.Inode)})
		if err != nil {
			return err
		}
		v.runs = append(v.runs, run)
		left -= run.Len
		goal, merge = run.Start+uint64(run.Len), true
	}
	ea := &inode{}
	fs.initMap(ea)
	m := fs.blockMap(ea)
	credits, revokes := fs.creditsEdit(m.InsertCredits(len(v.runs), 0, blocks))
	p.credits += credits + len(v.runs)*balloc.CreditsClaim + balloc.CreditsAllocInode
	p.revokes += revokes + int(blocks)
	return nil
}

// put carries the change out, but for storing the inode. On error all is as it
// was before.
func (p *xattrPlan) put(tx *journal.Handle) error {
	attrs := slices.Clone(p.attrs)
	var made []*inode
	err := func() (err error) {
		for i := range p.values {
			v := &p.values[i]
			at := &attrs[v.at]
			ea, err := p.make(tx, v)
			if ea != nil {
				made = append(made, ea)
			}
			if err != nil {
				return err
			}
			at.Ino, at.Value, at.Hash = uint32(ea.ino), nil, xattr.ValueHash(at.Name, uint32(ea.Atime.Sec))
		}
		p.gone, err = p.fs.putXattrs(tx, p.in, attrs)
		return err
	}()
	if err != nil {
		for _, ea := range made {
			err = errors.Join(err, p.fs.abandon(tx, ea))
		}
	}
	return err
}

// make makes the inode of a value, to which nobody refers yet. With an error it
// may return one that is to be abandoned.
func (p *xattrPlan) make(tx *journal.Handle, v *newValue) (*inode, error) {
	fs, value := p.fs, p.attrs[v.at].Value
	ino, err := fs.allocInode(tx, balloc.InodeRequest{Parent: uint32(p.in.ino)})
	if err != nil {
		return nil, err
	}
	ea := &inode{ino: Ino(ino), size: uint64(len(value))}
	ea.Mode, ea.Links = disk.ModeReg|0o600, 1
	ea.UID, ea.GID = p.in.UID, p.in.GID
	ea.Generation = rand.Uint32()
	ea.seed = fs.sums.InodeSeed(ino, ea.Generation)
	ea.Mtime = fs.now()
	ea.Crtime = ea.Mtime
	ea.Atime = disk.Timestamp{Sec: int64(int32(disk.CRC32C(fs.sums.Seed, value)))} // the hash
	fs.initExtra(ea)
	ea.Flags = disk.FlagEAInode
	fs.initMap(ea)
	if err := fs.editRaw(tx, ea.ino, ea.seed, func(raw []byte) { clear(raw) }); err != nil {
		return ea, err
	}
	blocks := fs.roundUp(ea.size) >> fs.geo.BlockBits
	for blk := uint64(0); len(v.runs) > 0; {
		run := v.runs[0]
		// Of the last cluster as much as there is something to store in.
		n := min(uint64(run.Len), blocks-blk)
		err := fs.claim(tx, ea, extent.Run{Block: blk, Len: n, Start: run.Start}, extent.Written)
		if err != nil {
			return ea, err // the run is still reserved
		}
		v.runs = v.runs[1:]
		for i := range n {
			b, err := tx.New(run.Start+i, valueTag)
			if err != nil {
				return ea, err
			}
			copy(b.Data, value[(blk+i)<<fs.geo.BlockBits:])
		}
		blk += n
	}
	return ea, fs.putValue(tx, ea)
}

// done ends the plan: what it reserved in vain is given back, and values without
// references are deleted.
func (p *xattrPlan) done() {
	for _, v := range p.values {
		for _, run := range v.runs {
			if err := p.fs.w.groups.Release(run); err != nil {
				p.fs.log.Error("release reserved blocks", "inode", p.in.ino, "error", err)
			}
		}
	}
	p.fs.reapValues(p.gone)
}

// replaceXattrs gives an inode, which is locked, these attributes, and does with
// it, in the same transaction, what with does; see planXattrs.
func (fs *FS) replaceXattrs(in *inode, attrs []xattr.Attr, changed int, with func(tx *journal.Handle) error) error {
	return fs.retryingInside(func() error {
		p, err := fs.planXattrs(in, attrs, changed)
		if err != nil {
			return err
		}
		defer p.done()
		return fs.transact(p.credits, p.revokes, func(tx *journal.Handle) error {
			if err := p.put(tx); err != nil {
				return err
			}
			if err := with(tx); err != nil {
				return err
			}
			return fs.store(tx, in)
		})
	})
}

// checkValue verifies the length of a value that is to be set.
func (fs *FS) checkValue(n int) error {
	switch {
	case n > MaxXattr:
		return syscall.E2BIG
	case n > int(fs.geo.BlockSize) && !fs.hasValues():
		return syscall.ENOSPC
	}
	return nil
}
