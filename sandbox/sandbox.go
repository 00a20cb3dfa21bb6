package sandbox

import (
	"errors"
	"flag"
	"fmt"
	"math"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Mode says what happens when a layer of the box cannot be set up.
type Mode string

const (
	Enforce    Mode = "on"          // nothing is read of any image
	BestEffort Mode = "best-effort" // it is named, and the others have to do
	Off        Mode = "off"         // no layer is tried
)

// ParseMode understands the words of --sandbox=.
func ParseMode(s string) (Mode, error) {
	switch m := Mode(s); m {
	case Enforce, BestEffort, Off:
		return m, nil
	}
	return "", fmt.Errorf("--sandbox cannot be %q, only on, best-effort or off", s)
}

// Options describe a box. The two halves of a mount are given the same.
type Options struct {
	Mode Mode
	// Service says that namespaces and the root are the affair of who started the process,
	// such as systemd. What can be checked of that is.
	Service bool
	// Memory is an upper bound of the memory of the process in bytes; 0: none. Go's garbage
	// collector tries to keep to it; what is half as much again, and dataSlack, the kernel refuses,
	// which ends the process.
	Memory uint64
	// FileSize is what a file can have in bytes; 0: no limit. A longer one cannot be written to behind that.
	FileSize uint64
	// OOMScore is the oom_score_adj of the process; nil: as inherited. Only root can lower it.
	OOMScore *int
}

// Missing is a layer of the box that could not be set up here.
type Missing struct {
	Layer string // as in "a user namespace"
	Err   error
}

func (m *Missing) Error() string { return fmt.Sprintf("the box lacks %s: %v", m.Layer, m.Err) }
func (m *Missing) Unwrap() error { return m.Err }

// Box is what a process has around it.
type Box struct {
	rules  []rule // of the filter; nil: there is none
	mode   Mode
	sealed bool
}

// entry is the state of Enter.
type entry struct {
	Options
	had []string // namespaces that Start has made
	id  int      // the user and group to become, or 0
	// rules are those of the filter; nil: there is none.
	rules []rule
}

// Enter puts the process, with all of its threads, into the box. After it the process can
// still be given descriptors, until Seal. What is missing is an error, or with BestEffort
// returned, unless it is what Start has returned already.
//
// The process must hold no descriptor of a directory. It keeps the supplementary groups
// of an ordinary user, who cannot give them up in a user namespace; there is nothing left
// that they would open.
func Enter(o Options) (*Box, []*Missing, error) {
	done := os.Getenv(environment)
	if err := os.Unsetenv(environment); err != nil {
		return nil, nil, err
	}
	b := &Box{mode: o.Mode}
	if o.Mode == Off {
		return b, nil, nil
	}
	e := &entry{Options: o}
	if f := strings.Split(done, ";"); len(f) == 3 && !o.Service {
		e.had = strings.Split(f[0], ",")
		e.id, _ = strconv.Atoi(f[1])
		if procs, _ := strconv.Atoi(f[2]); procs > 0 {
			defer runtime.GOMAXPROCS(procs)
		}
	} else if o.Service && twoIDs() {
		e.id = nobody // who started it should not have started it as root
	}
	// Go makes the descriptors of its poller when it first needs them.
	time.AfterFunc(time.Hour, func() {}).Stop()
	// With cgo everything is done for one thread.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	var missing []*Missing
	for _, l := range layers {
		if err := l.set(e); err != nil {
			m := &Missing{l.name, err}
			if o.Mode == Enforce {
				return nil, nil, m
			}
			missing = append(missing, m)
		}
	}
	if o.Memory != 0 {
		debug.SetMemoryLimit(int64(min(o.Memory, math.MaxInt64)))
	}
	b.rules = e.rules
	return b, missing, nil
}

type layer struct {
	name string // as in Missing
	set  func(*entry) error
}

// layers are what Enter puts on, in the order in which that can be done.
var layers = []layer{
	{"namespaces of its own", (*entry).checkNamespaces},
	{"all of its threads", (*entry).checkThreads},
	{"the OOM score that was asked for", (*entry).setOOMScore},
	{"an empty root directory", (*entry).emptyRoot},
	{"a host name of its own", (*entry).setNames},
	{"its resource limits", (*entry).setLimits},
	{"an empty bounding set of capabilities", (*entry).narrow},
	{"an unprivileged user", (*entry).become},
	{"empty sets of capabilities", (*entry).drop},
	{"no_new_privs", func(*entry) error { return prctl(unix.PR_SET_NO_NEW_PRIVS, 1) }},
	{"a memory that others cannot look at", func(*entry) error { return unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0) }},
	{"Landlock", func(*entry) error { return landlock() }},
	{"a seccomp filter", (*entry).filter},
}

// Seal takes away what is needed to be given descriptors. No new ones come into being then.
func (b *Box) Seal() error {
	if b.sealed {
		return nil
	}
	b.sealed = true
	if b.mode != Off {
		if err := b.seal(); err != nil {
			return fmt.Errorf("seal the box: %w", err)
		}
	}
	if attack != nil {
		attack()
	}
	return nil
}

// attack is there in test builds only.
var attack func()

func (b *Box) seal() error {
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("RLIMIT_NOFILE: %w", err)
	}
	if b.rules == nil {
		return nil
	}
	return install(sealFilter(b.rules))
}

func (e *entry) has(namespace string) bool { return slices.Contains(e.had, namespace) }

// checkNamespaces is against programming errors: what Start cannot make it reports itself.
func (e *entry) checkNamespaces() error {
	if e.Service || e.Mode != Enforce {
		return nil
	}
	for _, n := range namespaces {
		if !e.has(n.name) {
			return fmt.Errorf("the process was started without %s", n.text)
		}
	}
	return nil
}

func (e *entry) checkThreads() error {
	if raceDetector || flag.Lookup("test.v") != nil {
		return nil // a program of tests, which may be built with cgo
	}
	return reachThreads()
}

func (e *entry) setOOMScore() error {
	if !e.Service || e.OOMScore == nil {
		return nil // Start has
	}
	return setOOMScore("self", *e.OOMScore)
}

// emptyRoot changes the root directory to one that is empty and stays so. Nothing of the
// file system that the process came from can be reached then.
func (e *entry) emptyRoot() error {
	if !e.has("mnt") {
		return nil
	}
	if e.has("user") {
		// Nor are there user namespaces in this one, which is a precaution: a container that has its
		// sysctls read-only goes without.
		_ = os.WriteFile("/proc/sys/user/max_user_namespaces", []byte("0"), 0)
	}
	switch err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); {
	case errors.Is(err, unix.EINVAL): // in a chroot: no mount
		if err := detachedRoot(); err != nil {
			return err
		}
	case err != nil:
		return fmt.Errorf("keep mounts from the host: %w", apparmor(err))
	default:
		if err := pivotRoot(); err != nil {
			return err
		}
	}
	if err := unix.Chdir("/"); err != nil {
		return err
	}
	var st unix.Statfs_t
	if err := unix.Statfs("/", &st); err != nil {
		return err
	}
	if st.Type != unix.TMPFS_MAGIC || st.Flags&unix.ST_RDONLY == 0 {
		return errors.New("the root directory is still another one")
	}
	return nil
}

// What the root file system is: room for its own directory only.
const (
	rootFlags   = unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	rootOptions = "size=4k,nr_inodes=1,mode=555"
)

// pivotRoot puts an empty root in the place of the old one and takes that out of the namespace.
func pivotRoot() error {
	if err := unix.Mount("none", "/", "tmpfs", rootFlags, rootOptions); err != nil {
		return fmt.Errorf("mount a tmpfs: %w", apparmor(err))
	}
	// It lies over the root directory, where a path gets only from below.
	if err := unix.Chdir("/.."); err != nil {
		return fmt.Errorf("enter the tmpfs: %w", err)
	}
	// Both in one place: the old root comes to lie over the new one.
	switch err := unix.PivotRoot(".", "."); {
	case errors.Is(err, unix.EINVAL):
		// The kernel's first file system cannot be moved. It takes CAP_SYS_CHROOT, or a descriptor,
		// to get back there.
		if err := unix.Chroot("."); err != nil {
			return fmt.Errorf("chroot: %w", err)
		}
	case err != nil:
		return fmt.Errorf("pivot_root: %w", err)
	default:
		if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
			return fmt.Errorf("detach the old root: %w", err)
		}
	}
	return nil
}

// detachedRoot changes to an empty root that is mounted nowhere.
func detachedRoot() error {
	fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return fmt.Errorf("make a tmpfs: %w", err)
	}
	defer func() { _ = unix.Close(fs) }()
	for option := range strings.SplitSeq(rootOptions, ",") {
		name, value, _ := strings.Cut(option, "=")
		if err := unix.FsconfigSetString(fs, name, value); err != nil {
			return fmt.Errorf("make a tmpfs: %s: %w", option, err)
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return fmt.Errorf("make a tmpfs: %w", err)
	}
	const attr = unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC
	mnt, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, attr)
	if err != nil {
		return fmt.Errorf("mount a tmpfs: %w", err)
	}
	defer func() { _ = unix.Close(mnt) }()
	if err := unix.Fchdir(mnt); err != nil {
		return fmt.Errorf("enter the tmpfs: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("chroot: %w", err)
	}
	return nil
}

// apparmor explains a refusal to the root of a fresh user namespace.
func apparmor(err error) error {
	if errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) {
		err = fmt.Errorf("%w; on Ubuntu set the sysctl kernel.apparmor_restrict_unprivileged_userns=0", err)
	}
	return err
}

func (e *entry) setNames() error {
	unix.Umask(0o077)
	if !e.has("uts") {
		return nil
	}
	return errors.Join(unix.Sethostname([]byte("box")), unix.Setdomainname([]byte("(none)")))
}

func (e *entry) setLimits() error {
	for _, l := range limits {
		if err := limit(l.resource, l.max); err != nil {
			return fmt.Errorf("%s: %w", l.name, err)
		}
	}
	// Elsewhere all processes of the user count.
	if e.has("user") && kernelAtLeast(5, 14) {
		if err := limit(unix.RLIMIT_NPROC, maxThreads); err != nil {
			return fmt.Errorf("RLIMIT_NPROC: %w", err)
		}
	}
	if e.FileSize != 0 {
		if err := limit(unix.RLIMIT_FSIZE, e.FileSize); err != nil {
			return fmt.Errorf("RLIMIT_FSIZE: %w", err)
		}
		signal.Ignore(unix.SIGXFSZ) // an error is enough
	}
	if e.Memory != 0 && !raceDetector {
		if err := limit(unix.RLIMIT_DATA, e.Memory+e.Memory/2+dataSlack); err != nil {
			return fmt.Errorf("RLIMIT_DATA: %w", err)
		}
	}
	return nil
}

// limit lowers a limit to at most n.
func limit(resource int, n uint64) error {
	var now unix.Rlimit
	if err := unix.Getrlimit(resource, &now); err != nil {
		return err
	}
	n = min(n, now.Max)
	return unix.Setrlimit(resource, &unix.Rlimit{Cur: n, Max: n})
}

func kernelAtLeast(major, minor int) bool {
	var u unix.Utsname
	var a, b int
	if unix.Uname(&u) != nil {
		return false
	}
	if n, _ := fmt.Sscanf(unix.ByteSliceToString(u.Release[:]), "%d.%d", &a, &b); n != 2 {
		return false
	}
	return a > major || a == major && b >= minor
}

// narrow empties the bounding set of who can, which is everybody in a user namespace. To others
// it means nothing with no_new_privs.
func (e *entry) narrow() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return fmt.Errorf("capget: %w", err)
	}
	if data[0].Effective>>unix.CAP_SETPCAP&1 == 0 {
		return nil
	}
	return narrow()
}

// become gives up being root, if there is somebody else to be.
func (e *entry) become() error {
	if e.id == 0 {
		return nil
	}
	// In package syscall these are for all threads, with cgo also.
	if err := syscall.Setgroups(nil); err != nil {
		return fmt.Errorf("give up supplementary groups: %w", err)
	}
	if err := syscall.Setresgid(e.id, e.id, e.id); err != nil {
		return fmt.Errorf("become group %d: %w", e.id, err)
	}
	if err := syscall.Setresuid(e.id, e.id, e.id); err != nil {
		return fmt.Errorf("become user %d: %w", e.id, err)
	}
	return nil
}

func (e *entry) drop() error {
	if err := dropCapabilities(); err != nil {
		return err
	}
	switch c, err := hasCapabilities(); {
	case err != nil:
		return err
	case c != noCapability:
		return fmt.Errorf("capability %d is still there", c)
	}
	return nil
}

func (e *entry) filter() error {
	l := rules(os.Getpid())
	p, err := entryFilter(l)
	if err == nil {
		err = install(p)
	}
	if err != nil {
		return fmt.Errorf("%w; use a kernel with CONFIG_SECCOMP_FILTER", err)
	}
	e.rules = l
	return nil
}
