package ext4_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"ext4box/blockdev/blocktest"
	"ext4box/ext4"
	"ext4box/ext4/internal/disk"
	"ext4box/internal/e2test"
)

func mmpImage(t *testing.T, args ...string) *blocktest.Mem {
	t.Helper()
	path := e2test.Image(t, 16<<20, append([]string{"-t", "ext4", "-b", "1024", "-O", "mmp", "-E", "mmp_update_interval=1"}, args...)...)
	dev, err := blocktest.LoadMem(path)
	if err != nil {
		t.Fatal(err)
	}
	return dev
}

// mmpRecord reads the record of an image.
func mmpRecord(t *testing.T, dev *blocktest.Mem) (rec disk.MMP, at int64) {
	t.Helper()
	raw := make([]byte, disk.SuperblockSize)
	dev.ReadAt(raw, disk.SuperblockOffset)
	sb := disk.DecodeSuperblock(raw)
	sums := sb.Checksums()
	at = int64(sb.MMPBlock) << 10
	dev.ReadAt(raw, at)
	rec, err := disk.DecodeMMP(&sums, raw)
	if err != nil {
		t.Fatal(err)
	}
	return rec, at
}

// TestMMPTwice opens an image twice, for writing and for reading, without the
// locks of files.
func TestMMPTwice(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{nil, {"-O", "^has_journal,^metadata_csum"}} {
		t.Run(fmt.Sprint(args), func(t *testing.T) {
			t.Parallel()
			dev := mmpImage(t, args...)
			fs, err := ext4.Open(dev, ext4.Options{})
			if err != nil {
				t.Fatal(err)
			}
			if why := fs.ReadOnlyReason(); why != "" {
				t.Fatal(why)
			}
			first, _ := mmpRecord(t, dev)
			reader, err := ext4.Open(dev.Clone(), ext4.Options{ReadOnly: true})
			if err != nil {
				t.Fatalf("for reading: %v", err)
			}
			reader.Close()
			start := time.Now()
			_, err = ext4.Open(dev, ext4.Options{})
			node, _ := os.Hostname()
			if !errors.Is(err, syscall.EBUSY) || !strings.Contains(err.Error(), fmt.Sprintf("the filesystem is in use on node %q", node)) {
				t.Errorf("opened twice: %v", err)
			}
			if d := time.Since(start); d < 11*time.Second {
				t.Errorf("refused after %v", d)
			}
			if err := createFile(fs, "file"); err != nil {
				t.Error(err)
			}
			if err := fs.Close(); err != nil {
				t.Fatal(err)
			}
			if rec, _ := mmpRecord(t, dev); rec.Seq != disk.MMPSeqClean || rec.Time < first.Time+10 {
				t.Errorf("first %+v, closed %+v", first, rec)
			}
			// Closed properly, there is nothing to wait for.
			start = time.Now()
			if fs, err = ext4.Open(dev, ext4.Options{}); err != nil {
				t.Fatal(err)
			}
			if d := time.Since(start); d > 8*time.Second {
				t.Errorf("opening took %v", d)
			}
			if err := fs.Close(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestMMPStolen: whoever finds his number changed writes nothing any longer.
func TestMMPStolen(t *testing.T) {
	t.Parallel()
	dev := mmpImage(t)
	fs, err := ext4.Open(dev, ext4.Options{CommitInterval: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	if err := createFile(fs, "file"); err != nil {
		t.Fatal(err)
	}
	rec, at := mmpRecord(t, dev)
	raw := make([]byte, 1024)
	dev.ReadAt(raw, at)
	rec.Seq = 12345
	copy(rec.NodeName[:], "another\x00")
	sb := make([]byte, disk.SuperblockSize)
	dev.ReadAt(sb, disk.SuperblockOffset)
	super := disk.DecodeSuperblock(sb)
	sums := super.Checksums()
	disk.EncodeMMP(&sums, raw, &rec)
	dev.WriteAt(raw, at)
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if errors.Is(fs.SetAttr(ext4.RootIno, ext4.Attr{}), syscall.EROFS) {
			break
		}
		if time.Now().After(end) {
			t.Fatal("it is still written")
		}
	}
	counting := dev.Clone()
	if err := fs.Close(); err == nil {
		t.Error("close said nothing")
	}
	a, b := make([]byte, dev.Size()), make([]byte, dev.Size())
	dev.ReadAt(a, 0)
	counting.ReadAt(b, 0)
	if string(a) != string(b) {
		t.Error("closing wrote to what is somebody else's")
	}
	if rec, _ := mmpRecord(t, dev); rec.Seq != 12345 {
		t.Errorf("record %+v", rec)
	}
}

// TestMMPBlockNumber: the superblock cannot make us write over what is not ours.
func TestMMPBlockNumber(t *testing.T) {
	for what, blk := range map[string]func(sb *disk.Superblock) uint64{
		"zero": func(*disk.Superblock) uint64 { return 0 }, "superblock": func(*disk.Superblock) uint64 { return 1 },
		"descriptors": func(*disk.Superblock) uint64 { return 2 }, "beyond": func(sb *disk.Superblock) uint64 { return sb.BlocksCount },
		"huge": func(*disk.Superblock) uint64 { return 1 << 60 }, "backup": func(*disk.Superblock) uint64 { return 8193 },
		"bitmap": func(sb *disk.Superblock) uint64 { return 0xB17 },
	} {
		t.Run(what, func(t *testing.T) {
			dev := mmpImage(t)
			raw := make([]byte, disk.SuperblockSize)
			dev.ReadAt(raw, disk.SuperblockOffset)
			sb := disk.DecodeSuperblock(raw)
			sums := sb.Checksums()
			record := make([]byte, 1024)
			dev.ReadAt(record, int64(sb.MMPBlock)<<10)
			at := blk(&sb)
			if at == 0xB17 {
				desc := make([]byte, 64)
				dev.ReadAt(desc, 2<<10)
				at = disk.DecodeGroupDesc(desc).BlockBitmap
			}
			if what == "bitmap" || what == "backup" { // a record that looks right
				dev.WriteAt(record, int64(at)<<10)
			}
			sb.MMPBlock = at
			disk.EncodeSuperblock(raw, &sb)
			sums.SealSuperblock(raw)
			dev.WriteAt(raw, disk.SuperblockOffset)
			before := dev.Clone()
			if _, err := ext4.Open(dev, ext4.Options{}); !errors.Is(err, syscall.EUCLEAN) {
				t.Errorf("opened: %v", err)
			}
			a, b := make([]byte, dev.Size()), make([]byte, dev.Size())
			dev.ReadAt(a, 0)
			before.ReadAt(b, 0)
			if string(a) != string(b) {
				t.Error("something was written")
			}
		})
	}
}

// TestMMPAfterCrash: what nobody has open any longer can be opened, and is
// recovered, after a wait.
func TestMMPAfterCrash(t *testing.T) {
	t.Parallel()
	dev := mmpImage(t)
	fs, err := ext4.Open(dev, ext4.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(createFile(fs, "file"), fs.Sync()); err != nil {
		t.Fatal(err)
	}
	crashed := dev.Clone()
	if err := fs.Close(); err != nil {
		t.Fatal(err)
	}
	if fs, err = ext4.Open(crashed, ext4.Options{}); err != nil {
		t.Fatal(err)
	}
	if _, err := fs.Resolve("file"); err != nil || !fs.Recovery().Needed {
		t.Errorf("%v; recovery: %+v", err, fs.Recovery())
	}
	if err := fs.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "image")
	if err := blocktest.Dump(crashed, crashed.Size(), path); err != nil {
		t.Fatal(err)
	}
	fsck(t, path)
}
