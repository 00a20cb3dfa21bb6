package ext4_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"sync"
	"syscall"

	"ext4box/blockdev"
	"ext4box/blockdev/blocktest"
	"ext4box/ext4/internal/disk"
	"ext4box/ext4/internal/journal"
)

// A guard watches what is written to a mutant and says what should not have been. What may be written is taken
// from the state of the mutant itself, with its log replayed, before anything is done to it, by a reader of its
// own (allowance), which knows the format from package disk only:
//
//   - system blocks: superblocks, descriptors and the room for more of them, wherever the mutant's geometry puts
//     them, bitmaps and inode tables of groups whose descriptors are valid, the journal, and the MMP block;
//   - blocks that are free by its bitmaps, or that a group says are not initialised;
//   - blocks that an inode which is in use has, and the rest of their clusters: of its data, of its map, of attributes;
//   - blocks that the log has a newer version of, or that fast commits say are an inode's.
//
// Nothing else may be written at all; to system blocks no file data may be written nor anything discarded; and an
// image that cannot be opened, by the geometry of its superblock or its journal, gets at most a new superblock and
// journal superblock. All of it in units of blocks. Data is told from metadata by its content, or by
// the way it takes, where the kernel moves it.
//
// The rules were seen to fail: "neither free nor anybody's" within a hundred mutants of most shapes when checkpoints, the data
// of files, or the zeros at the edges of what is cut out of them went one block too far. What goes too far into a block of another
// file is right by them.
type guard struct {
	*blocktest.Mem
	may *allowance

	mu     sync.Mutex
	err    error
	writes int
}

var _ blockdev.Device = (*guard)(nil)

// Data that is written to files, and to attributes, whose blocks are metadata.
var (
	attackData  = bytes.Repeat([]byte("ATTACK! "), 4096)
	attackValue = bytes.Repeat([]byte("VALUE "), 4096)
)

func (g *guard) WriteAt(p []byte, off int64) (int, error) {
	g.check("a write", off, int64(len(p)), bytes.Contains(p, attackData[:1000])) // no inode has room for that
	return g.Mem.WriteAt(p, off)
}

func (g *guard) Discard(off, n int64) error {
	g.check("a discard", off, n, true)
	return g.Mem.Discard(off, n)
}

// check notes what is wrong about a write.
func (g *guard) check(what string, off, n int64, data bool) (ok bool) {
	g.mu.Lock()
	g.writes++
	g.mu.Unlock()
	if g.may == nil || n <= 0 {
		return true
	}
	if off < 0 || off > g.Size()-n {
		g.note(fmt.Errorf("%s of %d bytes at %d\n%s", what, n, off, debug.Stack()))
		return false
	}
	for b := off >> g.may.bits; b <= (off+n-1)>>g.may.bits; b++ {
		switch {
		case data && g.may.isSystem(b) && !byLog():
			g.note(fmt.Errorf("%s of data in block %d, which is the filesystem's own\n%s", what, b, debug.Stack()))
			return false
		case !g.may.covers(b):
			g.note(fmt.Errorf("%s in block %d, which is neither free nor anybody's\n%s", what, b, debug.Stack()))
			return false
		}
	}
	return true
}

// byLog tells whether it is the log that writes. What a file shares with metadata that no zone protects, such as
// a block of a quota file, gets there as metadata.
func byLog() bool { return bytes.Contains(debug.Stack(), []byte("journal.(*ExtentLog)")) }

func (g *guard) note(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.err == nil {
		g.err = err
	}
}

func (g *guard) wrong() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.err
}

// written is how often something was.
func (g *guard) written() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.writes
}

// allowance is what may be written.
type allowance struct {
	bits   uint
	system []bool // by block
	any    []bool
}

func (a *allowance) isSystem(b int64) bool { return b < int64(len(a.system)) && a.system[b] }

func (a *allowance) covers(b int64) bool {
	return b < int64(len(a.any)) && (a.any[b] || a.system[b])
}

// allowanceOf reads what may be written to an image of small size, whose journal is outside or nil.
func allowanceOf(dev, outside *blocktest.Mem) *allowance {
	dev = dev.Clone()
	raw := make([]byte, disk.SuperblockSize)
	if _, err := dev.ReadAt(raw, disk.SuperblockOffset); err != nil {
		return &allowance{bits: 10}
	}
	sb := disk.DecodeSuperblock(raw)
	geo, err := sb.Geometry()
	blocks := uint64(dev.Size()) >> geo.BlockBits
	if err != nil || geo.BlocksCount > blocks {
		return &allowance{bits: 10}
	}
	a := &allowance{bits: geo.BlockBits, system: make([]bool, blocks), any: make([]bool, blocks)}
	r := &stateReader{dev: dev, sb: sb, geo: geo, sums: sb.Checksums(), a: a, blocks: blocks, seen: make(map[mapNode]bool)}
	r.system(disk.SuperblockOffset>>geo.BlockBits, 1)
	if sb.Incompat&disk.IncompatMMP != 0 { // which comes before the journal
		r.system(sb.MMPBlock, 1)
	}
	if sb.Compat&disk.CompatHasJournal != 0 && (sb.JournalIno != 0 || outside != nil) {
		if !r.replay(outside) {
			return a
		}
		if _, err := r.dev.ReadAt(raw, disk.SuperblockOffset); err != nil {
			return a
		}
		// The superblock that counts may have been in the log, with more blocks than before: so does a filesystem
		// grow. Where the size of its blocks is another one, the engine refuses the image.
		r.sb = disk.DecodeSuperblock(raw)
		if geo, err := r.sb.Geometry(); err != nil || geo.BlocksCount > blocks || geo.BlockBits != r.geo.BlockBits {
			return a
		} else {
			r.geo, r.sums = geo, r.sb.Checksums()
		}
	}
	r.groups()
	r.inodes()
	return a
}

type stateReader struct {
	dev    io.ReaderAt
	sb     disk.Superblock
	geo    disk.Geometry
	sums   disk.Checksums
	a      *allowance
	blocks uint64 // of the device
	seen   map[mapNode]bool
	fast   []disk.Inode // that fast commits bring
}

func (r *stateReader) block(blk uint64) []byte {
	b := make([]byte, r.geo.BlockSize)
	if blk < r.geo.BlocksCount {
		_, _ = r.dev.ReadAt(b, int64(blk)<<r.geo.BlockBits)
	}
	return b
}

func (r *stateReader) system(start, n uint64) {
	for b := start; b < min(start+n, r.blocks); b++ {
		r.a.system[b] = true
	}
}

func (r *stateReader) allow(start, n uint64) {
	for b := start; b < min(start+n, r.blocks); b++ {
		r.a.any[b] = true
	}
}

// desc returns the descriptor of a group, if it is one that can be used.
func (r *stateReader) desc(group uint32) (d disk.GroupDesc, ok bool) {
	raw := make([]byte, r.geo.DescSize)
	at := int64(r.geo.DescBlock(disk.SuperblockOffset>>r.geo.BlockBits, group/r.geo.DescPerBlock)) << r.geo.BlockBits
	if _, err := r.dev.ReadAt(raw, at+int64(group%r.geo.DescPerBlock)*int64(r.geo.DescSize)); err != nil {
		return d, false
	}
	d = disk.DecodeGroupDesc(raw)
	if (r.sums.Metadata || r.sums.GDT) && r.sums.GroupDesc(group, raw) != d.Checksum {
		return d, false
	}
	return d, d.Check(&r.geo, group, r.sb.Incompat&disk.IncompatFlexBG != 0) == nil
}

// replay makes the journal system blocks and reads through what is in it. It tells whether there is one that can be used.
func (r *stateReader) replay(outside *blocktest.Mem) bool {
	o := journal.Options{BlockSize: int(r.geo.BlockSize), DeviceBlocks: r.blocks}
	if r.sb.JournalIno == 0 {
		o.Superblock, o.LogBlocks = journal.ExternalSuperblock(o.BlockSize), uint64(outside.Size())>>r.geo.BlockBits
		return r.replayLog(outside.Clone(), o, nil)
	}
	in, ok := r.inode(r.sb.JournalIno)
	if !ok {
		return false
	}
	var log []uint64
	left := uint64(1 << 18) // nodes and blocks: a journal that has the same ones again is refused
	r.walk(&in, func(start, n uint64, level int, _ bool) bool {
		if n > left {
			left = 0
			return false
		}
		left -= n
		if uint64(len(log)) >= in.Size>>r.geo.BlockBits {
			return true // behind its end: not looked at by anybody
		}
		r.system(start, n)
		for i := uint64(0); level == 0 && i < n; i++ {
			log = append(log, start+i)
		}
		return true
	})
	o.LogBlocks = min(uint64(len(log)), in.Size>>r.geo.BlockBits)
	return r.replayLog(logBlocks{r, log}, o, log)
}

// replayLog replays a journal, whose blocks are log where it is inside.
func (r *stateReader) replayLog(content io.ReaderAt, o journal.Options, log []uint64) bool {
	j, err := journal.Load(content, o)
	if err != nil {
		return false
	}
	if r.sb.Incompat&disk.IncompatRecover == 0 || j.Clean() {
		return true
	}
	replay, err := j.Recover()
	if err != nil {
		return false
	}
	for to := range replay.All() {
		r.allow(to.Block, 1)
	}
	if r.sb.Compat&disk.CompatFastCommit != 0 {
		for _, blk := range log {
			r.fastCommit(r.block(blk))
		}
	}
	r.dev = journal.NewOverlay(r.dev.(*blocktest.Mem), replay)
	return true
}

// fastCommit remembers what a block says that inodes are to have, if it is one of fast commits; whether those
// count, or are sound, does not matter.
func (r *stateReader) fastCommit(b []byte) {
	const addRange, inode = 1, 6
	for len(b) >= 4 {
		tag, n := le.Uint16(b), int(le.Uint16(b[2:]))
		if b = b[4:]; n > len(b) {
			return
		}
		switch v := b[:n]; {
		case tag == addRange && n >= 16: // an inode, and an extent for it
			x := disk.DecodeExtent(v[4:])
			r.allow(x.Start>>r.geo.ClusterBits<<r.geo.ClusterBits, uint64(x.Len)+2<<r.geo.ClusterBits)
		case tag == inode && n >= 4+disk.InodeSizeOld:
			raw := make([]byte, r.geo.InodeSize)
			copy(raw, v[4:])
			r.fast = append(r.fast, disk.DecodeInode(raw, false))
		}
		b = b[n:]
	}
}

// logBlocks is the content of a journal.
type logBlocks struct {
	r   *stateReader
	log []uint64
}

func (l logBlocks) ReadAt(p []byte, off int64) (n int, err error) {
	for n < len(p) {
		at := off + int64(n)
		i := at >> l.r.geo.BlockBits
		if i >= int64(len(l.log)) {
			return n, io.EOF
		}
		n += copy(p[n:], l.r.block(l.log[i])[at&int64(l.r.geo.BlockSize-1):])
	}
	return n, nil
}

// groups finds what is free and what is the filesystem's own.
func (r *stateReader) groups() {
	if r.sb.Incompat&disk.IncompatMMP != 0 {
		r.system(r.sb.MMPBlock, 1)
	}
	r.system(disk.SuperblockOffset>>r.geo.BlockBits, 1+uint64(r.geo.ClassicDescBlocks()))
	for g := range r.geo.Groups {
		first, n := r.geo.GroupFirstBlock(g), r.geo.GroupBlocks(g)
		r.system(first, uint64(r.geo.BaseMeta(g)))
		d, ok := r.desc(g)
		if !ok {
			continue
		}
		r.system(d.BlockBitmap, 1)
		r.system(d.InodeBitmap, 1)
		r.system(d.InodeTable, uint64(r.geo.InodeTableBlocks))
		m := disk.Bitmap(r.block(d.BlockBitmap))
		for i := range n {
			if d.Flags&disk.GroupBlockUninit != 0 && (r.sums.GDT || r.sums.Metadata) || !m.Test(i>>r.geo.ClusterBits) {
				r.allow(first+uint64(i), 1)
			}
		}
	}
}

func (r *stateReader) inode(ino uint32) (in disk.Inode, ok bool) {
	if ino == 0 || ino > r.geo.InodesCount {
		return in, false
	}
	group, index := r.geo.InodeGroup(ino)
	d, ok := r.desc(group)
	if !ok {
		return in, false
	}
	raw := make([]byte, r.geo.InodeSize)
	if _, err := r.dev.ReadAt(raw, int64(d.InodeTable)<<r.geo.BlockBits+int64(index)*int64(r.geo.InodeSize)); err != nil {
		return in, false
	}
	in = disk.DecodeInode(raw, false)
	return in, in.Mode != 0 || in.Links != 0
}

// inodes allows what inodes have.
func (r *stateReader) inodes() {
	for g := range r.geo.Groups {
		d, ok := r.desc(g)
		if !ok {
			continue
		}
		table := make([]byte, min(uint64(r.geo.InodeTableBlocks)<<r.geo.BlockBits, 64<<20))
		if n, err := r.dev.ReadAt(table, int64(d.InodeTable)<<r.geo.BlockBits); err != nil && !errors.Is(err, io.EOF) {
			table = table[:n]
		}
		for i := range r.geo.InodesPerGroup {
			at := int(i * r.geo.InodeSize)
			if at+int(r.geo.InodeSize) > len(table) {
				break
			}
			in := disk.DecodeInode(table[at:][:r.geo.InodeSize], false)
			if in.Mode == 0 && in.Links == 0 {
				continue
			}
			r.has(&in)
		}
	}
	for i := range r.fast { // which may have got another map than before
		r.has(&r.fast[i])
	}
}

// has allows what an inode has.
func (r *stateReader) has(in *disk.Inode) {
	if in.FileACL != 0 {
		r.allow(in.FileACL>>r.geo.ClusterBits<<r.geo.ClusterBits, 1<<r.geo.ClusterBits)
	}
	r.owned(in)
}

// owned allows the blocks of a map, whole clusters of them: each node once, for in a hostile map nodes
// have each other.
func (r *stateReader) owned(in *disk.Inode) {
	cluster := uint64(1)<<r.geo.ClusterBits - 1 // of which a file has all, if it has a block
	kind := in.Type()
	if in.Flags&disk.FlagInlineData != 0 || kind != disk.ModeReg && kind != disk.ModeDir && kind != disk.ModeLink && kind != 0 {
		return
	}
	r.walk(in, func(start, n uint64, level int, extents bool) bool {
		r.allow(start&^cluster, (start+n-1)|cluster-start&^cluster+1)
		if level == 0 {
			return false
		}
		node := mapNode{start, level, extents}
		if r.seen[node] {
			return false
		}
		r.seen[node] = true
		return true
	})
}

// mapNode is a block as a node of a map.
type mapNode struct {
	blk     uint64
	level   int
	extents bool
}

// walk follows a block map: fn gets ranges of blocks within the filesystem, with their level above the data, and tells
// whether to look into a node.
func (r *stateReader) walk(in *disk.Inode, fn func(start, n uint64, level int, extents bool) bool) {
	inside := func(blk uint64) bool { return blk != 0 && blk < r.geo.BlocksCount }
	if in.Flags&disk.FlagExtents == 0 {
		var pointers func(b []byte, level int)
		pointers = func(b []byte, level int) {
			for ; len(b) >= 4; b = b[4:] {
				if blk := uint64(le.Uint32(b)); inside(blk) && fn(blk, 1, level, false) && level > 0 {
					pointers(r.block(blk), level-1)
				}
			}
		}
		for i := range 15 {
			pointers(in.Block[4*i:4*i+4], max(0, i-11))
		}
		return
	}
	var node func(b []byte, maxDepth int)
	node = func(b []byte, maxDepth int) {
		h := disk.DecodeExtentHeader(b)
		if int(h.Depth) > maxDepth {
			return
		}
		for i := range min(int(h.Entries), (len(b)-disk.ExtentHeaderSize)/disk.ExtentEntrySize) {
			at := disk.ExtentHeaderSize + i*disk.ExtentEntrySize
			if h.Depth == 0 {
				if x := disk.DecodeExtent(b[at:]); inside(x.Start) && x.Len > 0 {
					fn(x.Start, min(uint64(x.Len), r.geo.BlocksCount-x.Start), 0, true)
				}
			} else if x := disk.DecodeExtentIndex(b[at:]); inside(x.Leaf) && fn(x.Leaf, 1, int(h.Depth), true) {
				node(r.block(x.Leaf), int(h.Depth)-1)
			}
		}
	}
	node(in.Block[:], 5)
}

// kernelData is the device as the kernel has it: nothing but file data is written to it.
type kernelData struct {
	*guard
	sum *mappedSum
}

func (d kernelData) WriteAt(p []byte, off int64) (int, error) {
	d.sum.writes.Add(1)
	if !d.check("the kernel's write", off, int64(len(p)), true) {
		return 0, syscall.EIO
	}
	return d.Mem.WriteAt(p, off)
}
