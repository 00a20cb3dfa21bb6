package test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ext4box/internal/e2test"
	"ext4box/internal/testimage"
)

// A boxed mount is a live one, with its two processes.
type boxed struct {
	image, dir     string
	server, keeper int
}

// mountBoxed mounts a new file system for writing.
func mountBoxed(t *testing.T, args ...string) *boxed {
	t.Helper()
	return mountBoxedOf(t, []string{"64M"}, args...)
}

// mountBoxedOf mounts a new file system of a size, with options of mke2fs behind it.
func mountBoxedOf(t *testing.T, size []string, args ...string) *boxed {
	t.Helper()
	requireMounting(t)
	base := t.TempDir()
	b := &boxed{image: filepath.Join(base, "image"), dir: filepath.Join(base, "dir")}
	if out, err := exec.Command("mke2fs", append([]string{"-q", "-t", "ext4", b.image}, size...)...).CombinedOutput(); err != nil {
		t.Skipf("needs mke2fs (package e2fsprogs): %v\n%s", err, out)
	}
	if err := os.Mkdir(b.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if r := runMount(t, append(args, b.image, b.dir)...); r.status != 0 || r.stderr != "" {
		t.Fatalf("status %d: %s", r.status, r.stderr)
	}
	t.Cleanup(func() {
		if mounted(b.dir) {
			_ = unix.Unmount(b.dir, unix.MNT_DETACH)
		}
	})
	for _, pid := range servers(t, b.image) {
		if line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); err == nil && bytes.Contains(line, []byte("\x00serve\x00")) {
			b.server = pid
		} else {
			b.keeper = pid
		}
	}
	if b.server == 0 || b.keeper == 0 {
		t.Fatalf("server %d, keeper %d", b.server, b.keeper)
	}
	return b
}

// over waits for both processes to end, and checks the image.
func (b *boxed) over(t *testing.T) {
	t.Helper()
	eventually(t, "the end of server and keeper", func() bool { return len(servers(t, b.image)) == 0 })
	if out, err := exec.Command("e2fsck", "-fn", b.image).CombinedOutput(); err != nil {
		t.Errorf("e2fsck: %v\n%s", err, out)
	}
}

// status is one line of /proc/PID/status, or of one of its threads.
func status(t *testing.T, path, key string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if name, value, _ := strings.Cut(line, ":"); name == key {
			return strings.TrimSpace(value)
		}
	}
	t.Fatalf("%s has no %s", path, key)
	return ""
}

// TestBox looks at a running server from outside.
func TestBox(t *testing.T) {
	b := mountBoxed(t)
	if err := os.WriteFile(filepath.Join(b.dir, "file"), []byte("text"), 0o644); err != nil {
		t.Fatal(err)
	}
	proc := fmt.Sprintf("/proc/%d", b.server)
	for _, ns := range []string{"user", "mnt", "pid", "net", "ipc", "uts", "cgroup"} {
		theirs, err := os.Readlink(proc + "/ns/" + ns)
		ours, err2 := os.Readlink("/proc/self/ns/" + ns)
		if err != nil || err2 != nil || theirs == ours {
			t.Errorf("namespace %s: %s, and here %s, %v, %v", ns, theirs, ours, err, err2)
		}
	}
	threads, err := filepath.Glob(proc + "/task/*/status")
	if err != nil || len(threads) < 2 {
		t.Fatalf("threads %q, %v", threads, err)
	}
	for _, path := range threads {
		for key, want := range map[string]string{
			"Seccomp": "2", "NoNewPrivs": "1",
			"CapInh": "0000000000000000", "CapPrm": "0000000000000000", "CapEff": "0000000000000000",
			"CapBnd": "0000000000000000", "CapAmb": "0000000000000000",
		} {
			if got := status(t, path, key); got != want {
				t.Errorf("%s: %s is %s, want %s", path, key, got, want)
			}
		}
	}
	names, err := os.ReadDir(proc + "/root/")
	if err != nil || len(names) != 0 {
		t.Errorf("the root directory has %v, %v", names, err)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(proc+"/root/", &st); err != nil || st.Flags&unix.ST_RDONLY == 0 {
		t.Errorf("the root directory can be written to: %#x, %v", st.Flags, err)
	}
	var root, stat unix.Stat_t
	if unix.Stat(proc+"/root/", &root) != nil || unix.Stat(proc+"/cwd/", &stat) != nil || root.Ino != stat.Ino || root.Dev != stat.Dev {
		t.Error("the working directory is not the root directory")
	}
	if unix.Stat(proc+"/environ", &stat) != nil || stat.Uid != 0 || status(t, proc+"/status", "Uid")[:1] == "0" {
		t.Error("it can be looked at by its own user, or is root")
	}
	b.descriptors(t)
	limits, err := os.ReadFile(proc + "/limits")
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"Max open files": "0", "Max core file size": "0", "Max file size": strconv.Itoa(64 << 20)} {
		for line := range strings.Lines(string(limits)) {
			if rest, ok := strings.CutPrefix(line, name); ok {
				if f := strings.Fields(rest); f[0] != want || f[1] != want {
					t.Errorf("limit: %s", line)
				}
			}
		}
	}
	umount(t, b.dir)
	b.over(t)
}

// descriptors expects those of the server that there have to be, and none of the mount
// elsewhere.
func (b *boxed) descriptors(t *testing.T) {
	t.Helper()
	count := func(pid int) map[string]int {
		kinds := map[string]int{}
		fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
		if err != nil {
			t.Fatal(err)
		}
		for _, fd := range fds {
			to, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", pid, fd.Name()))
			switch {
			case err != nil:
				t.Error(err)
			case to == b.image:
				to = "image"
			case strings.HasPrefix(to, "socket:"):
				to = "socket"
			case strings.HasPrefix(to, "pipe:"):
				to = "pipe"
			case strings.HasPrefix(to, "/run/ext4box/"):
				to = "state"
			case strings.HasPrefix(to, "/sys/fs/cgroup/"):
				to = "cgroup"
			}
			kinds[to]++
		}
		return kinds
	}
	got := count(b.server)
	t.Logf("server: %v", got)
	log := got["/dev/null"] + got["pipe"] // standard output, and the way to the log or none
	if got["image"] != 2 || got["state"] > 1 || log != 2 || got["socket"] != 1 || got["/dev/fuse"] < 1 || got["/dev/fuse"] > 32 ||
		got["anon_inode:[eventpoll]"] > 1 || got["anon_inode:[eventfd]"] > 1 {
		t.Errorf("the server has open %v", got)
	}
	for kind := range got {
		switch kind {
		case "image", "state", "socket", "pipe", "/dev/null", "/dev/fuse", "anon_inode:[eventpoll]", "anon_inode:[eventfd]", "anon_inode:[io_uring]":
		default:
			t.Errorf("the server has %s open", kind)
		}
	}
	// The keeper has three that are the log or nothing, its side of the control socket and of the
	// way from the server to the log, the state file, and what Go waits with.
	settled := func(got map[string]int) bool {
		log, rest := got["/dev/null"]+got["socket"]+got["pipe"], 0
		for kind, n := range got {
			switch {
			case kind == "/dev/null" || kind == "socket" || kind == "pipe":
			case n == 1 && (kind == "state" || strings.HasPrefix(kind, "anon_inode:[event") || kind == "anon_inode:[pidfd]"):
			default:
				rest++
			}
		}
		return rest == 0 && log >= 4 && log <= 6
	}
	eventually(t, "the keeper to have closed what it does not need", func() bool {
		got = count(b.keeper)
		return settled(got)
	})
	t.Logf("keeper: %v", got)
}

// TestBoxLog: a server in the foreground does not have the terminal or file that is standard
// error there, which it could read from, command and overwrite; what it logs gets there.
func TestBoxLog(t *testing.T) {
	requireMounting(t)
	bin, err := program()
	if err != nil {
		t.Fatal(err)
	}
	image, dir := e2test.Image(t, 16<<20, "-t", "ext4"), t.TempDir()
	stderr, err := os.OpenFile(filepath.Join(t.TempDir(), "stderr"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer stderr.Close()
	cmd := exec.Command(bin, "mount", "-f", "-o", "debug", image, dir)
	cmd.Stderr = stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	eventually(t, "the mount", func() bool { return mounted(dir) })
	proc := fmt.Sprintf("/proc/%d/", serverOf(t, dir))
	if to, err := os.Readlink(proc + "fd/2"); err != nil || !strings.HasPrefix(to, "pipe:") {
		t.Errorf("standard error of the server is %s, %v", to, err)
	}
	if info, err := os.ReadFile(proc + "fdinfo/2"); err != nil || !bytes.Contains(info, []byte("flags:\t01\n")) {
		t.Errorf("it can do more than write: %s, %v", info, err)
	}
	// The keeper still looks at it, perhaps.
	eventually(t, "the unmounting", func() bool { return run(t, "umount", dir).status == 0 })
	if err := <-ended; err != nil {
		t.Error(err)
	}
	text, err := os.ReadFile(stderr.Name())
	if err != nil || !bytes.Contains(text, []byte("level=DEBUG")) || bytes.Count(text, []byte("\n")) < 4 {
		t.Errorf("the log: %s, %v", text, err)
	}
}

// TestBoxSignals: whoever of the two is told to end, the mount does.
func TestBoxSignals(t *testing.T) {
	for _, who := range []string{"keeper", "server"} {
		t.Run(who, func(t *testing.T) {
			b := mountBoxed(t)
			pid := map[string]int{"keeper": b.keeper, "server": b.server}[who]
			if err := unix.Kill(pid, unix.SIGTERM); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the end of the mount", func() bool { return !mounted(b.dir) })
			b.over(t)
		})
	}
	t.Run("no keeper", func(t *testing.T) {
		b := mountBoxed(t, "--log", filepath.Join(t.TempDir(), "log"), "-o", "debug") // a log of every request
		if err := unix.Kill(b.keeper, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the end of the keeper", func() bool { return len(servers(t, b.image)) == 1 })
		if err := os.WriteFile(filepath.Join(b.dir, "file"), []byte("text"), 0o644); err != nil {
			t.Errorf("without its keeper: %v", err)
		}
		umount(t, b.dir)
		b.over(t)
	})
}

// TestBoxKilled kills the server under load: everybody who waits for it gets an error within
// a second, and the mount can be taken off.
func TestBoxKilled(t *testing.T) {
	b := mountBoxed(t)
	type call struct {
		what string
		do   func(i int) error
	}
	calls := []call{
		{"write", func(i int) error {
			return writeSynced(filepath.Join(b.dir, fmt.Sprintf("w%d", i)), bytes.Repeat([]byte("x"), 100_000))
		}},
		{"stat", func(int) error {
			_, err := os.Stat(filepath.Join(b.dir, fmt.Sprintf("no%d", time.Now().UnixNano())))
			if errors.Is(err, os.ErrNotExist) {
				return nil
			}
			return err
		}},
		{"mkdir", func(i int) error {
			return os.Mkdir(filepath.Join(b.dir, fmt.Sprintf("d%d-%d", i, time.Now().UnixNano())), 0o755)
		}},
		{"list", func(int) error { _, err := os.ReadDir(b.dir); return err }},
	}
	killed := make(chan struct{})
	var wg sync.WaitGroup
	var started sync.WaitGroup
	for n, c := range calls {
		for i := range 3 {
			started.Add(1)
			wg.Go(func() {
				first := true
				for {
					err := c.do(n*10 + i)
					if first {
						started.Done()
						first = false
					}
					if err == nil {
						select {
						case <-killed:
							if c.what == "list" {
								return // the kernel can have it in its cache
							}
						default:
						}
						continue
					}
					select {
					case <-killed:
					default:
						t.Errorf("%s: %v before it was killed", c.what, err)
					}
					if !errors.Is(err, unix.ENOTCONN) && !errors.Is(err, unix.EIO) && !errors.Is(err, unix.ECONNABORTED) &&
						!errors.Is(err, unix.ECANCELED) {
						t.Errorf("%s: %v", c.what, err)
					}
					return
				}
			})
		}
	}
	started.Wait()
	close(killed)
	if err := unix.Kill(b.server, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	at := time.Now()
	all := make(chan struct{})
	go func() { wg.Wait(); close(all) }()
	select {
	case <-all:
		t.Logf("all callers have returned after %v", time.Since(at))
	case <-time.After(time.Minute):
		t.Fatal("somebody still waits")
	}
	umount(t, b.dir)
	eventually(t, "the image to be free", func() bool { return unlocked(t, b.image) })
	if r := runMount(t, b.image, b.dir); r.status != 0 { // which recovers it
		t.Fatalf("status %d: %s", r.status, r.stderr)
	}
	umount(t, b.dir)
	b.over(t)
}

// TestBoxUser has an ordinary user mount, write and unmount.
func TestBoxUser(t *testing.T) {
	requireMounting(t)
	bin, err := program()
	if err != nil {
		t.Fatal(err)
	}
	testimage.ShareFuse(t)
	user := fmt.Sprintf("ext4box-%d", os.Getpid())
	if out, err := exec.Command("useradd", "--no-create-home", "--home-dir", "/nonexistent", user).CombinedOutput(); err != nil {
		t.Skipf("needs useradd (package passwd): %v\n%s", err, out)
	}
	t.Cleanup(func() { // also if a process of theirs has not quite gone
		if out, err := exec.Command("userdel", "--force", user).CombinedOutput(); err != nil {
			t.Errorf("the user %s stays: %v\n%s", user, err, out)
		}
	})
	id, err := exec.Command("id", "-u", user).Output()
	if err != nil {
		t.Fatal(err)
	}
	uid, err := strconv.Atoi(strings.TrimSpace(string(id)))
	if err != nil {
		t.Fatal(err)
	}
	script := `set -e
		"$0" mount -v "$1" "$2"
		echo text >"$2/file"; mkdir "$2/dir"; cat "$2/file"
		"$0" umount "$2"`
	if err := os.MkdirAll("/run/ext4box", 0o755); err != nil { // root's state files, as where it has mounted before
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(fmt.Sprintf("/tmp/ext4box-%d", uid)) })
	for name, wrap := range map[string][]string{
		"fusermount3":    {"sh", "-c", script},
		"no PATH":        {"env", "-u", "PATH", "sh", "-c", script}, // as from mount(8)
		"user namespace": {"unshare", "-Urm", "sh", "-c", "PATH=/nonexistent:/bin; " + script},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := exec.LookPath(map[string]string{"fusermount3": "fusermount3", "no PATH": "fusermount3", "user namespace": "unshare"}[name]); err != nil {
				t.Skipf("needs fusermount3 and unshare (packages fuse3, util-linux): %v", err)
			}
			base, err := os.MkdirTemp("", "ext4box-user")
			if err != nil {
				t.Fatal(err)
			}
			image, dir, own := filepath.Join(base, "image"), filepath.Join(base, "dir"), filepath.Join(base, "program")
			t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH); _ = os.RemoveAll(base) })
			b, err := os.ReadFile(bin)
			if err == nil {
				err = os.WriteFile(own, b, 0o755)
			}
			if err != nil {
				t.Fatal(err)
			}
			owner := uid
			if name == "user namespace" {
				owner = 0 // that is who he is there
			}
			if out, err := exec.Command("mke2fs", "-q", "-t", "ext4", "-E", fmt.Sprintf("root_owner=%d:%[1]d", owner), image, "16M").CombinedOutput(); err != nil {
				t.Skipf("needs mke2fs: %v\n%s", err, out)
			}
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			for _, path := range []string{base, image, dir} {
				if err := os.Chown(path, uid, uid); err != nil {
					t.Fatal(err)
				}
			}
			if name == "user namespace" && exec.Command("unshare", "-Urm", "true").Run() != nil {
				t.Skip("needs user namespaces")
			}
			cmd := exec.Command(wrap[0], append(wrap[1:], own, image, dir)...)
			cmd.Dir = "/"
			cmd.Env = append(os.Environ(), "XDG_RUNTIME_DIR="+base)
			if name == "user namespace" {
				cmd.Env = append(os.Environ(), "XDG_RUNTIME_DIR=") // so root's directory is looked at
			}
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}}
			out, err := cmd.CombinedOutput()
			if err != nil || !strings.Contains(string(out), "text\n") || !strings.Contains(string(out), "the box of the server: complete") ||
				strings.Contains(string(out), "warning") {
				t.Fatalf("%v\n%s", err, out)
			}
			if !unlocked(t, image) {
				t.Error("umount returned before the image was closed")
			}
			if out, err := exec.Command("e2fsck", "-fn", image).CombinedOutput(); err != nil {
				t.Errorf("e2fsck: %v\n%s", err, out)
			}
		})
	}
}

// TestBoxRefused: in a chroot there are no user namespaces; that is said, and nothing is mounted.
func TestBoxRefused(t *testing.T) {
	requireMounting(t)
	base := t.TempDir()
	image, dir := filepath.Join(base, "image"), filepath.Join(base, "dir")
	if out, err := exec.Command("mke2fs", "-q", "-t", "ext4", image, "16M").CombinedOutput(); err != nil {
		t.Skipf("needs mke2fs: %v\n%s", err, out)
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	bin, err := program()
	if err != nil {
		t.Fatal(err)
	}
	chroot := filepath.Join(base, "root")
	script := `set -e
		mkdir "$3"; mount --rbind / "$3"
		[ "$4" != noproc ] || { mount -t tmpfs none "$3/proc"; set -- "$1" "$2" "$3" --sandbox=off; }
		exec chroot "$3" "$0" mount $4 "$1" "$2"`
	try := func(mode string) (string, error) {
		_ = os.Remove(chroot)
		cmd := exec.Command("unshare", "-m", "sh", "-c", script, bin, image, dir, chroot, mode)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	out, err := try("--sandbox=on")
	if err == nil || !strings.Contains(out, "user namespace") || !strings.Contains(out, "--sandbox=best-effort") {
		t.Errorf("in a chroot: %v, %q", err, out)
	}
	if out, err := try("noproc"); err == nil || out != "ext4box: there is no /proc here, which ext4box needs: mount -t proc proc /proc\n" {
		t.Errorf("without /proc: %v, %q", err, out)
	}
	if !unlocked(t, image) || mounted(dir) {
		t.Error("it is mounted")
	}
	if r := run(t, "mount", "--sandbox=off", image, dir); r.status != 0 || !strings.Contains(r.stderr, "warning") {
		t.Errorf("--sandbox=off: %+v", r)
	}
	umount(t, dir)
	for _, mode := range []string{"on", "off"} {
		out, err := exec.Command("sh", "-c", `ulimit -f 1000; exec "$0" mount --sandbox="$3" "$1" "$2"`, bin, image, dir, mode).CombinedOutput()
		if err == nil || !strings.Contains(string(out), "ulimit -f") || mounted(dir) {
			t.Errorf("with a limit on files: %v, %q", err, out)
		}
	}
	if out, err := exec.Command("sh", "-c", `ulimit -f 1000; exec "$0" mount -o ro "$1" "$2"`, bin, image, dir).CombinedOutput(); err != nil {
		t.Errorf("with a limit on files, for reading: %v, %q", err, out)
	}
	umount(t, dir)
	if os.Getuid() == 0 {
		private := filepath.Join(base, "private")
		b, err := os.ReadFile(bin)
		if err = errors.Join(err, os.WriteFile(private, b, 0o700), os.Chown(private, 4321, 4321)); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command(private, "mount", image, dir).CombinedOutput(); err == nil || !strings.Contains(string(out), "chmod a+rx "+private) {
			t.Errorf("a program that is another user's alone: %v, %q", err, out)
			_ = unix.Unmount(dir, unix.MNT_DETACH)
		}
	}
	if r := run(t, "mount", "--sandbox=some", image, dir); r.status != 1 {
		t.Errorf("--sandbox=some: %+v", r)
	}
}

// TestUmountFailed: what could not be written when the image was closed is told by umount.
func TestUmountFailed(t *testing.T) {
	requireMounting(t)
	if os.Getuid() != 0 {
		t.Skip("takes root, to mount a small tmpfs")
	}
	small, dir := t.TempDir(), t.TempDir()
	if err := unix.Mount("none", small, "tmpfs", 0, "size=3M"); err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(small, unix.MNT_DETACH) })
	image := filepath.Join(small, "image")
	if out, err := exec.Command("mke2fs", "-q", "-t", "ext4", "-E", "nodiscard,lazy_itable_init=1,lazy_journal_init=1", image, "64M").CombinedOutput(); err != nil {
		t.Skipf("needs mke2fs: %v\n%s", err, out)
	}
	if r := run(t, "mount", "-o", "commit=3600", image, dir); r.status != 0 {
		t.Fatalf("%+v", r)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	if err := os.WriteFile(filepath.Join(small, "fill"), make([]byte, 4<<20), 0o600); !errors.Is(err, unix.ENOSPC) {
		t.Fatal("the file system below is not full:", err)
	}
	for i := range 50 {
		if err := os.Mkdir(filepath.Join(dir, strconv.Itoa(i)), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if r := run(t, "umount", dir); r.status != 32 || !strings.Contains(r.stderr, "may be lost") || !strings.Contains(r.stderr, "no space left on device") {
		t.Errorf("%+v", r)
	}
	if mounted(dir) || !unlocked(t, image) {
		t.Error("it is mounted still")
	}
}

// TestSetUserID: a program that was installed to lend its rights does not.
func TestSetUserID(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root, to install it")
	}
	bin, err := program()
	if err != nil {
		t.Fatal(err)
	}
	base, err := os.MkdirTemp("", "ext4box-suid") // t.TempDir is closed to others
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(base) })
	own := filepath.Join(base, "program")
	b, err := os.ReadFile(bin)
	if err == nil {
		err = errors.Join(os.WriteFile(own, b, 0o755), os.Chmod(base, 0o755))
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, mode := range []os.FileMode{0, os.ModeSetuid, os.ModeSetgid} {
		if err := os.Chmod(own, 0o755|mode); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(own, "version")
		cmd.Dir = "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 1000, Gid: 1000}}
		out, err := cmd.CombinedOutput()
		if refused := err != nil && strings.Contains(string(out), "set-user-ID"); refused != (mode != 0) {
			var st unix.Statfs_t
			if unix.Statfs(base, &st) == nil && st.Flags&unix.ST_NOSUID != 0 {
				t.Skip("nothing is set-user-ID there")
			}
			t.Errorf("%v: %v, %s", mode, err, out)
		}
	}
}
