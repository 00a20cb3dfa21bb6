package ext4_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"ext4box/blockdev"
	"ext4box/blockdev/blocktest"
	"ext4box/ext4"
	"ext4box/internal/e2test"
	"ext4box/internal/testimage"
)

// frozenConfigs are kinds of filesystems that are marked clean in different ways.
var frozenConfigs = map[string]string{
	"journal":    "-t ext4",
	"1k":         "-t ext4 -b 1024 -O ^metadata_csum",
	"orphanfile": "-t ext4 -O orphan_file",
	"listed":     "-t ext4 -O ^orphan_file",
	"nojournal":  "-t ext4 -O ^has_journal",
	"ext2":       "-t ext2",
	"bigalloc":   "-t ext4 -O bigalloc",
	"quota":      "-t ext4 -O quota",
}

// copied is the path of a copy of the device, as somebody takes one of a frozen
// filesystem.
func copied(t *testing.T, mem *blocktest.Mem) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "copy")
	if err := blocktest.Dump(mem, mem.Size(), path); err != nil {
		t.Fatal(err)
	}
	return path
}

// inUse tells whether a filesystem is marked as one that may not all be at home.
func inUse(t *testing.T, img string) bool {
	t.Helper()
	out := e2test.Output(t, "dumpe2fs", "-h", img)
	return strings.Contains(out, "needs_recovery") || strings.Contains(out, "Filesystem state:         not clean")
}

// churn makes files, one of which is freed again, and returns the content of them all.
func churn(t *testing.T, fs *ext4.FS, dir string) map[string][]byte {
	t.Helper()
	d, err := fs.Create(ext4.RootIno, dir, ext4.NewNode{Mode: syscall.S_IFDIR | 0o755})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string][]byte{}
	for i := range 100 {
		name := fmt.Sprint(dir, "/", i)
		ino, err := fs.Create(d, fmt.Sprint(i), ext4.NewNode{Mode: syscall.S_IFREG | 0o644, UID: uint32(i % 3)})
		if err != nil {
			t.Fatal(err)
		}
		data := bytes.Repeat([]byte(name), 1+i*100)
		if _, err := fs.WriteAt(ino, data, 0); err != nil {
			t.Fatal(err)
		}
		want[name] = data
	}
	if err := fs.Unlink(d, "17"); err != nil {
		t.Fatal(err)
	}
	delete(want, dir+"/17")
	return want
}

func hasContent(t *testing.T, fs *ext4.FS, want map[string][]byte) {
	t.Helper()
	for name, data := range want {
		ino, err := fs.Resolve(name)
		if err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(data)+1)
		if n, err := fs.ReadAt(ino, got, 0); err != io.EOF || !bytes.Equal(got[:n], data) {
			t.Fatalf("%s: %d bytes, %v", name, n, err)
		}
	}
}

// TestFreeze copies a frozen filesystem, which must be one that was closed, looks for
// what is written meanwhile, and works on.
func TestFreeze(t *testing.T) {
	for name, args := range frozenConfigs {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "img")
			mke2fs(t, path, 32<<20, strings.Fields(args)...)
			mem, err := blocktest.LoadMem(path)
			if err != nil {
				t.Fatal(err)
			}
			dev := blocktest.NewCounting(mem, 4096)
			fs, err := ext4.Open(dev, ext4.Options{CommitInterval: time.Hour, Atime: ext4.AtimeStrict})
			if err != nil {
				t.Fatal(err)
			}
			want := churn(t, fs, "before")
			file, _ := fs.Resolve("before/40")
			past := time.Unix(1e9, 0)
			if err := errors.Join(fs.SetAttr(file, ext4.Attr{Atime: &past}), fs.Sync()); err != nil {
				t.Fatal(err)
			}
			fs.Accessed(file)
			if err := fs.Thaw(); !errors.Is(err, syscall.EINVAL) {
				t.Errorf("thawed what was not frozen: %v", err)
			}
			if err := fs.Freeze(1); err != nil {
				t.Fatal(err)
			}
			if !inUse(t, copied(t, mem)) {
				t.Error("marked clean although the kernel knows of an inode without a name")
			}
			if err := fs.Thaw(); err != nil {
				t.Fatal(err)
			}
			fs.Accessed(file)
			if err := fs.Freeze(0); err != nil {
				t.Fatal(err)
			}
			if err := fs.Freeze(0); !errors.Is(err, syscall.EBUSY) {
				t.Errorf("frozen twice: %v", err)
			}
			frozen := copied(t, mem)
			fsck(t, frozen)
			if inUse(t, frozen) {
				t.Error("the frozen filesystem is not marked clean")
			}
			writes := dev.Counts().Writes

			if _, err := fs.Create(ext4.RootIno, "late", ext4.NewNode{Mode: syscall.S_IFREG}); !errors.Is(err, syscall.EBUSY) {
				t.Errorf("create: %v", err)
			}
			if _, err := fs.WriteAt(file, []byte("late"), 0); !errors.Is(err, syscall.EBUSY) {
				t.Errorf("write: %v", err)
			}
			if err := fs.Truncate(file, 0); !errors.Is(err, syscall.EBUSY) {
				t.Errorf("truncate: %v", err)
			}
			fs.Accessed(file)
			if err := errors.Join(fs.Sync(), fs.Fsync(file)); err != nil {
				t.Errorf("sync: %v", err)
			}
			hasContent(t, fs, want)
			if n := dev.Counts().Writes - writes; n > 0 {
				t.Errorf("%d writes while it was frozen", n)
			}
			if frozen, err := ext4.Open(mem.Clone(), ext4.Options{}); err != nil {
				t.Error(err)
			} else {
				if r := frozen.Recovery(); r.Needed {
					t.Errorf("the copy has to be recovered: %+v", r)
				}
				if st, err := frozen.Stat(file); err != nil || st.Atime.Unix() == 1e9 {
					t.Errorf("the copy has no access time: %+v, %v", st, err)
				}
				hasContent(t, frozen, want)
				frozen.Close()
			}

			if err := fs.Thaw(); err != nil {
				t.Fatal(err)
			}
			if !inUse(t, copied(t, mem)) {
				t.Error("the filesystem is not marked to be in use again")
			}
			for k, v := range churn(t, fs, "after") {
				want[k] = v
			}
			if err := fs.Sync(); err != nil {
				t.Fatal(err)
			}
			if fs, err := ext4.Open(mem.Clone(), ext4.Options{}); err != nil {
				t.Error(err)
			} else {
				hasContent(t, fs, want)
				fs.Close()
			}
			if err := errors.Join(fs.Freeze(0), fs.Close()); err != nil {
				t.Fatal(err)
			}
			closed := copied(t, mem)
			fsck(t, closed)
			if inUse(t, closed) {
				t.Error("not clean after closing what was frozen")
			}
		})
	}
}

// TestFreezeWithOrphans: a filesystem with inodes that somebody has open without a name
// is not marked clean, a copy of it loses them, and those that are let go meanwhile are
// deleted afterwards.
func TestFreezeWithOrphans(t *testing.T) {
	for _, name := range []string{"orphanfile", "listed", "nojournal"} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "img")
			mke2fs(t, path, 32<<20, strings.Fields(frozenConfigs[name])...)
			mem, err := blocktest.LoadMem(path)
			if err != nil {
				t.Fatal(err)
			}
			fs, err := ext4.Open(mem, ext4.Options{CommitInterval: time.Hour})
			if err != nil {
				t.Fatal(err)
			}
			want := churn(t, fs, "dir")

			free := func() uint64 {
				t.Helper()
				if err := fs.Sync(); err != nil { // so that what was freed counts
					t.Fatal(err)
				}
				empty, err := fs.Statfs()
				if err != nil {
					t.Fatal(err)
				}
				return empty.BlocksFree
			}
			before := free()
			ino, err := fs.Tmpfile(ext4.RootIno, ext4.NewNode{Mode: 0o600})
			if err == nil {
				_, err = fs.WriteAt(ino, make([]byte, 1<<20), 0)
			}
			if err != nil {
				t.Fatal(err)
			}
			if err := fs.Freeze(1); err != nil {
				t.Fatal(err)
			}
			if !inUse(t, copied(t, mem)) {
				t.Error("marked clean with an inode without a name")
			}
			if copy, err := ext4.Open(mem.Clone(), ext4.Options{}); err != nil {
				t.Error(err)
			} else {
				hasContent(t, copy, want)
				if n := copy.Recovery().Orphans; n != 1 {
					t.Errorf("%d orphans in the copy", n)
				}
				copy.Close()
			}
			if err := fs.Unhold(ino, 1); err != nil {
				t.Errorf("let go while frozen: %v", err)
			}
			if _, err := fs.Stat(ino); err != nil {
				t.Errorf("deleted while frozen: %v", err)
			}
			if err := fs.Thaw(); err != nil {
				t.Fatal(err)
			}
			if _, err := fs.Stat(ino); !errors.Is(err, syscall.ESTALE) {
				t.Errorf("not deleted after that: %v", err)
			}
			if after := free(); after != before {
				t.Errorf("%d blocks free, %d before", after, before)
			}
			// The kernel says that there is none, and the filesystem knows better.
			if _, err = fs.Tmpfile(ext4.RootIno, ext4.NewNode{Mode: 0o600}); err != nil {
				t.Fatal(err)
			}
			if err := fs.Freeze(0); err != nil {
				t.Fatal(err)
			}
			if !inUse(t, copied(t, mem)) {
				t.Error("marked clean with an inode without a name that was not told of")
			}
			if err := fs.Close(); err != nil {
				t.Fatal(err)
			}
			fsck(t, copied(t, mem))
		})
	}
}

// TestFreezeForTheKernel has the kernel mount a copy without being allowed to recover
// it.
func TestFreezeForTheKernel(t *testing.T) {
	testimage.RequireRoot(t)
	path := filepath.Join(t.TempDir(), "img")
	mke2fs(t, path, 32<<20, "-t", "ext4")
	fs := openRW(t, path)
	want := churn(t, fs, "dir")
	if err := fs.Freeze(0); err != nil {
		t.Fatal(err)
	}
	img := filepath.Join(t.TempDir(), "copy")
	if err := testimage.CopyImage(img, path); err != nil {
		t.Fatal(err)
	}
	m := testimage.MountRO(t, &testimage.Image{Path: img}, "norecovery")
	for name, data := range want {
		if got, err := os.ReadFile(filepath.Join(m.Dir, name)); err != nil || !bytes.Equal(got, data) {
			t.Fatalf("%s: %d bytes, %v", name, len(got), err)
		}
	}
	if err := errors.Join(m.Unmount(), fs.Close()); err != nil {
		t.Fatal(err)
	}
}

// TestFreezeFails: when the device does, nothing is left half frozen.
func TestFreezeFails(t *testing.T) {
	path := filepath.Join(t.TempDir(), "img")
	mke2fs(t, path, 32<<20, "-t", "ext4")
	mem, err := blocktest.LoadMem(path)
	if err != nil {
		t.Fatal(err)
	}
	dev := blocktest.NewFailing(mem)
	fs, err := ext4.Open(dev, ext4.Options{CommitInterval: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	churn(t, fs, "dir")
	dev.FailNth(blocktest.Flush, 1, &blockdev.Error{Op: "flush", Err: syscall.EIO})
	if err := fs.Freeze(0); !errors.Is(err, syscall.EIO) {
		t.Errorf("freeze: %v", err)
	}
	if _, err := fs.Create(ext4.RootIno, "late", ext4.NewNode{Mode: syscall.S_IFREG}); !errors.Is(err, syscall.EROFS) {
		t.Errorf("create: %v", err)
	}
	if err := fs.Thaw(); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("thaw: %v", err)
	}
	fs.Close()
}

// TestFreezeShutdown: the device goes away while the filesystem is frozen; what is on
// it stays as it was then.
func TestFreezeShutdown(t *testing.T) {
	path := filepath.Join(t.TempDir(), "img")
	mke2fs(t, path, 32<<20, "-t", "ext4")
	mem, err := blocktest.LoadMem(path)
	if err != nil {
		t.Fatal(err)
	}
	dev := blocktest.NewCounting(mem, 4096)
	fs, err := ext4.Open(dev, ext4.Options{CommitInterval: time.Hour, Discard: true})
	if err != nil {
		t.Fatal(err)
	}
	churn(t, fs, "dir")
	if err := fs.Freeze(0); err != nil {
		t.Fatal(err)
	}
	before := dev.Counts()
	if _, err := fs.Trim(0, 32<<20, 0, nil); !errors.Is(err, syscall.EBUSY) {
		t.Errorf("trimmed while frozen: %v", err)
	}
	if err := fs.Shutdown(false); err != nil {
		t.Fatal(err)
	}
	if err := fs.Thaw(); err != nil {
		t.Errorf("thaw: %v", err)
	}
	if err := fs.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	if after := dev.Counts(); after.Writes != before.Writes {
		t.Errorf("%d writes after the freeze", after.Writes-before.Writes)
	}
	closed := copied(t, mem)
	fsck(t, closed)
	if inUse(t, closed) {
		t.Error("not clean any more")
	}
}
