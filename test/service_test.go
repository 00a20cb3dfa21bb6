package test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"ext4box/internal/testimage"
)

// activator does what systemd does for ext4box.socket: for each connection it starts a server
// that has it as descriptor 3, and the rights that ext4box@.service leaves it.
type activator struct {
	socket string
	fd     int
	wg     sync.WaitGroup

	mu   sync.Mutex
	cmds []*exec.Cmd
	log  bytes.Buffer
}

// lockedWriter is the log of several servers.
type lockedWriter struct{ a *activator }

func (w lockedWriter) Write(p []byte) (int, error) {
	w.a.mu.Lock()
	defer w.a.mu.Unlock()
	return w.a.log.Write(p)
}

// startService listens until the test ends. options are of the server, as in ExecStart.
func startService(t *testing.T, options ...string) *activator {
	t.Helper()
	requireMounting(t)
	if _, err := exec.LookPath("setpriv"); err != nil {
		t.Skip("needs setpriv (package util-linux)")
	}
	bin, err := program()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(buildDir, 0o755); err != nil { // for the server's user
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "ext4box") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	a := &activator{socket: filepath.Join(dir, "socket")}
	a.fd, err = unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = unix.Bind(a.fd, &unix.SockaddrUnix{Name: a.socket})
	}
	if err == nil {
		err = unix.Listen(a.fd, 8)
	}
	if err != nil {
		t.Fatal(err)
	}
	a.wg.Go(func() {
		for {
			fd, _, err := unix.Accept4(a.fd, unix.SOCK_CLOEXEC)
			if errors.Is(err, unix.EINTR) {
				continue
			}
			if err != nil {
				return
			}
			a.start(t, bin, fd, options)
		}
	})
	t.Cleanup(func() {
		unix.Shutdown(a.fd, unix.SHUT_RDWR)
		a.mu.Lock()
		for _, cmd := range a.cmds {
			cmd.Process.Signal(unix.SIGTERM) // to those whose mount a failed test has left
		}
		a.mu.Unlock()
		a.wg.Wait()
		unix.Close(a.fd)
		os.RemoveAll(dir)
		if t.Failed() {
			t.Logf("the log of the servers:\n%s", a.text())
		}
	})
	return a
}

func (a *activator) start(t *testing.T, bin string, fd int, options []string) {
	connection := os.NewFile(uintptr(fd), "connection")
	defer connection.Close()
	args := []string{"--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all", "--no-new-privs",
		"sh", "-c", `LISTEN_PID=$$ exec "$@"`, "sh", bin, "serve", "--service"}
	cmd := exec.Command("setpriv", append(args, options...)...)
	cmd.Dir = "/"
	cmd.Env = []string{"LISTEN_FDS=1", "PATH=" + os.Getenv("PATH")}
	cmd.ExtraFiles = []*os.File{connection}
	cmd.Stdout, cmd.Stderr = lockedWriter{a}, lockedWriter{a}
	if err := cmd.Start(); err != nil {
		t.Error(err)
		return
	}
	a.mu.Lock()
	a.cmds = append(a.cmds, cmd)
	a.mu.Unlock()
	a.wg.Go(func() { cmd.Wait() })
}

func (a *activator) text() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.log.String()
}

// ended waits for the last server, and returns its exit status.
func (a *activator) ended(t *testing.T) int {
	t.Helper()
	a.mu.Lock()
	last := a.cmds[len(a.cmds)-1]
	a.mu.Unlock()
	eventually(t, "the server has ended", func() bool { return last.ProcessState != nil })
	return last.ProcessState.ExitCode()
}

// pid is that of the last server.
func (a *activator) pid() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.cmds[len(a.cmds)-1].Process.Pid
}

// mountService mounts through the service.
func (a *activator) mount(t *testing.T, source, dir string, args ...string) result {
	t.Helper()
	r := run(t, append([]string{"mount", "--service=" + a.socket, source, dir}, args...)...)
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	return r
}

// checkImage has e2fsck and the kernel look at what was written.
func checkImage(t *testing.T, img *testimage.Image, name, content string) {
	t.Helper()
	if out, err := exec.Command("e2fsck", "-fn", img.Path).CombinedOutput(); err != nil {
		t.Errorf("e2fsck: %v\n%s", err, out)
	}
	m := testimage.MountRO(t, img, "")
	got, err := os.ReadFile(filepath.Join(m.Dir, name))
	if err != nil || string(got) != content {
		t.Errorf("the kernel reads %d bytes, %v", len(got), err)
	}
	if err := m.Unmount(); err != nil {
		t.Error(err)
	}
}

// useMount writes to a mount, some of it with many requests at a time.
func useMount(t *testing.T, dir, content string) {
	t.Helper()
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			if err := os.WriteFile(filepath.Join(dir, fmt.Sprint("file", i)), []byte(content), 0o644); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if err := os.Mkdir(filepath.Join(dir, "d"), 0o755); err != nil {
		t.Error(err)
	}
	if err := os.Rename(filepath.Join(dir, "file3"), filepath.Join(dir, "d", "file")); err != nil {
		t.Error(err)
	}
	got, err := os.ReadFile(filepath.Join(dir, "d", "file"))
	if err != nil || string(got) != content {
		t.Errorf("reads %d bytes, %v", len(got), err)
	}
}

// TestService mounts an image file and a block device with the help of a service that has no
// rights at all.
func TestService(t *testing.T) {
	a := startService(t)
	content := strings.Repeat("content ", 20000)
	t.Run("image", func(t *testing.T) {
		img, dir := smallImage(t, t.TempDir(), "ext4-default"), t.TempDir()
		r := a.mount(t, img.Path, dir, "-v")
		if r.status != 0 || r.stderr != "" || !strings.Contains(r.stdout, "by the service") {
			t.Fatalf("%+v", r)
		}
		line := mountLine(t, dir)
		for _, want := range []string{"nosuid", "nodev", " fuse.ext4box ", " " + img.Path + " ", "user_id=0", "default_permissions"} {
			if !strings.Contains(line, want) {
				t.Errorf("%s is not in %q", want, line)
			}
		}
		contained(t, a.pid())
		if r := run(t, "mount", img.Path, t.TempDir()); r.status != 32 || !strings.Contains(r.stderr, "in use by another process") {
			t.Errorf("a second mount: %+v", r)
		}
		useMount(t, dir, content)
		if err := unix.Unmount(dir, 0); err != nil {
			t.Fatal(err)
		}
		if status := a.ended(t); status != 0 {
			t.Errorf("the server ends with %d", status)
		}
		checkImage(t, img, "d/file", content)
	})
	t.Run("read-only", func(t *testing.T) {
		img, dir := smallImage(t, t.TempDir(), "ext4-default"), t.TempDir()
		before := imageSums(t, img)
		if r := a.mount(t, img.Path, dir, "-o", "ro"); r.status != 0 || r.stderr != "" {
			t.Fatalf("%+v", r)
		}
		if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o644); !errors.Is(err, unix.EROFS) {
			t.Errorf("written to: %v", err)
		}
		if err := unix.Unmount(dir, 0); err != nil {
			t.Fatal(err)
		}
		a.ended(t)
		if imageSums(t, img) != before {
			t.Error("the image has changed")
		}
	})
	t.Run("device", func(t *testing.T) {
		img, dir := smallImage(t, t.TempDir(), "ext4-default"), t.TempDir()
		dev := testimage.Attach(t, img.Path, false)
		if r := a.mount(t, dev, dir); r.status != 0 || r.stderr != "" {
			t.Fatalf("%+v", r)
		}
		if line := mountLine(t, dir); !strings.Contains(line, " fuseblk.ext4box "+dev+" ") {
			t.Errorf("mounted as %q", line)
		}
		if f, err := unix.Open(dev, unix.O_RDWR|unix.O_EXCL|unix.O_CLOEXEC, 0); !errors.Is(err, unix.EBUSY) {
			unix.Close(f)
			t.Errorf("the device can be claimed: %v", err)
		}
		useMount(t, dir, content)
		if err := unix.Unmount(dir, 0); err != nil {
			t.Fatal(err)
		}
		// umount(2) returns when the image is closed.
		if out, err := exec.Command("e2fsck", "-fn", dev).CombinedOutput(); err != nil {
			t.Errorf("e2fsck: %v\n%s", err, out)
		}
		a.ended(t)
		if r := a.mount(t, dev, dir, "-o", "blkdev=off"); r.status != 0 || r.stderr != "" {
			t.Fatalf("%+v", r)
		}
		if line := mountLine(t, dir); !strings.Contains(line, " fuse.ext4box "+dev+" ") {
			t.Errorf("mounted as %q", line)
		}
		if f, err := unix.Open(dev, unix.O_RDWR|unix.O_EXCL|unix.O_CLOEXEC, 0); !errors.Is(err, unix.EBUSY) {
			unix.Close(f)
			t.Errorf("the device can be claimed: %v", err)
		}
		if err := unix.Unmount(dir, 0); err != nil {
			t.Fatal(err)
		}
		if status := a.ended(t); status != 0 {
			t.Errorf("the server ends with %d", status)
		}
	})
	t.Run("journal elsewhere", func(t *testing.T) {
		c, ok := testimage.Find("ext4-extjournal")
		if !ok {
			t.Skip("no such image")
		}
		img, dir := testimage.Build(t, t.TempDir(), c), t.TempDir()
		if r := a.mount(t, img.Path, dir, "--journal", img.Journal); r.status != 0 || r.stderr != "" {
			t.Fatalf("%+v", r)
		}
		if err := os.WriteFile(filepath.Join(dir, "new"), []byte(content), 0o644); err != nil {
			t.Error(err)
		}
		if err := unix.Unmount(dir, 0); err != nil {
			t.Fatal(err)
		}
		if status := a.ended(t); status != 0 {
			t.Errorf("the server ends with %d", status)
		}
	})
}

// mountLine is the line of a mount in mountinfo.
func mountLine(t *testing.T, dir string) string {
	t.Helper()
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 4 && f[4] == dir {
			return line
		}
	}
	t.Fatalf("nothing is mounted on %s", dir)
	return ""
}

// contained looks at the rights of a server that serves.
func contained(t *testing.T, pid int) {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"Uid:\t65534\t65534\t65534\t65534", "CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("the server does not have %q", want)
		}
	}
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		to, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", pid, fd.Name()))
		if err == nil && strings.HasPrefix(to, "socket:") {
			t.Errorf("the server has a socket as descriptor %s", fd.Name())
		}
	}
}

// TestServiceErrors: whoever mounts reads one sentence, and the log has the reason.
func TestServiceErrors(t *testing.T) {
	a := startService(t)
	dir := t.TempDir()
	img := smallImage(t, t.TempDir(), "ext4-default")
	garbage := filepath.Join(t.TempDir(), "garbage")
	if err := os.WriteFile(garbage, make([]byte, 1<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		args   []string
		status int
		text   string // in what the user reads
		log    string // in the log
	}{
		{"no service", []string{"--service=/nonexistent", img.Path, dir}, 32, "no service listens on /nonexistent", ""},
		{"no file system", []string{garbage, dir}, 32, "look at its log", "garbage"},
		{"no image", []string{garbage + "2", dir}, 32, "no such file", "no such file"},
		{"no image, but a directory", []string{dir, dir}, 32, "neither a file nor a block device", "invalid argument"},
		{"an unknown option", []string{"-o", "unknown", img.Path, dir}, 1, `unknown mount option "unknown"`, ""},
		{"no directory", []string{img.Path, dir + "2"}, 32, "does not exist", ""},
		{"iomap", []string{"-o", "iomap=on", img.Path, dir}, 1, "a service cannot have the kernel move file data", ""},
		{"a hidden loop device", []string{"-o", "blkdev=on", img.Path, dir}, 1, "look at its log", "name a block device"},
		{"another box", []string{"--sandbox=off", img.Path, dir}, 1, "the box of a service is for its unit to say", ""},
		{"foreground", []string{"-f", img.Path, dir}, 1, "--foreground is not for a mount by a service", ""},
		{"a journal that is none", []string{"--journal", garbage, img.Path, dir}, 32, "look at its log", "journal"},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := len(a.text())
			r := run(t, append([]string{"mount", "--service=" + a.socket}, c.args...)...)
			if r.status != c.status || !strings.Contains(r.stderr, c.text) {
				t.Errorf("%+v, want status %d and %q", r, c.status, c.text)
			}
			if c.log != "" {
				if status := a.ended(t); status != 1 {
					t.Errorf("the server ends with %d", status)
				}
				eventually(t, "the log has it", func() bool { return strings.Contains(a.text()[before:], c.log) })
			}
			if mounted(dir) {
				t.Error("something is mounted")
			}
		})
	}
}

// TestServiceGone: when the server is killed callers get an error, and umount works.
func TestServiceGone(t *testing.T) {
	a := startService(t)
	img, dir := smallImage(t, t.TempDir(), "ext4-default"), t.TempDir()
	for _, signal := range []syscall.Signal{unix.SIGKILL, unix.SIGTERM} {
		if r := a.mount(t, img.Path, dir); r.status != 0 {
			t.Fatalf("%+v", r)
		}
		if err := unix.Kill(a.pid(), signal); err != nil {
			t.Fatal(err)
		}
		a.ended(t)
		if _, err := os.ReadDir(dir); !errors.Is(err, unix.ENOTCONN) && !errors.Is(err, unix.ECONNABORTED) && !errors.Is(err, unix.ECANCELED) {
			t.Errorf("after %v: %v", signal, err)
		}
		if r := run(t, "umount", dir); r.status != 0 {
			t.Errorf("%+v", r)
		}
	}
	if out, err := exec.Command("e2fsck", "-fn", img.Path).CombinedOutput(); err != nil {
		t.Errorf("e2fsck: %v\n%s", err, out)
	}
}

// TestServiceUser mounts as a user who may mount, but is not root.
func TestServiceUser(t *testing.T) {
	a := startService(t)
	base, err := os.MkdirTemp("", "ext4box")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(base) })
	img := smallImage(t, base, "ext4-default")
	dir, sticky := filepath.Join(base, "dir"), filepath.Join(base, "sticky")
	for _, d := range []string{dir, sticky} {
		if err := os.Mkdir(d, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	const id = 65533
	for path, mode := range map[string]uint32{base: 0o755, img.Path: 0o644, dir: 0o755, sticky: 0o1777} {
		if err := unix.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range []string{dir, img.Path} {
		if err := os.Chown(path, id, id); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(a.socket, 0o777); err != nil {
		t.Fatal(err)
	}
	testimage.ShareFuse(t)
	bin, err := program()
	if err != nil {
		t.Fatal(err)
	}
	mount := func(caps string, args ...string) (string, error) {
		argv := []string{fmt.Sprintf("--reuid=%d", id), fmt.Sprintf("--regid=%d", id), "--clear-groups", "--inh-caps=" + caps, "--ambient-caps=" + caps,
			bin, "mount", "--service=" + a.socket}
		out, err := exec.Command("setpriv", append(argv, args...)...).CombinedOutput()
		return string(out), err
	}
	t.Cleanup(func() {
		for _, d := range []string{dir, sticky} {
			unix.Unmount(d, unix.MNT_DETACH)
		}
	})
	if out, err := mount("-all", img.Path, dir); err == nil || !strings.Contains(out, "fuservicemount3") {
		t.Errorf("a user without rights: %v, %s", err, out)
	}
	const admin = "+sys_admin"
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{img.Path, sticky}, "sticky"},
		{[]string{img.Path, "/proc/sys"}, "cannot mount on this type of file system"},
		{[]string{img.Path, base}, "cannot write to it"},
		{[]string{"-o", "allow_other", img.Path, dir}, "allow_other"},
	} {
		out, err := mount(admin, c.args...)
		if c.want == "allow_other" && err == nil {
			unix.Unmount(dir, unix.MNT_DETACH) // this machine's fuse.conf allows it
			continue
		}
		if err == nil || !strings.Contains(out, c.want) {
			t.Errorf("%q: %v, %s, want %q", c.args, err, out, c.want)
		}
	}
	if out, err := mount(admin, "-o", "suid,dev", img.Path, dir); err != nil {
		t.Fatalf("%v, %s", err, out)
	}
	line := mountLine(t, dir)
	for _, want := range []string{"nosuid", "nodev", fmt.Sprintf("user_id=%d", id)} {
		if !strings.Contains(line, want) {
			t.Errorf("%s is not in %q", want, line)
		}
	}
	if err := unix.Unmount(dir, 0); err != nil {
		t.Error(err)
	}
	a.ended(t)
}

// TestServiceHostile: a server that has been taken over by an image asks the helper of root for
// more than the caller wants. It speaks bytes.
func TestServiceHostile(t *testing.T) {
	requireMounting(t)
	base, err := os.MkdirTemp("", "ext4box")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(base) })
	img, dir := smallImage(t, base, "ext4-default"), filepath.Join(base, "dir")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrUnix{Name: filepath.Join(base, "socket")})
	}
	if err == nil {
		err = unix.Listen(fd, 1)
	}
	if err != nil {
		t.Fatal(err)
	}
	const ok, perm, invalid, busyDir = "\x00\x00\x00\x00", "\x00\x00\x00\x01", "\x00\x00\x00\x16", "\x00\x00\x00\x15"
	open := func(magic, flags, path, errno string) [2]string {
		return [2]string{magic + "\x00\x00" + flags + "\x00\x00\x01\xa4\x00\x00\x00\x00\x00\x00\x00\x00" + path + "\x00", "FILE" + errno + path + "\x00"}
	}
	set := func(command, errno string) [2]string { return [2]string{command, "REPL" + errno} }
	var seen string
	done := make(chan struct{})
	go func() {
		defer close(done)
		c, _, err := unix.Accept4(fd, unix.SOCK_CLOEXEC)
		if err != nil {
			t.Error(err)
			return
		}
		defer unix.Close(c)
		buf := make([]byte, 1<<16)
		hear := func() string {
			for {
				n, _, _, _, err := unix.Recvmsg(c, buf, nil, 0) // without room for descriptors
				if err == unix.EINTR {
					continue
				}
				if err != nil {
					t.Error(err)
				}
				return string(buf[:max(n, 0)])
			}
		}
		say := func(s string) {
			if err := unix.Sendmsg(c, []byte(s), nil, nil, unix.MSG_NOSIGNAL); err != nil {
				t.Error(err)
			}
		}
		if got := hear(); got != "SAFT\x00\x01\x00\x01\x00\x00\x00\x03" && got != "SAFT\x00\x01\x00\x01\x00\x00\x00\x01" {
			t.Errorf("greeted with %q", got)
		}
		say("LAST\x00\x01\x00\x00")
		hear() // argv
		hear() // fusedev
		for _, m := range [][2]string{
			open("OPEN", "\x00\x00", "/etc/shadow", perm),
			open("OPEN", "\x00\x02", img.Path+"/../../etc/shadow", perm),
			open("BDEV", "\x00\x02", "/dev/vda", perm),
			open("BDEV", "\x00\x02", img.Path, "\x00\x00\x00\x0f"),
			open("OPEN", "\x02\x41", img.Path, invalid), // O_WRONLY, O_CREAT, O_TRUNC
			open("OPEN", "\x00\x02", img.Path, ok),
			set("TYPE\x00\x00\x00\x00", ok),
			set("NAME"+"a \x1b[31mname\x00", perm),
			set("NAME"+img.Path+"\x00", ok),
			set("MNTP\x40\x00\x00\x00/etc\x00", invalid),
			set("MNTP\x40\x00\x00\x00"+img.Path+"\x00", invalid),
			set("MNTP\x80\x00\x00\x00"+dir+"\x00", busyDir),
			set("MNTP\x40\x00\x00\x00"+dir+"\x00", ok),
			set("OPTSallow_other\x00", perm),
			set("OPTSfd=0,user_id=0\x00", invalid),
			set("OPTS\x1b[31mred\x00", invalid),
			set("OPTScontext=x\x00", invalid),
			set("OPTSdefault_permissions,max_read=65536\x00", ok),
			set("DOIT\x00\x00\x10\x00", invalid), // MS_BIND
			set("DOIT\x00\x00\x00\x00", ok),
		} {
			say(m[0])
			if got := hear(); got != m[1] {
				t.Errorf("%q was answered with %q, want %q", m[0], got, m[1])
			}
		}
		text, err := os.ReadFile("/proc/self/mountinfo")
		if err != nil {
			t.Error(err)
		}
		for line := range strings.Lines(string(text)) {
			if strings.Contains(line, " "+dir+" ") {
				seen = line
			}
		}
		say("BYEE\x00\x00\x00\x00")
	}()
	r := run(t, "mount", "--service="+filepath.Join(base, "socket"), "-o", "noexec", img.Path, dir)
	unix.Unmount(dir, unix.MNT_DETACH)
	unix.Shutdown(fd, unix.SHUT_RDWR)
	<-done
	unix.Close(fd)
	if r.status != 0 {
		t.Errorf("%+v", r)
	}
	for _, want := range []string{"nosuid", "nodev", "noexec", "max_read=65536"} {
		if !strings.Contains(seen, want) {
			t.Errorf("%s is not in %q", want, seen)
		}
	}
	if strings.Contains(seen, "allow_other") || strings.Contains(r.stderr, "\x1b") {
		t.Errorf("%q, %q", seen, r.stderr)
	}
}
