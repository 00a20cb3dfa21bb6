package mutate

import "ext4box/ext4/internal/disk"

// Craft makes a mutant by hand: fn changes structures, and their checksums are put right afterwards.
func (b *Base) Craft(what string, fn func(e *Editor)) *Mutant {
	w := newWork(b, nil)
	fn(&Editor{w})
	w.seal()
	return &Mutant{Base: b, What: []string{what}, Sealed: true, Size: w.size, pages: w.pages}
}

// CraftRecovered makes a mutant whose journal brings the changes, while the image in place is sound. The base must have a
// journal inside, which fn leaves alone.
func (b *Base) CraftRecovered(what string, fn func(e *Editor)) *Mutant {
	w := newWork(b, nil)
	fn(&Editor{w})
	w.seal()
	if !w.throughLog() {
		panic("mutate: no journal for " + what)
	}
	return &Mutant{Base: b, What: []string{what}, Sealed: true, Logged: true, Size: w.size, pages: w.pages}
}

// Editor gives raw structures to functions that change them.
type Editor struct{ w *work }

// Super changes the superblock in use.
func (e *Editor) Super(fn func(raw []byte)) { e.w.change(e.w.b.of[kindSuper][0], fn) }

// Inode changes an inode that is in use.
func (e *Editor) Inode(ino uint32, fn func(raw []byte)) { e.w.changeInode(ino, fn) }

// Desc changes the descriptor of a group.
func (e *Editor) Desc(group uint32, fn func(d *disk.GroupDesc)) {
	e.w.change(e.w.b.of[kindDesc][group], func(raw []byte) {
		d := disk.DecodeGroupDesc(raw)
		fn(&d)
		disk.EncodeGroupDesc(raw, &d)
	})
}

// InodeBitmap changes the inode bitmap of a group that has one.
func (e *Editor) InodeBitmap(group uint32, fn func(m disk.Bitmap)) {
	for _, i := range e.w.b.of[kindInodeBitmap] {
		if e.w.b.sites[i].group == group {
			e.w.change(i, func(raw []byte) { fn(raw) })
		}
	}
}

// FastRange leaves a fast commit that gives a file n blocks of the device, in a journal that has room for one.
func (e *Editor) FastRange(ino, logical uint32, start uint64, n uint16) {
	l, ok := e.w.openLog()
	if !ok {
		panic("mutate: no journal")
	}
	l.commit()
	f, ok := l.openFast()
	if !ok {
		panic("mutate: no fast commits")
	}
	v := le.AppendUint32(le.AppendUint32(nil, ino), logical)
	v = le.AppendUint16(le.AppendUint16(v, n), uint16(start>>32))
	f.tag(fastAddRange, le.AppendUint32(v, uint32(start)))
	f.close()
}

// Block changes any block, whose checksum, if it has one, stays as it is.
func (e *Editor) Block(blk uint64, fn func(b []byte)) {
	b := e.w.block(blk)
	fn(b)
	e.w.write(e.w.b.at(blk), b)
}

// Geometry is the layout of the image.
func (b *Base) Geometry() *disk.Geometry { return &b.geo }

// Checksums is how its structures are checksummed.
func (b *Base) Checksums() *disk.Checksums { return &b.sums }

// Desc is the descriptor of a group.
func (b *Base) Desc(group uint32) disk.GroupDesc { return b.desc(group) }

// Free are some blocks that nothing uses.
func (b *Base) Free() []uint64 { return b.free }

// Log are the blocks of the journal, in its order.
func (b *Base) Log() []uint64 { return b.log }

// Inodes are those in use, also the reserved ones.
func (b *Base) Inodes() []uint32 { return b.used }
