package mount

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Info is one line of /proc/self/mountinfo.
type Info struct {
	ID      int
	Dev     Dev    // the file system's device number
	Root    string // the part of the file system that is mounted
	Dir     string // where
	Type    string // fuse.ext4box, ext4, ...
	Source  string
	Options string // of the file system: user_id=0,allow_other,...
}

// Dev is a device number as it is written in mountinfo, "0:45".
type Dev struct{ Major, Minor uint32 }

func (d Dev) String() string { return fmt.Sprintf("%d:%d", d.Major, d.Minor) }

// UserID is the user who made the mount: the user_id of a FUSE mount.
func (i *Info) UserID() (uid int, ok bool) {
	for opt := range strings.SplitSeq(i.Options, ",") {
		if v, found := strings.CutPrefix(opt, "user_id="); found {
			uid, err := strconv.Atoi(v)
			return uid, err == nil
		}
	}
	return 0, false
}

// Mounts reads the mounts that this process sees, in the order they were made.
func Mounts() ([]Info, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		if err := NeedProc(); err != nil {
			return nil, err
		}
		return nil, systemf("read the list of mounts: %w", err)
	}
	defer f.Close()
	return parseMountinfo(f)
}

// NeedProc is an error where there is no /proc, without which nothing can be mounted.
func NeedProc() error {
	if _, err := os.Lstat("/proc/self/exe"); err == nil {
		return nil
	}
	return &Error{StatusSystem, errors.New("there is no /proc here, which ext4box needs: mount -t proc proc /proc")}
}

func parseMountinfo(r io.Reader) ([]Info, error) {
	var out []Info
	sc := bufio.NewScanner(r)
	sc.Buffer(nil, 1<<20) // an overlay's options may be long
	for sc.Scan() {
		if i, ok := parseMountinfoLine(sc.Text()); ok {
			out = append(out, i)
		}
	}
	return out, sc.Err()
}

// parseMountinfoLine understands one line of the format of proc_pid_mountinfo(5).
func parseMountinfoLine(line string) (Info, bool) {
	before, after, ok := strings.Cut(line, " - ")
	head, tail := strings.Fields(before), strings.Split(after, " ")
	if !ok || len(head) < 6 || len(tail) < 3 {
		return Info{}, false
	}
	var i Info
	var err error
	if i.ID, err = strconv.Atoi(head[0]); err != nil {
		return Info{}, false
	}
	if _, err := fmt.Sscanf(head[2], "%d:%d", &i.Dev.Major, &i.Dev.Minor); err != nil {
		return Info{}, false
	}
	i.Root, i.Dir = unescapeOctal(head[3]), unescapeOctal(head[4])
	i.Type, i.Source, i.Options = tail[0], unescapeOctal(tail[1]), tail[2]
	return i, true
}

// unescapeOctal undoes the kernel's \040 for space, tab, newline, backslash and
// hash.
func unescapeOctal(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// top is the topmost mount at dir, the one that is visible there.
func top(mounts []Info, dir string) (Info, bool) {
	for i := len(mounts) - 1; i >= 0; i-- {
		if mounts[i].Dir == dir {
			return mounts[i], true
		}
	}
	return Info{}, false
}

// canonical makes path absolute and resolves the symbolic links in it, without
// touching the last component: that may be the root of a mount whose server is
// dead or does not answer.
func canonical(path string) (string, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", systemf("find the current directory: %w", err)
	}
	if abs == "/" {
		return abs, nil
	}
	parent, err := filepath.EvalSymlinks(filepath.Dir(abs))
	if err != nil {
		return "", err
	}
	return filepath.Join(parent, filepath.Base(abs)), nil
}
