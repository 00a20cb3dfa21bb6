package mount

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ext4box/internal/testimage"
)

// scratch makes an image file, a mount point and a private runtime directory, and
// sees to it that nothing stays mounted.
func scratch(t *testing.T) (image, dir string) {
	t.Helper()
	base := t.TempDir()
	t.Setenv("XDG_RUNTIME_DIR", base)
	image, dir = filepath.Join(base, "an image.img"), filepath.Join(base, "a, dir")
	if err := os.WriteFile(image, []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for unix.Unmount(dir, unix.MNT_DETACH) == nil {
		}
	})
	return image, dir
}

func needMount(t *testing.T) {
	t.Helper()
	if !mayMount() {
		t.Skip("needs root: mounts with mount(2)")
	}
	if dev, err := openFuse(); err != nil {
		t.Skipf("needs /dev/fuse: %v", err)
	} else {
		dev.Close()
	}
}

func mountAt(t *testing.T, dir string) (Info, bool) {
	t.Helper()
	mounts, err := Mounts()
	if err != nil {
		t.Fatal(err)
	}
	return top(mounts, dir)
}

func isLocked(t *testing.T, image string) bool {
	t.Helper()
	f, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil
}

func TestMountUnmount(t *testing.T) {
	needMount(t)
	image, dir := scratch(t)
	for _, target := range []string{dir, image} {
		part(t, nil, "mount", image, dir, "slow").run(t, 0, "")
		i, ok := mountAt(t, dir)
		if !ok || i.Type != FSType || i.Source != image {
			t.Fatalf("mounted: %+v", i)
		}
		for _, want := range []string{"user_id=0", "default_permissions"} {
			if !strings.Contains(i.Options, want) {
				t.Errorf("options %q lack %s", i.Options, want)
			}
		}
		var st unix.Statfs_t
		if err := unix.Statfs(dir, &st); err != nil {
			t.Fatal(err)
		}
		const want = unix.ST_RDONLY | unix.ST_NOSUID | unix.ST_NODEV
		if st.Flags&want != want {
			t.Errorf("flags %#x lack some of %#x", st.Flags, want)
		}
		if !isLocked(t, image) {
			t.Error("the image is not locked")
		}
		part(t, nil, "mount", image, dir, "").run(t, StatusFailed, "already mounted on "+dir)
		part(t, nil, "umount", target, "").run(t, 0, "")
		if isLocked(t, image) {
			t.Error("umount returned before the image was closed")
		}
		if i, ok := mountAt(t, dir); ok {
			t.Errorf("still mounted: %+v", i)
		}
	}
	part(t, nil, "umount", dir, "").run(t, StatusFailed, "is not mounted")
	part(t, nil, "umount", "/proc", "").run(t, StatusFailed, "is proc, not ext4box's")
}

// TestServerGone: a mount whose server was killed is named, not mounted over.
func TestServerGone(t *testing.T) {
	needMount(t)
	image, dir := scratch(t)
	part(t, nil, "mount", image, dir, "").run(t, 0, "")
	i, ok := mountAt(t, dir)
	if !ok {
		t.Fatal("not mounted")
	}
	state := findState(&i)
	defer state.Close()
	r, err := state.Record()
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(r.PID, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := state.WaitClosed(time.Minute); err != nil {
		t.Fatal(err)
	}
	part(t, nil, "mount", image, dir, "").run(t, StatusFailed, "whose server is gone")
	part(t, nil, "umount", dir, "").run(t, 0, "")
}

// TestFailures: nothing stays mounted, nothing stays running.
func TestFailures(t *testing.T) {
	needMount(t)
	image, dir := scratch(t)
	for mode, want := range map[string]string{
		"refuse":    "ext4box: not an ext4 image?[31m\n",
		"die":       "the server ended unexpectedly (exit status 3)",
		"fail init": "cannot answer INIT",
		"bad root":  "does not answer",
	} {
		status := StatusFailed
		if mode == "die" {
			status = StatusInternal
		}
		part(t, nil, "mount", image, dir, mode).run(t, status, want)
		if i, ok := mountAt(t, dir); ok {
			t.Errorf("%s: still mounted: %+v", mode, i)
		}
		if isLocked(t, image) {
			t.Errorf("%s: the server still runs", mode)
		}
	}
	part(t, nil, "mount", image, dir+"/no", "").run(t, StatusFailed, "does not exist")
	part(t, nil, "mount", image, image, "").run(t, StatusFailed, "is not a directory")
	part(t, nil, "mount", image, "/dev/fd/77", "").run(t, StatusUsage, "/dev/fd/77 is not open")
	part(t, nil, "mount", image, "/dev/fd/0", "").run(t, StatusUsage, "/dev/fd/0 is not an open /dev/fuse")
}

func TestInterrupt(t *testing.T) {
	needMount(t)
	image, dir := scratch(t)
	c := part(t, nil, "mount", image, dir, "hang")
	// The server never answers; wait until it exists, then interrupt.
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Process.Kill() })
	waitFor(t, "the server", func() bool {
		tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", c.Process.Pid))
		return slices.ContainsFunc(tasks, func(path string) bool {
			kids, _ := os.ReadFile(path)
			return len(kids) > 0
		})
	})
	c.Process.Signal(unix.SIGINT)
	c.Wait()
	if got := c.ProcessState.ExitCode(); got != StatusInterrupted {
		t.Errorf("status %d: %s", got, c.out.String())
	}
}

func waitFor(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for range 2000 {
		if cond() {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatalf("%s: waited in vain", what)
}

func TestForeground(t *testing.T) {
	needMount(t)
	image, dir := scratch(t)
	for _, end := range []string{"umount", "signal", "kill"} {
		c := part(t, nil, "mount", image, dir, "foreground")
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		waitFor(t, "the mount", func() bool { _, ok := mountAt(t, dir); return ok })
		want := 0
		switch end {
		case "umount":
			// The mount appears before it is confirmed: the launcher may be
			// looking at it still, which makes it busy.
			waitFor(t, "umount", func() bool { return part(t, nil, "umount", dir, "").Run() == nil })
		case "signal":
			os.Stat(dir)
			time.Sleep(50 * time.Millisecond) // past the confirmation
			c.Process.Signal(unix.SIGTERM)
		case "kill":
			os.Stat(dir)
			time.Sleep(50 * time.Millisecond)
			c.Process.Kill()
			want = -1
		}
		c.Wait()
		if got := c.ProcessState.ExitCode(); got != want {
			t.Errorf("%s: status %d: %s", end, got, c.out.String())
		}
		if end == "kill" {
			// The server ends in order. Nobody is left who may unmount.
			waitFor(t, end, func() bool { return !isLocked(t, image) })
			// What is asked while the connection ends is answered with ECONNABORTED.
			waitFor(t, "the end of the connection", func() bool {
				_, err := os.Stat(dir)
				if !errors.Is(err, unix.ENOTCONN) && !errors.Is(err, unix.ECONNABORTED) {
					t.Fatalf("without anybody the mount says %v", err)
				}
				return errors.Is(err, unix.ENOTCONN)
			})
			part(t, nil, "umount", dir, "").run(t, 0, "")
		}
		waitFor(t, end, func() bool { _, ok := mountAt(t, dir); return !ok && !isLocked(t, image) })
	}
}

// TestFlood: whatever a server says and how much, the keeper stays small and does what it is told.
func TestFlood(t *testing.T) {
	needMount(t)
	for _, mode := range []string{"flood", "flood junk"} {
		image, dir := scratch(t)
		c := part(t, nil, "mount", image, dir, "foreground "+mode)
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Process.Kill() })
		waitFor(t, "the flood", func() bool { _, err := os.Stat(image + ".flooded"); return err == nil })
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		var peak int
		for line := range strings.Lines(string(status)) {
			fmt.Sscanf(line, "VmHWM: %d kB", &peak)
		}
		t.Logf("%s: the keeper had %d KiB", mode, peak)
		if peak == 0 || peak > 200<<10 {
			t.Errorf("%s: the keeper had %d KiB", mode, peak)
		}
		if _, ok := mountAt(t, dir); !ok {
			t.Errorf("%s: it is not mounted any more", mode)
		}
		c.Process.Signal(unix.SIGTERM)
		waitFor(t, mode, func() bool { _, ok := mountAt(t, dir); return !ok && !isLocked(t, image) })
		c.Wait()
		if strings.Contains(c.out.String(), "\u009b") {
			t.Errorf("%s: it prints what it is told: %.200q", mode, c.out.String())
		}
	}
}

// TestSignal: SIGTERM takes a busy mount out of the tree and the server ends with
// its last user; a second one ends it at once.
func TestSignal(t *testing.T) {
	needMount(t)
	image, dir := scratch(t)
	for _, signals := range []int{1, 2} {
		part(t, nil, "mount", image, dir, "").run(t, 0, "")
		i, _ := mountAt(t, dir)
		state := findState(&i)
		if state == nil {
			t.Fatal("no state file")
		}
		r, err := state.Record()
		if err != nil || r.Dir != dir || r.Image != image {
			t.Fatalf("record %+v, %v", r, err)
		}
		user, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
		if err != nil {
			t.Fatal(err)
		}
		syscall.Kill(r.PID, syscall.SIGTERM)
		waitFor(t, "detach", func() bool { _, ok := mountAt(t, dir); return !ok })
		if !isLocked(t, image) {
			t.Error("the server left its user alone")
		}
		if signals == 2 {
			syscall.Kill(r.PID, syscall.SIGTERM)
			if err := state.WaitClosed(5 * time.Second); err != nil {
				t.Errorf("second signal: %v", err)
			}
		}
		unix.Close(user)
		if err := state.WaitClosed(5 * time.Second); err != nil {
			t.Errorf("last user gone: %v", err)
		}
		// The name may be that of another mount by now.
		ours, err := state.file.Stat()
		if err != nil {
			t.Fatal(err)
		}
		if st, err := os.Stat(state.path); err == nil && os.SameFile(st, ours) {
			t.Error("the state file has its name still")
		}
		state.Close()
	}
}

func TestBusy(t *testing.T) {
	needMount(t)
	image, dir := scratch(t)
	part(t, nil, "mount", image, dir, "").run(t, 0, "")
	user, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	part(t, nil, "umount", dir, "").run(t, StatusFailed, "is in use")
	part(t, nil, "umount", dir, "lazy").run(t, 0, "")
	if !isLocked(t, image) {
		t.Error("the server left its user alone")
	}
	unix.Close(user)
	waitFor(t, "the end", func() bool { return !isLocked(t, image) })
}

// TestConnection: somebody else mounts and hands the descriptor in.
func TestConnection(t *testing.T) {
	needMount(t)
	for _, mode := range []string{"", "sync "} { // who mounted it did so in his own way
		image, dir := scratch(t)
		dev, err := openFuse()
		if err != nil {
			t.Fatal(err)
		}
		defer dev.Close()
		data := fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", dev.Fd())
		if err := unix.Mount("test", dir, FSType, unix.MS_RDONLY, data); err != nil {
			t.Fatal(err)
		}
		c := part(t, nil, "mount", image, "/dev/fd/3", mode)
		c.ExtraFiles = []*os.File{dev}
		c.run(t, 0, "")
		dev.Close()
		if _, err := os.Stat(dir); err != nil {
			t.Error(err)
		}
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
		waitFor(t, "the end", func() bool { return !isLocked(t, image) })
	}
}

// TestLegacy: mount(2) makes the same mount as fsopen(2).
func TestLegacy(t *testing.T) {
	needMount(t)
	_, dir := scratch(t)
	o := Default()
	o.Flags |= unix.MS_RDONLY | unix.MS_NOATIME
	o.AllowOther, o.MaxRead = true, 65536
	var got []Info
	for _, mount := range []func(dev, dir *os.File, source string, o *Options, block bool) error{fsopenMount, legacyMount} {
		dev, err := openFuse()
		if err != nil {
			t.Fatal(err)
		}
		target, err := OpenTarget(dir)
		if err != nil {
			t.Fatal(err)
		}
		if err := mount(dev, target.dir, "a source", &o, false); err != nil {
			t.Fatal(err)
		}
		i, _ := mountAt(t, dir)
		i.ID, i.Dev = 0, Dev{}
		got = append(got, i)
		target.Close()
		dev.Close()
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Fatal(err)
		}
	}
	if got[0] != got[1] {
		t.Errorf("fsopen: %+v\nmount:  %+v", got[0], got[1])
	}
	for _, want := range []string{"allow_other", "max_read=65536", "ro"} {
		if !strings.Contains(got[0].Options, want) {
			t.Errorf("%q lacks %s", got[0].Options, want)
		}
	}
}

// TestKernelReason: the kernel's own words reach the user.
func TestKernelReason(t *testing.T) {
	needMount(t)
	_, dir := scratch(t)
	target, err := OpenTarget(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer target.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	err = mountKernel(null, target.dir, "x", &Options{}, false)
	if !errors.Is(err, unix.EINVAL) || ExitStatus(err) != StatusFailed {
		t.Errorf("got %v", err)
	}
	if _, told := errors.AsType[*contextError](err); !told {
		t.Logf("this kernel gives no reason: %v", err)
	}
}

// TestUserNamespace mounts as root of a user namespace, without fusermount3.
func TestUserNamespace(t *testing.T) {
	needMount(t)
	if err := exec.Command("unshare", "-Urm", "true").Run(); err != nil {
		t.Skip("needs user namespaces and unshare (package util-linux)")
	}
	image, dir := scratch(t)
	script := `set -e
		PATH=/nonexistent "$0" "$1" "$2" slow
		/bin/grep -q " $3 .* fuse.ext4box " /proc/self/mountinfo
		MOUNT_TEST_PART=umount "$0" "$2" ""`
	c := exec.Command("unshare", "-Urm", "sh", "-c", script, testBinary(t), image, dir, strings.ReplaceAll(dir, " ", `\\040`))
	c.Env = append(os.Environ(), "MOUNT_TEST_PART=mount")
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if isLocked(t, image) {
		t.Error("umount returned before the image was closed")
	}
}

// TestFusermount mounts as an ordinary user.
func TestFusermount(t *testing.T) {
	if _, err := Fusermount(); err != nil {
		t.Skip("needs fusermount3 (package fuse3)")
	}
	wrap := []string(nil)
	if os.Geteuid() == 0 {
		if _, err := exec.LookPath("setpriv"); err != nil {
			t.Skip("needs setpriv (package util-linux)")
		}
		wrap = []string{"setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--"}
		testimage.ShareFuse(t)
	} else if dev, err := openFuse(); err != nil {
		t.Skipf("needs /dev/fuse: %v", err)
	} else {
		dev.Close()
	}
	image, dir := scratch(t)
	base := filepath.Dir(image)
	shareTree(t, base)
	for _, f := range []string{base, image, dir} {
		if err := os.Chown(f, 65534, 65534); err != nil && len(wrap) > 0 {
			t.Fatal(err)
		}
	}
	os.Chmod(base, 0o700)
	part(t, wrap, "mount", image, dir, "slow").run(t, 0, "")
	i, ok := mountAt(t, dir)
	if !ok || i.Type != FSType || i.Source != image {
		t.Fatalf("mounted: %+v", i)
	}
	part(t, wrap, "umount", dir, "").run(t, 0, "")
	if isLocked(t, image) {
		t.Error("umount returned before the image was closed")
	}
	part(t, wrap, "mount", image, "/proc/1", "").run(t, StatusFailed, "")
	part(t, wrap, "mount", image, dir, "bad root").run(t, StatusFailed, "does not answer")
	if i, ok := mountAt(t, dir); ok {
		t.Errorf("still mounted: %+v", i)
	}
	// The state file is found by root as well when the user's own directory is
	// one that root knows.
	t.Setenv("PATH", "/nonexistent")
	if len(wrap) > 0 {
		wrap[0] = "/usr/bin/setpriv"
	}
	part(t, wrap, "mount", image, dir, "").run(t, StatusUsage, "install the package fuse3")
}

// shareTree lets everybody pass through the directories above base, and gives
// other users a copy of this binary.
func shareTree(t *testing.T, base string) {
	os.Chmod(filepath.Dir(base), 0o755)
	self, err := os.Open(testBinary(t))
	if err != nil {
		t.Fatal(err)
	}
	defer self.Close()
	dir, err := os.MkdirTemp("", "ext4box-test")
	if err != nil {
		t.Fatal(err)
	}
	os.Chmod(dir, 0o755)
	t.Cleanup(func() { os.RemoveAll(dir); binaryPath = "" })
	f, err := os.OpenFile(filepath.Join(dir, "mount.test"), os.O_WRONLY|os.O_CREATE, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(f, self); err != nil {
		t.Fatal(err)
	}
	f.Close()
	binaryPath = f.Name()
}
