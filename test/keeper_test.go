package test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// limit is a line of /proc/PID/limits: the soft and the hard one.
func limit(t *testing.T, pid int, name string) string {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, name); ok {
			f := strings.Fields(rest)
			return f[0] + " " + f[1]
		}
	}
	t.Fatalf("no %s in %s", name, text)
	return ""
}

// TestKeeperMemory: the server may have as much memory as memlimit= says, half as much again and
// what Go takes for itself, and the first to go when the machine has none is who oom_score_adj= says.
// When there is no more the server ends, not the machine; who uses the mount learns it, and the log why.
func TestKeeperMemory(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log")
	b := mountBoxed(t, "--log", log, "-o", "memlimit=64M,oom_score_adj=321")
	const data = 64<<20 + 32<<20 + 256<<20
	if got, want := limit(t, b.server, "Max data size"), fmt.Sprintf("%d %[1]d", data); got != want {
		t.Errorf("the limit of the server's data is %s, want %s", got, want)
	}
	for pid, want := range map[int]bool{b.server: true, b.keeper: false} {
		score, err := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid))
		if err != nil || (string(score) == "321\n") != want {
			t.Errorf("process %d (server %d): OOM score %q, %v", pid, b.server, score, err)
		}
	}
	// As if it had used up what there is.
	if err := unix.Prlimit(b.server, unix.RLIMIT_DATA, &unix.Rlimit{}, nil); err != nil {
		t.Fatal(err)
	}
	var err error
	for n := 0; err == nil && n < 15_000; n++ { // each is an inode to keep in mind
		err = os.WriteFile(filepath.Join(b.dir, fmt.Sprint("file", n)), nil, 0o644)
	}
	if !errors.Is(err, unix.ENOTCONN) && !errors.Is(err, unix.ECONNABORTED) && !errors.Is(err, unix.EIO) && !errors.Is(err, unix.ECANCELED) {
		t.Errorf("without memory: %v", err)
	}
	eventually(t, "the end of server and keeper", func() bool { return len(servers(t, b.image)) == 0 })
	if _, err := os.Stat(filepath.Join(b.dir, "file0")); !errors.Is(err, unix.ENOTCONN) && !errors.Is(err, unix.ECONNABORTED) && !errors.Is(err, unix.ECANCELED) {
		t.Errorf("then: %v", err)
	}
	text, err := os.ReadFile(log)
	// Go does not find the lack of it everywhere that it could.
	why := strings.Contains(string(text), "fatal error: runtime: ") || strings.Contains(string(text), "SIGSEGV")
	if err != nil || !why || !strings.Contains(string(text), "the server ended unexpectedly") {
		t.Errorf("the log: %v\n%s", err, text)
	}
	umount(t, b.dir)
	eventually(t, "the image to be free", func() bool { return unlocked(t, b.image) })
}

// TestKeeperStoppedServer: a server that does nothing any more does not keep its keeper from ending
// the mount when that is told so with emphasis.
func TestKeeperStoppedServer(t *testing.T) {
	b := mountBoxed(t)
	if err := os.WriteFile(filepath.Join(b.dir, "file"), []byte("text"), 0o644); err != nil {
		t.Fatal(err)
	}
	root, err := os.Open(b.dir) // the mount is in use
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	stopped := func() bool {
		return strings.HasPrefix(status(t, fmt.Sprintf("/proc/%d/status", b.server), "State"), "T")
	}
	if err := unix.Kill(b.server, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the server to stop", stopped)
	asked := make(chan error, 1)
	go func() {
		asked <- unix.Fstatat(int(root.Fd()), "another", new(unix.Stat_t), 0)
	}()
	for n := range 3 {
		if err := unix.Kill(b.keeper, unix.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			// The server is waited for.
			eventually(t, "the unmounting", func() bool { return !mounted(b.dir) })
			if !stopped() || len(servers(t, b.image)) != 2 {
				t.Error("the first signal ends more than the mount")
			}
		}
		// Signals of a kind that nobody has taken yet are one.
		eventually(t, "the signal to be taken", func() bool {
			text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", b.keeper))
			return err != nil || !strings.Contains(string(text), "ShdPnd:\t0000000000004000")
		})
	}
	eventually(t, "the end of server and keeper", func() bool { return len(servers(t, b.image)) == 0 })
	if err := <-asked; !errors.Is(err, unix.ENOTCONN) && !errors.Is(err, unix.ECONNABORTED) && !errors.Is(err, unix.ECANCELED) {
		t.Errorf("who had asked: %v", err)
	}
	eventually(t, "the image to be free", func() bool { return unlocked(t, b.image) })
}

// TestKeeperLimits: what the kernel may do for root's mount is not what it begins with, also where the
// mount has the name of a device.
func TestKeeperLimits(t *testing.T) {
	for _, name := range []string{"fuse", "fuseblk"} {
		t.Run(name, func(t *testing.T) {
			source, suffix := smallImage(t, t.TempDir(), "limits").Path, ""
			if name == "fuseblk" {
				source, suffix = attach(t, source), "-fuseblk"
			}
			dir := mountRW(t, source)
			if os.Getuid() != 0 {
				t.Skip("only root can set them")
			}
			var st unix.Stat_t
			if err := unix.Stat(dir, &st); err != nil {
				t.Fatal(err)
			}
			bdi := fmt.Sprintf("/sys/class/bdi/%d:%d%s", unix.Major(st.Dev), unix.Minor(st.Dev), suffix)
			for name, want := range map[string]string{"read_ahead_kb": "2048", "max_ratio": "20", "strict_limit": "1"} {
				got, err := os.ReadFile(filepath.Join(bdi, name))
				if err != nil || strings.TrimSpace(string(got)) != want {
					t.Errorf("%s/%s: %q, want %s; %v", bdi, name, got, want, err)
				}
			}
		})
	}
}
