package test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"ext4box/internal/posixfs"
)

const (
	iocSetVersion = 0x40087602
	iocGetVersion = 0x80087601
	iocFSGetXattr = 0x801C581F
	iocFSSetXattr = 0x401C5820
	iocGetLabel   = 0x81009431
	iocSetLabel   = 0x41009432
	iocTrim       = 0xC0185879
	iocShutdown   = 0x8004587D

	flagSecrm     = 0x1
	flagSync      = 0x8
	flagImmutable = 0x10
	flagAppend    = 0x20
	flagNodump    = 0x40
	flagNoatime   = 0x80
	flagNotail    = 0x8000
	flagDirsync   = 0x10000

	flagJournalData = 0x4000
	flagExtents     = 0x80000
)

// ioctl calls an ioctl that takes a pointer, and names its error.
func ioctl(fd int, cmd uint, arg []byte) string {
	_, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(cmd), uintptr(unsafe.Pointer(&arg[0])))
	if e != 0 {
		return unix.ErrnoName(e)
	}
	return "ok"
}

func u32(n uint32, size int) []byte {
	b := make([]byte, size)
	binary.NativeEndian.PutUint32(b, n)
	return b
}

// flagsOf describes the flags of an open file in both forms.
func flagsOf(fd int) (flags uint32, text string) {
	b, x := make([]byte, 8), make([]byte, 28)
	err := ioctl(fd, unix.FS_IOC_GETFLAGS, b)
	xerr := ioctl(fd, iocFSGetXattr, x)
	flags = binary.NativeEndian.Uint32(b)
	return flags, fmt.Sprintf("%s %#x, %s %#x project %d", err, flags, xerr, binary.NativeEndian.Uint32(x), binary.NativeEndian.Uint32(x[12:]))
}

// TestWriteFlags sets each flag of files and directories, in both ways there are,
// and compares with the kernel what comes of it.
func TestWriteFlags(t *testing.T) {
	set := func(t *testing.T, dir string) string {
		var b strings.Builder
		full := filepath.Join(dir, "full")
		if err := errors.Join(os.WriteFile(filepath.Join(dir, "file"), make([]byte, 5000), 0o666), os.WriteFile(filepath.Join(dir, "empty"), nil, 0o666),
			os.Mkdir(full, 0o777), os.WriteFile(filepath.Join(full, "file"), nil, 0o666), os.Mkdir(filepath.Join(dir, "dir"), 0o777)); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"file", "empty", "full", "dir", "."} {
			f, err := os.Open(filepath.Join(dir, name))
			if err != nil {
				t.Fatal(err)
			}
			fd := int(f.Fd())
			old, text := flagsOf(fd)
			fmt.Fprintf(&b, "%s: %s\n", name, text)
			for bit := range 32 {
				flag := uint32(1) << bit
				if flag == flagJournalData || flag == flagExtents {
					continue // the kernel changes how the file is stored
				}
				err := ioctl(fd, unix.FS_IOC_SETFLAGS, u32(old^flag, 8))
				_, text := flagsOf(fd)
				fmt.Fprintf(&b, "%s: flag %#x: %s: %s\n", name, flag, err, text)
				if flag == flagImmutable {
					fmt.Fprintf(&b, "%s: more while immutable: %s\n", name, ioctl(fd, unix.FS_IOC_SETFLAGS, u32(old^flag|flagNodump, 8)))
					fmt.Fprintf(&b, "%s: no more while immutable: %s\n", name, ioctl(fd, unix.FS_IOC_SETFLAGS, u32(old^flag, 8)))
				}
				fmt.Fprintf(&b, "%s: back: %s\n", name, ioctl(fd, unix.FS_IOC_SETFLAGS, u32(old, 8)))
			}
			ioctl(fd, unix.FS_IOC_SETFLAGS, u32(old|flagSecrm|flagNotail, 8))
			for bit := range 32 {
				x := u32(1<<bit, 28)
				err := ioctl(fd, iocFSSetXattr, x)
				_, text := flagsOf(fd)
				fmt.Fprintf(&b, "%s: xflag %#x: %s: %s\n", name, 1<<bit, err, text)
				ioctl(fd, iocFSSetXattr, make([]byte, 28))
			}
			x := make([]byte, 28)
			binary.NativeEndian.PutUint32(x[12:], 1234567)
			err2 := ioctl(fd, iocFSSetXattr, x)
			_, text = flagsOf(fd)
			fmt.Fprintf(&b, "%s: project: %s: %s\n", name, err2, text)
			ioctl(fd, unix.FS_IOC_SETFLAGS, u32(old|flagNoatime, 8))
			for _, by := range []string{"a stranger", "root"} {
				want := func() string { return ioctl(fd, iocSetVersion, u32(4711, 8)) }
				if by == "a stranger" {
					fmt.Fprintf(&b, "%s: flags by %s: %s\n", name, by, as(stranger, func() string { return ioctl(fd, unix.FS_IOC_SETFLAGS, u32(old, 8)) }))
					fmt.Fprintf(&b, "%s: version by %s: %s\n", name, by, as(stranger, want))
					continue
				}
				err := want()
				v := make([]byte, 8)
				if ioctl(fd, iocGetVersion, v); err == "ok" {
					err += fmt.Sprint(" ", binary.NativeEndian.Uint32(v))
				}
				fmt.Fprintf(&b, "%s: version by %s: %s\n", name, by, err)
			}
			f.Close()
		}
		return b.String()
	}
	again := func(t *testing.T, dir string) string {
		var b strings.Builder
		for _, name := range []string{"file", "empty", "full", "dir", "."} {
			f, err := os.Open(filepath.Join(dir, name))
			if err != nil {
				t.Fatal(err)
			}
			_, text := flagsOf(int(f.Fd()))
			fmt.Fprintf(&b, "%s, mounted again: %s\n", name, text)
			f.Close()
		}
		return b.String()
	}
	for name, args := range map[string][]string{
		"ext4":     plainExt4,
		"project":  {"-t", "ext4", "-b", "4096", "-O", "project"},
		"ext3":     {"-t", "ext3", "-b", "1024"},
		"inode128": {"-t", "ext4", "-b", "4096", "-I", "128", "-O", "^metadata_csum"},
	} {
		t.Run(name, func(t *testing.T) {
			if name == "project" {
				t.Skip("the kernel mounts it only with quota")
			}
			bothWays(t, 32<<20, args, set, again)
		})
	}
}

// TestWriteProtected compares with the kernel what can be done to immutable files
// and directories, and to those that can only be added to, where the server is asked
// before a file is opened. TestProtectedUnasked has the rest.
func TestWriteProtected(t *testing.T) {
	bothWays(t, 32<<20, plainExt4, func(t *testing.T, dir string) string {
		var b strings.Builder
		n := 0
		for _, flag := range []uint32{flagImmutable, flagAppend} {
			for _, uid := range []int{0, stranger} {
				for _, way := range protectedWays() {
					n++
					top := filepath.Join(dir, fmt.Sprint("case-", n))
					if err := prepareProtected(top, flag); err != nil {
						t.Fatal(err)
					}
					p := newPlayer(posixfs.Mounted(top), ".")
					for _, s := range way.steps {
						s.uid = uid
						fmt.Fprintf(&b, "flag %#x, uid %d, %s, %v: %s\n", flag, uid, way.name, s, p.play(s))
					}
					p.close()
					for _, path := range []string{"P", "P/in", "p", "free", "F/in"} {
						fmt.Fprintf(&b, "   %s: %s\n", path, p.play(step{kind: "stat", a: path}))
					}
					fmt.Fprintf(&b, "   p: %s\n", p.play(step{kind: "read", a: "p", m: 10000}))
				}
			}
		}
		return b.String()
	}, nil, "opens=server")
}

// A protectedWay is something to try on p, a file, and P, a directory, which are
// protected, beside free and F, which are not.
type protectedWay struct {
	name  string
	steps []step
}

func protectedWays() []protectedWay {
	one := func(s step) protectedWay { return protectedWay{s.kind, []step{s}} }
	return []protectedWay{
		one(step{kind: "write", a: "p", m: 100}),
		one(step{kind: "write", a: "p", n: 5000, m: 100, flag: unix.O_APPEND}),
		one(step{kind: "write", a: "p", m: 100, flag: unix.O_TRUNC}),
		one(step{kind: "write", a: "p", m: 100, flag: unix.O_TRUNC | unix.O_APPEND}),
		one(step{kind: "write", a: "p", m: 100, flag: unix.O_SYNC}),
		one(step{kind: "open", a: "p", slot: 1}),
		{"open to append", []step{{kind: "open", a: "p", slot: 1, flag: unix.O_APPEND}, {kind: "ftruncate", slot: 1, n: 7},
			{kind: "ffallocate", slot: 1, n: 0, m: 9000}, {kind: "ffallocate", slot: 1, n: 0, m: 4096, flag: 3}, {kind: "fchmod", slot: 1, n: 0o600}, {kind: "pwrite", slot: 1, n: 0, m: 10}}},
		one(step{kind: "read", a: "p", m: 100}),
		one(step{kind: "truncate", a: "p", n: 10}),
		one(step{kind: "truncate", a: "p", n: 5000}),
		one(step{kind: "unlink", a: "p"}),
		one(step{kind: "link", a: "p", b: "q"}),
		one(step{kind: "rename", a: "p", b: "q"}),
		one(step{kind: "rename", a: "free", b: "p"}),
		one(step{kind: "rename", a: "free", b: "p", flag: unix.RENAME_EXCHANGE}),
		one(step{kind: "chmod", a: "p", n: 0o600}),
		one(step{kind: "chown", a: "p", n: stranger, m: stranger}),
		one(step{kind: "utimes", a: "p", n: 1e9, m: 1e9}),
		one(step{kind: "touch", a: "p"}),
		one(step{kind: "setxattr", a: "p", b: "user.x", m: 10}),
		one(step{kind: "removexattr", a: "p", b: "user.there"}),
		one(step{kind: "setacl", a: "p", b: "system.posix_acl_access", n: 0o37777}),
		one(step{kind: "create", a: "P/new", n: 0o666}),
		one(step{kind: "create", a: "P/in", n: 0o666}),
		one(step{kind: "mkdir", a: "P/new", n: 0o777}),
		one(step{kind: "symlink", a: "P/new", b: "x"}),
		one(step{kind: "link", a: "free", b: "P/new"}),
		one(step{kind: "unlink", a: "P/in"}),
		one(step{kind: "rename", a: "P/in", b: "out"}),
		one(step{kind: "rename", a: "P/in", b: "P/in2"}),
		one(step{kind: "rename", a: "free", b: "P/new"}),
		one(step{kind: "rename", a: "free", b: "P/in"}),
		one(step{kind: "rename", a: "F", b: "P/new"}),
		one(step{kind: "rename", a: "P", b: "Q"}),
		one(step{kind: "rmdir", a: "P"}),
		one(step{kind: "chmod", a: "P", n: 0o700}),
		one(step{kind: "write", a: "P/in", m: 100}),
		one(step{kind: "setacl", a: "P", b: "system.posix_acl_default", n: 0o37777}),
		one(step{kind: "tmpfile", a: "P", n: 0o666}),
	}
}

func prepareProtected(top string, flag uint32) error {
	err := os.Mkdir(top, 0o777)
	for _, d := range []string{"P", "F"} {
		err = errors.Join(err, os.Mkdir(filepath.Join(top, d), 0o777), os.WriteFile(filepath.Join(top, d, "in"), []byte("in"), 0o666))
	}
	for _, f := range []string{"p", "free"} {
		err = errors.Join(err, os.WriteFile(filepath.Join(top, f), make([]byte, 5000), 0o666))
	}
	for _, f := range []string{"", "P", "F", "P/in", "F/in", "p", "free"} {
		err = errors.Join(err, os.Chmod(filepath.Join(top, f), 0o777), os.Chown(filepath.Join(top, f), stranger, stranger))
	}
	err = errors.Join(err, unix.Setxattr(filepath.Join(top, "p"), "user.there", []byte("x"), 0))
	for _, f := range []string{"p", "P"} {
		if err == nil {
			err = setFlags(filepath.Join(top, f), flag)
		}
	}
	return err
}

// setFlagsTo sets those flags of a file that have nothing to do with how it is
// stored, and says what came of it.
func setFlagsTo(fs posixfs.FS, path string, flags uint32) string {
	const choice = flagSync | flagImmutable | flagAppend | flagNodump | flagNoatime | flagDirsync
	f, err := fs.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	old, _ := f.Flags()
	set := "ok"
	if err := f.SetFlags(old&^choice | flags); err != nil {
		set = err.Error()
	}
	now, _ := f.Flags()
	return fmt.Sprintf("%s %#x", set, now&choice)
}

// removeAll removes a directory and everything below it, whatever its flags.
func removeAll(fs posixfs.FS, dir string) error {
	setFlagsTo(fs, dir, 0)
	list, err := fs.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("%s: %w", dir, err)
	}
	for _, e := range list {
		if e.Name == "." || e.Name == ".." {
			continue
		}
		path := dir + "/" + e.Name
		st, err := fs.Statx(path, unix.STATX_TYPE) // not every shape has types in its entries
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFDIR:
			err = removeAll(fs, path)
		case unix.S_IFREG:
			setFlagsTo(fs, path, 0)
			fallthrough
		default:
			err = fs.Unlink(path)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	return fs.Rmdir(dir)
}

// setFlags adds flags to those of a file.
func setFlags(path string, flags uint32) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	old, _ := flagsOf(int(f.Fd()))
	if e := ioctl(int(f.Fd()), unix.FS_IOC_SETFLAGS, u32(old|flags, 8)); e != "ok" {
		return fmt.Errorf("%s: flags %#x: %s", path, flags, e)
	}
	return nil
}
