package ext4_test

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"ext4box/blockdev"
	"ext4box/ext4"
)

func openRW(t *testing.T, img string) *ext4.FS {
	t.Helper()
	return openRWWith(t, img, ext4.Options{})
}

func openRWWith(t *testing.T, img string, o ext4.Options) *ext4.FS {
	t.Helper()
	dev, err := blockdev.Open(img, blockdev.Options{})
	if err != nil {
		t.Fatal(err)
	}
	fs, err := ext4.Open(dev, o)
	if err != nil {
		t.Fatal(err)
	}
	if r := fs.ReadOnlyReason(); r != "" {
		t.Fatalf("opened read-only because %s", r)
	}
	return fs
}

func fsck(t *testing.T, img string) {
	t.Helper()
	out, err := exec.Command("e2fsck", "-fn", img).CombinedOutput()
	if err != nil {
		t.Fatalf("e2fsck: %v\n%s", err, out)
	}
}

func TestWriteSmoke(t *testing.T) {
	for _, args := range [][]string{
		{"-t", "ext4"}, {"-t", "ext4", "-b", "1024"}, {"-t", "ext3"}, {"-t", "ext2"}, {"-t", "ext4", "-O", "^has_journal"}, {"-t", "ext4", "-O", "^metadata_csum,uninit_bg"},
		{"-t", "ext4", "-O", "bigalloc"}, {"-t", "ext4", "-b", "1024", "-O", "bigalloc,^metadata_csum", "-C", "8192"},
	} {
		t.Run(fmt.Sprint(args), func(t *testing.T) {
			img := filepath.Join(t.TempDir(), "a.img")
			if err := os.WriteFile(img, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			os.Truncate(img, 64<<20)
			if out, err := exec.Command("mke2fs", append(append([]string{"-q", "-F"}, args...), img)...).CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			fs := openRW(t, img)
			dir, err := fs.Create(ext4.RootIno, "dir", ext4.NewNode{Mode: 0o40755})
			if err != nil {
				t.Fatal(err)
			}
			data := make([]byte, 300000)
			rand.Read(data)
			for i := range 2000 {
				ino, err := fs.Create(dir, fmt.Sprintf("file%d", i), ext4.NewNode{Mode: 0o100644, UID: 1000})
				if err != nil {
					t.Fatal(i, err)
				}
				if i < 50 {
					if _, err := fs.WriteAt(ino, data[:i*6000], int64(i*100)); err != nil {
						t.Fatal(i, err)
					}
				}
			}
			long := string(bytes.Repeat([]byte("x"), 200))
			if _, err := fs.Create(dir, "link", ext4.NewNode{Mode: 0o120777, Target: long}); err != nil {
				t.Fatal(err)
			}
			if err := fs.Rename(dir, "file3", ext4.RootIno, "moved", 0); err != nil {
				t.Fatal(err)
			}
			if err := fs.Unlink(dir, "file40"); err != nil {
				t.Fatal(err)
			}
			ino, _ := fs.Resolve("dir/file41")
			if err := fs.Truncate(ino, 12345); err != nil {
				t.Fatal(err)
			}
			if err := fs.Setxattr(ino, "user.a", []byte("hello"), 0); err != nil {
				t.Fatal(err)
			}
			if err := fs.Setxattr(ino, "user.b", bytes.Repeat([]byte("b"), 500), 0); err != nil {
				t.Fatal(err)
			}
			if err := fs.Fsync(ino); err != nil {
				t.Fatal(err)
			}
			if err := fs.Close(); err != nil {
				t.Fatal(err)
			}
			fsck(t, img)
			fs = openRW(t, img)
			for i := range 50 {
				if i == 3 || i >= 40 {
					continue
				}
				ino, err := fs.Resolve(fmt.Sprintf("dir/file%d", i))
				if err != nil {
					t.Fatal(err)
				}
				got := make([]byte, i*6000)
				if n, err := fs.ReadAt(ino, got, int64(i*100)); n != len(got) || !bytes.Equal(got, data[:i*6000]) {
					t.Fatal(i, n, err, "content differs")
				}
			}
			for i := range 2000 {
				if i == 3 || i == 40 {
					continue
				}
				if err := fs.Unlink(dir, fmt.Sprintf("file%d", i)); err != nil {
					t.Fatal(i, err)
				}
			}
			if err := fs.Unlink(dir, "link"); err != nil {
				t.Fatal(err)
			}
			if err := fs.Rmdir(ext4.RootIno, "dir"); err != nil {
				t.Fatal(err)
			}
			if err := fs.Close(); err != nil {
				t.Fatal(err)
			}
			fsck(t, img)
		})
	}
}
