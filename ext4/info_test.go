package ext4_test

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"ext4box/ext4"
	"ext4box/internal/e2test"
)

// TestXattrs reads attributes that debugfs stored in all places.
func TestXattrs(t *testing.T) {
	big := strings.Repeat("0123456789abcdef", 60)
	dir := e2test.Tree(t, map[string]string{"f": "f", "big": big})
	path := e2test.Image(t, 16*mib, "-t", "ext4", "-b", "1024", "-I", "256", "-O", "ea_inode", "-d", dir)
	e2test.Change(t, path, "ea_set f user.short hello", "ea_set f user.long "+strings.Repeat("v", 600), "ea_set f trusted.t 1",
		"ea_set -f "+filepath.Join(dir, "big")+" f user.big", "ea_set f security.s x")
	fs := open(t, load(t, path), ext4.Options{})
	ino, err := fs.Resolve("f")
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"user.short": "hello", "user.long": strings.Repeat("v", 600), "trusted.t": "1", "user.big": big, "security.s": "x"}
	names, err := fs.Listxattr(ino)
	if err != nil || len(names) != len(want) {
		t.Errorf("names are %q, %v", names, err)
	}
	for name, value := range want {
		if got, err := fs.Getxattr(ino, name); err != nil || string(got) != value || !slices.Contains(names, name) {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
	}
	// The inode that holds the large value is not a file.
	var hidden []ext4.Ino
	for n := ext4.Ino(11); n < 60; n++ {
		if _, err := fs.Stat(n); errnoOf(t, err) == syscall.EUCLEAN {
			hidden = append(hidden, n)
		}
	}
	if len(hidden) != 1 {
		t.Fatalf("inodes %d are hidden", hidden)
	}
	for request, text := range map[string]string{"size 500": "has 500 bytes", "flags 0x80000": "is not one", "atime 7": "hash", "mode 040755": "is not one"} {
		value := fmt.Sprintf("<%d> ", hidden[0])
		before := e2test.Bytes(t, path, 0, 16*mib)
		e2test.Change(t, path, "sif "+value+request)
		fs := open(t, load(t, path), ext4.Options{})
		if _, err := fs.Getxattr(ino, "user.big"); errnoOf(t, err) != syscall.EUCLEAN || !strings.Contains(err.Error(), text) {
			t.Errorf("value with %s: %v", request, err)
		}
		if got, err := fs.Getxattr(ino, "user.short"); err != nil || string(got) != "hello" {
			t.Errorf("its neighbour: %q, %v", got, err)
		}
		e2test.Patch(t, path, 0, before)
	}
}

// TestInfoEqualsDumpe2fs compares what info prints.
func TestInfoEqualsDumpe2fs(t *testing.T) {
	path := e2test.Image(t, 96*mib, "-t", "ext4", "-b", "1024", "-C", "4096", "-O", "bigalloc", "-L", "label")
	fs := open(t, load(t, path), ext4.Options{})
	dump := e2test.Dumpe2fs(t, path)
	info := fs.Info()
	created, err := time.Parse(time.ANSIC, dump.Header["Filesystem created"])
	if err != nil {
		t.Fatal(err)
	}
	if info.Type != "ext4" || info.Label != "label" || info.UUID != dump.Header["Filesystem UUID"] || info.State != "clean" ||
		strings.Join(info.Features, " ") != dump.Header["Filesystem features"] || !info.Created.Equal(created) ||
		info.HashVersion != dump.Header["Default directory hash"] || info.Checksum != dump.Header["Checksum type"] || info.Errors != "continue" {
		t.Errorf("info is %+v", info)
	}
	for key, got := range map[string]uint64{
		"Block count": info.Blocks, "Free blocks": info.FreeBlocks, "Inode count": uint64(info.Inodes), "Free inodes": uint64(info.FreeInodes),
		"Block size": uint64(info.BlockSize), "Cluster size": uint64(info.ClusterSize), "Reserved block count": info.ReservedBlocks,
		"Overhead clusters": info.OverheadClusters, "Journal inode": uint64(info.JournalInode),
	} {
		if want := dump.Header[key]; want != fmt.Sprint(got) {
			t.Errorf("%s is %d, dumpe2fs says %s", key, got, want)
		}
	}
	free := uint64(0)
	for g, err := range fs.Groups() {
		if err != nil {
			t.Fatal(err)
		}
		want := dump.Groups[g.Group]
		if g.FirstBlock != want.First || g.FirstBlock+uint64(g.Blocks)-1 != want.Last || g.Superblock != want.HasSuper || g.BlockBitmap != want.BlockBitmap ||
			g.InodeTable != want.TableFirst || g.FreeBlocks != want.FreeBlocks || g.FreeInodes != want.FreeInodes || g.Directories != want.Directories {
			t.Errorf("group is %+v, dumpe2fs says %+v", g, want)
		}
		free += uint64(g.FreeBlocks) << 2
	}
	st, err := fs.Statfs()
	if err != nil || st.BlocksFree != free || st.BlocksFree != info.FreeBlocks || st.FilesFree != uint64(info.FreeInodes) || st.NameLen != 255 ||
		st.BlocksAvail >= st.BlocksFree || st.Blocks != info.Blocks-info.OverheadClusters<<2 {
		t.Errorf("statfs is %+v, %v; info %+v", st, err, info)
	}
	minix := open(t, load(t, path), ext4.Options{MinixDF: true})
	if st, err := minix.Statfs(); err != nil || st.Blocks != info.Blocks {
		t.Errorf("statfs with minixdf is %+v, %v", st, err)
	}
}
