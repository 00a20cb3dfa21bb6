package ext4_test

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"ext4box/blockdev/blocktest"
	"ext4box/ext4"
	"ext4box/ext4/internal/disk"
	"ext4box/ext4/internal/disktest"
	"ext4box/ext4/internal/fastcommit"
)

// evil is an image made by hand: one group that counts, of 1000 inodes and more,
// on a sparse device of any size. It has no checksums, which a hostile image has
// right anyway.
type evil struct {
	tb     testing.TB
	dev    *blocktest.Mem
	bs     int
	sb     disk.Superblock
	itable uint64
	next   uint64 // first block that is not taken
}

func newEvil(tb testing.TB, blockSize int, blocks uint64) *evil {
	perGroup := uint64(8 * blockSize)
	e := &evil{tb: tb, bs: blockSize, dev: blocktest.NewMem(int64(blocks) * int64(blockSize))}
	first := uint64(0)
	if blockSize == 1024 {
		first = 1
	}
	groups := (blocks - first + perGroup - 1) / perGroup
	ipg := min(perGroup, (1<<32-1)/groups) &^ (uint64(blockSize)/256 - 1)
	bits := 0
	for 1024<<bits < blockSize {
		bits++
	}
	e.sb = disk.Superblock{
		Magic: disk.SuperMagic, RevLevel: disk.RevDynamic, LogBlockSize: uint32(bits), LogClusterSize: uint32(bits),
		BlocksCount: blocks, FirstDataBlock: uint32(first), BlocksPerGroup: uint32(perGroup), ClustersPerGroup: uint32(perGroup),
		InodesPerGroup: uint32(ipg), InodesCount: uint32(groups * ipg), FirstIno: 11, InodeSize: 256, DescSize: 64, State: disk.StateValid,
		Compat:   disk.CompatDirIndex,
		Incompat: disk.Incompat64Bit | disk.IncompatFiletype | disk.IncompatExtents | disk.IncompatFlexBG | disk.IncompatLargeDir,
	}
	table := first + 1 + (groups*64+uint64(blockSize)-1)/uint64(blockSize)
	e.itable = table + 2
	e.next = e.itable + ipg*256/uint64(blockSize)
	if e.next+1000 > blocks {
		tb.Fatalf("%d blocks are too few", blocks)
	}
	// Descriptors of as many groups as statfs can be asked about; the tables of
	// the others lie on that of the first.
	for g := range min(groups, 40000) {
		d := make([]byte, 64)
		for off, at := range map[int]uint64{0: table, 4: table + 1, 8: e.itable} {
			le.PutUint32(d[off:], uint32(at))
		}
		e.write((first+1)*uint64(blockSize)+g*64, d)
	}
	e.inode(2, disk.ModeDir|0o755, 2, uint64(blockSize), disk.FlagExtents, disktest.ExtentNode(60, 0, disktest.Written(0, 1, e.block(
		disktest.DirBlock(blockSize, false, disktest.Entry{Ino: 2, Type: disk.FTDir, Name: "."}, disktest.Entry{Ino: 2, Type: disk.FTDir, Name: ".."})))))
	return e
}

var le = binary.LittleEndian

func (e *evil) write(off uint64, b []byte) {
	if _, err := e.dev.WriteAt(b, int64(off)); err != nil {
		e.tb.Fatal(err)
	}
}

// block takes the next free block for b, or as many as b fills.
func (e *evil) block(b []byte) uint64 {
	at := e.next
	e.write(at*uint64(e.bs), b)
	e.next += uint64((len(b) + e.bs - 1) / e.bs)
	return at
}

// inode writes an inode and returns its raw form for more changes.
func (e *evil) inode(ino uint32, mode, links uint16, size uint64, flags disk.InodeFlags, blk []byte, change ...func(raw []byte)) {
	raw := make([]byte, 256)
	le.PutUint16(raw[0x00:], mode)
	le.PutUint32(raw[0x04:], uint32(size))
	le.PutUint32(raw[0x6C:], uint32(size>>32))
	le.PutUint16(raw[0x1A:], links)
	le.PutUint32(raw[0x20:], uint32(flags))
	copy(raw[0x28:0x64], blk)
	le.PutUint16(raw[0x80:], 32)
	for _, fn := range change {
		fn(raw)
	}
	e.write(e.itable*uint64(e.bs)+uint64(ino-1)*256, raw)
}

// device finishes the image.
func (e *evil) device() *blocktest.Mem {
	raw := make([]byte, disk.SuperblockSize)
	disk.EncodeSuperblock(raw, &e.sb)
	e.write(disk.SuperblockOffset, raw)
	e.dev.SetReadOnly(true)
	return e.dev
}

// repeated is a leaf of an extent tree in which the block is mapped n times from
// the file block first on.
func (e *evil) repeated(first uint32, n int, blk uint64) []disktest.Extent {
	list := make([]disktest.Extent, n)
	for i := range list {
		list[i] = disktest.Written(first+uint32(i), 1, blk)
	}
	return list
}

// shared makes blocks of pointers that all lead to blk, as many levels as said,
// and returns the root of a block map for it.
func (e *evil) shared(levels int, blk uint64) []byte {
	root := make([]byte, 60)
	for i := range levels {
		b := make([]byte, e.bs)
		for j := range e.bs / 4 {
			le.PutUint32(b[4*j:], uint32(blk))
		}
		blk = e.block(b)
		if i == levels-1 {
			le.PutUint32(root[4*(11+levels):], uint32(blk))
		}
	}
	return root
}

// full is a directory block full of the shortest names.
func full(size int, ino uint32) []byte {
	var list []disktest.Entry
	for i := 0; i < size/12-1; i++ {
		list = append(list, disktest.Entry{Ino: ino, Type: disk.FTReg, Name: fmt.Sprintf("%c%c", '0'+i%75, 'A'+i/75)})
	}
	return disktest.DirBlock(size, false, list...)
}

const evilDir = 20 // inode of the directory or file of a test

// Names of more than fits in any block of a test are absent from every one.
const absent = "this name is nowhere"

// Limits for one operation. The time is that of the processor, for others may be
// using it as well.
const (
	hostileTime = 5 * time.Second
	hostileHeap = 200 << 20
)

// cpuTime is what the process has used of the processor.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// within runs fn and fails when it takes too long or too much memory.
func within(t *testing.T, fn func() error) error {
	t.Helper()
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	before := m.HeapAlloc
	done := make(chan error, 1)
	go func() { done <- fn() }()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	limit := hostileTime
	if testing.Short() { // under the race detector
		limit *= 10
	}
	for end := cpuTime() + limit; ; {
		select {
		case err := <-done:
			return err
		case <-tick.C:
			if runtime.ReadMemStats(&m); m.HeapAlloc > before+hostileHeap {
				// How much of it is garbage depends on what other tests have in memory.
				runtime.GC()
				runtime.ReadMemStats(&m)
			}
			if m.HeapAlloc > before+hostileHeap {
				panic(fmt.Sprintf("%s: %d MiB of memory", t.Name(), (m.HeapAlloc-before)>>20)) // a test that fails would go on eating
			}
			if cpuTime() > end {
				panic(fmt.Sprintf("%s: longer than %v", t.Name(), limit))
			}
		}
	}
}

// TestHostile opens images that were made to hurt and does one thing with each.
// It must end soon, without much memory, and as expected.
func TestHostile(t *testing.T) {
	if testing.Short() {
		t.Skip("its limits are for code at full speed, which the race detector's is not")
	}
	lookup := func(fs *ext4.FS) error {
		_, err := fs.Lookup(evilDir, absent)
		return err
	}
	list := func(fs *ext4.FS) error {
		n := 0
		return fs.ReadDir(evilDir, 0, func(ext4.Dirent) bool { n++; return n < 10e6 })
	}
	seek := func(off int64, whence int) func(fs *ext4.FS) error {
		return func(fs *ext4.FS) error {
			_, err := fs.Seek(evilDir, off, whence)
			return err
		}
	}
	stat := func(fs *ext4.FS) error {
		_, err := fs.Stat(evilDir)
		return err
	}
	statfs := func(fs *ext4.FS) error {
		s, err := fs.Statfs()
		if err == nil && (s.BlocksFree > s.Blocks+1<<20 || s.BlocksAvail > s.BlocksFree || s.FilesFree > s.Files) {
			return fmt.Errorf("%+v", s)
		}
		return err
	}
	for _, c := range []struct {
		name  string
		build func(t *testing.T) *evil
		use   func(fs *ext4.FS) error // nil: opening fails
		want  error                   // nil: success
	}{
		{"directory of one block for ever, extents", dirOfOneBlock, list, syscall.EUCLEAN},
		{"directory of one block for ever, lookup", dirOfOneBlock, lookup, syscall.EUCLEAN},
		{"directory of one block for ever, indirect", dirOfSharedIndirect, lookup, syscall.EUCLEAN},
		{"directory of shared holes", dirOfSharedHoles, list, syscall.EUCLEAN},
		{"index of one leaf for ever", indexOfOneLeaf, lookup, syscall.EUCLEAN},
		{"file of shared indirect blocks, hole", fileOfSharedIndirect, seek(1<<33, ext4.SeekHole), nil},
		{"file of shared indirect blocks, data", fileOfSharedIndirect, seek(1<<30, ext4.SeekData), nil},
		{"orphan of shared indirect blocks, stat", orphanOfSharedIndirect, stat, syscall.EUCLEAN},
		{"orphan of shared indirect blocks, statfs", orphanOfSharedIndirect, statfs, nil},
		{"orphans that claim all space", greedyOrphans, statfs, nil},
		{"orphan file of everything", hugeOrphanFile, statfs, nil},
		{"log of one block for ever", logOfOneBlock, nil, syscall.EUCLEAN},
		{"log of holes", logOfHoles, nil, syscall.EUCLEAN},
		{"log of descriptors", logOfDescriptors, nil, syscall.EUCLEAN},
		{"log in the journal's last blocks", logBehindTheSign, nil, syscall.EUCLEAN},
		{"fast commit adds ..", fastCommitName("../x"), list, syscall.EUCLEAN},
		{"fast commit adds a zero", fastCommitName("a\x00b"), list, syscall.EUCLEAN},
		{"fast commits in a long directory", fastCommitsInLongDirectory, nil, syscall.EUCLEAN},
		{"symbolic links that multiply", multiplyingLinks, func(fs *ext4.FS) error {
			_, err := fs.ResolveFollow("link00")
			return err
		}, syscall.ENAMETOOLONG},
		{"attributes of 16 MiB", hugeAttributes, func(fs *ext4.FS) error {
			names, err := fs.Listxattr(evilDir)
			for _, n := range names {
				if _, err = fs.Getxattr(evilDir, n); !errors.Is(err, syscall.E2BIG) {
					return err
				}
			}
			return err
		}, syscall.E2BIG},
		{"file of 8 EiB", emptyGiant, func(fs *ext4.FS) error {
			_, err := fs.FS().ReadFile("giant")
			return err
		}, syscall.EFBIG},
		{"file of 8 EiB, ends", emptyGiant, func(fs *ext4.FS) error {
			if _, err := fs.Seek(evilDir, 0, ext4.SeekData); err != syscall.ENXIO {
				return fmt.Errorf("data: %w", err)
			}
			if at, err := fs.Seek(evilDir, 0, ext4.SeekHole); err != nil || at != 0 {
				return fmt.Errorf("hole at %d, %w", at, err)
			}
			n, err := fs.ReadAt(evilDir, make([]byte, 10), 1<<63-2)
			if n != 1 || err != io.EOF {
				return fmt.Errorf("%d bytes at the end, %w", n, err)
			}
			return nil
		}, nil},
		{"years behind the calendar", farFuture, func(fs *ext4.FS) error {
			_, err := json.Marshal(fs.Info())
			return err
		}, nil},
		{"combining marks", combiningMarks, lookup, syscall.ENOENT},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := c.build(t)
			e.tb = t
			dev := e.device()
			var fs *ext4.FS
			err := within(t, func() (err error) {
				fs, err = ext4.Open(dev, ext4.Options{ReadOnly: true})
				return err
			})
			if c.use == nil {
				if !errors.Is(err, c.want) {
					t.Errorf("opening it: %v, want %v", err, c.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer fs.Close()
			for range 2 {
				if err := within(t, func() error { return c.use(fs) }); !errors.Is(err, c.want) {
					t.Errorf("%v, want %v", err, c.want)
				}
			}
		})
	}
}

// tree makes an extent tree in which blk is mapped for each of so many leaves
// full of extents of one block, and returns its root.
func (e *evil) tree(leaves int, blk uint64) []byte {
	perLeaf := (e.bs - 12) / 12
	var index []disktest.Extent
	for i := range leaves {
		leaf := disktest.ExtentNode(e.bs, 0, e.repeated(uint32(i*perLeaf), perLeaf, blk)...)
		index = append(index, disktest.Written(uint32(i*perLeaf), 0, e.block(leaf)))
	}
	node := e.block(disktest.ExtentNode(e.bs, 1, index...))
	return disktest.ExtentNode(60, 2, disktest.Written(0, 0, node))
}

func dirOfOneBlock(t *testing.T) *evil {
	e := newEvil(t, 4096, 1<<30)
	e.inode(evilDir, disk.ModeDir|0o755, 2, 300*340*4096, disk.FlagExtents, e.tree(300, e.block(full(4096, 12))))
	return e
}

func dirOfSharedIndirect(t *testing.T) *evil {
	e := newEvil(t, 4096, 1<<30)
	e.inode(evilDir, disk.ModeDir|0o755, 2, 1<<29*4096, 0, e.shared(3, e.block(full(4096, 12))))
	return e
}

// dirOfSharedHoles has a block of pointers to nowhere, 2^20 times.
func dirOfSharedHoles(t *testing.T) *evil {
	e := newEvil(t, 4096, 1<<30)
	e.inode(evilDir, disk.ModeDir|0o755, 2, 1<<29*4096, 0, e.shared(3, 0))
	return e
}

// indexOfOneLeaf has an index of three levels, in which each node leads to the
// next, over and over.
func indexOfOneLeaf(t *testing.T) *evil {
	e := newEvil(t, 4096, 1<<30)
	// All hashes of absent names are taken to continue.
	const version = 1 // half MD4
	hash, _, err := disk.DirHash(version, e.sb.HashSeed, []byte(absent))
	if err != nil {
		t.Fatal(err)
	}
	chain := func(n int, blk uint32) []disktest.DxEntry {
		list := make([]disktest.DxEntry, n)
		for i := range list {
			list[i] = disktest.DxEntry{Hash: hash | 1, Block: blk}
		}
		return list
	}
	root := disktest.DxRoot(4096, false, evilDir, 2, version, 2, chain(500, 1)...)
	upper := disktest.DxNode(4096, false, chain(500, 2)...)
	lower := disktest.DxNode(4096, false, chain(500, 3)...)
	at := e.block(root)
	e.block(upper)
	e.block(lower)
	e.block(full(4096, 12))
	// It is long enough for as many leaves.
	e.inode(evilDir, disk.ModeDir|0o755, 2, 1<<29*4096, disk.FlagExtents|disk.FlagIndex, disktest.ExtentNode(60, 0, disktest.Written(0, 4, at)))
	return e
}

func fileOfSharedIndirect(t *testing.T) *evil {
	e := newEvil(t, 4096, 1<<30)
	e.inode(evilDir, disk.ModeReg|0o644, 1, 1<<42, 0, e.shared(3, e.block([]byte("data"))))
	return e
}

func orphanOfSharedIndirect(t *testing.T) *evil {
	e := newEvil(t, 4096, 1<<30)
	e.inode(evilDir, disk.ModeReg|0o644, 1, 0, 0, e.shared(3, e.block([]byte("data"))))
	e.sb.LastOrphan = evilDir
	return e
}

// greedyOrphans have as many blocks as the fields hold.
func greedyOrphans(t *testing.T) *evil {
	e := newEvil(t, 1024, 1<<20)
	e.sb.ROCompat |= disk.ROCompatHugeFile
	e.sb.ReservedBlocks = 1<<64 - 100
	for i := range uint32(300) {
		e.inode(evilDir+i, disk.ModeReg|0o644, 0, 0, disk.FlagHugeFile, nil, func(raw []byte) {
			le.PutUint32(raw[0x1C:], ^uint32(0))
			le.PutUint16(raw[0x74:], ^uint16(0))
			le.PutUint32(raw[0x14:], evilDir+i+1)
		})
	}
	e.sb.LastOrphan = evilDir
	return e
}

// hugeOrphanFile names millions of inodes, in tables that are holes.
func hugeOrphanFile(t *testing.T) *evil {
	e := newEvil(t, 65536, 1<<29)
	e.sb.Compat |= disk.CompatOrphanFile
	e.sb.ROCompat |= disk.ROCompatOrphanPresent
	e.sb.OrphanFileIno = evilDir
	perBlock := uint32(disk.OrphanSlots(65536))
	var list []disktest.Extent
	first := e.next
	for i := range uint32(128) {
		b := make([]byte, 65536)
		for j := range perBlock {
			le.PutUint32(b[4*j:], 10000+(i*perBlock+j)*256) // each in another block
		}
		le.PutUint32(b[65536-8:], disk.OrphanMagic)
		e.block(b)
	}
	list = append(list, disktest.Written(0, 128, first))
	e.inode(evilDir, disk.ModeReg|0o600, 1, 128*65536, disk.FlagExtents, disktest.ExtentNode(60, 0, list...))
	return e
}

// be puts numbers of 32 bits together as the journal has them.
func be(words ...uint32) (b []byte) {
	for _, w := range words {
		b = binary.BigEndian.AppendUint32(b, w)
	}
	return b
}

const journalMagic = 0xC03B3998

// journaled gives the image a dirty journal of so many blocks.
func (e *evil) journaled(blocks uint32, incompat uint32) []byte {
	e.sb.Compat |= disk.CompatHasJournal
	e.sb.Incompat |= disk.IncompatRecover
	e.sb.JournalIno = 8
	sb := make([]byte, e.bs)
	copy(sb, be(journalMagic, 4, 0, uint32(e.bs), blocks, 1, 1, 1, 0, 0, incompat))
	return sb
}

// descriptor is a descriptor block as full as it gets of a transaction of tid 1.
func descriptor(size int) ([]byte, int) {
	b := make([]byte, size)
	copy(b, be(journalMagic, 1, 1))
	n := 0
	for off := 12; off+8 <= size; off += 8 {
		binary.BigEndian.PutUint32(b[off:], 1000+uint32(n))
		binary.BigEndian.PutUint16(b[off+6:], 2) // no UUID follows
		n++
	}
	return b, n
}

// logOfOneBlock is a log of a descriptor and what it describes, over and over.
func logOfOneBlock(t *testing.T) *evil {
	e := newEvil(t, 4096, 1<<30)
	d, n := descriptor(4096)
	const blocks = 1 << 28
	sb := e.block(e.journaled(blocks, 0))
	round := e.block(d)
	e.next += uint64(n)
	commit := e.block(be(journalMagic, 2, 1))
	perLeaf := (4096 - 12) / 12
	rounds := (blocks - 2) / (n + 1)
	var index []disktest.Extent
	list := []disktest.Extent{disktest.Written(0, 1, sb)}
	for i := range rounds {
		list = append(list, disktest.Written(uint32(1+i*(n+1)), uint32(n+1), round))
		if i == rounds-1 {
			list = append(list, disktest.Written(uint32(1+rounds*(n+1)), 1, commit))
		}
		if len(list) >= perLeaf-1 || i == rounds-1 {
			index = append(index, disktest.Written(list[0].Block, 0, e.block(disktest.ExtentNode(4096, 0, list...))))
			list = nil
		}
	}
	var top []disktest.Extent
	for i := 0; i < len(index); i += perLeaf {
		part := index[i:min(i+perLeaf, len(index))]
		top = append(top, disktest.Written(part[0].Block, 0, e.block(disktest.ExtentNode(4096, 1, part...))))
	}
	root := e.block(disktest.ExtentNode(4096, 2, top...))
	e.inode(8, disk.ModeReg|0o600, 1, blocks*4096, disk.FlagExtents, disktest.ExtentNode(60, 3, disktest.Written(0, 0, root)))
	return e
}

// logOfHoles describes blocks that the journal does not have.
func logOfHoles(t *testing.T) *evil {
	e := newEvil(t, 4096, 1<<20)
	d, _ := descriptor(4096)
	at := e.block(append(e.journaled(10000, 0), d...))
	e.inode(8, disk.ModeReg|0o600, 1, 10000*4096, disk.FlagExtents, disktest.ExtentNode(60, 0, disktest.Written(0, 2, at)))
	return e
}

// logOfDescriptors is on a sparse device: blocks full of zeros are tags too, for
// block 0. All of it takes memory for what is written only.
func logOfDescriptors(t *testing.T) *evil {
	e := newEvil(t, 65536, 1<<24)
	tags := (65536 - 12) / 24
	const blocks = 1 << 21
	at := e.next
	e.write(at*65536, e.journaled(blocks, 0))
	pos := 1
	for ; pos+tags+2 < blocks; pos += tags + 1 {
		e.write((at+uint64(pos))*65536, be(journalMagic, 1, 1))
	}
	e.write((at+uint64(pos))*65536, be(journalMagic, 2, 1))
	e.next = at + blocks
	root := e.next
	var list []disktest.Extent
	for i := uint32(0); i < blocks; i += 32768 {
		list = append(list, disktest.Written(i, 32768, at+uint64(i)))
	}
	e.block(disktest.ExtentNode(65536, 0, list...))
	e.inode(8, disk.ModeReg|0o600, 1, blocks*65536, disk.FlagExtents, disktest.ExtentNode(60, 1, disktest.Written(0, 0, root)))
	return e
}

// logBehindTheSign has a start where sums of 32 bits begin again, and holes.
func logBehindTheSign(t *testing.T) *evil {
	e := newEvil(t, 1024, 1<<33)
	d, _ := descriptor(1024)
	sb := e.journaled(1<<32-1, 0)
	copy(sb[0x1C:], be(1<<32-10))
	at := e.block(sb)
	log := e.block(d)
	e.inode(8, disk.ModeReg|0o600, 1, 1<<42, disk.FlagExtents, disktest.ExtentNode(60, 0, disktest.Written(0, 1, at), disktest.Written(1<<32-10, 1, log)))
	return e
}

// fastCommits gives the image a journal whose fast commit area holds the tags.
func (e *evil) fastCommits(area []byte) {
	const log = 1024
	bs := e.bs
	sb := e.journaled(uint32(log+1+len(area)/bs), 0x20)
	copy(sb[0x54:], be(uint32(len(area)/bs+1)))
	at := e.block(sb)
	e.write((at+1)*uint64(bs), be(journalMagic, 1, 99)) // ends the log
	e.next = at + log
	e.block(make([]byte, bs))
	e.next = at + log + 1
	e.block(area)
	n := uint32(e.next - at)
	list := []disktest.Extent{}
	for i := uint32(0); i < n; i += 32768 {
		list = append(list, disktest.Written(i, min(32768, n-i), at+uint64(i)))
	}
	e.inode(8, disk.ModeReg|0o600, 1, uint64(n)*uint64(bs), disk.FlagExtents, disktest.ExtentNode(60, 0, list...))
}

// fastArea is a fast commit of these links of inode 12 into evilDir.
func fastArea(bs int, names []string) (area []byte) {
	sum := uint32(0)
	tag := func(t fastcommit.TagType, v []byte) {
		b := append(le.AppendUint16(le.AppendUint16(nil, uint16(t)), uint16(len(v))), v...)
		sum = disk.CRC32C(sum, b)
		area = append(area, b...)
	}
	tag(fastcommit.TagHead, le.AppendUint32(make([]byte, 4), 1))
	for _, n := range names {
		if left := bs - len(area)%bs; left < 8+len(n)+8+16 {
			tag(fastcommit.TagPad, make([]byte, left-4))
		}
		tag(fastcommit.TagLink, append(le.AppendUint32(le.AppendUint32(nil, evilDir), 12), n...))
	}
	left := bs - len(area)%bs
	area = le.AppendUint16(area, uint16(fastcommit.TagTail))
	area = le.AppendUint16(area, uint16(left-4))
	area = le.AppendUint32(area, 1)
	sum = disk.CRC32C(sum, area[len(area)-8:])
	area = le.AppendUint32(area, sum)
	return append(area, make([]byte, left-12)...)
}

func fastCommitName(name string) func(t *testing.T) *evil {
	return func(t *testing.T) *evil {
		e := newEvil(t, 1024, 1<<20)
		e.inode(12, disk.ModeReg|0o644, 1, 0, disk.FlagExtents, disktest.ExtentNode(60, 0))
		e.inode(evilDir, disk.ModeDir|0o755, 2, 1024, disk.FlagExtents, disktest.ExtentNode(60, 0, disktest.Written(0, 1, e.block(full(1024, 12)))))
		e.fastCommits(fastArea(1024, []string{name}))
		return e
	}
}

// fastCommitsInLongDirectory adds thousands of names to a directory without an
// index, each of which is looked for first.
func fastCommitsInLongDirectory(t *testing.T) *evil {
	e := newEvil(t, 4096, 1<<20)
	at := e.next
	for range 2000 {
		e.block(full(4096, 12))
	}
	e.inode(12, disk.ModeReg|0o644, 1, 0, disk.FlagExtents, disktest.ExtentNode(60, 0))
	e.inode(evilDir, disk.ModeDir|0o755, 2, 2000*4096, disk.FlagExtents, disktest.ExtentNode(60, 0, disktest.Written(0, 2000, at)))
	var names []string
	for i := range 20000 {
		names = append(names, fmt.Sprintf("name %d", i))
	}
	e.fastCommits(fastArea(4096, names))
	return e
}

// multiplyingLinks are links each of which leads through a long directory over
// and over, and then on to the next.
func multiplyingLinks(t *testing.T) *evil {
	e := newEvil(t, 65536, 1<<20)
	at := e.next
	for range 50 {
		e.block(full(65536, 12))
	}
	entries := []disktest.Entry{{Ino: 2, Type: disk.FTDir, Name: "."}, {Ino: 2, Type: disk.FTDir, Name: ".."}}
	for i := range uint32(40) {
		target := strings.Repeat("d/../", 13000) + fmt.Sprintf("link%02d", (i+1)%40)
		entries = append(entries, disktest.Entry{Ino: 100 + i, Type: disk.FTSymlink, Name: fmt.Sprintf("link%02d", i)})
		e.inode(100+i, disk.ModeLink|0o777, 1, uint64(len(target)), disk.FlagExtents, disktest.ExtentNode(60, 0, disktest.Written(0, 1, e.block([]byte(target)))))
	}
	entries = append(entries, disktest.Entry{Ino: evilDir, Type: disk.FTDir, Name: "d"})
	e.inode(2, disk.ModeDir|0o755, 2, 65536, disk.FlagExtents, disktest.ExtentNode(60, 0, disktest.Written(0, 1, e.block(disktest.DirBlock(65536, false, entries...)))))
	// ".." is what is looked for: behind all others.
	last := full(65536, 12)
	disktest.PutEntry(last, 0, 12, disktest.Entry{Ino: 2, Type: disk.FTDir, Name: ".."})
	e.block(last)
	e.inode(evilDir, disk.ModeDir|0o755, 2, 51*65536, disk.FlagExtents, disktest.ExtentNode(60, 0, disktest.Written(0, 50, at), disktest.Written(50, 1, e.next-1)))
	return e
}

// hugeAttributes are hundreds that all have the same value of 16 MiB, a hole.
func hugeAttributes(t *testing.T) *evil {
	const size = 1 << 24
	e := newEvil(t, 65536, 1<<20)
	e.sb.Incompat |= disk.IncompatEAInode
	e.inode(12, disk.ModeReg|0o600, 1, size, disk.FlagExtents|disk.FlagEAInode, disktest.ExtentNode(60, 0), func(raw []byte) {
		sb := e.sb
		le.PutUint32(raw[0x08:], disk.CRC32C(sb.Checksums().Seed, make([]byte, size)))
	})
	var list []disktest.Attr
	for i := range 1500 {
		list = append(list, disktest.Attr{Index: disk.XattrUser, Name: fmt.Sprintf("%04d", i), Ino: 12, Value: string(make([]byte, 1))})
	}
	b := disktest.XattrBlock(65536, list...)
	for off := 32; b[off] != 0; off += 20 {
		le.PutUint32(b[off+8:], size)
	}
	at := e.block(b)
	e.inode(evilDir, disk.ModeReg|0o644, 1, 0, disk.FlagExtents, disktest.ExtentNode(60, 0), func(raw []byte) { le.PutUint32(raw[0x68:], uint32(at)) })
	return e
}

func emptyGiant(t *testing.T) *evil {
	e := newEvil(t, 4096, 1<<20)
	e.inode(evilDir, disk.ModeReg|0o644, 1, 1<<63-1, disk.FlagExtents, disktest.ExtentNode(60, 0))
	e.inode(2, disk.ModeDir|0o755, 2, 4096, disk.FlagExtents, disktest.ExtentNode(60, 0, disktest.Written(0, 1, e.block(
		disktest.DirBlock(4096, false, disktest.Entry{Ino: evilDir, Type: disk.FTReg, Name: "giant"})))))
	return e
}

func farFuture(t *testing.T) *evil {
	e := newEvil(t, 4096, 1<<20)
	const never = 1<<40 - 1
	e.sb.MkfsTime, e.sb.WriteTime, e.sb.MountTime, e.sb.LastCheck = never, never, never, never
	e.sb.ErrorCount, e.sb.FirstErrorTime, e.sb.LastErrorTime = 1, never, never
	return e
}

// combiningMarks are names that are nothing but marks, in the order that is the
// most work to undo.
func combiningMarks(t *testing.T) *evil {
	e := newEvil(t, 4096, 1<<20)
	e.sb.Incompat |= disk.IncompatCasefold
	e.sb.Encoding = 1
	name := strings.Repeat("\u0315", 63) + strings.Repeat("\u0334", 64)
	var entries []disktest.Entry
	for range 15 {
		entries = append(entries, disktest.Entry{Ino: 12, Type: disk.FTReg, Name: name})
	}
	b := disktest.DirBlock(4096, false, entries...)
	at := e.next
	for range 3000 {
		e.block(b)
	}
	e.inode(evilDir, disk.ModeDir|0o755, 2, 3000*4096, disk.FlagExtents|disk.FlagCasefold, disktest.ExtentNode(60, 0, disktest.Written(0, 3000, at)))
	return e
}

// TestHostileWritable opens a clean journal without an end for writing, for which
// its blocks are listed.
func TestHostileWritable(t *testing.T) {
	const blocks = 1 << 29
	e := newEvil(t, 4096, 1<<30)
	sb := e.journaled(blocks, 0)
	copy(sb[0x1C:], be(0))
	e.sb.Incompat &^= disk.IncompatRecover
	at := e.block(sb)
	// What all levels lead to is the same block.
	root := e.shared(3, at)
	for level := 2; level > 0; level-- {
		upper := int64(le.Uint32(root[4*(12+level):]))
		if _, err := e.dev.ReadAt(root[4*(11+level):4*(12+level)], upper*4096); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 12 {
		le.PutUint32(root[4*i:], uint32(at))
	}
	e.inode(8, disk.ModeReg|0o600, 1, blocks*4096, 0, root)
	dev := e.device()
	dev.SetReadOnly(false)
	err := within(t, func() error {
		_, err := ext4.Open(dev, ext4.Options{})
		return err
	})
	if !errors.Is(err, syscall.EUCLEAN) {
		t.Errorf("open: %v", err)
	}
}
