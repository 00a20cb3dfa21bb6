package ext4_test

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"ext4box/ext4"
	"ext4box/ext4/internal/disk"
	"ext4box/ext4/internal/disktest"
	"ext4box/ext4/mutate"
	"ext4box/internal/testimage"
)

// dir writes an inode of a directory with these entries.
func (e *evil) dir(ino, parent uint32, entries ...disktest.Entry) {
	list := append([]disktest.Entry{{Ino: ino, Type: disk.FTDir, Name: "."}, {Ino: parent, Type: disk.FTDir, Name: ".."}}, entries...)
	blk := e.block(disktest.DirBlock(e.bs, false, list...))
	e.inode(ino, disk.ModeDir|0o755, 5, uint64(e.bs), disk.FlagExtents, disktest.ExtentNode(60, 0, disktest.Written(0, 1, blk)))
}

// TestHostileCircle moves a directory into one that is inside of itself, on a
// filesystem that has room for a billion others.
func TestHostileCircle(t *testing.T) {
	if testing.Short() {
		t.Skip("its limits are for code at full speed, which the race detector's is not")
	}
	e := newEvil(t, 4096, 1<<30)
	e.dir(2, 2, disktest.Entry{Ino: 20, Type: disk.FTDir, Name: "into"}, disktest.Entry{Ino: 30, Type: disk.FTDir, Name: "moved"})
	e.dir(20, 21)
	for i := uint32(21); i < 25; i++ {
		e.dir(i, i+1)
	}
	e.dir(25, 22)
	e.dir(30, 2)
	dev := e.device()
	dev.SetReadOnly(false)
	fs, err := ext4.Open(dev, ext4.Options{CommitInterval: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	defer fs.Close()
	if why := fs.ReadOnlyReason(); why != "" {
		t.Fatal(why)
	}
	err = within(t, func() error { return fs.Rename(ext4.RootIno, "moved", 20, "moved", 0) })
	if !errors.Is(err, syscall.EUCLEAN) {
		t.Errorf("moved into a circle: %v", err)
	}
}

// TestInodeInUseMarkedFree: an inode that somebody uses is given to nobody else,
// whatever the bitmap says of it.
func TestInodeInUseMarkedFree(t *testing.T) {
	img := testimage.Build(t, t.TempDir(), testimage.Config{
		Name: "image", Size: 12 << 20, Args: strings.Fields("-t ext4 -b 1024 -J size=1"), Level: testimage.Small})
	base, err := mutate.Load(img.Path)
	if err != nil {
		t.Fatal(err)
	}
	fs, err := ext4.Open(base.Craft("sound", func(*mutate.Editor) {}).Device(), ext4.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	file, err := fs.Resolve("files/hello")
	if err != nil {
		t.Fatal(err)
	}
	dir, err := fs.Resolve("files")
	if err != nil {
		t.Fatal(err)
	}
	if err := fs.Close(); err != nil {
		t.Fatal(err)
	}
	dev := base.Craft("an inode in use is free", func(e *mutate.Editor) {
		group, index := base.Geometry().InodeGroup(uint32(file))
		e.InodeBitmap(group, func(m disk.Bitmap) { m.ClearRange(index, 1) })
		e.Desc(group, func(d *disk.GroupDesc) { d.FreeInodes++ })
	}).Device()
	fs, err = ext4.Open(dev, ext4.Options{CommitInterval: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	defer fs.Close()
	if _, err := fs.Stat(file); err != nil {
		t.Fatal(err)
	}
	for i := range 100 {
		ino, err := fs.Create(dir, fmt.Sprint("new", i), ext4.NewNode{Mode: syscall.S_IFREG | 0o600})
		if ino == file {
			t.Fatalf("inode %d is given out a second time", ino)
		}
		if errors.Is(err, syscall.EUCLEAN) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	t.Error("the inode was not come across")
}

// TestDeletedInodeIsStale: the number of an inode that was deleted before the
// filesystem was opened leads nowhere, although the kernel left most of it.
func TestDeletedInodeIsStale(t *testing.T) {
	e := newEvil(t, 1024, 20000)
	e.inode(40, disk.ModeReg|0o644, 0, 100, disk.FlagExtents, disktest.ExtentNode(60, 0), func(raw []byte) { le.PutUint32(raw[0x14:], 1e9) })
	dev := e.device()
	dev.SetReadOnly(false)
	fs, err := ext4.Open(dev, ext4.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer fs.Close()
	if _, err := fs.Stat(40); !errors.Is(err, syscall.ESTALE) {
		t.Errorf("stat of a deleted inode: %v", err)
	}
}

// TestClusterOfOthers: blocks of a file that are in a cluster with the
// filesystem's own do not give it the rest of the cluster.
func TestClusterOfOthers(t *testing.T) {
	img := testimage.Build(t, t.TempDir(), testimage.Config{
		Name: "image", Size: 12 << 20, Args: strings.Fields("-t ext4 -b 1024 -C 16384 -J size=1 -N 1032 -O bigalloc"),
		Level: testimage.Small, Oracle: testimage.Debugfs})
	base, err := mutate.Load(img.Path)
	if err != nil {
		t.Fatal(err)
	}
	own := base.Desc(0).InodeTable + uint64(base.Geometry().InodeTableBlocks) - 1
	if (own+1)%16 == 0 {
		t.Fatalf("the inode table ends with a cluster, at %d", own)
	}
	fs, err := ext4.Open(base.Craft("sound", func(*mutate.Editor) {}).Device(), ext4.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	file, err := fs.Resolve("files/large")
	if err != nil {
		t.Fatal(err)
	}
	fs.Close()
	sound := base.Craft("a cluster of others", func(e *mutate.Editor) {
		e.Inode(uint32(file), func(raw []byte) {
			copy(raw[0x28:], disktest.ExtentNode(60, 0, disktest.Written(uint32(own%16)+1, 1, own+1)))
		})
	}).Device()
	dev := &guard{Mem: sound, may: allowanceOf(sound, nil)}
	fs, err = ext4.Open(dev, ext4.Options{CommitInterval: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	defer fs.Close()
	if why := fs.ReadOnlyReason(); why != "" {
		t.Fatal(why)
	}
	_, err = fs.WriteAt(file, attackData[:1024], int64(own%16)<<10)
	if !errors.Is(err, syscall.EUCLEAN) {
		t.Errorf("writing to the block before: %v", err)
	}
	if err := dev.wrong(); err != nil {
		t.Error(err)
	}
}

// TestStrayBitmapIsNotFree: with flex_bg the bitmap of a group can be in any other. Where that has it marked
// free it is not discarded, and given to nobody.
func TestStrayBitmapIsNotFree(t *testing.T) {
	img := testimage.Build(t, t.TempDir(), testimage.Config{
		Name: "image", Size: 12 << 20, Args: strings.Fields("-t ext4 -b 1024 -g 512 -J size=1 -N 1024 -O ^resize_inode"),
		Level: testimage.Small, Oracle: testimage.Debugfs})
	base, err := mutate.Load(img.Path)
	if err != nil {
		t.Fatal(err)
	}
	geo := base.Geometry()
	const group, elsewhere = 2, 18 // flexible groups have 16
	at := geo.GroupFirstBlock(elsewhere) + 300
	m := base.Craft("a bitmap that is elsewhere", func(e *mutate.Editor) {
		var bitmap []byte
		e.Desc(group, func(d *disk.GroupDesc) {
			e.Block(d.BlockBitmap, func(b []byte) { bitmap = b })
			d.BlockBitmap = at
		})
		e.Block(at, func(b []byte) { copy(b, bitmap) })
	})
	dev := m.Device()
	g := &guard{Mem: dev, may: allowanceOf(dev, nil)}
	fs, err := ext4.Open(g, ext4.Options{CommitInterval: time.Hour, Errors: ext4.OnErrorContinue})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fs.Trim(0, 1<<40, 0, nil); err != nil {
		t.Error(err)
	}
	if fs.Info().ErrorCount == 0 {
		t.Error("it was not noticed")
	}
	for i := range 12 << 10 { // until there is no more
		ino, err := fs.Create(ext4.RootIno, fmt.Sprint("new", i), ext4.NewNode{Mode: syscall.S_IFREG | 0o600})
		if err == nil {
			_, err = fs.WriteAt(ino, attackData, 0)
		}
		if errors.Is(err, syscall.ENOSPC) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(fs.Close(), g.wrong()); err != nil {
		t.Error(err)
	}
}

// TestWrittenIsFile: what is no file that can be written has no end that a write behind it would
// clear: of a directory it would be names, of a short link a block somewhere.
func TestWrittenIsFile(t *testing.T) {
	for _, c := range []struct {
		name  string
		mode  uint16
		flags disk.InodeFlags
		want  error
	}{
		{"directory", disk.ModeDir, disk.FlagExtents, syscall.EISDIR},
		{"socket", disk.ModeSocket, disk.FlagExtents, syscall.EINVAL},
		{"link", disk.ModeLink, 0, syscall.EINVAL},
		{"encrypted", disk.ModeReg, disk.FlagExtents | disk.FlagEncrypt, syscall.ENOKEY},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := newEvil(t, 1024, 20000)
			blk := e.block([]byte(strings.Repeat("content ", 128)))
			root := disktest.ExtentNode(60, 0, disktest.Written(0, 1, blk))
			if c.flags == 0 { // a text of numbers of blocks
				for i := range 15 {
					le.PutUint32(root[4*i:], uint32(blk))
				}
			}
			e.inode(evilDir, c.mode|0o777, 2, 59, c.flags, root)
			dev := e.device()
			dev.SetReadOnly(false)
			fs, err := ext4.Open(dev, ext4.Options{CommitInterval: time.Hour})
			if err != nil {
				t.Fatal(err)
			}
			defer fs.Close()
			if _, err := fs.WriteBack(evilDir, []byte("text"), 5000); !errors.Is(err, c.want) {
				t.Errorf("%v, want %v", err, c.want)
			}
			p := make([]byte, 1024)
			if dev.ReadAt(p, int64(blk)<<10); string(p) != strings.Repeat("content ", 128) {
				t.Error("its block was written")
			}
		})
	}
}

// TestHostileGroups makes a file on filesystems of very many groups, of which none
// has anything free, or that are too many to look at.
func TestHostileGroups(t *testing.T) {
	if testing.Short() {
		t.Skip("its limits are for code at full speed, which the race detector's is not")
	}
	for _, groups := range []uint64{1 << 18, 1 << 29} {
		e := newEvil(t, 1024, 8*groups)
		e.sb.BlocksPerGroup, e.sb.ClustersPerGroup, e.sb.InodesPerGroup = 8, 8, 4
		e.sb.InodesCount = uint32(4 * groups)
		e.sb.Incompat |= disk.IncompatMetaBG // no table that takes half of the device
		e.sb.FreeBlocks, e.sb.FreeInodes = e.sb.BlocksCount/2, e.sb.InodesCount/2
		dev := e.device()
		dev.SetReadOnly(false)
		fs, err := ext4.Open(dev, ext4.Options{CommitInterval: time.Hour, Errors: ext4.OnErrorContinue})
		if err != nil {
			t.Fatal(err)
		}
		err = within(t, func() error {
			_, err := fs.Create(ext4.RootIno, "new", ext4.NewNode{Mode: syscall.S_IFREG | 0o600})
			return err
		})
		if writable := fs.ReadOnlyReason() == ""; writable != (groups == 1<<18) || err == nil {
			t.Errorf("%d groups: writable %v; making a file: %v", groups, writable, err)
		}
		_ = within(t, fs.Close) // it can fail, but must end
	}
}
