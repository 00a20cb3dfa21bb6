package sandbox

import (
	"errors"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"ext4box/sandbox/exploit"
)

// container is a root that owns its user namespace, in which sysctls of namespaces are its own.
func container() *syscall.SysProcAttr {
	all := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: nobody + 1}}
	return &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWNS, UidMappings: all, GidMappings: all, GidMappingsEnableSetgroups: true,
	}
}

const lacksEnv = "EXT4BOX_TEST_LACKS"

// TestMissing: what a machine does not allow is named, with what to do.
func TestMissing(t *testing.T) {
	if lacks := os.Getenv(lacksEnv); lacks != "" {
		testMissing(t, lacks)
		return
	}
	if os.Getuid() != 0 {
		t.Skip("takes root")
	}
	for _, name := range []string{"user", "net", "cgroup"} {
		t.Run(name, func(t *testing.T) {
			cmd := exec.Command("sh", "-c", `echo 0 >/proc/sys/user/max_`+name+`_namespaces && exec "$0" "$@"`,
				"/proc/self/exe", "-test.run=^TestMissing$", "-test.v")
			if self, err := os.Executable(); err == nil {
				cmd.Args[3] = self
			}
			cmd.Env = append(os.Environ(), lacksEnv+"="+name)
			cmd.SysProcAttr = container()
			out, err := cmd.CombinedOutput()
			if err != nil || !strings.Contains(string(out), "--- PASS: TestMissing") {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

func testMissing(t *testing.T, name string) {
	text := map[string]string{"user": "a user namespace", "net": "a network namespace", "cgroup": "a cgroup namespace"}[name]
	cmd := exec.Command("/proc/self/exe")
	_, err := Start(cmd, Options{Mode: Enforce})
	m, ok := errors.AsType[*Missing](err)
	if !ok || m.Layer != text || !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), "user.max_"+name+"_namespaces") {
		t.Errorf("enforced: %v", err)
	}
	if cmd.Process != nil {
		t.Fatal("a process was started all the same")
	}
	p := startVictim(t, victim{Name: "wait", Options: Options{Mode: BestEffort}}, nil)
	if len(p.missing) != 1 || p.missing[0].Layer != text {
		t.Errorf("best effort: %v", p.missing)
	}
	p.expect(t, "ready")
	// The others are there, and it is nobody.
	for _, n := range namespaces {
		ours, _ := os.Readlink("/proc/self/ns/" + n.name)
		its, err := os.Readlink("/proc/" + strconv.Itoa(p.Process.Pid) + "/ns/" + n.name)
		if err != nil || (ours == its) != (n.name == name) {
			t.Error("namespace", n.name, ours, its, err)
		}
	}
	status, err := os.ReadFile("/proc/" + strconv.Itoa(p.Process.Pid) + "/status")
	if err != nil || !strings.Contains(string(status), "Uid:\t65534\t65534\t65534\t65534") || !strings.Contains(string(status), "CapBnd:\t0000000000000000") && !raceDetector {
		t.Errorf("%s%v", status, err)
	}
	if names, err := os.ReadDir("/proc/" + strconv.Itoa(p.Process.Pid) + "/root/"); err != nil || len(names) != 0 {
		t.Error("the root directory has", names, err)
	}
}

// TestMissingAll: without a user namespace, and without capabilities, there are no others either,
// which is said once.
func TestMissingAll(t *testing.T) {
	if os.Getenv(lacksEnv) != "" {
		cmd := exec.Command("true")
		missing, err := Start(cmd, Options{Mode: BestEffort})
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
		if len(missing) != 2 || missing[0].Layer != "a user namespace" ||
			!strings.Contains(missing[0].Error(), "switched off by the sysctl user.max_user_namespaces=0") ||
			missing[1].Layer != "other namespaces (mnt, pid, net, ipc, uts, cgroup)" || !errors.Is(missing[1], unix.EPERM) {
			t.Error(missing)
		}
		return
	}
	if os.Getuid() != 0 {
		t.Skip("takes root")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := exec.LookPath("setpriv"); err != nil {
		t.Skip("needs setpriv (package util-linux)")
	}
	cmd := exec.Command("sh", "-c", `echo 0 >/proc/sys/user/max_user_namespaces && exec setpriv --bounding-set=-all --inh-caps=-all "$0" "$@"`,
		self, "-test.run=^TestMissingAll$", "-test.v")
	cmd.Env = append(os.Environ(), lacksEnv+"=all")
	cmd.SysProcAttr = container()
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS: TestMissingAll") {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestNotStarted: a process that was not put into namespaces refuses to be in the box.
func TestNotStarted(t *testing.T) {
	out, err := direct(t, victim{Name: "wait", Options: Options{Mode: Enforce}})
	if err == nil || !strings.Contains(out, "the box lacks namespaces of its own") {
		t.Error(out, err)
	}
}

// direct runs a victim that Start has nothing to do with.
func direct(t *testing.T, v victim) (string, error) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), victimEnv+"="+v.text(t))
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// TestService: in a service, whose namespaces are not ours, the rest of the layers keep
// everything in that they can.
func TestService(t *testing.T) {
	out, err := direct(t, victim{Name: "exploit", Options: Options{Mode: Enforce, Service: true}})
	if err != nil {
		t.Fatal(err, out)
	}
	if n := strings.Count(out, exploit.Failed); n < 150 || strings.Contains(out, exploit.Succeeded) {
		t.Errorf("%d attempts fail\n%s", n, out)
	}
}

// TestLayersAlone: what matters most is kept by more than one layer.
func TestLayersAlone(t *testing.T) {
	const seccomp, landlock, root, limits = "a seccomp filter", "Landlock", "an empty root directory", "its resource limits"
	kept := []string{
		"open a file", "open a file above the root", "open a file through /proc/self/root", "open a file with openat2",
		"make an unnamed file", "make a directory", "become root", "change the securebits",
		"make a file system", "copy the mounts", "pivot the root", "change the root", "fork into namespaces",
		"count events", "reboot", "swap", "set the host name",
		"duplicate a descriptor", "duplicate a descriptor by fcntl", "make a pipe", "make an event descriptor", "make a poller",
		"make a file in memory", "make a socket of any family", "set up io_uring", "make a BPF map", "get hold of a process",
	}
	for name, without := range map[string][]string{
		"no seccomp":                                {seccomp},
		"no seccomp, no Landlock":                   {seccomp, landlock},
		"no seccomp, no root directory":             {seccomp, root},
		"no root directory, no Landlock, no limits": {root, landlock, limits},
	} {
		t.Run(name, func(t *testing.T) {
			outcomes, _ := attacked(t, victim{Name: "exploit", Options: Options{Mode: Enforce}, Without: without})
			for _, name := range kept {
				if name == "become root" && !twoIDs() {
					continue // the user is called so in there, and is nobody else
				}
				if name == "fork into namespaces" && slices.Contains(without, root) && slices.Contains(without, seccomp) {
					continue // what forbids it is done on the way to the root directory
				}
				if !strings.HasPrefix(outcomes[name], exploit.Failed) {
					t.Errorf("%s: %s", name, outcomes[name])
				}
			}
		})
	}
}

func TestProbe(t *testing.T) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{probeEnv + "=1"}
	missing, err := Probe(cmd)
	if err != nil || len(missing) != 0 {
		t.Error(missing, err)
	}
}
