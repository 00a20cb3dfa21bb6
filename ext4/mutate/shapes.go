package mutate

import (
	"ext4box/ext4/internal/disk"
)

// A shape is an attack that takes more than one field. make does nothing where the base has not what it takes.
type shape struct {
	name string
	make func(w *work)
}

var shapes = []shape{
	{"system blocks", systemBlocks},
	{"shared blocks", sharedBlocks},
	{"directory cycle", dirCycle},
	{"cut off", cutOff},
	{"extent cycle", extentCycle},
	{"extent bomb", extentBomb},
	{"indirect bomb", indirectBomb},
	{"directory of one block", dirBomb},
	{"index cycle", indexCycle},
	{"orphan cycle", orphanCycle},
	{"orphan file", orphanFile},
	{"geometry", geometry},
	{"special files", specialFiles},
	{"attributes", attributes},
	{"quota cycle", quotaCycle},
	{"allocation", allocation},
	{"inline data", inlineData},
	{"hostile log", hostileLog},
	{"revoke flood", revokeFlood},
	{"hostile fast commit", hostileFastCommit},
	{"exchanged pointers", exchange},
	{"giants", giants},
}

// inodeSite is the site of an inode in use.
func (w *work) inodeSite(ino uint32) (i int, ok bool) {
	for _, i := range w.b.owned[ino] {
		if w.b.sites[i].kind == kindInode {
			return i, true
		}
	}
	return 0, false
}

// changeInode applies fn to an inode in use.
func (w *work) changeInode(ino uint32, fn func(raw []byte)) {
	if i, ok := w.inodeSite(ino); ok {
		w.change(i, fn)
	}
}

func (w *work) inode(ino uint32) disk.Inode {
	return disk.DecodeInode(w.read(w.b.inodeAt(ino), int(w.b.geo.InodeSize)), false)
}

// victim is a file, or sometimes a directory or anything else.
func (w *work) victim() uint32 {
	switch {
	case w.chance(1, 4) && len(w.b.dirs) > 0:
		return pick(w, w.b.dirs)
	case w.chance(1, 6) || len(w.b.files) == 0:
		return pick(w, w.b.used)
	}
	return pick(w, w.b.files)
}

// mapTo makes n blocks from block first on, those of the device from blk on, the only ones of an inode, whose size becomes what they hold.
func (w *work) mapTo(ino uint32, blk uint64, n uint32) {
	w.changeInode(ino, func(raw []byte) {
		flags := disk.InodeFlags(le.Uint32(raw[0x20:])) &^ disk.FlagInlineData
		clear(raw[0x28:0x64])
		if flags&disk.FlagExtents != 0 {
			putNode(raw[0x28:0x64], 0, extent{0, n, blk})
		} else {
			for i := range min(n, 12) {
				le.PutUint32(raw[0x28+4*i:], uint32(blk)+i)
			}
		}
		le.PutUint32(raw[0x20:], uint32(flags))
		size := uint64(n) << w.b.geo.BlockBits
		le.PutUint32(raw[0x04:], uint32(size))
		le.PutUint32(raw[0x6C:], uint32(size>>32))
	})
}

type extent struct {
	block, n uint32 // n of 0: of an index
	start    uint64
}

// putNode makes b a node of an extent tree that is as large as b.
func putNode(b []byte, depth int, list ...extent) {
	clear(b)
	le.PutUint16(b, disk.ExtentMagic)
	le.PutUint16(b[2:], uint16(len(list)))
	le.PutUint16(b[4:], uint16(disk.ExtentNodeCapacity(len(b))))
	le.PutUint16(b[6:], uint16(depth))
	for i, e := range list {
		p := b[disk.ExtentHeaderSize+i*disk.ExtentEntrySize:]
		le.PutUint32(p, e.block)
		if depth > 0 {
			le.PutUint32(p[4:], uint32(e.start))
			le.PutUint16(p[8:], uint16(e.start>>32))
		} else {
			le.PutUint16(p[4:], uint16(e.n))
			le.PutUint16(p[6:], uint16(e.start>>32))
			le.PutUint32(p[8:], uint32(e.start))
		}
	}
}

// node writes a node of an inode's extent tree to a block.
func (w *work) node(ino uint32, blk uint64, depth int, list ...extent) {
	b := make([]byte, w.b.geo.BlockSize)
	putNode(b, depth, list...)
	if w.b.sums.Metadata {
		w.b.sums.SealExtentNode(w.seed(ino), b)
	}
	w.write(w.b.at(blk), b)
}

// freeBlocks are n blocks that nothing uses.
func (w *work) freeBlocks(n int) []uint64 {
	if len(w.b.free) < n {
		return nil
	}
	at := w.rng.IntN(len(w.b.free) - n + 1)
	return w.b.free[at : at+n]
}

// system is a block of the filesystem's own, and what it is.
func (w *work) system() (blk uint64, what string) {
	g := w.rng.Uint32N(w.b.geo.Groups)
	d := w.b.desc(g)
	switch w.rng.IntN(8) {
	case 0:
		return d.BlockBitmap, "block bitmap"
	case 1:
		return d.InodeBitmap, "inode bitmap"
	case 2:
		return d.InodeTable + w.rng.Uint64N(uint64(w.b.geo.InodeTableBlocks)), "inode table"
	case 3:
		if len(w.b.log) > 0 {
			return w.b.log[w.rng.IntN(min(len(w.b.log), 20))], "journal"
		}
	case 4:
		return w.b.geo.GroupFirstBlock(g), "superblock"
	case 5:
		return w.b.geo.GroupFirstBlock(g) + 1, "descriptors"
	case 6:
		for _, k := range []kind{kindMMP, kindOrphan, kindQuota} {
			if i, ok := w.site(k); ok && w.chance(1, 2) {
				return w.blockOf(i), string(k)
			}
		}
	}
	return w.b.super(), "superblock"
}

// systemBlocks makes system blocks those of a file, a directory or an attribute block.
func systemBlocks(w *work) {
	blk, what := w.system()
	ino := w.victim()
	if w.chance(1, 4) {
		w.changeInode(ino, func(raw []byte) {
			le.PutUint32(raw[0x68:], uint32(blk))
			le.PutUint16(raw[0x76:], uint16(blk>>32))
		})
		w.note("inode %d: its attribute block is block %d, of the %s", ino, blk, what)
		return
	}
	// From before it on, or it alone.
	before := w.rng.Uint64N(3)
	blk -= min(before, blk)
	n := uint32(1 + before + w.rng.Uint64N(3))
	w.mapTo(ino, blk, n)
	w.note("inode %d: maps blocks %d to %d, with the %s", ino, blk, blk+uint64(n)-1, what)
}

// sharedBlocks gives an inode the map of another one, or parts of it.
func sharedBlocks(w *work) {
	a, b := w.victim(), w.victim()
	from := w.read(w.b.inodeAt(b), int(w.b.geo.InodeSize))
	if a == b {
		return
	}
	all := w.chance(1, 2)
	w.changeInode(a, func(raw []byte) {
		copy(raw[0x28:0x64], from[0x28:0x64])
		copy(raw[0x04:0x08], from[0x04:])
		copy(raw[0x20:0x24], from[0x20:])
		if all {
			copy(raw[0x68:0x70], from[0x68:])
			copy(raw[0x00:0x02], from[0x00:])
		}
	})
	w.note("inode %d: has the blocks of inode %d, and its type and attributes: %v", a, b, all)
	if w.chance(1, 2) { // its blocks fit this one, and no longer that
		for _, i := range w.b.owned[b] {
			if k := w.b.sites[i].kind; k != kindInode && k != kindXattr {
				w.adopted[i] = a
				w.touch(i)
			}
		}
	}
}

// dirCycle makes a name lead to a directory that has a name already: an ancestor, itself, or any.
func dirCycle(w *work) {
	k := kindDir
	if w.chance(1, 4) {
		k = kindDxRoot
	}
	i, ok := w.site(k)
	if !ok || len(w.b.dirs) == 0 {
		return
	}
	s := &w.b.sites[i]
	to := pick(w, w.b.dirs)
	switch w.rng.IntN(4) {
	case 0:
		to = s.owner
	case 1:
		to = disk.InoRoot
	}
	dotdot := w.chance(1, 4)
	w.change(i, func(b []byte) {
		var at []int
		entries(b, func(off, _ int) {
			if off+8 <= len(b) && le.Uint32(b[off:]) != 0 {
				at = append(at, off)
			}
		})
		if len(at) == 0 {
			return
		}
		off := pick(w, at)
		if dotdot && len(at) > 1 {
			off = at[1]
		}
		w.note("%s: entry at %d leads from inode %d to directory %d", w.name(s), off, le.Uint32(b[off:]), to)
		le.PutUint32(b[off:], to)
		if w.b.sb.Incompat&disk.IncompatFiletype != 0 {
			b[off+7] = disk.FTDir
		}
	})
}

// cutOff ends the image early.
func cutOff(w *work) {
	size := w.size
	if size < 2*int64(w.b.geo.BlockSize) {
		return
	}
	switch w.rng.IntN(4) {
	case 0:
		w.size = w.rng.Int64N(size)
	case 1:
		w.size = w.rng.Int64N(size) &^ int64(w.b.geo.BlockSize-1)
	case 2:
		w.size = size - 1 - w.rng.Int64N(int64(w.b.geo.BlockSize))
	case 3:
		i := w.anySite()
		w.size = min(size, w.b.sites[i].off+w.rng.Int64N(int64(w.b.sites[i].size)))
	}
	w.note("the image ends at %d", w.size)
}

// extentCycle has nodes of a tree lead to each other, or to themselves.
func extentCycle(w *work) {
	ino := w.victim()
	n := 1 + w.rng.IntN(5)
	free := w.freeBlocks(n)
	if in := w.inode(ino); free == nil || in.Flags&disk.FlagExtents == 0 {
		return
	}
	depth := min(5, n)
	same := w.chance(1, 2) // one depth everywhere
	for i, blk := range free {
		d := depth - i
		if same {
			d = depth
		}
		next := free[(i+1)%n]
		w.node(ino, blk, max(0, d-1), extent{0, 1, next}, extent{1 + w.rng.Uint32N(5), 1, next})
	}
	w.changeInode(ino, func(raw []byte) { putNode(raw[0x28:0x64], depth, extent{0, 0, free[0]}) })
	w.note("inode %d: an extent tree of %d nodes in a circle (%v), of equal depths: %v", ino, n, free, same)
}

// extentBomb maps one block as often as there is room for, through few nodes.
func extentBomb(w *work) {
	ino := w.victim()
	levels := 1 + w.rng.IntN(4)
	free := w.freeBlocks(levels + 1)
	if in := w.inode(ino); free == nil || in.Flags&disk.FlagExtents == 0 {
		return
	}
	data, n := free[levels], uint32(1)
	if w.chance(1, 3) {
		data = w.anyBlock()
	}
	if w.chance(1, 3) {
		n = 1 + w.rng.Uint32N(32768)
	}
	perNode := disk.ExtentNodeCapacity(int(w.b.geo.BlockSize))
	span := uint64(n)
	for level := range levels {
		var list []extent
		for i := range perNode {
			if first := uint64(i) * span; first+span < 1<<32 {
				e := extent{uint32(first), n, data}
				if level > 0 {
					e = extent{uint32(first), 0, free[level-1]}
				}
				list = append(list, e)
			}
		}
		w.node(ino, free[level], level, list...)
		span = min(span*uint64(perNode), 1<<32)
	}
	size := span << w.b.geo.BlockBits
	w.changeInode(ino, func(raw []byte) {
		putNode(raw[0x28:0x64], levels, extent{0, 0, free[levels-1]})
		le.PutUint32(raw[0x04:], uint32(size))
		le.PutUint32(raw[0x6C:], uint32(size>>32))
	})
	w.note("inode %d: block %d, %d blocks each time, in a tree of %d shared nodes, size %d", ino, data, n, levels, size)
}

// indirectBomb has an indirect block full of pointers to itself, or to one other.
func indirectBomb(w *work) {
	ino := w.victim()
	free := w.freeBlocks(2)
	if in := w.inode(ino); free == nil || in.Flags&(disk.FlagExtents|disk.FlagInlineData) != 0 {
		return
	}
	to := pick(w, []uint64{free[0], free[1], w.anyBlock()})
	b := make([]byte, w.b.geo.BlockSize)
	for i := 0; i < len(b); i += 4 {
		le.PutUint32(b[i:], uint32(to))
	}
	w.write(w.b.at(free[0]), b)
	slot := 12 + w.rng.IntN(3)
	w.changeInode(ino, func(raw []byte) {
		le.PutUint32(raw[0x28+4*slot:], uint32(free[0]))
		le.PutUint32(raw[0x04:], 0xfffff000)
		if w.chance(1, 2) {
			le.PutUint32(raw[0x6C:], 0x3ff)
		}
	})
	w.note("inode %d: i_block[%d] is block %d, full of pointers to block %d", ino, slot, free[0], to)
}

// dirBomb is a directory that is one block for ever.
func dirBomb(w *work) {
	i, ok := w.site(kindDir)
	free := w.freeBlocks(1)
	if !ok || free == nil {
		return
	}
	ino, blk := w.b.sites[i].owner, w.blockOf(i)
	if in := w.inode(ino); in.Flags&disk.FlagExtents == 0 {
		return
	}
	var list []extent
	for j := range disk.ExtentNodeCapacity(int(w.b.geo.BlockSize)) {
		list = append(list, extent{uint32(j), 1, blk})
	}
	w.node(ino, free[0], 0, list...)
	keep := w.chance(1, 2)
	w.changeInode(ino, func(raw []byte) {
		putNode(raw[0x28:0x64], 1, extent{0, 0, free[0]})
		le.PutUint32(raw[0x04:], uint32(len(list))<<w.b.geo.BlockBits)
		if !keep {
			le.PutUint32(raw[0x20:], le.Uint32(raw[0x20:])&^uint32(disk.FlagIndex))
		}
	})
	w.note("directory %d: block %d for %d times", ino, blk, len(list))
}

// indexCycle has index entries lead to index blocks again.
func indexCycle(w *work) {
	k := kindDxRoot
	if w.chance(1, 2) {
		k = kindDxNode
	}
	i, ok := w.site(k)
	if !ok {
		return
	}
	s := &w.b.sites[i]
	first, to, levels := 32, w.rng.Uint32N(4), byte(w.rng.IntN(4))
	if k == kindDxNode {
		first = 8
	}
	fill := w.chance(1, 2)
	w.change(i, func(b []byte) {
		if k == kindDxRoot {
			b[30] = levels
		}
		n := min(int(le.Uint16(b[first+2:])), (len(b)-first)/8)
		if limit := int(le.Uint16(b[first:])); fill && first+8*limit <= len(b) {
			n = limit
			le.PutUint16(b[first+2:], uint16(n))
		}
		for j := range n {
			le.PutUint32(b[first+8*j+4:], to)
			if fill && j > 0 {
				le.PutUint32(b[first+8*j:], 0x7ffffffe)
			}
		}
	})
	w.note("%s: all entries lead to block %d of the directory, levels %d, filled up: %v", w.name(s), to, levels, fill)
}

// orphanCycle makes a list of orphans that ends nowhere, or has what cannot be one.
func orphanCycle(w *work) {
	n := 1 + w.rng.IntN(4)
	var list []uint32
	for range n {
		ino := w.victim()
		if w.chance(1, 4) {
			ino = w.anyInode()
		}
		list = append(list, ino)
	}
	last := list[w.rng.IntN(n)]
	if w.chance(1, 3) {
		last = 0
	}
	unlinked := w.chance(1, 2)
	for i, ino := range list {
		next := last
		if i+1 < n {
			next = list[i+1]
		}
		if ino == 0 || ino > w.b.geo.InodesCount {
			continue
		}
		w.changeInode(ino, func(raw []byte) {
			le.PutUint32(raw[0x14:], next)
			if unlinked {
				le.PutUint16(raw[0x1A:], 0)
			}
		})
	}
	w.change(w.b.of[kindSuper][0], func(b []byte) { le.PutUint32(b[0xE8:], list[0]) })
	w.note("the orphan list is %v and goes on with %d, without links: %v", list, last, unlinked)
}

// orphanFile fills the orphan file with what cannot be one, or again and again.
func orphanFile(w *work) {
	i, ok := w.site(kindOrphan)
	if !ok {
		return
	}
	s := &w.b.sites[i]
	ino, different := w.anyInode(), w.chance(1, 2)
	n := 1 + w.rng.IntN(40)
	if w.chance(1, 3) {
		n = disk.OrphanSlots(s.size)
	}
	unlinked := w.chance(1, 2)
	var list []uint32
	w.change(i, func(b []byte) {
		for j := range min(n, disk.OrphanSlots(s.size)) {
			if different {
				ino = w.anyInode()
			}
			le.PutUint32(b[4*j:], ino)
			list = append(list, ino)
		}
	})
	if unlinked {
		for _, ino := range list[:min(5, len(list))] {
			w.changeInode(ino, func(raw []byte) { le.PutUint16(raw[0x1A:], 0) })
		}
	}
	w.change(w.b.of[kindSuper][0], func(b []byte) {
		le.PutUint32(b[0x64:], le.Uint32(b[0x64:])|uint32(disk.ROCompatOrphanPresent))
	})
	w.note("%s: inodes %v, the first ones without links: %v", w.name(s), list[:min(8, len(list))], unlinked)
}

// geometry changes several fields of the superblock so that they fit each other.
func geometry(w *work) {
	w.change(w.b.of[kindSuper][0], func(b []byte) {
		blocks, perGroup, inodes := le.Uint32(b[0x04:]), le.Uint32(b[0x20:]), le.Uint32(b[0x28:])
		var hi uint32
		for range 1 + w.rng.IntN(2) {
			switch w.rng.IntN(8) {
			case 0:
				blocks = pick(w, []uint32{blocks * 2, blocks - 1, blocks / 2, blocks + 1, 1<<32 - 1, 64, blocks - perGroup})
			case 1:
				perGroup = pick(w, []uint32{8, 16, 256, perGroup / 2, perGroup * 2, 65528, 65536, perGroup - 8})
			case 2:
				inodes = pick(w, []uint32{8, inodes * 2, inodes / 2, 8192, 65536, inodes + 8, inodes + 1})
			case 3:
				hi = pick(w, []uint32{1, 0x10, 0x7fff, 0xffff, 1 << 31})
			case 4:
				b[0x174] = pick(w, []byte{0, 1, 4, 31, 32, 63, 255})
			case 5:
				le.PutUint16(b[0xCE:], pick(w, []uint16{0, 1, 1024, 65535}))
			case 6:
				le.PutUint16(b[0xFE:], pick(w, []uint16{0, 32, 64, 128, 1024, 65535}))
			case 7:
				le.PutUint32(b[0x104:], pick(w, []uint32{0, 1, 2, 1 << 31}))
				le.PutUint32(b[0x60:], le.Uint32(b[0x60:])^uint32(disk.IncompatMetaBG))
			}
		}
		le.PutUint32(b[0x04:], blocks)
		le.PutUint32(b[0x150:], hi)
		le.PutUint32(b[0x20:], perGroup)
		le.PutUint32(b[0x24:], perGroup>>w.b.geo.ClusterBits)
		le.PutUint32(b[0x28:], inodes)
		total := uint64(blocks) | uint64(hi)<<32
		if perGroup > 0 {
			groups := (total - uint64(le.Uint32(b[0x14:])) + uint64(perGroup) - 1) / uint64(perGroup)
			le.PutUint32(b[0x00:], uint32(groups*uint64(inodes)))
		}
		w.note("superblock: %d blocks, %d in a group, %d inodes in a group, %d in all, flex %d, reserved %d, descriptors of %d, meta_bg from %d (incompat %#x)",
			total, perGroup, inodes, le.Uint32(b), b[0x174], le.Uint16(b[0xCE:]), le.Uint16(b[0xFE:]), le.Uint32(b[0x104:]), le.Uint32(b[0x60:]))
	})
}

// specialFiles makes devices, set-user-id files and links of any length.
func specialFiles(w *work) {
	ino := w.victim()
	mode := pick(w, []uint16{disk.ModeBlock, disk.ModeChar, disk.ModeFifo, disk.ModeSocket, disk.ModeLink, disk.ModeLink, disk.ModeReg, 0xF000, 0}) | 0o6777
	size := pick(w, []uint64{0, 1, 59, 60, 61, 1023, 4095, 4096, 65536, 1 << 32, 1<<63 - 1, 1<<64 - 1})
	w.changeInode(ino, func(raw []byte) {
		le.PutUint16(raw, mode)
		le.PutUint32(raw[0x04:], uint32(size))
		le.PutUint32(raw[0x6C:], uint32(size>>32))
		if w.chance(1, 2) {
			for i := 0x28; i < 0x64; i++ {
				raw[i] = 'x'
			}
		}
	})
	w.note("inode %d: mode %#o, size %d", ino, mode, size)
}

// attributes makes attributes lie about where and how long their values are, and attribute blocks about who has them.
func attributes(w *work) {
	if i, ok := w.site(kindXattr); ok && w.chance(1, 2) {
		s := &w.b.sites[i]
		refs := pick(w, []uint32{0, 1, 2, 1024, 1025, 1<<31 - 1, 1<<32 - 1})
		others := w.rng.IntN(4)
		w.change(i, func(b []byte) { le.PutUint32(b[4:], refs) })
		for range others {
			ino := w.victim()
			w.changeInode(ino, func(raw []byte) { le.PutUint32(raw[0x68:], uint32(w.blockOf(i))) })
			w.note("inode %d: has %s", ino, w.name(s))
		}
		w.note("%s: %d references", w.name(s), refs)
		return
	}
	// Values in inodes: one that is the inode itself, a directory, the journal.
	i, ok := w.site(kindXattr)
	if !ok || w.chance(1, 2) {
		if i, ok = w.site(kindInode); !ok {
			return
		}
	}
	s := &w.b.sites[i]
	list := w.fields(s, w.read(s.off, s.size))
	for j := range list {
		if f := &list[j]; f.class == isInode && len(f.name) > 12 && f.name[len(f.name)-12:] == "e_value_inum" && w.chance(1, 2) {
			ino := pick(w, []uint32{s.owner, disk.InoRoot, disk.InoJournal, w.anyInode(), w.victim()})
			w.setField(i, f, uint64(ino))
			if w.chance(1, 2) {
				w.changeInode(ino, func(raw []byte) { le.PutUint32(raw[0x20:], le.Uint32(raw[0x20:])|uint32(disk.FlagEAInode)) })
			}
		}
	}
}

// quotaCycle has nodes of a quota tree lead to each other.
func quotaCycle(w *work) {
	i, ok := w.site(kindQuota)
	if !ok {
		return
	}
	s := &w.b.sites[i]
	const quotaBlock = 1024
	at := w.rng.IntN(s.size/quotaBlock) * quotaBlock
	to := pick(w, []uint32{0, 1, 2, 3, 4, 5, 1 << 20, 1<<32 - 1})
	w.change(i, func(b []byte) {
		for off := at; off < at+quotaBlock; off += 4 {
			if le.Uint32(b[off:]) != 0 || w.chance(1, 8) {
				le.PutUint32(b[off:], to)
			}
		}
	})
	w.note("%s: at %d everything is %d", w.name(s), at, to)
}

// allocation moves bitmaps and inode tables, or says that blocks in use are free.
func allocation(w *work) {
	g := w.rng.Uint32N(w.b.geo.Groups)
	i := w.b.of[kindDesc][g]
	other := w.b.desc(w.rng.Uint32N(w.b.geo.Groups))
	where := pick(w, []int{0x00, 0x04, 0x08})
	to := pick(w, []uint64{other.BlockBitmap, other.InodeBitmap, other.InodeTable, w.anyBlock(), w.blockOf(w.anySite())})
	switch w.rng.IntN(3) {
	case 0:
		w.change(i, func(b []byte) { le.PutUint32(b[where:], uint32(to)) })
		w.note("descriptor of group %d: what is at %#x is block %d", g, where, to)
		if to < w.b.geo.BlocksCount && w.b.sums.Metadata && where != 0x08 { // with a checksum that is right
			w.change(i, func(b []byte) {
				d := disk.DecodeGroupDesc(b)
				d.BlockBitmapCsum = w.b.sums.Bitmap(w.block(d.BlockBitmap), w.b.geo.ClustersPerGroup)
				d.InodeBitmapCsum = w.b.sums.Bitmap(w.block(d.InodeBitmap), w.b.geo.InodesPerGroup)
				disk.EncodeGroupDesc(b, &d)
			})
		}
	case 1: // not initialised, so that all of it is free
		flags := uint16(1 + w.rng.IntN(7))
		w.change(i, func(b []byte) {
			le.PutUint16(b[0x12:], flags)
			le.PutUint16(b[0x0C:], uint16(w.b.geo.ClustersPerGroup/2))
			le.PutUint16(b[0x0E:], uint16(w.b.geo.InodesPerGroup/2))
		})
		w.note("descriptor of group %d: flags %#x, half is free", g, flags)
	case 2:
		for _, j := range append(w.b.of[kindBlockBitmap], w.b.of[kindInodeBitmap]...) {
			w.change(j, func(b []byte) { clear(b[:len(b)/2]) })
		}
		for _, j := range w.b.of[kindDesc] {
			w.change(j, func(b []byte) {
				le.PutUint16(b[0x0C:], uint16(w.b.geo.ClustersPerGroup/2))
				le.PutUint16(b[0x0E:], uint16(w.b.geo.InodesPerGroup/2))
			})
		}
		w.note("half of all that is in use is free")
	}
}

// inlineData makes what is in inodes lie about its length, or be missing.
func inlineData(w *work) {
	ino := w.victim()
	w.changeInode(ino, func(raw []byte) {
		le.PutUint32(raw[0x20:], (le.Uint32(raw[0x20:])|uint32(disk.FlagInlineData))&^(uint32(w.rng.IntN(2))*uint32(disk.FlagExtents)))
		if w.chance(1, 2) {
			le.PutUint32(raw[0x04:], pick(w, []uint32{0, 1, 60, 61, 160, 200, 1 << 16, 1<<32 - 1}))
		}
		if len(raw) > disk.InodeSizeOld && w.chance(1, 2) {
			le.PutUint16(raw[0x80:], pick(w, []uint16{0, 4, 28, 32, uint16(len(raw) - 128), uint16(len(raw) - 132), 65535}))
		}
	})
	w.note("inode %d: inline", ino)
}

// hostileLog has the journal replay blocks over structures.
func hostileLog(w *work) {
	l, ok := w.openLog()
	if !ok {
		return
	}
	for range 1 + w.rng.IntN(3) {
		var list []logged
		for range 1 + w.rng.IntN(6) {
			i := w.anySite()
			if w.chance(1, 4) {
				i = w.b.of[kindSuper][0]
			}
			s := &w.b.sites[i]
			blk := w.blockOf(i)
			data := w.block(blk)
			at := int(s.off) & (int(w.b.geo.BlockSize) - 1)
			fields := w.fields(s, data[at:min(len(data), at+s.size)])
			for range 1 + w.rng.IntN(3) {
				f := pick(w, fields)
				if at+f.off+f.width > len(data) {
					continue
				}
				f.off += at
				v := w.value(s, &f, f.get(data))
				f.put(data, v)
				w.note("by recovery, %s: %s is %#x", w.name(s), f.name, v)
			}
			if s.kind == kindSuper {
				sb := data[at:]
				le.PutUint32(sb[0x60:], le.Uint32(sb[0x60:])&^uint32(disk.IncompatMMP)|uint32(w.b.sb.Incompat&disk.IncompatMMP))
				w.b.sums.SealSuperblock(sb)
			}
			if w.chance(1, 6) {
				blk = w.anyBlock()
				w.note("which lands in block %d", blk)
			}
			list = append(list, logged{blk, data})
		}
		l.blocks(list)
		if w.chance(1, 3) {
			l.revoke([]uint64{list[0].blk, w.anyBlock()})
		}
		l.commit()
	}
	w.note("a log of hostile transactions")
}

// revokeFlood fills the log with revoke blocks, and descriptors of what they revoke.
func revokeFlood(w *work) {
	l, ok := w.openLog()
	if !ok {
		return
	}
	same := w.chance(1, 2)
	perTransaction := 1 + w.rng.IntN(200)
	first := w.rng.Uint64()
	for i := 0; l.next < l.end-4; i++ {
		list := make([]uint64, w.b.geo.BlockSize/4)
		for j := range list {
			if list[j] = first; !same {
				list[j] = first + uint64(i*len(list)+j)
			}
		}
		l.revoke(list)
		if i%perTransaction == 0 {
			l.commit()
		}
	}
	l.commit()
	w.note("a log full of revoke blocks, the same block each time: %v, a commit every %d", same, perTransaction)
}

// hostileFastCommit has fast commits that say what cannot be.
func hostileFastCommit(w *work) {
	l, ok := w.openLog()
	if !ok {
		return
	}
	l.commit()
	f, ok := l.openFast()
	if !ok {
		return
	}
	u32 := le.AppendUint32
	n := 1 + w.rng.IntN(12)
	if w.chance(1, 6) {
		n = 500
	}
	for range n {
		ino := w.victim()
		if w.chance(1, 4) {
			ino = w.anyInode()
		}
		switch w.rng.IntN(6) {
		case 0:
			v := u32(u32(nil, ino), pick(w, []uint32{0, 1, w.rng.Uint32N(50), 1<<32 - 1, 1<<32 - 20}))
			v = le.AppendUint16(v, pick(w, []uint16{0, 1, uint16(w.rng.Uint32N(20)), 32768, 32769, 65535}))
			blk := w.anyBlock()
			v = u32(le.AppendUint16(v, uint16(blk>>32)), uint32(blk))
			f.tag(fastAddRange, v)
			if n < 20 {
				w.note("fast commit: inode %d gets block %d", ino, blk)
			}
		case 1:
			f.tag(fastDelRange, u32(u32(u32(nil, ino), w.rng.Uint32N(10)), pick(w, []uint32{0, 1, 100, 1<<32 - 1})))
		case 2, 3:
			dir := w.anyInode()
			if len(w.b.dirs) > 0 && w.chance(3, 4) {
				dir = pick(w, w.b.dirs)
			}
			name := pick(w, []string{"new", "hello", ".", "..", "a/b", "a\x00", "x", "dir"})
			f.tag(pick(w, []uint16{fastCreate, fastLink, fastUnlink}), append(u32(u32(nil, dir), ino), name...))
			if n < 20 {
				w.note("fast commit: %q in directory %d is inode %d, or was", name, dir, ino)
			}
		case 4:
			if ino == 0 || ino > w.b.geo.InodesCount {
				continue
			}
			raw := w.read(w.b.inodeAt(ino), int(w.b.geo.InodeSize))
			s := site{kind: kindInode, off: w.b.inodeAt(ino), size: len(raw), owner: ino}
			list := w.fields(&s, raw)
			fl := pick(w, list)
			if fl.off+fl.width <= len(raw) {
				v := w.value(&s, &fl, fl.get(raw))
				fl.put(raw, v)
				w.note("fast commit: inode %d, %s is %#x", ino, fl.name, v)
			}
			f.tag(fastInode, append(u32(nil, ino), raw...))
		case 5:
			f.tag(uint16(w.rng.IntN(12)), make([]byte, w.rng.IntN(20)))
		}
	}
	f.close()
	w.note("fast commits of %d tags", n)
}

// exchange swaps a pointer with one of another structure of the kind.
func exchange(w *work) {
	i := w.anySite()
	s := &w.b.sites[i]
	j, _ := w.site(s.kind)
	t := &w.b.sites[j]
	var a, b []field
	for _, f := range w.fields(s, w.read(s.off, s.size)) {
		if f.class == isBlock || f.class == isInode || f.class == isLogical {
			a = append(a, f)
		}
	}
	if i == j || len(a) == 0 {
		return
	}
	f := pick(w, a)
	for _, g := range w.fields(t, w.read(t.off, t.size)) {
		if g.class == f.class && g.width == f.width {
			b = append(b, g)
		}
	}
	if len(b) == 0 {
		return
	}
	g := pick(w, b)
	x, y := f.get(w.read(s.off, s.size)), g.get(w.read(t.off, t.size))
	w.setField(i, &f, y)
	w.setField(j, &g, x)
}

// giants are sizes, counts and ranges at the ends of what the format has.
func giants(w *work) {
	ino := w.victim()
	size := pick(w, []uint64{1<<63 - 1, 1<<63 - 4096, 1 << 44, 1<<44 - 1, 1 << 32, 1<<31 - 1, 1 << 42, 1<<64 - 1})
	far := w.chance(1, 2)
	w.changeInode(ino, func(raw []byte) {
		le.PutUint32(raw[0x04:], uint32(size))
		le.PutUint32(raw[0x6C:], uint32(size>>32))
		if w.chance(1, 2) {
			le.PutUint32(raw[0x1C:], pick(w, []uint32{0, 1<<32 - 1}))
		}
		if far && disk.InodeFlags(le.Uint32(raw[0x20:]))&disk.FlagExtents != 0 {
			putNode(raw[0x28:0x64], 0, extent{0, 1, w.anyBlock()}, extent{1<<32 - 40000, 32768, w.rng.Uint64N(w.b.geo.BlocksCount)},
				extent{pick(w, []uint32{1<<32 - 2, 1<<32 - 1}), 1, w.anyBlock()})
		}
	})
	w.note("inode %d: size %d, with blocks at the end of all: %v", ino, size, far)
}
