package check

import (
	"fmt"
	"strings"

	"ext4box/ext4/internal/disk"
)

// pass5 compares bitmaps, counts and quota with what the other passes found.
func (c *checker) pass5() error {
	if err := c.parallel(uint64(c.geo.Groups), "groups", c.bitmapChecksums); err != nil {
		return err
	}
	if err := c.blockBitmaps(); err != nil {
		return err
	}
	if err := c.inodeBitmaps(); err != nil {
		return err
	}
	if err := c.parallel(uint64(c.geo.Groups), "groups", c.padding(false)); err != nil {
		return err
	}
	if err := c.parallel(uint64(c.geo.Groups), "groups", c.padding(true)); err != nil {
		return err
	}
	if err := c.serial(c.orphanFile); err != nil {
		return err
	}
	return c.serial(c.quotaUsage)
}

// orphanFile sees whether the orphan file is empty where it is said to be.
func (c *checker) orphanFile(b *batch) error {
	if c.sb.Compat&disk.CompatOrphanFile == 0 && c.sb.ROCompat&disk.ROCompatOrphanPresent != 0 {
		b.fs(OrphanFile, "the superblock says that the orphan file has orphans, and that there is none")
	}
	if c.sb.Compat&disk.CompatOrphanFile == 0 || c.sb.OrphanFileIno < 1 || c.sb.OrphanFileIno > c.geo.InodesCount {
		return nil
	}
	in, ok, err := c.inode(c.sb.OrphanFileIno)
	if err != nil || !ok || !in.IsReg() {
		return err
	}
	f, _, err := c.file(in)
	if err != nil {
		return err
	}
	block := make([]byte, c.geo.BlockSize)
	for i := range min(uint64(f.size)>>c.geo.BlockBits, disk.OrphanFileMaxBlocks) {
		at := f.block(i)
		if at == 0 {
			b.block(OrphanFile, in.ino, 0, "the orphan file has a hole at block %d", i)
			continue
		}
		if err := c.readBlock(block, at); err != nil {
			if err != errBeyond {
				return err
			}
			clear(block)
		}
		used := false
		for slot := range disk.OrphanSlots(len(block)) {
			used = used || disk.OrphanSlot(block, slot) != 0
		}
		if used || disk.CheckOrphanBlock(&c.sums, in.seed, at, block) != nil {
			b.block(OrphanFileNotClean, in.ino, at, "block %d of the orphan file is not clean", i)
		}
	}
	return nil
}

// bitmap reads a bitmap. It is nil where it is not stored or cannot be read, which
// is reported.
func (c *checker) bitmap(b *batch, group uint32, inodes bool) (disk.Bitmap, disk.GroupDesc, error) {
	d, _, ok, err := c.desc(group)
	if err != nil || !ok {
		return nil, d, err
	}
	blk, uninit := d.BlockBitmap, uint16(disk.GroupBlockUninit)
	if inodes {
		blk, uninit = d.InodeBitmap, disk.GroupInodeUninit
	}
	if c.trustsUninit(group) && d.Flags&uninit != 0 {
		return nil, d, nil
	}
	m := make(disk.Bitmap, c.geo.BlockSize)
	err = errBeyond
	if blk < c.geo.BlocksCount {
		err = c.readBlock(m, blk)
	}
	if err == errBeyond {
		if b != nil {
			class, what := BlockBitmapUnreadable, "block"
			if inodes {
				class, what = InodeBitmapUnreadable, "inode"
			}
			b.group(class, group, "the %s bitmap of group %d cannot be read", what, group)
		}
		return nil, d, nil
	}
	return m, d, err
}

// bitmapChecksums verifies those of a group.
func (c *checker) bitmapChecksums(unit uint64, b *batch) error {
	group := uint32(unit)
	if !c.sums.Metadata {
		return nil
	}
	high := c.geo.DescSize >= disk.GroupDescSize64
	for _, inodes := range []bool{false, true} {
		m, d, err := c.bitmap(b, group, inodes)
		if err != nil {
			return err
		}
		if m == nil {
			continue
		}
		bits, stored, class, what := c.geo.ClustersPerGroup, d.BlockBitmapCsum, BlockBitmapChecksum, "block"
		if inodes {
			bits, stored, class, what = c.geo.InodesPerGroup, d.InodeBitmapCsum, InodeBitmapChecksum, "inode"
		}
		sum := func() uint32 {
			v := c.sums.Bitmap(m, bits)
			if !high {
				v &= 0xFFFF
			}
			return v
		}
		fits := sum() == stored
		if n := c.geo.GroupClusters(group); !fits && !inodes && n < bits {
			m.SetRange(n, bits-n) // as it ought to be: the padding is examined apart
			fits = sum() == stored
		}
		if !fits {
			b.group(class, group, "group %d's %s bitmap does not match its checksum", group, what)
		}
	}
	return nil
}

// blockBitmaps compares the block bitmaps with what is claimed, in as many steps as
// the claims take.
func (c *checker) blockBitmaps() error {
	g := &c.geo
	free := uint64(0)
	c.rep.Scans = 1
	for from := uint64(0); from < uint64(g.Groups); {
		if from > 0 {
			c.rep.Scans++
			if err := c.claimAgain(from); err != nil {
				return err
			}
			// What is claimed twice there was not known in pass 1.
			c.pass = 1
			err := c.pass1b()
			if c.pass = 5; err != nil {
				return err
			}
		}
		_, to := c.claims.window()
		if to <= from {
			return errMemory
		}
		err := c.parallel(to-from, "groups", func(unit uint64, b *batch) error {
			n, err := c.blockBitmap(uint32(from+unit), b)
			b.later(func() { free += n })
			return err
		})
		if err != nil {
			return err
		}
		from = to
	}
	free <<= g.ClusterBits
	c.rep.BlocksUsed = g.BlocksCount - min(free, g.BlocksCount)
	return c.serial(func(b *batch) error {
		if free != c.sb.FreeBlocks {
			b.minor(FreeBlocks, "the free blocks count is wrong (%d, counted=%d)", c.sb.FreeBlocks, free)
		}
		return nil
	})
}

// claimAgain claims the blocks of the groups from one on, which did not fit before.
func (c *checker) claimAgain(from uint64) error {
	c.claims.reset(from, uint64(c.geo.Groups))
	if err := c.claimMetadata(&batch{c: c}); err != nil {
		return err
	}
	c.resetNodes()
	c.claimedTwice.reset(from, uint64(c.geo.Groups))
	attributes := newBlockSet(&c.geo, c.opt.Memory/32) // blocks that several inodes may have
	attributes.reset(from, uint64(c.geo.Groups))
	return c.parallel(uint64(c.geo.Groups), "groups", func(unit uint64, _ *batch) error {
		return c.eachInode(uint32(unit), func(in *inode) error {
			if !c.inodes.fact(in.ino).used() {
				return nil
			}
			twice := func(start, n uint64) { c.claimedTwice.add(start, n, nil) }
			if in.ino == disk.InoResize || in.ino == disk.InoBadBlocks {
				twice = nil
			}
			acl := in.FileACL != 0 && c.xattrPlace(in)
			return c.eachClaim(in, nil, func(start, n uint64) {
				if acl { // the first one that it tells
					acl = false
					shared := false
					attributes.add(start, n, func(_, _ uint64) { shared = true })
					if shared || !attributes.covers(start) {
						return
					}
				}
				c.claims.add(start, n, twice)
			})
		})
	})
}

// blockBitmap compares that of one group, and returns its free clusters.
func (c *checker) blockBitmap(group uint32, b *batch) (free uint64, err error) {
	g := &c.geo
	n := g.GroupClusters(group)
	want := make(disk.Bitmap, g.BlockSize)
	c.claims.bitmap(uint64(group), want)
	stored, d, err := c.bitmap(nil, group, false)
	if err != nil {
		return 0, err
	}
	count := uint64(want.CountClear(0, n))
	if stored == nil {
		if c.trustsUninit(group) && d.Flags&disk.GroupBlockUninit != 0 {
			own := make(disk.Bitmap, g.BlockSize)
			c.ownBlocks(group, &d, own)
			for i := want.NextSet(0, n); i < n; i = want.NextSet(i+1, n) {
				if !own.Test(i) {
					b.group(GroupBlocksUninit, group, "group %d has blocks in use, but is marked BLOCK_UNINIT", group)
					break
				}
			}
		}
	} else if text := differences(stored, want, n, (g.GroupFirstBlock(group)>>g.ClusterBits)<<g.ClusterBits, 1<<g.ClusterBits); text != "" {
		b.group(BlockBitmapDiffers, group, "block bitmap differences in group %d: %s", group, text)
	}
	if uint64(d.FreeBlocks) != count {
		b.group(GroupFreeBlocks, group, "the free blocks count is wrong for group %d (%d, counted=%d)", group, d.FreeBlocks, count)
	}
	return count, nil
}

// ownBlocks marks the group's own structures in its bitmap, as far as they lie in
// the group.
func (c *checker) ownBlocks(group uint32, d *disk.GroupDesc, m disk.Bitmap) {
	g := &c.geo
	first, last := g.GroupFirstBlock(group), g.GroupFirstBlock(group)+uint64(g.GroupBlocks(group))
	mark := func(start, n uint64) {
		lo, hi := max(start, first), min(start+n, last)
		if lo < hi && start < g.BlocksCount {
			a, z := (lo-first)>>g.ClusterBits, (hi-1-first)>>g.ClusterBits
			m.SetRange(uint32(a), uint32(z-a+1))
		}
	}
	mark(first, uint64(g.BaseMeta(group)))
	mark(d.BlockBitmap, 1)
	mark(d.InodeBitmap, 1)
	mark(d.InodeTable, uint64(g.InodeTableBlocks))
}

// differencesShown is how many ranges a finding lists.
const differencesShown = 16

// differences lists where two bitmaps of n bits differ, as e2fsck does: -3 for what
// is marked and not in use, +(4--6) for what is in use and not marked. Bit i stands
// for number base + i*unit.
func differences(stored, want disk.Bitmap, n uint32, base, unit uint64) string {
	var s strings.Builder
	shown := 0
	for i := uint32(0); i < n; {
		if i%64 == 0 && i+64 <= n && same64(stored, want, i) {
			i += 64
			continue
		}
		if stored.Test(i) == want.Test(i) {
			i++
			continue
		}
		j := i + 1
		for j < n && stored.Test(j) != want.Test(j) && stored.Test(j) == stored.Test(i) {
			j++
		}
		if shown++; shown > differencesShown {
			s.WriteString(" ...")
			break
		}
		sign := '+'
		if stored.Test(i) {
			sign = '-'
		}
		if s.Len() > 0 {
			s.WriteByte(' ')
		}
		lo, hi := base+uint64(i)*unit, base+uint64(j)*unit-1
		if lo == hi {
			fmt.Fprintf(&s, "%c%d", sign, lo)
		} else {
			fmt.Fprintf(&s, "%c(%d--%d)", sign, lo, hi)
		}
		i = j
	}
	return s.String()
}

func same64(a, b disk.Bitmap, i uint32) bool {
	return string(a[i/8:i/8+8]) == string(b[i/8:i/8+8])
}

// inodeBitmaps compares the inode bitmaps with what is in use.
func (c *checker) inodeBitmaps() error {
	free := uint64(0)
	err := c.parallel(uint64(c.geo.Groups), "groups", func(unit uint64, b *batch) error {
		n, err := c.inodeBitmap(uint32(unit), b)
		b.later(func() { free += n })
		return err
	})
	if err != nil {
		return err
	}
	return c.serial(func(b *batch) error {
		if free != uint64(c.sb.FreeInodes) {
			b.minor(FreeInodes, "the free inodes count is wrong (%d, counted=%d)", c.sb.FreeInodes, free)
		}
		return nil
	})
}

// inodeBitmap compares that of one group, and returns its free inodes.
func (c *checker) inodeBitmap(group uint32, b *batch) (free uint64, err error) {
	g := &c.geo
	n := g.InodesPerGroup
	want := make(disk.Bitmap, g.BlockSize)
	first := group*n + 1
	if first < g.FirstIno {
		want.SetRange(0, min(g.FirstIno-first, n))
	}
	dirs := uint32(0)
	c.inodes.each(group, func(ino uint32, f fact) bool {
		want.SetRange(ino-first, 1)
		if f.isDir() {
			dirs++
		}
		return true
	})
	stored, d, err := c.bitmap(nil, group, true)
	if err != nil {
		return 0, err
	}
	count := want.CountClear(0, n)
	if stored == nil {
		if c.trustsUninit(group) && d.Flags&disk.GroupInodeUninit != 0 && count != n {
			b.group(GroupInodesUninit, group, "group %d has inodes in use, but is marked INODE_UNINIT", group)
		}
	} else if text := differences(stored, want, n, uint64(first), 1); text != "" {
		b.group(InodeBitmapDiffers, group, "inode bitmap differences in group %d: %s", group, text)
	}
	if d.FreeInodes != count {
		b.group(GroupFreeInodes, group, "the free inodes count is wrong for group %d (%d, counted=%d)", group, d.FreeInodes, count)
	}
	if d.UsedDirs != dirs {
		b.group(GroupDirs, group, "the directories count is wrong for group %d (%d, counted=%d)", group, d.UsedDirs, dirs)
	}
	return uint64(count), nil
}

// padding sees whether the bits behind the end of a bitmap are set.
func (c *checker) padding(blocks bool) func(unit uint64, b *batch) error {
	return func(unit uint64, b *batch) error {
		group := uint32(unit)
		n, class, what := c.geo.InodesPerGroup, InodeBitmapPadding, "inode"
		if blocks {
			n, class, what = c.geo.GroupClusters(group), BlockBitmapPadding, "block"
		}
		if n >= c.geo.BlockSize*8 {
			return nil
		}
		m, _, err := c.bitmap(nil, group, !blocks)
		if err != nil || m == nil {
			return err
		}
		if m.CountClear(n, c.geo.BlockSize*8) > 0 {
			b.group(class, group, "the padding at the end of group %d's %s bitmap is not set", group, what)
		}
		return nil
	}
}
