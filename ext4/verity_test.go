package ext4_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"ext4box/ext4"
	"ext4box/ext4/internal/disktest"
	"ext4box/internal/e2test"
)

// TestVerity has a file whose content is sealed, with a Merkle tree behind its
// end: nothing changes the content or takes the tree, all else works, and what
// deletes the file frees both.
func TestVerity(t *testing.T) {
	content := strings.Repeat("sealed", 1000)
	for _, orphan := range []bool{false, true} {
		path := e2test.Image(t, 16*mib, "-t", "ext4", "-b", "1024", "-O", "verity",
			"-d", e2test.Tree(t, map[string]string{"sealed": content + strings.Repeat("tree", 2000), "open": "o"}))
		free := e2test.Dumpe2fs(t, path).Header["Free blocks"]
		plain := open(t, load(t, path), ext4.Options{})
		ino := resolve(t, plain, "sealed")
		e2test.Change(t, path, fmt.Sprintf("sif sealed size %d", len(content)), "sif sealed flags 0x180000")
		if orphan { // as no enabling of verity leaves it
			e2test.Change(t, path, fmt.Sprintf("ssv last_orphan %d", ino))
		}
		blocks := disktest.Blocks(t, path, "sealed")

		fs := openRW(t, path)
		for what, err := range map[string]error{
			"write":    func() error { _, err := fs.WriteAt(ino, []byte("x"), 0); return err }(),
			"append":   func() error { _, err := fs.WriteAt(ino, []byte("x"), int64(len(content))); return err }(),
			"truncate": fs.Truncate(ino, 10),
			"same":     fs.Truncate(ino, uint64(len(content))),
			"grow":     fs.Truncate(ino, 1<<20),
			"prealloc": fs.Fallocate(ino, 0, 0, 1<<20),
			"punch":    fs.Fallocate(ino, ext4.FallocPunchHole|ext4.FallocKeepSize, 0, 1024),
			"zero":     fs.Fallocate(ino, ext4.FallocZeroRange, 0, 1024),
		} {
			if !errors.Is(err, syscall.EPERM) {
				t.Errorf("%s: %v", what, err)
			}
		}
		mode, at := uint32(0o600), time.Unix(1, 0)
		if err := errors.Join(fs.SetAttr(ino, ext4.Attr{Mode: &mode, Mtime: &at}), fs.Setxattr(ino, "user.a", []byte("b"), 0),
			fs.Link(ino, ext4.RootIno, "second"), fs.Rename(ext4.RootIno, "sealed", ext4.RootIno, "moved", 0)); err != nil {
			t.Error(err)
		}
		if got, err := fs.FS().ReadFile("moved"); err != nil || string(got) != content {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		if err := fs.Close(); err != nil {
			t.Fatal(err)
		}
		fsck(t, path)
		if after := disktest.Blocks(t, path, "moved"); fmt.Sprint(after) != fmt.Sprint(blocks) {
			t.Errorf("the blocks were %v and are %v", blocks, after)
		}
		if tree := e2test.Bytes(t, path, int64(blocks[len(blocks)-2])*1024, 1024); !bytes.Contains(tree, []byte("treetree")) {
			t.Error("the tree has changed")
		}

		fs = openRW(t, path)
		if err := errors.Join(fs.Unlink(ext4.RootIno, "second"), fs.Unlink(ext4.RootIno, "moved"), fs.Close()); err != nil {
			t.Fatal(err)
		}
		fsck(t, path)
		var had, has int
		fmt.Sscan(free, &had)
		fmt.Sscan(e2test.Dumpe2fs(t, path).Header["Free blocks"], &has)
		if has != had+len(blocks) {
			t.Errorf("%d blocks are free, want %d and %d more", has, had, len(blocks))
		}
	}
}
