package check

import (
	"bytes"
	"encoding/binary"

	"ext4box/ext4/internal/disk"
)

// examination is that of one inode.
type examination struct {
	c    *checker
	b    *batch
	in   *inode
	fact fact

	blocks    uint64 // clusters claimed, in blocks
	last      uint64 // block behind the last one that the file has
	lastInit  uint64 // the same of written ones
	illegal   int    // problems of the block map
	bad       bool   // what was found makes the rest meaningless
	hasXattrs bool   // an attribute block

	valueInodes uint64 // that hold values of its attributes

	inlineSound bool   // there are inline data
	inlineSize  uint64 // how much room, in bytes
}

func (x *examination) found(class Class, format string, args ...any) {
	x.b.inode(class, x.in.ino, format, args...)
}

// reserved tells whether the inode is one of those without names.
func (x *examination) reserved() bool {
	return x.in.ino < x.c.geo.FirstIno && x.in.ino != disk.InoRoot
}

// inode examines it, in e2fsck's order.
func (x *examination) inode() error {
	c, in, sb := x.c, x.in, &x.c.sb
	if in.Dtime != 0 && in.Dtime < c.geo.InodesCount && sb.WriteTime >= int64(c.geo.InodesCount) {
		x.found(OrphanedInode, "inode %d was part of a corrupted list of orphans", in.ino)
	}
	if in.Links == 0 && !x.reserved() {
		if in.Dtime == 0 && in.Mode != 0 && in.ino != disk.InoRoot {
			x.found(DeletedZeroDtime, "deleted inode %d has no time of deletion", in.ino)
		}
		return nil
	}
	x.fact = factUsed | fact(disk.FileType(in.Mode))
	if in.is(disk.FlagEAInode) {
		x.fact |= factEA
	}
	if err := x.form(); err != nil {
		return err
	}
	if in.Dtime != 0 && in.Dtime >= c.geo.InodesCount {
		switch {
		case in.ino == disk.InoRoot:
			x.found(RootDtime, "the root inode has a time of deletion")
		case !x.reserved():
			x.found(InUseDtime, "inode %d is in use, but has a time of deletion", in.ino)
		}
	}
	if in.ino == disk.InoRoot && !in.IsDir() {
		x.found(RootNotDir, "the root inode is not a directory")
	}
	if x.bad {
		x.fact |= factNoBlocks
		return x.checksum()
	}
	if err := x.inodeFlags(); err != nil {
		return err
	}
	switch {
	case in.ino == disk.InoBadBlocks:
		return x.badBlocks()
	case x.special():
		return nil
	case x.reserved() && in.Mode != 0 && !in.IsReg() && !(in.ino == disk.InoBoot && in.IsDir()):
		x.found(ReservedInodeMode, "reserved inode %d has the invalid mode %#o", in.ino, in.Mode)
	}
	x.badFields()
	if err := x.content(); err != nil {
		return err
	}
	return x.checksum()
}

// checksum verifies that of the inode, where nothing else was found.
func (x *examination) checksum() error {
	if x.checksumWrong() {
		x.found(InodeChecksum, "inode %d passes checks, but its checksum does not match", x.in.ino)
	}
	return nil
}

func (x *examination) checksumWrong() bool {
	in := x.in
	return x.c.sums.Metadata && disk.InodeChecksum(in.seed, in.raw, in.HasHiCsum) != in.Checksum
}

// special examines inodes that belong to the filesystem itself, and tells whether
// that is all there is to say.
func (x *examination) special() bool {
	c, in, sb := x.c, x.in, &x.c.sb
	role := func(present bool, what string, notRegular, unused Class) {
		switch {
		case present && !in.IsReg():
			x.found(notRegular, "%s, inode %d, is not a regular file", what, in.ino)
		case !present && (in.Links != 0 || in.Blocks != 0 || in.Size != 0):
			x.found(unused, "%s, inode %d, is not in use, but contains data", what, in.ino)
		}
	}
	switch ino := in.ino; {
	case ino == disk.InoResize && sb.Compat&disk.CompatResizeInode != 0:
		if !in.IsReg() && in.Mode != 0 {
			x.found(ReservedInodeMode, "reserved inode %d has the invalid mode %#o", in.ino, in.Mode)
		}
	case ino == disk.InoJournal || ino == sb.JournalIno && ino != 0:
		role(sb.Compat&disk.CompatHasJournal != 0 && sb.JournalIno == ino, "the journal", JournalNotRegular, JournalInodeUnused)
	case ino == sb.OrphanFileIno && ino != 0:
		role(sb.Compat&disk.CompatOrphanFile != 0, "the orphan file", OrphanFileNotRegular, OrphanFileUnused)
	default:
		for i, q := range c.quotaInos() {
			fixed := [3]uint32{disk.InoUserQuota, disk.InoGrpQuota, 0}[i]
			if ino == q && ino != 0 && sb.ROCompat&disk.ROCompatQuota != 0 || ino == fixed {
				role(sb.ROCompat&disk.ROCompatQuota != 0 && ino == q, "the "+quotaNames[i]+" quota", QuotaNotRegular, QuotaInodeUnused)
			}
		}
	}
	return false
}

// form examines whether flags, form and features go together.
func (x *examination) form() error {
	in, sb := x.in, &x.c.sb
	if in.is(disk.FlagCasefold) {
		if !in.IsDir() {
			x.found(CasefoldNotDir, "inode %d has the casefold flag, but is not a directory", in.ino)
		}
		if sb.Incompat&disk.IncompatCasefold == 0 {
			x.found(CasefoldFeature, "inode %d has the casefold flag, but the filesystem has not the feature", in.ino)
		}
	}
	header := disk.DecodeExtentHeader(in.Block[:])
	treeLike := header.Magic == disk.ExtentMagic && headerSound(in.Block[:])
	inline, extents := in.is(disk.FlagInlineData) && in.ino >= x.c.geo.FirstIno, in.is(disk.FlagExtents)
	data := in.IsReg() || in.IsDir() || in.IsSymlink()
	if extents && in.IsSymlink() && in.Blocks == 0 && in.FileACL == 0 && !treeLike {
		x.found(SymlinkInvalid, "symbolic link inode %d has no blocks, but the extents flag", in.ino)
	}
	switch {
	case inline && extents && treeLike && sb.Incompat&disk.IncompatExtents != 0:
		x.found(ExtentRootInvalid, "inode %d has an extent header, but its flag says inline data", in.ino)
		x.bad = true
	case inline && extents && sb.Incompat&(disk.IncompatInlineData|disk.IncompatExtents) != 0:
		x.found(InlineAndExtents, "inode %d has the flags of both inline data and extents", in.ino)
		x.bad = true
	case inline && sb.Incompat&disk.IncompatInlineData == 0:
		x.found(InlineFlagFeature, "inode %d has inline data, but the filesystem has not the feature", in.ino)
		x.bad = true
	case inline && treeLike:
		x.found(ExtentRootInvalid, "inode %d has an extent header, but its flag says inline data", in.ino)
		x.bad = true
	case inline:
		if err := x.inline(); err != nil {
			return err
		}
	}
	if extents && !inline {
		switch {
		case sb.Incompat&disk.IncompatExtents == 0 && treeLike:
			x.found(ExtentsFlagFeature, "inode %d is in extent format, but the superblock is missing the feature", in.ino)
		case sb.Incompat&disk.IncompatExtents == 0:
			x.found(ExtentsFlagSet, "inode %d has the extents flag on a filesystem without extents", in.ino)
			x.bad = true
		case !data:
		case !treeLike:
			x.found(ExtentRootInvalid, "inode %d has a corrupt extent header", in.ino)
			x.bad = true
		}
	} else if !extents && !inline && treeLike && data && sb.Incompat&disk.IncompatExtents != 0 {
		x.found(ExtentsFlagMissing, "inode %d has no extents flag, but is in extents format", in.ino)
	}
	return nil
}

// inodeFlags examines what else is in the inode itself.
func (x *examination) inodeFlags() error {
	in, sb := x.in, &x.c.sb
	if err := x.looksLikeDir(); err != nil {
		return err
	}
	if in.is(disk.FlagImagic) && sb.Compat&disk.CompatImagicInodes == 0 && !x.reserved() {
		x.found(InodeMagicFlag, "inode %d has the imagic flag", in.ino)
	}
	if len(in.raw) > disk.InodeSizeOld {
		if e := in.ExtraIsize; e != 0 && (e < 4 || int(e) > len(in.raw)-disk.InodeSizeOld || e%4 != 0) {
			x.found(InodeExtraSize, "inode %d has an extra size (%d) which is invalid", in.ino, e)
		} else {
			x.times()
		}
	}
	return nil
}

// times looks for times that were meant to be before 1970: a writer that extends the
// sign of 32 bits without regard to the two bits above makes them of the 24th century.
func (x *examination) times() {
	raw := x.in.raw
	for _, at := range []struct{ low, extra int }{{0x08, 0x8C}, {0x0C, 0x84}, {0x10, 0x88}, {0x90, 0x94}} {
		if at.extra+4 <= disk.InodeSizeOld+int(x.in.ExtraIsize) && le32(raw[at.low:])>>31 != 0 && le32(raw[at.extra:])&3 == 3 {
			x.found(InodeTimes, "inode %d has times after 2310, which are likely before 1970", x.in.ino)
			return
		}
	}
}

// headerSound tells whether an extent header can be one, its depth aside.
func headerSound(node []byte) bool {
	h := disk.DecodeExtentHeader(node)
	room := disk.ExtentNodeCapacity(len(node))
	return h.Magic == disk.ExtentMagic && h.Entries <= h.Max && int(h.Max) <= room && int(h.Max) >= room-2
}

// badFields notes what pass 2 reports when it finds the inode's name.
func (x *examination) badFields() {
	c, in, sb := x.c, x.in, &x.c.sb
	bad := false
	block := in.Block[:]
	switch in.Type() {
	case disk.ModeReg, disk.ModeDir:
	case disk.ModeLink:
	case disk.ModeChar, disk.ModeBlock, disk.ModeFifo, disk.ModeSocket:
		bad = in.is(disk.FlagExtents|disk.FlagIndex) || !isZero(block[16:])
		if bad {
			break
		}
		if in.Flags&(disk.FlagImmutable|disk.FlagAppend) != 0 {
			x.b.add(Finding{Class: DeviceFlags, Ino: in.ino, Minor: true,
				Text: "special file inode has the immutable or append-only flag"})
		}
		if in.Size != 0 {
			x.found(DeviceSize, "special file inode %d has the size %d", in.ino, in.Size)
		}
	default:
		bad = !x.reserved()
	}
	if le32(in.raw[0x70:]) != 0 {
		bad = true
	}
	if in.FileACL != 0 && !c.xattrPlace(in) {
		bad = true
	}
	if !c.hurd && sb.ROCompat&disk.ROCompatHugeFile == 0 && in.Blocks>>32 != 0 {
		bad = true
	}
	if in.IsDir() && le32(in.raw[0x6C:]) != 0 && sb.Incompat&disk.IncompatLargeDir == 0 && in.Size>>48 != 0 {
		bad = true
	}
	if bad {
		x.fact |= factBad
	}
}

// xattrPlace tells whether an attribute block can be where the inode says.
func (c *checker) xattrPlace(in *inode) bool {
	if c.sb.Incompat&disk.Incompat64Bit == 0 && in.FileACL>>32 != 0 {
		return false
	}
	return c.sb.Compat&disk.CompatExtAttr != 0 && in.FileACL >= uint64(c.geo.FirstDataBlock) && in.FileACL < c.geo.BlocksCount
}

// looksLikeDir sees whether a directory has lost its mode.
func (x *examination) looksLikeDir() error {
	c, in := x.c, x.in
	switch in.Type() {
	case disk.ModeReg, disk.ModeDir, disk.ModeLink:
		return nil
	}
	if x.reserved() || in.is(disk.FlagInlineData) || x.checksumWrong() {
		return nil
	}
	var first uint64
	if in.is(disk.FlagExtents) {
		var err error
		if first, err = c.firstBlock(in); err != nil {
			return err
		}
	} else {
		if t := in.Type(); t == disk.ModeChar || t == disk.ModeBlock || t == disk.ModeFifo || t == disk.ModeSocket {
			if in.Links == 1 && isZero(in.Block[16:]) {
				return nil
			}
		}
		first = uint64(le32(in.Block[:]))
	}
	if !c.geo.BlocksInRange(first, 1) {
		return nil
	}
	b := make([]byte, c.geo.BlockSize)
	if err := c.readBlock(b, first); err != nil {
		return ignoreBeyond(err)
	}
	le := binary.LittleEndian
	n := int(le.Uint16(b[4:]))
	if sum, ok := disk.DirTail(b); ok && c.sums.Metadata && sum != disk.DirLeafChecksum(in.seed, b) {
		return nil
	}
	if le.Uint32(b) == in.ino && b[6] == 1 && b[8] == '.' && n >= 12 && n%4 == 0 && n+12 <= len(b) && b[n+6] == 2 &&
		bytes.Equal(b[n+8:n+10], []byte("..")) {
		x.found(LooksLikeDir, "inode %d has mode %#o, but looks like a directory", in.ino, in.Mode)
	}
	return nil
}

// badBlocks examines the list of bad blocks.
func (x *examination) badBlocks() error {
	if x.in.is(disk.FlagExtents) || x.in.IsDir() {
		x.found(BadBlocksInode, "the bad block inode looks invalid")
		return nil
	}
	problem := func(_ Class, blk uint64, format string, args ...any) {
		x.b.block(BadBlocksInode, x.in.ino, blk, "the bad block inode "+format, args...)
	}
	return x.c.walkPointers(x.in, problem, func(m mapping) bool {
		x.c.claims.add(m.start>>x.c.geo.ClusterBits, m.n, nil)
		return !m.node || x.c.nodeOnce(m.start)
	})
}
