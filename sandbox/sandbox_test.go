package sandbox

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestLayers looks at a sealed box from outside. It runs as the user it is run by, and, by
// TestUsers, as others.
func TestLayers(t *testing.T) {
	// A descriptor that is not closed by exec, as shells leave them.
	stray, err := unix.Open("/", unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(stray) }()
	score := 321
	p := startVictim(t, victim{Name: "wait", Options: Options{Mode: Enforce, Memory: 256 << 20, FileSize: 1 << 30, OOMScore: &score}}, func(cmd *exec.Cmd) {
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGUSR1, Setsid: true}
	})
	if line := p.line(t); line != "ready" {
		t.Error(line)
	}
	proc := fmt.Sprintf("/proc/%d/", p.Process.Pid)
	read := func(name string) string {
		t.Helper()
		text, err := os.ReadFile(proc + name)
		if err != nil {
			t.Error(err)
		}
		return string(text)
	}

	tasks, err := os.ReadDir(proc + "task")
	if err != nil || len(tasks) < 2 {
		t.Fatal("threads", tasks, err)
	}
	for _, task := range tasks {
		status := read("task/" + task.Name() + "/status")
		for _, want := range []string{
			`CapInh:\s0{16}`, `CapPrm:\s0{16}`, `CapEff:\s0{16}`, `CapBnd:\s0{16}`, `CapAmb:\s0{16}`,
			`NoNewPrivs:\s1`, `Seccomp:\s2`, `Umask:\s0077`, `NSpid:\s\d+\s1\n`,
		} {
			if raceDetector && strings.HasPrefix(want, "Cap") {
				continue // not all threads can be reached
			}
			if task.Name() != strconv.Itoa(p.Process.Pid) {
				want = strings.TrimSuffix(want, `1\n`) // it has another number
			}
			if !regexp.MustCompile(want).MatchString(status) {
				t.Errorf("thread %s: no %s in\n%s", task.Name(), want, status)
			}
		}
		id := strconv.Itoa(os.Getuid())
		if twoIDs() {
			id = strconv.Itoa(nobody)
		}
		if want := "Uid:" + strings.Repeat("\t"+id, 4); !strings.Contains(status, want) {
			t.Errorf("thread %s: no %q", task.Name(), want)
		}
	}
	limits := read("limits")
	for _, want := range []string{
		`Max core file size +0 +0 `, `Max open files +0 +0 `, `Max locked memory +0 +0 `, `Max msgqueue size +0 +0 `,
		fmt.Sprintf(`Max data size +%d +%[1]d `, 384<<20+dataSlack), fmt.Sprintf(`Max file size +%d +%[1]d `, 1<<30),
	} {
		if raceDetector && strings.Contains(want, "data") {
			continue
		}
		if !regexp.MustCompile(want).MatchString(limits) {
			t.Errorf("no %s in\n%s", want, limits)
		}
	}
	if env := read("environ"); strings.Contains(env, "PATH=") {
		t.Errorf("environment: %q", env)
	}
	if got := strings.TrimSpace(read("oom_score_adj")); got != "321" {
		t.Error("oom_score_adj", got)
	}

	names, err := os.ReadDir(proc + "root/")
	if err != nil || len(names) != 0 {
		t.Error("the root directory has", names, err)
	}
	if mounts := read("mountinfo"); strings.Count(mounts, "\n") != 1 || !strings.Contains(mounts, " - tmpfs ") || !strings.Contains(mounts, " ro,") {
		t.Error("mounts:", mounts)
	}
	for _, n := range namespaces {
		ours, err1 := os.Readlink("/proc/self/ns/" + n.name)
		its, err2 := os.Readlink(proc + "ns/" + n.name)
		if err1 != nil || err2 != nil || ours == its {
			t.Error("namespace", n.name, ours, its, err1, err2)
		}
	}
	fds, err := os.ReadDir(proc + "fd")
	if err != nil {
		t.Error(err)
	}
	for _, fd := range fds {
		target, _ := os.Readlink(filepath.Join(proc, "fd", fd.Name()))
		if n, _ := strconv.Atoi(fd.Name()); n > 2 && !strings.HasPrefix(target, "anon_inode:[event") {
			t.Error("descriptor", n, target)
		}
	}
}

// TestUsers runs TestLayers as others than root.
func TestUsers(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("takes root")
	}
	dir, err := os.MkdirTemp("/tmp", "ext4box-sandbox-") // t.TempDir is closed to others
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	test := filepath.Join(dir, "test")
	if err := os.WriteFile(test, self, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	ordinary := &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 1000, Gid: 1000}}
	for _, c := range []struct {
		name    string
		attr    *syscall.SysProcAttr
		command []string
	}{
		{"ordinary user", ordinary, nil},
		{"root of a user namespace", ordinary, []string{"unshare", "-Urm"}},
		{"root of a container", container(), nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			command := append(c.command, test, "-test.run=^TestLayers$", "-test.v")
			cmd := exec.Command(command[0], command[1:]...)
			cmd.Dir, cmd.SysProcAttr = "/", c.attr
			out, err := cmd.CombinedOutput()
			if err != nil || !strings.Contains(string(out), "--- PASS: TestLayers") {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
	t.Run("a program for root only", func(t *testing.T) {
		if err := os.Chmod(test, 0o700); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command(test, "-test.run=^TestLayers$").CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
	})
}
