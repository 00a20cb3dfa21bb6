package ext4_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"ext4box/blockdev/blocktest"
	"ext4box/ext4"
)

// inlineRig is a filesystem with inline data whose inodes have 256 bytes: 60 in
// the block area, 68 behind the fields and the empty attribute for them.
type inlineRig struct {
	*ext4.FS
	t   *testing.T
	img string
}

const inlineMost = 128

func newInlineRig(t *testing.T, size int64, args ...string) *inlineRig {
	t.Helper()
	img := filepath.Join(t.TempDir(), "img")
	mke2fs(t, img, size, append([]string{"-t", "ext4", "-b", "1024", "-I", "256", "-O", "inline_data"}, args...)...)
	return &inlineRig{openRW(t, img), t, img}
}

func (r *inlineRig) close() {
	r.t.Helper()
	if err := r.Close(); err != nil {
		r.t.Fatal(err)
	}
	fsck(r.t, r.img)
}

func (r *inlineRig) file(name string, data string) ext4.Ino {
	r.t.Helper()
	ino, err := r.Create(ext4.RootIno, name, ext4.NewNode{Mode: syscall.S_IFREG | 0o644})
	if err == nil {
		_, err = r.WriteAt(ino, []byte(data), 0)
	}
	if err != nil {
		r.t.Fatal(err)
	}
	return ino
}

// want compares content, and whether it is inline.
func (r *inlineRig) want(ino ext4.Ino, data string, inline bool) {
	r.t.Helper()
	st, err := r.Stat(ino)
	if err != nil {
		r.t.Fatal(err)
	}
	if got := st.Flags&ext4.FlagInlineData != 0; got != inline {
		r.t.Errorf("inode %d is inline: %v", ino, got)
	}
	got := make([]byte, len(data)+10)
	n, err := r.ReadAt(ino, got, 0)
	if err != io.EOF || string(got[:n]) != data || st.Size != int64(len(data)) {
		r.t.Errorf("inode %d has %q of %d, %v; want %q", ino, got[:n], st.Size, err, data)
	}
}

func TestInlineFiles(t *testing.T) {
	r := newInlineRig(t, 16<<20)
	long := strings.Repeat("0123456789abcdef", inlineMost/16)
	zeros := strings.Repeat("\x00", 5000)
	write := func(ino ext4.Ino, off int, data string) {
		t.Helper()
		if n, err := r.WriteAt(ino, []byte(data), int64(off)); n != len(data) || err != nil {
			t.Errorf("write %d at %d: %d, %v", len(data), off, n, err)
		}
	}
	truncate := func(ino ext4.Ino, size uint64) {
		t.Helper()
		if err := r.Truncate(ino, size); err != nil {
			t.Errorf("truncate to %d: %v", size, err)
		}
	}
	r.want(r.file("most", long), long, true)
	r.want(r.file("more", long+"x"), long+"x", false)
	f := r.file("grows", long[:50])
	write(f, 100, "abc")
	r.want(f, long[:50]+zeros[:50]+"abc", true)
	truncate(f, 70)
	truncate(f, 75) // more than is stored: the kernel, too, gives up on it
	r.want(f, long[:50]+zeros[:25], false)
	write(f, 3000, "def")
	r.want(f, long[:50]+zeros[:2950]+"def", false)
	f = r.file("shrinks", long)
	truncate(f, 20)
	truncate(f, 60)
	r.want(f, long[:20]+zeros[:40], true)
	truncate(f, 0)
	write(f, 10, "x")
	r.want(f, zeros[:10]+"x", true)
	f = r.file("jumps", long[:90])
	write(f, 2000, "far")
	r.want(f, long[:90]+zeros[:1910]+"far", false)
	truncate(f, 0)
	write(f, 0, "x")
	r.want(f, "x", false)
	f = r.file("far", long[:90])
	truncate(f, 5000)
	r.want(f, long[:90]+zeros[:4910], false)
	f = r.file("punched", long[:90])
	if err := r.Fallocate(f, ext4.FallocPunchHole|ext4.FallocKeepSize, 10, 70); err != nil {
		t.Error(err)
	}
	r.want(f, long[:10]+zeros[:70]+long[80:90], false)
	f = r.file("allocated", "")
	if err := r.Fallocate(f, 0, 0, 10); err != nil {
		t.Error(err)
	}
	write(f, 0, "y")
	r.want(f, "y"+zeros[:9], false)
	f = r.file("block", "")
	write(f, 0, zeros[:1024])
	r.want(f, zeros[:1024], false)
	r.close()
}

// TestInlineXattrs lets attributes and content compete for the inode.
func TestInlineXattrs(t *testing.T) {
	r := newInlineRig(t, 16<<20)
	content := strings.Repeat("content ", 12)
	set := func(ino ext4.Ino, name string, n int) {
		t.Helper()
		if err := r.Setxattr(ino, name, bytes.Repeat([]byte("v"), n), 0); err != nil {
			t.Errorf("set %s: %v", name, err)
		}
	}
	check := func(ino ext4.Ino, blocks uint64, names ...string) {
		t.Helper()
		got, err := r.Listxattr(ino)
		st, e := r.Stat(ino)
		if err = errors.Join(err, e); err != nil || len(got) != len(names) || st.Blocks-(uint64(st.Size)+511)/512 != 2*blocks {
			t.Errorf("inode %d: %q, %d sectors, %v; want %q, %d blocks", ino, got, st.Blocks, err, names, blocks)
		}
	}
	f := r.file("f", content[:96])
	set(f, "user.a", 12) // 32 bytes, all that is left
	check(f, 0, "user.a")
	set(f, "user.b", 1)
	check(f, 1, "user.a", "user.b")
	r.want(f, content[:96], true)
	if err := errors.Join(r.Removexattr(f, "user.a"), r.Removexattr(f, "user.b")); err != nil {
		t.Error(err)
	}
	check(f, 0)
	set(f, "user.a", 4)
	if _, err := r.WriteAt(f, []byte(content[:9]), 95); err != nil { // 104: all that is left
		t.Error(err)
	}
	r.want(f, content[:95]+content[:9], true)
	if _, err := r.WriteAt(f, []byte("x"), 104); err != nil {
		t.Error(err)
	}
	r.want(f, content[:95]+content[:9]+"x", false)
	if st, err := r.Stat(f); err != nil || st.Blocks != 2 {
		t.Errorf("%d sectors, %v", st.Blocks, err)
	}
	g := r.file("g", "")
	set(g, "user.full", 68) // where the content would start
	if _, err := r.WriteAt(g, []byte("g"), 0); err != nil {
		t.Error(err)
	}
	r.want(g, "g", false)
	r.close()
}

func TestInlineDirectories(t *testing.T) {
	r := newInlineRig(t, 16<<20)
	mkdir := func(parent ext4.Ino, name string) ext4.Ino {
		t.Helper()
		ino, err := r.Create(parent, name, ext4.NewNode{Mode: syscall.S_IFDIR | 0o755})
		if err != nil {
			t.Fatal(err)
		}
		return ino
	}
	size := func(ino ext4.Ino) (n int64, inline bool) {
		st, err := r.Stat(ino)
		if err != nil {
			t.Fatal(err)
		}
		return st.Size, st.Flags&ext4.FlagInlineData != 0
	}
	a, b := mkdir(ext4.RootIno, "a"), mkdir(ext4.RootIno, "b")
	if n, inline := size(a); n != 60 || !inline {
		t.Errorf("a new directory has %d bytes, inline %v", n, inline)
	}
	c := mkdir(a, "c")
	mkdir(a, "d")
	if err := errors.Join(r.Rename(a, "c", b, "c", 0), r.Rename(a, "d", b, "c", ext4.RenameExchange)); err != nil {
		t.Error(err)
	}
	if up, err := r.Lookup(c, ".."); up != a || err != nil {
		t.Errorf("the parent of a directory that moved is %d, %v", up, err)
	}
	if err := r.Rmdir(ext4.RootIno, "a"); !errors.Is(err, syscall.ENOTEMPTY) {
		t.Error(err)
	}
	if err := r.Rmdir(b, "c"); err != nil {
		t.Error(err)
	}
	grown := 0
	for i := range 200 {
		name := fmt.Sprintf("file-%d", i)
		if _, err := r.Create(b, name, ext4.NewNode{Mode: syscall.S_IFREG | 0o600}); err != nil {
			t.Fatal(err)
		}
		if _, inline := size(b); inline {
			grown = i
		}
		if up, err := r.Lookup(b, ".."); up != ext4.RootIno || err != nil {
			t.Fatalf("after %d names the parent is %d, %v", i, up, err)
		}
	}
	if grown != 6 { // 56 and 68 bytes for entries of 16
		t.Errorf("%d names are inline", grown+1)
	}
	for i := range 200 {
		if _, err := r.Lookup(b, fmt.Sprintf("file-%d", i)); err != nil {
			t.Error(i, err)
		}
	}
	r.close()
}

// TestInlineFull grows content out of inodes when there are no blocks.
func TestInlineFull(t *testing.T) {
	r := newInlineRig(t, 2<<20, "-m", "0", "-N", "128", "-O", "^has_journal")
	f := r.file("f", "small")
	dir, err := r.Create(ext4.RootIno, "d", ext4.NewNode{Mode: syscall.S_IFDIR | 0o755})
	if err != nil {
		t.Fatal(err)
	}
	fill := r.file("fill", "")
	for off, block := int64(0), make([]byte, 1024); err == nil; off += 1024 {
		_, err = r.WriteAt(fill, block, off)
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	if _, err := r.WriteAt(f, make([]byte, 500), 0); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("write: %v", err)
	}
	if err := r.Truncate(f, 500); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("truncate: %v", err)
	}
	r.want(f, "small", true)
	names := 0
	for err = nil; err == nil; names++ {
		_, err = r.Create(dir, fmt.Sprintf("%d-%s", names, strings.Repeat("n", 30)), ext4.NewNode{Mode: syscall.S_IFREG})
	}
	if !errors.Is(err, syscall.ENOSPC) || names != 3 {
		t.Errorf("name %d: %v", names, err)
	}
	if st, err := r.Stat(dir); err != nil || st.Flags&ext4.FlagInlineData == 0 {
		t.Errorf("the directory is no longer inline, %v", err)
	}
	if err := errors.Join(r.Truncate(fill, 0), r.Sync()); err != nil {
		t.Fatal(err)
	}
	if _, err := r.WriteAt(f, []byte("large"), 500); err != nil {
		t.Error(err)
	}
	r.want(f, "small"+strings.Repeat("\x00", 495)+"large", false)
	if _, err := r.Create(dir, strings.Repeat("n", 30), ext4.NewNode{Mode: syscall.S_IFREG}); err != nil {
		t.Error(err)
	}
	r.close()
}

// TestInlineDamage has inodes that say they are inline and cannot be.
func TestInlineDamage(t *testing.T) {
	r := newInlineRig(t, 8<<20, "-O", "^metadata_csum")
	ino := r.file("f", strings.Repeat("x", 100))
	r.close()
	mem, err := blocktest.LoadMem(r.img)
	if err != nil {
		t.Fatal(err)
	}
	raw := make([]byte, mem.Size())
	if _, err := mem.ReadAt(raw, 0); err != nil {
		t.Fatal(err)
	}
	// Of the three inodes with inline data f is the last.
	at := bytes.LastIndex(raw, []byte("\x00\x00\x02\xEA\x04\x07"))
	for name, change := range map[string]struct {
		off  int
		with string
	}{
		"no attribute":        {4 + 16, "DATA"},
		"no attributes":       {3, "\x00"},
		"in another inode":    {4 + 4, "\x0b\x00\x00\x00"},
		"value behind inode":  {4 + 8, "\xFF\xFF\x00\x00"},
		"no extra fields":     {-32, "\x00\x00"},
		"extents as well":     {-32 - 128 + 0x20, "\x00\x00\x08\x10"},
		"device":              {-32 - 128, "\xa4\x21"},
		"directory of 100000": {-32 - 128, "\xed\x41\x00\x00\xA0\x86\x01\x00"},
	} {
		dev := mem.Clone()
		if _, err := dev.WriteAt([]byte(change.with), int64(at+change.off)); err != nil {
			t.Fatal(err)
		}
		fs, err := ext4.Open(dev, ext4.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := fs.WriteAt(ino, []byte("y"), 0); !errors.Is(err, syscall.EUCLEAN) {
			t.Errorf("%s: write: %v", name, err)
		}
		if _, err := fs.ReadAt(ino, make([]byte, 100), 0); !errors.Is(err, syscall.EUCLEAN) {
			t.Errorf("%s: read: %v", name, err)
		}
		if err := fs.Close(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Linux makes such ones: a file that ends where no inode reaches.
	dev := mem.Clone()
	if _, err := dev.WriteAt([]byte("\x00\x00\x10\x00"), int64(at-32-128+4)); err != nil {
		t.Fatal(err)
	}
	fs, err := ext4.Open(dev, ext4.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer fs.Close()
	if _, err := fs.WriteAt(ino, []byte("end"), 1<<20-3); err != nil {
		t.Error(err)
	}
	got := make([]byte, 1<<20)
	want := append(bytes.Repeat([]byte("x"), 100), make([]byte, 1<<20-103)...)
	if n, err := fs.ReadAt(ino, got, 0); n != len(got) || !bytes.Equal(got, append(want, "end"...)) {
		t.Errorf("a file with a large hole: %d, %v", n, err)
	}
}
