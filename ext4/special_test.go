package ext4_test

import (
	"fmt"
	"strings"
	"syscall"
	"testing"

	"ext4box/ext4"
	"ext4box/internal/e2test"
	"ext4box/iomap"
)

// TestOrphans has inodes that were being deleted and truncated when the image
// was last used: they look as if that had been finished.
func TestOrphans(t *testing.T) {
	tree := e2test.Tree(t, map[string]string{"deleted": strings.Repeat("d", 100000), "cut": strings.Repeat("c", 100000), "other": "o"})
	path := e2test.Image(t, 16*mib, "-t", "ext4", "-b", "1024", "-d", tree)
	before := open(t, load(t, path), ext4.Options{})
	deleted, cut := resolve(t, before, "deleted"), resolve(t, before, "cut")
	plain, err := before.Statfs()
	if err != nil {
		t.Fatal(err)
	}
	e2test.Change(t, path, "unlink deleted", fmt.Sprintf("sif <%d> links_count 0", deleted), fmt.Sprintf("sif <%d> dtime %d", deleted, cut),
		"sif cut size 1500", "sif cut dtime 0", fmt.Sprintf("ssv last_orphan %d", deleted))
	fs := open(t, load(t, path), ext4.Options{})
	if n := fs.Recovery().Orphans; n != 2 {
		t.Errorf("%d orphans", n)
	}
	st, err := fs.Stat(cut)
	if err != nil || st.Blocks != 4 {
		t.Errorf("the truncated file has %d sectors, %v", st.Blocks, err)
	}
	if m, err := fs.Begin(cut, 2048, 1, iomap.Read); err != nil || m.Type != iomap.Hole {
		t.Errorf("behind the end there is %+v, %v", m, err)
	}
	if m, err := fs.Begin(cut, 0, 1, iomap.Read); err != nil || m.Type != iomap.Mapped || m.Length != 2048 {
		t.Errorf("before the end there is %+v, %v", m, err)
	}
	if got, err := fs.FS().ReadFile("cut"); err != nil || string(got) != strings.Repeat("c", 1500) {
		t.Errorf("content of %d bytes, %v", len(got), err)
	}
	after, err := fs.Statfs()
	if freed := after.BlocksFree - plain.BlocksFree; err != nil || freed != 98+96 || after.FilesFree != plain.FilesFree+1 {
		t.Errorf("%d blocks and %d inodes become free, %v", freed, after.FilesFree-plain.FilesFree, err)
	}
	// A list that does not end is cut where it comes back to itself.
	e2test.Change(t, path, fmt.Sprintf("sif cut dtime %d", deleted))
	if n := open(t, load(t, path), ext4.Options{}).Recovery().Orphans; n != 2 {
		t.Errorf("a circle of two holds %d orphans", n)
	}
	for _, bad := range []uint32{8, 1 << 31} {
		e2test.Change(t, path, fmt.Sprintf("ssv last_orphan %d", bad))
		if n := open(t, load(t, path), ext4.Options{}).Recovery().Orphans; n != 0 {
			t.Errorf("a list that starts with %d has %d orphans", bad, n)
		}
	}
}

func resolve(t *testing.T, fs *ext4.FS, path string) ext4.Ino {
	t.Helper()
	ino, err := fs.Resolve(path)
	if err != nil {
		t.Fatal(err)
	}
	return ino
}

// TestEncryptedNames marks a directory as encrypted: its names are ciphertext
// then, shown in a form by which they can be looked up.
func TestEncryptedNames(t *testing.T) {
	files := map[string]string{"plain": ""}
	for n := 16; n <= 255; n += 7 {
		files["dir/"+strings.Repeat("x", n-3)+fmt.Sprintf("%03d", n)] = "content"
	}
	long := strings.Repeat("y", 200) // differ only behind what is shown
	files["dir/"+long+"a"], files["dir/"+long+"b"] = "", ""
	path := e2test.Image(t, 8*mib, "-t", "ext4", "-b", "1024", "-O", "encrypt", "-d", e2test.Tree(t, files))
	plain := open(t, load(t, path), ext4.Options{})
	e2test.Change(t, path, "sif dir flags 0x80800", "sif dir/"+long+"a flags 0x80800")
	fs := open(t, load(t, path), ext4.Options{})
	dir := resolve(t, fs, "dir")
	names := map[string]ext4.Ino{}
	if err := fs.ReadDir(dir, 0, func(e ext4.Dirent) bool {
		names[string(e.Name)] = e.Ino
		return true
	}); err != nil {
		t.Fatal(err)
	}
	if len(names) != len(files)-1+2 || names["."] != dir || names[".."] != ext4.RootIno {
		t.Errorf("%d names are listed of %d", len(names), len(files)+1)
	}
	for name, ino := range names {
		if strings.ContainsAny(name, "/\x00") || len(name) > ext4.NameMax {
			t.Errorf("name %q", name)
		}
		if got, err := fs.Lookup(dir, name); err != nil || got != ino {
			t.Errorf("lookup of %q: %d, %v; want %d", name, got, err, ino)
		}
	}
	for _, name := range []string{long + "a", "plain", "x", strings.Repeat("A", 40), "?"} {
		if _, err := fs.Lookup(dir, name); errnoOf(t, err) != syscall.ENOENT {
			t.Errorf("lookup of %q: %v", name, err)
		}
	}
	if _, err := fs.ReadAt(resolve(t, plain, "dir/"+long+"a"), make([]byte, 1), 0); err == nil {
		t.Error("an empty file has content")
	}
	secret := resolve(t, plain, "dir/"+long+"a")
	if _, err := fs.Begin(secret, 0, 1, iomap.Read); errnoOf(t, err) != syscall.ENOKEY {
		t.Errorf("data of an encrypted file: %v", err)
	}
	if _, err := fs.Begin(secret, 0, 1, iomap.Report); err != nil {
		t.Errorf("mapping of an encrypted file: %v", err)
	}
}

// TestDamagedInodes changes one thing about a file. What is asked about it fails
// with EUCLEAN; its neighbour does not suffer.
func TestDamagedInodes(t *testing.T) {
	tree := e2test.Tree(t, map[string]string{"f": strings.Repeat("f", 5000), "neighbour": "fine"})
	image := e2test.Image(t, 8*mib, "-t", "ext4", "-b", "1024", "-d", tree)
	content := e2test.Bytes(t, image, 0, 8*mib)
	for name, request := range map[string]string{
		"inline and extents": "sif f flags 0x10080000", "inline without feature": "sif f flags 0x10000000", "no type": "sif f mode 0644",
		"unknown type": "sif f mode 0170644", "size of 2^63": "sif f size 0x8000000000000000", "extra size": "sif f extra_isize 254",
		"extra size not a multiple": "sif f extra_isize 30", "attributes behind the end": "sif f file_acl 999999", "extent magic": "sif f block[0] 0x1234",
		"extent behind the end": "sif f block[5] 0x7fffffff", "value of an attribute": "sif f flags 0x280000",
	} {
		e2test.Patch(t, image, 0, content)
		ino := resolve(t, open(t, load(t, image), ext4.Options{}), "f")
		e2test.Change(t, image, request)
		fs := open(t, load(t, image), ext4.Options{})
		if _, err := fs.Stat(ino); errnoOf(t, err) != syscall.EUCLEAN || !strings.Contains(err.Error(), fmt.Sprint("inode ", ino)) {
			t.Errorf("%s: %v", name, err)
		}
		if got, err := fs.FS().ReadFile("neighbour"); err != nil || string(got) != "fine" {
			t.Errorf("%s: the neighbour: %q, %v", name, got, err)
		}
	}
	e2test.Patch(t, image, 0, content)
	e2test.Change(t, image, "sif f links_count 0", "sif f mode 0")
	fs := open(t, load(t, image), ext4.Options{})
	if _, err := fs.FS().Stat("f"); errnoOf(t, err) != syscall.ESTALE {
		t.Errorf("an inode that is not in use: %v", err)
	}
}
