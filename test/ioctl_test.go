package test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ext4box/ext4"
	"ext4box/internal/posixfs"
	"ext4box/internal/testimage"
)

func makeImage(t *testing.T, size int64, args ...string) *testimage.Image {
	t.Helper()
	requireMounting(t)
	img := &testimage.Image{Path: filepath.Join(t.TempDir(), "image")}
	if err := testimage.Mke2fs(img.Path, size, append(plainExt4, args...)...); err != nil {
		t.Fatal(err)
	}
	return img
}

func openFD(t *testing.T, dir string) int {
	t.Helper()
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

// TestRefusedFlags are those that would change how a file is stored.
func TestRefusedFlags(t *testing.T) {
	img := makeImage(t, 16<<20)
	fd := openFD(t, mountRW(t, img.Path))
	old, _ := flagsOf(fd)
	for _, flag := range []uint32{flagJournalData, flagExtents} {
		if e := ioctl(fd, unix.FS_IOC_SETFLAGS, u32(old^flag, 8)); e != "ENOTSUP" {
			t.Errorf("flag %#x: %s", flag, e)
		}
	}
}

// TestFlagged looks at what is durable, without any commit that was not asked for,
// of changes to files and directories that are flagged for that, and on mounts that
// have the options.
func TestFlagged(t *testing.T) {
	for _, c := range []struct {
		name, options string
		dirFlags      uint32
		fileFlags     uint32
		names, data   bool // are durable
	}{
		{name: "nothing"},
		{name: "S of files", fileFlags: flagSync, data: true},
		{name: "S of directories", dirFlags: flagSync, names: true, data: true}, // files inherit it
		{name: "D", dirFlags: flagDirsync, names: true},
		{name: "dirsync", options: "dirsync", names: true},
		{name: "sync", options: "sync", names: true, data: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			img := makeImage(t, 16<<20)
			opts := []string{"commit=900"}
			if (c.dirFlags|c.fileFlags)&flagSync != 0 {
				opts = append(opts, "opens=server") // the kernel knows of S only what OPEN says
			}
			if c.options != "" {
				opts = append(opts, c.options)
			}
			dir := mountRW(t, img.Path, opts...)
			d, file := filepath.Join(dir, "d"), filepath.Join(dir, "d", "file")
			if err := os.Mkdir(d, 0o777); err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(setFlags(d, c.dirFlags), os.WriteFile(file, []byte("old"), 0o666), setFlags(file, c.fileFlags)); err != nil {
				t.Fatal(err)
			}
			for _, path := range []string{file, d, dir} {
				f, err := os.Open(path)
				if err == nil {
					err = errors.Join(f.Sync(), f.Close())
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			if err := os.Rename(file, filepath.Join(d, "moved")); err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(os.Mkdir(filepath.Join(d, "new"), 0o777), os.WriteFile(filepath.Join(d, "gone"), nil, 0o666),
				os.Remove(filepath.Join(d, "gone")), os.Symlink("x", filepath.Join(d, "link"))); err != nil {
				t.Fatal(err)
			}
			names := func(suffix string) *ext4.FS { return openImage(t, copyImage(t, img, suffix), ext4.Options{}) }
			fs := names(".names")
			for _, name := range []string{"d/moved", "d/new", "d/link"} {
				// The new change time of a file with S brings its directory along.
				if _, err := fs.Resolve(name); (err == nil) != c.names && c.fileFlags == 0 {
					t.Errorf("%s: %v", name, err)
				}
			}
			if _, err := fs.Resolve("d/gone"); err == nil {
				t.Error("a file that was removed is there")
			}
			f, err := os.OpenFile(filepath.Join(d, "moved"), os.O_WRONLY|os.O_APPEND, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			for range 3 {
				if _, err := f.WriteString(" and new"); err != nil {
					t.Fatal(err)
				}
			}
			name := "d/moved"
			if !c.names && !c.data {
				name = "d/file"
			}
			got, err := names(".data").FS().ReadFile(name)
			want := "old"
			if c.data {
				want += " and new and new and new"
			}
			if err != nil || string(got) != want {
				t.Errorf("content %q, %v; want %q", got, err, want)
			}
		})
	}
}

// TestImmutableKeepsWhatWasWritten: data that was accepted before a file became
// immutable gets to it.
func TestImmutableKeepsWhatWasWritten(t *testing.T) {
	img := makeImage(t, 16<<20)
	dir := mountRW(t, img.Path)
	path := filepath.Join(dir, "file")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	want := bytes.Repeat([]byte("accepted"), 10000)
	if _, err := f.Write(want); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(setFlags(path, flagImmutable), f.Sync(), f.Close()); err != nil {
		t.Fatal(err)
	}
	umount(t, dir)
	if got, err := openImage(t, img, ext4.Options{}).FS().ReadFile("file"); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes of %d, %v", len(got), len(want), err)
	}
}

func TestLabel(t *testing.T) {
	img := makeImage(t, 16<<20, "-L", "before")
	dir := mountRW(t, img.Path)
	fd := openFD(t, dir)
	label := make([]byte, 256)
	if e := ioctl(fd, iocGetLabel, label); e != "ok" || string(bytes.TrimRight(label, "\x00")) != "before" {
		t.Errorf("label %q, %s", label, e)
	}
	text := func(s string) []byte { return append([]byte(s), make([]byte, 256-len(s))...) }
	for _, c := range []struct {
		label, err string
		uid        int
	}{{"by a stranger", "EPERM", stranger}, {"seventeen letters", "EINVAL", 0}, {"sixteen letters!", "ok", 0}, {"", "ok", 0}, {"after", "ok", 0}} {
		if e := as(c.uid, func() string { return ioctl(fd, iocSetLabel, text(c.label)) }); e != c.err {
			t.Errorf("label %q: %s", c.label, e)
		}
	}
	if e := ioctl(fd, iocGetLabel, label); e != "ok" || string(bytes.TrimRight(label, "\x00")) != "after" {
		t.Errorf("label %q, %s", label, e)
	}
	unix.Close(fd)
	umount(t, dir)
	if l := openImage(t, img, ext4.Options{}).Info().Label; l != "after" {
		t.Errorf("label %q", l)
	}
	if err := testimage.Run("e2fsck", "-fn", img.Path); err != nil {
		t.Error(err)
	}
}

func trimArg(start, n, least uint64) []byte {
	b := binary.NativeEndian.AppendUint64(nil, start)
	return binary.NativeEndian.AppendUint64(binary.NativeEndian.AppendUint64(b, n), least)
}

// TestTrim makes holes in an image file where the filesystem has free blocks, and
// nowhere else.
func TestTrim(t *testing.T) {
	img := makeImage(t, 64<<20)
	dir := mountRW(t, img.Path)
	keep := pattern(5<<20, 1)
	if err := errors.Join(os.WriteFile(filepath.Join(dir, "keep"), keep, 0o666), os.WriteFile(filepath.Join(dir, "drop"), pattern(20<<20, 2), 0o666)); err != nil {
		t.Fatal(err)
	}
	fd := openFD(t, dir)
	if err := errors.Join(unix.Fsync(fd), os.Remove(filepath.Join(dir, "drop"))); err != nil {
		t.Fatal(err)
	}
	used := func() int64 {
		var st unix.Stat_t
		if err := unix.Stat(img.Path, &st); err != nil {
			t.Fatal(err)
		}
		return st.Blocks * 512
	}
	before := used()
	for _, c := range []struct {
		start, n, least uint64
		uid             int
		err             string
	}{
		{0, 1 << 63, 0, stranger, "EPERM"}, {1 << 40, 1 << 20, 0, 0, "EINVAL"}, {0, 100, 0, 0, "EINVAL"}, {0, 1 << 63, 1 << 60, 0, "EINVAL"},
	} {
		if e := as(c.uid, func() string { return ioctl(fd, iocTrim, trimArg(c.start, c.n, c.least)) }); e != c.err {
			t.Errorf("%+v: %s", c, e)
		}
	}
	arg := trimArg(0, 1<<64-1, 0)
	var free unix.Statfs_t
	// The kernel lets go of what was removed when it gets round to it.
	for end := time.Now().Add(patience); free.Bfree*4096 < 45<<20 && time.Now().Before(end); time.Sleep(time.Millisecond) {
		if err := unix.Statfs(dir, &free); err != nil {
			t.Fatal(err)
		}
	}
	if e := ioctl(fd, iocTrim, arg); e != "ok" {
		t.Fatal(e)
	}
	n := binary.NativeEndian.Uint64(arg[8:])
	if got, want := n, free.Bfree*4096; got > want+(1<<20) || got < want*9/10 {
		t.Errorf("%d bytes trimmed of %d free ones", got, want)
	}
	if after := used(); before-after < 18<<20 {
		t.Errorf("the image took %d bytes before and takes %d now", before, after)
	}
	unix.Close(fd)
	umount(t, dir)
	if err := testimage.Run("e2fsck", "-fn", img.Path); err != nil {
		t.Error(err)
	}
	if got, err := openImage(t, img, ext4.Options{}).FS().ReadFile("keep"); err != nil || !bytes.Equal(got, keep) {
		t.Errorf("what was to stay: %d bytes, %v", len(got), err)
	}
}

// TestDiscard gives space back to the host when files are deleted, where that is
// asked for.
func TestDiscard(t *testing.T) {
	for _, c := range []struct {
		name, defaults string
		options        []string
		want           bool
	}{
		{name: "not asked for"},
		{name: "discard", options: []string{"discard"}, want: true},
		{name: "by default", defaults: "discard", want: true},
		{name: "nodiscard", defaults: "discard", options: []string{"nodiscard"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			img := makeImage(t, 64<<20)
			if c.defaults != "" {
				if err := testimage.Run("tune2fs", "-o", c.defaults, img.Path); err != nil {
					t.Fatal(err)
				}
			}
			dir := mountRW(t, img.Path, c.options...)
			for i := range 40 {
				if err := os.WriteFile(filepath.Join(dir, fmt.Sprint("file", i)), pattern(500<<10, uint64(i)), 0o666); err != nil {
					t.Fatal(err)
				}
			}
			used := func() int64 {
				fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_CLOEXEC, 0)
				if err != nil {
					t.Fatal(err)
				}
				defer unix.Close(fd)
				var st unix.Stat_t
				if err := errors.Join(unix.Fsync(fd), unix.Stat(img.Path, &st)); err != nil {
					t.Fatal(err)
				}
				return st.Blocks * 512
			}
			before := used()
			for i := range 40 {
				if i%4 != 0 {
					if err := os.Remove(filepath.Join(dir, fmt.Sprint("file", i))); err != nil {
						t.Fatal(err)
					}
				}
			}
			given := func() bool { return before-used() > 14<<20 }
			for end := time.Now().Add(patience); c.want && !given() && time.Now().Before(end); {
				time.Sleep(10 * time.Millisecond)
			}
			if got := given(); got != c.want {
				t.Errorf("space was given back: %v", got)
			}
			umount(t, dir)
			if err := testimage.Run("e2fsck", "-fn", img.Path); err != nil {
				t.Error(err)
			}
			fs := openImage(t, img, ext4.Options{})
			for i := range 10 {
				got, err := fs.FS().ReadFile(fmt.Sprint("file", 4*i))
				if err != nil || !bytes.Equal(got, pattern(500<<10, uint64(4*i))) {
					t.Errorf("file%d: %d bytes, %v", 4*i, len(got), err)
				}
			}
		})
	}
}

// TestShutdown ends the service of files in each of the ways there are.
func TestShutdown(t *testing.T) {
	const withMode = 0x4004587D
	for _, c := range []struct {
		name  string
		cmd   uint
		mode  uint32
		there bool
	}{{"as declared", iocShutdown, 2, true}, {"default", withMode, 0, true}, {"logflush", withMode, 1, true}, {"nologflush", withMode, 2, false}} {
		t.Run(c.name, func(t *testing.T) {
			img := makeImage(t, 16<<20)
			dir := mountRW(t, img.Path, "commit=900")
			fd := openFD(t, dir)
			if err := os.Mkdir(filepath.Join(dir, "durable"), 0o777); err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(unix.Fsync(fd), os.Mkdir(filepath.Join(dir, "new"), 0o777)); err != nil {
				t.Fatal(err)
			}
			if e := as(stranger, func() string { return ioctl(fd, c.cmd, u32(c.mode, 4)) }); e != "EPERM" {
				t.Errorf("by a stranger: %s", e)
			}
			if e := ioctl(fd, withMode, u32(3, 4)); e != "EINVAL" {
				t.Errorf("unknown mode: %s", e)
			}
			if e := ioctl(fd, c.cmd, u32(c.mode, 4)); e != "ok" {
				t.Fatal(e)
			}
			p := newPlayer(posixfs.Mounted(dir), ".")
			defer p.close()
			for _, s := range []step{
				{kind: "mkdir", a: "x"}, {kind: "create", a: "y", n: 0o666}, {kind: "rename", a: "new", b: "z"}, {kind: "rmdir", a: "durable"},
				{kind: "stat", a: "unknown"}, {kind: "chmod", a: "new", n: 0o700}, {kind: "setxattr", a: "new", b: "user.x", m: 10}, {kind: "list", a: "new"},
			} {
				if e := p.play(s); e != "EIO" {
					t.Errorf("%v: %s", s, e)
				}
			}
			unix.Close(fd)
			umount(t, dir)
			for range 2 { // the journal as it was left, and after another mount
				fs := openImage(t, copyImage(t, img, fmt.Sprint(time.Now().UnixNano())), ext4.Options{})
				if _, err := fs.Resolve("durable"); err != nil {
					t.Error(err)
				}
				if _, err := fs.Resolve("new"); (err == nil) != c.there {
					t.Errorf("new: %v", err)
				}
				umount(t, mountRW(t, img.Path))
				if err := testimage.Run("e2fsck", "-fn", img.Path); err != nil {
					t.Error(err)
				}
			}
		})
	}
}
