package edit

import (
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/pflag"

	"ext4box/ext4"
)

var chmodCommand = Command{
	Name: "chmod", Args: "MODE PATH...", Min: 2, Max: -1,
	Short: "Change the permission bits of files",
	Options: func(f *pflag.FlagSet) Action {
		recursive := f.BoolP("recursive", "R", false, "change what is in directories as well")
		return func(e *Editor, args []string) error {
			m, err := ParseMode(args[0])
			if err != nil {
				return err
			}
			return e.eachFile(args[1:], !*recursive, *recursive, func(st *ext4.Stat) error {
				if st.IsSymlink() {
					return nil // it has no mode of its own
				}
				mode := m.Apply(st.Mode)
				return e.FS.SetAttr(st.Ino, ext4.Attr{Mode: &mode})
			})
		}
	},
}

var chownCommand = Command{
	Name: "chown", Args: "[OWNER][:[GROUP]] PATH...", Min: 2, Max: -1,
	Short: "Change owner and group of files, by numbers or by the names that the image has",
	Options: func(f *pflag.FlagSet) Action {
		recursive := f.BoolP("recursive", "R", false, "change what is in directories as well")
		noDeref := f.BoolP("no-dereference", "h", false, "change symbolic links, not what they lead to; so it is always with -R")
		return func(e *Editor, args []string) error {
			uid, gid, err := e.owner(args[0])
			if err != nil {
				return err
			}
			return e.eachFile(args[1:], !*noDeref && !*recursive, *recursive, func(st *ext4.Stat) error {
				if err := e.FS.SetAttr(st.Ino, ext4.Attr{UID: uid, GID: gid}); err != nil {
					return err
				}
				if !st.IsRegular() {
					return nil
				}
				// Another's set-user-ID is not meant.
				return e.FS.KillPriv(st.Ino, true, func(uint32) bool { return true })
			})
		}
	},
}

// ParseID reads a user or group number.
func ParseID(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || n == 1<<32-1 { // -1 means that none is set
		return 0, fmt.Errorf("%q is not a user or group number", s)
	}
	return uint32(n), nil
}

// owner reads OWNER, OWNER:GROUP or :GROUP.
func (e *Editor) owner(s string) (uid, gid *uint32, err error) {
	user, group, _ := strings.Cut(s, ":")
	if user == "" && group == "" || strings.HasSuffix(s, ":") {
		return nil, nil, fmt.Errorf("%q is not OWNER, OWNER:GROUP or :GROUP", s)
	}
	if user != "" {
		if uid, err = e.id(user, "/etc/passwd"); err != nil {
			return nil, nil, err
		}
	}
	if group != "" {
		gid, err = e.id(group, "/etc/group")
	}
	return uid, gid, err
}

// maxAccounts is the most that is read of /etc/passwd and /etc/group, in bytes.
const maxAccounts = 16 << 20

// id is a number, or that of a name in the image's own list of accounts.
func (e *Editor) id(s, list string) (*uint32, error) {
	if n, err := ParseID(s); err == nil {
		return &n, nil
	}
	missing := fmt.Errorf("%q is neither a number nor a name in the image's %s", s, list)
	f, err := e.FS.FS().Open(list[1:])
	if errors.Is(err, syscall.ENOENT) {
		return nil, missing
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxAccounts))
	if err != nil {
		return nil, err
	}
	for line := range strings.SplitSeq(string(text), "\n") {
		if fields := strings.Split(line, ":"); len(fields) > 2 && fields[0] == s {
			n, err := ParseID(fields[2])
			return &n, err
		}
	}
	return nil, missing
}

var chattrCommand = Command{
	Name: "chattr", Args: "[+|-|=]FLAGS... PATH...", Min: 1, Max: -1,
	Short: "Change the flags of files, such as i: immutable",
	Options: func(f *pflag.FlagSet) Action {
		recursive := f.BoolP("recursive", "R", false, "change what is in directories as well")
		project := f.StringP("project", "p", "", "set this project `NUMBER`")
		return func(e *Editor, args []string) error { return e.chattr(args, *recursive, *project) }
	},
}

// flagLetters are the flags that can be changed, as lsattr(1) shows them.
var flagLetters = map[byte]uint32{
	's': 0x1, 'u': 0x2, 'S': ext4.FlagSync, 'i': ext4.FlagImmutable, 'a': ext4.FlagAppend, 'd': ext4.FlagNodump,
	'A': ext4.FlagNoatime, 't': 0x8000, 'D': 0x10000, 'T': 0x20000, 'P': ext4.FlagProjInherit, 'F': ext4.FlagCasefold,
	'j': 0x4000, 'x': ext4.FlagDAX,
}

// flagNames are the letters of flagLetters.
func flagNames() string {
	return string(slices.Sorted(maps.Keys(flagLetters)))
}

func (e *Editor) chattr(args []string, recursive bool, project string) error {
	var set, clear uint32
	exact, n := false, 0
	for n < len(args) && strings.IndexByte("+-=", args[n][0]) >= 0 {
		for _, c := range []byte(args[n][1:]) {
			flag, ok := flagLetters[c]
			if !ok {
				return fmt.Errorf("%q is not a flag that can be changed; those are %s", c, flagNames())
			}
			if args[n][0] == '-' {
				clear |= flag
			} else {
				set |= flag
			}
		}
		exact = exact || args[n][0] == '='
		n++
	}
	var change ext4.Attr
	if project != "" {
		id, err := ParseID(project)
		if err != nil {
			return err
		}
		change.ProjectID = &id
	}
	switch {
	case n == 0 && project == "":
		return errors.New("say which flags, such as +i")
	case n == len(args):
		return errors.New("too few operands: use 'chattr [+|-|=]FLAGS... PATH...'")
	case exact && clear != 0:
		return errors.New("= says all flags, and goes with neither + nor -")
	case set&clear != 0:
		return errors.New("a flag cannot be both set and cleared")
	}
	var all uint32
	for _, flag := range flagLetters {
		all |= flag
	}
	return e.eachFile(args[n:], true, recursive, func(st *ext4.Stat) error {
		if st.IsSymlink() || !st.IsDir() && !st.IsRegular() {
			if recursive {
				return nil
			}
			return syscall.EOPNOTSUPP
		}
		c := change
		flags := (st.Flags&^clear | set) & ext4.FlagsVisible
		if exact {
			flags = (st.Flags&^all | set) & ext4.FlagsVisible
		}
		if !st.IsDir() {
			flags &^= 0x10000 | 0x20000 | ext4.FlagProjInherit // of directories only
		}
		if n > 0 {
			c.Flags = &flags
		}
		switch err := e.FS.SetAttr(st.Ino, c); {
		case errors.Is(err, syscall.EOPNOTSUPP) && project != "":
			return fmt.Errorf("the image has no projects, or its inodes no room for them (mke2fs -O project): %w", err)
		case errors.Is(err, syscall.EOPNOTSUPP):
			return fmt.Errorf("this kind of file, or this image, cannot have these flags: %w", err)
		case err != nil:
			return err
		}
		got, err := e.FS.Stat(st.Ino)
		if err == nil && n > 0 && (got.Flags^flags)&(set|clear) != 0 {
			err = fmt.Errorf("a flag cannot be changed: %w", syscall.EOPNOTSUPP)
		}
		return err
	})
}

var setfattrCommand = Command{
	Name: "setfattr", Args: "PATH...", Min: 1, Max: -1,
	Short: "Set or remove an extended attribute of files",
	Options: func(f *pflag.FlagSet) Action {
		name := f.StringP("name", "n", "", "set the attribute of this `NAME`")
		value := f.StringP("value", "v", "", "to this `VALUE`: text, \"text\" with \\ooo, 0xHEX, or 0sBASE64")
		remove := f.StringP("remove", "x", "", "remove the attribute of this `NAME`")
		noDeref := f.BoolP("no-dereference", "h", false, "of symbolic links, not of what they lead to")
		return func(e *Editor, args []string) error {
			if (*name == "") == (*remove == "") {
				return errors.New("say which attribute to set, with -n, or which to remove, with -x")
			}
			v, err := ParseValue(*value)
			if err != nil {
				return err
			}
			return e.eachFile(args, !*noDeref, false, func(st *ext4.Stat) error {
				if *remove != "" {
					err = e.FS.Removexattr(st.Ino, *remove)
				} else {
					err = e.FS.Setxattr(st.Ino, *name, v, 0)
				}
				switch attr := *name + *remove; {
				case errors.Is(err, syscall.ENODATA):
					return fmt.Errorf("it has no attribute %q", attr)
				case errors.Is(err, syscall.EOPNOTSUPP):
					return fmt.Errorf("attribute %q: %w; a name begins with user., trusted., security. or system.posix_acl_", attr, err)
				case err != nil && !errors.Is(err, syscall.EPERM):
					return fmt.Errorf("attribute %q: %w", attr, err)
				}
				return err
			})
		}
	},
}

// ParseValue reads the value of an attribute as setfattr(1) does.
func ParseValue(s string) ([]byte, error) {
	prefix := ""
	if len(s) >= 2 {
		prefix = strings.ToLower(s[:2])
	}
	var v []byte
	err := error(nil)
	switch {
	case prefix == "0x":
		if v, err = hex.DecodeString(s[2:]); err != nil {
			err = errors.New("what follows 0x is not hexadecimal, two digits a byte")
		}
	case prefix == "0s":
		if v, err = base64.StdEncoding.DecodeString(s[2:]); err != nil {
			err = errors.New("what follows 0s is not base64")
		}
	case len(s) >= 2 && s[0] == '"' && s[len(s)-1] == '"':
		v, err = unquote(s[1 : len(s)-1])
	default:
		return []byte(s), nil
	}
	if err != nil {
		return nil, fmt.Errorf("the value %q: %w", s, err)
	}
	return v, nil
}

// unquote resolves \\, \" and \ooo.
func unquote(s string) (v []byte, err error) {
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c == '\\' {
			if i++; i == len(s) {
				return nil, errors.New("nothing follows the \\ at its end")
			}
			c = s[i]
			if c >= '0' && c <= '7' {
				end := min(i+3, len(s))
				n, err := strconv.ParseUint(s[i:end], 8, 8)
				if err != nil || end != i+3 {
					return nil, fmt.Errorf("\\%s is not a byte in three octal digits", s[i:end])
				}
				c, i = byte(n), end-1
			}
		}
		v = append(v, c)
	}
	return v, nil
}
