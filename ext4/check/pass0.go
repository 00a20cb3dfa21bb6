package check

import (
	"cmp"
	"time"

	"ext4box/ext4/internal/disk"
)

// pass0 examines the superblock and the descriptors, and sets up everything that
// depends on them.
func (c *checker) pass0() error {
	return c.serial(func(b *batch) error {
		if err := c.loadSuper(b); err != nil {
			return err
		}
		g := &c.geo
		c.rep.Inodes, c.rep.Blocks = uint64(g.InodesCount), g.BlocksCount
		c.inodes.init(g)
		c.claims = newBlockSet(g, c.opt.Memory/4)
		c.claimedTwice = newBlockSet(g, c.opt.Memory/32)
		c.nodes = newBlockSet(g, c.opt.Memory/16)
		c.meta = newBlockSet(g, c.opt.Memory/16)
		later := &batch{c: c, limit: c.opt.Findings}
		if err := c.descPlaces(b, later); err != nil {
			return err
		}
		if err := c.mmp(b); err != nil {
			return err
		}
		if err := c.journal(b); err != nil {
			return err
		}
		c.merge(later)
		if err := c.superFields(b); err != nil {
			return err
		}
		if err := c.descs0(b); err != nil {
			return err
		}
		c.superTimes(b)
		c.quotaInodes(b)
		return c.resizeInode(b)
	})
}

// descPlaces sees whether bitmaps and inode tables are where they can be, and
// turns to the copies of the descriptors if not. What it finds where there are none
// goes to later, since e2fsck tells it after the journal.
func (c *checker) descPlaces(b, later *batch) error {
	primary := c.sbBlock
	if c.geo.Groups == 1 {
		_, err := c.descsBad(later, true)
		if err == errStop {
			c.merge(later)
		}
		return err
	}
	bad, err := c.descsBad(b, true)
	if err != nil && err != errStop || !bad {
		return err
	}
	if stop := err; c.backupSuper() {
		again, err := c.descsBad(b, false)
		if err == errStop && stop == errStop || err != nil && err != errStop {
			return err
		}
		if !again {
			b.fs(GroupDescBackup, "the group descriptors at block %d are used instead", c.sbBlock+1)
			return nil
		}
	}
	c.sbBlock = primary
	c.descs.blocks = nil
	return err
}

// backupSuper turns to the first copy of the superblock and descriptors.
func (c *checker) backupSuper() bool {
	g := &c.geo
	for group := uint32(1); group < min(g.Groups, 128); group++ {
		if g.HasSuper(group) {
			c.sbBlock = g.GroupFirstBlock(group)
			c.descs.blocks = nil
			return true
		}
	}
	return false
}

// descsBad tells whether a descriptor points where it cannot. It is errStop if there
// are descriptors that cannot be read: groups that are not on the device are as many
// as a superblock says, and nothing bounds the time that they take.
func (c *checker) descsBad(b *batch, tell bool) (bad bool, err error) {
	g := &c.geo
	flex := c.sb.Incompat&disk.IncompatFlexBG != 0
	if _, _, ok, err := c.desc(g.Groups - 1); err != nil || !ok {
		if err == nil && tell {
			b.group(GroupDescUnreadable, g.Groups-1, "the descriptor of group %d lies beyond the device", g.Groups-1)
		}
		return true, cmp.Or(err, errStop)
	}
	// No two of these may have blocks in common. Of so many that they do not fit the
	// memory, pass 1 finds those that do.
	taken := newBlockSet(g, c.opt.Memory/16)
	for group := range g.Groups {
		if n := g.BaseMeta(group); n > 0 {
			if c.sb.Incompat&disk.IncompatMetaBG == 0 && c.sb.Compat&disk.CompatResizeInode == 0 {
				n += uint32(c.sb.ReservedGDT) // where there should be none
			}
			taken.add(g.GroupFirstBlock(group)>>g.ClusterBits, (uint64(n)-1)>>g.ClusterBits+1, nil)
		}
	}
	for group := range g.Groups {
		if group%1024 == 0 && c.ctx.Err() != nil {
			return false, c.ctx.Err()
		}
		d, _, ok, err := c.desc(group)
		if err != nil {
			return false, err
		}
		lo, hi := uint64(g.FirstDataBlock), g.BlocksCount
		if !flex {
			lo = g.GroupFirstBlock(group)
			hi = lo + uint64(g.GroupBlocks(group))
		}
		in := func(start, n uint64) bool {
			if start < lo || start >= hi || n > hi-start {
				return false
			}
			free := true
			taken.add(start>>g.ClusterBits, (start+n-1)>>g.ClusterBits-start>>g.ClusterBits+1, func(_, _ uint64) {
				free = g.ClusterBits != 0
			})
			return free
		}
		class := Class("")
		what := ""
		switch super := uint64(g.FirstDataBlock); {
		case !ok:
			class, what = GroupDescUnreadable, "descriptor, which lies beyond the device"
		case !in(d.BlockBitmap, 1) || d.BlockBitmap == super:
			class, what = GroupBlockBitmap, "block bitmap"
		case !in(d.InodeBitmap, 1) || d.InodeBitmap == super:
			class, what = GroupInodeBitmap, "inode bitmap"
		case !in(d.InodeTable, uint64(g.InodeTableBlocks)) || d.InodeTable == super:
			class, what = GroupInodeTable, "inode table"
		}
		if class == "" {
			continue
		}
		bad = true
		if tell {
			b.group(class, group, "the place of group %d's %s is impossible", group, what)
		}
		if !ok {
			return true, errStop
		}
		break
	}
	return bad, nil
}

// descs0 examines what else descriptors say.
func (c *checker) descs0(b *batch) error {
	g := &c.geo
	csum := c.sums.Metadata || c.sums.GDT
	for group := range g.Groups {
		d, raw, ok, err := c.desc(group)
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		if csum && c.sums.GroupDesc(group, raw) != d.Checksum {
			b.minorGroup(GroupDescChecksum, group, "group %d's descriptor has checksum %#04x, should be %#04x",
				group, d.Checksum, c.sums.GroupDesc(group, raw))
			c.badDescs.add(group)
		}
		switch {
		case !csum && (d.Flags&(disk.GroupBlockUninit|disk.GroupInodeUninit) != 0 || d.ItableUnused != 0):
			b.minorGroup(GroupUninit, group, "group %d's descriptor is marked uninitialised without the feature", group)
		case !csum:
		case group == g.Groups-1 && d.Flags&disk.GroupBlockUninit != 0:
			b.minorGroup(GroupLastUninit, group, "the last group's block bitmap is uninitialised")
		case d.ItableUnused > g.InodesPerGroup || d.ItableUnused > d.FreeInodes:
			b.minorGroup(GroupUnusedInodes, group, "group %d's descriptor has an invalid count of unused inodes, %d", group, d.ItableUnused)
		}
	}
	return nil
}

// superTimes compares times of the superblock with the clock.
func (c *checker) superTimes(b *batch) {
	if c.sb.UUID == [16]byte{} {
		b.minor(UUIDMissing, "the filesystem has no UUID")
	}
	now := time.Now().Unix() + 24*60*60 // e2fsck forgives a day, for clocks without a zone
	for _, t := range []struct {
		name string
		at   int64
	}{{"mount", c.sb.MountTime}, {"write", c.sb.WriteTime}} {
		if t.at&0xFFFFFFFF > now {
			b.minor(TimeInFuture, "the superblock's last %s time is in the future", t.name)
		}
	}
	room := uint32(c.geo.InodeSize) - disk.InodeSizeOld
	if c.geo.InodeSize > disk.InodeSizeOld {
		for _, f := range []struct {
			name string
			v    uint16
		}{{"required", c.sb.MinExtraIsize}, {"desired", c.sb.WantExtraIsize}} {
			if f.v != 0 && (f.v < 4 || uint32(f.v) > room || f.v%4 != 0) {
				b.minor(ExtraIsizeField, "bad %s extra isize in superblock (%d)", f.name, f.v)
			}
		}
	}
}

// quotaInodes examines which inodes the superblock names for quota.
func (c *checker) quotaInodes(b *batch) {
	if c.sb.ROCompat&disk.ROCompatQuota == 0 && c.sb.UserQuotaIno|c.sb.GroupQuotaIno|c.sb.ProjectQuotaIno == 0 {
		return
	}
	for i, ino := range c.quotaInos() {
		if ino == 0 {
			continue
		}
		fixed := [3]uint32{disk.InoUserQuota, disk.InoGrpQuota, 0}[i]
		if ino != fixed && (ino < c.geo.FirstIno || ino > c.geo.InodesCount) {
			b.minor(QuotaInodeInvalid, "invalid %s quota inode %d", quotaNames[i], ino)
		}
	}
}

var quotaNames = [3]string{"user", "group", "project"}

func (c *checker) quotaInos() [3]uint32 {
	return [3]uint32{c.sb.UserQuotaIno, c.sb.GroupQuotaIno, c.sb.ProjectQuotaIno}
}

// resizeInode examines the inode that holds the room for more descriptors.
func (c *checker) resizeInode(b *batch) error {
	in, ok, err := c.inode(disk.InoResize)
	if err != nil || !ok {
		return err
	}
	if c.sb.Compat&disk.CompatResizeInode == 0 {
		for _, v := range in.Block {
			if v != 0 {
				b.minor(ResizeInodeNonzero, "resize_inode is not enabled, but the resize inode is not zero")
				break
			}
		}
		return nil
	}
	valid := in.Links != 0 && in.IsReg() && c.geo.BlockBits <= 16
	for i := 0; i < disk.InodeBlockSize; i += 4 {
		if p := uint64(le32(in.Block[i:])); i == 52 {
			valid = valid && p >= uint64(c.geo.FirstDataBlock) && p < c.geo.BlocksCount
		} else {
			valid = valid && p == 0
		}
	}
	if valid {
		valid, err = c.resizeMap(uint64(le32(in.Block[52:])))
		if err != nil {
			return err
		}
	}
	if !valid {
		b.fs(ResizeInodeInvalid, "the resize inode is not valid")
		c.resizeBad = true
	}
	return nil
}

// resizeMap tells whether the block at blk leads to the reserved descriptor blocks.
func (c *checker) resizeMap(blk uint64) (bool, error) {
	g := &c.geo
	dind := make([]byte, g.BlockSize)
	if err := c.readBlock(dind, blk); err != nil {
		return false, ignoreBeyond(err)
	}
	first := disk.SuperblockOffset>>g.BlockBits + 1 + uint64(g.DescBlocks)
	ind := make([]byte, g.BlockSize)
	for i := range uint64(c.sb.ReservedGDT / 4) { // as far as e2fsck looks
		slot := (uint64(g.DescBlocks) + i) % uint64(g.BlockSize/4)
		if uint64(le32(dind[4*slot:])) != first+i {
			return false, nil
		}
		// Each of these has those of the copies.
		if err := c.readBlock(ind, first+i); err != nil {
			return false, ignoreBeyond(err)
		}
		at := 0
		for group := uint32(1); group < g.Groups && at < len(ind); group++ {
			if !g.HasSuper(group) {
				continue
			}
			if uint64(le32(ind[at:])) != first+i+uint64(group)*uint64(g.BlocksPerGroup) {
				return false, nil
			}
			at += 4
		}
	}
	return true, nil
}

func ignoreBeyond(err error) error {
	if err == errBeyond {
		return nil
	}
	return err
}
