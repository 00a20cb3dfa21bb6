package edit

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/pflag"

	"ext4box/ext4"
	"ext4box/mount"
)

// modeFlag is an option -m.
func modeFlag(f *pflag.FlagSet) *string {
	return f.StringP("mode", "m", "", "set this `MODE`, as chmod has it")
}

// setMode gives a new file the mode of an option -m, if there was one. It counts
// from what the file would have without a umask.
func (e *Editor) setMode(ino ext4.Ino, full uint32, text string) error {
	if text == "" {
		return nil
	}
	m, err := ParseMode(text)
	if err != nil {
		return err
	}
	st, err := e.FS.Stat(ino)
	if err != nil {
		return err
	}
	mode := m.Apply(st.Mode&^0o777 | full)
	return e.FS.SetAttr(ino, ext4.Attr{Mode: &mode})
}

var mkdirCommand = Command{
	Name: "mkdir", Args: "DIR...", Min: 1, Max: -1,
	Short: "Make directories",
	Options: func(f *pflag.FlagSet) Action {
		parents := f.BoolP("parents", "p", false, "make those above as well; one that exists is no error")
		mode := modeFlag(f)
		return func(e *Editor, args []string) error {
			if *mode != "" {
				if _, err := ParseMode(*mode); err != nil {
					return err
				}
			}
			return e.each(args, func(p string) error { return e.mkdir(p, *mode, *parents) })
		}
	},
}

func (e *Editor) mkdir(p, mode string, parents bool) error {
	if parents {
		if e.isDir(p) {
			return nil
		}
		for i := 1; i < len(strings.TrimRight(p, "/")); i++ {
			if p[i] != '/' || p[i-1] == '/' || e.isDir(p[:i]) {
				continue
			}
			if err := e.mkdir(p[:i], "", false); err != nil {
				return fmt.Errorf("make %q: %w", p[:i], err)
			}
		}
		if e.isDir(p) { // such as a/b/.. is only now
			return nil
		}
	}
	dir, name, err := e.FS.ResolveParent(p)
	if errors.Is(err, syscall.EINVAL) {
		err = syscall.EEXIST
	}
	if err != nil {
		return err
	}
	ino, err := e.FS.Create(dir, name, ext4.NewNode{Mode: syscall.S_IFDIR | 0o777, Umask: umask})
	if err != nil {
		return err
	}
	return e.setMode(ino, 0o777, mode)
}

var mknodCommand = Command{
	Name: "mknod", Args: "PATH b|c MAJOR MINOR, or PATH p|s", Min: 2, Max: 4,
	Short: "Make a device, a fifo or a socket",
	Options: func(f *pflag.FlagSet) Action {
		mode := modeFlag(f)
		return func(e *Editor, args []string) error { return e.mknod(args, *mode) }
	},
}

func (e *Editor) mknod(args []string, mode string) error {
	node := ext4.NewNode{Mode: 0o666, Umask: umask}
	kinds := map[string]uint32{"b": syscall.S_IFBLK, "c": syscall.S_IFCHR, "u": syscall.S_IFCHR, "p": syscall.S_IFIFO, "s": syscall.S_IFSOCK}
	kind, ok := kinds[args[1]]
	if !ok {
		return fmt.Errorf("%q is no type of node: use b, c, p or s", args[1])
	}
	node.Mode |= kind
	if device := kind == syscall.S_IFBLK || kind == syscall.S_IFCHR; device != (len(args) == 4) {
		return errors.New("devices have a major and a minor number, and nothing else has")
	} else if device {
		var numbers [2]uint32
		for i, bits := range []int{12, 20} { // all that the format holds
			n, err := strconv.ParseUint(args[2+i], 0, bits)
			if err != nil {
				return fmt.Errorf("%q is not a device number", args[2+i])
			}
			numbers[i] = uint32(n)
		}
		node.RdevMajor, node.RdevMinor = numbers[0], numbers[1]
	}
	if mode != "" {
		if _, err := ParseMode(mode); err != nil {
			return err
		}
	}
	dir, name, err := e.newName(args[0])
	if err == nil {
		var ino ext4.Ino
		if ino, err = e.FS.Create(dir, name, node); err == nil {
			err = e.setMode(ino, 0o666, mode)
		}
	}
	if err != nil {
		return PathError(args[0], err)
	}
	return nil
}

var touchCommand = Command{
	Name: "touch", Args: "PATH...", Min: 1, Max: -1,
	Short: "Set times of files, and make those that do not exist",
	Options: func(f *pflag.FlagSet) Action {
		atime := f.BoolP("atime", "a", false, "set only the time of access")
		mtime := f.BoolP("mtime", "m", false, "set only the time of modification")
		noCreate := f.BoolP("no-create", "c", false, "make no files")
		noDeref := f.BoolP("no-dereference", "h", false, "set the times of symbolic links, not of what they lead to")
		date := f.StringP("date", "d", "", "set this `TIME` instead of the present: 2006-01-02 15:04:05, with a zone or not, or @SECONDS")
		reference := f.StringP("reference", "r", "", "set the times of this `PATH` in the image")
		return func(e *Editor, args []string) error {
			now := time.Now()
			a, m := now, now
			switch {
			case *date != "" && *reference != "":
				return errors.New("--date and --reference exclude each other")
			case *date != "":
				t, err := ParseDate(*date)
				if err != nil {
					return err
				}
				a, m = t, t
			case *reference != "":
				ino, err := e.FS.ResolveFollow(*reference)
				if err != nil {
					return PathError(*reference, err)
				}
				st, err := e.FS.Stat(ino)
				if err != nil {
					return PathError(*reference, err)
				}
				a, m = st.Atime, st.Mtime
			}
			change := ext4.Attr{Atime: &a, Mtime: &m, Touch: *date == "" && *reference == ""}
			switch {
			case *atime && !*mtime:
				change.Mtime = nil
			case *mtime && !*atime:
				change.Atime = nil
			}
			return e.each(args, func(p string) error {
				var ino ext4.Ino
				var err error
				if *noDeref {
					ino, err = e.FS.Resolve(p)
				} else {
					ino, err = e.open(p, !*noCreate)
				}
				if err != nil || ino == 0 {
					return err
				}
				return e.FS.SetAttr(ino, change)
			})
		}
	},
}

// ParseDate reads a time. Without a zone it is local time.
func ParseDate(s string) (time.Time, error) {
	if sec, ok := strings.CutPrefix(s, "@"); ok {
		whole, frac, _ := strings.Cut(sec, ".")
		n, err := strconv.ParseInt(whole, 10, 64)
		nsec, ferr := strconv.ParseUint((frac + "000000000")[:9], 10, 32)
		if err == nil && ferr == nil && len(frac) <= 9 {
			if strings.HasPrefix(whole, "-") {
				return time.Unix(n, -int64(nsec)), nil
			}
			return time.Unix(n, int64(nsec)), nil
		}
	}
	for _, layout := range []string{
		time.RFC3339, "2006-01-02 15:04:05Z07:00", "2006-01-02 15:04:05 Z0700", "2006-01-02 15:04:05 MST", "2006-01-02T15:04:05", "2006-01-02 15:04:05", "2006-01-02 15:04", "2006-01-02",
	} {
		t, err := time.ParseInLocation(layout, s, time.Local)
		// Of the names of zones only UTC means the same everywhere.
		if err == nil && (!strings.HasSuffix(layout, "MST") || strings.HasSuffix(s, " UTC")) {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("%q is not a time (like 2006-01-02 15:04:05 or @1136214245)", s)
}

var truncateCommand = Command{
	Name: "truncate", Args: "PATH...", Min: 1, Max: -1,
	Short: "Set the size of files, and make those that do not exist",
	Options: func(f *pflag.FlagSet) Action {
		size := f.StringP("size", "s", "", "the size in `BYTES` (1M, 0x100000); with + or - in front, the change of it")
		noCreate := f.BoolP("no-create", "c", false, "make no files")
		return func(e *Editor, args []string) error {
			if *size == "" {
				return errors.New("say which size, with -s")
			}
			digits := strings.TrimLeft(*size, "+-")
			n, err := mount.ParseSize(digits)
			if err != nil || len(*size)-len(digits) > 1 {
				return fmt.Errorf("%q is not a number of bytes (like 1048576, 0x100000, 1M or +1M)", *size)
			}
			return e.each(args, func(p string) error {
				ino, err := e.open(p, !*noCreate)
				if err != nil || ino == 0 {
					return err
				}
				st, err := e.FS.Stat(ino)
				if err != nil {
					return err
				}
				want := n
				switch (*size)[0] {
				case '+':
					want = st.Size + n
				case '-':
					want = max(st.Size-n, 0)
				}
				if want < 0 {
					return syscall.EFBIG
				}
				return e.FS.Truncate(ino, uint64(want))
			})
		}
	},
}
