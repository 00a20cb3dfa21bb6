package ext4_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"ext4box/blockdev"
	"ext4box/blockdev/blocktest"
	"ext4box/ext4"
	"ext4box/ext4/internal/disk"
	"ext4box/ext4/internal/disktest"
)

// fileName is what evilDir is called in the root directory of the images of these tests.
const fileName = "file"

// writable finishes the image and opens it for writing.
func (e *evil) writable() *ext4.FS {
	e.tb.Helper()
	dev := e.device()
	dev.SetReadOnly(false)
	fs, err := ext4.Open(dev, ext4.Options{CommitInterval: time.Hour, Errors: ext4.OnErrorContinue})
	if err != nil {
		e.tb.Fatal(err)
	}
	if why := fs.ReadOnlyReason(); why != "" {
		e.tb.Fatal(why)
	}
	return fs
}

// sharedFile is a file in which one block is mapped 2^30 times, in a group that is set
// aside: nothing can be freed there, and so nothing is freed twice.
func sharedFile(t *testing.T, links uint16) *evil {
	e := newEvil(t, 4096, 1<<30)
	e.dir(2, 2, disktest.Entry{Ino: evilDir, Type: disk.FTReg, Name: fileName})
	e.inode(evilDir, disk.ModeReg|0o644, links, 1<<42, 0, e.shared(3, e.block([]byte("data"))), func(raw []byte) {
		le.PutUint32(raw[0x1C:], ^uint32(0))
	})
	return e
}

// TestFreeingEnds deletes and truncates files in which one block is mapped over and over.
func TestFreeingEnds(t *testing.T) {
	if testing.Short() {
		t.Skip("its limits are for code at full speed, which the race detector's is not")
	}
	t.Run("truncate", func(t *testing.T) {
		fs := sharedFile(t, 1).writable()
		if err := within(t, func() error { return fs.Truncate(evilDir, 0) }); !errors.Is(err, syscall.EUCLEAN) {
			t.Error(err)
		}
		_ = within(t, fs.Close)
	})
	t.Run("delete", func(t *testing.T) {
		fs := sharedFile(t, 1).writable()
		fs.Hold(evilDir)
		if err := within(t, func() error { return fs.Unlink(ext4.RootIno, fileName) }); err != nil {
			t.Error(err)
		}
		if err := within(t, func() error { return fs.Unhold(evilDir, 1) }); !errors.Is(err, syscall.EUCLEAN) {
			t.Error(err)
		}
		_ = within(t, fs.Close)
	})
	t.Run("orphan", func(t *testing.T) {
		e := sharedFile(t, 0)
		e.sb.LastOrphan = evilDir
		var fs *ext4.FS
		_ = within(t, func() error { fs = e.writable(); return nil })
		_ = within(t, fs.Close)
	})
}

// TestRemoveRepeated removes a directory that has one empty block 2^29 times.
func TestRemoveRepeated(t *testing.T) {
	if testing.Short() {
		t.Skip("its limits are for code at full speed, which the race detector's is not")
	}
	e := newEvil(t, 4096, 1<<30)
	e.dir(2, 2, disktest.Entry{Ino: evilDir, Type: disk.FTDir, Name: fileName})
	empty := make([]byte, 4096)
	le.PutUint16(empty[4:], 4096)
	root := e.shared(3, e.block(empty))
	first := e.block(disktest.DirBlock(4096, false, disktest.Entry{Ino: evilDir, Type: disk.FTDir, Name: "."}, disktest.Entry{Ino: 2, Type: disk.FTDir, Name: ".."}))
	le.PutUint32(root, uint32(first))
	e.inode(evilDir, disk.ModeDir|0o755, 2, 1<<29*4096, 0, root)
	fs := e.writable()
	if err := within(t, func() error { return fs.Rmdir(ext4.RootIno, fileName) }); !errors.Is(err, syscall.EUCLEAN) {
		t.Error(err)
	}
	if err := within(t, func() error { return fs.RemoveAll(ext4.RootIno, fileName) }); !errors.Is(err, syscall.EUCLEAN) {
		t.Error(err)
	}
	_ = within(t, fs.Close)
}

// TestTooManyPieces looks for a name in a directory of which no two blocks are adjacent.
func TestTooManyPieces(t *testing.T) {
	if testing.Short() {
		t.Skip("its limits are for code at full speed, which the race detector's is not")
	}
	const perLeaf, pieces = 340, 1<<20 + 1000
	e := newEvil(t, 4096, 1<<30)
	e.sb.ROCompat |= disk.ROCompatSparseSuper
	data := uint64(350 * 32768) // no superblocks are there
	var index, top []disktest.Extent
	for i := 0; i < pieces; i += perLeaf {
		list := make([]disktest.Extent, perLeaf)
		for j := range list {
			list[j] = disktest.Written(uint32(i+j), 1, data+2*uint64(i+j))
		}
		index = append(index, disktest.Written(uint32(i), 0, e.block(disktest.ExtentNode(4096, 0, list...))))
	}
	for i := 0; i < len(index); i += perLeaf {
		part := index[i:min(i+perLeaf, len(index))]
		top = append(top, disktest.Written(part[0].Block, 0, e.block(disktest.ExtentNode(4096, 1, part...))))
	}
	root := e.block(disktest.ExtentNode(4096, 2, top...))
	e.inode(evilDir, disk.ModeDir|0o755, 2, pieces*4096, disk.FlagExtents, disktest.ExtentNode(60, 3, disktest.Written(0, 0, root)))
	fs, err := ext4.Open(e.device(), ext4.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer fs.Close()
	err = within(t, func() error { _, err := fs.Lookup(evilDir, absent); return err })
	if !errors.Is(err, syscall.EUCLEAN) || !strings.Contains(err.Error(), "pieces") {
		t.Error(err)
	}
}

// logOf is a log of so many full descriptors with what they describe, of zeros.
func logOf(t *testing.T, rounds int) *evil {
	e := newEvil(t, 4096, 1<<24)
	d, n := descriptor(4096)
	for i := range n { // nothing that is needed
		le := d[12+8*i:]
		copy(le, be(uint32(1<<23+i)))
	}
	blocks := uint32(2 + rounds*(n+1))
	at := e.block(e.journaled(blocks, 0))
	for i := range rounds {
		e.write((at+1+uint64(i*(n+1)))*4096, d)
	}
	e.write((at+uint64(blocks)-1)*4096, be(journalMagic, 2, 1))
	e.next = at + uint64(blocks)
	var list []disktest.Extent
	for i := uint32(0); i < blocks; i += 32768 {
		list = append(list, disktest.Written(i, min(32768, blocks-i), at+uint64(i)))
	}
	e.inode(8, disk.ModeReg|0o600, 1, uint64(blocks)*4096, disk.FlagExtents, disktest.ExtentNode(60, 0, list...))
	return e
}

// TestLogTooLong opens a log for which there is memory or not.
func TestLogTooLong(t *testing.T) {
	dev := logOf(t, 140).device() // a few more than 2^16 blocks
	for _, c := range []struct {
		memory int64
		want   error
	}{{1, syscall.EUCLEAN}, {ext4.MinMemory, nil}} {
		fs, err := ext4.Open(dev, ext4.Options{ReadOnly: true, Memory: c.memory})
		if !errors.Is(err, c.want) || err != nil && !strings.Contains(err.Error(), "memlimit=") {
			t.Errorf("with %d bytes: %v", c.memory, err)
		}
		if err == nil {
			fs.Close()
		}
	}
}

// growing is a device of which a block is another one when it is read again.
type growing struct {
	blockdev.Device
	at    int64
	later []byte
	reads int
}

func (g *growing) ReadAt(p []byte, off int64) (int, error) {
	n, err := g.Device.ReadAt(p, off)
	if off <= g.at && g.at+int64(len(g.later)) <= off+int64(n) {
		if g.reads++; g.reads > 1 {
			copy(p[g.at-off:], g.later)
		}
	}
	return n, err
}

// TestLogGrows opens a log that is found to be longer, and as good, when it is read again.
func TestLogGrows(t *testing.T) {
	const rounds = 100
	e := logOf(t, rounds)
	d, n := descriptor(4096)
	last := int64(e.next) - int64(n+2) // descriptor
	dev := e.device()
	if _, err := dev.ReadAt(d, last*4096); err != nil {
		t.Fatal(err)
	}
	short := bytes.Clone(d)
	copy(short[12:], be(1<<23, 8|2)) // no other tag follows
	dev.SetReadOnly(false)
	_, err := dev.WriteAt(short, last*4096)
	if _, e := dev.WriteAt(be(journalMagic, 2, 1), (last+2)*4096); err != nil || e != nil {
		t.Fatal(err, e)
	}
	dev.SetReadOnly(true)
	g := &growing{Device: dev, at: last * 4096, later: d}
	_, err = ext4.Open(g, ext4.Options{ReadOnly: true})
	if err == nil || !strings.Contains(err.Error(), "the log changes") {
		t.Errorf("%v, %d reads", err, g.reads)
	}
}

// TestFastCommitsTooLong opens a journal with more fast commits than there is memory for.
func TestFastCommitsTooLong(t *testing.T) {
	e := newEvil(t, 4096, 1<<20)
	e.inode(12, disk.ModeReg|0o644, 1, 0, disk.FlagExtents, disktest.ExtentNode(60, 0))
	e.inode(evilDir, disk.ModeDir|0o755, 2, 4096, disk.FlagExtents, disktest.ExtentNode(60, 0, disktest.Written(0, 1, e.block(full(4096, 12)))))
	var names []string
	for i := range 70000 {
		names = append(names, fmt.Sprintf("%0240d", i))
	}
	e.fastCommits(fastArea(4096, names))
	err := within(t, func() error { _, err := ext4.Open(e.device(), ext4.Options{ReadOnly: true}); return err })
	if !errors.Is(err, syscall.EUCLEAN) || !strings.Contains(err.Error(), "memory") {
		t.Error(err)
	}
}

// TestListEqualHashes lists, in the order of hashes, a directory whose index says that all
// names have the same one.
func TestListEqualHashes(t *testing.T) {
	if testing.Short() {
		t.Skip("its limits are for code at full speed, which the race detector's is not")
	}
	e := indexOfOneLeaf(t)
	fs := e.writable()
	err := within(t, func() error { return fs.ReadDir(evilDir, 0, func(ext4.Dirent) bool { return true }) })
	if !errors.Is(err, syscall.EUCLEAN) {
		t.Error(err)
	}
	_ = within(t, fs.Close)
}

// TestStatfsOfTooManyGroups has the numbers of the superblock.
func TestStatfsOfTooManyGroups(t *testing.T) {
	const groups = 1 << 22
	e := newEvil(t, 1024, 8*groups)
	e.sb.BlocksPerGroup, e.sb.ClustersPerGroup, e.sb.InodesPerGroup = 8, 8, 4
	e.sb.InodesCount = uint32(4 * groups)
	e.sb.Incompat |= disk.IncompatMetaBG
	e.sb.FreeBlocks, e.sb.FreeInodes = 4*groups+1, 2*groups+1
	dev := &counting{Mem: e.device()}
	fs, err := ext4.Open(dev, ext4.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer fs.Close()
	before := dev.reads
	s, err := fs.Statfs()
	if err != nil || s.BlocksFree != 4*groups+1 || s.FilesFree != 2*groups+1 {
		t.Errorf("%+v, %v", s, err)
	}
	if n := dev.reads - before; n > 100 {
		t.Errorf("%d reads", n)
	}
}

// counting counts what is read.
type counting struct {
	*blocktest.Mem
	reads int
}

func (c *counting) ReadAt(p []byte, off int64) (int, error) {
	c.reads++
	return c.Mem.ReadAt(p, off)
}
