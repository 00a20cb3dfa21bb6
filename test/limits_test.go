package test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sort"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ext4box/internal/testimage"
)

// limits is a report of what a filesystem at its limits answers.
type limits struct {
	t   *testing.T
	dir string
	strings.Builder
}

// say adds the outcome of a call: the errno, not the path that Go puts before it.
func (l *limits) say(what string, err error) {
	var errno syscall.Errno
	switch {
	case err == nil:
		fmt.Fprintf(l, "%s: ok\n", what)
	case errors.As(err, &errno):
		fmt.Fprintf(l, "%s: %s\n", what, unix.ErrnoName(errno))
	default:
		l.t.Fatal(err)
	}
}

func (l *limits) path(name string) string { return filepath.Join(l.dir, name) }

// until calls f with 0, 1, ... until it fails, says with what, and returns how often it did not.
func (l *limits) until(what string, limit int, f func(i int) error) (n int) {
	for ; ; n++ {
		if err := f(n); err != nil {
			l.say(what, err)
			return n
		}
		if n == limit {
			l.t.Fatalf("%s: still possible after %d", what, n)
		}
	}
}

func (l *limits) free() (blocks, inodes uint64) {
	var st unix.Statfs_t
	if err := unix.Statfs(l.dir, &st); err != nil {
		l.t.Fatal(err)
	}
	return st.Bfree, st.Ffree
}

// nothingLeaks runs f and then removes all it left in a directory of its own:
// what was free before must be free again, to the block.
func (l *limits) nothingLeaks(f func()) {
	l.t.Helper()
	outer := l.dir
	sync := func() {
		d, err := os.Open(outer)
		if err != nil {
			l.t.Fatal(err)
		}
		defer d.Close()
		if err := d.Sync(); err != nil {
			l.t.Fatal(err)
		}
		if err := unix.Syncfs(int(d.Fd())); err != nil {
			l.t.Fatal(err)
		}
	}
	sync()
	blocks, inodes := l.free()
	l.dir = filepath.Join(outer, "work")
	if err := os.Mkdir(l.dir, 0o755); err != nil {
		l.t.Fatal(err)
	}
	f()
	if err := os.RemoveAll(l.dir); err != nil {
		l.t.Fatal(err)
	}
	l.dir = outer
	// What nobody has open any longer is let go of a moment later.
	for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		sync()
		b, i := l.free()
		if b == blocks && i == inodes {
			return
		}
		if time.Now().After(end) {
			l.t.Errorf("%s: %d blocks and %d inodes were free, then %d and %d", outer, blocks, inodes, b, i)
			return
		}
	}
}

func bothLimits(t *testing.T, size int64, args []string, f func(l *limits)) {
	bothWays(t, size, args, func(t *testing.T, dir string) string {
		l := &limits{t: t, dir: dir}
		l.nothingLeaks(func() { f(l) })
		return l.String()
	}, func(t *testing.T, dir string) string {
		l := &limits{t: t, dir: dir}
		blocks, inodes := l.free()
		fmt.Fprintf(l, "anew: %d blocks, %d inodes free\n", blocks, inodes)
		return l.String()
	})
}

// TestLimitInodes uses up the inode table, with both ways to keep what has no name.
func TestLimitInodes(t *testing.T) {
	for name, features := range map[string]string{"list": "^orphan_file", "file": "orphan_file"} {
		t.Run(name, func(t *testing.T) { testLimitInodes(t, features) })
	}
}

func testLimitInodes(t *testing.T, features string) {
	bothLimits(t, 16<<20, []string{"-t", "ext4", "-b", "1024", "-N", "256", "-I", "256", "-O", features}, func(l *limits) {
		n := l.until("create", 1000, func(i int) error {
			f, err := os.Create(l.path(fmt.Sprint("file-", i)))
			if err == nil {
				err = f.Close()
			}
			return err
		})
		fmt.Fprintln(l, n, "files")
		l.say("mkdir", os.Mkdir(l.path("dir"), 0o755))
		l.say("symlink", os.Symlink("target", l.path("symlink")))
		l.say("long symlink", os.Symlink(strings.Repeat("target/", 40), l.path("symlink")))
		l.say("mknod", unix.Mknod(l.path("fifo"), unix.S_IFIFO|0o644, 0))
		l.say("link", os.Link(l.path("file-0"), l.path("link")))
		fd, err := unix.Open(l.dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
		l.say("O_TMPFILE", err)
		if err == nil {
			unix.Close(fd)
		}
		_, err = os.Lstat(l.path("dir"))
		l.say("what could not be made", err)
		l.say("remove", os.Remove(l.path("file-7")))
		l.say("mkdir again", os.Mkdir(l.path("dir"), 0o755))
		l.say("rename", os.Rename(l.path("file-1"), l.path("dir/moved")))
		l.say("a file open without a name", func() error {
			f, err := os.Open(l.path("file-2"))
			if err != nil {
				return err
			}
			if err := os.Remove(l.path("file-2")); err != nil {
				return err
			}
			l.say("mkdir meanwhile", os.Mkdir(l.path("early"), 0o755))
			return f.Close()
		}())
	})
}

// TestLimitSpace uses up the blocks.
func TestLimitSpace(t *testing.T) {
	for name, args := range map[string][]string{
		"1k":   {"-t", "ext4", "-b", "1024", "-N", "4096"},
		"4k":   {"-t", "ext4", "-b", "4096", "-N", "4096"},
		"ext2": {"-t", "ext2", "-b", "1024", "-N", "4096"},
		"ext3": {"-t", "ext3", "-b", "1024", "-N", "4096"},
	} {
		t.Run(name, func(t *testing.T) {
			bothLimits(t, 24<<20, args, func(l *limits) {
				for i := range 3 {
					if err := os.WriteFile(l.path(fmt.Sprint("small-", i)), nil, 0o644); err != nil {
						l.t.Fatal(err)
					}
				}
				if err := os.Mkdir(l.path("dir"), 0o755); err != nil {
					l.t.Fatal(err)
				}
				f, err := os.OpenFile(l.path("filler"), os.O_CREATE|os.O_RDWR|syscall.O_DIRECT, 0o644)
				if err != nil {
					l.t.Fatal(err)
				}
				defer f.Close()
				p := alignedBuffer(64 << 10)
				for n, size := int64(0), int64(len(p)); ; {
					w, err := f.WriteAt(p[:size], n)
					n += int64(w)
					if err == nil {
						continue
					}
					if size > 4096 {
						size /= 2
						continue
					}
					l.say("write", err)
					break
				}
				// What is left is less than a request of 4 KiB needs; names take it.
				l.until("mkdir", 1000, func(i int) error { return os.Mkdir(l.path(fmt.Sprint("dir/d", i)), 0o755) })
				l.until("long symlinks", 1000, func(i int) error {
					return os.Symlink(strings.Repeat("target/", 100), l.path(fmt.Sprint("dir/s", i)))
				})
				l.until("names", 10000, func(i int) error {
					return os.Link(l.path("small-0"), l.path(fmt.Sprintf("dir/%s%d", strings.Repeat("n", 240), i)))
				})
				l.say("rename to a name that does not fit",
					os.Rename(l.path("small-1"), l.path("dir/"+strings.Repeat("m", 250))))
				_, err = os.Lstat(l.path("small-1"))
				l.say("it kept its old name", err)
				l.say("large xattr", unix.Setxattr(l.path("small-2"), "user.large", make([]byte, 900), 0))
				_, err = unix.Getxattr(l.path("small-2"), "user.large", nil)
				l.say("large xattr, read", err)
				if !strings.HasPrefix(name, "ext") {
					l.say("fallocate", unix.Fallocate(int(f.Fd()), 0, 1<<30, 1<<20))
				}
				direct, err := os.OpenFile(l.path("small-2"), os.O_RDWR|syscall.O_DIRECT, 0)
				if err != nil {
					l.t.Fatal(err)
				}
				defer direct.Close()
				_, err = direct.WriteAt(p[:8192], 0)
				l.say("direct write", err)
				st, err := direct.Stat()
				if err != nil {
					l.t.Fatal(err)
				}
				fmt.Fprintf(l, "and its size %d\n", st.Size())
				l.say("overwriting", func() error { _, err := f.WriteAt(p[:4096], 4096); return err }())
				l.say("truncate", f.Truncate(1<<20))
				l.say("write after it", func() error { _, err := direct.WriteAt(p[:8192], 0); return err }())
			})
		})
	}
}

// TestLimitReserved has a user without privilege stop where root goes on.
func TestLimitReserved(t *testing.T) {
	bothWays(t, 16<<20, []string{"-t", "ext4", "-b", "1024", "-m", "20"}, func(t *testing.T, dir string) string {
		l := &limits{t: t, dir: dir}
		for d := dir; d != os.TempDir(); d = filepath.Dir(d) {
			if err := os.Chmod(d, 0o777); err != nil {
				t.Fatal(err)
			}
		}
		fill := func(name string, uid int) {
			p := alignedBuffer(64 << 10)
			var n int64
			asUser(t, uid, func() {
				f, err := os.OpenFile(l.path(name), os.O_CREATE|os.O_RDWR|syscall.O_DIRECT, 0o644)
				if err != nil {
					t.Error(err)
					return
				}
				defer f.Close()
				for size := len(p); size >= 4096; {
					w, err := f.WriteAt(p[:size], n)
					if n += int64(w); err != nil {
						if size /= 2; size < 4096 {
							l.say(name, err)
						}
					}
				}
			})
			var st unix.Statfs_t
			if err := unix.Statfs(dir, &st); err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(l, "%s: available %v, free %v\n", name, st.Bavail >= 4, st.Bfree >= 3000)
		}
		fill("user", 1000)
		fill("root", 0)
		return l.String()
	}, nil)
}

// TestLimitNames tries the longest names and the deepest trees.
func TestLimitNames(t *testing.T) {
	bothLimits(t, 64<<20, plainExt4, func(l *limits) {
		for _, n := range []int{254, 255, 256} {
			name := strings.Repeat("x", n)
			l.say(fmt.Sprint("create ", n), os.WriteFile(l.path(name), []byte("x"), 0o644))
			l.say(fmt.Sprint("mkdir ", n), os.Mkdir(l.path(name[1:]+"d"), 0o755))
			l.say(fmt.Sprint("symlink ", n), os.Symlink("x", l.path(name[1:]+"s")))
			l.say(fmt.Sprint("link ", n), os.Link(l.path(strings.Repeat("x", 254)), l.path(name[1:]+"l")))
			l.say(fmt.Sprint("rename ", n), os.Rename(l.path(name[1:]+"l"), l.path(name[1:]+"r")))
		}
		for _, n := range []int{59, 60, 61, 4094, 4095} {
			name := l.path(fmt.Sprint("to-", n))
			l.say(fmt.Sprint("target of ", n), os.Symlink(strings.Repeat("t", n), name))
			target, _ := os.Readlink(name)
			fmt.Fprintln(l, len(target))
		}
		// A tree far deeper than a path can say.
		fd, err := unix.Open(l.dir, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		for depth := 0; err == nil && depth < 2000; depth++ {
			var next int
			if err = unix.Mkdirat(fd, "deeper", 0o755); err == nil {
				next, err = unix.Openat(fd, "deeper", unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
			}
			unix.Close(fd)
			fd = next
		}
		l.say("2000 levels", err)
		if err == nil {
			var st unix.Stat_t
			l.say("stat at the bottom", unix.Fstat(fd, &st))
			fmt.Fprintln(l, st.Nlink)
			unix.Close(fd)
		}
	})
}

// TestLimitSize goes to the end of what a file can be.
func TestLimitSize(t *testing.T) {
	for name, args := range map[string][]string{
		"ext4 1k":    {"-t", "ext4", "-b", "1024"},
		"ext4 4k":    {"-t", "ext4", "-b", "4096"},
		"ext3 1k":    {"-t", "ext3", "-b", "1024"},
		"ext2 4k":    {"-t", "ext2", "-b", "4096"},
		"ext4 small": {"-t", "ext4", "-b", "4096", "-O", "^huge_file,^large_file"},
	} {
		t.Run(name, func(t *testing.T) {
			bothLimits(t, 32<<20, args, func(l *limits) {
				f, err := os.OpenFile(l.path("file"), os.O_CREATE|os.O_RDWR|syscall.O_DIRECT, 0o644)
				if err != nil {
					l.t.Fatal(err)
				}
				defer f.Close()
				buffered, err := os.Open(f.Name())
				if err != nil {
					l.t.Fatal(err)
				}
				defer buffered.Close()
				p := alignedBuffer(4096)
				for i := range p {
					p[i] = byte(i)
				}
				for _, size := range []int64{1<<31 - 1, 1 << 31, 1<<32 - 1, 1<<34 + 1, 1<<41 + 5, 1 << 42, 1<<44 - 4096, 1<<44 - 1, 1 << 44, 1<<62 + 1} {
					l.say(fmt.Sprint("truncate to ", size), f.Truncate(size))
					_, err := f.WriteAt(p, size&^4095)
					l.say(fmt.Sprint("write at ", size&^4095), err)
					st, err := f.Stat()
					if err != nil {
						l.t.Fatal(err)
					}
					fmt.Fprintln(l, "size", st.Size())
					got := make([]byte, len(p))
					n, err := buffered.ReadAt(got, size&^4095)
					fmt.Fprintln(l, n, err != nil, bytes.Equal(p[:n], got[:n]), n == bytes.Count(got[:n], []byte{0}))
				}
				largest := sort.Search(1<<20, func(i int) bool { return f.Truncate(int64(i)<<24) != nil })
				base := int64(largest-1) << 24
				fine := sort.Search(1<<24, func(i int) bool { return f.Truncate(base+int64(i)) != nil })
				fmt.Fprintln(l, "largest", base+int64(fine)-1)
			})
		})
	}
}

// TestLimitLinks makes as many names and subdirectories as there can be.
func TestLimitLinks(t *testing.T) {
	if os.Getenv("EXT4BOX_SOAK") == "" {
		t.Skip("takes minutes; make soak runs it")
	}
	for name, args := range map[string][]string{
		"ext4":      {"-t", "ext4", "-b", "1024", "-N", "70000"},
		"ext3":      {"-t", "ext3", "-b", "1024", "-N", "70000", "-I", "128"},
		"dir_nlink": {"-t", "ext4", "-b", "1024", "-N", "70000", "-O", "^dir_nlink"},
	} {
		t.Run(name, func(t *testing.T) {
			bothLimits(t, 192<<20, args, func(l *limits) {
				nlink := func(path string) {
					var st unix.Stat_t
					if err := unix.Lstat(path, &st); err != nil {
						l.t.Fatal(err)
					}
					fmt.Fprintln(l, "links", st.Nlink)
				}
				links := func() {
					file := l.path("file")
					if err := os.WriteFile(file, nil, 0o644); err != nil {
						l.t.Fatal(err)
					}
					n := l.until("link", 70000, func(i int) error { return unix.Link(file, l.path(fmt.Sprint("l", i))) })
					nlink(file)
					l.say("rename among them", os.Rename(l.path("l0"), l.path("renamed")))
					l.say("remove one", os.Remove(l.path("l1")))
					l.say("link again", os.Link(file, l.path("l1")))
					fmt.Fprintln(l, n)
				}
				dirs := func() {
					parent := l.path("parent")
					if err := os.Mkdir(parent, 0o755); err != nil {
						l.t.Fatal(err)
					}
					err := error(nil)
					for i := 0; err == nil && i < 65100; i++ {
						err = unix.Mkdir(filepath.Join(parent, fmt.Sprint("d", i)), 0o755)
					}
					l.say("mkdir", err)
					nlink(parent)
					if err := os.Mkdir(l.path("other"), 0o755); err != nil {
						l.t.Fatal(err)
					}
					l.say("move one in", os.Rename(l.path("other"), filepath.Join(parent, "other")))
					nlink(parent)
					l.say("rmdir", unix.Rmdir(filepath.Join(parent, "d17")))
					nlink(parent)
				}
				if name == "ext4" {
					links()
				}
				dirs()
			})
		})
	}
}

// asUser runs f on a thread that has become the user for good, capabilities
// included, which setfsuid(2) would leave.
func asUser(t *testing.T, uid int, f func()) {
	t.Helper()
	if uid == 0 {
		f()
		return
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		_, _, errno := syscall.RawSyscall(unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid))
		if errno != 0 {
			done <- errno
			return
		}
		f()
		done <- nil
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// TestLimitOptions compares with the kernel the options that say whose group a new
// file gets, who may use the reserved blocks, and how large a directory may get.
func TestLimitOptions(t *testing.T) {
	for _, options := range []string{"grpid", "nogrpid", "resuid=1000", "resgid=1000", "max_dir_size_kb=8"} {
		t.Run(options, func(t *testing.T) {
			requireMounting(t)
			var reports [2]string
			for i, mounting := range []func(img *testimage.Image) (string, func()){
				func(img *testimage.Image) (string, func()) {
					dir := mountRW(t, img.Path, "allow_other", options)
					return dir, func() { umount(t, dir) }
				},
				func(img *testimage.Image) (string, func()) {
					m := testimage.MountRW(t, img, options)
					return m.Dir, func() {
						if err := m.Unmount(); err != nil {
							t.Fatal(err)
						}
					}
				},
			} {
				img := &testimage.Image{Path: filepath.Join(t.TempDir(), "img")}
				if err := testimage.Mke2fs(img.Path, 16<<20, "-t", "ext4", "-b", "1024", "-m", "20"); err != nil {
					t.Fatal(err)
				}
				dir, done := mounting(img)
				l := &limits{t: t, dir: dir}
				for d := dir; d != os.TempDir(); d = filepath.Dir(d) {
					if err := os.Chmod(d, 0o777); err != nil {
						t.Fatal(err)
					}
				}
				for _, mode := range []os.FileMode{0o777, 0o777 | os.ModeSetgid} {
					sub := l.path(fmt.Sprint("dir-", mode))
					if err := errors.Join(os.Mkdir(sub, 0o777), os.Chown(sub, 0, 42), os.Chmod(sub, mode)); err != nil {
						t.Fatal(err)
					}
					for _, name := range []string{"d", "f"} {
						if name == "d" {
							l.say("mkdir", os.Mkdir(filepath.Join(sub, name), 0o755))
						} else {
							l.say("write", os.WriteFile(filepath.Join(sub, name), nil, 0o644))
						}
						var st unix.Stat_t
						if err := unix.Stat(filepath.Join(sub, name), &st); err != nil {
							t.Fatal(err)
						}
						fmt.Fprintf(l, "%s in %v: group %d, mode %o\n", name, mode, st.Gid, st.Mode)
					}
				}
				fmt.Fprintln(l, l.until("names", 1000, func(i int) error {
					if i == 500 {
						return unix.EDOM
					}
					return os.Link(l.path(fmt.Sprint("dir-", os.FileMode(0o777), "/f")), l.path(strings.Repeat("n", 60)+fmt.Sprint(i)))
				}) == 500)
				p := alignedBuffer(64 << 10)
				asUser(t, 1000, func() {
					f, err := os.OpenFile(l.path("dir--rwxrwxrwx/full"), os.O_CREATE|os.O_WRONLY|syscall.O_DIRECT, 0o644)
					if err != nil {
						t.Error(err)
						return
					}
					defer f.Close()
					for err == nil {
						_, err = f.Write(p)
					}
					if err := f.Chown(-1, 1000); err != nil && !strings.HasPrefix(options, "resgid") {
						l.say("chgrp", err)
					}
				})
				var st unix.Statfs_t
				if err := unix.Statfs(dir, &st); err != nil {
					t.Fatal(err)
				}
				fmt.Fprintln(l, "reserved blocks left:", st.Bfree > 3000)
				reports[i] = l.String()
				done()
				if err := testimage.Run("e2fsck", "-fn", img.Path); err != nil {
					t.Error(err)
				}
			}
			if reports[0] != reports[1] {
				t.Errorf("ext4box:\n%s\nkernel:\n%s", reports[0], reports[1])
			}
		})
	}
}
