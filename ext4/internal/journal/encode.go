package journal

import "ext4box/ext4/internal/disk"

// tagsPerBlock is how many logged blocks one descriptor block describes. Like
// the kernel, which decides before each tag whether another one and a UUID
// would fit, it leaves the space of one UUID unused.
func (l *layout) tagsPerBlock() int {
	room := l.blockSize - HeaderSize - 2*uuidSize
	if l.perBlock() {
		room -= BlockTailSize
	}
	return room / l.tagSize()
}

// revokesPerBlock is how many records a revoke block holds.
func (l *layout) revokesPerBlock() int {
	room := l.blockSize - RevokeHeader
	if l.perBlock() {
		room -= BlockTailSize
	}
	return room / l.revokeSize()
}

func (l *layout) revokeSize() int {
	if l.wide {
		return 8
	}
	return 4
}

// putHeader makes b an empty block of the journal's own.
func putHeader(b []byte, t BlockType, tid uint32) {
	clear(b)
	be.PutUint32(b[0x00:], magicNumber)
	be.PutUint32(b[0x04:], uint32(t))
	be.PutUint32(b[0x08:], tid)
}

// sealTail puts the checksum at the end of a descriptor or revoke block.
func (l *layout) sealTail(b []byte) {
	if l.perBlock() {
		off := len(b) - BlockTailSize
		be.PutUint32(b[off:], sumWithout(l.seed, b, off))
	}
}

// escape prepares a copy of a block for the log, and tells whether the tag
// must say that its first bytes have been replaced.
func escape(b []byte) (flags uint16) {
	if be.Uint32(b) != magicNumber {
		return 0
	}
	be.PutUint32(b, 0)
	return TagEscape
}

// sumLogged is the checksum that a tag has for the block b, as it is in the log.
func (l *layout) sumLogged(b []byte, tid uint32) uint32 {
	if !l.perBlock() {
		return 0
	}
	var seq [4]byte
	be.PutUint32(seq[:], tid)
	return disk.CRC32C(disk.CRC32C(l.seed, seq[:]), b)
}

// tagWriter fills a descriptor block. It is the inverse of tagReader.
type tagWriter struct {
	l    *layout
	b    []byte
	off  int // of the next tag
	last int // of the tag before
}

// describe makes b a descriptor block without tags.
func (l *layout) describe(b []byte, tid uint32) tagWriter {
	putHeader(b, DescriptorBlock, tid)
	return tagWriter{l: l, b: b, off: HeaderSize}
}

// add adds a tag. There must not be more than tagsPerBlock.
func (w *tagWriter) add(t Tag, uuid *[uuidSize]byte) {
	first := w.off == HeaderSize
	if !first {
		t.Flags |= TagSameUUID
	}
	b := w.b[w.off:]
	be.PutUint32(b[0x0:], uint32(t.Block))
	be.PutUint16(b[0x6:], t.Flags)
	if w.l.wide {
		be.PutUint32(b[0x8:], uint32(t.Block>>32))
	}
	switch w.l.checksum {
	case ChecksumV3:
		be.PutUint32(b[0xC:], t.Checksum)
	case ChecksumV2:
		be.PutUint16(b[0x4:], uint16(t.Checksum))
	}
	w.last = w.off
	w.off += w.l.tagSize()
	if first {
		w.off += copy(w.b[w.off:], uuid[:])
	}
}

// finish marks the last tag and seals the block.
func (w *tagWriter) finish() {
	flags := w.b[w.last+0x6:]
	be.PutUint16(flags, be.Uint16(flags)|TagLast)
	w.l.sealTail(w.b)
}

// revoke makes b a revoke block with the given block numbers, of which there
// must not be more than revokesPerBlock.
func (l *layout) revoke(b []byte, tid uint32, blocks []uint64) {
	putHeader(b, RevokeBlock, tid)
	off := RevokeHeader
	for _, blk := range blocks {
		if l.wide {
			be.PutUint64(b[off:], blk)
		} else {
			be.PutUint32(b[off:], uint32(blk))
		}
		off += l.revokeSize()
	}
	be.PutUint32(b[HeaderSize:], uint32(off))
	l.sealTail(b)
}

// commitBlock makes b a commit block. c.Checksum is used by v1 only.
func (l *layout) commitBlock(b []byte, tid uint32, c Commit) {
	putHeader(b, CommitBlock, tid)
	be.PutUint64(b[0x30:], c.Sec)
	be.PutUint32(b[0x38:], c.Nsec)
	switch {
	case l.checksum == ChecksumV1:
		b[0x0C], b[0x0D] = commitCRC32, commitCRC32Size
		be.PutUint32(b[commitChecksumOff:], c.Checksum)
	case l.perBlock():
		be.PutUint32(b[commitChecksumOff:], sumWithout(l.seed, b, commitChecksumOff))
	}
}

// encode puts what a writer changes into the superblock's block raw, and leaves
// the rest of it alone. A superblock of version 1 must have been upgraded.
func (s *Superblock) encode(raw []byte) {
	incompat := s.Incompat
	if s.Start == 0 {
		// An empty log has no fast commits. Like the kernel, do not make it
		// unreadable for those who do not know them.
		incompat &^= IncompatFastCommit
	}
	be.PutUint32(raw[0x04:], uint32(s.Type))
	be.PutUint32(raw[0x18:], s.Sequence)
	be.PutUint32(raw[0x1C:], s.Start)
	be.PutUint32(raw[0x20:], uint32(s.Errno))
	be.PutUint32(raw[0x24:], s.Compat)
	be.PutUint32(raw[0x28:], incompat)
	be.PutUint32(raw[0x40:], s.Users)
	raw[0x50] = s.ChecksumType
	be.PutUint32(raw[0x58:], s.Head)
	s.Checksum = 0
	if incompat&(IncompatChecksumV2|IncompatChecksumV3) != 0 {
		s.Checksum = sumWithout(^uint32(0), raw[:SuperblockSize], superblockChecksumOff)
	}
	be.PutUint32(raw[superblockChecksumOff:], s.Checksum)
}

// upgrade makes a superblock of version 1 one of version 2, which has features.
func (s *Superblock) upgrade(raw []byte) {
	if s.Type != SuperblockV1 {
		return
	}
	clear(raw[0x24:])
	s.Type = SuperblockV2
	s.Users = 1
}
