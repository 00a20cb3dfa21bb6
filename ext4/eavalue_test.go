package ext4_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"ext4box/blockdev/blocktest"
	"ext4box/ext4"
	"ext4box/internal/testimage"
)

// eaRig is a filesystem whose attribute values may have inodes.
type eaRig struct {
	*ext4.FS
	t   *testing.T
	img string
	old bool // inodes have no room for attributes: what goes where is different
}

func newEARig(t *testing.T, size int64, args ...string) *eaRig {
	t.Helper()
	img := filepath.Join(t.TempDir(), "img")
	mke2fs(t, img, size, append([]string{"-t", "ext4", "-b", "1024", "-O", "ea_inode"}, args...)...)
	return &eaRig{openRW(t, img), t, img, slices.Contains(args, "128")}
}

func (r *eaRig) close() {
	r.t.Helper()
	if err := r.Close(); err != nil {
		r.t.Fatal(err)
	}
	fsck(r.t, r.img)
}

func (r *eaRig) file(name string) ext4.Ino {
	r.t.Helper()
	ino, err := r.Create(ext4.RootIno, name, ext4.NewNode{Mode: syscall.S_IFREG | 0o644})
	if err != nil {
		r.t.Fatal(err)
	}
	return ino
}

func (r *eaRig) set(ino ext4.Ino, name string, n int) []byte {
	r.t.Helper()
	value := bytes.Repeat([]byte(name), n/len(name)+1)[:n]
	if err := r.Setxattr(ino, "user."+name, value, 0); err != nil {
		r.t.Errorf("set %s to %d bytes: %v", name, n, err)
	}
	return value
}

// want compares the attributes of a file, and the sectors that it has for them.
func (r *eaRig) want(ino ext4.Ino, sectors uint64, want map[string][]byte) {
	r.t.Helper()
	names, err := r.Listxattr(ino)
	if err != nil || len(names) != len(want) {
		r.t.Errorf("inode %d has %q, %v", ino, names, err)
	}
	for name, value := range want {
		got, err := r.Getxattr(ino, "user."+name)
		if err != nil || !bytes.Equal(got, value) {
			r.t.Errorf("inode %d: %s has %d bytes, %v; want %d", ino, name, len(got), err, len(value))
		}
	}
	if st, err := r.Stat(ino); err != nil || st.Blocks != sectors && !r.old {
		r.t.Errorf("inode %d has %d sectors, %v; want %d", ino, st.Blocks, err, sectors)
	}
}

// free is what is free, once everything is durable.
func (r *eaRig) free() string {
	r.t.Helper()
	if err := r.Sync(); err != nil {
		r.t.Fatal(err)
	}
	st, err := r.Statfs()
	if err != nil {
		r.t.Fatal(err)
	}
	return fmt.Sprintf("%d blocks, %d inodes", st.BlocksFree, st.FilesFree)
}

func TestValuesInInodes(t *testing.T) {
	for name, args := range map[string][]string{
		"256": nil, "128": {"-I", "128"}, "nocsum": {"-O", "^metadata_csum"}, "nojournal": {"-O", "^has_journal"}, "indirect": {"-O", "^extents,^64bit"},
		"quota": {"-O", "quota"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newEARig(t, 16<<20, args...)
			f := r.file("f")
			before := r.free()
			most := r.set(f, "most", ext4.MaxXattr)
			if err := r.Setxattr(f, "user.more", make([]byte, ext4.MaxXattr+1), 0); !errors.Is(err, syscall.E2BIG) {
				t.Errorf("one more byte than there can be: %v", err)
			}
			r.want(f, 128, map[string][]byte{"most": most})
			small := r.set(f, "small", 896) // as much as leaves room for other entries
			r.want(f, 2+128, map[string][]byte{"most": most, "small": small})
			large := r.set(f, "large", 969)
			r.want(f, 2+128+2, map[string][]byte{"most": most, "small": small, "large": large})
			moved := r.set(f, "moved", 900) // there is no room for it in the block
			r.want(f, 2+128+2+2, map[string][]byte{"most": most, "small": small, "large": large, "moved": moved})
			most = r.set(f, "most", 1500)
			large = r.set(f, "large", 5)
			r.want(f, 2+4+2, map[string][]byte{"most": most, "small": small, "large": large, "moved": moved})
			r.close()
			r.FS = openRW(t, r.img)
			r.want(f, 2+4+2, map[string][]byte{"most": most, "small": small, "large": large, "moved": moved})
			for _, name := range []string{"most", "small", "large", "moved"} {
				if err := r.Removexattr(f, "user."+name); err != nil {
					t.Error(name, err)
				}
			}
			r.want(f, 0, nil)
			if after := r.free(); after != before {
				t.Errorf("free are %s, were %s", after, before)
			}
			for i := range 40 { // more than one transaction lets go of
				r.set(f, fmt.Sprint(i), 2000)
			}
			g := r.file("g")
			r.set(g, "g", 3000)
			if err := errors.Join(r.Unlink(ext4.RootIno, "f"), r.Unlink(ext4.RootIno, "g")); err != nil {
				t.Error(err)
			}
			r.file("f")
			if after := r.free(); after != before {
				t.Errorf("after deleting everything free are %s, were %s", after, before)
			}
			r.close()
		})
	}
}

// TestValuesNeedSpace sets values that find no blocks or no inodes.
func TestValuesNeedSpace(t *testing.T) {
	r := newEARig(t, 2<<20, "-m", "0", "-N", "32", "-O", "^has_journal")
	f := r.file("f")
	small := r.set(f, "small", 10)
	before := r.free()
	for i := 0; ; i++ {
		if _, err := r.Create(ext4.RootIno, fmt.Sprint("n", i), ext4.NewNode{Mode: syscall.S_IFREG}); errors.Is(err, syscall.ENOSPC) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	blocks, _, _ := strings.Cut(r.free(), ",")
	if err := r.Setxattr(f, "user.large", make([]byte, 5000), 0); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("without inodes: %v", err)
	}
	if after := r.free(); !strings.HasPrefix(after, blocks+",") {
		t.Errorf("free are %s, were %s", after, blocks)
	}
	if err := r.Unlink(ext4.RootIno, "n0"); err != nil {
		t.Fatal(err)
	}
	fill := r.file("fill")
	var err error
	for off, block := int64(0), make([]byte, 1024); err == nil; off += 1024 {
		_, err = r.WriteAt(fill, block, off)
	}
	if err := errors.Join(r.Truncate(fill, 3<<10), r.Unlink(ext4.RootIno, "n1"), r.Sync()); err != nil {
		t.Fatal(err)
	}
	if err := r.Truncate(fill, 0); err != nil {
		t.Fatal(err)
	}
	for off, block := int64(0), make([]byte, 1024); ; off += 1024 {
		if _, err = r.WriteAt(fill, block, off); err != nil {
			break
		}
	}
	if err := r.Setxattr(f, "user.large", make([]byte, 5000), 0); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("without blocks: %v", err)
	}
	r.want(f, 0, map[string][]byte{"small": small})
	if err := r.Unlink(ext4.RootIno, "fill"); err != nil {
		t.Fatal(err)
	}
	for i := 2; ; i++ {
		if err := r.Unlink(ext4.RootIno, fmt.Sprint("n", i)); err != nil {
			break
		}
	}
	if after := r.free(); after != before {
		t.Errorf("free are %s, were %s", after, before)
	}
	r.close()
}

// TestValuesOfTheKernel changes and deletes attributes that the kernel made, who
// lets inodes share attribute blocks, and entries values.
func TestValuesOfTheKernel(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	r := newEARig(t, 16<<20)
	before := r.free()
	r.close()
	img := &testimage.Image{Path: r.img}
	m := testimage.MountRW(t, img, "")
	large, full := bytes.Repeat([]byte("large "), 1000), bytes.Repeat([]byte("f"), 60)
	for _, name := range []string{"a", "b", "c"} {
		p := filepath.Join(m.Dir, name)
		if err := os.WriteFile(p, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		for _, x := range []struct {
			name  string
			value []byte
		}{{"user.full", full}, {"user.large", large}, {"user.more", large[1:]}} {
			if err := unix.Setxattr(p, x.name, x.value, 0); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := m.Unmount(); err != nil {
		t.Fatal(err)
	}
	r.FS = openRW(t, r.img)
	var inos []ext4.Ino
	for _, name := range []string{"a", "b", "c"} {
		inos = append(inos, resolve(t, r.FS, name))
	}
	want := map[string][]byte{"full": full, "large": large, "more": large[1:]}
	r.want(inos[0], 2+12+12, want)
	extra := r.set(inos[0], "extra", 7)
	r.want(inos[0], 2+12+12, map[string][]byte{"full": full, "large": large, "more": large[1:], "extra": extra})
	r.want(inos[1], 2+12+12, want)
	r.close()
	r.FS = openRW(t, r.img)
	if err := errors.Join(r.Removexattr(inos[0], "user.large"), r.Unlink(ext4.RootIno, "b")); err != nil {
		t.Error(err)
	}
	r.want(inos[2], 2+12+12, want)
	r.close()
	again := testimage.MountRO(t, img, "")
	buf := make([]byte, 10000)
	if n, err := unix.Getxattr(filepath.Join(again.Dir, "a"), "user.more", buf); err != nil || !bytes.Equal(buf[:n], large[1:]) {
		t.Errorf("the kernel reads %d bytes, %v", n, err)
	}
	if err := again.Unmount(); err != nil {
		t.Fatal(err)
	}
	r.FS = openRW(t, r.img)
	if err := errors.Join(r.Unlink(ext4.RootIno, "a"), r.Unlink(ext4.RootIno, "c")); err != nil {
		t.Error(err)
	}
	if after := r.free(); after != before {
		t.Errorf("after deleting everything free are %s, were %s", after, before)
	}
	r.close()
}

// TestValuesAreNoFiles looks for the inode of a value by its number, and damages
// it in ways that must not cost more than the attribute.
func TestValuesAreNoFiles(t *testing.T) {
	r := newEARig(t, 8<<20, "-O", "^metadata_csum")
	f := r.file("f")
	r.set(f, "large", 5000)
	if _, err := r.Stat(f + 1); !errors.Is(err, syscall.EUCLEAN) {
		t.Errorf("stat of a value: %v", err)
	}
	if err := r.Link(f+1, ext4.RootIno, "value"); !errors.Is(err, syscall.EUCLEAN) {
		t.Errorf("a name for a value: %v", err)
	}
	r.close()
	mem, err := blocktest.LoadMem(r.img)
	if err != nil {
		t.Fatal(err)
	}
	raw := make([]byte, mem.Size())
	if _, err := mem.ReadAt(raw, 0); err != nil {
		t.Fatal(err)
	}
	entry := bytes.LastIndex(raw, []byte("\x00\x00\x02\xEA\x05\x01"))
	at := entry - 160 + 256 // the next inode is the value's
	for name, change := range map[string]struct {
		off  int
		with string
	}{
		"no value's inode": {at + 0x20, "\x00\x00\x08\x00"},
		"no reference":     {at + 0x24, "\x00"},
		"reserved inode":   {entry + 4 + 4, "\x07"},
		"the root":         {entry + 4 + 4, "\x02"},
		"the file itself":  {entry + 4 + 4, "\x0c"},
		"no such inode":    {entry + 4 + 4, "\xff\xff\xff\xff"},
		"no inode":         {at, "\x00\x00"},
	} {
		dev := mem.Clone()
		if _, err := dev.WriteAt([]byte(change.with), int64(change.off)); err != nil {
			t.Fatal(err)
		}
		fs, err := ext4.Open(dev, ext4.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := fs.Getxattr(f, "user.large"); err == nil && name != "no reference" {
			t.Errorf("%s: the value can be read", name)
		}
		if err := fs.Setxattr(f, "user.small", []byte("s"), 0); err != nil {
			t.Errorf("%s: another attribute: %v", name, err)
		}
		if err := fs.Unlink(ext4.RootIno, "f"); err != nil {
			t.Errorf("%s: unlink: %v", name, err)
		}
		if _, err := fs.Create(ext4.RootIno, "g", ext4.NewNode{Mode: syscall.S_IFREG}); err != nil {
			t.Errorf("%s: create: %v", name, err)
		}
		if err := fs.Close(); err != nil {
			t.Errorf("%s: close: %v", name, err)
		}
	}
}

// TestValueOrphans has a value that a crash left between the transaction that
// took its last reference and the one that deletes it.
func TestValueOrphans(t *testing.T) {
	r := newEARig(t, 8<<20, "-O", "^metadata_csum")
	before := r.free()
	f := r.file("f")
	r.set(f, "large", 5000)
	r.close()
	mem, err := blocktest.LoadMem(r.img)
	if err != nil {
		t.Fatal(err)
	}
	raw := make([]byte, mem.Size())
	if _, err := mem.ReadAt(raw, 0); err != nil {
		t.Fatal(err)
	}
	at := bytes.LastIndex(raw, []byte("\x00\x00\x02\xEA\x05\x01")) - 160
	ea := at + 256
	for off, with := range map[int]string{
		at + 160: "\x00\x00\x00\x00", at + 0x1C: "\x00\x00", // no attribute, no sectors for it
		ea + 0x1A: "\x00\x00", ea + 0x24: "\x00", // no links, no references
		1024 + 0xE8: string([]byte{byte(f + 1)}), // on the orphan list
	} {
		copy(raw[off:], with)
	}
	if err := os.WriteFile(r.img, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	r.FS = openRW(t, r.img)
	if n := r.Recovery().Orphans; n != 1 {
		t.Errorf("%d orphans", n)
	}
	if err := r.Unlink(ext4.RootIno, "f"); err != nil {
		t.Error(err)
	}
	if after := r.free(); after != before {
		t.Errorf("free are %s, were %s", after, before)
	}
	r.close()
}

// TestValuesOfLinks gives large attributes to symbolic links whose target is in
// the inode, and takes them away.
func TestValuesOfLinks(t *testing.T) {
	for _, args := range [][]string{nil, {"-O", "bigalloc", "-C", "4096"}, {"-O", "inline_data"}, {"-I", "128"}} {
		r := newEARig(t, 16<<20, args...)
		before := r.free()
		for _, target := range []string{"D", "a target", strings.Repeat("t", 59)} {
			ino, err := r.Create(ext4.RootIno, target, ext4.NewNode{Mode: syscall.S_IFLNK | 0o777, Target: target})
			if err != nil {
				t.Fatal(err)
			}
			want := map[string][]byte{}
			for i, n := range []int{10, 5000, 1000, 20000} {
				name := fmt.Sprint("security.", i)
				want[name] = bytes.Repeat([]byte{byte(i)}, n)
				if err := r.Setxattr(ino, name, want[name], 0); err != nil {
					t.Fatal(err)
				}
			}
			for name, v := range want {
				if got, err := r.Getxattr(ino, name); err != nil || !bytes.Equal(got, v) {
					t.Errorf("%q has %d bytes of %s, %v", target, len(got), name, err)
				}
			}
			if err := r.Removexattr(ino, "security.1"); err != nil {
				t.Fatal(err)
			}
		}
		r.close()
		r.FS = openRW(t, r.img)
		for _, target := range []string{"D", "a target", strings.Repeat("t", 59)} {
			if err := r.Unlink(ext4.RootIno, target); err != nil {
				t.Error(err)
			}
		}
		if after := r.free(); after != before {
			t.Errorf("%v: free are %s, were %s", args, after, before)
		}
		r.close()
	}
}
