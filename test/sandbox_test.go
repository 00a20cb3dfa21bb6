package test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ext4box/internal/e2test"
	"ext4box/sandbox/exploit"
)

// hostile builds the ext4box that attacks its own box, once.
var hostile = sync.OnceValues(func() (string, error) {
	path := filepath.Join(buildDir, "ext4box-exploit")
	build := exec.Command("go", "build", "-tags", "exploit", "-o", path, "ext4box/cmd/ext4box")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building ext4box: %w\n%s", err, out)
	}
	return path, nil
})

// attack mounts an image with a server that tries to break out, uses the mount, and returns
// what came of each attempt.
func attack(t *testing.T, image string, options ...string) (outcomes map[string]string, names []string) {
	t.Helper()
	bin, err := hostile()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	var stderr bytes.Buffer
	cmd := exec.Command(bin, append(append([]string{"mount", "-f"}, options...), image, dir)...)
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for deadline := time.Now().Add(patience); !mounted(dir); time.Sleep(5 * time.Millisecond) {
		select {
		case err := <-ended:
			t.Fatalf("%v: %s", err, &stderr)
		default:
		}
		if time.Now().After(deadline) {
			_ = cmd.Process.Kill()
			t.Fatal("the mount does not come about")
		}
	}
	// A server that was refused all that still serves.
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("x"), 0o600); err != nil {
		t.Error(err)
	}
	umount(t, dir)
	if err := <-ended; err != nil {
		t.Errorf("%v: %s", err, &stderr)
	}
	outcomes = map[string]string{}
	for lines := bufio.NewScanner(&stderr); lines.Scan(); {
		line, ok := strings.CutPrefix(lines.Text(), exploit.Prefix)
		if !ok {
			t.Log(lines.Text())
			continue
		}
		name, outcome, _ := strings.Cut(line, ": ")
		outcomes[name] = outcome
		names = append(names, name)
	}
	return outcomes, names
}

// TestExploit: a server that was taken over gets nowhere, and without the box, nearly everywhere.
func TestExploit(t *testing.T) {
	requireMounting(t)
	path := e2test.Image(t, 16<<20, "-t", "ext4")
	boxed, names := attack(t, path)
	if f := e2test.RunFsck(t, path); !f.Clean() {
		t.Errorf("%+v", f)
	}
	free, _ := attack(t, path, "--sandbox=off")
	broken, hopeless, through := exploit.Through(names, boxed, free)
	for _, b := range broken {
		t.Error(b)
	}
	for _, h := range hopeless {
		t.Log("fails without the box too: " + h)
	}
	t.Logf("%d attempts, of which %d get through without the box", len(names), through)
	if len(names) < 150 || through < len(names)*9/10 {
		t.Error("the test is too weak")
	}
}

// serverOf is the process that serves a mount: the one that calls itself so.
func serverOf(t *testing.T, dir string) int {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range all {
		text, err := os.ReadFile(path)
		args := strings.Split(strings.TrimSuffix(string(text), "\x00"), "\x00")
		if err == nil && len(args) == 4 && args[1] == "serve" && args[3] == dir {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			return pid
		}
	}
	t.Fatal("no server of", dir)
	return 0
}

// TestServerInBox looks at a server from outside.
func TestServerInBox(t *testing.T) {
	requireMounting(t)
	path := e2test.Image(t, 16<<20, "-t", "ext4")
	dir := mount(t, path, "rw")
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	proc := fmt.Sprintf("/proc/%d/", serverOf(t, dir))
	tasks, err := os.ReadDir(proc + "task")
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		status, err := os.ReadFile(proc + "task/" + task.Name() + "/status")
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue // it has ended
		}
		for _, want := range []string{
			`Uid:\s65534\s65534\s65534\s65534\n`, `Gid:\s65534\s65534\s65534\s65534\n`, `Groups:\s*\n`, `NSpid:\s\d+\s\d+\n`,
			`CapInh:\s0{16}`, `CapPrm:\s0{16}`, `CapEff:\s0{16}`, `CapBnd:\s0{16}`, `CapAmb:\s0{16}`, `NoNewPrivs:\s1\n`, `Seccomp:\s2\n`,
		} {
			if !regexp.MustCompile(want).Match(status) {
				t.Errorf("thread %s: no %s in\n%s", task.Name(), want, status)
			}
		}
	}
	for _, ns := range []string{"user", "mnt", "pid", "net", "ipc", "uts", "cgroup"} {
		ours, err1 := os.Readlink("/proc/self/ns/" + ns)
		its, err2 := os.Readlink(proc + "ns/" + ns)
		if err1 != nil || err2 != nil || ours == its {
			t.Error("namespace", ns, ours, its, err1, err2)
		}
	}
	if names, err := os.ReadDir(proc + "root/"); err != nil || len(names) != 0 {
		t.Error("the root directory has", names, err)
	}
	if limits, err := os.ReadFile(proc + "limits"); err != nil || !regexp.MustCompile(`Max open files +0 +0 `).Match(limits) {
		t.Errorf("%s%v", limits, err)
	}
	if env, err := os.ReadFile(proc + "environ"); err != nil || bytes.Contains(env, []byte("PATH=")) {
		t.Errorf("environment: %q, %v", env, err)
	}
	fds, err := os.ReadDir(proc + "fd")
	if err != nil || len(fds) < 4 {
		t.Error(fds, err)
	}
	expected := regexp.MustCompile(`^(/dev/fuse|/dev/null|(socket|pipe):\[\d+\]|anon_inode:\[(event(poll|fd)|io_uring)\]|/run/ext4box/.*|` + regexp.QuoteMeta(path) + `)$`)
	for _, fd := range fds {
		if target, err := os.Readlink(proc + "fd/" + fd.Name()); err == nil && !expected.MatchString(target) {
			t.Errorf("descriptor %s is %s", fd.Name(), target)
		}
	}
}
