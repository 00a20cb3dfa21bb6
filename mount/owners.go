package mount

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Owners are the options about whom the files of an image belong to here.
type Owners struct {
	UID, GID *uint32   // every file's; nil: its own
	Umask    *uint32   // permissions that no file has, all others each has; nil: its own
	Users    []IDRange // of image and mount; none: the ids are the same
	Groups   []IDRange
	Fakeroot bool // everything is the mounting user's, who is the root of the image
}

// IDRange maps Count ids from Image on to those from Shown on, as mount(8) does with its
// X-mount.idmap.
type IDRange struct{ Image, Shown, Count uint32 }

// maxIDRanges is how many ranges a map may have, as in the kernel.
const maxIDRanges = 340

// Override names the option by which files belong to others than they do in the image, as
// far as that could lend somebody privilege.
func (o *Owners) Override() string {
	switch {
	case o.Fakeroot:
		return "fakeroot"
	case o.UID != nil:
		return "uid="
	case o.GID != nil:
		return "gid="
	case o.Umask != nil:
		return "umask="
	}
	return ""
}

// addRanges adds the ranges of idmap=, [u:|g:|b:]IMAGE:SHOWN:COUNT, separated by white space.
func (o *Owners) addRanges(list string) error {
	ranges := strings.Fields(list)
	if len(ranges) == 0 {
		return errors.New("it names no range of ids")
	}
	for _, text := range ranges {
		kind, numbers := "b", text
		if k, rest, ok := strings.Cut(text, ":"); ok && (k == "u" || k == "g" || k == "b") {
			kind, numbers = k, rest
		}
		r, err := parseRange(numbers)
		if err != nil {
			return fmt.Errorf("%q %w", text, err)
		}
		for _, m := range []struct {
			kind, name string
			ranges     *[]IDRange
		}{{"u", "user", &o.Users}, {"g", "group", &o.Groups}} {
			if kind != "b" && kind != m.kind {
				continue
			}
			if slices.ContainsFunc(*m.ranges, r.overlaps) {
				return fmt.Errorf("%q maps %s ids that another range maps as well", text, m.name)
			}
			if *m.ranges = append(*m.ranges, r); len(*m.ranges) > maxIDRanges {
				return fmt.Errorf("there are more than %d ranges of %s ids", maxIDRanges, m.name)
			}
		}
	}
	return nil
}

func parseRange(s string) (r IDRange, err error) {
	parts := strings.Split(s, ":")
	fields := []*uint32{&r.Image, &r.Shown, &r.Count}
	if len(parts) != len(fields) {
		return r, errors.New("is not [u:|g:|b:]ID-IN-IMAGE:ID-SHOWN:COUNT")
	}
	for i, f := range fields {
		n, err := strconv.ParseUint(parts[i], 10, 32)
		if err != nil {
			return r, fmt.Errorf("holds %q, which is not a number of 32 bits", parts[i])
		}
		*f = uint32(n)
	}
	// The last number there is stands for nobody.
	const ids = 1<<32 - 1
	if r.Count == 0 || uint64(r.Image)+uint64(r.Count) > ids || uint64(r.Shown)+uint64(r.Count) > ids {
		return r, errors.New("is empty, or goes beyond the last id there is")
	}
	return r, nil
}

func (r IDRange) overlaps(s IDRange) bool {
	meet := func(a, b uint32) bool {
		return uint64(a) < uint64(b)+uint64(s.Count) && uint64(b) < uint64(a)+uint64(r.Count)
	}
	return meet(r.Image, s.Image) || meet(r.Shown, s.Shown)
}

// check refuses options that contradict each other.
func (o *Options) check() error {
	w := &o.Owners
	mapped := w.Users != nil || w.Groups != nil
	switch {
	case w.Fakeroot && (w.UID != nil || w.GID != nil || w.Umask != nil || mapped):
		return errors.New("mount option \"fakeroot\": everything belongs to whoever mounts; leave out uid=, gid=, umask= and idmap=")
	case w.Fakeroot && o.AllowOther:
		return errors.New("mount option \"fakeroot\": permissions are not checked, so nobody else can be allowed; leave out allow_other")
	case w.Fakeroot && o.AllowIdmap:
		return errors.New("mount option \"fakeroot\": the kernel maps ids only where it checks permissions; leave out allow_idmap")
	case mapped && (w.UID != nil || w.GID != nil):
		return errors.New("mount option \"idmap=\": where all files belong to one there is nothing to map; leave out uid= and gid=")
	}
	return nil
}

// userID and groupID read the value of uid= and gid=: a number, or a name of this machine.
func userID(s string) (uint32, error) {
	if n, err := strconv.ParseUint(s, 10, 32); err == nil && n != 1<<32-1 {
		return uint32(n), nil
	}
	u, err := user.Lookup(s)
	if err != nil {
		return 0, fmt.Errorf("%q is neither a user of this machine nor the number of one", s)
	}
	n, err := strconv.ParseUint(u.Uid, 10, 32)
	return uint32(n), err
}

func groupID(s string) (uint32, error) {
	if n, err := strconv.ParseUint(s, 10, 32); err == nil && n != 1<<32-1 {
		return uint32(n), nil
	}
	g, err := user.LookupGroup(s)
	if err != nil {
		return 0, fmt.Errorf("%q is neither a group of this machine nor the number of one", s)
	}
	n, err := strconv.ParseUint(g.Gid, 10, 32)
	return uint32(n), err
}

// Permit brings what was asked for in line with what whoever mounts may have: set-user-ID
// programs and devices are for root of the machine, and for nobody where files do not
// belong to whom the image says; allow_other is for root, for root of a user namespace,
// outside of which it does not reach, and for whom fuse.conf allows it. It is to be called
// before anything is started. warn is told of flags that are taken back.
//
// Where somebody else mounts, it is he who decides.
func (o *Options) Permit(t *Target, warn func(error)) error {
	if t.fuse != nil {
		return nil
	}
	forbid, why := uintptr(0), ""
	if by := o.Owners.Override(); by != "" {
		forbid, why = unix.MS_NOSUID|unix.MS_NODEV, "the image does not say whom files belong to, but "+by
	} else if !mayMount() || !machineUsers() {
		forbid, why = unix.MS_NOSUID|unix.MS_NODEV, "only root of the machine can allow that"
	}
	for _, f := range []struct {
		flag uintptr
		name string
	}{{unix.MS_NOSUID, "suid"}, {unix.MS_NODEV, "dev"}} {
		if forbid&^o.Flags&f.flag != 0 {
			warn(fmt.Errorf("mount option %q has no effect: %s", f.name, why))
		}
	}
	o.Flags |= forbid
	if o.AllowOther && !mayMount() && os.Getuid() != 0 {
		return checkFuseConf(fuseConf)
	}
	return nil
}

// machineUsers tells whether the users of this process's namespace are those of the
// machine.
func machineUsers() bool {
	text, err := os.ReadFile("/proc/self/uid_map")
	return err == nil && slices.Equal(strings.Fields(string(text)), []string{"0", "0", "4294967295"})
}

// fuseConf says what fusermount3 does for users.
const fuseConf = "/etc/fuse.conf"

// checkFuseConf refuses allow_other if fusermount3 will. It says so too, but by then an
// image has been read.
func checkFuseConf(path string) error {
	f, err := os.Open(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		f = nil
	case err != nil:
		return nil // it is for fusermount3 to read
	default:
		defer f.Close()
	}
	if f != nil && allowsOther(f) {
		return nil
	}
	return usagef("mount option \"allow_other\": it is for root, unless root adds the line \"user_allow_other\" to %s", path)
}

// allowsOther reads a fuse.conf as fusermount3 does.
func allowsOther(r io.Reader) bool {
	lines := bufio.NewScanner(io.LimitReader(r, 1<<20))
	for lines.Scan() {
		line, _, _ := bytes.Cut(lines.Bytes(), []byte("#"))
		if string(bytes.TrimSpace(line)) == "user_allow_other" {
			return true
		}
	}
	return false
}
