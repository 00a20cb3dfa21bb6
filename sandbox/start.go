package sandbox

import (
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// namespaces are those that the box has, with the names they have in /proc.
var namespaces = []struct {
	name, text string
	flag       uintptr
}{
	{"user", "a user namespace", unix.CLONE_NEWUSER},
	{"mnt", "a mount namespace", unix.CLONE_NEWNS},
	{"pid", "a PID namespace", unix.CLONE_NEWPID},
	{"net", "a network namespace", unix.CLONE_NEWNET},
	{"ipc", "an IPC namespace", unix.CLONE_NEWIPC},
	{"uts", "a UTS namespace", unix.CLONE_NEWUTS},
	{"cgroup", "a cgroup namespace", unix.CLONE_NEWCGROUP},
}

const (
	// environment tells Enter what Start has done. Between semicolons are the names of the
	// namespaces, the user and group to become or 0, and GOMAXPROCS as it is to be.
	environment = "EXT4BOX_BOX"
	// nobody is the unprivileged user and group that root becomes, outside of the box.
	nobody = 65534
	// insideID is what that one is called inside.
	insideID = 1
)

// Start starts cmd, which is to call Enter, in namespaces of its own. What is missing of
// those is an error, or with BestEffort returned.
//
// The process has all capabilities in its namespaces until it calls Enter. Neither the signal
// at the death of the parent nor ambient capabilities are passed on, whatever cmd.SysProcAttr
// says; of the rest of that, what does not contradict is kept. Nor is the environment, in which
// users keep secrets, but for what is in cmd.Env.
func Start(cmd *exec.Cmd, o Options) ([]*Missing, error) {
	cmd.Env = Runtime(cmd.Env)
	closeOnExec()
	flags, two := uintptr(0), false
	var missing []*Missing
	if o.Mode != Off && !o.Service {
		// Whoever must have all is given all. What is missing is asked for only when that fails:
		// namespaces take their time to be made and to go.
		if flags, two = allNamespaces(), twoIDs(); o.Mode == BestEffort {
			flags, missing = available(two)
		}
		separate(cmd, flags, two)
		// Few threads enter faster than many: there are some fifty calls to be made on each.
		cmd.Env = append(cmd.Env, "GOMAXPROCS=1")
	}
	if err := cmd.Start(); err != nil {
		if flags != 0 && o.Mode == Enforce {
			if _, missing := available(two); len(missing) > 0 {
				return nil, missing[0]
			}
		}
		if path, is := privateProgram(err); is && flags != 0 {
			err = fmt.Errorf("in the box this program can be run only if everybody may: chmod a+rx %s (%w)", path, err)
		}
		return missing, err
	}
	if o.OOMScore != nil && o.Mode != Off && !o.Service {
		if err := setOOMScore(strconv.Itoa(cmd.Process.Pid), *o.OOMScore); err != nil {
			m := &Missing{"the OOM score that was asked for", err}
			if o.Mode == Enforce {
				_ = cmd.Process.Kill()
				_ = cmd.Wait()
				return nil, m
			}
			missing = append(missing, m)
		}
	}
	return missing, nil
}

// Runtime adds to the environment of a program in Go how many processors it may use: as many as
// this one. It would find that out from files of its cgroup, which it keeps open.
func Runtime(env []string) []string {
	debug := "containermaxprocs=0"
	for _, v := range env {
		if now, ok := strings.CutPrefix(v, "GODEBUG="); ok {
			debug = now + "," + debug
		}
	}
	return append(env, "GOMAXPROCS="+strconv.Itoa(runtime.GOMAXPROCS(0)), "GODEBUG="+debug)
}

// closeOnExec keeps descriptors from the process that nobody means to give it: those that the
// caller was started with, by a shell say, are not closed by exec.
func closeOnExec() {
	if unix.CloseRange(3, math.MaxInt32, unix.CLOSE_RANGE_CLOEXEC) == nil {
		return
	}
	names, err := os.ReadDir("/proc/self/fd") // Linux before 5.11
	if err != nil {
		return
	}
	for _, n := range names {
		if fd, err := strconv.Atoi(n.Name()); err == nil && fd > 2 {
			unix.CloseOnExec(fd)
		}
	}
}

// setOOMScore is done from outside, as the process may be too small for it.
func setOOMScore(pid string, score int) error {
	err := os.WriteFile("/proc/"+pid+"/oom_score_adj", []byte(strconv.Itoa(score)), 0)
	if errors.Is(err, unix.EACCES) {
		err = fmt.Errorf("%w: lowering it takes CAP_SYS_RESOURCE, as root has outside of containers", err)
	}
	return err
}

func allNamespaces() (flags uintptr) {
	for _, n := range namespaces {
		flags |= n.flag
	}
	return flags
}

// available finds out which namespaces can be had, and which cannot.
func available(two bool) (flags uintptr, missing []*Missing) {
	reason := try(allNamespaces(), two)
	if reason == nil {
		return allNamespaces(), nil
	}
	var without []string // those that a user namespace would have brought
	for _, n := range namespaces {
		with := flags | n.flag
		switch err := try(with, two); {
		case err == nil:
			flags = with
		case flags&unix.CLONE_NEWUSER == 0 && n.name != "user" && errors.Is(err, unix.EPERM):
			without = append(without, n.name)
		default:
			missing = append(missing, &Missing{n.text, Explain(n.name, err)})
		}
	}
	if len(without) > 0 {
		missing = append(missing, &Missing{"other namespaces (" + strings.Join(without, ", ") + ")",
			fmt.Errorf("they take root, or a user namespace (%w)", unix.EPERM)})
	}
	if len(missing) == 0 { // one by one, but not together
		return 0, []*Missing{{"namespaces", reason}}
	}
	return flags, missing
}

// separate has cmd start in namespaces, and tells Enter.
func separate(cmd *exec.Cmd, flags uintptr, two bool) {
	var names []string
	for _, n := range namespaces {
		if flags&n.flag != 0 {
			names = append(names, n.name)
		}
	}
	id := 0
	attr := new(syscall.SysProcAttr)
	if cmd.SysProcAttr != nil {
		*attr = *cmd.SysProcAttr
	}
	attr.Pdeathsig, attr.AmbientCaps = 0, nil
	attr.Cloneflags |= flags
	switch {
	case flags&unix.CLONE_NEWUSER != 0:
		attr.UidMappings, attr.GidMappings = idMaps(two)
		attr.GidMappingsEnableSetgroups = two
		attr.Credential = nil
		if two {
			id = insideID
		}
	case two:
		id = nobody
	}
	cmd.SysProcAttr = attr
	cmd.Env = append(cmd.Env, fmt.Sprintf("%s=%s;%d;%d", environment, strings.Join(names, ","), id, runtime.GOMAXPROCS(0)))
}

// idMaps are the users and groups of the box: one that has the rights of the caller, who
// sets it up, and if the caller is root another that has none and gets it.
func idMaps(two bool) (uids, gids []syscall.SysProcIDMap) {
	uids = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
	gids = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	if two {
		other := syscall.SysProcIDMap{ContainerID: insideID, HostID: nobody, Size: 1}
		uids, gids = append(uids, other), append(gids, other)
	}
	return uids, gids
}

// twoIDs says whether the caller is a root that can become somebody else: not in a user
// namespace that has only one user.
func twoIDs() bool {
	return os.Geteuid() == 0 && canBecome(unix.CAP_SETUID, "uid_map") && canBecome(unix.CAP_SETGID, "gid_map")
}

func canBecome(capability int, table string) bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if unix.Capget(&header, &data[0]) != nil || data[0].Effective>>capability&1 == 0 {
		return false
	}
	text, err := os.ReadFile("/proc/self/" + table)
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(text)) {
		var inside, outside, n uint64
		if k, _ := fmt.Sscan(line, &inside, &outside, &n); k == 3 && inside <= nobody && nobody-inside < n {
			return true
		}
	}
	return false
}

// try finds out whether a process in such namespaces could be started. It makes one, which
// ends by failing to execute a program whose name is too long, which nothing else fails by.
func try(flags uintptr, two bool) error {
	attr := &syscall.SysProcAttr{Cloneflags: flags}
	if flags&unix.CLONE_NEWUSER != 0 {
		attr.UidMappings, attr.GidMappings = idMaps(two)
		attr.GidMappingsEnableSetgroups = two
	}
	_, err := syscall.ForkExec(strings.Repeat("x", 2*unix.PathMax), nil, &syscall.ProcAttr{Sys: attr})
	if errors.Is(err, unix.ENAMETOOLONG) {
		return nil
	}
	return err
}

// privateProgram tells whether err may be because not everybody may read and run this program.
// Who is root in a user namespace only is refused what belongs to others, and a program that its
// user cannot read is kept from having its user namespace set up.
func privateProgram(err error) (path string, is bool) {
	if !errors.Is(err, unix.EACCES) {
		return "", false
	}
	path, err = os.Executable()
	if err != nil {
		return "", false
	}
	st, err := os.Stat(path)
	return path, err == nil && st.Mode()&0o005 != 0o005
}

// Explain says what to do about a namespace, by its name in /proc, that cannot be had because of err.
func Explain(name string, err error) error {
	advice := ""
	switch {
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EUSERS):
		limit := "user.max_" + name + "_namespaces"
		advice = "there are too many; raise the sysctl " + limit
		if text, rerr := os.ReadFile("/proc/sys/" + strings.ReplaceAll(limit, ".", "/")); rerr == nil && strings.TrimSpace(string(text)) == "0" {
			advice = "switched off by the sysctl " + limit + "=0; set it to 10000, say"
		}
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOSYS):
		advice = "the kernel does not have it; use one that does"
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		if path, is := privateProgram(err); is && name == "user" {
			advice = "it takes a program that everybody may read and run: chmod a+rx " + path
			break
		}
		advice = "not allowed here, perhaps by a chroot or a container's seccomp filter; run ext4box outside of it"
		if name != "user" {
			advice = "it takes root, or a user namespace"
		} else {
			for _, knob := range []struct{ name, bad, good string }{
				{"kernel.unprivileged_userns_clone", "0", "1"},
				{"kernel.apparmor_restrict_unprivileged_userns", "1", "0"},
			} {
				text, rerr := os.ReadFile("/proc/sys/" + strings.ReplaceAll(knob.name, ".", "/"))
				if rerr == nil && strings.TrimSpace(string(text)) == knob.bad && os.Geteuid() != 0 {
					advice = "this machine keeps them from its users; set the sysctl " + knob.name + "=" + knob.good
				}
			}
		}
	case errors.Is(err, unix.ENOENT):
		advice = "/proc is needed for it: mount -t proc proc /proc"
	}
	if advice == "" {
		return err
	}
	return fmt.Errorf("%s (%w)", advice, err)
}
