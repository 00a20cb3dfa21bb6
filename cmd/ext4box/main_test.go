package main

import (
	"errors"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"

	"ext4box/mount"
)

// The scripts drive this binary under the names it is installed as.
func TestMain(m *testing.M) {
	program := func() { os.Exit(run(os.Args, os.Stdout, os.Stderr)) }
	testscript.Main(m, map[string]func(){
		"ext4box":             program,
		"mount.fuse.ext4box":  program,
		"umount.fuse.ext4box": program,
		"fsck.fuse.ext4box":   program,
		"ext4box-with-iomap": func() {
			askIomap = func(*mount.Target) mount.Iomap { return mount.Iomap{Known: true} }
			program()
		},
	})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup:               setup,
		Condition:           condition,
		Cmds:                map[string]func(*testscript.TestScript, bool, []string){"status": status},
	})
}

func setup(env *testscript.Env) error {
	env.Setenv("PATH", env.Getenv("PATH")+":/usr/sbin:/sbin")
	env.Setenv("XDG_RUNTIME_DIR", env.WorkDir)
	env.Setenv("TZ", "UTC")
	env.Setenv("LC_ALL", "C")
	env.Defer(func() { unmountBelow(env.WorkDir) })
	return nil
}

// unmountBelow takes off what a failed script has left mounted.
func unmountBelow(dir string) {
	mounts, err := mount.Mounts()
	if err != nil {
		return
	}
	for i := len(mounts) - 1; i >= 0; i-- {
		if strings.HasPrefix(mounts[i].Dir, dir+"/") {
			unix.Unmount(mounts[i].Dir, unix.MNT_DETACH)
		}
	}
}

// condition knows [root], [mount]: a mount can be made, [iomap]: the kernel has fuse-iomap,
// and [xattr]: the temporary directory takes extended attributes.
func condition(cond string) (bool, error) {
	switch cond {
	case "root":
		return os.Geteuid() == 0, nil
	case "iomap":
		return mount.AskIomap().Known, nil
	case "xattr":
		f, err := os.CreateTemp("", "xattr")
		if err != nil {
			return false, err
		}
		defer os.Remove(f.Name())
		defer f.Close()
		return unix.Fsetxattr(int(f.Fd()), "user.probe", nil, 0) == nil, nil
	case "mount":
		dev, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
		if err != nil {
			return false, nil
		}
		dev.Close()
		_, err = mount.Fusermount()
		return os.Geteuid() == 0 || err == nil, nil
	}
	return false, errors.New("unknown condition")
}

// status runs a program and expects its exit status: status 32 ext4box mount ...
func status(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: status N program [args...]")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		exit, ok := errors.AsType[*exec.ExitError](err)
		if !ok {
			ts.Fatalf("%v", err)
		}
		got = exit.ExitCode()
	}
	if got != want {
		ts.Fatalf("status %d, want %d", got, want)
	}
}

func TestModeString(t *testing.T) {
	for mode, want := range map[uint32]string{
		unix.S_IFREG | 0o644:  "-rw-r--r--",
		unix.S_IFDIR | 0o1777: "drwxrwxrwt",
		unix.S_IFLNK | 0o777:  "lrwxrwxrwx",
		unix.S_IFREG | 0o4755: "-rwsr-xr-x",
		unix.S_IFREG | 0o6644: "-rwSr-Sr--",
		unix.S_IFDIR | 0o1770: "drwxrwx--T",
		unix.S_IFCHR | 0o600:  "crw-------",
		unix.S_IFBLK | 0o060:  "b---rw----",
		unix.S_IFIFO:          "p---------",
		unix.S_IFSOCK | 0o1:   "s--------x",
		0:                     "?---------",
	} {
		if got := modeString(mode); got != want {
			t.Errorf("%#o: %q, want %q", mode, got, want)
		}
	}
}

func TestPrintable(t *testing.T) {
	for in, want := range map[string]string{
		"plain name.txt": "plain name.txt",
		"grün 日本":        "grün 日本",
		"\x1b[31mred":    `\033[31mred`,
		"a\nb\tc":        `a\012b\011c`,
		"\xff\xfe":       `\377\376`,
		"bidi\u202eevil": `bidi\342\200\256evil`,
		"zero\x00":       `zero\000`,
	} {
		if got := printable(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func TestFlagWords(t *testing.T) {
	if got := strings.Join(flagWords(0x80000|0x10|0x80000000), " "); got != "immutable extents 0x80000000" {
		t.Errorf("got %q", got)
	}
}

func TestXattrText(t *testing.T) {
	for in, want := range map[string]string{
		"text":        `"text"`,
		"selinux\x00": `"selinux\x00"`,
		"\x01\x02":    "0x0102",
		"\xff":        "0xff",
		"":            `""`,
	} {
		if got := xattrText([]byte(in)); got != want {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
	}
}
