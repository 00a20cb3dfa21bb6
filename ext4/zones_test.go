package ext4_test

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"ext4box/blockdev"
	"ext4box/ext4"
	"ext4box/ext4/internal/disktest"
	"ext4box/internal/e2test"
	"ext4box/iomap"
)

// systemBlocks are blocks of an image that no file may have, by what they are.
func systemBlocks(t *testing.T, path string) map[string]uint64 {
	t.Helper()
	dump := e2test.Dumpe2fs(t, path)
	first, last := dump.Groups[0], dump.Groups[len(dump.Groups)-1]
	blocks := map[string]uint64{
		"descriptors": first.DescFirst, "block bitmap": first.BlockBitmap, "inode bitmap of the last group": last.InodeBitmap,
		"inode table": first.TableFirst + 3, "end of the last inode table": last.TableLast,
	}
	for _, g := range dump.Groups[1:] {
		if g.HasSuper {
			blocks["backup superblock"] = g.Super
		}
	}
	if first.ReservedGDT > 0 {
		blocks["reserved descriptors"] = first.DescLast + first.ReservedGDT
	}
	if strings.Contains(dump.Header["Filesystem features"], "has_journal") {
		out := strings.TrimSpace(e2test.Debugfs(t, path, "bmap <8> 100"))
		blk, err := strconv.ParseUint(out, 10, 64)
		if err != nil || blk == 0 {
			t.Fatalf("block 100 of the journal is at %q", out)
		}
		blocks["journal"] = blk
	}
	return blocks
}

// TestFilesOverMetadata gives files blocks of the filesystem's own: as data, as
// a node of the block map, as a directory and as attributes. Nothing is read from
// there, and above all nothing written.
func TestFilesOverMetadata(t *testing.T) {
	for _, args := range []string{"-t ext4", "-t ext4 -O ^flex_bg", "-t ext4 -O ^metadata_csum,^has_journal", "-t ext3", "-t ext2 -O ^resize_inode"} {
		args := strings.Fields(args + " -b 1024 -N 2000")
		tree := e2test.Tree(t, map[string]string{"data": strings.Repeat("d", 20000), "node": strings.Repeat("n", 30000), "dir/file": "", "attr": "", "sound": "s"})
		clean := e2test.Image(t, 24<<20, append(args, "-d", tree)...)
		extents := args[1] == "ext4"
		for what, blk := range systemBlocks(t, clean) {
			t.Run(fmt.Sprint(args[1:], what), func(t *testing.T) {
				path := e2test.Image(t, 24<<20, append(args, "-d", tree)...)
				for name, at := range systemBlocks(t, path) {
					if name == what && at != blk {
						t.Fatal("mke2fs makes another image each time")
					}
				}
				// The block area: a header of three words, then extents of three, of
				// which the last is the block; or pointers.
				change := []string{fmt.Sprintf("sif data block[0] %d", blk), fmt.Sprintf("sif dir block[0] %d", blk), fmt.Sprintf("sif node block[IND] %d", blk)}
				if extents {
					change = []string{
						fmt.Sprintf("sif data block[5] %d", blk), fmt.Sprintf("sif dir block[5] %d", blk),
						"sif node block[1] 0x10004", "sif node block[3] 0", fmt.Sprintf("sif node block[4] %d", blk), "sif node block[5] 0",
					}
				}
				e2test.Change(t, path, append(change, fmt.Sprintf("sif attr file_acl %d", blk))...)
				before := e2test.Bytes(t, path, int64(blk)*1024, 1024)

				for _, readOnly := range []bool{true, false} {
					var inos []ext4.Ino
					for _, name := range []string{"data", "dir", "node", "attr"} {
						out := e2test.Debugfs(t, path, "stat "+name)
						var n ext4.Ino
						if _, err := fmt.Sscanf(out, "Inode: %d", &n); err != nil {
							t.Fatal(err)
						}
						inos = append(inos, n)
					}
					dev, err := blockdev.Open(path, blockdev.Options{ReadOnly: readOnly})
					if err != nil {
						t.Fatal(err)
					}
					fs, err := ext4.Open(dev, ext4.Options{ReadOnly: readOnly})
					if err != nil {
						t.Fatal(err)
					}
					refused := func(what string, err error) {
						t.Helper()
						if !errors.Is(err, syscall.EUCLEAN) && (readOnly || !errors.Is(err, syscall.EROFS)) {
							t.Errorf("%s: %v", what, err)
						}
					}
					data, dir, node, attr := inos[0], inos[1], inos[2], inos[3]
					_, err = fs.ReadAt(data, make([]byte, 1024), 0)
					refused("read", err)
					_, err = fs.ReadAt(node, make([]byte, 1024), 13*1024)
					refused("read through a node", err)
					_, err = fs.Lookup(dir, "file")
					refused("lookup", err)
					_, err = fs.Listxattr(attr)
					refused("attributes", err)
					if got, err := fs.FS().ReadFile("sound"); err != nil || string(got) != "s" {
						t.Errorf("another file is %q, %v", got, err)
					}
					if readOnly {
						if err := fs.Close(); err != nil {
							t.Error(err)
						}
						continue
					}
					_, err = fs.WriteAt(data, make([]byte, 1024), 0)
					refused("write", err)
					_, err = fs.WriteAt(node, make([]byte, 1024), 13*1024)
					refused("write through a node", err)
					_, err = fs.Create(dir, "new", ext4.NewNode{Mode: 0o100644})
					refused("create", err)
					refused("set an attribute", fs.Setxattr(attr, "user.x", []byte("y"), 0))
					if err := fs.Close(); err != nil {
						t.Error(err)
					}
				}
				if !bytes.Equal(e2test.Bytes(t, path, int64(blk)*1024, 1024), before) {
					t.Error("the block was written")
				}
			})
		}
	}
}

// TestStrayStructures has a group's inode table outside of where it can be
// expected, and a file over it: the file ends when the group is used.
func TestStrayStructures(t *testing.T) {
	tree := e2test.Tree(t, map[string]string{"data": strings.Repeat("d", 5000)})
	path := e2test.Image(t, 64<<20, "-t", "ext4", "-b", "1024", "-G", "1", "-O", "^metadata_csum", "-N", "2048", "-d", tree)
	blk := disktest.Blocks(t, path, "data")[0]
	group := e2test.Dumpe2fs(t, path).Groups[6]
	if blk > 8192 || group.TableFirst < 6*8192 {
		t.Fatalf("the file is at %d, the inode table at %d", blk, group.TableFirst)
	}
	e2test.Change(t, path, fmt.Sprintf("set_bg 6 inode_table %d", blk), "set_bg 6 checksum calc")
	fs := open(t, load(t, path), ext4.Options{})
	ino := resolve(t, fs, "data")
	if _, err := fs.ReadAt(ino, make([]byte, 100), 0); err != nil {
		t.Fatal(err)
	}
	perGroup := uint32(1024 / 4)
	if _, err := fs.Stat(ext4.Ino(6*perGroup + 5)); err == nil {
		t.Fatal("the inode table is not the file")
	}
	if _, err := fs.ReadAt(ino, make([]byte, 100), 0); !errors.Is(err, syscall.EUCLEAN) {
		t.Errorf("read: %v", err)
	}
}

// TestStrayStructuresMapped: of a file over structures that come to light when their group is used, whoever
// moves data outside has no mapping by then, and gets none any more.
func TestStrayStructuresMapped(t *testing.T) {
	tree := e2test.Tree(t, map[string]string{"data": strings.Repeat("d", 5000)})
	path := e2test.Image(t, 64<<20, "-t", "ext4", "-b", "1024", "-G", "1", "-O", "^metadata_csum", "-N", "2048", "-e", "continue", "-d", tree)
	blk := disktest.Blocks(t, path, "data")[0]
	e2test.Change(t, path, fmt.Sprintf("set_bg 6 inode_table %d", blk), "set_bg 6 checksum calc")
	r := &outsideRig{t: t, img: path, files: map[ext4.Ino]*outsideFile{}}
	r.open(ext4.Options{})
	ino := resolve(t, r.fs, "data")
	r.fs.Hold(ino)
	if m, kept, err := r.fs.MapOutside(ino, 0, 1024, iomap.Read, false); err != nil || !kept || m.Addr != blk*1024 || len(r.cache.maps[ino]) != 1 {
		t.Fatalf("%+v, kept %t, %v; %d mappings", m, kept, err, len(r.cache.maps[ino]))
	}
	const perGroup = 1024 / 4
	if _, err := r.fs.Stat(6*perGroup + 5); err == nil {
		t.Fatal("the inode table is not the file")
	}
	if list := r.cache.maps[ino]; len(list) > 0 {
		t.Errorf("the inode table can be written to: %+v", list)
	}
	if m, _, err := r.fs.MapOutside(ino, 0, 1024, iomap.Write, false); !errors.Is(err, syscall.EUCLEAN) {
		t.Errorf("%+v, %v", m, err)
	}
	if err := r.fs.Close(); err != nil {
		t.Error(err)
	}
}
