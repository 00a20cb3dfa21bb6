package check

import (
	"fmt"
	"slices"
	"strconv"

	"ext4box/ext4/internal/casefold"
	"ext4box/ext4/internal/disk"
	"ext4box/ext4/internal/xattr"
)

// readAhead is how many blocks of a directory are read at once.
const readAhead = 16

// dirScan examines one directory after the other.
type dirScan struct {
	c   *checker
	b   *batch
	in  *inode
	f   fact
	buf []byte

	filetype bool // entries have the type
	csum     bool // blocks have checksums
	raw      bool // names are ciphertext
	fold     bool // names are compared without case
	names    map[string]bool
	folded   []byte
	quoted   string // the name of the entry at hand

	index index
	all   nameSet // of a directory of several blocks

	group     uint32 // whose descriptor this is
	desc      disk.GroupDesc
	descKnown bool

	namesOnly bool // is read again for the names alone

	onLink func(link) // is only told of entries for directories that have several; nothing is reported
}

func newDirScan(c *checker) *dirScan {
	return &dirScan{
		c: c, buf: make([]byte, readAhead*c.geo.BlockSize), names: map[string]bool{},
		filetype: c.sb.Incompat&disk.IncompatFiletype != 0, csum: c.sums.Metadata,
	}
}

func (s *dirScan) reset(in *inode, f fact) {
	s.in, s.f = in, f
	s.raw = in.is(disk.FlagEncrypt)
	s.fold = in.is(disk.FlagCasefold) && s.c.sb.Incompat&disk.IncompatCasefold != 0
	s.index.reset(in.is(disk.FlagIndex) && s.c.sb.Compat&disk.CompatDirIndex != 0)
	blocks := in.Size >> s.c.geo.BlockBits
	s.all.reset(blocks > 1 && !s.index.on && !in.is(disk.FlagInlineData), s.c.opt.Memory/16/int64(s.c.opt.Workers))
}

// add reports a finding at a place.
func (s *dirScan) add(class Class, p place, format string, args ...any) {
	if s.onLink != nil && class != EntryDirLink || s.namesOnly && class != EntryDuplicate {
		return
	}
	f := Finding{Class: class, Ino: s.in.ino, Text: fmt.Sprintf(format, args...), stage: p.stage, at: p.at}
	if p.stage != stageIndex {
		f.Block = p.at
	}
	s.b.add(f)
}

// directory examines the directory.
func (s *dirScan) directory() error {
	if s.in.is(disk.FlagInlineData) {
		return s.inline()
	}
	next, stopped := uint64(0), false
	limit := s.blockLimit()
	var err error
	werr := s.c.walkMap(s.in, nil, func(m mapping) bool {
		if m.node {
			return true
		}
		if m.logical > next {
			s.hole(next, m.logical)
		}
		end := min(m.logical+m.n, limit)
		for blk := max(m.logical, next); blk < end && err == nil; {
			n := min(end-blk, readAhead)
			if !s.namesOnly && !spend(&s.c.dirBlocks, int64(n)) {
				stopped = true
				return false
			}
			err = s.blocks(blk, m.start+blk-m.logical, n)
			blk += n
		}
		next = max(next, m.logical+m.n)
		return err == nil && s.c.ctx.Err() == nil
	})
	switch {
	case err != nil:
		return err
	case werr != nil:
		return werr
	}
	if stopped {
		s.b.later(func() { s.c.sharedDirBlocks() })
		return nil
	}
	s.index.finish(s)
	if s.namesOnly || s.onLink != nil {
		return nil
	}
	return s.all.finish(s)
}

// again reads the directory for its names alone.
func (s *dirScan) again() error {
	s.namesOnly = true
	defer func() { s.namesOnly = false }()
	return s.directory()
}

// sharedDirBlocks says that not all directories were examined.
func (c *checker) sharedDirBlocks() {
	if !c.dirsCut {
		c.dirsCut = true
		c.warn("directories have more blocks than the filesystem, since they share them: some were not examined")
	}
}

// blockLimit is the number of blocks that a directory may have.
func (s *dirScan) blockLimit() uint64 {
	if s.c.sb.Incompat&disk.IncompatLargeDir != 0 {
		return 1 << 32
	}
	return 1 << 31 >> s.c.geo.BlockBits
}

// hole reports blocks [from, to) that are not there.
func (s *dirScan) hole(from, to uint64) {
	p := place{stage: stageOther, block: from}
	if from == 0 {
		p.stage = stageFirst
	}
	if to-from == 1 {
		s.add(DirHole, p, "directory inode %d has no block #%d", s.in.ino, from)
		return
	}
	s.add(DirHole, p, "directory inode %d has no blocks #%d to #%d", s.in.ino, from, to-1)
}

// blocks examines n blocks of the directory from blk on, which are at start.
func (s *dirScan) blocks(blk, start, n uint64) error {
	bs := uint64(s.c.geo.BlockSize)
	b := s.buf[:n*bs]
	err := s.c.readBlock(b, start)
	if err != nil && err != errBeyond {
		return err
	}
	for i := range n {
		p := place{stage: stageOther, at: start + i, block: blk + i}
		if p.block == 0 {
			p.stage = stageFirst
		}
		one := b[i*bs : (i+1)*bs]
		if err == errBeyond {
			if err := s.c.readBlock(one, p.at); err == errBeyond {
				s.add(DirReadFailed, p, "block %d of directory inode %d lies beyond the device", p.at, s.in.ino)
				continue
			} else if err != nil {
				return err
			}
		}
		if err := s.block(p, one); err != nil {
			return err
		}
	}
	return nil
}

// block examines one block.
func (s *dirScan) block(p place, b []byte) error {
	kind := s.index.kind(s, p, b)
	noTail := false
	if s.csum && kind == kindLeaf && !s.hasTail(b) {
		noTail = true
		s.add(DirNoChecksum, p, "block #%d of directory inode %d has no checksum", p.block, s.in.ino)
	}
	state := 2
	if p.block == 0 {
		state = 0
	}
	if err := s.entries(p, kind, b, state, s.csum && kind == kindLeaf && !noTail); err != nil {
		return err
	}
	if kind != kindLeaf {
		s.index.node(s, p, kind, b)
		return nil
	}
	if !s.csum {
		return nil
	}
	if sum, ok := disk.DirTail(b); noTail || !ok || sum != disk.DirLeafChecksum(s.in.seed, b) {
		s.add(DirChecksum, p, "the checksum of block #%d of directory inode %d is wrong", p.block, s.in.ino)
	}
	return nil
}

// hasTail tells whether the records of a block lead to a checksum at its end, or
// are so broken that they lead nowhere.
func (s *dirScan) hasTail(b []byte) bool {
	end := len(b) - disk.DirTailSize
	for off := 0; off < end; {
		n := disk.DirRecLen(b, off)
		if n < disk.DirEntryHeader || n%4 != 0 || off+n > len(b) {
			return true
		}
		if off += n; off > end {
			return false
		}
	}
	_, ok := disk.DirTail(b)
	return ok
}

// entries examines the records of a block or of an inline area. state is 0 where
// "." is expected, 1 where ".." is, 2 elsewhere; tail says that the last record is
// the checksum.
func (s *dirScan) entries(p place, kind blockKind, b []byte, state int, tail bool) error {
	clear(s.names)
	end := len(b)
	if tail {
		end -= disk.DirTailSize
	}
	for off := 0; off < end; {
		e, problem := disk.DecodeDirEntry(b, off, true)
		if problem != "" || off+e.RecLen > end {
			if problem == "" {
				problem = "record covers the checksum"
			}
			s.add(DirCorrupt, p, "directory inode %d, block #%d, offset %d: %s", s.in.ino, p.block, off, problem)
			return nil
		}
		if err := s.entry(p, kind, b, off, &e, state); err != nil {
			return err
		}
		if state < 2 {
			state++
		}
		off += e.RecLen
	}
	return nil
}

// entry examines one entry.
func (s *dirScan) entry(p place, kind blockKind, b []byte, off int, e *disk.DirEntry, state int) error {
	c, dir := s.c, s.in.ino
	s.quoted = strconv.Quote(string(e.Name))
	switch state {
	case 0:
		s.dot(p, b, off, e)
	case 1:
		s.dotdot(p, b, off, e)
	}
	if e.Inode == 0 {
		return nil
	}
	if s.namesOnly {
		s.checkNames(p, e, state)
		return nil
	}
	what := func() string {
		return "entry " + s.quoted + " in directory inode " + strconv.FormatUint(uint64(dir), 10)
	}
	name := string(e.Name)
	switch {
	case e.Inode > c.geo.InodesCount || e.Inode < c.geo.FirstIno && e.Inode != disk.InoRoot:
		s.add(EntryInode, p, "%s has the invalid inode number %d", what(), e.Inode)
		return nil
	case state < 2:
	case name == ".":
		s.add(DotDuplicate, p, "%s is a second '.'", what())
	case name == "..":
		s.add(DotdotDuplicate, p, "%s is a second '..'", what())
	case e.Inode == dir:
		s.add(EntrySelf, p, "%s is a link to the directory itself", what())
	case e.Inode == disk.InoRoot:
		s.add(EntryRoot, p, "%s is a link to the root", what())
	case name == "":
		s.add(EntryNoName, p, "an entry at offset %d of block #%d in directory inode %d has no name", off, p.block, dir)
	}
	f := c.inodes.fact(e.Inode)
	if f&factBad != 0 {
		if err := s.badInode(p, e.Inode, what); err != nil {
			return err
		}
	}
	if !f.used() {
		if err := s.unused(p, e.Inode, what); err != nil {
			return err
		}
	}
	s.checkName(p, e, state, what)
	if err := s.checkType(p, b, off, e, f, what); err != nil {
		return err
	}
	if kind == kindLeaf {
		s.index.leafEntry(s, p, b, off, e)
	}
	if state == 2 && f.isDir() {
		if s.onLink != nil {
			if i, ok := c.dirs.place(e.Inode); ok && c.dirs.isShared(i) {
				s.onLink(link{e.Inode, dir, p, off})
			}
			return nil
		}
		c.dirs.setParent(e.Inode, dir)
	}
	if s.onLink != nil {
		return nil
	}
	s.checkDuplicate(p, e, what)
	c.inodes.count(e.Inode)
	return nil
}

// dot examines the first entry.
func (s *dirScan) dot(p place, b []byte, off int, e *disk.DirEntry) {
	dir := s.in.ino
	switch {
	case e.Inode == 0:
		s.add(DotMissing, p, "directory inode %d has no '.'", dir)
	case string(e.Name) != ".":
		s.add(DotName, p, "the first entry of directory inode %d is %s (inode %d) and not '.'", dir, s.quoted, e.Inode)
	case b[off+disk.DirEntryHeader+1] != 0:
		s.add(DotTerminator, p, "'.' of directory inode %d does not end in a zero byte", dir)
	}
	if e.Inode != dir {
		s.add(DotInode, p, "'.' of directory inode %d is inode %d", dir, e.Inode)
	}
}

// dotdot examines the second entry.
func (s *dirScan) dotdot(p place, b []byte, off int, e *disk.DirEntry) {
	dir := s.in.ino
	switch {
	case e.Inode == 0:
		s.add(DotdotMissing, p, "directory inode %d has no '..'", dir)
	case string(e.Name) != "..":
		s.add(DotdotName, p, "the second entry of directory inode %d is %s (inode %d) and not '..'", dir, s.quoted, e.Inode)
	case b[off+disk.DirEntryHeader+2] != 0:
		s.add(DotdotTerminator, p, "'..' of directory inode %d does not end in a zero byte", dir)
	default:
		s.c.dirs.setDotdot(dir, e.Inode)
	}
}

// unused reports an entry for an inode that is not in use.
func (s *dirScan) unused(p place, ino uint32, what func() string) error {
	group, i := s.c.geo.InodeGroup(ino)
	if !s.descKnown || s.group != group {
		d, _, ok, err := s.c.desc(group)
		if err != nil {
			return err
		}
		s.group, s.desc, s.descKnown = group, d, ok
	}
	if s.descKnown && (s.c.sums.Metadata || s.c.sums.GDT) {
		switch {
		case s.desc.Flags&disk.GroupInodeUninit != 0:
			s.add(EntryInodeUninit, p, "%s has inode %d of group %d, which has none in use", what(), ino, group)
		case uint64(i) >= uint64(s.c.geo.InodesPerGroup)-min(uint64(s.desc.ItableUnused), uint64(s.c.geo.InodesPerGroup)):
			s.add(EntryInodeBeyond, p, "%s has inode %d in the unused part of group %d", what(), ino, group)
		}
	}
	s.add(EntryUnused, p, "%s has the deleted or unused inode %d", what(), ino)
	return nil
}

// checkName examines the bytes of a name.
func (s *dirScan) checkName(p place, e *disk.DirEntry, state int, what func() string) {
	if state < 2 {
		return
	}
	if s.raw {
		if len(e.Name) < 16 && string(e.Name) != "." && string(e.Name) != ".." {
			s.add(EntryShort, p, "%s is too short to be encrypted", what())
		}
		return
	}
	if slices.Contains(e.Name, '/') || slices.Contains(e.Name, 0) {
		s.add(EntryName, p, "%s has characters that no name can have", what())
		return
	}
	if s.fold && s.c.sb.EncodingFlags&disk.EncodingStrict != 0 {
		if _, err := casefold.Fold(s.folded[:0], e.Name); err != nil {
			s.add(EntryNotUTF8, p, "%s is not valid UTF-8", what())
		}
	}
}

// checkType compares the type in an entry with that of the inode.
func (s *dirScan) checkType(p place, b []byte, off int, e *disk.DirEntry, f fact, what func() string) error {
	if !s.filetype {
		if b[off+7] != 0 {
			s.add(EntryTypeSet, p, "%s has a file type, on a filesystem without them", what())
		}
		return nil
	}
	if e.FileType == disk.FTUnknown {
		return nil
	}
	right := f.fileType()
	if f&factBad != 0 {
		right = disk.FTUnknown
	} else if !f.used() {
		in, ok, err := s.c.inode(e.Inode)
		if err != nil || !ok {
			return err
		}
		right = disk.FileType(in.Mode)
	}
	if e.FileType != right {
		s.add(EntryType, p, "%s has the file type %d instead of %d", what(), e.FileType, right)
	}
	return nil
}

// checkDuplicate compares a name with those before it.
func (s *dirScan) checkDuplicate(p place, e *disk.DirEntry, what func() string) {
	name := e.Name
	if s.fold && !s.raw {
		if f, err := casefold.Fold(s.folded[:0], name); err == nil {
			s.folded, name = f, f
		}
	}
	if s.names[string(name)] {
		s.add(EntryDuplicate, p, "%s occurs twice", what())
		return
	}
	s.names[string(name)] = true
	if s.all.on {
		s.all.add(name, p.block)
	}
}

// checkNames looks for a name in the blocks before.
func (s *dirScan) checkNames(p place, e *disk.DirEntry, state int) {
	if state < 2 || e.Inode > s.c.geo.InodesCount {
		return
	}
	name := e.Name
	if s.fold && !s.raw {
		if f, err := casefold.Fold(s.folded[:0], name); err == nil {
			s.folded, name = f, f
		}
	}
	if first, again := s.all.add(name, p.block); again {
		s.add(EntryDuplicate, p, "entry %s in block #%d of directory inode %d is in block #%d as well", s.quoted, p.block, s.in.ino, first)
	}
}

// inline examines a directory inside its inode.
func (s *dirScan) inline() error {
	p := place{stage: stageFirst}
	in := s.in
	head := in.Block[:]
	var tail []byte
	if a, err := xattr.Inode("", in.raw, in.ExtraIsize); err == nil {
		if at, ok := a.Find(disk.XattrSystem, disk.XattrSystemInline); ok {
			tail = at.Value
		}
	}
	if in.Size%4 != 0 {
		s.add(DirInlineSize, p, "the size %d of inline directory inode %d is not a multiple of 4", in.Size, in.ino)
	}
	// "." is not stored, ".." is only a number.
	if s.onLink == nil {
		s.c.inodes.count(in.ino)
	}
	parent := le32(head)
	s.quoted = `".."`
	e := disk.DirEntry{Inode: parent, FileType: disk.FTDir, Name: []byte("..")}
	if !s.filetype {
		e.FileType = 0
	}
	var fake [12]byte
	fake[8], fake[9] = '.', '.'
	if s.filetype {
		fake[7] = disk.FTDir
	}
	clear(s.names)
	if err := s.entry(p, kindLeaf, fake[:], 0, &e, 1); err != nil {
		return err
	}
	head = head[4:]
	if in.Size < disk.InodeBlockSize {
		head = head[:max(in.Size, 4)-4]
	}
	for _, area := range [][]byte{head, tail} {
		if err := s.entries(p, kindLeaf, area, 2, false); err != nil {
			return err
		}
	}
	return nil
}

// badInode reports what pass 1 found about an inode, now that it has a name.
func (s *dirScan) badInode(p place, ino uint32, what func() string) error {
	c, sb := s.c, &s.c.sb
	in, ok, err := c.inode(ino)
	if err != nil || !ok {
		return err
	}
	known := disk.FileType(in.Mode) != disk.FTUnknown
	special := false
	switch in.Type() {
	case disk.ModeChar, disk.ModeBlock, disk.ModeFifo, disk.ModeSocket:
		special = in.is(disk.FlagExtents|disk.FlagIndex) || !isZero(in.Block[16:])
	}
	add := func(class Class, format string, args ...any) {
		s.add(class, p, "inode %d, "+what()+", "+format, append([]any{ino}, args...)...)
	}
	if uint32(in.FileACL) != 0 && sb.Compat&disk.CompatExtAttr == 0 {
		add(InodeXattrBlock, "has an attribute block, on a filesystem without attributes")
	}
	switch {
	case !known:
		add(InodeMode, "has the invalid mode %#o", in.Mode)
	case special:
		add(InodeDevice, "is a device, FIFO or socket that cannot be")
	case in.IsSymlink() && s.badSymlink(in):
		add(SymlinkInvalid, "is an invalid symbolic link")
	}
	if faddr := le32(in.raw[0x70:]); faddr != 0 {
		add(InodeFieldNonzero, "has i_faddr %d, should be zero", faddr)
	}
	if !c.hurd && sb.ROCompat&disk.ROCompatHugeFile == 0 && in.Blocks>>32 != 0 {
		add(InodeFieldNonzero, "has i_blocks_hi %d, should be zero", in.Blocks>>32)
	}
	switch {
	case in.FileACL == 0:
	case in.FileACL>>32 != 0 && sb.Incompat&disk.Incompat64Bit == 0:
		add(InodeFieldNonzero, "has i_file_acl_hi %d, should be zero", in.FileACL>>32)
	case in.FileACL < uint64(c.geo.FirstDataBlock) || in.FileACL >= c.geo.BlocksCount:
		add(InodeXattrBlock, "has the invalid attribute block %d", in.FileACL)
	}
	if in.IsDir() && le32(in.raw[0x6C:]) != 0 && sb.Incompat&disk.IncompatLargeDir == 0 {
		add(InodeFieldNonzero, "has i_size_high %d, should be zero", le32(in.raw[0x6C:]))
	}
	return nil
}

// badSymlink tells whether it is the target for which pass 1 has found a symbolic
// link bad.
func (s *dirScan) badSymlink(in *inode) bool {
	x := examination{c: s.c, in: in, b: &batch{c: s.c}}
	return x.symlink() != nil || x.fact&factBad != 0
}
